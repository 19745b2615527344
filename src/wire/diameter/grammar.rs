//! Grammars of messages and groups as tables: each row has a field, how often its AVP may occur, its type and the AVP.
//! Struct, decoder and encoder are generated from the table.
//!
//! | keyword | occurs | RFC 6733, 3.2 |
//! |---|---|---|
//! | `one` | exactly once | `{ }` |
//! | `optional` | at most once | `[ ]` |
//! | `many` | up to [`MANY_MAX`] times | `*[ ]` |
//! | `some` | the same, but at least once | `1*{ }` |
//!
//! AVPs that are not in the table: without the M flag they are ignored; with it, a request is refused (AVP_UNSUPPORTED)
//! and an answer reports them. The AVPs listed after `known` are understood and not used. Groups are decoded by the
//! type of their row, so nesting in the input cannot exceed that of the types.

use super::avp::{Address, Avps, RawAvp, Time};
use super::dictionary::Avp;
use super::fault::Fault;
use super::write::Writer;
use crate::wire::diameter::codes;
use crate::wire::diameter::codes::ResultCode;

/// Maximum number of occurrences of a repeated AVP in one message or group.
pub const MANY_MAX: usize = 64;

/// State of a decoder.
pub(super) struct Reading {
    /// Whether an unknown AVP with the M flag is a fault.
    strict: bool,
    /// Code and vendor of the first unknown AVP with the M flag.
    pub(super) unsupported: Option<(u32, u32)>,
}

impl Reading {
    /// Of a request, which can be refused.
    pub(super) fn request() -> Reading {
        Reading { strict: true, unsupported: None }
    }

    /// Of an answer, which reports unknown AVPs.
    pub(super) fn answer() -> Reading {
        Reading { strict: false, unsupported: None }
    }

    /// Handles an AVP without a row.
    pub(super) fn other<'a>(&mut self, avp: RawAvp<'a>, known: &[&[Avp]]) -> Result<(), Fault<'a>> {
        if !avp.is_mandatory() || known.iter().copied().flatten().any(|known| avp.is(*known)) {
            return Ok(());
        }
        if self.strict {
            return Err(avp.invalid(ResultCode::AVP_UNSUPPORTED));
        }
        self.unsupported.get_or_insert((avp.code, avp.vendor));
        Ok(())
    }

    /// Stores an AVP that may occur once.
    pub(super) fn put<'a, T: Value<'a>>(&mut self, place: &mut Option<T>, avp: RawAvp<'a>) -> Result<(), Fault<'a>> {
        if place.is_some() {
            return Err(avp.invalid(ResultCode::AVP_OCCURS_TOO_MANY_TIMES));
        }
        *place = Some(T::read(avp, self)?);
        Ok(())
    }

    /// Adds an AVP that may be repeated.
    pub(super) fn add<'a, T: Value<'a>>(&mut self, places: &mut Vec<T>, avp: RawAvp<'a>) -> Result<(), Fault<'a>> {
        if places.len() >= MANY_MAX {
            return Err(avp.invalid(ResultCode::AVP_OCCURS_TOO_MANY_TIMES));
        }
        places.push(T::read(avp, self)?);
        Ok(())
    }
}

/// A type of a row.
pub(super) trait Value<'a>: Sized {
    fn read(avp: RawAvp<'a>, reading: &mut Reading) -> Result<Self, Fault<'a>>;
    fn write(&self, avp: Avp, out: &mut Writer<'_>);
}

/// A struct generated from a table.
pub(super) trait Body<'a>: Sized {
    fn read_avps(avps: Avps<'a>, reading: &mut Reading) -> Result<Self, Fault<'a>>;
    fn write_avps(&self, out: &mut Writer<'_>);
}

impl<'a, T: Body<'a>> Value<'a> for T {
    fn read(avp: RawAvp<'a>, reading: &mut Reading) -> Result<Self, Fault<'a>> {
        T::read_avps(avp.group(), reading)
    }

    fn write(&self, avp: Avp, out: &mut Writer<'_>) {
        out.group(avp, |out| self.write_avps(out));
    }
}

/// Types with a method of RawAvp and Writer.
macro_rules! values {
    ($($type:ty: $method:ident;)*) => {$(
        impl<'a> Value<'a> for $type {
            fn read(avp: RawAvp<'a>, _: &mut Reading) -> Result<Self, Fault<'a>> {
                avp.$method()
            }

            fn write(&self, avp: Avp, out: &mut Writer<'_>) {
                out.$method(avp, *self);
            }
        }
    )*};
}

values! {
    u32: u32;
    u64: u64;
    i32: i32;
    i64: i64;
    &'a str: text;
    Time: time;
    Address: address;
}

/// OctetString.
impl<'a> Value<'a> for &'a [u8] {
    fn read(avp: RawAvp<'a>, _: &mut Reading) -> Result<Self, Fault<'a>> {
        Ok(avp.data)
    }

    fn write(&self, avp: Avp, out: &mut Writer<'_>) {
        out.octets(avp, self);
    }
}

/// Types of `codes`.
macro_rules! named {
    ($($type:ident: $method:ident;)*) => {$(
        impl<'a> Value<'a> for codes::$type {
            fn read(avp: RawAvp<'a>, _: &mut Reading) -> Result<Self, Fault<'a>> {
                avp.$method().map(codes::$type)
            }

            fn write(&self, avp: Avp, out: &mut Writer<'_>) {
                out.$method(avp, self.0);
            }
        }
    )*};
}

named! {
    ResultCode: u32;
    RequestType: i32;
    RequestedAction: i32;
    CheckBalanceResult: i32;
    SessionFailover: i32;
    FailureHandling: i32;
    DebitFailureHandling: i32;
    FinalUnitAction: i32;
    RedirectAddressType: i32;
    SubscriptionIdType: i32;
    MultipleServices: i32;
    TariffChangeUsage: i32;
    TerminationCause: i32;
    DisconnectCause: i32;
    ReAuthRequestType: i32;
    ReportingReason: i32;
}

/// Failed-AVP. The AVP in it may be malformed; as much as possible is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailedAvp<'a> {
    /// The first AVP in it.
    pub avp: Option<RawAvp<'a>>,
}

impl<'a> Body<'a> for FailedAvp<'a> {
    fn read_avps(mut avps: Avps<'a>, _: &mut Reading) -> Result<Self, Fault<'a>> {
        let avp = avps.next().and_then(|avp| match avp {
            Ok(avp) => Some(avp),
            Err(Fault { failed: Some(super::fault::Failed::Offending(avp)), .. }) => Some(avp),
            Err(_) => None,
        });
        Ok(FailedAvp { avp })
    }

    fn write_avps(&self, out: &mut Writer<'_>) {
        if let Some(avp) = self.avp {
            out.raw(avp);
        }
    }
}

/// Generates structs, decoders and encoders. The order of the rows is the order on the wire.
macro_rules! grammar {
    ($(
        $(#[$meta:meta])*
        $name:ident $(<$life:lifetime>)? {
            $($(#[$about:meta])* $field:ident: $occurs:ident $type:ty = $avp:ident;)*
        } known $known:expr;
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name $(<$life>)? {
            $($(#[$about])* pub $field: grammar!(@type $occurs $type),)*
        }

        impl<'a> Body<'a> for $name $(<$life>)? {
            fn read_avps(avps: Avps<'a>, reading: &mut Reading) -> Result<Self, Fault<'a>> {
                $(let mut $field = grammar!(@empty $occurs);)*
                for avp in avps {
                    let avp = avp?;
                    match avp {
                        $(_ if avp.is(dictionary::$avp) => grammar!(@put $occurs reading $field avp),)*
                        _ => reading.other(avp, $known)?,
                    }
                }
                Ok($name { $($field: grammar!(@take $occurs $field $avp),)* })
            }

            fn write_avps(&self, out: &mut Writer<'_>) {
                $(grammar!(@write $occurs self $field $avp out);)*
            }
        }
    )*};
    (@type one $type:ty) => { $type };
    (@type optional $type:ty) => { Option<$type> };
    (@type many $type:ty) => { Vec<$type> };
    (@type some $type:ty) => { Vec<$type> };
    (@empty one) => { None };
    (@empty optional) => { None };
    (@empty many) => { Vec::new() };
    (@empty some) => { Vec::new() };
    (@put one $reading:ident $field:ident $raw:ident) => { $reading.put(&mut $field, $raw)? };
    (@put optional $reading:ident $field:ident $raw:ident) => { $reading.put(&mut $field, $raw)? };
    (@put many $reading:ident $field:ident $raw:ident) => { $reading.add(&mut $field, $raw)? };
    (@put some $reading:ident $field:ident $raw:ident) => { $reading.add(&mut $field, $raw)? };
    (@take one $field:ident $avp:ident) => { $field.ok_or(Fault::missing(dictionary::$avp))? };
    (@take optional $field:ident $avp:ident) => { $field };
    (@take many $field:ident $avp:ident) => { $field };
    (@take some $field:ident $avp:ident) => {
        match $field.is_empty() {
            true => return Err(Fault::missing(dictionary::$avp)),
            false => $field,
        }
    };
    (@write one $self:ident $field:ident $avp:ident $out:ident) => { $self.$field.write(dictionary::$avp, $out) };
    (@write $occurs:ident $self:ident $field:ident $avp:ident $out:ident) => {
        for value in $self.$field.iter() {
            value.write(dictionary::$avp, $out);
        }
    };
}
pub(super) use grammar;
