//! include/imcharge.h is what cbindgen makes of src/ffi, and every result in it has its sentence.

#![cfg(feature = "capi")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// In the order in which a reader of the header meets them.
const FILES: &[&str] = &["result.rs", "logger.rs", "config.rs", "host.rs", "verdict.rs", "hooks.rs", "command.rs"];

/// Set it to write the header instead of comparing it.
const WRITE: &str = "IMCHARGE_WRITE_HEADER";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn generated() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml");
    let builder = FILES.iter().fold(cbindgen::Builder::new().with_config(config), |builder, file| {
        builder.with_src(root().join("src/ffi").join(file))
    });
    let mut header = Vec::new();
    builder.generate().expect("src/ffi has a header").write(&mut header);
    String::from_utf8(header).expect("a header in UTF-8")
}

fn committed() -> String {
    std::fs::read_to_string(root().join("include/imcharge.h")).unwrap_or_default()
}

#[test]
fn the_header_is_not_stale() {
    let header = generated();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(root().join("include/imcharge.h"), &header).expect("include/ is writable");
    }
    let differs = committed().lines().zip(header.lines()).position(|(old, new)| old != new);
    assert!(
        committed() == header,
        "include/imcharge.h is stale (first at line {:?}): run {WRITE}=1 cargo test --test header",
        differs.map(|at| at + 1)
    );
}

/// Every function that C can call stands in the header: no file of src/ffi is forgotten above.
#[test]
fn no_function_is_missing() {
    let header = committed();
    let files = std::fs::read_dir(root().join("src/ffi")).expect("src/ffi");
    let sources = files.map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("text"));
    let functions: Vec<String> = sources
        .flat_map(|source| source.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| Some(line.split_once("extern \"C\" fn ")?.1.split('(').next()?.to_owned()))
        .filter(|name| name.starts_with("imcharge_"))
        .collect();
    assert!(functions.len() > 20, "the scan found {functions:?}");
    for name in functions {
        assert!(header.contains(&format!(" {name}(")), "{name} is not in the header");
    }
}

/// The results of the header: name and number.
fn results() -> HashMap<String, i32> {
    let numbers = committed();
    let defines = numbers.lines().filter_map(|line| line.strip_prefix("#define IMCHARGE_"));
    let results = defines.filter_map(|define| {
        let (name, number) = define.split_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    });
    results.filter(|(_, number)| *number < 0).collect()
}

#[test]
fn every_error_has_its_own_sentence() {
    let sentence = |number| {
        let mut buffer = [0_u8; 256];
        // SAFETY: the buffer is as long as said.
        let length = unsafe { imcharge::ffi::result::imcharge_strerror(number, buffer.as_mut_ptr().cast(), 256) };
        String::from_utf8_lossy(&buffer[..usize::try_from(length).expect("a sentence")]).into_owned()
    };
    let unknown = sentence(-1_000_000);
    let results = results();
    assert!(results.len() >= 22, "the header has {results:?}");
    let mut numbers: HashMap<String, i32> = HashMap::new();
    for (name, number) in results {
        let text = sentence(number);
        assert_ne!(text, unknown, "{name} has no sentence");
        assert_eq!(*numbers.entry(text).or_insert(number), number, "{name} shares its sentence");
    }
}

/// A C compiler takes the header, as C99 and as C++.
#[test]
fn compilers_take_it() {
    let include = root().join("include");
    for (language, standard) in [("c", "-std=c99"), ("c++", "-std=c++11")] {
        assert!(compiles(language, standard, &include), "{language} {standard} does not take include/imcharge.h");
    }
}

fn compiles(language: &str, standard: &str, include: &Path) -> bool {
    let mut compiler = std::process::Command::new("cc");
    compiler.args(["-x", language, standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]);
    compiler.arg(include.join("imcharge.h"));
    compiler.status().expect("cc (Debian: build-essential) is needed for this test").success()
}
