//! RPC commands for operators, with answers as structures of the host.

use super::{REGION, bindings as sys, text, with_worker};
use crate::admin::commands;
use crate::admin::commands::{Argument, COMMANDS, Command, CommandError, Kind, Value};
use crate::guard::guard;
use std::ffi::{CStr, CString, c_int, c_void};

/// Prefix of the commands' names in this host.
const PREFIX: &str = "imcharge.";

/// Runs a command: reads its arguments and answers with a structure or a fault.
///
/// # Safety
/// `rpc` and `context` must be the arguments of the host's call.
unsafe fn run(command: &'static Command, rpc: *mut sys::rpc_t, context: *mut c_void) {
    let Some(region) = REGION.get() else { return };
    // SAFETY: guaranteed by the caller.
    let Some(rpc) = (unsafe { rpc.as_ref() }) else { return };
    // SAFETY: guaranteed by the caller.
    let answer = unsafe { arguments(command, rpc, context) }.and_then(|arguments| {
        let borrowed: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let unreachable = || CommandError::new(503, command, "this process cannot reach the engine");
        with_worker(|worker| commands::run(command.name, &borrowed, region, worker)).ok_or_else(unreachable)?
    });
    let failure = match answer {
        // SAFETY: guaranteed by the caller.
        Ok(value) if unsafe { Answer { rpc, context }.put(Place::Top, &value) } => return,
        // An incomplete answer would be wrong, so a fault replaces it.
        Ok(_) => CommandError::new(
            500,
            command,
            "the host has no memory for the answer; start the proxy with more (option -M)",
        ),
        Err(error) => error,
    };
    // SAFETY: guaranteed by the caller.
    unsafe { fault(rpc, context, failure.code, &failure.sentence(PREFIX)) };
}

/// An argument as the transport passes it.
#[derive(Clone, Debug, PartialEq)]
enum Given {
    /// A text.
    Text(String),
    /// A JSON number, converted to a double. The host also turns `null`, lists and structures into 0, and `true` into 1.
    Number(f64),
    /// A text that kamcmd has converted to an integer, truncated to 32 bits: 5000000000 becomes 705032704, and 007 becomes 7.
    Truncated(i32),
    /// A text that kamcmd has converted to a fraction with three digits: 1.0001 becomes 1, and so does a Call-ID 1e0.
    Fraction,
}

impl Given {
    /// Returns the text that was typed, or an error if the conversion may have changed it.
    fn text(self, argument: &Argument) -> Result<String, String> {
        let name = argument.name;
        match (self, argument.kind) {
            (Given::Text(text), _) => Ok(text),
            // Integers below 2^53 are exact in a double.
            (Given::Number(number), _) if number.fract() == 0.0 && number != 0.0 && number.abs() < 9e15 => {
                Ok((number as i64).to_string())
            }
            (Given::Number(0.0), _) => Err(format!("{name} is null, or the number 0: write 0 as a string, \"0\"")),
            (Given::Number(number), Kind::Amount | Kind::Count) => {
                Err(format!("{name} {number} is not a whole number"))
            }
            (Given::Number(_), Kind::Text) => Err(format!("{name} is a number: write it as a string")),
            (Given::Truncated(number), Kind::Count) => Ok(number.to_string()),
            (Given::Truncated(_) | Given::Fraction, Kind::Amount | Kind::Count) => {
                Err(format!("{name}: kamcmd cuts numbers; write a whole number as text, like s:100 or s:-5"))
            }
            (Given::Truncated(_) | Given::Fraction, Kind::Text) => {
                Err(format!("{name}: kamcmd took it for a number; put s: before it, like s:12345"))
            }
        }
    }
}

/// Reads all arguments as texts, including one more than the command accepts.
///
/// # Safety
/// As for [`run`].
unsafe fn arguments(
    command: &'static Command,
    rpc: &sys::rpc_t,
    context: *mut c_void,
) -> Result<Vec<String>, CommandError> {
    let mut all = Vec::new();
    let surplus = Argument { name: "surplus", kind: Kind::Count, required: false };
    let converted = is_binrpc(rpc) && ctl_converts();
    for argument in command.arguments.iter().chain([&surplus]) {
        // SAFETY: guaranteed by the caller.
        let Some(given) = (unsafe { argument_given(rpc, context) }) else { break };
        let text = given.text(argument).and_then(|text| {
            match converted && argument.kind != Kind::Count && text.parse::<i64>().is_ok() {
                true => Err(format!("{}: ctl's autoconversion cuts numbers unseen; set it to 0", argument.name)),
                false => Ok(text),
            }
        });
        all.push(text.map_err(|text| CommandError::new(400, command, text))?);
    }
    Ok(all)
}

/// Whether the call came by ctl (binrpc): the only transport without capabilities.
fn is_binrpc(rpc: &sys::rpc_t) -> bool {
    rpc.capabilities.is_none()
}

/// Whether ctl converts each number to text after truncating it to 32 bits, so that it cannot be distinguished from typed text.
fn ctl_converts() -> bool {
    let mut kind = 0;
    // SAFETY: the host finds a module and its parameter by name and returns NULL if there is none. The parameter is an integer
    // that is set before the first fork.
    unsafe {
        let module = sys::find_module_by_name(text(c"ctl"));
        let parameter = sys::find_param_export(module, text(c"autoconversion"), sys::PARAM_INT, &mut kind);
        parameter.cast::<c_int>().as_ref().is_some_and(|on| *on != 0)
    }
}

/// Reads the next argument; `None` if there is none.
///
/// # Safety
/// As for [`run`].
unsafe fn argument_given(rpc: &sys::rpc_t, context: *mut c_void) -> Option<Given> {
    let scan = rpc.scan?;
    let untouched = c"".as_ptr().cast_mut();
    let (mut text, mut double, mut integer) = (untouched, 0f64, 0 as c_int);
    // A value of another type stays for the next attempt. Without `.` the host converts nothing: its conversion truncates
    // fractions and turns -1 into 2^64-1.
    // SAFETY: each format describes one optional value of the type that follows; a text lives during the call.
    unsafe {
        if scan(context, self::text(c"*s"), &mut text) == 1 && !text.is_null() {
            return Some(Given::Text(CStr::from_ptr(text).to_string_lossy().into_owned()));
        }
        // If the value is not a text, jsonrpcs sets the pointer to NULL and ctl does not. jsonrpcs returns any number as either
        // type; ctl of 6.0 returns an integer as a double, but not the reverse.
        if text.is_null() {
            return (scan(context, self::text(c"*f"), &mut double) == 1).then_some(Given::Number(double));
        }
        if scan(context, self::text(c"*d"), &mut integer) == 1 {
            return Some(Given::Truncated(integer));
        }
        (scan(context, self::text(c"*f"), &mut double) == 1).then_some(Given::Fraction)
    }
}

/// Answers with a fault.
///
/// # Safety
/// As for [`run`].
unsafe fn fault(rpc: &sys::rpc_t, context: *mut c_void, code: u32, sentence: &str) {
    let sentence = CString::new(sentence).unwrap_or_default();
    if let Some(fault) = rpc.fault {
        // SAFETY: the format takes one text.
        unsafe { fault(context, code as c_int, text(c"%s"), sentence.as_ptr()) };
    }
}

/// The answer being written.
#[derive(Clone, Copy)]
struct Answer<'a> {
    rpc: &'a sys::rpc_t,
    context: *mut c_void,
}

/// Position of a value in an answer.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// The answer itself.
    Top,
    /// The field of this name in a structure.
    Field(*mut c_void, &'a CStr),
    /// The end of a list.
    Row(*mut c_void),
}

impl Answer<'_> {
    /// Adds a value. `false`: the host has no memory for it.
    ///
    /// # Safety
    /// `place` must belong to this answer.
    unsafe fn put(self, place: Place<'_>, value: &Value) -> bool {
        /// Calls the host's function that adds a value at a position.
        macro_rules! add {
            ($format:literal, $argument:expr) => {
                // SAFETY: the format describes one value of the type that follows. The host copies names and texts.
                unsafe {
                    let (format, argument) = (text($format), $argument);
                    match place {
                        Place::Top => self.rpc.add.is_some_and(|add| add(self.context, format, argument) >= 0),
                        Place::Field(structure, name) => {
                            let name = name.as_ptr().cast_mut();
                            self.rpc.struct_add.is_some_and(|add| add(structure, format, name, argument) >= 0)
                        }
                        Place::Row(list) => self.rpc.array_add.is_some_and(|add| add(list, format, argument) >= 0),
                    }
                }
            };
        }
        let mut inner: *mut c_void = std::ptr::null_mut();
        match value {
            Value::Structure(fields) => {
                add!(c"{", &raw mut inner)
                    && fields.iter().all(|(name, value)| {
                        let name = CString::new(*name).unwrap_or_default();
                        // SAFETY: the host has just made the structure.
                        unsafe { self.put(Place::Field(inner, &name), value) }
                    })
            }
            Value::List(rows) => {
                add!(c"[", &raw mut inner)
                    // SAFETY: the host has just made the list.
                    && rows.iter().all(|row| unsafe { self.put(Place::Row(inner), row) })
            }
            Value::Text(text) => {
                let text = CString::new(text.as_str()).unwrap_or_default();
                add!(c"s", text.as_ptr())
            }
            Value::Integer(number) => match c_int::try_from(*number) {
                Ok(number) => add!(c"d", number),
                // Binrpc has 32-bit integers and doubles with three digits. Text is exact, and kamcmd shows it like a number.
                Err(_) if is_binrpc(self.rpc) => {
                    let digits = CString::new(number.to_string()).unwrap_or_default();
                    add!(c"s", digits.as_ptr())
                }
                Err(_) => add!(c"l", *number),
            },
        }
    }
}

/// Entry of the command in row `ROW` of the table.
///
/// # Safety
/// As for [`run`].
unsafe extern "C" fn run_row<const ROW: usize>(rpc: *mut sys::rpc_t, context: *mut c_void) {
    guard((), || {
        if let Some(command) = COMMANDS.get(ROW) {
            // SAFETY: called by the host.
            unsafe { run(command, rpc, context) };
        }
    });
}

/// The host's type of an entry.
type Entry = unsafe extern "C" fn(*mut sys::rpc_t, *mut c_void);

/// The entry of each row.
const ENTRIES: [Entry; 64] = entries!(run_row);

/// Registers every command. `false`: the host refused.
pub fn register() -> bool {
    let mut rows: Vec<sys::rpc_export> =
        COMMANDS.iter().zip(ENTRIES).map(|(command, entry)| row(command, entry)).collect();
    rows.push(sys::rpc_export { name: std::ptr::null(), function: None, doc_str: std::ptr::null_mut(), flags: 0 });
    // SAFETY: the host keeps the table, which is never freed, and all its texts end with a NUL.
    unsafe { sys::rpc_register_array(Vec::leak(rows).as_mut_ptr()) == 0 }
}

fn row(command: &Command, entry: Entry) -> sys::rpc_export {
    let text = |text: String| CString::new(text).unwrap_or_default().into_raw().cast_const();
    let help = format!("{} {}", command.usage(), command.help).trim().to_owned();
    let document = Vec::leak(vec![text(help), std::ptr::null()]).as_mut_ptr();
    let name = text(format!("{PREFIX}{}", command.name));
    sys::rpc_export { name, function: Some(entry), doc_str: document, flags: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argument_that_the_transport_may_have_changed_is_refused() {
        let of = |kind, given: &Given| given.clone().text(&Argument { name: "ARGUMENT", kind, required: true });
        for (given, as_text, as_amount, as_count) in [
            (Given::Text("-5000000000".into()), true, true, true),
            (Given::Number(-5_000_000_000.0), true, true, true),
            (Given::Number(1.5), false, false, false),
            (Given::Number(0.0), false, false, false),
            (Given::Number(1e16), false, false, false),
            (Given::Number(f64::INFINITY), false, false, false),
            (Given::Truncated(705_032_704), false, false, true),
            (Given::Fraction, false, false, false),
        ] {
            let accepted = [Kind::Text, Kind::Amount, Kind::Count].map(|kind| of(kind, &given).is_ok());
            assert_eq!(accepted, [as_text, as_amount, as_count], "{given:?}");
        }
        assert_eq!(of(Kind::Amount, &Given::Number(-5_000_000_000.0)).as_deref(), Ok("-5000000000"));
        assert_eq!(of(Kind::Text, &Given::Number(1_000_000_000_000_000.0)).as_deref(), Ok("1000000000000000"));
    }
}
