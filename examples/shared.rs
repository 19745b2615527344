//! Two Kamailios with one account in PostgreSQL: a retrieval through each, then one of them is killed in the middle of a
//! session, and the other one settles it. Prints message ladders and the account, and exits with 0 only if it is correct.
//!
//! Starts PostgreSQL with a synchronous standby for this run alone, and leaves nothing running.

use imcharge_testkit::Events;
use imcharge_testkit::eventually;
use imcharge_testkit::ladder;
use imcharge_testkit::parties::client::{ImClient, Options as ClientOptions, Reaction};
use imcharge_testkit::parties::server::{ImServer, Options as ServerOptions};
use imcharge_testkit::postgres::{Cluster, DATABASE, PASSWORD, Server, Setup as ClusterSetup};
use imcharge_testkit::proxy::{Account, Proxy, Setup};
use std::error::Error;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const ALICE: &str = "sip:alice@example.org";

/// Price of a message, in cents.
const PRICE: i64 = 25;

/// Lease of each proxy, in seconds.
const LEASE_SECONDS: u64 = 10;

/// Time within which a message or an answer arrives.
const SOON: Duration = Duration::from_secs(10);

/// Time within which the sessions of a dead proxy are settled.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(LEASE_SECONDS + 15);

fn main() {
    if let Err(error) = run() {
        eprintln!("shared: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let module = module()?;
    println!("starting PostgreSQL with a synchronous standby");
    let cluster = Cluster::new(ClusterSetup { standbys: 1, ..ClusterSetup::default() });
    let files = tempfile::tempdir()?;
    let password_file = files.path().join("password");
    std::fs::write(&password_file, PASSWORD)?;
    std::fs::set_permissions(&password_file, std::fs::Permissions::from_mode(0o600))?;
    println!("starting two Kamailios with {}", module.display());
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let folder = module.parent().ok_or("--module has no parent folder")?;
    let ports: Vec<u16> = cluster.servers().iter().map(Server::port).collect();
    let setup = Setup::new(folder, socket.local_addr()?)
        .defined("TARIFF", format!("\"message:{PRICE}\""))
        .parameter("unit", "\"money\"")
        .parameter("lease", &LEASE_SECONDS.to_string())
        // Below the lease, which is short here.
        .parameter("tx_timeout", "5");
    let mut first = Proxy::start(setup.clone().sharing("proxy1", &ports, &password_file))?;
    let second = Proxy::start(setup.sharing("proxy2", &ports, &password_file))?;
    for proxy in [&first, &second] {
        // The first tick opens the lease.
        if !eventually(SOON, || proxy.statistic("pg_down") == 0 && proxy.statistic("lease_left") > 0) {
            return Err(format!("a proxy has no lease:\n{}", proxy.log()).into());
        }
    }
    first.set_account(ALICE, 1000);
    let are_correct = [
        retrieval(&cluster, &first, &socket, "1. Retrieval through proxy 1")?,
        retrieval(&cluster, &second, &socket, "2. Retrieval through proxy 2, from the same account")?,
        takeover(&cluster, &mut first, &second, &socket)?,
    ];
    match are_correct.iter().all(|is_correct| *is_correct) {
        true => {
            println!("\nThe account is correct.");
            Ok(())
        }
        false => Err("the account is wrong".into()),
    }
}

fn module() -> Result<PathBuf, Box<dyn Error>> {
    let mut module = PathBuf::from("out/imcharge.so");
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("module") => module = parser.value()?.into(),
            other => return Err(other.unexpected().into()),
        }
    }
    module.canonicalize().map_err(|error| format!("--module {}: {error}", module.display()).into())
}

/// Runs a retrieval of three messages. Returns whether the account is correct.
fn retrieval(cluster: &Cluster, proxy: &Proxy, socket: &UdpSocket, title: &str) -> Result<bool, Box<dyn Error>> {
    let before = account(cluster);
    let server = ImServer::start(socket, ServerOptions::new(proxy.msrp, &["One", "Two", "Three"]), Events::default())?;
    let mut client = ImClient::new(ClientOptions::new(proxy.sip, proxy.msrp, ALICE), Events::default())?;
    client.retrieve(3, Reaction::Answer(200));
    drop(server);
    println!("\n{title}\n");
    print_ladder(proxy, &client.call_id)?;
    Ok(compare(cluster, before, 3 * PRICE, SOON))
}

/// Kills the first proxy after two of three messages, of which the client has answered one. Returns whether the account is
/// correct.
fn takeover(cluster: &Cluster, first: &mut Proxy, second: &Proxy, socket: &UdpSocket) -> Result<bool, Box<dyn Error>> {
    let before = account(cluster);
    let server = ImServer::start(socket, ServerOptions::new(first.msrp, &["One", "Two"]), Events::default())?;
    let mut client = ImClient::new(ClientOptions::new(first.sip, first.msrp, ALICE), Events::default())?;
    if client.invite() != 200 {
        return Err("the retrieval was refused".into());
    }
    client.bind();
    client.take(1, Reaction::Answer(200));
    client.next_send(SOON).ok_or("the second message has not arrived")?;
    wait_for_ticks(cluster)?;
    let held = account(cluster);
    println!("\n3. Proxy 1 is killed with its disk, after two messages of which the client has answered one\n");
    println!("  {ALICE}   at the kill: {}", money(held));
    first.kill_all();
    std::fs::remove_dir_all(first.state_dir())?;
    let killed = Instant::now();
    let is_correct = compare(cluster, before, 2 * PRICE, TAKEOVER_TIMEOUT);
    println!(
        "\n  settled by proxy 2 after {:.1} s, with a lease of {LEASE_SECONDS} s\n",
        killed.elapsed().as_secs_f64()
    );
    drop(server);
    print_ladder(second, &client.call_id)?;
    println!("\nThe nodes (imcharge.nodes):\n\n{}", second.rpc(&["imcharge.nodes"])?);
    Ok(is_correct)
}

/// Waits until the database has the state that proxy 1 has now: a tick may be under way, and the next one has it.
fn wait_for_ticks(cluster: &Cluster) -> Result<(), Box<dyn Error>> {
    let sql = "SELECT last_tick FROM imcharge.nodes WHERE name='proxy1'";
    let last_tick = || cluster.primary().value(DATABASE, sql).parse::<i64>().unwrap_or(0);
    let wanted = last_tick() + 2;
    match eventually(SOON, || last_tick() >= wanted) {
        true => Ok(()),
        false => Err("proxy 1 sends no ticks".into()),
    }
}

fn account(cluster: &Cluster) -> Account {
    let sql = format!("SELECT balance, held, debited FROM imcharge.accounts WHERE id='{ALICE}'");
    let row = cluster.primary().query(DATABASE, &sql).into_iter().next().unwrap_or_default();
    let mut units = row.iter().map(|value| value.parse().unwrap_or(0)).chain(std::iter::repeat(0));
    let mut next = || units.next().unwrap_or(0);
    Account { balance: next(), held: next(), debited: next() }
}

/// Waits until the account has paid what is expected, and prints it. Returns whether it has.
fn compare(cluster: &Cluster, before: Account, expected: i64, within: Duration) -> bool {
    let wanted = Account { balance: before.balance - expected, held: before.held, debited: before.debited + expected };
    let is_correct = eventually(within, || account(cluster) == wanted);
    let width = ALICE.len();
    println!("\n  {ALICE}   before: {}\n  {:width$}   after:  {}", money(before), "", money(account(cluster)));
    println!("  {} {expected} cents debited, nothing held", if is_correct { "correct:" } else { "WRONG, expected" });
    is_correct
}

fn print_ladder(proxy: &Proxy, call_id: &str) -> Result<(), Box<dyn Error>> {
    ladder::of_call(proxy, call_id, 1)?.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn money(account: Account) -> String {
    format!("balance {:5}   held {:4}   debited {:5}   (cents)", account.balance, account.held, account.debited)
}
