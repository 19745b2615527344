//! Content classes: what is free by its type, and what is charged whatever it claims.

use super::{ALICE, Stage};
use imcharge_testkit::parties::client::{ImClient, Reaction};
use imcharge_testkit::parties::server::ImServer;
use std::time::Duration;

/// Identity of a store-and-forward server, and the called subscriber, who pays for what it delivers.
const PUSHING: &str = "sip:rcse-standfw@operator.example";
const CALLED: &str = "sip:deferred@im.example.org";

const CPIM: &str = "message/cpim";
const IMDN: &str = "message/imdn+xml";
const COMPOSING: &str = "application/im-iscomposing+xml";

/// A delivery notification as RFC 5438, 7.2 has it.
const IMDN_BODY: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\
    <imdn xmlns=\"urn:ietf:params:xml:ns:imdn\">\r\n<message-id>34jk324j</message-id>\r\n\
    <datetime>2008-04-04T12:16:49-05:00</datetime>\r\n<recipient-uri>im:bob@example.com</recipient-uri>\r\n\
    <delivery-notification><status><delivered/></status></delivery-notification>\r\n</imdn>";

/// A composing indication as RFC 3994, 4.3 has it.
const COMPOSING_BODY: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\
    <isComposing xmlns=\"urn:ietf:params:xml:ns:im-iscomposing\">\r\n<state>active</state>\r\n\
    <contenttype>text/plain</contenttype>\r\n<refresh>90</refresh>\r\n</isComposing>";

/// Content of this type in a CPIM message, with padding before it so that each of 20 chunks is short.
fn in_cpim(header: &str, body: &str) -> String {
    format!(
        "From: Bob <im:bob@example.com>\r\nTo: Alice <im:alice@example.com>\r\nNS: imdn <urn:ietf:params:imdn>\r\n\
         imdn.Message-ID: d834jied93rf\r\n\r\n{header}\r\nContent-Disposition: notification\r\n\r\n{body}{}",
        "\r\n<!-- padding -->".repeat(400)
    )
}

/// Free content of every form: Content-Type and body.
fn notifications() -> Vec<(&'static str, String)> {
    vec![
        (IMDN, IMDN_BODY.to_owned()),
        (COMPOSING, COMPOSING_BODY.to_owned()),
        ("MESSAGE/IMDN+XML;charset=utf-8", IMDN_BODY.to_owned()),
        (CPIM, in_cpim("Content-type: message/imdn+xml", IMDN_BODY)),
        (CPIM, in_cpim("CONTENT-TYPE:\r\n application/im-iscomposing+xml\r\n ;charset=utf-8", COMPOSING_BODY)),
    ]
}

#[test]
pub fn notifications_cost_nothing_in_a_retrieval() {
    for chunks in [1, 2, 20] {
        let stage = Stage::plain();
        let content = notifications();
        let longest = content.iter().map(|(_, body)| body.len()).max().expect("some");
        let _server = stage.server(&[], |options| {
            let bodies = content.iter().enumerate();
            options.messages =
                bodies.map(|(at, (_, body))| (format!("notice{at}"), body.clone().into_bytes())).collect();
            options.messages.push(("text0".into(), b"message/imdn+xml is free".to_vec()));
            options.content_types = content.iter().map(|(content_type, _)| *content_type).collect();
            options.chunk = longest.div_ceil(chunks);
        });
        let mut client = stage.client(ALICE, |_| {});
        let outcome = client.retrieve(content.len() + 1, Reaction::Answer(200));
        assert!(outcome.messages.iter().all(|message| message.complete), "{outcome:?}\n{}", stage.proxy.log());
        assert_eq!(outcome.messages.len(), content.len() + 1, "{outcome:?}");
        stage.expect(ALICE, 99, 0, 1);
        assert_eq!(stage.proxy.debits(ALICE)[0].message_id, "text0");
        let (free, unclassified) = (stage.proxy.statistic("frames_free"), stage.proxy.statistic("frames_unclassified"));
        assert!(free >= (content.len() + chunks - 1) as i64 && unclassified == 0, "{free}, {unclassified}");
    }
}

/// A proxy with credit for the called subscriber, and an answered session of a server that delivers by RCS push.
fn pushed(
    change: impl FnOnce(imcharge_testkit::proxy::Setup) -> imcharge_testkit::proxy::Setup,
) -> (Stage, ImServer, ImClient) {
    let stage = Stage::new(change);
    stage.proxy.set_account(CALLED, 100);
    let called = stage.server(&[], |_| {});
    let mut pushing = stage.client(PUSHING, |_| {});
    assert_eq!(pushing.invite(), 200, "{}", stage.proxy.log());
    pushing.bind();
    (stage, called, pushing)
}

#[test]
pub fn notifications_cost_nothing_in_a_push() {
    let (stage, _called, mut pushing) = pushed(|setup| setup);
    for chunks in [1, 2, 20] {
        for (number, (content_type, body)) in notifications().iter().enumerate() {
            let id = format!("push{chunks}x{number}");
            let status = pushing.deliver_in_chunks(&id, content_type, body.as_bytes(), chunks);
            assert_eq!(status, 200, "{content_type} in {chunks} chunks\n{}", stage.proxy.log());
        }
    }
    assert_eq!(pushing.deliver("text0", b"hello"), 200);
    stage.until_debited(CALLED, 1);
    assert_eq!(pushing.bye(), 200);
    stage.expect(CALLED, 99, 0, 1);
    assert_eq!(stage.proxy.debits(CALLED)[0].message_id, "text0");
}

#[test]
pub fn notifications_pass_when_the_credit_is_used_up() {
    let stage = Stage::new(|setup| setup);
    stage.proxy.set_account(CALLED, 1);
    let _called = stage.server(&[], |_| {});
    let mut pushing = stage.client(PUSHING, |_| {});
    assert_eq!(pushing.invite(), 200, "{}", stage.proxy.log());
    pushing.bind();
    assert_eq!(pushing.deliver("text0", b"hello"), 200);
    assert_eq!(pushing.deliver("text1", b"hello"), 403);
    assert_eq!(pushing.deliver_in_chunks("notice", IMDN, IMDN_BODY.as_bytes(), 2), 200);
    stage.until_debited(CALLED, 1);
    assert_eq!(pushing.bye(), 200);
    stage.expect(CALLED, 0, 0, 1);
}

#[test]
pub fn content_disguised_as_a_notification_is_charged() {
    let (stage, _called, mut pushing) = pushed(|setup| setup);
    let mut debited = 0;
    let mut is_charged = |what: &str, charged: usize| {
        debited += charged;
        std::thread::sleep(Duration::from_millis(100));
        stage.until_debited(CALLED, debited);
        assert_eq!(stage.proxy.debits(CALLED).len(), debited, "{what}: {:?}", stage.proxy.debits(CALLED));
    };
    let head = in_cpim("Content-type: message/imdn+xml", IMDN_BODY);
    let cut = head.find("imdn+xml").expect("its type");
    // More than free_content_max, in one chunk, in small ones, and by ranges that claim the same octets again.
    let picture = vec![b'x'; 16_385];
    assert_eq!(pushing.deliver_in_chunks("large1", IMDN, &picture, 2), 200);
    is_charged("a large message", 1);
    assert_eq!(pushing.deliver_chunk("repeat", IMDN, "1-100/200", &[b'x'; 100], '+'), 200);
    assert_eq!(pushing.deliver_chunk("repeat", IMDN, "50-149/200", &[b'x'; 100], '+'), 200);
    assert_eq!(pushing.deliver_chunk("repeat", IMDN, "150-200/200", &[b'x'; 51], '$'), 200);
    is_charged("overlapping ranges", 1);
    // A later chunk of another type, and a Message-ID used for both.
    assert_eq!(pushing.deliver_chunk("change", IMDN, "1-5/10", b"<imdn", '+'), 200);
    assert_eq!(pushing.deliver_chunk("change", "text/plain", "6-10/10", b"hello", '$'), 200);
    is_charged("another type in the second chunk", 1);
    assert_eq!(pushing.deliver_in_chunks("both1", IMDN, IMDN_BODY.as_bytes(), 1), 200);
    assert_eq!(pushing.deliver("both1", b"hello"), 200);
    is_charged("text under the id of a notification", 1);
    assert_eq!(pushing.deliver("both2", b"hello"), 200);
    assert_eq!(pushing.deliver_in_chunks("both2", IMDN, IMDN_BODY.as_bytes(), 1), 200);
    is_charged("a notification under the id of a text", 1);
    // A CPIM message whose headers break off, at a chunk or for good.
    let unclassified = || stage.proxy.statistic("frames_unclassified");
    assert_eq!(unclassified(), 0);
    let size = head.len();
    let (first, rest) = head.as_bytes().split_at(cut);
    assert_eq!(pushing.deliver_chunk("split", CPIM, &format!("1-{cut}/{size}"), first, '+'), 200);
    assert_eq!(pushing.deliver_chunk("split", CPIM, &format!("{}-{size}/{size}", cut + 1), rest, '$'), 200);
    assert_eq!(pushing.deliver_in_chunks("broken", CPIM, first, 1), 200);
    is_charged("headers that break off", 2);
    assert_eq!(unclassified(), 2);
    assert_eq!(pushing.bye(), 200);
    stage.expect(CALLED, 100 - debited as i64, 0, debited as i64);
}

#[test]
pub fn free_content_is_what_the_operator_says() {
    let nothing = |setup: imcharge_testkit::proxy::Setup| setup.parameter("free_content", "\"\"");
    let (stage, _called, mut pushing) = pushed(nothing);
    assert_eq!(pushing.deliver_in_chunks("notice", IMDN, IMDN_BODY.as_bytes(), 1), 200);
    stage.until_debited(CALLED, 1);
    drop((stage, pushing));
    let text = |setup: imcharge_testkit::proxy::Setup| {
        setup.parameter("free_content", "\"text/plain\"").parameter("free_content_max", "10")
    };
    let (stage, _called, mut pushing) = pushed(text);
    assert_eq!(pushing.deliver("short", b"0123456789"), 200);
    assert_eq!(pushing.deliver("longer", b"0123456789a"), 200);
    stage.until_debited(CALLED, 1);
    assert_eq!(stage.proxy.debits(CALLED)[0].message_id, "longer");
    assert_eq!(stage.proxy.statistic("frames_free"), 1);
}
