//! Reads the fields that charging needs from a SIP message of the host.

use super::address::ip;
use super::bindings as sys;
use super::parameters::{self, Format};
use crate::charge::event::{Direction, Suspended};
use crate::charge::service::ChargedContent;
use crate::worker::raw_sip;
use crate::worker::sip_input::{Body, Dialog, Invite, InviteKey, Reply, Request, Source};
use std::ffi::c_int;

/// Returns a text of the host as bytes; empty if there is none.
///
/// # Safety
/// The memory that the text points to must live as long as `'a`.
pub unsafe fn bytes<'a>(text: &sys::_str) -> &'a [u8] {
    match usize::try_from(text.len) {
        // SAFETY: the host's texts have `len` octets at `s` (checked above); their lifetime is guaranteed by the caller.
        Ok(length) if length > 0 && !text.s.is_null() => unsafe { std::slice::from_raw_parts(text.s.cast(), length) },
        _ => &[],
    }
}

/// Subscriber and direction of an INVITE or MESSAGE, as far as the script chooses them by parameters with pseudo-variables.
#[derive(Debug, Default)]
pub struct ScriptChoice {
    /// The identity to charge. Empty: the parameter `subscriber` is one of the fixed words.
    pub subscriber: Vec<u8>,
    /// The direction. `None`: the parameter `direction` is one of the fixed words.
    pub direction: Option<Direction>,
}

impl ScriptChoice {
    /// Evaluates the parameters for a request. `None`: the value of `direction` is invalid; this is logged.
    ///
    /// # Safety
    /// `message` must be the host's current request.
    pub unsafe fn evaluate(message: *mut sys::sip_msg) -> Option<ScriptChoice> {
        // SAFETY: guaranteed by the caller.
        let (subscriber, direction) = unsafe {
            let subscriber = parameters::subscriber().map(|format| evaluate(message, format));
            (subscriber, parameters::direction().map(|format| evaluate(message, format)))
        };
        // An empty value must not select the fixed rule, which would charge another party.
        let subscriber = subscriber.map(|text| if text.is_empty() { b"-".to_vec() } else { text });
        let direction = match direction.as_deref() {
            None => None,
            Some(b"push") => Some(Direction::Push),
            // A pseudo-variable without a value evaluates to an empty text or <null>.
            Some(b"pull" | b"" | b"<null>") => Some(Direction::Pull),
            Some(other) => {
                let other = String::from_utf8_lossy(other.get(..40).unwrap_or(other)).into_owned();
                log::error!("imcharge_reserve: parameter direction: its value is '{other}'; it must be pull or push");
                return None;
            }
        };
        Some(ScriptChoice { subscriber: subscriber.unwrap_or_default(), direction })
    }
}

/// Evaluates a text with pseudo-variables; empty if it has no value.
///
/// # Safety
/// `message` must be the host's current request.
unsafe fn evaluate(message: *mut sys::sip_msg, format: Format) -> Vec<u8> {
    let mut value = sys::_str::default();
    // SAFETY: the format was parsed at start-up; the value is overwritten by the host's next evaluation, so it is copied.
    unsafe {
        match sys::pv_printf_s(message, format.0, &mut value) {
            0 => bytes(&value).to_vec(),
            _ => Vec::new(),
        }
    }
}

/// A SIP message of the host, valid during a call.
#[derive(Clone, Copy)]
pub struct Message<'a>(&'a sys::sip_msg);

/// The header fields that identify a dialog.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// Call-ID.
    pub call_id: &'a [u8],
    /// From tag.
    pub from_tag: &'a [u8],
    /// To tag; empty in an initial request.
    pub to_tag: &'a [u8],
}

impl<'a> Message<'a> {
    /// Wraps a message of the host; `None` for NULL and for `FAKED_REPLY`, the host's marker of a missing reply.
    ///
    /// # Safety
    /// The pointer must be NULL, the host's `FAKED_REPLY` (-1), or a message that lives as long as `'a`.
    pub unsafe fn new(message: *const sys::sip_msg) -> Option<Message<'a>> {
        if message.is_null() || message as isize == -1 {
            return None;
        }
        // SAFETY: neither NULL nor the mark, so the caller guarantees a message.
        Some(Message(unsafe { &*message }))
    }

    /// Returns the host's structure.
    pub fn host(self) -> &'a sys::sip_msg {
        self.0
    }

    fn pointer(self) -> *mut sys::sip_msg {
        std::ptr::from_ref(self.0).cast_mut()
    }

    /// Parses all headers. Only for messages in private memory: those of a transaction are shared and must not change.
    pub fn parse(self) -> bool {
        // SAFETY: the host's own message in this process's private memory.
        unsafe {
            sys::parse_headers(self.pointer(), u64::MAX as sys::hdr_flags_t, 0) == 0
                && sys::parse_from_header(self.pointer()) == 0
        }
    }

    /// Parses Call-ID, From, To and CSeq. Only for messages in private memory.
    pub fn parse_identity(self) -> bool {
        let wanted = 1u64 << sys::HDR_CALLID_T | 1 << sys::HDR_FROM_T | 1 << sys::HDR_TO_T | 1 << sys::HDR_CSEQ_T;
        // SAFETY: as in `parse`.
        unsafe {
            sys::parse_headers(self.pointer(), wanted as sys::hdr_flags_t, 0) == 0
                && sys::parse_from_header(self.pointer()) == 0
        }
    }

    /// Returns the host's number of the method; `None` for a reply.
    pub fn method(self) -> Option<c_int> {
        match self.0.first_line.type_ {
            // SAFETY: for type SIP_REQUEST (1) the union holds a request.
            1 => Some(unsafe { self.0.first_line.u.request.method_value }),
            _ => None,
        }
    }

    /// Returns the status code; `None` for a request.
    pub fn status(self) -> Option<u16> {
        match self.0.first_line.type_ {
            // SAFETY: for type SIP_REPLY (2) the union holds a reply.
            2 => u16::try_from(unsafe { self.0.first_line.u.reply.statuscode }).ok(),
            _ => None,
        }
    }

    /// Returns the sender. The port is 0 for transports other than UDP, whose ports do not identify the sender.
    fn source(self) -> Option<Source> {
        let received = &self.0.rcv;
        let address = ip(&received.src_ip)?;
        let has_connections = i64::from(received.proto) != i64::from(sys::PROTO_UDP);
        Some(Source { address, port: if has_connections { 0 } else { received.src_port } })
    }

    /// Returns the request as received. It is read from the raw octets, so this also works on the shared message of a
    /// transaction.
    pub fn request(self) -> Option<Request<'a>> {
        raw_sip::request(self.octets(), self.source())
    }

    /// Returns the body of a request as received; empty if it cannot be read.
    pub fn body(self) -> Body<'a> {
        self.request().map(|request| request.body).unwrap_or_default()
    }

    /// Returns the reply as received, read from the raw octets.
    pub fn reply(self) -> Option<Reply<'a>> {
        raw_sip::reply(self.octets(), self.source())
    }

    /// Returns the Request-URI as received; empty for a reply.
    pub fn request_uri(self) -> &'a [u8] {
        match self.method() {
            // SAFETY: a request; its text lies in the message's buffer.
            Some(_) => unsafe { bytes(&self.0.first_line.u.request.uri) },
            None => &[],
        }
    }

    /// Returns Call-ID and tags. The headers must have been parsed.
    pub fn identity(self) -> Option<Identity<'a>> {
        // SAFETY: headers and their parsed bodies live as long as the message; From and To are parsed into to_body.
        unsafe {
            let from = self.0.from.as_ref()?.parsed.cast::<sys::to_body>().as_ref()?;
            let to = self.0.to.as_ref()?.parsed.cast::<sys::to_body>().as_ref()?;
            let call_id = bytes(&self.0.callid.as_ref()?.body);
            Some(Identity { call_id, from_tag: bytes(&from.tag_value), to_tag: bytes(&to.tag_value) })
        }
    }

    /// Returns the dialog of a request or reply. The headers must have been parsed.
    pub fn dialog(self) -> Option<Dialog<'a>> {
        let Identity { call_id, from_tag, to_tag } = self.identity()?;
        Some(Dialog { call_id, from_tag, to_tag })
    }

    /// Returns the input for a reservation; `None` if this is not an initial INVITE. Identities and the charging vector are
    /// read from `edited`, which has the script's edits; the key of the session and the Request-URI are those received.
    /// The headers of both must have been parsed.
    pub fn invite(self, edited: Message<'a>, choice: &'a ScriptChoice, messages: u32) -> Option<Invite<'a>> {
        self.identity().filter(|identity| identity.to_tag.is_empty())?;
        self.charged_request(edited, choice, messages)
    }

    /// Returns the input for the reservation of a MESSAGE, within a dialog or not; as [`Message::invite`].
    pub fn charged_request(self, edited: Message<'a>, choice: &'a ScriptChoice, messages: u32) -> Option<Invite<'a>> {
        let identity = self.identity()?;
        let key = InviteKey { call_id: identity.call_id, from_tag: identity.from_tag, cseq: self.cseq()? };
        Some(Invite {
            key,
            asserted: edited.first_headers("P-Asserted-Identity"),
            from: edited.from(),
            called_party: edited.header("P-Called-Party-ID"),
            request_uri: self.request_uri(),
            subscriber: &choice.subscriber,
            direction: choice.direction,
            charging_vector: edited.header("P-Charging-Vector"),
            messages,
            content: ChargedContent::Received,
            recipients: 0,
            tariff: b"",
            offer: Body::default(),
            suspended: Suspended::default(),
        })
    }

    /// Returns the CSeq number. The headers must have been parsed.
    pub fn cseq(self) -> Option<u32> {
        // SAFETY: as in `identity`; CSeq is parsed into cseq_body.
        let number = unsafe { bytes(&self.0.cseq.as_ref()?.parsed.cast::<sys::cseq_body>().as_ref()?.number) };
        std::str::from_utf8(number).ok()?.parse().ok()
    }

    /// Returns the whole value of the From header. The headers must have been parsed.
    pub fn from(self) -> &'a [u8] {
        // SAFETY: a header lives as long as its message.
        unsafe { self.0.from.as_ref().map_or(&[], |from| bytes(&from.body)) }
    }

    /// Returns the value of the first header of this name; empty if there is none. The headers must have been parsed.
    pub fn header(self, name: &str) -> &'a [u8] {
        let [first] = self.first_headers(name);
        first
    }

    /// Returns the values of the first `COUNT` headers of this name; the rest is empty if there are fewer.
    fn first_headers<const COUNT: usize>(self, name: &str) -> [&'a [u8]; COUNT] {
        let mut found = [&[][..]; COUNT];
        let mut places = found.iter_mut();
        for header in self.headers() {
            // SAFETY: the texts of a header live as long as its message.
            if unsafe { bytes(&header.name) }.eq_ignore_ascii_case(name.as_bytes()) {
                let Some(place) = places.next() else { break };
                // SAFETY: as above.
                *place = unsafe { bytes(&header.body) };
            }
        }
        found
    }

    /// Returns the headers that have been parsed.
    pub fn headers(self) -> impl Iterator<Item = &'a sys::hdr_field> {
        // SAFETY: the list of headers lives as long as the message.
        let first = unsafe { self.0.headers.as_ref() };
        // SAFETY: as above.
        std::iter::successors(first, |header| unsafe { header.next.as_ref() })
    }

    fn octets(self) -> &'a [u8] {
        // SAFETY: the host's buffer holds `len` octets of the message as received.
        unsafe { bytes(&sys::_str { s: self.0.buf, len: self.0.len as c_int }) }
    }
}
