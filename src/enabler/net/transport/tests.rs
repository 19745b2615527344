//! One connection on the loopback interface, without Diameter.

use super::*;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const START: Time = Time(0);

/// Both ends of a connection.
fn pair() -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut transport = Transport::connect(address, None, 5, START).expect("a transport");
    let (stream, _) = listener.accept().expect("a connection");
    while !transport.advance(START).expect("no fault") {}
    (transport, stream)
}

/// Reads this many octets.
fn read(transport: &mut Transport, octets: usize) -> Vec<u8> {
    let begun = Instant::now();
    let mut found = Vec::new();
    while found.len() < octets && begun.elapsed() < Duration::from_secs(10) {
        transport.read(|piece| found.extend_from_slice(piece)).expect("open");
    }
    found
}

#[test]
fn connecting_transport_wants_write_and_has_a_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut transport = Transport::connect(listener.local_addr().expect("bound"), None, 5, START).expect("a transport");
    assert_eq!((transport.wants_write(), transport.deadline()), (true, Some(Time(5_000_000))));
    while !transport.advance(START).expect("no fault") {}
    assert_eq!((transport.wants_write(), transport.deadline()), (false, None));
    assert!(transport.advance(Time(9_000_000)).expect("the deadline no longer applies"));
    assert_eq!(transport.local_address(), Ok("127.0.0.1".parse().expect("an address")));
}

#[test]
fn nagle_is_disabled() {
    let (transport, _stream) = pair();
    let Stream::Tcp(stream) = &transport.stream else { panic!("a TCP socket") };
    assert!(stream.nodelay().expect("a socket"));
}

#[test]
fn silent_connection_is_tested_if_asked_for() {
    let (transport, _stream) = pair();
    let Stream::Tcp(stream) = &transport.stream else { panic!("a TCP socket") };
    let socket = socket2::SockRef::from(stream);
    assert!(!socket.keepalive().expect("a socket"));
    transport.keep_alive(10).expect("a socket");
    assert!(socket.keepalive().expect("a socket"));
    assert_eq!(socket.tcp_keepalive_time().expect("a socket"), Duration::from_secs(10));
    assert_eq!(socket.tcp_keepalive_interval().expect("a socket"), Duration::from_secs(10));
    assert_eq!(socket.tcp_keepalive_retries().expect("a socket"), 3);
}

#[test]
fn one_call_reads_a_limited_number_of_octets() {
    let (mut transport, mut stream) = pair();
    let sent = vec![7; 3 * READ_MAX];
    let writer = std::thread::spawn(move || {
        stream.write_all(&sent).expect("written");
        stream
    });
    std::thread::sleep(Duration::from_millis(100));
    let mut first = 0;
    transport.read(|piece| first += piece.len()).expect("open");
    assert!(first < READ_MAX + CHUNK, "{first}");
    assert_eq!(transport.deadline(), Some(Time(0)), "the rest is read without a poll");
    assert_eq!(read(&mut transport, 3 * READ_MAX - first).len(), 3 * READ_MAX - first);
    transport.read(|_| panic!("no more data")).expect("open");
    assert_eq!(transport.deadline(), None);
    drop(writer.join().expect("written"));
    assert_eq!(transport.read(|_| panic!("no more data")), Err("the peer closed the connection".into()));
}

#[test]
fn data_before_the_end_is_read_first() {
    let (mut transport, mut stream) = pair();
    stream.write_all(b"last words").expect("written");
    drop(stream);
    std::thread::sleep(Duration::from_millis(20));
    let mut found = Vec::new();
    let end = transport.read(|piece| found.extend_from_slice(piece));
    assert_eq!((found.as_slice(), end.is_err()), (&b"last words"[..], true));
}

#[test]
fn pending_data_is_written_in_one_call() {
    /// Accepts everything and counts the calls.
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
fn full_socket_accepts_a_part() {
    let (mut transport, _stream) = pair();
    let bytes = vec![1; 64 << 20];
    let taken = transport.write(&bytes).expect("open");
    assert!(taken > 0 && taken < bytes.len(), "{taken}");
}

#[test]
fn io_errors_are_described() {
    let cases = [
        (ErrorKind::ConnectionRefused, "connection refused"),
        (ErrorKind::ConnectionReset, "connection reset by the peer"),
        (ErrorKind::HostUnreachable, "host unreachable"),
        (ErrorKind::TimedOut, "no answer on the connection"),
    ];
    for (kind, words) in cases {
        assert_eq!(describe(&kind.into()), words);
    }
}
