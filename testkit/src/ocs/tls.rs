//! TLS configuration from PEM files.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// PEM files.
#[derive(Default)]
pub struct Files {
    /// Certificate chain of the server.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// CA of the clients' certificates.
    pub ca: Option<PathBuf>,
}

impl Files {
    /// Returns the configuration, `None` if no file is given.
    pub fn config(&self) -> Result<Option<Arc<ServerConfig>>, String> {
        let (cert, key, ca) = match (&self.cert, &self.key, &self.ca) {
            (None, None, None) => return Ok(None),
            (Some(cert), Some(key), Some(ca)) => (cert, key, ca),
            _ => {
                return Err(
                    "TLS requires --tls-cert, --tls-key and --tls-ca; clients must present a certificate".into()
                );
            }
        };
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("--tls-key {}: {error}", key.display()))?;
        let mut roots = RootCertStore::empty();
        for authority in certificates("--tls-ca", ca)? {
            roots.add(authority).map_err(|error| format!("--tls-ca {}: {error}", ca.display()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let verifier = verifier.map_err(|error| format!("--tls-ca {}: {error}", ca.display()))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates("--tls-cert", cert)?, key)
            .map_err(|error| format!("--tls-cert and --tls-key do not match: {error}"))?;
        Ok(Some(Arc::new(config)))
    }
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let invalid = |error: &dyn std::fmt::Display| format!("{option} {}: {error}", path.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|error| invalid(&error))?.collect();
    let chain = chain.map_err(|error| invalid(&error))?;
    if chain.is_empty() { Err(invalid(&"contains no certificate")) } else { Ok(chain) }
}
