//! AVPs (RFC 6733, 4): views of the bytes of a message or Grouped AVP.
//!
//! ```text
//!  0          4       5        8                  12
//!  | AVP code | VMP   | length | vendor id if V   | data, padded to a multiple of 4
//! ```

use super::dictionary::{Avp, name};
use super::fault::Fault;
use super::header::{number24, number32};
use crate::wire::diameter::codes::ResultCode;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Maximum number of AVPs in a message or group.
pub const AVPS_MAX: usize = 512;

/// AVP Flags.
pub(super) const VENDOR: u8 = 0x80;
pub(super) const MANDATORY: u8 = 0x40;

/// Length of an AVP header without Vendor-Id, in octets.
const AVP_HEADER: usize = 8;

/// Seconds from 1900 to 1970.
const NTP_TO_UNIX: i64 = 2_208_988_800;

/// An AVP as it was received.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RawAvp<'a> {
    /// AVP Code.
    pub code: u32,
    /// Vendor-Id; 0: none.
    pub vendor: u32,
    /// V, M, P and the reserved bits.
    pub flags: u8,
    /// Data without padding.
    pub data: &'a [u8],
}

/// Seconds since 1970. Encoded as 32 bits counting from 1900; from 2036 on the first bit is clear (RFC 6733, 4.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time(pub i64);

impl Time {
    pub(super) fn from_ntp(seconds: u32) -> Time {
        let era = if seconds & 0x8000_0000 == 0 { 1 << 32 } else { 0 };
        Time(i64::from(seconds) + era - NTP_TO_UNIX)
    }

    /// Wraps for times before 1968 or after 2104.
    pub(super) fn to_ntp(self) -> u32 {
        (self.0.wrapping_add(NTP_TO_UNIX) & 0xffff_ffff) as u32
    }
}

/// An Address (RFC 6733, 4.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6.
    Ip(IpAddr),
    /// Another address family of the IANA registry.
    Other(u16),
}

impl<'a> RawAvp<'a> {
    /// Whether code and vendor are those of `avp`.
    pub fn is(&self, avp: Avp) -> bool {
        self.code == avp.code && self.vendor == avp.vendor
    }

    /// Whether the M flag is set: a receiver that does not know the AVP must not ignore it.
    pub fn is_mandatory(&self) -> bool {
        self.flags & MANDATORY != 0
    }

    /// Unsigned32.
    pub fn u32(&self) -> Result<u32, Fault<'a>> {
        self.fixed().map(u32::from_be_bytes)
    }

    /// Unsigned64.
    pub fn u64(&self) -> Result<u64, Fault<'a>> {
        self.fixed().map(u64::from_be_bytes)
    }

    /// Integer32, or the number of an Enumerated.
    pub fn i32(&self) -> Result<i32, Fault<'a>> {
        self.fixed().map(i32::from_be_bytes)
    }

    /// Integer64.
    pub fn i64(&self) -> Result<i64, Fault<'a>> {
        self.fixed().map(i64::from_be_bytes)
    }

    /// UTF8String or DiameterIdentity.
    pub fn text(&self) -> Result<&'a str, Fault<'a>> {
        std::str::from_utf8(self.data).map_err(|_| self.invalid(ResultCode::INVALID_AVP_VALUE))
    }

    /// Time.
    pub fn time(&self) -> Result<Time, Fault<'a>> {
        self.u32().map(Time::from_ntp)
    }

    /// Address.
    pub fn address(&self) -> Result<Address, Fault<'a>> {
        let wrong = || self.invalid(ResultCode::INVALID_AVP_LENGTH);
        let (family, octets) = self.data.split_at_checked(2).ok_or_else(wrong)?;
        let family = family.try_into().map(u16::from_be_bytes).map_err(|_| wrong())?;
        match family {
            1 => octets.try_into().map(|four: [u8; 4]| Address::Ip(Ipv4Addr::from(four).into())).map_err(|_| wrong()),
            2 => octets.try_into().map(|all: [u8; 16]| Address::Ip(Ipv6Addr::from(all).into())).map_err(|_| wrong()),
            other => Ok(Address::Other(other)),
        }
    }

    /// Iterates over the AVPs of a Grouped AVP.
    pub fn group(&self) -> Avps<'a> {
        Avps::new(self.data)
    }

    fn fixed<const OCTETS: usize>(&self) -> Result<[u8; OCTETS], Fault<'a>> {
        self.data.try_into().map_err(|_| self.invalid(ResultCode::INVALID_AVP_LENGTH))
    }

    pub(super) fn invalid(&self, result: ResultCode) -> Fault<'a> {
        Fault::offending(result, *self)
    }
}

/// Shows the name but not the data, which may identify a subscriber.
impl fmt::Debug for RawAvp<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = name(self.code, self.vendor).unwrap_or("AVP");
        write!(out, "{name} ({}, vendor {}, {} octets)", self.code, self.vendor, self.data.len())
    }
}

/// Iterator over the AVPs of a message or group. It ends after the first malformed AVP, because the start of the next
/// one is unknown.
#[derive(Clone, Debug)]
pub struct Avps<'a> {
    rest: &'a [u8],
    count: usize,
}

impl<'a> Avps<'a> {
    /// Creates the iterator. `bytes` is empty or begins with an AVP.
    pub fn new(bytes: &'a [u8]) -> Avps<'a> {
        Avps { rest: bytes, count: 0 }
    }

    fn take(&mut self) -> Result<RawAvp<'a>, Fault<'a>> {
        self.count += 1;
        if self.count > AVPS_MAX {
            return Err(Fault::new(ResultCode::UNABLE_TO_COMPLY));
        }
        let bytes = self.rest;
        let code = number32(bytes, 0).ok_or_else(|| short(bytes))?;
        let flags = *bytes.get(4).ok_or_else(|| short(bytes))?;
        let length = number24(bytes, 5).ok_or_else(|| short(bytes))? as usize;
        let (vendor, header) = match flags & VENDOR != 0 {
            true => (number32(bytes, AVP_HEADER).ok_or_else(|| short(bytes))?, AVP_HEADER + 4),
            false => (0, AVP_HEADER),
        };
        let malformed = || Fault::offending(ResultCode::INVALID_AVP_LENGTH, RawAvp { code, vendor, flags, data: &[] });
        let data = bytes.get(header..length).ok_or_else(malformed)?;
        self.rest = bytes.get(length.next_multiple_of(4)..).ok_or_else(malformed)?;
        Ok(RawAvp { code, vendor, flags, data })
    }
}

impl<'a> Iterator for Avps<'a> {
    type Item = Result<RawAvp<'a>, Fault<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = self.take();
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}

/// The fault of an incomplete AVP header: the header that is present, padded with zeros (RFC 6733, 7.1.5).
fn short(bytes: &[u8]) -> Fault<'_> {
    let mut header = [0; 12];
    for (to, from) in header.iter_mut().zip(bytes) {
        *to = *from;
    }
    let code = number32(&header, 0).unwrap_or_default();
    let vendor = number32(&header, AVP_HEADER).unwrap_or_default();
    let flags = if vendor == 0 { header[4] & !VENDOR } else { header[4] };
    Fault::offending(ResultCode::INVALID_AVP_LENGTH, RawAvp { code, vendor, flags, data: &[] })
}
