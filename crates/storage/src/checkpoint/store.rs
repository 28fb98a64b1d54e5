//! The checkpoints of a data directory: what is there, how one is committed, and what is deleted when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;
use millstream_types::{Error, ErrorKind, Result};
use parking_lot::Mutex;

use super::MANIFESTS;
use super::found::Found;
use super::manifest::{self, Manifest, ObjectEntry};
use super::object_file::UnnamedFile;
use super::object_writer::{ObjectWriter, WrittenObject};
use super::snapshot::Snapshot;
use super::streams::{Readers, StreamBlocks, StreamObject, StreamObjectEntry, StreamObjectWriter, WrittenStreamObject};
use crate::errors::IN_USE;
use crate::object_store::{ObjectStore, Put};

/// How checkpoints are kept.
#[derive(Clone, Debug)]
pub struct CheckpointOptions {
    /// The data directory.
    pub data_id: u128,
    /// The writer's term: not lower than that of any writer before it.
    pub term: u64,
    /// How many layers of similar size are merged into one.
    pub fan_in: usize,
    /// How many bytes of rows a block has, at most, unless one row has more.
    pub block_bytes: usize,
    /// The same of a block of a stream.
    pub stream_block_bytes: usize,
    /// The state has at least so many bytes before all of it is merged because half of them are garbage.
    pub whole_bytes_min: u64,
}

impl Default for CheckpointOptions {
    fn default() -> Self {
        CheckpointOptions {
            data_id: 0,
            term: 1,
            fan_in: 32,
            block_bytes: 256 << 10,
            stream_block_bytes: 1 << 20,
            whole_bytes_min: 4 << 20,
        }
    }
}

/// What a checkpoint says beside its objects.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The epoch whose state it is.
    pub epoch: u64,
    /// The value of `now()` in that epoch, in microseconds since 1970-01-01 UTC.
    pub now_us: i64,
    /// The first record of the log that recovery reads.
    pub log_sequence: u64,
    /// The catalog.
    pub catalog: Vec<u8>,
    /// All owners that live. What others have is forgotten, and their numbers are never given again.
    pub owners: BTreeSet<u64>,
    /// Small values that have changed, by owner and key; `None` takes one away.
    pub values: BTreeMap<(u64, Vec<u8>), Option<Vec<u8>>>,
    /// All streams that live. Rows that were born at or before the epoch are forgotten; 0 if none are.
    pub stream_floors: BTreeMap<u64, u64>,
}

/// The checkpoints of a data directory, open for writing.
pub struct CheckpointStore {
    pub(super) shared: Arc<Shared>,
}

/// What the store shares with those who read.
pub(super) struct Shared {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) options: CheckpointOptions,
    state: Mutex<State>,
    /// The number in the name of the next object.
    next_object: AtomicU64,
    /// Held while a merge runs: there is one at a time.
    pub(super) merging: Mutex<()>,
    /// Objects that merging found damaged, and leaves as they are.
    pub(super) unmergeable: Mutex<BTreeSet<String>>,
    /// Held while garbage is deleted.
    collecting: Mutex<()>,
    /// Who reads from objects of streams, which are not deleted meanwhile.
    pub(super) readers: Arc<Readers>,
}

struct State {
    /// The manifests that are there, by number; the last is the newest one.
    manifests: BTreeMap<u64, Arc<Manifest>>,
    /// The number of the next one.
    next: u64,
    /// How many hold which.
    holds: BTreeMap<u64, usize>,
    /// Manifests that may be there or not, to be deleted once a later one is there.
    doubtful: Vec<Manifest>,
    /// Paths that are to be deleted.
    garbage: BTreeSet<String>,
}

/// A checkpoint that has begun: numbers its objects.
pub struct Checkpoint {
    shared: Arc<Shared>,
    number: u64,
    /// The epoch of the last one, after which it has all changes.
    after: u64,
    /// The value of `now()` in that epoch.
    since_us: i64,
}

/// An interest in a manifest and what it names.
pub(super) struct Hold {
    shared: Arc<Shared>,
    manifest: Arc<Manifest>,
}

impl CheckpointStore {
    /// Opens the checkpoints of a data directory, makes the first, empty one if there are none, and deletes what writers
    /// have left that are no more. If the newest one is of an earlier term a copy of it with this one is committed before that,
    /// so that the writer before commits nothing more.
    ///
    /// # Errors
    /// XX001 naming the file if the newest manifest is damaged; 55000 if it is of a newer version, 55006 if another writer
    /// has taken over; 53100 and 58030 if the disk fails.
    pub fn open(store: Arc<dyn ObjectStore>, options: CheckpointOptions) -> Result<CheckpointStore> {
        loop {
            let opened =
                CheckpointStore::of(Found::read(&*store, options.data_id)?, Arc::clone(&store), options.clone());
            let mut state = opened.shared.state.lock();
            let newest = state.manifests.last_key_value().map(|(_, newest)| (**newest).clone());
            let first = match newest {
                Some(newest) if newest.term > options.term => return Err(passed()),
                Some(newest) if newest.term == options.term => None,
                Some(newest) => Some(newest),
                None => Some(Manifest { log_sequence: 1, ..Manifest::default() }),
            };
            let committed = first.map(|first| opened.shared.put(&mut state, first)).transpose();
            drop(state);
            match committed {
                Ok(_) => {}
                // The writer before has committed one meanwhile.
                Err(error) if is_passed(&error) => continue,
                Err(error) => return Err(error),
            }
            if let Err(error) = opened.collect() {
                tracing::warn!(%error, "what an earlier writer has left could not be deleted");
            }
            return Ok(opened);
        }
    }

    fn of(found: Found, store: Arc<dyn ObjectStore>, options: CheckpointOptions) -> CheckpointStore {
        let state = State {
            manifests: found.manifests,
            next: found.last_manifest + 1,
            holds: BTreeMap::new(),
            doubtful: Vec::new(),
            garbage: found.garbage,
        };
        let shared = Shared {
            store,
            options,
            state: Mutex::new(state),
            next_object: AtomicU64::new(found.last_object + 1),
            merging: Mutex::default(),
            unmergeable: Mutex::default(),
            collecting: Mutex::default(),
            readers: Arc::default(),
        };
        CheckpointStore { shared: Arc::new(shared) }
    }

    /// The newest checkpoint of a data directory that nobody writes. Nothing is changed.
    pub(super) fn read_newest(store: Arc<dyn ObjectStore>, data_id: u128) -> Result<Snapshot> {
        let found = Found::read(&*store, data_id)?;
        if found.manifests.is_empty() {
            return Err(manifest::missing());
        }
        let options = CheckpointOptions { data_id, ..CheckpointOptions::default() };
        Ok(CheckpointStore::of(found, store, options).hold())
    }

    /// The newest checkpoint, to be read; what it needs is held until the snapshot is dropped.
    pub fn hold(&self) -> Snapshot {
        Snapshot::new(Shared::hold(&self.shared), Arc::clone(&self.shared.store))
    }

    /// The newest checkpoint's manifest.
    pub fn newest(&self) -> Arc<Manifest> {
        self.shared.state.lock().newest()
    }

    /// The first record of the log that is still needed: that of the oldest manifest that is kept or held.
    pub fn log_needed_from(&self) -> u64 {
        let state = self.shared.state.lock();
        let kept = state.kept();
        kept.iter().map(|number| state.manifests[number].log_sequence).min().unwrap_or(1)
    }

    /// The paths of all objects that are kept or held.
    #[cfg(test)]
    pub(super) fn kept_paths(&self) -> Vec<String> {
        let state = self.shared.state.lock();
        let manifests = state.manifests.values().map(|m| &**m).chain(&state.doubtful);
        manifests.flat_map(Manifest::object_paths).collect()
    }

    /// Begins a checkpoint with all that has changed since the newest one. One is written at a time.
    pub fn begin(&self) -> Checkpoint {
        let shared = Arc::clone(&self.shared);
        let newest = self.newest();
        let number = shared.next_object_number();
        Checkpoint { shared, number, after: newest.epoch, since_us: newest.now_us }
    }

    /// Commits a checkpoint with the objects that were written for it; gives the blocks of those of streams. Then
    /// [`CheckpointStore::collect`] is worth calling, and [`crate::log::Log::truncate_before`] what
    /// [`CheckpointStore::log_needed_from`] says.
    ///
    /// # Errors
    /// 53100 and 58030 if it cannot be written; then the last one is still the newest, and the next one has to have these
    /// changes too. 55006 if another writer has committed one. Internal, if another one was committed since it began.
    pub fn commit(
        &self,
        checkpoint: &Checkpoint,
        commit: Commit,
        objects: Vec<WrittenObject>,
        stream_objects: Vec<WrittenStreamObject>,
    ) -> Result<(Arc<Manifest>, Vec<StreamBlocks>)> {
        let mut state = self.shared.state.lock();
        let newest = state.newest();
        if newest.epoch != checkpoint.after || commit.epoch < newest.epoch {
            let message = format!("a checkpoint after epoch {} follows that of {}", checkpoint.after, newest.epoch);
            return Err(Error::internal(message));
        }
        let mut values = newest.values.clone();
        for (key, value) in commit.values {
            match value {
                Some(value) => values.insert(key, value),
                None => values.remove(&key),
            };
        }
        values.retain(|(owner, _), _| commit.owners.contains(owner));
        let of_checkpoint = objects.iter().map(|object| {
            let (after, up_to) = (checkpoint.after, commit.epoch);
            ObjectEntry { after, up_to, ..object.entry.clone() }
        });
        let of_streams = stream_objects.iter().map(|object| StreamObjectEntry {
            after: checkpoint.after,
            up_to: commit.epoch,
            since_us: checkpoint.since_us,
            now_us: commit.now_us,
            ..object.entry.clone()
        });
        let next = Manifest {
            epoch: commit.epoch,
            now_us: commit.now_us,
            log_sequence: commit.log_sequence,
            catalog: commit.catalog,
            values,
            objects: newest.objects.iter().cloned().chain(of_checkpoint).collect(),
            owners: commit.owners,
            stream_objects: newest.stream_objects.iter().cloned().chain(of_streams).collect(),
            stream_floors: commit.stream_floors,
            ..Manifest::default()
        };
        let (of_streams, files): (Vec<_>, Vec<_>) = stream_objects.into_iter().map(|o| (o.object, o.file)).unzip();
        let files = files.into_iter().chain(objects.into_iter().map(|object| object.file)).collect();
        let manifest = self.shared.put_with(&mut state, next, files)?;
        let named: BTreeSet<u64> = manifest.stream_objects.iter().map(StreamObjectEntry::number).collect();
        let blocks = of_streams.into_iter().filter(|object| named.contains(&object.number()));
        Ok((manifest, blocks.map(StreamBlocks::of).collect()))
    }

    /// Deletes what neither the two newest manifests nor those that are held need.
    ///
    /// # Errors
    /// 58030 if something cannot be deleted; it is tried again the next time.
    pub fn collect(&self) -> Result<()> {
        let _alone = self.shared.collecting.lock();
        let mut state = self.shared.state.lock();
        let (manifests, objects) = state.take_garbage(&self.shared.readers);
        drop(state);
        // First what names, so that nothing is ever named that is not there.
        let deleted = self.shared.store.delete(&manifests).and_then(|()| self.shared.store.delete(&objects));
        if deleted.is_err() {
            self.shared.state.lock().garbage.extend(manifests.into_iter().chain(objects));
        }
        deleted
    }
}

impl Checkpoint {
    /// Begins the object of a worker.
    ///
    /// # Errors
    /// Internal, if it has no encoder.
    pub fn object(&self, worker: u32) -> Result<ObjectWriter> {
        let shared = &self.shared;
        let name = format!("{:020}-{}-{worker}.obj", self.number, shared.options.term);
        ObjectWriter::new(Arc::clone(&shared.store), name, &shared.options, Some(worker))
    }

    /// Begins the object of a stream, for the rows that have come since the last checkpoint.
    ///
    /// # Errors
    /// Internal, if it has no encoder.
    pub fn stream_object(&self, stream: u64, schema: &SchemaRef) -> Result<StreamObjectWriter> {
        self.shared.stream_object(stream, schema)
    }
}

impl Shared {
    pub(super) fn hold(shared: &Arc<Shared>) -> Hold {
        let mut state = shared.state.lock();
        let manifest = state.newest();
        *state.holds.entry(manifest.number).or_default() += 1;
        Hold { shared: Arc::clone(shared), manifest }
    }

    fn next_object_number(&self) -> u64 {
        self.next_object.fetch_add(1, Ordering::Relaxed)
    }

    /// Begins an object of a stream.
    pub(super) fn stream_object(&self, stream: u64, schema: &SchemaRef) -> Result<StreamObjectWriter> {
        StreamObjectWriter::new(self, self.next_object_number(), stream, schema)
    }

    /// Begins an object that is made of several.
    pub(super) fn merged_object(&self) -> Result<ObjectWriter> {
        let number = self.next_object_number();
        let name = format!("{number:020}-{}-merged.obj", self.options.term);
        ObjectWriter::new(Arc::clone(&self.store), name, &self.options, None)
    }

    /// Puts one object in the place of several, in whatever is the newest manifest by now.
    pub(super) fn replace(&self, merged: &[ObjectEntry], by: Option<WrittenObject>) -> Result<Arc<Manifest>> {
        let mut state = self.state.lock();
        let newest = state.newest();
        let is_merged = |object: &ObjectEntry| merged.iter().any(|m| m.name == object.name);
        let Some(at) = newest.objects.iter().position(is_merged) else {
            // All that they had was of owners that are gone.
            return Ok(newest);
        };
        let mut objects = newest.objects.clone();
        let epochs = merged.first().zip(merged.last()).map(|(first, last)| (first.after, last.up_to));
        if let Some((by, (after, up_to))) = by.as_ref().zip(epochs) {
            objects.insert(at, ObjectEntry { after, up_to, ..by.entry.clone() });
        }
        objects.retain(|object| !is_merged(object));
        let next = Manifest { objects, ..(*newest).clone() };
        self.put_with(&mut state, next, by.into_iter().map(|by| by.file).collect())
    }

    /// Puts one object of a stream in the place of several, in whatever is the newest manifest by now; nothing if rows of
    /// some are forgotten by now, which it would bring back.
    pub(super) fn replace_of_stream(
        &self,
        merged: &[&StreamObjectEntry],
        by: WrittenStreamObject,
    ) -> Result<Option<Arc<StreamObject>>> {
        let mut state = self.state.lock();
        let newest = state.newest();
        let is_merged = |object: &StreamObjectEntry| merged.iter().any(|m| m.name == object.name);
        let (replaced, mut objects): (Vec<_>, Vec<_>) = newest.stream_objects.iter().cloned().partition(is_merged);
        let (Some(at), [first, .., last]) = (newest.stream_objects.iter().position(is_merged), &*replaced) else {
            return Ok(None);
        };
        if replaced.len() < merged.len() {
            return Ok(None);
        }
        let (after, since_us) = (first.after, first.since_us);
        objects.insert(at, StreamObjectEntry { after, since_us, up_to: last.up_to, now_us: last.now_us, ..by.entry });
        let next = Manifest { stream_objects: objects, ..(*newest).clone() };
        self.put_with(&mut state, next, vec![by.file])?;
        Ok(Some(by.object))
    }

    /// Commits a manifest that names objects which were just written.
    fn put_with(&self, state: &mut State, next: Manifest, files: Vec<UnnamedFile>) -> Result<Arc<Manifest>> {
        let committed = self.put(state, next);
        let named = committed.iter().map(|manifest| &**manifest).chain(&state.doubtful);
        let named: BTreeSet<String> = named.flat_map(Manifest::object_paths).collect();
        files.into_iter().filter(|file| named.contains(file.path())).for_each(UnnamedFile::keep);
        committed
    }

    /// Commits a manifest as the one after the newest.
    fn put(&self, state: &mut State, mut next: Manifest) -> Result<Arc<Manifest>> {
        next.data_id = self.options.data_id;
        next.term = self.options.term;
        next.number = state.next;
        let Manifest { owners, objects, stream_floors, stream_objects, .. } = &mut next;
        objects.retain(|object| object.shares.iter().any(|share| owners.contains(&share.owner)));
        stream_objects.retain(|object| stream_floors.get(&object.stream).is_some_and(|&floor| object.up_to > floor));
        match self.store.put_if_absent(&next.path(), &next.encode()) {
            Put::Done => {
                let next = Arc::new(next);
                state.manifests.insert(next.number, Arc::clone(&next));
                state.next += 1;
                Ok(next)
            }
            Put::Taken => {
                let message = format!("another process has committed checkpoint {} of this data", next.number);
                Err(Error::new(ErrorKind::External, IN_USE, message).with_hint("The other process has the data now."))
            }
            Put::Failed(error) => Err(error),
            Put::Unknown(error) => {
                state.next += 1;
                state.doubtful.push(next);
                Err(error)
            }
        }
    }
}

/// 55006: a writer of a later term has the data.
fn passed() -> Error {
    Error::new(ErrorKind::External, IN_USE, "another process has taken over the data while this one started")
}

fn is_passed(error: &Error) -> bool {
    error.state() == IN_USE
}

impl State {
    fn newest(&self) -> Arc<Manifest> {
        let (_, newest) = self.manifests.last_key_value().expect("an open store has a manifest");
        Arc::clone(newest)
    }

    /// The manifests that stay.
    fn kept(&self) -> BTreeSet<u64> {
        let newest = self.manifests.keys().rev().take(2);
        newest.chain(self.holds.keys()).copied().collect()
    }

    /// The paths of manifests and of objects that are needed no more, which are forgotten here; but not of those that
    /// somebody reads from.
    fn take_garbage(&mut self, readers: &Readers) -> (Vec<String>, Vec<String>) {
        let kept = self.kept();
        let mut gone: Vec<Manifest> = Vec::new();
        self.manifests.retain(|number, manifest| {
            let is_kept = kept.contains(number);
            if !is_kept {
                gone.push((**manifest).clone());
            }
            is_kept
        });
        // What may be there counts until there is a later one for certain.
        let newest = *kept.last().expect("the newest is kept");
        let (past, doubtful) = std::mem::take(&mut self.doubtful).into_iter().partition(|m| m.number < newest);
        self.doubtful = doubtful;
        gone.extend::<Vec<Manifest>>(past);
        self.garbage.extend(gone.iter().map(Manifest::path));
        self.garbage.extend(gone.iter().flat_map(Manifest::object_paths));
        let needed: BTreeSet<String> = self.manifests.values().flat_map(|m| m.object_paths()).collect();
        let needed: BTreeSet<String> =
            needed.into_iter().chain(self.doubtful.iter().flat_map(|m| m.object_paths())).collect();
        let needless = std::mem::take(&mut self.garbage).into_iter().filter(|path| !needed.contains(path));
        let (read_from, needless): (BTreeSet<String>, BTreeSet<String>) = needless.partition(|path| readers.has(path));
        self.garbage = read_from;
        needless.into_iter().partition(|path| path.starts_with(MANIFESTS))
    }
}

impl Hold {
    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn readers(&self) -> &Arc<Readers> {
        &self.shared.readers
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let number = self.manifest.number;
        if let Some(n_holds) = state.holds.get_mut(&number) {
            *n_holds -= 1;
            if *n_holds == 0 {
                state.holds.remove(&number);
            }
        }
    }
}
