//! Chat charged by an OCS: each party has its own session there.

use super::{ALICE, BOB, LONG, bob, call, converse, long_chat};
use crate::diameter::Charged;
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::Setup;
use std::collections::BTreeSet;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A proxy that charges this content of chats, and an OCS where both parties have this credit and what is sent costs 2.
fn charged(content: &str, [alice, bob]: [i64; 2]) -> Charged {
    let accounts = [format!("{ALICE}={alice}"), format!("{BOB}={bob}")];
    let options = ["--account", &accounts[0], "--account", &accounts[1], "--rate", "sending=2", "--rate", "any=7"];
    let chat = |setup: Setup| setup.defined("WITH_CHAT", "1").defined("CHAT_CONTENT", format!("\"{content}\""));
    Charged::new(&options, chat)
}

/// Asserts that the accounts at the OCS reach these values: balance and debited units.
#[track_caller]
fn expect(charged: &Charged, accounts: [(i64, i64); 2]) {
    for (name, (balance, debited)) in [ALICE, BOB].into_iter().zip(accounts) {
        let found = charged.ocs.account_becomes(name, (balance, 0, debited), SOON);
        assert_eq!(found, (balance, 0, debited), "{name}\n{}", charged.stage.proxy.log());
    }
    charged.expect_rest();
}

/// Returns Session-Id and account of each session at the OCS.
fn sessions(charged: &Charged) -> Vec<(String, String)> {
    let lines = charged.ocs.command("sessions");
    let of = |line: &String, name: &str| {
        let value = line.split(' ').find_map(|field| field.strip_prefix(name)).unwrap_or_default();
        value.to_owned()
    };
    lines.iter().map(|line| (of(line, "session="), of(line, "account="))).collect()
}

#[test]
fn each_party_has_its_own_session_at_the_ocs() {
    let charged = charged("both", [100, 100]);
    let stage = &charged.stage;
    let _bob = bob(stage, &["from bob"], |_| {});
    let mut alice = call(stage);
    let open = sessions(&charged);
    let ids: BTreeSet<&String> = open.iter().map(|(id, _)| id).collect();
    let accounts: BTreeSet<&str> = open.iter().map(|(_, account)| account.as_str()).collect();
    assert_eq!((open.len(), ids.len(), accounts), (2, 2, BTreeSet::from([ALICE, BOB])), "{open:?}");
    converse(stage, &mut alice);
    expect(&charged, [(96, 4), (98, 2)]);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM sessions WHERE service='sending'"), 2);
}

#[test]
fn sent_content_is_one_session_at_the_ocs_and_a_failure_releases_it() {
    for (answers, units) in [(200, 2), (413, 0), (501, 0)] {
        let charged = charged("sent", [100, 100]);
        let stage = &charged.stage;
        let _bob = bob(stage, &["free"], |options| options.answers = answers);
        let mut alice = call(stage);
        let open = sessions(&charged);
        assert!(open.len() == 1 && open[0].1 == ALICE, "{open:?}");
        assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1);
        assert_eq!(alice.deliver("alice1", b"from alice"), 200, "{}", stage.proxy.log());
        if answers == 200 {
            stage.until_debited(ALICE, 1);
        } else {
            let released = "SELECT count(*) FROM undebited WHERE message_id='alice1'";
            assert!(eventually(SOON, || stage.proxy.count(released) == 1), "{answers}\n{}", stage.proxy.log());
        }
        assert_eq!(alice.bye(), 200);
        expect(&charged, [(100 - units, units), (100, 0)]);
    }
}

#[test]
fn party_refused_by_the_ocs_is_stopped_alone_and_can_read() {
    let poor_bob = charged("both", [100, 0]);
    let called = bob(&poor_bob.stage, &["from bob"], |_| {});
    let mut alice = call(&poor_bob.stage);
    assert!(eventually(SOON, || called.refused() == 1), "{}", poor_bob.stage.proxy.log());
    assert_eq!(alice.deliver("alice1", b"from alice"), 200);
    poor_bob.stage.until_debited(ALICE, 1);
    assert_eq!(poor_bob.stage.triggers(ALICE), ["response"], "Bob has read it");
    assert_eq!(alice.bye(), 200);
    expect(&poor_bob, [(98, 2), (0, 0)]);
    assert!(poor_bob.stage.proxy.statistic("answers_4012") > 0);

    let poor_alice = charged("both", [0, 100]);
    let _called = bob(&poor_alice.stage, &["from bob"], |_| {});
    let mut alice = call(&poor_alice.stage);
    assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1, "{}", poor_alice.stage.proxy.log());
    assert_eq!(alice.deliver("alice1", b"from alice"), 403);
    poor_alice.stage.until_debited(BOB, 1);
    assert_eq!(alice.bye(), 200);
    expect(&poor_alice, [(0, 0), (98, 2)]);
}

#[test]
fn engine_killed_within_a_chat_debits_each_message_once_at_the_ocs() {
    const EACH: usize = 9;
    let charged = charged("both", [1000, 1000]);
    let stage = &charged.stage;
    let texts = ["from bob"; EACH];
    let _bob = bob(stage, &texts, |_| {});
    let mut alice = call(stage);
    for n in 0..EACH {
        let engine = stage.proxy.engine_pid();
        let is_killed = n % 3 == 1;
        if is_killed {
            stage.proxy.signal("KILL", engine);
        }
        assert_eq!(alice.deliver(&format!("alice{n}"), b"from alice"), 200, "message {n}\n{}", stage.proxy.log());
        assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1, "message {n}\n{}", stage.proxy.log());
        let is_back = || !is_killed || stage.proxy.engine_pid().is_some_and(|pid| Some(pid) != engine);
        assert!(eventually(SOON, is_back), "{}", stage.proxy.log());
    }
    stage.until_debited(ALICE, EACH);
    stage.until_debited(BOB, EACH);
    assert_eq!(alice.bye(), 200);
    for name in [ALICE, BOB] {
        let found = charged.ocs.account_becomes(name, (982, 0, 18), SOON);
        assert_eq!(found, (982, 0, 18), "{name}\n{}", stage.proxy.log());
    }
    assert!(eventually(SOON, || charged.ocs.sessions().is_empty()), "{:?}", charged.ocs.sessions());
    charged.expect_marked();
}

#[test]
fn long_chat_is_charged_to_the_last_message_at_the_ocs() {
    let charged = charged("both", [3000, 3000]).unjudged();
    long_chat(&charged.stage);
    let units = 2 * LONG as i64;
    expect(&charged, [(3000 - units, units); 2]);
}
