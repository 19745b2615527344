//! Values in the host's shared memory, which has the same address in all processes.

use super::bindings as sys;
use std::ffi::c_void;

/// Copies a value into shared memory; NULL if there is no room. It is never dropped there.
///
/// # Safety
/// Only after the host has set up its shared memory: in or after mod_init.
pub unsafe fn put<T>(value: T) -> *mut T {
    // SAFETY: the host's allocator, whose blocks are aligned for any value; the block is checked and large enough.
    unsafe {
        let block = sys::imcharge_shm_malloc(size_of::<T>() as u64).cast::<T>();
        if !block.is_null() {
            block.write(value);
        }
        block
    }
}

/// Copies bytes into shared memory, after their length; NULL if there is no room.
///
/// # Safety
/// As for [`put`].
pub unsafe fn put_bytes(bytes: &[u8]) -> *mut c_void {
    // SAFETY: as in `put`; the length takes the first eight octets.
    unsafe {
        let block = sys::imcharge_shm_malloc((size_of::<usize>() + bytes.len()) as u64);
        if !block.is_null() {
            block.cast::<usize>().write(bytes.len());
            block.cast::<u8>().add(size_of::<usize>()).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        block
    }
}

/// Returns the bytes of a block and frees it.
///
/// # Safety
/// `block` must be from [`put_bytes`] and not be used afterwards.
pub unsafe fn take_bytes(block: *mut c_void) -> Vec<u8> {
    // SAFETY: guaranteed by the caller: a length, followed by that many octets.
    unsafe {
        let length = block.cast::<usize>().read();
        let bytes = std::slice::from_raw_parts(block.cast::<u8>().add(size_of::<usize>()), length).to_vec();
        sys::imcharge_shm_free(block);
        bytes
    }
}
