//! Log lines about frames that the gate has stopped: one for each reason and minute.

use crate::charge::event::Stop;
use crate::shm::log_limit::ONE_A_MINUTE;

/// Says what was stopped in the session of this call, and why. Each reason has a line of its own in the source, because the
/// log is limited by these.
pub fn log(call_id: &str, message_id: &str, why: Stop) {
    match why {
        Stop::Beyond => log::warn!(
            target: ONE_A_MINUTE,
            "call {call_id}: message {message_id} was stopped: it is beyond the granted credit"
        ),
        Stop::Message => log::warn!(
            target: ONE_A_MINUTE,
            "call {call_id}: more of message {message_id} was stopped, because a part of it was"
        ),
        Stop::Share => log::warn!(
            target: ONE_A_MINUTE,
            "call {call_id}: message {message_id} was stopped: the session has too many messages at the gate"
        ),
        Stop::Forged => log::warn!(
            target: ONE_A_MINUTE,
            "call {call_id}: a frame was stopped: it claims to come from the other side of its session \
             (frames_forged). Where it was the IM server's, over a new connection while the old one is open, set im_server"
        ),
        Stop::NoStream => log::warn!(
            target: ONE_A_MINUTE,
            "call {call_id}: message {message_id} was stopped: it comes from an end of the session, but not over an \
             MSRP session that offer and answer have agreed on (frames_unattributed)"
        ),
    }
}
