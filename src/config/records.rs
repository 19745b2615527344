//! Parameters of the charging records (`cdr_...`).

use crate::enabler::node;
use std::path::PathBuf;

/// Format of the files of charging records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFormat {
    /// One JSON object on each line.
    Json,
    /// Comma-separated values with a header line (RFC 4180).
    Csv,
}

impl RecordFormat {
    /// Returns the extension of the files.
    pub fn extension(self) -> &'static str {
        match self {
            RecordFormat::Json => "jsonl",
            RecordFormat::Csv => "csv",
        }
    }
}

/// Where and how charging records are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSettings {
    /// Folder of the files; `None`: there are no records.
    pub dir: Option<PathBuf>,
    /// Format of the files.
    pub format: RecordFormat,
    /// Octets from which a file is closed.
    pub file_size: u64,
    /// Seconds after its first record at which a file is closed.
    pub file_seconds: u32,
    /// Name of this node in records and file names; `None`: the host name.
    pub node: Option<String>,
}

impl Default for RecordSettings {
    fn default() -> RecordSettings {
        RecordSettings { dir: None, format: RecordFormat::Json, file_size: 16_777_216, file_seconds: 3600, node: None }
    }
}

impl RecordSettings {
    /// Returns the name of this node: as configured, or the host name.
    pub fn node_name(&self) -> String {
        node::name(self.node.as_deref())
    }
}
