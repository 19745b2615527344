//! What `imcharge_reserve()` is called for: an INVITE or a MESSAGE.

use crate::charge::ch2::SessionKey;
use crate::charge::event::PageContent;
use crate::worker::sip_input::{Body, Invite};
use crate::worker::{InviteRefusal, Worker};
use std::ffi::c_int;

/// Return value for a MESSAGE whose content is free of charge: the script relays it without a verdict.
pub const FREE_CONTENT: c_int = 2;

/// What is charged.
#[derive(Clone, Copy)]
pub enum Charged {
    /// The session that an INVITE opens.
    Invite,
    /// A MESSAGE with this content.
    Message(PageContent),
}

impl Charged {
    /// Checks whether a reservation can be requested for this request now. `None`: its content is free of charge.
    pub fn check(
        worker: &Worker,
        request: &Invite<'_>,
        body: &Body<'_>,
        is_message: bool,
    ) -> Result<Option<Charged>, InviteRefusal> {
        match is_message {
            true => worker.can_reserve_page(request, body).map(|content| content.map(Charged::Message)),
            false => worker.can_reserve(request, body).map(|()| Some(Charged::Invite)),
        }
    }

    /// Requests the reservation.
    pub fn reserve(self, worker: &mut Worker, request: &Invite<'_>) -> Result<SessionKey, InviteRefusal> {
        match self {
            Charged::Invite => worker.reserve(request),
            Charged::Message(content) => worker.reserve_page(request, content),
        }
    }
}
