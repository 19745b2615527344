//! TLS to a peer, from the first octet on (RFC 6733, 13.1), with certificates of both ends where we have one.

use super::config::{OwnCertificate, PeerConfig, TlsConfig};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// What connections to one peer are made with.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Reads the files. The peer's certificate has to be for its DiameterIdentity; where none is configured, for the
    /// host of its address. The error names the file and what is wrong with it.
    pub fn load(peer: &PeerConfig, files: &TlsConfig) -> Result<Tls, String> {
        let host = if peer.host.is_empty() { &peer.address.host } else { &peer.host };
        let name = ServerName::try_from(host.clone());
        let name = name.map_err(|_| format!("no certificate can be for the name \"{host}\""))?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots(&files.ca)?);
        let mut config = match &files.own {
            Some(OwnCertificate { certificate, key }) => {
                let chain = certificates(certificate)?;
                let secret = PrivateKeyDer::from_pem_file(key);
                let secret = secret.map_err(|error| format!("TLS key {}: {error}", key.display()))?;
                let unusable = |error| format!("TLS certificate {}: {error}", certificate.display());
                config.with_client_auth_cert(chain, secret).map_err(unusable)?
            }
            None => config.with_no_client_auth(),
        };
        // A connection is made seldom: its certificates are looked at each time.
        config.resumption = Resumption::disabled();
        Ok(Tls { config: Arc::new(config), name })
    }

    /// A new connection's state.
    pub fn connection(&self) -> Result<ClientConnection, String> {
        ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(|error| format!("TLS: {error}"))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error| format!("TLS certificate {}: {error}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    match found.is_empty() {
        true => Err(format!("TLS certificate {}: there is none in it", path.display())),
        false => Ok(found),
    }
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| format!("TLS certificate {}: {error}", path.display()))?;
    }
    Ok(roots)
}
