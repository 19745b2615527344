//! What of a message has passed to the client, octet by octet, and what of that has to be paid for.

/// Where the record of a frame is in a ring: instance of the host, process, position of its end.
pub type Place = (u64, usize, u64);

/// What a frame was to its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Octets of content; the last ones where the end-line says so (`$`).
    Content { octets: u64, is_last: bool },
    /// The server gave the message up (`#`).
    Abort,
}

/// What is known of the record by which the engine learns of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It is in a ring, or was read from there.
    At(Place),
    /// It was in a ring, and was lost with the memory of the machine.
    Lost,
    /// The worker died with the frame: it may have written the record or not, and the frame did not go on.
    Unknown,
}

/// A frame that has passed.
#[derive(Clone, Copy, Debug)]
struct Frame {
    at: u64,
    part: Part,
    told: Told,
}

/// The frames of one message that the gate let pass, in the order of time.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    frames: Vec<Frame>,
    /// The instance of the host whose gate has stopped a chunk: the rest of the message must not pass there.
    pub stopped_in: Option<u64>,
    /// Whether a chunk was ever stopped.
    pub has_gap: bool,
}

/// Octets that have to be paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    /// At least: what certainly passed, was certainly told to the engine, and was not given up afterwards.
    pub least: u64,
    /// At most: all that may have passed.
    pub most: u64,
}

impl Delivery {
    /// A frame has passed.
    pub fn passed(&mut self, at: u64, part: Part, place: Place) {
        self.frames.push(Frame { at, part, told: Told::At(place) });
    }

    /// A worker has died with a frame.
    pub fn died_with(&mut self, at: u64, part: Part) {
        self.frames.push(Frame { at, part, told: Told::Unknown });
    }

    /// The memory of the machine is lost, and with it what was not read.
    pub fn lose(&mut self, is_read: impl Fn(&Place) -> bool) {
        for frame in &mut self.frames {
            if matches!(&frame.told, Told::At(place) if !is_read(place)) {
                frame.told = Told::Lost;
            }
        }
    }

    /// Whether any content has passed.
    pub fn has_content(&self) -> bool {
        let is_content = |frame: &Frame| matches!(frame.part, Part::Content { .. }) && frame.told != Told::Unknown;
        self.frames.iter().any(is_content)
    }

    /// Whether the server has given it up, and nothing has passed since then.
    pub fn is_given_up(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.part == Part::Abort)
    }

    /// What has to be paid for. What the server gives up may be free (`abort=release`), unless all of it had passed before;
    /// what passes afterwards is a message of its own. Of two frames with the same time the engine may take either for the
    /// first one.
    pub fn owed(&self) -> Owed {
        let mut owed = Owed { least: 0, most: 0 };
        let (mut is_whole, mut given_up_at) = (false, None);
        for Frame { at, part, told } in &self.frames {
            match *part {
                Part::Content { octets, is_last } => {
                    owed.most += octets;
                    if matches!(told, Told::At(_)) && given_up_at != Some(at) {
                        owed.least += octets;
                        is_whole |= is_last;
                    }
                }
                Part::Abort if is_whole => {}
                Part::Abort => (owed.least, given_up_at) = (0, Some(at)),
            }
        }
        owed
    }
}
