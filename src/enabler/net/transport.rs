//! One connection to a server: non-blocking TCP, with or without TLS.

use super::stream::Stream;
use super::tls::Tls;
use crate::charge::time::Time;
use rustls::ClientConnection;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

/// Size of the read buffer, in octets.
const CHUNK: usize = 64 << 10;

/// Maximum number of octets read per call; the rest stays in the socket.
const READ_MAX: usize = 1 << 20;

/// Number of octets encrypted at a time: not more than the socket will soon accept.
const TLS_CHUNK: usize = 64 << 10;

/// Progress of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Handshaking,
    Up,
}

/// The connection. Its errors are texts that follow the name and the address of the peer in the log.
#[derive(Debug)]
pub struct Transport {
    stream: Stream,
    tls: Option<Box<ClientConnection>>,
    stage: Stage,
    until: Time,
    /// Seconds from the start to `until`.
    timeout_seconds: u32,
    buffer: Vec<u8>,
    /// Whether the last read stopped at its limit. Octets that TLS has decrypted do not wake a poll of the descriptor.
    has_unread: bool,
}

impl Transport {
    /// Begins to connect. The connection must be up after `timeout_seconds`.
    pub fn connect(
        address: SocketAddr,
        tls: Option<&Tls>,
        timeout_seconds: u32,
        now: Time,
    ) -> Result<Transport, String> {
        let tls = tls.map(Tls::connection).transpose()?.map(Box::new);
        let stream = Stream::open(address).map_err(|error| describe(&error))?;
        let (stage, until, buffer) = (Stage::Connecting, now.after_seconds(timeout_seconds), vec![0; CHUNK]);
        Ok(Transport { stream, tls, stage, until, timeout_seconds, buffer, has_unread: false })
    }

    /// Begins TLS on a connection that is up: the server has agreed to it. It must be up within the time that was given to
    /// [`connect`](Transport::connect).
    pub fn start_tls(&mut self, tls: &Tls) -> Result<(), String> {
        self.tls = Some(Box::new(tls.connection()?));
        self.stage = Stage::Handshaking;
        Ok(())
    }

    /// Whether it has TLS.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Makes the kernel test a connection that is silent for so long, and close it if three tests fail.
    pub fn keep_alive(&self, seconds: u64) -> Result<(), String> {
        self.stream.keep_alive(seconds).map_err(|error| describe(&error))
    }

    /// Returns the descriptor to poll.
    pub fn descriptor(&self) -> RawFd {
        self.stream.descriptor()
    }

    /// Whether it waits to write data of TCP or TLS.
    pub fn wants_write(&self) -> bool {
        self.stage == Stage::Connecting || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.stage == Stage::Up
    }

    /// When it must be up, or be read again at once; `None`: it is up, and there is nothing to read before the descriptor
    /// is readable.
    pub fn deadline(&self) -> Option<Time> {
        match self.stage {
            Stage::Up => self.has_unread.then_some(Time(0)),
            Stage::Connecting | Stage::Handshaking => Some(self.until),
        }
    }

    /// Continues to connect, and returns whether the connection is up.
    pub fn advance(&mut self, now: Time) -> Result<bool, String> {
        if self.stage == Stage::Connecting && self.stream.is_connected().map_err(|error| describe(&error))? {
            self.stage = if self.tls.is_some() { Stage::Handshaking } else { Stage::Up };
        }
        if self.stage == Stage::Handshaking && self.finish_handshake()? {
            self.stage = Stage::Up;
        }
        if self.stage != Stage::Up && self.until <= now {
            let what = if self.stage == Stage::Connecting { "connection" } else { "TLS handshake" };
            return Err(format!("no {what} within {} s", self.timeout_seconds));
        }
        Ok(self.stage == Stage::Up)
    }

    /// Returns the local address.
    pub fn local_address(&self) -> Result<IpAddr, String> {
        self.stream.local_address().map_err(|error| describe(&error))
    }

    /// Passes all readable octets to `take`, in pieces. An error is final, and returned after all earlier octets.
    pub fn read(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), String> {
        let buffer = self.buffer.as_mut_slice();
        let mut taken = 0;
        self.has_unread = false;
        while taken < READ_MAX {
            let read = match &mut self.tls {
                None => self.stream.read(buffer),
                Some(tls) => read_tls(tls, &mut self.stream, buffer),
            };
            match read {
                Ok(0) => return Err("the peer closed the connection".into()),
                Ok(octets) => take(buffer.get(..octets).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(describe(&error)),
            }
            taken += read.unwrap_or_default();
        }
        self.has_unread = taken >= READ_MAX;
        Ok(())
    }

    /// Writes as much as the socket accepts, and returns the number of octets. With TLS, encrypted octets count as
    /// written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let written = match &mut self.tls {
            None => write_all(&mut self.stream, bytes),
            Some(tls) => write_tls(tls, &mut self.stream, bytes),
        };
        written.map_err(|error| describe(&error))
    }

    /// Sends the close_notify alert of TLS, if that is possible without blocking.
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The connection is dropped either way.
            let _ = write_tls(tls, &mut self.stream, &[]);
        }
    }

    fn finish_handshake(&mut self) -> Result<bool, String> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        let handshake = handshake(tls, &mut self.stream);
        // Sends the alert that tells the peer why.
        let flushed = write_tls(tls, &mut self.stream, &[]);
        handshake.and(flushed).map_err(|error| describe(&error))?;
        Ok(!tls.is_handshaking())
    }
}

/// Reads the handshake messages that have arrived.
fn handshake(tls: &mut ClientConnection, stream: &mut Stream) -> io::Result<()> {
    while tls.is_handshaking() {
        write_tls(tls, stream, &[])?;
        match tls.read_tls(stream) {
            Ok(0) => {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "the peer closed the connection during the TLS handshake",
                ));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        tls.process_new_packets().map_err(refused)?;
    }
    Ok(())
}

/// Reads decrypted octets, with the semantics of a socket.
fn read_tls(tls: &mut ClientConnection, stream: &mut Stream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match tls.reader().read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Closed without close_notify. A truncated message is never taken for a whole one.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
            read => return read,
        }
        tls.read_tls(stream)?;
        if let Err(error) = tls.process_new_packets() {
            // Sends the alert that tells the peer why. The error is returned anyway.
            let _ = write_tls(tls, stream, &[]);
            return Err(refused(error));
        }
    }
}

/// Encrypts as much as the socket accepts, and returns the number of octets.
fn write_tls(tls: &mut ClientConnection, stream: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    loop {
        while tls.wants_write() {
            match tls.write_tls(stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Reports what is written; the next write returns the error.
                Err(_) if written > 0 => return Ok(written),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        let rest = bytes.get(written..).unwrap_or_default();
        let piece = rest.get(..TLS_CHUNK).unwrap_or(rest);
        if piece.is_empty() {
            return Ok(written);
        }
        written += tls.writer().write(piece)?;
    }
}

fn write_all(stream: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(octets) => written += octets,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Reports what is written; the next write returns the error.
            Err(_) if written > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

fn refused(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("TLS: {error}"))
}

/// Describes an error without its errno.
fn describe(error: &io::Error) -> String {
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
