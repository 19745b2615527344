//! One run of a seed: a proxy with its engine, its calls and its faults, on a simulated machine.

mod accounts;
mod chats;
mod checks;
mod dialogs;
mod faults;
mod host;
mod hostile;
mod pages;
mod parties;
mod records;
pub mod setup;
mod shared;
mod trace;

use crate::Fault;
use crate::call::{Abort, Call, Content, Layout, Message, Names, Reaction, Stage};
use crate::chat::Chat;
use crate::cluster::{Plan, Shared};
use crate::dialog::{Exchange, Leg, Writing};
use crate::disk;
use crate::network::Network;
use crate::page::Page;
use crate::records::Billing;
use accounts::TopUp;
use imcharge::charge::time::Time;
use imcharge::config::Config;
use imcharge::config::tariffs::TariffTable;
use imcharge::enabler::Accounts;
use imcharge::engine::Engine;
use imcharge::engine::watchdog::Watchdog;
use imcharge::shm::notification::NotificationReader;
use imcharge::shm::region::Region;
use imcharge::simulate::machine::Machine;
use imcharge::worker::Worker;
use imcharge::worker::sip_input;
use shared::LocalHistory;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// Processes of the host that handle messages, and resume workers.
const PROCESSES: usize = 3;
const RESUME_WORKERS: u32 = 2;

/// A second, in microseconds.
pub const SECOND: u64 = 1_000_000;

/// Period with faults, in microseconds. Afterwards everything has to come to rest (see `checks`).
pub const FAULT_PERIOD: u64 = 60 * SECOND;

/// Prints what happens with `TRACE=1 SEED=... SEEDS=1 make sim`.
pub fn print_trace(what: std::fmt::Arguments<'_>) {
    if std::env::var_os("TRACE").is_some() {
        println!("{what}");
    }
}

/// What a run has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub events: u64,
    pub crashes: u64,
    pub faults: u64,
    pub debits: u64,
    /// How often something was refused because a ring or the table was full.
    pub rings_full: u64,
    pub tables_full: u64,
    /// How often an INVITE was refused because no resume worker took verdicts.
    pub verdicts_late: u64,
    /// How often a Diameter session has moved to another peer.
    pub moves: u64,
    /// Forged frames that were refused.
    pub forged: u64,
    /// Chunks that were stopped because an earlier one of their message was.
    pub rests_stopped: u64,
    /// Messages of which content passed after an abort.
    pub restarted: u64,
    /// Chunks of notifications that passed.
    pub free: u64,
    /// SIP MESSAGEs whose charge was checked.
    pub pages: u64,
    /// Chats that were checked, and those in which one party alone was stopped for lack of credit.
    pub chats: u64,
    pub stopped_alone: u64,
    /// Messages that a failure has released, and those that had to be paid for after a failure.
    pub released: u64,
    pub contradicted: u64,
    /// Hash of everything that happened: the same seed gives the same value.
    pub trace: u64,
    /// Failovers of the shared ledger, and commits that they lost.
    pub failovers: u64,
    pub lost_commits: u64,
}

impl Tally {
    /// Adds the numbers of another run.
    pub fn add(&mut self, other: &Tally) {
        self.events += other.events;
        self.crashes += other.crashes;
        self.faults += other.faults;
        self.debits += other.debits;
        self.rings_full += other.rings_full;
        self.tables_full += other.tables_full;
        self.verdicts_late += other.verdicts_late;
        self.moves += other.moves;
        self.forged += other.forged;
        self.rests_stopped += other.rests_stopped;
        self.restarted += other.restarted;
        self.free += other.free;
        self.pages += other.pages;
        self.chats += other.chats;
        self.stopped_alone += other.stopped_alone;
        self.released += other.released;
        self.contradicted += other.contradicted;
        self.failovers += other.failovers;
        self.lost_commits += other.lost_commits;
    }

    fn note(&mut self, what: u64) {
        self.events += 1;
        self.trace = (self.trace ^ what).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }
}

/// A scheduled step of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// A tick of the engine with this life number.
    Engine(u64),
    /// A look of the supervisor of this instance of the host.
    Supervise(u64),
    /// The host is started again.
    Host,
    /// A check for sessions that hold something for too long.
    Audit,
    /// Resume workers read their notifications.
    Resume,
    /// The network carries octets.
    Network,
    Invite(usize),
    Answer(usize),
    /// The 200 is retransmitted.
    AnswerAgain(usize),
    /// The other target of a forked INVITE answers.
    AnswerFork(usize),
    /// One side offers other MSRP sessions.
    Renegotiate(usize),
    /// The client sends a malicious request in its dialog.
    MaliciousRequest(usize),
    /// A SEND: call, message, chunk, number of earlier copies.
    Send(usize, usize, u32, u32),
    Respond(usize, usize, u32, u32),
    /// The server restarts a message under the same Message-ID.
    RestartMessage(usize, usize),
    /// Another party claims to be the server.
    Forge(usize),
    /// The client sends a message.
    SendBack(usize),
    /// A frame to or from an endpoint without an MSRP session with the other.
    SendAstray(usize),
    /// A failure REPORT about a message.
    Report(usize, usize),
    Bye(usize),
    /// One of two dialogs ends.
    ByeLeg(usize),
    Cancel(usize),
    /// A copy of the INVITE arrives by another path, or ends there.
    Merge(usize),
    EndOther(usize, u16),
    /// A MESSAGE arrives; a copy of it by another path; the end of that copy.
    Message(usize),
    MessageCopy(usize),
    MessageCopyEnds(usize),
    /// The final response to a MESSAGE; its transaction ends before its verdict.
    MessageEnds(usize),
    MessageTimesOut(usize),
    /// A party invites to a chat; a copy of the INVITE arrives by another path; the end of that copy.
    Chat(usize),
    ChatCopy(usize),
    ChatCopyEnds(usize, u16),
    /// A target of the INVITE answers: chat and target.
    ChatAnswers(usize, usize),
    /// A SEND: chat, message, chunk, number of earlier copies.
    ChatSends(usize, usize, u32, u32),
    /// The response of the receiver, and its status.
    ChatResponds(usize, usize, u32, u32, u16),
    /// The sender refuses its own message over this connection.
    ChatPoses(usize, usize, u32, u32, u64),
    /// A party sends a message in the name of the other one.
    ChatForges(usize),
    ChatFails(usize, u16),
    ChatLoses(usize),
    ChatEnds(usize),
    /// The INVITE fails with this code.
    Refuse(usize, u16),
    Lose(usize),
    /// The OCS sends a request.
    ServerRequest,
    /// An operator handles held-back debits.
    Operator,
    /// An operator tops up an account.
    TopUp(usize),
    InjectFault,
    /// The faults of disk and OCS end.
    Repair,
}

impl Step {
    /// Whether it is done by the parties of a call.
    fn is_of_parties(&self) -> bool {
        !matches!(
            self,
            Step::Engine(_)
                | Step::Supervise(_)
                | Step::Host
                | Step::Audit
                | Step::Operator
                | Step::Resume
                | Step::Network
                | Step::Repair
        )
    }
}

/// A run.
pub struct World<'a> {
    machine: Rc<Machine>,
    random: fastrand::Rng,
    config: Config,
    /// Whether the configuration changes at some restarts.
    changes: bool,
    /// Price of a message in each instance of the host.
    tariffs: BTreeMap<u64, TariffTable>,
    /// Longest `hold_timeout` that was configured.
    hold_timeout: u32,
    network: Rc<RefCell<Network>>,
    region: Option<Arc<Region>>,
    workers: Vec<Worker>,
    notification_readers: Vec<NotificationReader>,
    event_worker: Option<NotificationReader>,
    /// Until when the script of each resume worker blocks.
    resume_workers_block_until: [u64; RESUME_WORKERS as usize],
    engine: Option<Engine>,
    /// The supervisor's decisions.
    watchdog: Watchdog,
    /// Whether an engine was started that has not begun yet.
    is_starting: bool,
    /// Duration of the next start, in microseconds.
    next_start_micros: u64,
    /// When the audit first found no engine.
    down_since: Option<u64>,
    life: u64,
    calls: Vec<Call>,
    pages: Vec<Page>,
    chats: Vec<Chat>,
    /// MSRP connections that are closed, whether the host can tell, and the number of the next one.
    connections: Connections,
    queue: BinaryHeap<Reverse<(u64, u64, Step)>>,
    sequence: u64,
    balances: Vec<(String, i64)>,
    top_ups: Vec<TopUp>,
    /// Low-balance events that were taken.
    low_balances: u64,
    /// Whether a host has ended, and whether the power has failed.
    has_left_host: bool,
    has_lost_power: bool,
    /// Whether the OCS may have to refuse for lack of credit.
    is_short: bool,
    violations: Vec<String>,
    billing: Billing,
    /// Calls whose session had ended when one of two dialogs ended.
    half_ended: BTreeSet<usize>,
    /// What the next death affects.
    next_death: Death,
    /// Whether a fault is present that `repair` removes.
    is_faulty: bool,
    /// Whether the engine was frozen and has not worked since.
    is_frozen: bool,
    /// Since when there is no fault, as of the last check.
    faultless_since: Option<u64>,
    /// Whether no other run shares this process, so that workers can be checked for yielding the processor.
    pub is_alone: bool,
    /// What it has done.
    pub tally: Tally,
    state: &'a Path,
    seed: u64,
    /// When it began.
    began_at: u64,
    /// Whether the period with faults is over.
    is_repaired: bool,
    /// When the parties have done something last; at least the end of the period with faults.
    pub quiet_at: u64,
    /// The shared ledger, if it uses one.
    shared: Option<Shared>,
    /// Its epoch in the shared ledger, as of the last look.
    epoch: i64,
    /// Whether the rules look at what the shared ledger and all nodes say about the sessions of this one.
    has_history: bool,
    /// What the databases on its lost disks said.
    lost_history: LocalHistory,
    /// What the next death of the machine or host is followed by.
    outage: Option<Outage>,
}

/// A machine that does not come back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outage {
    /// In microseconds.
    lasts: u64,
    /// Whether it comes back without its disk.
    loses_disk: bool,
}

/// What chooses a world besides its seed.
struct Choice {
    machine: Rc<Machine>,
    random: fastrand::Rng,
    config: Config,
    is_short: bool,
    balances: Vec<(String, i64)>,
    changes: bool,
    network: Network,
    reports_state: bool,
}

/// The MSRP connections of the host.
#[derive(Debug, Default)]
struct Connections {
    closed: BTreeSet<u64>,
    /// Whether the host can tell which are open.
    reports_state: bool,
    next: u64,
}

impl Connections {
    /// Opens a connection and returns its number.
    fn open(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl sip_input::Connections for Connections {
    fn is_open(&self, connection: u64) -> Option<bool> {
        self.reports_state.then(|| !self.closed.contains(&connection))
    }
}

/// What dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// The engine; its supervisor starts another one.
    Engine,
    /// All processes.
    Host,
    /// The machine, with its memory and everything that is not synced.
    Machine,
}

impl<'a> World<'a> {
    /// Prepares the run of a seed in an empty folder.
    pub fn new(seed: u64, fault: Option<Fault>, state: &'a Path) -> World<'a> {
        let machine = Machine::begin(seed ^ 0x5eed);
        let mut random = fastrand::Rng::with_seed(seed);
        disk::insert(Rc::clone(&machine), fastrand::Rng::with_seed(seed ^ 0xd15c));
        match fault {
            Some(Fault::InjectedBug(bug)) => machine.injected.set(Some(bug)),
            Some(Fault::LyingDisk) => drop(disk::on(|disk| disk.drops_syncs = true)),
            Some(Fault::StoreBug(_)) | None => {}
        }
        let config = setup::configure(&mut random, state);
        let is_short = config.enabler.capabilities.accounts != Accounts::InStore && random.u8(0..4) == 0;
        let reports_state = random.u8(0..4) > 0;
        let balances = setup::balances(&mut random, &config, is_short);
        let changes = random.u8(0..3) == 0;
        let mut network = Network::new(Rc::clone(&machine), fastrand::Rng::with_seed(random.u64(..)));
        setup::set_up(&mut random, &config, is_short, &mut network);
        network.changes = changes;
        for (name, balance) in &balances {
            network.ocs.accounts.set_balance(name, *balance);
        }
        let choice = Choice { machine, random, config, is_short, balances, changes, network, reports_state };
        let mut world = World::from_choice(seed, choice, state);
        world.create_accounts();
        world.plan();
        world
    }

    /// Prepares a node of several that share a ledger, in an empty folder. `random`: chooses what differs between them.
    pub fn of_node(seed: u64, fault: Option<Fault>, plan: &Plan, shared: Shared, state: &'a Path) -> World<'a> {
        let machine_seed = seed ^ 0x5eed ^ ((shared.number() as u64 + 1) << 32);
        let machine = Machine::begin(machine_seed);
        let mut random = fastrand::Rng::with_seed(machine_seed);
        disk::insert(Rc::clone(&machine), fastrand::Rng::with_seed(machine_seed ^ 0xd15c));
        if let Some(Fault::InjectedBug(bug)) = fault {
            machine.injected.set(Some(bug));
        }
        let reports_state = random.u8(0..4) > 0;
        let mut network = Network::new(Rc::clone(&machine), fastrand::Rng::with_seed(random.u64(..)));
        network.shared = Some(shared.clone());
        let (config, balances, is_short) = (plan.configure(&shared, state), plan.balances.clone(), plan.is_short);
        let choice = Choice { machine, random, config, is_short, balances, changes: false, network, reports_state };
        let mut world = World::from_choice(seed, choice, state);
        world.shared = Some(shared);
        world.plan();
        world
    }

    fn from_choice(seed: u64, choice: Choice, state: &'a Path) -> World<'a> {
        let Choice { machine, random, config, is_short, balances, changes, network, reports_state } = choice;
        let network = Rc::new(RefCell::new(network));
        let meanwhile = Rc::clone(&network);
        *machine.meanwhile.borrow_mut() = Some(Rc::new(move |span| meanwhile.borrow_mut().pause(span)));
        World {
            began_at: 0,
            is_repaired: false,
            quiet_at: 0,
            shared: None,
            epoch: 0,
            has_history: false,
            lost_history: LocalHistory::default(),
            outage: None,
            machine,
            random,
            hold_timeout: config.policy.hold_timeout,
            config,
            changes,
            tariffs: BTreeMap::new(),
            network,
            region: None,
            workers: Vec::new(),
            notification_readers: Vec::new(),
            event_worker: None,
            resume_workers_block_until: [0; RESUME_WORKERS as usize],
            engine: None,
            watchdog: Watchdog::new(Time(0)),
            is_starting: false,
            next_start_micros: 0,
            down_since: None,
            life: 0,
            calls: Vec::new(),
            pages: Vec::new(),
            chats: Vec::new(),
            connections: Connections { closed: BTreeSet::new(), reports_state, next: 2_000_000 },
            queue: BinaryHeap::new(),
            sequence: 0,
            balances,
            top_ups: Vec::new(),
            low_balances: 0,
            has_left_host: false,
            has_lost_power: false,
            is_short,
            violations: Vec::new(),
            billing: Billing::default(),
            half_ended: BTreeSet::new(),
            next_death: Death::Engine,
            is_faulty: false,
            is_frozen: false,
            faultless_since: None,
            is_alone: false,
            tally: Tally::default(),
            state,
            seed,
        }
    }

    /// Plans what happens.
    fn plan(&mut self) {
        self.random_calls();
        self.plan_top_ups();
        self.random_pages();
        self.random_chats();
    }

    /// The database that the rules look at.
    fn ledger(&self) -> rusqlite::Connection {
        let name = if self.has_history { "history.sqlite" } else { "ledger.sqlite" };
        rusqlite::Connection::open(self.state.join(name)).expect("the ledger opens")
    }

    /// The database of this proxy.
    fn local_ledger(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.state.join("ledger.sqlite")).expect("the ledger opens")
    }

    fn random_calls(&mut self) {
        let shared = self.random.u8(0..4) == 0;
        // Half of the worlds have well-behaved parties.
        let is_hostile = self.random.bool();
        let names = match self.random.u8(0..6) {
            0 if is_hostile => Names::SameSessionId,
            1 if is_hostile => Names::SameClient,
            _ => Names::Own,
        };
        let same_message_ids = is_hostile && self.random.bool();
        let charges_notifications = setup::charges_notifications(&self.config);
        let (mut is_predecessor, suffix) = (false, self.name_suffix());
        for number in 0..self.random.usize(3..14) {
            let forks = self.random.u8(0..8) == 0;
            let messages = (0..self.random.usize(0..7)).map(|_| self.random_message(is_hostile, forks)).collect();
            let (exchange, writing) = self.random_exchange();
            let random = &mut self.random;
            let own = [2 * number as u64 + 10, 2 * number as u64 + 11];
            let has_predecessor = is_predecessor;
            is_predecessor = is_hostile && names == Names::Own && !has_predecessor && random.u8(0..6) == 0;
            let call = Call {
                number,
                suffix: suffix.clone(),
                is_lost: false,
                is_taken_over: false,
                account: random.choice(&self.balances).expect("there is one").0.clone(),
                push: random.u8(0..6) == 0,
                announced: random.u32(0..6),
                messages,
                names: if has_predecessor { Names::Predecessor } else { names },
                same_message_ids,
                charges_notifications,
                connections: if shared { [1, 2] } else { own },
                exchange,
                writing,
                forks,
                legs: [Leg::new(0), Leg::new(1)],
                is_hostile,
                stage: Stage::Invited,
                verdicts: 0,
                delivered: BTreeMap::new(),
                confirmed: BTreeMap::new(),
                reported: BTreeSet::new(),
                server_known: [None; 2],
                is_captured: false,
                taken_by: None,
                moved_at: 0,
                ended_at: None,
                leg_ended_at: None,
                server_sends_on: false,
                is_aborted: false,
                passed_over: 0,
            };
            self.calls.push(call);
            let at = self.random.u64(0..FAULT_PERIOD * 2 / 3);
            // One with the URIs of its predecessor starts after its end.
            if !has_predecessor {
                self.after(at, Step::Invite(number));
            }
            // Some end while messages are on their way, some when all is done, some never.
            match self.random.u8(0..10) {
                _ if has_predecessor || is_predecessor => {
                    self.after(at + 5 * SECOND + self.random_up_to(20 * SECOND), Step::Bye(number));
                }
                0 => self.after(at + self.random_up_to(2 * SECOND), Step::Cancel(number)),
                1 => self.after(at + self.random_up_to(SECOND), Step::Refuse(number, 486)),
                2 => self.after(at + self.random_up_to(10 * SECOND), Step::Lose(number)),
                3 => {}
                _ => self.after(at + self.random_up_to(20 * SECOND), Step::Bye(number)),
            }
            for _ in 0..self.random.usize(0..3).saturating_sub(1) {
                self.after(at + self.random_up_to(20 * SECOND), Step::Renegotiate(number));
            }
            if forks && self.random.bool() {
                self.after(at + self.random_up_to(15 * SECOND), Step::ByeLeg(number));
            }
            for _ in 0..if is_hostile { self.random.usize(0..6) } else { 0 } {
                let what = match self.random.u8(0..10) {
                    0 => Step::SendBack(number),
                    1 => Step::SendAstray(number),
                    2..5 => Step::MaliciousRequest(number),
                    _ => Step::Forge(number),
                };
                self.after(at + self.random_up_to(25 * SECOND), what);
            }
        }
        let mut at = self.random_up_to(10 * SECOND);
        while at < FAULT_PERIOD {
            self.after(at, Step::InjectFault);
            at += self.random_up_to(20 * SECOND);
        }
        let mut at = if self.network.borrow().sends_requests { 0 } else { FAULT_PERIOD };
        while at < FAULT_PERIOD {
            self.after(at, Step::ServerRequest);
            at += self.random_up_to(4 * SECOND);
        }
    }

    fn random_exchange(&mut self) -> (Exchange, Writing) {
        let exchange = match self.random.u8(0..8) {
            0 => Exchange::InviteAnd183,
            1 => Exchange::OfferIn200,
            2 => Exchange::OfferIn183,
            _ => Exchange::InviteAnd200,
        };
        (exchange, self.random_writing())
    }

    fn random_message(&mut self, is_hostile: bool, forks: bool) -> Message {
        let random = &mut self.random;
        let by_kilobyte = setup::is_by_size(&self.config);
        let charges_all = setup::charges_notifications(&self.config);
        let chunks = if random.bool() { 1 } else { random.u32(1..4) };
        Message {
            content: match random.u8(0..6) {
                0 => Content::Composing,
                1 if charges_all => Content::Composing,
                1 => Content::Delivery,
                2 => Content::File,
                3 => Content::Position,
                _ => Content::Text,
            },
            chunks,
            octets: match by_kilobyte {
                true => random.choice([1, 100, 1023, 1024, 1025, 4000, 10_000]).expect("there is one"),
                false => 100,
            },
            reaction: match random.u8(0..10) {
                0 => Reaction::Silence,
                1 => Reaction::Answer(415),
                2 => Reaction::Answer(506),
                3 if is_hostile => Reaction::RefuseChunk(random.u32(0..chunks), 413),
                _ => Reaction::Answer(200),
            },
            layout: match random.u8(0..10) {
                0 if is_hostile => Layout::HighOffset,
                1 if is_hostile => Layout::Gaps,
                2 if is_hostile => Layout::Same,
                _ => Layout::InOrder,
            },
            abort: match random.u8(0..20) {
                0 => Abort::AfterFirstChunk,
                1 | 2 if is_hostile => Abort::AfterFirstChunk,
                3 if is_hostile => Abort::AfterLastChunk,
                _ => Abort::Never,
            },
            again: is_hostile && random.u8(0..3) == 0,
            leg: if forks { random.usize(0..2) } else { 0 },
        }
    }

    fn random_up_to(&self, max: u64) -> u64 {
        // A clone would repeat its numbers, so the machine's generator is used.
        let chance = self.machine.chance.get();
        self.machine.chance.set(chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        (chance >> 20) % max.max(1)
    }

    fn after(&mut self, micros: u64, what: Step) {
        let now = self.machine.clock.get();
        self.sequence += 1;
        self.queue.push(Reverse((now + micros, self.sequence, what)));
    }

    fn within(&mut self, max: u64, what: Step) {
        let wait = self.random.u64(0..max);
        self.after(wait, what);
    }

    /// Runs the world. The error names the violated rule.
    pub fn run(&mut self) -> Result<(), String> {
        self.begin();
        while self.next_at().is_some() {
            if self.advance()? && self.is_done() {
                break;
            }
        }
        self.finish()
    }

    /// Starts the host.
    pub fn begin(&mut self) {
        self.began_at = self.machine.clock.get();
        self.quiet_at = self.began_at + FAULT_PERIOD;
        self.start_host();
        self.after(SECOND, Step::Audit);
        if self.network.borrow().holds {
            self.after(SECOND, Step::Operator);
        }
    }

    /// When the next step is due, on its own clock.
    pub fn next_at(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at, ..))| self.machine.clock.get().max(*at))
    }

    /// Whether the period with faults is over, and everything has come to rest.
    pub fn is_done(&self) -> bool {
        self.is_repaired && self.is_at_rest()
    }

    /// Does the next step. `false`: it was skipped.
    pub fn advance(&mut self) -> Result<bool, String> {
        let Some(Reverse((at, _, what))) = self.queue.pop() else { return Ok(false) };
        let now = self.machine.clock.get().max(at);
        self.machine.clock.set(now);
        if now >= self.began_at + FAULT_PERIOD && !self.is_repaired {
            self.is_repaired = true;
            self.repair();
        }
        if what.is_of_parties() {
            self.quiet_at = self.quiet_at.max(now);
        }
        if self.shared.is_none() && now > self.quiet_at + self.longest_hold() {
            return Err(self.unfinished());
        }
        if what == Step::InjectFault && self.is_repaired {
            // A frozen machine has moved the clock beyond the end.
            return Ok(false);
        }
        self.tally.note(at ^ (self.sequence << 40));
        if !matches!(
            what,
            Step::Engine(_)
                | Step::Supervise(_)
                | Step::Operator
                | Step::Resume
                | Step::Network
                | Step::Audit
                | Step::Send(..)
        ) {
            print_trace(format_args!("{now} {what:?}"));
        }
        self.note_takeover();
        self.run_step(what);
        if what.is_of_parties() {
            // Some steps take long, such as a pause of all processes.
            self.quiet_at = self.quiet_at.max(self.machine.clock.get());
        }
        self.handle_aborts();
        Ok(true)
    }

    /// Checks the rules after the last step.
    pub fn finish(&mut self) -> Result<(), String> {
        self.tally.moves = self.network.borrow().moves;
        self.count_refusals();
        self.check()?;
        self.tally.trace = self.trace();
        Ok(())
    }

    /// Schedules the network again while octets are on their way.
    fn carry_octets(&mut self) {
        self.network.borrow_mut().step();
        if self.network.borrow().has_more() {
            self.within(2_000, Step::Network);
        }
    }

    fn run_step(&mut self, what: Step) {
        match what {
            Step::Engine(life) => self.tick_engine(life),
            Step::Supervise(instance) => self.supervise(instance),
            Step::Host => self.start_host(),
            Step::Audit => self.audit(),
            Step::Operator => self.operate(),
            Step::Resume => self.read_notifications(),
            Step::Network => self.carry_octets(),
            Step::ServerRequest => self.network.borrow_mut().send_server_request(),
            Step::TopUp(number) => self.top_up(number),
            Step::InjectFault => self.inject_fault(),
            Step::Repair => self.repair(),
            Step::Invite(call) => self.invite(call),
            Step::Answer(call) => self.answer(call),
            Step::AnswerAgain(call) => self.answer_again(call),
            Step::AnswerFork(call) => self.answer_fork(call),
            Step::Renegotiate(call) => self.renegotiate(call),
            Step::MaliciousRequest(call) => self.send_malicious_request(call),
            Step::Send(call, message, chunk, again) => self.send(call, message, chunk, again),
            Step::Respond(call, message, chunk, again) => self.respond(call, message, chunk, again),
            Step::Report(call, message) => self.report(call, message),
            Step::RestartMessage(call, message) => self.restart_message(call, message),
            Step::Forge(call) => self.forge(call),
            Step::SendBack(call) => self.send_back(call),
            Step::SendAstray(call) => self.send_astray(call),
            Step::Bye(call) => self.bye(call),
            Step::ByeLeg(call) => self.bye_leg(call),
            Step::Cancel(call) => self.cancel(call),
            Step::Merge(call) => self.merge(call),
            Step::EndOther(call, code) => self.end_other(call, code),
            Step::Refuse(call, code) => self.refuse(call, code),
            Step::Lose(call) => self.lose(call),
            Step::Message(page) => self.message(page),
            Step::MessageCopy(page) => self.message_copy(page),
            Step::MessageCopyEnds(page) => self.message_copy_ends(page),
            Step::MessageEnds(page) => self.message_ends(page),
            Step::MessageTimesOut(page) => self.message_times_out(page),
            Step::Chat(chat) => self.chat(chat),
            Step::ChatCopy(chat) => self.chat_copy(chat),
            Step::ChatCopyEnds(chat, code) => self.chat_copy_ends(chat, code),
            Step::ChatAnswers(chat, leg) => self.chat_answers(chat, leg),
            Step::ChatSends(chat, note, chunk, again) => self.chat_sends((chat, note, chunk, again)),
            Step::ChatResponds(chat, note, chunk, again, code) => self.chat_responds((chat, note, chunk, again), code),
            Step::ChatPoses(chat, note, chunk, again, over) => self.chat_poses((chat, note, chunk, again), over),
            Step::ChatForges(chat) => self.chat_forges(chat),
            Step::ChatFails(chat, code) => self.chat_fails(chat, code),
            Step::ChatLoses(chat) => self.chat_loses(chat),
            Step::ChatEnds(chat) => self.chat_ends(chat),
        }
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.engine = None;
        if let Some(region) = &self.region {
            region.remove_file();
        }
        disk::remove();
        // Regions of a host that was not started again.
        Machine::end();
    }
}
