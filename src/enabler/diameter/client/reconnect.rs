//! A peer's addresses and its transport, and when to try again.

use super::config::{PeerAddress, PeerConfig};
use super::peer::Absence;
use super::resolver::Resolver;
use super::tls::Tls;
use super::transport::Transport;
use crate::charge::time::Time;
use crate::enabler::diameter::client::node::LocalNode;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Microseconds between two tries: at first, and at most.
const BACK_OFF_FIRST: u64 = 1_000_000;
const BACK_OFF_MOST: u64 = 30_000_000;

/// Microseconds after which a resolver that has not answered is looked at again.
const RESOLVER_AGAIN: u64 = 20_000;

/// The link to one peer.
#[derive(Debug)]
pub struct Reconnect {
    config: PeerConfig,
    /// Read from its files with the first connection that finds them readable.
    tls: Option<Tls>,
    transport: Option<Transport>,
    /// Where it goes, or went last.
    address: Option<SocketAddr>,
    resolver: Resolver,
    /// Addresses of the name that are not tried yet.
    others: VecDeque<SocketAddr>,
    /// When the transport came up.
    up_since: Option<Time>,
    /// When to connect.
    retry_at: Option<Time>,
    /// And not before no other peer serves.
    until_needed: bool,
    /// Microseconds to wait after the next failure.
    back_off: u64,
    /// Connections begun, the first not counted.
    pub reconnects: u64,
    tried: bool,
    /// Why the last one ended.
    pub last_error: Option<String>,
}

/// What [`Reconnect::advance`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Advance {
    /// Nothing new.
    Same,
    /// The transport has come up.
    Up(std::net::IpAddr),
    /// It cannot be had, because of this.
    Failed(String),
}

impl Reconnect {
    /// To this peer, to be connected at once.
    pub fn new(config: &PeerConfig, now: Time) -> Reconnect {
        Reconnect {
            config: config.clone(),
            tls: None,
            transport: None,
            address: None,
            resolver: Resolver::default(),
            others: VecDeque::new(),
            up_since: None,
            retry_at: Some(now),
            until_needed: false,
            back_off: BACK_OFF_FIRST,
            reconnects: 0,
            tried: false,
            last_error: None,
        }
    }

    /// The transport, once it is up.
    pub fn transport(&mut self) -> Option<&mut Transport> {
        self.transport.as_mut().filter(|_| self.up_since.is_some())
    }

    /// The transport, up or not yet.
    pub fn any_transport(&self) -> Option<&Transport> {
        self.transport.as_ref()
    }

    /// Whether the transport is up.
    pub fn is_up(&self) -> bool {
        self.up_since.is_some()
    }

    /// How the peer is configured.
    pub fn config(&self) -> &PeerConfig {
        &self.config
    }

    /// When there is something to do for [`advance`](Reconnect::advance).
    pub fn deadline(&self, is_needed: bool) -> Option<Time> {
        match &self.transport {
            Some(transport) => transport.deadline(),
            None => self.retry_at(is_needed),
        }
    }

    /// When to connect, where no other peer serves or one does.
    fn retry_at(&self, is_needed: bool) -> Option<Time> {
        self.retry_at.filter(|_| is_needed || !self.until_needed)
    }

    /// Connects if it is time, `patience` seconds at most, and goes on with connecting. `is_needed`: no other peer serves.
    pub fn advance(&mut self, patience: u32, is_needed: bool, now: Time) -> Advance {
        let due = self.transport.is_none() && self.retry_at(is_needed).is_some_and(|at| at <= now);
        if due && let Err(why) = self.connect(patience, now) {
            return Advance::Failed(why);
        }
        let Some(transport) = self.transport.as_mut().filter(|_| self.up_since.is_none()) else { return Advance::Same };
        let up = transport.advance(now).and_then(|up| up.then(|| transport.local_address()).transpose());
        match up {
            Ok(None) => Advance::Same,
            Ok(Some(address)) => {
                self.up_since = Some(now);
                Advance::Up(address)
            }
            Err(why) => Advance::Failed(why),
        }
    }

    /// The sentence for an operator.
    pub fn sentence(&self, why: &str) -> String {
        match self.address {
            Some(address) => format!("peer {} at {address}: {why}", self.config.label()),
            None => format!("peer {} at {}: {why}", self.config.label(), self.config.address),
        }
    }

    /// Drops the transport, and sets the time of the next try: never before the `absent` time is over.
    /// `open_since`: when the peer had taken us, if it had.
    pub fn close(&mut self, sentence: String, absent: Absence, open_since: Option<Time>, local: &LocalNode, now: Time) {
        if let Some(mut transport) = self.transport.take().filter(|_| self.up_since.is_some()) {
            transport.finish();
        }
        self.last_error = Some(sentence);
        let was_up = self.up_since.take();
        // One that held longer than it had been waited for was good.
        if open_since.is_some_and(|since| now.micros_since(since) >= self.back_off) {
            self.back_off = BACK_OFF_FIRST;
        }
        if was_up.is_none() && !self.others.is_empty() {
            self.retry_at = Some(now);
            return;
        }
        let delay = self.back_off - self.back_off / 4 + local.jitter(self.back_off / 2);
        self.back_off = (self.back_off * 2).min(BACK_OFF_MOST);
        // A try that failed has not been welcome either.
        self.until_needed = absent.until_needed || (self.until_needed && open_since.is_none());
        let soonest = now.after_seconds(absent.seconds);
        self.retry_at = Some(Time(now.0.saturating_add(delay)).max(soonest));
        self.others.clear();
    }

    /// Never connects again.
    pub fn retire(&mut self) {
        self.retry_at = None;
        self.others.clear();
    }

    fn connect(&mut self, patience: u32, now: Time) -> Result<(), String> {
        if self.others.is_empty() {
            self.address = None;
            let PeerAddress { host, port } = &self.config.address;
            match self.resolver.look_up(host, *port, patience, now)? {
                Some(found) => self.others.extend(found),
                None => {
                    self.retry_at = Some(Time(now.0.saturating_add(RESOLVER_AGAIN)));
                    return Ok(());
                }
            }
        }
        self.address = self.others.pop_front();
        let address = self.address.ok_or_else(|| self.no_address())?;
        self.reconnects += u64::from(self.tried);
        self.tried = true;
        if let (None, Some(files)) = (&self.tls, &self.config.tls) {
            self.tls = Some(Tls::load(&self.config, files)?);
        }
        self.transport = Some(Transport::connect(address, self.tls.as_ref(), patience, now)?);
        Ok(())
    }

    fn no_address(&self) -> String {
        format!("no address for the name {}", self.config.address)
    }
}

#[cfg(test)]
mod tests;
