//! The place where the script continues after a verdict: a route or a KEMI function.

use super::bindings as sys;
use super::message::bytes;
use crate::charge::event::Suspended;
use std::ffi::{CString, c_int};

/// A route of the native script, or a function of the KEMI script.
#[derive(Clone, Copy)]
pub enum Continuation {
    /// Index in the host's table of routes.
    Route(c_int),
    /// Index in the host's table of KEMI functions.
    Function(c_int),
}

/// Flag of a KEMI function in [`Suspended::continuation`].
const FUNCTION: u64 = 1 << 32;

impl Continuation {
    /// Returns the continuation of this name; `None` if the script has none.
    pub fn find(name: &[u8]) -> Option<Continuation> {
        let mut name = CString::new(name).ok()?.into_bytes_with_nul();
        // SAFETY: the host's own tables; the name ends with a NUL and lives for the calls.
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

    /// Encodes the continuation for [`Suspended::continuation`]; [`Continuation::from_suspended`] decodes it.
    pub fn number(self) -> u64 {
        match self {
            Continuation::Route(at) => at as u64,
            Continuation::Function(at) => at as u64 | FUNCTION,
        }
    }

    /// Returns the continuation of a suspended transaction.
    pub fn from_suspended(suspended: Suspended) -> Continuation {
        match suspended.continuation & FUNCTION {
            0 => Continuation::Route(suspended.continuation as c_int),
            _ => Continuation::Function((suspended.continuation & !FUNCTION) as c_int),
        }
    }

    /// Returns its name in the script.
    fn name(self) -> Option<String> {
        match self {
            // SAFETY: the host's table, which does not change after start-up and whose texts live as long.
            Continuation::Function(at) => unsafe {
                sys::sr_kemi_cbname_lookup_idx(at).as_ref().map(|name| text_of(name))
            },
            Continuation::Route(at) => route_name(at),
        }
    }
}

/// Finds the name of a route by its index.
fn route_name(at: c_int) -> Option<String> {
    // SAFETY: the host's table, which does not change after start-up: circular lists, whose last entry points to the head, with
    // texts that live as long.
    unsafe {
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
    }
    None
}

/// Copies a text of the host.
///
/// # Safety
/// `text` must be a text of the host that lives for the call.
unsafe fn text_of(text: &sys::str_) -> String {
    // SAFETY: guaranteed by the caller.
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
