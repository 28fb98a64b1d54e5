//! The contract between operators and whoever drives them.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use arrow::datatypes::SchemaRef;
use millstream_expr::RowErrors;
use millstream_expr::encoded::Encoder;
use millstream_state::{Arrangement, SavedState, StateChanges};
use millstream_types::{Delta, Epoch, EpochHeader, Result};

use crate::dataflow::RelationId;
use crate::encoded::EncodedSpec;

/// The number of an operator's input.
pub type Port = usize;

/// Output rows after which an operator should put off what it still has to do. Few in tests of this crate, so that they
/// see operators put work off.
pub const OUTPUT_ROWS_MAX: usize = if cfg!(test) { 7 } else { 1 << 16 };
/// Bytes after which it should as well, if nothing else is said.
const OUTPUT_BYTES_MAX: usize = 1 << 22;
/// Rows in an output delta, where the operator can choose.
pub const OUTPUT_BATCH_ROWS: usize = if cfg!(test) { 3 } else { 1 << 13 };

/// Whether an operator has done all that it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All done.
    Done,
    /// There is more to do: call [`Operator::resume`], or what was called once more where that is said.
    More,
}

/// Where an operator puts its results.
#[derive(Debug)]
pub struct Output {
    deltas: Vec<Delta>,
    n_rows: usize,
    n_bytes: usize,
    n_bytes_max: usize,
    /// Rows on which an expression failed.
    pub errors: RowErrors,
}

impl Default for Output {
    fn default() -> Self {
        Output::of_bytes(OUTPUT_BYTES_MAX)
    }
}

impl Output {
    /// Output that is full with so many bytes, if it is not before.
    pub fn of_bytes(n_bytes_max: usize) -> Self {
        Output { deltas: Vec::new(), n_rows: 0, n_bytes: 0, n_bytes_max, errors: RowErrors::default() }
    }

    /// Emits a delta; one without rows is dropped.
    pub fn emit(&mut self, delta: Delta) {
        if !delta.is_empty() {
            self.n_rows += delta.n_rows();
            self.n_bytes += delta.values_bytes();
            self.deltas.push(delta);
        }
    }

    /// Whether the operator should return [`Progress::More`] as soon as it can.
    pub fn is_full(&self) -> bool {
        self.n_rows >= OUTPUT_ROWS_MAX || self.n_bytes >= self.n_bytes_max
    }

    /// Takes what was emitted.
    pub fn take(&mut self) -> Vec<Delta> {
        (self.n_rows, self.n_bytes) = (0, 0);
        std::mem::take(&mut self.deltas)
    }
}

/// A running operator.
///
/// Contract, which drivers rely on and operators may:
/// - Within an epoch deltas come in any order on any port, and their sums may be negative for a while; only the state at
///   `end_epoch` is judged, and there no row's weight is negative.
/// - An operator retracts the very rows it emitted.
/// - Nothing depends on the order of arrival, nor on how rows are split into deltas.
/// - When a call returned [`Progress::More`], the next call is `resume`, until that returns `Done`.
/// - After an error the operator is not called again.
pub trait Operator {
    /// Takes a delta on an input, as soon as it arrives, within the current epoch.
    ///
    /// # Errors
    /// What makes the whole view fail; failing rows go to `out.errors` instead.
    fn push(&mut self, port: Port, delta: Delta, out: &mut Output) -> Result<Progress>;

    /// The epoch's input is complete: emits what depends on the whole of it.
    ///
    /// # Errors
    /// As for `push`.
    fn end_epoch(&mut self, header: &EpochHeader, out: &mut Output) -> Result<Progress>;

    /// Goes on with what the last call put off.
    ///
    /// # Errors
    /// As for `push`.
    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        let _ = out;
        Ok(Progress::Done)
    }

    /// Adds the state as of the last epoch that was ended, as rows of tables, with the hashes that say where they belong.
    /// `partitioned_by` has for each port the columns whose hash has brought its rows to this worker.
    ///
    /// # Errors
    /// Internal.
    fn save(&self, partitioned_by: &[Vec<usize>], saved: &mut StateChanges) -> Result<()>;

    /// From now on the operator notes what changes, for [`Operator::save_changes`]. It is called between epochs; after a
    /// [`Operator::restore`] before anything else, so that what was restored counts as saved. Operators that were not asked
    /// spend nothing on it.
    fn track_changes(&mut self);

    /// Adds what of the tables has changed since the last save, as of the last epoch that was ended, which is at least the
    /// first; in the first save that is all there is, or all that is not as it was restored. It is called after
    /// [`Operator::track_changes`], between epochs. All that was added, oldest first, comes to what [`Operator::save`] gives.
    ///
    /// A call adds some thousand rows. After [`Progress::More`] it is called again, before anything else that changes the
    /// state; with [`Progress::Done`] the save is done. The cost, and the memory that it takes to note changes, is that of what
    /// has changed, not of the state.
    ///
    /// # Errors
    /// Internal.
    fn save_changes(&mut self, partitioned_by: &[Vec<usize>], changes: &mut StateChanges) -> Result<Progress>;

    /// The whole of a save, in one call.
    ///
    /// # Errors
    /// As [`Operator::save_changes`].
    fn save_all_changes(&mut self, partitioned_by: &[Vec<usize>], changes: &mut StateChanges) -> Result<()> {
        while self.save_changes(partitioned_by, changes)? == Progress::More {}
        Ok(())
    }

    /// Takes over saved state of the partitions that this worker owns, whichever workers have saved it. The operator has
    /// been built and not been called; it emits nothing, and goes on as if it had seen all that led to that state. It
    /// takes tables out one by one, so that they are gone from memory as soon as it has their rows. It may come in parts
    /// ([`Operator::restored_parts`]), each with all that there is of some partitions.
    ///
    /// # Errors
    /// Internal, if the state is not that of such an operator.
    fn restore(&mut self, saved: &mut SavedState) -> Result<()>;

    /// How [`Operator::restore_part`] takes over saved state of the partitions that this worker owns: the range of each part,
    /// in order. Others have to wait while it takes one over, so there should be `n_wanted`, if it can be.
    fn restored_parts(&self, partitions: &Range<usize>, n_wanted: usize) -> Vec<Range<usize>> {
        in_parts(partitions, n_wanted)
    }

    /// Does [`Operator::restore`] with the state of one of [`Operator::restored_parts`], which come one after the other, each
    /// once, and nothing in between. What can have its state in parts puts parts away while memory is short.
    ///
    /// # Errors
    /// As [`Operator::restore`]; 53200 if the state does not fit and there is no other place for it.
    fn restore_part(&mut self, _part: usize, saved: &mut SavedState) -> Result<()> {
        self.restore(saved)
    }

    /// Puts state away, if it can and memory is short. It is called between epochs.
    ///
    /// # Errors
    /// 53200, if there is no other place for it.
    fn relieve(&mut self) -> Result<()> {
        Ok(())
    }

    /// Bytes of state in memory.
    fn n_bytes(&self) -> usize {
        0
    }

    /// Of the bytes in memory, those that [`Operator::relieve`] would put away now.
    fn n_spillable_bytes(&self) -> usize {
        0
    }

    /// Bytes of state that was put away, where it is.
    fn n_spilled_bytes(&self) -> usize {
        0
    }

    /// Bytes of state that what an epoch adds comes on top of, because nothing of it can be put away before the epoch's end.
    fn n_whole_bytes(&self) -> usize {
        self.n_bytes()
    }

    /// Rows, groups or entries of state.
    fn n_entries(&self) -> usize {
        0
    }
}

/// What an operator may know of where it runs.
#[derive(Clone, Copy)]
pub struct BuildContext<'a> {
    /// This worker.
    pub worker: usize,
    /// All workers.
    pub n_workers: usize,
    /// The epoch that the dataflow starts at: shared arrangements are read as of it, and not fed.
    pub start: Epoch,
    /// The relations that this worker keeps.
    pub arrangements: &'a dyn Arrangements,
}

impl BuildContext<'static> {
    /// One worker, from the first epoch on, with nothing to share.
    pub fn alone() -> Self {
        BuildContext { worker: 0, n_workers: 1, start: Epoch::ZERO, arrangements: &NoArrangements }
    }
}

/// Arrangements that a worker keeps, and that operators may read instead of keeping rows of their own.
///
/// Contract: the owner has completed an epoch on this worker before an operator that imports the relation ends that
/// epoch, and the relation is held at the last epoch that the operator has ended.
pub trait Arrangements {
    /// This worker's part of a relation.
    fn arrangement(&self, relation: RelationId) -> Option<Rc<RefCell<Arrangement>>>;
}

/// Nothing to share.
pub struct NoArrangements;

impl Arrangements for NoArrangements {
    fn arrangement(&self, _: RelationId) -> Option<Rc<RefCell<Arrangement>>> {
        None
    }
}

/// What an operator is to do: immutable, shared by all workers, printed by EXPLAIN.
pub trait OperatorSpec: fmt::Debug + Send + Sync {
    /// The operator's name, in CamelCase.
    fn name(&self) -> &'static str;

    /// Its particulars, for EXPLAIN, in one line.
    fn describe(&self) -> String;

    /// The schema of its output.
    fn schema(&self) -> SchemaRef;

    /// What its state grows with, for EXPLAIN; nothing if it keeps nothing.
    fn keeps(&self) -> String {
        String::new()
    }

    /// Whether it only reacts to deltas: then it is not called at the end of an epoch.
    fn is_stateless(&self) -> bool {
        false
    }

    /// The relations whose arrangements it reads, beside what its inputs bring.
    fn shared_relations(&self) -> Vec<RelationId> {
        vec![]
    }

    /// The operator as a plan keeps it: [`EncodedSpec::of`] the spec.
    ///
    /// # Errors
    /// Internal, if some part of it has no form.
    fn encode(&self, encoder: &mut Encoder<'_>) -> Result<EncodedSpec>;

    /// Makes the running operator of one worker.
    ///
    /// # Errors
    /// Not supported, if a type cannot be kept in state.
    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Operator>>;
}

/// A range of partitions in so many parts, or fewer if there are not as many.
pub(crate) fn in_parts(partitions: &Range<usize>, n: usize) -> Vec<Range<usize>> {
    let at = |part: usize| partitions.start + partitions.len() * part / n.max(1);
    (0..n.max(1)).map(|part| at(part)..at(part + 1)).filter(|part| !part.is_empty()).collect()
}
