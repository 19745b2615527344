//! A TCP or TLS connection. One thread reads it, any thread may write.

use rustls::{ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A write that takes longer fails.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Octets per piece, and the pause after each, of an answer that is sent in pieces.
const PIECE_OCTETS: usize = 7;
const PIECE_PAUSE: Duration = Duration::from_millis(1);

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// Number of the connection.
    pub id: u64,
    /// Time of the last received octets, in milliseconds since the start of the server.
    pub last_received: AtomicU64,
    /// Time of the last DWR sent, in the same unit.
    pub last_watchdog: AtomicU64,
    stream: TcpStream,
    tls: Option<Mutex<ServerConnection>>,
    writing: Mutex<()>,
}

/// Locks a mutex, even if a holder has panicked.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Wraps an accepted connection.
    pub fn new(id: u64, stream: TcpStream, tls: Option<&Arc<ServerConfig>>) -> io::Result<Connection> {
        // Answers are already batched.
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let tls = tls.map(|config| ServerConnection::new(config.clone())).transpose().map_err(io::Error::other)?;
        let tls = tls.map(|mut tls| {
            tls.set_buffer_limit(None);
            Mutex::new(tls)
        });
        let (last_received, last_watchdog) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Connection { id, last_received, last_watchdog, stream, tls, writing: Mutex::new(()) })
    }

    /// Returns the local address.
    pub fn local(&self) -> io::Result<std::net::SocketAddr> {
        self.stream.local_addr()
    }

    /// Returns the address of the peer.
    pub fn remote(&self) -> io::Result<std::net::SocketAddr> {
        self.stream.peer_addr()
    }

    /// Waits for octets and appends them to `input`. Returns `false` at the end of the stream.
    pub fn receive(&self, chunk: &mut [u8], input: &mut Vec<u8>) -> io::Result<bool> {
        let count = (&self.stream).read(chunk)?;
        let Some(mut raw) = chunk.get(..count).filter(|raw| !raw.is_empty()) else { return Ok(false) };
        let Some(tls) = &self.tls else {
            input.extend_from_slice(raw);
            return Ok(true);
        };
        let mut tls = lock(tls);
        while !raw.is_empty() {
            tls.read_tls(&mut raw)?;
            let state = tls.process_new_packets();
            // Sends the TLS alert even on an error.
            while tls.wants_write() {
                tls.write_tls(&mut &self.stream)?;
            }
            let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let from = input.len();
            input.resize(from + state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(input.get_mut(from..).unwrap_or_default())?;
            if state.peer_has_closed() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends octets.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            let _one_at_a_time = lock(&self.writing);
            return (&self.stream).write_all(bytes);
        };
        let mut tls = lock(tls);
        tls.writer().write_all(bytes)?;
        while tls.wants_write() {
            tls.write_tls(&mut &self.stream)?;
        }
        Ok(())
    }

    /// Sends octets in small pieces.
    pub fn send_in_pieces(&self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE_OCTETS) {
            self.send(piece)?;
            std::thread::sleep(PIECE_PAUSE);
        }
        Ok(())
    }

    /// Closes the connection; its reader sees the end of the stream.
    pub fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Records that octets were received.
    pub fn touch(&self, now: u64) {
        self.last_received.store(now, Ordering::Relaxed);
    }
}
