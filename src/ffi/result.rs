//! Results: stable numbers. Zero and above is good, below zero is not. A number is never given another
//! meaning and never used again. Last added: -115.

use super::guard::guard;
use super::memory;
use std::ffi::c_char;

/// Version of this ABI: rises with each change that breaks a program compiled before.
pub const IMCHARGE_ABI_VERSION: u32 = 1;

/// Longest SIP message that a hook takes, in bytes.
pub const IMCHARGE_SIP_MAX: usize = 65536;
/// Longest MSRP frame that imcharge_on_msrp takes, in bytes.
pub const IMCHARGE_MSRP_MAX: usize = 1048576;
/// Longest name of a parameter or command, in bytes.
pub const IMCHARGE_NAME_MAX: usize = 64;
/// Longest value of a parameter or argument of a command, in bytes.
pub const IMCHARGE_VALUE_MAX: usize = 4096;
/// Most arguments of a command.
pub const IMCHARGE_ARGUMENTS_MAX: usize = 8;

/// Done.
pub const IMCHARGE_OK: i32 = 0;
/// imcharge_on_msrp: the frame may go on; it belongs to a charged session.
pub const IMCHARGE_PASS: i32 = 1;
/// The frame may go on, or the request is done with: it belongs to no charged session.
pub const IMCHARGE_NOT_CHARGED: i32 = 2;
/// The message is none that the hook needs: a 1xx reply, or one to another method than INVITE.
pub const IMCHARGE_IGNORED: i32 = 3;
/// imcharge_next_verdict: none came in time.
pub const IMCHARGE_NO_VERDICT: i32 = 4;

/// imcharge_on_invite: no SIP INVITE, no Call-ID or From tag, or a field of it is too long.
pub const IMCHARGE_INVITE_MALFORMED: i32 = -1;
/// imcharge_on_invite: the engine does not run.
pub const IMCHARGE_INVITE_ENGINE_DOWN: i32 = -2;
/// imcharge_on_invite: the ring of this worker or the table of sessions is full, or a verdict has waited for its
/// taker for more than a second.
pub const IMCHARGE_INVITE_FULL: i32 = -3;

/// imcharge_on_msrp: the frame must not go on; it is beyond the grant.
pub const IMCHARGE_MSRP_BEYOND_GRANT: i32 = -1;
/// imcharge_on_msrp: the frame must not go on; it is no MSRP frame, or has content and no Message-ID.
pub const IMCHARGE_MSRP_MALFORMED: i32 = -2;
/// imcharge_on_msrp: the frame must not go on; the ring of this worker or a table is full.
pub const IMCHARGE_MSRP_FULL: i32 = -3;
/// imcharge_on_msrp: the frame must not go on; it claims to be of the other side of its session than it comes from.
pub const IMCHARGE_MSRP_FORGED: i32 = -4;
/// imcharge_on_msrp: the frame must not go on; it comes from an endpoint of a charged session, or from an IM server, and
/// belongs to no session.
pub const IMCHARGE_MSRP_NO_SESSION: i32 = -5;

/// imcharge_on_request: the request must not go on; its session has changed its MSRP endpoints too often.
pub const IMCHARGE_REQUEST_TOO_MANY: i32 = -6;

/// A pointer is NULL that must not be.
pub const IMCHARGE_NULL_ARGUMENT: i32 = -100;
/// A length is 0 or beyond its limit.
pub const IMCHARGE_BAD_LENGTH: i32 = -101;
/// No handle: closed already, of another kind, or not made by this library in this process.
pub const IMCHARGE_BAD_HANDLE: i32 = -102;
/// Another thread is using the handle.
pub const IMCHARGE_BUSY: i32 = -103;
/// Not now, or not in this process: the function's text says when.
pub const IMCHARGE_WRONG_STATE: i32 = -104;
/// A number is out of its range: an index, a count of processes or a log level.
pub const IMCHARGE_OUT_OF_RANGE: i32 = -105;
/// This process has attached this index already.
pub const IMCHARGE_INDEX_TAKEN: i32 = -106;
/// Text that is not UTF-8.
pub const IMCHARGE_BAD_TEXT: i32 = -107;
/// No such parameter, or its value is not allowed.
pub const IMCHARGE_BAD_PARAMETER: i32 = -108;
/// imcharge_open could not make the shared memory, or cannot use the state directory.
pub const IMCHARGE_OPEN_FAILED: i32 = -109;
/// imcharge_engine_run: the engine ended by a failure.
pub const IMCHARGE_ENGINE_FAILED: i32 = -110;
/// No SIP message of the kind that the hook takes, or a field that names the dialog is missing.
pub const IMCHARGE_BAD_SIP: i32 = -111;
/// The buffer is too small; the size it needs is told.
pub const IMCHARGE_NEEDS_ROOM: i32 = -112;
/// imcharge_command: the command failed; the answer says why.
pub const IMCHARGE_COMMAND_FAILED: i32 = -113;
/// This process has 1024 handles open.
pub const IMCHARGE_TOO_MANY_HANDLES: i32 = -114;
/// A defect of this library was caught; it is logged. The handle can be used further.
pub const IMCHARGE_PANIC: i32 = -115;

/// The sentence of a result.
fn text(result: i32) -> &'static str {
    match result {
        IMCHARGE_OK => "done",
        IMCHARGE_PASS => "the frame may go on, it belongs to a charged session",
        IMCHARGE_NOT_CHARGED => "it belongs to no charged session",
        IMCHARGE_IGNORED => "the message says nothing about charging",
        IMCHARGE_NO_VERDICT => "no verdict came in time",
        IMCHARGE_INVITE_MALFORMED => "the INVITE cannot be used, or the MSRP frame is beyond the grant",
        IMCHARGE_INVITE_ENGINE_DOWN => "the engine does not run, or the MSRP frame is malformed",
        IMCHARGE_INVITE_FULL => "the ring of this worker or a table is full, or nobody takes the verdicts",
        IMCHARGE_MSRP_FORGED => "the MSRP frame claims to be of the other side of its session than it comes from",
        IMCHARGE_MSRP_NO_SESSION => "the MSRP frame comes from a charged endpoint or an IM server and is of no session",
        IMCHARGE_REQUEST_TOO_MANY => "the session has changed its MSRP endpoints too often",
        IMCHARGE_NULL_ARGUMENT => "a pointer is NULL that must not be",
        IMCHARGE_BAD_LENGTH => "a length is 0 or beyond its limit",
        IMCHARGE_BAD_HANDLE => "no handle: closed, of another kind or not made here",
        IMCHARGE_BUSY => "another thread is using the handle",
        IMCHARGE_WRONG_STATE => "not allowed now, or not in this process",
        IMCHARGE_OUT_OF_RANGE => "a number is out of its range",
        IMCHARGE_INDEX_TAKEN => "this process has attached this index already",
        IMCHARGE_BAD_TEXT => "the text is not UTF-8",
        IMCHARGE_BAD_PARAMETER => "no such parameter, or its value is not allowed",
        IMCHARGE_OPEN_FAILED => "the shared memory or the state directory cannot be used",
        IMCHARGE_ENGINE_FAILED => "the engine ended by a failure",
        IMCHARGE_BAD_SIP => "no SIP message of the kind this hook takes, or one without Call-ID, tag or CSeq",
        IMCHARGE_NEEDS_ROOM => "the buffer is too small",
        IMCHARGE_COMMAND_FAILED => "the command failed, its answer says why",
        IMCHARGE_TOO_MANY_HANDLES => "too many handles are open in this process",
        IMCHARGE_PANIC => "a defect of the library was caught, the log has its place",
        _ => "not a result of this library",
    }
}

/// Tells the version of the ABI that this library has. Compare it with IMCHARGE_ABI_VERSION before any other call.
///
/// Returns: the version. Any process, any thread.
#[unsafe(no_mangle)]
pub extern "C" fn imcharge_abi_version() -> u32 {
    IMCHARGE_ABI_VERSION
}

/// Says in a sentence what a result means. The numbers -1 to -3 mean one thing from imcharge_on_invite and
/// another from imcharge_on_msrp; their sentences name both.
///
/// Parameters:
///   result       what a function of this library returned; any number is allowed.
///   buffer       the caller's, for `size` bytes; gets the sentence, cut if need be, ended by NUL. Not NULL.
///   size         1 or more.
///
/// Returns: the length of the sentence in the buffer without the NUL, or IMCHARGE_NULL_ARGUMENT or
/// IMCHARGE_BAD_LENGTH. Any process, any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_strerror(result: i32, buffer: *mut c_char, size: usize) -> i32 {
    guard(|| {
        memory::place(buffer)?;
        if size == 0 {
            return Err(IMCHARGE_BAD_LENGTH);
        }
        // SAFETY: the buffer has `size` bytes, by the contract above.
        let written = unsafe { memory::sentence(buffer, size, text(result)) };
        i32::try_from(written).map_err(|_| IMCHARGE_BAD_LENGTH)
    })
}
