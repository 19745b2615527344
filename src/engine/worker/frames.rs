//! MSRP: the gate, and what the engine hears of frames.

use super::{Passage, Urgency, Worker};
use crate::charge::ch2::SessionKey;
use crate::charge::event::{Event, FailureReport, Flag, Sent, transaction};
use crate::charge::tariff::Per;
use crate::engine::facts::Frame;
use crate::engine::grant::{Bound, Pass, Side, Slot};
use crate::engine::region::Region;
use crate::engine::statistic::Statistic;
use crate::simulate::moment;
use crate::wire::msrp;
use std::sync::Arc;

impl Worker {
    /// Steps 5 and 10: an MSRP frame, before it is relayed.
    pub fn frame(&mut self, frame: &Frame<'_>) -> Passage {
        self.frame_of(frame, None)
    }

    /// A response, where the host gives a request another transaction id as it sends it on: `request` is the id that the
    /// request came with.
    pub fn response(&mut self, frame: &Frame<'_>, request: &[u8]) -> Passage {
        self.frame_of(frame, Some(request))
    }

    /// A frame that [`Worker::frame`] let pass could not be sent on: a SEND with content costs nothing then.
    pub fn unsent(&mut self, frame: &[u8]) {
        let Ok(parsed) = msrp::Frame::parse(frame) else { return };
        let region = Arc::clone(&self.region);
        let bound = bound(&region, &parsed).filter(|bound| bound.side == Side::Server);
        if let (Some(bound), Some(message_id), true) = (bound, parsed.message_id, parsed.is_content()) {
            let transaction = transaction(parsed.transaction_id.as_bytes());
            self.push_or_count(bound.session, Event::Unsent { message_id, transaction });
        }
    }

    fn frame_of(&mut self, frame: &Frame<'_>, request: Option<&[u8]>) -> Passage {
        self.region.count(Statistic::Frames);
        let Ok(parsed) = msrp::Frame::parse(frame.bytes) else {
            self.region.count(Statistic::FramesMalformed);
            return Passage::Malformed;
        };
        let region = Arc::clone(&self.region);
        let Some(Bound { at, session, side }) = bound(&region, &parsed) else { return Passage::NotCharged };
        let slot = &region.table().slots[at as usize];
        match (side, parsed.start) {
            (Side::Server, msrp::Start::Request(msrp::Method::Send)) if parsed.is_content() => {
                self.content(at, slot, session, &parsed, frame.connection)
            }
            (Side::Server, msrp::Start::Request(msrp::Method::Send)) if parsed.flag == msrp::Flag::Aborted => {
                let Some(message_id) = parsed.message_id else { return Passage::Pass };
                self.push_or_count(session, Event::Sent(sent(message_id, &parsed, 0, frame.connection)));
                Passage::Pass
            }
            (Side::Client, msrp::Start::Response(code)) if !frame.from_self => {
                let transaction = transaction(request.unwrap_or(parsed.transaction_id.as_bytes()));
                self.push_or_count(session, Event::Responded { transaction, code, connection: frame.connection });
                Passage::Pass
            }
            (Side::Client, msrp::Start::Request(msrp::Method::Report)) => {
                if let (Some(message_id), Some(code)) = (parsed.message_id, parsed.status) {
                    let range = parsed.byte_range;
                    let start = range.map_or(1, |range| range.start);
                    let end = range.and_then(|range| range.end.or(range.total));
                    self.push_or_count(session, Event::Reported { message_id, start, end, code });
                }
                Passage::Pass
            }
            _ => {
                self.push_or_count(session, Event::Moved { connection: frame.connection });
                Passage::Pass
            }
        }
    }

    /// A SEND with content from the server's side: the gate.
    fn content(
        &mut self,
        at: u32,
        slot: &Slot,
        session: SessionKey,
        frame: &msrp::Frame<'_>,
        connection: u64,
    ) -> Passage {
        let Some(message_id) = frame.message_id else {
            self.region.count(Statistic::FramesMalformed);
            return Passage::Malformed;
        };
        // Room first: what the gate has taken must be told to the engine.
        let spare = self.ring.size() / 4;
        if !self.has_room(spare) {
            self.region.count(Statistic::DroppedRingFull);
            return Passage::Full;
        }
        let region = Arc::clone(&self.region);
        let table = region.table();
        let sent = sent(message_id, frame, 0, connection);
        let (amount, part) = match slot.per() {
            Per::Message => (1, [0, 0]),
            Per::Kilobyte => (kilobytes(sent.start, sent.octets), [sent.start, sent.octets]),
        };
        let [start, octets] = part;
        let hash = region.hash(&[message_id.as_bytes(), &words([u64::from(at), session.0, session.1, start, octets])]);
        let passed = table.pass(at, session, hash, amount);
        moment();
        match passed {
            Pass::Taken { left } => {
                let urgency = if is_to_be_told(slot.per(), left, amount) { Urgency::Now } else { Urgency::Soon };
                self.push_event(session, Event::Sent(Sent { taken: amount, ..sent }), 0, urgency);
                Passage::Pass
            }
            Pass::Before => {
                self.push_event(session, Event::Sent(sent), 0, Urgency::Soon);
                Passage::Pass
            }
            Pass::Beyond => {
                self.push_event(session, Event::Stopped { message_id }, spare, Urgency::Now);
                Passage::BeyondGrant
            }
            Pass::Full => {
                region.count(Statistic::DroppedTableFull);
                Passage::Full
            }
        }
    }
}

/// The bound session of a frame, by the session id of whoever made it: the rightmost URI of its From-Path. A
/// response that a relay made has only that relay's.
fn bound(region: &Region, frame: &msrp::Frame<'_>) -> Option<Bound> {
    let hash = |path: &msrp::Path<'_>| region.hash(&[path.endpoint().session_id.as_bytes()]);
    let from = hash(&frame.from_path);
    let table = region.table();
    let bound = table.bound(from)?;
    if let msrp::Start::Response(_) = frame.start {
        return Some(bound);
    }
    // A request has both ends in its paths: a session that shares one of them is not this one.
    let to = hash(&frame.to_path);
    let binding = table.slots[bound.at as usize].binding();
    let other = match bound.side {
        Side::Server => binding.client,
        Side::Client => binding.server,
    };
    (other == 0 || other == to).then_some(bound)
}

/// What the engine hears of a SEND.
fn sent<'a>(message_id: &'a str, frame: &msrp::Frame<'a>, taken: u32, connection: u64) -> Sent<'a> {
    Sent {
        message_id,
        transaction: transaction(frame.transaction_id.as_bytes()),
        start: frame.byte_range.map_or(1, |range| range.start.max(1)),
        octets: frame.content_octets(),
        total: frame.byte_range.and_then(|range| range.total),
        flag: match frame.flag {
            msrp::Flag::Last => Flag::Last,
            msrp::Flag::More => Flag::More,
            msrp::Flag::Aborted => Flag::Aborted,
        },
        failure_report: match frame.failure_report {
            msrp::FailureReport::Yes => FailureReport::Yes,
            msrp::FailureReport::Partial => FailureReport::Partial,
            msrp::FailureReport::No => FailureReport::No,
        },
        success_report: frame.success_report,
        taken,
        connection,
    }
}

/// Whether the engine is woken for what a frame has taken: it may have to ask for more, and until its next turn a fast
/// server sends a hundred messages. Once in 32 messages, in 8 where few are left, and when none is.
fn is_to_be_told(per: Per, left: u32, amount: u32) -> bool {
    let step = match (per, left) {
        (_, 0) => return true,
        (Per::Message, ..32) => 8,
        (Per::Message, _) => 32,
        (Per::Kilobyte, _) => 128,
    };
    left / step != left.saturating_add(amount) / step
}

/// Kilobytes that a chunk starts: over the chunks of a message they add up to the kilobytes of the message.
fn kilobytes(start: u64, octets: u64) -> u32 {
    let before = (start - 1).div_ceil(1024);
    let after = (start - 1).saturating_add(octets).div_ceil(1024);
    let least = u64::from(start == 1);
    u32::try_from((after - before).max(least)).unwrap_or(u32::MAX)
}

/// The octets of numbers, to be hashed at once.
fn words(numbers: [u64; 5]) -> [u8; 40] {
    let mut octets = [0; 40];
    for (place, number) in octets.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::kilobytes;

    #[test]
    fn kilobytes_of_chunks_add_up_to_those_of_the_message() {
        for chunk in [1u64, 100, 1023, 1024, 1025, 2048, 5000] {
            for size in [1u64, 1023, 1024, 1025, 4096, 10_001] {
                let starts = (0..size).step_by(chunk as usize);
                let sum: u32 = starts.map(|at| kilobytes(at + 1, chunk.min(size - at))).sum();
                assert_eq!(u64::from(sum), size.div_ceil(1024), "chunks of {chunk} in {size}");
            }
        }
        assert_eq!(kilobytes(1, 0), 1);
        assert_eq!(kilobytes(u64::MAX, u64::MAX), 0);
    }
}
