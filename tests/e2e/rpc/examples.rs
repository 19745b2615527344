//! Runs the examples of docs/rpc.md as they are printed there, by every transport, and compares the fields of the printed
//! answers with those of the real ones.

use super::console::{Console, Refusal, Way, as_texts, structures};
use super::{ALICE, Host, before};
use imcharge::admin::commands::COMMANDS;
use imcharge_testkit::parties::client::{ImClient, Reaction};
use imcharge_testkit::parties::server::ImServer;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// The Call-ID in the examples.
const CALL_ID: &str = "a84b4c76e66710";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a page of the documentation")
}

/// One example: the words that an operator types, and what is printed.
struct Example {
    /// The command without `imcharge.`.
    command: String,
    /// The arguments as typed for kamcmd.
    arguments: Vec<String>,
    answer: String,
}

impl Example {
    /// Returns the arguments without the `s:` that only kamcmd needs.
    fn texts(&self) -> Vec<&str> {
        self.arguments.iter().map(|word| word.strip_prefix("s:").unwrap_or(word)).collect()
    }
}

/// Returns the code blocks of a page that begin with `$ kamcmd imcharge.`.
fn examples(page: &str) -> Vec<Example> {
    let blocks = page.split("```\n").skip(1).step_by(2);
    let typed = blocks.filter_map(|block| block.strip_prefix("$ kamcmd imcharge.")?.split_once('\n'));
    let examples = typed.map(|(line, answer)| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let command = words.next().expect("a command");
        Example { command, arguments: words.collect(), answer: answer.to_owned() }
    });
    examples.collect()
}

/// Returns the requests of the lines `JSON-RPC: "method": ..., "params": [...]`.
fn requests(page: &str) -> Vec<Value> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("JSON-RPC: `")?.split_once('`'));
    let parse =
        |members: &str| serde_json::from_str::<Value>(&format!("{{\"jsonrpc\": \"2.0\", \"id\": 1, {members}}}"));
    lines.map(|(members, _)| parse(members).unwrap_or_else(|error| panic!("{error} in {members}"))).collect()
}

/// Lines of code that begin with this word, as words. A text in single quotes is one word.
fn typed(page: &str, word: &str) -> Vec<Vec<String>> {
    let code = page.split("```").skip(1).step_by(2).flat_map(str::lines);
    let lines = code.filter(|line| line.split_whitespace().next() == Some(word));
    let words = |line: &str| {
        let parts = line.split('\'').enumerate();
        let words = parts.flat_map(|(at, part)| match at % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        });
        words.collect()
    };
    lines.map(words).collect()
}

/// Merges the rows of a list into one row that has every field of each.
fn merged(rows: &[Value]) -> Value {
    let mut all = Map::new();
    for (name, value) in rows.iter().filter_map(Value::as_object).flatten() {
        match (all.get_mut(name), value) {
            (Some(Value::Array(known)), Value::Array(more)) => known.extend(more.iter().cloned()),
            _ => _ = all.insert(name.clone(), value.clone()),
        }
    }
    Value::Object(all)
}

/// Checks that every field of a printed answer is in the real one, and that the printed one leaves no field out. Rows of one
/// list may differ in their fields; a list of a printed answer may lack fields that only other rows have.
fn compare(printed: &Value, real: &Value, place: &str, in_list: bool) {
    match (printed, real) {
        (Value::Object(printed), Value::Object(real)) => {
            for (name, value) in printed {
                let found = real.get(name).unwrap_or_else(|| panic!("{place}: there is no field {name} in {real:?}"));
                compare(value, found, &format!("{place}.{name}"), in_list);
            }
            let missing: Vec<_> = real.keys().filter(|name| !printed.contains_key(*name)).collect();
            assert!(in_list || missing.is_empty(), "{place}: {missing:?} are not printed");
        }
        (Value::Array(printed), Value::Array(real)) if !printed.is_empty() => {
            assert!(!real.is_empty(), "{place}: rows are printed, but there are none");
            compare(&merged(printed), &merged(real), &format!("{place}[]"), true);
        }
        _ => {}
    }
}

/// Commands of the shared ledger, which the embedded one refuses.
pub(super) const SHARED: [&str; 3] = ["account.import", "nodes", "takeover"];

/// Whether a command of the shared ledger was refused for its reason.
fn needs_shared_ledger(command: &str, result: &Result<Value, Refusal>) -> bool {
    let refused = matches!(result, Err((409, why)) if why.contains("with enabler=ledger this node shares no ledger"));
    assert_eq!(refused, SHARED.contains(&command), "{command}: {result:?}");
    refused
}

/// Creates the account that an example removes.
fn prepare(console: &Console, command: &str) {
    if command == "account.remove" {
        console.stage.proxy.set_account("sip:carol@example.org", 0);
    }
}

/// Checks a real answer against the printed one.
fn check(example: &Example, result: &Result<Value, Refusal>, way: Way) {
    let place = format!("{} {way:?}", example.command);
    match (example.answer.strip_prefix("error: "), result) {
        (Some(printed), Err((code, sentence))) => {
            // In OpenSIPS the name of a command has a colon.
            let sentence = sentence.replace("imcharge:", "imcharge.");
            assert_eq!(printed.trim(), format!("{code} - {sentence}"), "{place}");
        }
        (None, Ok(answer)) if example.answer.contains("\t...\n") => {
            let printed = structures(&example.answer.replace("\t...\n", ""));
            compare(&printed, &as_texts(answer), &place, true);
        }
        (None, Ok(answer)) => compare(&structures(&example.answer), &as_texts(answer), &place, false),
        (_, result) => panic!("{place}: {result:?} instead of\n{}", example.answer),
    }
}

/// Starts a proxy with two sessions: a closed one of the examples' Call-ID, in which one message was answered 200 and one
/// 415, and an open one that lasts as long as its parties.
fn prepared() -> (Console, ImServer, ImClient) {
    let console = Console::new(|setup| setup);
    console.stage.proxy.set_account(ALICE, 100);
    let server = console.stage.server(&["one", "two"], |_| {});
    let mut client = console.stage.bound(|options| options.call_id = Some(CALL_ID.into()));
    client.take(1, Reaction::Answer(200));
    client.take(1, Reaction::Answer(415));
    console.stage.until_debited(ALICE, 2);
    client.bye();
    console.stage.expect(ALICE, 98, 0, 2);
    let mut open = console.stage.client(ALICE, |_| {});
    assert_eq!(open.invite(), 200);
    (console, server, open)
}

#[test]
fn every_example_of_a_command_runs_and_has_the_printed_fields() {
    let page = read("docs/rpc.md");
    let (console, _server, _client) = prepared();
    let examples = examples(&page);
    for command in COMMANDS {
        assert!(examples.iter().any(|example| example.command == command.name), "no example of {}", command.name);
    }
    for example in &examples {
        for way in console.ways() {
            prepare(&console, &example.command);
            let result = match way {
                Way::Kamcmd => {
                    let name = console.named(&example.command);
                    console.kamcmd(&std::iter::once(&name).chain(&example.arguments).collect::<Vec<_>>())
                }
                way => console.ask(*way, &example.command, &example.texts()),
            };
            if !needs_shared_ledger(&example.command, &result) {
                check(example, &result, *way);
            }
        }
    }
    // Commands without a printed answer.
    for words in typed(&page, "kamcmd").iter().filter(|_| console.ways().contains(&Way::Kamcmd)) {
        assert!(console.kamcmd(&words[1..]).is_ok(), "{words:?}");
    }
}

#[test]
fn every_json_rpc_request_of_the_documentation_is_answered() {
    let page = read("docs/rpc.md");
    let (console, _server, _client) = prepared();
    let requests = requests(&page);
    for command in COMMANDS {
        let name = json!(format!("imcharge.{}", command.name));
        assert!(requests.iter().any(|request| request["method"] == name), "no request of {}", command.name);
    }
    let posted = typed(&page, "curl");
    assert!(!posted.is_empty());
    let posted = posted.iter().map(|words| serde_json::from_str(words.last().expect("a request")).expect("JSON"));
    for request in requests.into_iter().chain(posted) {
        for way in console.json_ways() {
            let method = request["method"].as_str().and_then(|method| method.split_once('.'));
            let command = method.map_or("", |(_, command)| command);
            prepare(&console, command);
            // With the ledger no request is ever on hold, as the error states.
            match console.send(way, request.clone()) {
                Err((404, sentence)) if sentence.contains("is on hold") => {}
                result if needs_shared_ledger(command, &result) => {}
                result => assert!(result.is_ok(), "{way:?} {request}: {result:?}"),
            }
        }
    }
}

mod opensips {
    use super::*;

    #[test]
    #[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
    fn every_example_of_a_command_runs_and_has_the_printed_fields() {
        before(Host::OpenSips, super::every_example_of_a_command_runs_and_has_the_printed_fields);
    }

    #[test]
    #[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
    fn every_example_of_the_management_interface_runs() {
        before(Host::OpenSips, || {
            let page = read("docs/rpc.md");
            let (console, _server, _client) = prepared();
            let commands = page.split("MI: `imcharge:").skip(1).filter_map(|rest| rest.split_once('`'));
            let commands: Vec<String> = commands.map(|(command, _)| format!("imcharge:{command}")).collect();
            for command in COMMANDS {
                let name = format!("imcharge:{}", command.name);
                let is_of = |line: &&String| line.split(' ').next() == Some(&name);
                assert!(commands.iter().any(|line| is_of(&line)), "no example of {name}");
            }
            let manual = read("docs/opensips.md");
            let typed = typed(&manual, "opensips-cli");
            assert!(!typed.is_empty());
            let typed = typed.iter().map(|words| words[3..].join(" "));
            for line in commands.into_iter().chain(typed).filter(|_| console.ways().contains(&Way::Cli)) {
                let words: Vec<&str> = line.split(' ').collect();
                let command = words[0].trim_start_matches("imcharge:");
                prepare(&console, command);
                match console.cli(words[0], &words[1..]) {
                    Err((404, sentence)) if sentence.contains("is on hold") => {}
                    result if needs_shared_ledger(command, &result) => {}
                    result => assert!(result.is_ok(), "{line}: {result:?}"),
                }
            }
        });
    }
}
