//! Answers and peers that a client may misread: several services in one answer, and a server whose application hangs.

use super::ALICE;
use super::diameter::Charged;
use super::failover::{expect, ocs, retrieve, stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use std::time::{Duration, Instant};

/// A proxy whose OCS rates by Service-Identifier 7 and Rating-Group 1, in Multiple-Services-Credit-Control.
fn rated(options: &[&str]) -> Charged {
    Charged::new(options, |setup| {
        let setup = setup.defined("OCS_PROFILE", "\"3gpp-ro\"");
        setup.parameter("service_identifier", "7").parameter("rating_group", "1")
    })
}

/// The server learns from each request which service is used, and from each debit what was sent.
#[test]
fn ocs_rates_by_service_and_content_class() {
    let charged = rated(&["--rate", "any/file=7", "--rate", "retrieval/text=2", "--rate", "sending=50"]);
    let _server =
        charged.stage.server(&["one", "two"], |options| options.content_types = vec!["text/plain", "image/png"]);
    let mut client = charged.stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    charged.stage.until_debited(ALICE, 1);
    assert_eq!(charged.ocs.account(ALICE).2, 2, "{}", charged.stage.proxy.log());
    client.take(1, Reaction::Silence);
    client.bye();
    charged.expect(100 - 9, 0, 9);
}

#[test]
fn own_service_decides_among_several_and_the_others_are_closed() {
    let charged = rated(&[]);
    let _server = charged.stage.server(&["one"], |_| {});
    let mut debited = 0;
    for fault in ["refused-before", "refused-after", "granted-before", "granted-after"] {
        charged.ocs.command("fault off");
        charged.ocs.command(&format!("fault foreign={fault} on=initial"));
        let mut client = charged.stage.bound(|_| {});
        let foreign = i64::from(fault.starts_with("granted"));
        charged.expect(100 - debited - 10 - foreign, 10 + foreign, debited);
        client.take(1, Reaction::Answer(200));
        debited += 1;
        charged.stage.until_debited(ALICE, debited as usize);
        // The UPDATE of the debit has closed what else was granted.
        charged.expect(100 - debited - 9, 9, debited);
        client.bye();
        charged.expect(100 - debited, 0, debited);
    }
    // The server grants it again with each answer.
    charged.ocs.command("fault off");
    charged.ocs.command("fault foreign=granted-before on=initial,update");
    let mut client = charged.stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    debited += 1;
    charged.stage.until_debited(ALICE, debited as usize);
    charged.expect(100 - debited - 10, 10, debited);
    client.bye();
    charged.expect(100 - debited, 0, debited);
    charged.expect_rest();
    assert_eq!(charged.ocs.counter("unreported"), 0);
}

#[test]
fn units_outside_of_services_are_granted_beside_other_services() {
    let charged = Charged::new(&[], |setup| setup.defined("OCS_PROFILE", "\"rfc8506\""));
    let _server = charged.stage.server(&["one"], |_| {});
    for (at, fault) in [(0, "refused-before"), (1, "granted-before")] {
        charged.ocs.command("fault off");
        charged.ocs.command(&format!("fault foreign={fault} on=initial"));
        let mut client = charged.stage.bound(|_| {});
        client.take(1, Reaction::Answer(200));
        charged.stage.until_debited(ALICE, at as usize + 1);
        // The other service holds its unit until the TERMINATION: a request with units in the command cannot report it.
        let foreign = i64::from(fault.starts_with("granted"));
        charged.expect(90 - at - foreign, 9 + foreign, at + 1);
        client.bye();
        charged.expect(99 - at, 0, at + 1);
    }
    charged.expect_rest();
}

#[test]
fn grants_to_other_services_are_returned_after_a_refusal() {
    let charged = rated(&["--no-partial", "--success-on-top", "yes"]);
    charged.ocs.command(&format!("account {ALICE}=3"));
    charged.ocs.command("fault foreign=granted-before on=initial times=1");
    let _server = charged.stage.server(&["one"], |_| {});
    // Ten are refused, fewer are granted in a session of their own.
    let mut client = charged.stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    charged.stage.until_debited(ALICE, 1);
    client.bye();
    charged.expect(2, 0, 1);
    charged.expect_rest();
    assert_eq!(charged.ocs.counter("unreported"), 0);
}

#[test]
fn a_server_whose_application_hangs_serves_again_when_it_answers_requests() {
    const SOON: Duration = Duration::from_secs(30);
    let (one, two) = (ocs("ocs1.example.com"), ocs("ocs2.example.com"));
    let (first, second) = (("ocs1.example.com", one.diameter), ("ocs2.example.com", two.diameter));
    let stage = stage(first, second, |setup| setup.parameter("tx_timeout", "3"));
    let _server = stage.server(&["one"], |_| {});
    two.command(&format!("account {ALICE}=1000000"));
    // Its watchdog answers.
    one.command("fault lose on=all");
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 503);
    let mut served = 0;
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    while one.counter("lost") < 2 {
        assert!(begun.elapsed() < SOON, "it is never tried: {}", stage.proxy.log());
        let invited = Instant::now();
        retrieve(&stage);
        longest = longest.max(invited.elapsed());
        served += 1;
    }
    // The request that tried it was served by the other, before its time was over.
    expect(&two, (1_000_000 - served, 0, served), &stage);
    assert!(longest < Duration::from_secs(3), "{longest:?}");
    assert!(stage.proxy.rpc(&["imcharge.peers"]).unwrap_or_default().contains("state: DEMOTED"));
    one.command("fault off");
    let begun = Instant::now();
    while one.account(ALICE) == (100, 0, 0) {
        assert!(begun.elapsed() < SOON, "it is not trusted again: {}", stage.proxy.log());
        retrieve(&stage);
    }
    expect(&one, (99, 0, 1), &stage);
    retrieve(&stage);
    expect(&one, (98, 0, 2), &stage);
    assert!(!stage.proxy.rpc(&["imcharge.peers"]).unwrap_or_default().contains("state: DEMOTED"));
}

#[test]
fn a_sip_uri_of_a_telephone_number_is_sent_as_e164() {
    let charged = Charged::new(&[], |setup| setup.parameter("identity", "\"tel\""));
    charged.ocs.command("account tel:+49301234=100");
    let _server = charged.stage.server(&["one"], |_| {});
    let value = format!("<{ALICE}>, <sip:+49-30-1234@example.org;user=phone>");
    let mut client = charged.stage.client(ALICE, |options| {
        options.asserted = false;
        options.headers.push(("P-Asserted-Identity".into(), value));
    });
    assert_eq!(client.invite(), 200, "{}", charged.stage.proxy.log());
    client.bind();
    client.take(1, Reaction::Answer(200));
    client.bye();
    let wanted = (99, 0, 1);
    assert_eq!(charged.ocs.account_becomes("tel:+49301234", wanted, Duration::from_secs(30)), wanted);
    charged.expect(100, 0, 0);
    charged.expect_rest();
}

#[test]
fn remaining_validity_time_survives_the_engine() {
    const VALID: Duration = Duration::from_secs(12);
    let charged = Charged::new(&["--validity-time", "12"], |setup| setup.defined("RESPONSE_TIMEOUT", "60"));
    let _server = charged.stage.server(&["one"], |_| {});
    let proxy = &charged.stage.proxy;
    let begun = Instant::now();
    let mut client = charged.stage.bound(|_| {});
    let before = proxy.engine_pid();
    proxy.signal("KILL", before);
    let is_back = || proxy.engine_pid().is_some_and(|pid| Some(pid) != before);
    assert!(eventually(Duration::from_secs(10), is_back), "{}", proxy.log());
    assert!(eventually(2 * VALID, || proxy.statistic("interim_ccrs") > 0), "{}", proxy.log());
    assert!(begun.elapsed() >= VALID, "renewed after {:?}", begun.elapsed());
    client.take(1, Reaction::Answer(200));
    charged.stage.until_debited(ALICE, 1);
    client.bye();
    charged.expect(99, 0, 1);
    charged.expect_rest();
}
