//! Model of an enabler for [`session_world`](super::session_world).

use imcharge::charge::ch2::{Denial, Grant, Operation, Request, Reservation, Response};
use imcharge::charge::tariff::Quota;
use std::collections::BTreeMap;

/// Model of an enabler with one account. It keeps all answers by request number.
pub struct Enabler {
    pub balance: i64,
    /// Units held, by the number of the request that opened the reservation.
    pub held: BTreeMap<u32, i64>,
    pub debited: i64,
    start: i64,
    pub answers: BTreeMap<u32, Response>,
    /// Number of releases and of late grants per reservation.
    released: BTreeMap<u32, u32>,
    pub late: BTreeMap<u32, u32>,
    /// A debit exceeded its reservation or had none, so the balance may be negative.
    pub uncovered: bool,
    /// Units of the account for each unit of the quota.
    price: u32,
    /// It grants in part. Otherwise it ends a reservation whose UPDATE it refuses.
    in_part: bool,
}

impl Enabler {
    /// An account with this balance. `price`: of a unit of the quota. `in_part`: the enabler grants in part.
    pub fn new(balance: i64, price: u32, in_part: bool) -> Enabler {
        Enabler {
            balance,
            held: BTreeMap::new(),
            debited: 0,
            start: balance,
            answers: BTreeMap::new(),
            released: BTreeMap::new(),
            late: BTreeMap::new(),
            uncovered: false,
            price,
            in_part,
        }
    }

    /// Executes a request once and returns its answer, also to copies of it.
    pub fn execute(&mut self, request: &Request) -> Response {
        if let Some(answer) = self.answers.get(&request.number) {
            return answer.clone();
        }
        let opened_by = opened_by(request);
        let answer = match &request.operation {
            Operation::Reserve { quota } => self.reserve(opened_by.unwrap_or(request.number), *quota),
            Operation::Debit { units, .. } => {
                self.debit(opened_by, i64::try_from(units.0).expect("a price"));
                let mut ended = false;
                if let Reservation::Last { opened_by, .. } = request.reservation {
                    self.close(opened_by);
                    ended = true;
                }
                Response::Debited { balance: Some(self.balance), ended, rest: None }
            }
            Operation::Refund { units, .. } => self.refund(i64::try_from(units.0).expect("a price")),
            Operation::Release => self.release(opened_by.expect("a release is of a reservation")),
        };
        let held: i64 = self.held.values().sum();
        assert_eq!(self.balance + held + self.debited, self.start, "money is conserved");
        self.answers.insert(request.number, answer.clone());
        answer
    }

    /// Reserves a quota; a quota of 0 renews the reservation unchanged.
    fn reserve(&mut self, opened_by: u32, quota: Quota) -> Response {
        let granted = (self.balance / i64::from(self.price)).clamp(0, quota.0.into());
        let is_enough = granted == i64::from(quota.0) || (self.in_part && granted > 0);
        let Some(more) = u32::try_from(granted).ok().filter(|_| is_enough) else {
            assert!(
                !self.held.contains_key(&opened_by),
                "an open reservation is never extended, because a refusal may end it"
            );
            return Response::Denied(if quota.0 > 1 { Denial::NotSoMany } else { Denial::NoCredit });
        };
        let is_late = self.late.contains_key(&opened_by);
        assert!(is_late || !self.released.contains_key(&opened_by), "a released reservation is not reopened");
        assert!(quota.0 > 0 || self.held.contains_key(&opened_by), "only open reservations are renewed");
        self.balance -= granted * i64::from(self.price);
        *self.held.entry(opened_by).or_default() += granted * i64::from(self.price);
        let (server_binding, balance) = (Some(format!("server of {opened_by}").into()), Some(self.balance));
        Response::Granted(Grant { quota: Quota(more), server_binding, balance, ..Grant::default() })
    }

    fn debit(&mut self, opened_by: Option<u32>, units: i64) {
        let hold = opened_by.map(|number| self.held.get_mut(&number).expect("debits use an open reservation"));
        let from_hold = hold.map_or(0, |hold| {
            let from_hold = units.min(*hold);
            *hold -= from_hold;
            from_hold
        });
        self.uncovered |= from_hold < units;
        self.balance -= units - from_hold;
        self.debited += units;
    }

    fn refund(&mut self, units: i64) -> Response {
        self.balance += units;
        self.debited -= units;
        Response::Refunded { balance: Some(self.balance) }
    }

    fn release(&mut self, opened_by: u32) -> Response {
        self.close(opened_by);
        Response::Released { balance: Some(self.balance) }
    }

    /// Ends a reservation and returns what it holds; it may be ended already.
    fn close(&mut self, opened_by: u32) {
        *self.released.entry(opened_by).or_default() += 1;
        let late = self.late.get(&opened_by).copied().unwrap_or(0);
        assert!(self.released.get(&opened_by) <= Some(&(1 + late)), "one release per grant");
        self.balance += self.held.remove(&opened_by).unwrap_or(0);
    }
}

/// Number of the request that opened the reservation of this request.
pub fn opened_by(request: &Request) -> Option<u32> {
    match request.reservation {
        Reservation::None => None,
        Reservation::Open { opened_by, .. } | Reservation::Last { opened_by, .. } => Some(opened_by),
    }
}
