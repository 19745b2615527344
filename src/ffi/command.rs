//! What operators ask: the commands of every host, with their answers as JSON text.

use super::guard::{Outcome, guard};
use super::host::{Attached, imcharge_worker, with_worker};
use super::memory;
use super::result::{
    IMCHARGE_ARGUMENTS_MAX, IMCHARGE_BAD_LENGTH, IMCHARGE_COMMAND_FAILED, IMCHARGE_NAME_MAX, IMCHARGE_NEEDS_ROOM,
    IMCHARGE_NULL_ARGUMENT, IMCHARGE_OK, IMCHARGE_VALUE_MAX, IMCHARGE_WRONG_STATE,
};
use crate::admin::commands;
use crate::admin::commands::{CommandError, Value};
use std::ffi::c_char;
use std::fmt::Write;
use std::ptr::NonNull;

/// Text of the caller's: UTF-8, no NUL needed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct imcharge_text {
    /// Its first byte, not NULL.
    pub start: *const c_char,
    /// How many bytes.
    pub length: usize,
}

/// Runs a command of the manual: `stats`, `sessions [LIMIT] [NEXT]`, `session CALLID [NEXT]`, `explain CALLID [NEXT]`,
/// `audit [LIST] [LIMIT] [NEXT]`, `account.set ID BALANCE`, `account.add ID AMOUNT`, `account.get ID`,
/// `accounts [LIMIT] [NEXT]`, `debits [ID] [LIMIT] [NEXT]`, `outbox`, `outbox.resend CALLID`, `outbox.release CALLID`,
/// `peers`, `tariff`, `reload [TARIFF]`. A command waits for the engine, one second at most.
///
/// Parameters:
///   worker          the worker, not NULL.
///   name            the command, not NULL, 1 to IMCHARGE_NAME_MAX bytes.
///   arguments       its arguments, whole numbers as text, each up to IMCHARGE_VALUE_MAX bytes. May be NULL
///                   where `count` is 0. They are copied.
///   count           how many, up to IMCHARGE_ARGUMENTS_MAX.
///   answer          the caller's buffer for the answer as JSON text, without NUL. May be NULL where `size` is 0.
///                   On IMCHARGE_COMMAND_FAILED it is an object with `code` (400 wrong use, 404 not found, 409 not
///                   with this enabler, 500 the ledger cannot be read, 503 the engine does not answer) and `text`.
///   size            the buffer's size in bytes.
///   length          place for the length of the whole answer, not NULL. Written on IMCHARGE_OK,
///                   IMCHARGE_COMMAND_FAILED and IMCHARGE_NEEDS_ROOM.
///
/// Returns: IMCHARGE_OK; IMCHARGE_COMMAND_FAILED; IMCHARGE_NEEDS_ROOM: the command has run, and its answer waits
/// for imcharge_command_answer, do not run it again; or another error. The process that attached the worker,
/// one thread at a time. It waits: not for a process that serves SIP.
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
            // SAFETY: the pointers and lengths that the contract above names.
            let (name, arguments) = unsafe {
                let name = memory::text(name, name_length, IMCHARGE_NAME_MAX)?;
                (name, borrow(arguments, count)?)
            };
            if name.is_empty() {
                return Err(IMCHARGE_BAD_LENGTH);
            }
            let (result, text) = match commands::run(name, &arguments, &attached.region, &mut attached.worker) {
                Ok(value) => (IMCHARGE_OK, json(&value)),
                Err(error) => (IMCHARGE_COMMAND_FAILED, json(&failure(error))),
            };
            // SAFETY: buffer and place by the contract above.
            unsafe { room.give(attached, text, result) }
        })
    })
}

/// Gives the answer that the last imcharge_command of this worker had no room for, and forgets it.
///
/// Parameters:
///   worker          the worker, not NULL.
///   answer          the caller's buffer, for `size` bytes; gets the answer as JSON text, without NUL. Not NULL.
///   size            at least what imcharge_command told.
///   length          place for the length of the answer, not NULL. Written on IMCHARGE_OK and IMCHARGE_NEEDS_ROOM.
///
/// Returns: IMCHARGE_OK, whether the command had failed or not; IMCHARGE_NEEDS_ROOM: the answer waits on;
/// IMCHARGE_WRONG_STATE: none waits; or another error. The process that attached the worker, one thread at a time.
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
            // SAFETY: buffer and place by the contract above.
            unsafe { room.give(attached, text, IMCHARGE_OK) }
        })
    })
}

/// Where the caller wants the answer.
struct Room {
    answer: *mut c_char,
    size: usize,
    length: NonNull<usize>,
}

impl Room {
    /// Gives the answer, or keeps it where there is no room.
    ///
    /// # Safety
    /// The buffer is good for writing `size` bytes, and so is the place for the length.
    unsafe fn give(self, attached: &mut Attached, text: String, result: i32) -> Outcome {
        // SAFETY: the caller's promise.
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
/// `arguments` is good for reading `count` texts, and each text for reading its length.
unsafe fn borrow<'a>(arguments: *const imcharge_text, count: usize) -> Result<Vec<&'a str>, i32> {
    if count > IMCHARGE_ARGUMENTS_MAX {
        return Err(IMCHARGE_BAD_LENGTH);
    }
    if count != 0 && arguments.is_null() {
        return Err(IMCHARGE_NULL_ARGUMENT);
    }
    let one = |at| {
        // SAFETY: the caller's promise; at < count.
        let argument = unsafe { arguments.add(at).read_unaligned() };
        // SAFETY: as above.
        unsafe { memory::text(argument.start, argument.length, IMCHARGE_VALUE_MAX) }
    };
    (0..count).map(one).collect()
}

/// A failure as an answer.
fn failure(error: CommandError) -> Value {
    Value::Structure(vec![("code", Value::Integer(error.code.into())), ("text", Value::Text(error.sentence("")))])
}

/// An answer as JSON (RFC 8259).
fn json(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Integer(number) => {
            // Writing to a String cannot fail.
            let _ = write!(out, "{number}");
        }
        Value::Text(text) => write_text(out, text),
        Value::Structure(fields) => write_all(out, ['{', '}'], fields, |out, (name, field)| {
            write_text(out, name);
            out.push(':');
            write_value(out, field);
        }),
        Value::List(items) => write_all(out, ['[', ']'], items, write_value),
    }
}

fn write_all<T>(out: &mut String, [open, close]: [char; 2], items: &[T], write: impl Fn(&mut String, &T)) {
    out.push(open);
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(close);
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_json() {
        let value = Value::Structure(vec![
            ("balance", Value::Integer(-5)),
            ("id", Value::Text("a\"b\\c\nd\u{e9}".into())),
            ("list", Value::List(vec![Value::Integer(i64::MIN), Value::List(vec![])])),
            ("none", Value::Structure(vec![])),
        ]);
        let want =
            "{\"balance\":-5,\"id\":\"a\\\"b\\\\c\\u000ad\u{e9}\",\"list\":[-9223372036854775808,[]],\"none\":{}}";
        assert_eq!(json(&value), want);
    }
}
