//! The session with any order of events, answers and failures; see [`World`] for the invariants.

use super::Choices;
use super::session_world::{Act, Kind, LEGS, Part, Sip, World};
use imcharge::charge::policy::{Cases, DebitOn, OnFailure, Policy, Resend, Settle};
use imcharge::charge::service::Service;

/// Actions per conversation.
const ACTS_MAX: usize = 400;

/// Runs a conversation, ends it and checks the money.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let messages = choices.below(6) as u32;
    let balance = i64::from(choices.octet());
    let policy = policy(choices.octet());
    let octet = choices.octet();
    let in_part = octet.is_multiple_of(2);
    let kind = Kind {
        service: if octet & 16 == 0 { Service::Retrieval } else { Service::Sending },
        has_classes: octet & 32 != 0,
        is_paired: octet & 16 != 0 && octet & 64 != 0,
        is_called: octet & 8 != 0,
        recipients: if octet & 128 == 0 { 0 } else { 3 },
    };
    let mut world = World::new(messages, balance, in_part, policy, kind);
    for _ in 0..ACTS_MAX {
        if choices.is_done() {
            break;
        }
        world.act(act(&mut choices));
    }
    world.end();
    world.check();
}

/// Policy from one bit per choice.
fn policy(bits: u8) -> Policy {
    let settle = |bit: u8| if bits & bit == 0 { Settle::Debit } else { Settle::Release };
    Policy {
        cases: Cases {
            client_error: settle(128),
            server_error: settle(1),
            timeout: settle(128),
            close: settle(2),
            abort: settle(4),
            report: settle(32),
            ..Cases::RECEIVED
        },
        sent: Cases {
            client_error: settle(1),
            server_error: settle(8),
            timeout: settle(2),
            close: settle(128),
            abort: settle(4),
            report: settle(32),
            ..Cases::SENT
        },
        debit_on: if bits & 8 == 0 { DebitOn::Response } else { DebitOn::Report },
        on_failure: if bits & 16 == 0 { OnFailure::Deny } else { OnFailure::Grant },
        resend: if bits & 64 == 0 { Resend::Again } else { Resend::Hold },
        ..Policy::default()
    }
}

fn act(choices: &mut Choices<'_>) -> Act {
    let octet = choices.octet();
    match octet % 16 {
        _ if octet >= RARE => rare(octet, choices),
        0..=3 => {
            Act::Send { message: choices.below(6) as u8, part: part(choices), transaction: choices.below(12) as u8 }
        }
        4 => Act::Respond { transaction: choices.below(12) as u8, code: code(choices) },
        5 => {
            let message = choices.below(6) as u8;
            let end = choices.flag().then(|| choices.u64());
            Act::Report { message, end, code: code(choices) }
        }
        6 => Act::Sip(sip(choices)),
        7 => Act::Move { connection: choices.below(3) as u64 },
        8 => Act::Lose { connection: choices.below(3) as u64 },
        9 | 10 => Act::Read(choices.octet()),
        11 => Act::ReadTwice(choices.octet()),
        12 => Act::Answer,
        13 => Act::LoseAnswer,
        14 => Act::Fail,
        _ => Act::Pass { seconds: choices.octet().into() },
    }
}

/// Octets from this one on select rare actions of the enabler and the operator.
const RARE: u8 = 240;

fn rare(octet: u8, choices: &mut Choices<'_>) -> Act {
    match octet - RARE {
        0..=4 => Act::Silence { executed: choices.flag(), known: choices.flag() },
        5..=8 => Act::Late(choices.octet()),
        9..=10 => Act::Reauthorize,
        11 => Act::Abort,
        _ => Act::Resolve { again: choices.flag() },
    }
}

fn part(choices: &mut Choices<'_>) -> Part {
    match choices.below(5) {
        0 => Part::Whole,
        1 => Part::First,
        2 => Part::Second,
        3 => Part::Empty,
        _ => Part::Abort,
    }
}

fn sip(choices: &mut Choices<'_>) -> Sip {
    let kind = choices.below(8);
    // 0: a leg without a known tag.
    let mut leg = || choices.below(1 + LEGS as usize) as u64;
    match kind {
        0 => Sip::Answered { leg: leg() },
        1 => Sip::Cancelled,
        2 => Sip::Failed,
        3 => Sip::Bye { leg: leg() },
        4 => Sip::End,
        5 => Sip::EarlyDialog { leg: leg() },
        6 => Sip::DialogOver { leg: leg() },
        _ => Sip::HostStopped,
    }
}

fn code(choices: &mut Choices<'_>) -> u16 {
    match choices.octet() {
        octet @ 0..=159 => [200, 413, 408, 501][usize::from(octet % 4)],
        _ => choices.u16() % 1000,
    }
}
