//! A peer's side of Diameter connections (RFC 6733, 5; RFC 3539) on a clock of our own. Either a whole [`Outside`] of
//! peers that do anything, or one connection twice: its octets at once, and cut into pieces.

use super::Choices;
use super::fake_peer::{HOST, OWN_ADDRESS, config, header, messages, respond};
use super::peers_world::{Act, HOSTS, Outside, question};
use imcharge::charge::time::Time;
use imcharge::enabler::diameter::client::node::LocalNode;
use imcharge::enabler::diameter::client::peer::{Event, Peer};
use imcharge::wire::diameter::{Flags, Framed, frame};
use std::rc::Rc;

/// Acts of one input at most.
const ACTS_MAX: usize = 300;

/// Octets of a message's header.
const HEADER: usize = 20;

const START: Time = Time(1_000_000_000);

/// The first octet says which of both.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.flag() {
        false => converse(&mut choices),
        true => read_in_pieces(&mut choices),
    }
}

/// Requests and peers, until all time runs out.
fn converse(choices: &mut Choices<'_>) {
    let mut outside = Outside::default();
    for _ in 0..ACTS_MAX {
        if choices.is_done() {
            break;
        }
        outside.act(act(choices));
    }
    outside.end();
}

fn act(choices: &mut Choices<'_>) -> Act {
    let kind = choices.octet() % 16;
    let seat = choices.below(HOSTS.len());
    match kind {
        0 => Act::Connect(seat),
        1 => Act::Close(seat),
        2 => Act::Stop(seat),
        3 | 4 => {
            let flags = choices.octet();
            let prefer = (flags & 4 != 0).then_some(seat);
            let patience = choices.below(100) as u32;
            Act::Send { may_move: flags & 1 != 0, prefer, patience, duplicate: flags & 2 != 0 }
        }
        5 | 6 => Act::Write { seat, octets: choices.u16().into() },
        7 => {
            let (which, keep) = (choices.octet().into(), choices.flag());
            let spoil = choices.flag().then(|| (choices.u16().into(), choices.octet()));
            Act::Answer { seat, which, keep, spoil }
        }
        8 | 9 => Act::AnswerAll(seat),
        10 => Act::Ask { seat, what: choices.below(8) as u8 },
        11 => Act::Octets { seat, bytes: choices.octets().to_vec() },
        12 => Act::Octets { seat, bytes: message(choices) },
        13 | 14 => Act::Pass { milliseconds: u64::from(choices.u16()) },
        _ => Act::ReplyToAsked,
    }
}

/// A message whose header is in order, so that what is in it gets read.
fn message(choices: &mut Choices<'_>) -> Vec<u8> {
    let (flags, command) = (choices.octet(), [0, 257, 258, 272, 274, 280, 282, 1][choices.below(8)]);
    let application = [0, 4, 16, u32::MAX][choices.below(4)];
    let body = choices.octets();
    let body = &body[..body.len() & !3];
    let length = (HEADER + body.len()) as u32;
    let words = [1 << 24 | length, u32::from(flags) << 24 | command, application, 7, 21];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    bytes.extend_from_slice(body);
    bytes
}

/// The same octets, at once to one peer and in pieces to another, leave both in the same state.
fn read_in_pieces(choices: &mut Choices<'_>) {
    let (mut whole, mut cut) = (Twin::new(), Twin::new());
    for _ in 0..ACTS_MAX {
        if choices.is_done() {
            break;
        }
        let piece = usize::from(choices.octet()).max(1);
        let kind = choices.octet() % 8;
        match kind {
            0 => [&mut whole, &mut cut].into_iter().for_each(Twin::connect),
            1 => [&mut whole, &mut cut].into_iter().for_each(|twin| twin.peer.stop(START)),
            2 | 3 => {
                let keep = choices.flag();
                whole.answer(keep, usize::MAX);
                cut.answer(keep, piece);
            }
            4 => {
                let bytes = question(HOST, choices.octet());
                whole.receive(&bytes, usize::MAX);
                cut.receive(&bytes, piece);
            }
            5 => {
                let bytes = message(choices);
                whole.receive(&bytes, usize::MAX);
                cut.receive(&bytes, piece);
            }
            _ => {
                let bytes = choices.octets();
                whole.receive(bytes, usize::MAX);
                cut.receive(bytes, piece);
            }
        }
        whole.assert_like(&mut cut);
    }
}

/// One of two peers that hear the same. Their own identifiers differ, so their requests are compared without.
struct Twin {
    peer: Peer,
    asked: Vec<Vec<u8>>,
    /// The front of a message.
    begun: Vec<u8>,
}

impl Twin {
    fn new() -> Twin {
        let local = Rc::new(LocalNode::new(&config(&[HOST]), 42, START));
        Twin { peer: Peer::new(local, HOST, 30, 5), asked: Vec::new(), begun: Vec::new() }
    }

    fn connect(&mut self) {
        self.peer.closed();
        self.asked.clear();
        self.begun.clear();
        self.peer.connected(OWN_ADDRESS, START);
    }

    fn receive(&mut self, bytes: &[u8], piece: usize) {
        bytes.chunks(piece).for_each(|piece| self.peer.received(piece, START));
        self.begun.extend_from_slice(bytes);
        while let Framed::Message(length) = frame(&self.begun) {
            self.begun.drain(..length);
        }
    }

    /// Answers the oldest request. Behind a message that is not whole yet it would be a part of that, with identifiers
    /// in it in which the two differ.
    fn answer(&mut self, keep: bool, piece: usize) {
        let Some(asked) = self.asked.first().cloned().filter(|_| self.begun.is_empty()) else { return };
        if !keep {
            self.asked.remove(0);
        }
        self.receive(&respond(&asked, HOST), piece);
    }

    /// What it has written since it was last asked, whole messages, the identifiers of its own requests blank.
    fn written(&mut self) -> Vec<Vec<u8>> {
        let mut written = messages(self.peer.output());
        self.peer.wrote(usize::MAX);
        assert!(self.peer.output().is_empty());
        for message in &mut written {
            if header(message).is_request() {
                self.asked.push(message.clone());
                message[12..HEADER].fill(0);
            }
        }
        written
    }

    fn assert_like(&mut self, other: &mut Twin) {
        assert_eq!(self.events(), other.events());
        assert_eq!(self.written(), other.written());
        assert_eq!(self.peer.doom(), other.peer.doom());
        assert_eq!((self.peer.state(), self.peer.fitness()), (other.peer.state(), other.peer.fitness()));
        assert_eq!((self.peer.host(), self.peer.open_since()), (other.peer.host(), other.peer.open_since()));
    }

    /// What the peer tells: whole messages of the kind that it says.
    fn events(&mut self) -> Vec<Event> {
        let events: Vec<_> = std::iter::from_fn(|| self.peer.next_event()).collect();
        for event in &events {
            if let Event::Answer(bytes) | Event::Request(bytes) = event {
                assert_eq!(frame(bytes), Framed::Message(bytes.len()));
                assert_eq!(header(bytes).flags.has(Flags::REQUEST), matches!(event, Event::Request(_)));
            }
        }
        events
    }
}
