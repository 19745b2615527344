//! Builds the C host of tests/harness with `cc` and runs it against the library of this build, with and without valgrind.

// A library with the module of a host needs symbols of that host, so no other program can load it.
#![cfg(all(feature = "capi", not(feature = "kamailio"), not(feature = "opensips")))]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the build folder of cargo, which contains this test and the library.
fn build_folder() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    test.parent().expect("its folder").to_owned()
}

/// Compiles the harness; warnings are errors.
fn build(into: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let harness = into.join("harness");
    let sources = std::fs::read_dir(root.join("tests/harness")).expect("tests/harness");
    let sources =
        sources.map(|file| file.expect("a file").path()).filter(|path| path.extension() == Some("c".as_ref()));
    let mut compiler = Command::new("cc");
    compiler.args(["-std=gnu11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-O1", "-I"]);
    compiler.arg(root.join("include")).args(sources).arg("-o").arg(&harness).arg("-ldl");
    let status = compiler.status().expect("cc (Debian: build-essential) is needed for this test");
    assert!(status.success(), "cc does not build tests/harness");
    harness
}

/// Runs the harness under `wrapper`: sessions of each kind per worker, limit of each wait in seconds, kills of the engine.
fn run(wrapper: &[&str], sessions: u32, bound: u32, kills: u32) {
    let folder = tempfile::tempdir().expect("a folder for the ledger");
    let harness = build(folder.path());
    let library = build_folder().join("libimcharge.so");
    let state = folder.path().join("state");
    std::fs::create_dir(&state).expect("a state directory");
    let mut words = wrapper.iter().map(|word| word.as_ref()).chain([harness.as_os_str()]);
    let mut command = Command::new(words.next().expect("a command"));
    command.args(words).arg(library).arg(state).args([sessions, bound, kills].map(|number| number.to_string()));
    let output = command.output().unwrap_or_else(|error| {
        panic!("{wrapper:?} cannot be run ({error}); for the check under valgrind install the Debian package valgrind")
    });
    let lines = String::from_utf8_lossy(&output.stdout);
    let wrong: Vec<&str> = lines.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        wrong.join("\n"),
        lines.lines().last().unwrap_or("no line"),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn c_host_charges_each_unit_once() {
    run(&[], 14, 10, 0);
}

/// Committed changes are kept and uncommitted events are read again, so the balances are the same.
#[test]
fn balances_are_right_after_engine_is_killed() {
    run(&[], 14, 10, 8);
}

/// Few sessions, because valgrind is slow. A process in which valgrind finds an error exits with 99, so the harness fails.
#[test]
fn c_host_has_no_memory_errors_under_valgrind() {
    let wrapper = ["valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full", "--show-leak-kinds=definite"];
    run(&wrapper, 1, 60, 0);
}

/// The example of docs/c-abi.md, compiled as printed, charges one message.
#[test]
fn documented_example_charges_one_message() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/c-abi.md")).expect("a page");
    let example = page.split("```c\n").nth(1).and_then(|rest| rest.split("```\n").next()).expect("an example");
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("relay.c"), example).expect("written");
    std::fs::create_dir(path("state")).expect("a state directory");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=gnu11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]);
    compiler.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include")).arg("-o").arg(path("relay"));
    let compiler = compiler.arg(path("relay.c")).arg("-L").arg(build_folder()).arg("-limcharge");
    assert!(compiler.status().expect("cc (Debian: build-essential) is needed for this test").success());
    let mut relay = Command::new(path("relay"));
    let output = relay.arg(path("state")).env("LD_LIBRARY_PATH", build_folder()).output().expect("it runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = page.split("It prints:\n\n```\n").nth(1).and_then(|rest| rest.split("```\n").next());
    assert_eq!(Some(printed.as_str()), expected, "{}", String::from_utf8_lossy(&output.stderr));
}
