//! Generates the OpenSIPS bindings after checks.
//!
//! The loader of OpenSIPS compares only three strings: version, compile flags and revision of the sources. The rest is checked
//! here against the binaries:
//!
//! 1. the three strings are those of a stock module, from the structure `exports` that the loader reads;
//! 2. the program and the sources are of that version, and the `-D` options derived from the flags give the same flags when
//!    the headers are preprocessed with them;
//! 3. structures that the binary and its modules export have the sizes of the headers;
//! 4. after linking (`scripts/check-imports.sh`): every symbol that the module needs is in the binary.

use super::gates;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Header list for bindgen.
const HEADERS: &str = "include/host/opensips.h";

/// The host's inline functions that the module calls.
const INLINE: &str = "include/host/opensips.c";

/// The part of the host's interface that the module uses.
const ALLOW: &str = concat!(
    "sip_msg|hdr_field|to_body|cseq_body|module_exports|sr_module|cmd_export_.*|acmd_export_.*|cmd_param|param_export_.*|",
    "proc_export_.*|stat_export_.*|stat_var.*|mi_export_.*|mi_recipe_.*|_pv_.*|pv_.*|tm_binds|load_tm_f|tmcb_params|cell|",
    "dep_export_.*|module_dependency.*|async_ctx|async_ret_code|async_status|async_script_resume_f|evi_.*|EVI_.*|",
    "register_event_mod|register_timer|TIMER_FLAG_.*|modules|T_WAS_CANCELLED_FLAG|ipc_send_rpc|process_no|count_child_processes|__register_script_cb|find_export|find_mod_export|",
    "receive_info|ip_addr|socket_info|grep_sock_info_ext|__str.*|parse_from_header|parse_msg_opt|lump|lump_op|LUMP_.*|",
    "free_sip_msg|dprint|log_level|log_facility|log_prefix|log_name|register_stat2|stat_flags|STAT_.*|",
    "init_mi_.*|add_mi_.*|free_mi_response|try_get_mi_.*|get_mi_.*|mi_response_t|mi_params_.*|cJSON|msrp_.*|MSRP_.*|PROC_FLAG_.*|",
    "IMCHARGE_.*|STR_PARAM|INT_PARAM|CMD_PARAM_.*|REQUEST_ROUTE|ONREPLY_ROUTE|ALL_ROUTES|TMCB_.*|SCB_.*|PRE_SCRIPT_CB|POST_SCRIPT_CB|REQ_TYPE_CB|RPL_TYPE_CB|",
    "register_fork_handler|internal_fork_handler|counted_max_processes|route_type|DEFAULT_DLFLAGS|MAX_MOD_DEPS|MAX_MI_PARAMS|HDR_.*|register_mi_cmd|set_proc_attrs|event_id_t|hdr_flags_t|_hdr_types_t|request_method|METHOD_.*|PV_.*|L_.*|module_type|MOD_TYPE_.*|DEP_.*|enum_sip_protos|",
    "sip_protos|PROTO_.*|pkg_mem_.*|scm_version|core_scm_ver|process_table|stats_collector_?|mem_lock|memdump"
);

/// Exported objects whose sizes must agree with the headers, and their types.
const SIZES: &[(&str, &str)] = &[("core_scm_ver", "scm_version"), ("pv_true", "_pv_value")];

/// The same for stock modules, if they are installed.
const MODULE_SIZES: &[(&str, &str, &str)] = &[
    ("tm", "exports", "module_exports"),
    ("dialog", "d_tmb", "tm_binds"),
    ("b2b_entities", "tmb", "tm_binds"),
    ("msrp_relay", "msrp_api", "msrp_binds"),
    ("msrp_ua", "msrp_api", "msrp_binds"),
];

/// Offsets in `exports`, in octets, of the three strings that the loader compares, and of the type of the last.
const VERSION: u64 = 16;
const FLAGS: u64 = 24;
const REVISION_TYPE: u64 = 32;
const REVISION: u64 = 40;

/// Prefix of the supported version strings.
const SERIES: &str = "opensips 3.6.";

/// Macros of every build of OpenSIPS for Linux that its flags string does not name.
const UNNAMED: &[&str] = &[
    "HAVE_RESOLV_RES",
    "HAVE_STDATOMIC",
    "HAVE_GENERICS",
    "__SMP_yes",
    "ADAPTIVE_WAIT_LOOPS=1024",
    "HAVE_GETHOSTBYNAME2",
    "HAVE_UNION_SEMUN",
    "HAVE_MSG_NOSIGNAL",
    "HAVE_MSGHDR_MSG_CONTROL",
    "HAVE_ALLOCA_H",
    "HAVE_TIMEGM",
    "HAVE_EPOLL",
    "HAVE_SIGIO_RT",
    "HAVE_SELECT",
];

/// Paths of the host on this machine.
struct Host {
    source: PathBuf,
    modules: PathBuf,
    binary: PathBuf,
}

/// Runs the checks and writes the bindings to OUT_DIR. The error is a sentence for the user.
pub fn build() -> Result<(), String> {
    for file in [HEADERS, INLINE, "build/opensips.rs", "build/gates.rs"] {
        println!("cargo:rerun-if-changed={file}");
    }
    let host = find_host()?;
    let missing = || format!("no stock module tm.so in {}; set OPENSIPS_MODULES", host.modules.display());
    let stock = find_stock(&host.modules, "tm").ok_or_else(missing)?;
    let elf = fs::read(&stock).map_err(|error| format!("cannot read {}: {error}", stock.display()))?;
    let version = gates::text_of_pointer(&elf, "exports", VERSION)?;
    let flags = gates::text_of_pointer(&elf, "exports", FLAGS)?;
    let kind = gates::text_of_pointer(&elf, "exports", REVISION_TYPE)?;
    let revision = gates::text_of_pointer(&elf, "exports", REVISION)?;
    println!("cargo:rustc-env=IMCHARGE_OPENSIPS_VERSION={version}");
    println!("cargo:rustc-env=IMCHARGE_OPENSIPS_FLAGS={flags}");
    println!("cargo:rustc-env=IMCHARGE_OPENSIPS_REVISION_TYPE={kind}");
    println!("cargo:rustc-env=IMCHARGE_OPENSIPS_REVISION={revision}");
    // OpenSIPS 3.4 has no call between the counting of its processes and its first fork, where the shared region is made.
    if !version.starts_with(SERIES) {
        return Err(format!("the module is for OpenSIPS 3.6, and {} says '{version}'", stock.display()));
    }
    let mut defines = defines(&version, &flags)?;
    same_binary(&host, &version)?;
    same_version(&host, &version)?;
    gates::same_flags(&host.source, &defines, ("version.h", "OPENSIPS_COMPILE_FLAGS"), &flags)?;
    defines.push("MOD_NAME=imcharge".into());
    let bindings = gates::bindings(&host.source, &defines, HEADERS, ALLOW)?;
    gates::same_sizes(&host.binary, &bindings, SIZES)?;
    for (module, symbol, kind) in MODULE_SIZES {
        if let Some(path) = find_stock(&host.modules, module) {
            gates::same_sizes(&path, &bindings, &[(symbol, kind)])?;
        }
    }
    compile_inline(&host.source, &defines)?;
    fs::write(gates::out_dir()?.join("opensips.rs"), bindings)
        .map_err(|error| format!("cannot write the bindings: {error}"))
}

fn find_host() -> Result<Host, String> {
    let from = |name: &str| {
        println!("cargo:rerun-if-env-changed={name}");
        env::var_os(name).map(PathBuf::from)
    };
    let source = from("OPENSIPS_SRC").ok_or("OPENSIPS_SRC must name the folder of its sources")?;
    let binary = from("OPENSIPS_BIN").ok_or("OPENSIPS_BIN must name its program")?;
    let modules = from("OPENSIPS_MODULES").unwrap_or_else(|| source.join("modules"));
    match source.join("sr_module.h").is_file() {
        true => Ok(Host { source, modules, binary }),
        false => Err(format!("no OpenSIPS sources in {}; set OPENSIPS_SRC", source.display())),
    }
}

/// Finds a stock module: in its own folder if the host was built there, beside the others if it was installed.
fn find_stock(modules: &Path, name: &str) -> Option<PathBuf> {
    let places = [modules.join(format!("{name}/{name}.so")), modules.join(format!("{name}.so"))];
    places.into_iter().find(|path| path.is_file())
}

/// Returns the `-D` options that the strings of a stock module stand for.
fn defines(version: &str, flags: &str) -> Result<Vec<String>, String> {
    // opensips 3.6.8 (x86_64/linux)
    let strange = || format!("the version string '{version}' of the stock module has an unknown format");
    let (name, rest) = version.split_once(' ').ok_or_else(strange)?;
    let (number, platform) = rest.split_once(" (").ok_or_else(strange)?;
    let (arch, os) = platform.trim_end_matches(')').split_once('/').ok_or_else(strange)?;
    let mut all = vec![
        format!("NAME=\"{name}\""),
        format!("VERSION=\"{number}\""),
        format!("ARCH=\"{arch}\""),
        format!("OS=\"{os}\""),
        format!("__CPU_{arch}"),
        format!("__OS_{os}"),
    ];
    for flag in flags.split(", ").map(str::trim).filter(|flag| !flag.is_empty()) {
        match flag {
            "STATS: On" => all.push("STATISTICS".into()),
            "STATS: Off" => {}
            "FAST_LOCK-ADAPTIVE_WAIT" => all.extend(["FAST_LOCK".into(), "ADAPTIVE_WAIT".into()]),
            "FAST_LOCK-FUTEX-ADAPTIVE_WAIT" => {
                all.extend(["FAST_LOCK".into(), "USE_FUTEX".into(), "ADAPTIVE_WAIT".into()]);
            }
            plain => all.push(plain.into()),
        }
    }
    all.extend(UNNAMED.iter().map(|name| (*name).to_owned()));
    Ok(all)
}

/// Check: the program has the version of the stock modules. It contains the version as a text without a symbol.
fn same_binary(host: &Host, version: &str) -> Result<(), String> {
    let path = host.binary.display();
    let binary = fs::read(&host.binary).map_err(|error| format!("cannot read {path}: {error}; set OPENSIPS_BIN"))?;
    object::File::parse(&*binary).map_err(|_| {
        format!("{path} is not a program file; set OPENSIPS_BIN to OpenSIPS itself, not to a script that starts it")
    })?;
    let texts = binary.split(|octet| *octet == 0).filter_map(|text| std::str::from_utf8(text).ok());
    let is_version = |text: &&str| {
        let rest = text.strip_prefix("opensips ").unwrap_or_default();
        rest.starts_with(|first: char| first.is_ascii_digit()) && rest.ends_with(')')
    };
    let found: Vec<&str> = texts.filter(is_version).collect();
    match found.as_slice() {
        found if found.contains(&version) => Ok(()),
        [] => Err(format!("{path} does not contain its version; is it OpenSIPS?")),
        [found, ..] => Err(format!(
            "{path} is {found}, the stock modules in {} are of {version}; set OPENSIPS_BIN and OPENSIPS_MODULES to the same",
            host.modules.display()
        )),
    }
}

/// Check: the sources have the version of the stock modules.
fn same_version(host: &Host, version: &str) -> Result<(), String> {
    let number = version.split(' ').nth(1).unwrap_or_default();
    let text = fs::read_to_string(host.source.join("Makefile.defs")).unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.split('=').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split('=').nth(1)).map(|value| value.trim().to_owned()).unwrap_or_default()
    };
    let [major, minor, sub, build] = ["VERSION_MAJOR", "VERSION_MINOR", "VERSION_SUBMINOR", "VERSION_BUILD"].map(value);
    let found = format!("{major}.{minor}.{sub}{build}");
    match number.starts_with(&found) {
        true => Ok(()),
        false => Err(format!(
            "the sources in {} are of version {found}, the stock modules of {number}; get the sources of {number}",
            host.source.display()
        )),
    }
}

/// Compiles the host's inline functions into the module.
fn compile_inline(source: &Path, defines: &[String]) -> Result<(), String> {
    let out = gates::out_dir()?;
    let (object, library) = (out.join("inline.o"), out.join("libimcharge_inline.a"));
    let run = |program: &str, arguments: &[String]| {
        let status = Command::new(program).args(arguments).status();
        let status = status.map_err(|error| format!("{program} does not run: {error}; install clang and binutils"))?;
        if status.success() { Ok(()) } else { Err(format!("{program} fails on {INLINE}")) }
    };
    let mut arguments = gates::arguments(source, defines);
    arguments.extend(["-fPIC", "-O2", "-c", INLINE, "-o"].map(String::from));
    arguments.push(object.display().to_string());
    run("clang", &arguments)?;
    let _ = fs::remove_file(&library);
    run("ar", &["crs".into(), library.display().to_string(), object.display().to_string()])?;
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static=imcharge_inline");
    Ok(())
}
