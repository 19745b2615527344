//! The symbol that the host's loader looks up, and its tables.

use super::{bindings as sys, events, lifecycle, msrp_api, parameters, reserve, resume, variables};
use crate::host::table::Table;
use std::ffi::{CStr, c_char, c_int};

/// Returns an environment variable of the build as a C text.
macro_rules! built {
    ($name:literal) => {
        concat!(env!($name), "\0").as_ptr().cast::<c_char>()
    };
}

/// Description of the module. The loader compares the three strings with the host's.
#[unsafe(no_mangle)]
pub static exports: Table<sys::module_exports> = Table::new(sys::module_exports {
    name: c"imcharge".as_ptr(),
    type_: sys::MOD_TYPE_DEFAULT,
    ver_info: sys::module_exports__bindgen_ty_1 {
        version: built!("IMCHARGE_OPENSIPS_VERSION"),
        compile_flags: built!("IMCHARGE_OPENSIPS_FLAGS"),
        scm: sys::scm_version {
            type_: built!("IMCHARGE_OPENSIPS_REVISION_TYPE"),
            rev: built!("IMCHARGE_OPENSIPS_REVISION"),
        },
    },
    dlflags: sys::DEFAULT_DLFLAGS,
    load_f: None,
    deps: DEPENDENCIES.get().cast(),
    cmds: COMMANDS.get().cast(),
    acmds: ASYNC_COMMANDS.get().cast(),
    params: PARAMETERS.get().cast(),
    stats: std::ptr::null(),
    mi_cmds: std::ptr::null(),
    items: VARIABLES.get().cast(),
    trans: std::ptr::null(),
    procs: PROCESSES.get().cast(),
    preinit_f: None,
    init_f: Some(initialise),
    response_f: None,
    destroy_f: None,
    init_child_f: None,
    reload_ack_f: None,
});

/// Modules that must be initialised earlier. The host's structure ends with a flexible array; here it has one empty row.
#[repr(C)]
struct Dependencies {
    modules: [sys::module_dependency; sys::MAX_MOD_DEPS as usize],
    parameters: [sys::modparam_dependency; 1],
}

const fn dependency(name: Option<&'static CStr>, kind: u32) -> sys::module_dependency {
    match name {
        Some(name) => {
            sys::module_dependency { mod_type: sys::MOD_TYPE_DEFAULT, mod_name: name.as_ptr().cast_mut(), type_: kind }
        }
        None => sys::module_dependency { mod_type: sys::MOD_TYPE_NULL, mod_name: std::ptr::null_mut(), type_: 0 },
    }
}

static DEPENDENCIES: Table<Dependencies> = Table::new(Dependencies {
    modules: {
        let mut all = [dependency(None, 0); sys::MAX_MOD_DEPS as usize];
        all[0] = dependency(Some(c"tm"), sys::DEP_ABORT);
        all[1] = dependency(Some(c"proto_msrp"), sys::DEP_SILENT);
        all
    },
    parameters: [sys::modparam_dependency { script_param: std::ptr::null_mut(), get_deps_f: None }],
});

static PARAMETERS: Table<[sys::param_export; parameters::ROWS]> = Table::new(parameters::table());

/// Returns the parameters of a function: optional ones of these kinds; 0: none.
const fn optional<const N: usize>(kinds: [u32; 2]) -> [sys::cmd_param; N] {
    let mut all = [sys::cmd_param { flags: 0, fixup: None, free_fixup: None }; N];
    let mut place = 0;
    while place < kinds.len() && kinds[place] != 0 {
        all[place].flags = (kinds[place] | sys::CMD_PARAM_OPT) as c_int;
        place += 1;
    }
    all
}

/// Parameters of `imcharge_reserve`: the number of messages, and the charged content.
const RESERVE: [u32; 2] = [sys::CMD_PARAM_INT, sys::CMD_PARAM_STR];

const fn command(name: &'static CStr, function: sys::cmd_function, kinds: [u32; 2], routes: u32) -> sys::cmd_export_ {
    sys::cmd_export_ { name: name.as_ptr(), function, params: optional(kinds), flags: routes as c_int }
}

static COMMANDS: Table<[sys::cmd_export_; 4]> = Table::new([
    command(c"imcharge_reserve", Some(reserve::reserve_without_async), RESERVE, sys::REQUEST_ROUTE),
    command(c"imcharge_end", Some(reserve::end), [sys::CMD_PARAM_STR, 0], sys::ALL_ROUTES),
    // Not callable from routes: other modules look it up.
    command(c"load_msrp", Some(msrp_api::load_msrp), [0; 2], 0),
    sys::cmd_export_ { name: std::ptr::null(), function: None, params: optional([0; 2]), flags: 0 },
]);

static ASYNC_COMMANDS: Table<[sys::acmd_export_; 2]> = Table::new([
    sys::acmd_export_ {
        name: c"imcharge_reserve".as_ptr(),
        function: Some(reserve::reserve),
        params: optional(RESERVE),
    },
    sys::acmd_export_ { name: std::ptr::null(), function: None, params: optional([0; 2]) },
]);

/// The class `$imcharge(...)`. An empty name ends the table.
static VARIABLES: Table<[sys::_pv_export; 2]> = Table::new([
    sys::_pv_export {
        name: sys::__str_const { s: c"imcharge".as_ptr(), len: 8 },
        type_: sys::PVT_EXTRA + 2855,
        getf: Some(variables::get),
        setf: None,
        parse_name: Some(parse_name),
        parse_index: None,
        init_param: None,
        iparam: 0,
    },
    sys::_pv_export {
        name: sys::__str_const { s: std::ptr::null(), len: 0 },
        type_: 0,
        getf: None,
        setf: None,
        parse_name: None,
        parse_index: None,
        init_param: None,
        iparam: 0,
    },
]);

/// Parses `$imcharge(name)` for the host.
unsafe extern "C" fn parse_name(spec: sys::pv_spec_p, name: *const sys::str_) -> c_int {
    // SAFETY: guaranteed by the host; the name is only read.
    unsafe { variables::parse_name(spec, name.cast_mut()) }
}

const fn processes(name: &'static CStr, function: sys::mod_proc, count: u32) -> sys::proc_export_ {
    sys::proc_export_ {
        name: name.as_ptr(),
        pre_fork_function: None,
        post_fork_function: None,
        function,
        no: count,
        flags: 0,
    }
}

/// The processes of the module.
static PROCESSES: Table<[sys::proc_export_; 4]> = Table::new([
    processes(c"imcharge supervisor", Some(lifecycle::supervisor), 1),
    processes(c"imcharge resume", Some(resume::work), 0),
    processes(c"imcharge events", Some(events::work), 0),
    sys::proc_export_ {
        name: std::ptr::null(),
        pre_fork_function: None,
        post_fork_function: None,
        function: None,
        no: 0,
        flags: 0,
    },
]);

/// mod_init. Returns -1 to stop the start of the proxy.
unsafe extern "C" fn initialise() -> c_int {
    lifecycle::initialise(|resume_workers, event_workers| {
        // SAFETY: in the host's main process, which reads the numbers after mod_init.
        unsafe {
            let processes = &mut *PROCESSES.get();
            (processes[1].no, processes[2].no) = (resume_workers, event_workers);
        }
    })
}
