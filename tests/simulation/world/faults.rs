//! Faults, and their repair.

use super::{Death, PROCESSES, RESUME_WORKERS, SECOND, Step, World, print_trace};
use crate::disk::{self, DiskFault};
use crate::network::PEERS;
use imcharge::shm::statistic::Statistic;
use std::time::Duration;

/// A connection without a session.
const UNUSED_CONNECTION: u64 = 1_000_000;

/// Faults of the OCS.
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
    pub(super) fn inject_fault(&mut self) {
        self.tally.faults += 1;
        self.faultless_since = None;
        self.network.borrow_mut().record_fault(false);
        let kind = self.random.u8(0..19);
        print_trace(format_args!("{} fault {kind}", self.machine.clock.get()));
        match kind {
            12 | 14 | 18 if self.shared.is_some() => self.break_down(),
            // At some step of the process that runs then, also in the middle of a commit.
            0..=3 => self.kill_later(Death::Engine),
            4 => self.kill_later(Death::Host),
            5 => self.kill_later(Death::Machine),
            6 => self.die_if_host_runs(Death::Host),
            7 => self.die_if_host_runs(Death::Machine),
            8 => self.stop_host(),
            9 => {
                let step = self.random.i64(-86_400_000_000..86_400_000_000);
                self.machine.wall.set(self.machine.wall.get() + step);
            }
            10 | 11 => self.temporarily(|world| {
                let faults = [DiskFault::Full, DiskFault::Writes, DiskFault::Syncs, DiskFault::Reads];
                let fault = world.random.choice(faults);
                disk::on(|disk| disk.fault = fault);
            }),
            12 => self.temporarily(|world| {
                let refusing = world.some_peers();
                world.network.borrow_mut().cut(&refusing);
                *world.machine.refusing_ports.borrow_mut() = refusing;
            }),
            13 => {
                // The engine is frozen, perhaps until the supervisor kills it.
                let max = if self.random.u8(0..4) == 0 { 40 } else { 5 };
                let freeze = self.random.u64(0..max * SECOND);
                self.is_frozen = true;
                self.life += 1;
                let life = self.life;
                self.after(freeze, Step::Engine(life));
            }
            14 => self.flood(),
            // All processes are frozen: a container's pause, a snapshot of the machine.
            15 => {
                self.machine.pass(Duration::from_micros(self.random.u64(0..100 * SECOND)));
                // The supervisor was frozen before it could start an engine.
                self.down_since = None;
            }
            // The next engine starts slowly: a slow disk, a million sessions.
            16 => {
                self.next_start_micros = 30 * SECOND;
                self.die_if_host_runs(Death::Engine);
            }
            17 => {
                // The script blocks in one resume worker, or in all.
                let now = self.machine.clock.get();
                let blocks = (0..RESUME_WORKERS as usize).map(|_| self.random.u64(0..20 * SECOND)).collect::<Vec<_>>();
                let one = self.random.usize(0..2 * RESUME_WORKERS as usize);
                for (at, time) in
                    blocks.into_iter().enumerate().filter(|(at, _)| *at == one || one >= RESUME_WORKERS as usize)
                {
                    self.resume_workers_block_until[at] = now + time;
                }
            }
            _ => self.temporarily(|world| {
                let fault = world.random.choice(FAULTS).unwrap_or_default();
                let peers = world.some_peers();
                let mut network = world.network.borrow_mut();
                network.faulty_peer = peers.first().copied().filter(|_| peers.len() == 1);
                network.ocs.faults.set(fault).unwrap_or_else(|error| panic!("{error}"));
            }),
        }
    }

    /// Some peers of the OCS, or all.
    fn some_peers(&mut self) -> Vec<u16> {
        match self.random.usize(0..3) {
            at @ (0 | 1) => vec![PEERS[at].1],
            _ => PEERS.map(|peer| peer.1).to_vec(),
        }
    }

    /// A process of the host writes so many events that its ring is full.
    fn flood(&mut self) {
        let Some(region) = self.region.clone() else { return };
        let process = self.random.usize(0..PROCESSES);
        let dropped = region.statistic(Statistic::DroppedRingFull);
        let crash = self.machine.crash_in.take();
        while region.statistic(Statistic::DroppedRingFull) == dropped {
            self.workers[process].connection_lost(UNUSED_CONNECTION);
        }
        self.machine.crash_in.set(crash);
    }

    fn kill_later(&mut self, death: Death) {
        let max = 1 << self.random.u32(0..8);
        let crash_points = self.random.u32(0..max);
        self.next_death = death;
        self.machine.crash_in.set(Some(crash_points));
    }

    fn die_if_host_runs(&mut self, death: Death) {
        if self.region.is_some() {
            self.die(death);
        }
    }

    fn temporarily(&mut self, begin: impl FnOnce(&mut Self)) {
        begin(self);
        self.is_faulty = true;
        self.network.borrow_mut().record_fault(true);
        self.within(15 * SECOND, Step::Repair);
    }

    pub(super) fn repair(&mut self) {
        self.is_faulty = false;
        self.resume_workers_block_until = [0; RESUME_WORKERS as usize];
        self.machine.crash_in.set(None);
        disk::on(|disk| disk.fault = None);
        self.machine.refusing_ports.borrow_mut().clear();
        let mut network = self.network.borrow_mut();
        network.record_fault(false);
        network.is_faulty = false;
        network.ocs.faults.clear();
    }
}
