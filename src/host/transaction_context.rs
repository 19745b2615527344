//! The parameter of a transaction's callbacks: session and dialog. The callbacks run in the process that handles the event, so
//! it is kept in the host's shared memory.

use super::attach::with_worker;
use super::bindings as sys;
use super::message::Message;
use crate::charge::ch2::SessionKey;
use crate::charge::event::ServerTransaction;
use crate::worker::sip_input::{Method, Reply, Request};
use crate::worker::{RequestDecision, Worker};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

/// Maximum length of Call-ID and From tag together, in octets.
const TEXT_MAX: usize = 512;

/// The session of a transaction, and Call-ID and From tag of its dialog.
#[repr(C)]
pub struct TransactionContext {
    session: SessionKey,
    /// The transaction of the INVITE that opens the session; if it ends without a 2xx, the session ends. `None`: a request
    /// within the dialog.
    pub opens: Option<ServerTransaction>,
    /// Whether a 2xx has been sent to the inviting side.
    is_answered: AtomicBool,
    call_id: u16,
    from_tag: u16,
    text: [u8; TEXT_MAX],
}

impl TransactionContext {
    /// Creates a context; `None` if Call-ID and From tag are longer than 512 octets.
    pub fn new(
        session: SessionKey,
        opens: Option<ServerTransaction>,
        call_id: &[u8],
        from_tag: &[u8],
    ) -> Option<TransactionContext> {
        let mut text = [0; TEXT_MAX];
        text.get_mut(..call_id.len())?.copy_from_slice(call_id);
        text.get_mut(call_id.len()..call_id.len() + from_tag.len())?.copy_from_slice(from_tag);
        let (call_id, from_tag) = (call_id.len() as u16, from_tag.len() as u16);
        Some(TransactionContext { session, opens, is_answered: AtomicBool::new(false), call_id, from_tag, text })
    }

    /// Passes a reply to the worker that is sent to the sender of the request. The dialog is identified as the sender of the
    /// request knows it: with topology hiding, the reply has another Call-ID and tag.
    pub fn replied(&self, reply: &Reply<'_>, request: Option<Request<'_>>) {
        let mut reply = *reply;
        (reply.dialog.call_id, reply.dialog.from_tag) = (self.call_id(), self.sender_tag());
        if self.opens.is_some() && (200..300).contains(&reply.code) {
            self.is_answered.store(true, Ordering::Relaxed);
        }
        with_worker(|worker| worker.replied(&reply, request.as_ref()));
    }

    /// Reports the end of the transaction. Ends the session if its INVITE was not answered with 2xx.
    pub fn failed(&self, code: c_int) {
        if self.opens.is_some() && !self.is_answered.load(Ordering::Relaxed) {
            let code = u16::try_from(code).unwrap_or(0);
            with_worker(|worker| worker.failed(self.session, self.opens, code));
        }
    }

    /// Reports a CANCEL of the INVITE.
    pub fn cancelled(&self) {
        if self.opens.is_some() {
            with_worker(|worker| worker.cancelled(self.session, self.opens));
        }
    }

    fn call_id(&self) -> &[u8] {
        self.text.get(..self.call_id.into()).unwrap_or_default()
    }

    /// Returns the tag of the request's sender.
    fn sender_tag(&self) -> &[u8] {
        self.text.get(self.call_id.into()..).and_then(|rest| rest.get(..self.from_tag.into())).unwrap_or_default()
    }
}

/// Passes a request within a charged dialog to the worker, before the script runs. `false`: drop the request.
pub fn before_script(request: Message<'_>) -> bool {
    let relevant = [sys::METHOD_INVITE, sys::METHOD_ACK, sys::METHOD_PRACK, sys::METHOD_UPDATE, sys::METHOD_BYE];
    if !request.method().is_some_and(|method| relevant.iter().any(|known| *known as c_int == method)) {
        return true;
    }
    let dialog = Some(request).filter(|request| request.parse_identity()).and_then(Message::dialog);
    let is_charged = |worker: &mut Worker| dialog.is_some_and(|dialog| worker.session_of(&dialog).is_some());
    let course = with_worker(|worker| {
        let request = request.request().filter(|_| is_charged(worker))?;
        Some(worker.request_in_dialog(&request))
    });
    course.flatten() != Some(RequestDecision::Refused)
}

/// Passes a 2xx to an INVITE to the worker, before the script runs: tm may have deleted its transaction.
pub fn before_reply_script(reply: Message<'_>) {
    if !reply.status().is_some_and(|status| (200..300).contains(&status)) {
        return;
    }
    if let Some(reply) = reply.reply().filter(|reply| reply.method == Method::Invite) {
        with_worker(|worker| worker.late_answer(&reply));
    }
}

/// Returns the context for a new transaction; `None` if it is not one within a charged dialog whose reply is relevant.
pub fn of_request(request: Message<'_>) -> Option<TransactionContext> {
    let relevant = [sys::METHOD_INVITE, sys::METHOD_PRACK, sys::METHOD_UPDATE, sys::METHOD_BYE];
    let method = request.method()?;
    if !relevant.iter().any(|known| *known as c_int == method) || !request.parse_identity() {
        return None;
    }
    let dialog = request.dialog()?;
    let session = with_worker(|worker| worker.session_of(&dialog)).flatten()?;
    TransactionContext::new(session, None, dialog.call_id, dialog.from_tag)
}
