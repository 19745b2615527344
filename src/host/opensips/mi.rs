//! Commands of the management interface, with answers as structures of the host.

use super::{REGION, bindings as sys, with_worker};
use crate::admin::commands;
use crate::admin::commands::{Argument, COMMANDS, Command, CommandError, Value};
use crate::guard::guard;
use std::ffi::{CStr, CString, c_char, c_int};

/// Mask of the type of a JSON value, without its flags.
const TYPES: c_int = 0xff;
const NUMBER: c_int = sys::IMCHARGE_JSON_NUMBER as c_int;
const STRING: c_int = sys::IMCHARGE_JSON_STRING as c_int;
const ARRAY: c_int = sys::IMCHARGE_JSON_ARRAY as c_int;

/// Code for invalid parameters (JSON-RPC 2.0, 5.1).
const INVALID_PARAMS: c_int = -32602;

/// Prefix of the commands' names in this host.
const PREFIX: &str = "imcharge:";

/// Runs a command: reads its arguments and answers with a structure or an error.
///
/// # Safety
/// `parameters` must be the argument of the host's call.
unsafe fn run(command: &'static Command, parameters: *const sys::mi_params_t) -> *mut sys::mi_response_t {
    let Some(region) = REGION.get() else { return std::ptr::null_mut() };
    // SAFETY: guaranteed by the caller.
    let answer = unsafe { arguments(command, parameters) }.and_then(|arguments| {
        let borrowed: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let unreachable = || CommandError::new(503, command, "this process cannot reach the engine");
        with_worker(|worker| commands::run(command.name, &borrowed, region, worker)).ok_or_else(unreachable)?
    });
    // SAFETY: answers are created by the host's functions, which copy every text.
    unsafe {
        match answer {
            Ok(value) => {
                let answer = answer_of(&value);
                let text = "the host has no memory for the answer; start the proxy with more (option -M)";
                if answer.is_null() {
                    fault(500, &CommandError::new(500, command, text).sentence(PREFIX))
                } else {
                    answer
                }
            }
            Err(error) => {
                fault(if error.code == 400 { INVALID_PARAMS } else { error.code as c_int }, &error.sentence(PREFIX))
            }
        }
    }
}

/// Reads the arguments as texts. The host has selected the form of the command by their number.
///
/// # Safety
/// As for [`run`].
unsafe fn arguments(
    command: &'static Command,
    parameters: *const sys::mi_params_t,
) -> Result<Vec<String>, CommandError> {
    let mut all = Vec::new();
    for argument in command.arguments {
        // SAFETY: guaranteed by the caller; the item lives during the call.
        let Some(item) = (unsafe { item(parameters, argument).as_ref() }) else { break };
        let text = match item.type_ & TYPES {
            // SAFETY: a text of the host, terminated by NUL.
            STRING if !item.valuestring.is_null() => unsafe { CStr::from_ptr(item.valuestring) }.to_str().ok(),
            _ => None,
        };
        let text = match item.type_ & TYPES {
            NUMBER => whole_number(item.valuedouble),
            _ => text.map(str::to_owned),
        };
        let name = argument.name;
        let wrong = || CommandError::new(400, command, format!("{name} is not a string or a whole number below 2^53"));
        all.push(text.ok_or_else(wrong)?);
    }
    Ok(all)
}

/// Returns a JSON number as text; `None` for a fraction and for integers that are not exact in a double.
fn whole_number(number: f64) -> Option<String> {
    (number.fract() == 0.0 && number.abs() < 9e15).then(|| (number as i64).to_string())
}

/// Finds an argument in the request, by name or by its position in the form that the host has selected; NULL if it is missing.
/// The host's own function is not used, because it truncates numbers to 32-bit integers.
///
/// # Safety
/// As for [`run`].
unsafe fn item(parameters: *const sys::mi_params_t, argument: &Argument) -> *const sys::mi_item_t {
    // SAFETY: guaranteed by the caller: a list of names that ends with NULL, and items that are linked by `next`.
    unsafe {
        let Some(parameters) = parameters.as_ref() else { return std::ptr::null() };
        let Some(all) = parameters.item.as_ref() else { return std::ptr::null() };
        let name = parameter_name(argument);
        let (mut child, mut at) = (all.child.cast_const(), 0);
        while let Some(item) = child.as_ref() {
            let key = match all.type_ & TYPES {
                ARRAY => *parameters.list.add(at),
                _ => item.string,
            };
            if key.is_null() {
                break;
            }
            if CStr::from_ptr(key).to_bytes() == name.as_bytes() {
                return item;
            }
            (child, at) = (item.next, at + 1);
        }
        std::ptr::null()
    }
}

/// Returns the name of a parameter: that of the argument, in lower case.
fn parameter_name(argument: &Argument) -> String {
    argument.name.to_ascii_lowercase()
}

/// Answers with an error.
///
/// # Safety
/// Only in a process of the host, after its start-up.
unsafe fn fault(code: c_int, sentence: &str) -> *mut sys::mi_response_t {
    let (text, length) = parts(sentence);
    // SAFETY: the host copies the text; there are no details.
    unsafe { sys::init_mi_error_extra(code, text, length, std::ptr::null(), 0) }
}

/// Returns pointer and length of a text.
fn parts(text: &str) -> (*const c_char, c_int) {
    (text.as_ptr().cast(), text.len() as c_int)
}

/// Returns a value as an answer; NULL if the host has no memory for it.
///
/// # Safety
/// Only in a process of the host, after its start-up.
unsafe fn answer_of(value: &Value) -> *mut sys::mi_response_t {
    let mut inner: *mut sys::mi_item_t = std::ptr::null_mut();
    // SAFETY: the host creates the answer and returns the item to fill; an incomplete answer is freed.
    unsafe {
        let (answer, complete) = match value {
            Value::List(rows) => {
                let answer = sys::init_mi_result_array(&mut inner);
                (answer, fill(inner, &mut rows.iter().map(|row| ("", row))))
            }
            Value::Structure(fields) => {
                let answer = sys::init_mi_result_object(&mut inner);
                (answer, fill(inner, &mut fields.iter().map(|(name, value)| (*name, value))))
            }
            Value::Integer(number) => (sys::init_mi_result_number(*number as f64), true),
            Value::Text(string) => {
                let (text, length) = parts(string);
                (sys::init_mi_result_string(text, length), true)
            }
        };
        if complete || answer.is_null() {
            return answer;
        }
        sys::free_mi_response(answer);
        std::ptr::null_mut()
    }
}

/// Adds values to a structure or, with empty names, to a list. `false`: the host has no memory, and the item is incomplete.
///
/// # Safety
/// `into` must be NULL, or a structure or list of the host.
unsafe fn fill(into: *mut sys::mi_item_t, values: &mut dyn Iterator<Item = (&'static str, &Value)>) -> bool {
    if into.is_null() {
        return false;
    }
    for (name, value) in values {
        let (name, length) = match name {
            "" => (std::ptr::null(), 0),
            name => parts(name),
        };
        let name = name.cast_mut();
        // SAFETY: an item of the host, which copies names and texts. Integers below 2^53 are exact in a double.
        let added = unsafe {
            match value {
                Value::Integer(number) => sys::add_mi_number(into, name, length, *number as f64) == 0,
                Value::Text(string) => {
                    let (text, octets) = parts(string);
                    sys::add_mi_string(into, name, length, text, octets) == 0
                }
                Value::Structure(fields) => {
                    let inner = sys::add_mi_object(into, name, length);
                    fill(inner, &mut fields.iter().map(|(name, value)| (*name, value)))
                }
                Value::List(rows) => {
                    let inner = sys::add_mi_array(into, name, length);
                    fill(inner, &mut rows.iter().map(|row| ("", row)))
                }
            }
        };
        if !added {
            return false;
        }
    }
    true
}

/// The host's type of an entry.
type Entry = unsafe extern "C" fn(*const sys::mi_params_t, *mut sys::mi_handler) -> *mut sys::mi_response_t;

/// Entry of the command in row `ROW` of the table.
///
/// # Safety
/// As for [`run`].
unsafe extern "C" fn run_row<const ROW: usize>(
    parameters: *const sys::mi_params_t,
    _: *mut sys::mi_handler,
) -> *mut sys::mi_response_t {
    guard(std::ptr::null_mut(), || match COMMANDS.get(ROW) {
        // SAFETY: called by the host.
        Some(command) => unsafe { run(command, parameters) },
        None => std::ptr::null_mut(),
    })
}

/// The entry of each row.
const ENTRIES: [Entry; 64] = entries!(run_row);

/// Registers every command. `false`: the host refused.
pub fn register() -> bool {
    COMMANDS.iter().zip(ENTRIES).all(|(command, entry)| {
        // Names, help and forms are kept by the host and never freed.
        let text = |text: String| CString::new(text).unwrap_or_default().into_raw();
        let forms = Vec::leak(forms(command, entry)).as_ptr();
        let help = text(format!("{} {}", command.usage(), command.help).trim().to_owned());
        // SAFETY: all texts are terminated by NUL and never freed, and an empty form ends the list.
        unsafe {
            sys::register_mi_cmd(text(format!("{PREFIX}{}", command.name)), help, 0, None, forms, c"imcharge".as_ptr())
                == 0
        }
    })
}

/// Returns the forms of a command: one for each number of arguments, and an empty one as the end. Forms with too few arguments
/// are included, because the host would answer them with a bare "Invalid params".
fn forms(command: &Command, entry: Entry) -> Vec<sys::mi_recipe_t> {
    let form = |count: usize| {
        let mut params = [std::ptr::null_mut(); sys::MAX_MI_PARAMS as usize];
        for (place, argument) in params.iter_mut().zip(&command.arguments[..count]) {
            *place = CString::new(parameter_name(argument)).unwrap_or_default().into_raw();
        }
        sys::mi_recipe_t { cmd: Some(entry), params }
    };
    let end = sys::mi_recipe_t { cmd: None, params: [std::ptr::null_mut(); sys::MAX_MI_PARAMS as usize] };
    (0..=command.arguments.len()).map(form).chain([end]).collect()
}
