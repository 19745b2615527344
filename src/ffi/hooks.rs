//! Hooks of a worker: they take SIP messages and MSRP frames as raw bytes, never block, and keep no pointers.

use super::guard::guard;
use super::host::{Attached, imcharge_worker, with_worker};
use super::memory;
use super::result::{
    IMCHARGE_BAD_SIP, IMCHARGE_IGNORED, IMCHARGE_MSRP_MAX, IMCHARGE_NOT_CHARGED, IMCHARGE_OK, IMCHARGE_OUT_OF_RANGE,
    IMCHARGE_REQUEST_TOO_MANY, IMCHARGE_SIP_MAX, IMCHARGE_TARIFF_MAX,
};
use crate::charge::ch2::SessionKey;
use crate::charge::event::Suspended;
use crate::charge::service::ChargedContent;
use crate::shm::statistic::Statistic;
use crate::worker::raw_sip;
use crate::worker::raw_sip::ParsedInvite;
use crate::worker::sip_input::{Frame, Invite, Method, NoConnections, Reply, Request, Source};
use crate::worker::{InviteRefusal, PageOutcome, RequestDecision, Worker};
use std::ffi::{c_char, c_void};
use std::net::Ipv6Addr;
use std::ptr::NonNull;

/// Identifies a session. Derived from the INVITE, so it is the same in all processes and after a restart.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct imcharge_session {
    /// Upper 64 bits.
    pub high: u64,
    /// Lower 64 bits.
    pub low: u64,
}

impl From<SessionKey> for imcharge_session {
    fn from(key: SessionKey) -> imcharge_session {
        imcharge_session { high: key.0, low: key.1 }
    }
}

/// Three numbers chosen by the host that come back with the verdict, so that it finds the INVITE. The library only
/// compares `index` and `label` to recognise a retransmission.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct imcharge_tokens {
    /// First number. The Kamailio module uses the hash index of the transaction.
    pub index: u64,
    /// Second number. The Kamailio module uses the label of the transaction.
    pub label: u64,
    /// Third number. The Kamailio module uses the route in which the script continues.
    pub continuation: u64,
}

impl From<imcharge_tokens> for Suspended {
    fn from(tokens: imcharge_tokens) -> Suspended {
        Suspended { index: tokens.index, label: tokens.label, continuation: tokens.continuation }
    }
}

impl From<Suspended> for imcharge_tokens {
    fn from(suspended: Suspended) -> imcharge_tokens {
        imcharge_tokens { index: suspended.index, label: suspended.label, continuation: suspended.continuation }
    }
}

/// The inviting subscriber pays for what it receives; with RCS push, the called one.
pub const IMCHARGE_CONTENT_RECEIVED: u32 = 0;
/// The inviting subscriber pays for what it sends.
pub const IMCHARGE_CONTENT_SENT: u32 = 1;
/// Both parties pay, each for what it sends.
pub const IMCHARGE_CONTENT_BOTH: u32 = 2;

/// What is charged of an INVITE. All zeros: what the subscriber receives, an unknown number of messages.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct imcharge_invite {
    /// Number of messages to reserve for; 0 if unknown, then one is reserved at a time.
    pub messages: u32,
    /// IMCHARGE_CONTENT_RECEIVED, IMCHARGE_CONTENT_SENT or IMCHARGE_CONTENT_BOTH.
    pub content: u32,
    /// Number of recipients of each message, by which its price is multiplied; 0 if unknown, counts as one.
    pub recipients: u32,
    /// Name of a configured tariff, terminated by NUL; NULL or empty: none, the conditions of the tariffs decide. Only the
    /// first IMCHARGE_TARIFF_MAX bytes are read.
    pub tariff: *const c_char,
}

impl Default for imcharge_invite {
    fn default() -> imcharge_invite {
        imcharge_invite { messages: 0, content: IMCHARGE_CONTENT_RECEIVED, recipients: 0, tariff: std::ptr::null() }
    }
}

/// Requests a reservation for an initial INVITE of an MSRP session. Hold the INVITE
/// back until imcharge_next_verdict returns its verdict.
///
/// Parameters:
///   worker       the worker, not NULL.
///   message      the INVITE, not NULL. It is copied. Its headers decide who pays: a host that removes or adds
///                P-Asserted-Identity, P-Called-Party-ID or From passes them as changed. The Request-URI is the one
///                received.
///   length       length of the INVITE, 1 to IMCHARGE_SIP_MAX bytes.
///   charged      what is charged; NULL for all zeros. It is copied.
///   tokens       numbers that come back with the verdict; NULL for three zeros. They are copied. A retransmission (same
///                index and label) is ignored. A copy with another index or label has arrived by another path (RFC
///                3261, 8.2.2.2): its verdict is `failed` with the reason `merged`. Answer it with 482, and do not pass
///                that reply to imcharge_on_reply.
///   session      receives the session identifier. May be NULL. Written only on IMCHARGE_OK.
///
/// Returns: IMCHARGE_OK if a verdict will follow; IMCHARGE_IGNORED for an INVITE with a To tag, which is within a dialog
/// and needs no verdict: pass it to imcharge_on_request. No verdict follows IMCHARGE_INVITE_MALFORMED,
/// IMCHARGE_INVITE_ENGINE_DOWN, IMCHARGE_INVITE_FULL, IMCHARGE_INVITE_UNKNOWN_TARIFF, IMCHARGE_OUT_OF_RANGE or another
/// error; the host decides what to do. Only in the process that attached the worker, one thread at a time. Does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_on_invite(
    worker: *mut imcharge_worker,
    message: *const c_void,
    length: usize,
    charged: *const imcharge_invite,
    tokens: *const imcharge_tokens,
    session: *mut imcharge_session,
) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            // SAFETY: pointer and length as documented above.
            let bytes = unsafe { memory::bytes(message, length, IMCHARGE_SIP_MAX) }?;
            // SAFETY: NULL or valid for reads, as documented above.
            let suspended = unsafe { suspended(tokens) };
            // SAFETY: valid for reads, as documented above.
            let charged = NonNull::new(charged.cast_mut()).map(|charged| unsafe { charged.read_unaligned() });
            let charged = charged.unwrap_or_default();
            let content = match charged.content {
                IMCHARGE_CONTENT_RECEIVED => ChargedContent::Received,
                IMCHARGE_CONTENT_SENT => ChargedContent::Sent,
                IMCHARGE_CONTENT_BOTH => ChargedContent::Both,
                _ => return Err(IMCHARGE_OUT_OF_RANGE),
            };
            let invite = match raw_sip::invite(bytes, charged.messages, suspended) {
                Some(ParsedInvite::Initial(invite)) => {
                    // SAFETY: NULL or terminated by NUL, as documented above.
                    let tariff = unsafe { memory::terminated(charged.tariff, IMCHARGE_TARIFF_MAX) };
                    Invite { content, recipients: charged.recipients, tariff, ..invite }
                }
                Some(ParsedInvite::InDialog) => return Ok(IMCHARGE_IGNORED),
                None => return Err(malformed(attached, InviteRefusal::Malformed as i32)),
            };
            let key = attached.worker.reserve(&invite).map_err(|refused| refused as i32)?;
            // SAFETY: NULL or valid for writes, as documented above.
            unsafe { put_session(session, key) };
            Ok(IMCHARGE_OK)
        })
    })
}

/// Requests a reservation for a SIP MESSAGE, within a dialog or not. Hold it back until imcharge_next_verdict returns its
/// verdict. Then pass its final reply to imcharge_on_reply, or call imcharge_on_message_timeout.
///
/// Parameters:
///   worker       the worker, not NULL.
///   message      the MESSAGE, not NULL. It is copied. Its headers decide who pays, as for imcharge_on_invite.
///   length       length of the MESSAGE, 1 to IMCHARGE_SIP_MAX bytes.
///   copies       number of recipients that pay for it, for a host that sends it to several; 0 counts as 1.
///   tariff       name of a configured tariff, as in imcharge_invite; NULL or empty: none.
///   tokens       numbers that come back with the verdict, as for imcharge_on_invite; NULL for three zeros. A copy with
///                another index or label gets the verdict `failed` with the reason `merged`.
///   session      receives the session identifier. May be NULL. Written only on IMCHARGE_OK.
///
/// Returns: IMCHARGE_OK if a verdict will follow; IMCHARGE_NOT_CHARGED if its content is free of charge: relay it, without a
/// verdict. No verdict follows IMCHARGE_INVITE_MALFORMED, IMCHARGE_INVITE_ENGINE_DOWN, IMCHARGE_INVITE_FULL,
/// IMCHARGE_MESSAGE_TOO_LARGE, IMCHARGE_INVITE_UNKNOWN_TARIFF or another error; the host decides what to do. Only in the
/// process that attached the worker, one thread at a time. Does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_on_message(
    worker: *mut imcharge_worker,
    message: *const c_void,
    length: usize,
    copies: u32,
    tariff: *const c_char,
    tokens: *const imcharge_tokens,
    session: *mut imcharge_session,
) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            // SAFETY: pointer and length as documented above.
            let bytes = unsafe { memory::bytes(message, length, IMCHARGE_SIP_MAX) }?;
            // SAFETY: NULL or valid for reads, as documented above.
            let suspended = unsafe { suspended(tokens) };
            let Some((request, body)) = raw_sip::message(bytes, copies, suspended) else {
                return Err(malformed(attached, InviteRefusal::Malformed as i32));
            };
            // SAFETY: NULL or terminated by NUL, as documented above.
            let tariff = unsafe { memory::terminated(tariff, IMCHARGE_TARIFF_MAX) };
            let request = Invite { tariff, ..request };
            let worker = &mut attached.worker;
            let content = worker.can_reserve_page(&request, &body).map_err(|refused| refused as i32)?;
            let Some(content) = content else { return Ok(IMCHARGE_NOT_CHARGED) };
            let key = worker.reserve_page(&request, content).map_err(|refused| refused as i32)?;
            // SAFETY: NULL or valid for writes, as documented above.
            unsafe { put_session(session, key) };
            Ok(IMCHARGE_OK)
        })
    })
}

/// Reports that a MESSAGE was relayed and got no final reply. The policy `message-timeout` decides about it. Do not pass a 408
/// that the host generates then to imcharge_on_reply.
///
/// Parameters:
///   worker       the worker, not NULL.
///   message      the MESSAGE, not NULL. It is copied.
///   length       length of the MESSAGE, 1 to IMCHARGE_SIP_MAX bytes.
///
/// Returns: IMCHARGE_OK, IMCHARGE_INVITE_FULL (call it again later), IMCHARGE_BAD_SIP, or another error. Only in the
/// process that attached the worker, one thread at a time. Does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_on_message_timeout(
    worker: *mut imcharge_worker,
    message: *const c_void,
    length: usize,
) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            // SAFETY: pointer and length as documented above.
            let bytes = unsafe { memory::bytes(message, length, IMCHARGE_SIP_MAX) }?;
            let Some((request, _)) = raw_sip::message(bytes, 0, Suspended::default()) else {
                return Err(malformed(attached, IMCHARGE_BAD_SIP));
            };
            let session = Worker::session_of_invite(&request.key);
            match attached.worker.page_ended(session, None, PageOutcome::Unanswered) {
                true => Ok(IMCHARGE_OK),
                false => Err(InviteRefusal::Full as i32),
            }
        })
    })
}

/// Sender of a SIP message or MSRP frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct imcharge_source {
    /// IPv6 address in network byte order; an IPv4 address as ::ffff:a.b.c.d.
    pub address: [u8; 16],
    /// Port in host byte order; 0 for TCP, TLS and other connection-oriented transports, where it does not identify the
    /// sender.
    pub port: u16,
}

impl From<imcharge_source> for Source {
    fn from(source: imcharge_source) -> Source {
        Source { address: Ipv6Addr::from(source.address).to_canonical(), port: source.port }
    }
}

/// Reads an optional source.
///
/// # Safety
/// `source` must be NULL or valid for reads.
unsafe fn source_at(source: *const imcharge_source) -> Option<Source> {
    // SAFETY: guaranteed by the caller.
    NonNull::new(source.cast_mut()).map(|source| unsafe { source.read_unaligned() }.into())
}

/// Processes a request within a dialog (with a To tag) before the host relays it: INVITE, ACK, PRACK, UPDATE or BYE. Session
/// descriptions in ACK and PRACK bind MSRP sessions. A BYE from either side ends its dialog. The BYE of the last dialog
/// closes the session: outstanding messages are settled by policy, the remaining credit is released. Other requests are
/// ignored, so a host may pass all.
///
/// Parameters:
///   worker       the worker, not NULL.
///   message      the request as received, not NULL. It is copied.
///   length       length of the request, 1 to IMCHARGE_SIP_MAX bytes.
///   source       sender of the request; NULL if unknown. Then a BYE or a new MSRP session from a third party that claims
///                to be the side with the messages is accepted.
///
/// Returns: IMCHARGE_OK, IMCHARGE_IGNORED or IMCHARGE_NOT_CHARGED: relay the request; IMCHARGE_REQUEST_TOO_MANY: do not
/// relay it; IMCHARGE_BAD_SIP, or another error. Only in the process that attached the worker, one thread at a time.
/// Does not block.
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
                Method::Message | Method::Other => Ok(IMCHARGE_IGNORED),
                _ => Ok(match attached.worker.request_in_dialog(&request) {
                    RequestDecision::NotCharged => IMCHARGE_NOT_CHARGED,
                    RequestDecision::Pass => IMCHARGE_OK,
                    RequestDecision::Refused => IMCHARGE_REQUEST_TOO_MANY,
                }),
            }
        })
    })
}

/// Processes a reply to an INVITE, MESSAGE, PRACK, UPDATE or BYE before the host relays it. A final reply to a MESSAGE ends
/// its session: a 2xx debits it, 408 settles it by the policy `message-timeout`, any other releases it. A 2xx or a
/// reliable provisional reply binds the MSRP sessions of both session descriptions to the reservation. A reply of 300
/// or above to the initial INVITE ends the session. A 2xx, 408 or 481 to a BYE confirms the end of the dialog. Other
/// replies are ignored, so a host may pass all, except those that it has generated itself because the other side did
/// not answer.
///
/// Parameters:
///   worker           the worker, not NULL.
///   reply            the reply as received, not NULL. It is copied.
///   reply_length     length of the reply, 1 to IMCHARGE_SIP_MAX bytes.
///   reply_source     sender of the reply; NULL if unknown. Then an answer from a third party that claims to be the side
///                    with the messages is accepted.
///   request          the request that it answers, for its session description. NULL if unknown. It is copied.
///   request_length   length of the request, up to IMCHARGE_SIP_MAX bytes; 0 if it is unknown. Then the offer of an
///                    earlier reply to the same INVITE is used; without one, no MSRP session is bound.
///   request_source   sender of the request; NULL if unknown.
///
/// Returns: IMCHARGE_OK, IMCHARGE_IGNORED, IMCHARGE_NOT_CHARGED, IMCHARGE_BAD_SIP, or another error. Relay the reply in
/// any case. Only in the process that attached the worker, one thread at a time. Does not block.
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
            // SAFETY: pointers and lengths as documented above.
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

/// Passes a reply to the worker.
fn replied(worker: &mut Worker, reply: &Reply<'_>, request: Option<&Request<'_>>) -> i32 {
    let is_relevant = match reply.method {
        Method::Invite | Method::Prack | Method::Update => reply.code >= 200 || reply.is_reliable,
        Method::Bye => reply.code >= 200,
        Method::Message => reply.code >= 200,
        Method::Ack | Method::Other => false,
    };
    if reply.method == Method::Message && is_relevant {
        worker.page_ended(Worker::session_of_invite(&reply.invite_key()), None, PageOutcome::from_code(reply.code));
        return IMCHARGE_OK;
    }
    // Without the INVITE, a reply counts as one to an initial INVITE.
    let is_initial = reply.method == Method::Invite && request.is_none_or(|request| request.dialog.to_tag.is_empty());
    if is_initial && reply.code >= 300 {
        worker.failed(Worker::session_of_invite(&reply.invite_key()), None, reply.code);
        return IMCHARGE_OK;
    }
    match worker.replied(reply, request) {
        _ if !is_relevant => IMCHARGE_IGNORED,
        true => IMCHARGE_OK,
        false => IMCHARGE_NOT_CHARGED,
    }
}

/// Processes a CANCEL before the host relays it. The reservation of its INVITE is released, also if the verdict is still
/// pending.
///
/// Parameters:
///   worker       the worker, not NULL.
///   message      the CANCEL as received, not NULL. It is copied.
///   length       length of the CANCEL, 1 to IMCHARGE_SIP_MAX bytes.
///
/// Returns: IMCHARGE_OK, IMCHARGE_BAD_SIP, or another error. Relay the CANCEL in any case. Only in the process that
/// attached the worker, one thread at a time. Does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_on_cancel(
    worker: *mut imcharge_worker,
    message: *const c_void,
    length: usize,
) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            // SAFETY: pointer and length as documented above.
            let bytes = unsafe { memory::bytes(message, length, IMCHARGE_SIP_MAX) }?;
            let Some(key) = raw_sip::cancel(bytes) else { return Err(malformed(attached, IMCHARGE_BAD_SIP)) };
            attached.worker.cancelled(Worker::session_of_invite(&key), None);
            Ok(IMCHARGE_OK)
        })
    })
}

/// Decides whether the host may relay an MSRP frame, a request or a response.
///
/// Parameters:
///   worker       the worker, not NULL.
///   frame        the whole frame, from its first `M` to the CRLF of its end-line, not NULL. It is not kept.
///   length       length of the frame, 1 to IMCHARGE_MSRP_MAX bytes.
///   connection   the host's number of the connection on which the frame arrived, as for imcharge_on_disconnect; 0 if the
///                host has generated the frame. It decides which side of a session the frame may act for, so it must be
///                correct.
///   source       address of the peer of that connection; the port is ignored. NULL if unknown; then no frame counts as
///                sent by an IM server of the parameter im_server.
///   from_self    not 0 if the frame arrived over a connection of this relay to itself, so that it passes twice.
///
/// Returns: IMCHARGE_PASS or IMCHARGE_NOT_CHARGED: relay the frame; IMCHARGE_MSRP_BEYOND_GRANT, IMCHARGE_MSRP_MALFORMED,
/// IMCHARGE_MSRP_FULL, IMCHARGE_MSRP_FORGED or IMCHARGE_MSRP_NO_SESSION: do not relay it; or another error. Only in the
/// process that attached the worker, one thread at a time. Does not block.
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
            // SAFETY: pointer and length as documented above.
            let bytes = unsafe { memory::bytes(frame, length, IMCHARGE_MSRP_MAX) }?;
            // SAFETY: the source as documented above.
            let source = unsafe { source_at(source) }.map(|source| source.address);
            let from_self = from_self != 0;
            let frame = Frame { bytes, connection, source, from_self, connections: &NoConnections };
            Ok(attached.worker.frame(&frame) as i32)
        })
    })
}

/// Reports that a connection that may have carried MSRP frames is closed.
///
/// Parameters:
///   worker       the worker, not NULL.
///   connection   the host's number of the connection, as in imcharge_on_msrp. The host must not reuse it for another
///                connection before this call.
///
/// Returns: IMCHARGE_OK; IMCHARGE_IGNORED if the number is 0; or an error. Only in the process that attached the worker,
/// one thread at a time. Does not block.
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

/// Counts a malformed message and returns `result`.
fn malformed(attached: &Attached, result: i32) -> i32 {
    attached.region.count(Statistic::DroppedMalformed);
    result
}

/// Reads the host's numbers of a transaction; NULL means zeros.
///
/// # Safety
/// `tokens` must be NULL or valid for reads.
unsafe fn suspended(tokens: *const imcharge_tokens) -> Suspended {
    let tokens = NonNull::new(tokens.cast_mut());
    // SAFETY: guaranteed by the caller.
    tokens.map(|tokens| unsafe { tokens.read_unaligned() }.into()).unwrap_or_default()
}

/// Writes a session identifier, unless the host does not want it.
///
/// # Safety
/// `session` must be NULL or valid for writes.
unsafe fn put_session(session: *mut imcharge_session, key: SessionKey) {
    if let Some(place) = NonNull::new(session) {
        // SAFETY: guaranteed by the caller.
        unsafe { memory::put(place, key.into()) };
    }
}
