//! Log lines about frames that the gate has stopped: one per reason and minute.

use crate::charge::event::Stop;
use crate::shm::log_limit::ONE_A_MINUTE;

/// Logs which message of a call was stopped, and why. Each reason has its own statement, because the log is limited per
/// statement.
pub fn log(call_id: &str, message_id: &str, why: Stop) {
    match why {
        Stop::Beyond => log::warn!(
            target: ONE_A_MINUTE,
            "call {call_id}: message {message_id} was stopped: it is beyond the granted credit"
        ),
        Stop::LeaseOver => log::warn!(
            target: ONE_A_MINUTE,
            "call {call_id}: message {message_id} was stopped: the lease of this node is over, so another node may have \
             taken the session over (frames_lease_over); check the connection to the database"
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
             (frames_forged). If the IM server opened a new connection while the old one was open, set im_server"
        ),
        Stop::NoStream => log::warn!(
            target: ONE_A_MINUTE,
            "call {call_id}: message {message_id} was stopped: it comes from an endpoint of the session, but not over an \
             MSRP session that offer and answer have agreed on (frames_unattributed)"
        ),
    }
}
