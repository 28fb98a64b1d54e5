//! The form in which benchmarks print what they have measured: one line of JSON a figure.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// A figure: its fields in the order in which they were added.
#[derive(Debug)]
pub struct Figure(Vec<(String, Value)>);

impl Figure {
    /// A figure whose first field is this one.
    pub fn new(name: &str, value: impl Into<Value>) -> Figure {
        Figure(Vec::new()).with(name, value)
    }

    /// One field more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Figure {
        self.0.push((name.to_owned(), value.into()));
        self
    }

    /// Median, 99th percentile and greatest of some times, in milliseconds.
    #[must_use]
    pub fn with_times(self, mut times: Vec<Duration>) -> Figure {
        times.sort_unstable();
        self.with("p50_ms", json!(percentile_ms(&times, 50)))
            .with("p99_ms", json!(percentile_ms(&times, 99)))
            .with("max_ms", json!(percentile_ms(&times, 100)))
    }
}

impl fmt::Display for Figure {
    /// By hand, so that the fields keep their order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<_> = self.0.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        write!(f, "{{{}}}", fields.join(", "))
    }
}

/// The least time that so many percent of the sorted times do not exceed, in milliseconds with three digits.
pub fn percentile_ms(sorted: &[Duration], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map(|time| rounded(time.as_secs_f64() * 1e3, 3))
}

/// A number with so many digits after the point.
pub fn rounded(value: f64, n_digits: i32) -> f64 {
    let unit = 10f64.powi(n_digits);
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let figure = Figure::new("query", "q1").with("events", 7).with("nothing", None::<f64>).with_times(times);
        let line =
            r#"{"query": "q1", "events": 7, "nothing": null, "p50_ms": 100.0, "p99_ms": 198.0, "max_ms": 200.0}"#;
        assert_eq!(figure.to_string(), line);
        assert_eq!(percentile_ms(&[], 50), None);
    }
}
