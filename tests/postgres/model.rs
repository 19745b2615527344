//! Random requests of three nodes, with repeated and late ticks and takeovers, against a model of the shared ledger. The
//! money rules of the model are those of the embedded ledger itself.

use crate::node::{Answer, DONE, Database, IMPOSSIBLE, Item, NO_CREDIT, Node, OLD, State, Tick, UNKNOWN};
use crate::ownership::take_over;
use imcharge::charge::account::AccountId;
use imcharge::charge::ch2::{Denial, Operation, Request, Reservation, Response, SessionKey, Trigger};
use imcharge::charge::content::ContentClass;
use imcharge::charge::service::Service;
use imcharge::charge::tariff::{Measure, Quota, QuotaUnit, Unit, Units};
use imcharge::charge::time::Time;
use imcharge::enabler::{
    self, Account, BINDINGS, Enabler, Funds, InTick, LowBalance, Settings, StateDirectory, diameter, postgres,
};
use std::collections::{BTreeMap, HashMap};

/// The price of a message in all sessions.
const PRICE: u32 = 7;

/// A session of the model.
#[derive(Clone, Debug)]
struct Session {
    account: String,
    owner: usize,
    number: i64,
    kind: i16,
    granted: i64,
    balance: i64,
    held: i64,
}

/// A debit of the model.
#[derive(Clone, Debug)]
struct Debit {
    account: String,
    units: i64,
    from_hold: i64,
    is_refunded: bool,
}

/// The shared ledger as it should be.
struct Model {
    rules: Box<dyn Enabler>,
    low_balance: LowBalance,
    accounts: BTreeMap<String, Account>,
    sessions: HashMap<u64, Session>,
    debits: HashMap<(u64, String), Debit>,
}

impl Model {
    fn new(default_balance: Option<i64>) -> Model {
        let (diameter, postgres) = (&diameter::Settings::default(), &postgres::Settings::default());
        let settings = Settings { default_balance, unit: Unit::Message, low_balance: None, diameter, postgres };
        let directory = StateDirectory { state_id: 1, ledger: 1 };
        let rules = enabler::new(&BINDINGS[0], &settings, directory, Time(0)).expect("the ledger");
        let (accounts, sessions, debits) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        Model { rules, low_balance: LowBalance::Units(40), accounts, sessions, debits }
    }

    fn rules(&self) -> &dyn InTick {
        self.rules.in_tick().expect("the ledger answers within the tick")
    }

    /// Executes a request of a node as the embedded ledger does, and returns result, granted quota, and whether the account
    /// became low.
    fn execute(&mut self, node: usize, item: &Item) -> (i16, i64, bool) {
        let session = session_of(item);
        let account = item.account.clone().expect("an account");
        let row = self.sessions.get(&session).cloned();
        let is_owner = row.as_ref().is_some_and(|row| row.owner == node);
        let key = (session, item.message.clone().unwrap_or_default());
        let known = self.debits.get(&key).cloned();
        if row.as_ref().is_some_and(|row| row.account != account) {
            return (IMPOSSIBLE, 0, false);
        }
        let row_number = row.as_ref().map_or(-1, |row| row.number);
        let row_kind = row.as_ref().map_or(0, |row| row.kind);
        match item.kind {
            1 if row.is_some() && !is_owner => return (OLD, 0, false),
            1 | 4 if is_owner && item.number <= row_number => {
                let is_latest = item.number == row_number && item.kind == row_kind;
                let granted = row.as_ref().map_or(0, |row| row.granted);
                return if is_latest { (DONE, granted, false) } else { (OLD, 0, false) };
            }
            4 if !is_owner => return (DONE, 0, false),
            2 | 3 | 5 if known.as_ref().is_some_and(|known| known.account != account) => {
                let is_unknown = item.kind == 5 && !self.accounts.contains_key(&account);
                return (if is_unknown { UNKNOWN } else { IMPOSSIBLE }, 0, false);
            }
            _ => {}
        }
        let is_later = item.number > row_number;
        let mut request = request(item);
        let held = row.as_ref().map_or(0, |row| row.held);
        let mut funds = Funds { account: self.accounts.get(&account).copied(), held, charged: 0 };
        if let Operation::Refund { .. } = request.operation {
            funds.charged = known.as_ref().filter(|known| !known.is_refunded).map_or(0, |known| known.units);
        }
        if let Operation::Debit { units, .. } = &mut request.operation {
            let taken = known.as_ref().map_or(0, |known| if known.is_refunded { i64::MAX } else { known.units });
            *units = Units((units.0 as i64).saturating_sub(taken).max(0) as u64);
            let before = known.as_ref().map_or(0, |known| known.from_hold);
            // The reservation held the units of the known debit before it.
            let rest = u32::try_from((item.holds - before).max(0)).expect("a small number");
            request.measure.price = 1;
            request.reservation = match item.kind {
                3 if is_owner && is_later => Reservation::Last { opened_by: 0, outstanding: Quota(rest) },
                _ => Reservation::Open { opened_by: 0, outstanding: Quota(rest) },
            };
        }
        let update = self.rules().execute(&request, &funds);
        let granted = match &update.response {
            Response::Granted(grant) => i64::from(grant.quota.0),
            Response::Denied(Denial::NoCredit) => return (NO_CREDIT, 0, false),
            Response::Denied(_) => return (UNKNOWN, 0, false),
            Response::Failed(_) => return (IMPOSSIBLE, 0, false),
            _ => 0,
        };
        let mut became_low = false;
        if let Some(mut after) = update.account {
            let is_low = |account: &Account| self.low_balance.is_reached(account);
            let was_low =
                update.created.map_or(funds.account.is_some_and(|account| account.is_low), |new| is_low(&new));
            after.is_low = was_low;
            if update.amount != 0 {
                after.is_low = is_low(&after);
                became_low = after.is_low && !was_low;
            }
            self.accounts.insert(account.clone(), after);
        }
        let held_after = update.held.unwrap_or(held);
        match item.kind {
            2 | 3 => {
                let debit = Debit { account: account.clone(), units: 0, from_hold: 0, is_refunded: false };
                let debit = self.debits.entry(key).or_insert(debit);
                debit.units += update.charged.0 as i64;
                debit.from_hold += (update.charged.0 as i64).min(held);
            }
            5 => drop(self.debits.get_mut(&key).map(|debit| debit.is_refunded = true)),
            _ => {}
        }
        if item.kind == 1 || row.is_some() {
            let balance = self.accounts.get(&account).map_or(0, |account| account.balance);
            let new = Session { account, owner: node, number: -1, kind: 0, granted: 0, balance: 0, held: 0 };
            let row = self.sessions.entry(session).or_insert(new);
            row.held = held_after;
            if row.owner == node && is_later {
                (row.number, row.kind, row.granted, row.balance) = (item.number, item.kind, granted, balance);
            }
        }
        (DONE, granted, became_low)
    }

    fn is_known(&self, item: &Item) -> bool {
        let key = (session_of(item), item.message.clone().unwrap_or_default());
        matches!(item.kind, 2 | 3) && self.debits.contains_key(&key)
    }

    fn settle(&mut self, node: usize, session: u64) {
        if self.sessions.get(&session).is_some_and(|row| row.owner == node) {
            let row = self.sessions.remove(&session).expect("it is there");
            if let Some(account) = self.accounts.get_mut(&row.account) {
                account.balance += row.held;
                account.held -= row.held;
            }
        }
    }
}

fn session_of(item: &Item) -> u64 {
    u64::from_be_bytes(item.session[..8].try_into().expect("eight octets"))
}

/// The request of CH-2 that an item stands for.
fn request(item: &Item) -> Request {
    let message_id: Box<str> = item.message.clone().unwrap_or_default().into();
    let (class, octets, quota) = (ContentClass::Text, 10, Quota(1));
    let outstanding = Quota(u32::try_from(item.holds).expect("a small number"));
    let price = if item.kind == 1 { u32::try_from(item.units).expect("a small number") } else { 1 };
    Request {
        session: SessionKey(session_of(item), 1),
        number: 1,
        sequence: 1,
        account: AccountId(item.account.clone().expect("an account").into()),
        service: Service::Retrieval,
        recipients: 0,
        measure: Measure { unit: QuotaUnit::Message, price },
        reservation: Reservation::Open { opened_by: 0, outstanding },
        possible_duplicate: false,
        rate_limited: false,
        at_most_once: false,
        server_binding: None,
        end_to_end_id: 0,
        operation: match item.kind {
            1 => Operation::Reserve { quota: Quota(u32::try_from(item.quota).expect("a small number")) },
            2 | 3 => {
                let (units, trigger) = (Units(item.units as u64), Trigger::Response);
                Operation::Debit { message_id, part: 0, octets, class, units, quota, trigger }
            }
            4 => Operation::Release,
            _ => Operation::Refund { message_id, part: 0, octets, class, units: Units(0), quota },
        },
    }
}

/// A random request of a session.
fn random_item(random: &mut fastrand::Rng, session: u64, number: i64) -> Item {
    let account = format!("user{}", if random.u8(..20) == 0 { random.u64(..8) } else { session % 8 });
    let message = format!("m{}", random.u8(..6));
    let price = i64::from(PRICE);
    let units = if random.u8(..4) == 0 { random.i64(0..40) } else { price };
    match random.u8(..10) {
        0..4 => Item::reserve(session, number, &account, random.i64(0..8), price),
        4..6 => Item::debit(session, number, &account, &message, units),
        6 => Item::last_debit(session, number, &account, &message, units, random.i64(0..40)),
        7 => Item::refund(session, number, &account, &message),
        _ => Item::release(session, number, &account, random.i64(0..60)),
    }
}

/// Compares all rows with the model.
fn compare_tables(database: &Database, model: &Model, seed: u64) {
    let mut client = database.client();
    let sql = "SELECT id, balance, held, debited, credit_limit, full_left, is_low FROM imcharge.accounts ORDER BY id";
    let accounts: Vec<(String, Account)> = client
        .query(sql, &[])
        .expect("rows")
        .iter()
        .map(|row| {
            let [balance, held, debited, limit, full] = [1, 2, 3, 4, 5].map(|at| row.get(at));
            (row.get(0), Account { balance, held, debited, limit, full, is_low: row.get(6) })
        })
        .collect();
    assert_eq!(accounts, model.accounts.clone().into_iter().collect::<Vec<_>>(), "seed {seed}");
    let rows =
        client.query("SELECT session, number, kind, granted, balance, held FROM imcharge.sessions", &[]).expect("rows");
    assert_eq!(rows.len(), model.sessions.len(), "seed {seed}");
    for row in rows {
        let key = u64::from_be_bytes(row.get::<_, Vec<u8>>(0)[..8].try_into().expect("eight octets"));
        let of = &model.sessions[&key];
        let numbers: (i64, i16, i64, i64, i64) = (row.get(1), row.get(2), row.get(3), row.get(4), row.get(5));
        assert_eq!(numbers, (of.number, of.kind, of.granted, of.balance, of.held), "seed {seed}: session {key}");
    }
    let rows =
        client.query("SELECT session, message_id, units, from_hold, refunded_at IS NOT NULL FROM imcharge.debits", &[]);
    let rows = rows.expect("rows");
    assert_eq!(rows.len(), model.debits.len(), "seed {seed}");
    for row in rows {
        let key = u64::from_be_bytes(row.get::<_, Vec<u8>>(0)[..8].try_into().expect("eight octets"));
        let debit = &model.debits[&(key, row.get(1))];
        let numbers: (i64, i64, bool) = (row.get(2), row.get(3), row.get(4));
        assert_eq!(numbers, (debit.units, debit.from_hold, debit.is_refunded), "seed {seed}: session {key}");
    }
    assert_eq!(database.audit(), [""; 0], "seed {seed}");
}

/// Plays random ticks of three nodes.
fn play(seed: u64, ticks: u32) {
    let mut random = fastrand::Rng::with_seed(seed);
    let database = Database::new();
    let default_balance = random.bool().then_some(50);
    let mut model = Model::new(default_balance);
    let mut nodes: Vec<Node> = ["a", "b", "c"].iter().map(|name| database.node(name)).collect();
    for node in &mut nodes {
        (node.default_balance, node.low_balance) = (default_balance, Some(model.low_balance));
    }
    let sets: Vec<Item> = (0..6).map(|of| Item::set(of, &format!("user{of}"), 100)).collect();
    nodes[0].tick(&sets);
    for of in 0..6 {
        model.accounts.insert(format!("user{of}"), Account::new(100));
    }
    let mut numbers: HashMap<u64, i64> = HashMap::new();
    for _ in 0..ticks {
        let at = random.usize(..nodes.len());
        let mut tick = Tick::default();
        let mut sessions: Vec<u64> = (0..30).collect();
        random.shuffle(&mut sessions);
        for session in sessions.into_iter().take(random.usize(0..6)) {
            let number = numbers.entry(session).or_default();
            // Now and then an earlier number, as of a copy that is late.
            let number = if random.u8(..8) == 0 { (*number - random.i64(0..3)).max(0) } else { *number + 1 };
            numbers.entry(session).and_modify(|latest| *latest = (*latest).max(number));
            tick.items.push(random_item(&mut random, session, number));
        }
        if random.u8(..3) == 0 {
            let session = random.u64(..30);
            tick.states.extend(model.sessions.get(&session).map(|row| State::settled(session, &row.account)));
        }
        let answers = nodes[at].run(&tick);
        // In the order of accounts, sessions and positions, as the schema promises for the requests of one account.
        let mut order: Vec<usize> = (0..tick.items.len()).collect();
        order.sort_by_key(|at| (tick.items[*at].account.clone(), tick.items[*at].session.clone()));
        for of in order {
            let (item, answer) = (&tick.items[of], &answers[of]);
            // A known debit may repeat the low-balance event.
            let is_known = model.is_known(item);
            let (result, granted, became_low) = model.execute(at, item);
            assert_eq!((answer.result, answer.granted), (result, granted), "seed {seed}: {item:?}: {answer:?}");
            assert!(answer.became_low == became_low || is_known, "seed {seed}: {item:?}: {answer:?}");
        }
        for state in &tick.states {
            model.settle(at, state.session);
        }
        match random.u8(..40) {
            // The tick is repeated. A session that it settled may have been opened by it, and is opened and settled again.
            0..8 => {
                let number = nodes[at].last_tick;
                let epoch = nodes[at].epoch;
                let (result, again) = nodes[at].run_as(epoch, number, &tick).expect("a tick");
                assert_eq!(result, DONE, "seed {seed}");
                if tick.states.is_empty() {
                    let is_kept = |answer: &&Answer| answer.result != NO_CREDIT && answer.result != OLD;
                    for (first, again) in answers.iter().zip(&again).filter(|(first, _)| is_kept(first)) {
                        assert_eq!(
                            (again.result, again.granted),
                            (first.result, first.granted),
                            "seed {seed}: {tick:?}"
                        );
                        assert!(again.became_low || !first.became_low, "seed {seed}: {tick:?}");
                    }
                }
                let mut order: Vec<usize> = (0..tick.items.len()).collect();
                order.sort_by_key(|at| (tick.items[*at].account.clone(), tick.items[*at].session.clone()));
                for of in order {
                    model.execute(at, &tick.items[of]);
                }
                for state in &tick.states {
                    model.settle(at, state.session);
                }
            }
            // The node is taken over by the next one and returns.
            8 => {
                let mut survivor = nodes.remove((at + 1) % 3);
                let dead = ["a", "b", "c"][at];
                take_over(&database, &mut survivor, dead);
                nodes.insert((at + 1) % 3, survivor);
                nodes[at].join_again().expect("join");
                nodes[at].run(&Tick::default());
                for row in model.sessions.values_mut().filter(|row| row.owner == at) {
                    row.owner = (at + 1) % 3;
                }
            }
            _ => {}
        }
    }
    compare_tables(&database, &model, seed);
}

#[test]
fn random_requests_of_three_nodes_give_what_the_embedded_ledger_gives() {
    let seeds = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    for seed in 1..=seeds {
        play(seed, 150);
    }
}
