//! Clients whose session description leaves this relay out of the path of their messages.
//!
//! An IM server that follows `a=path` (RFC 4975, 8.1) sends to its first URI. Where that is not this relay, the messages
//! bypass the gate, unless the server is configured to send through this relay.

use super::{InviteRefusal, Worker};
use crate::charge::event::Direction;
use crate::config::Bypass;
use crate::shm::gate::Side;
use crate::shm::statistic::Statistic;
use crate::wire::sdp;
use crate::worker::sip_input::{Body, Invite};

/// Port of an MSRP URI without one (RFC 4975, 15.4).
const PORT: u16 = 2855;

impl Worker {
    /// Whether the offer in an INVITE may be charged.
    pub(crate) fn admits_offer(&self, invite: &Invite<'_>, offer: &Body<'_>) -> Result<(), InviteRefusal> {
        let side = match self.direction(invite) {
            Direction::Pull => Side::Client,
            Direction::Push => Side::Server,
        };
        self.admits(invite.key.call_id, side, offer).then_some(()).ok_or(InviteRefusal::Bypass)
    }

    /// Counts a client's description that leaves this relay out. `false`: it is to be refused.
    pub(crate) fn admits(&self, call_id: &[u8], described_by: Side, body: &Body<'_>) -> bool {
        if described_by != Side::Client || !self.leaves_relay_out(body) {
            return true;
        }
        self.region.count(Statistic::PathsWithoutRelay);
        let is_refused = self.region.config.bypass == Bypass::Refuse;
        if is_refused {
            log::warn!(
                "call {}: the client's a=path leaves this relay out; refused (bypass=refuse)",
                call_id.escape_ascii()
            );
        }
        !is_refused
    }

    /// Whether a stream of the description has another host than this proxy as the first of its path. `false` where the
    /// host does not know its own addresses.
    fn leaves_relay_out(&self, body: &Body<'_>) -> bool {
        let Some(is_own) = self.own_addresses else { return false };
        let media = sdp::msrp_media(body.content_type, body.bytes).unwrap_or_default();
        let paths = media.into_iter().filter(|media| !media.is_refused).filter_map(|media| media.path);
        paths.filter_map(|path| path.uris().next()).any(|first| {
            let host = first.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(first.host);
            !is_own(host, first.port.unwrap_or(PORT))
        })
    }
}
