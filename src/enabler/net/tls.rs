//! TLS of a client that verifies the server, with a client certificate if one is configured.

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// PEM files of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// Trusted certificates for the server's.
    pub ca: PathBuf,
    /// Certificate and key of the local node; `None`: it presents none.
    pub own: Option<OwnCertificate>,
}

/// PEM files with a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The certificate, followed by those between it and the server's CA.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// TLS settings of one server.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Reads the files. The server's certificate must name `host`. The error names the file and the problem.
    pub fn load(host: &str, files: &TlsConfig) -> Result<Tls, String> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| format!("no certificate can name \"{host}\""))?;
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
        // Connections are rare: certificates are verified each time.
        config.resumption = Resumption::disabled();
        Ok(Tls { config: Arc::new(config), name })
    }

    /// Returns the state of a new connection.
    pub fn connection(&self) -> Result<ClientConnection, String> {
        ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(|error| format!("TLS: {error}"))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error| format!("TLS certificate {}: {error}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    match found.is_empty() {
        true => Err(format!("TLS certificate {}: it contains no certificate", path.display())),
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
