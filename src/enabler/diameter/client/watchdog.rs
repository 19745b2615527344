//! The watchdog (RFC 3539, 3.4.1): whether a connection that is up is good for anything.

use crate::charge::time::Time;
use crate::enabler::diameter::client::node::LocalNode;

/// Tw is varied by so much, microseconds up and down.
const JITTER: u64 = 2_000_000;

/// DWAs that a connection needs before it is trusted again, after one that was lost.
const ANSWERS: u8 = 3;

/// The states of RFC 3539.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There has been no connection yet.
    Initial,
    /// It answers.
    Okay,
    /// It is silent: requests go elsewhere, the connection stays for now.
    Suspect,
    /// There is no connection any more.
    Down,
    /// There is one again, on probation.
    Reopen,
}

impl State {
    /// The word of the RFC.
    pub fn word(self) -> &'static str {
        match self {
            State::Initial => "INITIAL",
            State::Okay => "OKAY",
            State::Suspect => "SUSPECT",
            State::Down => "DOWN",
            State::Reopen => "REOPEN",
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Send a DWR.
    SendWatchdog,
    /// Let other peers have the requests that wait.
    FailOver,
    /// Use it again.
    FailBack,
    /// Close the connection.
    CloseConnection,
}

/// One peer's watchdog. It outlives connections.
#[derive(Debug)]
pub struct Watchdog {
    state: State,
    /// Tw, microseconds.
    interval: u64,
    /// A DWR waits for its answer.
    pending: bool,
    /// NumDWA, of REOPEN: `None` is its -1, one answer overdue.
    answers: Option<u8>,
    /// When the timer expires, while the connection is up.
    deadline: Option<Time>,
}

impl Watchdog {
    /// With a Tw of so many seconds.
    pub fn new(seconds: u32) -> Watchdog {
        let interval = u64::from(seconds) * 1_000_000;
        Watchdog { state: State::Initial, interval, pending: false, answers: Some(0), deadline: None }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// When [`timer`](Watchdog::timer) has something to do.
    pub fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// Connection up: capabilities are exchanged.
    pub fn up(&mut self, local: &LocalNode, now: Time) -> Action {
        self.set(local, now);
        if self.state == State::Initial {
            self.state = State::Okay;
            self.pending = false;
            return Action::None;
        }
        self.state = State::Reopen;
        self.answers = Some(0);
        self.pending = true;
        Action::SendWatchdog
    }

    /// Connection down. One that never was up leaves no trace.
    pub fn down(&mut self) {
        if self.state != State::Initial {
            self.state = State::Down;
        }
        self.deadline = None;
    }

    /// Anything but a DWA came.
    pub fn heard(&mut self, local: &LocalNode, now: Time) -> Action {
        match self.state {
            State::Okay => {
                self.set(local, now);
                Action::None
            }
            State::Suspect => self.fail_back(local, now),
            State::Initial | State::Down | State::Reopen => Action::None,
        }
    }

    /// The DWA came.
    pub fn answered(&mut self, local: &LocalNode, now: Time) -> Action {
        self.pending = false;
        match self.state {
            State::Okay => {
                self.set(local, now);
                Action::None
            }
            State::Suspect => self.fail_back(local, now),
            State::Reopen => {
                let answers = self.answers.map_or(0, |answers| answers + 1);
                self.answers = Some(answers);
                if answers < ANSWERS {
                    return Action::None;
                }
                self.state = State::Okay;
                Action::FailBack
            }
            State::Initial | State::Down => Action::None,
        }
    }

    /// The time is over, perhaps.
    pub fn timer(&mut self, local: &LocalNode, now: Time) -> Action {
        if self.deadline.is_none_or(|at| now < at) {
            return Action::None;
        }
        self.set(local, now);
        match (self.state, self.pending) {
            (State::Okay | State::Reopen, false) => {
                self.pending = true;
                Action::SendWatchdog
            }
            (State::Okay, true) => {
                self.state = State::Suspect;
                Action::FailOver
            }
            (State::Reopen, true) if self.answers.is_some() => {
                self.answers = None;
                Action::None
            }
            (State::Suspect | State::Reopen, _) => {
                self.down();
                Action::CloseConnection
            }
            (State::Initial | State::Down, _) => Action::None,
        }
    }

    fn fail_back(&mut self, local: &LocalNode, now: Time) -> Action {
        self.state = State::Okay;
        self.set(local, now);
        Action::FailBack
    }

    /// SetWatchdog().
    fn set(&mut self, local: &LocalNode, now: Time) {
        let interval = self.interval.saturating_sub(JITTER) + local.jitter(2 * JITTER);
        self.deadline = Some(Time(now.0.saturating_add(interval)));
    }
}
