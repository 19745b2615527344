//! The watchdog (RFC 3539, 3.4.1): decides whether a connection is usable.

use crate::charge::time::Time;
use crate::enabler::diameter::client::node::LocalNode;

/// Jitter of Tw: at most this many microseconds up and down.
const JITTER_MICROS: u64 = 2_000_000;

/// Number of DWAs after which a connection leaves REOPEN.
const REOPEN_ANSWERS: u8 = 3;

/// The states of RFC 3539.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No connection was established yet.
    Initial,
    /// The peer answers.
    Okay,
    /// The peer is silent: requests are sent to other peers, the connection stays open.
    Suspect,
    /// The connection is closed.
    Down,
    /// A new connection is on probation.
    Reopen,
}

impl State {
    /// Returns the name that the RFC uses.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Initial => "INITIAL",
            State::Okay => "OKAY",
            State::Suspect => "SUSPECT",
            State::Down => "DOWN",
            State::Reopen => "REOPEN",
        }
    }
}

/// What the owner of the watchdog must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Send a DWR.
    SendWatchdog,
    /// Move pending requests to other peers.
    FailOver,
    /// Use the peer again.
    FailBack,
    /// Close the connection.
    CloseConnection,
}

/// The watchdog of one peer, across its connections.
#[derive(Debug)]
pub struct Watchdog {
    state: State,
    /// Tw in microseconds.
    interval: u64,
    /// Whether a DWR is unanswered.
    pending: bool,
    /// NumDWA of REOPEN; `None` is the RFC's -1: one answer is overdue.
    answers: Option<u8>,
    /// When the timer expires; `None` without a connection.
    deadline: Option<Time>,
}

impl Watchdog {
    /// Creates a watchdog. `seconds`: Tw.
    pub fn new(seconds: u32) -> Watchdog {
        let interval = u64::from(seconds) * 1_000_000;
        Watchdog { state: State::Initial, interval, pending: false, answers: Some(0), deadline: None }
    }

    /// Returns the state.
    pub fn state(&self) -> State {
        self.state
    }

    /// When [`timer`](Watchdog::timer) must be called.
    pub fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// Connection up: the capabilities exchange has succeeded.
    pub fn up(&mut self, node: &LocalNode, now: Time) -> Action {
        self.set(node, now);
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

    /// Connection down. A connection that was never up does not leave INITIAL.
    pub fn down(&mut self) {
        if self.state != State::Initial {
            self.state = State::Down;
        }
        self.deadline = None;
    }

    /// A message other than a DWA was received.
    pub fn message_received(&mut self, node: &LocalNode, now: Time) -> Action {
        match self.state {
            State::Okay => {
                self.set(node, now);
                Action::None
            }
            State::Suspect => self.fail_back(node, now),
            State::Initial | State::Down | State::Reopen => Action::None,
        }
    }

    /// The DWA was received.
    pub fn answered(&mut self, node: &LocalNode, now: Time) -> Action {
        self.pending = false;
        match self.state {
            State::Okay => {
                self.set(node, now);
                Action::None
            }
            State::Suspect => self.fail_back(node, now),
            State::Reopen => {
                let answers = self.answers.map_or(0, |answers| answers + 1);
                self.answers = Some(answers);
                if answers < REOPEN_ANSWERS {
                    return Action::None;
                }
                self.state = State::Okay;
                Action::FailBack
            }
            State::Initial | State::Down => Action::None,
        }
    }

    /// Acts if the timer has expired.
    pub fn timer(&mut self, node: &LocalNode, now: Time) -> Action {
        if self.deadline.is_none_or(|at| now < at) {
            return Action::None;
        }
        self.set(node, now);
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

    fn fail_back(&mut self, node: &LocalNode, now: Time) -> Action {
        self.state = State::Okay;
        self.set(node, now);
        Action::FailBack
    }

    /// SetWatchdog() of the RFC.
    fn set(&mut self, node: &LocalNode, now: Time) {
        let interval = self.interval.saturating_sub(JITTER_MICROS) + node.jitter().up_to(2 * JITTER_MICROS);
        self.deadline = Some(Time(now.0.saturating_add(interval)));
    }
}
