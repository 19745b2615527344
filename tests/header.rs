//! Checks that include/imcharge.h is what cbindgen generates from src/ffi, and that each result has a sentence.

#![cfg(feature = "capi")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The files of src/ffi, in their order in the header.
const FILES: &[&str] = &["result.rs", "logger.rs", "config.rs", "host.rs", "verdict.rs", "hooks.rs", "command.rs"];

/// Environment variable that makes the test write the header.
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
fn header_is_current() {
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

/// Each exported function is in the header, so no file of src/ffi is missing in `FILES`.
#[test]
fn header_has_all_functions() {
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

/// Returns names and numbers of the errors in the header.
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
fn errors_have_different_sentences() {
    let sentence = |number| {
        let mut buffer = [0_u8; 256];
        // SAFETY: the buffer has this size.
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

/// The header compiles as C99 and as C++11.
#[test]
fn header_compiles_as_c_and_cpp() {
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
