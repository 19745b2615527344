//! SIP MESSAGEs (page mode, RFC 3428): reservation, and the outcome that decides about it.

use super::content::Content;
use super::{InviteRefusal, Urgency, Worker};
use crate::charge::ch2::SessionKey;
use crate::charge::event::{Direction, Event, PageContent, ServerTransaction};
use crate::shm::log_limit::ONE_A_MINUTE;
use crate::shm::statistic::Statistic;
use crate::worker::sip_input::{Body, Invite};

/// How a MESSAGE ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOutcome {
    /// A final 2xx was sent to its sender.
    Delivered(u16),
    /// It ended with this final failure, or was never relayed.
    Failed(u16),
    /// It was relayed and got no final response, or 408.
    Unanswered,
}

impl PageOutcome {
    /// Returns the outcome of a final response. 408 says that no final response has arrived (RFC 3261, 21.4.9).
    pub fn from_code(code: u16) -> PageOutcome {
        match code {
            200..300 => PageOutcome::Delivered(code),
            408 => PageOutcome::Unanswered,
            _ => PageOutcome::Failed(code),
        }
    }
}

impl Worker {
    /// Checks whether [`Worker::reserve_page`] would accept this MESSAGE now: for hosts, before they suspend the
    /// transaction. Returns its content; `None`: it is free of charge and needs no reservation.
    pub fn can_reserve_page(
        &self,
        message: &Invite<'_>,
        body: &Body<'_>,
    ) -> Result<Option<PageContent>, InviteRefusal> {
        let call_id = super::invites::call_id_of(message)?;
        self.tariff_of(message)?;
        let (octets, octets_max) = (body.bytes.len() as u64, self.region.config.message_max);
        if octets > octets_max.into() {
            self.region.count(Statistic::DroppedTooLarge);
            log::warn!(
                target: ONE_A_MINUTE,
                "call {call_id}: the MESSAGE was refused: its body has {octets} octets, more than message_max={octets_max} \
                 (dropped_too_large)"
            );
            return Err(InviteRefusal::TooLarge);
        }
        // As for MSRP: the size that the sender states concerns its own bill only.
        let reads_file = self.region.has_price_by_size() && self.page_direction(message) == Direction::Pull;
        let content = Content::of_message(&self.region.config, body.content_type, body.bytes, reads_file);
        if content.is_free {
            self.region.count(Statistic::MessagesFree);
            return Ok(None);
        }
        if let Some(why) = content.unknown {
            self.region.count(Statistic::MessagesUnclassified);
            log::warn!(
                target: ONE_A_MINUTE,
                "call {call_id}: the MESSAGE is charged as content of unknown type: {why} (messages_unclassified)"
            );
        }
        let extra = |file| Content::extra_octets(&self.region, file, octets, &format!("call {call_id}: the MESSAGE"));
        let octets = octets + content.file.map_or(0, extra);
        let content = PageContent { class: content.class, octets };
        self.check_engine()?;
        self.ring.has_room(self.ring.size() / 4).then_some(Some(content)).ok_or(InviteRefusal::Full)
    }

    /// Requests a reservation for a MESSAGE. `Ok` means that the event is in the ring and a verdict will follow.
    pub fn reserve_page(&mut self, message: &Invite<'_>, content: PageContent) -> Result<SessionKey, InviteRefusal> {
        self.request_reservation(message, Some(content))
    }

    /// Reports how a MESSAGE ended. Returns `false` if the event ring is full: then the host reports it again later.
    pub fn page_ended(
        &mut self,
        session: SessionKey,
        transaction: Option<ServerTransaction>,
        outcome: PageOutcome,
    ) -> bool {
        let event = match outcome {
            PageOutcome::Delivered(code) => Event::Delivered { code, transaction },
            PageOutcome::Failed(code) => Event::Failed { code, transaction },
            PageOutcome::Unanswered => Event::Unanswered { transaction },
        };
        self.push_event(session, event, 0, Urgency::Soon)
    }
}
