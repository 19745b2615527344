//! Documents of RCS file transfer over HTTP (`application/vnd.gsma.rcs-ft-http+xml`, GSMA RCC.07): how large the file is
//! that the message announces.
//!
//! ```text
//! <file xmlns="urn:gsma:params:xml:ns:rcs:rcs:fthttp">
//!   <file-info type="thumbnail"><file-size>3072</file-size> ... </file-info>         does not count
//!   <file-info type="file"><file-size>4194304</file-size> ... </file-info>
//! </file>
//! ```
//!
//! Elements are found by their local names. Nothing is expanded: a document type declaration is refused, and so is a
//! reference in a size. The time is linear in the document, which has at most [`DOCUMENT_MAX`] octets.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Maximum length of a document, octets. Real ones have about a thousand.
pub const DOCUMENT_MAX: usize = 64 * 1024;

/// Maximum depth of nested elements.
const DEPTH_MAX: usize = 16;

/// Maximum number of attributes of a `file-info` that are read.
const ATTRIBUTES_MAX: usize = 16;

/// Why a document does not tell the size of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RcsFileError {
    /// It is longer than [`DOCUMENT_MAX`].
    #[error("the document is too long")]
    TooLong,
    /// It is not a complete XML document in UTF-8 with the root `file`, is nested too deeply, or has a document type
    /// declaration.
    #[error("the document is not the expected XML, incomplete, nested too deeply, or has a document type declaration")]
    Xml,
    /// It describes no file, for example thumbnails only.
    #[error("the document has no file-info of the type file")]
    NoFile,
    /// The size of a file is missing, repeated or not a number.
    #[error("a file-size is missing, repeated or not a number")]
    Size,
}

/// Returns the size of the file that a document announces, octets; of several files, the sum.
pub fn file_octets(document: &[u8]) -> Result<u64, RcsFileError> {
    if document.len() > DOCUMENT_MAX {
        return Err(RcsFileError::TooLong);
    }
    let text = std::str::from_utf8(document).map_err(|_| RcsFileError::Xml)?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    reader.config_mut().expand_empty_elements = true;
    let mut found = Document::default();
    loop {
        match reader.read_event().map_err(|_| RcsFileError::Xml)? {
            Event::Start(element) => found.start(&element)?,
            Event::End(_) => found.end()?,
            Event::Text(text) => found.text(text.as_ref())?,
            Event::CData(text) => found.text(text.as_ref())?,
            Event::GeneralRef(_) if found.place.is_some() => return Err(RcsFileError::Size),
            Event::DocType(_) => return Err(RcsFileError::Xml),
            Event::Eof => return found.octets(),
            _ => {}
        }
    }
}

/// What was read of a document so far.
#[derive(Default)]
struct Document {
    /// Open elements.
    depth: usize,
    has_root: bool,
    /// The `file-info` of a file that is open.
    file: Option<FileInfo>,
    /// Text of the `file-size` that is open: the first octets of it.
    place: Option<Digits>,
    files: u32,
    octets: u64,
}

/// A `file-info` of a file.
#[derive(Default)]
struct FileInfo {
    size: Option<u64>,
}

/// Digits of a size, with white space around them.
#[derive(Default)]
struct Digits {
    value: u64,
    has_digits: bool,
    is_ended: bool,
}

impl Document {
    fn start(&mut self, element: &BytesStart<'_>) -> Result<(), RcsFileError> {
        self.depth += 1;
        let name = element.local_name();
        match (self.depth, name.as_ref()) {
            (1, "file") if !self.has_root => self.has_root = true,
            (1, _) => return Err(RcsFileError::Xml),
            (2, "file-info") if is_file(element)? => self.file = Some(FileInfo::default()),
            (3, "file-size") if self.file.is_some() => self.place = Some(Digits::default()),
            (DEPTH_MAX.., _) => return Err(RcsFileError::Xml),
            _ if self.place.is_some() => return Err(RcsFileError::Size),
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), RcsFileError> {
        match &mut self.place {
            Some(digits) => text.bytes().try_for_each(|octet| digits.push(octet)).ok_or(RcsFileError::Size),
            None if self.depth == 0 && !text.trim().is_empty() => Err(RcsFileError::Xml),
            None => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), RcsFileError> {
        self.depth = self.depth.checked_sub(1).ok_or(RcsFileError::Xml)?;
        match self.depth {
            2 => {
                if let (Some(digits), Some(file)) = (self.place.take(), &mut self.file) {
                    let size = Some(digits.value).filter(|_| digits.has_digits && file.size.is_none());
                    file.size = Some(size.ok_or(RcsFileError::Size)?);
                }
            }
            1 => {
                if let Some(file) = self.file.take() {
                    self.files += 1;
                    self.octets = self.octets.saturating_add(file.size.ok_or(RcsFileError::Size)?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn octets(&self) -> Result<u64, RcsFileError> {
        match (self.has_root && self.depth == 0, self.files) {
            (false, _) => Err(RcsFileError::Xml),
            (true, 0) => Err(RcsFileError::NoFile),
            (true, _) => Ok(self.octets),
        }
    }
}

impl Digits {
    /// Adds an octet; `None`: it is not a number.
    fn push(&mut self, octet: u8) -> Option<()> {
        match octet {
            b'0'..=b'9' if !self.is_ended => {
                self.value = self.value.checked_mul(10)?.checked_add((octet - b'0').into())?;
                self.has_digits = true;
            }
            octet if octet.is_ascii_whitespace() => self.is_ended = self.has_digits,
            _ => return None,
        }
        Some(())
    }
}

/// Whether a `file-info` has the type `file`.
fn is_file(element: &BytesStart<'_>) -> Result<bool, RcsFileError> {
    // The checks of the reader for repeated names take quadratic time.
    let mut attributes = element.attributes();
    let attributes = attributes.with_checks(false).take(ATTRIBUTES_MAX);
    let mut found = None;
    for attribute in attributes {
        let attribute = attribute.map_err(|_| RcsFileError::Xml)?;
        if attribute.key.as_ref() == "type" && found.replace(attribute.value.as_ref() == "file").is_some() {
            return Err(RcsFileError::Xml);
        }
    }
    Ok(found == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use RcsFileError::{NoFile, Size, TooLong, Xml};

    const DOCUMENT: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\
        <file xmlns=\"urn:gsma:params:xml:ns:rcs:rcs:fthttp\" xmlns:am=\"urn:gsma:params:xml:ns:rcs:rcs:rram\">\
        <file-info type=\"thumbnail\"><file-size>3072</file-size><content-type>image/jpeg</content-type>\
        <data url=\"https://ft.example/t?a=1&amp;b=2\" until=\"2026-12-01T00:00:00Z\"/></file-info>\r\n\
        <file-info type=\"file\" file-disposition=\"render\"><file-size>4194304</file-size><file-name>a &lt; b.jpg</file-name>\
        <content-type>image/jpeg</content-type><am:playing-length>5</am:playing-length>\
        <data url=\"https://ft.example/f\" until=\"2026-12-01T00:00:00Z\"/></file-info></file>\r\n";

    fn read(document: &str) -> Result<u64, RcsFileError> {
        file_octets(document.as_bytes())
    }

    #[test]
    fn size_of_the_file_is_found_and_that_of_the_thumbnail_ignored() {
        for (from, to, octets) in [
            ("", "", 4_194_304),
            ("4194304", " \r\n4194304\t", 4_194_304),
            ("4194304", "<![CDATA[4194304]]>", 4_194_304),
            ("4194304", "41<!-- a comment -->94304", 4_194_304),
            ("4194304", "0", 0),
            ("4194304", "18446744073709551615", u64::MAX),
            ("type=\"file\"", "type='file'", 4_194_304),
            ("<file-info type=\"thumbnail\">", "<file-info type=\"file\">", 4_194_304 + 3072),
            ("<file-size>3072</file-size>", "<file-size>many</file-size>", 4_194_304),
            ("<file-name>", "<file-name><file-size>1</file-size>", 4_194_304),
            ("<?xml", "\u{feff}<?xml", 4_194_304),
        ] {
            assert_eq!(read(&DOCUMENT.replacen(from, to, 1)), Ok(octets), "{from} -> {to}");
        }
        let prefixed =
            "<f:file xmlns:f=\"u\"><f:file-info type=\"file\"><f:file-size>7</f:file-size></f:file-info></f:file>";
        assert_eq!(read(prefixed), Ok(7));
    }

    #[test]
    fn document_without_a_size_is_refused_with_its_reason() {
        for (from, to, error) in [
            ("<file-size>4194304</file-size>", "", Size),
            ("<file-size>4194304</file-size>", "<file-size/>", Size),
            ("4194304", "", Size),
            ("4194304", "-1", Size),
            ("4194304", "+1", Size),
            ("4194304", "4 194 304", Size),
            ("4194304", "4k", Size),
            ("4194304", "18446744073709551616", Size),
            ("4194304", "4194304</file-size><file-size>1", Size),
            ("4194304", "<b>4194304</b>", Size),
            ("4194304", "&#52;194304", Size),
            ("type=\"file\"", "type=\"other\"", NoFile),
            ("type=\"file\"", "kind=\"file\"", NoFile),
            ("type=\"file\"", "type=\"file\" type=\"thumbnail\"", Xml),
            ("</file>", "", Xml),
            ("</file>", "</other>", Xml),
            ("</file>", "</file><file></file>", Xml),
            ("</file>", "</file>text", Xml),
            ("<file xmlns", "<files xmlns", Xml),
            ("<file xmlns", "<!DOCTYPE file [<!ENTITY a \"aaaa\">]><file xmlns", Xml),
            ("encoding=\"UTF-8\"?>", "", Xml),
        ] {
            assert_eq!(read(&DOCUMENT.replacen(from, to, 1)), Err(error), "{from} -> {to}");
        }
        assert_eq!(read(""), Err(Xml));
        assert_eq!(file_octets(b"<file>\xff</file>"), Err(Xml));
    }

    #[test]
    fn every_part_of_a_document_is_refused() {
        for end in 0..DOCUMENT.trim_end().len() {
            assert!(read(&DOCUMENT[..end]).is_err(), "{}", &DOCUMENT[..end]);
        }
    }

    #[test]
    fn hostile_documents_are_refused_in_bounded_time() {
        let document = |inside: &str| format!("<file><file-info type=\"file\">{inside}</file-info></file>");
        assert_eq!(read(&document(&"<a>".repeat(20_000))), Err(Xml));
        assert_eq!(read(&document(&" ".repeat(DOCUMENT_MAX))), Err(TooLong));
        let many = format!("<file><file-info {} type=\"file\"/></file>", "a=\"\" ".repeat(10_000));
        assert_eq!(read(&many), Err(NoFile));
        assert_eq!(read(&document(&"<file-size>1</file-size>".repeat(1000))), Err(Size));
    }

    proptest::proptest! {
        #[test]
        fn random_documents_do_not_panic(words in proptest::collection::vec(0..14usize, 0..40)) {
            let parts = [
                "<file>", "</file>", "<file-info type=\"file\">", "</file-info>", "<file-size>", "</file-size>", "12",
                "<!--", "-->", "<![CDATA[", "]]>", "&a;", "<", "\"",
            ];
            let document: String = words.iter().map(|word| parts[*word]).collect();
            let _ = read(&document);
        }
    }
}
