//! `imcharge_reserve()` and `imcharge_end()`: what the script calls on SIP requests.
//!
//! The order matters: the transaction is made, watched ([`callbacks`](super::callbacks)) and suspended before the engine hears of it,
//! so that the verdict always finds it suspended.

use super::callbacks;
use super::guard::guard;
use super::left::{Left, UNREADABLE};
use super::message::{Chosen, Message, bytes};
use super::{TM, Tm, bindings as sys, with_worker};
use crate::charge::event::Suspended;
use crate::worker::Refused;
use crate::worker::sip_input::Invite;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};

/// The script ends here: the transaction is suspended, or was dealt with.
const END_OF_SCRIPT: c_int = 0;

/// Where the verdict goes on: a route of the script, or a function of the KEMI engine.
#[derive(Clone, Copy)]
pub enum Continuation {
    /// Place in the host's table of routes.
    Route(c_int),
    /// Place in the host's table of KEMI functions.
    Function(c_int),
}

/// Marks a KEMI function in [`Suspended::continuation`].
const FUNCTION: u64 = 1 << 32;

impl Continuation {
    /// By name. `None`: there is no such route.
    fn find(name: &[u8]) -> Option<Continuation> {
        let mut name = CString::new(name).ok()?.into_bytes_with_nul();
        // SAFETY: the host's own tables; the name has a NUL and lives for the calls.
        unsafe {
            if !sys::sr_kemi_eng_get().is_null() {
                let mut whole = sys::_str { s: name.as_mut_ptr().cast(), len: name.len() as c_int - 1 };
                let at = sys::sr_kemi_cbname_lookup_name(&mut whole);
                return (at > 0).then_some(Continuation::Function(at));
            }
            let at = sys::route_lookup(&raw mut sys::main_rt, name.as_mut_ptr().cast());
            (at >= 0).then_some(Continuation::Route(at))
        }
    }

    fn number(self) -> u64 {
        match self {
            Continuation::Route(at) => at as u64,
            Continuation::Function(at) => at as u64 | FUNCTION,
        }
    }

    /// The one that a suspended transaction was given.
    pub fn of(suspended: Suspended) -> Continuation {
        match suspended.continuation & FUNCTION {
            0 => Continuation::Route(suspended.continuation as c_int),
            _ => Continuation::Function((suspended.continuation & !FUNCTION) as c_int),
        }
    }

    /// The name that the script has for it.
    fn name(self) -> Option<String> {
        // SAFETY: the host's own tables, which no process changes after the start; entries of a list whose last points to
        // its head, with texts of their length.
        unsafe {
            if let Continuation::Function(at) = self {
                return sys::sr_kemi_cbname_lookup_idx(at).as_ref().map(|name| text_of(name));
            }
            let Continuation::Route(at) = self else { return None };
            let names = sys::main_rt.names;
            for bucket in 0..usize::try_from(names.size).unwrap_or(0) {
                let head = names.table.add(bucket);
                let mut entry = (*head).next;
                while entry != head.cast() {
                    if (*entry).u.n == at {
                        return Some(text_of(&(*entry).key));
                    }
                    entry = (*entry).next;
                }
            }
            None
        }
    }
}

/// # Safety
/// A text of the host that lives for the call.
unsafe fn text_of(text: &sys::str_) -> String {
    // SAFETY: by the caller's promise.
    String::from_utf8_lossy(unsafe { bytes(text) }).into_owned()
}

impl std::fmt::Display for Continuation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.name().unwrap_or_else(|| "?".into());
        match self {
            Continuation::Route(_) => write!(out, "route[{name}]"),
            Continuation::Function(_) => write!(out, "{name}()"),
        }
    }
}

/// Script: `imcharge_reserve(route)`.
pub unsafe extern "C" fn reserve(message: *mut sys::sip_msg, route: *mut c_char, _: *mut c_char) -> c_int {
    // SAFETY: the host gives the request and the parameter that the fix-up made.
    guard(-1, || unsafe { parameter_text(message, route).map_or(-1, |name| reserve_into(message, name, 0)) })
}

/// Script: `imcharge_reserve(route, messages)`.
pub unsafe extern "C" fn reserve_messages(
    message: *mut sys::sip_msg,
    route: *mut c_char,
    messages: *mut c_char,
) -> c_int {
    guard(-1, || {
        let mut number: c_int = 0;
        // SAFETY: the host gives the request and the parameters that the fix-up made.
        unsafe {
            if sys::get_int_fparam(&mut number, message, messages.cast()) != 0 {
                log::error!("imcharge_reserve: the number of messages has no value");
                return -1;
            }
            parameter_text(message, route).map_or(-1, |name| reserve_into(message, name, number))
        }
    })
}

/// KEMI: `KSR.imcharge.reserve(function)`.
pub unsafe extern "C" fn kemi_reserve(message: *mut sys::sip_msg, route: *mut sys::str_) -> c_int {
    // SAFETY: the host gives a request and a text.
    guard(-1, || unsafe { route.as_ref().map_or(-1, |name| reserve_into(message, bytes(name), 0)) })
}

/// KEMI: `KSR.imcharge.reserve_messages(function, messages)`.
pub unsafe extern "C" fn kemi_reserve_messages(
    message: *mut sys::sip_msg,
    route: *mut sys::str_,
    messages: c_int,
) -> c_int {
    // SAFETY: the host gives a request and a text.
    guard(-1, || unsafe { route.as_ref().map_or(-1, |name| reserve_into(message, bytes(name), messages)) })
}

/// A text parameter's value.
///
/// # Safety
/// `parameter` must come from the host's `fixup_spve`, `message` from the host.
unsafe fn parameter_text<'a>(message: *mut sys::sip_msg, parameter: *mut c_char) -> Option<&'a [u8]> {
    let mut value = sys::_str::default();
    // SAFETY: by the caller's promise; the value lives until the host's next format.
    unsafe { (sys::get_str_fparam(&mut value, message, parameter.cast()) == 0).then(|| bytes(&value)) }
}

/// Suspends the INVITE and asks the engine.
///
/// # Safety
/// `message` must be NULL or the host's current request.
unsafe fn reserve_into(message: *mut sys::sip_msg, route: &[u8], messages: c_int) -> c_int {
    // SAFETY: by the caller's promise.
    let Some(request) = (unsafe { Message::new(message) }) else { return Refused::Malformed as c_int };
    if request.method() != Some(sys::METHOD_INVITE as c_int) || !request.parse() {
        return Refused::Malformed as c_int;
    }
    let Some(continuation) = Continuation::find(route) else {
        log::error!("imcharge_reserve: there is no route {}", String::from_utf8_lossy(route));
        return Refused::Malformed as c_int;
    };
    // SAFETY: `message` is the host's current request.
    let Some(chosen) = (unsafe { Chosen::of(message) }) else { return Refused::Malformed as c_int };
    let Some(left) = Left::of(request) else { return UNREADABLE };
    let invite = request.invite(left.message(), &chosen, u32::try_from(messages).unwrap_or(0));
    let Some(mut invite) = invite else { return Refused::Malformed as c_int };
    invite.suspended.continuation = continuation.number();
    // Refused now, there is no transaction yet, and the script can answer as it likes.
    let can_reserve =
        with_worker(|worker| worker.can_reserve(&invite, &request.body())).unwrap_or(Err(Refused::EngineDown));
    // SAFETY: `message` is the host's current request.
    unsafe {
        match can_reserve {
            Ok(()) => suspend_and_ask(message, invite),
            // The INVITE itself is being decided about, or is answered: no second answer to a copy of it.
            Err(_) if is_retransmission(message) => END_OF_SCRIPT,
            Err(refused) => refused as c_int,
        }
    }
}

/// Whether a transaction has this INVITE already: it will be answered there.
///
/// # Safety
/// `message` must be the host's current request.
unsafe fn is_retransmission(message: *mut sys::sip_msg) -> bool {
    let Some((tm, lookup)) = TM.get().and_then(|tm| tm.0.t_lookup_request.map(|lookup| (tm, lookup))) else {
        return false;
    };
    let mut cancel = 0;
    // SAFETY: tm's own function on the host's current request, with a place for what it says about a CANCEL; what it has
    // found is given back.
    unsafe {
        let is_found = lookup(message, 0, &mut cancel) > 0;
        if is_found {
            let_go(tm);
        }
        is_found
    }
}

/// # Safety
/// `message` must be the host's current request.
unsafe fn suspend_and_ask(message: *mut sys::sip_msg, mut invite: Invite<'_>) -> c_int {
    let Some(tm) = TM.get() else { return Refused::EngineDown as c_int };
    let (Some(newtran), Some(gett), Some(suspend), Some(cancel_suspend)) =
        (tm.0.t_newtran, tm.0.t_gett, tm.0.t_suspend, tm.0.t_cancel_suspend)
    else {
        return Refused::EngineDown as c_int;
    };
    // SAFETY: tm's own functions on the host's current request.
    unsafe {
        if !is_transaction(gett()) {
            let made = newtran(message);
            if made == 0 {
                // A retransmission: tm has answered it again.
                let_go(tm);
                return END_OF_SCRIPT;
            }
            if made < 0 {
                log::error!("imcharge_reserve: tm cannot make a transaction");
                return Refused::Malformed as c_int;
            }
        }
        let transaction = gett();
        if !is_transaction(transaction) || !callbacks::watch_invite(message, transaction, &invite.invitation) {
            log::error!("imcharge_reserve: the transaction cannot be watched, shared memory is short");
            return Refused::Full as c_int;
        }
        let (mut index, mut label): (c_uint, c_uint) = (0, 0);
        match suspend(message, &mut index, &mut label) {
            0 => {}
            // Cancelled meanwhile: tm has answered.
            1 => return END_OF_SCRIPT,
            _ => {
                log::error!("imcharge_reserve: tm cannot suspend the transaction");
                return Refused::Malformed as c_int;
            }
        }
        invite.suspended.index = index.into();
        invite.suspended.label = label.into();
        match with_worker(|worker| worker.reserve(&invite)) {
            Some(Ok(_)) => END_OF_SCRIPT,
            refused => {
                cancel_suspend(index, label);
                refused.and_then(Result::err).unwrap_or(Refused::EngineDown) as c_int
            }
        }
    }
}

/// Gives the transaction back that a retransmission has found. Left to tm after the script, tm of Kamailio 6.1.5 ends the
/// transaction where its INVITE, in another worker, is not suspended yet: one without a branch is an orphan to it.
///
/// # Safety
/// Only right after tm has found the transaction of the current request.
unsafe fn let_go(tm: &Tm) {
    /// T_BR_UNDEFINED of modules/tm/t_lookup.h.
    const NO_BRANCH: c_int = -1;
    if let (Some(gett), Some(sett), Some(unref)) = (tm.0.t_gett, tm.0.t_sett, tm.0.unref_cell) {
        // SAFETY: tm's own functions; the reference that the look-up took is given back once, since tm forgets it here.
        unsafe {
            let transaction = gett();
            if is_transaction(transaction) {
                unref(transaction);
                sett(std::ptr::without_provenance_mut(usize::MAX), NO_BRANCH);
            }
        }
    }
}

/// tm's marks: NULL for none, -1 for not looked up yet.
fn is_transaction(cell: *mut sys::cell) -> bool {
    !cell.is_null() && cell as isize != -1
}

/// Script: `imcharge_end()`.
pub unsafe extern "C" fn end(message: *mut sys::sip_msg, _: *mut c_char, _: *mut c_char) -> c_int {
    // SAFETY: the host gives its current message.
    guard(-1, || unsafe { end_with(message, b"script") })
}

/// Script: `imcharge_end(reason)`.
pub unsafe extern "C" fn end_reason(message: *mut sys::sip_msg, reason: *mut c_char, _: *mut c_char) -> c_int {
    // SAFETY: the host gives its current message and the parameter that the fix-up made.
    guard(-1, || unsafe { parameter_text(message, reason).map_or(-1, |reason| end_with(message, reason)) })
}

/// KEMI: `KSR.imcharge.end_session()`.
pub unsafe extern "C" fn kemi_end(message: *mut sys::sip_msg) -> c_int {
    // SAFETY: the host gives its current message.
    guard(-1, || unsafe { end_with(message, b"script") })
}

/// KEMI: `KSR.imcharge.end_session_reason(reason)`.
pub unsafe extern "C" fn kemi_end_reason(message: *mut sys::sip_msg, reason: *mut sys::str_) -> c_int {
    // SAFETY: the host gives its current message and a text.
    guard(-1, || unsafe { reason.as_ref().map_or(-1, |reason| end_with(message, bytes(reason))) })
}

/// # Safety
/// `message` must be NULL or the host's current message.
unsafe fn end_with(message: *mut sys::sip_msg, reason: &[u8]) -> c_int {
    // SAFETY: by the caller's promise.
    let message = unsafe { Message::new(message) }.filter(|message| message.parse_identity());
    let ids = message.and_then(|message| Some((message.dialog()?, message.cseq()?)));
    let Some((dialog, cseq)) = ids else { return -1 };
    match with_worker(|worker| worker.end(&dialog, cseq, reason)) {
        Some(true) => 1,
        _ => -1,
    }
}

/// Fix-up of `imcharge_reserve`: a route name without variables must be that of a route.
pub unsafe extern "C" fn fixup_reserve(parameter: *mut *mut c_void, number: c_int) -> c_int {
    guard(-1, || {
        if number == 2 {
            // SAFETY: the host's own fix-up for whole numbers on the host's own parameter.
            return unsafe { sys::fixup_igp_null(parameter, 1) };
        }
        // SAFETY: before the fix-up the parameter is a C text.
        let name = unsafe { std::ffi::CStr::from_ptr((*parameter).cast::<c_char>()) }.to_bytes();
        if !name.contains(&b'$') && Continuation::find(name).is_none() {
            log::error!("imcharge_reserve: there is no route[{}]", String::from_utf8_lossy(name));
            return -1;
        }
        // SAFETY: the host's own fix-up for texts on the host's own parameter.
        unsafe { sys::fixup_spve_null(parameter, 1) }
    })
}
