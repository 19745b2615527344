//! The server's side of the protocol of PostgreSQL (version 3.0), as far as the client uses it.

use super::statement::Column;
use super::value::{Value, field, number, oid};

/// A message of the client.
#[derive(Clone, Debug, PartialEq)]
pub enum Frontend {
    Startup,
    Parse { name: String, statement: String, types: Vec<u32> },
    Describe { name: String },
    Bind { name: String, values: Vec<Option<Vec<u8>>> },
    Execute,
    Sync,
    Terminate,
    Other(u8),
}

/// Takes the first message of the input; `Ok(None)`: it is not complete.
pub fn take(input: &mut Vec<u8>, is_started: bool) -> Result<Option<Frontend>, String> {
    let head = usize::from(is_started);
    let Some(length) = input.get(head..head + 4).and_then(|mut bytes| number(&mut bytes)) else { return Ok(None) };
    let end = head + usize::try_from(length).map_err(|_| "a message of negative length")?;
    if input.len() < end {
        return Ok(None);
    }
    let message: Vec<u8> = input.drain(..end).collect();
    let body = &message[head + 4..];
    let kind = if is_started { message[0] } else { 0 };
    parse(kind, body).map(Some).ok_or_else(|| format!("message {:?} is malformed", char::from(kind)))
}

fn parse(kind: u8, mut rest: &[u8]) -> Option<Frontend> {
    Some(match kind {
        0 => {
            if number(&mut rest)? != 3 << 16 {
                return None;
            }
            Frontend::Startup
        }
        b'P' => {
            let (name, statement) = (text(&mut rest)?, text(&mut rest)?);
            let count = short(&mut rest)?;
            let types = (0..count).map(|_| number(&mut rest).map(|oid| oid as u32)).collect::<Option<_>>()?;
            Frontend::Parse { name, statement, types }
        }
        b'D' => {
            let (b'S', tail) = rest.split_first()? else { return None };
            rest = tail;
            Frontend::Describe { name: text(&mut rest)? }
        }
        b'B' => {
            let (_portal, name) = (text(&mut rest)?, text(&mut rest)?);
            for _ in 0..short(&mut rest)? {
                if short(&mut rest)? != 1 {
                    return None;
                }
            }
            let count = short(&mut rest)?;
            let values = (0..count).map(|_| field(&mut rest).map(|value| value.map(<[u8]>::to_vec)));
            Frontend::Bind { name, values: values.collect::<Option<_>>()? }
        }
        b'E' => Frontend::Execute,
        b'S' => Frontend::Sync,
        b'X' => Frontend::Terminate,
        other => Frontend::Other(other),
    })
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let end = rest.iter().position(|octet| *octet == 0)?;
    let text = String::from_utf8(rest[..end].to_vec()).ok()?;
    *rest = &rest[end + 1..];
    Some(text)
}

fn short(rest: &mut &[u8]) -> Option<u16> {
    let (head, tail) = rest.split_first_chunk::<2>()?;
    *rest = tail;
    Some(u16::from_be_bytes(*head))
}

/// Appends a message of the server.
fn message(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend((body.len() as i32 + 4).to_be_bytes());
    out.extend(body);
}

/// Accepts the login.
pub fn welcome(out: &mut Vec<u8>) {
    message(b'R', &0_i32.to_be_bytes(), out);
    message(b'S', b"server_version\x0015.18\x00", out);
    message(b'K', &[0; 8], out);
    ready(out);
}

pub fn parse_complete(out: &mut Vec<u8>) {
    message(b'1', &[], out);
}

pub fn bind_complete(out: &mut Vec<u8>) {
    message(b'2', &[], out);
}

/// Describes a statement: types of its parameters, names and types of its columns.
pub fn description(parameters: &[u32], columns: &[Column], out: &mut Vec<u8>) {
    let mut body = Vec::from((parameters.len() as u16).to_be_bytes());
    parameters.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    message(b't', &body, out);
    let mut body = Vec::from((columns.len() as u16).to_be_bytes());
    for (name, oid, _) in columns {
        body.extend(name.as_bytes());
        body.push(0);
        body.extend(0_i32.to_be_bytes());
        body.extend(0_i16.to_be_bytes());
        body.extend(oid.to_be_bytes());
        let size: i16 = match *oid {
            oid::BOOL => 1,
            oid::INT2 => 2,
            oid::INT4 => 4,
            oid::INT8 => 8,
            _ => -1,
        };
        body.extend(size.to_be_bytes());
        body.extend((-1_i32).to_be_bytes());
        body.extend(0_i16.to_be_bytes());
    }
    message(b'T', &body, out);
}

/// Appends rows, and that the statement is complete.
pub fn rows(columns: &[Column], rows: &[Vec<Value>], out: &mut Vec<u8>) {
    for row in rows {
        let mut body = Vec::from((columns.len() as u16).to_be_bytes());
        columns.iter().for_each(|(_, oid, place)| row[*place].write(*oid, &mut body));
        message(b'D', &body, out);
    }
    message(b'C', b"SELECT\x00", out);
}

/// An error, or a notice.
pub fn report(is_error: bool, severity: &str, code: &str, words: &str, out: &mut Vec<u8>) {
    let body = format!("S{severity}\0V{severity}\0C{code}\0M{words}\0\0");
    message(if is_error { b'E' } else { b'N' }, body.as_bytes(), out);
}

pub fn ready(out: &mut Vec<u8>) {
    message(b'Z', b"I", out);
}
