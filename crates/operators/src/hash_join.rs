//! Hash join of two inputs, each of which may change.
//!
//! Each side keeps its rows in an index by key. A delta on one side is kept, and joined with all that is there on the
//! other: so every pair is met once, by whichever row comes second. With no keys this is a nested loop.
//!
//! A side whose rows a relation has arranged already, by the same key on the same worker, is not kept: the join reads
//! the relation. As that may be ahead, it is read as of an epoch: ΔL meets R as of the last epoch, and ΔR, which waits for
//! the end of the epoch, meets L as of this one.
//!
//! Pairs are emitted as they are met. What depends on whether a row has a partner at all, the null-extended rows of
//! outer joins and the rows of semi, anti and mark joins, is decided at the end of the epoch, from a count of partners
//! that each such row keeps.

mod alone;
mod encoded;
mod shared;
mod side;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::SchemaRef;
use millstream_expr::Scalar;
use millstream_expr::encoded::Encoder;
use millstream_expr::scalar::{batch_of, condition};
use millstream_state::{Matches, NO_ROW, SavedState, StateChanges};
use millstream_types::hash::hash_columns;
use millstream_types::{Delta, Epoch, EpochHeader, Error, Result};
use serde::{Deserialize, Serialize};

use crate::dataflow::RelationId;
use crate::encoded::EncodedSpec;
use crate::operator::{BuildContext, OUTPUT_BATCH_ROWS, Operator, OperatorSpec, Output, Port, Progress, in_parts};
pub use alone::Alone;
use alone::Totals;
use shared::SharedSide;
use side::JoinSide;

/// One of the two inputs of a join; its number is the port's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Port 0.
    Left,
    /// Port 1.
    Right,
}

impl Side {
    fn port(self) -> usize {
        match self {
            Side::Left => 0,
            Side::Right => 1,
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }

    /// The side of a port.
    ///
    /// # Errors
    /// Internal, if a join has no such port.
    pub fn of_port(port: Port) -> Result<Side> {
        match port {
            0 => Ok(Side::Left),
            1 => Ok(Side::Right),
            _ => Err(Error::internal(format!("a join has no port {port}"))),
        }
    }
}

/// One value for each side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sides<T> {
    /// Port 0's.
    pub left: T,
    /// Port 1's.
    pub right: T,
}

impl<T> Sides<T> {
    /// The value of a side.
    pub fn of(&self, side: Side) -> &T {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    /// The value of a side.
    pub fn of_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Left => &mut self.left,
            Side::Right => &mut self.right,
        }
    }
}

/// What a join knows of one input.
#[derive(Clone, Debug)]
pub struct JoinInput {
    /// The columns that arrive.
    pub schema: SchemaRef,
    /// The columns of the key; as many as on the other side, of the same types.
    pub keys: Vec<usize>,
    /// No row is ever taken back.
    pub append_only: bool,
    /// At most one row has any one key.
    pub unique: bool,
    /// Where its rows are kept already, if the join need not keep them: then it emits nothing beside pairs for them, and
    /// what arrives are the relation's changes after the start, exchanged with nobody.
    pub shared: Option<SharedInput>,
}

/// An arrangement that has the rows of an input, partitioned and indexed by the join's key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SharedInput {
    /// The relation.
    pub relation: RelationId,
    /// The relation's columns that the index is over, in its order, which is the join's.
    pub keys: Vec<usize>,
    /// For each column of the input, the relation's.
    pub columns: Vec<usize>,
}

/// A column of a joined row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinColumn {
    /// A column of a side; null where the row stands alone and the side is the other one.
    Of(Side, usize),
    /// Whether the row has a partner.
    Mark,
}

/// A condition beyond the equality of keys.
#[derive(Clone, Debug)]
pub struct Residual {
    /// The columns that it needs.
    pub columns: Vec<JoinColumn>,
    /// Their schema.
    pub schema: SchemaRef,
    /// The condition, over these columns.
    pub condition: Scalar,
}

/// A join, of any kind.
#[derive(Clone, Debug)]
pub struct HashJoinSpec {
    /// The inputs.
    pub inputs: Sides<JoinInput>,
    /// Whether pairs are emitted.
    pub emits_pairs: bool,
    /// What rows of a side emit beside pairs.
    pub alone: Sides<Alone>,
    /// For each key, whether null equals null.
    pub null_equals_null: Vec<bool>,
    /// A condition beyond the keys.
    pub residual: Option<Residual>,
    /// The columns of the output.
    pub output: Vec<JoinColumn>,
    /// Their schema.
    pub schema: SchemaRef,
}

impl OperatorSpec for HashJoinSpec {
    fn name(&self) -> &'static str {
        if self.inputs.left.keys.is_empty() { "NestedLoopJoin" } else { "HashJoin" }
    }

    fn describe(&self) -> String {
        let name = |side: Side, c: usize| self.inputs.of(side).schema.field(c).name().clone();
        let keys = self.inputs.left.keys.iter().zip(&self.inputs.right.keys).zip(&self.null_equals_null);
        let keys: Vec<String> = keys
            .map(|((&l, &r), null_safe)| {
                let op = if *null_safe { "is not distinct from" } else { "=" };
                format!("{} {op} {}", name(Side::Left, l), name(Side::Right, r))
            })
            .collect();
        let mut text = format!("{} on {}", self.kind(), keys.join(" and "));
        if let Some(residual) = &self.residual {
            text += &format!(" where {}", residual.condition);
        }
        for (side, label) in [(Side::Left, "left"), (Side::Right, "right")] {
            if self.inputs.of(side).shared.is_some() {
                text += &format!(" {label} shared");
            } else if self.inputs.of(side).append_only {
                text += &format!(" {label} append-only");
            }
        }
        text
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn keeps(&self) -> String {
        match (&self.inputs.left.shared, &self.inputs.right.shared) {
            (None, None) => "the rows of both sides".to_owned(),
            (None, Some(_)) => "the rows of the left side".to_owned(),
            (Some(_), None) => "the rows of the right side".to_owned(),
            (Some(_), Some(_)) => String::new(),
        }
    }

    fn shared_relations(&self) -> Vec<RelationId> {
        let shared = [&self.inputs.left, &self.inputs.right].into_iter().filter_map(|i| i.shared.as_ref());
        shared.map(|s| s.relation).collect()
    }

    fn encode(&self, encoder: &mut Encoder<'_>) -> Result<EncodedSpec> {
        EncodedSpec::of(self, encoder)
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Operator>> {
        let side = |side: Side| -> Result<Kept> {
            let input = self.inputs.of(side);
            Ok(match &input.shared {
                Some(shared) => Kept::Elsewhere(SharedSide::new(shared, context)?),
                None => Kept::Here(Box::new(JoinSide::new(input, *self.alone.of(side))?)),
            })
        };
        Ok(Box::new(HashJoin {
            sides: Sides { left: side(Side::Left)?, right: side(Side::Right)? },
            spec: self.clone(),
            probing: None,
            put_off: VecDeque::new(),
            saved_totals: Totals::default(),
            ending: None,
            hashes: Vec::new(),
        }))
    }
}

impl HashJoinSpec {
    fn kind(&self) -> &'static str {
        use Alone as A;
        match (self.alone.left, self.alone.right) {
            (A::Nothing, A::Nothing) => "inner",
            (A::NullExtended, A::Nothing) => "left",
            (A::Nothing, A::NullExtended) => "right",
            (A::NullExtended, A::NullExtended) => "full",
            (A::Semi, _) => "left semi",
            (_, A::Semi) => "right semi",
            (A::Anti, _) => "left anti",
            (A::NullAwareAnti, _) => "null-aware left anti",
            (_, A::Anti | A::NullAwareAnti) => "right anti",
            (A::Mark, _) => "left mark",
            (_, A::Mark) => "right mark",
        }
    }
}

/// A delta that is being joined with the other side.
struct Probing {
    side: Side,
    delta: Delta,
    keys: Vec<ArrayRef>,
    hashes: Vec<u64>,
    /// For each row of the delta, the id under which it was kept if it is a new one.
    kept: Vec<u32>,
    /// The row of the delta that comes next, and where its chain goes on, if it was interrupted.
    next_probe: usize,
    next_row: u32,
}

/// Where the rows of a side are.
enum Kept {
    /// In the join's own state.
    Here(Box<JoinSide>),
    /// In a relation's arrangement.
    Elsewhere(SharedSide),
}

impl Kept {
    fn own(&self) -> Option<&JoinSide> {
        match self {
            Kept::Here(side) => Some(side),
            Kept::Elsewhere(_) => None,
        }
    }

    fn own_mut(&mut self) -> Option<&mut JoinSide> {
        match self {
            Kept::Here(side) => Some(side),
            Kept::Elsewhere(_) => None,
        }
    }

    /// A row's weight; an arrangement keeps each instance as a row.
    #[inline]
    fn weight(&self, row: u32) -> i64 {
        self.own().map_or(1, |side| side.weight(row))
    }

    fn counts_partners(&self) -> bool {
        self.own().is_some_and(JoinSide::counts_partners)
    }

    fn gather(&self, columns: &[usize], rows: &[u32]) -> Result<Vec<ArrayRef>> {
        match self {
            Kept::Here(side) => Ok(columns.iter().map(|&column| side.gather(column, rows)).collect()),
            Kept::Elsewhere(shared) => shared.gather(columns, rows),
        }
    }

    /// From here on a shared side is as of an epoch.
    fn advance(&mut self, epoch: Epoch) {
        if let Kept::Elsewhere(shared) = self {
            shared.advance(epoch);
        }
    }
}

/// Where the totals of the right side are saved.
const TOTALS_TABLE: u32 = 2;

struct HashJoin {
    spec: HashJoinSpec,
    sides: Sides<Kept>,
    probing: Option<Probing>,
    /// Deltas of a shared side: they are joined at the end of the epoch, with all that the other side has by then.
    put_off: VecDeque<Delta>,
    /// The totals of the right side as they were last saved.
    saved_totals: Totals,
    /// The epoch that is being ended.
    ending: Option<Epoch>,
    hashes: Vec<u64>,
}

impl HashJoin {
    /// The side whose deltas are put off, if one is shared: ΔL ⋈ R(e-1) + L(e) ⋈ ΔR.
    fn put_off_side(&self) -> Option<Side> {
        [Side::Right, Side::Left].into_iter().find(|side| self.sides.of(*side).own().is_none())
    }

    /// What is saved of the right side beside its rows: what a null-aware join knows of it.
    fn right_totals(&self) -> Totals {
        let right = self.sides.right.own().filter(|_| self.spec.alone.left == Alone::NullAwareAnti);
        right.map(JoinSide::totals).unwrap_or_default()
    }

    /// Which rows may have partners: those without a null in their key, except where null equals null.
    fn may_match(&self, side: Side, delta: &Delta) -> Result<Option<BooleanArray>> {
        let mut mask: Option<BooleanArray> = None;
        for (&key, null_safe) in self.spec.inputs.of(side).keys.iter().zip(&self.spec.null_equals_null) {
            let column = &delta.columns()[key];
            if !null_safe && column.null_count() > 0 {
                let valid = arrow::compute::is_not_null(column)?;
                mask = Some(match mask {
                    None => valid,
                    Some(mask) => arrow::compute::and(&mask, &valid)?,
                });
            }
        }
        Ok(mask)
    }

    /// Counts the partners that pairs are, on the sides that count.
    fn count_partners(&mut self, probing: &Probing, matches: &Matches) {
        let (mine, other) = match probing.side {
            Side::Left => (&mut self.sides.left, &mut self.sides.right),
            Side::Right => (&mut self.sides.right, &mut self.sides.left),
        };
        for (&probe, &row) in matches.probes.iter().zip(&matches.rows) {
            let weight = other.weight(row);
            if let Some(other) = other.own_mut() {
                other.count_partners(row, probing.delta.weight(probe as usize));
            }
            let kept = probing.kept.get(probe as usize).copied().unwrap_or(NO_ROW);
            if let Some(mine) = mine.own_mut().filter(|_| kept != NO_ROW) {
                mine.count_partners(kept, weight);
            }
        }
    }

    /// Joins until all is done or the output is full.
    fn probe(&mut self, out: &mut Output) -> Result<Progress> {
        let Some(mut probing) = self.probing.take() else { return Ok(Progress::Done) };
        while probing.next_probe < probing.hashes.len() {
            if out.is_full() {
                self.probing = Some(probing);
                return Ok(Progress::More);
            }
            let matches = self.next_matches(&mut probing)?;
            self.emit(&probing, matches, out)?;
        }
        Ok(Progress::Done)
    }

    /// About a batch of pairs with equal hashes.
    fn next_matches(&mut self, probing: &mut Probing) -> Result<Matches> {
        let mut matches = Matches::default();
        let other = match self.sides.of_mut(probing.side.other()) {
            Kept::Here(other) => other,
            Kept::Elsewhere(shared) => {
                let (keys, hashes, from) = (&probing.keys, &probing.hashes, probing.next_probe);
                probing.next_probe = shared.probe(keys, hashes, from, OUTPUT_BATCH_ROWS, &mut matches)?;
                return Ok(matches);
            }
        };
        if probing.next_row != NO_ROW {
            other.follow(probing.next_probe as u32, &mut probing.next_row, OUTPUT_BATCH_ROWS, &mut matches);
            if probing.next_row != NO_ROW {
                return Ok(matches);
            }
            probing.next_probe += 1;
        }
        while probing.next_probe < probing.hashes.len() && matches.len() < OUTPUT_BATCH_ROWS {
            let to = probing.hashes.len().min(probing.next_probe + OUTPUT_BATCH_ROWS);
            let from = probing.next_probe;
            let (stopped_at, next_row) = other.probe(&probing.hashes[from..to], from, OUTPUT_BATCH_ROWS, &mut matches);
            probing.next_probe = stopped_at;
            probing.next_row = next_row;
            if next_row != NO_ROW {
                break;
            }
        }
        Ok(matches)
    }

    fn emit(&mut self, probing: &Probing, mut matches: Matches, out: &mut Output) -> Result<()> {
        if let Kept::Here(other) = self.sides.of(probing.side.other()) {
            other.verify(&probing.keys, &mut matches);
        }
        let known = match &self.spec.residual {
            Some(residual) => self.check(residual, probing, &mut matches, out)?,
            None => vec![],
        };
        if matches.is_empty() {
            return Ok(());
        }
        if self.sides.left.counts_partners() || self.sides.right.counts_partners() {
            self.count_partners(probing, &matches);
        }
        if !self.spec.emits_pairs {
            return Ok(());
        }
        let columns = self.columns(&self.spec.output, probing, &matches, &known)?;
        let batch = batch_of(self.spec.schema.clone(), columns, matches.len())?;
        out.emit(Delta::new(batch, self.weights(probing, &matches)));
        Ok(())
    }

    /// Drops pairs that do not meet the residual condition; gives the columns that it needed, of the pairs that do.
    fn check(
        &self,
        residual: &Residual,
        probing: &Probing,
        matches: &mut Matches,
        out: &mut Output,
    ) -> Result<Vec<(JoinColumn, ArrayRef)>> {
        let mut columns = self.columns(&residual.columns, probing, matches, &[])?;
        let batch = batch_of(residual.schema.clone(), columns.clone(), matches.len())?;
        let weights = || self.weights(probing, matches);
        let mask = condition(&residual.condition, &batch, weights, &mut out.errors)?;
        if mask.true_count() < matches.len() {
            matches.retain(&mask.values().iter().collect::<Vec<_>>());
            if self.spec.emits_pairs {
                columns = columns.iter().map(|c| arrow::compute::filter(c, &mask)).collect::<Result<_, _>>()?;
            }
        }
        Ok(residual.columns.iter().copied().zip(columns).collect())
    }

    /// Columns of the pairs; those in `known` are there already.
    fn columns(
        &self,
        wanted: &[JoinColumn],
        probing: &Probing,
        matches: &Matches,
        known: &[(JoinColumn, ArrayRef)],
    ) -> Result<Vec<ArrayRef>> {
        let is_each_once = matches.len() == probing.delta.n_rows()
            && matches.probes.iter().enumerate().all(|(i, &probe)| probe as usize == i);
        let probes = UInt32Array::new(ScalarBuffer::from(matches.probes.clone()), None);
        let other = self.sides.of(probing.side.other());
        // All of the other side's at once: they may have to be read.
        let is_others = |wanted: &JoinColumn| match *wanted {
            JoinColumn::Of(side, column) if side != probing.side => Some(column),
            _ => None,
        };
        let is_known = |wanted: &JoinColumn| known.iter().any(|(c, _)| c == wanted);
        let gathered: Vec<usize> = wanted.iter().filter(|wanted| !is_known(wanted)).filter_map(is_others).collect();
        let mut gathered = other.gather(&gathered, &matches.rows)?.into_iter();
        let mut column_of = |&wanted: &JoinColumn| {
            if let Some((_, column)) = known.iter().find(|(c, _)| *c == wanted) {
                return Ok(column.clone());
            }
            match wanted {
                JoinColumn::Of(side, column) if side == probing.side => {
                    let column = &probing.delta.columns()[column];
                    if is_each_once { Ok(column.clone()) } else { Ok(arrow::compute::take(column, &probes, None)?) }
                }
                JoinColumn::Of(_, _) => gathered.next().ok_or_else(|| Error::internal("a column was not gathered")),
                JoinColumn::Mark => Err(Error::internal("a pair has no mark")),
            }
        };
        wanted.iter().map(&mut column_of).collect()
    }

    /// Emits rows of a side without the other side's columns.
    fn emit_alone(&self, side: Side, decided: &alone::Decided, out: &mut Output) -> Result<()> {
        let state = self.sides.of(side);
        for from in (0..decided.rows.len()).step_by(OUTPUT_BATCH_ROWS) {
            let to = decided.rows.len().min(from + OUTPUT_BATCH_ROWS);
            let rows = &decided.rows[from..to];
            let columns = self.spec.output.iter().zip(self.spec.schema.fields()).map(|(column, field)| {
                Ok(match *column {
                    JoinColumn::Of(of, column) if of == side => state.gather(&[column], rows)?.remove(0),
                    JoinColumn::Of(_, _) => arrow::array::new_null_array(field.data_type(), rows.len()),
                    JoinColumn::Mark => Arc::new(BooleanArray::from(vec![decided.has_partner; rows.len()])),
                })
            });
            let columns = columns.collect::<Result<_>>()?;
            let batch = batch_of(self.spec.schema.clone(), columns, rows.len())?;
            out.emit(Delta::new(batch, Some(decided.weights[from..to].to_vec().into())));
        }
        Ok(())
    }

    fn weights(&self, probing: &Probing, matches: &Matches) -> Option<ScalarBuffer<i64>> {
        let other = self.sides.of(probing.side.other());
        if probing.delta.weights().is_none() && other.own().is_none_or(JoinSide::all_once) {
            return None;
        }
        let pairs = matches.probes.iter().zip(&matches.rows);
        Some(pairs.map(|(&p, &r)| probing.delta.weight(p as usize) * other.weight(r)).collect())
    }

    /// Keeps a delta and joins it with what is there on the other side.
    fn join(&mut self, side: Side, delta: Delta, out: &mut Output) -> Result<Progress> {
        let may_match = self.may_match(side, &delta)?;
        let keeps_all = self.spec.alone.of(side).needs_unmatched() || self.spec.alone.left == Alone::NullAwareAnti;
        let mut delta = delta;
        if let Some(mask) = may_match.as_ref().filter(|_| !keeps_all) {
            delta = delta.filter(mask)?;
        }
        if delta.is_empty() {
            return Ok(Progress::Done);
        }
        let key_columns = &self.spec.inputs.of(side).keys;
        let keys_of = |delta: &Delta| key_columns.iter().map(|&k| delta.columns()[k].clone()).collect::<Vec<_>>();
        let mut keys = keys_of(&delta);
        let mut hashes = std::mem::take(&mut self.hashes);
        hash_columns(&keys, delta.n_rows(), &mut hashes);
        let mut own = self.sides.of_mut(side).own_mut();
        let mut kept = own.as_mut().map_or(Ok(vec![]), |own| own.apply(&delta, &hashes))?;
        if let Some(mask) = may_match.filter(|_| keeps_all) {
            // Rows with a null key are kept, and have no partners.
            if let Some(own) = own {
                own.note_null_keys(&delta, &mask, &kept);
            }
            let rows: Vec<u32> = (0..delta.n_rows() as u32).filter(|&i| mask.value(i as usize)).collect();
            hashes = rows.iter().map(|&i| hashes[i as usize]).collect();
            if !kept.is_empty() {
                kept = rows.iter().map(|&i| kept[i as usize]).collect();
            }
            delta = delta.take(&UInt32Array::from(rows))?;
            keys = keys_of(&delta);
        }
        self.probing = Some(Probing { side, delta, keys, hashes, kept, next_probe: 0, next_row: NO_ROW });
        self.probe(out)
    }

    /// Joins what was put off, then decides what depends on the whole of the epoch.
    fn end(&mut self, epoch: Epoch, out: &mut Output) -> Result<Progress> {
        let mut progress = self.probe(out)?;
        if let Some(side) = self.put_off_side() {
            while progress == Progress::Done
                && let Some(delta) = self.put_off.pop_front()
            {
                progress = self.join(side, delta, out)?;
            }
            if progress == Progress::More {
                return Ok(Progress::More);
            }
            self.sides.of_mut(side).advance(epoch);
        }
        let right = self.sides.right.own().map(JoinSide::totals).unwrap_or_default();
        for side in [Side::Left, Side::Right] {
            let Some(state) = self.sides.of_mut(side).own_mut() else { continue };
            state.end_epoch()?;
            for decided in state.decide(right) {
                self.emit_alone(side, &decided, out)?;
            }
            if let Some(state) = self.sides.of_mut(side).own_mut() {
                state.remove_dead();
            }
        }
        self.ending = None;
        Ok(Progress::Done)
    }
}

impl Operator for HashJoin {
    fn push(&mut self, port: Port, delta: Delta, out: &mut Output) -> Result<Progress> {
        let side = Side::of_port(port)?;
        if self.put_off_side() == Some(side) {
            self.put_off.push_back(delta);
            return Ok(Progress::Done);
        }
        self.join(side, delta, out)
    }

    fn end_epoch(&mut self, header: &EpochHeader, out: &mut Output) -> Result<Progress> {
        self.ending = Some(header.epoch);
        if let Some(side) = self.put_off_side() {
            self.sides.of_mut(side.other()).advance(header.epoch);
        }
        self.end(header.epoch, out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        match self.ending {
            Some(epoch) => self.end(epoch, out),
            None => self.probe(out),
        }
    }

    /// A table for each side that keeps its rows here; table 2 tells what a null-aware join knows of its right side.
    fn save(&self, partitioned_by: &[Vec<usize>], saved: &mut StateChanges) -> Result<()> {
        debug_assert!(self.put_off.is_empty() && self.probing.is_none(), "state is saved between epochs");
        for side in [Side::Left, Side::Right] {
            if let Some(state) = self.sides.of(side).own() {
                state.save(side.port() as u32, &partitioned_by[side.port()], saved)?;
            }
        }
        self.right_totals().save(Totals::default(), TOTALS_TABLE, saved)
    }

    fn track_changes(&mut self) {
        for side in [Side::Left, Side::Right] {
            self.sides.of_mut(side).own_mut().into_iter().for_each(JoinSide::track_changes);
        }
    }

    fn save_changes(&mut self, partitioned_by: &[Vec<usize>], changes: &mut StateChanges) -> Result<Progress> {
        debug_assert!(self.put_off.is_empty() && self.probing.is_none(), "state is saved between epochs");
        for side in [Side::Left, Side::Right] {
            // One that has said all has nothing to say then.
            if let Some(state) = self.sides.of_mut(side).own_mut()
                && state.save_changes(side.port() as u32, &partitioned_by[side.port()], changes)? == Progress::More
            {
                return Ok(Progress::More);
            }
        }
        let totals = self.right_totals();
        totals.save(std::mem::replace(&mut self.saved_totals, totals), TOTALS_TABLE, changes)?;
        Ok(Progress::Done)
    }

    fn restore(&mut self, saved: &mut SavedState) -> Result<()> {
        let right = Totals::restored(TOTALS_TABLE, saved)?;
        self.saved_totals = right;
        for side in [Side::Left, Side::Right] {
            if let Some(state) = self.sides.of_mut(side).own_mut() {
                state.restore(side.port() as u32, saved, right)?;
            }
        }
        if let Some(state) = self.sides.right.own_mut().filter(|_| self.spec.alone.left == Alone::NullAwareAnti) {
            state.restore_totals(right);
        }
        Ok(())
    }

    fn restored_parts(&self, partitions: &Range<usize>, n_wanted: usize) -> Vec<Range<usize>> {
        // What a null-aware join knows of its right side is in one of them, and counts for all rows.
        if self.spec.alone.left == Alone::NullAwareAnti {
            return vec![partitions.clone()];
        }
        in_parts(partitions, n_wanted)
    }

    fn n_bytes(&self) -> usize {
        let sides = [&self.sides.left, &self.sides.right].into_iter().filter_map(Kept::own);
        sides.map(JoinSide::n_bytes).sum::<usize>() + self.put_off.iter().map(Delta::values_bytes).sum::<usize>()
    }

    fn n_entries(&self) -> usize {
        [&self.sides.left, &self.sides.right].into_iter().filter_map(Kept::own).map(JoinSide::len).sum()
    }
}

#[cfg(test)]
mod tests;
