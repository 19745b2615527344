//! Checks that the builds for both hosts share.

use object::{Object, ObjectSection, ObjectSymbol, ReadRef};
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the C string that a pointer refers to: the one `offset` octets into the variable `symbol` of a shared object.
pub fn text_of_pointer(elf: &[u8], symbol: &str, offset: u64) -> Result<String, String> {
    let missing = || format!("a stock module has no readable {symbol}; is it a module of this host?");
    let file = object::File::parse(elf).map_err(|_| missing())?;
    let variable = file.dynamic_symbols().find(|found| found.name() == Ok(symbol)).ok_or_else(missing)?;
    // The variable is filled by a relative relocation, whose addend is the address of the text.
    let mut relocations = file.dynamic_relocations().ok_or_else(missing)?;
    let found = relocations.find(|(at, _)| *at == variable.address() + offset).ok_or_else(missing)?;
    let address = u64::try_from(found.1.addend()).map_err(|_| missing())?;
    text_at(&file, address).ok_or_else(missing)
}

/// Returns the C string at an address of a shared object.
pub fn text_at(file: &object::File<'_>, address: u64) -> Option<String> {
    let inside =
        |section: &object::Section<'_, '_>| (section.address()..section.address() + section.size()).contains(&address);
    let section = file.sections().find(inside)?;
    let data = section.data().ok()?;
    let range = (address - section.address())..data.len() as u64;
    String::from_utf8(data.read_bytes_at_until(range, 0).ok()?.to_vec()).ok()
}

/// Returns the arguments of clang for the host's headers.
pub fn arguments(source: &Path, defines: &[String]) -> Vec<String> {
    let mut arguments: Vec<String> = defines.iter().map(|define| format!("-D{define}")).collect();
    arguments.push(format!("-I{}", source.display()));
    arguments
}

/// Check: the headers, preprocessed with the derived macros, give the flags string of the stock modules.
pub fn same_flags(source: &Path, defines: &[String], (header, name): (&str, &str), flags: &str) -> Result<(), String> {
    let probe = format!("#include \"{header}\"\nIMCHARGE_FLAGS {name}\n");
    let out = out_dir()?.join("flags.c");
    fs::write(&out, probe).map_err(|error| error.to_string())?;
    let run = Command::new("clang").args(["-E", "-P"]).args(arguments(source, defines)).arg(&out).output();
    let run = run.map_err(|error| format!("clang does not run: {error}; install clang and libclang-dev"))?;
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let line = text.rsplit("IMCHARGE_FLAGS").next().unwrap_or_default();
    let ours: String = line.split('"').skip(1).step_by(2).collect();
    let set = |text: &str| -> BTreeSet<String> {
        text.split(',').map(|flag| flag.trim().to_owned()).filter(|flag| !flag.is_empty()).collect()
    };
    let (ours, theirs) = (set(&ours), set(flags));
    match ours == theirs {
        true => Ok(()),
        false => Err(format!(
            "the headers do not give the compile flags of the stock modules: only in the headers {:?}, only in the \
             modules {:?}; the sources are not those that the modules were built from",
            ours.difference(&theirs).collect::<Vec<_>>(),
            theirs.difference(&ours).collect::<Vec<_>>()
        )),
    }
}

/// Returns bindgen's output for the header list.
pub fn bindings(source: &Path, defines: &[String], headers: &str, allow: &str) -> Result<String, String> {
    let made = bindgen::Builder::default()
        .header(headers)
        .clang_args(arguments(source, defines))
        .allowlist_item(allow)
        .use_core()
        .layout_tests(true)
        .derive_default(true)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .generate();
    made.map(|bindings| bindings.to_string()).map_err(|error| format!("bindgen fails on the headers: {error}"))
}

/// Check: objects that a stock file exports have the sizes of the headers.
pub fn same_sizes(path: &Path, bindings: &str, objects: &[(&str, &str)]) -> Result<(), String> {
    let elf = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let file = object::File::parse(&*elf).map_err(|error| format!("{}: {error}", path.display()))?;
    for (symbol, kind) in objects {
        let found = file.dynamic_symbols().find(|found| found.name() == Ok(symbol)).map(|found| found.size());
        let ours = size_in(bindings, kind);
        let octets =
            |size: Option<u64>| size.map_or("no known number of octets".into(), |size| format!("{size} octets"));
        if found.is_none() || ours != found {
            return Err(format!(
                "{symbol} has {} in {} and {} by the headers ({kind}); the sources are not those that it was built from",
                octets(found),
                path.display(),
                octets(ours)
            ));
        }
    }
    Ok(())
}

/// Returns the size of a type from bindgen's layout test.
fn size_in(bindings: &str, kind: &str) -> Option<u64> {
    let mark = format!("[\"Size of {kind}\"][::core::mem::size_of::<{kind}>() - ");
    let rest = bindings.split_once(&mark)?.1;
    rest.split("usize").next()?.parse().ok()
}

/// Returns OUT_DIR, where the build writes.
pub fn out_dir() -> Result<PathBuf, String> {
    env::var_os("OUT_DIR").map(PathBuf::from).ok_or_else(|| "cargo gives no OUT_DIR".into())
}
