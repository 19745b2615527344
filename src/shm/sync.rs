//! What processes that share memory are synchronised by: one door for [`ring`](super::ring), [`grant`](crate::shm::gate)
//! and [`doorbell`](crate::shm::wakeup), behind which `tests/loom.rs` finds them too.
//!
//! These are the standard library's atomics, and nothing else is left of this file in a build, unless it is made with
//! `--cfg loom`: then they are loom's, which try every order in which threads may run and every value that the memory
//! model lets a load see.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A bound that loom needs small: it tries all orders, and they are more than exponentially many.
pub const fn bound(usual: usize, under_loom: usize) -> usize {
    if cfg!(loom) { under_loom } else { usual }
}

/// Stores a value in a flag that others exchange. Of the order of stores loom knows only what the threads know, not that
/// an exchange stands right behind what it has read: beside a plain store it tries orders that no memory has, so that
/// there this is an exchange too.
#[inline(always)]
pub fn set(flag: &AtomicU32, value: u32, order: Ordering) {
    #[cfg(not(loom))]
    flag.store(value, order);
    #[cfg(loom)]
    flag.swap(value, order);
}

/// Who reads and writes plain memory between atomics: loom must be told, everybody else need not know.
#[cfg(not(loom))]
#[derive(Clone, Copy)]
pub struct Watch;

#[cfg(not(loom))]
impl Watch {
    /// Memory that nobody watches.
    pub fn nobody() -> Watch {
        Watch
    }

    /// These octets are read now.
    #[inline(always)]
    pub fn reads(self, _from: usize, _octets: usize) {}

    /// These octets are written now.
    #[inline(always)]
    pub fn writes(self, _from: usize, _octets: usize) {}
}

#[cfg(loom)]
pub use watched::{Watch, Watched};

#[cfg(loom)]
mod watched {
    use loom::cell::UnsafeCell;

    /// Octets that are watched as one: a record begins at a multiple of them.
    const GRAIN: usize = 8;

    /// Stands for the octets of a ring: a cell for each grain.
    pub struct Watched(Box<[UnsafeCell<()>]>);

    impl Watched {
        /// For so many octets.
        pub fn new(octets: usize) -> Watched {
            Watched((0..octets.div_ceil(GRAIN)).map(|_| UnsafeCell::new(())).collect())
        }

        /// What a ring over these octets is given. `self` must outlive it.
        pub fn watch(&self) -> Watch {
            Watch(&*self.0)
        }
    }

    /// Tells loom of each access; it stops the model when two of them are not in an order that both sides know.
    #[derive(Clone, Copy)]
    pub struct Watch(*const [UnsafeCell<()>]);

    impl Watch {
        /// Memory that nobody watches.
        pub fn nobody() -> Watch {
            Watch(&[])
        }

        fn cells(&self, from: usize, octets: usize) -> &[UnsafeCell<()>] {
            // SAFETY: the model keeps the cells as long as the rings over them (`Watched::watch`).
            let cells = unsafe { &*self.0 };
            cells.get(from / GRAIN..(from + octets).div_ceil(GRAIN)).unwrap_or_default()
        }

        /// These octets are read now.
        pub fn reads(self, from: usize, octets: usize) {
            self.cells(from, octets).iter().for_each(|cell| cell.with(|_| ()));
        }

        /// These octets are written now.
        pub fn writes(self, from: usize, octets: usize) {
            self.cells(from, octets).iter().for_each(|cell| cell.with_mut(|_| ()));
        }
    }
}
