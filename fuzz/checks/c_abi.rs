//! Calls the C ABI (`include/imcharge.h`) in any order with any arguments: arbitrary text, NULL where it is not allowed,
//! lengths above their limits, closed and stray handles and handles of another type. Pointers are valid for the lengths
//! passed with them, as the header requires. A real engine runs in a thread. No call may panic, each result must be one of
//! the header, and at the end balance, held credit and debits of each account must add up.

mod host;
mod messages;

use super::Choices;
use host::{ACCOUNT_START, Host};
use imcharge::ffi::command::{imcharge_command, imcharge_command_answer, imcharge_text};
use imcharge::ffi::config::{imcharge_config_free, imcharge_config_new, imcharge_config_set};
use imcharge::ffi::hooks::{
    imcharge_invite, imcharge_on_cancel, imcharge_on_disconnect, imcharge_on_invite, imcharge_on_message,
    imcharge_on_message_timeout, imcharge_on_msrp, imcharge_on_reply, imcharge_on_request, imcharge_source,
    imcharge_tokens,
};
use imcharge::ffi::host::{imcharge_attach, imcharge_close, imcharge_detach, imcharge_open};
use imcharge::ffi::result::*;
use imcharge::ffi::verdict::{imcharge_next_verdict, imcharge_verdict_reader_attach, imcharge_verdict_reader_detach};
use messages::Party;
use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut, without_provenance_mut};

/// Maximum number of calls per input.
const CALLS_MAX: usize = 60;

/// Names that mutations would hardly find.
const PARAMETERS: [&str; 12] = [
    "state_dir",
    "enabler",
    "tariff",
    "unit",
    "response_timeout",
    "max_sessions",
    "policy",
    "peer",
    "origin_host",
    "default_balance",
    "profile",
    "tls_ca",
];
const COMMANDS: [&str; 18] = [
    "stats",
    "sessions",
    "session",
    "explain",
    "audit",
    "account.set",
    "account.add",
    "account.limit",
    "account.remove",
    "account.get",
    "account.list",
    "account.history",
    "debits",
    "outbox",
    "outbox.resend",
    "outbox.release",
    "peers",
    "reload",
];

/// Makes the calls, ends the session, and checks the balances.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let host = Host::shared();
    let mut caller = Caller::attach(&host);
    for _ in 0..CALLS_MAX {
        if choices.is_done() {
            break;
        }
        caller.call(&mut choices);
    }
    caller.end();
}

/// An attached worker and verdict reader, and the parties of a session.
struct Caller<'h> {
    host: &'h Host,
    worker: *mut imcharge::ffi::host::imcharge_worker,
    reader: *mut imcharge::ffi::verdict::imcharge_verdict_reader,
    party: Party,
}

impl<'h> Caller<'h> {
    fn attach(host: &'h Host) -> Caller<'h> {
        let (mut worker, mut reader) = (null_mut(), null_mut());
        // SAFETY: variables for the handles.
        unsafe {
            assert_eq!(imcharge_attach(host.handle(), 0, &raw mut worker), IMCHARGE_OK);
            assert_eq!(imcharge_verdict_reader_attach(host.handle(), 0, &raw mut reader), IMCHARGE_OK);
        }
        Caller { host, worker, reader, party: Party::next() }
    }

    fn call(&mut self, choices: &mut Choices<'_>) {
        match choices.octet() % 17 {
            0 => self.invite(choices),
            1 => self.reply(choices),
            2..=4 => self.frame(choices),
            5 => self.bye(choices),
            6 => self.cancel(choices),
            7 => self.verdict(choices),
            8 | 9 => self.command(choices),
            10 => self.configure(choices),
            11 => self.attach_again(choices),
            12 => self.stray(choices),
            13 => strerror(choices),
            14 => self.open_wrongly(choices),
            15 => self.message(choices),
            _ => {
                // SAFETY: no pointer but the handle.
                let result = unsafe { imcharge_on_disconnect(self.worker, choices.u64()) };
                assert!([IMCHARGE_OK, IMCHARGE_IGNORED].contains(&result), "{result}");
            }
        }
    }

    fn invite(&mut self, choices: &mut Choices<'_>) {
        let message = bytes(choices, self.party.invite());
        let tokens = imcharge_tokens { index: 1, label: 2, continuation: 3 };
        let tokens = if choices.flag() { null() } else { &raw const tokens };
        let mut session = MaybeUninit::uninit();
        let place = if choices.flag() { null_mut() } else { session.as_mut_ptr() };
        let content = choices.octet().into();
        let charged = imcharge_invite {
            messages: choices.octet().into(),
            content,
            recipients: choices.octet().into(),
            tariff: std::ptr::null(),
        };
        // SAFETY: a message of its length, a valid structure; tokens and session are NULL or valid.
        let result = unsafe {
            imcharge_on_invite(self.worker, message.start(), message.length, &raw const charged, tokens, place)
        };
        let is_bad = message.is_bad(result) || content > 2 && result == IMCHARGE_OUT_OF_RANGE;
        assert!((-3..=0).contains(&result) || result == IMCHARGE_IGNORED || is_bad, "{result}");
    }

    fn message(&mut self, choices: &mut Choices<'_>) {
        let message = bytes(choices, self.party.message());
        let (start, length, copies) = (message.start(), message.length, choices.octet().into());
        // SAFETY: a message of its length; tariff, tokens and session are NULL.
        let result = unsafe {
            match choices.flag() {
                true => imcharge_on_message(self.worker, start, length, copies, null(), null(), null_mut()),
                false => imcharge_on_message_timeout(self.worker, start, length),
            }
        };
        let fine = (-3..=0).contains(&result) || [IMCHARGE_NOT_CHARGED, IMCHARGE_MESSAGE_TOO_LARGE].contains(&result);
        assert!(fine || result == IMCHARGE_BAD_SIP || message.is_bad(result), "{result}");
    }

    fn reply(&mut self, choices: &mut Choices<'_>) {
        let code = [200, 200, 180, 486, 699][choices.below(5)];
        let reply = bytes(choices, self.party.reply(code));
        let invite = if choices.flag() { Bytes::none() } else { bytes(choices, self.party.invite()) };
        let source = imcharge_source { address: [choices.octet(); 16], port: 5060 };
        // SAFETY: messages of their lengths, and a source.
        let result = unsafe {
            let (reply_start, invite_start, source) = (reply.start(), invite.start(), &raw const source);
            imcharge_on_reply(self.worker, reply_start, reply.length, source, invite_start, invite.length, null())
        };
        let fine = [IMCHARGE_OK, IMCHARGE_IGNORED, IMCHARGE_NOT_CHARGED, IMCHARGE_BAD_SIP].contains(&result);
        assert!(fine || reply.is_bad(result) || invite.is_bad(result), "{result}");
    }

    fn frame(&mut self, choices: &mut Choices<'_>) {
        let template = self.party.frame(choices.octet(), choices.octet());
        let frame = bytes(choices, template);
        let (connection, from_self) = (choices.below(3) as u64, i32::from(choices.octet()));
        let source = imcharge_source { address: [7; 16], port: 5060 };
        let source = if choices.flag() { &raw const source } else { null() };
        // SAFETY: a frame of its length, and a source.
        let result =
            unsafe { imcharge_on_msrp(self.worker, frame.start(), frame.length, connection, source, from_self) };
        assert!([1, 2, -1, -2, -3, -4, -5].contains(&result) || frame.is_bad(result), "{result}");
    }

    fn bye(&mut self, choices: &mut Choices<'_>) {
        let bye = bytes(choices, self.party.bye());
        // SAFETY: a message of its length.
        let result = unsafe { imcharge_on_request(self.worker, bye.start(), bye.length, null()) };
        let fine = [IMCHARGE_OK, IMCHARGE_IGNORED, IMCHARGE_NOT_CHARGED, IMCHARGE_BAD_SIP].contains(&result);
        assert!(fine || bye.is_bad(result), "{result}");
    }

    fn cancel(&mut self, choices: &mut Choices<'_>) {
        let cancel = bytes(choices, self.party.cancel());
        // SAFETY: a message of its length.
        let result = unsafe { imcharge_on_cancel(self.worker, cancel.start(), cancel.length) };
        assert!([IMCHARGE_OK, IMCHARGE_BAD_SIP].contains(&result) || cancel.is_bad(result), "{result}");
    }

    fn verdict(&mut self, choices: &mut Choices<'_>) {
        let mut verdict = MaybeUninit::uninit();
        // SAFETY: a place for a verdict.
        let result = unsafe { imcharge_next_verdict(self.reader, choices.below(4) as u32, verdict.as_mut_ptr()) };
        if result == IMCHARGE_NO_VERDICT {
            return;
        }
        assert_eq!(result, IMCHARGE_OK);
        // SAFETY: written on IMCHARGE_OK.
        let verdict = unsafe { verdict.assume_init() };
        assert!((1..=3).contains(&verdict.result) && (0..=1).contains(&verdict.balance_known));
        assert!(verdict.call_id.contains(&0) && verdict.account.contains(&0) && verdict.reason.contains(&0));
    }

    /// A command with any arguments, into a buffer of any size.
    fn command(&mut self, choices: &mut Choices<'_>) {
        let name = match choices.octet() {
            octet @ 0..=223 => COMMANDS[usize::from(octet) % COMMANDS.len()].as_bytes(),
            _ => choices.octets(),
        };
        let arguments: Vec<Vec<u8>> = (0..choices.below(10)).map(|_| self.argument(choices)).collect();
        let size = usize::from(choices.u16());
        match self.run(name, &arguments, size) {
            Ran::Whole(answer) => assert_json(&answer),
            Ran::Waits(length) => self.fetch(length),
            Ran::Refused(result) => {
                let wrong = [IMCHARGE_BAD_LENGTH, IMCHARGE_BAD_TEXT, IMCHARGE_NULL_ARGUMENT];
                assert!(wrong.contains(&result), "{result}");
            }
        }
    }

    fn argument(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        match choices.octet() % 4 {
            0 => self.party.call_id.clone().into_bytes(),
            // Not the account that is counted: what an operator sets is not conserved.
            1 => b"sip:other@example.org".to_vec(),
            2 => b"-1000000000000000".to_vec(),
            _ => choices.octets().to_vec(),
        }
    }

    fn run(&self, name: &[u8], arguments: &[Vec<u8>], size: usize) -> Ran {
        let text = |text: &Vec<u8>| imcharge_text { start: text.as_ptr().cast(), length: text.len() };
        let arguments: Vec<imcharge_text> = arguments.iter().map(text).collect();
        let mut answer: Vec<u8> = Vec::with_capacity(size);
        let mut length = 0;
        // SAFETY: texts of their lengths, a buffer of its size and a place for the length.
        let result = unsafe {
            imcharge_command(
                self.worker,
                name.as_ptr().cast(),
                name.len(),
                arguments.as_ptr(),
                arguments.len(),
                answer.as_mut_ptr().cast(),
                size,
                &raw mut length,
            )
        };
        match result {
            IMCHARGE_OK | IMCHARGE_COMMAND_FAILED => {
                assert!(length <= size);
                // SAFETY: `length` octets were written.
                unsafe { answer.set_len(length) };
                Ran::Whole(answer)
            }
            IMCHARGE_NEEDS_ROOM => Ran::Waits(length),
            other => Ran::Refused(other),
        }
    }

    /// Fetches a pending answer: a short buffer leaves it pending; a sufficient one receives it, once.
    fn fetch(&self, length: usize) {
        let mut answer: Vec<u8> = Vec::with_capacity(length);
        let mut reported = 0;
        for (size, wanted) in [(length - 1, IMCHARGE_NEEDS_ROOM), (length, IMCHARGE_OK), (length, IMCHARGE_WRONG_STATE)]
        {
            // SAFETY: the buffer has room for `length`, and size is no more.
            let result =
                unsafe { imcharge_command_answer(self.worker, answer.as_mut_ptr().cast(), size, &raw mut reported) };
            assert_eq!((result, reported), (wanted, length));
        }
        // SAFETY: `length` octets were written.
        unsafe { answer.set_len(length) };
        assert_json(&answer);
    }

    /// A configuration of garbage; its sentence ends in NUL, within its buffer.
    fn configure(&self, choices: &mut Choices<'_>) {
        let mut config = null_mut();
        // SAFETY: a place for a handle.
        assert_eq!(unsafe { imcharge_config_new(&raw mut config) }, IMCHARGE_OK);
        for _ in 0..choices.below(6) {
            let name = match choices.octet() {
                octet @ 0..=223 => PARAMETERS[usize::from(octet) % PARAMETERS.len()].as_bytes(),
                _ => choices.octets(),
            };
            let value = choices.octets();
            let mut error = vec![1u8; choices.octet().into()];
            // SAFETY: texts of their lengths, and a buffer of its size.
            let result = unsafe {
                imcharge_config_set(
                    config,
                    name.as_ptr().cast(),
                    name.len(),
                    value.as_ptr().cast(),
                    value.len(),
                    error.as_mut_ptr().cast(),
                    error.len(),
                )
            };
            match result {
                IMCHARGE_BAD_PARAMETER => assert!(error.is_empty() || error.contains(&0), "no NUL"),
                other => {
                    assert!([IMCHARGE_OK, IMCHARGE_BAD_LENGTH, IMCHARGE_BAD_TEXT].contains(&other), "{other}");
                    assert!(error.iter().all(|octet| *octet == 1), "written where nothing is wrong");
                }
            }
        }
        // SAFETY: no pointer but the handle; the second time it is closed.
        let freed = unsafe { [imcharge_config_free(config), imcharge_config_free(config)] };
        assert_eq!(freed, [IMCHARGE_OK, IMCHARGE_BAD_HANDLE]);
    }

    /// Detaches and attaches again; attaching with a used index or one out of range fails.
    fn attach_again(&mut self, choices: &mut Choices<'_>) {
        let index = choices.u64() as u32;
        let mut other = null_mut();
        // SAFETY: places for handles.
        unsafe {
            let result = imcharge_attach(self.host.handle(), index, &raw mut other);
            match index {
                0 => assert_eq!(result, IMCHARGE_INDEX_TAKEN),
                1 => assert_eq!((result, imcharge_detach(other)), (IMCHARGE_OK, IMCHARGE_OK)),
                _ => assert_eq!(result, IMCHARGE_OUT_OF_RANGE),
            }
            assert_eq!(imcharge_detach(self.worker), IMCHARGE_OK);
            assert_eq!(imcharge_detach(self.worker), IMCHARGE_BAD_HANDLE);
            assert_eq!(imcharge_attach(self.host.handle(), 0, &raw mut self.worker), IMCHARGE_OK);
        }
    }

    /// Passes invalid handles for every handle parameter.
    fn stray(&self, choices: &mut Choices<'_>) {
        let address = match choices.octet() % 4 {
            0 => 0,
            1 => choices.u64() as usize,
            2 => self.worker.addr() + usize::from(choices.octet()) % 8 + 1,
            _ => self.reader.addr(),
        };
        let worker = without_provenance_mut(address);
        let text = b"SIP/2.0 200 OK\r\n\r\n";
        let mut place = MaybeUninit::uninit();
        // SAFETY: a handle is looked up and not dereferenced; the other arguments are valid.
        let results = unsafe {
            [
                imcharge_on_request(worker, text.as_ptr().cast(), text.len(), null()),
                imcharge_on_msrp(worker, text.as_ptr().cast(), text.len(), 1, null(), 0),
                imcharge_on_disconnect(worker, 1),
                imcharge_detach(worker),
                imcharge_config_free(worker.cast()),
                imcharge_close(worker.cast()),
                imcharge_attach(worker.cast(), 1, place.as_mut_ptr()),
            ]
        };
        let wanted = if address == 0 { IMCHARGE_NULL_ARGUMENT } else { IMCHARGE_BAD_HANDLE };
        assert_eq!(results, [wanted; 7]);
    }

    /// What must not be NULL, and a host that cannot be opened.
    fn open_wrongly(&self, choices: &mut Choices<'_>) {
        let mut config = null_mut();
        let mut handle = null_mut();
        let mut error = vec![1 as c_char; choices.octet().into()];
        let processes = [0, 1025, u32::MAX][choices.below(3)];
        // SAFETY: variables, and a buffer of its size; NULL is detected before anything is read.
        unsafe {
            assert_eq!(imcharge_config_new(null_mut()), IMCHARGE_NULL_ARGUMENT);
            assert_eq!(imcharge_config_new(&raw mut config), IMCHARGE_OK);
            let open = imcharge_open(config, processes, &raw mut handle, error.as_mut_ptr(), error.len());
            assert_eq!(open, IMCHARGE_OUT_OF_RANGE);
            let nowhere = "/nonexistent";
            let (name, start) = ("state_dir".as_ptr().cast(), nowhere.as_ptr().cast());
            assert_eq!(imcharge_config_set(config, name, 9, start, nowhere.len(), null_mut(), 0), IMCHARGE_OK);
            let open = imcharge_open(config, 1, &raw mut handle, error.as_mut_ptr(), error.len());
            assert_eq!(open, IMCHARGE_OPEN_FAILED);
            assert!(handle.is_null() && (error.is_empty() || error.contains(&0)));
            assert_eq!(imcharge_config_free(config), IMCHARGE_OK);
            assert_eq!(imcharge_on_request(self.worker, null(), 7, null()), IMCHARGE_NULL_ARGUMENT);
            assert_eq!(imcharge_on_msrp(self.worker, null(), 0, 0, null(), 0), IMCHARGE_NULL_ARGUMENT);
            assert_eq!(imcharge_next_verdict(self.reader, 0, null_mut()), IMCHARGE_NULL_ARGUMENT);
        }
    }

    /// Ends the session in any state, waits until the engine has processed that, and checks the balances.
    fn end(self) {
        for message in [self.party.cancel(), self.party.bye()] {
            // SAFETY: messages of their lengths.
            unsafe {
                imcharge_on_request(self.worker, message.as_ptr().cast(), message.len(), null());
                imcharge_on_cancel(self.worker, message.as_ptr().cast(), message.len());
            }
        }
        if let Ran::Whole(answer) = self.run(b"account.get", &[self.party.account.clone().into_bytes()], 4096) {
            let sum = ["balance", "held", "debited"].map(|field| number(&answer, field));
            if let [Some(balance), Some(held), Some(debited)] = sum {
                assert_eq!(balance + held + debited, ACCOUNT_START, "money is conserved");
                assert!(balance >= 0 && held >= 0 && debited >= 0);
            }
        }
        let mut verdict = MaybeUninit::uninit();
        // SAFETY: a place for a verdict; handles.
        unsafe {
            while imcharge_next_verdict(self.reader, 0, verdict.as_mut_ptr()) == IMCHARGE_OK {}
            assert_eq!(imcharge_verdict_reader_detach(self.reader), IMCHARGE_OK);
            assert_eq!(imcharge_detach(self.worker), IMCHARGE_OK);
        }
    }
}

/// Result of a command.
enum Ran {
    /// The whole answer.
    Whole(Vec<u8>),
    /// The answer has this length and is kept.
    Waits(usize),
    /// The call was invalid.
    Refused(i32),
}

/// Bytes of the caller in a heap block of exactly their length, so that the sanitizer detects reads beyond it.
struct Bytes {
    bytes: Box<[u8]>,
    is_null: bool,
    length: usize,
}

impl Bytes {
    fn none() -> Bytes {
        Bytes { bytes: Box::default(), is_null: true, length: 0 }
    }

    fn start(&self) -> *const c_void {
        if self.is_null { null() } else { self.bytes.as_ptr().cast() }
    }

    /// Whether the pointer or the length explains this result.
    fn is_bad(&self, result: i32) -> bool {
        match result {
            IMCHARGE_NULL_ARGUMENT => self.is_null,
            IMCHARGE_BAD_LENGTH => self.length == 0 || self.length > IMCHARGE_SIP_MAX,
            _ => false,
        }
    }
}

/// Returns the template, a mutation of it, octets of the input, nothing, or too many octets.
fn bytes(choices: &mut Choices<'_>, template: Vec<u8>) -> Bytes {
    let bytes = match choices.octet() % 8 {
        0..=3 => template,
        4 | 5 => {
            let at = usize::from(choices.u16()) % template.len();
            let removed = usize::from(choices.octet()).min(template.len() - at);
            let added = choices.octet().into();
            let mut bytes = template;
            bytes.splice(at..at + removed, choices.take(added).iter().copied());
            bytes
        }
        6 => choices.octets().to_vec(),
        _ => match choices.octet() % 4 {
            0 => return Bytes { length: choices.below(2), ..Bytes::none() },
            1 => vec![b'x'; IMCHARGE_MSRP_MAX + 1],
            2 => [template, vec![b'x'; IMCHARGE_SIP_MAX]].concat(),
            _ => Vec::new(),
        },
    };
    Bytes { length: bytes.len(), bytes: bytes.into(), is_null: false }
}

/// Checks that the sentence of any number fits any buffer.
fn strerror(choices: &mut Choices<'_>) {
    let result = choices.u64() as i32;
    let mut buffer = vec![1 as c_char; choices.octet().into()];
    // SAFETY: a buffer of its size.
    let written = unsafe { imcharge_strerror(result, buffer.as_mut_ptr(), buffer.len()) };
    match usize::try_from(written) {
        Ok(length) => assert_eq!(buffer.get(length), Some(&0)),
        Err(_) => assert!(written == IMCHARGE_BAD_LENGTH && buffer.is_empty()),
    }
}

/// Checks that the text has balanced brackets (RFC 8259) and no control characters.
fn assert_json(answer: &[u8]) {
    let text = std::str::from_utf8(answer).expect("UTF-8");
    let (mut quoted, mut escaped, mut open) = (false, false, Vec::new());
    for character in text.chars() {
        assert!(character >= ' ', "a bare control character");
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => open.push(character),
            '}' if !quoted => assert_eq!(open.pop(), Some('{')),
            ']' if !quoted => assert_eq!(open.pop(), Some('[')),
            _ => {}
        }
    }
    assert!(!quoted && open.is_empty() && !text.is_empty());
}

/// Returns a number of an answer.
fn number(answer: &[u8], field: &str) -> Option<i64> {
    let text = std::str::from_utf8(answer).ok()?;
    let (_, rest) = text.split_once(&format!("\"{field}\":"))?;
    rest.split([',', '}']).next()?.parse().ok()
}
