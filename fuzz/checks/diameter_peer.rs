//! The Diameter client (RFC 6733, 5; RFC 3539) with a simulated clock: either an [`Environment`] whose peers do
//! anything, or the same octets read by two peers, whole and in pieces.

use super::Choices;
use super::fake_peer::{HOST, OWN_ADDRESS, config, header, messages, respond};
use super::peers_world::{Act, Environment, HOSTS, question};
use imcharge::charge::time::Time;
use imcharge::enabler::diameter::client::node::LocalNode;
use imcharge::enabler::diameter::client::peer::{Event, Peer};
use imcharge::wire::diameter::{Flags, Framed, frame};
use std::rc::Rc;

/// Maximum number of acts of one input.
const ACTS_MAX: usize = 300;

/// Length of a message header in octets.
const HEADER: usize = 20;

const START: Time = Time(1_000_000_000);

/// Runs the check that the first octet selects.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.flag() {
        false => run_peers(&mut choices),
        true => read_in_pieces(&mut choices),
    }
}

/// Requests and peers, until all deadlines have passed.
fn run_peers(choices: &mut Choices<'_>) {
    let mut environment = Environment::default();
    for _ in 0..ACTS_MAX {
        if choices.is_done() {
            break;
        }
        environment.act(act(choices));
    }
    environment.end();
}

fn act(choices: &mut Choices<'_>) -> Act {
    let kind = choices.octet() % 16;
    let slot = choices.below(HOSTS.len());
    match kind {
        0 => Act::Connect(slot),
        1 => Act::Close(slot),
        2 => Act::Stop(slot),
        3 | 4 => {
            let flags = choices.octet();
            let preferred = (flags & 4 != 0).then_some(slot);
            let timeout_seconds = choices.below(100) as u32;
            Act::Send { may_move: flags & 1 != 0, preferred, timeout_seconds, possible_duplicate: flags & 2 != 0 }
        }
        5 | 6 => Act::Write { slot, octets: choices.u16().into() },
        7 => {
            let (which, keep) = (choices.octet().into(), choices.flag());
            let spoil = choices.flag().then(|| (choices.u16().into(), choices.octet()));
            Act::Answer { slot, which, keep, spoil }
        }
        8 | 9 => Act::AnswerAll(slot),
        10 => Act::Ask { slot, what: choices.below(8) as u8 },
        11 => Act::Octets { slot, bytes: choices.octets().to_vec() },
        12 => Act::Octets { slot, bytes: message(choices) },
        13 | 14 => Act::Pass { milliseconds: u64::from(choices.u16()) },
        _ => Act::ReplyToAsked,
    }
}

/// A message with a valid header, so that its body is decoded.
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

/// The same octets, read whole by one peer and in pieces by another, must leave both in the same state.
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

/// One of two peers that receive the same octets. Identifiers of their requests differ and are not compared.
struct Twin {
    peer: Peer,
    asked: Vec<Vec<u8>>,
    /// An incomplete message.
    begun: Vec<u8>,
}

impl Twin {
    fn new() -> Twin {
        let node = Rc::new(LocalNode::new(&config(&[HOST]), 42, START));
        Twin { peer: Peer::new(node, HOST, 30, 5), asked: Vec::new(), begun: Vec::new() }
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

    /// Answers the oldest request, unless a message is incomplete: the answer, whose identifiers differ, would become a
    /// part of it.
    fn answer(&mut self, keep: bool, piece: usize) {
        let Some(asked) = self.asked.first().cloned().filter(|_| self.begun.is_empty()) else { return };
        if !keep {
            self.asked.remove(0);
        }
        self.receive(&respond(&asked, HOST), piece);
    }

    /// Messages written since the last call, with the identifiers of requests set to 0.
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
        assert_eq!(self.peer.close_reason(), other.peer.close_reason());
        assert_eq!((self.peer.state_name(), self.peer.fitness()), (other.peer.state_name(), other.peer.fitness()));
        assert_eq!((self.peer.host(), self.peer.open_since()), (other.peer.host(), other.peer.open_since()));
    }

    /// Events of the peer. Their messages are whole, and requests or answers as the event says.
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
