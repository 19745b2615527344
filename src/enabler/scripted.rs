//! An enabler under the control of a test: it keeps what it is given, and reports what the test queues. Its accounts and
//! sessions are shared between nodes.

use super::{
    AccountCommand, Accounts, Binding, Call, Capabilities, Enabler, EnablerEvent, Request, SessionKey, SessionState,
    Time,
};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// The binding. It starts an enabler with the script that [`use_script`] has set for the thread.
pub static BINDING: Binding = Binding {
    name: "scripted",
    capabilities: Capabilities {
        accounts: Accounts::InDatabase,
        debits_without_reservation: true,
        limits_retries: false,
        needs_end_to_end_id: false,
        shares_sessions: true,
        has_connections: false,
    },
    status_fields: &[],
    answer_seconds: |_| 1,
    check: |_| Ok(()),
    check_files: |_| Ok(()),
    session_id: |_, _, _| None,
    new: |_, _, _| Ok(Box::new(Scripted(SCRIPT.with_borrow(Rc::clone)))),
    account_queries: None,
};

thread_local! {
    static SCRIPT: RefCell<Rc<RefCell<Script>>> = RefCell::default();
}

/// Sets the script of the enablers that this thread starts.
pub fn use_script(script: &Rc<RefCell<Script>>) {
    SCRIPT.set(Rc::clone(script));
}

/// Something that the engine has given to the enabler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// The state of a session.
    State(SessionState),
    /// A request.
    Request(Request),
    /// A command.
    Command(AccountCommand),
}

/// What a test reads and queues.
#[derive(Debug, Default)]
pub struct Script {
    /// What the engine has given, in order.
    pub given: Vec<Given>,
    /// What is reported next.
    pub events: VecDeque<EnablerEvent>,
    /// See [`Enabler::lease_until`].
    pub lease_until: Time,
    /// How much had been given at the call of [`Enabler::leave`].
    pub given_at_leave: usize,
}

/// The enabler.
struct Scripted(Rc<RefCell<Script>>);

impl Enabler for Scripted {
    fn ask(&mut self, request: Request, _call: &Call<'_>, _now: Time, _wall_seconds: i64) {
        self.0.borrow_mut().given.push(Given::Request(request));
    }

    fn replicate(&mut self, state: SessionState) {
        self.0.borrow_mut().given.push(Given::State(state));
    }

    fn change_account(&mut self, command: AccountCommand, _now: Time) {
        self.0.borrow_mut().given.push(Given::Command(command));
    }

    fn lease_until(&self) -> Time {
        self.0.borrow().lease_until
    }

    fn poll(&mut self, _pending: &dyn Fn(SessionKey, u32) -> Option<Request>) -> Option<EnablerEvent> {
        self.0.borrow_mut().events.pop_front()
    }

    fn leave(&mut self, _now: Time) {
        let mut script = self.0.borrow_mut();
        script.given_at_leave = script.given.len();
    }

    fn has_events(&self) -> bool {
        !self.0.borrow().events.is_empty()
    }
}
