//! What a worker sees: SIP and MSRP as raw bytes. No hook waits, and none keeps a pointer.

use super::guard::guard;
use super::host::{Attached, imcharge_worker, with_worker};
use super::memory;
use super::result::{
    IMCHARGE_BAD_SIP, IMCHARGE_IGNORED, IMCHARGE_MSRP_MAX, IMCHARGE_NOT_CHARGED, IMCHARGE_OK, IMCHARGE_SIP_MAX,
};
use crate::charge::ch2::SessionKey;
use crate::engine::facts::{Answer, Frame, NoConnections, Suspended};
use crate::engine::raw::{self, Inviting, Offer, Reply};
use crate::engine::statistic::Statistic;
use crate::engine::worker::{Refused, Worker};
use std::ffi::c_void;
use std::ptr::NonNull;

/// Names a session: the same in every process, for one INVITE for ever.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct imcharge_session {
    /// Upper half.
    pub high: u64,
    /// Lower half.
    pub low: u64,
}

impl From<SessionKey> for imcharge_session {
    fn from(key: SessionKey) -> imcharge_session {
        imcharge_session { high: key.0, low: key.1 }
    }
}

/// Three numbers of the host's own that come back with the verdict, so that it finds its waiting INVITE
/// again. This library never looks into them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct imcharge_tokens {
    /// First number, by its use in Kamailio: the hash index of the transaction.
    pub index: u64,
    /// Second number: the label of the transaction.
    pub label: u64,
    /// Third number: how the host goes on.
    pub route: u64,
}

impl From<imcharge_tokens> for Suspended {
    fn from(tokens: imcharge_tokens) -> Suspended {
        Suspended { index: tokens.index, label: tokens.label, route: tokens.route }
    }
}

impl From<Suspended> for imcharge_tokens {
    fn from(suspended: Suspended) -> imcharge_tokens {
        imcharge_tokens { index: suspended.index, label: suspended.label, route: suspended.route }
    }
}

/// An initial INVITE that asks for stored messages, or (RCS push) brings them: asks for a reservation. Hold
/// the INVITE back until its verdict comes from imcharge_next_verdict.
///
/// Parameters:
///   worker       the worker, not NULL.
///   message      the INVITE as received, not NULL, 1 to IMCHARGE_SIP_MAX bytes. It is copied.
///   messages     how many stored messages it is for; 0: not known, then one is reserved at a time.
///   tokens       what comes back with the verdict; NULL: three zeros. It is copied. An INVITE that comes again
///                in the same transaction is ignored; with another index or label it came by another way (RFC
///                3261, 8.2.2.2), and its verdict is `failed` with the reason `merged`. Answer it by 482, and do
///                not give that reply to imcharge_on_reply.
///   session      place for the session's name, or NULL. Written only on IMCHARGE_OK.
///
/// Returns: IMCHARGE_OK: a verdict will come; IMCHARGE_IGNORED: it has a To tag, so it repeats in a dialog and
/// needs no verdict; IMCHARGE_INVITE_MALFORMED, IMCHARGE_INVITE_ENGINE_DOWN or IMCHARGE_INVITE_FULL: none
/// will come, the host decides; or another error. The process that attached the worker, one thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_on_invite(
    worker: *mut imcharge_worker,
    message: *const c_void,
    length: usize,
    messages: u32,
    tokens: *const imcharge_tokens,
    session: *mut imcharge_session,
) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            // SAFETY: the pointer and length that the contract above names.
            let bytes = unsafe { memory::bytes(message, length, IMCHARGE_SIP_MAX) }?;
            let tokens = NonNull::new(tokens.cast_mut());
            // SAFETY: a place of this type that can be read, by the contract above.
            let suspended = tokens.map(|tokens| unsafe { tokens.read_unaligned() }.into()).unwrap_or_default();
            let invite = match raw::invite(bytes, messages, suspended) {
                Some(Inviting::Initial(invite)) => invite,
                Some(Inviting::InDialog) => return Ok(IMCHARGE_IGNORED),
                None => return Err(malformed(attached, Refused::Malformed as i32)),
            };
            let key = attached.worker.reserve(&invite).map_err(|refused| refused as i32)?;
            if let Some(place) = NonNull::new(session) {
                // SAFETY: a place for a session, by the contract above.
                unsafe { memory::put(place, key.into()) };
            }
            Ok(IMCHARGE_OK)
        })
    })
}

/// A reply to an INVITE, initial or repeated, before it goes on: a 2xx binds the MSRP sessions of both session
/// descriptions to the reservation, 300 and above ends it. Replies to other methods, and 1xx, are ignored,
/// so that a host may give all replies.
///
/// Parameters:
///   worker       the worker, not NULL.
///   reply        the reply as received, not NULL, 1 to IMCHARGE_SIP_MAX bytes. It is copied.
///   invite       the INVITE that it answers, up to IMCHARGE_SIP_MAX bytes, for the session description in it.
///                With a length of 0, which NULL may come with, only the answer's is bound: enough where
///                the answering side has the stored messages, but not for RCS push. It is copied.
///
/// Returns: IMCHARGE_OK, IMCHARGE_IGNORED, IMCHARGE_NOT_CHARGED, IMCHARGE_BAD_SIP, or another error. The reply
/// goes on whatever it is. The process that attached the worker, one thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_on_reply(
    worker: *mut imcharge_worker,
    reply: *const c_void,
    reply_length: usize,
    invite: *const c_void,
    invite_length: usize,
) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            // SAFETY: the pointers and lengths that the contract above names.
            let (reply, invite) = unsafe {
                let reply = memory::bytes(reply, reply_length, IMCHARGE_SIP_MAX)?;
                (reply, memory::optional_bytes(invite, invite_length, IMCHARGE_SIP_MAX)?)
            };
            let offer = raw::offer(invite);
            match raw::reply(reply) {
                Some(reply) if invite.is_empty() || offer.is_some() => Ok(replied(&mut attached.worker, &reply, offer)),
                _ => Err(malformed(attached, IMCHARGE_BAD_SIP)),
            }
        })
    })
}

/// Tells the engine what a reply says.
fn replied(worker: &mut Worker, reply: &Reply<'_>, offer: Option<Offer<'_>>) -> i32 {
    let in_dialog = offer.is_some_and(|offer| offer.in_dialog);
    // A refused repetition leaves the session as it was (RFC 3261, 14.1).
    if !reply.to_invite || reply.code < 200 || (in_dialog && reply.code >= 300) {
        return IMCHARGE_IGNORED;
    }
    let opened = Worker::session_of_invitation(&reply.invitation);
    if reply.code >= 300 {
        worker.failed(opened, None, reply.code);
        return IMCHARGE_OK;
    }
    let answer = Answer { dialog: reply.dialog, offer: offer.map_or(b"", |offer| offer.body), answer: reply.body };
    // Without its INVITE it is not known whether it opens or repeats.
    let opens = !in_dialog && worker.answered(opened, &answer);
    let repeats = !opens && (in_dialog || offer.is_none());
    let repeated = worker.session_of(&reply.dialog).filter(|session| repeats && *session != opened);
    match opens || repeated.is_some_and(|session| worker.answered(session, &answer)) {
        true => IMCHARGE_OK,
        false => IMCHARGE_NOT_CHARGED,
    }
}

/// A CANCEL of an INVITE. The reservation is released, also where its verdict is still to come.
///
/// Parameters:
///   worker       the worker, not NULL.
///   message      the CANCEL as received, not NULL, 1 to IMCHARGE_SIP_MAX bytes. It is copied.
///
/// Returns: IMCHARGE_OK, IMCHARGE_BAD_SIP, or another error. The CANCEL goes on whatever it is. The process
/// that attached the worker, one thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_on_cancel(
    worker: *mut imcharge_worker,
    message: *const c_void,
    length: usize,
) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            // SAFETY: the pointer and length that the contract above names.
            let bytes = unsafe { memory::bytes(message, length, IMCHARGE_SIP_MAX) }?;
            let Some(invitation) = raw::cancel(bytes) else { return Err(malformed(attached, IMCHARGE_BAD_SIP)) };
            attached.worker.cancelled(Worker::session_of_invitation(&invitation), None);
            Ok(IMCHARGE_OK)
        })
    })
}

/// A BYE of either side: the session closes. What is outstanding is settled by policy, the rest is released.
///
/// Parameters:
///   worker       the worker, not NULL.
///   message      the BYE as received, not NULL, 1 to IMCHARGE_SIP_MAX bytes. It is copied.
///
/// Returns: IMCHARGE_OK, IMCHARGE_NOT_CHARGED, IMCHARGE_BAD_SIP, or another error. The BYE goes on whatever it
/// is. The process that attached the worker, one thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_on_bye(worker: *mut imcharge_worker, message: *const c_void, length: usize) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            // SAFETY: the pointer and length that the contract above names.
            let bytes = unsafe { memory::bytes(message, length, IMCHARGE_SIP_MAX) }?;
            let Some(dialog) = raw::bye(bytes) else { return Err(malformed(attached, IMCHARGE_BAD_SIP)) };
            match attached.worker.bye(&dialog) {
                true => Ok(IMCHARGE_OK),
                false => Ok(IMCHARGE_NOT_CHARGED),
            }
        })
    })
}

/// An MSRP frame, request or response, before it goes on.
///
/// Parameters:
///   worker       the worker, not NULL.
///   frame        the whole frame, from its first `M` to the CRLF of its end-line, not NULL, 1 to
///                IMCHARGE_MSRP_MAX bytes. What is needed of it is copied.
///   connection   the host's number of the connection it came on, for imcharge_on_disconnect; 0: the host has made the
///                frame itself. It decides which side of a session the frame may speak for, so it must be right.
///   source       16 octets: the IPv6 address at the other end of the connection, or its IPv4-mapped form; NULL: not
///                known, so that no frame counts as one of the parameter im_server.
///   from_self    not 0: the frame came over a connection of this relay to itself, so that it passes twice.
///
/// Returns: IMCHARGE_PASS, IMCHARGE_NOT_CHARGED: relay it; IMCHARGE_MSRP_BEYOND_GRANT, IMCHARGE_MSRP_MALFORMED,
/// IMCHARGE_MSRP_FULL, IMCHARGE_MSRP_FORGED, IMCHARGE_MSRP_NO_SESSION: do not; or another error. The process that attached
/// the worker, one thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_on_msrp(
    worker: *mut imcharge_worker,
    frame: *const c_void,
    length: usize,
    connection: u64,
    source: *const c_void,
    from_self: i32,
) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            // SAFETY: the pointer and length that the contract above names.
            let bytes = unsafe { memory::bytes(frame, length, IMCHARGE_MSRP_MAX) }?;
            // SAFETY: as above, for the 16 octets of an address.
            let source = unsafe { memory::address(source) };
            let from_self = from_self != 0;
            let frame = Frame { bytes, connection, source, from_self, connections: &NoConnections };
            Ok(attached.worker.frame(&frame) as i32)
        })
    })
}

/// A connection that may have carried MSRP frames is closed.
///
/// Parameters:
///   worker       the worker, not NULL.
///   connection   the host's number of it, as in imcharge_on_msrp. The host does not use it again for another
///                connection before this call.
///
/// Returns: IMCHARGE_OK; IMCHARGE_IGNORED if the number is 0; or an error. The process that attached the worker,
/// one thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_on_disconnect(worker: *mut imcharge_worker, connection: u64) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            if connection == 0 {
                return Ok(IMCHARGE_IGNORED);
            }
            attached.worker.connection_lost(connection);
            Ok(IMCHARGE_OK)
        })
    })
}

/// Counts a message that cannot be used, and gives the result for it.
fn malformed(attached: &Attached, result: i32) -> i32 {
    attached.region.count(Statistic::DroppedMalformed);
    result
}
