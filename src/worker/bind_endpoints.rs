//! Binds MSRP endpoints by offer and answer (RFC 3264): which endpoints of a dialog belong together.
//!
//! Offer and answer may be in INVITE and 2xx, INVITE and reliable 1xx, 2xx and ACK, reliable 1xx and PRACK, PRACK and its
//! 2xx, or UPDATE and its 2xx (RFC 6337, 2). Media are paired by the position of their `m=` line. Nothing changes until an
//! offer is answered.
//!
//! The offer of the INVITE is kept as leg 0: each dialog of a forked INVITE answers it (RFC 3261, 13.2.2.4).

use crate::shm::gate::{STREAMS_MAX, Side, Stream, StreamState, Streams};
use crate::wire::sdp::POSITION_MAX;

/// Leg of the offer in the INVITE.
const INVITE_OFFER_LEG: u64 = 0;

/// The endpoint of an accepted `m=` line (port not 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Position of its `m=` line, from 0.
    pub position: u8,
    /// Hash of its URI.
    pub uri: u64,
    /// Whether its description has `a=file-selector` (RFC 5547).
    pub is_file: bool,
}

impl Endpoint {
    const UNKNOWN: Endpoint = Endpoint { position: 0, uri: 0, is_file: false };
}

/// Why an offer or answer is not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A side describes an endpoint of the other side.
    OthersEndpoint,
    /// The session has no room for more streams.
    NoRoom,
}

/// Keeps the offer of the INVITE for all dialogs that answer it; the first one counts.
pub(crate) fn keep_offer(streams: &mut Streams, side: Side, offer: &[Endpoint]) -> Result<(), Refusal> {
    if streams.iter().any(|stream| stream.leg == INVITE_OFFER_LEG) {
        return Ok(());
    }
    add_offer(streams, INVITE_OFFER_LEG, side, offer)
}

/// Returns the offer of the INVITE and its side.
pub(crate) fn kept_offer(streams: &Streams) -> Option<(Side, Vec<Endpoint>)> {
    waiting_offer(streams, INVITE_OFFER_LEG)
}

/// Keeps an offer of a dialog until it is answered; replaces an earlier one.
pub(crate) fn offer(streams: &mut Streams, leg: u64, side: Side, offer: &[Endpoint]) -> Result<(), Refusal> {
    drop_offer(streams, leg);
    add_offer(streams, leg, side, offer)
}

/// Returns the unanswered offer of a dialog and its side.
pub(crate) fn waiting_offer(streams: &Streams, leg: u64) -> Option<(Side, Vec<Endpoint>)> {
    let mut side = None;
    let offered = streams.iter().filter(|stream| stream.leg == leg).filter_map(|stream| {
        let StreamState::Offered(by) = stream.state else { return None };
        side = Some(by);
        let uri = if by == Side::Sender { stream.sender } else { stream.receiver };
        Some(Endpoint { position: stream.position, uri, is_file: stream.is_file })
    });
    let offered: Vec<_> = offered.collect();
    side.map(|side| (side, offered))
}

/// Drops the unanswered offer of a dialog.
pub(crate) fn drop_offer(streams: &mut Streams, leg: u64) {
    streams.retain(|stream| stream.leg != leg || stream.is_bound());
}

/// Binds the endpoints of an offer of `side` and its answer, which replace those of the dialog. On an error the streams
/// stay as they were.
pub(crate) fn answer(
    streams: &mut Streams,
    leg: u64,
    side: Side,
    offer: &[Endpoint],
    answer: &[Endpoint],
) -> Result<(), Refusal> {
    check(streams, side, offer)?;
    check(streams, side.other(), answer)?;
    if offer.iter().any(|one| answer.iter().any(|other| other.uri == one.uri)) {
        return Err(Refusal::OthersEndpoint);
    }
    let before = *streams;
    streams.retain(|stream| stream.leg != leg);
    for answered in answer {
        let offered = offer.iter().find(|offered| offered.position == answered.position);
        if answered.position == POSITION_MAX {
            continue;
        }
        let stream = match offered {
            Some(offered) => stream(leg, side, offered, answered),
            // The receiver's offer is unknown: content from this endpoint is paid for, whatever its destination.
            None if side == Side::Receiver => stream(leg, side, &Endpoint::UNKNOWN, answered),
            None => continue,
        };
        if !streams.push(stream) {
            *streams = before;
            return Err(Refusal::NoRoom);
        }
    }
    Ok(())
}

fn add_offer(streams: &mut Streams, leg: u64, side: Side, offer: &[Endpoint]) -> Result<(), Refusal> {
    check(streams, side, offer)?;
    let has_room = streams.iter().count() + offer.len() <= STREAMS_MAX;
    if has_room {
        offer.iter().for_each(|endpoint| _ = streams.push(offered_stream(leg, side, endpoint)));
    }
    has_room.then_some(()).ok_or(Refusal::NoRoom)
}

/// Checks that none of the endpoints of one side belongs to the other side.
fn check(streams: &Streams, side: Side, endpoints: &[Endpoint]) -> Result<(), Refusal> {
    let is_others = |endpoint: &Endpoint| {
        streams.iter().any(|stream| {
            let other = if side == Side::Sender { stream.receiver } else { stream.sender };
            other == endpoint.uri
        })
    };
    if endpoints.iter().any(is_others) { Err(Refusal::OthersEndpoint) } else { Ok(()) }
}

/// Binds two endpoints. What the stream carries is what the sender describes: it also writes Content-Type, while the
/// receiver, which may pay, could choose its own price.
fn stream(leg: u64, offering: Side, offered: &Endpoint, answered: &Endpoint) -> Stream {
    let (sender, receiver) = match offering {
        Side::Sender => (offered, answered),
        Side::Receiver => (answered, offered),
    };
    let (position, is_file) = (answered.position, sender.is_file);
    Stream { leg, position, state: StreamState::Bound, sender: sender.uri, receiver: receiver.uri, is_file }
}

fn offered_stream(leg: u64, side: Side, endpoint: &Endpoint) -> Stream {
    let (sender, receiver) = match side {
        Side::Sender => (endpoint.uri, 0),
        Side::Receiver => (0, endpoint.uri),
    };
    let (position, is_file) = (endpoint.position, endpoint.is_file);
    Stream { leg, position, state: StreamState::Offered(side), sender, receiver, is_file }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Side::{Receiver, Sender};

    const LEG: u64 = 7;

    fn endpoints(list: &[(u8, u64)]) -> Vec<Endpoint> {
        list.iter().map(|&(position, uri)| Endpoint { position, uri, is_file: false }).collect()
    }

    /// Leg, position, sender and receiver of each bound stream.
    fn bound(streams: &Streams) -> Vec<(u64, u8, u64, u64)> {
        let bound = streams.iter().filter(|stream| stream.is_bound());
        bound.map(|stream| (stream.leg, stream.position, stream.sender, stream.receiver)).collect()
    }

    /// A session whose receiver has offered endpoint 1 in the INVITE, and whose sender has answered with endpoint 10.
    fn one() -> Streams {
        let mut streams = Streams::default();
        keep_offer(&mut streams, Receiver, &endpoints(&[(0, 1)])).expect("room");
        answer(&mut streams, LEG, Receiver, &endpoints(&[(0, 1)]), &endpoints(&[(0, 10)])).expect("an answer");
        streams
    }

    #[test]
    fn media_are_paired_by_position() {
        let mut streams = Streams::default();
        // The first line of the answer has port 0.
        let (offered, answered) = (endpoints(&[(0, 1), (1, 2), (2, 3)]), endpoints(&[(1, 11), (2, 12)]));
        answer(&mut streams, LEG, Receiver, &offered, &answered).expect("an answer");
        assert_eq!(bound(&streams), [(LEG, 1, 11, 2), (LEG, 2, 12, 3)]);
        answer(&mut streams, LEG, Sender, &endpoints(&[(2, 12)]), &endpoints(&[(2, 4)])).expect("an answer");
        assert_eq!(bound(&streams), [(LEG, 2, 12, 4)]);
    }

    #[test]
    fn offer_changes_nothing_until_it_is_answered() {
        let mut streams = one();
        offer(&mut streams, LEG, Sender, &endpoints(&[(0, 20)])).expect("room");
        assert_eq!(bound(&streams), [(LEG, 0, 10, 1)]);
        assert_eq!(waiting_offer(&streams, LEG), Some((Sender, endpoints(&[(0, 20)]))));
        let mut refused = streams;
        drop_offer(&mut refused, LEG);
        assert_eq!((bound(&refused), waiting_offer(&refused, LEG)), (vec![(LEG, 0, 10, 1)], None));
        answer(&mut streams, LEG, Sender, &endpoints(&[(0, 20)]), &endpoints(&[(0, 2)])).expect("an answer");
        assert_eq!((bound(&streams), waiting_offer(&streams, LEG)), (vec![(LEG, 0, 20, 2)], None));
    }

    #[test]
    fn each_dialog_answers_the_offer_of_the_invite() {
        let mut streams = one();
        let (side, offered) = kept_offer(&streams).expect("an offer");
        assert_eq!((side, &offered), (Receiver, &endpoints(&[(0, 1)])));
        answer(&mut streams, 8, side, &offered, &endpoints(&[(0, 30)])).expect("an answer");
        assert_eq!(bound(&streams), [(LEG, 0, 10, 1), (8, 0, 30, 1)]);
        keep_offer(&mut streams, Receiver, &endpoints(&[(0, 5)])).expect("room");
        assert_eq!(kept_offer(&streams), Some((Receiver, offered)), "the first one counts");
    }

    #[test]
    fn endpoint_of_the_other_side_is_refused() {
        let before = one();
        for (side, offered, answered) in [
            // The sides are swapped.
            (Receiver, 10, 1),
            // The receiver claims the sender's endpoint, and the other party has a new one.
            (Receiver, 10, 40),
            // The answer contains the receiver's endpoint.
            (Receiver, 3, 1),
            (Sender, 1, 3),
            // Offer and answer contain the same endpoint.
            (Receiver, 3, 3),
        ] {
            let mut streams = before;
            let result = answer(&mut streams, LEG, side, &endpoints(&[(0, offered)]), &endpoints(&[(0, answered)]));
            assert_eq!((result, streams), (Err(Refusal::OthersEndpoint), before), "{side:?} {offered} {answered}");
        }
        let mut streams = before;
        assert_eq!(offer(&mut streams, LEG, Sender, &endpoints(&[(0, 1)])), Err(Refusal::OthersEndpoint));
        assert_eq!(streams, before);
    }

    #[test]
    fn sender_is_bound_without_a_known_offer() {
        let mut streams = Streams::default();
        answer(&mut streams, LEG, Receiver, &[], &endpoints(&[(0, 10)])).expect("an answer");
        assert_eq!(bound(&streams), [(LEG, 0, 10, 0)]);
        let mut streams = Streams::default();
        answer(&mut streams, LEG, Sender, &[], &endpoints(&[(0, 10)])).expect("an answer");
        assert!(streams.is_empty());
    }

    #[test]
    fn stream_is_a_files_if_its_sender_says_so() {
        let one = |uri, is_file| [Endpoint { position: 0, uri, is_file }];
        for side in [Sender, Receiver] {
            for (of_sender, of_receiver) in [(true, true), (true, false), (false, true), (false, false)] {
                let is_file = |of: Side| if of == Sender { of_sender } else { of_receiver };
                let mut streams = Streams::default();
                keep_offer(&mut streams, side, &one(1, is_file(side))).expect("room");
                let (offering, offered) = kept_offer(&streams).expect("an offer");
                let answered = one(10, is_file(side.other()));
                answer(&mut streams, LEG, offering, &offered, &answered).expect("an answer");
                let bound: Vec<bool> = streams.iter().filter(|one| one.is_bound()).map(|one| one.is_file).collect();
                assert_eq!(bound, [of_sender], "offer of {side:?}");
            }
        }
    }

    #[test]
    fn too_many_streams_change_nothing() {
        let before = one();
        let many: Vec<_> = (0..STREAMS_MAX as u64).map(|at| (at as u8, 100 + at)).collect();
        let mut streams = before;
        let answered: Vec<_> = many.iter().map(|(at, uri)| (*at, uri + 100)).collect();
        assert_eq!(answer(&mut streams, LEG, Receiver, &endpoints(&many), &endpoints(&answered)), Err(Refusal::NoRoom));
        assert_eq!(offer(&mut streams, LEG, Sender, &endpoints(&many)), Err(Refusal::NoRoom));
        assert_eq!(streams, before);
    }
}
