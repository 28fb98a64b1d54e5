//! Randomness without state: every value is a pure function of a key and a position.

use millstream_types::hash::{hash_bytes, mix};

/// The distance between neighbouring counters (2^64 over the golden ratio), so that small steps move many bits.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// An endless sequence of random words, addressed by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u64);

impl Key {
    /// The sequence of one field under a seed; fields of other names are independent.
    pub(crate) fn new(seed: u64, field: &str) -> Key {
        Key(mix(mix(seed.wrapping_add(STEP)) ^ hash_bytes(field.as_bytes())))
    }

    /// A sequence of its own for each position of this one: for values that need more than one word.
    #[inline]
    pub(crate) fn at(self, position: u64) -> Key {
        Key(self.word(position))
    }

    /// 64 random bits.
    #[inline]
    pub(crate) fn word(self, position: u64) -> u64 {
        mix(self.0.wrapping_add(position.wrapping_mul(STEP)))
    }
}

/// An integer of `0..n`, each as likely, from the upper bits of a random word.
#[inline]
pub(crate) fn below(word: u64, n: u64) -> u64 {
    ((u128::from(word) * u128::from(n)) >> 64) as u64
}

/// A float of `[0, 1)` with 53 random bits.
#[inline]
pub(crate) fn unit(word: u64) -> f64 {
    (word >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Eight lower-case letters, one from each byte of a random word.
#[inline]
pub(crate) fn letters(word: u64) -> [u8; 8] {
    const LANES: u64 = 0x00ff_00ff_00ff_00ff;
    // A byte times 26, divided by 256, is 0 to 25; every other byte at a time, in lanes of 16 bits.
    let even = (((word & LANES) * 26) >> 8) & LANES;
    let odd = (((word >> 8) & LANES) * 26) & !LANES;
    ((even | odd) + u64::from_le_bytes([b'a'; 8])).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_lower_case_and_nearly_even() {
        let key = Key::new(1, "letters");
        let mut counts = [0u32; 26];
        for i in 0..10_000 {
            for letter in letters(key.word(i)) {
                counts[usize::from(letter - b'a')] += 1;
            }
        }
        assert!(counts.iter().all(|c| (2_500..3_700).contains(c)), "{counts:?}");
    }

    #[test]
    fn words_are_even_over_positions_and_fields() {
        for field in ["a", "b", "price"] {
            let key = Key::new(42, field);
            let mut counts = [0u32; 10];
            let mut sum = 0.0;
            for i in 0..10_000 {
                counts[below(key.word(i), 10) as usize] += 1;
                sum += unit(key.word(i));
            }
            assert!(counts.iter().all(|c| (880..1_120).contains(c)), "{field}: {counts:?}");
            assert!((sum / 10_000.0 - 0.5).abs() < 0.02, "{field}: {sum}");
        }
        assert_ne!(Key::new(1, "a").word(0), Key::new(2, "a").word(0));
        assert_ne!(Key::new(1, "a").word(0), Key::new(1, "b").word(0));
    }
}
