//! One run: a proxy with its engine, its calls and its trouble, on a machine that one number makes.

use crate::call::{Call, Message, Reaction, Stage};
use crate::elsewhere::Elsewhere;
use imcharge::charge::policy::Settle;
use imcharge::engine::Engine;
use imcharge::engine::config::Config;
use imcharge::engine::facts::Frame;
use imcharge::engine::notice::{Kind, Outcome, Resumer};
use imcharge::engine::region::{EngineState, Region};
use imcharge::engine::statistic::Statistic;
use imcharge::engine::worker::{Passage, Worker};
use imcharge::simulate::Broken;
use imcharge::simulate::machine::{Crash, Machine};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Processes of the host that see messages, and those that take verdicts.
const PROCESSES: usize = 3;
const RESUMERS: u32 = 2;

/// Microseconds.
const SECOND: u64 = 1_000_000;

/// For so long something goes wrong; then everything has this time to come to rest.
const TROUBLE: u64 = 60 * SECOND;
const REST: u64 = 1200 * SECOND;

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
    /// All that happened, in one number: the same seed makes the same.
    pub trace: u64,
}

impl Tally {
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
    /// Workers take their verdicts.
    Resume,
    /// Octets move.
    Network,
    Invite(usize),
    Answer(usize),
    /// A SEND of (call, message, chunk), the how-many-th.
    Send(usize, usize, u32, u32),
    Respond(usize, usize, u32, u32),
    /// A failure REPORT about a message.
    Report(usize, usize),
    Bye(usize),
    Cancel(usize),
    Refuse(usize),
    Lose(usize),
    Trouble,
    /// The disk and the charging system are as they should be again.
    Mend,
}

/// The run.
pub struct World<'a> {
    machine: Rc<Machine>,
    random: fastrand::Rng,
    config: Config,
    elsewhere: Rc<RefCell<Elsewhere>>,
    region: Option<Arc<Region>>,
    workers: Vec<Worker>,
    resumers: Vec<Resumer>,
    engine: Option<Engine>,
    life: u64,
    calls: Vec<Call>,
    queue: BinaryHeap<Reverse<(u64, u64, What)>>,
    sequence: u64,
    balances: Vec<(String, i64)>,
    price: i64,
    wrong: Vec<String>,
    /// What it has done.
    pub tally: Tally,
    state: &'a Path,
}

impl<'a> World<'a> {
    /// The run of a seed, in an empty folder.
    pub fn new(seed: u64, broken: Option<Broken>, state: &'a Path) -> World<'a> {
        let machine = Machine::begin(seed ^ 0x5eed);
        machine.broken.set(broken);
        let mut random = fastrand::Rng::with_seed(seed);
        let diameter = random.bool();
        let price = random.i64(1..=3);
        let mut config = Config { state_dir: state.to_owned(), ..Config::default() };
        let response_timeout = random.u32(2..20).to_string();
        let hold_timeout = random.u32(20..90).to_string();
        let max_sessions = random.u32(4..16).to_string();
        let tariff = format!("message:{price}");
        let mut set = vec![
            ("tariff", tariff.as_str()),
            ("response_timeout", &response_timeout),
            ("hold_timeout", &hold_timeout),
            ("max_sessions", &max_sessions),
            ("resume_workers", "2"),
        ];
        if diameter {
            set.extend([
                ("enabler", "diameter"),
                ("origin_host", "proxy.example.org"),
                ("origin_realm", "example.org"),
                ("destination_realm", "example.com"),
                ("service_context_id", "32274@3gpp.org"),
                ("peer", "host=ocs.example.com;address=127.0.0.1:3868"),
                ("profile", if random.bool() { "rfc8506" } else { "3gpp-ro" }),
                ("tx_timeout", "3"),
                ("on_failure", if random.u8(0..4) == 0 { "grant" } else { "deny" }),
                ("model", if random.u8(0..6) == 0 { "immediate" } else { "reserve" }),
            ]);
        }
        if random.bool() {
            set.push(("policy", "report=release"));
        }
        for (name, value) in set {
            config.set(name, value).unwrap_or_else(|error| panic!("{error}"));
        }
        // At a distance nobody is short of money here: what the server refuses is decided there.
        let balances = (0..random.usize(1..4)).map(|number| {
            let balance = if diameter { random.i64(500..1000) } else { random.i64(0..60) };
            (format!("sip:user{number}@example.org"), balance)
        });
        let balances: Vec<_> = balances.collect();
        let mut elsewhere = Elsewhere::new(Rc::clone(&machine), fastrand::Rng::with_seed(random.u64(..)));
        elsewhere.ocs.settings.price = price;
        if random.bool() {
            elsewhere.ocs.settings.validity_time = Some(random.u32(5..30));
        }
        for (name, balance) in &balances {
            elsewhere.ocs.book.set_balance(name, *balance);
        }
        let elsewhere = Rc::new(RefCell::new(elsewhere));
        let meanwhile = Rc::clone(&elsewhere);
        *machine.meanwhile.borrow_mut() = Some(Rc::new(move |span| meanwhile.borrow_mut().pause(span)));
        let mut world = World {
            machine,
            random,
            config,
            elsewhere,
            region: None,
            workers: Vec::new(),
            resumers: Vec::new(),
            engine: None,
            life: 0,
            calls: Vec::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            balances,
            price,
            wrong: Vec::new(),
            tally: Tally::default(),
            state,
        };
        world.fill_the_ledger();
        world.invent_calls();
        world
    }

    /// Accounts as an operator sets them.
    fn fill_the_ledger(&self) {
        imcharge::engine::store::Store::check(&self.config).expect("a new ledger");
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
        for number in 0..self.random.usize(3..14) {
            let random = &mut self.random;
            let messages = (0..random.usize(0..7)).map(|_| Message {
                chunks: if random.bool() { 1 } else { random.u32(1..4) },
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
                lost: BTreeSet::new(),
                reported: BTreeSet::new(),
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
        let (mut mended, mut quiet_at) = (false, None);
        while let Some(Reverse((at, _, what))) = self.queue.pop() {
            let now = self.machine.clock.get().max(at);
            self.machine.clock.set(now);
            if now >= begin + TROUBLE && !mended {
                (mended, quiet_at) = (true, Some(now));
                self.mend();
            }
            if quiet_at.is_some_and(|quiet| now > quiet + REST) {
                return Err(self.restless());
            }
            self.tally.note(at ^ (self.sequence << 40));
            if !matches!(what, What::Engine(_) | What::Resume | What::Network | What::Send(..)) {
                say(format_args!("{now} {what:?}"));
            }
            self.happen(what);
            if mended && self.is_at_rest() {
                break;
            }
        }
        self.check()
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Engine(life) => self.turn_the_engine(life),
            What::Resume => self.take_notices(),
            What::Network => self.elsewhere.borrow_mut().step(),
            What::Trouble => self.trouble(),
            What::Mend => self.mend(),
            What::Invite(call) => self.invite(call),
            What::Answer(call) => self.answer(call),
            What::Send(call, message, chunk, again) => self.send(call, message, chunk, again),
            What::Respond(call, message, chunk, again) => self.respond(call, message, chunk, again),
            What::Report(call, message) => self.report(call, message),
            What::Bye(call) => self.bye(call),
            What::Cancel(call) => self.cancel(call),
            What::Refuse(call) => self.refuse(call),
            What::Lose(call) => self.lose(call),
        }
    }
}

/// The host and its engine.
impl World<'_> {
    fn start_the_host(&mut self) {
        let region = Region::create(self.config.clone(), PROCESSES).unwrap_or_else(|error| panic!("{error}"));
        self.workers = (0..PROCESSES).map(|process| Worker::attach(&region, process)).collect();
        self.resumers = (0..RESUMERS as usize).map(|resumer| Resumer::attach(&region, resumer)).collect();
        self.region = Some(region);
        self.start_the_engine();
        self.after(0, What::Resume);
    }

    fn start_the_engine(&mut self) {
        self.life += 1;
        let region = Arc::clone(self.region.as_ref().expect("the host runs"));
        let started = self.guarded(|_| Engine::start(&region));
        match started {
            Some(Ok(engine)) => {
                self.engine = Some(engine);
                let life = self.life;
                self.after(0, What::Engine(life));
            }
            Some(Err(_)) => self.the_store_fails(),
            None => {}
        }
    }

    /// Runs what may die; `None`: it did, and will be started again.
    fn guarded<R>(&mut self, work: impl FnOnce(&mut Option<Engine>) -> R) -> Option<R> {
        let engine = &mut self.engine;
        match catch_unwind(AssertUnwindSafe(|| work(engine))) {
            Ok(result) => Some(result),
            Err(panic) if panic.is::<Crash>() => {
                self.tally.crashes += 1;
                say(format_args!("{} the engine dies", self.machine.clock.get()));
                self.engine = None;
                let region = self.region.as_ref().expect("the host runs");
                region.set_engine_state(EngineState::Starting);
                self.start_later();
                None
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    /// As the supervisor does.
    fn start_later(&mut self) {
        self.life += 1;
        let life = self.life;
        self.soon(SECOND, What::Engine(life));
    }

    fn the_store_fails(&mut self) {
        self.engine = None;
        self.region.as_ref().expect("the host runs").set_engine_state(EngineState::StoreFailing);
        self.start_later();
    }

    fn turn_the_engine(&mut self, life: u64) {
        if life != self.life || self.region.is_none() {
            return;
        }
        if self.engine.is_none() {
            return self.start_the_engine();
        }
        self.elsewhere.borrow_mut().step();
        match self.guarded(|engine| engine.as_mut().map(Engine::round)) {
            Some(Some(Ok(_))) => {
                let patience = self.engine.as_ref().map_or(Duration::ZERO, Engine::patience);
                let most = u64::try_from(patience.as_micros()).unwrap_or(0).max(100);
                self.soon(most, What::Engine(life));
                self.soon(2_000, What::Network);
            }
            Some(_) => self.the_store_fails(),
            None => {}
        }
    }

    /// Verdicts let INVITEs go on, in any worker.
    fn take_notices(&mut self) {
        let mut verdicts = Vec::new();
        for resumer in &mut self.resumers {
            while resumer.next(|notice| {
                if let Kind::Verdict { suspended, result, .. } = notice.kind {
                    verdicts.push((suspended.index as usize, result));
                }
            }) {}
        }
        for (number, result) in verdicts {
            let call = &mut self.calls[number];
            call.verdicts += 1;
            if call.stage == Stage::Invited && result == Outcome::Granted {
                call.stage = Stage::Granted;
                self.soon(SECOND, What::Answer(number));
            } else if call.stage == Stage::Invited {
                call.stage = Stage::Over;
            }
        }
        if self.region.is_some() {
            self.soon(5_000, What::Resume);
        }
    }

    fn region(&self) -> &Arc<Region> {
        self.region.as_ref().expect("the host runs")
    }

    fn worker(&mut self) -> (usize, &mut Worker) {
        let process = self.random.usize(0..PROCESSES);
        (process, &mut self.workers[process])
    }
}

/// The parties.
impl World<'_> {
    fn invite(&mut self, number: usize) {
        let process = self.random.usize(0..PROCESSES);
        let call = &mut self.calls[number];
        if call.stage != Stage::Invited || !call.invite(&mut self.workers[process]) {
            call.stage = Stage::Over;
        }
    }

    fn answer(&mut self, number: usize) {
        if self.calls[number].stage != Stage::Granted {
            return;
        }
        self.calls[number].stage = Stage::Answered;
        let process = self.random.usize(0..PROCESSES);
        if !self.calls[number].answer(&mut self.workers[process]) {
            // What the server sends now would pass unseen.
            return self.wrong.push(format!("call {number} was let in, and nobody knows it when it is answered"));
        }
        for message in 0..self.calls[number].messages.len() {
            let begin = self.random.u64(0..10 * SECOND);
            for chunk in 0..self.calls[number].messages[message].chunks {
                // Chunks come in order, mostly.
                let late = if self.random.u8(0..10) == 0 { 2 * SECOND } else { 0 };
                self.after(begin + u64::from(chunk) * 50_000 + late, What::Send(number, message, chunk, 0));
            }
        }
    }

    fn send(&mut self, number: usize, message: usize, chunk: u32, again: u32) {
        if self.calls[number].stage != Stage::Answered {
            return;
        }
        let bytes = self.calls[number].send(message, chunk, again);
        let is_content = !bytes.trim_end().ends_with('#');
        let connection = self.calls[number].connections[0];
        let (process, worker) = self.worker();
        let passage = worker.frame(&Frame { bytes: bytes.as_bytes(), connection, from_self: false });
        let place = (self.region().instance(), process, self.region().event_ring(process).head());
        self.tally.note(passage as i32 as u64);
        say(format_args!(
            "{} send call {number} message {message}.{chunk} again {again}: {passage:?}",
            self.machine.clock.get()
        ));
        match passage {
            Passage::NotCharged => {
                self.wrong.push(format!("call {number} message {message} passes a session that nobody knows"));
            }
            Passage::Pass if is_content => {
                self.calls[number].passed.entry(message).or_default().insert(place);
                self.react(number, message, chunk, again);
            }
            // It is sent again a little later, as after a refusal that may pass.
            Passage::BeyondGrant | Passage::Full if again < 2 => {
                self.after(1_500_000, What::Send(number, message, chunk, again + 1));
            }
            _ => {}
        }
    }

    fn react(&mut self, number: usize, message: usize, chunk: u32, again: u32) {
        if let Reaction::Answer(_) = self.calls[number].messages[message].reaction {
            let most = if self.random.u8(0..8) == 0 { 20 * SECOND } else { 200_000 };
            // Some answers are lost, some come twice.
            let times = [1, 1, 1, 1, 1, 1, 1, 1, 0, 2][self.random.usize(0..10)];
            (0..times).for_each(|_| self.soon(most, What::Respond(number, message, chunk, again)));
            if self.random.u8(0..12) == 0 {
                self.soon(10 * SECOND, What::Report(number, message));
            }
        }
    }

    fn respond(&mut self, number: usize, message: usize, chunk: u32, again: u32) {
        let call = &self.calls[number];
        let (Stage::Answered, Reaction::Answer(code)) = (call.stage, call.messages[message].reaction) else { return };
        let (bytes, connection) = (call.respond(message, chunk, again, code), call.connections[1]);
        let (_, worker) = self.worker();
        worker.frame(&Frame { bytes: bytes.as_bytes(), connection, from_self: false });
    }

    fn report(&mut self, number: usize, message: usize) {
        let call = &mut self.calls[number];
        if call.stage != Stage::Answered {
            return;
        }
        call.reported.insert(message);
        let (bytes, connection) = (call.report(message), call.connections[1]);
        let (_, worker) = self.worker();
        worker.frame(&Frame { bytes: bytes.as_bytes(), connection, from_self: false });
    }

    fn bye(&mut self, number: usize) {
        let process = self.random.usize(0..PROCESSES);
        let call = &mut self.calls[number];
        if call.stage == Stage::Answered {
            call.bye(&mut self.workers[process]);
            call.stage = Stage::Over;
        }
    }

    fn cancel(&mut self, number: usize) {
        let process = self.random.usize(0..PROCESSES);
        let call = &mut self.calls[number];
        if matches!(call.stage, Stage::Invited | Stage::Granted) {
            self.workers[process].cancelled(call.session());
            call.stage = Stage::Over;
        }
    }

    fn refuse(&mut self, number: usize) {
        let process = self.random.usize(0..PROCESSES);
        let call = &mut self.calls[number];
        if call.stage == Stage::Granted {
            self.workers[process].failed(call.session(), 486);
            call.stage = Stage::Over;
        }
    }

    fn lose(&mut self, number: usize) {
        let side = self.random.usize(0..2);
        let connection = self.calls[number].connections[side];
        let (_, worker) = self.worker();
        worker.connection_lost(connection);
    }
}

/// What goes wrong.
impl World<'_> {
    fn trouble(&mut self) {
        self.tally.faults += 1;
        let kind = self.random.u8(0..12);
        say(format_args!("{} trouble {kind}", self.machine.clock.get()));
        match kind {
            0..=3 => self.machine.crash_in.set(Some(self.random.u32(0..40))),
            4 => self.kill_the_host(false),
            5 => self.kill_the_host(true),
            6 => self.stop_the_host(),
            7 => {
                let step = self.random.i64(-86_400_000_000..86_400_000_000);
                self.machine.wall.set(self.machine.wall.get() + step);
            }
            8 => self.for_a_while(|world| world.machine.disk_fails.set(true)),
            9 => self.for_a_while(|world| {
                world.machine.listens.set(false);
                world.elsewhere.borrow_mut().cut();
            }),
            10 => {
                // The engine stands still.
                let stands = self.random.u64(0..5 * SECOND);
                self.life += 1;
                let life = self.life;
                self.after(stands, What::Engine(life));
            }
            _ => self.for_a_while(|world| {
                let faults = [
                    "drop rate=1/3",
                    "lose rate=1/3",
                    "delay=5s rate=1/3",
                    "duplicate rate=1/2",
                    "refuse=4012 on=initial rate=1/2",
                    "protocol-error=3004 rate=1/3",
                    "wrong-hbh rate=1/4",
                    "silent",
                    "garbage rate=1/8",
                    "avp-length=3 rate=1/4",
                    "close=mid-answer rate=1/4",
                ];
                let fault = world.random.choice(faults).unwrap_or_default();
                world.elsewhere.borrow_mut().ocs.faults.set(fault).unwrap_or_else(|error| panic!("{error}"));
            }),
        }
    }

    fn for_a_while(&mut self, begin: impl FnOnce(&mut Self)) {
        begin(self);
        self.soon(15 * SECOND, What::Mend);
    }

    fn mend(&mut self) {
        self.machine.crash_in.set(None);
        self.machine.disk_fails.set(false);
        self.machine.listens.set(true);
        self.elsewhere.borrow_mut().ocs.faults.clear();
        if self.queue.is_empty() && self.region.is_none() {
            self.start_the_host();
        }
    }

    /// Every process dies at once. With the machine, what is not on the disk is gone; without, shared memory stays.
    fn kill_the_host(&mut self, machine: bool) {
        self.tally.crashes += 1;
        self.machine.crash_in.set(None);
        self.engine = None;
        self.life += 1;
        if machine {
            self.lose_memory();
        }
        self.forget_the_host();
        self.start_the_host();
    }

    fn stop_the_host(&mut self) {
        let stopped = self.guarded(|engine| engine.as_mut().map(Engine::stop));
        self.engine = None;
        self.life += 1;
        // An engine that died or failed at its end leaves what it had not read to the next one.
        let _ = stopped;
        self.forget_the_host();
        self.start_the_host();
    }

    /// Nothing of a call comes through a host that is not the one it began on.
    fn forget_the_host(&mut self) {
        self.workers.clear();
        self.resumers.clear();
        self.region = None;
        self.elsewhere.borrow_mut().cut();
        for call in &mut self.calls {
            let begun = call.stage != Stage::Invited || call.verdicts > 0;
            let waits = self.queue.iter().any(|Reverse((_, _, what))| *what == What::Invite(call.number));
            if begun || !waits {
                call.stage = Stage::Over;
            }
        }
    }

    /// What stood in a ring and was not committed may be lost.
    fn lose_memory(&mut self) {
        let region = Arc::clone(self.region());
        let tails: Vec<u64> = (0..PROCESSES).map(|process| region.event_ring(process).tail()).collect();
        for call in &mut self.calls {
            for (message, places) in &call.passed {
                // One record that was read is enough to have the message paid.
                let read = |place: &(u64, usize, u64)| place.0 != region.instance() || place.2 <= tails[place.1];
                if !places.iter().any(read) {
                    call.lost.insert(*message);
                }
            }
        }
        region.remove_file();
    }
}

/// What must be true.
impl World<'_> {
    fn is_at_rest(&self) -> bool {
        let parties = |what: &What| !matches!(what, What::Engine(_) | What::Resume | What::Network);
        let Some(region) = &self.region else { return false };
        let rings = (0..PROCESSES).all(|process| region.event_ring(process).used() == 0);
        let waits =
            [Statistic::SessionsActive, Statistic::OutboxDepth, Statistic::OutboxOldestAge, Statistic::HoldsStuck];
        let quiet = waits.iter().all(|one| region.statistic(*one) == 0);
        rings && quiet && self.engine.is_some() && !self.queue.iter().any(|Reverse((_, _, what))| parties(what))
    }

    fn restless(&self) -> String {
        let region = self.region();
        let one = |one: Statistic| region.statistic(one);
        let (active, outbox) = (one(Statistic::SessionsActive), one(Statistic::OutboxDepth));
        let state = region.engine_state();
        format!("no rest: {active} sessions are open, {outbox} debits wait, the engine is {state:?}")
    }

    fn check(&mut self) -> Result<(), String> {
        // The tables follow the journal with the next write.
        if let Some(engine) = &mut self.engine {
            engine.stop().map_err(|error| error.to_string())?;
        }
        self.check_messages()?;
        self.check_money()?;
        if let Some(wrong) = self.wrong.first().or(self.elsewhere.borrow().wrong.first()) {
            return Err(wrong.clone());
        }
        match self.calls.iter().find(|call| call.verdicts > 1) {
            Some(call) => Err(format!("call {} has {} verdicts", call.number, call.verdicts)),
            None => Ok(()),
        }
    }

    fn check_messages(&mut self) -> Result<(), String> {
        let ledger = self.ledger();
        let count = |call_id: &str, message_id: &str| -> i64 {
            let sql = "SELECT count(*) FROM debits WHERE call_id=?1 AND message_id=?2";
            ledger.query_row(sql, (call_id, message_id), |row| row.get(0)).expect("a table")
        };
        let refunds = |call_id: &str, message_id: &str| -> i64 {
            let sql = "SELECT count(refunded_at) FROM debits WHERE call_id=?1 AND message_id=?2";
            ledger.query_row(sql, (call_id, message_id), |row| row.get(0)).expect("a table")
        };
        for call in &self.calls {
            for message in 0..call.messages.len() {
                let debits = count(&call.call_id(), &call.message_id(message));
                let passed = call.passed.contains_key(&message);
                let given_back = self.config.policy.report == Settle::Release && call.reported.contains(&message);
                let may_be_free = call.may_be_free(message) || call.lost.contains(&message) || given_back;
                if !given_back && refunds(&call.call_id(), &call.message_id(message)) > 0 {
                    return Err(format!("call {} message {message} was given back for no reason", call.number));
                }
                let right = match (passed, may_be_free) {
                    (false, _) => debits == 0,
                    (true, false) => debits == 1,
                    (true, true) => debits <= 1,
                };
                if !right {
                    let (number, messages) = (call.number, &call.messages[message]);
                    return Err(format!(
                        "call {number} message {message} {messages:?}: passed {passed}, debits {debits}"
                    ));
                }
                self.tally.debits += debits as u64;
            }
        }
        Ok(())
    }

    fn check_money(&self) -> Result<(), String> {
        let ledger = self.ledger();
        let number =
            |sql: &str, name: &str| -> i64 { ledger.query_row(sql, [name], |row| row.get(0)).expect("a number") };
        let elsewhere = self.elsewhere.borrow();
        for (name, initial) in &self.balances {
            let debited = "SELECT coalesce(sum(units), 0) FROM debits WHERE account=?1 AND refunded_at IS NULL";
            let debited = number(debited, name);
            let (balance, held, taken) = match self.config.diameter() {
                Some(_) => {
                    let found = elsewhere.ocs.book.accounts().find(|(known, _)| known == name);
                    let account = found.map(|(_, account)| *account).unwrap_or_default();
                    (account.balance, account.held, account.debited)
                }
                None => {
                    let of = |column: &str| number(&format!("SELECT {column} FROM accounts WHERE id=?1"), name);
                    (of("balance"), of("held"), of("debited"))
                }
            };
            if (held, taken, balance) != (0, debited, initial - debited) || balance < 0 {
                return Err(format!(
                    "{name} of {initial}: balance {balance}, held {held}, debited {taken}, the history says {debited} \
                     (price {})",
                    self.price
                ));
            }
        }
        let holds: i64 = ledger.query_row("SELECT count(*) FROM holds", [], |row| row.get(0)).expect("a table");
        match holds {
            0 => Ok(()),
            holds => Err(format!("{holds} holds are left")),
        }
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.engine = None;
        if let Some(region) = &self.region {
            region.remove_file();
        }
        // What a host left behind that was not started again.
        Machine::end();
    }
}
