//! Reads and writes through a caller's pointers. NULL and lengths are checked here only.

use super::result::{IMCHARGE_BAD_LENGTH, IMCHARGE_BAD_TEXT, IMCHARGE_NULL_ARGUMENT};
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

/// Borrows `length` bytes, 1 to `most`, or returns `IMCHARGE_NULL_ARGUMENT` or `IMCHARGE_BAD_LENGTH`.
///
/// # Safety
/// A pointer other than NULL must be valid for reads of `length` bytes that do not change during `'a`.
pub(super) unsafe fn bytes<'a>(start: *const c_void, length: usize, most: usize) -> Result<&'a [u8], i32> {
    if start.is_null() {
        return Err(IMCHARGE_NULL_ARGUMENT);
    }
    if length == 0 || length > most {
        return Err(IMCHARGE_BAD_LENGTH);
    }
    // SAFETY: guaranteed by the caller; the pointer is not NULL, and bytes need no alignment.
    Ok(unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) })
}

/// Like [`bytes`], but a length of 0 is allowed, with any pointer.
///
/// # Safety
/// As for [`bytes`].
pub(super) unsafe fn optional_bytes<'a>(start: *const c_void, length: usize, most: usize) -> Result<&'a [u8], i32> {
    match length {
        0 => Ok(&[]),
        // SAFETY: guaranteed by the caller.
        _ => unsafe { bytes(start, length, most) },
    }
}

/// Borrows UTF-8 text of 0 to `most` bytes; the pointer must not be NULL.
///
/// # Safety
/// As for [`bytes`].
pub(super) unsafe fn text<'a>(start: *const c_char, length: usize, most: usize) -> Result<&'a str, i32> {
    if start.is_null() {
        return Err(IMCHARGE_NULL_ARGUMENT);
    }
    // SAFETY: guaranteed by the caller.
    let bytes = unsafe { optional_bytes(start.cast(), length, most) }?;
    std::str::from_utf8(bytes).map_err(|_| IMCHARGE_BAD_TEXT)
}

/// Borrows a text that ends with NUL, at most its first `most` bytes; empty for NULL.
///
/// # Safety
/// A pointer other than NULL must be valid for reads up to a NUL, or of `most` bytes, that do not change during `'a`.
pub(super) unsafe fn terminated<'a>(start: *const c_char, most: usize) -> &'a [u8] {
    if start.is_null() {
        return &[];
    }
    // SAFETY: guaranteed by the caller.
    unsafe { std::slice::from_raw_parts(start.cast::<u8>(), libc::strnlen(start, most)) }
}

/// Checks the pointer to a required output argument.
pub(super) fn place<T>(place: *mut T) -> Result<NonNull<T>, i32> {
    NonNull::new(place).ok_or(IMCHARGE_NULL_ARGUMENT)
}

/// Writes an output argument.
///
/// # Safety
/// `place` must be valid for writes of a `T`. It may be unaligned and uninitialised.
pub(super) unsafe fn put<T: Copy>(place: NonNull<T>, value: T) {
    // SAFETY: guaranteed by the caller.
    unsafe { place.write_unaligned(value) }
}

/// Writes a sentence into the caller's buffer, truncated to fit and terminated by NUL. Nothing is written if the buffer is
/// NULL or its size 0. Returns the number of bytes written without the NUL.
///
/// # Safety
/// A buffer other than NULL must be valid for writes of `size` bytes.
pub(super) unsafe fn sentence(buffer: *mut c_char, size: usize, text: &str) -> usize {
    if buffer.is_null() || size == 0 {
        return 0;
    }
    let end = cut(text, size - 1);
    // SAFETY: guaranteed by the caller; end < size, and the text is not in the caller's buffer.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast::<u8>(), end);
        buffer.add(end).write(0);
    }
    end
}

/// Copies the text into the caller's buffer, without a NUL. `false`: it does not fit, and nothing is written.
///
/// # Safety
/// A buffer other than NULL must be valid for writes of `size` bytes.
pub(super) unsafe fn copy(buffer: *mut c_char, size: usize, text: &str) -> bool {
    if buffer.is_null() || text.len() > size {
        return false;
    }
    // SAFETY: guaranteed by the caller; the text fits and is not in the caller's buffer.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast::<u8>(), text.len()) };
    true
}

/// Returns the length of the longest prefix of at most `most` bytes that ends between two characters.
fn cut(text: &str, most: usize) -> usize {
    let most = most.min(text.len());
    (0..=most).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Returns text as an array terminated by NUL, truncated to fit.
pub(super) fn array<const SIZE: usize>(text: &str) -> [c_char; SIZE] {
    let mut array = [0; SIZE];
    let end = cut(text, SIZE.saturating_sub(1));
    for (to, from) in array.iter_mut().zip(text.as_bytes().iter().take(end)) {
        *to = from.cast_signed() as c_char;
    }
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_is_truncated_between_characters_and_terminated() {
        let mut buffer = [1 as c_char; 5];
        // SAFETY: the buffer has this length.
        let written = unsafe { sentence(buffer.as_mut_ptr(), buffer.len(), "abcäd") };
        assert_eq!((written, buffer.map(|c| c as u8)), (3, *b"abc\0\x01"));
        // SAFETY: as above.
        assert_eq!(unsafe { sentence(buffer.as_mut_ptr(), 1, "abc") }, 0);
        assert_eq!(buffer[0], 0);
    }

    #[test]
    fn text_that_does_not_fit_is_not_written() {
        let mut buffer = [1 as c_char; 2];
        // SAFETY: the buffer has this length.
        assert!(!unsafe { copy(buffer.as_mut_ptr(), buffer.len(), "abc") });
        assert_eq!(buffer, [1, 1]);
        // SAFETY: as above.
        assert!(unsafe { copy(buffer.as_mut_ptr(), buffer.len(), "ab") });
    }

    #[test]
    fn array_is_terminated_by_nul() {
        assert_eq!(array::<4>("abcdef").map(|c| c as u8), *b"abc\0");
        assert_eq!(array::<4>("a").map(|c| c as u8), *b"a\0\0\0");
    }
}
