//! Where a caller's pointers are read and written: NULL and lengths are checked here, and nowhere else.

use super::result::{IMCHARGE_BAD_LENGTH, IMCHARGE_BAD_TEXT, IMCHARGE_NULL_ARGUMENT};
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

/// Borrows `length` bytes, 1 to `most`.
///
/// # Safety
/// A pointer that is not NULL must be good for reading `length` bytes, unchanged, while `'a` lasts.
pub(super) unsafe fn bytes<'a>(start: *const c_void, length: usize, most: usize) -> Result<&'a [u8], i32> {
    if start.is_null() {
        return Err(IMCHARGE_NULL_ARGUMENT);
    }
    if length == 0 || length > most {
        return Err(IMCHARGE_BAD_LENGTH);
    }
    // SAFETY: the caller's promise; not NULL, and bytes need no alignment.
    Ok(unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) })
}

/// As [`bytes`], but nothing at all is allowed too: a length of 0, with any pointer.
///
/// # Safety
/// As for [`bytes`].
pub(super) unsafe fn optional_bytes<'a>(start: *const c_void, length: usize, most: usize) -> Result<&'a [u8], i32> {
    match length {
        0 => Ok(&[]),
        // SAFETY: the caller's promise, handed on.
        _ => unsafe { bytes(start, length, most) },
    }
}

/// Borrows UTF-8 text of 0 to `most` bytes.
///
/// # Safety
/// As for [`bytes`].
pub(super) unsafe fn text<'a>(start: *const c_char, length: usize, most: usize) -> Result<&'a str, i32> {
    if start.is_null() {
        return Err(IMCHARGE_NULL_ARGUMENT);
    }
    // SAFETY: the caller's promise, handed on.
    let bytes = unsafe { optional_bytes(start.cast(), length, most) }?;
    std::str::from_utf8(bytes).map_err(|_| IMCHARGE_BAD_TEXT)
}

/// A place of the caller's that a function must have for its answer.
pub(super) fn place<T>(place: *mut T) -> Result<NonNull<T>, i32> {
    NonNull::new(place).ok_or(IMCHARGE_NULL_ARGUMENT)
}

/// Puts an answer into its place.
///
/// # Safety
/// `place` must be good for writing a `T`. It need not be aligned, nor hold anything yet.
pub(super) unsafe fn put<T: Copy>(place: NonNull<T>, value: T) {
    // SAFETY: the caller's promise.
    unsafe { place.write_unaligned(value) }
}

/// Writes a sentence into the caller's buffer, cut where it is too long, always ended by NUL. A NULL buffer
/// or a size of 0 means that nobody wants it. Gives the bytes written without the NUL.
///
/// # Safety
/// A buffer that is not NULL must be good for writing `size` bytes.
pub(super) unsafe fn sentence(buffer: *mut c_char, size: usize, text: &str) -> usize {
    if buffer.is_null() || size == 0 {
        return 0;
    }
    let end = cut(text, size - 1);
    // SAFETY: the caller's promise; end < size. The text is ours, so the two do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast::<u8>(), end);
        buffer.add(end).write(0);
    }
    end
}

/// Copies the whole text into the caller's buffer, without a NUL; `false`: it does not fit, nothing is written.
///
/// # Safety
/// A buffer that is not NULL must be good for writing `size` bytes.
pub(super) unsafe fn copy(buffer: *mut c_char, size: usize, text: &str) -> bool {
    if buffer.is_null() || text.len() > size {
        return false;
    }
    // SAFETY: the caller's promise; the text fits and is ours, so the two do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast::<u8>(), text.len()) };
    true
}

/// Where to cut the text so that at most `most` bytes are left and no character is halved.
fn cut(text: &str, most: usize) -> usize {
    let most = most.min(text.len());
    (0..=most).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Text as an array that ends in NUL, cut where it is too long.
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
    fn a_sentence_is_cut_between_characters_and_ended() {
        let mut buffer = [1 as c_char; 5];
        // SAFETY: the buffer is as long as said.
        let written = unsafe { sentence(buffer.as_mut_ptr(), buffer.len(), "abcäd") };
        assert_eq!((written, buffer.map(|c| c as u8)), (3, *b"abc\0\x01"));
        // SAFETY: as above.
        assert_eq!(unsafe { sentence(buffer.as_mut_ptr(), 1, "abc") }, 0);
        assert_eq!(buffer[0], 0);
    }

    #[test]
    fn a_text_that_does_not_fit_is_not_begun() {
        let mut buffer = [1 as c_char; 2];
        // SAFETY: the buffer is as long as said.
        assert!(!unsafe { copy(buffer.as_mut_ptr(), buffer.len(), "abc") });
        assert_eq!(buffer, [1, 1]);
        // SAFETY: as above.
        assert!(unsafe { copy(buffer.as_mut_ptr(), buffer.len(), "ab") });
    }

    #[test]
    fn an_array_always_ends_in_nul() {
        assert_eq!(array::<4>("abcdef").map(|c| c as u8), *b"abc\0");
        assert_eq!(array::<4>("a").map(|c| c as u8), *b"a\0\0\0");
    }
}
