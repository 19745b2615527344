//! Generates the Kamailio bindings after checks.
//!
//! A module that loads but misreads a structure is dangerous. The host checks only two strings of a module, so everything else
//! is checked here against the stock binaries:
//!
//! 1. version and flags strings are those of a stock module, and binary and sources have the same version;
//! 2. the `-D` options derived from the flags give the same flags when the headers are preprocessed with them;
//! 3. structures that the binary and `tm` export have the sizes of the headers;
//! 4. after linking (`scripts/check-imports.sh`): every symbol that the module needs is in the binary.

use super::gates;
use object::{Object, ObjectSymbol};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Header list for bindgen.
const HEADERS: &str = "include/host/kamailio.h";

/// The part of the host's interface that the module uses.
const ALLOW: &str = concat!(
    "sip_msg|hdr_field|to_body|cseq_body|module_exports|cmd_export|param_export|rpc_export|rpc|_pv_.*|pv_.*|",
    "tm_binds|load_tm_f|tmcb_params|cell|PROTO_UDP|tcp_closed_event_info|tcp_event_info|msrp_frame|sr_event_.*|sr_kemi.*|",
    "run_act_ctx|route_list|receive_info|ip_addr|socket_info|counter_.*|_str|sr_shm_api|sr_pkg_api|cfg_group_.*|",
    "parse_msg|free_sip_msg|lump|lump_op|LUMP_.*|parse_headers|parse_from_header|get_hdr_by_name|faked_msg_next|route_lookup|run_top_route|main_rt|event_rt|",
    "route_type|register_procs|cfg_register_child|cfg_child_init|fork_process|get_max_procs|process_no|",
    "find_export|find_module_by_name|find_param_export|register_script_cb|find_si|tcpconn_exists|check_self|rpc_register_array|fixup_spve_null|fixup_igp_null|",
    "fixup_spve_igp|fixup_spve_spve|get_str_fparam|get_int_fparam|get_debug_level|get_debug_facility|log_stderr|",
    "_km_log_func|_shm_root|PROC_.*|PARAM_.*|T_CANCELED|REQUEST_ROUTE|EVENT_ROUTE|ANY_ROUTE|TMCB_.*|SREV_.*|HDR_.*|_hdr_types_t|",
    "METHOD_.*|request_method|IMCHARGE_.*|SR_KEMIP_.*|CNT_F_.*|RPC_.*|L_.*|PV_.*|sr_module|my_pid"
);

/// Objects of the binary whose sizes must agree with the headers, and their types.
const SIZES: &[(&str, &str)] = &[
    ("_shm_root", "sr_shm_api"),
    ("_pkg_root", "sr_pkg_api"),
    ("default_core_cfg", "cfg_group_core"),
    ("tcp_default_cfg", "cfg_group_tcp"),
];

/// The same for the stock `tm`.
const SIZES_OF_TM: &[(&str, &str)] = &[("exports", "module_exports"), ("default_tm_cfg", "cfg_group_tm")];

/// Macros of every build of Kamailio that its flags string does not name.
const UNNAMED: &[&str] = &[
    "STATISTICS",
    "USE_CORE_STATS",
    "MALLOC_STATS",
    "WITH_XAVP",
    "MEM_JOIN_FREE",
    "CC_GCC_LIKE_ASM",
    "HAVE_GETHOSTBYNAME2",
    "HAVE_UNION_SEMUN",
    "HAVE_SCHED_YIELD",
    "HAVE_MSG_NOSIGNAL",
    "HAVE_MSGHDR_MSG_CONTROL",
    "HAVE_ALLOCA_H",
    "HAVE_TIMEGM",
    "HAVE_SCHED_SETSCHEDULER",
    "HAVE_IP_MREQN",
    "HAVE_EPOLL",
    "HAVE_SIGIO_RT",
    "SIGINFO64_WORKARROUND",
    "ADAPTIVE_WAIT_LOOPS=1024",
];

/// Paths of the host on this machine.
struct Host {
    source: PathBuf,
    modules: PathBuf,
    binary: PathBuf,
}

/// Runs the checks and writes the bindings to OUT_DIR. The error is a sentence for the user.
pub fn build() -> Result<(), String> {
    println!("cargo:rerun-if-changed={HEADERS}");
    println!("cargo:rerun-if-changed=build/kamailio.rs");
    println!("cargo:rerun-if-changed=build/gates.rs");
    let host = find_host()?;
    let stock = fs::read(host.modules.join("tm.so")).map_err(|error| {
        format!("no stock module {}: {error}; set KAMAILIO_MODULES", host.modules.join("tm.so").display())
    })?;
    let version = gates::text_of_pointer(&stock, "module_version", 0)?;
    let flags = gates::text_of_pointer(&stock, "module_flags", 0)?;
    println!("cargo:rustc-env=IMCHARGE_KAMAILIO_VERSION={version}");
    println!("cargo:rustc-env=IMCHARGE_KAMAILIO_FLAGS={flags}");
    let mut defines = defines(&version, &flags)?;
    let binary = fs::read(&host.binary)
        .map_err(|error| format!("cannot read {}: {error}; set KAMAILIO_BIN", host.binary.display()))?;
    same_binary(&host, &binary, &version)?;
    same_version(&host, &version)?;
    gates::same_flags(&host.source, &defines, ("core/ver_defs.h", "SER_COMPILE_FLAGS"), &flags)?;
    defines.push("MOD_NAME=\"imcharge\"".into());
    let bindings = gates::bindings(&host.source, &defines, HEADERS, ALLOW)?;
    gates::same_sizes(&host.binary, &bindings, SIZES)?;
    gates::same_sizes(&host.modules.join("tm.so"), &bindings, SIZES_OF_TM)?;
    fs::write(gates::out_dir()?.join("kamailio.rs"), bindings)
        .map_err(|error| format!("cannot write the bindings: {error}"))
}

fn find_host() -> Result<Host, String> {
    let from = |name: &str, default: &str| {
        println!("cargo:rerun-if-env-changed={name}");
        env::var_os(name).map_or_else(|| PathBuf::from(default), PathBuf::from)
    };
    let source = from("KAMAILIO_SRC", "out/kamailio/src");
    let modules = from("KAMAILIO_MODULES", "/usr/lib/x86_64-linux-gnu/kamailio/modules");
    let binary = from("KAMAILIO_BIN", "/usr/sbin/kamailio");
    if !source.join("core/sr_module.h").is_file() {
        return Err(format!(
            "no Kamailio sources in {}; run scripts/kamailio-source.sh, or set KAMAILIO_SRC to the folder with core/ in it",
            source.display()
        ));
    }
    Ok(Host { source, modules, binary })
}

/// Returns the `-D` options that the strings of a stock module stand for.
fn defines(version: &str, flags: &str) -> Result<Vec<String>, String> {
    // kamailio 5.6.3 (x86_64/linux)
    let strange = || format!("the version string '{version}' of the stock module has an unknown format");
    let (name, rest) = version.split_once(' ').ok_or_else(strange)?;
    let (number, platform) = rest.split_once(" (").ok_or_else(strange)?;
    let (arch, os) = platform.trim_end_matches(')').split_once('/').ok_or_else(strange)?;
    let mut parts =
        number.splitn(3, '.').map(|part| part.split(['-', '~', '+']).next().unwrap_or_default().parse::<u32>());
    let mut part = || parts.next().and_then(Result::ok).ok_or_else(strange);
    let number_value = part()? * 1_000_000 + part()? * 1_000 + part()?;
    let mut all = vec![
        format!("NAME=\"{name}\""),
        format!("VERSION=\"{number}\""),
        format!("ARCH=\"{arch}\""),
        format!("OS_QUOTED=\"{os}\""),
        format!("VERSIONVAL={number_value}"),
        format!("__CPU_{arch}"),
        format!("__OS_{}", os.to_ascii_lowercase()),
    ];
    for flag in flags.split(", ").map(str::trim).filter(|flag| !flag.is_empty()) {
        match flag {
            "TLS_PTHREAD_MUTEX_SHARED" => all.push("KSR_PTHREAD_MUTEX_SHARED".into()),
            "FAST_LOCK-ADAPTIVE_WAIT" => all.extend(["FAST_LOCK".into(), "ADAPTIVE_WAIT".into()]),
            plain => all.push(plain.into()),
        }
    }
    all.extend(UNNAMED.iter().map(|name| (*name).to_owned()));
    Ok(all)
}

/// Check: the binary has the version of the stock modules.
fn same_binary(host: &Host, binary: &[u8], version: &str) -> Result<(), String> {
    let path = host.binary.display();
    let file = object::File::parse(binary).map_err(|_| {
        format!("{path} is not a program file; set KAMAILIO_BIN to Kamailio itself, not to a script that starts it")
    })?;
    let symbol = file.dynamic_symbols().find(|found| found.name() == Ok("full_version"));
    let found = symbol.and_then(|symbol| gates::text_at(&file, symbol.address()));
    let found = found.ok_or_else(|| format!("{path} does not contain its version; is it Kamailio?"))?;
    // A commit id may follow.
    match found.strip_prefix(version).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')) {
        true => Ok(()),
        false => Err(format!(
            "{path} is {}, the stock modules in {} are of {version}; set KAMAILIO_BIN and KAMAILIO_MODULES to the same",
            found.trim_end(),
            host.modules.display()
        )),
    }
}

/// Check: the sources have the version of the stock modules.
fn same_version(host: &Host, version: &str) -> Result<(), String> {
    let number = version.split(' ').nth(1).unwrap_or_default();
    // Builds by CMake have the system name Linux, those by make linux. Only the files of the build in use have the right
    // version: the CMake files of 6.0.1 contain 6.0.0.
    let found = match version.ends_with("/Linux)") {
        true => version_of_cmake(&host.source.join("../CMakeLists.txt")),
        false => version_of_make(&host.source.join("Makefile.defs")),
    };
    match found.as_deref() {
        Some(found) if found == number => Ok(()),
        found => Err(format!(
            "the sources in {} are of {}, the stock modules of {number}; get the sources of {number}",
            host.source.display(),
            found.map_or("no known version".into(), |found| format!("version {found}"))
        )),
    }
}

/// Returns the version in Makefile.defs.
fn version_of_make(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let value = |name: &str| {
        let line = text.lines().find(|line| line.split('=').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split('=').nth(1)).map(|value| value.trim().to_owned())
    };
    let extra = value("EXTRAVERSION").unwrap_or_default();
    Some(format!("{}.{}.{}{extra}", value("VERSION")?, value("PATCHLEVEL")?, value("SUBLEVEL")?))
}

/// Returns the version in `project` and `EXTRAVERSION` of CMakeLists.txt.
fn version_of_cmake(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let project = text.split_once("project(")?.1.split(')').next()?;
    let number = project.split_whitespace().skip_while(|word| *word != "VERSION").nth(1)?;
    let extra = text.split_once("set(EXTRAVERSION \"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default();
    Some(format!("{number}{extra}"))
}
