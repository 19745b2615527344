//! Monitoring as an operator sets it up: the shipped configuration, a real Prometheus that scrapes it, every query of the
//! shipped dashboard, and the shipped alerts.

pub mod prometheus;

use super::diameter::Charged;
use super::sessions::in_lua;
use super::{ALICE, Stage};
use imcharge::admin::metrics;
use imcharge::shm::statistic::{Kind, Statistic};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::Setup;
use prometheus::{Prometheus, free_address, get, program, shipped};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// Panels whose values are all above zero after [`retrievals`].
const MOVED: &[&str] =
    &["Reservations", "Refused", "Debits by trigger", "INVITE to verdict", "Trigger to debit", "Request to answer"];

/// Runs promtool. Returns its output as the error if it finds a problem.
fn promtool(arguments: &[&str], folder: &Path, input: &str) -> Result<(), String> {
    let mut command = Command::new(program("promtool"));
    command.args(arguments).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool can be run");
    child.stdin.take().expect("its input is piped").write_all(input.as_bytes()).expect("it reads its input");
    let done = child.wait_with_output().expect("it ends");
    let output = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    if done.status.success() { Ok(()) } else { Err(output) }
}

#[test]
fn shipped_prometheus_rules_are_valid_and_each_alert_fires() {
    let config = shipped("prometheus");
    assert_eq!(promtool(&["check", "config", "prometheus.yml"], &config, ""), Ok(()));
    assert_eq!(promtool(&["check", "rules", "imcharge-alerts.yml"], &config, ""), Ok(()));
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/watching");
    assert_eq!(promtool(&["test", "rules", "alerts.yml"], &tests, ""), Ok(()));
    // Every alert is tested.
    let tested = fs::read_to_string(tests.join("alerts.yml")).expect("readable");
    let rules = fs::read_to_string(shipped("prometheus/imcharge-alerts.yml")).expect("readable");
    let names: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        let fires = format!("alertname=\"{name}\",alertstate=\"firing\",instance=\"bad\"");
        assert_eq!(tested.matches(&fires).count(), 1, "{name}");
    }
}

#[test]
fn prometheus_and_the_stats_command_report_the_same() {
    let (charged, metrics) = watched();
    let prometheus = Prometheus::start(metrics);
    prometheus.becomes("up{job=\"imcharge\"} == 1", SOON);
    prometheus.becomes("up{job=\"kamailio\"} == 1", SOON);
    retrievals(&charged);
    charged.expect_rest();
    the_text_is_clean(metrics, &charged.stage);
    the_numbers_are_the_same(&prometheus, &charged.stage);
    every_panel_has_a_result(&prometheus);
    every_rule_is_evaluated(&prometheus);
    prometheus.becomes("kamailio_core_rcv_requests > 0", SOON);
    assert!(prometheus.query("{__name__=~\"kamailio_imcharge_.*\"}").is_empty(), "the same numbers under two names");
}

#[test]
fn waiting_debit_is_visible_in_the_metrics() {
    let (charged, metrics) = watched();
    let (stage, prometheus) = (&charged.stage, Prometheus::start(metrics));
    prometheus.becomes("imcharge_engine_up == 1", SOON);
    // A message is delivered, its debit is never answered, and the session ends.
    charged.ocs.command("fault lose on=update,termination");
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    prometheus.becomes("imcharge_outbox_depth == 1", SOON);
    prometheus.becomes("imcharge_outbox_oldest_age_seconds >= 3", SOON);
    client.bye();
    // The engine hangs for a moment.
    let engine = stage.proxy.engine_pid();
    assert!(engine.is_some());
    stage.proxy.signal("STOP", engine);
    // Queries over a range, because the supervisor soon replaces an engine that hangs.
    prometheus.becomes("min_over_time(imcharge_engine_up[2m]) == 0", SOON);
    prometheus.becomes("count_over_time(ALERTS{alertname=\"ImchargeEngineDown\"}[2m])", SOON);
    stage.proxy.signal("CONT", engine);
    prometheus.becomes("imcharge_engine_up == 1", SOON);
    // A minute later the ended session still holds unused credit.
    prometheus.becomes("imcharge_holds_stuck == 1", Duration::from_secs(120));
    prometheus.becomes("imcharge_outbox_oldest_age_seconds > 60", SOON);
    prometheus.becomes("ALERTS{alertname=\"ImchargeHoldsStuck\"}", SOON);
    // The charging system recovers, the engine is killed, and the next engine settles the session.
    charged.ocs.command("fault off");
    let before = stage.proxy.statistic("engine_restarts");
    stage.proxy.signal("KILL", stage.proxy.engine_pid());
    prometheus.becomes(&format!("imcharge_engine_restarts_total == {}", before + 1), SOON);
    prometheus.becomes("ALERTS{alertname=\"ImchargeEngineRestarts\",alertstate=\"firing\"}", SOON);
    charged.expect(99, 0, 1);
    prometheus.becomes("imcharge_outbox_depth == 0", SOON);
    prometheus.becomes("imcharge_outbox_oldest_age_seconds == 0", SOON);
    prometheus.becomes("imcharge_holds_stuck == 0", SOON);
    // The histogram contains the real duration of the debit.
    prometheus.becomes("imcharge_debit_latency_seconds_count == 1 and imcharge_debit_latency_seconds_sum > 60", SOON);
}

#[test]
fn metrics_are_exported_with_a_lua_script() {
    let metrics = free_address();
    let stage = Stage::new(|setup| with_metrics(in_lua(setup), metrics));
    the_text_is_clean(metrics, &stage);
    let proxy = get(metrics, "/metrics/kamailio", SOON).expect("the proxy answers");
    assert!(proxy.status == 200 && proxy.text.contains("kamailio_core_rcv_requests "), "{proxy:?}");
}

fn with_metrics(setup: Setup, metrics: SocketAddr) -> Setup {
    setup.defined("WITH_METRICS", "1").defined("METRICS_LISTEN", format!("tcp:{metrics}"))
}

/// Starts a charging system and a proxy that serves metrics. Returns both and the address of the metrics.
fn watched() -> (Charged, SocketAddr) {
    let metrics = free_address();
    let charged = Charged::new(&[], |setup| with_metrics(setup, metrics));
    (charged.unjudged(), metrics)
}

/// Produces each outcome of a reservation and each trigger of a debit.
fn retrievals(charged: &Charged) {
    let stage = &charged.stage;
    let _server = stage.server(&["one"], |_| {});
    for (reaction, debited) in [(Reaction::Answer(200), 1), (Reaction::Answer(415), 2), (Reaction::Silence, 3)] {
        let mut client = stage.bound(|_| {});
        client.take(1, reaction);
        stage.until_debited(ALICE, debited);
        client.bye();
    }
    let mut client = stage.bound(|_| {});
    assert!(client.next_send(SOON).is_some());
    client.bye();
    stage.until_debited(ALICE, 4);
    for (code, sip) in [(4012, 402), (3004, 503)] {
        charged.ocs.command(&format!("fault refuse={code} on=initial"));
        assert_eq!(stage.client(ALICE, |_| {}).invite(), sip, "{}", stage.proxy.log());
        charged.ocs.command("fault off");
    }
}

/// Checks the exposition format, and that no other path and port serves it.
fn the_text_is_clean(metrics: SocketAddr, stage: &Stage) {
    let page = get(metrics, "/metrics", SOON).expect("the proxy answers");
    assert_eq!((page.status, &*page.kind), (200, "text/plain; version=0.0.4"));
    assert_eq!(promtool(&["check", "metrics"], Path::new("/"), &page.text), Ok(()), "{}", page.text);
    let broken = page.text.replacen("_total counter", "_total gauge", 1);
    assert!(promtool(&["check", "metrics"], Path::new("/"), &broken).is_err(), "promtool accepts anything");
    assert_eq!(get(metrics, "/", SOON).map(|page| page.status), Some(404));
    assert!(get(stage.proxy.msrp, "/metrics", Duration::from_millis(500)).is_none(), "the MSRP port serves metrics");
}

/// Checks that Prometheus has the values of `imcharge.stats`, under the names of the manual.
fn the_numbers_are_the_same(prometheus: &Prometheus, stage: &Stage) {
    for statistic in Statistic::ALL {
        let value = || stage.proxy.statistic(statistic.name());
        let (expression, wanted) = match (metrics::name_of(*statistic), statistic.kind()) {
            (Some(name), Kind::Micros) => (format!("{name} * 1000000"), value()),
            (Some(name), _) => (name, value()),
            (None, _) => {
                let (latency, part) = statistic.name().rsplit_once('_').expect("a part of a distribution");
                let scale = if part == "sum" { " * 1000000" } else { "" };
                (format!("imcharge_{latency}_seconds_{part}{scale}"), value())
            }
        };
        assert!(wanted >= 0, "{} is not a statistic", statistic.name());
        let found = || prometheus.query(&expression).first().map_or(-1.0, |row| row.1).round();
        assert!(eventually(SOON, || found() == wanted as f64), "{expression}: {} is not {wanted}", found());
    }
    let value = |name: &str| stage.proxy.statistic(name);
    assert_eq!(value("reserve_latency_count"), value("reserves"));
    assert_eq!(value("debit_latency_count"), value("debits"));
    assert_eq!(value("enabler_latency_count"), value("ccr_answers"));
}

/// Runs every query of the dashboard as Grafana does.
fn every_panel_has_a_result(prometheus: &Prometheus) {
    let text = fs::read_to_string(shipped("grafana/grafana-dashboard.json")).expect("it is shipped");
    let dashboard: Value = serde_json::from_str(&text).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let (mut queries, mut moved) = (0, 0);
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().expect("a panel has a title");
        let targets = panel["targets"].as_array().expect("a panel has targets");
        for target in targets {
            let query = target["expr"].as_str().expect("a query");
            let expression = query.replace("$__rate_interval", "5m").replace("$instance", ".*");
            assert!(!expression.contains('$'), "{title}: {query} has a variable that is not set");
            let mut rows = Vec::new();
            let has_result = eventually(SOON, || {
                rows = prometheus.query(&expression);
                !rows.is_empty() && rows.iter().all(|(_, value)| value.is_finite())
            });
            assert!(has_result, "{title}: {expression} gives {rows:?}");
            if MOVED.contains(&title) {
                assert!(rows.iter().all(|(_, value)| *value > 0.0), "{title}: {expression} gives {rows:?}");
                moved += 1;
            }
            queries += 1;
        }
    }
    assert!(queries > 40 && moved > MOVED.len(), "{queries} queries, {moved} that have moved");
}

/// Checks that every rule is evaluated without an error and describes what to do.
fn every_rule_is_evaluated(prometheus: &Prometheus) {
    let rules = || {
        let groups = prometheus.api("rules")["groups"].clone();
        let all = groups.as_array().into_iter().flatten().filter_map(|group| group["rules"].as_array());
        all.flatten().cloned().collect::<Vec<Value>>()
    };
    assert!(eventually(SOON, || rules().iter().all(|rule| rule["health"] == "ok")), "{:?}", rules());
    let rules = rules();
    assert!(rules.len() > 5, "{rules:?}");
    for rule in rules {
        prometheus.query(rule["query"].as_str().expect("a rule has a query"));
        for annotation in ["summary", "description"] {
            let text = rule["annotations"][annotation].as_str().unwrap_or_default();
            assert!(text.len() > 20, "{}: no {annotation}", rule["name"]);
        }
    }
}
