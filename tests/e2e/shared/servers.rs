//! The database servers of these tests do what the tests rely on.

use super::SOON;
use super::store::Store;
use imcharge_testkit::eventually;
use imcharge_testkit::postgres::Wire;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// A table that has nothing to do with imcharge.
fn table(store: &Store) {
    store.sql("CREATE TABLE public.numbers(number int)");
}

fn insert(store: &Store, number: i32) {
    store.sql(&format!("INSERT INTO public.numbers VALUES ({number})"));
}

fn numbers(store: &Store) -> Vec<String> {
    store.sql("SELECT number FROM public.numbers ORDER BY 1").concat()
}

#[test]
fn promoted_standby_has_every_confirmed_commit_and_the_cluster_is_completed() {
    let mut store = Store::start(2);
    table(&store);
    for round in 0..3 {
        insert(&store, round);
        store.fail_over();
        assert_eq!(numbers(&store).len(), round as usize + 1);
        store.complete();
    }
}

#[test]
fn commit_waits_while_all_standbys_are_stopped() {
    let store = Store::start(1);
    table(&store);
    store.stall_standbys();
    let waits = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| insert(&store, 1));
        let is_waiting = || store.number("SELECT count(*) FROM pg_stat_activity WHERE wait_event='SyncRep'") == 1;
        let waits = eventually(SOON, is_waiting) && !waiting.is_finished();
        store.resume_standbys();
        waits
    });
    assert!(waits && numbers(&store) == ["1"]);
}

#[test]
fn disconnected_asynchronous_standby_lacks_later_commits() {
    let mut store = Store::start_async(1);
    table(&store);
    store.disconnect_standbys();
    insert(&store, 1);
    store.fail_over();
    assert!(numbers(&store).is_empty());
}

#[test]
fn wire_passes_swallows_and_cuts() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let wire = Wire::to(listener.local_addr().expect("an address").port());
    let connect = || {
        let client = TcpStream::connect(("127.0.0.1", wire.port)).expect("a connection");
        client.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        (client, listener.accept().expect("a connection").0)
    };
    let (mut client, mut server) = connect();
    let mut space = [0; 4];
    client.write_all(b"ping").expect("sent");
    server.read_exact(&mut space).expect("passed");
    wire.swallow_answers();
    server.write_all(b"pong").expect("sent");
    assert!(client.read(&mut space).is_err(), "an answer has passed");
    wire.pass();
    assert_eq!(client.read(&mut space).ok(), Some(0), "the connection that lost octets stays");
    let (mut client, mut server) = connect();
    wire.cut_after(2, false);
    client.write_all(b"ping").expect("sent");
    assert_eq!(server.read(&mut space).ok(), Some(2));
    assert_eq!(server.read(&mut space).ok(), Some(0), "the connection is not cut");
    let (mut client, mut server) = connect();
    client.write_all(b"ping").expect("sent");
    server.read_exact(&mut space).expect("passed");
    assert_eq!(wire.connections(), 3);
}
