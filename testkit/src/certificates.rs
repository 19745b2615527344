//! Certificate authority for TLS tests. Its PEM files are in a temporary folder.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::fs;
use std::path::PathBuf;

/// A certificate authority. Dropping it removes its files.
pub struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Creates an authority with a new key.
    #[allow(clippy::new_without_default, reason = "every authority is different")]
    pub fn new() -> Authority {
        let folder = tempfile::tempdir().expect("a temporary folder can be created");
        let key = KeyPair::generate().expect("a key can be generated");
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names are valid");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("the certificate can be signed");
        let authority = Authority { folder, issuer: Issuer::new(parameters, key) };
        fs::write(authority.ca(), certificate.pem()).expect("the folder is writable");
        authority
    }

    /// Returns the file of the authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate for this host name. Returns the files of the certificate and of its key.
    pub fn sign(&self, host: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key can be generated");
        let parameters = CertificateParams::new(vec![host.to_owned()]).expect("the host name is valid");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("the certificate can be signed");
        let [certificate_file, key_file] =
            ["crt", "key"].map(|ending| self.folder.path().join(format!("{host}.{ending}")));
        fs::write(&certificate_file, certificate.pem()).expect("the folder is writable");
        fs::write(&key_file, key.serialize_pem()).expect("the folder is writable");
        (certificate_file, key_file)
    }
}
