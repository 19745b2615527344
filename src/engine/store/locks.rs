//! Finds the process that holds a lock of the ledger: in `/proc/locks`, by the bytes of the `-shm` file that SQLite locks
//! for a write-ahead log (sqlite.org/walformat.html, 2.3.1).

use super::database::beside;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Looks into `/proc/locks`. The kernel hands the list out in pieces, and an entry is skipped if others before it go
/// between two of them.
const LOOKS_MAX: usize = 3;

/// Byte that a writer locks.
const WRITE_LOCK: u64 = 120;

/// Bytes that readers lock, without that of the first reader slot, which reads the file alone and does not prevent the log
/// from being restarted.
const READ_LOCKS: std::ops::Range<u64> = 124..128;

/// A process that holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Name of its program, as `ps` shows it.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} (pid {})", self.name, self.pid)
    }
}

/// Returns the process that is writing to the ledger, unless it is this one.
pub fn writer(ledger: &Path) -> Option<Holder> {
    holder(ledger, |bytes| bytes.contains(&WRITE_LOCK))
}

/// Returns another process that reads an old snapshot, which prevents the log from being restarted.
pub fn reader(ledger: &Path) -> Option<Holder> {
    holder(ledger, |bytes| bytes.start() < &READ_LOCKS.end && bytes.end() >= &READ_LOCKS.start)
}

fn holder(ledger: &Path, is_meant: impl Fn(&std::ops::RangeInclusive<u64>) -> bool) -> Option<Holder> {
    let inode = std::fs::metadata(beside(ledger, "-shm")).ok()?.ino();
    let look = |_| {
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        let mut found = locks.lines().filter_map(|line| parse(line, inode));
        found.find_map(|(pid, bytes)| (pid != std::process::id() && is_meant(&bytes)).then_some(pid))
    };
    let pid = (0..LOOKS_MAX).find_map(look)?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(Holder { pid, name: name.trim_end().to_owned() })
}

/// Parses a line of `/proc/locks` about this inode: `1: POSIX  ADVISORY  WRITE 4711 fd:01:396 120 120`. `None`: it is about
/// another file, or about a process that waits for a lock (`->`).
fn parse(line: &str, inode: u64) -> Option<(u32, std::ops::RangeInclusive<u64>)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, "POSIX", _, _, pid, file, first, last] = fields[..] else { return None };
    let found: u64 = file.rsplit(':').next()?.parse().ok()?;
    let last = if last == "EOF" { u64::MAX } else { last.parse().ok()? };
    (found == inode).then_some((pid.parse().ok()?, first.parse().ok()?..=last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_lock_lines_are_parsed() {
        let line = "12: POSIX  ADVISORY  WRITE 4711 fd:01:396 120 120";
        assert_eq!(parse(line, 396), Some((4711, 120..=120)));
        assert_eq!(parse(line, 397), None);
        assert_eq!(parse("3: POSIX  ADVISORY  READ 9 00:1f:396 128 EOF", 396), Some((9, 128..=u64::MAX)));
        for other in
            ["12: -> POSIX ADVISORY WRITE 1 fd:01:396 120 120", "1: FLOCK ADVISORY WRITE 1 fd:01:396 0 EOF", ""]
        {
            assert_eq!(parse(other, 396), None, "{other}");
        }
    }
}
