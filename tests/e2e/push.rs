//! RCS push: the IM server invites; the called subscriber pays for the messages delivered to it.

use super::Stage;
use imcharge_testkit::parties::client::ImClient;
use imcharge_testkit::parties::server::ImServer;
use std::time::Duration;

/// Identity of a store-and-forward server.
const PUSHING: &str = "sip:rcse-standfw@operator.example";
/// Called subscriber, who pays.
const CALLED: &str = "sip:deferred@im.example.org";

/// Starts a proxy with credit for the called subscriber, who answers content with this status. Returns it with the
/// server's side of an answered and bound session.
fn pushed(answers: u16) -> (Stage, ImServer, ImClient) {
    let stage = Stage::new(|setup| setup);
    stage.proxy.set_account(CALLED, 100);
    stage.proxy.set_account(PUSHING, 100);
    let called = stage.server(&[], |options| options.answers = answers);
    let mut pushing = stage.client(PUSHING, |_| {});
    assert_eq!(pushing.invite(), 200, "{}", stage.proxy.log());
    pushing.bind();
    (stage, called, pushing)
}

#[test]
fn called_party_pays_for_content_it_answers_with_200_or_415() {
    for (answers, trigger) in [(200, "response"), (415, "error")] {
        let (stage, _called, mut pushing) = pushed(answers);
        stage.expect(CALLED, 90, 10, 0);
        for message in ["push1", "push2"] {
            assert_eq!(pushing.deliver(message, b"content"), 200, "{}", stage.proxy.log());
        }
        stage.until_debited(CALLED, 2);
        assert_eq!(stage.triggers(CALLED), [trigger; 2]);
        assert_eq!(pushing.bye(), 200);
        stage.expect(CALLED, 98, 0, 2);
        stage.expect(PUSHING, 100, 0, 0);
    }
}

#[test]
fn messages_of_the_called_party_are_free() {
    let stage = Stage::new(|setup| setup);
    stage.proxy.set_account(CALLED, 100);
    let _called = stage.server(&["a reply"], |_| {});
    let mut pushing = stage.client(PUSHING, |_| {});
    assert_eq!(pushing.invite(), 200, "{}", stage.proxy.log());
    pushing.bind();
    let reply = pushing.next_send(Duration::from_secs(5)).expect("the reply passes");
    pushing.answer(&reply, 200);
    assert_eq!(pushing.deliver("push1", b"content"), 200);
    stage.until_debited(CALLED, 1);
    pushing.bye();
    stage.expect(CALLED, 99, 0, 1);
    assert_eq!(stage.proxy.debits(CALLED)[0].message_id, "push1");
}
