//! Hostile input: malformed and forged SIP, MSRP and Diameter against the running proxy. Whatever it receives, it
//! answers on, no process of it ends, its memory does not grow, and the money is right in the end.

mod answers;
mod diameter;
mod identities;
mod msrp;
mod torture;

use imcharge_testkit::eventually;
use imcharge_testkit::proxy::Proxy;
use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// How long the proxy may take for an OPTIONS: far more than it needs, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(5);

/// A proxy's processes, as they were when all was well.
pub struct Vitals<'a> {
    proxy: &'a Proxy,
    processes: BTreeSet<u32>,
    socket: UdpSocket,
}

impl<'a> Vitals<'a> {
    /// Records the state of a healthy proxy after all its processes have started: the TCP main process is the last of
    /// the host's, and the supervisor starts the engine at any time.
    pub fn of(proxy: &'a Proxy) -> Vitals<'a> {
        pour(proxy.msrp, b"");
        assert!(eventually(PATIENCE, || proxy.engine_pid().is_some()), "{}", proxy.log());
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out can be set");
        Vitals { proxy, processes: processes(proxy), socket }
    }

    /// The proxy answers, and every process is the one that it was: none has died, none was started in its place.
    #[track_caller]
    pub fn assert_well(&self, after: &str) {
        let serves = self.serves();
        let now = processes(self.proxy);
        assert!(serves && now == self.processes, "after {after}: {:?} became {now:?}\n{}", self.processes, self.end());
    }

    /// The same, and the engine was never started again.
    #[track_caller]
    pub fn assert_unharmed(&self) {
        self.assert_well("everything");
        assert_eq!(self.proxy.statistic("engine_restarts"), 0, "{}", self.end());
    }

    /// The end of the log: hostile input fills much of it.
    fn end(&self) -> String {
        let log = self.proxy.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn serves(&self) -> bool {
        let (asked, proxy) = (Instant::now(), self.proxy.sip);
        let own = self.socket.local_addr().expect("bound");
        while asked.elapsed() < PATIENCE {
            let number = imcharge_testkit::unique();
            let text = format!(
                "OPTIONS sip:{proxy} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKv{number};rport\r\n\
                 From: <sip:a@b>;tag=1\r\nTo: <sip:{proxy}>\r\nCall-ID: v{number}\r\nCSeq: 1 OPTIONS\r\n\
                 Max-Forwards: 9\r\nContent-Length: 0\r\n\r\n"
            );
            let _ = self.socket.send_to(text.as_bytes(), proxy);
            let mut answer = [0; 2048];
            if matches!(self.socket.recv(&mut answer), Ok(octets) if answer[..octets].starts_with(b"SIP/2.0 200")) {
                return true;
            }
        }
        false
    }
}

/// All processes of a proxy: those of its group, the engine and its supervisor among them.
fn processes(proxy: &Proxy) -> BTreeSet<u32> {
    let group = proxy.pid().to_string();
    let entries = fs::read_dir("/proc").expect("there is /proc").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let belongs = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // pid (comm) state ppid pgrp ...
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        fields.split_whitespace().nth(2) == Some(&group) && !fields.trim_start().starts_with('Z')
    };
    numbers.filter(belongs).collect()
}

/// Octets of memory: what the processes have each for themselves, and what is in use of the host's shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    own: i64,
    shared: i64,
}

impl Memory {
    /// Of a proxy now.
    pub fn of(proxy: &Proxy) -> Memory {
        let own = processes(proxy).into_iter().map(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            field(&text, "Anonymous:") * 1024
        });
        let shared = proxy.rpc(&["core.shmmem"]).unwrap_or_default();
        Memory { own: own.sum(), shared: field(&shared, "real_used:") }
    }

    /// What the processes have for themselves more than they had.
    pub fn own_since(self, before: Memory) -> i64 {
        (self.own - before.own).max(0)
    }

    /// Waits until no more is in use than `before` and so much more: what ends late is given back late.
    #[track_caller]
    pub fn assert_flat(before: Memory, proxy: &Proxy, own: i64, shared: i64) {
        let mut now = before;
        let flat = eventually(Duration::from_secs(10), || {
            now = Memory::of(proxy);
            now.own_since(before) <= own && now.shared - before.shared <= shared
        });
        assert!(flat, "{before:?} became {now:?}");
    }
}

/// Writes bytes on a separate connection, shuts down its half, and reads until the proxy closes the other: then all
/// bytes have been processed. Returns the proxy's answer.
pub fn pour(relay: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(relay).expect("the relay takes a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    let mut reading = stream.try_clone().expect("a second descriptor");
    std::thread::scope(|scope| {
        let answers = scope.spawn(move || {
            let mut answers = Vec::new();
            // A reset is an end as well: the proxy closes what it cannot read.
            let ended = reading.read_to_end(&mut answers);
            let waited = ended.err().filter(|error| error.kind() == ErrorKind::WouldBlock);
            assert!(waited.is_none(), "the proxy leaves a connection open that has ended");
            answers
        });
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        answers.join().expect("the connection ends")
    })
}

/// Counters of the module, all of one moment.
pub fn statistics<const N: usize>(proxy: &Proxy, names: [&str; N]) -> [i64; N] {
    let all = proxy.rpc(&["imcharge.stats"]).unwrap_or_else(|error| panic!("{error}\n{}", proxy.log()));
    names.map(|name| field(&all, &format!("{name}:")))
}

/// Octets without a pattern, the same for the same seed (xorshift).
pub fn garbage(seed: u32, octets: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(octets).collect()
}

/// Returns the number after a word.
fn field(text: &str, name: &str) -> i64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
    line.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
