//! What a worker sees: SIP and MSRP as raw bytes. No hook waits, and none keeps a pointer.

use super::guard::guard;
use super::host::{Attached, imcharge_worker, with_worker};
use super::memory;
use super::result::{
    IMCHARGE_BAD_SIP, IMCHARGE_IGNORED, IMCHARGE_MSRP_MAX, IMCHARGE_NOT_CHARGED, IMCHARGE_OK,
    IMCHARGE_REQUEST_TOO_MANY, IMCHARGE_SIP_MAX,
};
use crate::charge::ch2::SessionKey;
use crate::charge::event::Suspended;
use crate::shm::statistic::Statistic;
use crate::worker::raw_sip;
use crate::worker::raw_sip::ParsedInvite;
use crate::worker::sip_input::{Frame, Method, NoConnections, Reply, Request, Source};
use crate::worker::{InviteRefusal, RequestDecision, Worker};
use std::ffi::c_void;
use std::net::Ipv6Addr;
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
        Suspended { index: tokens.index, label: tokens.label, continuation: tokens.route }
    }
}

impl From<Suspended> for imcharge_tokens {
    fn from(suspended: Suspended) -> imcharge_tokens {
        imcharge_tokens { index: suspended.index, label: suspended.label, route: suspended.continuation }
    }
}

/// An initial INVITE that asks for stored messages, or (RCS push) brings them: asks for a reservation. Hold
/// the INVITE back until its verdict comes from imcharge_next_verdict.
///
/// Parameters:
///   worker       the worker, not NULL.
///   message      the INVITE, not NULL, 1 to IMCHARGE_SIP_MAX bytes. It is copied. Its headers decide who pays: a host
///                that removes or adds P-Asserted-Identity, P-Called-Party-ID or From gives them as changed. The
///                Request-URI is that received.
///   messages     how many stored messages it is for; 0: not known, then one is reserved at a time.
///   tokens       what comes back with the verdict; NULL: three zeros. It is copied. An INVITE that comes again
///                in the same transaction is ignored; with another index or label it came by another way (RFC
///                3261, 8.2.2.2), and its verdict is `failed` with the reason `merged`. Answer it by 482, and do
///                not give that reply to imcharge_on_reply.
///   session      place for the session's name, or NULL. Written only on IMCHARGE_OK.
///
/// Returns: IMCHARGE_OK: a verdict will come; IMCHARGE_IGNORED: it has a To tag, so it is within a dialog and
/// needs no verdict: give it to imcharge_on_request; IMCHARGE_INVITE_MALFORMED, IMCHARGE_INVITE_ENGINE_DOWN or IMCHARGE_INVITE_FULL: none
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
            let invite = match raw_sip::invite(bytes, messages, suspended) {
                Some(ParsedInvite::Initial(invite)) => invite,
                Some(ParsedInvite::InDialog) => return Ok(IMCHARGE_IGNORED),
                None => return Err(malformed(attached, InviteRefusal::Malformed as i32)),
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

/// Where a SIP message came from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct imcharge_source {
    /// IPv6 address in network order; an IPv4 address as ::ffff:a.b.c.d.
    pub address: [u8; 16],
    /// Port in host order; 0 for TCP, TLS and other transports with connections, where it says nothing of the sender.
    pub port: u16,
}

impl From<imcharge_source> for Source {
    fn from(source: imcharge_source) -> Source {
        Source { address: Ipv6Addr::from(source.address).to_canonical(), port: source.port }
    }
}

/// What a pointer to a source is to say.
///
/// # Safety
/// It must be NULL or lead to a source that can be read.
unsafe fn source_at(source: *const imcharge_source) -> Option<Source> {
    // SAFETY: by the caller's promise.
    NonNull::new(source.cast_mut()).map(|source| unsafe { source.read_unaligned() }.into())
}

/// A request within a dialog (it has a To tag), before it goes on: INVITE, ACK, PRACK, UPDATE or BYE. Descriptions in ACK
/// and PRACK bind MSRP sessions. A BYE of either side ends its dialog; that of the last dialog closes the session: what
/// is outstanding is settled by policy, the rest is released. Other requests are ignored, so that a host may give all.
///
/// Parameters:
///   worker       the worker, not NULL.
///   message      the request as received, not NULL, 1 to IMCHARGE_SIP_MAX bytes. It is copied.
///   source       where it came from; NULL: not known. Without it a BYE, or a new MSRP session, of somebody else who
///                claims to be the side that has the messages is believed.
///
/// Returns: IMCHARGE_OK, IMCHARGE_IGNORED, IMCHARGE_NOT_CHARGED: the request goes on; IMCHARGE_REQUEST_TOO_MANY: it must
/// not; IMCHARGE_BAD_SIP, or another error. The process that attached the worker, one thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_on_request(
    worker: *mut imcharge_worker,
    message: *const c_void,
    length: usize,
    source: *const imcharge_source,
) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            // SAFETY: the pointers and length that the contract above names.
            let (bytes, source) = unsafe { (memory::bytes(message, length, IMCHARGE_SIP_MAX)?, source_at(source)) };
            let Some(request) = raw_sip::request(bytes, source) else {
                return Err(malformed(attached, IMCHARGE_BAD_SIP));
            };
            match request.method {
                _ if request.dialog.to_tag.is_empty() => Ok(IMCHARGE_IGNORED),
                Method::Other => Ok(IMCHARGE_IGNORED),
                _ => Ok(match attached.worker.request_in_dialog(&request) {
                    RequestDecision::NotCharged => IMCHARGE_NOT_CHARGED,
                    RequestDecision::Pass => IMCHARGE_OK,
                    RequestDecision::Refused => IMCHARGE_REQUEST_TOO_MANY,
                }),
            }
        })
    })
}

/// A reply to an INVITE, PRACK, UPDATE or BYE, before it goes on. A 2xx, and a provisional reply that is sent
/// reliably, binds the MSRP sessions of both session descriptions to the reservation; 300 and above to the initial INVITE
/// ends it. A 2xx, 408 or 481 to a BYE says that the other side knows of the end. Replies to other methods and other
/// provisional replies are ignored, so that a host may give all replies. Do not give one that the host has made itself
/// because the other side did not answer.
///
/// Parameters:
///   worker           the worker, not NULL.
///   reply            the reply as received, not NULL, 1 to IMCHARGE_SIP_MAX bytes. It is copied.
///   reply_source     where it came from; NULL: not known. Without it an answer of somebody else than the side that has
///                    the messages is believed.
///   request          the request that it answers, up to IMCHARGE_SIP_MAX bytes, for the session description in it.
///                    With a length of 0, which NULL may come with, it is not known: the offer is then the one of an
///                    earlier reply to the same INVITE, and where there was none no MSRP session is bound. It is
///                    copied.
///   request_source   where the request came from; NULL: not known.
///
/// Returns: IMCHARGE_OK, IMCHARGE_IGNORED, IMCHARGE_NOT_CHARGED, IMCHARGE_BAD_SIP, or another error. The reply
/// goes on whatever it is. The process that attached the worker, one thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_on_reply(
    worker: *mut imcharge_worker,
    reply: *const c_void,
    reply_length: usize,
    reply_source: *const imcharge_source,
    request: *const c_void,
    request_length: usize,
    request_source: *const imcharge_source,
) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            // SAFETY: the pointers and lengths that the contract above names.
            let (reply, request) = unsafe {
                let reply =
                    raw_sip::reply(memory::bytes(reply, reply_length, IMCHARGE_SIP_MAX)?, source_at(reply_source));
                let request = memory::optional_bytes(request, request_length, IMCHARGE_SIP_MAX)?;
                (reply, (!request.is_empty()).then(|| raw_sip::request(request, source_at(request_source))))
            };
            match (reply, request) {
                (Some(reply), None) => Ok(replied(&mut attached.worker, &reply, None)),
                (Some(reply), Some(Some(request))) if request.method == reply.method => {
                    Ok(replied(&mut attached.worker, &reply, Some(&request)))
                }
                _ => Err(malformed(attached, IMCHARGE_BAD_SIP)),
            }
        })
    })
}

/// Tells the engine what a reply says.
fn replied(worker: &mut Worker, reply: &Reply<'_>, request: Option<&Request<'_>>) -> i32 {
    let concerns = match reply.method {
        Method::Invite | Method::Prack | Method::Update => reply.code >= 200 || reply.is_reliable,
        Method::Bye => reply.code >= 200,
        Method::Ack | Method::Other => false,
    };
    // Without its INVITE it is not known whether it opens the session.
    let is_initial = reply.method == Method::Invite && request.is_none_or(|request| request.dialog.to_tag.is_empty());
    if is_initial && reply.code >= 300 {
        worker.failed(Worker::session_of_invite(&reply.invite_key()), None, reply.code);
        return IMCHARGE_OK;
    }
    match worker.replied(reply, request) {
        _ if !concerns => IMCHARGE_IGNORED,
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
            let Some(key) = raw_sip::cancel(bytes) else { return Err(malformed(attached, IMCHARGE_BAD_SIP)) };
            attached.worker.cancelled(Worker::session_of_invite(&key), None);
            Ok(IMCHARGE_OK)
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
///   source       the other end of the connection; its port says nothing here. NULL: not known, so that no frame counts as
///                one of the parameter im_server.
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
    source: *const imcharge_source,
    from_self: i32,
) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            // SAFETY: the pointer and length that the contract above names.
            let bytes = unsafe { memory::bytes(frame, length, IMCHARGE_MSRP_MAX) }?;
            // SAFETY: as above, for the source.
            let source = unsafe { source_at(source) }.map(|source| source.address);
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
