//! Keeps the sources tidy: line length, no open ends, and no retired names or phrases (CONTRIBUTING.md has the word list).

use std::fs;
use std::path::{Path, PathBuf};

/// Folders whose texts are checked.
const FOLDERS: &[&str] =
    &["src", "tests", "testkit/src", "benches", "examples", "fuzz/checks", "scripts", "build", "include"];

/// Longest line, in characters. rustfmt breaks code at 120; texts and comments follow.
const LINE_MAX: usize = 130;

/// Tables with one row on each line, however long.
const TABLES: &[&str] = &["src/shm/statistic.rs", "tests/e2e/opensips.rs"];

/// Identifiers, and parts of identifiers, that were replaced by the terms of the glossary.
const RETIRED_NAMES: &[&str] = &[
    "doorbell",
    "sleeper",
    "left_behind",
    "leftbehind",
    "inquiry",
    "rehearsal",
    "dialect",
    "grant_table",
    "is_broken",
    "doom",
    "condemn",
    "stranger",
    "resumer",
    "take_notices",
    "is_told",
    "_told_",
    "goes_on",
    "right_behind",
    "owed",
];

/// Phrases that CONTRIBUTING.md replaces by plain ones.
const RETIRED_PHRASES: &[&str] = &[
    "for ever",
    "whoever",
    "nobody",
    "somebody",
    "anybody",
    "of its own accord",
    "is told",
    "was told",
    "goes on",
    "by the word of",
    "its like",
];

/// Marks of unfinished work.
const OPEN_ENDS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// Returns the texts of a folder, with their paths.
fn texts(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let nested = paths.flat_map(|path| match path.is_dir() {
        true => texts(&path),
        false => fs::read_to_string(&path).map(|text| (path, text)).into_iter().collect(),
    });
    let is_source = |path: &Path| {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        matches!(extension, "rs" | "sh" | "c" | "h") && path.file_name().is_some_and(|name| name != "tidy.rs")
    };
    nested.filter(|(path, _)| is_source(path)).collect()
}

/// Returns the offending lines of all sources as `path:line: text`.
fn lines_with(is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    lines_outside(&[], is_wrong)
}

/// As [`lines_with`], without some files.
fn lines_outside(exempt: &[&str], is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let is_exempt = |path: &Path| exempt.iter().any(|file| path.ends_with(file));
    let all = FOLDERS.iter().flat_map(|folder| texts(&root.join(folder)));
    for (path, text) in all.filter(|(path, _)| !is_exempt(path)) {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| is_wrong(line)) {
            let path = path.strip_prefix(root).unwrap_or(&path).display();
            found.push(format!("{path}:{}: {}", number + 1, line.trim()));
        }
    }
    found
}

fn assert_none(what: &str, lines: &[String]) {
    assert!(lines.is_empty(), "{what}:\n{}", lines.join("\n"));
}

#[test]
fn sources_are_where_this_test_looks() {
    assert!(lines_with(|line| line.starts_with("//!")).len() > 300);
}

#[test]
fn lines_are_not_too_long() {
    // SIP and Diameter of other parties is quoted as it is.
    let is_too_long = |line: &str| line.chars().count() > LINE_MAX && !line.trim_start().starts_with('"');
    assert_none("lines that are too long", &lines_outside(TABLES, is_too_long));
}

#[test]
fn nothing_is_left_open() {
    let is_open = |line: &str| OPEN_ENDS.iter().any(|mark| line.contains(mark));
    assert_none("open ends", &lines_with(is_open));
}

#[test]
fn retired_names_stay_retired() {
    let is_retired = |line: &str| {
        let line = line.to_lowercase();
        let begins = |at: usize| !line[..at].ends_with(char::is_alphabetic);
        RETIRED_NAMES.iter().any(|name| line.match_indices(name).any(|(at, _)| begins(at) || name.starts_with('_')))
    };
    assert_none("retired names", &lines_with(is_retired));
}

#[test]
fn retired_phrases_stay_retired() {
    let is_retired = |line: &str| {
        let line = line.to_lowercase();
        let has = |phrase: &&str| {
            let mut ends = line.match_indices(*phrase).map(|(at, _)| &line[at + phrase.len()..]);
            ends.any(|rest| !rest.starts_with(char::is_alphabetic))
        };
        RETIRED_PHRASES.iter().any(has)
    };
    assert_none("retired phrases", &lines_with(is_retired));
}

/// Returns the names of the files in a folder, without their extension, sorted.
fn names_in(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let mut names: Vec<String> =
        paths.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect();
    names.sort();
    names
}

#[test]
fn every_fuzz_target_is_built_documented_and_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let targets = names_in("fuzz/fuzz_targets");
    let manifest = read("fuzz/Cargo.toml");
    let built = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""));
    assert_eq!(sorted(built.map(str::to_owned).collect()), targets, "fuzz/Cargo.toml");
    let page = read("fuzz/README.md");
    let (_, section) = page.split_once("\n## Targets\n").expect("a section about the targets");
    let table = section.split("\n## ").next().unwrap_or_default();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(sorted(rows.map(str::to_owned).collect()), targets, "fuzz/README.md");
    let script = read("scripts/fuzz.sh").replace("\\\n", "");
    let list = script.lines().find_map(|line| line.strip_prefix("[ $# -gt 0 ] || set -- ")).expect("the targets");
    assert_eq!(sorted(list.split_whitespace().map(str::to_owned).collect()), targets, "scripts/fuzz.sh");
    assert_eq!(names_in("fuzz/corpus"), targets, "fuzz/corpus");
}
