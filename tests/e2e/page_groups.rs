//! Group chat in page mode: Kamailio's own imc distributes each MESSAGE to the members of a room, and its sender pays for the
//! copies.

use super::page::impatient;
use super::page_peers::free_port;
use super::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::page::{PageReceiver, PageSender};
use imcharge_testkit::proxy::Setup;
use std::fs;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const ROOM: &str = "sip:chat-1@im.example.org";

/// Adds imc, which sends its copies to this address, and the routes of docs/cookbook.md, which charge messages to a room.
fn with_rooms(setup: Setup, folder: &Path, outbound: &str) -> Setup {
    for table in ["imc_rooms", "imc_members", "version"] {
        let shipped = Path::new("/usr/share/kamailio/dbtext/kamailio").join(table);
        fs::copy(shipped, folder.join(table)).expect("the tables of Kamailio's package");
    }
    let modules = format!(
        "loadmodule \"db_text.so\"\nloadmodule \"imc.so\"\nloadmodule \"jsonrpcs.so\"\n\
         modparam(\"imc\", \"db_url\", \"text://{}\")\nmodparam(\"imc\", \"outbound_proxy\", \"{outbound}\")\n\
         modparam(\"jsonrpcs\", \"transport\", 2)\nloadmodule \"imcharge.so\"",
        folder.display()
    );
    let message = "    if (is_method(\"MESSAGE\")) {\n        $du = IM_SERVER;\n";
    let rooms = message.replace("        $du", "        if ($rU =~ \"^chat-\") route(ROOM);\n        $du");
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cookbook.md")).expect("the cookbook");
    let recipe = page.split("\n## Charge SIP MESSAGEs to a chat room\n").nth(1).expect("the recipe");
    let routes = recipe.split("```").nth(1).expect("its routes");
    setup
        .changed("loadmodule \"imcharge.so\"", &modules)
        .changed(message, &rooms)
        .changed("route[REFUSED] {", &format!("{routes}\nroute[REFUSED] {{"))
}

/// A room of Alice and three others, all of whom one receiver serves.
struct Room {
    stage: Stage,
    receiver: PageReceiver,
    alice: PageSender,
    _folder: tempfile::TempDir,
}

impl Room {
    fn new(change: impl FnOnce(Setup, &Path) -> Setup) -> Room {
        let folder = tempfile::tempdir().expect("a folder");
        let stage = Stage::new(|setup| change(impatient(setup), folder.path()));
        stage.proxy.set_account(ALICE, 7);
        let receiver = PageReceiver::start(&stage.place);
        let alice = PageSender::new(stage.proxy.sip, ALICE);
        let commands =
            ["#create chat-1", "#add sip:bob@example.org", "#add sip:carol@example.org", "#add sip:dave@example.org"];
        for command in commands {
            assert_eq!(alice.text(ROOM, command), 200, "{command}\n{}", stage.proxy.log());
        }
        stage.expect(ALICE, 7, 0, 0);
        Room { stage, receiver, alice, _folder: folder }
    }

    /// Users who received a text, in the order of their names.
    fn receivers(&self, text: &str) -> Vec<String> {
        let messages = self.receiver.messages();
        let copies = messages.iter().filter(|message| message.body.contains(text));
        let mut users: Vec<String> = copies.map(|message| message.header("To").to_owned()).collect();
        users.sort();
        users.dedup();
        users
    }

    #[track_caller]
    fn expect_copies(&self, text: &str) {
        assert!(
            eventually(SOON, || self.receivers(text).len() == 3),
            "{:?}\n{}",
            self.receivers(text),
            self.stage.proxy.log()
        );
        let others = ["bob", "carol", "dave"].map(|user| format!("<sip:{user}@example.org>"));
        assert_eq!(self.receivers(text), others);
    }
}

#[track_caller]
fn assert_that_the_sender_pays_each_copy_once(room: &Room) {
    let Room { stage, alice, .. } = room;
    for (text, balance, debited) in [("first message", 4, 3), ("second message", 1, 6)] {
        assert_eq!(alice.text(ROOM, text), 200, "{}", stage.proxy.log());
        room.expect_copies(text);
        stage.expect(ALICE, balance, 0, debited);
    }
    // One unit is left, and three are needed.
    assert_eq!(alice.text(ROOM, "third message"), 402, "{}", stage.proxy.log());
    stage.expect(ALICE, 1, 0, 6);
    assert!(room.receivers("third message").is_empty());
    assert_eq!(stage.proxy.statistic("messages"), 3);
}

#[test]
fn sender_to_a_room_of_imc_pays_for_each_copy() {
    let room = Room::new(|setup, folder| {
        let outbound = format!("sip:{}", setup.server);
        with_rooms(setup, folder, &outbound)
    });
    assert_that_the_sender_pays_each_copy_once(&room);
}

#[test]
fn copies_of_imc_that_pass_the_proxy_again_are_charged_once() {
    // imc sends its copies to a second listener of the same proxy.
    let port = free_port();
    let room = Room::new(|setup, folder| {
        let own = format!("    if ($Rp == {port} && is_method(\"MESSAGE\")) {{ $du = IM_SERVER; t_relay(); exit; }}\n");
        let cancel = "    if (is_method(\"CANCEL\")) {";
        with_rooms(setup, folder, &format!("sip:127.0.0.1:{port}"))
            .changed("listen=MSRP_LISTEN", &format!("listen=udp:127.0.0.1:{port}\nlisten=MSRP_LISTEN"))
            .changed(cancel, &format!("{own}{cancel}"))
    });
    assert_that_the_sender_pays_each_copy_once(&room);
}

#[test]
fn message_of_an_outsider_to_a_room_costs_nothing() {
    let room = Room::new(|setup, folder| {
        let outbound = format!("sip:{}", setup.server);
        with_rooms(setup, folder, &outbound)
    });
    let outsider = "sip:outsider@example.org";
    room.stage.proxy.set_account(outsider, 10);
    let sender = PageSender::new(room.stage.proxy.sip, outsider);
    assert_eq!(sender.text(ROOM, "from outside"), 500, "{}", room.stage.proxy.log());
    room.stage.expect(outsider, 10, 0, 0);
    assert!(room.receivers("from outside").is_empty());
    assert_eq!(sender.text("sip:chat-none@im.example.org", "to no room"), 404, "{}", room.stage.proxy.log());
    room.stage.expect(outsider, 10, 0, 0);
}
