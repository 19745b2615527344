//! Checks that hold for every input, one file per fuzz target. The targets in `fuzz_targets/` call them with libFuzzer's
//! inputs; `tests/corpus.rs` calls them with the corpus, so that `cargo test` covers earlier findings.

pub mod c_abi;
pub mod cpim;
pub mod diameter_message;
pub mod diameter_peer;
#[path = "../../src/enabler/diameter/client/fake_peer.rs"]
pub mod fake_peer;
#[path = "../../src/enabler/postgres/client/fake_server.rs"]
pub mod fake_server;
pub mod msrp_frame;
pub mod peers_world;
pub mod postgres_client;
pub mod rcs_file;
pub mod ring_contents;
pub mod sdp;
pub mod session_enabler;
pub mod session_events;
pub mod session_world;
pub mod sip_message;

/// Choices made from an input, octet by octet; zeros once it is used up. With one octet per choice, seeds can be written by
/// hand and a mutation changes one choice only.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    /// Reads choices from this input.
    pub fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices { rest: bytes }
    }

    /// Whether the input is used up.
    pub fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// An octet.
    pub fn octet(&mut self) -> u8 {
        let (first, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        *first
    }

    /// A number below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.octet()) % count.max(1)
    }

    /// A boolean.
    pub fn flag(&mut self) -> bool {
        self.octet() & 1 == 1
    }

    /// A 16-bit number.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.octet(), self.octet()])
    }

    /// A 64-bit number; few octets suffice for small ones and for the limits of the range.
    pub fn u64(&mut self) -> u64 {
        match self.octet() {
            small @ 0..=199 => small.into(),
            200..=227 => u64::from(self.u16()) << 4,
            228..=235 => u64::MAX - u64::from(self.octet()),
            236..=241 => (1 << 63) - 128 + u64::from(self.octet()),
            242..=247 => (1 << 32) - 128 + u64::from(self.octet()),
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.octet())),
        }
    }

    /// The next `count` octets, or as many as are left.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Octets preceded by their 16-bit length.
    pub fn octets(&mut self) -> &'a [u8] {
        let count = self.u16();
        self.take(count.into())
    }

    /// All octets that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}

/// Whether `part` is a view into `whole`.
pub fn lies_in(part: &[u8], whole: &[u8]) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    part.is_empty() || (whole.start <= part.start && part.end <= whole.end)
}
