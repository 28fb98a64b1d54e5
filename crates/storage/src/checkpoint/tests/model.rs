//! What a store should have, kept in plain collections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Int64Type};
use millstream_types::Result;
use millstream_types::delta::schema_of;
use millstream_types::hash::{N_PARTITIONS, hash_columns, partitions_of, worker_of};

use super::super::*;
use super::streams::model::StreamModel;
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::object_store::{DiskStore, ObjectStore};
use crate::random::Bits;

/// Rows of a test's table: a number, and a text, which may be missing.
pub(super) type Row = (i64, Option<String>);

/// The rows of tables, sorted.
pub(super) type Tables = BTreeMap<TableId, Vec<Row>>;

/// The id of the data directory in these tests.
pub(super) const DATA_ID: u128 = 7;

/// All of it that changes at checkpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) owners: BTreeSet<u64>,
    pub(super) tables: Tables,
    pub(super) values: BTreeMap<(u64, Vec<u8>), Vec<u8>>,
    pub(super) streams: StreamModel,
}

/// Few layers, small blocks, and no size from which on all are merged.
pub(super) fn options() -> CheckpointOptions {
    CheckpointOptions {
        data_id: DATA_ID,
        term: 1,
        fan_in: 3,
        block_bytes: 300,
        stream_block_bytes: 300,
        whole_bytes_min: 0,
    }
}

pub(super) fn open(disk: &SimDisk) -> Result<CheckpointStore> {
    open_on(Arc::new(disk.clone()), options())
}

pub(super) fn open_on(disk: Arc<dyn Disk>, options: CheckpointOptions) -> Result<CheckpointStore> {
    let store = DiskStore::new(disk, &FOLDERS)?;
    CheckpointStore::open(Arc::new(store) as Arc<dyn ObjectStore>, options)
}

/// Tables with an even number are keyed by their first column; the others are multisets.
pub(super) fn shape(table: TableId) -> TableShape {
    let schema = schema_of(&[("k", DataType::Int64), ("t", DataType::Utf8View)]);
    if table.table.is_multiple_of(2) { TableShape::keyed(schema, vec![0]) } else { TableShape::multiset(schema) }
}

/// Rows as the columns of a table, or of its identity, with their hashes.
fn hashed(rows: &[Row], with_text: bool) -> HashedRows {
    let keys: ArrayRef = Arc::new(rows.iter().map(|(k, _)| Some(*k)).collect::<Int64Array>());
    let texts: ArrayRef = Arc::new(rows.iter().map(|(_, t)| t.clone()).collect::<StringViewArray>());
    let mut hashes = Vec::new();
    hash_columns(std::slice::from_ref(&keys), rows.len(), &mut hashes);
    let batch = if with_text {
        RecordBatch::try_new(schema_of(&[("k", DataType::Int64), ("t", DataType::Utf8View)]), vec![keys, texts])
    } else {
        RecordBatch::try_new(schema_of(&[("k", DataType::Int64)]), vec![keys])
    };
    HashedRows { batch: batch.expect("columns of that schema"), hashes }
}

/// Rows that are in one sorted list more often than in another.
fn more_in(rows: &[Row], than: &[Row]) -> Vec<Row> {
    let mut left: BTreeMap<&Row, usize> = BTreeMap::new();
    than.iter().for_each(|row| *left.entry(row).or_default() += 1);
    let mut more = Vec::new();
    for row in rows {
        match left.get_mut(row).filter(|n| **n > 0) {
            Some(n) => *n -= 1,
            None => more.push(row.clone()),
        }
    }
    more
}

/// The rows of a batch.
pub(super) fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let (keys, texts) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string_view());
    keys.values().iter().zip(texts).map(|(&k, t)| (k, t.map(str::to_owned))).collect()
}

impl Model {
    /// Changes tables of owners at random; sometimes drops an owner and has a new one. Changes streams, too.
    pub(super) fn change(&mut self, random: &mut Bits) {
        self.streams.change(&mut Bits(random.0 ^ 0x5eed));
        if self.owners.len() < 3 {
            let owner = self.values.keys().map(|(owner, _)| *owner).max().unwrap_or(0) + 1;
            self.owners.insert(owner);
            self.values.insert((owner, b"born".to_vec()), owner.to_string().into_bytes());
        } else if random.below(12) == 0 {
            let owner = *self.owners.first().expect("there are three");
            self.drop_owner(owner);
        }
        for &owner in &self.owners.clone() {
            self.values.insert((owner, b"offset".to_vec()), random.next().to_le_bytes().to_vec());
            for table in 0..2 {
                if random.below(3) > 0 {
                    self.change_table(TableId { owner, node: owner as u32 % 2, table }, random);
                }
            }
        }
    }

    pub(super) fn drop_owner(&mut self, owner: u64) {
        self.owners.remove(&owner);
        self.tables.retain(|table, _| table.owner != owner);
        self.values.retain(|(of, _), _| *of != owner);
    }

    fn change_table(&mut self, table: TableId, random: &mut Bits) {
        let is_multiset = shape(table).is_multiset();
        let rows = self.tables.entry(table).or_default();
        for _ in 0..random.below(40) {
            let k = random.below(60) as i64;
            let text = (random.below(5) > 0).then(|| "x".repeat(random.below(30) as usize));
            // Few texts in a multiset, so that the same row comes more than once.
            let text = if is_multiset { text.map(|t| t[..t.len().min(1)].to_owned()) } else { text };
            let same = rows.iter().position(|(of, _)| *of == k);
            match same {
                Some(same) if random.coin() => drop(rows.remove(same)),
                Some(same) if !is_multiset => rows[same].1 = text,
                _ => rows.push((k, text)),
            }
        }
        rows.sort();
    }

    /// Writes what has changed since another one, by so many workers, and commits it.
    pub(super) fn commit(&self, store: &CheckpointStore, since: &Model, epoch: u64, n_workers: usize) -> Result<()> {
        let checkpoint = store.begin();
        let mut objects = Vec::new();
        for worker in 0..n_workers {
            let mut writer = checkpoint.object(worker as u32)?;
            for (&table, rows) in &self.tables {
                let before = since.tables.get(&table).map(Vec::as_slice).unwrap_or_default();
                let shape = shape(table);
                let (gone, rows) = (more_in(before, rows), more_in(rows, before));
                let is_mine = |(_, hash): &(Row, u64)| worker_of(*hash, n_workers) == worker;
                let of_worker = |rows: Vec<Row>| {
                    let hashes = hashed(&rows, true).hashes;
                    rows.into_iter().zip(hashes).filter(is_mine).map(|(row, _)| row).collect::<Vec<Row>>()
                };
                let (gone, rows) = (of_worker(gone), of_worker(rows));
                // In two batches, since there may be several.
                let (some, others) = rows.split_at(rows.len() / 2);
                writer.add(
                    table,
                    &shape,
                    &[hashed(&gone, shape.is_multiset())],
                    &[hashed(some, true), hashed(others, true)],
                )?;
            }
            objects.extend(writer.finish()?);
        }
        let mut values: BTreeMap<_, _> = since.values.keys().map(|key| (key.clone(), None)).collect();
        values.extend(self.values.iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
        let catalog = epoch.to_string().into_bytes();
        let (owners, now_us, log_sequence) = (self.owners.clone(), epoch as i64, epoch + 1);
        let stream_objects = self.streams.write(&checkpoint, &since.streams)?;
        let stream_floors = self.streams.floors.clone();
        let commit = Commit { epoch, now_us, log_sequence, catalog, owners, values, stream_floors };
        store.commit(&checkpoint, commit, objects, stream_objects)?;
        Ok(())
    }

    /// Panics unless a checkpoint has this, as read by several numbers of workers.
    pub(super) fn check(&self, snapshot: &Snapshot) {
        let manifest = snapshot.manifest();
        assert_eq!(manifest.owners, self.owners);
        assert_eq!(manifest.values, self.values);
        self.streams.check(snapshot);
        for &owner in &self.owners {
            let tables = snapshot.tables(owner).expect("it reads right");
            assert!(tables.iter().all(|(&table, of)| *of == shape(table)));
        }
        for n_workers in [1, 3] {
            for (&table, rows) in &self.tables {
                assert_eq!(&read(snapshot, table, n_workers).expect("it reads right"), rows, "{table:?}");
            }
        }
    }
}

/// The rows of a table, sorted, as so many workers read them.
pub(super) fn read(snapshot: &Snapshot, table: TableId, n_workers: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for worker in 0..n_workers {
        let partitions = partitions_of(worker, n_workers);
        let of_worker = snapshot.net_rows(table, &partitions)?;
        rows.extend(of_worker.iter().flat_map(rows_of));
        let changes = snapshot.changes(table, &partitions)?;
        for number in 0..changes.len() {
            let piece = changes.read(number)?;
            assert_eq!(piece.runs.iter().map(|(_, n)| *n as usize).sum::<usize>(), piece.batch.num_rows());
            let mut hashes = Vec::new();
            hash_columns(&piece.batch.columns()[..1], piece.batch.num_rows(), &mut hashes);
            let runs = piece.runs.iter().flat_map(|&(partition, n)| vec![usize::from(partition); n as usize]);
            assert!(runs.zip(hashes).all(|(p, hash)| p == (hash >> 56) as usize && partitions.contains(&p)));
        }
    }
    rows.sort();
    assert!(snapshot.net_rows(table, &(0..N_PARTITIONS)).is_ok());
    Ok(rows)
}

/// Merges some objects of each stream next to each other, whatever their sizes.
pub(super) fn merge_any_of_streams(store: &CheckpointStore, random: &mut Bits) -> Result<()> {
    let newest = store.newest();
    newest.stream_floors.keys().try_for_each(|&stream| store.merge_any_of_stream(stream, random).map(drop))
}
