//! Keyed hashes that the gate's indexes find sessions, dialogs and messages by.

use super::Region;
use crate::charge::ch2::SessionKey;
use crate::shm::sync::Ordering;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

impl Region {
    /// Returns the name by which workers find a session.
    pub fn name_of_session(&self, session: SessionKey) -> u64 {
        self.hash(&[b"session", &session.0.to_le_bytes(), &session.1.to_le_bytes()])
    }

    /// Returns the name of a dialog, from its Call-ID and the hashes of both tags in either order.
    pub fn name_of_dialog(&self, call_id: &[u8], one: u64, other: u64) -> u64 {
        self.hash(&[b"dialog", call_id, &one.min(other).to_le_bytes(), &one.max(other).to_le_bytes()])
    }

    /// Returns the gate's hash of a message of a session.
    pub fn hash_of_message(&self, session: SessionKey, message_id: &str) -> u64 {
        self.hash(&[b"message", &session.0.to_le_bytes(), &session.1.to_le_bytes(), message_id.as_bytes()])
    }

    /// Hashes `parts` with the keys of this region. The parts are delimited, so that ("a", "bc") and ("ab", "c")
    /// differ. Never 0.
    pub fn hash(&self, parts: &[&[u8]]) -> u64 {
        let keys = &self.map.header().hash_keys;
        let (one, two) = (keys[0].load(Ordering::Relaxed), keys[1].load(Ordering::Relaxed));
        let mut hasher = SipHasher13::new_with_keys(one, two);
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        hasher.finish().max(1)
    }
}
