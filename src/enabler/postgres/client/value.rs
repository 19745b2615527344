//! Values of parameters, in binary format.

use bytes::BytesMut;
use postgres_protocol::types::{
    ArrayDimension, array_to_sql, bool_to_sql, bytea_to_sql, int2_to_sql, int4_to_sql, int8_to_sql, text_to_sql,
};
use postgres_protocol::{IsNull, Oid};
use std::error::Error;

/// Type of a parameter or a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `bool`
    Bool,
    /// `int2`
    Int2,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `text`
    Text,
    /// `bytea`
    Bytea,
    /// `int2[]`
    Int2Array,
    /// `int4[]`
    Int4Array,
    /// `int8[]`
    Int8Array,
    /// `text[]`
    TextArray,
    /// `bytea[]`
    ByteaArray,
}

impl Type {
    /// Returns its number in `pg_type`.
    pub fn oid(self) -> Oid {
        match self {
            Type::Bool => 16,
            Type::Bytea => 17,
            Type::Int8 => 20,
            Type::Int2 => 21,
            Type::Int4 => 23,
            Type::Text => 25,
            Type::ByteaArray => 1001,
            Type::Int2Array => 1005,
            Type::Int4Array => 1007,
            Type::TextArray => 1009,
            Type::Int8Array => 1016,
        }
    }
}

/// A parameter of a statement.
#[derive(Clone, Copy, Debug)]
pub enum Parameter<'a> {
    /// NULL of this type.
    Null(Type),
    /// `bool`
    Bool(bool),
    /// `int2`
    Int2(i16),
    /// `int4`
    Int4(i32),
    /// `int8`
    Int8(i64),
    /// `text`, without the character NUL.
    Text(&'a str),
    /// `bytea`
    Bytea(&'a [u8]),
    /// `int2[]`
    Int2Array(&'a [i16]),
    /// `int4[]`
    Int4Array(&'a [i32]),
    /// `int8[]`
    Int8Array(&'a [i64]),
    /// `text[]`, without the character NUL.
    TextArray(&'a [&'a str]),
    /// `bytea[]`; `None`: NULL.
    ByteaArray(&'a [Option<&'a [u8]>]),
}

/// A text contains the character NUL, which PostgreSQL cannot store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a text contains the character NUL")]
pub struct NulInText;

type Written = Result<IsNull, Box<dyn Error + Sync + Send>>;

impl Parameter<'_> {
    /// Returns its type.
    pub fn type_of(&self) -> Type {
        match self {
            Parameter::Null(kind) => *kind,
            Parameter::Bool(_) => Type::Bool,
            Parameter::Int2(_) => Type::Int2,
            Parameter::Int4(_) => Type::Int4,
            Parameter::Int8(_) => Type::Int8,
            Parameter::Text(_) => Type::Text,
            Parameter::Bytea(_) => Type::Bytea,
            Parameter::Int2Array(_) => Type::Int2Array,
            Parameter::Int4Array(_) => Type::Int4Array,
            Parameter::Int8Array(_) => Type::Int8Array,
            Parameter::TextArray(_) => Type::TextArray,
            Parameter::ByteaArray(_) => Type::ByteaArray,
        }
    }

    /// Appends it in binary format.
    pub fn write(&self, out: &mut BytesMut) -> Written {
        match *self {
            Parameter::Null(_) => return Ok(IsNull::Yes),
            Parameter::Bool(value) => bool_to_sql(value, out),
            Parameter::Int2(value) => int2_to_sql(value, out),
            Parameter::Int4(value) => int4_to_sql(value, out),
            Parameter::Int8(value) => int8_to_sql(value, out),
            Parameter::Text(value) => return write_text(value, out),
            Parameter::Bytea(value) => bytea_to_sql(value, out),
            Parameter::Int2Array(values) => write_array(values, Type::Int2, out, |value, out| {
                int2_to_sql(*value, out);
                Ok(IsNull::No)
            })?,
            Parameter::Int4Array(values) => write_array(values, Type::Int4, out, |value, out| {
                int4_to_sql(*value, out);
                Ok(IsNull::No)
            })?,
            Parameter::Int8Array(values) => write_array(values, Type::Int8, out, |value, out| {
                int8_to_sql(*value, out);
                Ok(IsNull::No)
            })?,
            Parameter::TextArray(values) => {
                write_array(values, Type::Text, out, |value, out| write_text(value, out))?;
            }
            Parameter::ByteaArray(values) => write_array(values, Type::Bytea, out, |value, out| match value {
                Some(value) => {
                    bytea_to_sql(value, out);
                    Ok(IsNull::No)
                }
                None => Ok(IsNull::Yes),
            })?,
        }
        Ok(IsNull::No)
    }
}

fn write_text(value: &str, out: &mut BytesMut) -> Written {
    if value.contains('\0') {
        return Err(Box::new(NulInText));
    }
    text_to_sql(value, out);
    Ok(IsNull::No)
}

fn write_array<T>(
    values: &[T],
    element: Type,
    out: &mut BytesMut,
    write: impl FnMut(&T, &mut BytesMut) -> Written,
) -> Result<(), Box<dyn Error + Sync + Send>> {
    let len = i32::try_from(values.len())?;
    array_to_sql([ArrayDimension { len, lower_bound: 1 }], element.oid(), values, write, out)
}
