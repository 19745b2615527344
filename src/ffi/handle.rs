//! Opaque handles. The pointer that C holds is the address of a slot in a table of this process and is
//! never followed: it is looked up. So a stray pointer, a closed handle and a handle of another kind are all
//! told apart from a good one, and nothing is read through them.

use super::guard::Outcome;
use super::result::{IMCHARGE_BAD_HANDLE, IMCHARGE_BUSY, IMCHARGE_NULL_ARGUMENT, IMCHARGE_TOO_MANY_HANDLES};
use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// Handles open at once in one process.
const SLOTS: usize = 1024;

/// What a slot keeps.
type Content = Option<Box<dyn Any + Send>>;

static TABLE: [Mutex<Content>; SLOTS] = [const { Mutex::new(None) }; SLOTS];

/// Where the next free slot is looked for: round the table, so that a closed handle stays closed for long.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// An opaque type of the header and what stands behind it.
pub(super) trait Handle: Sized {
    /// What a slot keeps for it.
    type Content: Any + Send;
}

/// Keeps `content` and gives the handle for it.
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

/// Runs `body` on what stands behind the handle. No other thread gets at it meanwhile: `IMCHARGE_BUSY`.
pub(super) fn with<H: Handle>(handle: *const H, body: impl FnOnce(&mut H::Content) -> Outcome) -> Outcome {
    let mut place = lock(find(handle)?)?;
    let content = place.as_mut().and_then(|content| content.downcast_mut::<H::Content>());
    body(content.ok_or(IMCHARGE_BAD_HANDLE)?)
}

/// Closes the handle and gives what stood behind it.
pub(super) fn close<H: Handle>(handle: *const H) -> Result<Box<H::Content>, i32> {
    let mut place = lock(find(handle)?)?;
    let content = place.take().ok_or(IMCHARGE_BAD_HANDLE)?;
    content.downcast::<H::Content>().map_err(|other| {
        *place = Some(other);
        IMCHARGE_BAD_HANDLE
    })
}

/// The slot at this address, if there is one.
fn find<H: Handle>(handle: *const H) -> Result<&'static Mutex<Content>, i32> {
    if handle.is_null() {
        return Err(IMCHARGE_NULL_ARGUMENT);
    }
    let size = size_of::<Mutex<Content>>();
    let offset = handle.addr().wrapping_sub(TABLE.as_ptr().addr());
    let slot = TABLE.get(offset / size).filter(|_| offset.is_multiple_of(size));
    slot.ok_or(IMCHARGE_BAD_HANDLE)
}

/// Never waits. A panic in an earlier call has been answered there; the content is still whole.
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
    fn a_handle_gives_back_what_was_kept() {
        let handle = open::<Number>(7).unwrap();
        assert_eq!(with(handle, |number| Ok(*number as i32)), Ok(7));
        assert_eq!(close(handle).as_deref(), Ok(&7));
    }

    #[test]
    fn a_closed_handle_is_told() {
        let handle = open::<Number>(7).unwrap();
        close(handle).unwrap();
        assert_eq!(close(handle), Err(IMCHARGE_BAD_HANDLE));
        assert_eq!(with(handle, |_| Ok(0)), Err(IMCHARGE_BAD_HANDLE));
    }

    #[test]
    fn a_handle_of_another_kind_is_told_and_left_alone() {
        let handle = open::<Number>(7).unwrap();
        assert_eq!(with(handle.cast::<Word>(), |_| Ok(0)), Err(IMCHARGE_BAD_HANDLE));
        assert_eq!(close(handle.cast::<Word>()), Err(IMCHARGE_BAD_HANDLE));
        assert_eq!(close(handle).as_deref(), Ok(&7));
    }

    #[test]
    fn stray_pointers_are_told() {
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
    fn a_handle_in_use_is_busy() {
        let handle = open::<Number>(7).unwrap();
        assert_eq!(with(handle, |_| with(handle, |_| Ok(0))), Err(IMCHARGE_BUSY));
        close(handle).unwrap();
    }

    #[test]
    fn a_panic_leaves_the_handle_usable() {
        let handle = open::<Number>(7).unwrap();
        let result = super::super::guard::guard(|| with(handle, |_| panic!("on purpose")));
        assert_eq!(result, super::super::result::IMCHARGE_PANIC);
        assert_eq!(with(handle, |number| Ok(*number as i32)), Ok(7));
        close(handle).unwrap();
    }
}
