//! A model of the shared ledger: what the functions of the schema `imcharge` do. Deterministic: a standby that executes the
//! same statements has the same ledger.

use super::StoreBug;
use super::statement::{Key, Request, State, Statement, Tick};
use super::value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Time after the end of a lease before another node may take over, in microseconds.
pub const TAKEOVER_MARGIN: u64 = 5_000_000;

/// By how much a join raises the number of the last tick.
const JOIN_GAP: i64 = 1000;

/// Result codes of items and ticks.
mod code {
    pub const DONE: i64 = 0;
    pub const NO_CREDIT: i64 = 1;
    pub const UNKNOWN_ACCOUNT: i64 = 2;
    pub const IMPOSSIBLE: i64 = 3;
    pub const OLD: i64 = 4;
    pub const FENCED: i64 = 5;
    pub const STALE: i64 = 6;
    pub const BELOW_LIMIT: i64 = 11;
    pub const NOT_EMPTY: i64 = 12;
    pub const REFERENCE_USED: i64 = 13;
    pub const DUPLICATE: i64 = 14;
}

/// Kinds of requests.
mod kind {
    pub const RESERVE: i64 = 1;
    pub const DEBIT: i64 = 2;
    pub const LAST_DEBIT: i64 = 3;
    pub const RELEASE: i64 = 4;
    pub const REFUND: i64 = 5;
    pub const SET: i64 = 7;
    pub const ADD: i64 = 8;
    pub const LIMIT: i64 = 9;
    pub const REMOVE: i64 = 10;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub balance: i64,
    pub held: i64,
    pub debited: i64,
    pub limit: i64,
    full: i64,
    is_low: bool,
}

/// A change of an account by an operator, or its initial balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub account: String,
    pub kind: i64,
    pub amount: i64,
    pub reference: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    identity: String,
    pub epoch: i64,
    pub is_fenced: bool,
    taken_over_by: Option<String>,
    ticked_epoch: i64,
    last_tick: i64,
    pub lease_until: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub account: String,
    opened: i64,
    pub node: String,
    pub epoch: i64,
    adopted_from: Option<String>,
    number: i64,
    kind: i64,
    granted: i64,
    balance: i64,
    pub held: i64,
    state: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debit {
    pub account: String,
    pub units: i64,
    from_hold: i64,
    pub octets: i64,
    pub trigger: String,
    pub code: i64,
    pub call: String,
    /// Nodes that have reported it.
    pub nodes: BTreeSet<String>,
    became_low: bool,
    pub is_refunded: bool,
}

/// Key of a debit: session, Message-ID and part.
pub type DebitKey = (Key, String, i64);

/// The ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub accounts: BTreeMap<String, Account>,
    pub changes: Vec<Change>,
    pub nodes: BTreeMap<String, Node>,
    pub sessions: BTreeMap<Key, Session>,
    parts: BTreeMap<(Key, i64), Vec<u8>>,
    pub debits: BTreeMap<DebitKey, Debit>,
    /// Answers to commands, by node, epoch and number.
    commands: BTreeMap<(String, i64, i64), Item>,
}

/// The result of one item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Item {
    result: i64,
    granted: i64,
    account: Option<(i64, i64, i64)>,
    became_low: bool,
}

impl Item {
    fn of(result: i64, account: Option<&Account>) -> Item {
        let account = account.map(|account| (account.balance, account.held, account.limit));
        Item { result, account, ..Item::default() }
    }

    fn row(self, item: usize) -> Vec<Value> {
        let account = self.account.map(|(balance, held, limit)| [balance, held, limit].map(Value::Int));
        let [balance, held, limit] = account.unwrap_or([const { Value::Null }; 3]);
        let low = Value::Bool(self.became_low);
        vec![Value::Int(item as i64), Value::Int(self.result), Value::Int(self.granted), balance, held, limit, low]
    }
}

/// The result of a statement.
pub struct Executed {
    pub rows: Vec<Vec<Value>>,
    /// Whether it has written anything, so that its commit waits for the standby.
    pub writes: bool,
}

fn one(result: i64) -> Executed {
    Executed { rows: vec![vec![Value::Int(result)]], writes: true }
}

impl Ledger {
    /// Creates an account, as an operator does.
    pub fn create_account(&mut self, id: &str, balance: i64, limit: i64) {
        self.accounts.insert(id.into(), Account { balance, limit, full: balance + limit, ..Account::default() });
        self.changes.push(Change { account: id.into(), kind: kind::SET, amount: balance, reference: String::new() });
    }

    /// Executes a statement. `now`: microseconds on the clock of the server.
    pub fn execute(&mut self, statement: &Statement, now: u64, bug: Option<StoreBug>) -> Executed {
        match statement {
            Statement::Check => {
                let texts = ["*", "on"].map(|text| Value::Text(text.into()));
                let [names, commit] = texts;
                let numbers = [Value::Int(150_018), Value::Int(1), Value::Text("2s".into())];
                let row = [Value::Bool(false), Value::Bool(false), names, commit].into_iter().chain(numbers).collect();
                Executed { rows: vec![row], writes: false }
            }
            Statement::Join { node, identity, lease } => self.join(node, identity, now, *lease),
            Statement::Tick(tick) => self.tick(tick, now, bug),
            Statement::DeadNodes { node, all } => {
                let names = Value::Array(self.dead_nodes(node, *all, now));
                Executed { rows: vec![vec![names, Value::Int(1)]], writes: false }
            }
            Statement::TakeOver { node, epoch, dead } => one(self.take_over(node, *epoch, dead, now)),
            Statement::Adopt { node, epoch, dead, limit } => {
                Executed { rows: self.adopt(node, *epoch, dead, *limit), writes: true }
            }
            Statement::Adopted { node, epoch, sessions } => {
                if !self.is_member(node, *epoch) {
                    return one(code::FENCED);
                }
                for session in sessions {
                    let own = self.sessions.get_mut(session).filter(|row| row.node == *node && row.epoch == *epoch);
                    own.into_iter().for_each(|row| row.adopted_from = None);
                }
                one(code::DONE)
            }
        }
    }

    fn is_member(&self, node: &str, epoch: i64) -> bool {
        self.nodes.get(node).is_some_and(|row| row.epoch == epoch && !row.is_fenced)
    }

    fn join(&mut self, name: &str, identity: &str, now: u64, lease: u64) -> Executed {
        let joined = |epoch: i64, last_tick: i64, result: i64| Executed {
            rows: vec![[epoch, last_tick, result].map(Value::Int).to_vec()],
            writes: true,
        };
        let Some(node) = self.nodes.get_mut(name) else {
            let node = Node {
                identity: identity.into(),
                epoch: 1,
                is_fenced: false,
                taken_over_by: None,
                ticked_epoch: 0,
                last_tick: 0,
                lease_until: now + lease,
            };
            self.nodes.insert(name.into(), node);
            return joined(1, 0, 1);
        };
        let result = if node.identity == identity {
            node.last_tick += JOIN_GAP;
            let is_new = node.is_fenced || node.ticked_epoch != node.epoch;
            if !is_new {
                // What the node does not name from now on is a session that it has settled and forgotten.
                let epoch = node.epoch;
                let own = self.sessions.values_mut().filter(|row| row.node == name && row.epoch == epoch);
                own.filter(|row| row.adopted_from.is_none()).for_each(|row| row.adopted_from = Some(name.into()));
            }
            i64::from(is_new)
        } else if node.is_fenced || node.lease_until < now {
            (node.epoch, node.last_tick) = (node.epoch + 1, 0);
            1
        } else {
            return joined(node.epoch, node.last_tick, 2);
        };
        (node.identity, node.is_fenced, node.lease_until) = (identity.into(), false, now + lease);
        let (epoch, last_tick) = (node.epoch, node.last_tick);
        self.commands.retain(|(node, of, _), _| node != name || *of >= epoch);
        joined(epoch, last_tick, result)
    }

    /// Whether a node is unknown, is fenced, or its lease has ended.
    fn is_gone(&self, node: &str, now: u64) -> bool {
        self.nodes.get(node).is_none_or(|row| row.is_fenced || row.lease_until + TAKEOVER_MARGIN < now)
    }

    /// Whether earlier epochs of a node have sessions.
    fn has_sessions(&self, name: &str, node: &Node) -> bool {
        self.sessions.values().any(|session| session.node == name && session.epoch < node.epoch)
    }

    fn dead_nodes(&self, asking: &str, all: bool, now: u64) -> Vec<Value> {
        let own_epoch = self.nodes.get(asking).map(|node| node.epoch);
        let is_dead = |(name, node): &(&String, &Node)| {
            let is_over = *name != asking && !node.is_fenced && node.lease_until + TAKEOVER_MARGIN < now;
            let taker = node.taken_over_by.as_deref();
            let is_left = taker.is_none_or(|taker| taker == asking || self.is_gone(taker, now));
            let is_unconfirmed = |session: &Session| {
                session.node == asking
                    && session.adopted_from.as_ref() == Some(*name)
                    && Some(session.epoch) == own_epoch
            };
            is_over || self.has_sessions(name, node) && is_left || self.sessions.values().any(is_unconfirmed)
        };
        // Without `all`, those that the node has taken over before, and itself.
        let is_own =
            |(name, node): &(&String, &Node)| all || *name == asking || node.taken_over_by.as_deref() == Some(asking);
        let dead = self.nodes.iter().filter(is_dead).filter(is_own);
        dead.map(|(name, _)| Value::Text(name.clone())).collect()
    }

    fn take_over(&mut self, node: &str, epoch: i64, dead: &str, now: u64) -> i64 {
        if !self.is_member(node, epoch) {
            return 5;
        }
        let Some(row) = self.nodes.get(dead) else { return 3 };
        let unconfirmed =
            |row: &Session| row.node == node && row.epoch == epoch && row.adopted_from.as_deref() == Some(dead);
        let has_sessions = self.has_sessions(dead, row) || self.sessions.values().any(unconfirmed);
        let taker = row.taken_over_by.as_deref().filter(|taker| *taker != node);
        let is_taken = taker.is_some_and(|taker| !self.is_gone(taker, now));
        let may_fence = dead != node && !row.is_fenced && row.lease_until + TAKEOVER_MARGIN < now;
        let may_adopt = row.is_fenced || has_sessions;
        let Some(row) = self.nodes.get_mut(dead) else { return 3 };
        if may_fence {
            (row.epoch, row.is_fenced, row.taken_over_by) = (row.epoch + 1, true, Some(node.into()));
            return 0;
        }
        match (may_adopt, is_taken) {
            (true, true) => 2,
            (true, false) => {
                row.taken_over_by = Some(node.into());
                0
            }
            (false, _) => 1,
        }
    }

    fn adopt(&mut self, node: &str, epoch: i64, dead: &str, limit: usize) -> Vec<Vec<Value>> {
        if !self.is_member(node, epoch) {
            return Vec::new();
        }
        let is_again =
            |row: &Session| row.node == node && row.epoch == epoch && row.adopted_from.as_deref() == Some(dead);
        let again = self.sessions.iter().filter(|(_, row)| is_again(row)).map(|(key, _)| key.clone());
        let mut taken: Vec<Key> = again.take(limit).collect();
        let fenced = self.nodes.get(dead).filter(|row| dead == node || row.taken_over_by.as_deref() == Some(node));
        if let Some(fenced) = fenced.map(|row| row.epoch) {
            let is_left = |row: &Session| row.node == dead && row.epoch < fenced;
            let new: Vec<Key> =
                self.sessions.iter().filter(|(_, row)| is_left(row)).map(|(key, _)| key.clone()).collect();
            for key in new.into_iter().take(limit - taken.len()) {
                if let Some(row) = self.sessions.get_mut(&key) {
                    (row.node, row.epoch, row.adopted_from) = (node.into(), epoch, Some(dead.into()));
                }
                taken.push(key);
            }
        }
        taken.sort();
        taken.iter().filter_map(|key| Some(self.adopted_row(key, self.sessions.get(key)?))).collect()
    }

    fn adopted_row(&self, key: &Key, row: &Session) -> Vec<Value> {
        let parts = self.parts.range((key.clone(), i64::MIN)..=(key.clone(), i64::MAX));
        let (numbers, states) =
            parts.map(|((_, part), state)| (Value::Int(*part), Value::Bytea(state.clone()))).unzip();
        let (number, opened) = (Value::Int(row.number), Value::Int(row.opened));
        let state = row.state.clone().map_or(Value::Null, Value::Bytea);
        let (session, account) = (Value::Bytea(key.clone()), Value::Text(row.account.clone()));
        vec![session, account, number, opened, state, Value::Array(numbers), Value::Array(states)]
    }

    fn tick(&mut self, tick: &Tick, now: u64, bug: Option<StoreBug>) -> Executed {
        let answer = |result: i64| Executed { rows: vec![Item::of(result, None).row(0)], writes: true };
        if !self.is_member(&tick.node, tick.epoch) {
            return answer(code::FENCED);
        }
        let Some(node) = self.nodes.get_mut(&tick.node) else { return answer(code::FENCED) };
        node.ticked_epoch = tick.epoch;
        let is_repeated = node.last_tick == tick.tick;
        if node.last_tick > tick.tick && bug != Some(StoreBug::LateTicksAccepted) {
            return answer(code::STALE);
        }
        node.last_tick = node.last_tick.max(tick.tick);
        node.lease_until = now + tick.lease;
        let mut rows = vec![Item::of(code::DONE, None).row(0)];
        let mut items: Vec<(usize, &Request)> = tick.requests.iter().enumerate().collect();
        // Commands first, then by account and session.
        items.sort_by_key(|(at, item)| (item.kind < kind::SET, item.account.clone(), item.session.clone(), *at));
        let mut updated = BTreeSet::new();
        for (at, item) in items {
            let before = self.accounts.get(&item.account).copied();
            let result = if item.kind >= kind::SET { self.command(tick, item) } else { self.request(tick, item) };
            if bug == Some(StoreBug::OneUpdatePerAccount) && before != self.accounts.get(&item.account).copied() {
                // Of several results for one account, one is kept.
                match before.filter(|_| !updated.insert(item.account.clone())) {
                    Some(kept) => drop(self.accounts.insert(item.account.clone(), kept)),
                    None => drop(updated.insert(item.account.clone())),
                }
            }
            rows.push(result.row(at + 1));
        }
        tick.states.iter().for_each(|state| self.store_state(tick, state));
        self.store_parts(tick);
        let is_unconfirmed = bug == Some(StoreBug::RepeatedTickUnreplicated) && is_repeated;
        Executed { rows, writes: !is_unconfirmed }
    }

    fn is_low(&self, tick: &Tick, account: &Account) -> bool {
        let left = account.balance + account.held + account.limit;
        tick.low_units.is_some_and(|units| left <= units)
            || tick.low_percent.is_some_and(|percent| left * 100 <= account.full * percent)
    }

    fn command(&mut self, tick: &Tick, item: &Request) -> Item {
        let key = (tick.node.clone(), tick.epoch, item.number);
        if let Some(known) = self.commands.get(&key) {
            return *known;
        }
        let answer = self.change_account(tick, item);
        self.commands.insert(key, answer);
        answer
    }

    fn change_account(&mut self, tick: &Tick, item: &Request) -> Item {
        let Request { kind, account: id, units, message: reference, .. } = item;
        let found = self.accounts.get(id).copied();
        let same =
            |change: &&Change| change.account == *id && change.kind == kind::ADD && change.reference == *reference;
        if *kind == kind::ADD
            && let Some(known) = self.changes.iter().find(same)
        {
            let result = if known.amount == *units { code::DUPLICATE } else { code::REFERENCE_USED };
            return Item::of(result, found.as_ref());
        }
        let before = found.unwrap_or_default();
        let mut account = before;
        match *kind {
            kind::SET => account.balance = *units,
            kind::ADD => account.balance += *units,
            kind::LIMIT => account.limit = *units,
            _ => {}
        }
        let refused = match () {
            () if found.is_none() && *kind != kind::SET => Some(code::UNKNOWN_ACCOUNT),
            () if *kind == kind::REMOVE && (before.balance, before.held) != (0, 0) => Some(code::NOT_EMPTY),
            () if account.balance < -account.limit => Some(code::BELOW_LIMIT),
            () => None,
        };
        if let Some(result) = refused {
            return Item::of(result, found.as_ref());
        }
        if *kind != kind::ADD || *units > 0 {
            account.full = account.balance + account.held + account.limit;
        }
        account.is_low = self.is_low(tick, &account);
        let amount = account.balance - before.balance;
        self.changes.push(Change { account: id.clone(), kind: *kind, amount, reference: reference.clone() });
        match *kind {
            kind::REMOVE => drop(self.accounts.remove(id)),
            _ => drop(self.accounts.insert(id.clone(), account)),
        }
        let became_low = found.is_some() && account.is_low && !before.is_low;
        Item { became_low, ..Item::of(code::DONE, Some(&account)) }
    }

    /// The rules of money, of repetition and of ownership.
    fn request(&mut self, tick: &Tick, item: &Request) -> Item {
        let row = self.sessions.get(&item.session).cloned();
        let is_owned = row.as_ref().is_some_and(|row| row.node == tick.node && row.epoch == tick.epoch);
        let is_later = row.as_ref().is_none_or(|row| item.number > row.number);
        let account = self.accounts.get(&item.account).copied();
        let key = (item.session.clone(), item.message.clone(), item.part);
        let is_debit = [kind::DEBIT, kind::LAST_DEBIT].contains(&item.kind);
        let known = if is_debit || item.kind == kind::REFUND { self.debits.get(&key).cloned() } else { None };
        let say = |result: i64| Item::of(result, account.as_ref());
        let is_of_another = |of: &str| of != item.account;
        if row.as_ref().is_some_and(|row| is_of_another(&row.account))
            || known.as_ref().is_some_and(|known| is_of_another(&known.account))
        {
            return say(code::IMPOSSIBLE);
        }
        match (item.kind, &row) {
            (kind::RESERVE, Some(row)) if !is_owned || !is_later => {
                return match is_owned && item.number == row.number && row.kind == kind::RESERVE {
                    true => {
                        let account = say(code::DONE).account.map(|(_, held, limit)| (row.balance, held, limit));
                        Item { granted: row.granted, account, ..say(code::DONE) }
                    }
                    false => say(code::OLD),
                };
            }
            (kind::RELEASE, _) if !is_owned => return say(code::DONE),
            (kind::RELEASE, Some(row)) if !is_later => {
                let is_same = item.number == row.number && row.kind == kind::RELEASE;
                return say(if is_same { code::DONE } else { code::OLD });
            }
            (kind::REFUND, _) if account.is_none() => return say(code::UNKNOWN_ACCOUNT),
            (kind::REFUND, _) if known.as_ref().is_none_or(|known| known.is_refunded) => return say(code::DONE),
            _ if is_debit && account.is_none() && known.as_ref().is_some_and(|known| known.units >= item.units) => {
                return say(code::DONE);
            }
            (kind::RELEASE, _) if account.is_none() => return say(code::DONE),
            _ => {}
        }
        let (Some(before), is_new) = (account.or(tick.default_balance.map(new_account)), account.is_none()) else {
            return say(code::UNKNOWN_ACCOUNT);
        };
        let session_held = row.as_ref().map_or(0, |row| row.held);
        let Ok(moved) = moved(item, known.as_ref(), before, session_held, is_owned && is_later) else {
            return Item { account: account.and(say(0).account), ..say(code::NO_CREDIT) };
        };
        let mut after = before;
        after.balance += moved.rest - moved.from_balance;
        after.held -= moved.from_hold + moved.rest;
        after.debited += moved.from_hold + moved.from_balance;
        let takes = moved.from_hold + moved.from_balance != 0;
        if takes {
            after.is_low = self.is_low(tick, &after);
        }
        let became_low = match takes {
            true => after.is_low && !before.is_low,
            false => {
                is_debit && known.as_ref().is_some_and(|known| known.became_low && known.nodes.contains(&tick.node))
            }
        };
        if is_new {
            let (account, amount) = (item.account.clone(), before.balance);
            self.changes.push(Change { account, kind: 0, amount, reference: String::new() });
        }
        self.accounts.insert(item.account.clone(), after);
        if is_debit || item.kind == kind::REFUND {
            self.record(tick, item, key, &moved, became_low);
        }
        self.update_session(tick, item, &moved, after, is_owned && is_later);
        Item { granted: moved.granted, became_low, ..Item::of(code::DONE, Some(&after)) }
    }

    /// Records a debit or a refund.
    fn record(&mut self, tick: &Tick, item: &Request, key: DebitKey, moved: &Moved, became_low: bool) {
        if item.kind == kind::REFUND {
            self.debits.entry(key).and_modify(|debit| debit.is_refunded = true);
            return;
        }
        let debit = self.debits.entry(key).or_insert_with(|| Debit {
            account: item.account.clone(),
            units: 0,
            from_hold: 0,
            octets: 0,
            trigger: item.trigger.clone(),
            code: item.code,
            call: item.call.clone(),
            nodes: BTreeSet::new(),
            became_low,
            is_refunded: false,
        });
        debit.units += moved.from_hold + moved.from_balance;
        debit.from_hold += moved.from_hold;
        if moved.from_hold + moved.from_balance > 0 || debit.nodes.is_empty() {
            debit.octets = debit.octets.max(item.octets);
        }
        debit.nodes.insert(tick.node.clone());
    }

    /// Stores the hold of a session and the answer to its latest request.
    fn update_session(&mut self, tick: &Tick, item: &Request, moved: &Moved, account: Account, is_latest: bool) {
        let taken = moved.from_hold + moved.rest;
        match self.sessions.get_mut(&item.session) {
            Some(row) => {
                row.held -= taken;
                if is_latest {
                    (row.number, row.kind, row.granted) = (item.number, item.kind, moved.granted);
                    (row.balance, row.adopted_from) = (account.balance, None);
                }
            }
            None if item.kind == kind::RESERVE => {
                let row = Session {
                    account: item.account.clone(),
                    opened: item.opened,
                    node: tick.node.clone(),
                    epoch: tick.epoch,
                    adopted_from: None,
                    number: item.number,
                    kind: item.kind,
                    granted: moved.granted,
                    balance: account.balance,
                    held: -taken,
                    state: None,
                };
                self.sessions.insert(item.session.clone(), row);
            }
            None => {}
        }
    }

    fn store_state(&mut self, tick: &Tick, state: &State) {
        let row = self.sessions.get(&state.session);
        let is_owned = row.is_none_or(|row| row.node == tick.node && row.epoch == tick.epoch);
        match (&state.state, row.is_some()) {
            _ if !is_owned => {}
            (Some(head), true) => {
                if let Some(row) = self.sessions.get_mut(&state.session) {
                    (row.state, row.adopted_from) = (Some(head.clone()), None);
                }
            }
            (Some(head), false) => {
                let row = Session {
                    account: state.account.clone(),
                    opened: state.opened,
                    node: tick.node.clone(),
                    epoch: tick.epoch,
                    adopted_from: None,
                    number: -1,
                    kind: 0,
                    granted: 0,
                    balance: 0,
                    held: 0,
                    state: Some(head.clone()),
                };
                self.sessions.insert(state.session.clone(), row);
            }
            (None, true) => self.settle(&state.session),
            (None, false) => {}
        }
    }

    /// Removes a session. What it still holds returns to the balance.
    fn settle(&mut self, session: &Key) {
        let Some(row) = self.sessions.remove(session) else { return };
        self.parts.retain(|(of, _), _| of != session);
        if let Some(account) = self.accounts.get_mut(&row.account) {
            account.balance += row.held;
            account.held -= row.held;
        }
    }

    fn store_parts(&mut self, tick: &Tick) {
        let owned: Vec<&(Key, i64, Vec<u8>)> = tick
            .parts
            .iter()
            .filter(|(session, ..)| {
                self.sessions.get(session).is_some_and(|row| row.node == tick.node && row.epoch == tick.epoch)
            })
            .collect();
        for (session, number, _) in &owned {
            if *number == -1 {
                self.parts.retain(|(of, _), _| of != session);
            }
        }
        for (session, number, state) in owned.into_iter().filter(|(_, number, _)| *number >= 0) {
            match state.is_empty() {
                true => drop(self.parts.remove(&(session.clone(), *number))),
                false => drop(self.parts.insert((session.clone(), *number), state.clone())),
            }
        }
    }
}

fn new_account(balance: i64) -> Account {
    Account { balance, full: balance, ..Account::default() }
}

/// Units that a request moves.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    granted: i64,
    /// Debited out of the hold of the session, and out of the balance.
    from_hold: i64,
    from_balance: i64,
    /// Returned from the hold to the balance; negative: held.
    rest: i64,
}

/// Returns what a request moves; the error: the account cannot pay. `is_latest`: it is of the owner, and later than all
/// earlier requests.
fn moved(item: &Request, known: Option<&Debit>, of: Account, held: i64, is_latest: bool) -> Result<Moved, ()> {
    let available = (of.balance + of.limit).max(0);
    match item.kind {
        kind::RESERVE => {
            let granted = item.quota.min(available / item.units.max(1));
            match granted == 0 && item.quota > 0 {
                true => Err(()),
                false => Ok(Moved { granted, rest: -granted * item.units, ..Moved::default() }),
            }
        }
        kind::RELEASE => Ok(Moved { rest: item.holds.min(held), ..Moved::default() }),
        kind::REFUND => Ok(Moved { from_balance: -known.map_or(0, |known| known.units), ..Moved::default() }),
        _ => {
            // A known debit takes what it did not take before.
            let wanted = match known {
                None => item.units,
                Some(known) if known.is_refunded => 0,
                Some(known) => (item.units - known.units).max(0),
            };
            let from_hold = wanted.min(held);
            let from_balance = wanted - from_hold;
            if from_balance > available {
                return Err(());
            }
            let rest = match item.kind {
                kind::LAST_DEBIT if is_latest => {
                    let before = known.map_or(0, |known| known.from_hold);
                    (item.holds - from_hold - before).max(0).min(held - from_hold)
                }
                _ => 0,
            };
            Ok(Moved { granted: 0, from_hold, from_balance, rest })
        }
    }
}
