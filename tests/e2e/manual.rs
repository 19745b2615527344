//! Runs the examples of the documentation as they are printed.

use super::sessions::in_lua;
use super::{ALICE, Stage, diameter};
use imcharge_testkit::eventually;
use imcharge_testkit::ocs::Ocs;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::{Host, Setup};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The IM server of the examples.
const SERVER: &str = "\"sip:127.0.0.1:5070\"";

fn read(path: &str) -> String {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{}: {error}", whole.display()))
}

/// Returns the code blocks of the section under a heading, in their order.
fn blocks(page: &str, heading: &str) -> Vec<String> {
    let text = read(page);
    let from = text.find(&format!("\n{heading}")).unwrap_or_else(|| panic!("{page} has no {heading}"));
    let section = &text[from + 1..];
    let section = &section[..section.find("\n#").unwrap_or(section.len())];
    let blocks: Vec<String> = section.split("```\n").skip(1).step_by(2).map(str::to_owned).collect();
    assert!(!blocks.is_empty(), "{page}, {heading} has no example");
    blocks
}

/// Combines the settings of the host's shipped configuration with the routes printed in its manual.
fn routes_of_the_manual(setup: Setup, folder: &Path) -> Setup {
    let (shipped, routes) = match setup.host {
        Host::Kamailio => (read("kamailio-config/kamailio/kamailio.cfg"), {
            let heading = ["### imcharge_reserve(", "### imcharge_msrp(", "### imcharge:debited"];
            heading.map(|heading| blocks("docs/kamailio.md", heading)).concat()
        }),
        Host::OpenSips => (read("kamailio-config/opensips/opensips.cfg"), blocks("docs/opensips.md", "## Functions")),
    };
    let (settings, own_routes) = match setup.host {
        Host::Kamailio => shipped.split_once("request_route {").map(|(settings, _)| (settings, "")),
        Host::OpenSips => shipped.split_once("\nroute {").and_then(|(settings, routes)| {
            let from = routes.find("route[msrp_auth]")?;
            Some((settings, &routes[from..from + routes[from..].find("\n}\n")? + 3]))
        }),
    }
    .expect("the shipped configuration has routes");
    let config = folder.join("manual.cfg");
    std::fs::write(&config, format!("{settings}\n{}\n{own_routes}", routes.concat())).expect("a file");
    let server = format!("\"sip:{}\"", setup.server);
    match setup.host {
        Host::Kamailio => Setup { config, ..setup }.changed(SERVER, &server),
        Host::OpenSips => Setup { config, ..setup },
    }
}

#[test]
pub fn the_routes_of_the_manual_charge_a_retrieval() {
    let folder = tempfile::tempdir().expect("a folder");
    let stage = Stage::new(|setup| routes_of_the_manual(setup, folder.path()));
    stage.proxy.set_account(ALICE, 12);
    let server = stage.server(&["one", "two", "three"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(3, Reaction::Answer(200)).len(), 3, "{}", stage.proxy.log());
    stage.until_debited(ALICE, 3);
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 9, 0, 3);
    stage.proxy.set_account(ALICE, 0);
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 402, "no credit");
    assert_eq!(stage.client("sip:other@example.org", |_| {}).invite(), 402, "no account");
    assert_eq!(stage.client(ALICE, |options| options.asserted = false).invite(), 403, "no identity");
    stage.proxy.set_account(ALICE, 9);
    drop(server);
    let _server = stage.server(&[], |options| options.rings = true);
    let mut cancelled = stage.client(ALICE, |_| {});
    cancelled.send_invite();
    assert!(cancelled.ringing(Duration::from_secs(5)), "{}", stage.proxy.log());
    cancelled.cancel();
    assert_eq!(cancelled.final_response(Duration::from_secs(5)), 487);
    stage.expect(ALICE, 9, 0, 3);
}

/// Returns the complete Kamailio configuration that a page prints.
fn printed_configuration(page: &str) -> String {
    let text = read(page);
    let block = text.split("```\n").find(|block| block.starts_with("#!KAMAILIO\n"));
    block.unwrap_or_else(|| panic!("{page} prints no configuration")).to_owned()
}

/// Only addresses and folders are changed, to those of the test.
#[test]
fn the_printed_configuration_charges_a_retrieval_to_the_last_unit() {
    let folder = tempfile::tempdir().expect("a folder");
    let printed = printed_configuration("docs/getting-started.md");
    assert_eq!(printed, printed_configuration("README.md"), "both pages print the same configuration");
    let stage = Stage::new(|setup| {
        let config = folder.path().join("printed.cfg");
        std::fs::write(&config, &printed).expect("a file");
        let module = "loadmodule \"imcharge.so\"";
        Setup { config, ..setup }
            .changed("listen=udp:127.0.0.1:5060", "listen=SIP_LISTEN")
            .changed("listen=tcp:127.0.0.1:2855", "listen=MSRP_LISTEN")
            .changed(SERVER, "IM_SERVER")
            .changed("\"/var/lib/imcharge\"", "STATE_DIR")
            .changed(module, &format!("{module}\nmodparam(\"ctl\", \"binrpc\", CTL_SOCKET)"))
    });
    stage.proxy.set_account(ALICE, 3);
    let _server = stage.server(&["one", "two", "three"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(3, Reaction::Answer(200)).len(), 3, "{}", stage.proxy.log());
    stage.until_debited(ALICE, 3);
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 0, 0, 3);
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 402, "no credit");
    assert_eq!(stage.client("sip:other@example.org", |_| {}).invite(), 402, "no account");
    assert_eq!(stage.client(ALICE, |options| options.asserted = false).invite(), 403, "no identity");
    stage.proxy.signal("STOP", stage.proxy.engine_pid());
    assert!(eventually(Duration::from_secs(9), || stage.proxy.statistic("engine_up") == 0), "{}", stage.proxy.log());
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 503, "no engine");
}

#[test]
fn the_printed_event_route_runs_for_each_debit() {
    let folder = tempfile::tempdir().expect("a folder");
    let stage = Stage::new(|setup| routes_of_the_manual(setup, folder.path()));
    stage.proxy.set_account(ALICE, 12);
    let server = stage.server(&["one", "two"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(2, Reaction::Answer(200));
    for message_id in server.message_ids() {
        let line = format!("{ALICE} paid 1 for {message_id} (response)");
        let logged = || stage.proxy.log().contains(&line);
        assert!(eventually(Duration::from_secs(5), logged), "{line}\n{}", stage.proxy.log());
    }
}

/// The order in which the modules may be loaded, as documented.
#[test]
fn msrp_may_be_loaded_after_the_module_and_tm_may_not() {
    let stage = Stage::new(|setup| {
        setup.changed(
            "loadmodule \"msrp.so\"\nloadmodule \"imcharge.so\"",
            "loadmodule \"imcharge.so\"\nloadmodule \"msrp.so\"",
        )
    });
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
    let log = super::bad_input::refused(|setup| {
        setup
            .changed("loadmodule \"tm.so\"\n", "")
            .changed("loadmodule \"imcharge.so\"\n", "loadmodule \"imcharge.so\"\nloadmodule \"tm.so\"\n")
            .changed("loadmodule \"tmx.so\"\n", "")
    });
    assert!(log.contains("loadmodule \"tm.so\" before loadmodule \"imcharge.so\""), "{log}");
}

/// Kamailio keeps 32 bits of an integer parameter, but all of a string.
#[test]
fn a_large_parameter_is_exact_when_written_as_a_string() {
    let stage = Stage::new(|setup| setup.parameter("default_balance", "\"5000000000\""));
    let _server = stage.server(&[], |_| {});
    let mut client = stage.client(ALICE, |_| {});
    assert_eq!(client.invite(), 200, "{}", stage.proxy.log());
    client.bye();
    stage.expect(ALICE, 5_000_000_000, 0, 0);
}

/// Runs shell commands of a page, with the folders of this test instead of the printed ones.
fn run_printed(commands: &str, state: &Path, backups: &Path) {
    let script = commands
        .replace("/var/lib/imcharge", &state.display().to_string())
        .replace("/var/backups", &backups.display().to_string())
        .replace(" -o kamailio -g kamailio", "");
    let run = Command::new("sh").args(["-e", "-c", &script]).output().expect("a shell runs");
    assert!(run.status.success(), "{script}\n{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn the_printed_backup_is_restored_with_the_journal_and_without_it() {
    let mut stage = Stage::plain();
    let (state, backups) = (stage.proxy.state_dir(), tempfile::tempdir().expect("a folder"));
    let run = |commands: &str| run_printed(commands, &state, backups.path());
    let _server = stage.server(&["one", "two"], |_| {});
    let retrieve = |stage: &Stage| {
        let mut client = stage.bound(|_| {});
        client.take(2, Reaction::Answer(200));
        client.bye();
    };
    retrieve(&stage);
    stage.expect(ALICE, 98, 0, 2);
    blocks("docs/operations.md", "### Backup of a running proxy").iter().for_each(|commands| run(commands));
    retrieve(&stage);
    stage.expect(ALICE, 96, 0, 4);
    let restore = blocks("docs/operations.md", "### Restore");
    let [move_ledger, put_back, move_journal] = restore.as_slice() else { panic!("{restore:?}") };
    stage.proxy.terminate();
    run(move_ledger);
    run(put_back);
    stage.proxy.restart().expect("it starts with the journal");
    stage.expect(ALICE, 96, 0, 4);
    stage.proxy.terminate();
    std::fs::remove_dir_all(state.join("old")).expect("the first restore made it");
    run(move_ledger);
    run(put_back);
    run(move_journal);
    stage.proxy.restart().expect("it starts without the journal");
    stage.expect(ALICE, 98, 0, 2);
}

/// Runs the printed queries with `sqlite3` while the proxy runs.
#[test]
fn the_printed_queries_find_what_happened() {
    let stage = Stage::new(in_lua);
    stage.proxy.set_account(ALICE, 100);
    let server = stage.server(&["one", "two"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(2, Reaction::Answer(200));
    stage.until_debited(ALICE, 2);
    client.bye();
    stage.expect(ALICE, 98, 0, 2);
    let queries: Vec<String> = blocks("docs/rpc.md", "## Reading the ledger with SQL");
    assert_eq!(queries.len(), 1, "all queries are in one block");
    let ledger = stage.proxy.state_dir().join("ledger.sqlite");
    let script = queries[0]
        .replace("/var/lib/imcharge/ledger.sqlite", &ledger.display().to_string())
        .replace("'CALLID'", &format!("'{}'", client.call_id));
    let run = Command::new("sh").args(["-e", "-c", &script]).output().expect("a shell runs");
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    for word in server.message_ids().iter().map(String::as_str).chain(["granted", "debited", "released"]) {
        assert!(said.contains(word), "no {word} in\n{said}");
    }
}

/// Returns the inline code of a text.
fn codes(text: &str) -> Vec<&str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// Every control command, fault and option in docs/ocs.md exists, and every fault of the simulator is documented.
#[test]
fn the_ocs_simulator_accepts_every_documented_command_fault_and_option() {
    let page = read("docs/ocs.md");
    let section = page.split("\n## The OCS simulator").nth(1).and_then(|rest| rest.split("\n## ").next());
    let (options, control) = section.and_then(|text| text.split_once("**Control port.**")).expect("a section");
    let (table, faults) = control.split_once("\nFaults: ").expect("a list of faults");
    let ocs = Ocs::start(&diameter::program(), &["--account", "sip:alice@example.org=100"]);
    check_commands(&ocs, &first_cells(table));
    check_faults(&ocs, faults);
    let help = Command::new(diameter::program()).arg("--help").output().expect("the program runs");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let words: Vec<&str> = codes(options).into_iter().flat_map(str::split_whitespace).collect();
    let named: Vec<&&str> = words.iter().filter(|word| word.starts_with("--") && **word != "--help").collect();
    assert!(named.len() > 10, "the table of options has another form");
    for option in named {
        assert!(help.contains(*option), "there is no option {option}\n{help}");
    }
}

/// Returns the code in the first cells of a table.
fn first_cells(table: &str) -> Vec<&str> {
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(rows.len() > 5, "the table of commands has another form");
    rows.iter().flat_map(|row| codes(row.split(" | ").next().unwrap_or_default())).collect()
}

#[track_caller]
fn accepts(ocs: &Ocs, command: &str) {
    assert!(ocs.try_command(command).is_ok(), "{command}: {:?}", ocs.try_command(command));
}

fn check_commands(ocs: &Ocs, commands: &[&str]) {
    for command in commands {
        match *command {
            // There is no session to name.
            "rar SESSION-ID" | "asr SESSION-ID" => {
                let error = ocs.try_command(&command.replace("SESSION-ID", "none")).expect_err("it is refused");
                assert!(!error.contains("unknown command"), "{command}: {error}");
            }
            "account NAME=BALANCE" => accepts(ocs, "account sip:bob@example.org=5"),
            "set NAME=VALUE" => accepts(ocs, "set price=1"),
            "kill [MILLISECONDS]" => accepts(ocs, "kill 1"),
            fault if fault.starts_with("fault NAME") => {
                accepts(ocs, "fault drop=1/3 on=initial,update times=2 rate=1/2");
            }
            command => accepts(ocs, command),
        }
    }
}

fn check_faults(ocs: &Ocs, faults: &str) {
    let mut named = Vec::new();
    for fault in codes(faults) {
        let (name, values) = fault.split_once('=').unwrap_or((fault, ""));
        // `5-50ms` is another value of the fault before it.
        if fault.starts_with(|first: char| first.is_ascii_digit()) {
            continue;
        }
        named.push(name);
        for value in values.split('|').map(|value| value.replace("CODE", "4012").replace('N', "20")) {
            accepts(ocs, "fault off");
            accepts(ocs, &if value.is_empty() { format!("fault {name}") } else { format!("fault {name}={value}") });
        }
    }
    let error = ocs.try_command("fault unheard-of").expect_err("it is refused");
    let (_, all) = error.split_once("known are ").expect("the error lists all faults");
    let missing: Vec<&str> = all.split(", ").filter(|name| !named.contains(name)).collect();
    assert!(missing.is_empty(), "docs/ocs.md lacks {missing:?}");
}
