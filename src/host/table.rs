//! Tables that the host takes by pointer.

use std::cell::UnsafeCell;

/// A table that the host takes by pointer and may write to. After loading, only the host uses it.
#[repr(transparent)]
pub struct Table<T>(UnsafeCell<T>);

// SAFETY: only the host's main process accesses it, before any fork.
unsafe impl<T> Sync for Table<T> {}

impl<T> Table<T> {
    /// Wraps a table.
    pub const fn new(table: T) -> Table<T> {
        Table(UnsafeCell::new(table))
    }

    /// Returns the pointer for the host.
    pub const fn get(&self) -> *mut T {
        self.0.get()
    }
}
