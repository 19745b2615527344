//! Result codes and limits of the C ABI. Zero and above is success, below zero an error. A number keeps its meaning and is
//! never reused. The last one assigned is -115.

use super::guard::guard;
use super::memory;
use std::ffi::c_char;

/// Version of this ABI, incremented with each change that breaks compiled programs.
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
/// Maximum length of the name of a tariff that is read, without its NUL. Configured names have up to 32 bytes.
pub const IMCHARGE_TARIFF_MAX: usize = 64;

/// Success.
pub const IMCHARGE_OK: i32 = 0;
/// imcharge_on_msrp: relay the frame; it belongs to a charged session.
pub const IMCHARGE_PASS: i32 = 1;
/// The message belongs to no charged session; the host may relay it.
pub const IMCHARGE_NOT_CHARGED: i32 = 2;
/// The hook does not need this message, for example an unreliable provisional reply.
pub const IMCHARGE_IGNORED: i32 = 3;
/// imcharge_next_verdict: no verdict within the timeout.
pub const IMCHARGE_NO_VERDICT: i32 = 4;

/// imcharge_on_invite, imcharge_on_message: not a SIP INVITE or MESSAGE, no Call-ID or From tag, or a header is too long.
pub const IMCHARGE_INVITE_MALFORMED: i32 = -1;
/// imcharge_on_invite, imcharge_on_message: the engine is not running.
pub const IMCHARGE_INVITE_ENGINE_DOWN: i32 = -2;
/// imcharge_on_invite, imcharge_on_message: the queue of this worker or the session table is full, or a verdict has
/// been waiting for a reader for more than one second.
pub const IMCHARGE_INVITE_FULL: i32 = -3;

/// imcharge_on_message: the body is larger than the parameter message_max.
pub const IMCHARGE_MESSAGE_TOO_LARGE: i32 = -7;
/// imcharge_on_invite, imcharge_on_message: there is no tariff of this name.
pub const IMCHARGE_INVITE_UNKNOWN_TARIFF: i32 = -8;

/// imcharge_on_msrp: do not relay the frame; the granted credit is used up.
pub const IMCHARGE_MSRP_BEYOND_GRANT: i32 = -1;
/// imcharge_on_msrp: do not relay the frame; it is malformed, or has content but no Message-ID.
pub const IMCHARGE_MSRP_MALFORMED: i32 = -2;
/// imcharge_on_msrp: do not relay the frame; the queue of this worker or a table is full.
pub const IMCHARGE_MSRP_FULL: i32 = -3;
/// imcharge_on_msrp: do not relay the frame; it claims to be from the opposite side of its session.
pub const IMCHARGE_MSRP_FORGED: i32 = -4;
/// imcharge_on_msrp: do not relay the frame; it comes from an endpoint of a charged session or from an IM server, but
/// belongs to no session.
pub const IMCHARGE_MSRP_NO_SESSION: i32 = -5;

/// imcharge_on_request: do not relay the request; the session has changed its MSRP endpoints too often.
pub const IMCHARGE_REQUEST_TOO_MANY: i32 = -6;

/// A required pointer is NULL.
pub const IMCHARGE_NULL_ARGUMENT: i32 = -100;
/// A length is 0 or above its limit.
pub const IMCHARGE_BAD_LENGTH: i32 = -101;
/// Invalid handle: closed, of another type, or not created by this library in this process.
pub const IMCHARGE_BAD_HANDLE: i32 = -102;
/// Another thread is using the handle.
pub const IMCHARGE_BUSY: i32 = -103;
/// The call is not allowed now or in this process; see the function.
pub const IMCHARGE_WRONG_STATE: i32 = -104;
/// An index, a number of processes or a log level is out of range.
pub const IMCHARGE_OUT_OF_RANGE: i32 = -105;
/// This process has attached this index already.
pub const IMCHARGE_INDEX_TAKEN: i32 = -106;
/// Text is not UTF-8.
pub const IMCHARGE_BAD_TEXT: i32 = -107;
/// Unknown parameter, or a value that is not accepted.
pub const IMCHARGE_BAD_PARAMETER: i32 = -108;
/// imcharge_open: the shared memory cannot be created, or the state directory cannot be used.
pub const IMCHARGE_OPEN_FAILED: i32 = -109;
/// imcharge_engine_run: the engine failed.
pub const IMCHARGE_ENGINE_FAILED: i32 = -110;
/// Not a SIP message that the hook takes, or Call-ID, From tag or CSeq is missing.
pub const IMCHARGE_BAD_SIP: i32 = -111;
/// The buffer is too small; the needed size was written.
pub const IMCHARGE_NEEDS_ROOM: i32 = -112;
/// imcharge_command: the command failed; the answer contains the reason.
pub const IMCHARGE_COMMAND_FAILED: i32 = -113;
/// This process has 1024 open handles, which is the limit.
pub const IMCHARGE_TOO_MANY_HANDLES: i32 = -114;
/// A defect of this library was caught and logged. The handle remains usable.
pub const IMCHARGE_PANIC: i32 = -115;

/// Returns the sentence for a result.
fn text(result: i32) -> &'static str {
    match result {
        IMCHARGE_OK => "success",
        IMCHARGE_PASS => "the MSRP frame belongs to a charged session and may be relayed",
        IMCHARGE_NOT_CHARGED => "the message belongs to no charged session",
        IMCHARGE_IGNORED => "the hook does not need this message",
        IMCHARGE_NO_VERDICT => "no verdict within the timeout",
        IMCHARGE_INVITE_MALFORMED => "the INVITE is malformed, or the credit for the MSRP frame is used up",
        IMCHARGE_INVITE_ENGINE_DOWN => "the engine is not running, or the MSRP frame is malformed",
        IMCHARGE_INVITE_FULL => "the queue of this worker or a table is full, or verdicts are not being read",
        IMCHARGE_MSRP_FORGED => "the MSRP frame claims to be from the opposite side of its session",
        IMCHARGE_MSRP_NO_SESSION => {
            "the MSRP frame comes from a charged endpoint or an IM server but belongs to no session"
        }
        IMCHARGE_REQUEST_TOO_MANY => "the session has changed its MSRP endpoints too often",
        IMCHARGE_MESSAGE_TOO_LARGE => "the body of the MESSAGE is larger than message_max",
        IMCHARGE_INVITE_UNKNOWN_TARIFF => "there is no tariff of this name",
        IMCHARGE_NULL_ARGUMENT => "a required pointer is NULL",
        IMCHARGE_BAD_LENGTH => "a length is 0 or above its limit",
        IMCHARGE_BAD_HANDLE => "invalid handle: closed, of another type, or from another process",
        IMCHARGE_BUSY => "another thread is using the handle",
        IMCHARGE_WRONG_STATE => "the call is not allowed now or in this process",
        IMCHARGE_OUT_OF_RANGE => "an index, a number of processes or a log level is out of range",
        IMCHARGE_INDEX_TAKEN => "this process has attached this index already",
        IMCHARGE_BAD_TEXT => "the text is not UTF-8",
        IMCHARGE_BAD_PARAMETER => "unknown parameter, or a value that is not accepted",
        IMCHARGE_OPEN_FAILED => "the shared memory or the state directory cannot be used",
        IMCHARGE_ENGINE_FAILED => "the engine failed",
        IMCHARGE_BAD_SIP => "not a SIP message that the hook takes, or Call-ID, From tag or CSeq is missing",
        IMCHARGE_NEEDS_ROOM => "the buffer is too small",
        IMCHARGE_COMMAND_FAILED => "the command failed; the answer contains the reason",
        IMCHARGE_TOO_MANY_HANDLES => "this process has too many open handles",
        IMCHARGE_PANIC => "a defect of the library was caught; the log has file and line",
        _ => "not a result of this library",
    }
}

/// Returns the ABI version of this library. Compare it with IMCHARGE_ABI_VERSION before any other call.
///
/// Returns: the version. Any process, any thread.
#[unsafe(no_mangle)]
pub extern "C" fn imcharge_abi_version() -> u32 {
    IMCHARGE_ABI_VERSION
}

/// Describes a result as a sentence. -1 to -3 have different meanings for imcharge_on_invite and imcharge_on_msrp; their
/// sentences name both.
///
/// Parameters:
///   result       result of a function of this library; any number is allowed.
///   buffer       the caller's buffer, not NULL; receives the sentence, truncated to fit and terminated by NUL.
///   size         size of the buffer in bytes, at least 1.
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
        // SAFETY: the buffer has `size` bytes, as documented above.
        let written = unsafe { memory::sentence(buffer, size, text(result)) };
        i32::try_from(written).map_err(|_| IMCHARGE_BAD_LENGTH)
    })
}
