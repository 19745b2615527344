//! The engine's end of the notice rings.

use super::notice::Notice;
use super::region::Region;
use super::ring::{Full, Ring};
use super::statistic::Statistic;
use crate::charge::ch2::SessionKey;
use crate::simulate::SMALL;

/// Room that every ring must have before events are read: a verdict for each of them.
const ROOM_FOR_VERDICTS: usize = if SMALL { 16 * 1024 } else { 350 * 1024 };

/// Writes notices before the commit, shows them after it.
pub struct Notices {
    rings: Vec<Ring>,
    heads: Vec<u64>,
    shown: Vec<u64>,
}

impl Notices {
    /// Goes on from what was committed: what an engine that died had committed and not shown is shown now.
    pub fn resume(region: &Region, committed: &[u64]) -> Notices {
        let rings: Vec<Ring> = (0..region.resumers()).map(|resumer| region.notice_ring(resumer)).collect();
        let committed = committed.iter().copied().chain(std::iter::repeat(0));
        let heads: Vec<u64> = rings.iter().zip(committed).map(|(ring, mark)| ring.head().max(mark)).collect();
        let mut notices = Notices { rings, heads, shown: Vec::new() };
        notices.shown = notices.rings.iter().map(Ring::head).collect();
        notices
    }

    /// Whether a verdict for each record of a turn would find room.
    pub fn have_room(&self) -> bool {
        let room = |(ring, head): (&Ring, &u64)| ring.write_at(*head, ROOM_FOR_VERDICTS, |_| None).is_ok();
        self.rings.iter().zip(&self.heads).all(room)
    }

    /// Writes a verdict. There is room: see [`Notices::have_room`].
    pub fn verdict(&mut self, region: &Region, notice: &Notice<'_>) {
        if self.write(notice, 0).is_err() {
            region.count(Statistic::DroppedNotices);
        }
    }

    /// Writes the notice of an event route, if that leaves room for verdicts.
    pub fn event(&mut self, region: &Region, notice: &Notice<'_>) {
        if self.write(notice, ROOM_FOR_VERDICTS).is_err() {
            region.count(Statistic::DroppedNotices);
        }
    }

    fn write(&mut self, notice: &Notice<'_>, spare: usize) -> Result<(), Full> {
        let at = resumer_of(notice.session, self.rings.len());
        let (Some(ring), Some(head)) = (self.rings.get(at), self.heads.get_mut(at)) else { return Err(Full) };
        let fill = |space: &mut [u8]| postcard::to_slice(notice, space).ok().map(|written| written.len());
        *head = ring.write_at(*head, spare, fill)?.ok_or(Full)?;
        Ok(())
    }

    /// Up to where each ring is written.
    pub fn heads(&self) -> Vec<u64> {
        self.heads.clone()
    }

    /// Shows everything written.
    pub fn publish(&mut self, region: &Region) {
        for (at, ring) in self.rings.iter().enumerate() {
            if self.shown[at] != self.heads[at] {
                ring.publish(self.heads[at]);
                self.shown[at] = self.heads[at];
                region.wake_resumer(at);
            }
        }
    }
}

/// Notices of one session come in order: always by the same worker.
fn resumer_of(session: SessionKey, resumers: usize) -> usize {
    (session.0 % resumers.max(1) as u64) as usize
}
