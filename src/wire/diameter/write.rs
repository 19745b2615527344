//! Appends messages to a buffer, so that several are sent in one write. Lengths are set once their content is complete.

use super::avp::{Address, MANDATORY, RawAvp, Time, VENDOR};
use super::dictionary::{self, Avp, Command};
use super::fault::{Failed, Fault};
use super::header::{EndToEnd, Flags, HEADER_LENGTH, Header, HopByHop, MAX_MESSAGE, VERSION};
use std::net::IpAddr;

/// The message would be longer than [`MAX_MESSAGE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message length {0} exceeds {MAX_MESSAGE}")]
pub struct TooLong(pub usize);

/// A message being written. If it is dropped before [`finish`](Writer::finish), it is removed from the buffer.
#[derive(Debug)]
#[must_use]
pub struct Writer<'b> {
    out: &'b mut Vec<u8>,
    start: usize,
    finished: bool,
}

impl<'b> Writer<'b> {
    /// Begins a request with these flags and the R flag.
    pub fn request(
        out: &'b mut Vec<u8>,
        command: Command,
        flags: Flags,
        application: u32,
        hop_by_hop: HopByHop,
        end_to_end: EndToEnd,
    ) -> Writer<'b> {
        let flags = flags.with(Flags::REQUEST);
        Writer::begin(out, &Header { length: 0, flags, command, application, hop_by_hop, end_to_end })
    }

    /// Begins the answer to a request, with the P flag of the request (RFC 6733, 6.2).
    pub fn answer(out: &'b mut Vec<u8>, request: &Header) -> Writer<'b> {
        let flags = Flags(request.flags.0 & Flags::PROXIABLE.0);
        Writer::begin(out, &Header { flags, ..*request })
    }

    /// Begins an answer with the E flag. Its grammar is that of RFC 6733, 7.2 for all commands.
    pub fn error_answer(out: &'b mut Vec<u8>, request: &Header) -> Writer<'b> {
        let flags = Flags(request.flags.0 & Flags::PROXIABLE.0).with(Flags::ERROR);
        Writer::begin(out, &Header { flags, ..*request })
    }

    fn begin(out: &'b mut Vec<u8>, header: &Header) -> Writer<'b> {
        let start = out.len();
        let [_, command @ ..] = header.command.0.to_be_bytes();
        let mut bytes = [0; HEADER_LENGTH];
        bytes[0] = VERSION;
        bytes[4] = header.flags.0;
        bytes[5..8].copy_from_slice(&command);
        bytes[8..12].copy_from_slice(&header.application.to_be_bytes());
        bytes[12..16].copy_from_slice(&header.hop_by_hop.0.to_be_bytes());
        bytes[16..20].copy_from_slice(&header.end_to_end.0.to_be_bytes());
        out.extend_from_slice(&bytes);
        Writer { out, start, finished: false }
    }

    /// Ends the message and returns its length. A message that is too long is removed from the buffer.
    pub fn finish(mut self) -> Result<usize, TooLong> {
        let length = self.out.len() - self.start;
        if length > MAX_MESSAGE {
            return Err(TooLong(length));
        }
        put24(self.out, self.start + 1, length);
        self.finished = true;
        Ok(length)
    }

    /// Unsigned32.
    pub fn u32(&mut self, avp: Avp, value: u32) {
        self.octets(avp, &value.to_be_bytes());
    }

    /// Unsigned64.
    pub fn u64(&mut self, avp: Avp, value: u64) {
        self.octets(avp, &value.to_be_bytes());
    }

    /// Integer32 and Enumerated.
    pub fn i32(&mut self, avp: Avp, value: i32) {
        self.octets(avp, &value.to_be_bytes());
    }

    /// Integer64.
    pub fn i64(&mut self, avp: Avp, value: i64) {
        self.octets(avp, &value.to_be_bytes());
    }

    /// UTF8String and DiameterIdentity.
    pub fn text(&mut self, avp: Avp, value: &str) {
        self.octets(avp, value.as_bytes());
    }

    /// Time.
    pub fn time(&mut self, avp: Avp, value: Time) {
        self.octets(avp, &value.to_ntp().to_be_bytes());
    }

    /// Address. For families other than IPv4 and IPv6, only the family is written.
    pub fn address(&mut self, avp: Avp, value: Address) {
        let (family, octets): (u16, &[u8]) = match &value {
            Address::Ip(IpAddr::V4(ip)) => (1, &ip.octets()),
            Address::Ip(IpAddr::V6(ip)) => (2, &ip.octets()),
            Address::Other(family) => (*family, &[]),
        };
        let place = self.open(avp);
        self.out.extend_from_slice(&family.to_be_bytes());
        self.out.extend_from_slice(octets);
        self.close(place);
    }

    /// OctetString.
    pub fn octets(&mut self, avp: Avp, value: &[u8]) {
        let place = self.open(avp);
        self.out.extend_from_slice(value);
        self.close(place);
    }

    /// Grouped, with the AVPs that `fill` writes.
    pub fn group(&mut self, avp: Avp, fill: impl FnOnce(&mut Writer<'b>)) {
        let place = self.open(avp);
        fill(self);
        self.close(place);
    }

    /// Result-Code and, if the fault concerns an AVP, Failed-AVP.
    pub fn fault(&mut self, fault: &Fault<'_>) {
        self.u32(dictionary::RESULT_CODE, fault.result.0);
        let Some(failed) = fault.failed else { return };
        let zeros = [0; 8];
        let zeros = zeros.get(..failed.least_data()).unwrap_or_default();
        self.group(dictionary::FAILED_AVP, |group| match failed {
            Failed::Missing(avp) => group.octets(avp, zeros),
            Failed::Offending(raw) if raw.data.is_empty() => group.raw(RawAvp { data: zeros, ..raw }),
            Failed::Offending(raw) => group.raw(raw),
        });
    }

    /// Writes an AVP as it was received.
    pub fn raw(&mut self, avp: RawAvp<'_>) {
        let place = self.open_as(avp.code, avp.vendor, avp.flags & !VENDOR);
        self.out.extend_from_slice(avp.data);
        self.close(place);
    }

    fn open(&mut self, avp: Avp) -> usize {
        self.open_as(avp.code, avp.vendor, if avp.mandatory { MANDATORY } else { 0 })
    }

    /// Writes an AVP header without its length, and returns its offset.
    fn open_as(&mut self, code: u32, vendor: u32, flags: u8) -> usize {
        let place = self.out.len();
        let flags = if vendor == 0 { flags } else { flags | VENDOR };
        self.out.extend_from_slice(&code.to_be_bytes());
        self.out.extend_from_slice(&[flags, 0, 0, 0]);
        if vendor != 0 {
            self.out.extend_from_slice(&vendor.to_be_bytes());
        }
        place
    }

    /// Sets the length of the AVP and pads it.
    fn close(&mut self, place: usize) {
        let end = self.out.len();
        // A length of more than 24 bits is truncated; such a message is too long and never sent.
        put24(self.out, place + 5, end - place);
        self.out.resize(end + (end - place).next_multiple_of(4) - (end - place), 0);
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.start);
        }
    }
}

/// Writes an answer with the E flag, to a request that cannot be decoded.
pub fn refuse(
    out: &mut Vec<u8>,
    request: &Header,
    session_id: Option<&str>,
    (host, realm): (&str, &str),
    fault: &Fault<'_>,
) -> Result<usize, TooLong> {
    let mut answer = Writer::error_answer(out, request);
    if let Some(session_id) = session_id {
        answer.text(dictionary::SESSION_ID, session_id);
    }
    answer.text(dictionary::ORIGIN_HOST, host);
    answer.text(dictionary::ORIGIN_REALM, realm);
    answer.fault(fault);
    answer.finish()
}

/// Overwrites 24 bits at this offset.
fn put24(out: &mut [u8], at: usize, value: usize) {
    let [.., a, b, c] = value.to_be_bytes();
    if let Some(place) = out.get_mut(at..at + 3) {
        place.copy_from_slice(&[a, b, c]);
    }
}
