//! PeerConnections that do anything in any order, made up at random, with the model that the fuzz target `diameter_peer` has as
//! well.

use crate::checks::fake_peer::HOST;
use crate::checks::peers_world::{Act, HOSTS, Outside, question};
use proptest::prelude::*;

fn act() -> impl Strategy<Value = Act> {
    let seat = || 0..HOSTS.len();
    let spoil = prop::option::weighted(0.2, (any::<usize>(), any::<u8>()));
    prop_oneof![
        3 => seat().prop_map(Act::Connect),
        1 => seat().prop_map(Act::Close),
        1 => seat().prop_map(Act::Stop),
        8 => (any::<bool>(), prop::option::of(seat()), 0..100u32, any::<bool>()).prop_map(
            |(may_move, prefer, patience, duplicate)| Act::Send { may_move, prefer, patience, duplicate }),
        6 => (seat(), 0..2000usize).prop_map(|(seat, octets)| Act::Write { seat, octets }),
        4 => (seat(), any::<usize>(), any::<bool>(), spoil).prop_map(
            |(seat, which, keep, spoil)| Act::Answer { seat, which, keep, spoil }),
        5 => seat().prop_map(Act::AnswerAll),
        2 => (seat(), 0..8u8).prop_map(|(seat, what)| Act::Ask { seat, what }),
        1 => (seat(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(seat, bytes)| Act::Octets { seat, bytes }),
        4 => (0..40_000u64).prop_map(|milliseconds| Act::Pass { milliseconds }),
        1 => Just(Act::ReplyToAsked),
    ]
}

proptest! {
    #[test]
    fn every_request_ends_exactly_once(acts in prop::collection::vec(act(), 0..150)) {
        let mut outside = Outside::default();
        acts.into_iter().for_each(|act| outside.act(act));
        outside.end();
    }

    #[test]
    fn no_octets_harm_an_open_connection(
        pieces in prop::collection::vec((0..8u8, prop::collection::vec(any::<u8>(), 0..80), any::<u16>()), 0..20),
    ) {
        let mut outside = Outside::default();
        outside.act(Act::Connect(0));
        outside.act(Act::AnswerAll(0));
        outside.act(Act::Send { may_move: true, prefer: None, patience: 10, duplicate: false });
        for (what, noise, place) in pieces {
            let mut bytes = question(HOST, what);
            let place = usize::from(place) % bytes.len();
            for (to, from) in bytes.iter_mut().skip(place).zip(noise) {
                *to = from;
            }
            outside.act(Act::Octets { seat: 0, bytes });
        }
        outside.end();
    }
}
