//! A non-blocking socket, of the system or of the simulator.

use crate::simulate;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// A socket that never blocks.
#[derive(Debug)]
pub enum Stream {
    /// A TCP socket.
    Tcp(TcpStream),
    /// A connection of the simulator.
    Simulated(simulate::SimulatedStream),
}

impl Stream {
    /// Begins to connect to this address.
    pub fn open(address: SocketAddr) -> io::Result<Stream> {
        if let Some(stream) = simulate::connect(address) {
            return stream.map(Stream::Simulated);
        }
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // A tick's output is sent in one write, and must not wait for the acknowledgement of earlier data.
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Stream::Tcp(socket.into())),
        }
    }

    /// Makes the kernel test the connection after this many seconds of silence, and close it if three tests, as many
    /// seconds apart, fail.
    pub fn keep_alive(&self, seconds: u64) -> io::Result<()> {
        let Stream::Tcp(stream) = self else { return Ok(()) };
        let interval = Duration::from_secs(seconds);
        let keepalive = TcpKeepalive::new().with_time(interval).with_interval(interval).with_retries(3);
        SockRef::from(stream).set_tcp_keepalive(&keepalive)
    }

    /// Whether it is connected. An error is final.
    pub fn is_connected(&self) -> io::Result<bool> {
        let stream = match self {
            Stream::Tcp(stream) => stream,
            Stream::Simulated(stream) => return stream.is_connected(),
        };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the local address.
    pub fn local_address(&self) -> io::Result<IpAddr> {
        match self {
            Stream::Tcp(stream) => stream.local_addr().map(|address| address.ip()),
            Stream::Simulated(stream) => Ok(stream.local_address()),
        }
    }

    /// Returns the descriptor to poll; -1 for a simulated connection.
    pub fn descriptor(&self) -> RawFd {
        match self {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Simulated(_) => -1,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Simulated(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Simulated(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
