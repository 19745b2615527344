//! The connection to one peer: its transport, and when to connect again.

use super::config::PeerConfig;
use super::peer::ReconnectDelay;
use crate::charge::time::Time;
use crate::enabler::diameter::client::node::LocalNode;
use crate::enabler::net::back_off::BackOff;
use crate::enabler::net::dialer::{Dialed, Dialer};
use crate::enabler::net::tls::Tls;
use crate::enabler::net::transport::Transport;

/// First delay between two attempts, in microseconds. It doubles with each failure.
const BACK_OFF_FIRST_MICROS: u64 = 1_000_000;

/// Maximum delay between two attempts, in microseconds.
const BACK_OFF_MAX_MICROS: u64 = 30_000_000;

/// The connection to one peer.
#[derive(Debug)]
pub struct Reconnect {
    config: PeerConfig,
    /// Read from the files by the first connection that can read them.
    tls: Option<Tls>,
    transport: Option<Transport>,
    dialer: Dialer,
    /// When the transport came up.
    up_since: Option<Time>,
    /// When to connect; `None`: never again.
    retry_at: Option<Time>,
    /// Whether to connect only if no other peer serves.
    until_needed: bool,
    back_off: BackOff,
    /// Why the last connection ended.
    pub last_error: Option<String>,
}

/// Result of [`Reconnect::advance`].
#[derive(Debug, PartialEq, Eq)]
pub enum Advance {
    /// No change.
    Same,
    /// The transport is up. Contains the local address.
    Up(std::net::IpAddr),
    /// The attempt failed, for this reason.
    Failed(String),
}

impl Reconnect {
    /// Creates it. The first attempt is due at once.
    pub fn new(config: &PeerConfig, now: Time) -> Reconnect {
        Reconnect {
            config: config.clone(),
            tls: None,
            transport: None,
            dialer: Dialer::new(config.address.clone()),
            up_since: None,
            retry_at: Some(now),
            until_needed: false,
            back_off: BackOff::new(BACK_OFF_FIRST_MICROS, BACK_OFF_MAX_MICROS),
            last_error: None,
        }
    }

    /// Returns the transport if it is up.
    pub fn transport(&mut self) -> Option<&mut Transport> {
        self.transport.as_mut().filter(|_| self.up_since.is_some())
    }

    /// Returns the transport, up or connecting.
    pub fn any_transport(&self) -> Option<&Transport> {
        self.transport.as_ref()
    }

    /// Whether the transport is up.
    pub fn is_up(&self) -> bool {
        self.up_since.is_some()
    }

    /// Returns the configuration of the peer.
    pub fn config(&self) -> &PeerConfig {
        &self.config
    }

    /// When [`advance`](Reconnect::advance) must be called.
    pub fn deadline(&self, is_needed: bool) -> Option<Time> {
        match &self.transport {
            Some(transport) => transport.deadline(),
            None => self.retry_at(is_needed),
        }
    }

    /// When to connect. `is_needed`: no other peer serves.
    fn retry_at(&self, is_needed: bool) -> Option<Time> {
        self.retry_at.filter(|_| is_needed || !self.until_needed)
    }

    /// Begins to connect if that is due, and continues to connect. The transport must be up after `timeout_seconds`.
    /// `is_needed`: no other peer serves.
    pub fn advance(&mut self, timeout_seconds: u32, is_needed: bool, now: Time) -> Advance {
        let due = self.transport.is_none() && self.retry_at(is_needed).is_some_and(|at| at <= now);
        if due && let Err(why) = self.connect(timeout_seconds, now) {
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

    /// Returns the sentence for the log.
    pub fn sentence(&self, why: &str) -> String {
        format!("peer {} at {}: {why}", self.config.label(), self.dialer.label())
    }

    /// Closes the transport and sets the time of the next attempt, not before the delay that the peer
    /// `asked` for. `open_since`: when the
    /// capabilities exchange succeeded, if it did.
    pub fn close(
        &mut self,
        sentence: String,
        asked: ReconnectDelay,
        open_since: Option<Time>,
        node: &LocalNode,
        now: Time,
    ) {
        if let Some(mut transport) = self.transport.take().filter(|_| self.up_since.is_some()) {
            transport.finish();
        }
        self.last_error = Some(sentence);
        let was_up = self.up_since.take();
        if let Some(since) = open_since {
            self.back_off.lasted(now.micros_since(since));
        }
        if was_up.is_none() && self.dialer.has_untried() {
            self.retry_at = Some(now);
            return;
        }
        let delay = self.back_off.delay(node.jitter());
        // A failed attempt does not lift the restriction.
        self.until_needed = asked.until_needed || (self.until_needed && open_since.is_none());
        let soonest = now.after_seconds(asked.seconds);
        self.retry_at = Some(Time(now.0.saturating_add(delay)).max(soonest));
        self.dialer.forget();
    }

    /// Stops further attempts.
    pub fn disable(&mut self) {
        self.retry_at = None;
        self.dialer.forget();
    }

    fn connect(&mut self, timeout_seconds: u32, now: Time) -> Result<(), String> {
        let address = match self.dialer.next_address(timeout_seconds, now)? {
            Dialed::Address(address) => address,
            Dialed::Later(at) => {
                self.retry_at = Some(at);
                return Ok(());
            }
        };
        if let (None, Some(files)) = (&self.tls, &self.config.tls) {
            self.tls = Some(Tls::load(self.config.certificate_name(), files)?);
        }
        self.transport = Some(Transport::connect(address, self.tls.as_ref(), timeout_seconds, now)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
