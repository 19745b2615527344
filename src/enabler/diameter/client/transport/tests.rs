//! One connection on the loopback, without a word of Diameter.

use super::*;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const START: Time = Time(0);

/// Both ends of a connection.
fn pair() -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut transport = Transport::connect(address, None, 5, START).expect("begun");
    let (stream, _) = listener.accept().expect("a connection");
    while !transport.advance(START).expect("no fault") {}
    (transport, stream)
}

/// Reads until this many octets are there.
fn read(transport: &mut Transport, octets: usize) -> Vec<u8> {
    let begun = Instant::now();
    let mut found = Vec::new();
    while found.len() < octets && begun.elapsed() < Duration::from_secs(10) {
        transport.read(|piece| found.extend_from_slice(piece)).expect("open");
    }
    found
}

#[test]
fn a_connection_wants_to_write_until_it_is_up_and_has_a_deadline_until_then() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut transport = Transport::connect(listener.local_addr().expect("bound"), None, 5, START).expect("begun");
    assert_eq!((transport.wants_write(), transport.deadline()), (true, Some(Time(5_000_000))));
    while !transport.advance(START).expect("no fault") {}
    assert_eq!((transport.wants_write(), transport.deadline()), (false, None));
    assert!(transport.advance(Time(9_000_000)).expect("the deadline is of no account any more"));
    assert_eq!(transport.local_address(), Ok("127.0.0.1".parse().expect("an address")));
}

#[test]
fn nothing_waits_for_the_acknowledgement_of_what_was_written_before() {
    let (transport, _stream) = pair();
    let Stream::Tcp(stream) = &transport.stream else { panic!("a socket of the system") };
    assert!(stream.nodelay().expect("a socket"));
}

#[test]
fn one_turn_reads_no_more_than_it_may() {
    let (mut transport, mut stream) = pair();
    let sent = vec![7; 3 * TURN_MAX];
    let writer = std::thread::spawn(move || {
        stream.write_all(&sent).expect("written");
        stream
    });
    std::thread::sleep(Duration::from_millis(100));
    let mut first = 0;
    transport.read(|piece| first += piece.len()).expect("open");
    assert!(first < TURN_MAX + CHUNK, "{first}");
    assert_eq!(read(&mut transport, 3 * TURN_MAX - first).len(), 3 * TURN_MAX - first);
    drop(writer.join().expect("written"));
    assert_eq!(transport.read(|_| panic!("there is no more")), Err("the peer closed the connection".into()));
}

#[test]
fn what_came_before_the_end_is_read_before_it_is_told() {
    let (mut transport, mut stream) = pair();
    stream.write_all(b"last words").expect("written");
    drop(stream);
    std::thread::sleep(Duration::from_millis(20));
    let mut found = Vec::new();
    let end = transport.read(|piece| found.extend_from_slice(piece));
    assert_eq!((found.as_slice(), end.is_err()), (&b"last words"[..], true));
}

#[test]
fn what_waits_is_handed_over_at_once() {
    /// Takes everything, and counts how often it is asked to.
    struct Socket(Vec<usize>);
    impl Write for Socket {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut socket = Socket(Vec::new());
    assert_eq!(write_all(&mut socket, &[7; 100_000]).expect("taken"), 100_000);
    assert_eq!(socket.0, [100_000]);
}

#[test]
fn a_full_socket_takes_a_part() {
    let (mut transport, _stream) = pair();
    let bytes = vec![1; 64 << 20];
    let taken = transport.write(&bytes).expect("open");
    assert!(taken > 0 && taken < bytes.len(), "{taken}");
}

#[test]
fn faults_are_plain_words() {
    let cases = [
        (ErrorKind::ConnectionRefused, "connection refused"),
        (ErrorKind::ConnectionReset, "connection reset by the peer"),
        (ErrorKind::HostUnreachable, "host unreachable"),
        (ErrorKind::TimedOut, "no answer on the connection"),
    ];
    for (kind, words) in cases {
        assert_eq!(plain(&kind.into()), words);
    }
}
