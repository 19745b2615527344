//! SIP MESSAGEs per second, and what charging adds to their latency.

use super::comparison::Comparison;
use super::{Better, ROUNDS, median, print_result, quantiles};
use imcharge_testkit::load::{Call, Load};
use imcharge_testkit::proxy::{LARGE_MEMORY, Proxy};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

/// Rate of the latency measurement, in MESSAGEs per second.
const RATE: u32 = 500;

/// MESSAGEs per second that must be charged.
const CHARGED_MIN: f64 = 1500.0;

/// Milliseconds that charging may add to the median from MESSAGE to 200.
const ADDED_P50_MS_MAX: f64 = 1.0;

/// Duration of one measurement.
const SPAN: Duration = Duration::from_secs(4);

/// Compares a proxy that only relays MESSAGEs with one that charges them on the ledger.
pub fn compare(folder: &Path) -> Result<(), Box<dyn Error>> {
    println!("SIP MESSAGE, {RATE}/s, {ROUNDS} rounds of {} s each, interleaved", SPAN.as_secs());
    let comparison = Comparison::new(folder, &LARGE_MEMORY)?;
    let load = &comparison.load;
    let charging = comparison.charging().parameter("default_balance", "1000000000");
    let proxies = [Proxy::start(comparison.relaying())?, Proxy::start(charging)?];
    let mut rounds: [Vec<[f64; 2]>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (proxy, rounds) in proxies.iter().zip(&mut rounds) {
            let calls = load.messages(proxy.sip, RATE, SPAN);
            rounds.push(quantiles(calls.iter().filter_map(Call::answered_ms).collect(), [0.50, 0.99]));
        }
    }
    for (at, name) in ["p50", "p99"].into_iter().enumerate() {
        let [without, with] =
            [0, 1].map(|proxy| median(rounds[proxy].iter().map(|round: &[f64; 2]| round[at]).collect()));
        print_result(&format!("MESSAGE to 200, {name}: without charging"), without, "ms", None);
        print_result(&format!("MESSAGE to 200, {name}: with charging"), with, "ms", None);
        print_result("  added", with - without, "ms", (at == 0).then_some((ADDED_P50_MS_MAX, Better::Lower)));
    }
    let [without, with] = [0, 1].map(|at| highest_rate(&proxies[at], load));
    print_result("MESSAGEs/s without a failure or retransmission, without charging", without, "", None);
    print_result(
        "MESSAGEs/s without a failure or retransmission, with charging",
        with,
        "",
        Some((CHARGED_MIN, Better::Higher)),
    );
    println!();
    Ok(())
}

/// Returns the highest rate without a failure, raised by 15 % per step; the best of two runs of each rate counts.
fn highest_rate(proxy: &Proxy, load: &Load) -> f64 {
    let mut good = f64::from(RATE);
    loop {
        let rate = good * 1.15;
        let is_clean = || {
            let is_clean = load.messages(proxy.sip, rate as u32, SPAN).iter().all(Call::is_clean);
            std::thread::sleep(Duration::from_secs(2));
            is_clean
        };
        if !is_clean() && !is_clean() {
            return good;
        }
        good = rate;
    }
}
