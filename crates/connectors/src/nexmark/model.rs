//! What the tables have in common: keys of the fields, the clock, prices, padding.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};

use super::channels::Channels;
use super::events::{Clock, FIRST_ID, Rows};
use crate::random::{Key, below};
use crate::text::TextBuilder;

/// Hot sellers and bidders are one in so many persons, hot auctions one in so many auctions.
pub(super) const HOT_EVERY: u64 = 100;
/// Sellers and bidders are among so many latest persons.
const ACTIVE_PERSONS: u64 = 1000;

/// Everything that values depend on beside the event number.
pub(super) struct Model {
    pub(super) seed: u64,
    pub(super) clock: Clock,
    pub(super) prices: Prices,
    pub(super) channels: Channels,
}

impl Model {
    pub(super) fn new(seed: u64, clock: Clock) -> Self {
        Model { seed, clock, prices: Prices::new(), channels: Channels::new(seed) }
    }

    /// The random words of a field; each field of each table has its own name.
    pub(super) fn key(&self, field: &str) -> Key {
        Key::new(self.seed, field)
    }

    /// The event times.
    pub(super) fn date_time(&self, rows: &Rows) -> ArrayRef {
        let mut times = Vec::with_capacity(rows.len());
        rows.for_each(|_, _, event| times.push(self.clock.at(event)));
        Arc::new(TimestampMicrosecondArray::from(times))
    }
}

/// A bigint column.
#[inline]
pub(super) fn bigints(rows: &Rows, mut value: impl FnMut(u64, u64, u64) -> u64) -> ArrayRef {
    let mut values = Vec::with_capacity(rows.len());
    rows.for_each(|group, slot, event| values.push(value(group, slot, event) as i64));
    Arc::new(Int64Array::from(values))
}

/// A text column of about `n_bytes` a value.
#[inline]
pub(super) fn texts(rows: &Rows, n_bytes: usize, mut push: impl FnMut(&mut TextBuilder, u64)) -> ArrayRef {
    let mut builder = TextBuilder::with_capacity(rows.len(), n_bytes);
    rows.for_each(|_, _, event| push(&mut builder, event));
    builder.finish_text()
}

/// The id of one of the latest thousand persons.
#[inline]
pub(super) fn active_person(last_person: u64, word: u64) -> u64 {
    let n_active = (last_person + 1).min(ACTIVE_PERSONS);
    FIRST_ID + last_person + 1 - n_active + below(word, n_active)
}

/// How long `extra` is: what is missing to the mean size of a record, give or take a fifth.
#[inline]
pub(super) fn extra_len(word: u64, current_size: usize, mean_size: usize) -> usize {
    let missing = mean_size.saturating_sub(current_size);
    let spread = (missing + 2) / 5;
    missing - spread + below(word, 2 * spread as u64) as usize
}

/// Prices in cents, log-uniform from 1 to a million dollars.
///
/// A price is `100 * 10^(6 u)` for a random `u`; the power is the product of three table entries for three groups of
/// eight bits of `u`. The tables are made with square roots and products alone, which IEEE 754 defines to the last bit,
/// so that every machine gives the same prices.
pub(super) struct Prices {
    tables: Box<[[f64; 256]; 3]>,
}

impl Prices {
    fn new() -> Self {
        let mut tables = Box::new([[1.0; 256]; 3]);
        let mut root = 1e6_f64;
        for table in tables.iter_mut() {
            for bit in (0..8).rev() {
                root = root.sqrt();
                table.iter_mut().enumerate().filter(|(i, _)| i >> bit & 1 == 1).for_each(|(_, power)| *power *= root);
            }
        }
        tables[0].iter_mut().for_each(|power| *power *= 100.0);
        Prices { tables }
    }

    /// The price for a random word.
    #[inline]
    pub(super) fn price(&self, word: u64) -> u64 {
        let [high, middle, low] = &*self.tables;
        let power =
            high[(word >> 56) as usize] * middle[(word >> 48 & 255) as usize] * low[(word >> 40 & 255) as usize];
        (power + 0.5) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_powers_of_ten() {
        let prices = Prices::new();
        for word in [0, 1 << 40, 0x1234_5678_9abc_def0, u64::MAX / 2, u64::MAX] {
            let exact = 100.0 * 10f64.powf(6.0 * (word >> 40) as f64 / (1 << 24) as f64);
            assert!((prices.price(word) as f64 - exact).abs() <= 0.5 + exact * 1e-12, "{word}: {exact}");
        }
        assert_eq!(prices.price(0), 100);
    }

    #[test]
    fn padding_has_the_mean_that_is_missing() {
        let key = Key::new(1, "pad");
        let sum: usize = (0..10_000).map(|i| extra_len(key.word(i), 32, 100)).sum();
        assert!((67_0000..68_5000).contains(&(sum)), "{sum}");
        assert_eq!(extra_len(7, 300, 200), 0);
    }
}
