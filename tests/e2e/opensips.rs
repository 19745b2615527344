//! The same tests with OpenSIPS: its msrp_relay between the parties, which request their paths from it (RFC 4976), with
//! several UDP and TCP workers. Also covers what only OpenSIPS has: its events and its management interface.
//!
//! Needs OpenSIPS, which Debian does not have: OPENSIPS_SRC names its sources and OPENSIPS_BIN its program, and
//! IMCHARGE_OPENSIPS_MODULE the folder of the module that was built for it (`make opensips`). `make test` says whether it
//! runs these.

mod delivery;
mod party;
mod waits;

use super::{
    ALICE, Stage, accounts, ahead, bad_input, before, chat, connections, content, crashes, delivered, dialogs,
    diameter, files, forged, logs, manual, outcomes, page, payer, recovery, resume, sessions,
};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::opensips;
use imcharge_testkit::proxy::{Host, Setup};
use std::path::PathBuf;
use std::time::Duration;

/// Folder of the module for OpenSIPS.
pub fn module() -> PathBuf {
    let folder = std::env::var_os("IMCHARGE_OPENSIPS_MODULE").expect("IMCHARGE_OPENSIPS_MODULE names no folder");
    assert!(opensips::program().is_some(), "OPENSIPS_SRC and OPENSIPS_BIN must name an OpenSIPS");
    PathBuf::from(folder)
}

/// Cases of the other files, before OpenSIPS.
macro_rules! cases {
    ($($file:ident::{$($case:ident),*})*) => {
        $($(
            #[test]
            #[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
            fn $case() {
                before(Host::OpenSips, $file::$case);
            }
        )*)*
    };
}

cases! {
    accounts::{top_up_counts_once_per_reference, command_interrupted_by_a_kill_and_repeated_counts_once, credit_limit_lets_the_balance_fall_below_zero_and_no_further, initial_balance_is_a_recorded_change, low_balance_event_runs_once_per_crossing, low_balance_route_of_the_cookbook_sends_a_message, script_has_balance_and_held_units_of_a_refused_and_of_a_granted_invite}
    outcomes::{answered_200_is_debited_once_and_the_rest_released, a_4xx_a_5xx_and_a_413_before_the_end_are_debited, failure_report_after_200_is_refunded_by_policy, message_answered_5xx_is_released_by_policy, silence_is_debited_when_the_response_does_not_come_in_time, messages_that_want_no_response_are_debited_by_the_own_timer, bye_after_a_send_and_before_its_response_is_debited, a_dropped_connection_is_debited_at_once, a_session_without_content_costs_nothing, chunks_are_one_message_in_whatever_order, a_message_that_the_server_gives_up_costs_nothing, the_same_message_again_is_one_debit, messages_beyond_the_grant_are_stopped, a_tariff_by_the_started_kilobyte, debit_waits_for_the_report_if_configured}
    page::{final_response_decides_about_each_message, policies_release_accepted_and_silent_messages, sender_without_credit_gets_402_and_nothing_is_relayed, bad_messages_have_named_outcomes, retransmissions_are_one_message, second_path_of_a_message_is_refused_as_merged, message_within_a_dialog_is_charged, notification_is_free, called_party_pays_for_messages_of_the_store, after_kill_9_of_everything_each_outstanding_message_is_settled_once, messages_survive_kills_of_the_engine}
    ahead::{without_a_number_no_message_waits_for_credit_on_the_ledger, ledger_holds_nothing_after_the_debit_of_the_last_announced_message, message_beyond_the_announced_count_is_stopped_and_later_ones_are_charged}
    delivered::{a_413_for_the_first_of_60_chunks_leaves_nothing_unpaid_that_passed, a_message_that_was_refused_early_is_stopped_and_debited_before_the_session_ends, a_message_id_that_was_given_up_is_charged_when_it_is_sent_again, chunk_at_a_distant_position_costs_its_octets, stopped_chunk_stops_its_message_and_what_passed_is_debited}
    sessions::{no_credit_is_402_and_holds_nothing, an_unknown_subscriber_gets_the_default_balance_where_there_is_one, a_repeated_invite_reserves_once_and_a_reinvite_not_at_all, cancel_releases_what_was_reserved, an_invite_by_a_second_way_is_merged_and_ends_nothing, cancel_during_the_reservation_gets_487_and_leaves_no_hold, frames_of_no_session_are_stopped, idle_session_releases_its_hold, frames_that_pass_twice_count_once, a_frame_that_comes_without_a_message_is_charged, the_other_party_pays_when_the_server_invites, the_script_names_who_pays, of_two_asserted_identities_the_parameter_chooses_who_pays, two_hundred_sessions_at_once_are_right_to_the_last_unit}
    payer::{a_payer_named_by_the_script_pays_whatever_the_caller_asserts, an_identity_that_the_script_replaces_pays_nothing, removed_identity_is_not_charged, script_decides_the_direction, an_identity_is_charged_in_whatever_form_it_is_asserted}
    dialogs::{the_answer_in_a_reliable_provisional_response_binds, an_update_of_either_side_binds_anew, a_late_offer_is_answered_in_the_ack_or_in_the_prack, every_dialog_of_a_forked_invite_is_charged_until_its_own_end, media_are_bound_by_their_position_and_descriptions_found_by_their_type, a_request_to_another_target_swaps_no_sides, a_route_to_another_party_binds_nothing, a_2xx_that_crosses_a_cancel_is_honoured, many_invites_of_one_call_id_leave_room_for_the_one_that_is_answered}
    connections::{caller_without_asserted_identity_is_refused, sessions_on_one_connection_are_charged_each_for_itself_and_lost_together}
    chat::{each_party_pays_for_what_it_sends, equal_message_ids_of_both_parties_are_different_messages, party_without_credit_can_read_and_not_write, chat_of_two_parties_without_credit_is_refused, long_chat_is_charged_to_the_last_message, recipients_multiply_the_price}
    content::{notifications_cost_nothing_in_a_retrieval, notifications_cost_nothing_in_a_push, content_disguised_as_a_notification_is_charged}
    crashes::{a_killed_engine_is_back_within_a_second_and_nothing_is_lost, after_kill_9_of_everything_each_open_session_is_settled_once, sigterm_ends_it_within_five_seconds_and_settles_what_is_open}
    forged::{a_client_cannot_take_a_message_back_by_forged_frames, a_client_cannot_take_a_message_back_where_other_msrp_is_relayed, a_client_cannot_pass_its_frames_off_as_those_of_the_relay, with_im_server_frames_of_other_addresses_are_never_the_servers, many_sessions_on_one_server_connection_survive_its_reconnect, client_that_bypasses_the_relay_is_counted_and_refused_if_configured}
    files::{pushed_file_costs_its_class_and_size_whatever_its_content_type, fetched_file_is_charged_to_the_party_that_fetches_it, document_about_a_file_costs_the_file_in_a_sip_message}
    manual::{the_routes_of_the_manual_charge_a_retrieval}
    logs::{a_killed_engine_has_a_line_at_the_default_log_level, an_answered_call_does_not_end_as_a_failed_invite}
    recovery::{copies_of_a_refused_invite_reserve_nothing_once_the_engine_is_back, a_hanging_engine_is_replaced_and_so_is_its_successor, a_pause_of_15_seconds_ends_nothing}
    resume::{a_resume_route_that_blocks_for_one_caller_delays_no_other_call, event_routes_of_ten_milliseconds_delay_no_invite_by_seconds, calls_of_a_blocked_process_are_answered_once_it_continues}
    diameter::{one_message_is_an_initial_and_a_termination}
    bad_input::{a_wrong_parameter_stops_the_start_with_one_line, negative_number_of_messages_is_refused, a_full_table_refuses_new_sessions_and_keeps_the_old_ones}
}

/// A stage before OpenSIPS; Alice has 100.
fn plain() -> Stage {
    super::HOST.set(Host::OpenSips);
    Stage::plain()
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn the_management_interface_answers_with_structures_and_names_what_is_wrong() {
    let stage = plain();
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    stage.expect(ALICE, 90, 9, 1);
    let ask = |command: &[&str]| stage.proxy.rpc(command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(ask(&["imcharge:sessions"]).contains("\"phase\":\"open\""));
    assert!(ask(&["imcharge:audit"]).contains("\"units\":9"));
    let explained = ask(&["imcharge:explain", &client.call_id]);
    for step in ["invite", "granted", "send", "response", "debited"] {
        assert!(explained.contains(&format!("\"step\":\"{step}\"")), "no {step} in {explained}");
    }
    assert!(
        ask(&["imcharge:account.add", "SIP:alice@EXAMPLE.org:5060", "10", "payment-1"]).contains("\"balance\":100")
    );
    assert!(ask(&["imcharge:debits", ALICE]).contains("\"trigger\":\"response\""));
    assert!(ask(&["imcharge:debits"]).contains("\"trigger\":\"response\""));
    assert!(ask(&["imcharge:account.list"]).contains(ALICE));
    assert!(ask(&["imcharge:outbox"]).contains("\"count\":0"));
    assert!(ask(&["imcharge:peers"]).contains("\"result\""));
    assert!(ask(&["imcharge:reload", "message:2"]).contains("\"tariff\":\"message:2\""));
    assert!(ask(&["imcharge:tariff"]).contains("\"configured\":\"message:1\""));
    let fails = |command: &[&str]| stage.proxy.rpc(command).expect_err("it must fail");
    assert!(fails(&["imcharge:account.get", "sip:unknown@example.org"]).contains("404"));
    assert!(
        fails(&["imcharge:account.set", "alice", "1"]).contains("imcharge:account.set: ID 'alice' is not an account")
    );
    assert!(fails(&["imcharge:account.set", ALICE]).contains("-32602"));
    assert!(fails(&["imcharge:session", "none"]).contains("404"));
    let processes = ask(&["ps"]);
    for name in ["imcharge supervisor", "imcharge resume 1", "imcharge resume 2", "imcharge events 1"] {
        assert!(processes.contains(name), "{processes}");
    }
    client.bye();
    stage.expect(ALICE, 109, 0, 1);
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn the_host_has_the_counters_and_raises_the_events() {
    let stage = plain();
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    let got = client.take(1, Reaction::Answer(415));
    stage.expect(ALICE, 90, 9, 1);
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
    let counters = stage.proxy.rpc(&["get_statistics", "[imcharge:]"]).expect("the host's statistics");
    for counter in ["\"imcharge:debits\":1", "\"imcharge:debits_on_error\":1", "\"imcharge:reserves_granted\":1"] {
        assert!(counters.contains(counter), "no {counter} in {counters}");
    }
    // The shipped script logs the event with its parameters.
    let line = format!("{ALICE} paid 1 for {} of {}: error", got[0].0, client.call_id);
    assert!(eventually(Duration::from_secs(5), || stage.proxy.log().contains(&line)), "{}", stage.proxy.log());
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn a_late_response_after_the_time_out_is_not_debited_again() {
    let stage = plain();
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    let frame = client.next_send(Duration::from_secs(5)).expect("a message");
    stage.until_debited(ALICE, 1);
    let seen = stage.proxy.statistic("frames");
    client.answer(&frame, 200);
    // The host keeps to itself what answers nothing any more.
    client.answer(&frame, 415);
    assert!(eventually(Duration::from_secs(5), || stage.proxy.statistic("frames") == seen + 1));
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!(stage.triggers(ALICE), ["timeout"]);
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn hostile_frames_and_messages_leave_the_proxy_serving() {
    let stage = plain();
    let _server = stage.server(&["one"], |_| {});
    let relay = stage.proxy.msrp;
    // msrp_relay by itself crashes at them.
    let without_session = ["SEND", "REPORT"].map(|method| {
        format!(
            "MSRP a786hjs6 {method}\r\nTo-Path: msrp://{relay};tcp msrp://127.0.0.1:1/b;tcp\r\n\
             From-Path: msrp://127.0.0.1:1/c;tcp\r\nMessage-ID: 1\r\n-------a786hjs6$\r\n"
        )
    });
    let frames: [&[u8]; 8] = [
        without_session[0].as_bytes(),
        without_session[1].as_bytes(),
        b"MSRP a786hjs2 SEND\r\nTo-Path: x\r\nFrom-Path: y\r\nMessage-ID: 1234\r\n-------a786hjs2$\r\n",
        b"MSRP a786hjs3 SEND\r\nTo-Path: msrp://127.0.0.1:1/b;tcp\r\nFrom-Path: \r\nMessage-ID: 1\r\n-------a786hjs3$\r\n",
        b"MSRP a786hjs4 SEND\r\nTo-Path: msrp://127.0.0.1:1/b;tcp\r\nFrom-Path: msrp://:/\r\nMessage-ID: 1\r\nByte-Range: 9\r\n-------a786hjs4$\r\n",
        b"MSRP a786hjs5 200 OK\r\nTo-Path: msrp://127.0.0.1:1/b;tcp\r\nFrom-Path: msrp://127.0.0.1:1/c;tcp\r\n-------a786hjs5$\r\n",
        b"MSRP 1.2.3.4 200 OK\r\nTo-Path: msrp://127.0.0.1:1/b;tcp\r\nFrom-Path: msrp://[::1/c;tcp\r\n-------1.2.3.4$\r\n",
        b"\0\x01garbage",
    ];
    for frame in frames {
        let mut stream = std::net::TcpStream::connect(stage.proxy.msrp).expect("the relay takes a connection");
        std::io::Write::write_all(&mut stream, frame).expect("written");
    }
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1, "{}", stage.proxy.log());
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!(stage.proxy.statistic("engine_restarts"), 0);
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn reservation_without_async_is_refused_and_the_script_continues() {
    super::HOST.set(Host::OpenSips);
    let stage = Stage::new(|setup| {
        setup.changed(
            "    async(imcharge_reserve(10), CHARGED);",
            "    imcharge_reserve(10);\n    $var(code) = $rc;\n    sl_send_reply(480, \"code $var(code)\");",
        )
    });
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 480, "{}", stage.proxy.log());
    assert!(stage.proxy.log().contains("must be called as async(imcharge_reserve(), ROUTE)"), "{}", stage.proxy.log());
    assert_eq!(stage.proxy.statistic("reserves"), 0);
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn launched_reservation_is_logged_and_harmless() {
    super::HOST.set(Host::OpenSips);
    let stage = Stage::new(|setup| {
        setup.changed(
            "    async(imcharge_reserve(10), CHARGED);",
            "    t_newtran();\n    launch(imcharge_reserve(10), CHARGED);\n    t_reply(480, \"Launched\");",
        )
    });
    stage.proxy.set_account(ALICE, 100);
    for _ in 0..8 {
        assert_eq!(stage.client(ALICE, |_| {}).invite(), 480, "{}", stage.proxy.log());
    }
    stage.expect(ALICE, 100, 0, 0);
    assert!(stage.proxy.log().contains("not by launch"), "{}", stage.proxy.log());
}

/// The proxy is itself the IM server (msrp_ua).
fn as_user_agent(setup: Setup) -> Setup {
    let relay = "loadmodule \"auth.so\"\nloadmodule \"msrp_relay.so\"";
    let auth =
        "modparam(\"msrp_relay\", \"auth_route\", \"msrp_auth\")\nmodparam(\"msrp_relay\", \"calculate_ha1\", 1)";
    let server = "        $du = \"sip:127.0.0.1:5070\";\n        t_relay();";
    setup
        .changed(relay, "loadmodule \"b2b_entities.so\"\nloadmodule \"msrp_ua.so\"")
        .changed("modparam(\"msrp_relay\", \"my_uri\"", "modparam(\"msrp_ua\", \"my_uri\"")
        .changed(auth, "")
        .changed(server, "        # 127.0.0.1:5070\n        msrp_ua_answer(\"text/plain\");")
}

/// The proxy is itself the IM server (msrp_ua): its own messages pass the gate, and the answers to them debit.
#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn messages_of_the_proxys_own_user_agent_are_charged_alike() {
    super::HOST.set(Host::OpenSips);
    let stage = Stage::new(as_user_agent);
    stage.proxy.set_account(ALICE, 3);
    let mut client = stage.bound(|_| {});
    stage.expect(ALICE, 0, 3, 0);
    let session = client.peer_session();
    let session = format!("session_id={session}");
    let send = |text: &str| {
        let body = format!("body={text}");
        let words = ["msrp_ua_send_message", &session, "mime=text/plain", &body, "failure_report=yes"];
        stage.proxy.rpc(&words)
    };
    for (text, code) in [("one", 200), ("two", 415)] {
        // Its session is established when the ACK has come, and nothing is sent before.
        assert!(eventually(Duration::from_secs(5), || send(text).is_ok()), "{}", stage.proxy.log());
        let frame = client.next_send(Duration::from_secs(5)).expect("a message");
        assert_eq!(frame.body.as_deref(), Some(text.as_bytes()));
        client.answer(&frame, code);
    }
    stage.until_debited(ALICE, 2);
    assert_eq!(stage.triggers(ALICE), ["response", "error"]);
    send("three").expect("it is paid for");
    assert!(client.next_send(Duration::from_secs(5)).is_some());
    assert!(send("four").is_err(), "a message beyond the grant was sent");
    assert!(client.next_send(Duration::from_millis(300)).is_none());
    // The proxy hangs up before the third message is answered.
    stage.proxy.rpc(&["msrp_ua_end_session", &session]).expect("the session ends");
    stage.expect(ALICE, 0, 0, 3);
    assert_eq!(stage.triggers(ALICE), ["response", "error", "close"]);
    // The client hangs up.
    stage.proxy.set_account(ALICE, 5);
    let mut other = stage.bound(|_| {});
    stage.expect(ALICE, 0, 5, 3);
    assert_eq!(other.bye(), 200, "{}", stage.proxy.log());
    stage.expect(ALICE, 5, 0, 3);
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn the_dialog_module_changes_nothing() {
    super::HOST.set(Host::OpenSips);
    let stage = Stage::new(|setup| {
        setup.changed("loadmodule \"maxfwd.so\"", "loadmodule \"maxfwd.so\"\nloadmodule \"dialog.so\"").changed(
            "    async(imcharge_reserve(10), CHARGED);",
            "    create_dialog();\n    async(imcharge_reserve(10), CHARGED);",
        )
    });
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 99, 0, 1);
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn an_invite_that_fails_releases_what_was_reserved() {
    super::HOST.set(Host::OpenSips);
    let relay = "        $du = \"sip:127.0.0.1:5070\";\n        t_relay();";
    let stage = Stage::new(|setup| {
        setup.changed(relay, "        # 127.0.0.1:5070\n        t_reply(480, \"Temporarily Unavailable\");")
    });
    stage.proxy.set_account(ALICE, 100);
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 480, "{}", stage.proxy.log());
    stage.expect(ALICE, 100, 0, 0);
    assert_eq!(stage.proxy.statistic("reserves_granted"), 1);
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn the_script_ends_a_session() {
    super::HOST.set(Host::OpenSips);
    let stage = Stage::new(|setup| {
        let end = "    if (is_method(\"INVITE\") && has_totag()) imcharge_end(\"operator\");\n";
        let from = "    # Requests within the dialog";
        setup.changed(from, &format!("{end}{from}"))
    });
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&[], |_| {});
    let mut client = stage.client(ALICE, |_| {});
    assert_eq!(client.invite(), 200);
    stage.expect(ALICE, 90, 10, 0);
    assert_eq!(client.reinvite(), 200, "{}", stage.proxy.log());
    stage.expect(ALICE, 100, 0, 0);
    client.bye();
}
