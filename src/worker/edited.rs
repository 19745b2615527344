//! A text with edits that are recorded beside it, applied: a proxy keeps what its script does to a message as a list of
//! removals and additions until it sends the message.

use std::ops::Range;

/// The longest result: the header section of a SIP message of 64 KiB, and as much again that was added.
const RESULT_MAX: usize = 128 * 1024;

/// A text being edited from its beginning to its end.
pub struct Edits<'a> {
    original: &'a [u8],
    /// Octets of the original that are copied or removed.
    position: usize,
    result: Vec<u8>,
    uncertain: Vec<Range<usize>>,
    is_too_long: bool,
}

/// The result of the edits.
#[derive(Debug, PartialEq, Eq)]
pub struct Edited {
    /// The text.
    pub text: Vec<u8>,
    /// Where it may read differently; an empty range marks a place where unknown octets belong.
    pub uncertain: Vec<Range<usize>>,
}

impl<'a> Edits<'a> {
    /// Begins with this text, unchanged.
    pub fn new(original: &'a [u8]) -> Edits<'a> {
        let result = Vec::with_capacity(original.len() + original.len() / 4);
        Edits { original, position: 0, result, uncertain: Vec::new(), is_too_long: false }
    }

    /// How many octets of the original are copied or removed.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Copies the original up to this offset. What was copied or removed before stays so.
    pub fn copy_to(&mut self, offset: usize) {
        let end = offset.min(self.original.len());
        let original = self.original;
        if let Some(copied) = original.get(self.position..end) {
            self.push(copied);
            self.position = end;
        }
    }

    /// Removes the octets of the original up to this offset that are not copied yet.
    pub fn remove_to(&mut self, offset: usize) {
        self.position = self.position.max(offset.min(self.original.len()));
    }

    /// Adds a text here.
    pub fn add(&mut self, text: &[u8]) {
        self.push(text);
    }

    /// Adds a text here that is known when the message is sent only: empty for one that is not known at all.
    pub fn add_uncertain(&mut self, text: &[u8]) {
        let start = self.result.len();
        self.push(text);
        self.uncertain.push(start..self.result.len());
    }

    /// Copies the rest. `None`: the result is longer than 128 KiB.
    pub fn finish(mut self) -> Option<Edited> {
        self.copy_to(self.original.len());
        (!self.is_too_long).then_some(Edited { text: self.result, uncertain: self.uncertain })
    }

    fn push(&mut self, text: &[u8]) {
        self.is_too_long |= self.result.len() + text.len() > RESULT_MAX;
        if !self.is_too_long {
            self.result.extend_from_slice(text);
        }
    }
}

impl Edited {
    /// Whether this part of the text is known.
    pub fn is_certain(&self, part: &Range<usize>) -> bool {
        self.uncertain.iter().all(|uncertain| uncertain.end <= part.start || uncertain.start >= part.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_applied_in_order() {
        let mut edits = Edits::new(b"abcdef");
        edits.copy_to(2);
        edits.add(b"12");
        edits.remove_to(4);
        edits.copy_to(3);
        edits.add_uncertain(b"?");
        edits.remove_to(2);
        edits.copy_to(100);
        edits.add_uncertain(b"");
        let edited = edits.finish().expect("short");
        assert_eq!((edited.text.as_slice(), edited.uncertain.as_slice()), (&b"ab12?ef"[..], &[4..5, 7..7][..]));
        let parts = [0..4, 5..7, 4..5, 0..5, 2..9, 6..8];
        assert_eq!(parts.map(|part| edited.is_certain(&part)), [true, true, false, false, false, false]);
    }

    #[test]
    fn a_result_that_is_too_long_is_none() {
        let text = vec![b'a'; RESULT_MAX];
        assert!(Edits::new(&text).finish().is_some_and(|edited| edited.text == text));
        let mut edits = Edits::new(&text);
        edits.add(b"b");
        assert_eq!(edits.finish(), None);
    }

    proptest::proptest! {
        #[test]
        fn each_octet_is_copied_once_or_removed(
            text in proptest::collection::vec(0..10u8, 0..50),
            steps in proptest::collection::vec((0..60usize, proptest::bool::ANY), 0..20),
        ) {
            let (mut edits, mut kept) = (Edits::new(&text), vec![true; text.len()]);
            for (offset, removes) in steps {
                let from = edits.position();
                if removes {
                    edits.remove_to(offset);
                    kept.iter_mut().take(offset).skip(from).for_each(|kept| *kept = false);
                } else {
                    edits.copy_to(offset);
                }
            }
            let wanted: Vec<u8> = text.iter().zip(kept).filter(|(_, kept)| *kept).map(|(octet, _)| *octet).collect();
            proptest::prop_assert_eq!(edits.finish().map(|edited| edited.text), Some(wanted));
        }
    }
}
