//! One run: a proxy with its engine, its calls and its trouble, on a machine that one number makes.

mod checks;
mod host;
mod parties;
mod setup;
mod trouble;

use crate::Fault;
use crate::call::{Call, Message, Reaction, Stage};
use crate::disk;
use crate::elsewhere::Elsewhere;
use imcharge::charge::tariff::{Per, Tariff};
use imcharge::charge::time::Time;
use imcharge::engine::Engine;
use imcharge::engine::config::Config;
use imcharge::engine::notice::Resumer;
use imcharge::engine::region::Region;
use imcharge::engine::watchdog::Watchdog;
use imcharge::engine::worker::Worker;
use imcharge::simulate::machine::Machine;
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
    /// A SEND of (call, message, chunk), the how-many-th.
    Send(usize, usize, u32, u32),
    Respond(usize, usize, u32, u32),
    /// A failure REPORT about a message.
    Report(usize, usize),
    Bye(usize),
    Cancel(usize),
    /// The INVITE comes by another way as well, and ends there.
    Merge(usize),
    EndOther(usize, u16),
    Refuse(usize),
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
    resumers: Vec<Resumer>,
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
    queue: BinaryHeap<Reverse<(u64, u64, What)>>,
    sequence: u64,
    balances: Vec<(String, i64)>,
    /// Whether a charging system at a distance may have to refuse for want of credit.
    is_short: bool,
    wrong: Vec<String>,
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
            Some(Fault::Broken(broken)) => machine.broken.set(Some(broken)),
            Some(Fault::LyingDisk) => drop(disk::on(|disk| disk.lies = true)),
            None => {}
        }
        let config = setup::configure(&mut random, state);
        let is_short = config.diameter().is_some() && random.u8(0..4) == 0;
        let balances = setup::balances(&mut random, &config, is_short);
        let changes = random.u8(0..3) == 0;
        let mut elsewhere = Elsewhere::new(Rc::clone(&machine), fastrand::Rng::with_seed(random.u64(..)));
        setup::set_up(&mut random, &config, is_short, &mut elsewhere);
        elsewhere.changes = changes;
        for (name, balance) in &balances {
            elsewhere.ocs.book.set_balance(name, *balance);
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
            queue: BinaryHeap::new(),
            sequence: 0,
            balances,
            is_short,
            wrong: Vec::new(),
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
        let by_kilobyte = self.config.tariff.per == Per::Kilobyte;
        for number in 0..self.random.usize(3..14) {
            let random = &mut self.random;
            let messages = (0..random.usize(0..7)).map(|_| Message {
                chunks: if random.bool() { 1 } else { random.u32(1..4) },
                octets: match by_kilobyte {
                    true => random.choice([1, 100, 1023, 1024, 1025, 4000, 10_000]).expect("there is one"),
                    false => 100,
                },
                reaction: match random.u8(0..10) {
                    0 => Reaction::Silence,
                    1 => Reaction::Answer(415),
                    2 => Reaction::Answer(506),
                    _ => Reaction::Answer(200),
                },
                given_up: random.u8(0..20) == 0,
            });
            let messages = messages.collect();
            let own = [2 * number as u64 + 10, 2 * number as u64 + 11];
            let call = Call {
                number,
                account: random.choice(&self.balances).expect("there is one").0.clone(),
                push: random.u8(0..6) == 0,
                announced: random.u32(0..6),
                messages,
                connections: if shared { [1, 2] } else { own },
                stage: Stage::Invited,
                verdicts: 0,
                passed: Default::default(),
                chunks: BTreeSet::new(),
                lost: BTreeSet::new(),
                reported: BTreeSet::new(),
                unsure: BTreeSet::new(),
                taken_by: None,
                moved_at: 0,
                ended_at: None,
                is_aborted: false,
            };
            self.calls.push(call);
            let at = self.random.u64(0..TROUBLE * 2 / 3);
            self.after(at, What::Invite(number));
            // Some end while something is on its way, some when all is done, some never.
            match self.random.u8(0..10) {
                0 => self.after(at + self.random_up_to(2 * SECOND), What::Cancel(number)),
                1 => self.after(at + self.random_up_to(SECOND), What::Refuse(number)),
                2 => self.after(at + self.random_up_to(10 * SECOND), What::Lose(number)),
                3 => {}
                _ => self.after(at + self.random_up_to(20 * SECOND), What::Bye(number)),
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
        self.tally.trace ^= self.elsewhere.borrow().trace;
        self.tally.moves = self.elsewhere.borrow().moves;
        self.count_refusals();
        self.check()
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
            What::Send(call, message, chunk, again) => self.send(call, message, chunk, again),
            What::Respond(call, message, chunk, again) => self.respond(call, message, chunk, again),
            What::Report(call, message) => self.report(call, message),
            What::Bye(call) => self.bye(call),
            What::Cancel(call) => self.cancel(call),
            What::Merge(call) => self.merge(call),
            What::EndOther(call, code) => self.end_other(call, code),
            What::Refuse(call) => self.refuse(call),
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
