//! One connection to a peer: TCP, with or without TLS on it, that never waits.

use super::stream::Stream;
use super::tls::Tls;
use crate::charge::time::Time;
use rustls::ClientConnection;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

/// Octets that one read takes.
const CHUNK: usize = 64 << 10;

/// Octets that one turn takes from a connection; the rest waits in the socket.
const TURN_MAX: usize = 1 << 20;

/// Octets that are encrypted at a time: no more than the socket will soon take.
const TLS_CHUNK: usize = 64 << 10;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Handshaking,
    Up,
}

/// The connection. Its errors are words to be read behind "peer x at y: ".
#[derive(Debug)]
pub struct Transport {
    stream: Stream,
    tls: Option<Box<ClientConnection>>,
    stage: Stage,
    until: Time,
    /// Seconds until then.
    patience: u32,
    buffer: Vec<u8>,
}

impl Transport {
    /// Begins to connect; it may take so many seconds until it is up.
    pub fn connect(address: SocketAddr, tls: Option<&Tls>, patience: u32, now: Time) -> Result<Transport, String> {
        let tls = tls.map(Tls::connection).transpose()?.map(Box::new);
        let stream = Stream::open(address).map_err(|error| plain(&error))?;
        let (stage, until, buffer) = (Stage::Connecting, now.after_seconds(patience), vec![0; CHUNK]);
        Ok(Transport { stream, tls, stage, until, patience, buffer })
    }

    /// The descriptor to wait for.
    pub fn descriptor(&self) -> RawFd {
        self.stream.descriptor()
    }

    /// Whether it has something to write of its own.
    pub fn wants_write(&self) -> bool {
        self.stage == Stage::Connecting || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// When it has to be up; `None`: it is.
    pub fn deadline(&self) -> Option<Time> {
        (self.stage != Stage::Up).then_some(self.until)
    }

    /// Goes on with what has to be done before it is up; whether it is.
    pub fn advance(&mut self, now: Time) -> Result<bool, String> {
        if self.stage == Stage::Connecting && self.stream.is_connected().map_err(|error| plain(&error))? {
            self.stage = if self.tls.is_some() { Stage::Handshaking } else { Stage::Up };
        }
        if self.stage == Stage::Handshaking && self.is_shaken()? {
            self.stage = Stage::Up;
        }
        if self.stage != Stage::Up && self.until <= now {
            let what = if self.stage == Stage::Connecting { "connection" } else { "TLS handshake" };
            return Err(format!("no {what} within {} s", self.patience));
        }
        Ok(self.stage == Stage::Up)
    }

    /// Our end's address.
    pub fn local_address(&self) -> Result<IpAddr, String> {
        self.stream.local_address().map_err(|error| plain(&error))
    }

    /// Hands what can be read to `take`, in pieces. An error is the end of it, and comes behind all that was sent
    /// before.
    pub fn read(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), String> {
        let buffer = self.buffer.as_mut_slice();
        let mut taken = 0;
        while taken < TURN_MAX {
            let read = match &mut self.tls {
                None => self.stream.read(buffer),
                Some(tls) => read_tls(tls, &mut self.stream, buffer),
            };
            match read {
                Ok(0) => return Err("the peer closed the connection".into()),
                Ok(octets) => take(buffer.get(..octets).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(plain(&error)),
            }
            taken += read.unwrap_or_default();
        }
        Ok(())
    }

    /// Writes what the socket takes; how many octets are gone. With TLS, those that are encrypted count as gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let written = match &mut self.tls {
            None => write_all(&mut self.stream, bytes),
            Some(tls) => write_tls(tls, &mut self.stream, bytes),
        };
        written.map_err(|error| plain(&error))
    }

    /// Says that no more will come, if that can be said without waiting.
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The connection is dropped either way.
            let _ = write_tls(tls, &mut self.stream, &[]);
        }
    }

    fn is_shaken(&mut self) -> Result<bool, String> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        let shaken = shake(tls, &mut self.stream);
        // An alert that tells the peer why.
        let flushed = write_tls(tls, &mut self.stream, &[]);
        shaken.and(flushed).map_err(|error| plain(&error))?;
        Ok(!tls.is_handshaking())
    }
}

/// Reads octets of the handshake, as far as there are any.
fn shake(tls: &mut ClientConnection, stream: &mut Stream) -> io::Result<()> {
    while tls.is_handshaking() {
        write_tls(tls, stream, &[])?;
        match tls.read_tls(stream) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the peer closed it in the TLS handshake")),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        tls.process_new_packets().map_err(refused)?;
    }
    Ok(())
}

/// Reads decrypted octets as a socket would.
fn read_tls(tls: &mut ClientConnection, stream: &mut Stream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match tls.reader().read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Without a word of farewell; a message that is cut off is never taken for a whole one.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
            read => return read,
        }
        tls.read_tls(stream)?;
        if let Err(error) = tls.process_new_packets() {
            // The alert tells the peer why; we know already.
            let _ = write_tls(tls, stream, &[]);
            return Err(refused(error));
        }
    }
}

/// Encrypts as much as the socket takes away; how much that is.
fn write_tls(tls: &mut ClientConnection, stream: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
    let mut gone = 0;
    loop {
        while tls.wants_write() {
            match tls.write_tls(stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(gone),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What is gone is gone: the next write meets the error again.
                Err(_) if gone > 0 => return Ok(gone),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        let rest = bytes.get(gone..).unwrap_or_default();
        let piece = rest.get(..TLS_CHUNK).unwrap_or(rest);
        if piece.is_empty() {
            return Ok(gone);
        }
        gone += tls.writer().write(piece)?;
    }
}

fn write_all(stream: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut gone = 0;
    while let Some(rest) = bytes.get(gone..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(octets) => gone += octets,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // What is gone is gone: the next write meets the error again.
            Err(_) if gone > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(gone)
}

fn refused(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("TLS: {error}"))
}

/// An error without its number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".into(),
        ErrorKind::ConnectionReset => "connection reset by the peer".into(),
        ErrorKind::BrokenPipe => "the peer closed the connection".into(),
        ErrorKind::TimedOut => "no answer on the connection".into(),
        ErrorKind::HostUnreachable => "host unreachable".into(),
        ErrorKind::NetworkUnreachable => "network unreachable".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
