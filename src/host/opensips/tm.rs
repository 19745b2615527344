//! Safe wrapper of the module tm: the transaction of the current request, replies, callbacks.

use super::transaction::{CurrentRequest, Transaction};
use super::{bindings as sys, text};
use crate::host::text::static_str;
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

/// tm's API, bound in mod_init.
static TM: OnceLock<Tm> = OnceLock::new();

/// The functions of tm that the module uses. Plain function pointers, the same in all processes.
pub struct Tm {
    current: unsafe extern "C" fn() -> *mut sys::cell,
    reply: unsafe extern "C" fn(*mut sys::sip_msg, c_uint, *const sys::str_) -> c_int,
    register_callback: sys::register_tmcb_f,
}

/// A callback of a transaction.
type Callback = unsafe extern "C" fn(*mut sys::cell, c_int, *mut sys::tmcb_params);

/// Binds tm's API. `false`: the module tm is not loaded, or lacks a function.
pub fn bind() -> bool {
    // SAFETY: the host's way to another module's API: `load_tm` has this type in every supported version, and fills the
    // structure.
    let binds = unsafe {
        let Some(found) = sys::find_export(text(c"load_tm"), 0) else { return false };
        let load_tm = std::mem::transmute::<*const c_void, unsafe extern "C" fn(*mut sys::tm_binds) -> c_int>(
            found as *const c_void,
        );
        let mut binds = std::mem::zeroed::<sys::tm_binds>();
        (load_tm(&mut binds) >= 0).then_some(binds)
    };
    binds.and_then(|binds| Tm::new(&binds)).is_some_and(|tm| TM.set(tm).is_ok())
}

/// Returns tm's API; `None` before mod_init has bound it.
pub fn tm() -> Option<&'static Tm> {
    TM.get()
}

impl Tm {
    fn new(binds: &sys::tm_binds) -> Option<Tm> {
        binds.register_tmcb?;
        Some(Tm { current: binds.t_gett?, reply: binds.t_reply?, register_callback: binds.register_tmcb })
    }

    /// Returns the transaction of the current request.
    pub fn current(&self) -> Option<Transaction> {
        // SAFETY: tm's own function; it returns a mark or the transaction of the current request.
        unsafe { Transaction::new((self.current)()) }
    }

    /// Sends a reply to the current request in its transaction.
    pub fn reply(&self, request: CurrentRequest, code: u16, reason: &'static CStr) {
        // SAFETY: tm's own function on the current request; the reason is static.
        unsafe { (self.reply)(request.as_ptr(), code.into(), &static_str(reason)) };
    }

    /// Registers a callback for a transaction. `false`: tm refused, and keeps nothing.
    ///
    /// # Safety
    /// `block` must stay valid until tm calls `release` with it.
    pub unsafe fn watch(
        &self,
        request: CurrentRequest,
        transaction: Transaction,
        types: u32,
        callback: Callback,
        block: *mut c_void,
        release: unsafe extern "C" fn(*mut c_void),
    ) -> bool {
        let (request, cell) = (request.as_ptr(), transaction.0.as_ptr());
        // SAFETY: tm's own function on a transaction of the current request; the block is guaranteed by the caller.
        unsafe { self.register(request, cell, types, callback, block, Some(release)) }
    }

    /// Registers a callback without a parameter for a transaction that this proxy has created. `false`: tm refused.
    pub fn watch_own(&self, transaction: Transaction, types: u32, callback: Callback) -> bool {
        // SAFETY: tm's own function on a transaction; the callback is static and has no parameter.
        unsafe { self.register(null_mut(), transaction.0.as_ptr(), types, callback, null_mut(), None) }
    }

    /// Registers a callback for all new transactions of this type. `false`: tm refused. Only in mod_init: tm's list of these
    /// callbacks is not shared between processes.
    pub fn watch_new_transactions(&self, types: u32, callback: Callback) -> bool {
        // SAFETY: tm's own function; the callback is static and has no parameter.
        unsafe { self.register(null_mut(), null_mut(), types, callback, null_mut(), None) }
    }

    /// # Safety
    /// The arguments must be what tm documents for `types`; `block` as for [`Tm::watch`].
    unsafe fn register(
        &self,
        request: *mut sys::sip_msg,
        transaction: *mut sys::cell,
        types: u32,
        callback: Callback,
        block: *mut c_void,
        release: sys::release_tmcb_param,
    ) -> bool {
        let Some(register) = self.register_callback else { return false };
        // SAFETY: guaranteed by the caller.
        unsafe { register(request, transaction, types as c_int, Some(callback), block, release) > 0 }
    }
}

impl Transaction {
    /// Whether tm has marked the transaction as cancelled.
    pub fn is_cancelled(self) -> bool {
        // SAFETY: tm keeps the transaction; the host itself reads the flags without a lock.
        unsafe { (*self.0.as_ptr()).flags & sys::T_WAS_CANCELLED_FLAG as c_uint != 0 }
    }

    /// Marks the transaction as cancelled, as tm does with one that it has relayed: nothing is relayed any more.
    pub fn mark_cancelled(self) {
        // SAFETY: tm keeps the transaction, and only the process that owns the current request changes its flags.
        unsafe { (*self.0.as_ptr()).flags |= sys::T_WAS_CANCELLED_FLAG as c_uint };
    }
}
