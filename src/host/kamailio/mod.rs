//! The native Kamailio module: what the host calls, translated and handed over to the engine.
//!
//! | what happens | file |
//! |---|---|
//! | the host loads the module: tables, parameters, processes | [`exports`], [`parameters`], [`lifecycle`] |
//! | the script reserves: the INVITE is suspended | [`reserve`] |
//! | replies, CANCEL, BYE, dying transactions are seen | [`callbacks`] |
//! | an MSRP frame passes the gate | [`frames`] |
//! | a verdict comes back: the INVITE goes on | [`resume`], [`variables`] |
//! | an operator asks | [`rpc`], [`statistics`] |
//! | how a message is read, a panic caught, a line logged | [`message`], [`guard`], [`logger`] |

#![allow(clippy::missing_safety_doc, reason = "entries are called by the host alone, with what its headers promise")]

pub mod bindings;
pub mod callbacks;
pub mod exports;
pub mod frames;
pub mod guard;
pub mod lifecycle;
pub mod logger;
pub mod message;
pub mod parameters;
pub mod reserve;
pub mod resume;
pub mod rpc;
pub mod statistics;
pub mod variables;

use crate::engine::region::Region;
use crate::engine::worker::Worker;
use bindings as k;
use once_cell::sync::OnceCell;
use std::cell::RefCell;
use std::ffi::{CStr, c_char};
use std::sync::{Arc, OnceLock};

/// The shared region: made in the main process before any fork, inherited by all.
static REGION: OnceCell<Arc<Region>> = OnceCell::new();

/// The API of tm, bound at the start.
static TM: OnceLock<Tm> = OnceLock::new();

/// tm's functions. Plain function pointers, the same in all processes.
struct Tm(k::tm_binds);

// SAFETY: the structure holds function pointers only and is never written after it was bound.
unsafe impl Send for Tm {}
// SAFETY: as above.
unsafe impl Sync for Tm {}

thread_local! {
    /// This process's way to the engine, attached at its first use (after the fork).
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

/// Runs something with this process's worker; `None` where there is none: before the start is complete.
fn with_worker<R>(run: impl FnOnce(&mut Worker) -> R) -> Option<R> {
    let region = REGION.get()?;
    WORKER.with(|worker| {
        let mut worker = worker.try_borrow_mut().ok()?;
        if worker.is_none() {
            // SAFETY: an integer that the host sets once in each process, right after the fork.
            let process = usize::try_from(unsafe { k::process_no }).ok()?;
            if process >= region.processes() {
                log::error!("process {process} has no event ring: it was not announced before the start");
                return None;
            }
            *worker = Some(Worker::attach(region, process));
        }
        worker.as_mut().map(run)
    })
}

/// A C text for a table or call of the host, which takes it as writable and never writes.
const fn text(text: &'static CStr) -> *mut c_char {
    text.as_ptr().cast_mut()
}

/// A host's text of static life; the host wants a NUL behind every one, which a C text has.
const fn static_str(text: &'static CStr) -> k::_str {
    k::_str { s: text.as_ptr().cast_mut(), len: text.count_bytes() as i32 }
}
