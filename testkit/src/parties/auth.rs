//! What a party needs of RFC 4976: it asks a relay for a URI of its own (AUTH), before it describes its path to anybody.

use super::msrp::{Frame, Reader, connection};
use crate::unique;
use md5::{Digest, Md5};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The password that every user has at the relay.
const PASSWORD: &str = "secret";

/// The URI at this relay, by the name that it has in its URIs, for the party whose own URI is `own` (RFC 4976, 5).
pub fn use_path(relay: SocketAddr, name: &str, own: &str) -> io::Result<String> {
    let (mut reader, writer) = connection(TcpStream::connect(relay)?)?;
    let uri = format!("msrp://{name};tcp");
    let paths = format!("To-Path: {uri}\r\nFrom-Path: {own}\r\n");
    let mut ask = |more: &str| {
        let id = format!("tr{}", unique());
        writer.request(&id, "AUTH", &format!("{paths}{more}"), None, '$')?;
        answer(&mut reader, &id)
    };
    let challenge = ask("")?;
    let challenge = challenge.header("WWW-Authenticate");
    let granted = ask(&format!("Authorization: {}\r\n", credentials(challenge, &uri)))?;
    match granted.header("Use-Path") {
        "" => Err(io::Error::other(format!("the relay gives no path: {} after '{challenge}'", granted.what))),
        path => Ok(path.to_owned()),
    }
}

/// Waits for the answer for longer than any test pauses the relay.
fn answer(reader: &mut Reader, id: &str) -> io::Result<Frame> {
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(30) {
        match reader.next(Duration::from_millis(100))? {
            Some(frame) if frame.id == id && frame.status() != 0 => return Ok(frame),
            _ => {}
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// The answer to a challenge (RFC 2617, 3.2.2).
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
