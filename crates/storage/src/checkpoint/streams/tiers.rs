//! Which objects of a stream are merged next: size tiers, and what cannot grow any more.
//!
//! An object becomes no larger than it may, in bytes and in time: as a whole it is forgotten when its last row is. So there
//! comes an object that neighbours do not fit together with, and those before it are merged although they are few; then none
//! has more than half of the bytes, so that no row is written more often than sizes can double.

use std::ops::Range;

use super::super::tiers::{LAYER_BYTES_MIN, SIMILAR};
use super::StreamObjectEntry;

/// No object that is made of several is larger, in bytes.
const BYTES_MAX: u64 = 128 << 20;

/// What an object that is made of several may have at most.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Bytes.
    pub bytes_max: u64,
    /// The time in which its rows came, in microseconds.
    pub span_us_max: i64,
}

/// When objects of a stream are merged.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamTiers {
    /// How many objects of similar size become one.
    pub(super) fan_in: usize,
    pub(super) limits: StreamLimits,
}

impl StreamTiers {
    /// The objects to be merged into one, if any should be, of those of a stream that lie next to each other, oldest first.
    pub(super) fn choose(&self, objects: &[&StreamObjectEntry]) -> Option<Range<usize>> {
        let mut similar = (1..=objects.len()).rev().map(|end| self.similar(objects, end));
        similar.find(|window| window.len() >= self.fan_in).or_else(|| self.full(objects))
    }

    /// Whether objects may become one.
    fn fits(&self, objects: &[&StreamObjectEntry], n_bytes: u64) -> bool {
        let (Some(first), Some(last)) = (objects.first(), objects.last()) else { return true };
        n_bytes <= self.limits.bytes_max.min(BYTES_MAX)
            && last.now_us.saturating_sub(first.since_us) <= self.limits.span_us_max
    }

    /// The similar objects before an end.
    fn similar(&self, objects: &[&StreamObjectEntry], end: usize) -> Range<usize> {
        let (mut start, mut n_bytes, mut weight) = (end, 0, 0);
        while let Some(next) = start.checked_sub(1).map(|next| objects[next]) {
            let next_weight = next.len.max(LAYER_BYTES_MIN);
            let is_similar = start == end || next_weight * (end - start) as u64 <= SIMILAR * weight;
            if !is_similar || !self.fits(&objects[start - 1..end], n_bytes + next.len) {
                break;
            }
            n_bytes += next.len;
            weight += next_weight;
            start -= 1;
        }
        start..end
    }

    /// The oldest objects to which the one behind them cannot be added.
    fn full(&self, objects: &[&StreamObjectEntry]) -> Option<Range<usize>> {
        for start in 0..objects.len() {
            let (mut end, mut n_bytes, mut largest) = (start, 0, 0);
            while end < objects.len() && self.fits(&objects[start..=end], n_bytes + objects[end].len) {
                n_bytes += objects[end].len;
                largest = largest.max(objects[end].len);
                end += 1;
            }
            if end == objects.len() {
                return None;
            }
            if end - start > 1 && 2 * largest <= n_bytes {
                return Some(start..end);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Objects of these sizes, each with the rows of a second.
    fn objects(sizes: &[u64]) -> Vec<StreamObjectEntry> {
        let object = |(number, &len): (u64, &u64)| StreamObjectEntry {
            stream: 1,
            after: number - 1,
            up_to: number,
            since_us: (number as i64 - 1) * 1_000_000,
            now_us: number as i64 * 1_000_000,
            len,
            n_rows: len / 100,
            decoded_bytes: len,
            name: format!("{number:020}-1-1.obj"),
            index_checksum: [0; 8],
        };
        (1..).zip(sizes).map(object).collect()
    }

    fn choose(sizes: &[u64], bytes_max: u64, seconds_max: i64) -> Option<Range<usize>> {
        let limits = StreamLimits { bytes_max, span_us_max: seconds_max.saturating_mul(1_000_000) };
        let tiers = StreamTiers { fan_in: 4, limits };
        tiers.choose(&objects(sizes).iter().collect::<Vec<_>>())
    }

    #[test]
    fn similar_objects_are_merged_and_others_left() {
        assert_eq!(choose(&[90 * MIB, 4 * MIB, MIB, MIB, MIB], u64::MAX, i64::MAX), Some(1..5));
        assert_eq!(choose(&[90 * MIB, 5 * MIB, MIB, MIB, MIB], u64::MAX, i64::MAX), None);
        assert_eq!(choose(&[100, 70_000, 20, 3000], u64::MAX, i64::MAX), Some(0..4), "small ones are alike");
    }

    #[test]
    fn none_is_larger_than_it_may_be() {
        assert_eq!(choose(&[40 * MIB; 7], u64::MAX, i64::MAX), Some(0..3));
        assert_eq!(choose(&[120 * MIB, 40 * MIB, 40 * MIB], u64::MAX, i64::MAX), None, "more may come");
        assert_eq!(choose(&[MIB; 9], 2 * MIB, i64::MAX), Some(0..2));
        assert_eq!(choose(&[MIB; 9], u64::MAX, 3), Some(0..3));
        assert_eq!(choose(&[MIB; 9], u64::MAX, 0), None);
        assert_eq!(choose(&[MIB; 3], u64::MAX, 3), None, "more may come");
        assert_eq!(choose(&[60 * MIB, 10 * MIB, 10 * MIB, 120 * MIB], u64::MAX, i64::MAX), Some(1..3));
    }

    /// However objects come, each byte is written a few times, and few objects are left.
    #[test]
    fn few_are_left_and_bytes_are_written_a_few_times() {
        let mut random = crate::random::Bits(7);
        for (largest, bytes_max, seconds_max) in
            [(MIB, u64::MAX, i64::MAX), (10 * MIB, 20 * MIB, i64::MAX), (50_000, u64::MAX, 300), (40 * MIB, MIB, 10)]
        {
            let limits = StreamLimits { bytes_max, span_us_max: seconds_max.saturating_mul(1_000_000) };
            let tiers = StreamTiers { fan_in: 4, limits };
            let sizes: Vec<u64> = (0..3000).map(|_| 1000 + random.below(largest)).collect();
            let (mut there, mut n_written) = (Vec::new(), 0);
            for object in objects(&sizes) {
                there.push(object);
                while let Some(chosen) = tiers.choose(&there.iter().collect::<Vec<_>>()) {
                    let merged = &there[chosen.clone()];
                    let (first, last) = (&merged[0], &merged[merged.len() - 1]);
                    let len = merged.iter().map(|object| object.len).sum();
                    let merged =
                        StreamObjectEntry { len, after: first.after, since_us: first.since_us, ..last.clone() };
                    assert!(len <= bytes_max.min(BYTES_MAX) && merged.now_us - merged.since_us <= limits.span_us_max);
                    n_written += len;
                    drop(there.splice(chosen, [merged]));
                }
            }
            let n_bytes: u64 = sizes.iter().sum();
            let times = n_written as f64 / n_bytes as f64;
            let full = (n_bytes / bytes_max.min(BYTES_MAX)).max((3000 / seconds_max.max(1)) as u64);
            println!("{largest} {bytes_max} {seconds_max}: {} objects, written {times:.1} times", there.len());
            assert!(times < 8.0 && (there.len() as u64) < 4 * full + 40);
        }
    }
}
