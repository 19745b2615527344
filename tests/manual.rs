//! The manual and the code say the same: parameters, commands, statistics, functions, variables, event routes.

use imcharge::charge::session::StepKind;
use imcharge::engine::config::Config;
use imcharge::engine::report::COMMANDS;
use imcharge::engine::statistic::Statistic;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{}: {error}", whole.display()))
}

/// The part of the manual under a heading, up to the next one of the same depth.
fn chapter(title: &str) -> String {
    let manual = read("README.md");
    let from = manual.find(&format!("\n## {title}")).unwrap_or_else(|| panic!("the manual has no chapter {title}"));
    let rest = &manual[from + 4..];
    rest[..rest.find("\n## ").unwrap_or(rest.len())].to_owned()
}

/// Headings of a chapter, without number and signature.
fn headings(chapter: &str) -> BTreeSet<String> {
    let lines = chapter.lines().filter_map(|line| line.strip_prefix("### "));
    let names = lines.filter_map(|line| line.split_once(". ")?.1.split(['(', ' ']).next().map(str::to_owned));
    names.collect()
}

/// First cells of the rows of a chapter's tables, as far as they are code.
fn cells(chapter: &str) -> BTreeSet<String> {
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
}

fn set<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    names.map(str::to_owned).collect()
}

#[test]
fn every_parameter_is_in_the_manual_with_type_default_and_example() {
    let chapter = chapter("3. Parameters");
    assert_eq!(headings(&chapter), set(Config::PARAMETERS.iter().map(|parameter| parameter.name)));
    for section in chapter.split("\n### ").skip(1) {
        let title = section.lines().next().unwrap_or_default();
        let name = title.split([' ', '(']).nth(1).unwrap_or_default();
        let parameter = Config::PARAMETERS.iter().find(|parameter| parameter.name == name).expect("checked above");
        let kind = if parameter.integer { "(integer)" } else { "(string)" };
        assert!(title.ends_with(kind), "{title}: is of type {kind}");
        assert!(section.contains("*Default value is "), "{name} has no default in the manual");
        assert!(section.contains(&format!("modparam(\"imcharge\", \"{name}\"")), "{name} has no example");
    }
}

#[test]
fn the_defaults_in_the_manual_are_those_of_the_code() {
    let chapter = chapter("3. Parameters");
    let config = Config::default();
    for (name, default) in [
        ("state_dir", format!("\"{}\"", config.state_dir.display())),
        ("tariff", format!("\"{}\"", config.tariff)),
        ("response_timeout", config.policy.response_timeout.to_string()),
        ("hold_timeout", config.policy.hold_timeout.to_string()),
        ("resume_workers", config.resume_workers.to_string()),
        ("max_sessions", config.max_sessions.to_string()),
        ("history_days", config.history_days.to_string()),
    ] {
        let section = chapter.split("\n### ").find(|section| section.contains(&format!(". {name} (")));
        let wanted = format!("*Default value is {default}.*");
        assert!(section.is_some_and(|section| section.contains(&wanted)), "{name}: {wanted}");
    }
}

#[test]
fn every_command_is_in_the_manual_with_its_arguments() {
    let ours = COMMANDS.iter().map(|command| format!("imcharge.{} {}", command.name, command.arguments.join(" ")));
    let ours: BTreeSet<String> = ours.map(|line| line.trim().to_owned()).collect();
    assert_eq!(cells(&chapter("7. RPC commands")), ours);
}

#[test]
fn every_step_is_in_the_manual() {
    let chapter = chapter("7. RPC commands");
    let from = chapter.find("| step | what happened |").expect("a table of steps");
    let words: BTreeSet<&str> = chapter[from..].split(|c: char| !c.is_alphanumeric() && c != '-').collect();
    for kind in StepKind::ALL {
        assert!(words.contains(kind.word()), "{}", kind.word());
    }
}

#[test]
fn every_statistic_is_in_the_manual() {
    assert_eq!(cells(&chapter("8. Statistics")), set(Statistic::ALL.iter().map(|statistic| statistic.name())));
}

/// Names in double quotes or C texts that follow a mark in a source.
fn quoted_behind(source: &str, mark: &str) -> BTreeSet<String> {
    let found = source.split(mark).skip(1).filter_map(|rest| rest.split('"').nth(1));
    set(found)
}

#[test]
fn every_function_is_in_the_manual() {
    let exports = read("src/host/kamailio/exports.rs");
    let functions = quoted_behind(&exports, "command(text(");
    assert!(!functions.is_empty(), "the table of functions has another form");
    let chapter = chapter("4. Functions");
    let mut manual = headings(&chapter);
    assert!(manual.remove("KEMI"));
    assert_eq!(manual, functions);
    for name in quoted_behind(&exports, "    kemi(") {
        assert!(chapter.contains(&format!("KSR.imcharge.{name}(")), "the manual has no KSR.imcharge.{name}");
    }
}

#[test]
fn every_variable_and_event_route_is_in_the_manual() {
    let source = read("src/host/kamailio/variables.rs");
    let list =
        source.split("NAMES: &[&str] =").nth(1).and_then(|rest| rest.split(';').next()).expect("a list of names");
    let names: BTreeSet<String> = list.split('"').skip(1).step_by(2).map(|name| format!("$imcharge({name})")).collect();
    assert_eq!(cells(&chapter("5. Variables")), names);
    let lifecycle = read("src/host/kamailio/lifecycle.rs");
    for route in ["imcharge:debited", "imcharge:failed"] {
        assert!(lifecycle.contains(route) && chapter("6. Event routes").contains(route), "{route}");
    }
}

#[test]
fn the_configurations_use_only_what_there_is() {
    for config in ["kamailio-config/kamailio.cfg", "kamailio-config/kamailio-lua.cfg"] {
        for name in quoted_behind(&read(config), "modparam(\"imcharge\", ") {
            assert!(Config::PARAMETERS.iter().any(|parameter| parameter.name == name), "{config}: {name}");
        }
    }
}
