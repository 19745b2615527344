//! Notifications to hosts and scripts: verdicts, debits, failures.

use super::entry::SessionEntry;
use super::invite::count_reserve;
use crate::charge::ch2::{Failure, SessionKey, Trigger};
use crate::charge::event::Reserve;
use crate::charge::session::{Decision, Session, Verdict};
use crate::charge::time::Time;
use crate::enabler::{Account, Accounts};
use crate::engine::effects::Effect;
use crate::engine::tick::Tick;
use crate::shm::gate::Opening;
use crate::shm::latency::Latency;
use crate::shm::notification::{Kind, Notification, Outcome};
use crate::shm::statistic::Statistic;
use crate::simulate::{InjectedBug, is_injected};

/// Sends the verdict that resumes the INVITE or MESSAGE, and opens the gate for a granted INVITE.
pub(super) fn send_verdict(tick: &mut Tick<'_>, entry: &SessionEntry, verdict: &Verdict) {
    let is_current = entry.instance == tick.region.instance();
    let decision = match verdict.result {
        // Without a slot that workers find, the gate would stop its messages.
        Decision::Granted if is_current && !entry.session.is_page() && !claim_slot(tick, entry) => {
            Decision::Failed(Failure::Full)
        }
        decision => decision,
    };
    count_decision(tick, decision);
    if decision == Decision::Granted {
        tick.effects.extend(entry.slot.map(|slot| Effect::Grant(slot, verdict.granted.0)));
    }
    if is_current {
        write_verdict(tick, &entry.session, decision, decision, verdict);
    }
}

/// Counts a decision about a reservation.
pub(super) fn count_decision(tick: &mut Tick<'_>, decision: Decision) {
    tick.count(match decision {
        Decision::Granted => Statistic::ReservesGranted,
        Decision::Denied(_) => Statistic::ReservesDenied,
        Decision::Failed(_) => Statistic::ReservesFailed,
    });
}

/// Writes a verdict for the host. `reason`: the decision that the script reads as reason.
pub(super) fn write_verdict(
    tick: &mut Tick<'_>,
    session: &Session,
    decision: Decision,
    reason: Decision,
    verdict: &Verdict,
) {
    let result = match decision {
        Decision::Granted => Outcome::Granted,
        Decision::Denied(_) => Outcome::Denied,
        Decision::Failed(_) => Outcome::Failed,
    };
    let (reason, code) = match reason {
        Decision::Granted => ("", 0),
        Decision::Denied(denial) => (denial.as_str(), denial.code()),
        Decision::Failed(failure) => (failure.as_str(), failure.code()),
    };
    let kind = Kind::Verdict { suspended: session.suspended(), result, granted: verdict.granted.0 };
    let notification = notification(tick, session, reason, code, verdict.balance, kind);
    tick.notifications.write_verdict(tick.region, &notification);
    tick.latencies.push((Latency::Reserve, session.opened()));
}

/// Claims the slot of a granted session; its gate opens after the commit. Returns `false` if the session has no slot, or if
/// there is no room for the name by which workers find it.
pub(super) fn claim_slot(tick: &mut Tick<'_>, entry: &SessionEntry) -> bool {
    let (session, Some(slot)) = (&entry.session, entry.slot) else { return false };
    let region = tick.region;
    let opening = Opening {
        session: session.key(),
        name: region.name_of_session(session.key()),
        inviting_tag: session.inviting_tag(),
        direction: session.direction(),
        weights: session.prices().weights(),
        is_paid_by_sender: session.service().is_paid_by_sender(),
        is_paired: session.is_paired(),
    };
    if is_injected(InjectedBug::GrantedWithoutSlot) {
        return true;
    }
    if !region.table().claim(slot, &opening) {
        tick.count(Statistic::DroppedTableFull);
        return false;
    }
    tick.effects.push(Effect::Open(slot, opening));
    true
}

/// Sends the verdict of an INVITE or MESSAGE that opens no session.
pub(super) fn refuse(tick: &mut Tick<'_>, session: SessionKey, at: Time, reserve: &Reserve<'_>, failure: Failure) {
    count_reserve(tick, reserve);
    tick.count(Statistic::ReservesFailed);
    tick.latencies.push((Latency::Reserve, at));
    let kind = Kind::Verdict { suspended: reserve.suspended, result: Outcome::Failed, granted: 0 };
    let notification = Notification {
        session,
        call_id: reserve.call_id,
        account: reserve.account,
        reason: failure.as_str(),
        code: failure.code(),
        balance: None,
        held: None,
        kind,
    };
    tick.changed = true;
    tick.notifications.write_verdict(tick.region, &notification);
}

/// Notifies the event route of a debit, if the script has that route.
pub(super) fn notify_debit(
    tick: &mut Tick<'_>,
    session: &Session,
    message_id: &str,
    units: u64,
    trigger: Trigger,
    balance: Option<i64>,
) {
    if tick.region.event_routes().debited {
        let (reason, code) = (trigger.as_str(), trigger.code().into());
        let notification = notification(tick, session, reason, code, balance, Kind::Debited { message_id, units });
        tick.notifications.write_event(tick.region, &notification);
    }
}

/// Notifies the event route of a failing enabler, if the script has that route.
pub(super) fn notify_failure(tick: &mut Tick<'_>, session: &Session, failure: Failure) {
    if tick.region.event_routes().failed {
        let notification = notification(tick, session, failure.as_str(), failure.code(), None, Kind::Failed);
        tick.notifications.write_event(tick.region, &notification);
    }
}

/// Notifies the event route of an account whose units have fallen to `low_balance`, if the script has that route.
/// `session`: the session whose debit did it; `None`: a command did.
pub(super) fn notify_low_balance(tick: &mut Tick<'_>, id: &str, account: &Account, session: Option<&Session>) {
    if tick.region.event_routes().low_balance {
        let notification = Notification {
            session: session.map_or(SessionKey(0, 0), Session::key),
            call_id: session.map_or("", Session::call_id),
            account: id,
            reason: "",
            code: 0,
            balance: Some(account.balance),
            held: Some(account.held),
            kind: Kind::LowBalance,
        };
        tick.notifications.write_event(tick.region, &notification);
    }
}

/// Returns a notification about a session. If the account is in the store, it has its balance and held units.
fn notification<'a>(
    tick: &Tick<'_>,
    session: &'a Session,
    reason: &'a str,
    code: u32,
    balance: Option<i64>,
    kind: Kind<'a>,
) -> Notification<'a> {
    let (call_id, account) = (session.call_id(), session.account());
    let kept = match tick.region.config.enabler.capabilities.accounts {
        Accounts::InStore => tick.store.account(account).ok().flatten(),
        Accounts::InDatabase | Accounts::AtServer => None,
    };
    let (balance, held) = match kept {
        Some(Account { balance, held, .. }) => (Some(balance), Some(held)),
        None => (balance, None),
    };
    Notification { session: session.key(), call_id, account, reason, code, balance, held, kind }
}

/// Counts a debit by its trigger.
pub(super) fn count_debit(tick: &mut Tick<'_>, trigger: Trigger) {
    tick.count(Statistic::Debits);
    tick.count(match trigger {
        Trigger::Response => Statistic::DebitsOnResponse,
        Trigger::Error(_) => Statistic::DebitsOnError,
        Trigger::Timeout => Statistic::DebitsOnTimeout,
        Trigger::Close => Statistic::DebitsOnClose,
        Trigger::Prepay => Statistic::DebitsPrepaid,
    });
}
