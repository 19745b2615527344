//! Hash of an MSRP endpoint, by which the gate finds its session.

use super::Worker;
use crate::simulate::{InjectedBug, is_injected};
use crate::wire::msrp::{HOST_MAX, Uri};

impl Worker {
    /// Hashes an endpoint by its whole URI, compared as RFC 4975, 6.1 requires: host and transport are case-insensitive,
    /// the session-id is not, and a URI without a port differs from one with the default port.
    pub(crate) fn hash_of_endpoint(&self, uri: &Uri<'_>) -> u64 {
        let region = &self.region;
        if is_injected(InjectedBug::SessionIdAlone) {
            return region.hash(&[b"uri", uri.session_id.as_bytes()]);
        }
        let (mut host, mut port) = ([0; HOST_MAX], [0; 3]);
        let host = uri.canonical_host(&mut host);
        if let Some(number) = uri.port {
            port[0] = 1;
            port[1..].copy_from_slice(&number.to_le_bytes());
        }
        let mut transport = [0; 16];
        let transport = match transport.get_mut(..uri.transport.len()) {
            Some(transport) => {
                transport.copy_from_slice(uri.transport.as_bytes());
                transport.make_ascii_lowercase();
                &*transport
            }
            // No transport has such a long name.
            None => uri.transport.as_bytes(),
        };
        region.hash(&[b"uri", &[u8::from(uri.secure)], host, &port, uri.session_id.as_bytes(), transport])
    }
}
