//! TLS from files: a chain and a key in PEM, and the authority that clients' certificates have to come from.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files.
#[derive(Default)]
pub struct Files {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub ca: Option<PathBuf>,
}

impl Files {
    /// What they make; `None`: no TLS is wanted.
    pub fn config(&self) -> Result<Option<Arc<ServerConfig>>, String> {
        let (cert, key, ca) = match (&self.cert, &self.key, &self.ca) {
            (None, None, None) => return Ok(None),
            (Some(cert), Some(key), Some(ca)) => (cert, key, ca),
            _ => {
                return Err(
                    "TLS wants all of --tls-cert, --tls-key and --tls-ca: clients have to prove who they are".into()
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
            .map_err(|error| format!("--tls-cert and --tls-key do not fit: {error}"))?;
        Ok(Some(Arc::new(config)))
    }
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{option} {}: {error}", path.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?.collect();
    let chain = chain.map_err(|error| wrong(&error))?;
    if chain.is_empty() { Err(wrong(&"there is no certificate in it")) } else { Ok(chain) }
}
