//! Checks that the documentation and the code agree: parameters, commands, statistics, functions, variables, event
//! routes, log lines, and the tests that the guarantees name.

use imcharge::admin::commands::COMMANDS;
use imcharge::admin::metrics;
use imcharge::charge::session::TraceEventKind;
use imcharge::config::{Config, PARAMETERS, Parameter, ParameterHost, ParameterType};
use imcharge::shm::latency::Latency;
use imcharge::shm::statistic::{Kind, Statistic};
use imcharge::wire::diameter::dictionary::{self, VENDOR_3GPP};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{}: {error}", whole.display()))
}

/// Returns the text of a page under a heading of depth 2, up to the next one of that depth.
fn chapter(page: &str, title: &str) -> String {
    let text = read(page);
    let from = text.find(&format!("\n## {title}")).unwrap_or_else(|| panic!("{page} has no chapter {title}"));
    let rest = &text[from + 4..];
    rest[..rest.find("\n## ").unwrap_or(rest.len())].to_owned()
}

/// Returns the headings of depth 3, without their signature or type.
fn headings(chapter: &str) -> BTreeSet<String> {
    let lines = chapter.lines().filter_map(|line| line.strip_prefix("### "));
    lines.filter_map(|line| line.split(['(', ' ']).next().map(str::to_owned)).collect()
}

/// Returns all pages of the documentation, relative to the repository.
fn pages() -> Vec<String> {
    let docs = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).expect("a readable folder");
    let names = docs.flatten().map(|entry| format!("docs/{}", entry.file_name().to_string_lossy()));
    let others = ["README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "fuzz/README.md"].map(str::to_owned);
    let is_there = |page: &String| Path::new(env!("CARGO_MANIFEST_DIR")).join(page).exists();
    names.filter(|name| name.ends_with(".md")).chain(others).filter(is_there).collect()
}

/// Returns the code in the first cells of a chapter's tables, for the rows that begin with code.
fn cells(chapter: &str) -> BTreeSet<String> {
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
}

fn set<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    names.map(str::to_owned).collect()
}

#[test]
fn parameters_are_documented_with_type_default_and_example() {
    let chapter = chapter("docs/kamailio.md", "Parameters");
    assert_eq!(headings(&chapter), set(PARAMETERS.iter().map(Parameter::name)));
    for section in chapter.split("\n### ").skip(1) {
        let title = section.lines().next().unwrap_or_default();
        let name = title.split([' ', '(']).next().unwrap_or_default();
        let parameter = Parameter::find(name).expect("checked above");
        let kind = if parameter.kind == ParameterType::Integer { "(integer)" } else { "(string)" };
        assert!(title.ends_with(kind), "{title}: is of type {kind}");
        assert!(section.contains("*Default value is "), "{name} has no default in the manual");
        assert!(section.contains(&format!("modparam(\"imcharge\", \"{name}\"")), "{name} has no example");
    }
}

#[test]
fn documented_defaults_equal_those_of_the_code() {
    let chapter = chapter("docs/kamailio.md", "Parameters");
    for parameter in PARAMETERS {
        let name = parameter.name();
        let section = chapter.split("\n### ").find(|section| section.starts_with(&format!("{name} (")));
        let wanted = match (parameter.default, parameter.kind) {
            (None, _) => "*Default value is not set".to_owned(),
            (Some(default), ParameterType::Integer) => format!("*Default value is {default}.*"),
            (Some(default), _) => format!("*Default value is \"{default}\".*"),
        };
        assert!(section.is_some_and(|section| section.contains(&wanted)), "{name}: {wanted}");
    }
}

/// Returns name and value of each example, as in `modparam("imcharge", "unit", "money")`.
fn examples(section: &str) -> Vec<(String, String)> {
    let lines = section.lines().filter_map(|line| line.strip_prefix("modparam(\"imcharge\", \"")?.strip_suffix(')'));
    let pairs = lines.filter_map(|line| line.split_once("\", "));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}

#[test]
fn parameter_examples_and_defaults_are_accepted() {
    let chapter = chapter("docs/kamailio.md", "Parameters");
    for section in chapter.split("\n### ").skip(1) {
        let title = section.lines().next().unwrap_or_default();
        let name = title.split([' ', '(']).next().unwrap_or_default();
        let parameter = Parameter::find(name).expect("a parameter");
        let default = section.split("*Default value is ").nth(1).and_then(|rest| rest.split([';', '*']).next());
        let default =
            default.map(|text| text.trim_end_matches('.').trim_matches('"')).filter(|text| *text != "not set");
        let examples = examples(section);
        assert!(!examples.is_empty(), "{name} has no example");
        assert!(examples.iter().all(|(of, _)| of == name), "{name}: {examples:?}");
        let values = examples.iter().map(|(_, value)| value.as_str()).chain(default);
        // A text with pseudo-variables is for the host to read.
        for value in values.filter(|value| !value.contains('$')) {
            parameter.set(&mut Config::default(), value).unwrap_or_else(|error| panic!("{title}: {error}"));
        }
    }
}

#[test]
fn documented_rust_version_equals_that_of_cargo_toml() {
    let cargo = read("Cargo.toml");
    let version = cargo.split("rust-version = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a version");
    let manual: String = pages().iter().map(|page| read(page)).collect();
    let asked = manual.split("Rust ").skip(1).filter_map(|rest| rest.split_once(" or newer"));
    let asked = asked.map(|(version, _)| version).filter(|version| version.len() < 8);
    let asked: Vec<&str> = asked.collect();
    assert!(!asked.is_empty() && asked.iter().all(|asked| *asked == version), "{asked:?} is not {version}");
}

/// Returns the constant parts of a documented log line: the words between its placeholders (NAME, N, `...`, a file).
fn constant_parts(line: &str) -> Vec<String> {
    let is_placeholder = |whole: &str| {
        let word = whole.trim_matches(|c: char| !c.is_alphanumeric());
        whole.contains("...")
            || word.contains(['.', '/', '-', '_'])
            || word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    let words: Vec<&str> = line.split(' ').collect();
    let parts = words.split(|word| is_placeholder(word)).map(|part| part.join(" "));
    let parts = parts.map(|part| part.trim_matches(|c: char| !c.is_alphanumeric()).to_owned());
    parts.filter(|part| part.len() > 5).collect()
}

/// Returns all sources of a folder as one text.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("a readable folder").flatten();
    entries.fold(String::new(), |all, entry| match entry.path() {
        path if path.is_dir() => all + &sources(&path),
        path => all + &fs::read_to_string(path).unwrap_or_default(),
    })
}

#[test]
fn documented_log_lines_exist_in_the_sources() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let joined: String = sources.split("\\\n").map(str::trim_start).collect();
    let chapter = chapter("docs/troubleshooting.md", "Log lines");
    let rows: Vec<&str> = chapter.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(rows.len() > 10, "the format of the table of log lines has changed");
    let mut checked = 0;
    // Code without a blank is the name of a function or statistic.
    let lines = rows.iter().flat_map(|row| quoted_code(row.split(" | ").next().unwrap_or_default()));
    for line in lines.filter(|line| line.contains(' ')) {
        for part in constant_parts(line) {
            assert!(joined.contains(&part), "nothing logs '{part}' of '{line}'");
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked} parts");
}

#[test]
fn commands_are_documented_with_their_arguments() {
    let ours = COMMANDS.iter().map(|command| format!("imcharge.{} {}", command.name, command.usage()));
    let ours: BTreeSet<String> = ours.map(|line| line.trim().to_owned()).collect();
    assert_eq!(cells(&chapter("docs/rpc.md", "Overview")), ours);
    let page = read("docs/rpc.md");
    for command in COMMANDS {
        assert!(page.contains(&format!("\n### imcharge.{}\n", command.name)), "{} has no section", command.name);
    }
}

#[test]
fn trace_events_are_documented() {
    let chapter = chapter("docs/rpc.md", "Sessions");
    let from = chapter.find("| step | what happened | rules |").expect("a table of steps");
    let words: BTreeSet<&str> = chapter[from..].split(|c: char| !c.is_alphanumeric() && c != '-').collect();
    for kind in TraceEventKind::ALL {
        assert!(words.contains(kind.as_str()), "{}", kind.as_str());
    }
}

#[test]
fn statistics_are_documented() {
    let names = all_cells(&chapter("docs/monitoring.md", "Statistics"));
    assert_eq!(names, set(Statistic::ALL.iter().map(|statistic| statistic.name())));
}

/// Returns all code in the first cells of a chapter's tables.
fn all_cells(chapter: &str) -> BTreeSet<String> {
    let first = chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    set(first.flat_map(|cell| cell.split('`').step_by(2)))
}

/// Returns the names of all metrics; of histograms those of their series.
fn prometheus_names() -> BTreeSet<String> {
    let histograms = Latency::ALL.iter().map(|latency| metrics::name_of_histogram(*latency));
    let parts = histograms.flat_map(|name| ["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")));
    let names = Statistic::ALL.iter().filter_map(|statistic| metrics::name_of(*statistic));
    names.map(|name| metrics::family_of(&name).to_owned()).chain(parts).collect()
}

#[test]
fn metrics_are_documented() {
    let mut manual = all_cells(&chapter("docs/monitoring.md", "Prometheus names"));
    assert!(manual.remove("imcharge_NAME_total"));
    let counters = Statistic::ALL.iter().filter(|statistic| statistic.kind() == Kind::Counter);
    manual.extend(counters.filter_map(|statistic| metrics::name_of(*statistic)));
    let ours = Statistic::ALL.iter().filter_map(|statistic| metrics::name_of(*statistic));
    let ours = ours.map(|name| metrics::family_of(&name).to_owned());
    let histograms = Latency::ALL.iter().map(|latency| metrics::name_of_histogram(*latency));
    assert_eq!(manual, ours.chain(histograms).collect());
}

#[test]
fn alerts_are_documented() {
    let rules = read("kamailio-config/prometheus/imcharge-alerts.yml");
    let names = set(rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")));
    assert_eq!(all_cells(&chapter("docs/monitoring.md", "Alerts")), names);
}

#[test]
fn dashboard_and_alerts_use_existing_metrics() {
    let names = prometheus_names();
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    for (path, least) in
        [("kamailio-config/grafana/grafana-dashboard.json", 30), ("kamailio-config/prometheus/imcharge-alerts.yml", 10)]
    {
        let text = read(path);
        let asked = text.split(|letter| !is_of_name(letter)).filter(|word| word.starts_with("imcharge_"));
        let asked = set(asked);
        assert!(asked.len() > least, "{path}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&names).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
}

/// Returns the first string literal after each occurrence of `mark`.
fn quoted_after(source: &str, mark: &str) -> BTreeSet<String> {
    let found = source.split(mark).skip(1).filter_map(|rest| rest.split('"').nth(1));
    set(found)
}

#[test]
fn functions_are_documented() {
    let exports = read("src/host/kamailio/exports.rs");
    let functions = quoted_after(&exports, "command(text(");
    assert!(!functions.is_empty(), "the format of the table of functions has changed");
    assert_eq!(headings(&chapter("docs/kamailio.md", "Functions")), functions);
    let kemi = chapter("docs/kamailio.md", "KEMI");
    for name in quoted_after(&exports, "    kemi(") {
        assert!(kemi.contains(&format!("KSR.imcharge.{name}(")), "the manual has no KSR.imcharge.{name}");
    }
}

#[test]
fn variables_and_event_routes_are_documented() {
    let source = read("src/host/variables.rs");
    let list =
        source.split("NAMES: &[&str] =").nth(1).and_then(|rest| rest.split(';').next()).expect("a list of names");
    let names: BTreeSet<String> = list.split('"').skip(1).step_by(2).map(|name| format!("$imcharge({name})")).collect();
    assert_eq!(cells(&chapter("docs/kamailio.md", "Pseudo-variables")), names);
    let lifecycle = read("src/host/kamailio/lifecycle.rs");
    for route in ["imcharge:debited", "imcharge:failed", "imcharge:low-balance"] {
        assert!(lifecycle.contains(route) && chapter("docs/kamailio.md", "Event routes").contains(route), "{route}");
    }
}

#[test]
fn opensips_functions_events_and_arguments_are_documented() {
    let page = read("docs/opensips.md");
    let exports = read("src/host/opensips/exports.rs");
    let functions: BTreeSet<String> = quoted_after(&exports, "command(c").into_iter().collect();
    assert!(functions.contains("imcharge_end"), "the format of the table of functions has changed");
    // `load_msrp` is for other modules, not for scripts.
    for function in functions.iter().filter(|name| *name != "load_msrp") {
        assert!(page.contains(&format!("{function}(")), "{function}");
    }
    for event in ["E_IMCHARGE_DEBITED", "E_IMCHARGE_FAILED", "E_IMCHARGE_LOW_BALANCE"] {
        assert!(read("src/host/opensips/events.rs").contains(event) && page.contains(&format!("`{event}`")), "{event}");
    }
    for argument in COMMANDS.iter().flat_map(|command| command.arguments) {
        let name = argument.name.to_ascii_lowercase();
        assert!(page.contains(&format!("`{name}`")), "the argument {name}");
    }
}

#[test]
fn configurations_and_examples_use_only_known_parameters() {
    let shipped = [
        "kamailio-config/kamailio/kamailio.cfg",
        "kamailio-config/kamailio/kamailio-lua.cfg",
        "kamailio-config/opensips/opensips.cfg",
    ];
    for config in shipped.map(str::to_owned).into_iter().chain(pages()) {
        for name in quoted_after(&read(&config), "modparam(\"imcharge\", ") {
            let parameter = Parameter::find(&name).unwrap_or_else(|| panic!("{config}: {name}"));
            let other = match config.as_str() {
                config if config.contains("opensips") => ParameterHost::Kamailio,
                // The manual of the Kamailio module describes all parameters.
                "docs/kamailio.md" | "README.md" => continue,
                _ => ParameterHost::OpenSips,
            };
            assert!(parameter.host != other, "{config}: {name} is of the other host");
        }
    }
}

/// Returns the inline code of a text.
fn quoted_code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Returns whether a file, or any file of a folder, contains tests.
fn has_tests(path: &Path) -> bool {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a readable folder");
        return entries.flatten().any(|entry| has_tests(&entry.path()));
    }
    // A file with `main` is a test program without the standard harness.
    let text = fs::read_to_string(path).unwrap_or_default();
    text.contains("#[test]") || text.contains("fn main()")
}

#[test]
fn named_files_exist() {
    for manual in pages() {
        let text = read(&manual);
        let folders = [
            "src/",
            "tests/",
            "examples/",
            "testkit/",
            "benches/",
            "fuzz/",
            "include/",
            "kamailio-config/",
            "scripts/",
        ];
        let is_path = |name: &&str| {
            folders.iter().any(|folder| name.starts_with(folder))
                && ![" ", "NAME"].iter().any(|part| name.contains(part))
        };
        for name in quoted_code(&text).filter(is_path) {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).exists(), "{manual}: there is no {name}");
        }
    }
}

/// Checks the evidence of a guarantee, `file: test, test (both hosts); file`. Returns what is wrong with it.
fn check_evidence(evidence: &str) -> Result<(), String> {
    let before_opensips = read("tests/e2e/opensips.rs");
    for part in evidence.split(';') {
        let mut names = quoted_code(part);
        let path = names.next().ok_or("it names no file")?;
        let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let names: Vec<&str> = names.collect();
        if whole.is_dir() || has_runner(&whole) {
            // A folder or program is one case, whose parts have no names.
            if !names.is_empty() || !has_tests(&whole) {
                return Err(format!("{path} is not a single case"));
            }
            continue;
        }
        let source = fs::read_to_string(&whole).map_err(|error| format!("{path}: {error}"))?;
        let is_test = |name: &str| {
            let found = source.split(&format!("fn {name}(")).next().filter(|before| before.len() < source.len());
            found.is_some_and(|before| before.rsplit('}').next().is_some_and(|gap| gap.contains("#[test]")))
        };
        if names.is_empty() {
            return Err(format!("{path}: no test is named"));
        }
        if let Some(name) = names.iter().find(|name| !is_test(name)) {
            return Err(format!("{path} has no test {name}"));
        }
        let listed = |name: &str| before_opensips.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == name);
        if let Some(name) = names.iter().find(|name| part.contains("(both hosts)") && !listed(name)) {
            return Err(format!("{name} does not run in OpenSIPS"));
        }
    }
    Ok(())
}

/// Returns whether a test file is a program without the standard harness.
fn has_runner(path: &Path) -> bool {
    fs::read_to_string(path).unwrap_or_default().contains("\nfn main()")
}

#[test]
fn guarantees_name_existing_tests() {
    for (page, title, least) in [
        ("docs/guarantees.md", "Charging", 10),
        ("docs/guarantees.md", "Failures and what they cost", 9),
        ("SECURITY.md", "Guarantees", 10),
    ] {
        let chapter = chapter(page, title);
        let rows = chapter.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| shown by |"));
        let rows: Vec<&str> = rows.collect();
        assert!(rows.len() > least, "the table of {page}, {title}, has changed its format");
        for row in rows {
            let evidence = row.trim_end_matches(" |").rsplit("| ").next().unwrap_or_default();
            assert_eq!(check_evidence(evidence), Ok(()), "{row}");
        }
    }
}

#[test]
fn evidence_without_a_test_is_rejected() {
    for (evidence, why) in [
        ("nothing", "it names no file"),
        ("`tests/e2e/crashes.rs`", "tests/e2e/crashes.rs: no test is named"),
        ("`tests/e2e/crashes.rs`: `the_engine_is_killed`", "tests/e2e/crashes.rs has no test the_engine_is_killed"),
        // A function of the file that is not a test.
        ("`tests/e2e/reconcile.rs`: `reconcile`", "tests/e2e/reconcile.rs has no test reconcile"),
        (
            "`tests/e2e/trouble.rs`: `all_refused_leaves_nothing_open` (both hosts)",
            "all_refused_leaves_nothing_open does not run in OpenSIPS",
        ),
    ] {
        assert_eq!(check_evidence(evidence), Err(why.to_owned()));
    }
}

/// Every `Name (code)` in the tables of requests is an AVP of the dictionary.
#[test]
fn avps_in_the_ocs_guide_are_those_of_the_dictionary() {
    let chapter = chapter("docs/ocs.md", "Requests, AVP by AVP");
    let rows = chapter.lines().filter(|line| line.starts_with('|'));
    let mut checked = 0;
    for row in rows {
        for (before, after) in row.match_indices(" (").map(|(at, _)| (&row[..at], &row[at + 2..])) {
            let code = after.split([')', ',']).next().and_then(|code| code.parse().ok());
            let name = before.rsplit([' ', '|']).next().unwrap_or_default();
            // Values of enumerations are written in capitals.
            let is_avp = name.contains('-') && name.chars().any(char::is_lowercase);
            if let Some(code) = code.filter(|_| is_avp) {
                let known = [0, VENDOR_3GPP].into_iter().filter_map(|vendor| dictionary::name(code, vendor));
                assert!(known.collect::<Vec<_>>().contains(&name), "{name} ({code}): {row}");
                checked += 1;
            }
        }
    }
    assert!(checked > 30, "{checked} AVPs");
}
