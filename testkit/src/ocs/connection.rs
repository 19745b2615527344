//! One connection, TCP or TLS: one thread reads it, any thread may write.

use rustls::{ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A peer that does not read for so long is given up.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// Octets of a piece, and the pause behind it, when an answer goes out in pieces.
const PIECE: usize = 7;
const PAUSE: Duration = Duration::from_millis(1);

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// Which one.
    pub id: u64,
    /// Milliseconds since the server's start when something came, and when a DWR went out.
    pub heard: AtomicU64,
    pub asked: AtomicU64,
    stream: TcpStream,
    tls: Option<Mutex<ServerConnection>>,
    writing: Mutex<()>,
}

/// A lock whose holder panicked is taken all the same: nothing of a connection is left half done.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// A connection just accepted.
    pub fn new(id: u64, stream: TcpStream, tls: Option<&Arc<ServerConfig>>) -> io::Result<Connection> {
        // Answers are batched here already; waiting for more would only delay them.
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_PATIENCE))?;
        let tls = tls.map(|config| ServerConnection::new(config.clone())).transpose().map_err(io::Error::other)?;
        let tls = tls.map(|mut tls| {
            tls.set_buffer_limit(None);
            Mutex::new(tls)
        });
        let (heard, asked) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Connection { id, heard, asked, stream, tls, writing: Mutex::new(()) })
    }

    /// The address that the peer reached.
    pub fn local(&self) -> io::Result<std::net::SocketAddr> {
        self.stream.local_addr()
    }

    /// The peer's address.
    pub fn remote(&self) -> io::Result<std::net::SocketAddr> {
        self.stream.peer_addr()
    }

    /// Waits for bytes; adds them. `false`: there are no more.
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
            // Whatever is wrong, the peer is told.
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

    /// Sends these bytes.
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

    /// Sends these bytes a few at a time.
    pub fn send_in_pieces(&self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.send(piece)?;
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Ends it; whoever reads it sees the end.
    pub fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Says that something came.
    pub fn touch(&self, now: u64) {
        self.heard.store(now, Ordering::Relaxed);
    }
}
