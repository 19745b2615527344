use super::*;
use ContentClass::{File, Notification, Other, Text};

const RETRIEVAL: PricedService = PricedService::Session(Service::Retrieval);
const SENDING: PricedService = PricedService::Session(Service::Sending);
const RECEIVING: PricedService = PricedService::Session(Service::Receiving);
const PAGE: PricedService = PricedService::Page(Service::Sending);
const PAGE_RECEIVED: PricedService = PricedService::Page(Service::Receiving);

fn table(rows: &[&str]) -> TariffTable {
    let mut table = TariffTable::default();
    for row in rows {
        table.set(row.parse().expect("a tariff")).expect("room");
    }
    table
}

#[test]
fn row_is_read_from_its_text() {
    for text in [
        "message:25",
        "message:50+kilobyte:1;class=file",
        "message:10;name=night",
        "kilobyte:3;name=n.1_-A;class=other;direction=sent;service=page",
    ] {
        assert_eq!(text.parse::<TariffRow>().expect(text).to_string(), text);
    }
    let spaced = "message:1; direction=sent ;class=text".parse::<TariffRow>().expect("spaces are allowed");
    assert_eq!(spaced.to_string(), "message:1;class=text;direction=sent");
    let long = format!("message:1;name={}", "n".repeat(33));
    for wrong in [
        "",
        ";name=a",
        "message:1;",
        "message:1;name=",
        "message:1;name=a b",
        "message:1;name=a;name=b",
        &long,
        "message:1;class=picture",
        "message:1;direction=both",
        "message:1;service=call",
        "message:1;colour=red",
        "message:1;class",
        "message:0;class=file",
    ] {
        assert_eq!(wrong.parse::<TariffRow>(), Err(InvalidTariffRow), "{wrong}");
    }
}

#[test]
fn tariff_with_the_same_conditions_replaces_the_earlier_one() {
    let table = table(&["message:2", "message:5;class=file", "message:3", "message:6;class=file"]);
    let rows: Vec<String> = table.rows().iter().map(ToString::to_string).collect();
    assert_eq!(rows, ["message:3", "message:6;class=file"]);
}

#[test]
fn table_is_bounded() {
    let mut table = TariffTable::default();
    for number in 1..TARIFFS_MAX {
        assert_eq!(table.set(format!("message:1;name=n{number}").parse().expect("a tariff")), Some(()));
    }
    assert_eq!(table.set("message:1;name=last".parse().expect("a tariff")), None);
    assert_eq!(table.set("message:7;name=n1".parse().expect("a tariff")), Some(()), "replaced");
    assert!(table.has_name("n63") && table.has_name("") && !table.has_name("last"));
}

/// The 30 cases of the manual's example: what each message costs.
#[test]
fn message_has_the_price_of_the_tariff_that_applies_best() {
    let table = table(&[
        "message:1",                                       // 0
        "message:50+kilobyte:1;class=file",                // 1
        "message:2;direction=sent",                        // 2
        "message:40;class=file;direction=sent",            // 3
        "message:3;service=page",                          // 4
        "message:7;class=notification;service=retrieval",  // 5
        "message:9;class=notification;direction=received", // 6
        "message:4;name=night",                            // 7
        "message:20;name=night;class=file",                // 8
        "message:5;name=sms;service=page",                 // 9
    ]);
    for (name, priced, class, place) in [
        ("", RETRIEVAL, Text, 0),
        ("", RETRIEVAL, File, 1),
        ("", RETRIEVAL, Notification, 5),
        ("", RETRIEVAL, Other, 0),
        ("", SENDING, Text, 2),
        ("", SENDING, File, 3),
        ("", SENDING, Notification, 2),
        ("", SENDING, Other, 2),
        ("", RECEIVING, Text, 0),
        ("", RECEIVING, File, 1),
        ("", RECEIVING, Notification, 6),
        ("", PAGE, Text, 2),
        ("", PAGE, File, 3),
        ("", PAGE, Other, 2),
        ("", PAGE_RECEIVED, Text, 4),
        ("", PAGE_RECEIVED, File, 1),
        ("", PAGE_RECEIVED, Notification, 6),
        ("night", RETRIEVAL, Text, 7),
        ("night", RETRIEVAL, File, 8),
        ("night", RETRIEVAL, Notification, 7),
        ("night", SENDING, Text, 7),
        ("night", SENDING, File, 8),
        ("night", PAGE, Text, 7),
        ("night", PAGE, File, 8),
        ("sms", RETRIEVAL, Text, 0),
        ("sms", SENDING, File, 3),
        ("sms", PAGE, Text, 9),
        ("sms", PAGE, File, 9),
        ("sms", PAGE_RECEIVED, Other, 9),
        ("unknown", RETRIEVAL, File, 1),
    ] {
        assert_eq!(table.choose(name, priced, class), place, "'{name}' {priced:?} {class:?}");
    }
}
