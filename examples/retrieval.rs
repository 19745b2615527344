//! Four charged retrievals of stored messages through a real Kamailio: accepted, rejected and ignored by the client, and
//! without credit. Prints each as a message ladder with the account before and after. Exits with 0 only if all accounts
//! are correct.

use imcharge::admin::ladder;
use imcharge::charge::session::Session;
use imcharge_testkit::parties::client::{ImClient, Options as ClientOptions, Reaction};
use imcharge_testkit::parties::server::{ImServer, Options as ServerOptions, stored_messages};
use imcharge_testkit::proxy::{Account, Proxy, Setup};
use imcharge_testkit::{CLIENT, ENABLER, Event, Events, PROXY, SERVER, eventually, unix_micros};
use std::error::Error;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::Duration;

const ALICE: &str = "sip:alice@example.org";
const BOB: &str = "sip:bob@example.org";

/// Price of a message, in cents.
const PRICE: i64 = 25;

/// Seconds until a message without a response is debited.
const RESPONSE_TIMEOUT: &str = "2";

fn main() {
    if let Err(error) = run() {
        eprintln!("retrieval: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut module = PathBuf::from("out/imcharge.so");
    let mut store = PathBuf::from("examples/messages");
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("module") => module = parser.value()?.into(),
            lexopt::Arg::Long("store") => store = parser.value()?.into(),
            other => return Err(other.unexpected().into()),
        }
    }
    let messages = stored_messages(&store)
        .map_err(|error| format!("--store {}: {error}", store.display()))?
        .into_iter()
        .map(|(_, body)| body)
        .collect::<Vec<_>>();
    println!("starting Kamailio with {}", module.display());
    let module = module.canonicalize().map_err(|error| format!("--module {}: {error}", module.display()))?;
    let folder = module.parent().ok_or("--module has no parent folder")?;
    // Proxy and server need each other's address, so the socket of the server is bound first.
    let server_socket = UdpSocket::bind("127.0.0.1:0")?;
    let setup = Setup::new(folder, server_socket.local_addr()?)
        .defined("TARIFF", format!("\"message:{PRICE}\""))
        .defined("RESPONSE_TIMEOUT", RESPONSE_TIMEOUT)
        .parameter("unit", "\"money\"");
    let proxy = Proxy::start(setup)?;
    proxy.set_account(ALICE, 1000);
    proxy.set_account(BOB, PRICE - 1);
    let count = messages.len() as i64;
    let mut correct = true;
    for (title, who, reaction, expected) in [
        ("1. Every message is answered 200", ALICE, Reaction::Answer(200), count * PRICE),
        ("2. The client answers 415", ALICE, Reaction::Answer(415), count * PRICE),
        ("3. The client never answers", ALICE, Reaction::Silence, count * PRICE),
        ("4. There is no credit", BOB, Reaction::Answer(200), 0),
    ] {
        let before = proxy.account(who).ok_or("the account does not exist")?;
        let retrieval = retrieve(&proxy, &server_socket, &messages, who, reaction)?;
        let after = settled(&proxy, who, before, expected);
        println!("\n{title}\n");
        print_ladder(&retrieval);
        println!(
            "\n  {who}   before: {}\n  {:width$}   after:  {}",
            money(before),
            "",
            money(after),
            width = who.len()
        );
        let is_correct =
            after.debited - before.debited == expected && after.balance == before.balance - expected && after.held == 0;
        println!("  {} {}", if is_correct { "correct:" } else { "WRONG, expected" }, cost(expected));
        correct &= is_correct;
    }
    let debits = proxy.debits(ALICE);
    println!("\nDebits (sqlite3 ledger.sqlite 'SELECT * FROM debits'):\n");
    for debit in &debits {
        println!(
            "  {:24} {:6} octets {:4} cents  {} {}",
            debit.message_id, debit.octets, debit.units, debit.trigger, debit.code
        );
    }
    correct &= debits.len() as i64 == 3 * count;
    drop(proxy);
    match correct {
        true => {
            println!("\nAll accounts are correct.");
            Ok(())
        }
        false => Err("an account is wrong".into()),
    }
}

fn cost(cents: i64) -> String {
    format!("{cents} cents debited, nothing held")
}

fn money(account: Account) -> String {
    format!("balance {:5}   held {:4}   debited {:5}   (cents)", account.balance, account.held, account.debited)
}

/// Runs one retrieval. Returns all its events.
fn retrieve(
    proxy: &Proxy,
    server_socket: &UdpSocket,
    messages: &[Vec<u8>],
    who: &str,
    reaction: Reaction,
) -> Result<Vec<Event>, Box<dyn Error>> {
    let events = Events::default();
    let mut options = ServerOptions::new(proxy.msrp, &[]);
    options.messages =
        messages.iter().enumerate().map(|(at, m)| (format!("{}-{at}", name_of(who, reaction)), m.clone())).collect();
    let server = ImServer::start(server_socket, options, events.clone())?;
    let mut client = ImClient::new(ClientOptions::new(proxy.sip, proxy.msrp, who), events.clone())?;
    if client.invite() == 200 {
        client.bind();
        client.take(messages.len(), reaction);
        if reaction == Reaction::Silence {
            // Stay connected until the response timeout has expired.
            eventually(Duration::from_secs(10), || {
                proxy.debits(who).iter().filter(|debit| debit.trigger == "timeout").count() >= messages.len()
            });
        }
        client.bye();
    }
    let call_id = client.call_id.clone();
    eventually(Duration::from_secs(10), || {
        proxy.count(&format!("SELECT count(*) FROM sessions WHERE call_id='{call_id}' AND closed_at IS NOT NULL")) == 1
    });
    drop(server);
    let mut all = events.all();
    all.extend(charging_events(proxy, &call_id)?);
    all.sort_by_key(|event| event.at);
    Ok(all)
}

/// Returns the prefix of the Message-IDs.
fn name_of(who: &str, reaction: Reaction) -> String {
    let user = who.split([':', '@']).nth(1).unwrap_or_default();
    match reaction {
        Reaction::Answer(code) => format!("{user}-{code}"),
        Reaction::Silence => format!("{user}-silence"),
    }
}

/// Returns the CH-2 requests and responses from the history. Their times are relative to the start of the session, which
/// the stored session state has on the monotonic clock, to the microsecond.
fn charging_events(proxy: &Proxy, call_id: &str) -> Result<Vec<Event>, Box<dyn Error>> {
    let ledger = proxy.ledger();
    let state = "SELECT state FROM states JOIN sessions ON id=session WHERE call_id=?1";
    let state: Vec<u8> = ledger.query_row(state, [call_id], |row| row.get(0))?;
    let zero = unix_micros() - imcharge::shm::clock::now().0 + postcard::from_bytes::<Session>(&state)?.opened().0;
    let sql = "SELECT micros, step, coalesce(quota, 0) FROM steps JOIN sessions ON id=session WHERE call_id=?1";
    let mut statement = ledger.prepare(sql)?;
    let steps = statement.query_map([call_id], |row| row.try_into())?;
    let steps = steps.collect::<rusqlite::Result<Vec<(u64, String, u32)>>>()?;
    let events = steps.into_iter().filter_map(|(micros, step, quota)| {
        let (from, to, text) = match step.as_str() {
            "reserve" => (PROXY, ENABLER, format!("reserve units ({quota})")),
            "granted" => (ENABLER, PROXY, format!("granted ({quota})")),
            "denied" => (ENABLER, PROXY, "denied".to_owned()),
            "debit" => (PROXY, ENABLER, "debit units (1)".to_owned()),
            "debited" => (ENABLER, PROXY, "debited".to_owned()),
            "release" => (PROXY, ENABLER, "release (0 used)".to_owned()),
            "released" => (ENABLER, PROXY, "released".to_owned()),
            "timeout" => (PROXY, PROXY, "response timeout".to_owned()),
            _ => return None,
        };
        Some(Event { at: zero + micros, from, to, text })
    });
    Ok(events.collect())
}

/// Waits for the account to reach the expected state. Returns its last state.
fn settled(proxy: &Proxy, who: &str, before: Account, expected: i64) -> Account {
    let after = proxy.account_becomes(who, before.balance - expected, 0, before.debited + expected);
    after.unwrap_or(before)
}

/// Prints the events as a ladder, like Figure 15 of the OMA specification: one column per party, times in milliseconds.
fn print_ladder(events: &[Event]) {
    let columns = [CLIENT, PROXY, SERVER, ENABLER];
    println!("{}", ladder::header(&columns));
    let zero = events.first().map_or(0, |event| event.at);
    for event in events {
        let place = |name: &str| columns.iter().position(|column| *column == name).unwrap_or(0);
        let (from, to) = (place(event.from), place(event.to));
        println!("{}", ladder::line(columns.len(), event.at - zero, from, to, &event.text));
    }
}
