//! Which other process holds a lock of the ledger file: from `/proc/locks`, by the bytes of the `-shm` file that SQLite
//! locks for a write-ahead log (sqlite.org/walformat.html, 2.3.1).

use super::database::beside;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The byte that a writer locks.
const WRITE_LOCK: u64 = 120;

/// The bytes that readers lock, one for each place of a reader but the first. The first one reads the file alone: it
/// does not keep the log from being begun anew.
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

/// The process that is writing to the ledger, if it is another one than this.
pub fn writer(ledger: &Path) -> Option<Holder> {
    holder(ledger, |bytes| bytes.contains(&WRITE_LOCK))
}

/// A process that reads the ledger as it was, so that its log cannot be begun anew.
pub fn reader(ledger: &Path) -> Option<Holder> {
    holder(ledger, |bytes| bytes.start() < &READ_LOCKS.end && bytes.end() >= &READ_LOCKS.start)
}

fn holder(ledger: &Path, is_meant: impl Fn(&std::ops::RangeInclusive<u64>) -> bool) -> Option<Holder> {
    let inode = std::fs::metadata(beside(ledger, "-shm")).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = locks
        .lines()
        .filter_map(|line| parse(line, inode))
        .find(|(pid, bytes)| *pid != std::process::id() && is_meant(bytes))?;
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.0)).ok()?;
    Some(Holder { pid: pid.0, name: name.trim_end().to_owned() })
}

/// A line of `/proc/locks` about this inode: `1: POSIX  ADVISORY  WRITE 4711 fd:01:396 120 120`. A process that only
/// waits for a lock has a line with `->`.
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
    fn lines_of_the_kernel_are_read() {
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
