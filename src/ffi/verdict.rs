//! Verdicts on INVITEs that the host holds back.

use super::guard::guard;
use super::handle::{self, Handle};
use super::hooks::{imcharge_session, imcharge_tokens};
use super::host::{Host, attach_code, imcharge_handle};
use super::memory;
use super::result::{IMCHARGE_NO_VERDICT, IMCHARGE_OK, IMCHARGE_WRONG_STATE};
use crate::shm::notification::{Kind, Notification, NotificationReader, Outcome as Decision};
use std::ffi::c_char;
use std::time::{Duration, Instant};

/// Verdict: credit is reserved. Relay the INVITE.
pub const IMCHARGE_GRANTED: i32 = 1;
/// Verdict: the charging back end refused. Nothing is reserved.
pub const IMCHARGE_DENIED: i32 = 2;
/// Verdict: the charging back end could not be reached or did not answer. Nothing is reserved.
pub const IMCHARGE_FAILED: i32 = 3;

/// Size of the reason in a verdict, in bytes including the NUL.
pub const IMCHARGE_REASON_SIZE: usize = 64;
/// Size of a Call-ID or account in a verdict, in bytes including the NUL.
pub const IMCHARGE_IDENTITY_SIZE: usize = 256;

/// An attached verdict reader. One thread at a time may use it.
pub struct imcharge_verdict_reader {
    _opaque: [u8; 0],
}

/// The object of an [`imcharge_verdict_reader`].
pub(super) struct AttachedReader {
    reader: NotificationReader,
    process: u32,
}

impl Handle for imcharge_verdict_reader {
    type Content = AttachedReader;
}

/// A verdict on an INVITE. Text in it is truncated to fit and terminated by NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct imcharge_verdict {
    /// Session identifier, as returned by imcharge_on_invite.
    pub session: imcharge_session,
    /// Tokens that were passed to imcharge_on_invite.
    pub tokens: imcharge_tokens,
    /// Balance of the account without held credit, in the account's units; 0 if `balance_known` is 0.
    pub balance: i64,
    /// Units of the account that sessions hold; 0 if the charging back end does not report them.
    pub held: i64,
    /// 1 if the charging back end reported the balance, otherwise 0.
    pub balance_known: i32,
    /// IMCHARGE_GRANTED, IMCHARGE_DENIED or IMCHARGE_FAILED.
    pub result: i32,
    /// Granted messages (or kilobytes, depending on the tariff); 0 unless granted.
    pub granted: u32,
    /// Diameter Result-Code or similar code of the reason; 0 if there is none.
    pub code: u32,
    /// Reason as one word, for example `no-credit`; empty for a plain grant.
    pub reason: [c_char; IMCHARGE_REASON_SIZE],
    /// Call-ID of the INVITE.
    pub call_id: [c_char; IMCHARGE_IDENTITY_SIZE],
    /// Account that pays: the canonical identity of the subscriber.
    pub account: [c_char; IMCHARGE_IDENTITY_SIZE],
}

impl imcharge_verdict {
    /// Returns the verdict of a notification; `None` if it is of another kind.
    fn from_notification(notification: &Notification<'_>) -> Option<imcharge_verdict> {
        let Kind::Verdict { suspended, result, granted } = &notification.kind else { return None };
        let result = match result {
            Decision::Granted => IMCHARGE_GRANTED,
            Decision::Denied => IMCHARGE_DENIED,
            Decision::Failed => IMCHARGE_FAILED,
        };
        Some(imcharge_verdict {
            session: notification.session.into(),
            tokens: (*suspended).into(),
            balance: notification.balance.unwrap_or(0),
            held: notification.held.unwrap_or(0),
            balance_known: i32::from(notification.balance.is_some()),
            result,
            granted: *granted,
            code: notification.code,
            reason: memory::array(notification.reason),
            call_id: memory::array(notification.call_id),
            account: memory::array(notification.account),
        })
    }
}

/// Attaches a verdict reader: a process or thread that takes verdicts and continues the INVITEs. The next verdict goes to
/// whichever reader asks first. While the oldest verdict has been waiting for more than one second, imcharge_on_invite
/// returns IMCHARGE_INVITE_FULL.
///
/// Parameters:
///   handle       the handle, not NULL.
///   index        number of the reader, 0 to the parameter `resume_workers` minus 1 (default 2 readers). Unique among
///                attached readers.
///   reader       receives the handle of the reader, not NULL. Free it with imcharge_verdict_reader_detach.
///
/// Returns: IMCHARGE_OK, IMCHARGE_OUT_OF_RANGE, IMCHARGE_INDEX_TAKEN, or another error. Call it after the fork: the
/// handle of the reader is valid only in this process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_verdict_reader_attach(
    handle: *mut imcharge_handle,
    index: u32,
    reader: *mut *mut imcharge_verdict_reader,
) -> i32 {
    guard(|| {
        handle::with(handle, |host: &mut Host| {
            let place = memory::place(reader)?;
            let made = handle::open::<imcharge_verdict_reader>(AttachedReader {
                reader: NotificationReader::attach(&host.region, index as usize).map_err(attach_code)?,
                process: std::process::id(),
            })?;
            // SAFETY: valid for writes, as documented above.
            unsafe { memory::put(place, made) };
            Ok(IMCHARGE_OK)
        })
    })
}

/// Takes the next verdict, waiting for one if necessary. Each verdict is delivered once.
///
/// Parameters:
///   reader       the verdict reader, not NULL.
///   timeout_ms   longest wait in milliseconds; 0 returns at once.
///   verdict      receives the verdict, not NULL. Written only on IMCHARGE_OK. It contains no pointers.
///
/// Returns: IMCHARGE_OK, IMCHARGE_NO_VERDICT after the timeout, or an error. Only in the process that attached the reader
/// (otherwise IMCHARGE_WRONG_STATE), one thread at a time. Blocks: do not call it in a process that serves SIP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_next_verdict(
    reader: *mut imcharge_verdict_reader,
    timeout_ms: u32,
    verdict: *mut imcharge_verdict,
) -> i32 {
    guard(|| {
        handle::with(reader, |attached| {
            let place = memory::place(verdict)?;
            if attached.process != std::process::id() {
                return Err(IMCHARGE_WRONG_STATE);
            }
            match next(&mut attached.reader, Duration::from_millis(timeout_ms.into())) {
                Some(taken) => {
                    // SAFETY: valid for writes, as documented above.
                    unsafe { memory::put(place, taken) };
                    Ok(IMCHARGE_OK)
                }
                None => Ok(IMCHARGE_NO_VERDICT),
            }
        })
    })
}

/// Returns the next verdict; `None` if there is none within this time.
fn next(reader: &mut NotificationReader, at_most: Duration) -> Option<imcharge_verdict> {
    let begin = Instant::now();
    loop {
        let mut verdict = None;
        while reader.next(|notification| verdict = imcharge_verdict::from_notification(notification)) {
            if verdict.is_some() {
                return verdict;
            }
        }
        let left = at_most.checked_sub(begin.elapsed()).filter(|left| !left.is_zero())?;
        reader.wait(left);
    }
}

/// Detaches a verdict reader and frees its handle. Verdicts that it has not taken are delivered to other readers, or to
/// the next one that attaches.
///
/// Parameters:
///   reader       the verdict reader, not NULL.
///
/// Returns: IMCHARGE_OK, or an error. Only in the process that attached it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_verdict_reader_detach(reader: *mut imcharge_verdict_reader) -> i32 {
    guard(|| handle::close(reader).map(|_| IMCHARGE_OK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charge::ch2::SessionKey;
    use crate::charge::event::Suspended;

    fn notification(kind: Kind<'_>) -> Notification<'_> {
        Notification {
            session: SessionKey(1, 2),
            call_id: "call",
            account: "sip:a@b",
            reason: "no-credit",
            code: 0,
            balance: Some(-3),
            held: Some(4),
            kind,
        }
    }

    #[test]
    fn verdict_has_all_fields() {
        let suspended = Suspended { index: 4, label: 5, continuation: 6 };
        let kind = Kind::Verdict { suspended, result: Decision::Denied, granted: 0 };
        let verdict = imcharge_verdict::from_notification(&notification(kind)).unwrap();
        assert_eq!(verdict.session, imcharge_session { high: 1, low: 2 });
        assert_eq!(verdict.tokens, imcharge_tokens { index: 4, label: 5, continuation: 6 });
        assert_eq!((verdict.result, verdict.balance, verdict.held), (IMCHARGE_DENIED, -3, 4));
        assert_eq!(verdict.balance_known, 1);
        assert!(verdict.reason.map(|c| c as u8).starts_with(b"no-credit\0"));
        assert!(verdict.account.map(|c| c as u8).starts_with(b"sip:a@b\0"));
    }

    #[test]
    fn other_notifications_are_not_verdicts() {
        assert!(imcharge_verdict::from_notification(&notification(Kind::Failed)).is_none());
    }
}
