//! Applies recorded edits to a text: a proxy keeps the changes that its script makes to a message as a list of removals and
//! additions until it sends the message.

use std::ops::Range;

/// Maximum length of the result, octets: a SIP message of 64 KiB, and as much again that was added.
const RESULT_MAX: usize = 128 * 1024;

/// A text that is edited from its beginning to its end.
pub struct Edits<'a> {
    original: &'a [u8],
    /// Octets of the original that were copied or removed so far.
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
    /// Parts that may differ when the message is sent; an empty range marks a place of unknown octets.
    pub uncertain: Vec<Range<usize>>,
}

impl<'a> Edits<'a> {
    /// Starts to edit this text.
    pub fn new(original: &'a [u8]) -> Edits<'a> {
        let result = Vec::with_capacity(original.len() + original.len() / 4);
        Edits { original, position: 0, result, uncertain: Vec::new(), is_too_long: false }
    }

    /// Returns the number of octets of the original that were copied or removed.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Copies the original up to this offset, from where copying or removing has stopped.
    pub fn copy_to(&mut self, offset: usize) {
        let end = offset.min(self.original.len());
        let original = self.original;
        if let Some(copied) = original.get(self.position..end) {
            self.push(copied);
            self.position = end;
        }
    }

    /// Removes the original up to this offset, from where copying or removing has stopped.
    pub fn remove_to(&mut self, offset: usize) {
        self.position = self.position.max(offset.min(self.original.len()));
    }

    /// Adds a text.
    pub fn add(&mut self, text: &[u8]) {
        self.push(text);
    }

    /// Adds a text that is final only when the message is sent; empty if it is unknown.
    pub fn add_uncertain(&mut self, text: &[u8]) {
        let start = self.result.len();
        self.push(text);
        self.uncertain.push(start..self.result.len());
    }

    /// Copies the rest and returns the result; `None` if it is longer than 128 KiB.
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
    /// Whether no octet of this part may differ when the message is sent.
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
    fn result_over_the_maximum_length_is_none() {
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
