//! Several nodes that share a ledger in a simulated PostgreSQL: each is a proxy with its own engine, disk, clock and faults.

use crate::Fault;
use crate::disk::{self, Disk};
use crate::network::hash;
use crate::postgres::ledger::Ledger;
use crate::postgres::server::{PORTS, REFUSING, SLOW, Servers, UNCONFIRMED};
use crate::world::{FAULT_PERIOD, SECOND, Tally, World, print_trace, setup};
use imcharge::config::Config;
use imcharge::simulate::machine::Machine;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// When all clocks begin.
const BEGIN: u64 = 1_000_000_000;

/// How fast the clock of a node runs, in thousandths of the clock of the servers. A lease is used for nine tenths of its time.
const CLOCK_RATES: std::ops::RangeInclusive<u64> = 920..=1080;

/// What all nodes of a cluster have in common.
pub struct Plan {
    settings: Vec<(&'static str, String)>,
    pub balances: Vec<(String, i64)>,
    pub is_short: bool,
    /// The lease, in seconds.
    pub lease: u64,
}

impl Plan {
    /// Returns the configuration of a node.
    pub fn configure(&self, shared: &Shared, state: &Path) -> Config {
        let mut config = Config { state_dir: state.to_owned(), ..Config::default() };
        let node = ("node", shared.name());
        let settings = self.settings.iter().map(|(name, value)| (*name, value.clone())).chain([node]);
        for (name, value) in settings {
            config.set(name, &value).unwrap_or_else(|error| panic!("{error}"));
        }
        config.check().unwrap_or_else(|error| panic!("{error}"));
        config
    }
}

/// The shared ledger, as one node uses it.
#[derive(Clone)]
pub struct Shared {
    pub servers: Rc<RefCell<Servers>>,
    number: usize,
    rate: u64,
    /// Whether the servers have a fault, and until when one just had, on their clock.
    faulty_until: Rc<Cell<u64>>,
}

impl Shared {
    pub fn number(&self) -> usize {
        self.number
    }

    pub fn name(&self) -> String {
        format!("node{}", self.number)
    }

    /// Returns a time of the servers for one of the node.
    pub fn server_time(&self, local: u64) -> u64 {
        BEGIN + local.saturating_sub(BEGIN) * 1000 / self.rate
    }

    /// Returns a time of the node for one of the servers.
    pub fn local_time(&self, at_server: u64) -> u64 {
        BEGIN + at_server.saturating_sub(BEGIN) * self.rate / 1000
    }

    /// Carries octets between the node and the servers.
    pub fn step(&self, machine: &Machine) {
        let now = self.server_time(machine.clock.get());
        let mut servers = self.servers.borrow_mut();
        while let Some((address, stream)) = machine.opened.borrow_mut().pop_front() {
            servers.connect(self.number, address.port(), stream, now);
        }
        servers.step(self.number, now);
    }

    /// Whether octets are on their way.
    pub fn has_more(&self, machine: &Machine) -> bool {
        self.servers.borrow().has_more(self.number, self.server_time(machine.clock.get()))
    }

    /// Whether the servers have a fault, at a time of the node.
    pub fn is_faulty(&self, local: u64) -> bool {
        self.server_time(local) < self.faulty_until.get()
    }

    /// When the lease of this node ends, on the clock of the servers.
    pub fn lease_until(&self) -> u64 {
        self.servers.borrow().lease_until(&self.name())
    }

    /// Number of the epoch of this node; 0: it has not joined.
    pub fn epoch(&self) -> i64 {
        self.servers.borrow().primary.nodes.get(&self.name()).map_or(0, |node| node.epoch)
    }

    /// Up to when another node knows everything that this one knew, on its own clock.
    pub fn replicated_at(&self) -> u64 {
        self.local_time(self.servers.borrow().replicated_at(&self.name()))
    }
}

/// A fault of the servers, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Inject,
    FailOver,
    /// The end of a fault of this kind.
    Repair(u8),
}

/// A node.
struct Member<'a> {
    world: Option<World<'a>>,
    machine: Rc<Machine>,
    disk: Option<Disk>,
    shared: Shared,
}

/// A run.
pub struct Cluster<'a> {
    members: Vec<Member<'a>>,
    servers: Rc<RefCell<Servers>>,
    faulty_until: Rc<Cell<u64>>,
    random: fastrand::Rng,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    plan: Plan,
    /// Sum over the nodes.
    pub tally: Tally,
}

impl<'a> Cluster<'a> {
    /// Prepares the run of a seed. `folders`: an empty folder for each node; at least two.
    pub fn new(seed: u64, fault: Option<Fault>, folders: &'a [PathBuf]) -> Cluster<'a> {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x5_4a7ed);
        let plan = plan(&mut random);
        let mut ledger = Ledger::default();
        for (account, balance) in &plan.balances {
            let limit = if random.bool() { random.i64(0..40) } else { 0 };
            ledger.create_account(account, *balance, limit);
        }
        let bug = match fault {
            Some(Fault::StoreBug(bug)) => Some(bug),
            _ => None,
        };
        let servers = Servers::new(fastrand::Rng::with_seed(random.u64(..)), ledger, bug);
        let servers = Rc::new(RefCell::new(servers));
        let faulty_until = Rc::new(Cell::new(0));
        let count = if random.u8(0..3) == 0 { folders.len() } else { 2 };
        let mut members = Vec::new();
        for (number, folder) in folders.iter().take(count).enumerate() {
            let rate = random.u64(CLOCK_RATES);
            let shared = Shared { servers: Rc::clone(&servers), number, rate, faulty_until: Rc::clone(&faulty_until) };
            let world = World::of_node(random.u64(..), fault, &plan, shared.clone(), folder);
            let machine = Rc::clone(world.machine());
            members.push(Member { world: Some(world), machine, disk: disk::exchange(None), shared });
        }
        let mut events = BinaryHeap::new();
        let mut at = BEGIN + random.u64(0..10 * SECOND);
        while at < BEGIN + FAULT_PERIOD {
            events.push(Reverse((at, Event::Inject)));
            at += random.u64(0..25 * SECOND);
        }
        Cluster { members, servers, faulty_until, random, events, plan, tally: Tally::default() }
    }

    /// Runs the cluster. The error names the violated rule.
    pub fn run(&mut self) -> Result<(), String> {
        for number in 0..self.members.len() {
            self.on(number, World::begin);
        }
        loop {
            let (at, number) = self.next();
            self.handle_events(at);
            let is_step = self.on(number, World::advance)?;
            if is_step && self.is_done() {
                break;
            }
            if at > self.quiet_at() + self.longest_rest() {
                return Err(self.unfinished());
            }
        }
        self.finish()
    }

    /// Calls a node on its machine.
    fn on<R>(&mut self, number: usize, call: impl FnOnce(&mut World<'a>) -> R) -> R {
        let member = &mut self.members[number];
        member.machine.resume();
        disk::exchange(member.disk.take());
        let result = call(member.world.as_mut().expect("it is removed by drop only"));
        member.disk = disk::exchange(None);
        result
    }

    fn worlds(&self) -> impl Iterator<Item = &World<'a>> {
        self.members.iter().filter_map(|member| member.world.as_ref())
    }

    /// Returns the node with the next step, and when it is, on the clock of the servers.
    fn next(&self) -> (u64, usize) {
        let next = self.members.iter().enumerate().filter_map(|(number, member)| {
            let local = member.world.as_ref().and_then(World::next_at)?;
            Some((member.shared.server_time(local), number))
        });
        next.min().expect("a node always has a next step")
    }

    /// When anything was done last, on the clock of the servers.
    fn quiet_at(&self) -> u64 {
        let quiet = self.members.iter().filter_map(|member| {
            let world = member.world.as_ref()?;
            Some(member.shared.server_time(world.quiet_at))
        });
        quiet.max().unwrap_or(0)
    }

    /// Longest time until everything is settled: a session may be taken over more than once.
    fn longest_rest(&self) -> u64 {
        let hold = self.worlds().map(World::longest_hold).max().unwrap_or(0);
        hold + 4 * self.plan.lease * SECOND + 60 * SECOND
    }

    fn is_done(&self) -> bool {
        self.servers.borrow().primary.sessions.is_empty() && self.worlds().all(World::is_done)
    }

    fn unfinished(&mut self) -> String {
        let nodes: Vec<String> = self.worlds().map(World::unfinished).collect();
        let sessions = self.servers.borrow().primary.sessions.clone();
        format!("{nodes:?}; the shared ledger has the sessions {sessions:?}")
    }

    /// Injects the faults of the servers that are due.
    fn handle_events(&mut self, now: u64) {
        while let Some(Reverse((at, event))) = self.events.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.events.pop();
            print_trace(format_args!("{at} servers: {event:?}"));
            match event {
                Event::Inject => self.inject(at),
                Event::FailOver => self.fail_over(at),
                Event::Repair(kind) => self.servers.borrow_mut().repair(kind),
            }
        }
    }

    fn fail_over(&mut self, now: u64) {
        let outage = self.random.u64(0..8 * SECOND);
        self.servers.borrow_mut().fail_over(now, outage);
        self.is_faulty_until(now + outage);
    }

    fn is_faulty_until(&self, until: u64) {
        self.faulty_until.set(self.faulty_until.get().max(until));
    }

    fn inject(&mut self, now: u64) {
        let node = self.random.usize(0..self.members.len());
        let lasts = self.random.u64(0..20 * SECOND);
        let until = (now + lasts).min(BEGIN + FAULT_PERIOD);
        let kind = self.random.u8(0..9);
        print_trace(format_args!("{now} servers: fault {kind} at node {node} for {lasts}"));
        self.tally.faults += 1;
        self.is_faulty_until(until);
        let mut servers = self.servers.borrow_mut();
        match kind {
            0 => servers.reset(Some(node).filter(|_| self.random.bool())),
            // The standby receives nothing, and often takes the place of the primary.
            1..=3 => {
                servers.faults.stalled_until = until;
                if self.random.u8(0..3) > 0 && now < until {
                    self.events.push(Reverse((self.random.u64(now..until), Event::FailOver)));
                }
            }
            4 => self.events.push(Reverse((now, Event::FailOver))),
            SLOW => servers.faults.slow = self.random.u64(0..8 * SECOND),
            6 => {
                let lasts = self.random.u64(0..3 * self.plan.lease * SECOND);
                let until = (now + lasts).min(BEGIN + FAULT_PERIOD);
                servers.cut_off(node, until);
                drop(servers);
                return self.is_faulty_until(until);
            }
            REFUSING => servers.faults.refuses_one_in = 3,
            _ => servers.faults.unconfirmed_one_in = 3,
        }
        if [SLOW, REFUSING, UNCONFIRMED].contains(&kind) {
            self.events.push(Reverse((until, Event::Repair(kind))));
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        let result = self.check();
        let mut traces = Vec::new();
        for world in self.members.iter().filter_map(|member| member.world.as_ref()) {
            self.tally.add(&world.tally);
            traces.push(world.tally.trace);
        }
        let servers = self.servers.borrow();
        self.tally.failovers = servers.failovers;
        self.tally.lost_commits = servers.lost_commits;
        self.tally.trace = hash(&(servers.trace, traces));
        result
    }

    fn check(&mut self) -> Result<(), String> {
        for number in 0..self.members.len() {
            self.on(number, World::stop)?;
        }
        let steps: Vec<_> =
            (0..self.members.len()).map(|number| self.on(number, |world| world.local_history())).collect();
        for number in 0..self.members.len() {
            let result = self.on(number, |world| {
                world.read_history(&steps);
                world.finish()
            });
            result.map_err(|wrong| format!("node {number}: {wrong}"))?;
        }
        let servers = self.servers.borrow();
        if let Some(wrong) = servers.violations.first() {
            return Err(wrong.clone());
        }
        if let Some(wrong) = servers.missing_debit() {
            return Err(wrong);
        }
        check_ledger(&servers.primary)?;
        let own: usize = self.worlds().map(|world| world.own_debits().len()).sum();
        if own != servers.primary.debits.len() {
            return Err(format!("{} debits, but {own} of sessions that exist", servers.primary.debits.len()));
        }
        self.worlds().try_for_each(|world| world.check_top_ups(&servers.primary))
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        for member in &mut self.members {
            member.machine.resume();
            disk::exchange(member.disk.take());
            member.world = None;
        }
    }
}

/// The sums of every account are those of its changes, debits and sessions; nothing is held.
fn check_ledger(ledger: &Ledger) -> Result<(), String> {
    for (id, account) in &ledger.accounts {
        let changes: i64 =
            ledger.changes.iter().filter(|change| change.account == *id).map(|change| change.amount).sum();
        let debits = ledger.debits.values().filter(|debit| debit.account == *id && !debit.is_refunded);
        let debits: i64 = debits.map(|debit| debit.units).sum();
        let holds: i64 =
            ledger.sessions.values().filter(|session| session.account == *id).map(|session| session.held).sum();
        let is_right = account.balance + account.held + account.debited == changes
            && account.debited == debits
            && account.held == holds
            && holds == 0
            && account.balance >= -account.limit;
        if !is_right {
            return Err(format!("{id}: {account:?}, but changes are {changes}, debits {debits}, holds {holds}"));
        }
    }
    Ok(())
}

/// Chooses what all nodes have in common.
fn plan(random: &mut fastrand::Rng) -> Plan {
    let (settings, lease) = setup::settings_of_nodes(random, PORTS);
    let mut config = Config::default();
    for (name, value) in settings.iter().filter(|(name, _)| ["tariff", "unit"].contains(name)) {
        config.set(name, value).unwrap_or_else(|error| panic!("{error}"));
    }
    let is_short = random.bool();
    let balances = setup::shared_balances(random, &config, is_short);
    Plan { settings, balances, is_short, lease }
}
