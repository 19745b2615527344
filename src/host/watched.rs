//! What a watched transaction carries, in the host's shared memory: its callbacks run in whatever process sees the event.

use super::attach::with_worker;
use crate::charge::ch2::SessionKey;
use crate::charge::event::InviteTransaction;
use std::ffi::c_int;

/// Most octets of Call-ID and From tag together.
const TEXT_MAX: usize = 512;

/// The session of a transaction, and what names its dialog.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Watched {
    /// The session.
    pub session: SessionKey,
    /// The transaction of the INVITE that opens the session, whose end without a 2xx ends it; `None`: it repeats in the
    /// dialog.
    pub opens: Option<InviteTransaction>,
    call_id: u16,
    from_tag: u16,
    text: [u8; TEXT_MAX],
}

impl Watched {
    /// `None`: Call-ID and tag are too long to be carried.
    pub fn new(
        session: SessionKey,
        opens: Option<InviteTransaction>,
        call_id: &[u8],
        from_tag: &[u8],
    ) -> Option<Watched> {
        let mut text = [0; TEXT_MAX];
        text.get_mut(..call_id.len())?.copy_from_slice(call_id);
        text.get_mut(call_id.len()..call_id.len() + from_tag.len())?.copy_from_slice(from_tag);
        let (call_id, from_tag) = (call_id.len() as u16, from_tag.len() as u16);
        Some(Watched { session, opens, call_id, from_tag, text })
    }

    /// The INVITE ended without a 2xx. An answered or failed session ignores it; one that repeats ends none (RFC 3261, 14.1).
    pub fn failed(&self, code: c_int) {
        if self.opens.is_some() {
            let code = u16::try_from(code).unwrap_or(0);
            with_worker(|worker| worker.failed(self.session, self.opens, code));
        }
    }

    /// CANCEL of the INVITE.
    pub fn cancelled(&self) {
        if self.opens.is_some() {
            with_worker(|worker| worker.cancelled(self.session, self.opens));
        }
    }

    /// Call-ID.
    pub fn call_id(&self) -> &[u8] {
        self.text.get(..self.call_id.into()).unwrap_or_default()
    }

    /// Tag of who invited.
    pub fn inviting_tag(&self) -> &[u8] {
        self.text.get(self.call_id.into()..).and_then(|rest| rest.get(..self.from_tag.into())).unwrap_or_default()
    }
}
