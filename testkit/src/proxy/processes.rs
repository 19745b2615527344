//! The processes of a process group, as /proc shows them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the /proc folders of all processes in a process group.
pub fn of_group(group: u32) -> Vec<PathBuf> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes.flatten().map(|entry| entry.path()).filter(|path| group_of(path) == Some(group)).collect()
}

/// Returns the process group, the third field after the command name: "pid (comm) state ppid pgrp ...".
fn group_of(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

/// Returns the pid of a process.
pub fn pid(process: &Path) -> Option<u32> {
    process.file_name()?.to_str()?.parse().ok()
}

/// Returns whether a process has this command name.
pub fn is_named(process: &Path, name: &str) -> bool {
    fs::read_to_string(process.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
}

/// Returns the files with this start of their path that a process has mapped.
pub fn mapped(pid: u32, prefix: &str) -> BTreeSet<PathBuf> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.split_whitespace().filter(|word| word.starts_with(prefix)).map(PathBuf::from).collect()
}

/// Returns the CPU time of a process, in nanoseconds.
pub fn cpu_nanos(process: &Path) -> Option<u64> {
    fs::read_to_string(process.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
}

/// Returns the private memory of a process, in octets.
pub fn private_octets(process: &Path) -> Option<i64> {
    let text = fs::read_to_string(process.join("smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
    line.trim().trim_end_matches(" kB").parse().ok().map(|kilobytes: i64| kilobytes * 1024)
}
