//! The headers of a request with the script's edits applied.
//!
//! The hosts keep the edits of a script (`remove_hf`, `append_hf`, `subst` and so on) as a list, and apply it when they send
//! the message. The headers in memory are those received, so a removed P-Asserted-Identity would still be read, and an added
//! one would not. This module applies the edits to a copy of the header section, in the order in which the host does, and
//! lets the host's own parser read the copy.

use super::bindings as sys;
use super::message::{Message, bytes};
use crate::worker::edited::{Edited, Edits};
use std::ffi::c_int;

/// Return value of the script function: a header that decides who pays has an edit whose result is known only when the INVITE
/// is sent.
pub const UNREADABLE_EDITS: c_int = -5;

/// Headers that decide who pays, and the header with the charging identifier.
const DECIDING: [&str; 4] = ["From", "P-Asserted-Identity", "P-Called-Party-ID", "P-Charging-Vector"];

/// A request with the script's edits applied.
pub struct EditedRequest<'a> {
    received: Message<'a>,
    /// `None`: the script has not edited the message.
    changed: Option<Changed>,
}

/// A copy of the header section with the edits, parsed by the host.
struct Changed {
    message: Box<sys::sip_msg>,
    /// The text that the parsed message points into, with a NUL after it.
    edited: Edited,
}

impl<'a> EditedRequest<'a> {
    /// Applies the script's edits so far. `None`: a header that decides who pays cannot be read; this is logged.
    pub fn new(received: Message<'a>) -> Option<EditedRequest<'a>> {
        if received.host().add_rm.is_null() {
            return Some(EditedRequest { received, changed: None });
        }
        let changed = apply(received.host()).and_then(Changed::parse).and_then(|changed| match changed.uncertain() {
            None => Ok(changed),
            Some(header) => Err(header),
        });
        match changed {
            Ok(changed) => Some(EditedRequest { received, changed: Some(changed) }),
            Err(header) => {
                let call_id = received.identity().map_or(&[][..], |identity| identity.call_id);
                log::error!(
                    "imcharge_reserve: {}: the script's changes to {header} cannot be read before the INVITE is sent; \
                     change it after imcharge_reserve, or apply the changes (Kamailio: msg_apply_changes()) before it",
                    call_id.escape_ascii()
                );
                None
            }
        }
    }

    /// Returns the message to read headers from.
    pub fn message(&self) -> Message<'_> {
        // SAFETY: the copy is a parsed message and lives as long as this borrow.
        let changed = self.changed.as_ref().and_then(|changed| unsafe { Message::new(&raw const *changed.message) });
        changed.unwrap_or(self.received)
    }
}

impl Changed {
    /// Lets the host parse the copy. The error names the part that cannot be read.
    fn parse(mut edited: Edited) -> Result<Changed, &'static str> {
        let length = edited.text.len();
        // The host's parsers rely on a NUL after a message.
        edited.text.push(0);
        // SAFETY: an all-zero structure is an empty message; the hosts initialise theirs in the same way.
        let mut changed = Changed { message: Box::new(unsafe { std::mem::zeroed() }), edited };
        changed.message.buf = changed.edited.text.as_mut_ptr().cast();
        changed.message.len = length as _;
        let message = &raw mut *changed.message;
        // SAFETY: the message and its text live as long as `changed`, whose `drop` frees the parsers' allocations.
        let is_parsed = unsafe {
            #[cfg(feature = "kamailio")]
            let result = sys::parse_msg((*message).buf, length as _, message);
            #[cfg(feature = "opensips")]
            let result = sys::parse_msg_opt((*message).buf, length as _, message, 0);
            result == 0 && sys::parse_headers(message, u64::MAX as sys::hdr_flags_t, 0) == 0
        };
        if is_parsed { Ok(changed) } else { Err("the headers") }
    }

    /// Returns the first header of `DECIDING` whose final content is uncertain.
    fn uncertain(&self) -> Option<&'static str> {
        // SAFETY: as in `EditedRequest::message`.
        let message = unsafe { Message::new(&raw const *self.message) }?;
        let start = self.edited.text.as_ptr().addr();
        message.headers().find_map(|header| {
            // SAFETY: the texts of a header live as long as its message.
            let name = unsafe { bytes(&header.name) };
            let is_from = i64::from(header.type_) == i64::from(sys::HDR_FROM_T);
            let deciding = DECIDING
                .iter()
                .find(|wanted| name.eq_ignore_ascii_case(wanted.as_bytes()) || (is_from && **wanted == "From"));
            let from = name.as_ptr().addr().saturating_sub(start);
            let to = from + usize::try_from(header.len).unwrap_or(0);
            deciding.copied().filter(|_| !self.edited.is_certain(&(from..to)))
        })
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        // SAFETY: a message that this module owns; the host frees its parsers' allocations, not the text.
        unsafe { sys::free_sip_msg(&raw mut *self.message) };
    }
}

/// Returns the header section of a request with the script's edits. The error names the part that cannot be read.
fn apply(message: &sys::sip_msg) -> Result<Edited, &'static str> {
    // SAFETY: the host's buffer holds `len` octets of the message as received.
    let whole = unsafe { bytes(&sys::_str { s: message.buf, len: message.len as c_int }) };
    // After parsing of all headers, `eoh` points to the empty line.
    let end = message.eoh.addr().checked_sub(message.buf.addr()).filter(|_| !message.eoh.is_null());
    let headers = end.and_then(|end| whole.get(..end)).ok_or("the headers")?;
    let mut edits = Edits::new(headers);
    // SAFETY: the list of edits belongs to the message and lives as long.
    unsafe { apply_list(message.add_rm, &mut edits) };
    let mut edited = edits.finish().ok_or("the headers")?;
    edited.text.extend_from_slice(b"\r\n");
    Ok(edited)
}

/// Applies a list of edits in the order of `process_lumps` in the host's `msg_translator.c`.
///
/// # Safety
/// `first` must be a list of edits of the host, or NULL.
unsafe fn apply_list(first: *const sys::lump, edits: &mut Edits<'_>) {
    let mut removed_at = None;
    // SAFETY: guaranteed by the caller; each entry points to the next.
    let mut next = unsafe { first.as_ref() };
    while let Some(edit) = next {
        // SAFETY: as above.
        next = unsafe { edit.next.as_ref() };
        // Only these two have a position in the message as received.
        if matches!(edit.op, sys::LUMP_NOP | sys::LUMP_DEL) {
            // SAFETY: for these kinds the union holds an offset.
            let offset = usize::try_from(unsafe { edit.u.offset }).unwrap_or(0);
            // OpenSIPS drops an edit inside a removed range; Kamailio applies it at the end of the range.
            if cfg!(feature = "opensips") && offset < edits.position() && removed_at != Some(offset) {
                continue;
            }
            edits.copy_to(offset);
            if edit.op == sys::LUMP_DEL {
                removed_at = Some(offset);
            }
            // SAFETY: lists of the host that belong to this entry.
            unsafe { add_list(edit.before, |edit| edit.before, true, edits) };
            if edit.op == sys::LUMP_DEL {
                edits.remove_to(offset.saturating_add(usize::try_from(edit.len).unwrap_or(0)));
            }
            // SAFETY: as above.
            unsafe { add_list(edit.after, |edit| edit.after, true, edits) };
            continue;
        }
        // An addition at the position of the previous entry. A condition covers all additions attached to it.
        let is_known = edit.op != sys::LUMP_ADD_OPT;
        // SAFETY: as above.
        unsafe {
            add_list(edit.before, |edit| edit.before, is_known, edits);
            add(edit, is_known, edits);
            add_list(edit.after, |edit| edit.after, is_known, edits);
        }
    }
}

/// Applies the additions before or after an entry. The result of a condition is known only when the message is sent, so all
/// additions after one are uncertain.
///
/// # Safety
/// `first` must be a list of additions of the host, linked by `follow`, or NULL.
unsafe fn add_list(
    first: *const sys::lump,
    follow: fn(&sys::lump) -> *mut sys::lump,
    mut is_known: bool,
    edits: &mut Edits<'_>,
) {
    // SAFETY: guaranteed by the caller.
    let mut next = unsafe { first.as_ref() };
    while let Some(edit) = next {
        is_known &= !is_condition(edit);
        // SAFETY: guaranteed by the caller.
        unsafe {
            add(edit, is_known, edits);
            next = follow(edit).as_ref();
        }
    }
}

/// Whether the following entries depend on this one. OpenSIPS may skip some of them at a `LUMP_SKIP`.
fn is_condition(edit: &sys::lump) -> bool {
    #[cfg(feature = "opensips")]
    if edit.op == sys::LUMP_SKIP {
        return true;
    }
    edit.op == sys::LUMP_ADD_OPT
}

/// Applies one addition.
///
/// # Safety
/// `edit` must be an entry of the host's list.
unsafe fn add(edit: &sys::lump, is_known: bool, edits: &mut Edits<'_>) {
    match edit.op {
        sys::LUMP_ADD => {
            // SAFETY: for this kind the union holds a text of this length.
            let text = unsafe { bytes(&sys::_str { s: edit.u.value, len: edit.len as c_int }) };
            if is_known { edits.add(text) } else { edits.add_uncertain(text) }
        }
        // Address or port of the sending socket, known only when the message is sent.
        sys::LUMP_ADD_SUBST => edits.add_uncertain(b""),
        _ => {}
    }
}
