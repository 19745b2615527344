//! Which octets of a message have passed to the client, and which of those must be paid for.

/// Location of a frame's record: instance of the host, process, and end position in the ring.
pub type Place = (u64, usize, u64);

/// Whether content that has passed must be paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// It must.
    Due,
    /// It must not: its type is free.
    Free,
    /// It may be free.
    Uncertain,
}

/// What a frame adds to its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Octets of content; the last ones if the end-line says so (`$`).
    Content { octets: u64, is_last: bool, charge: Charge },
    /// An abort by the server (`#`).
    Abort,
}

/// Whether the engine learns of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EventFate {
    /// Its record is in a ring or was read from there.
    At(Place),
    /// Its record was lost with the memory of the machine.
    Lost,
    /// The worker died while handling the frame: the record may exist, and the frame was not relayed.
    Unknown,
}

/// A frame that has passed.
#[derive(Clone, Copy, Debug)]
struct Frame {
    at: u64,
    part: Part,
    event: EventFate,
}

impl Frame {
    /// Whether the engine handles this frame before a later one for certain.
    fn is_handled_before(&self, later: &Frame) -> bool {
        let is_in_one_ring = match (self.event, later.event) {
            (EventFate::At((instance, process, _)), EventFate::At(place)) => (instance, process) == (place.0, place.1),
            _ => false,
        };
        self.at < later.at || is_in_one_ring
    }
}

/// Frames of a message that the gate let pass, ordered by time.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    frames: Vec<Frame>,
    /// Instance of the host whose gate has stopped a chunk. The rest of the message must not pass there.
    pub stopped_in: Option<u64>,
    /// Whether any chunk was ever stopped.
    pub has_gap: bool,
}

/// Bounds of the octets that must be paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payable {
    /// Octets that certainly passed, were certainly reported to the engine, and were not aborted afterwards.
    pub min: u64,
    /// Octets that may have passed.
    pub max: u64,
}

impl Delivery {
    /// Adds a frame that has passed.
    pub fn passed(&mut self, at: u64, part: Part, place: Place) {
        self.frames.push(Frame { at, part, event: EventFate::At(place) });
    }

    /// Adds a frame whose worker has died.
    pub fn died_with(&mut self, at: u64, part: Part) {
        self.frames.push(Frame { at, part, event: EventFate::Unknown });
    }

    /// The machine has lost its memory, with all records that were not read.
    pub fn lose(&mut self, is_read: impl Fn(&Place) -> bool) {
        for frame in &mut self.frames {
            if matches!(&frame.event, EventFate::At(place) if !is_read(place)) {
                frame.event = EventFate::Lost;
            }
        }
    }

    /// The machine has lost its disk: what was later than `until` may be lost.
    pub fn lose_after(&mut self, until: u64) {
        self.frames.iter_mut().filter(|frame| frame.at > until).for_each(|frame| frame.event = EventFate::Lost);
    }

    /// Whether any content has passed.
    pub fn has_content(&self) -> bool {
        let is_content =
            |frame: &Frame| matches!(frame.part, Part::Content { .. }) && frame.event != EventFate::Unknown;
        self.frames.iter().any(is_content)
    }

    /// Whether some of its content may be free, so that it is not known whether the gate has charged it.
    pub fn may_be_free(&self) -> bool {
        let is_due = |frame: &Frame| matches!(frame.part, Part::Content { charge: Charge::Due, .. } | Part::Abort);
        !self.frames.iter().all(is_due)
    }

    /// Returns when it has passed, if that was in one charged chunk of which the engine learns.
    pub fn passed_whole_at(&self) -> Option<u64> {
        match &*self.frames {
            [Frame { at, part: Part::Content { is_last: true, charge: Charge::Due, .. }, event: EventFate::At(_) }] => {
                Some(*at)
            }
            _ => None,
        }
    }

    /// Whether the server has aborted it, and nothing has passed since.
    pub fn is_given_up(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.part == Part::Abort)
    }

    /// Returns what must be paid for. An aborted message may be free (`abort=release`), unless all of it had passed before;
    /// what passes afterwards is a new message. Of two frames with the same time the engine may handle either one first, unless
    /// they are in one ring.
    pub fn payable(&self) -> Payable {
        let mut payable = Payable { min: 0, max: 0 };
        let (mut end, mut given_up_at) = (None, None);
        for frame in &self.frames {
            match frame.part {
                Part::Content { charge: Charge::Free, .. } => {}
                Part::Content { octets, charge: Charge::Uncertain, .. } => payable.max += octets,
                Part::Content { octets, is_last, charge: Charge::Due } => {
                    payable.max += octets;
                    if matches!(frame.event, EventFate::At(_)) && given_up_at != Some(frame.at) {
                        payable.min += octets;
                        end = end.or(is_last.then_some(frame));
                    }
                }
                Part::Abort if end.is_some_and(|end| end.is_handled_before(frame)) => {}
                Part::Abort => (payable.min, given_up_at) = (0, Some(frame.at)),
            }
        }
        payable
    }
}
