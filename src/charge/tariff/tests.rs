use super::ContentClass::{File, Notification, Other, Text};
use super::*;
use proptest::prelude::*;

fn prices(text: &str) -> PriceList {
    text.parse().expect("a price list")
}

#[test]
fn tariff_is_read_from_its_text() {
    for (text, message, kilobyte) in [
        ("message:25", 25, 0),
        ("kilobyte:3", 0, 3),
        ("message:25+kilobyte:3", 25, 3),
        ("message:1000000000", 1_000_000_000, 0),
    ] {
        let tariff = Tariff { message, kilobyte };
        assert_eq!((text.parse(), tariff.to_string()), (Ok(tariff), text.to_owned()));
    }
    assert_eq!("kilobyte:3+message:25".parse(), Ok(Tariff { message: 25, kilobyte: 3 }));
    for wrong in [
        "",
        "message",
        "message:",
        "message:0",
        "message:-1",
        "message:1000000001",
        "kilobyte:4294967297",
        "octet:1",
        "message:1+",
        "+message:1",
        "message:1+message:2",
        "message:1 + kilobyte:2",
        "message:1,kilobyte:2",
    ] {
        assert_eq!(wrong.parse::<Tariff>(), Err(InvalidTariff), "{wrong}");
    }
}

#[test]
fn price_list_is_read_from_its_text() {
    for text in [
        "message:1",
        "kilobyte:2 file=message:50+kilobyte:1",
        "message:1 file=message:9 notification=kilobyte:1 other=message:2",
    ] {
        assert_eq!(prices(text).to_string(), text);
    }
    assert_eq!(prices("message:1 file=message:1").to_string(), "message:1");
    for wrong in ["", "file=message:1", "message:1  file=message:2", "message:1 picture=message:2", "message:1 file=2"]
    {
        assert_eq!(wrong.parse::<PriceList>(), Err(InvalidPriceList), "{wrong}");
    }
}

#[test]
fn uniform_prices_count_what_they_apply_to_and_others_count_units() {
    for (text, unit, price) in [
        ("message:25", QuotaUnit::Message, 25),
        ("kilobyte:3", QuotaUnit::Kilobyte, 3),
        ("message:25+kilobyte:3", QuotaUnit::AccountUnit, 1),
        ("message:25 file=message:26", QuotaUnit::AccountUnit, 1),
        ("message:3 file=kilobyte:3", QuotaUnit::AccountUnit, 1),
    ] {
        assert_eq!(prices(text).measure(), Measure { unit, price }, "{text}");
    }
}

#[test]
fn quota_follows_class_size_and_recipients() {
    let list = "message:2 file=message:7+kilobyte:3 notification=kilobyte:1 other=message:5";
    for (list, recipients, class, octets, quota) in [
        ("message:25", 1, Text, 9999, 1),
        ("message:25", 5, File, 0, 5),
        ("kilobyte:3", 0, Text, 0, 1),
        ("kilobyte:3", 1, Text, 1024, 1),
        ("kilobyte:3", 2, Text, 1025, 4),
        (list, 1, Text, 5000, 2),
        (list, 1, File, 0, 10),
        (list, 1, File, 1025, 13),
        (list, 3, File, 1025, 39),
        (list, 1, Notification, 1, 1),
        (list, 1, Other, u64::MAX, 5),
        (list, 1, File, u64::MAX, u32::MAX),
        (list, u32::MAX, Text, 1, u32::MAX),
    ] {
        let prices = PriceList::new(prices(list).tariffs, recipients);
        assert_eq!(prices.quota(class, octets), Quota(quota), "{list} x {recipients}: {octets} octets of {class:?}");
    }
}

#[test]
fn quota_of_messages_has_room_for_one_of_the_class_that_costs_most() {
    for (list, messages, kilobytes, quota) in [
        ("message:25", 30, 16, 30),
        ("kilobyte:3", 30, 16, 480),
        ("message:25", 0, 16, 0),
        ("message:1 file=message:50", 30, 16, 79),
        ("message:50 file=message:1", 30, 16, 1500),
        ("message:1 file=message:50+kilobyte:2", 1, 16, 82),
        ("message:1000000000 file=message:1", 30, 16, u32::MAX),
    ] {
        assert_eq!(prices(list).quota_of_messages(messages, kilobytes), Quota(quota), "{list} x {messages}");
    }
    assert_eq!(prices("message:9 file=kilobyte:4 other=message:7").least(), Quota(4));
}

fn tariff() -> impl Strategy<Value = Tariff> {
    let price = || prop_oneof![Just(0_u32), 1..100_u32, Just(Tariff::PRICE_MAX)];
    let pair = (price(), price()).prop_filter("one is not 0", |(message, kilobyte)| message + kilobyte > 0);
    pair.prop_map(|(message, kilobyte)| Tariff { message, kilobyte })
}

fn octets() -> impl Strategy<Value = u64> {
    prop_oneof![0..100_000_u64, any::<u64>()]
}

proptest! {
    /// The price of a message is that of its class, times the recipients, unless it exceeds every quota.
    #[test]
    fn price_of_quota_is_the_price_of_the_message(list in prop::array::uniform4(tariff()),
            uniform: bool, recipients in prop_oneof![0..10_u32, any::<u32>()], octets in octets()) {
        let list = PriceList::new(if uniform { [list[0]; 4] } else { list }, recipients);
        let unit_price = u128::from(list.measure().price);
        for class in ContentClass::ALL {
            let Tariff { message, kilobyte } = list.tariff(class);
            let kilobytes = u128::from(octets.div_ceil(1024).max(1));
            let each = u128::from(message) + u128::from(kilobyte) * kilobytes;
            let price = each * u128::from(recipients.max(1));
            let quota = list.quota(class, octets);
            if quota == Quota(u32::MAX) {
                prop_assert!(price / unit_price >= u128::from(u32::MAX));
            } else {
                prop_assert_eq!(u128::from(list.price_of(quota).0), price);
            }
            prop_assert!(list.price_of(quota).0 <= i64::MAX as u64);
            prop_assert!(list.least() <= quota);
        }
    }

    /// Chunks add up to the price of their message, and a larger message never costs less.
    #[test]
    fn quota_grows_with_the_size(list in prop::array::uniform4(tariff()), first in octets(), more in octets()) {
        let list = PriceList::new(list, 1);
        for class in ContentClass::ALL {
            prop_assert!(list.quota(class, first) <= list.quota(class, first.saturating_add(more)));
            prop_assert!(list.quota_of_messages(1, 16) >= list.weight(class).of_kilobytes(16));
        }
    }

    #[test]
    fn price_list_survives_its_text(list in prop::array::uniform4(tariff())) {
        let list = PriceList::new(list, 1);
        prop_assert_eq!(list.to_string().parse(), Ok(list));
    }
}
