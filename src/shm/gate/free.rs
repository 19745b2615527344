//! Free messages at the gate: content whose type is in the parameter `free_content` takes nothing from the grant.
//!
//! A free message of one chunk leaves no trace. Of one with more chunks the slot remembers how much has passed, in its own
//! words: free messages cost their sender nothing, so they take no room in the index that all sessions share. A later chunk
//! is free if it continues the message at its next octet, claims the same kind of type and stays within the maximum;
//! otherwise the message is charged from that chunk on, like a new one.

use super::decide::Chunk;
use super::slot::Slot;
use crate::shm::sync::{AtomicU64, Ordering, bound};

/// Maximum number of free messages of a session that are remembered between their chunks. One more replaces another, whose
/// next chunk is charged.
pub(super) const FREE_MESSAGES_MAX: usize = bound(4, 1);

/// Maximum of the parameter `free_content_max`, octets. A word has room for eight times as much.
pub const FREE_OCTETS_MAX: u32 = 1 << 20;

/// Bits of a word: octets that have passed.
const OCTETS: u64 = (1 << 23) - 1;
/// Bit of a word: the type was found in a CPIM message.
const IN_CPIM: u64 = 1 << 23;
/// Bits of a word: hash of the message; a word is 0 if it is not used.
const MESSAGE: u64 = !(OCTETS | IN_CPIM);

/// The sender's claim that a chunk is free: its type is in `free_content`, or it may be a later chunk of such a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeClaim {
    /// Whether Content-Type is `message/cpim`.
    pub in_cpim: bool,
    /// Maximum octets of a free message, up to [`FREE_OCTETS_MAX`].
    pub octets_max: u32,
}

impl FreeClaim {
    fn admits(self, octets: u64) -> bool {
        octets <= self.octets_max.min(FREE_OCTETS_MAX).into()
    }
}

/// Whether a chunk is one of a free message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FreeDecision {
    /// It passes free of charge.
    Free,
    /// It is charged, if the gate lets it pass.
    Charged {
        /// Octets of its message that have passed as free content, from the first one without a gap.
        free_octets: u64,
    },
}

impl FreeDecision {
    const CHARGED: FreeDecision = FreeDecision::Charged { free_octets: 0 };

    fn free_if(is_free: bool) -> FreeDecision {
        if is_free { FreeDecision::Free } else { FreeDecision::CHARGED }
    }
}

/// Free messages of a session between their chunks.
#[repr(transparent)]
#[derive(Default)]
pub(super) struct FreeMessages([AtomicU64; FREE_MESSAGES_MAX]);

impl FreeMessages {
    fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Release));
    }

    /// Starts a message, or starts it again.
    fn start(&self, word: u64) {
        for place in &self.0 {
            match place.compare_exchange(0, word, Ordering::AcqRel, Ordering::Acquire) {
                Err(found) if found & MESSAGE == word & MESSAGE => return place.store(word, Ordering::Release),
                Err(_) => {}
                Ok(_) => return,
            }
        }
        self.0[(word >> 40) as usize % self.0.len()].store(word, Ordering::Release);
    }

    /// Replaces the word of a message, if there is one, by what `change` returns: the decision, and the new word.
    fn change(&self, message: u64, change: impl Fn(u64) -> (FreeDecision, u64)) -> FreeDecision {
        let is_meant = |word: u64| word != 0 && word & MESSAGE == message;
        let Some(place) = self.0.iter().find(|word| is_meant(word.load(Ordering::Acquire))) else {
            return FreeDecision::CHARGED;
        };
        let mut seen = place.load(Ordering::Acquire);
        while is_meant(seen) {
            let (decision, after) = change(seen);
            match place.compare_exchange(seen, after, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return decision,
                Err(now) => seen = now,
            }
        }
        FreeDecision::CHARGED
    }
}

impl Slot {
    /// Decides whether a chunk is one of a free message. If not, its message is charged, and no longer free.
    pub(super) fn decide_free(&self, chunk: &Chunk) -> FreeDecision {
        let message = (chunk.message & MESSAGE).max(IN_CPIM << 1);
        let claim = chunk.free.filter(|claim| claim.admits(chunk.octets));
        let word = |claim: FreeClaim, octets: u64| message | if claim.in_cpim { IN_CPIM } else { 0 } | octets;
        match claim {
            Some(claim) if chunk.is_first() && !chunk.is_last => {
                self.free.start(word(claim, chunk.octets));
                FreeDecision::Free
            }
            _ if chunk.is_first() => {
                self.free.change(message, |_| (FreeDecision::CHARGED, 0));
                FreeDecision::free_if(claim.is_some())
            }
            _ => self.free.change(message, |seen| {
                let before = seen & OCTETS;
                let after = before.saturating_add(chunk.octets);
                let continues = |claim: &FreeClaim| {
                    claim.in_cpim == (seen & IN_CPIM != 0) && chunk.start == before + 1 && claim.admits(after)
                };
                match claim.filter(continues) {
                    Some(claim) if !chunk.is_last => (FreeDecision::Free, word(claim, after)),
                    Some(_) => (FreeDecision::Free, 0),
                    None => (FreeDecision::Charged { free_octets: before }, 0),
                }
            }),
        }
    }

    pub(super) fn forget_free_messages(&self) {
        self.free.clear();
    }
}
