//! Charged instant messages through a real Kamailio: four retrievals of stored messages (accepted, rejected and ignored by the
//! client, and without credit), a chat, and a SIP MESSAGE. Prints each as a message ladder with the accounts before and
//! after. Exits with 0 only if all accounts are correct.

use imcharge::admin::ladder;
use imcharge::charge::session::Session;
use imcharge_testkit::ladder::of_call as ladder_of_call;
use imcharge_testkit::parties::client::{ImClient, Options as ClientOptions, Reaction};
use imcharge_testkit::parties::page::{PageReceiver, PageSender};
use imcharge_testkit::parties::server::{ImServer, Options as ServerOptions, stored_messages};
use imcharge_testkit::proxy::{Account, Proxy, Setup};
use imcharge_testkit::{CLIENT, ENABLER, Event, Events, PROXY, SERVER, eventually, unix_micros};
use std::error::Error;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::Duration;

const ALICE: &str = "sip:alice@example.org";
const BOB: &str = "sip:bob@example.org";
/// The called party of the chat.
const CAROL: &str = "sip:carol@127.0.0.1";

/// Price of a message, in cents.
const PRICE: i64 = 25;

/// Seconds until a message without a response is debited.
const RESPONSE_TIMEOUT: &str = "2";

/// Time within which the accounts are correct.
const SOON: Duration = Duration::from_secs(10);

fn main() {
    if let Err(error) = run() {
        eprintln!("flows: {error}");
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
    let stored = stored_messages(&store).map_err(|error| format!("--store {}: {error}", store.display()))?;
    let messages: Vec<Vec<u8>> = stored.into_iter().map(|(_, body)| body).collect();
    println!("starting Kamailio with {}", module.display());
    let module = module.canonicalize().map_err(|error| format!("--module {}: {error}", module.display()))?;
    let folder = module.parent().ok_or("--module has no parent folder")?;
    // Proxy and server need each other's address, so the socket of the server is bound first.
    let server_socket = UdpSocket::bind("127.0.0.1:0")?;
    let setup = Setup::new(folder, server_socket.local_addr()?)
        .defined("TARIFF", format!("\"message:{PRICE}\""))
        .defined("RESPONSE_TIMEOUT", RESPONSE_TIMEOUT)
        .defined("WITH_CHAT", "1")
        .parameter("unit", "\"money\"");
    let proxy = Proxy::start(setup)?;
    proxy.set_account(ALICE, 1000);
    proxy.set_account(BOB, PRICE - 1);
    proxy.set_account(CAROL, 1000);
    let are_correct = [
        retrievals(&proxy, &server_socket, &messages)?,
        chat(&proxy, &server_socket)?,
        message(&proxy, &server_socket)?,
        debits(&proxy, 3 * messages.len() + 3),
    ];
    drop(proxy);
    match are_correct.iter().all(|is_correct| *is_correct) {
        true => {
            println!("\nAll accounts are correct.");
            Ok(())
        }
        false => Err("an account is wrong".into()),
    }
}

/// Runs the retrievals. Returns whether the accounts are correct.
fn retrievals(proxy: &Proxy, server_socket: &UdpSocket, messages: &[Vec<u8>]) -> Result<bool, Box<dyn Error>> {
    let all = messages.len() as i64 * PRICE;
    let mut is_correct = true;
    for (title, who, reaction, expected) in [
        ("1. Retrieval: every message is answered 200", ALICE, Reaction::Answer(200), all),
        ("2. Retrieval: the client answers 415", ALICE, Reaction::Answer(415), all),
        ("3. Retrieval: the client never answers", ALICE, Reaction::Silence, all),
        ("4. Retrieval: there is no credit", BOB, Reaction::Answer(200), 0),
    ] {
        let before = account(proxy, who)?;
        let retrieval = retrieve(proxy, server_socket, messages, who, reaction)?;
        println!("\n{title}\n");
        print_ladder(&retrieval);
        is_correct &= compare(proxy, who, before, expected);
    }
    Ok(is_correct)
}

/// Runs a chat, in which each party pays for what it sends. Returns whether the accounts are correct.
fn chat(proxy: &Proxy, server_socket: &UdpSocket) -> Result<bool, Box<dyn Error>> {
    let (alice, carol) = (account(proxy, ALICE)?, account(proxy, CAROL)?);
    let mut options = ServerOptions::new(proxy.msrp, &[]);
    options.messages = vec![("carol-0".into(), b"Hello Alice".to_vec())];
    let called = ImServer::start(server_socket, options, Events::default())?;
    let mut options = ClientOptions::new(proxy.sip, proxy.msrp, ALICE);
    options.request_uri = format!("{CAROL}:{}", server_socket.local_addr()?.port());
    let mut client = ImClient::new(options, Events::default())?;
    if client.invite() != 200 {
        return Err("the chat was refused".into());
    }
    client.bind();
    client.take(1, Reaction::Answer(200));
    for message_id in ["alice-0", "alice-1"] {
        client.deliver(message_id, b"Hello Carol");
    }
    // The relay answers at once; the response of the called party follows.
    let of_chat = format!("SELECT count(*) FROM debits WHERE call_id='{}' AND trigger='response'", client.call_id);
    eventually(SOON, || proxy.count(&of_chat) == 3);
    client.bye();
    drop(called);
    println!("\n5. Chat: each party pays for what it sends\n");
    print_lines(ladder_of_call(proxy, &client.call_id, 2)?);
    let is_correct = [compare(proxy, ALICE, alice, 2 * PRICE), compare(proxy, CAROL, carol, PRICE)];
    Ok(is_correct == [true; 2])
}

/// Sends a SIP MESSAGE. Returns whether the account is correct.
fn message(proxy: &Proxy, server_socket: &UdpSocket) -> Result<bool, Box<dyn Error>> {
    let before = account(proxy, ALICE)?;
    let receiver = PageReceiver::start(server_socket);
    let sender = PageSender::new(proxy.sip, ALICE);
    let message = sender.message("sip:bob@im.example.org", "Hello Bob");
    sender.request(&message, SOON);
    drop(receiver);
    println!("\n6. SIP MESSAGE\n");
    print_lines(ladder_of_call(proxy, message.header("Call-ID"), 1)?);
    Ok(compare(proxy, ALICE, before, PRICE))
}

/// Prints the debits of Alice. Returns whether there are as many as expected.
fn debits(proxy: &Proxy, expected: usize) -> bool {
    let debits = proxy.debits(ALICE);
    println!("\nDebits (sqlite3 ledger.sqlite 'SELECT * FROM debits'):\n");
    for debit in &debits {
        println!(
            "  {:24} {:6} octets {:4} cents  {} {}",
            debit.message_id, debit.octets, debit.units, debit.trigger, debit.code
        );
    }
    debits.len() == expected
}

fn account(proxy: &Proxy, who: &str) -> Result<Account, Box<dyn Error>> {
    Ok(proxy.account(who).ok_or_else(|| format!("the account {who} does not exist"))?)
}

/// Waits until the account has paid what is expected, and prints it. Returns whether it has.
fn compare(proxy: &Proxy, who: &str, before: Account, expected: i64) -> bool {
    let after = settled(proxy, who, before, expected);
    let width = who.len();
    println!("\n  {who}   before: {}\n  {:width$}   after:  {}", money(before), "", money(after));
    let is_correct =
        after.debited - before.debited == expected && after.balance == before.balance - expected && after.held == 0;
    println!("  {} {}", if is_correct { "correct:" } else { "WRONG, expected" }, cost(expected));
    is_correct
}

fn print_lines(lines: Vec<String>) {
    lines.iter().for_each(|line| println!("{line}"));
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
            eventually(SOON, || {
                proxy.debits(who).iter().filter(|debit| debit.trigger == "timeout").count() >= messages.len()
            });
        }
        client.bye();
    }
    let call_id = client.call_id.clone();
    eventually(SOON, || {
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
