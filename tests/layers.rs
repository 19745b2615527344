//! Each folder of `src/` is a layer. These tests read the source, so that they also hold for code that only the features
//! `kamailio` and `opensips` compile: which layer may import which, and which files may contain `unsafe`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, from the bottom up, and what each may import: a layer, or a module of it.
const ARROWS: &[(&str, &[&str])] = &[
    ("charge", &[]),
    ("wire", &[]),
    ("guard", &[]),
    ("simulate", &["charge"]),
    ("enabler", &["charge", "wire", "simulate"]),
    ("config", &["charge", "wire", "enabler"]),
    ("shm", &["charge", "config", "simulate"]),
    ("worker", &["shm", "charge", "wire", "config", "simulate"]),
    ("engine", &["shm", "enabler", "charge", "config", "simulate", "guard"]),
    ("admin", &["shm", "worker", "engine::store", "charge", "wire", "config"]),
    ("ffi", &["admin", "worker", "engine", "shm", "charge", "config", "guard"]),
    ("host", &["admin", "worker", "engine", "shm", "charge", "config", "guard"]),
];

/// The only layers that may name a binding of the enabler.
const NAME_BINDINGS: &[&str] = &["enabler", "config"];

/// The bindings of the enabler.
const BINDINGS: &[&str] = &["diameter", "ledger", "postgres"];

/// Files outside `ffi` and `host` that may contain `unsafe`: they map shared memory, or call the kernel.
const UNSAFE_FILES: &[&str] = &[
    "engine/supervisor.rs",
    "shm/clock.rs",
    "shm/eventfd.rs",
    "shm/region.rs",
    "shm/region/map.rs",
    "shm/region/orphan.rs",
    "shm/region/state_dir.rs",
    "shm/ring.rs",
    "shm/shared.rs",
    "shm/sync.rs",
];

/// A source file: its path below `src/` and its text.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The layer that it belongs to: the first part of its path.
    fn layer(&self) -> String {
        let first = self.path.iter().next().unwrap_or_default();
        Path::new(first).file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Depth of its module: 1 for `src/wire/mod.rs`, 2 for `src/wire/sdp.rs`.
    fn depth(&self) -> usize {
        self.path.components().count() - usize::from(self.path.ends_with("mod.rs"))
    }

    /// Whether it holds tests only, which may use any layer.
    fn is_test(&self) -> bool {
        self.path.iter().any(|part| part == "tests.rs" || part == "tests")
    }

    /// Lines of code, without comments and without the tests at the end.
    fn code(&self) -> impl Iterator<Item = &str> {
        let lines = self.text.lines().take_while(|line| !line.starts_with("mod tests {"));
        lines.map(str::trim_start).filter(|line| !line.starts_with("//"))
    }
}

fn sources_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let all = paths.flat_map(|path| if path.is_dir() { sources_in(&path) } else { vec![path] });
    all.filter(|path| path.extension().is_some_and(|ending| ending == "rs")).collect()
}

/// All files of the library except its root.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Source { path: path.strip_prefix(&root).expect("below src").to_owned(), text }
    };
    sources_in(&root).into_iter().map(read).filter(|source| source.path != Path::new("lib.rs")).collect()
}

/// The paths after `crate::` in a line, each up to its second part: `shm::ring`.
fn imports(line: &str) -> impl Iterator<Item = String> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        rest[..end].split("::").take(2).collect::<Vec<_>>().join("::")
    })
}

#[test]
fn every_folder_is_a_known_layer() {
    let found: BTreeSet<String> = sources().iter().map(Source::layer).collect();
    let known: BTreeSet<String> = ARROWS.iter().map(|(layer, _)| (*layer).to_owned()).collect();
    assert_eq!(found, known);
}

#[test]
fn layers_import_only_what_is_below_them() {
    for source in sources().iter().filter(|source| !source.is_test()) {
        let layer = source.layer();
        let allowed = ARROWS.iter().find(|(name, _)| *name == layer).map_or(&[][..], |(_, allowed)| allowed);
        for line in source.code() {
            for import in imports(line) {
                let target = import.split("::").next().unwrap_or_default();
                let is_layer = ARROWS.iter().any(|(name, _)| *name == target);
                let is_allowed = target == layer || allowed.contains(&target) || allowed.contains(&import.as_str());
                assert!(!is_layer || is_allowed, "{}: {layer} must not use {import}: {line}", source.path.display());
            }
        }
    }
}

#[test]
fn imports_name_their_layer() {
    for source in sources().iter().filter(|source| !source.is_test()) {
        let to_root = "super::".repeat(source.depth());
        for line in source.code() {
            let is_group = line.contains("crate::{") || line.contains("use crate;") || line.contains("crate as ");
            let is_hidden = is_group || line.contains(&to_root);
            assert!(!is_hidden, "{}: write `use crate::LAYER::...`: {line}", source.path.display());
        }
    }
}

#[test]
fn only_the_enabler_and_its_configuration_name_a_binding() {
    for source in sources().iter().filter(|source| !source.is_test()) {
        if NAME_BINDINGS.contains(&source.layer().as_str()) {
            continue;
        }
        for line in source.code() {
            let names = BINDINGS.iter().any(|binding| line.contains(&format!("enabler::{binding}")));
            assert!(!names, "{}: it must not depend on a binding: {line}", source.path.display());
        }
    }
}

#[test]
fn unsafe_code_is_only_in_the_files_for_it_and_documented() {
    for source in sources() {
        let path = source.path.display().to_string();
        let is_unsafe = |line: &&str| {
            ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait", "unsafe extern"]
                .iter()
                .any(|form| line.contains(form))
        };
        let count = source.code().filter(is_unsafe).count();
        let is_allowed = matches!(source.layer().as_str(), "ffi" | "host") || UNSAFE_FILES.contains(&path.as_str());
        assert!(is_allowed || count == 0, "{path}: unsafe code belongs into another file");
        let reasons = source.text.matches("SAFETY:").count() + source.text.matches("# Safety").count();
        assert!(count == 0 || reasons > 0, "{path}: unsafe code without the reason why it is sound");
    }
    for file in UNSAFE_FILES {
        assert!(sources().iter().any(|source| source.path == Path::new(file)), "{file} does not exist");
    }
}
