//! Values of parameters and columns, in the binary format of PostgreSQL.

/// Numbers of the types in `pg_type`.
pub mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const BYTEA_ARRAY: u32 = 1001;
    pub const INT2_ARRAY: u32 = 1005;
    pub const INT4_ARRAY: u32 = 1007;
    pub const TEXT_ARRAY: u32 = 1009;
    pub const INT8_ARRAY: u32 = 1016;
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    Bytea(Vec<u8>),
    Array(Vec<Value>),
}

impl Value {
    /// Reads a value of this type; `None`: it is malformed.
    pub fn read(oid: u32, bytes: Option<&[u8]>) -> Option<Value> {
        let Some(bytes) = bytes else { return Some(Value::Null) };
        Some(match oid {
            oid::BOOL => Value::Bool(bytes == [1]),
            oid::INT2 => Value::Int(i16::from_be_bytes(bytes.try_into().ok()?).into()),
            oid::INT4 => Value::Int(i32::from_be_bytes(bytes.try_into().ok()?).into()),
            oid::INT8 => Value::Int(i64::from_be_bytes(bytes.try_into().ok()?)),
            oid::TEXT => Value::Text(String::from_utf8(bytes.to_vec()).ok()?),
            oid::BYTEA => Value::Bytea(bytes.to_vec()),
            oid::BYTEA_ARRAY => array(oid::BYTEA, bytes)?,
            oid::INT2_ARRAY => array(oid::INT2, bytes)?,
            oid::INT4_ARRAY => array(oid::INT4, bytes)?,
            oid::INT8_ARRAY => array(oid::INT8, bytes)?,
            oid::TEXT_ARRAY => array(oid::TEXT, bytes)?,
            _ => return None,
        })
    }

    /// Appends it as a value of this type, with its length.
    pub fn write(&self, oid: u32, out: &mut Vec<u8>) {
        let bytes = match self {
            Value::Null => return out.extend((-1_i32).to_be_bytes()),
            Value::Bool(value) => vec![u8::from(*value)],
            Value::Int(value) => int(*value, oid),
            Value::Text(text) => text.clone().into_bytes(),
            Value::Bytea(bytes) => bytes.clone(),
            Value::Array(values) => {
                let element = match oid {
                    oid::BYTEA_ARRAY => oid::BYTEA,
                    oid::INT8_ARRAY => oid::INT8,
                    _ => oid::TEXT,
                };
                let mut bytes = Vec::new();
                let dimensions = i32::from(!values.is_empty());
                bytes.extend(dimensions.to_be_bytes());
                bytes.extend(i32::from(values.contains(&Value::Null)).to_be_bytes());
                bytes.extend(element.to_be_bytes());
                if dimensions == 1 {
                    bytes.extend((values.len() as i32).to_be_bytes());
                    bytes.extend(1_i32.to_be_bytes());
                }
                values.iter().for_each(|value| value.write(element, &mut bytes));
                bytes
            }
        };
        out.extend((bytes.len() as i32).to_be_bytes());
        out.extend(bytes);
    }

    pub fn int(&self) -> Option<i64> {
        if let Value::Int(value) = self { Some(*value) } else { None }
    }

    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    pub fn bytea(&self) -> Option<&[u8]> {
        if let Value::Bytea(bytes) = self { Some(bytes) } else { None }
    }

    pub fn array(&self) -> Option<&[Value]> {
        if let Value::Array(values) = self { Some(values) } else { None }
    }
}

fn int(value: i64, oid: u32) -> Vec<u8> {
    match oid {
        oid::INT2 => (value as i16).to_be_bytes().to_vec(),
        oid::INT4 => (value as i32).to_be_bytes().to_vec(),
        _ => value.to_be_bytes().to_vec(),
    }
}

fn array(element: u32, bytes: &[u8]) -> Option<Value> {
    let mut rest = bytes;
    let dimensions = number(&mut rest)?;
    let (_has_nulls, found) = (number(&mut rest)?, number(&mut rest)?);
    if dimensions == 0 {
        return Some(Value::Array(Vec::new()));
    }
    let (count, _lower_bound) = (number(&mut rest)?, number(&mut rest)?);
    if dimensions != 1 || found != element as i32 {
        return None;
    }
    let values = (0..count).map(|_| Value::read(element, field(&mut rest)?)).collect::<Option<_>>()?;
    rest.is_empty().then_some(Value::Array(values))
}

/// Takes a number of four octets.
pub fn number(rest: &mut &[u8]) -> Option<i32> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(i32::from_be_bytes(*head))
}

/// Takes a value with its length; `Some(None)`: NULL.
pub fn field<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = number(rest)?;
    let Ok(length) = usize::try_from(length) else { return Some(None) };
    let (value, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(Some(value))
}
