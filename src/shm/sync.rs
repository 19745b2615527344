//! Synchronisation primitives of shared memory.
//!
//! Re-exports std's atomics; with `--cfg loom` loom's, which try every order in which threads may run and every value
//! that the memory model lets a load see (`tests/loom.rs`).

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A bound that is small under loom: the number of orders to try grows more than exponentially with it.
pub const fn bound(usual: usize, under_loom: usize) -> usize {
    if cfg!(loom) { under_loom } else { usual }
}

/// Stores a value in a flag that others exchange. Loom does not model that an exchange directly follows the store that it
/// reads: beside a plain store it would try impossible orders, so with loom this is an exchange too.
#[inline(always)]
pub fn set(flag: &AtomicU32, value: u32, order: Ordering) {
    #[cfg(not(loom))]
    flag.store(value, order);
    #[cfg(loom)]
    flag.swap(value, order);
}

/// Reports accesses to plain memory to loom; does nothing in other builds.
#[cfg(not(loom))]
#[derive(Clone, Copy)]
pub struct Watch;

#[cfg(not(loom))]
impl Watch {
    /// For memory that is not watched.
    pub fn none() -> Watch {
        Watch
    }

    /// Reports that these octets are read.
    #[inline(always)]
    pub fn reads(self, _from: usize, _octets: usize) {}

    /// Reports that these octets are written.
    #[inline(always)]
    pub fn writes(self, _from: usize, _octets: usize) {}
}

#[cfg(loom)]
pub use watched::{Watch, Watched};

#[cfg(loom)]
mod watched {
    use loom::cell::UnsafeCell;

    /// Octets of one cell: records begin at multiples of it.
    const GRAIN: usize = 8;

    /// Represents the octets of a ring to loom: a cell for each grain.
    pub struct Watched(Box<[UnsafeCell<()>]>);

    impl Watched {
        /// For a ring of this size, octets.
        pub fn new(octets: usize) -> Watched {
            Watched((0..octets.div_ceil(GRAIN)).map(|_| UnsafeCell::new(())).collect())
        }

        /// For the ends of the ring. `self` must outlive them.
        pub fn watch(&self) -> Watch {
            Watch(&*self.0)
        }
    }

    /// Reports each access to loom, which fails the model if two of them are not ordered.
    #[derive(Clone, Copy)]
    pub struct Watch(*const [UnsafeCell<()>]);

    impl Watch {
        /// For memory that is not watched.
        pub fn none() -> Watch {
            Watch(&[])
        }

        fn cells(&self, from: usize, octets: usize) -> &[UnsafeCell<()>] {
            // SAFETY: the cells outlive the ends of the ring (`Watched::watch`).
            let cells = unsafe { &*self.0 };
            cells.get(from / GRAIN..(from + octets).div_ceil(GRAIN)).unwrap_or_default()
        }

        /// Reports that these octets are read.
        pub fn reads(self, from: usize, octets: usize) {
            self.cells(from, octets).iter().for_each(|cell| cell.with(|_| ()));
        }

        /// Reports that these octets are written.
        pub fn writes(self, from: usize, octets: usize) {
            self.cells(from, octets).iter().for_each(|cell| cell.with_mut(|_| ()));
        }
    }
}
