//! Opaque handles. The pointer that C holds is the address of a slot in a per-process table. It is looked up and never
//! dereferenced, so stray pointers, closed handles and handles of another type are detected safely.

use super::guard::Outcome;
use super::result::{IMCHARGE_BAD_HANDLE, IMCHARGE_BUSY, IMCHARGE_NULL_ARGUMENT, IMCHARGE_TOO_MANY_HANDLES};
use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// Most handles that one process may have open.
const SLOTS: usize = 1024;

/// Content of a slot; `None` if the slot is free.
type Content = Option<Box<dyn Any + Send>>;

static TABLE: [Mutex<Content>; SLOTS] = [const { Mutex::new(None) }; SLOTS];

/// Where the search for a free slot starts. It moves round the table, so that slots are reused as late as possible and a
/// stale handle is detected for long.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// An opaque type of the header.
pub(super) trait Handle: Sized {
    /// The object that a handle of this type refers to.
    type Content: Any + Send;
}

/// Stores `content` in a free slot and returns its handle, or `IMCHARGE_TOO_MANY_HANDLES`.
pub(super) fn open<H: Handle>(content: H::Content) -> Result<*mut H, i32> {
    let content = Box::new(content);
    for _ in 0..SLOTS {
        let at = NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS;
        if let Some(slot) = TABLE.get(at)
            && let Ok(mut place) = lock(slot)
            && place.is_none()
        {
            *place = Some(content);
            return Ok(std::ptr::from_ref(slot).cast::<H>().cast_mut());
        }
    }
    Err(IMCHARGE_TOO_MANY_HANDLES)
}

/// Runs `body` on the object of a handle. Other threads that use the handle meanwhile get `IMCHARGE_BUSY`.
pub(super) fn with<H: Handle>(handle: *const H, body: impl FnOnce(&mut H::Content) -> Outcome) -> Outcome {
    let mut place = lock(find(handle)?)?;
    let content = place.as_mut().and_then(|content| content.downcast_mut::<H::Content>());
    body(content.ok_or(IMCHARGE_BAD_HANDLE)?)
}

/// Closes the handle and returns its object.
pub(super) fn close<H: Handle>(handle: *const H) -> Result<Box<H::Content>, i32> {
    let mut place = lock(find(handle)?)?;
    let content = place.take().ok_or(IMCHARGE_BAD_HANDLE)?;
    content.downcast::<H::Content>().map_err(|other| {
        *place = Some(other);
        IMCHARGE_BAD_HANDLE
    })
}

/// Returns the slot at this address.
fn find<H: Handle>(handle: *const H) -> Result<&'static Mutex<Content>, i32> {
    if handle.is_null() {
        return Err(IMCHARGE_NULL_ARGUMENT);
    }
    let size = size_of::<Mutex<Content>>();
    let offset = handle.addr().wrapping_sub(TABLE.as_ptr().addr());
    let slot = TABLE.get(offset / size).filter(|_| offset.is_multiple_of(size));
    slot.ok_or(IMCHARGE_BAD_HANDLE)
}

/// Locks a slot without waiting. Poisoning is ignored: the call that panicked has returned `IMCHARGE_PANIC`, and the
/// content is still valid.
fn lock(slot: &Mutex<Content>) -> Result<MutexGuard<'_, Content>, i32> {
    match slot.try_lock() {
        Ok(place) => Ok(place),
        Err(TryLockError::Poisoned(place)) => Ok(place.into_inner()),
        Err(TryLockError::WouldBlock) => Err(IMCHARGE_BUSY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Number;
    impl Handle for Number {
        type Content = u64;
    }

    struct Word;
    impl Handle for Word {
        type Content = String;
    }

    #[test]
    fn handle_returns_its_object() {
        let handle = open::<Number>(7).unwrap();
        assert_eq!(with(handle, |number| Ok(*number as i32)), Ok(7));
        assert_eq!(close(handle).as_deref(), Ok(&7));
    }

    #[test]
    fn closed_handle_is_detected() {
        let handle = open::<Number>(7).unwrap();
        close(handle).unwrap();
        assert_eq!(close(handle), Err(IMCHARGE_BAD_HANDLE));
        assert_eq!(with(handle, |_| Ok(0)), Err(IMCHARGE_BAD_HANDLE));
    }

    #[test]
    fn handle_of_another_type_is_detected_and_stays_open() {
        let handle = open::<Number>(7).unwrap();
        assert_eq!(with(handle.cast::<Word>(), |_| Ok(0)), Err(IMCHARGE_BAD_HANDLE));
        assert_eq!(close(handle.cast::<Word>()), Err(IMCHARGE_BAD_HANDLE));
        assert_eq!(close(handle).as_deref(), Ok(&7));
    }

    #[test]
    fn stray_pointers_are_detected() {
        let handle = open::<Number>(7).unwrap();
        let strays = [1, 8, usize::MAX, handle.addr() + 1, TABLE.as_ptr_range().end.addr()];
        for stray in strays {
            let stray = std::ptr::without_provenance::<Number>(stray);
            assert_eq!(with(stray, |_| Ok(0)), Err(IMCHARGE_BAD_HANDLE));
        }
        assert_eq!(with(std::ptr::null::<Number>(), |_| Ok(0)), Err(IMCHARGE_NULL_ARGUMENT));
        close(handle).unwrap();
    }

    #[test]
    fn handle_in_use_is_busy() {
        let handle = open::<Number>(7).unwrap();
        assert_eq!(with(handle, |_| with(handle, |_| Ok(0))), Err(IMCHARGE_BUSY));
        close(handle).unwrap();
    }

    #[test]
    fn handle_is_usable_after_a_panic() {
        let handle = open::<Number>(7).unwrap();
        let result = super::super::guard::guard(|| with(handle, |_| panic!("on purpose")));
        assert_eq!(result, super::super::result::IMCHARGE_PANIC);
        assert_eq!(with(handle, |number| Ok(*number as i32)), Ok(7));
        close(handle).unwrap();
    }
}
