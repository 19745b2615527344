//! The socket of a connection.

use crate::simulate;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

/// A socket that never waits.
#[derive(Debug)]
pub enum Stream {
    /// Of the system.
    Tcp(TcpStream),
    /// Of a simulation.
    Simulated(simulate::Line),
}

impl Stream {
    /// A socket on its way to this address.
    pub fn open(address: SocketAddr) -> io::Result<Stream> {
        if let Some(line) = simulate::connect(address) {
            return line.map(Stream::Simulated);
        }
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // What one turn has to send leaves in one write; nothing is to wait for the acknowledgement of what went before.
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Stream::Tcp(socket.into())),
        }
    }

    /// Whether it is there; the error says why it never will be.
    pub fn is_connected(&self) -> io::Result<bool> {
        let stream = match self {
            Stream::Tcp(stream) => stream,
            Stream::Simulated(line) => return line.is_connected(),
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

    /// Our end's address.
    pub fn local_address(&self) -> io::Result<IpAddr> {
        match self {
            Stream::Tcp(stream) => stream.local_addr().map(|address| address.ip()),
            Stream::Simulated(line) => Ok(line.local_address()),
        }
    }

    /// The descriptor to wait for; a simulated one has none.
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
            Stream::Simulated(line) => line.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Simulated(line) => line.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
