//! Rows of a result, in binary format.

use super::value::Type;
use bytes::Bytes;
use fallible_iterator::FallibleIterator;
use postgres_protocol::Oid;
use postgres_protocol::message::backend::DataRowBody;
use postgres_protocol::types::{
    array_from_sql, bool_from_sql, int2_from_sql, int4_from_sql, int8_from_sql, text_from_sql,
};
use std::ops::Range;
use std::rc::Rc;

/// Types that are read as `text`: `text`, `name`, `varchar`.
const TEXT_TYPES: [Oid; 3] = [25, 19, 1043];

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Types of the columns.
    types: Rc<[Oid]>,
    /// Place of each value in `octets`; `None`: NULL.
    values: Vec<Option<Range<usize>>>,
    octets: Bytes,
}

/// A column does not have the expected type, is NULL, or does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column} of the result is no {expected}")]
pub struct WrongColumn {
    /// Its position, from 0.
    pub column: usize,
    /// Name of the expected type.
    pub expected: &'static str,
}

impl Row {
    /// Reads a DataRow. The error follows "malformed message: " in the log.
    pub(super) fn read(body: &DataRowBody, types: &Rc<[Oid]>) -> Result<Row, String> {
        let mut values = Vec::with_capacity(types.len());
        let mut ranges = body.ranges();
        while let Some(value) = ranges.next().map_err(|error| error.to_string())? {
            if values.len() == types.len() {
                return Err("a row has more columns than its description".into());
            }
            values.push(value);
        }
        match values.len() == types.len() {
            true => Ok(Row { types: Rc::clone(types), values, octets: body.buffer_bytes().clone() }),
            false => Err("a row has fewer columns than its description".into()),
        }
    }

    /// Whether the column is NULL.
    pub fn is_null(&self, column: usize) -> bool {
        matches!(self.values.get(column), Some(None))
    }

    /// Returns a `bool`.
    pub fn bool(&self, column: usize) -> Result<bool, WrongColumn> {
        self.read_as(column, &[Type::Bool.oid()], "bool", |octets| bool_from_sql(octets).ok())
    }

    /// Returns an `int2`.
    pub fn int2(&self, column: usize) -> Result<i16, WrongColumn> {
        self.read_as(column, &[Type::Int2.oid()], "int2", |octets| int2_from_sql(octets).ok())
    }

    /// Returns an `int4`.
    pub fn int4(&self, column: usize) -> Result<i32, WrongColumn> {
        self.read_as(column, &[Type::Int4.oid()], "int4", |octets| int4_from_sql(octets).ok())
    }

    /// Returns an `int8`.
    pub fn int8(&self, column: usize) -> Result<i64, WrongColumn> {
        self.read_as(column, &[Type::Int8.oid()], "int8", |octets| int8_from_sql(octets).ok())
    }

    /// Returns a `text`, `varchar` or `name`.
    pub fn text(&self, column: usize) -> Result<&str, WrongColumn> {
        self.read_as(column, &TEXT_TYPES, "text", |octets| text_from_sql(octets).ok())
    }

    /// Returns a `bytea`.
    pub fn bytea(&self, column: usize) -> Result<&[u8], WrongColumn> {
        self.read_as(column, &[Type::Bytea.oid()], "bytea", Some)
    }

    /// Returns an `int8[]` without NULLs.
    pub fn int8_array(&self, column: usize) -> Result<Vec<i64>, WrongColumn> {
        self.read_as(column, &[Type::Int8Array.oid()], "int8[] without NULLs", |octets| {
            read_array(octets, Type::Int8, |value| int8_from_sql(value?).ok())
        })
    }

    /// Returns a `text[]` without NULLs.
    pub fn text_array(&self, column: usize) -> Result<Vec<&str>, WrongColumn> {
        self.read_as(column, &[Type::TextArray.oid()], "text[] without NULLs", |octets| {
            read_array(octets, Type::Text, |value| text_from_sql(value?).ok())
        })
    }

    /// Returns a `bytea[]`; `None` is NULL.
    pub fn bytea_array(&self, column: usize) -> Result<Vec<Option<&[u8]>>, WrongColumn> {
        self.read_as(column, &[Type::ByteaArray.oid()], "bytea[]", |octets| read_array(octets, Type::Bytea, Some))
    }

    fn read_as<'a, T>(
        &'a self,
        column: usize,
        types: &[Oid],
        expected: &'static str,
        read: impl FnOnce(&'a [u8]) -> Option<T>,
    ) -> Result<T, WrongColumn> {
        let is_expected = self.types.get(column).is_some_and(|found| types.contains(found));
        let range = self.values.get(column).cloned().flatten().filter(|_| is_expected);
        let octets = range.and_then(|range| self.octets.get(range));
        octets.and_then(read).ok_or(WrongColumn { column, expected })
    }
}

/// Reads an array of one dimension. The number of elements that it claims is not trusted: each needs its length in the
/// octets.
fn read_array<'a, T>(octets: &'a [u8], element: Type, read: impl Fn(Option<&'a [u8]>) -> Option<T>) -> Option<Vec<T>> {
    let array = array_from_sql(octets).ok().filter(|array| array.element_type() == element.oid())?;
    if array.dimensions().count().ok()? > 1 {
        return None;
    }
    let (mut found, mut values) = (Vec::new(), array.values());
    while let Some(value) = values.next().ok()? {
        found.push(read(value)?);
    }
    Some(found)
}
