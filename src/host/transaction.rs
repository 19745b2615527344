//! The current request and its transaction in the module tm.

use super::bindings as sys;
use std::ptr::NonNull;

/// The request that the script is processing.
#[derive(Clone, Copy)]
pub struct CurrentRequest(NonNull<sys::sip_msg>);

impl CurrentRequest {
    /// Wraps the host's pointer; `None` for NULL.
    ///
    /// # Safety
    /// `request` must be NULL or the host's current request, and the value must not outlive the call from the host.
    pub unsafe fn new(request: *mut sys::sip_msg) -> Option<CurrentRequest> {
        NonNull::new(request).map(CurrentRequest)
    }

    /// Returns the host's pointer.
    pub fn as_ptr(self) -> *mut sys::sip_msg {
        self.0.as_ptr()
    }
}

/// A transaction of tm.
#[derive(Clone, Copy)]
pub struct Transaction(pub(super) NonNull<sys::cell>);

impl Transaction {
    /// Wraps tm's pointer; `None` for tm's two marks: NULL (none) and -1 (not looked up yet).
    ///
    /// # Safety
    /// `cell` must be one of the marks or a transaction that tm keeps while the value is used.
    pub unsafe fn new(cell: *mut sys::cell) -> Option<Transaction> {
        NonNull::new(cell).filter(|cell| cell.as_ptr().addr() != usize::MAX).map(Transaction)
    }
}
