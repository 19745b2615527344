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
        let hasher = SipHasher13::new_with_keys(one, two);
        let mut space = [0; JOINED_OCTETS_MAX];
        match join(parts, &mut space) {
            Some(joined) => hasher.hash(joined),
            None => hash_each(hasher, parts),
        }
        .max(1)
    }
}

/// Octets up to which parts are joined, which costs less than hashing each: names have 50 to 150.
const JOINED_OCTETS_MAX: usize = 256;

/// Writes each part after its length. `None`: there is no room.
fn join<'a>(parts: &[&[u8]], space: &'a mut [u8; JOINED_OCTETS_MAX]) -> Option<&'a [u8]> {
    let mut at = 0;
    for part in parts {
        let from = at + size_of::<u32>();
        let end = from.checked_add(part.len())?;
        space.get_mut(from..end)?.copy_from_slice(part);
        space.get_mut(at..from)?.copy_from_slice(&(part.len() as u32).to_le_bytes());
        at = end;
    }
    space.get(..at)
}

/// Hashes the octets that `join` would write.
fn hash_each(mut hasher: SipHasher13, parts: &[&[u8]]) -> u64 {
    for part in parts {
        hasher.write(&(part.len() as u32).to_le_bytes());
        hasher.write(part);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_does_not_depend_on_whether_parts_are_joined() {
        let long = [7; JOINED_OCTETS_MAX];
        for octets in [0, 1, 7, 8, 100, 236, 237, 238, 256] {
            let parts: [&[u8]; 3] = [b"uri", long.get(..octets).expect("in range"), b"tcp"];
            let mut space = [0; JOINED_OCTETS_MAX];
            let hasher = || SipHasher13::new_with_keys(1, 2);
            let joined = join(&parts, &mut space).map(|joined| hasher().hash(joined));
            assert_eq!(joined.is_some(), octets + 18 <= JOINED_OCTETS_MAX, "{octets}");
            assert_eq!(joined.unwrap_or_else(|| hash_each(hasher(), &parts)), hash_each(hasher(), &parts), "{octets}");
        }
    }

    #[test]
    fn parts_are_delimited() {
        let hash = |parts: &[&[u8]]| hash_each(SipHasher13::new_with_keys(1, 2), parts);
        assert_ne!(hash(&[b"a", b"bc"]), hash(&[b"ab", b"c"]));
        assert_ne!(hash(&[b"a", b""]), hash(&[b"a"]));
    }
}
