//! The supervisor: a process of a few lines that starts the engine again whenever it dies or hangs.
//!
//! The host takes the death of a child for its own end, so its child is this, and the engine is the child of
//! this. Nothing here can fail but `fork`.

use super::region::{EngineState, Region};
use super::run;
use super::statistic::Statistic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// An engine that has not shown itself for so long hangs.
const HANG: Duration = Duration::from_secs(10);

/// How long a stopping engine may take.
const STOP_PATIENCE: Duration = Duration::from_millis(4300);

/// The longest wait before another start.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// How often the supervisor looks up.
const LOOK: Duration = Duration::from_millis(100);

/// Runs until `stop` is set (by the caller's SIGTERM handler): forks the engine, restarts it with back-off when
/// it dies or its heartbeat stops, and at the end lets it settle, 4 s at most. Call it in a process of the
/// host made for it, with one thread. The engine dies with this process.
pub fn supervise(region: &Arc<Region>, stop: &AtomicBool) {
    let mut back_off = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let engine = match start_engine(region) {
            Ok(engine) => engine,
            Err(error) => {
                log::error!("cannot start the engine: {error}; trying again");
                pause(BACK_OFF_MAX, stop);
                continue;
            }
        };
        watch(region, engine, stop);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        region.count(Statistic::EngineRestarts);
        let was_at_work = region.engine_state() == EngineState::Running;
        if was_at_work {
            region.set_engine_state(EngineState::Starting);
            log::warn!("the engine died, starting it again; what it had not committed is read again");
        }
        // One that was at work did not die of its start.
        back_off = match was_at_work {
            true => Duration::ZERO,
            false => (back_off * 2).clamp(Duration::from_millis(100), BACK_OFF_MAX),
        };
        pause(back_off, stop);
    }
}

/// Waits until the engine is dead, and sees to it when it hangs or has to stop.
fn watch(region: &Region, engine: libc::pid_t, stop: &AtomicBool) {
    let mut stopping = None;
    while !is_dead(engine) {
        if stop.load(Ordering::Relaxed) && stopping.is_none() {
            region.request_stop();
            stopping = Some(Instant::now());
        }
        let hangs = region.heartbeat_age() > HANG;
        if hangs || stopping.is_some_and(|since| since.elapsed() > STOP_PATIENCE) {
            log::error!("the engine does not move, killing it; what it had not committed is read again");
            // SAFETY: our own child, not yet waited for, so the number is still its.
            unsafe { libc::kill(engine, libc::SIGKILL) };
        }
        std::thread::sleep(if stopping.is_some() { Duration::from_millis(5) } else { LOOK });
    }
}

/// Whether the child has ended; it is gone then.
fn is_dead(child: libc::pid_t) -> bool {
    let mut status = 0;
    // SAFETY: a valid place for the status; the child is ours.
    let waited = unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) };
    waited == child || (waited < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD))
}

/// Sleeps, but not into a stop.
fn pause(time: Duration, stop: &AtomicBool) {
    let since = Instant::now();
    while since.elapsed() < time && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK.min(time));
    }
}

/// Forks the engine.
fn start_engine(region: &Arc<Region>) -> std::io::Result<libc::pid_t> {
    // SAFETY: getpid and fork have no arguments. This process has one thread (contract of `supervise`), so the
    // child may use everything it inherits.
    let (supervisor, pid) = unsafe { (libc::getpid(), libc::fork()) };
    match pid {
        -1 => Err(std::io::Error::last_os_error()),
        0 => engine_process(region, supervisor),
        pid => Ok(pid),
    }
}

/// The life of the engine's process.
fn engine_process(region: &Arc<Region>, supervisor: libc::pid_t) -> ! {
    static NEVER: AtomicBool = AtomicBool::new(false);
    leave_the_host(region, supervisor);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run::run(region, &NEVER)));
    let code = match result {
        Ok(Ok(())) => 0,
        Ok(Err(_)) => 1,
        Err(_) => {
            log::error!("the engine met a state that it was not made for; it is started again");
            2
        }
    };
    // SAFETY: ends this process at once. The host's exit handlers are not ours to run.
    unsafe { libc::_exit(code) }
}

/// Makes the forked process one of its own: it dies with the supervisor, does not hear the host's signals, and
/// closes what it inherited, the host's sockets above all.
fn leave_the_host(region: &Region, supervisor: libc::pid_t) {
    // SAFETY: plain system calls on this process; the name is NUL-terminated.
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
        // The log's socket is among what is closed: without this, the next log line would go into
        // whatever file gets its number.
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

/// Closes all descriptors from `first` to `last`.
fn close_from_to(first: u32, last: u32) {
    if first <= last {
        // SAFETY: closes descriptors of this process only; nothing here uses those that are not kept.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
    }
}
