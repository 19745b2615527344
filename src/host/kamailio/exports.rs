//! The symbols that the host's loader looks up, and their tables.

use super::{bindings as sys, frames, lifecycle, parameters, reserve, static_str, text, variables};
use crate::guard::guard;
use crate::host::table::Table;
use std::ffi::{c_char, c_int, c_void};

/// Version of the host that this module was built for; compared by the loader.
#[unsafe(no_mangle)]
pub static module_version: Table<*const c_char> =
    Table::new(concat!(env!("IMCHARGE_KAMAILIO_VERSION"), "\0").as_ptr().cast());

/// Compile flags of the host that this module was built for; compared by the loader.
#[unsafe(no_mangle)]
pub static module_flags: Table<*const c_char> =
    Table::new(concat!(env!("IMCHARGE_KAMAILIO_FLAGS"), "\0").as_ptr().cast());

/// Version of the module interface (MODULE_INTERFACE_VER).
#[unsafe(no_mangle)]
pub static module_interface_ver: u32 = sys::IMCHARGE_MODULE_INTERFACE_VERSION;

/// Description of the module.
#[unsafe(no_mangle)]
pub static exports: Table<sys::module_exports> = Table::new(sys::module_exports {
    name: text(c"imcharge"),
    dlflags: 0,
    cmds: COMMANDS.get().cast(),
    params: PARAMETERS.get().cast(),
    rpc_methods: std::ptr::null_mut(),
    pv_items: VARIABLES.get().cast(),
    response_f: None,
    init_mod_f: Some(lifecycle::initialise),
    init_child_f: Some(lifecycle::initialise_child),
    destroy_mod_f: None,
});

static PARAMETERS: Table<[sys::param_export; parameters::ROWS]> = Table::new(parameters::table());

/// Type of a script function.
type Function = unsafe extern "C" fn(*mut sys::sip_msg, *mut c_char, *mut c_char) -> c_int;
/// Type of a fix-up function.
type Fixup = unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int;

const fn command(
    name: *mut c_char,
    function: Function,
    count: c_int,
    fixup: Option<Fixup>,
    routes: u32,
) -> sys::cmd_export {
    sys::cmd_export { name, function: Some(function), param_no: count, fixup, free_fixup: None, flags: routes }
}

/// `imcharge_reserve` with three parameters. The host casts the function to a type by the number of its parameters.
// SAFETY: the host calls it with three parameters (`cmd_function3`).
const RESERVE_CONTENT: Function = unsafe {
    std::mem::transmute::<
        unsafe extern "C" fn(*mut sys::sip_msg, *mut c_char, *mut c_char, *mut c_char) -> c_int,
        Function,
    >(reserve::reserve_content)
};

static COMMANDS: Table<[sys::cmd_export; 7]> = Table::new([
    command(text(c"imcharge_reserve"), reserve::reserve, 1, Some(reserve::fixup_reserve), sys::REQUEST_ROUTE),
    command(text(c"imcharge_reserve"), reserve::reserve_messages, 2, Some(reserve::fixup_reserve), sys::REQUEST_ROUTE),
    command(text(c"imcharge_reserve"), RESERVE_CONTENT, 3, Some(reserve::fixup_reserve), sys::REQUEST_ROUTE),
    command(text(c"imcharge_msrp"), frames::msrp, 0, None, sys::ANY_ROUTE),
    command(text(c"imcharge_end"), reserve::end, 0, None, sys::ANY_ROUTE),
    command(text(c"imcharge_end"), reserve::end_reason, 1, Some(sys::fixup_spve_null), sys::ANY_ROUTE),
    sys::cmd_export {
        name: std::ptr::null_mut(),
        function: None,
        param_no: 0,
        fixup: None,
        free_fixup: None,
        flags: 0,
    },
]);

/// The class `$imcharge(...)`. An empty name ends the table.
static VARIABLES: Table<[sys::_pv_export; 2]> = Table::new([
    sys::_pv_export {
        name: static_str(c"imcharge"),
        type_: sys::PVT_OTHER,
        getf: Some(variables::get),
        setf: None,
        parse_name: Some(variables::parse_name),
        parse_index: None,
        init_param: None,
        iparam: 0,
    },
    sys::_pv_export {
        name: sys::_str { s: std::ptr::null_mut(), len: 0 },
        type_: 0,
        getf: None,
        setf: None,
        parse_name: None,
        parse_index: None,
        init_param: None,
        iparam: 0,
    },
]);

/// Returns a row of the table of KEMI functions.
const fn kemi(name: &'static std::ffi::CStr, function: *mut c_void, parameters: [u32; 3]) -> sys::sr_kemi {
    let mut ptypes = [0; 6];
    ptypes[0] = parameters[0] as c_int;
    ptypes[1] = parameters[1] as c_int;
    ptypes[2] = parameters[2] as c_int;
    let (mname, fname) = (static_str(c"imcharge"), static_str(name));
    sys::sr_kemi { mname, fname, rtype: sys::SR_KEMIP_INT as c_int, func: function, ptypes }
}

static KEMI: Table<[sys::sr_kemi; 7]> = Table::new([
    kemi(c"reserve", reserve::kemi_reserve as *mut c_void, [sys::SR_KEMIP_STR, 0, 0]),
    kemi(c"reserve_messages", reserve::kemi_reserve_messages as *mut c_void, [sys::SR_KEMIP_STR, sys::SR_KEMIP_INT, 0]),
    kemi(
        c"reserve_content",
        reserve::kemi_reserve_content as *mut c_void,
        [sys::SR_KEMIP_STR, sys::SR_KEMIP_INT, sys::SR_KEMIP_STR],
    ),
    kemi(c"msrp", frames::kemi_msrp as *mut c_void, [0, 0, 0]),
    kemi(c"end_session", reserve::kemi_end as *mut c_void, [0, 0, 0]),
    kemi(c"end_session_reason", reserve::kemi_end_reason as *mut c_void, [sys::SR_KEMIP_STR, 0, 0]),
    sys::sr_kemi {
        mname: sys::_str { s: std::ptr::null_mut(), len: 0 },
        fname: sys::_str { s: std::ptr::null_mut(), len: 0 },
        rtype: 0,
        func: std::ptr::null_mut(),
        ptypes: [0; 6],
    },
]);

/// Registers the KEMI functions. The loader calls this first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mod_register(_: *mut c_char, _: *mut c_int, _: *mut c_void, _: *mut c_void) -> c_int {
    guard(-1, || {
        crate::host::logger::install();
        // SAFETY: the table is static; the host keeps it.
        unsafe { sys::sr_kemi_modules_add(KEMI.get().cast()) };
        0
    })
}
