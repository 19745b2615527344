//! Random conversations, checked with the model of the fuzz target `session_events`.

use crate::checks::session_world::{Act, Kind, LEGS, Part, Sip, World};
use imcharge::charge::policy::{Cases, DebitOn, OnFailure, Policy, Resend, Settle};
use imcharge::charge::service::Service;
use proptest::prelude::*;

fn act() -> impl Strategy<Value = Act> {
    let part = prop_oneof![
        4 => Just(Part::Whole), 3 => Just(Part::First), 3 => Just(Part::Second), 1 => Just(Part::Empty),
        1 => Just(Part::Abort),
    ];
    let code = prop_oneof![6 => Just(200), 1 => Just(413), 1 => Just(408), 1 => Just(501), 1 => 0..999_u16];
    let sip = prop_oneof![
        4 => (0..=LEGS).prop_map(|leg| Sip::Answered { leg }), 1 => Just(Sip::Cancelled), 1 => Just(Sip::Failed),
        2 => (0..=LEGS).prop_map(|leg| Sip::Bye { leg }), 1 => (0..=LEGS).prop_map(|leg| Sip::DialogOver { leg }),
        1 => (0..=LEGS).prop_map(|leg| Sip::EarlyDialog { leg }), 1 => Just(Sip::End), 1 => Just(Sip::HostStopped),
    ];
    let end = prop_oneof![3 => sip.prop_map(Act::Sip), 1 => Just(Act::Abort)];
    prop_oneof![
        10 => (0..6_u8, part, 0..12_u8)
            .prop_map(|(message, part, transaction)| Act::Send { message, part, transaction }),
        6 => (0..12_u8, code.clone()).prop_map(|(transaction, code)| Act::Respond { transaction, code }),
        2 => (0..6_u8, prop::option::of(0..120_u64), code)
            .prop_map(|(message, end, code)| Act::Report { message, end, code }),
        2 => end,
        1 => (0..3_u64).prop_map(|connection| Act::Move { connection }),
        1 => (0..3_u64).prop_map(|connection| Act::Lose { connection }),
        14 => any::<u8>().prop_map(Act::Read),
        2 => any::<u8>().prop_map(Act::ReadTwice),
        8 => Just(Act::Answer),
        1 => Just(Act::LoseAnswer),
        1 => Just(Act::Fail),
        2 => any::<(bool, bool)>().prop_map(|(executed, known)| Act::Silence { executed, known }),
        2 => any::<u8>().prop_map(Act::Late),
        1 => Just(Act::Reauthorize),
        1 => any::<bool>().prop_map(|again| Act::Resolve { again }),
        3 => (0..40_u32).prop_map(|seconds| Act::Pass { seconds }),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    let settle = || prop_oneof![Just(Settle::Debit), Just(Settle::Release)];
    let cases = || (settle(), settle(), settle(), settle(), settle(), settle());
    let debit_on = prop_oneof![Just(DebitOn::Response), Just(DebitOn::Report)];
    let on_failure = prop_oneof![Just(OnFailure::Deny), Just(OnFailure::Grant)];
    let resend = prop_oneof![Just(Resend::Again), Just(Resend::Hold)];
    (cases(), cases(), debit_on, on_failure, resend).prop_map(|(received, sent, debit_on, on_failure, resend)| Policy {
        cases: with(Cases::RECEIVED, received),
        sent: with(Cases::SENT, sent),
        debit_on,
        on_failure,
        resend,
        ..Policy::default()
    })
}

fn with(cases: Cases, settled: (Settle, Settle, Settle, Settle, Settle, Settle)) -> Cases {
    let (client_error, server_error, timeout, close, abort, report) = settled;
    Cases { client_error, server_error, timeout, close, abort, report, ..cases }
}

fn kinds() -> impl Strategy<Value = Kind> {
    let recipients = prop_oneof![2 => Just(0), 1 => 1..4_u32];
    (any::<[bool; 4]>(), recipients).prop_map(|([is_sending, has_classes, is_paired, is_called], recipients)| Kind {
        service: if is_sending { Service::Sending } else { Service::Retrieval },
        has_classes,
        is_paired: is_sending && is_paired,
        is_called: is_sending && is_paired && is_called,
        recipients,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn conversation_ends_with_correct_money(
        messages in 0..5_u32,
        balance in 0..60_i64,
        in_part in any::<bool>(),
        policy in policies(),
        kind in kinds(),
        acts in prop::collection::vec(act(), 0..120),
    ) {
        let mut world = World::new(messages, balance, in_part, policy, kind);
        for act in acts {
            world.act(act);
        }
        world.end();
        world.check();
    }
}
