//! One run: a proxy with its engine, its calls and its trouble, on a machine that one number makes.

mod checks;
mod dialogs;
mod host;
mod hostile;
mod parties;
mod setup;
mod trace;
mod trouble;

use crate::Fault;
use crate::call::{Abort, Call, Layout, Message, Names, Reaction, Stage};
use crate::dialog::{Exchange, Leg, Writing};
use crate::disk;
use crate::elsewhere::Elsewhere;
use imcharge::charge::tariff::{Per, Tariff};
use imcharge::charge::time::Time;
use imcharge::config::Config;
use imcharge::engine::Engine;
use imcharge::engine::watchdog::Watchdog;
use imcharge::shm::notification::NotificationReader;
use imcharge::shm::region::Region;
use imcharge::simulate::machine::Machine;
use imcharge::worker::Worker;
use imcharge::worker::sip_input;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// Processes of the host that see messages, and those that take verdicts.
const PROCESSES: usize = 3;
const RESUMERS: u32 = 2;

/// Microseconds.
const SECOND: u64 = 1_000_000;

/// For so long something goes wrong; then everything has to come to rest (see `checks`).
const TROUBLE: u64 = 60 * SECOND;

/// Tells what happens, where somebody wants to know: `TRACE=1 SEED=... SEEDS=1 make sim`.
pub fn say(what: std::fmt::Arguments<'_>) {
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
    /// How often something was refused because a ring was full, or the table.
    pub rings_full: u64,
    pub tables_full: u64,
    /// How often an INVITE was refused because no resume worker came for the verdicts.
    pub verdicts_late: u64,
    /// How often a Diameter session has gone to another peer.
    pub moves: u64,
    /// Frames that claimed to be the server's and were refused.
    pub forged: u64,
    /// Chunks that were stopped because an earlier one of their message was.
    pub rests_stopped: u64,
    /// Messages of which content passed after the server had given them up.
    pub sent_anew: u64,
    /// All that happened, in one number: the same seed makes the same.
    pub trace: u64,
}

impl Tally {
    /// Adds what another run has done.
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
        self.sent_anew += other.sent_anew;
    }

    fn note(&mut self, what: u64) {
        self.events += 1;
        self.trace = (self.trace ^ what).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// The engine's next turn; the number is its life.
    Engine(u64),
    /// The supervisor looks at the engine of this run of the host.
    Supervise(u64),
    /// The host is started again.
    Host,
    /// A look at who still holds something.
    Audit,
    /// Workers take their verdicts.
    Resume,
    /// Octets move.
    Network,
    Invite(usize),
    Answer(usize),
    /// The 200 comes again.
    AnswerAgain(usize),
    /// The other target of a forked INVITE answers.
    AnswerFork(usize),
    /// One side offers other MSRP sessions.
    Renegotiate(usize),
    /// The client deceives in its dialog.
    Deceive(usize),
    /// A SEND of (call, message, chunk), the how-many-th.
    Send(usize, usize, u32, u32),
    Respond(usize, usize, u32, u32),
    /// The server begins a message anew, under the same Message-ID.
    SendAnew(usize, usize),
    /// Somebody who is not the server claims to be it.
    Forge(usize),
    /// The client sends a message of its own.
    SendBack(usize),
    /// A frame between an endpoint of the call and one with which it has no MSRP session, or between two uncharged ones.
    SendAstray(usize),
    /// A failure REPORT about a message.
    Report(usize, usize),
    Bye(usize),
    /// One of two dialogs ends.
    ByeLeg(usize),
    Cancel(usize),
    /// The INVITE comes by another way as well, and ends there.
    Merge(usize),
    EndOther(usize, u16),
    /// The INVITE fails with this code.
    Refuse(usize, u16),
    Lose(usize),
    /// The charging system asks something of its own accord.
    Inquire,
    /// An operator looks at what is held back.
    Operator,
    Trouble,
    /// The disk and the charging system are as they should be again.
    Mend,
}

impl What {
    /// Whether the parties of a call do it.
    fn is_of_parties(&self) -> bool {
        !matches!(
            self,
            What::Engine(_)
                | What::Supervise(_)
                | What::Host
                | What::Audit
                | What::Operator
                | What::Resume
                | What::Network
                | What::Mend
        )
    }
}

/// The run.
pub struct World<'a> {
    machine: Rc<Machine>,
    random: fastrand::Rng,
    config: Config,
    /// Whether something else is configured at some restarts.
    changes: bool,
    /// What a message has cost in each run of the host.
    tariffs: BTreeMap<u64, Tariff>,
    /// The longest `hold_timeout` that was configured.
    hold_timeout: u32,
    elsewhere: Rc<RefCell<Elsewhere>>,
    region: Option<Arc<Region>>,
    workers: Vec<Worker>,
    resumers: Vec<NotificationReader>,
    /// Until when the script of each resume worker blocks.
    resumers_block_until: [u64; RESUMERS as usize],
    engine: Option<Engine>,
    /// What starts the engine, and kills it when it hangs.
    watchdog: Watchdog,
    /// Whether an engine was started that has not begun yet.
    starts: bool,
    /// Microseconds that the next start may take.
    next_start_takes: u64,
    /// Since when there is no engine, as far as the looks of the audit go.
    down_since: Option<u64>,
    life: u64,
    calls: Vec<Call>,
    /// MSRP connections that are closed; whether the host can tell; and the number of the next new one.
    connections: Connections,
    queue: BinaryHeap<Reverse<(u64, u64, What)>>,
    sequence: u64,
    balances: Vec<(String, i64)>,
    /// Whether a charging system at a distance may have to refuse for want of credit.
    is_short: bool,
    wrong: Vec<String>,
    /// Calls whose session was over when one of two dialogs had ended.
    half_ended: BTreeSet<usize>,
    /// What the next death takes with it.
    dies: Death,
    /// Whether a fault is set that `mend` takes away.
    is_ill: bool,
    /// Until when the engine stands still.
    stands_until: u64,
    /// Since when nothing is wrong, as far as the last look went.
    well_since: Option<u64>,
    /// Whether nobody else runs in this process: then a worker must not give its processor away.
    pub is_alone: bool,
    /// What it has done.
    pub tally: Tally,
    state: &'a Path,
    seed: u64,
}

/// The MSRP connections of the host.
#[derive(Debug, Default)]
struct Connections {
    closed: BTreeSet<u64>,
    /// Whether the host can tell which are open.
    are_told: bool,
    next: u64,
}

impl Connections {
    /// The number of a new one.
    fn open(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl sip_input::Connections for Connections {
    fn is_open(&self, connection: u64) -> Option<bool> {
        self.are_told.then(|| !self.closed.contains(&connection))
    }
}

/// What ends when something dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// The engine; its supervisor starts another one.
    Engine,
    /// Every process.
    Host,
    /// The machine, with all its memory and what is not synced.
    Machine,
}

impl<'a> World<'a> {
    /// The run of a seed, in an empty folder.
    pub fn new(seed: u64, fault: Option<Fault>, state: &'a Path) -> World<'a> {
        let machine = Machine::begin(seed ^ 0x5eed);
        let mut random = fastrand::Rng::with_seed(seed);
        disk::insert(Rc::clone(&machine), fastrand::Rng::with_seed(seed ^ 0xd15c));
        match fault {
            Some(Fault::InjectedBug(broken)) => machine.injected.set(Some(broken)),
            Some(Fault::LyingDisk) => drop(disk::on(|disk| disk.lies = true)),
            None => {}
        }
        let config = setup::configure(&mut random, state);
        let is_short = !config.enabler.capabilities.keeps_accounts && random.u8(0..4) == 0;
        let are_told = random.u8(0..4) > 0;
        let balances = setup::balances(&mut random, &config, is_short);
        let changes = random.u8(0..3) == 0;
        let mut elsewhere = Elsewhere::new(Rc::clone(&machine), fastrand::Rng::with_seed(random.u64(..)));
        setup::set_up(&mut random, &config, is_short, &mut elsewhere);
        elsewhere.changes = changes;
        for (name, balance) in &balances {
            elsewhere.ocs.accounts.set_balance(name, *balance);
        }
        let elsewhere = Rc::new(RefCell::new(elsewhere));
        let meanwhile = Rc::clone(&elsewhere);
        *machine.meanwhile.borrow_mut() = Some(Rc::new(move |span| meanwhile.borrow_mut().pause(span)));
        let mut world = World {
            machine,
            random,
            hold_timeout: config.policy.hold_timeout,
            config,
            changes,
            tariffs: BTreeMap::new(),
            elsewhere,
            region: None,
            workers: Vec::new(),
            resumers: Vec::new(),
            resumers_block_until: [0; RESUMERS as usize],
            engine: None,
            watchdog: Watchdog::new(Time(0)),
            starts: false,
            next_start_takes: 0,
            down_since: None,
            life: 0,
            calls: Vec::new(),
            connections: Connections { closed: BTreeSet::new(), are_told, next: 2_000_000 },
            queue: BinaryHeap::new(),
            sequence: 0,
            balances,
            is_short,
            wrong: Vec::new(),
            half_ended: BTreeSet::new(),
            dies: Death::Engine,
            is_ill: false,
            stands_until: 0,
            well_since: None,
            is_alone: false,
            tally: Tally::default(),
            state,
            seed,
        };
        world.fill_the_ledger();
        world.invent_calls();
        world
    }

    /// Accounts as an operator sets them.
    fn fill_the_ledger(&self) {
        imcharge::engine::store::Store::check(&self.config.state_dir).expect("a new ledger");
        let ledger = self.ledger();
        for (name, balance) in &self.balances {
            let sql = "INSERT INTO accounts(id, balance) VALUES(?1, ?2)";
            ledger.execute(sql, (name, balance)).expect("an account");
        }
    }

    fn ledger(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.state.join("ledger.sqlite")).expect("the ledger opens")
    }

    fn invent_calls(&mut self) {
        let shared = self.random.u8(0..4) == 0;
        // Half of the worlds are as they should be, but for their trouble.
        let is_hostile = self.random.bool();
        let names = match self.random.u8(0..6) {
            0 if is_hostile => Names::SameSessionId,
            1 if is_hostile => Names::SameClient,
            _ => Names::Own,
        };
        let same_message_ids = is_hostile && self.random.bool();
        let mut is_predecessor = false;
        for number in 0..self.random.usize(3..14) {
            let forks = self.random.u8(0..8) == 0;
            let messages = (0..self.random.usize(0..7)).map(|_| self.invent_message(is_hostile, forks)).collect();
            let (exchange, writing) = self.invent_exchange();
            let random = &mut self.random;
            let own = [2 * number as u64 + 10, 2 * number as u64 + 11];
            let has_predecessor = is_predecessor;
            is_predecessor = is_hostile && names == Names::Own && !has_predecessor && random.u8(0..6) == 0;
            let call = Call {
                number,
                account: random.choice(&self.balances).expect("there is one").0.clone(),
                push: random.u8(0..6) == 0,
                announced: random.u32(0..6),
                messages,
                names: if has_predecessor { Names::Predecessor } else { names },
                same_message_ids,
                connections: if shared { [1, 2] } else { own },
                exchange,
                writing,
                forks,
                legs: [Leg::new(0), Leg::new(1)],
                is_hostile,
                stage: Stage::Invited,
                verdicts: 0,
                delivered: BTreeMap::new(),
                reported: BTreeSet::new(),
                server_known: None,
                is_captured: false,
                taken_by: None,
                moved_at: 0,
                ended_at: None,
                leg_ended_at: None,
                server_sends_on: false,
                is_aborted: false,
            };
            self.calls.push(call);
            let at = self.random.u64(0..TROUBLE * 2 / 3);
            // One that follows another waits for its end.
            if !has_predecessor {
                self.after(at, What::Invite(number));
            }
            // Some end while something is on its way, some when all is done, some never.
            match self.random.u8(0..10) {
                _ if has_predecessor || is_predecessor => {
                    self.after(at + 5 * SECOND + self.random_up_to(20 * SECOND), What::Bye(number));
                }
                0 => self.after(at + self.random_up_to(2 * SECOND), What::Cancel(number)),
                1 => self.after(at + self.random_up_to(SECOND), What::Refuse(number, 486)),
                2 => self.after(at + self.random_up_to(10 * SECOND), What::Lose(number)),
                3 => {}
                _ => self.after(at + self.random_up_to(20 * SECOND), What::Bye(number)),
            }
            for _ in 0..self.random.usize(0..3).saturating_sub(1) {
                self.after(at + self.random_up_to(20 * SECOND), What::Renegotiate(number));
            }
            if forks && self.random.bool() {
                self.after(at + self.random_up_to(15 * SECOND), What::ByeLeg(number));
            }
            for _ in 0..if is_hostile { self.random.usize(0..6) } else { 0 } {
                let what = match self.random.u8(0..10) {
                    0 => What::SendBack(number),
                    1 => What::SendAstray(number),
                    2..5 => What::Deceive(number),
                    _ => What::Forge(number),
                };
                self.after(at + self.random_up_to(25 * SECOND), what);
            }
        }
        let mut at = self.random_up_to(10 * SECOND);
        while at < TROUBLE {
            self.after(at, What::Trouble);
            at += self.random_up_to(20 * SECOND);
        }
        let mut at = if self.elsewhere.borrow().asks { 0 } else { TROUBLE };
        while at < TROUBLE {
            self.after(at, What::Inquire);
            at += self.random_up_to(4 * SECOND);
        }
    }

    fn invent_exchange(&mut self) -> (Exchange, Writing) {
        let exchange = match self.random.u8(0..8) {
            0 => Exchange::InviteAnd183,
            1 => Exchange::OfferIn200,
            2 => Exchange::OfferIn183,
            _ => Exchange::InviteAnd200,
        };
        (exchange, self.invent_writing())
    }

    fn invent_message(&mut self, is_hostile: bool, forks: bool) -> Message {
        let random = &mut self.random;
        let by_kilobyte = self.config.tariff.per == Per::Kilobyte;
        let chunks = if random.bool() { 1 } else { random.u32(1..4) };
        Message {
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
                0 if is_hostile => Layout::Far,
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

    fn random_up_to(&self, most: u64) -> u64 {
        // A clone would say the same again: the machine's own chance goes on.
        let chance = self.machine.chance.get();
        self.machine.chance.set(chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        (chance >> 20) % most.max(1)
    }

    fn after(&mut self, micros: u64, what: What) {
        let now = self.machine.clock.get();
        self.sequence += 1;
        self.queue.push(Reverse((now + micros, self.sequence, what)));
    }

    fn soon(&mut self, most: u64, what: What) {
        let wait = self.random.u64(0..most);
        self.after(wait, what);
    }

    /// Runs it; the error says what was wrong.
    pub fn run(&mut self) -> Result<(), String> {
        let begin = self.machine.clock.get();
        self.start_the_host();
        self.after(SECOND, What::Audit);
        if self.elsewhere.borrow().holds {
            self.after(SECOND, What::Operator);
        }
        let (mut mended, mut quiet_at) = (false, begin + TROUBLE);
        while let Some(Reverse((at, _, what))) = self.queue.pop() {
            let now = self.machine.clock.get().max(at);
            self.machine.clock.set(now);
            if now >= begin + TROUBLE && !mended {
                mended = true;
                self.mend();
            }
            if what.is_of_parties() {
                quiet_at = quiet_at.max(now);
            }
            if now > quiet_at + self.longest_hold() {
                return Err(self.restless());
            }
            if what == What::Trouble && mended {
                // A pause of all processes has moved it beyond the end.
                continue;
            }
            self.tally.note(at ^ (self.sequence << 40));
            if !matches!(
                what,
                What::Engine(_)
                    | What::Supervise(_)
                    | What::Operator
                    | What::Resume
                    | What::Network
                    | What::Audit
                    | What::Send(..)
            ) {
                say(format_args!("{now} {what:?}"));
            }
            self.happen(what);
            if what.is_of_parties() {
                // Some take their time, such as a pause of all processes.
                quiet_at = quiet_at.max(self.machine.clock.get());
            }
            self.hear_of_aborts();
            if mended && self.is_at_rest() {
                break;
            }
        }
        self.tally.moves = self.elsewhere.borrow().moves;
        self.count_refusals();
        self.check()?;
        self.tally.trace = self.trace();
        Ok(())
    }

    /// The network goes on by itself as long as something is on its way.
    fn carry(&mut self) {
        self.elsewhere.borrow_mut().step();
        if self.elsewhere.borrow().has_more() {
            self.soon(2_000, What::Network);
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Engine(life) => self.turn_the_engine(life),
            What::Supervise(instance) => self.supervise(instance),
            What::Host => self.start_the_host(),
            What::Audit => self.audit(),
            What::Operator => self.operate(),
            What::Resume => self.take_notices(),
            What::Network => self.carry(),
            What::Inquire => self.elsewhere.borrow_mut().inquire(),
            What::Trouble => self.trouble(),
            What::Mend => self.mend(),
            What::Invite(call) => self.invite(call),
            What::Answer(call) => self.answer(call),
            What::AnswerAgain(call) => self.answer_again(call),
            What::AnswerFork(call) => self.answer_fork(call),
            What::Renegotiate(call) => self.renegotiate(call),
            What::Deceive(call) => self.deceive(call),
            What::Send(call, message, chunk, again) => self.send(call, message, chunk, again),
            What::Respond(call, message, chunk, again) => self.respond(call, message, chunk, again),
            What::Report(call, message) => self.report(call, message),
            What::SendAnew(call, message) => self.send_anew(call, message),
            What::Forge(call) => self.forge(call),
            What::SendBack(call) => self.send_back(call),
            What::SendAstray(call) => self.send_astray(call),
            What::Bye(call) => self.bye(call),
            What::ByeLeg(call) => self.bye_leg(call),
            What::Cancel(call) => self.cancel(call),
            What::Merge(call) => self.merge(call),
            What::EndOther(call, code) => self.end_other(call, code),
            What::Refuse(call, code) => self.refuse(call, code),
            What::Lose(call) => self.lose(call),
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
        // What a host left behind that was not started again.
        Machine::end();
    }
}
