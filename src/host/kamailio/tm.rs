//! Safe wrapper of the module tm: transactions of the current request, suspending and continuing them, callbacks.

use super::transaction::{CurrentRequest, Transaction};
use super::{bindings as sys, text};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// tm's API, bound in mod_init.
static TM: OnceLock<Tm> = OnceLock::new();

/// T_BR_UNDEFINED of modules/tm/t_lookup.h.
const UNDEFINED_BRANCH: c_int = -1;

impl Transaction {
    /// Returns the numbers that identify the transaction.
    pub fn id(self) -> TransactionId {
        // SAFETY: tm keeps the transaction, as `new` requires.
        let cell = unsafe { self.0.as_ref() };
        TransactionId { index: cell.hash_index, label: cell.label }
    }

    /// Whether it was cancelled and nothing is left in tm that will answer it: `t_relay()` adds branches and does not send
    /// them if the CANCEL arrives meanwhile, while the CANCEL relies on their timers.
    fn is_abandoned(self) -> bool {
        // SAFETY: tm keeps the transaction, as `new` requires, with an array of that many branches.
        let (cell, branches) = unsafe {
            let cell = self.0.as_ref();
            let count = usize::try_from(cell.nr_of_outgoings).unwrap_or(0);
            (cell, if cell.uac.is_null() { &[][..] } else { std::slice::from_raw_parts(cell.uac, count) })
        };
        let is_unsent = |branch: &sys::ua_client| branch.last_received == 0 && branch.request.t_active == 0;
        let is_ended = |branch: &sys::ua_client| branch.last_received >= 200 || is_unsent(branch);
        u64::from(cell.flags) & u64::from(sys::T_CANCELED) != 0
            && cell.uas.status < 200
            && branches.iter().all(is_ended)
    }
}

/// Index and label of a transaction in tm's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionId {
    /// Slot of the hash table.
    pub index: c_uint,
    /// Serial number within the slot.
    pub label: c_uint,
}

/// Result of creating a transaction.
pub enum Creation {
    /// The current request has a transaction.
    Created(Transaction),
    /// The request is a retransmission; tm has answered it.
    Retransmission,
    /// tm has no memory, or the request cannot have a transaction.
    Failed,
}

/// Result of suspending the current transaction.
pub enum Suspension {
    /// Suspended until it is continued.
    Suspended(TransactionId),
    /// Cancelled in the meantime; tm has answered it.
    Cancelled,
    /// tm refused.
    Failed,
}

/// The functions of tm that the module uses. Plain function pointers, the same in all processes.
pub struct Tm {
    new_transaction: unsafe extern "C" fn(*mut sys::sip_msg) -> c_int,
    current: unsafe extern "C" fn() -> *mut sys::cell,
    set_current: unsafe extern "C" fn(*mut sys::cell, c_int),
    release: unsafe extern "C" fn(*mut sys::cell),
    suspend: unsafe extern "C" fn(*mut sys::sip_msg, *mut c_uint, *mut c_uint) -> c_int,
    cancel_suspend: unsafe extern "C" fn(c_uint, c_uint) -> c_int,
    continue_route: unsafe extern "C" fn(c_uint, c_uint, *mut sys::action) -> c_int,
    continue_function: unsafe extern "C" fn(c_uint, c_uint, *mut sys::_str, *mut sys::_str) -> c_int,
    find: unsafe extern "C" fn(*mut *mut sys::cell, c_uint, c_uint) -> c_int,
    reply: unsafe extern "C" fn(*mut sys::cell, *mut sys::sip_msg, c_uint, *mut c_char) -> c_int,
    register_callback: sys::register_tmcb_f,
}

/// Binds tm's API. `false`: the module tm is not loaded, or lacks a function.
pub fn bind() -> bool {
    // SAFETY: the host's way to another module's API: `load_tm` has this type in every supported version, and fills the
    // structure.
    let binds = unsafe {
        let Some(found) = sys::find_export(text(c"load_tm"), -1, 0) else { return false };
        let load_tm = std::mem::transmute::<
            unsafe extern "C" fn(*mut sys::sip_msg, *mut i8, *mut i8) -> c_int,
            unsafe extern "C" fn(*mut sys::tm_binds) -> c_int,
        >(found);
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
        Some(Tm {
            new_transaction: binds.t_newtran?,
            current: binds.t_gett?,
            set_current: binds.t_sett?,
            release: binds.unref_cell?,
            suspend: binds.t_suspend?,
            cancel_suspend: binds.t_cancel_suspend?,
            continue_route: binds.t_continue?,
            continue_function: binds.t_continue_cb?,
            find: binds.t_lookup_ident?,
            reply: binds.t_reply_trans?,
            register_callback: binds.register_tmcb,
        })
    }

    /// Returns the transaction of the current request.
    fn current(&self) -> Option<Transaction> {
        // SAFETY: tm's own function; it returns a mark or the transaction of the current request.
        unsafe { Transaction::new((self.current)()) }
    }

    /// Returns the transaction of the current request, created if there is none.
    pub fn transaction(&self, request: CurrentRequest) -> Creation {
        if self.current().is_none() {
            // SAFETY: tm's own function on the current request.
            match unsafe { (self.new_transaction)(request.as_ptr()) } {
                0 => {
                    self.forget_current();
                    return Creation::Retransmission;
                }
                failed if failed < 0 => return Creation::Failed,
                _ => {}
            }
        }
        self.current().map_or(Creation::Failed, Creation::Created)
    }

    /// Releases the transaction that tm has just found for a retransmission.
    ///
    /// If tm of Kamailio 6.1.5 keeps it until the script ends, it destroys a transaction whose INVITE is not suspended yet
    /// in another worker, because a transaction without a branch looks orphaned to it.
    fn forget_current(&self) {
        let Some(transaction) = self.current() else { return };
        // SAFETY: the reference of the look-up is released once, because tm forgets the transaction here.
        unsafe {
            (self.release)(transaction.0.as_ptr());
            (self.set_current)(std::ptr::without_provenance_mut(usize::MAX), UNDEFINED_BRANCH);
        }
    }

    /// Suspends the transaction of the current request.
    pub fn suspend(&self, request: CurrentRequest) -> Suspension {
        let mut id = TransactionId { index: 0, label: 0 };
        // SAFETY: tm's own function on the current request, with variables for the two numbers.
        match unsafe { (self.suspend)(request.as_ptr(), &mut id.index, &mut id.label) } {
            0 => Suspension::Suspended(id),
            1 => Suspension::Cancelled,
            _ => Suspension::Failed,
        }
    }

    /// Undoes the suspension of the current transaction.
    pub fn cancel_suspend(&self, id: TransactionId) {
        // SAFETY: tm's own function; it looks the numbers up.
        unsafe { (self.cancel_suspend)(id.index, id.label) };
    }

    /// Continues a suspended transaction in a route. One that has ended in the meantime is left alone.
    ///
    /// # Safety
    /// `route` must be the first action of a route in the host's table.
    pub unsafe fn continue_in_route(&self, id: TransactionId, route: *mut sys::action) {
        // SAFETY: tm's own function; it looks the numbers up. The route is guaranteed by the caller.
        unsafe { (self.continue_route)(id.index, id.label, route) };
    }

    /// Continues a suspended transaction in a KEMI function. One that has ended in the meantime is left alone.
    ///
    /// # Safety
    /// `function` must be a name in the host's table of KEMI functions.
    pub unsafe fn continue_in_function(&self, id: TransactionId, function: *mut sys::_str) {
        // SAFETY: as above; the parameter is empty.
        unsafe { (self.continue_function)(id.index, id.label, function, &mut super::static_str(c"")) };
    }

    /// Answers an INVITE with 487 if it was cancelled while its route ran, and tm has left it without an answer and without
    /// a timer.
    pub fn answer_abandoned(&self, id: TransactionId) {
        let mut found = std::ptr::null_mut();
        // SAFETY: tm's own function, with a variable for the transaction. It takes a reference, which is released below.
        if unsafe { (self.find)(&mut found, id.index, id.label) } <= 0 {
            return;
        }
        // SAFETY: the transaction that was found, or a mark.
        if let Some(transaction) = unsafe { Transaction::new(found) }.filter(|found| found.is_abandoned()) {
            let reason = c"Request Terminated".as_ptr().cast_mut();
            // SAFETY: tm's own function on a referenced transaction and its request, as tm itself uses it for a CANCEL; tm
            // copies the reason.
            unsafe { (self.reply)(found, transaction.0.as_ref().uas.request, 487, reason) };
        }
        self.forget_current();
    }

    /// Registers a callback for a transaction. `false`: tm refused, and keeps nothing.
    ///
    /// # Safety
    /// `block` must stay valid until tm calls `release` with it.
    pub unsafe fn watch(
        &self,
        request: CurrentRequest,
        transaction: Transaction,
        types: c_uint,
        callback: sys::transaction_cb,
        block: *mut c_void,
        release: sys::release_tmcb_param,
    ) -> bool {
        let Some(register) = self.register_callback else { return false };
        // SAFETY: tm's own function on a transaction of the current request; the block is guaranteed by the caller.
        unsafe { register(request.as_ptr(), transaction.0.as_ptr(), types as c_int, callback, block, release) > 0 }
    }

    /// Registers a callback for each new transaction. `false`: tm refused.
    pub fn watch_new_transactions(
        &self,
        callback: unsafe extern "C" fn(*mut sys::cell, c_int, *mut sys::tmcb_params),
    ) -> bool {
        let Some(register) = self.register_callback else { return false };
        let (request, transaction, none) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: tm's own function; a static callback without a parameter.
        unsafe { register(request, transaction, sys::TMCB_REQUEST_IN as c_int, Some(callback), none, None) > 0 }
    }
}
