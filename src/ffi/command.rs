//! Commands for operators, with answers as JSON text.

use super::guard::{Outcome, guard};
use super::host::{Attached, imcharge_worker, with_worker};
use super::memory;
use super::result::{
    IMCHARGE_ARGUMENTS_MAX, IMCHARGE_BAD_LENGTH, IMCHARGE_COMMAND_FAILED, IMCHARGE_NAME_MAX, IMCHARGE_NEEDS_ROOM,
    IMCHARGE_NULL_ARGUMENT, IMCHARGE_OK, IMCHARGE_PANIC, IMCHARGE_VALUE_MAX, IMCHARGE_WRONG_STATE,
};
use crate::admin::commands;
use crate::admin::commands::{CommandError, Value};
use serde::{Serialize, Serializer};
use std::ffi::c_char;
use std::ptr::NonNull;

/// Text of the caller: UTF-8; no NUL is needed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct imcharge_text {
    /// First byte, not NULL.
    pub start: *const c_char,
    /// Length in bytes.
    pub length: usize,
}

/// Runs a command for operators: `stats`, `sessions [LIMIT] [NEXT]`, `session CALLID [NEXT]`, `explain CALLID [NEXT]`,
/// `audit [LIST] [LIMIT] [NEXT]`, `account.set ID BALANCE [REFERENCE] [BY]`, `account.add ID AMOUNT REFERENCE [BY]`,
/// `account.limit ID LIMIT [BY]`, `account.remove ID [BY]`, `account.get ID`, `account.list [PREFIX] [LIMIT] [NEXT]`,
/// `account.history ID [LIMIT] [NEXT]`, `debits [ID] [LIMIT] [NEXT]`, `outbox`, `outbox.resend CALLID`, `outbox.release CALLID`,
/// `peers`, `tariff`, `reload [TARIFF]`. Commands and answers are described in docs/rpc.md.
///
/// Parameters:
///   worker          the worker, not NULL.
///   name            name of the command, not NULL, 1 to IMCHARGE_NAME_MAX bytes.
///   arguments       its arguments, integers as text, each up to IMCHARGE_VALUE_MAX bytes. May be NULL if `count` is 0.
///                   They are copied.
///   count           number of arguments, 0 to IMCHARGE_ARGUMENTS_MAX.
///   answer          the caller's buffer for the answer: JSON text without a NUL. May be NULL if `size` is 0.
///                   On IMCHARGE_COMMAND_FAILED the answer is an object with `code` (400 invalid arguments, 404 not
///                   found, 409 not available with this charging back end, 500 the ledger cannot be read, 503 the
///                   engine does not answer) and `text`.
///   size            size of the buffer in bytes.
///   length          receives the length of the whole answer in bytes, not NULL. Written on IMCHARGE_OK,
///                   IMCHARGE_COMMAND_FAILED and IMCHARGE_NEEDS_ROOM.
///
/// Returns: IMCHARGE_OK; IMCHARGE_COMMAND_FAILED; IMCHARGE_NEEDS_ROOM if the command has run but the buffer is too small:
/// get the answer with imcharge_command_answer, do not run the command again; or another error. Only in the process that
/// attached the worker, one thread at a time. Blocks for up to one second: do not call it in a process that serves SIP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_command(
    worker: *mut imcharge_worker,
    name: *const c_char,
    name_length: usize,
    arguments: *const imcharge_text,
    count: usize,
    answer: *mut c_char,
    size: usize,
    length: *mut usize,
) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            let room = Room { answer, size, length: memory::place(length)? };
            if answer.is_null() && size != 0 {
                return Err(IMCHARGE_NULL_ARGUMENT);
            }
            // SAFETY: pointers and lengths as documented above.
            let (name, arguments) = unsafe {
                let name = memory::text(name, name_length, IMCHARGE_NAME_MAX)?;
                (name, borrow(arguments, count)?)
            };
            if name.is_empty() {
                return Err(IMCHARGE_BAD_LENGTH);
            }
            let (result, text) = match commands::run(name, &arguments, &attached.region, &mut attached.worker) {
                Ok(value) => (IMCHARGE_OK, json(&value)?),
                Err(error) => (IMCHARGE_COMMAND_FAILED, json(&failure(error))?),
            };
            // SAFETY: buffer and length as documented above.
            unsafe { room.write(attached, text, result) }
        })
    })
}

/// Returns the answer that did not fit the buffer of the last imcharge_command of this worker, and discards it.
///
/// Parameters:
///   worker          the worker, not NULL.
///   answer          the caller's buffer, not NULL; receives the answer: JSON text without a NUL.
///   size            size of the buffer in bytes, at least the length that imcharge_command has reported.
///   length          receives the length of the answer in bytes, not NULL. Written on IMCHARGE_OK and
///                   IMCHARGE_NEEDS_ROOM.
///
/// Returns: IMCHARGE_OK, whether the command succeeded or failed; IMCHARGE_NEEDS_ROOM if the buffer is too small (the
/// answer is kept); IMCHARGE_WRONG_STATE if there is no answer; or another error. Only in the process that attached the
/// worker, one thread at a time. Does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_command_answer(
    worker: *mut imcharge_worker,
    answer: *mut c_char,
    size: usize,
    length: *mut usize,
) -> i32 {
    guard(|| {
        with_worker(worker, |attached| {
            let room = Room { answer: memory::place(answer)?.as_ptr(), size, length: memory::place(length)? };
            if attached.answer.is_empty() {
                return Err(IMCHARGE_WRONG_STATE);
            }
            let text = std::mem::take(&mut attached.answer);
            // SAFETY: buffer and length as documented above.
            unsafe { room.write(attached, text, IMCHARGE_OK) }
        })
    })
}

/// The caller's buffer for an answer.
struct Room {
    answer: *mut c_char,
    size: usize,
    length: NonNull<usize>,
}

impl Room {
    /// Writes the answer, or keeps it for imcharge_command_answer if it does not fit.
    ///
    /// # Safety
    /// The buffer must be valid for writes of `size` bytes, and `length` for a `usize`.
    unsafe fn write(self, attached: &mut Attached, text: String, result: i32) -> Outcome {
        // SAFETY: guaranteed by the caller.
        let fits = unsafe {
            memory::put(self.length, text.len());
            memory::copy(self.answer, self.size, &text)
        };
        attached.answer = if fits { String::new() } else { text };
        match fits {
            true => Ok(result),
            false => Err(IMCHARGE_NEEDS_ROOM),
        }
    }
}

/// Borrows the arguments.
///
/// # Safety
/// `arguments` must be valid for reads of `count` texts, and each text for reads of its length.
unsafe fn borrow<'a>(arguments: *const imcharge_text, count: usize) -> Result<Vec<&'a str>, i32> {
    if count > IMCHARGE_ARGUMENTS_MAX {
        return Err(IMCHARGE_BAD_LENGTH);
    }
    if count != 0 && arguments.is_null() {
        return Err(IMCHARGE_NULL_ARGUMENT);
    }
    let one = |at| {
        // SAFETY: guaranteed by the caller; at < count.
        let argument = unsafe { arguments.add(at).read_unaligned() };
        // SAFETY: as above.
        unsafe { memory::text(argument.start, argument.length, IMCHARGE_VALUE_MAX) }
    };
    (0..count).map(one).collect()
}

/// Returns the answer of a failed command.
fn failure(error: CommandError) -> Value {
    Value::Structure(vec![("code", Value::Integer(error.code.into())), ("text", Value::Text(error.sentence("")))])
}

/// Returns an answer as JSON text (RFC 8259).
fn json(value: &Value) -> Result<String, i32> {
    serde_json::to_string(&Json(value)).map_err(|_| IMCHARGE_PANIC)
}

/// A command's answer that serde writes as JSON.
struct Json<'a>(&'a Value);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Integer(number) => serializer.serialize_i64(*number),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Structure(fields) => serializer.collect_map(fields.iter().map(|(name, field)| (name, Json(field)))),
            Value::List(items) => serializer.collect_seq(items.iter().map(Json)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_json() {
        let value = Value::Structure(vec![
            ("balance", Value::Integer(-5)),
            ("id", Value::Text("a\"b\\c\nd\u{e9}".into())),
            ("list", Value::List(vec![Value::Integer(i64::MIN), Value::List(vec![])])),
            ("none", Value::Structure(vec![])),
        ]);
        let expected =
            "{\"balance\":-5,\"id\":\"a\\\"b\\\\c\\nd\u{e9}\",\"list\":[-9223372036854775808,[]],\"none\":{}}";
        assert_eq!(json(&value).as_deref(), Ok(expected));
    }
}
