//! Reading a checkpoint, to go on from it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_planner::RelationId;
use millstream_planner::catalog::CatalogChange;
use millstream_runtime::SavedRowErrors;
use millstream_state::{SavedState, StoredBlock};
use millstream_storage::checkpoint::{Manifest, Snapshot, TableId};
use millstream_types::hash::N_PARTITIONS;
use millstream_types::{Epoch, EpochHeader, Result};
use parking_lot::Mutex;

use super::{EPOCH, IN_OBJECTS, NEXT_ROW_ID, PLAN, POSITION, RELATION, ROW_ERRORS, decode_errors, table_of_rows};
use crate::start_progress::StartProgress;

/// What a checkpoint says, to those who go on from it.
pub(crate) struct Restored {
    snapshot: Snapshot,
    /// Blocks of streams, once they are asked for.
    blocks: Mutex<HashMap<u64, Vec<(u8, StoredBlock)>>>,
    /// Told of what is read.
    progress: Arc<StartProgress>,
}

impl Restored {
    /// `None` if there is no checkpoint.
    pub(crate) fn of(snapshot: Snapshot, progress: Arc<StartProgress>) -> Option<Arc<Self>> {
        (snapshot.manifest().epoch > 0).then(|| Arc::new(Restored { snapshot, blocks: Mutex::default(), progress }))
    }

    fn manifest(&self) -> &Manifest {
        self.snapshot.manifest()
    }

    pub(crate) fn header(&self) -> EpochHeader {
        EpochHeader { epoch: Epoch(self.manifest().epoch), now_us: self.manifest().now_us }
    }

    /// The first record of the log that is not in it.
    pub(crate) fn log_sequence(&self) -> u64 {
        self.manifest().log_sequence
    }

    /// # Errors
    /// Internal, if this release cannot read it.
    pub(crate) fn catalog(&self) -> Result<CatalogChange> {
        CatalogChange::decode(&self.manifest().catalog)
    }

    pub(crate) fn next_row_id(&self, relation: RelationId) -> Option<i64> {
        self.number(relation.0, NEXT_ROW_ID).map(i64::from_le_bytes)
    }

    pub(crate) fn position(&self, relation: RelationId) -> Option<u64> {
        self.number(relation.0, POSITION).map(u64::from_le_bytes)
    }

    /// Bytes of an owner's tables on the disk.
    pub(crate) fn n_bytes_of(&self, owner: u64) -> u64 {
        self.manifest().n_bytes_of(owner)
    }

    /// The dataflows whose state it has: the hash of each one's plan, and its owner.
    pub(crate) fn dataflows(&self) -> HashMap<RelationId, (u64, u64)> {
        let number = |owner: u64, key| self.number(owner, key).map(u64::from_le_bytes);
        let is_whole = |owner: &u64| number(*owner, EPOCH) == Some(self.manifest().epoch);
        let owners = self.manifest().owners.iter().copied().filter(is_whole);
        let dataflow = |owner| Some((RelationId(number(owner, RELATION)?), (number(owner, PLAN)?, owner)));
        owners.filter_map(dataflow).collect()
    }

    /// The rows on which a dataflow's expressions fail.
    ///
    /// # Errors
    /// Internal, if they do not read right.
    pub(crate) fn row_errors(&self, owner: u64) -> Result<SavedRowErrors> {
        let bytes = self.manifest().values.get(&(owner, ROW_ERRORS.to_vec()));
        bytes.map_or_else(|| Ok(SavedRowErrors::default()), |bytes| decode_errors(bytes))
    }

    fn number(&self, owner: u64, key: &[u8]) -> Option<[u8; 8]> {
        self.manifest().values.get(&(owner, key.to_vec()))?.as_slice().try_into().ok()
    }

    /// The rows of a relation, of a range of partitions.
    ///
    /// # Errors
    /// XX001, naming the object, if one does not read right.
    pub(crate) fn rows(&self, owner: u64, partitions: &Range<usize>) -> Result<Vec<RecordBatch>> {
        let rows = self.snapshot.net_rows(table_of_rows(owner), partitions);
        self.progress.advance(self.n_bytes_of(owner) * partitions.len() as u64 / N_PARTITIONS as u64);
        rows
    }

    /// The rows of a view, of a range of partitions; `took` is told how many bytes were read.
    ///
    /// # Errors
    /// XX001, naming the object, if one does not read right.
    pub(crate) fn view_rows(
        &self,
        owner: u64,
        partitions: &Range<usize>,
        took: &dyn Fn(u64),
    ) -> Result<Vec<RecordBatch>> {
        self.read(table_of_rows(owner), partitions, took)
    }

    fn read(&self, table: TableId, partitions: &Range<usize>, took: &dyn Fn(u64)) -> Result<Vec<RecordBatch>> {
        let rows = self.snapshot.net_rows(table, partitions)?;
        took(self.snapshot.n_bytes_of_rows(table, partitions)?);
        Ok(rows)
    }

    /// Whether a stream's rows are in objects of its own.
    pub(crate) fn is_in_objects(&self, stream: RelationId) -> bool {
        self.manifest().values.contains_key(&(stream.0, IN_OBJECTS.to_vec()))
    }

    /// The blocks of a stream, of a range of partitions.
    ///
    /// # Errors
    /// XX001, naming the object, if an index does not read right.
    pub(crate) fn stream_blocks(&self, stream: RelationId, partitions: &Range<usize>) -> Result<Vec<StoredBlock>> {
        let mut all = self.blocks.lock();
        let blocks = match all.get(&stream.0) {
            Some(blocks) => blocks,
            None => all.entry(stream.0).or_insert(self.snapshot.stream_blocks(stream.0)?),
        };
        let own = blocks.iter().filter(|(slot, _)| partitions.contains(&usize::from(*slot)));
        Ok(own.map(|(_, block)| block.clone()).collect())
    }

    /// The objects of a stream: the last epoch of each, the time by which its rows were written, and its bytes.
    pub(crate) fn stream_objects(&self, stream: RelationId) -> impl Iterator<Item = (Epoch, i64, u64)> {
        self.manifest().objects_of_stream(stream.0).map(|object| (Epoch(object.up_to), object.now_us, object.len))
    }

    /// Rows of a stream that were written in or before this epoch are forgotten.
    pub(crate) fn floor(&self, stream: RelationId) -> Epoch {
        Epoch(self.manifest().stream_floors.get(&stream.0).copied().unwrap_or_default())
    }

    /// The state of a node of a dataflow, of a range of partitions; `took` is told how many bytes were read.
    ///
    /// # Errors
    /// XX001, naming the object, if one does not read right.
    pub(crate) fn state(
        &self,
        owner: u64,
        node: u32,
        partitions: &Range<usize>,
        took: &dyn Fn(u64),
    ) -> Result<SavedState> {
        let mut state = SavedState::default();
        for table in self.snapshot.tables(owner)?.into_keys().filter(|table| table.node == node) {
            for rows in self.read(table, partitions, took)? {
                state.add_own(table.table, rows);
            }
        }
        Ok(state)
    }
}
