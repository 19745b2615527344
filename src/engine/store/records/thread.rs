//! Runs the recorder in a separate thread; in a simulation, in the engine's.

use super::recorder::Recorder;
use crate::charge::time::Time;
use crate::config::RecordSettings;
use crate::engine::store::StoreError;
use crate::shm::clock;
use crate::shm::region::Region;
use crate::shm::statistic::Statistic;
use crate::simulate::{self, crash_point};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the recorder looks for new records, and tries again after a failure.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Order to the recorder.
pub enum Order {
    /// The tables are on the disk: begin.
    Begin,
    /// Write everything, close the open file and end.
    Finish,
}

/// The engine's end of the recorder.
pub enum RecorderThread {
    /// There are no records.
    Off,
    /// A thread does the work.
    Thread {
        /// Sends orders; the thread ends when this is dropped.
        orders: Option<Sender<Order>>,
        /// Disconnected once the thread has ended.
        ended: Receiver<()>,
        /// The thread.
        thread: Option<JoinHandle<()>>,
        /// Whether it was started.
        has_begun: bool,
    },
    /// A simulation does the work in `drive`.
    Inline {
        /// The recorder.
        recorder: Box<Recorder>,
        /// When it works next; `None`: it has not begun.
        due: Option<Time>,
    },
}

impl RecorderThread {
    /// Starts the thread, if a folder is configured. It waits for [`begin`](RecorderThread::begin).
    pub fn start(
        state_dir: &Path,
        settings: &RecordSettings,
        region: Option<&Arc<Region>>,
    ) -> Result<RecorderThread, StoreError> {
        let Some(recorder) = Recorder::open(state_dir, settings, region.cloned())? else {
            return Ok(RecorderThread::Off);
        };
        if simulate::is_simulated() {
            return Ok(RecorderThread::Inline { recorder: Box::new(recorder), due: None });
        }
        let (orders, to_do) = channel();
        let (alive, ended) = channel();
        let region = region.cloned();
        let work = move || {
            let _alive: Sender<()> = alive;
            let run = std::panic::AssertUnwindSafe(|| run_thread(recorder, &to_do));
            if std::panic::catch_unwind(run).is_err() {
                log::error!("the thread that writes charging records has ended; restart the proxy");
                if let Some(region) = region {
                    region.counter(Statistic::CdrFailing).store(1, Ordering::Relaxed);
                }
            }
        };
        let thread = std::thread::Builder::new().name("cdr writer".into()).spawn(work);
        let thread = thread.map_err(|source| StoreError::Io { path: state_dir.to_owned(), source })?;
        Ok(RecorderThread::Thread { orders: Some(orders), ended, thread: Some(thread), has_begun: false })
    }

    /// Begins to write files: what the tables contain is on the disk. Before, a power failure could take back records
    /// that are in a closed file.
    pub fn begin(&mut self) {
        match self {
            RecorderThread::Thread { orders: Some(orders), has_begun, .. } if !*has_begun => {
                let _ = orders.send(Order::Begin);
                *has_begun = true;
            }
            RecorderThread::Inline { due, .. } => drop(due.get_or_insert_with(clock::now)),
            RecorderThread::Off | RecorderThread::Thread { .. } => {}
        }
    }

    /// Does the work of a simulation.
    pub fn drive(&mut self) {
        if let RecorderThread::Inline { recorder, due: Some(due) } = self
            && *due <= clock::now()
        {
            recorder.run(false);
            crash_point();
            *due = clock::now().after_seconds(1);
        }
    }

    /// Writes all records and closes the open file, waiting for at most `timeout`.
    pub fn finish(&mut self, timeout: Duration) {
        match self {
            RecorderThread::Off | RecorderThread::Inline { due: None, .. } => {}
            RecorderThread::Inline { recorder, .. } => drop(recorder.run(true)),
            RecorderThread::Thread { orders, ended, .. } => {
                if orders.take().is_some_and(|orders| orders.send(Order::Finish).is_ok()) {
                    let _ = ended.recv_timeout(timeout);
                }
            }
        }
    }
}

impl Drop for RecorderThread {
    /// Waits for the attempt in progress, but not for a retry.
    fn drop(&mut self) {
        if let RecorderThread::Thread { orders, thread, .. } = self {
            drop(orders.take());
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// Main loop of the thread, until the engine drops its end of the channel.
fn run_thread(mut recorder: Recorder, orders: &Receiver<Order>) {
    let mut has_begun = false;
    loop {
        match orders.recv_timeout(POLL_INTERVAL) {
            Ok(Order::Begin) => has_begun = true,
            Ok(Order::Finish) => {
                if has_begun {
                    recorder.run(true);
                }
                return;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if has_begun {
            recorder.run(false);
        }
    }
}
