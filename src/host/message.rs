//! Reads what charging needs of a SIP message that the host has parsed.

use super::bindings as sys;
use super::parameters::{self, Format};
use crate::charge::event::{Direction, Suspended};
use crate::worker::raw_sip;
use crate::worker::sip_input::{Body, Dialog, Invite, InviteKey, Reply, Request, Source};
use std::ffi::c_int;
use std::net::IpAddr;

/// A host's text as bytes; empty where there is none.
///
/// # Safety
/// What the text points to must live as long as `'a`.
pub unsafe fn bytes<'a>(text: &sys::_str) -> &'a [u8] {
    match usize::try_from(text.len) {
        // SAFETY: the host's texts have `len` octets at `s` (checked to be there); the life is the caller's promise.
        Ok(length) if length > 0 && !text.s.is_null() => unsafe { std::slice::from_raw_parts(text.s.cast(), length) },
        _ => &[],
    }
}

/// What the script has chosen for an INVITE.
#[derive(Debug, Default)]
pub struct Chosen {
    /// The identity to charge; empty: decided by the parameter `subscriber`.
    pub subscriber: Vec<u8>,
    /// The direction; `None`: decided by the parameter `direction`.
    pub direction: Option<Direction>,
}

impl Chosen {
    /// Evaluates the parameters that are texts with pseudo-variables. `None`: the direction is none, which is logged.
    ///
    /// # Safety
    /// `message` must be the host's current request.
    pub unsafe fn of(message: *mut sys::sip_msg) -> Option<Chosen> {
        // SAFETY: by the caller's promise.
        let (subscriber, direction) = unsafe {
            let subscriber = parameters::subscriber().map(|format| filled(message, format));
            (subscriber, parameters::direction().map(|format| filled(message, format)))
        };
        // What names nobody must not fall back to another party.
        let subscriber = subscriber.map(|text| if text.is_empty() { b"-".to_vec() } else { text });
        let direction = match direction.as_deref() {
            None => None,
            Some(b"push") => Some(Direction::Push),
            // A variable without a value is empty, or <null>.
            Some(b"pull" | b"" | b"<null>") => Some(Direction::Pull),
            Some(other) => {
                let other = String::from_utf8_lossy(other.get(..40).unwrap_or(other)).into_owned();
                log::error!("imcharge_reserve: parameter direction: its value is '{other}'; it must be pull or push");
                return None;
            }
        };
        Some(Chosen { subscriber: subscriber.unwrap_or_default(), direction })
    }
}

/// The value of a text with pseudo-variables; empty where it has none.
///
/// # Safety
/// `message` must be the host's current request.
unsafe fn filled(message: *mut sys::sip_msg, format: Format) -> Vec<u8> {
    let mut value = sys::_str::default();
    // SAFETY: the format was parsed at the start; the value lives until the host's next format, so it is copied.
    unsafe {
        match sys::pv_printf_s(message, format.0, &mut value) {
            0 => bytes(&value).to_vec(),
            _ => Vec::new(),
        }
    }
}

/// A SIP message of the host, for the time of a call.
#[derive(Clone, Copy)]
pub struct Message<'a>(&'a sys::sip_msg);

/// The dialog's fields, as both requests and replies have them.
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
    /// A message that the host has handed over; `None` for NULL and for the mark of a reply that never came.
    ///
    /// # Safety
    /// The pointer must be NULL, the host's `FAKED_REPLY` (-1), or a message that lives as long as `'a`.
    pub unsafe fn new(message: *const sys::sip_msg) -> Option<Message<'a>> {
        if message.is_null() || message as isize == -1 {
            return None;
        }
        // SAFETY: neither NULL nor the mark, so a message, by the caller's promise.
        Some(Message(unsafe { &*message }))
    }

    /// The host's structure.
    pub fn host(self) -> &'a sys::sip_msg {
        self.0
    }

    fn pointer(self) -> *mut sys::sip_msg {
        std::ptr::from_ref(self.0).cast_mut()
    }

    /// Parses all headers. Only for messages in private memory: those of a transaction are shared and final.
    pub fn parse(self) -> bool {
        // SAFETY: the host's own message in this process's private memory.
        unsafe {
            sys::parse_headers(self.pointer(), u64::MAX as sys::hdr_flags_t, 0) == 0
                && sys::parse_from_header(self.pointer()) == 0
        }
    }

    /// Parses what tells the dialog, no more.
    pub fn parse_identity(self) -> bool {
        let wanted = 1u64 << sys::HDR_CALLID_T | 1 << sys::HDR_FROM_T | 1 << sys::HDR_TO_T | 1 << sys::HDR_CSEQ_T;
        // SAFETY: as in `parse`.
        unsafe {
            sys::parse_headers(self.pointer(), wanted as sys::hdr_flags_t, 0) == 0
                && sys::parse_from_header(self.pointer()) == 0
        }
    }

    /// Method of a request, as the host numbers them.
    pub fn method(self) -> Option<c_int> {
        match self.0.first_line.type_ {
            // SAFETY: for type SIP_REQUEST (1) the union holds a request.
            1 => Some(unsafe { self.0.first_line.u.request.method_value }),
            _ => None,
        }
    }

    /// Status of a reply.
    pub fn status(self) -> Option<u16> {
        match self.0.first_line.type_ {
            // SAFETY: for type SIP_REPLY (2) the union holds a reply.
            2 => u16::try_from(unsafe { self.0.first_line.u.reply.statuscode }).ok(),
            _ => None,
        }
    }

    /// Where it came from.
    fn source(self) -> Option<Source> {
        let received = &self.0.rcv;
        // SAFETY: an address of `len` octets in a union of octets.
        let octets = unsafe { received.src_ip.u.addr };
        let address = match received.src_ip.len {
            4 => IpAddr::from(<[u8; 4]>::try_from(&octets[..4]).ok()?),
            16 => IpAddr::from(<[u8; 16]>::try_from(&octets[..16]).ok()?),
            _ => return None,
        };
        let has_connections = i64::from(received.proto) != i64::from(sys::PROTO_UDP);
        Some(Source { address, port: if has_connections { 0 } else { received.src_port } })
    }

    /// A request as it was received. Needs no parsing, so it also reads the shared message of a transaction.
    pub fn request(self) -> Option<Request<'a>> {
        raw_sip::request(self.octets(), self.source())
    }

    /// Body of a request as it was received; empty where it cannot be read.
    pub fn body(self) -> Body<'a> {
        self.request().map(|request| request.body).unwrap_or_default()
    }

    /// A reply as it was received. Needs no parsing.
    pub fn reply(self) -> Option<Reply<'a>> {
        raw_sip::reply(self.octets(), self.source())
    }

    /// Request-URI as received.
    pub fn request_uri(self) -> &'a [u8] {
        match self.method() {
            // SAFETY: a request; its text lies in the message's buffer.
            Some(_) => unsafe { bytes(&self.0.first_line.u.request.uri) },
            None => &[],
        }
    }

    /// Call-ID and tags, after parsing.
    pub fn identity(self) -> Option<Identity<'a>> {
        // SAFETY: headers and their parsed bodies live as long as the message; From and To are parsed into to_body.
        unsafe {
            let from = self.0.from.as_ref()?.parsed.cast::<sys::to_body>().as_ref()?;
            let to = self.0.to.as_ref()?.parsed.cast::<sys::to_body>().as_ref()?;
            let call_id = bytes(&self.0.callid.as_ref()?.body);
            Some(Identity { call_id, from_tag: bytes(&from.tag_value), to_tag: bytes(&to.tag_value) })
        }
    }

    /// The dialog of a request or reply, after parsing.
    pub fn dialog(self) -> Option<Dialog<'a>> {
        let Identity { call_id, from_tag, to_tag } = self.identity()?;
        Some(Dialog { call_id, from_tag, to_tag })
    }

    /// The facts of an initial INVITE, after parsing. Identities are read from `left`, this request as the script has
    /// left it; the INVITE is named, and the called party addressed, as it was received. `None`: no initial INVITE.
    pub fn invite(self, left: Message<'a>, chosen: &'a Chosen, messages: u32) -> Option<Invite<'a>> {
        let identity = self.identity().filter(|identity| identity.to_tag.is_empty())?;
        let key = InviteKey { call_id: identity.call_id, from_tag: identity.from_tag, cseq: self.cseq()? };
        Some(Invite {
            key,
            asserted: left.first_headers("P-Asserted-Identity"),
            from: left.from(),
            called_party: left.header("P-Called-Party-ID"),
            request_uri: self.request_uri(),
            subscriber: &chosen.subscriber,
            direction: chosen.direction,
            charging_vector: left.header("P-Charging-Vector"),
            messages,
            suspended: Suspended::default(),
        })
    }

    /// CSeq number, after parsing.
    pub fn cseq(self) -> Option<u32> {
        // SAFETY: as in `identity`; CSeq is parsed into cseq_body.
        let number = unsafe { bytes(&self.0.cseq.as_ref()?.parsed.cast::<sys::cseq_body>().as_ref()?.number) };
        std::str::from_utf8(number).ok()?.parse().ok()
    }

    /// Whole value of the From header, after parsing.
    pub fn from(self) -> &'a [u8] {
        // SAFETY: a header lives as long as its message.
        unsafe { self.0.from.as_ref().map_or(&[], |from| bytes(&from.body)) }
    }

    /// Value of the first header of this name, after parsing; empty where there is none.
    pub fn header(self, name: &str) -> &'a [u8] {
        let [first] = self.first_headers(name);
        first
    }

    /// Values of the first so many headers of this name, after parsing; empty where there are fewer.
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

    /// The headers that are parsed.
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
