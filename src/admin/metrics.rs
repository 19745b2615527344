//! Prometheus exposition (text format 0.0.4) of all [`Statistic`]s and [`Latency`] histograms.

use crate::shm::latency::{BOUNDS, Histogram, Latency};
use crate::shm::region::Region;
use crate::shm::statistic::{Kind, Statistic};
use std::fmt::{self, Write};

/// Returns the exposition, to be served as `text/plain; version=0.0.4`. Reads atomics only and never blocks.
pub fn exposition(region: &Region) -> String {
    let mut text = String::with_capacity(16 * 1024);
    // Writing into a string cannot fail.
    let _ = write_all(&mut text, region);
    text
}

fn write_all(text: &mut String, region: &Region) -> fmt::Result {
    let mut last = String::new();
    for statistic in Statistic::ALL {
        let Some(name) = name_of(*statistic) else { continue };
        let (kind, meaning) = match statistic.kind() {
            Kind::Counter => ("counter", statistic.meaning()),
            Kind::Units => ("counter", "Units debited, by service and content class."),
            Kind::Answers => ("counter", "Answers of the enabler by Result-Code, or by the one that means the same."),
            _ => ("gauge", statistic.meaning()),
        };
        let family = family_of(&name);
        if family != last {
            head(text, family, meaning, kind)?;
            family.clone_into(&mut last);
        }
        let value = region.statistic(*statistic);
        match statistic.kind() {
            Kind::Micros => writeln!(text, "{name} {}", Seconds(value))?,
            _ => writeln!(text, "{name} {value}")?,
        }
    }
    Latency::ALL.iter().try_for_each(|latency| write_histogram(text, *latency, region.latency(*latency)))
}

/// Returns the name of a metric without its labels.
pub fn family_of(name: &str) -> &str {
    name.split('{').next().unwrap_or(name)
}

/// Returns the Prometheus name of a statistic, with its labels; `None` if it is part of a histogram.
pub fn name_of(statistic: Statistic) -> Option<String> {
    let name = statistic.name();
    let ending = match statistic.kind() {
        Kind::Units => {
            let (service, class) = name.strip_prefix("units_")?.split_once('_')?;
            return Some(format!("imcharge_units_debited_total{{service=\"{service}\",class=\"{class}\"}}"));
        }
        Kind::Answers => {
            return Some(format!("imcharge_answers_total{{result=\"{}\"}}", name.strip_prefix("answers_")?));
        }
        Kind::Counter => "_total",
        Kind::Gauge => "",
        Kind::Seconds | Kind::Micros => "_seconds",
        Kind::OfLatency => return None,
    };
    Some(format!("imcharge_{name}{ending}"))
}

/// Returns the Prometheus name of a histogram, without `_bucket`, `_sum` and `_count`.
pub fn name_of_histogram(latency: Latency) -> String {
    format!("imcharge_{}_seconds", latency.name())
}

fn write_histogram(text: &mut String, latency: Latency, histogram: &Histogram) -> fmt::Result {
    let name = name_of_histogram(latency);
    head(text, &name, latency.meaning(), "histogram")?;
    let mut within = 0;
    for (bucket, count) in histogram.counts().into_iter().enumerate() {
        within += count;
        match bucket {
            BOUNDS => writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {within}")?,
            _ => writeln!(text, "{name}_bucket{{le=\"{}\"}} {within}", Seconds(Histogram::bound(bucket)))?,
        }
    }
    writeln!(text, "{name}_sum {}\n{name}_count {within}", Seconds(histogram.sum()))
}

fn head(text: &mut String, name: &str, meaning: &str, kind: &str) -> fmt::Result {
    writeln!(text, "# HELP {name} {meaning}\n# TYPE {name} {kind}")
}

/// Microseconds, written as seconds.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, micros) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let fraction = format!("{micros:06}");
        match fraction.trim_end_matches('0') {
            "" => write!(out, "{whole}"),
            fraction => write!(out, "{whole}.{fraction}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microseconds_are_written_as_exact_seconds() {
        let written = [0, 1, 100, 1_000_000, 1_500_000, 104_857_600].map(|micros| Seconds(micros).to_string());
        assert_eq!(written, ["0", "0.000001", "0.0001", "1", "1.5", "104.8576"]);
    }

    #[test]
    fn names_have_the_suffixes_of_prometheus() {
        let names: Vec<String> = Statistic::ALL.iter().filter_map(|statistic| name_of(*statistic)).collect();
        assert!(names.contains(&"imcharge_debits_on_error_total".to_owned()));
        assert!(names.contains(&"imcharge_outbox_depth".to_owned()));
        assert!(names.contains(&"imcharge_ccr_avg_response_time_seconds".to_owned()));
        assert!(names.contains(&"imcharge_outbox_oldest_age_seconds".to_owned()));
        assert!(names.contains(&"imcharge_units_debited_total{service=\"sending\",class=\"file\"}".to_owned()));
        assert!(names.contains(&"imcharge_answers_total{result=\"4012\"}".to_owned()));
    }

    #[test]
    fn histogram_buckets_are_cumulative() {
        let histogram = Histogram::default();
        [50, 150, 900_000_000].iter().for_each(|micros| histogram.add(*micros));
        let mut text = String::new();
        write_histogram(&mut text, Latency::Debit, &histogram).expect("writing to a String does not fail");
        let value = |name: &str| {
            let line =
                text.lines().find_map(|line| line.strip_prefix(&format!("imcharge_debit_latency_seconds{name} ")));
            line.unwrap_or_else(|| panic!("no {name} in {text}"))
        };
        assert_eq!(value("_bucket{le=\"0.0001\"}"), "1");
        assert_eq!(value("_bucket{le=\"0.0002\"}"), "2");
        assert_eq!(value("_bucket{le=\"104.8576\"}"), "2");
        assert_eq!(value("_bucket{le=\"+Inf\"}"), "3");
        assert_eq!((value("_count"), value("_sum")), ("3", "900.0002"));
        assert_eq!(text.lines().filter(|line| line.starts_with('#')).count(), 2);
    }
}
