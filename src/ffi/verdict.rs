//! Verdicts: what becomes of the INVITEs that wait.

use super::guard::guard;
use super::handle::{self, Handle};
use super::hooks::{imcharge_session, imcharge_tokens};
use super::host::{Host, attach_code, imcharge_handle};
use super::memory;
use super::result::{IMCHARGE_NO_VERDICT, IMCHARGE_OK, IMCHARGE_WRONG_STATE};
use crate::shm::notification::{Kind, Notification, NotificationReader, Outcome as Decision};
use std::ffi::c_char;
use std::time::{Duration, Instant};

/// Verdict: credit is reserved, the INVITE goes on.
pub const IMCHARGE_GRANTED: i32 = 1;
/// Verdict: the enabler refused. Nothing is reserved.
pub const IMCHARGE_DENIED: i32 = 2;
/// Verdict: the enabler could not be asked or gave no answer. Nothing is reserved.
pub const IMCHARGE_FAILED: i32 = 3;

/// Room for a reason in a verdict, with its NUL.
pub const IMCHARGE_REASON_SIZE: usize = 64;
/// Room for a Call-ID or an account in a verdict, with its NUL.
pub const IMCHARGE_IDENTITY_SIZE: usize = 256;

/// Takes verdicts. For one thread at a time.
pub struct imcharge_resumer {
    _opaque: [u8; 0],
}

/// What stands behind an [`imcharge_resumer`].
pub(super) struct Resuming {
    resumer: NotificationReader,
    process: u32,
}

impl Handle for imcharge_resumer {
    type Content = Resuming;
}

/// A verdict on an INVITE that waits. Text in it ends in NUL, and is cut where it is longer than its room.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct imcharge_verdict {
    /// The session, as imcharge_on_invite named it.
    pub session: imcharge_session,
    /// The tokens that imcharge_on_invite was given.
    pub tokens: imcharge_tokens,
    /// What is left on the account beside all that is held; 0 where `balance_known` is 0.
    pub balance: i64,
    /// Whether the enabler told the balance: 1 or 0.
    pub balance_known: i32,
    /// IMCHARGE_GRANTED, IMCHARGE_DENIED or IMCHARGE_FAILED.
    pub result: i32,
    /// Messages (or kilobytes, by the tariff) granted; 0 unless granted.
    pub granted: u32,
    /// A code that goes with the reason, else 0.
    pub code: u32,
    /// Why, in one word: empty for a plain grant, else for instance `no-credit`.
    pub reason: [c_char; IMCHARGE_REASON_SIZE],
    /// The Call-ID.
    pub call_id: [c_char; IMCHARGE_IDENTITY_SIZE],
    /// Who pays: the canonical identity.
    pub account: [c_char; IMCHARGE_IDENTITY_SIZE],
}

impl imcharge_verdict {
    /// `None`: the notice is of something else.
    fn from_notice(notice: &Notification<'_>) -> Option<imcharge_verdict> {
        let Kind::Verdict { suspended, result, granted } = &notice.kind else { return None };
        let result = match result {
            Decision::Granted => IMCHARGE_GRANTED,
            Decision::Denied => IMCHARGE_DENIED,
            Decision::Failed => IMCHARGE_FAILED,
        };
        Some(imcharge_verdict {
            session: notice.session.into(),
            tokens: (*suspended).into(),
            balance: notice.balance.unwrap_or(0),
            balance_known: i32::from(notice.balance.is_some()),
            result,
            granted: *granted,
            code: notice.code,
            reason: memory::array(notice.reason),
            call_id: memory::array(notice.call_id),
            account: memory::array(notice.account),
        })
    }
}

/// Attaches a taker of verdicts: a process, or a thread, that lets waiting INVITEs go on. There can be as many as
/// the parameter `resume_workers` (2) says; the next verdict goes to whichever asks first. While a verdict has
/// waited for more than a second, imcharge_on_invite returns IMCHARGE_INVITE_FULL.
///
/// Parameters:
///   handle       the handle, not NULL.
///   index        below `resume_workers`. No other taker may have it at the same time.
///   resumer      place for its handle, not NULL. The caller gives it back with imcharge_resumer_detach.
///
/// Returns: IMCHARGE_OK, IMCHARGE_OUT_OF_RANGE, IMCHARGE_INDEX_TAKEN, or another error. Call it after fork: the
/// handle is good in this process alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_resumer_attach(
    handle: *mut imcharge_handle,
    index: u32,
    resumer: *mut *mut imcharge_resumer,
) -> i32 {
    guard(|| {
        handle::with(handle, |host: &mut Host| {
            let place = memory::place(resumer)?;
            let made = handle::open::<imcharge_resumer>(Resuming {
                resumer: NotificationReader::attach(&host.region, index as usize).map_err(attach_code)?,
                process: std::process::id(),
            })?;
            // SAFETY: a place for a handle, by the contract above.
            unsafe { memory::put(place, made) };
            Ok(IMCHARGE_OK)
        })
    })
}

/// Takes the next verdict; waits for one if there is none yet. A verdict is given once.
///
/// Parameters:
///   resumer      the taker, not NULL.
///   timeout_ms   how long to wait at most, in milliseconds; 0: not at all.
///   verdict      place for it, not NULL. Written only on IMCHARGE_OK; it holds no pointer, nothing is freed.
///
/// Returns: IMCHARGE_OK, IMCHARGE_NO_VERDICT, or an error; IMCHARGE_WRONG_STATE in another process than the
/// one that attached it. One thread at a time. It waits: not for a process that serves SIP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_next_verdict(
    resumer: *mut imcharge_resumer,
    timeout_ms: u32,
    verdict: *mut imcharge_verdict,
) -> i32 {
    guard(|| {
        handle::with(resumer, |resuming| {
            let place = memory::place(verdict)?;
            if resuming.process != std::process::id() {
                return Err(IMCHARGE_WRONG_STATE);
            }
            match next(&mut resuming.resumer, Duration::from_millis(timeout_ms.into())) {
                Some(taken) => {
                    // SAFETY: a place for a verdict, by the contract above.
                    unsafe { memory::put(place, taken) };
                    Ok(IMCHARGE_OK)
                }
                None => Ok(IMCHARGE_NO_VERDICT),
            }
        })
    })
}

/// The next verdict, within this time.
fn next(resumer: &mut NotificationReader, at_most: Duration) -> Option<imcharge_verdict> {
    let begin = Instant::now();
    loop {
        let mut verdict = None;
        while resumer.next(|notice| verdict = imcharge_verdict::from_notice(notice)) {
            if verdict.is_some() {
                return verdict;
            }
        }
        let left = at_most.checked_sub(begin.elapsed()).filter(|left| !left.is_zero())?;
        resumer.wait(left);
    }
}

/// Detaches a taker of verdicts and frees its handle. Verdicts that it has not taken go to the others, or wait for
/// the next one that attaches.
///
/// Parameters:
///   resumer      the taker, not NULL.
///
/// Returns: IMCHARGE_OK, or an error. The process that attached it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_resumer_detach(resumer: *mut imcharge_resumer) -> i32 {
    guard(|| handle::close(resumer).map(|_| IMCHARGE_OK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charge::ch2::SessionKey;
    use crate::charge::event::Suspended;

    fn notice(kind: Kind<'_>) -> Notification<'_> {
        Notification {
            session: SessionKey(1, 2),
            call_id: "call",
            account: "sip:a@b",
            reason: "no-credit",
            code: 0,
            balance: Some(-3),
            kind,
        }
    }

    #[test]
    fn a_verdict_carries_every_field() {
        let suspended = Suspended { index: 4, label: 5, continuation: 6 };
        let kind = Kind::Verdict { suspended, result: Decision::Denied, granted: 0 };
        let verdict = imcharge_verdict::from_notice(&notice(kind)).unwrap();
        assert_eq!(verdict.session, imcharge_session { high: 1, low: 2 });
        assert_eq!(verdict.tokens, imcharge_tokens { index: 4, label: 5, route: 6 });
        assert_eq!((verdict.result, verdict.balance, verdict.balance_known), (IMCHARGE_DENIED, -3, 1));
        assert!(verdict.reason.map(|c| c as u8).starts_with(b"no-credit\0"));
        assert!(verdict.account.map(|c| c as u8).starts_with(b"sip:a@b\0"));
    }

    #[test]
    fn other_notices_are_no_verdicts() {
        assert!(imcharge_verdict::from_notice(&notice(Kind::Failed)).is_none());
    }
}
