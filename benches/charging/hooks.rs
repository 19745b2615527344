//! The module without a proxy: the MSRP hook, the engine, and the memory of a session.

use super::{Better, median, print_result};
use imcharge::charge::event::Suspended;
use imcharge::charge::service::ChargedContent;
use imcharge::config::Config;
use imcharge::engine;
use imcharge::engine::preflight;
use imcharge::shm::notification::NotificationReader;
use imcharge::shm::region::Region;
use imcharge::worker::sip_input::{Body, Dialog, Frame, Invite, InviteKey, Method, Reply, Request};
use imcharge::worker::{FrameDecision, Worker};
use std::error::Error;
use std::fs;
use std::ops::Range;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Runs `work` on a region whose engine runs in a thread.
fn with_engine<R>(
    sessions: u32,
    work: impl FnOnce(&Arc<Region>) -> Result<R, Box<dyn Error>>,
) -> Result<R, Box<dyn Error>> {
    let state = tempfile::tempdir()?;
    let config = Config {
        state_dir: state.path().to_owned(),
        default_balance: Some(1_000_000_000_000),
        max_sessions: sessions,
        ..Config::default()
    };
    let region = preflight::create_region(config, 2)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let engine = scope.spawn(|| engine::run(&region, &stop));
        let result = work(&region);
        stop.store(true, Ordering::Relaxed);
        engine.join().expect("the engine does not panic")?;
        result
    })
}

fn reserve(worker: &mut Worker, number: usize, messages: u32) -> bool {
    let (call_id, user) = (format!("call-{number}@bench.example"), format!("<sip:user{}@example.org>", number % 1000));
    let invite = Invite {
        key: InviteKey { call_id: call_id.as_bytes(), from_tag: b"caller", cseq: 1 },
        asserted: [user.as_bytes(), b""],
        from: b"",
        called_party: b"",
        request_uri: b"sip:deferred@im.example.org",
        subscriber: b"",
        direction: None,
        charging_vector: b"",
        messages,
        content: ChargedContent::Received,
        recipients: 0,
        tariff: b"",
        offer: Body::default(),
        suspended: Suspended::default(),
    };
    worker.reserve(&invite).is_ok()
}

fn answer(worker: &mut Worker, number: usize) -> bool {
    let call_id = format!("call-{number}@bench.example");
    let side = |end: &str| format!("m=message 9 TCP/MSRP *\r\na=path:msrp://{end}{number};tcp\r\n");
    let (offer, answer) = (side("10.0.0.1:9/C"), side("10.0.0.2:9/S"));
    let dialog = Dialog { call_id: call_id.as_bytes(), from_tag: b"caller", to_tag: b"" };
    let invite = Request { body: Body::sdp(offer.as_bytes()), ..Request::new(Method::Invite, dialog, 1) };
    let reply = Reply { body: Body::sdp(answer.as_bytes()), ..Reply::new(&invite, 200, b"callee") };
    worker.replied(&reply, Some(&invite))
}

/// Reserves for these calls and waits for their verdicts. Retries while the module refuses new calls.
fn reserve_all(region: &Arc<Region>, worker: &mut Worker, numbers: Range<usize>, messages: u32) {
    let (mut reader, mut seen, count) =
        (NotificationReader::attach(region, 0).expect("not attached yet"), 0, numbers.len());
    for number in numbers {
        while !reserve(worker, number, messages) {
            while reader.next(|_| seen += 1) {}
            thread::sleep(Duration::from_micros(200));
        }
    }
    while seen < count {
        reader.wait(Duration::from_millis(1));
        while reader.next(|_| seen += 1) {}
    }
}

/// Messages per session.
const MAILBOX: usize = 10;

/// Measures the hook for a SEND and for its 200, by size of the body: with ten messages per session, then with 20,000.
pub fn hook() -> Result<(), Box<dyn Error>> {
    println!("The MSRP hook, with a running engine");
    let [small, large] = [1_000, 10_000].map(|size| hook_nanos("text/plain", &"x".repeat(size), MAILBOX));
    let (small, large) = (small?, large?);
    let cpim = |size: usize| {
        let head = "From: <sip:alice@example.org>\r\nTo: <sip:bob@example.org>\r\nDateTime: 2026-01-02T03:04:05Z\r\n\
                    NS: imdn <urn:ietf:params:imdn>\r\nimdn.Message-ID: d834jied93rf\r\n\
                    imdn.Disposition-Notification: positive-delivery, display\r\n\r\n\
                    Content-Type: text/plain;charset=utf-8\r\nContent-Length: 500\r\n\r\n";
        format!("{head}{}", "x".repeat(size.saturating_sub(head.len())))
    };
    for (size, (send, response)) in [(1_000, small), (10_000, large)] {
        print_result(&format!("SEND, body of {size} octets"), send, "ns", Some((1000.0, Better::Lower)));
        print_result(&format!("200, after a body of {size} octets"), response, "ns", Some((1000.0, Better::Lower)));
    }
    print_result("  SEND of 10 KB over SEND of 1 KB", large.0 / small.0, "", Some((1.2, Better::Lower)));
    let (send, _) = hook_nanos("message/cpim", &cpim(1_000), MAILBOX)?;
    print_result("SEND, CPIM message of 1000 octets", send, "ns", Some((1000.0, Better::Lower)));
    let (send, _) =
        hook_nanos("message/cpim", &cpim(1_000).replace("text/plain;charset=utf-8", "message/imdn+xml"), MAILBOX)?;
    print_result("SEND, notification of 1000 octets in CPIM", send, "ns", Some((1000.0, Better::Lower)));
    let (send, _) = hook_nanos("text/plain", &"x".repeat(1_000), 20_000)?;
    print_result("SEND, body of 1000 octets, 20,000 messages in one session", send, "ns", None);
    Ok(())
}

/// Returns the median times for a SEND and for its 200, in nanoseconds. The response to a free SEND belongs to no session.
fn hook_nanos(content_type: &str, body: &str, mailbox: usize) -> Result<(f64, f64), Box<dyn Error>> {
    const BATCH: usize = 500;
    const BATCHES: usize = 40;
    const BATCH_PAUSE: Duration = Duration::from_millis(70);
    with_engine(100_000, |region| {
        let mut worker = Worker::attach(region, 0).expect("not attached yet");
        let sessions = (BATCH * BATCHES).div_ceil(mailbox);
        reserve_all(region, &mut worker, 0..sessions, mailbox as u32);
        for number in 0..sessions {
            while !answer(&mut worker, number) {
                thread::sleep(Duration::from_micros(200));
            }
        }
        let ring = region.event_ring(0);
        let (mut sends, mut responses) = (Vec::new(), Vec::new());
        for batch in 0..BATCHES {
            let numbers = (batch * BATCH..(batch + 1) * BATCH).map(|message| (message / mailbox, message));
            let frames: Vec<(String, String)> = numbers
                .map(|(session, message)| (send(session, message, content_type, body), response(session, message)))
                .collect();
            // Not measured: keep below the events per second that one session may cause, and make room in the ring.
            thread::sleep(BATCH_PAUSE);
            while ring.used() > 0 {
                thread::sleep(Duration::from_micros(200));
            }
            sends.push(nanos_each(&mut worker, 7, frames.iter().map(|frame| frame.0.as_str())));
            responses.push(nanos_each(&mut worker, 8, frames.iter().map(|frame| frame.1.as_str())));
        }
        Ok((median(sends), median(responses)))
    })
}

fn nanos_each<'a>(worker: &mut Worker, connection: u64, frames: impl Iterator<Item = &'a str>) -> f64 {
    let frames: Vec<&str> = frames.collect();
    let started = Instant::now();
    for frame in &frames {
        let passage = worker.frame(&Frame::of_connection(frame.as_bytes(), connection));
        assert!(matches!(passage, FrameDecision::Pass | FrameDecision::NotCharged), "{passage:?}");
    }
    started.elapsed().as_nanos() as f64 / frames.len() as f64
}

fn send(session: usize, number: usize, content_type: &str, body: &str) -> String {
    format!(
        "MSRP t{number:08} SEND\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp msrp://10.0.0.1:9/C{session};tcp\r\n\
         From-Path: msrp://10.0.0.2:9/S{session};tcp\r\nMessage-ID: m{number:08}\r\nByte-Range: 1-*/{}\r\n\
         Content-Type: {content_type}\r\n\r\n{body}\r\n-------t{number:08}$\r\n",
        body.len()
    )
}

fn response(session: usize, number: usize) -> String {
    format!(
        "MSRP t{number:08} 200 OK\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp\r\n\
         From-Path: msrp://10.0.0.1:9/C{session};tcp\r\n-------t{number:08}$\r\n"
    )
}

/// Measures complete sessions: reservation, verdict, end, release.
pub fn sessions_per_second() -> Result<(), Box<dyn Error>> {
    println!("\nThe engine alone; every reservation is durable before its verdict");
    const SESSIONS: usize = 60_000;
    let (rate, cpu) = with_engine(200_000, |region| {
        let taken = AtomicUsize::new(0);
        let before = engine_cpu_nanos()?;
        let started = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut worker = Worker::attach(region, 0).expect("not attached yet");
                for number in 0..SESSIONS {
                    while !reserve(&mut worker, number, 1) {
                        thread::sleep(Duration::from_micros(200));
                    }
                }
            });
            let mut readers: Vec<NotificationReader> = (0..region.resume_workers())
                .map(|at| NotificationReader::attach(region, at).expect("not attached yet"))
                .collect();
            let mut ender = Worker::attach(region, 1).expect("not attached yet");
            while taken.load(Ordering::Relaxed) < SESSIONS {
                for reader in &mut readers {
                    reader.wait(Duration::from_millis(1));
                    while reader.next(|notice| {
                        taken.fetch_add(1, Ordering::Relaxed);
                        let dialog = Dialog { call_id: notice.call_id.as_bytes(), from_tag: b"caller", to_tag: b"" };
                        while !ender.end(&dialog, 1, b"bench") {
                            thread::sleep(Duration::from_micros(200));
                        }
                    }) {}
                }
            }
        });
        while region.statistic(imcharge::shm::statistic::Statistic::SessionsActive) > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        Ok((SESSIONS as f64 / started.elapsed().as_secs_f64(), engine_cpu_nanos()? - before))
    })?;
    print_result("sessions/s through one engine, with the callers on the same cores", rate, "", None);
    let per_core = SESSIONS as f64 / (cpu / 1e9);
    print_result("sessions/s per core of the engine", per_core, "", Some((30_000.0, Better::Higher)));
    Ok(())
}

/// Measures how a session with many unanswered messages affects others: octets written, and the time to a verdict.
pub fn large_session() -> Result<(), Box<dyn Error>> {
    println!("\nOne session at 100 frames/s, and INVITEs of other sessions");
    let [(few, _), (many, p99)] = [large_session_of(0)?, large_session_of(3500)?];
    print_result("written, no unanswered messages", few, "B/s", None);
    print_result("written, 3500 unanswered messages", many, "B/s", Some((2.0 * few, Better::Lower)));
    print_result("INVITE to verdict, p99, 3500 unanswered messages", p99, "ms", Some((20.0, Better::Lower)));
    Ok(())
}

/// Returns, for a session with `waiting` unanswered messages, the octets written per second and the p99 from INVITE to
/// verdict in milliseconds.
fn large_session_of(waiting: usize) -> Result<(f64, f64), Box<dyn Error>> {
    const SECONDS: u64 = 4;
    const FRAMES: u64 = 100;
    with_engine(100_000, |region| {
        let mut worker = Worker::attach(region, 0).expect("not attached yet");
        reserve_all(region, &mut worker, 0..1, 10_000);
        while !answer(&mut worker, 0) {
            thread::sleep(Duration::from_micros(200));
        }
        let pass = |worker: &mut Worker, message: usize| {
            let frame = send(0, message, "text/plain", "hello");
            let is_full = |passage| matches!(passage, FrameDecision::Full);
            let mut passage = worker.frame(&Frame::of_connection(frame.as_bytes(), 7));
            while is_full(passage) {
                thread::sleep(Duration::from_micros(200));
                passage = worker.frame(&Frame::of_connection(frame.as_bytes(), 7));
            }
            assert_eq!(passage, FrameDecision::Pass, "message {message}");
        };
        (0..waiting).for_each(|message| pass(&mut worker, message));
        while region.event_ring(0).used() > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        let (before, stop) = (written()?, AtomicBool::new(false));
        let mut waits = thread::scope(|scope| {
            let others = scope.spawn(|| {
                let (mut worker, mut waits) = (Worker::attach(region, 1).expect("not attached yet"), Vec::new());
                for number in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let started = Instant::now();
                    reserve_all(region, &mut worker, number..number + 1, 1);
                    waits.push(started.elapsed().as_secs_f64() * 1000.0);
                    thread::sleep(Duration::from_millis(5));
                }
                waits
            });
            for message in 0..(SECONDS * FRAMES) as usize {
                pass(&mut worker, waiting + message);
                thread::sleep(Duration::from_millis(1000 / FRAMES));
            }
            stop.store(true, Ordering::Relaxed);
            others.join().expect("the caller does not panic")
        });
        waits.sort_by(f64::total_cmp);
        let octets = (written()? - before) as f64 / SECONDS as f64;
        Ok((octets, waits[waits.len() * 99 / 100]))
    })
}

/// Returns the octets that this process has passed to write calls.
fn written() -> Result<u64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/self/io")?;
    let octets = text.lines().find_map(|line| line.strip_prefix("wchar: ")).ok_or("/proc/self/io has no wchar")?;
    Ok(octets.parse()?)
}

/// Returns the CPU time of the busiest thread but the main one, in nanoseconds: that of the engine.
fn engine_cpu_nanos() -> Result<f64, Box<dyn Error>> {
    let mut most = 0.0f64;
    for entry in fs::read_dir("/proc/self/task")?.flatten() {
        let text = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
        let nanos: f64 = text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0.0);
        let own = entry.file_name().to_string_lossy() == std::process::id().to_string();
        most = if own { most } else { most.max(nanos) };
    }
    Ok(most)
}

/// Measures the memory of an open session, with few and with many open.
pub fn memory_of_each_size() -> Result<(), Box<dyn Error>> {
    println!("\nMemory of an open session");
    for count in ["1000", "10000", "100000"] {
        let status = Command::new(std::env::current_exe()?).args(["--open-sessions", count]).status()?;
        if !status.success() {
            return Err(format!("the process with {count} open sessions failed: {status}").into());
        }
    }
    println!();
    Ok(())
}

/// Measures the memory of an open, answered session, in the engine and in the shared table.
pub fn memory(count: usize) -> Result<(), Box<dyn Error>> {
    with_engine(count as u32 + 1000, |region| {
        let mut worker = Worker::attach(region, 0).expect("not attached yet");
        let before = private_octets()?;
        let mut next = 0;
        while next < count {
            let batch = (count - next).min(1000);
            reserve_all(region, &mut worker, next..next + batch, 1);
            for number in next..next + batch {
                answer(&mut worker, number);
            }
            next += batch;
        }
        while region.event_ring(0).used() > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        let private = (private_octets()? - before) as f64 / count as f64;
        let shared = region.octets_per_session() as f64;
        print_result(&format!("{count} sessions: engine"), private, "B", None);
        print_result(
            &format!("{count} sessions: engine and shared table"),
            private + shared,
            "B",
            Some((1024.0, Better::Lower)),
        );
        Ok(())
    })
}

/// Returns the octets of shared memory per session.
pub fn shared_octets_per_session() -> Result<usize, Box<dyn Error>> {
    with_engine(100_000, |region| Ok(region.octets_per_session()))
}

/// Returns the private memory of this process.
fn private_octets() -> Result<i64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).ok_or("smaps_rollup has no Anonymous")?;
    let kilobytes: i64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
