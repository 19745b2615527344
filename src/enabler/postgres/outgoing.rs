//! The queue: requests and states that wait for a tick.
//!
//! A state and a request of one session never change places: a tick that has the request has the latest state as well, and
//! a state whose session has a request in the queue waits for that.

use super::tick::{self, Item};
use crate::charge::ch2::SessionKey;
use crate::charge::time::Time;
use crate::enabler::SessionState;
use crate::simulate;
use std::collections::{BTreeMap, HashMap};

/// Requests of a tick, at most, and states without a request.
pub const TICK_ITEMS_MAX: usize = simulate::sized(1000, 16);

/// Octets of the states of a tick, at most, if there is more than one.
const TICK_OCTETS_MAX: usize = 4 << 20;

/// Requests in the queue, at most.
const QUEUE_MAX: usize = simulate::sized(20_000, 100);

/// What the next tick takes from the queue.
pub type Taken = (Vec<Item>, Vec<SessionState>);

/// Requests and states in the order in which they were queued.
#[derive(Debug, Default)]
pub struct Outgoing {
    items: BTreeMap<i64, Item>,
    /// Place of the request of each session.
    item_of: HashMap<SessionKey, i64>,
    states: BTreeMap<i64, SessionState>,
    /// Place of the state of each session.
    state_of: HashMap<SessionKey, i64>,
    /// Place of the next entry at the end.
    next: i64,
    /// Place of the next entry that returns to the front.
    front: i64,
}

impl Outgoing {
    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.states.is_empty()
    }

    /// Whether there is no room for a further request.
    pub fn is_full(&self) -> bool {
        self.items.len() >= QUEUE_MAX
    }

    /// Place of the last entry at the end.
    pub fn last(&self) -> i64 {
        self.next
    }

    /// Whether a state waits that was queued up to this place.
    pub fn has_states_up_to(&self, place: i64) -> bool {
        self.states.keys().next().is_some_and(|first| *first <= place)
    }

    /// Adds a request. An earlier one of the session, which it does not wait for any more, is dropped.
    pub fn push(&mut self, item: Item) {
        self.next += 1;
        self.insert(self.next, item);
    }

    /// Adds a state, to the one of its session that waits if there is one.
    pub fn push_state(&mut self, state: SessionState) {
        match self.state_of.get(&state.session).and_then(|place| self.states.get_mut(place)) {
            Some(waiting) => tick::merge(waiting, state),
            None => {
                self.next += 1;
                self.insert_state(self.next, state);
            }
        }
    }

    /// Returns the requests and states of a tick that was not executed to the front, in their order.
    pub fn put_back(&mut self, (items, states): Taken) {
        for item in items.into_iter().rev() {
            self.front -= 1;
            if !self.item_of.contains_key(&item.row.session) {
                self.insert(self.front, item);
            }
        }
        for mut state in states.into_iter().rev() {
            self.front -= 1;
            if let Some(later) = self.remove_state(state.session) {
                tick::merge(&mut state, later);
            }
            self.insert_state(self.front, state);
        }
    }

    /// Takes the requests and states of the next tick: at most `items_max` requests, each with the state of its session,
    /// and then as many states of other sessions. 1: one request or one state.
    pub fn take(&mut self, items_max: usize) -> Taken {
        let (mut places, mut sessions, mut octets) = (Vec::new(), Vec::new(), 0_usize);
        for (place, item) in self.items.iter().take(items_max) {
            let state = self.state(item.row.session);
            let size = state.map_or(0, tick::octets);
            if octets + size > TICK_OCTETS_MAX && !places.is_empty() {
                break;
            }
            octets += size;
            places.push(*place);
            sessions.extend(state.map(|state| state.session));
        }
        let free = self.states.values().filter(|state| !self.item_of.contains_key(&state.session));
        let most = if items_max == 1 { 1 - places.len() } else { items_max };
        for state in free.take(most) {
            octets += tick::octets(state);
            if octets > TICK_OCTETS_MAX && !(places.is_empty() && sessions.is_empty()) {
                break;
            }
            sessions.push(state.session);
        }
        let items = places.into_iter().filter_map(|place| self.remove(place)).collect();
        let states = sessions.into_iter().filter_map(|session| self.remove_state(session)).collect();
        (items, states)
    }

    /// Takes the request of this session and number.
    pub fn take_request(&mut self, session: SessionKey, number: i64) -> Option<Item> {
        let place = *self.item_of.get(&session)?;
        if self.items.get(&place)?.row.number == number { self.remove(place) } else { None }
    }

    /// Takes the oldest request, if it was queued at `since` or before.
    pub fn take_older(&mut self, since: Time) -> Option<Item> {
        let (place, _) = self.items.iter().next().filter(|(_, item)| item.asked_at <= since)?;
        self.remove(*place)
    }

    /// When the oldest request was queued.
    pub fn oldest(&self) -> Option<Time> {
        self.items.values().next().map(|item| item.asked_at)
    }

    /// Drops all states, and the requests of all sessions.
    pub fn drop_sessions(&mut self) {
        self.states.clear();
        self.state_of.clear();
        self.items.retain(|_, item| item.row.session == tick::NO_SESSION);
        self.item_of.clear();
    }

    /// Returns the state of a session that waits.
    pub fn state(&self, session: SessionKey) -> Option<&SessionState> {
        self.state_of.get(&session).and_then(|place| self.states.get(place))
    }

    fn insert(&mut self, place: i64, item: Item) {
        if item.row.session != tick::NO_SESSION
            && let Some(replaced) = self.item_of.insert(item.row.session, place)
        {
            self.items.remove(&replaced);
        }
        self.items.insert(place, item);
    }

    fn remove(&mut self, place: i64) -> Option<Item> {
        let item = self.items.remove(&place)?;
        self.item_of.remove(&item.row.session);
        Some(item)
    }

    fn insert_state(&mut self, place: i64, state: SessionState) {
        self.state_of.insert(state.session, place);
        self.states.insert(place, state);
    }

    fn remove_state(&mut self, session: SessionKey) -> Option<SessionState> {
        self.state_of.remove(&session).and_then(|place| self.states.remove(&place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enabler::postgres::tick::{Content, Row};
    use crate::enabler::{AccountChange, AccountCommand};

    fn key(session: u64) -> SessionKey {
        SessionKey(session, 1)
    }

    fn item(session: u64, number: i64) -> Item {
        let command = AccountCommand {
            number: 0,
            id: "sip:alice@example.org".into(),
            change: AccountChange::Remove,
            reference: "".into(),
            by: "".into(),
        };
        let row = Row { session: key(session), number, ..Row::of_command(&command) };
        let content = Content::Command(Box::new(command));
        Item { content, row, asked_at: Time(0), was_sent: false, is_reported: false }
    }

    fn state(session: u64, head: u8, parts: &[(u32, u8)]) -> SessionState {
        let parts = parts.iter().map(|(number, octet)| (*number, vec![*octet])).collect();
        let account = "sip:alice@example.org".into();
        SessionState { session: key(session), account, opened_at: 0, head: Some(vec![head]), parts }
    }

    fn sessions(taken: &Taken) -> (Vec<u64>, Vec<u64>) {
        let (items, states) = taken;
        (items.iter().map(|item| item.row.session.0).collect(), states.iter().map(|state| state.session.0).collect())
    }

    #[test]
    fn request_takes_the_latest_state_of_its_session_along() {
        let mut outgoing = Outgoing::default();
        outgoing.push_state(state(1, 1, &[(1, 1), (2, 1)]));
        outgoing.push_state(state(2, 1, &[]));
        outgoing.push(item(1, 1));
        outgoing.push_state(state(1, 2, &[(2, 2), (3, 2)]));
        let taken = outgoing.take(1);
        assert_eq!(sessions(&taken), (vec![1], vec![1]));
        assert_eq!(taken.1[0], state(1, 2, &[(1, 1), (2, 2), (3, 2)]));
        assert_eq!(sessions(&outgoing.take(1)), (vec![], vec![2]));
        assert!(outgoing.is_empty());
    }

    #[test]
    fn state_waits_for_the_request_of_its_session() {
        let mut outgoing = Outgoing::default();
        outgoing.push(item(1, 1));
        outgoing.push(item(2, 1));
        outgoing.push_state(state(2, 1, &[]));
        outgoing.push_state(state(3, 1, &[]));
        assert_eq!(sessions(&outgoing.take(1)), (vec![1], vec![]));
        outgoing.push(item(1, 2));
        assert_eq!(sessions(&outgoing.take(2)), (vec![2, 1], vec![2, 3]));
    }

    #[test]
    fn tick_is_bounded_in_requests_and_octets() {
        let mut outgoing = Outgoing::default();
        let large = |session| SessionState { head: Some(vec![0; TICK_OCTETS_MAX / 2]), ..state(session, 0, &[]) };
        for session in 1..=3 {
            outgoing.push(item(session, 1));
            outgoing.push_state(large(session));
        }
        assert_eq!(sessions(&outgoing.take(10)), (vec![1], vec![1]));
        assert_eq!(sessions(&outgoing.take(10)), (vec![2], vec![2]));
        let huge = SessionState { head: Some(vec![0; TICK_OCTETS_MAX + 1]), ..state(4, 0, &[]) };
        outgoing.push_state(huge);
        assert_eq!(sessions(&outgoing.take(10)), (vec![3], vec![3]));
        assert_eq!(sessions(&outgoing.take(10)), (vec![], vec![4]));
    }

    #[test]
    fn tick_that_was_not_executed_returns_to_the_front_below_what_came_later() {
        let mut outgoing = Outgoing::default();
        outgoing.push_state(state(1, 1, &[(1, 1)]));
        outgoing.push(item(1, 1));
        outgoing.push(item(2, 1));
        let taken = outgoing.take(10);
        outgoing.push_state(state(1, 2, &[(2, 2)]));
        outgoing.push(item(3, 1));
        outgoing.put_back(taken);
        let again = outgoing.take(10);
        assert_eq!(sessions(&again), (vec![1, 2, 3], vec![1]));
        assert_eq!(again.1[0], state(1, 2, &[(1, 1), (2, 2)]));
    }

    #[test]
    fn removal_of_a_state_removes_its_parts() {
        let mut outgoing = Outgoing::default();
        outgoing.push_state(state(1, 1, &[(1, 1)]));
        outgoing.push_state(SessionState { head: None, ..state(1, 1, &[]) });
        let (_, states) = outgoing.take(10);
        assert_eq!(states, [SessionState { head: None, ..state(1, 1, &[]) }]);
    }

    #[test]
    fn request_is_taken_by_session_and_number_and_by_age() {
        let mut outgoing = Outgoing::default();
        outgoing.push(item(1, 7));
        assert_eq!(outgoing.take_request(key(1), 6), None);
        assert!(outgoing.take_request(key(1), 7).is_some() && outgoing.is_empty());
        outgoing.push(Item { asked_at: Time(5), ..item(2, 1) });
        assert_eq!(outgoing.take_older(Time(4)), None);
        assert!(outgoing.take_older(Time(5)).is_some());
        assert_eq!(outgoing.oldest(), None);
    }

    #[test]
    fn requests_and_states_of_sessions_are_dropped_together() {
        let mut outgoing = Outgoing::default();
        outgoing.push(item(1, 1));
        outgoing.push_state(state(2, 1, &[]));
        let mut command = item(1, 1);
        command.row.session = tick::NO_SESSION;
        outgoing.push(command);
        outgoing.drop_sessions();
        assert_eq!(sessions(&outgoing.take(10)), (vec![0], vec![]));
        outgoing.push(item(1, 2));
        assert_eq!(sessions(&outgoing.take(10)), (vec![1], vec![]));
    }
}
