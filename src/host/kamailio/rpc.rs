//! RPC commands: the engine's reports as structures of the host.

use super::guard::guard;
use super::{REGION, bindings as k, text, with_worker};
use crate::engine::report::{self, COMMANDS, Value};
use std::ffi::{CStr, CString, c_char, c_int, c_void};

/// Runs one command: reads its arguments, answers with a structure or a fault.
///
/// # Safety
/// `rpc` and `context` must be what the host gives for the call.
unsafe fn run(name: &str, rpc: *mut k::rpc_t, context: *mut c_void) {
    // SAFETY: by the caller's promise.
    let Some(rpc) = (unsafe { rpc.as_ref() }) else { return };
    let arguments = unsafe { arguments(rpc, context) };
    let borrowed: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(region) = REGION.get() else { return };
    let answer = with_worker(|worker| report::run(name, &borrowed, region, worker));
    match answer {
        // SAFETY: by the caller's promise.
        Some(Ok(value)) => unsafe {
            if !(Answer { rpc, context }).add(&value) {
                // Half an answer would be a wrong one.
                fault(rpc, context, 500, "the answer is too long for this socket: ask for fewer rows");
            }
        },
        Some(Err(error)) => unsafe { fault(rpc, context, error.code, &error.text) },
        None => unsafe { fault(rpc, context, 503, "this process cannot reach the engine") },
    }
}

/// All arguments as texts.
///
/// # Safety
/// As for [`run`].
unsafe fn arguments(rpc: &k::rpc_t, context: *mut c_void) -> Vec<String> {
    let mut all = Vec::new();
    let Some(scan) = rpc.scan else { return all };
    for _ in 0..4 {
        let mut argument: *mut c_char = std::ptr::null_mut();
        // SAFETY: one optional text, turned into one from whatever it was; it lives for the call.
        let read = unsafe { scan(context, text(c"*.s"), &mut argument) };
        if read < 1 || argument.is_null() {
            break;
        }
        // SAFETY: as above.
        all.push(unsafe { CStr::from_ptr(argument) }.to_string_lossy().into_owned());
    }
    all
}

/// # Safety
/// As for [`run`].
unsafe fn fault(rpc: &k::rpc_t, context: *mut c_void, code: u32, sentence: &str) {
    let sentence = CString::new(sentence).unwrap_or_default();
    if let Some(fault) = rpc.fault {
        // SAFETY: the format takes one text.
        unsafe { fault(context, code as c_int, text(c"%s"), sentence.as_ptr()) };
    }
}

/// Where an answer is written.
#[derive(Clone, Copy)]
struct Answer<'a> {
    rpc: &'a k::rpc_t,
    context: *mut c_void,
}

impl Answer<'_> {
    /// Adds a value at the top: rows of a list one by one. `false`: the host has no room for it, as for all below.
    unsafe fn add(self, value: &Value) -> bool {
        let Some(add) = self.rpc.add else { return false };
        match value {
            Value::List(rows) => rows.iter().all(|row| unsafe { self.add(row) }),
            Value::Structure(fields) => {
                let mut handle: *mut c_void = std::ptr::null_mut();
                // SAFETY: the host makes a structure and gives its handle.
                unsafe { add(self.context, text(c"{"), &mut handle) >= 0 && self.fields(handle, fields) }
            }
            // SAFETY: a number of 64 bits, and a text with a NUL, as the formats say.
            Value::Integer(number) => unsafe { add(self.context, text(c"l"), *number) >= 0 },
            Value::Text(words) => unsafe {
                let words = CString::new(words.as_str()).unwrap_or_default();
                add(self.context, text(c"s"), words.as_ptr()) >= 0
            },
        }
    }

    /// Adds fields to a structure.
    unsafe fn fields(self, handle: *mut c_void, fields: &[(&'static str, Value)]) -> bool {
        let Some(add) = self.rpc.struct_add else { return false };
        fields.iter().all(|(name, value)| {
            let name = CString::new(*name).unwrap_or_default();
            let name = name.as_ptr().cast_mut();
            let mut inner: *mut c_void = std::ptr::null_mut();
            // SAFETY: the formats say what follows: a name with a NUL, and a number, text or place for a handle. The host
            // copies texts. Whole numbers that fit are sent as such: kamcmd shows the larger ones as fractions.
            unsafe {
                match value {
                    Value::Integer(number) => match c_int::try_from(*number) {
                        Ok(number) => add(handle, text(c"d"), name, number) >= 0,
                        Err(_) => add(handle, text(c"l"), name, *number) >= 0,
                    },
                    Value::Text(words) => {
                        let words = CString::new(words.as_str()).unwrap_or_default();
                        add(handle, text(c"s"), name, words.as_ptr()) >= 0
                    }
                    Value::Structure(below) => {
                        add(handle, text(c"{"), name, &mut inner) >= 0 && self.fields(inner, below)
                    }
                    Value::List(rows) => add(handle, text(c"["), name, &mut inner) >= 0 && self.rows(inner, rows),
                }
            }
        })
    }

    /// Adds rows to a list.
    unsafe fn rows(self, handle: *mut c_void, rows: &[Value]) -> bool {
        let Some(add) = self.rpc.array_add else { return false };
        rows.iter().all(|row| {
            let Value::Structure(fields) = row else { return true };
            let mut inner: *mut c_void = std::ptr::null_mut();
            // SAFETY: the host makes a structure in the list and gives its handle.
            unsafe { add(handle, text(c"{"), &mut inner) >= 0 && self.fields(inner, fields) }
        })
    }
}

/// The host tells a command nothing of its name, so each has its own entry.
macro_rules! commands {
    ($($name:literal $entry:ident,)*) => {
        $(
            /// Entry of one command.
            unsafe extern "C" fn $entry(rpc: *mut k::rpc_t, context: *mut c_void) {
                // SAFETY: called by the host.
                guard((), || unsafe { run($name, rpc, context) })
            }
        )*

        /// Names and entries, for the check against the engine's own list.
        const ENTRIES: &[(&str, unsafe extern "C" fn(*mut k::rpc_t, *mut c_void))] = &[$(($name, $entry),)*];
    };
}

commands! {
    "stats" stats,
    "sessions" sessions,
    "session" session,
    "explain" explain,
    "audit" audit,
    "account.set" account_set,
    "account.add" account_add,
    "account.get" account_get,
    "accounts" accounts,
    "debits" debits,
    "outbox" outbox,
    "outbox.resend" outbox_resend,
    "outbox.release" outbox_release,
    "peers" peers,
    "reload" reload,
}

/// Registers every command. `false`: the host refused.
pub fn register() -> bool {
    let mut rows: Vec<k::rpc_export> = ENTRIES.iter().map(|(name, entry)| row(name, *entry)).collect();
    rows.push(k::rpc_export { name: std::ptr::null(), function: None, doc_str: std::ptr::null_mut(), flags: 0 });
    // SAFETY: the host keeps the table: it stays for ever, and all its texts have a NUL.
    unsafe { k::rpc_register_array(Vec::leak(rows).as_mut_ptr()) == 0 }
}

fn row(name: &str, entry: unsafe extern "C" fn(*mut k::rpc_t, *mut c_void)) -> k::rpc_export {
    let command = COMMANDS.iter().find(|command| command.name == name);
    let help = command.map_or(String::new(), |command| format!("{} {}", command.arguments.join(" "), command.help));
    let text = |text: String| CString::new(text).unwrap_or_default().into_raw().cast_const();
    let document = Vec::leak(vec![text(help.trim().to_owned()), std::ptr::null()]).as_mut_ptr();
    k::rpc_export { name: text(format!("imcharge.{name}")), function: Some(entry), doc_str: document, flags: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_knows_every_command_of_the_engine() {
        let ours: Vec<_> = ENTRIES.iter().map(|(name, _)| *name).collect();
        assert_eq!(ours, COMMANDS.iter().map(|command| command.name).collect::<Vec<_>>());
    }
}
