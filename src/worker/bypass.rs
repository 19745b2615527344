//! Session descriptions of receivers that bypass this relay.
//!
//! An IM server that follows `a=path` (RFC 4975, 8.1) sends to its first URI. If that is not this relay, the messages bypass
//! the gate, unless the sender is configured to send through this relay.

use super::{InviteRefusal, Worker};
use crate::charge::event::Direction;
use crate::charge::service::ChargedContent;
use crate::config::Bypass;
use crate::shm::gate::Side;
use crate::shm::statistic::Statistic;
use crate::wire::sdp;
use crate::worker::sip_input::{Body, Invite};

/// Default port of MSRP (RFC 4975, 15.4).
const DEFAULT_PORT: u16 = 2855;

impl Worker {
    /// Refuses the offer in an INVITE if it bypasses this relay and `bypass` is `refuse`.
    pub(crate) fn admits_offer(&self, invite: &Invite<'_>, offer: &Body<'_>) -> Result<(), InviteRefusal> {
        let side = match self.direction(invite) {
            // Both parties receive charged content.
            _ if invite.content == ChargedContent::Both => Side::Receiver,
            Direction::Pull => Side::Receiver,
            Direction::Push => Side::Sender,
        };
        self.admits(invite.key.call_id, side, offer).then_some(()).ok_or(InviteRefusal::Bypass)
    }

    /// Counts a receiver's description that bypasses this relay. Returns `false` if `bypass` is `refuse`.
    pub(crate) fn admits(&self, call_id: &[u8], described_by: Side, body: &Body<'_>) -> bool {
        if described_by != Side::Receiver || !self.bypasses_relay(body) {
            return true;
        }
        self.region.count(Statistic::PathsWithoutRelay);
        let is_refused = self.region.config.bypass == Bypass::Refuse;
        if is_refused {
            log::warn!(
                "call {}: the receiver's a=path leaves this relay out; refused (bypass=refuse)",
                call_id.escape_ascii()
            );
        }
        !is_refused
    }

    /// Whether the path of a stream of the description begins at another host than this one. `false` if the host does not
    /// know its own addresses.
    fn bypasses_relay(&self, body: &Body<'_>) -> bool {
        let Some(is_own) = self.own_addresses else { return false };
        let media = sdp::msrp_media(body.content_type, body.bytes).unwrap_or_default();
        let paths = media.into_iter().filter(|media| !media.is_refused).filter_map(|media| media.path);
        paths.filter_map(|path| path.uris().next()).any(|first| {
            let host = first.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(first.host);
            !is_own(host, first.port.unwrap_or(DEFAULT_PORT))
        })
    }
}
