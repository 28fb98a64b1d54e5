//! Which objects are merged next: size tiers, and all of them once half of what they have is garbage.
//!
//! Objects of one checkpoint are a layer, whatever the number of workers. A row that changes is written once for each
//! tier that it climbs, and tiers are far apart, so that few bytes are written; how many layers a reader has to go through
//! is bounded by the tiers there can be, and by [`CROWD`].

use std::collections::BTreeMap;
use std::ops::Range;

use super::manifest::{Manifest, ObjectEntry};

/// A layer is similar to newer ones if it has at most so many times the bytes that they have in the mean.
pub(super) const SIMILAR: u64 = 4;

/// What a layer counts as, at least, in bytes: of those that are smaller it is the number that costs.
pub(super) const LAYER_BYTES_MIN: u64 = 64 << 10;

/// There are at most so many times as many layers as are merged at once.
const CROWD: usize = 4;

/// When objects are merged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiers {
    /// How many layers become one.
    pub(super) fan_in: usize,
    /// All become one only if they have so many bytes.
    pub(super) whole_bytes_min: u64,
}

/// Adjacent objects of one checkpoint.
struct Layer {
    objects: Range<usize>,
    n_bytes: u64,
}

impl Tiers {
    /// The objects of a manifest to be merged into one, if any should be. Those that cannot be are left where they are, and
    /// nothing is merged across them.
    pub(super) fn choose(&self, manifest: &Manifest, can_be: impl Fn(&ObjectEntry) -> bool) -> Option<Range<usize>> {
        let objects = &manifest.objects;
        let mut from = 0;
        let mut segments = Vec::new();
        for (i, _) in objects.iter().enumerate().filter(|(_, object)| !can_be(object)) {
            segments.push(from..i);
            from = i + 1;
        }
        segments.push(from..objects.len());
        let of_segment = |segment: Range<usize>| {
            let is_oldest = segment.start == 0;
            let layers = layers(manifest, segment);
            if is_oldest && self.is_half_garbage(manifest, &layers) {
                return Some(0..layers.last()?.objects.end);
            }
            let chosen = self.similar(&layers).or_else(|| self.of_a_crowd(&layers))?;
            Some(layers[chosen.start].objects.start..layers[chosen.end - 1].objects.end)
        };
        segments.into_iter().find_map(of_segment)
    }

    /// Whether more than half of the bytes would go if all of the oldest layers were merged.
    fn is_half_garbage(&self, manifest: &Manifest, layers: &[Layer]) -> bool {
        let Some((oldest, newest)) = layers.first().zip(layers.last()) else { return false };
        let objects = &manifest.objects[..newest.objects.end];
        let n_bytes: u64 = objects.iter().flat_map(|object| &object.shares).map(|share| share.n_bytes).sum();
        let is_worth_it = n_bytes >= self.whole_bytes_min || layers.len() >= self.fan_in;
        is_worth_it && 2 * garbage(manifest, objects, oldest.objects.end) > n_bytes
    }

    /// Enough similar layers next to each other.
    fn similar(&self, layers: &[Layer]) -> Option<Range<usize>> {
        let window = |end: usize| {
            let (mut start, mut n_bytes) = (end, 0);
            while start > 0 {
                let next = layers[start - 1].n_bytes;
                let n_layers = (end - start) as u64;
                if n_layers > 0 && next * n_layers > SIMILAR * n_bytes {
                    break;
                }
                n_bytes += next;
                start -= 1;
            }
            start..end
        };
        (1..=layers.len()).rev().map(window).find(|window| window.len() >= self.fan_in)
    }

    /// Those of too many layers that have the fewest bytes.
    fn of_a_crowd(&self, layers: &[Layer]) -> Option<Range<usize>> {
        if layers.len() <= CROWD * self.fan_in {
            return None;
        }
        let n_bytes = |start: usize| layers[start..start + self.fan_in].iter().map(|layer| layer.n_bytes).sum::<u64>();
        let start = (0..=layers.len() - self.fan_in).min_by_key(|&start| n_bytes(start))?;
        Some(start..start + self.fan_in)
    }
}

/// The layers of a range of objects, oldest first.
fn layers(manifest: &Manifest, segment: Range<usize>) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    for i in segment {
        let object = &manifest.objects[i];
        let epochs = |i: usize| (manifest.objects[i].after, manifest.objects[i].up_to);
        match layers.last_mut().filter(|layer| epochs(layer.objects.start) == epochs(i)) {
            Some(layer) => {
                layer.objects.end = i + 1;
                layer.n_bytes += object.len;
            }
            None => layers.push(Layer { objects: i..i + 1, n_bytes: object.len }),
        }
    }
    layers.iter_mut().for_each(|layer| layer.n_bytes = layer.n_bytes.max(LAYER_BYTES_MIN));
    layers
}

/// About how many bytes are of owners that are gone, or of rows that were taken away later. The first objects, up to a
/// number, are the oldest layer: they take nothing away.
fn garbage(manifest: &Manifest, objects: &[ObjectEntry], n_oldest: usize) -> u64 {
    let mut of_owner: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for share in objects.iter().flat_map(|object| &object.shares) {
        let (n_bytes, n_rows) = of_owner.entry(share.owner).or_default();
        *n_bytes += share.n_bytes;
        *n_rows += share.n_rows;
    }
    let mut garbage = 0;
    for (i, object) in objects.iter().enumerate() {
        for share in &object.shares {
            if !manifest.owners.contains(&share.owner) {
                garbage += share.n_bytes;
            } else if i >= n_oldest && share.n_gone > 0 {
                // What goes is most like what comes with it, if anything does.
                let (n_bytes, n_rows) =
                    if share.n_rows > 0 { (share.n_bytes, share.n_rows) } else { of_owner[&share.owner] };
                let row_bytes = n_bytes as f64 / n_rows.max(1) as f64;
                garbage += (share.n_gone as f64 * row_bytes) as u64;
            }
        }
    }
    garbage
}

#[cfg(test)]
mod tests {
    use super::super::manifest::OwnerShare;
    use super::*;

    const TIERS: Tiers = Tiers { fan_in: 4, whole_bytes_min: 0 };

    fn object(number: u64, len: u64, n_rows: u64, n_gone: u64) -> ObjectEntry {
        let shares = vec![OwnerShare { owner: 1, n_bytes: len, n_rows, n_gone }];
        let (name, index_checksum) = (number.to_string(), [0; 8]);
        ObjectEntry { name, after: number - 1, up_to: number, len, index_checksum, worker: Some(0), shares }
    }

    fn manifest(objects: Vec<ObjectEntry>) -> Manifest {
        Manifest { owners: [1].into(), objects, ..Manifest::default() }
    }

    #[test]
    fn similar_layers_are_merged_and_others_left() {
        let sizes = [90_000_000, 4_000_000, 1_000_000, 800_000, 900_000, 1_100_000];
        let objects: Vec<ObjectEntry> = (1..).zip(sizes).map(|(n, len)| object(n, len, len / 100, 0)).collect();
        assert_eq!(TIERS.choose(&manifest(objects[..5].to_vec()), |_| true), None);
        assert_eq!(TIERS.choose(&manifest(objects.clone()), |_| true), Some(2..6));
        assert_eq!(
            TIERS.choose(&manifest(objects), |object| object.name != "4"),
            None,
            "not across one that cannot be"
        );
    }

    #[test]
    fn objects_of_one_checkpoint_are_one_layer() {
        let of_workers = |n: u64| [object(n, 1_000_000, 10_000, 0), object(n, 1_000_000, 10_000, 0)];
        let objects: Vec<ObjectEntry> = (1..=4).flat_map(of_workers).collect();
        assert_eq!(TIERS.choose(&manifest(objects[..6].to_vec()), |_| true), None);
        assert_eq!(TIERS.choose(&manifest(objects), |_| true), Some(0..8));
    }

    #[test]
    fn half_garbage_makes_all_one() {
        let base = object(1, 1_000_000, 10_000, 0);
        let kept = manifest(vec![base.clone(), object(2, 900_000, 9_000, 8_000)]);
        assert_eq!(TIERS.choose(&kept, |_| true), None);
        let updated = manifest(vec![base.clone(), object(2, 900_000, 9_000, 10_000)]);
        assert_eq!(TIERS.choose(&updated, |_| true), Some(0..2));
        let deleted = manifest(vec![base.clone(), object(2, 80_000, 0, 6_000)]);
        assert_eq!(TIERS.choose(&deleted, |_| true), Some(0..2));
        let dropped = Manifest { owners: [2].into(), ..manifest(vec![base]) };
        assert_eq!(TIERS.choose(&dropped, |_| true), Some(0..1));
    }

    #[test]
    fn layers_never_crowd() {
        // Each is more than four times as large as all newer ones.
        let objects: Vec<ObjectEntry> = (1..=17).map(|n| object(n, 1 << (56 - 2 * n), 1, 0)).collect();
        let tiers = Tiers { fan_in: 4, whole_bytes_min: u64::MAX };
        let chosen = tiers.choose(&manifest(objects), |_| true).expect("there are more than 16");
        assert_eq!(chosen.len(), 4);
    }
}
