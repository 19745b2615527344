//! Peers with random behaviour, checked by the model of the fuzz target `diameter_peer`.

use crate::checks::fake_peer::HOST;
use crate::checks::peers_world::{Act, Environment, HOSTS, question};
use proptest::prelude::*;

fn act() -> impl Strategy<Value = Act> {
    let slot = || 0..HOSTS.len();
    let spoil = prop::option::weighted(0.2, (any::<usize>(), any::<u8>()));
    prop_oneof![
        3 => slot().prop_map(Act::Connect),
        1 => slot().prop_map(Act::Close),
        1 => slot().prop_map(Act::Stop),
        8 => (any::<bool>(), prop::option::of(slot()), 0..100u32, any::<bool>()).prop_map(
            |(may_move, preferred, timeout_seconds, possible_duplicate)| {
                Act::Send { may_move, preferred, timeout_seconds, possible_duplicate }
            }),
        6 => (slot(), 0..2000usize).prop_map(|(slot, octets)| Act::Write { slot, octets }),
        4 => (slot(), any::<usize>(), any::<bool>(), spoil).prop_map(
            |(slot, which, keep, spoil)| Act::Answer { slot, which, keep, spoil }),
        5 => slot().prop_map(Act::AnswerAll),
        2 => (slot(), 0..8u8).prop_map(|(slot, what)| Act::Ask { slot, what }),
        1 => (slot(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(slot, bytes)| Act::Octets { slot, bytes }),
        4 => (0..40_000u64).prop_map(|milliseconds| Act::Pass { milliseconds }),
        1 => Just(Act::ReplyToAsked),
    ]
}

proptest! {
    #[test]
    fn every_request_ends_exactly_once(acts in prop::collection::vec(act(), 0..150)) {
        let mut environment = Environment::default();
        acts.into_iter().for_each(|act| environment.act(act));
        environment.end();
    }

    #[test]
    fn random_octets_do_not_break_the_invariants(
        pieces in prop::collection::vec((0..8u8, prop::collection::vec(any::<u8>(), 0..80), any::<u16>()), 0..20),
    ) {
        let mut environment = Environment::default();
        environment.act(Act::Connect(0));
        environment.act(Act::AnswerAll(0));
        environment.act(Act::Send { may_move: true, preferred: None, timeout_seconds: 10, possible_duplicate: false });
        for (what, noise, place) in pieces {
            let mut bytes = question(HOST, what);
            let place = usize::from(place) % bytes.len();
            for (to, from) in bytes.iter_mut().skip(place).zip(noise) {
                *to = from;
            }
            environment.act(Act::Octets { slot: 0, bytes });
        }
        environment.end();
    }
}
