//! The socket under a peer: TCP, or TLS from its first octet (RFC 6733, 13). Never waits.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Octets that one turn reads from a connection, so that none starves the others.
const READ_MOST: usize = 256 * 1024;

/// What TLS is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Whose certificates are trusted (PEM).
    pub ca: PathBuf,
    /// This client's own certificate and key (PEM), where the server wants to know it.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// Reads the files. The error is a sentence that names the file.
pub fn tls(files: &TlsFiles) -> Result<Arc<ClientConfig>, String> {
    let cannot = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, String> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let found = read.map_err(|error| cannot(path, &error))?;
        (!found.is_empty()).then_some(found).ok_or_else(|| cannot(path, &"has no certificate in it"))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots.add(certificate).map_err(|error| cannot(&files.ca, &error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_root_certificates(roots);
    let config = match &files.own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| cannot(key, &error))?;
            let chain = certificates(certificate)?;
            builder.with_client_auth_cert(chain, private).map_err(|error| cannot(certificate, &error))?
        }
    };
    Ok(Arc::new(config))
}

/// A connection that is made, or being made.
pub struct Transport {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Transport {
    /// Begins to connect. `name`: what the server's certificate must be for, with TLS.
    pub fn connect(to: SocketAddr, tls: Option<(&Arc<ClientConfig>, &str)>) -> io::Result<Transport> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // Each request leaves at once; those of one turn leave together because they are written together.
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let tls = tls.map(|(config, name)| {
            let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
            let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
            Ok::<_, io::Error>(Box::new(connection))
        });
        Ok(Transport { tcp: socket.into(), tls: tls.transpose()? })
    }

    /// Whether the connection is made: `Some(local address)`; or cannot be.
    pub fn established(&self) -> io::Result<Option<IpAddr>> {
        if let Some(error) = self.tcp.take_error()? {
            return Err(error);
        }
        match self.tcp.peer_addr() {
            Ok(_) => Ok(Some(self.tcp.local_addr()?.ip())),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The descriptor, to be waited for.
    pub fn fd(&self) -> RawFd {
        self.tcp.as_raw_fd()
    }

    /// Whether something waits inside to be written.
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Writes what can be written now and takes it out of `bytes`; how much that was.
    pub fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let mut written = 0;
        if let Some(tls) = &mut self.tls {
            // TLS takes all into its own buffer; what is in flight is bounded by the number of requests.
            written = tls.writer().write(bytes)?;
            bytes.drain(..written);
            while tls.wants_write() {
                match tls.write_tls(&mut self.tcp) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            return Ok(written);
        }
        while written < bytes.len() {
            match self.tcp.write(bytes.get(written..).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.drain(..written);
        Ok(written)
    }

    /// Reads what is there, up to a bound, and hands it on piece by piece. An end of the stream is an error.
    pub fn read(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        let mut total = 0;
        while total < READ_MOST {
            match self.read_some(&mut buffer) {
                Ok(0) => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer has closed the connection"));
                }
                Ok(length) => {
                    total += length;
                    take(buffer.get(..length).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.tcp.read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if tls.read_tls(&mut self.tcp)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(|error| io::Error::other(format!("TLS: {error}")))?;
        }
    }
}
