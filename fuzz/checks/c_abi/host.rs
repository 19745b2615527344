//! The host that all inputs of a process share, because opening one for each would be too slow.

use imcharge::ffi::command::{imcharge_command, imcharge_text};
use imcharge::ffi::config::{imcharge_config, imcharge_config_free, imcharge_config_new, imcharge_config_set};
use imcharge::ffi::host::{
    imcharge_attach, imcharge_close, imcharge_detach, imcharge_engine_run, imcharge_handle, imcharge_open,
    imcharge_stop,
};
use imcharge::ffi::result::{IMCHARGE_BUSY, IMCHARGE_OK, IMCHARGE_PANIC};
use std::path::Path;
use std::ptr::{null_mut, without_provenance_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Initial balance of a new account.
pub const ACCOUNT_START: i64 = 1000;

/// Workers that can attach.
const PROCESSES: u32 = 2;

static SHARED: Mutex<Option<Host>> = Mutex::new(None);

unsafe extern "C" {
    /// Of the C library.
    safe fn atexit(callback: extern "C" fn()) -> i32;
}

/// An open host, its engine in a thread, its state in memory.
pub struct Host {
    /// Address of the handle, which is good in any thread.
    handle: usize,
    engine: JoinHandle<i32>,
    state: tempfile::TempDir,
}

/// The host, for one input at a time.
pub struct Shared(MutexGuard<'static, Option<Host>>);

impl std::ops::Deref for Shared {
    type Target = Host;

    fn deref(&self) -> &Host {
        self.0.as_ref().expect("opened with the first input")
    }
}

impl Host {
    /// Returns the host, opened with the first input and closed with the process.
    pub fn shared() -> Shared {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.is_none() {
            *shared = Some(Host::open());
            atexit(close);
        }
        Shared(shared)
    }

    pub fn handle(&self) -> *mut imcharge_handle {
        without_provenance_mut(self.handle)
    }

    fn open() -> Host {
        let state = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        let config = config(state.path());
        let mut handle = null_mut();
        // The library logs panics instead of showing them; here they are to be seen, and to end the fuzzer.
        let hook = std::panic::take_hook();
        // SAFETY: a good configuration and a place for the handle.
        let opened = unsafe { imcharge_open(config, PROCESSES, &raw mut handle, null_mut(), 0) };
        std::panic::set_hook(hook);
        assert_eq!(opened, IMCHARGE_OK, "the host opens");
        // SAFETY: it is not used any more.
        assert_eq!(unsafe { imcharge_config_free(config) }, IMCHARGE_OK);
        let handle = handle.addr();
        let engine = std::thread::spawn(move || {
            // SAFETY: the handle is open until this thread has ended; there is no buffer for a sentence.
            unless_busy(|| unsafe { imcharge_engine_run(without_provenance_mut(handle), null_mut(), 0) })
        });
        let host = Host { handle, engine, state };
        host.wait_for_engine();
        host
    }

    /// An operator's question that is answered shows that the engine is at work, and done with the handle.
    fn wait_for_engine(&self) {
        let mut worker = null_mut();
        // SAFETY: a place for the handle.
        assert_eq!(unless_busy(|| unsafe { imcharge_attach(self.handle(), 0, &raw mut worker) }), IMCHARGE_OK);
        let text = |text: &'static str| imcharge_text { start: text.as_ptr().cast(), length: text.len() };
        let (name, arguments) = ("account.set", [text("sip:first@example.org"), text("1")]);
        let (mut answer, mut length) = ([0u8; 256], 0);
        let mut ask = || {
            let (name_start, buffer) = (name.as_ptr().cast(), answer.as_mut_ptr().cast());
            // SAFETY: texts of their lengths, a buffer of its size and a place.
            unsafe {
                imcharge_command(worker, name_start, name.len(), arguments.as_ptr(), 2, buffer, 256, &raw mut length)
            }
        };
        assert!((0..30).any(|_| ask() == IMCHARGE_OK), "the engine does not answer");
        // SAFETY: it is not used any more.
        assert_eq!(unsafe { imcharge_detach(worker) }, IMCHARGE_OK);
    }

    fn close(self) {
        // SAFETY: no pointer but the handle.
        let stopped = unsafe { imcharge_stop(self.handle()) };
        let ended = self.engine.join();
        // SAFETY: the engine has ended.
        let closed = unsafe { imcharge_close(without_provenance_mut(self.handle)) };
        drop(self.state);
        let results = (stopped, ended.unwrap_or(IMCHARGE_PANIC), closed);
        if results != (IMCHARGE_OK, IMCHARGE_OK, IMCHARGE_OK) {
            eprintln!("stop, engine and close did not end well: {results:?}");
            std::process::abort();
        }
    }
}

/// Calls until no other thread uses the handle.
fn unless_busy(mut call: impl FnMut() -> i32) -> i32 {
    loop {
        match call() {
            IMCHARGE_BUSY => std::thread::yield_now(),
            result => return result,
        }
    }
}

/// At the end of the process: the engine settles what is open and takes its shared memory with it.
extern "C" fn close() {
    let host = SHARED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(host) = host {
        host.close();
    }
}

fn config(state: &Path) -> *mut imcharge_config {
    let mut config = null_mut();
    // SAFETY: a place for the handle.
    assert_eq!(unsafe { imcharge_config_new(&raw mut config) }, IMCHARGE_OK);
    let state = state.to_str().expect("a name in ASCII");
    for (name, value) in [
        ("state_dir", state),
        ("default_balance", &ACCOUNT_START.to_string()),
        ("max_sessions", "1000"),
        ("resume_workers", "1"),
        // What an input leaves open under another name is settled soon.
        ("response_timeout", "1"),
        ("hold_timeout", "5"),
    ] {
        // SAFETY: texts of their lengths.
        let set = unsafe {
            let (name_start, value_start) = (name.as_ptr().cast(), value.as_ptr().cast());
            imcharge_config_set(config, name_start, name.len(), value_start, value.len(), null_mut(), 0)
        };
        assert_eq!(set, IMCHARGE_OK, "{name}");
    }
    config
}
