//! Folders are layers: who may call whom, and where `unsafe` may stand.

use std::fs;
use std::path::{Path, PathBuf};

/// Layers and what each may import of the crate.
const ARROWS: &[(&str, &[&str])] = &[
    ("charge", &["charge"]),
    ("wire", &["wire"]),
    ("simulate", &["simulate", "charge"]),
    ("enabler", &["enabler", "charge", "wire", "simulate"]),
    ("config", &["config", "charge", "wire", "enabler"]),
    ("shm", &["shm", "config", "charge", "wire", "simulate"]),
    ("worker", &["worker", "shm", "config", "charge", "wire", "simulate"]),
    ("engine", &["engine", "worker", "shm", "config", "enabler", "charge", "wire", "simulate"]),
    ("admin", &["admin", "engine", "worker", "shm", "config", "charge", "wire"]),
    ("ffi", &["ffi", "admin", "engine", "worker", "shm", "config", "charge"]),
    ("host", &["host", "admin", "engine", "worker", "shm", "config", "charge"]),
];

/// Files that touch shared memory or processes.
const SHARED_MEMORY: &[&str] = &["eventfd.rs", "ring.rs", "sync.rs", "region.rs", "clock.rs", "supervisor.rs"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let deep = paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    deep.filter(|path| path.extension().is_some_and(|ending| ending == "rs")).collect()
}

fn layer(name: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name);
    let files = sources(&folder);
    assert!(!files.is_empty(), "layer {name} has no files");
    files.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("readable"))).collect()
}

/// Words of code, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn layers_import_only_what_lies_below_them() {
    for (name, allowed) in ARROWS {
        for (path, text) in layer(name) {
            // A test may use what it needs to stand up its subject.
            if path.ends_with("tests.rs") {
                continue;
            }
            for line in code(&text) {
                for import in line.split("crate::").skip(1) {
                    let target = import.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                    let known = ARROWS.iter().any(|(layer, _)| *layer == target);
                    let fine = !known || allowed.contains(&target);
                    assert!(fine, "{}: {name} may not use {target}: {line}", path.display());
                }
            }
        }
    }
}

#[test]
fn unsafe_stands_only_where_it_may_and_says_what_it_rests_on() {
    for (name, _) in ARROWS {
        for (path, text) in layer(name) {
            let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
            let may =
                matches!(*name, "ffi" | "host") || (matches!(*name, "shm" | "engine") && SHARED_MEMORY.contains(&file));
            let uses =
                |line: &&str| line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl");
            let uses = code(&text).filter(uses).count();
            assert!(may || uses == 0, "{}: unsafe may not stand here", path.display());
            let promises = text.matches("SAFETY:").count() + text.matches("# Safety").count();
            assert!(uses == 0 || promises > 0, "{}: unsafe without the promise it rests on", path.display());
        }
    }
}
