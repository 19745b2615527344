//! What goes wrong, and how it is put right.

use super::{Death, PROCESSES, RESUMERS, SECOND, What, World, say};
use crate::disk::{self, Sickness};
use crate::elsewhere::DOORS;
use imcharge::shm::statistic::Statistic;
use std::time::Duration;

/// A connection that no session has.
const NOBODYS: u64 = 1_000_000;

/// What the charging system does wrong.
const FAULTS: [&str; 15] = [
    "drop rate=1/3",
    "lose rate=1/3",
    "delay=5s rate=1/3",
    "duplicate rate=1/2",
    "refuse=4012 on=initial rate=1/2",
    "protocol-error=3004 rate=1/3",
    "wrong-hbh rate=1/4",
    "silent",
    "garbage rate=1/8",
    "avp-length=3 rate=1/4",
    "close=mid-answer rate=1/4",
    "foreign=granted-before rate=1/2",
    "foreign=granted-after rate=1/2",
    "foreign=refused-before rate=1/2",
    "foreign=refused-after rate=1/2",
];

impl World<'_> {
    pub(super) fn trouble(&mut self) {
        self.tally.faults += 1;
        self.well_since = None;
        self.elsewhere.borrow_mut().disturb(false);
        let kind = self.random.u8(0..19);
        say(format_args!("{} trouble {kind}", self.machine.clock.get()));
        match kind {
            // At some step of whoever runs then, also in the middle of a commit.
            0..=3 => self.kill_in_a_while(Death::Engine),
            4 => self.kill_in_a_while(Death::Host),
            5 => self.kill_in_a_while(Death::Machine),
            6 => self.die_with_its_host(Death::Host),
            7 => self.die_with_its_host(Death::Machine),
            8 => self.stop_the_host(),
            9 => {
                let step = self.random.i64(-86_400_000_000..86_400_000_000);
                self.machine.wall.set(self.machine.wall.get() + step);
            }
            10 | 11 => self.for_a_while(|world| {
                let sicknesses = [Sickness::Full, Sickness::Writes, Sickness::Syncs, Sickness::Reads];
                let sickness = world.random.choice(sicknesses);
                disk::on(|disk| disk.sickness = sickness);
            }),
            12 => self.for_a_while(|world| {
                let deaf = world.some_doors();
                world.elsewhere.borrow_mut().cut(&deaf);
                *world.machine.refusing_ports.borrow_mut() = deaf;
            }),
            13 => {
                // The engine stands still, perhaps until the supervisor kills it.
                let most = if self.random.u8(0..4) == 0 { 40 } else { 5 };
                let stands = self.random.u64(0..most * SECOND);
                self.stands_until = self.machine.clock.get() + stands;
                self.life += 1;
                let life = self.life;
                self.after(stands, What::Engine(life));
            }
            14 => self.flood(),
            // All processes are frozen: a container's pause, a snapshot of the machine.
            15 => {
                self.machine.pass(Duration::from_micros(self.random.u64(0..100 * SECOND)));
                // The supervisor has had no time to start an engine.
                self.down_since = None;
            }
            // The next engine takes its time to start: a slow disk, a million sessions.
            16 => {
                self.next_start_takes = 30 * SECOND;
                self.die_with_its_host(Death::Engine);
            }
            17 => {
                // The script blocks in one resume worker, or in each.
                let now = self.machine.clock.get();
                let blocks = (0..RESUMERS as usize).map(|_| self.random.u64(0..20 * SECOND)).collect::<Vec<_>>();
                let one = self.random.usize(0..2 * RESUMERS as usize);
                for (at, time) in
                    blocks.into_iter().enumerate().filter(|(at, _)| *at == one || one >= RESUMERS as usize)
                {
                    self.resumers_block_until[at] = now + time;
                }
            }
            _ => self.for_a_while(|world| {
                let fault = world.random.choice(FAULTS).unwrap_or_default();
                let doors = world.some_doors();
                let mut elsewhere = world.elsewhere.borrow_mut();
                elsewhere.ill = doors.first().copied().filter(|_| doors.len() == 1);
                elsewhere.ocs.faults.set(fault).unwrap_or_else(|error| panic!("{error}"));
            }),
        }
    }

    /// One of the charging system's doors, or all.
    fn some_doors(&mut self) -> Vec<u16> {
        match self.random.usize(0..3) {
            at @ (0 | 1) => vec![DOORS[at].1],
            _ => DOORS.map(|door| door.1).to_vec(),
        }
    }

    /// A process of the host tells so much at once that its ring is full.
    fn flood(&mut self) {
        let Some(region) = self.region.clone() else { return };
        let process = self.random.usize(0..PROCESSES);
        let dropped = region.statistic(Statistic::DroppedRingFull);
        let crash = self.machine.crash_in.take();
        while region.statistic(Statistic::DroppedRingFull) == dropped {
            self.workers[process].connection_lost(NOBODYS);
        }
        self.machine.crash_in.set(crash);
    }

    fn kill_in_a_while(&mut self, death: Death) {
        let most = 1 << self.random.u32(0..8);
        let moments = self.random.u32(0..most);
        self.dies = death;
        self.machine.crash_in.set(Some(moments));
    }

    fn die_with_its_host(&mut self, death: Death) {
        if self.region.is_some() {
            self.die(death);
        }
    }

    fn for_a_while(&mut self, begin: impl FnOnce(&mut Self)) {
        begin(self);
        self.is_ill = true;
        self.elsewhere.borrow_mut().disturb(true);
        self.soon(15 * SECOND, What::Mend);
    }

    pub(super) fn mend(&mut self) {
        self.is_ill = false;
        self.resumers_block_until = [0; RESUMERS as usize];
        self.machine.crash_in.set(None);
        disk::on(|disk| disk.sickness = None);
        self.machine.refusing_ports.borrow_mut().clear();
        let mut elsewhere = self.elsewhere.borrow_mut();
        elsewhere.disturb(false);
        elsewhere.is_ill = false;
        elsewhere.ocs.faults.clear();
    }
}
