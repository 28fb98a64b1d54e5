//! What is there when a data directory is opened: the newest manifests, and what a writer has left that is no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_types::Result;

use super::manifest::{self, Manifest};
use super::{MANIFESTS, OBJECTS, STREAMS};
use crate::object_store::ObjectStore;

/// What is there when a data directory is opened.
pub(super) struct Found {
    /// The newest manifest, and the one before it.
    pub(super) manifests: BTreeMap<u64, Arc<Manifest>>,
    pub(super) last_manifest: u64,
    pub(super) last_object: u64,
    /// What no manifest names that is kept.
    pub(super) garbage: BTreeSet<String>,
}

impl Found {
    pub(super) fn read(store: &dyn ObjectStore, data_id: u128) -> Result<Found> {
        let of_manifests = store.list(MANIFESTS)?;
        let mut numbers: Vec<u64> = of_manifests.iter().filter_map(|name| manifest_number(name)).collect();
        numbers.sort_unstable();
        let mut objects: Vec<(u64, String)> = Vec::new();
        for folder in [OBJECTS, STREAMS] {
            let names = store.list(folder)?;
            objects.extend(names.iter().filter_map(|name| Some((object_number(name)?, format!("{folder}/{name}")))));
        }
        let mut manifests = BTreeMap::new();
        match numbers.last() {
            Some(&newest) => {
                manifests.insert(newest, Arc::new(read_manifest(store, newest, data_id)?));
            }
            None if objects.is_empty() => {}
            None => return Err(manifest::missing()),
        }
        if let Some(&before) = numbers.iter().rev().nth(1) {
            match read_manifest(store, before, data_id) {
                Ok(manifest) => drop(manifests.insert(before, Arc::new(manifest))),
                Err(error) => {
                    tracing::warn!(%error, "the checkpoint before the newest cannot be read; it is not needed")
                }
            }
        }
        let needed: BTreeSet<String> = manifests.values().flat_map(|m: &Arc<Manifest>| m.object_paths()).collect();
        let mut garbage: BTreeSet<String> =
            objects.iter().map(|(_, path)| path.clone()).filter(|path| !needed.contains(path)).collect();
        garbage.extend(numbers.iter().filter(|number| !manifests.contains_key(number)).map(|&n| manifest::path_of(n)));
        let unfinished =
            of_manifests.iter().filter(|name| name.strip_suffix(".tmp").and_then(manifest_number).is_some());
        garbage.extend(unfinished.map(|name| format!("{MANIFESTS}/{name}")));
        let named = needed.iter().filter_map(|path| object_number(path.rsplit_once('/')?.1));
        let last_object = objects.iter().map(|(number, _)| *number).chain(named).max().unwrap_or(0);
        Ok(Found { manifests, last_manifest: numbers.last().copied().unwrap_or(0), last_object, garbage })
    }
}

fn read_manifest(store: &dyn ObjectStore, number: u64, data_id: u128) -> Result<Manifest> {
    let path = manifest::path_of(number);
    let bytes = store.read_range(&path, 0..store.len(&path)?)?;
    Manifest::decode(&bytes, number, data_id)
}

/// The number of a manifest, if that is the name of one.
fn manifest_number(name: &str) -> Option<u64> {
    (name.len() == 20).then(|| name.parse().ok()).flatten()
}

/// The number of an object, if that is the name of one.
pub(super) fn object_number(name: &str) -> Option<u64> {
    let (number, _) = name.strip_suffix(".obj")?.split_once('-')?;
    manifest_number(number)
}
