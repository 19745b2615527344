//! What hosts and scripts are told of: verdicts, debits, failures.

use super::{Effect, SessionEntry, Tick};
use crate::charge::ch2::{Failure, SessionKey, Trigger};
use crate::charge::event::Reserve;
use crate::charge::session::{Decision, Session, Verdict};
use crate::charge::time::Time;
use crate::shm::gate::Opening;
use crate::shm::latency::Latency;
use crate::shm::notification::{Kind, Notification, Outcome};
use crate::shm::statistic::Statistic;
use crate::simulate::{InjectedBug, is_injected};

/// Tells the waiting INVITE, and opens the gate for a granted one.
pub(crate) fn tell_verdict(turn: &mut Tick<'_>, live: &SessionEntry, verdict: &Verdict) {
    let here = live.instance == turn.region.instance();
    let decision = match verdict.result {
        // Without a slot that workers find, its messages would be stopped.
        Decision::Granted if here && !is_gate_opened(turn, live) => Decision::Failed(Failure::Full),
        decision => decision,
    };
    let (statistic, result, reason, code) = match decision {
        Decision::Granted => (Statistic::ReservesGranted, Outcome::Granted, "", 0),
        Decision::Denied(denial) => (Statistic::ReservesDenied, Outcome::Denied, denial.as_str(), denial.code()),
        Decision::Failed(failure) => (Statistic::ReservesFailed, Outcome::Failed, failure.as_str(), failure.code()),
    };
    turn.count(statistic);
    let session = &live.session;
    if result == Outcome::Granted {
        turn.effects.extend(live.slot.map(|slot| Effect::Grant(slot, verdict.granted.0)));
    }
    if !here {
        return;
    }
    let suspended = session.suspended();
    let kind = Kind::Verdict { suspended, result, granted: verdict.granted.0 };
    turn.notices.write_verdict(turn.region, &notice(session, reason, code, verdict.balance, kind));
    turn.latencies.push((Latency::Reserve, session.opened()));
}

/// Opens the slot of a granted session after the commit. `false`: it has none, or workers would not find it.
pub(crate) fn is_gate_opened(turn: &mut Tick<'_>, live: &SessionEntry) -> bool {
    let (session, Some(slot)) = (&live.session, live.slot) else { return false };
    let region = turn.region;
    let opening = Opening {
        session: session.key(),
        name: region.name_of_session(session.key()),
        inviting_tag: session.inviting_tag(),
        direction: session.direction(),
        per: session.tariff().per,
    };
    if is_injected(InjectedBug::GrantedWithoutSlot) {
        return true;
    }
    if !region.table().claim(slot, &opening) {
        turn.count(Statistic::DroppedTableFull);
        return false;
    }
    turn.effects.push(Effect::Open(slot, opening));
    true
}

/// Tells an INVITE that opens no session.
pub(crate) fn refuse(turn: &mut Tick<'_>, session: SessionKey, at: Time, reserve: &Reserve<'_>, why: Failure) {
    turn.count(Statistic::Reserves);
    turn.count(Statistic::ReservesFailed);
    turn.latencies.push((Latency::Reserve, at));
    let suspended = reserve.suspended;
    let notice = Notification {
        session,
        call_id: reserve.call_id,
        account: reserve.account,
        reason: why.as_str(),
        code: why.code(),
        balance: None,
        kind: Kind::Verdict { suspended, result: Outcome::Failed, granted: 0 },
    };
    turn.changed = true;
    turn.notices.write_verdict(turn.region, &notice);
}

pub(crate) fn tell_debit(
    turn: &mut Tick<'_>,
    session: &Session,
    message_id: &str,
    units: u64,
    trigger: Trigger,
    balance: Option<i64>,
) {
    if turn.region.event_routes().0 {
        let code = match trigger {
            Trigger::Error(code) => code.into(),
            _ => 0,
        };
        let kind = Kind::Debited { message_id, units };
        turn.notices.write_event(turn.region, &notice(session, trigger.as_str(), code, balance, kind));
    }
}

pub(crate) fn tell_failure(turn: &mut Tick<'_>, session: &Session, failure: Failure) {
    if turn.region.event_routes().1 {
        turn.notices.write_event(turn.region, &notice(session, failure.as_str(), failure.code(), None, Kind::Failed));
    }
}

fn notice<'a>(
    session: &'a Session,
    reason: &'a str,
    code: u32,
    balance: Option<i64>,
    kind: Kind<'a>,
) -> Notification<'a> {
    let (call_id, account) = (session.call_id(), session.account());
    Notification { session: session.key(), call_id, account, reason, code, balance, kind }
}

pub(crate) fn count_debit(turn: &mut Tick<'_>, trigger: Trigger) {
    turn.count(Statistic::Debits);
    turn.count(match trigger {
        Trigger::Response => Statistic::DebitsOnResponse,
        Trigger::Error(_) => Statistic::DebitsOnError,
        Trigger::Timeout => Statistic::DebitsOnTimeout,
        Trigger::Close => Statistic::DebitsOnClose,
    });
}
