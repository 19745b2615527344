//! The supervisor process: starts the engine, and starts it again whenever it dies or hangs.
//!
//! Hosts treat the death of a child as a reason to end. So the host's child is this process, and the engine is its child.
//! [`Watchdog`] decides what to do; this file handles the processes.

use super::watchdog::{Action, Ended, Observation, Watchdog};
use crate::engine::run;
use crate::guard::guard;
use crate::shm::clock;
use crate::shm::log_limit;
use crate::shm::region::{EngineState, Region};
use crate::shm::statistic::Statistic;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs the engine until `stop` is set (by the caller's SIGTERM handler): forks it, restarts it when it dies or hangs, and
/// finally lets it settle its sessions, for at most 4.3 s. Must be called in a single-threaded process that the host has
/// forked for it. The engine dies with this process.
pub fn supervise(region: &Arc<Region>, stop: &AtomicBool) {
    let mut watchdog = Watchdog::new(clock::now());
    let mut engine: Option<libc::pid_t> = None;
    loop {
        let stop = stop.load(Ordering::Relaxed);
        let mut ended = None;
        if let Some((pid, how)) = engine.and_then(|pid| reap(pid).map(|how| (pid, how))) {
            engine = None;
            let was_killed = how.is_some_and(|how| how.signal().is_some());
            ended = Some(if was_killed { Ended::Killed } else { Ended::Failed });
            if !stop {
                report_end(region, pid, how);
            }
        }
        let (beats, is_ready) = (region.heartbeats(), region.engine_is_ready());
        match watchdog.look(Observation { beats, is_ready, ended, stop }, clock::now()) {
            Action::Nothing => {}
            Action::Return => return,
            Action::Start => match start_engine(region) {
                Ok(pid) => {
                    engine = Some(pid);
                    watchdog.started(beats);
                }
                Err(error) => {
                    log::error!("cannot fork the engine: {error}; it is tried again in 5 s");
                    watchdog.not_started();
                }
            },
            Action::AskToStop => region.request_stop(),
            Action::KillSilent(silence) => {
                let (pid, seconds) = (engine.unwrap_or_default(), silence.as_secs());
                log::error!(
                    "the engine (pid {pid}) has been unresponsive for {seconds} s and is killed; the next one processes \
                     the events that it had not committed"
                );
                kill(engine);
            }
            Action::KillStopping => {
                log::error!(
                    "the engine (pid {}) has not settled all sessions in time and is killed; the next start settles the rest",
                    engine.unwrap_or_default()
                );
                kill(engine);
            }
        }
        std::thread::sleep(watchdog.next_look());
    }
}

/// Logs and counts the end of an engine that was not asked to stop.
fn report_end(region: &Region, pid: libc::pid_t, how: Option<ExitStatus>) {
    region.count(Statistic::EngineRestarts);
    // An engine that failed to start has logged the reason; the restarts would only repeat it.
    if region.engine_is_ready() || how.is_some_and(|how| how.signal().is_some()) {
        let how = how.map_or_else(|| "status unknown".to_owned(), |how| how.to_string());
        log::error!(
            "the engine (pid {pid}) ended unexpectedly ({how}) and is restarted; the next one processes the events that \
             it had not committed"
        );
    }
    if region.engine_state() == EngineState::Running {
        region.set_engine_state(EngineState::Starting);
    }
}

/// Reaps a child: `None` if it is running, `Some(None)` if its status is unknown.
fn reap(child: libc::pid_t) -> Option<Option<ExitStatus>> {
    let mut status = 0;
    // SAFETY: `status` is valid for writes, and the child is ours.
    let waited = unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) };
    if waited == child {
        return Some(Some(ExitStatus::from_raw(status)));
    }
    let is_gone = waited < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD);
    is_gone.then_some(None)
}

fn kill(child: Option<libc::pid_t>) {
    if let Some(child) = child {
        // SAFETY: our child was not waited for, so its pid has not been reused.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
}

/// Forks the engine.
fn start_engine(region: &Arc<Region>) -> std::io::Result<libc::pid_t> {
    region.set_engine_starting();
    // SAFETY: getpid and fork take no arguments. This process has one thread (contract of `supervise`), so the child may
    // use everything that it inherits.
    let (supervisor, pid) = unsafe { (libc::getpid(), libc::fork()) };
    match pid {
        -1 => Err(std::io::Error::last_os_error()),
        0 => engine_process(region, supervisor),
        pid => Ok(pid),
    }
}

/// Main function of the engine's process.
fn engine_process(region: &Arc<Region>, supervisor: libc::pid_t) -> ! {
    static NEVER: AtomicBool = AtomicBool::new(false);
    detach_from_host(region, supervisor);
    log_limit::log_panics();
    let code = guard(2, || i32::from(run(region, &NEVER).is_err()));
    // SAFETY: ends this process at once, without the host's exit handlers.
    unsafe { libc::_exit(code) }
}

/// Detaches the forked process from the host: it dies with the supervisor, ignores the host's signals, and closes what it
/// inherited, above all the host's sockets.
fn detach_from_host(region: &Region, supervisor: libc::pid_t) {
    // SAFETY: system calls that affect this process only; the name is NUL-terminated.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != supervisor {
            libc::_exit(0);
        }
        libc::prctl(libc::PR_SET_NAME, c"imcharge engine".as_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_IGN);
        }
        for signal in [libc::SIGCHLD, libc::SIGALRM] {
            libc::signal(signal, libc::SIG_DFL);
        }
        // The socket of syslog is closed below. Without this call the next log line would be written to whatever file
        // gets its number.
        closelog();
    }
    let mut keep = region.descriptors();
    keep.sort_unstable();
    let mut first = 3u32;
    for descriptor in keep.into_iter().filter_map(|fd| u32::try_from(fd).ok()).filter(|fd| *fd >= 3) {
        close_from_to(first, descriptor.saturating_sub(1));
        first = descriptor + 1;
    }
    close_from_to(first, u32::MAX);
}

unsafe extern "C" {
    /// POSIX: closes the descriptor that `syslog` uses.
    fn closelog();
}

/// Closes all descriptors from `first` to `last`, inclusive.
fn close_from_to(first: u32, last: u32) {
    if first <= last {
        // SAFETY: closes descriptors of this process; none of them is used afterwards.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
    }
}
