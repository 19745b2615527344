//! What a process of the host calls (interface first; in work).

use super::facts::{Answer, Dialog, Frame, Invitation, Invite};
use super::region::Region;
use crate::charge::ch2::SessionKey;
use std::sync::Arc;

/// One host process's way to the engine: its event ring and the grant table. Never waits.
pub struct Worker;

/// Why an INVITE was not taken; the number is what the script gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Refused {
    /// Wrong use: no Call-ID, no From tag, or a field too long.
    Malformed = -1,
    /// The engine does not run.
    EngineDown = -2,
    /// The ring of this process or the table of sessions is full.
    Full = -3,
}

/// What becomes of an MSRP frame; the number is what the script gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Passage {
    /// Goes on; it belongs to a charged session.
    Pass = 1,
    /// Goes on; it belongs to none.
    NotCharged = 2,
    /// Must not go on: beyond the grant.
    BeyondGrant = -1,
    /// Must not go on: no MSRP frame, or content without a Message-ID.
    Malformed = -2,
    /// Must not go on: the ring of this process or a table is full.
    Full = -3,
}

impl Worker {
    /// Attaches this process, after fork, to event ring `index` (0..processes). No other process may have the same.
    pub fn attach(region: &Arc<Region>, index: usize) -> Worker {
        let _ = (region, index);
        unimplemented!()
    }

    /// Step 1. `Ok`: the event is in the ring, a verdict will come.
    pub fn reserve(&mut self, invite: &Invite<'_>) -> Result<SessionKey, Refused> {
        let _ = invite;
        unimplemented!()
    }

    /// Step 4: a 2xx to an INVITE, or to a repeated one in the dialog. Binds the MSRP sessions of both
    /// descriptions; call it before the reply goes on. `false`: not a charged session.
    pub fn answered(&mut self, session: SessionKey, answer: &Answer<'_>) -> bool {
        let _ = (session, answer);
        unimplemented!()
    }

    /// The INVITE ended without a 2xx.
    pub fn failed(&mut self, session: SessionKey, code: u16) {
        let _ = (session, code);
        unimplemented!()
    }

    /// CANCEL of the INVITE.
    pub fn cancelled(&mut self, session: SessionKey) {
        let _ = session;
        unimplemented!()
    }

    /// The charged session of this dialog, if it is one. Tags may stand in either order. Cheap: no copy.
    pub fn session_of(&self, dialog: &Dialog<'_>) -> Option<SessionKey> {
        let _ = dialog;
        unimplemented!()
    }

    /// The session of the INVITE.
    pub fn session_of_invitation(invitation: &Invitation<'_>) -> SessionKey {
        SessionKey::of(invitation.call_id, invitation.from_tag, invitation.cseq)
    }

    /// Step 11: BYE. `false`: not a charged session.
    pub fn bye(&mut self, dialog: &Dialog<'_>) -> bool {
        let _ = dialog;
        unimplemented!()
    }

    /// The script closes the session now. `false`: not a charged session.
    pub fn end(&mut self, dialog: &Dialog<'_>, reason: &[u8]) -> bool {
        let _ = (dialog, reason);
        unimplemented!()
    }

    /// Steps 5 and 10: an MSRP frame, before it is relayed.
    pub fn frame(&mut self, frame: &Frame<'_>) -> Passage {
        let _ = frame;
        unimplemented!()
    }

    /// The host closed this connection.
    pub fn connection_lost(&mut self, connection: u64) {
        let _ = connection;
        unimplemented!()
    }
}
