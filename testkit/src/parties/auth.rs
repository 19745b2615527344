//! Client side of MSRP AUTH (RFC 4976): obtains a URI from a relay.

use super::msrp::{Frame, Reader, connection};
use crate::unique;
use md5::{Digest, Md5};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Password of every user at the relay.
const PASSWORD: &str = "secret";

/// Requests a URI from the relay (RFC 4976, 5). `name` is the relay's host and port in its URIs, `own` the party's URI.
pub fn use_path(relay: SocketAddr, name: &str, own: &str) -> io::Result<String> {
    let (mut reader, writer) = connection(TcpStream::connect(relay)?)?;
    let uri = format!("msrp://{name};tcp");
    let paths = format!("To-Path: {uri}\r\nFrom-Path: {own}\r\n");
    let mut auth = |headers: &str| {
        let id = format!("tr{}", unique());
        writer.request(&id, "AUTH", &format!("{paths}{headers}"), None, '$')?;
        response(&mut reader, &id)
    };
    let challenge = auth("")?;
    let challenge = challenge.header("WWW-Authenticate");
    let granted = auth(&format!("Authorization: {}\r\n", credentials(challenge, &uri)))?;
    match granted.header("Use-Path") {
        "" => Err(io::Error::other(format!(
            "AUTH answered {} without Use-Path; challenge was '{challenge}'",
            granted.what
        ))),
        path => Ok(path.to_owned()),
    }
}

/// Waits for the response to a transaction, for longer than any test suspends the relay.
fn response(reader: &mut Reader, id: &str) -> io::Result<Frame> {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        match reader.next(Duration::from_millis(100))? {
            Some(frame) if frame.id == id && frame.status() != 0 => return Ok(frame),
            _ => {}
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Returns the Authorization value for a Digest challenge (RFC 2617, 3.2.2).
fn credentials(challenge: &str, uri: &str) -> String {
    let value = |name: &str| {
        let at = challenge.find(&format!("{name}=\"")).map_or("", |at| &challenge[at + name.len() + 2..]);
        at.split('"').next().unwrap_or_default()
    };
    let (realm, nonce, opaque) = (value("realm"), value("nonce"), value("opaque"));
    let (user, count, own) = ("party", "00000001", "5eed");
    let secret = hash(&format!("{user}:{realm}:{PASSWORD}"));
    let request = hash(&format!("AUTH:{uri}"));
    let response = hash(&format!("{secret}:{nonce}:{count}:{own}:auth:{request}"));
    format!(
        "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\", \
         opaque=\"{opaque}\", qop=auth, nc={count}, cnonce=\"{own}\""
    )
}

fn hash(text: &str) -> String {
    Md5::digest(text.as_bytes()).iter().map(|octet| format!("{octet:02x}")).collect()
}
