//! State larger than memory: an operator in parts, by hash partition, of which only some are in memory.
//!
//! An operator is built as it is, and runs as one, until memory runs short. Then its state is saved, part by part, into a
//! [`ColdStore`], and from there on each part is an operator of its own, for some of the worker's partitions:
//!
//! ```text
//!    one operator ──▶ part 0 (in memory)   part 1 (away)   part 2 (away) ...      a part that is away:
//!                                                                                  changes │ changes │ ...  │ queued rows
//! ```
//!
//! Rows of a part that is away, or of any part while memory is short, wait until the end of the epoch; then one part after
//! the other is read back, takes its rows, and ends the epoch. Whenever memory is short the part that was used longest ago
//! goes. So memory is what memory allows and one part, and an epoch that touches all parts reads all state once: the more
//! rows an epoch has, the less that costs for each.
//!
//! What a part writes when it goes is what has changed since it was read ([`Operator::save_changes`]); when that is more
//! than the state itself, all of it is written anew. Whoever asks the whole for its changes gets those of parts that are
//! away too.

mod part;
pub(crate) mod queue;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use millstream_state::spilled::Spill;
use millstream_state::{Arrangement, ColdStore, SavedState, StateChanges};
use millstream_types::hash::{hash_columns, partitions_of, worker_of};
use millstream_types::{Delta, Epoch, EpochHeader, Error, Result};

use crate::dataflow::{Edge, RelationId};
use crate::operator::{Arrangements, BuildContext, Operator, OperatorSpec, Output, Port, Progress};
use part::{Part, Saver};

/// Parts of an operator on a worker at most. A part is read as a whole, and each costs some time where an epoch brings few
/// rows.
const N_PARTS_MAX: usize = if cfg!(test) { 32 } else { 64 };
/// State of no more bytes is not worth to be put away.
const SPILLED_BYTES_MIN: usize = if cfg!(test) { 0 } else { 1 << 14 };

/// Rows that waited are pushed so many bytes at a time, or what was put away together: each call costs something.
const PUSHED_BYTES: usize = 1 << 18;

/// Bytes of what is handed over in a save that stay in memory in any case.
const SAVED_BYTES_MIN: usize = if cfg!(test) { 500 } else { 1 << 20 };

/// Knows how much memory there is.
pub trait MemoryWatch {
    /// Takes note of what the operator has in memory now, and how much of that it could put away at once.
    fn report(&self, n_bytes: usize, n_spillable_bytes: usize);

    /// Takes note of [`Operator::n_whole_bytes`].
    fn note_whole(&self, _n_bytes: usize) {}

    /// How many bytes too many are in use, by this operator and by all that share its limits.
    fn excess(&self) -> usize;

    /// Whether so many bytes more are likely to be too many.
    fn is_short_for(&self, _n_bytes: usize) -> bool {
        false
    }

    /// Whether something of the same dataflow was put away. Then epochs may bring more than memory has room for.
    fn is_spilling(&self) -> bool {
        false
    }
}

/// Where an operator may put its state, and when.
#[derive(Clone)]
pub struct SpillTo {
    /// Takes what there is no memory for.
    pub store: Arc<dyn ColdStore>,
    /// Says when that is.
    pub watch: Rc<dyn MemoryWatch>,
    /// Where memory is short, rows that wait are put away when those of all parts take so many bytes: each part's by
    /// themselves, so the more the better.
    pub queued_bytes_max: usize,
    /// It is known from the start that there will be too much for memory.
    pub starts_in_parts: bool,
}

/// Builds an operator that puts its state away when memory runs short, if its rows are partitioned by hash.
///
/// # Errors
/// As [`OperatorSpec::build`].
pub fn build(
    spec: &Arc<dyn OperatorSpec>,
    inputs: &[Edge],
    context: BuildContext<'_>,
    spill_to: SpillTo,
) -> Result<Box<dyn Operator>> {
    let partitioned_by: Vec<Vec<usize>> = inputs.iter().map(|edge| edge.exchange.partitioned_by().to_vec()).collect();
    let n_parts = N_PARTS_MAX.min(millstream_types::hash::N_PARTITIONS / context.n_workers);
    let is_partitioned = !partitioned_by.is_empty() && partitioned_by.iter().all(|columns| !columns.is_empty());
    if spec.is_stateless() || !is_partitioned || n_parts < 2 {
        return spec.build(context);
    }
    let shared = spec.shared_relations().into_iter();
    let shared = shared.filter_map(|id| Some((id, context.arrangements.arrangement(id)?))).collect();
    let plan = Plan {
        spec: Arc::clone(spec),
        partitioned_by,
        worker: context.worker,
        n_workers: context.n_workers,
        n_parts,
        shared: Shared(shared),
        store: spill_to.store,
    };
    let state = if spill_to.starts_in_parts {
        State::Parts((0..n_parts).map(|i| Part::new(plan.partitions(i))).collect())
    } else {
        State::Whole(spec.build(context)?)
    };
    Ok(Box::new(Spilling {
        plan,
        watch: spill_to.watch,
        queued_bytes_max: spill_to.queued_bytes_max,
        state,
        is_tracked: false,
        is_all_unsaved: true,
        n_saved_parts: 0,
        saved_away: None,
        is_whole_touched: false,
        ended: context.start,
        n_uses: 0,
        backlog: VecDeque::new(),
        busy: None,
        ending: None,
    }))
}

/// How parts are made.
struct Plan {
    spec: Arc<dyn OperatorSpec>,
    partitioned_by: Vec<Vec<usize>>,
    worker: usize,
    n_workers: usize,
    n_parts: usize,
    shared: Shared,
    store: Arc<dyn ColdStore>,
}

impl Plan {
    /// A part is to the operator what a worker is, of so many times as many.
    fn partitions(&self, part: usize) -> Range<usize> {
        partitions_of(self.worker * self.n_parts + part, self.n_workers * self.n_parts)
    }

    fn ranges(&self) -> Vec<Range<usize>> {
        (0..self.n_parts).map(|part| self.partitions(part)).collect()
    }

    fn build(&self, part: usize, ended: Epoch) -> Result<Box<dyn Operator>> {
        let (worker, n_workers) = (self.worker * self.n_parts + part, self.n_workers * self.n_parts);
        self.spec.build(BuildContext { worker, n_workers, start: ended, arrangements: &self.shared })
    }

    fn saver(&self) -> Saver<'_> {
        Saver { store: &self.store, partitioned_by: &self.partitioned_by }
    }

    /// The rows of a delta by part, where there are any.
    fn split(&self, port: Port, delta: &Delta) -> Result<Vec<(usize, Delta)>> {
        let columns = self.partitioned_by.get(port).ok_or_else(|| Error::internal("an operator has no such port"))?;
        let keys: Vec<ArrayRef> = columns.iter().map(|&c| Arc::clone(&delta.columns()[c])).collect();
        let mut hashes = Vec::new();
        hash_columns(&keys, delta.n_rows(), &mut hashes);
        let first = self.worker * self.n_parts;
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); self.n_parts];
        for (i, &hash) in (0..).zip(&hashes) {
            let part = worker_of(hash, self.n_workers * self.n_parts).checked_sub(first);
            let rows = part.and_then(|part| rows.get_mut(part));
            rows.ok_or_else(|| Error::internal("a row of another worker's partition"))?.push(i);
        }
        let of_parts = rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
        of_parts.map(|(part, rows)| Ok((part, delta.take(&UInt32Array::from(rows))?))).collect()
    }
}

/// The relations that an operator reads itself.
struct Shared(HashMap<RelationId, Rc<RefCell<Arrangement>>>);

impl Arrangements for Shared {
    fn arrangement(&self, relation: RelationId) -> Option<Rc<RefCell<Arrangement>>> {
        self.0.get(&relation).cloned()
    }
}

enum State {
    Whole(Box<dyn Operator>),
    Parts(Vec<Part>),
}

/// An epoch that is being ended.
struct Ending {
    header: EpochHeader,
    /// Parts that have still to do so: those in memory come first, so that they need not be read again.
    todo: VecDeque<usize>,
    /// The part that is at it, and what comes next there.
    current: Option<(usize, Step)>,
}

#[derive(Clone, Copy)]
enum Step {
    TakeQueued,
    End,
    Ended,
}

struct Spilling {
    plan: Plan,
    watch: Rc<dyn MemoryWatch>,
    queued_bytes_max: usize,
    state: State,
    /// Somebody asks for the changes of the whole.
    is_tracked: bool,
    /// The whole was never asked for its changes, nor restored.
    is_all_unsaved: bool,
    /// Parts that have said all in the save that is under way.
    n_saved_parts: usize,
    /// Takes what the operator as a whole has still to say in the save that is under way.
    saved_away: Option<Spill>,
    /// The whole has taken rows since the last epoch that it has ended, so it cannot be put away.
    is_whole_touched: bool,
    /// The last epoch that was ended, or the start.
    ended: Epoch,
    /// Counts uses of parts, to tell which was used last.
    n_uses: u64,
    /// Rows of parts in memory that are to be pushed now.
    backlog: VecDeque<(usize, Port, Delta)>,
    /// The part that has put off work.
    busy: Option<usize>,
    ending: Option<Ending>,
}

/// What the parts are, for what there is no other way to get at them.
fn parts_of(state: &mut State) -> Result<&mut Vec<Part>> {
    match state {
        State::Parts(parts) => Ok(parts),
        State::Whole(_) => Err(Error::internal("an operator that is not in parts")),
    }
}

/// 53200: the state does not fit into memory, and there is no other place for it.
fn not_spilled(error: &Error) -> Error {
    Error::out_of_memory("its state does not fit into memory and could not be spilled").with_detail(error.message())
}

impl Spilling {
    /// Puts the state of the one operator away, in parts.
    fn split(&mut self) -> Result<()> {
        let State::Whole(whole) = &mut self.state else { return Ok(()) };
        let saver = self.plan.saver();
        let ranges = self.plan.ranges();
        let unsaved = if self.is_tracked {
            Some(saver.put(&ranges, |changes| saver.changes(&mut **whole, changes))?)
        } else {
            None
        };
        let images = match &unsaved {
            Some(unsaved) if self.is_all_unsaved => unsaved.clone(),
            _ => saver.put(&ranges, |changes| whole.save(saver.partitioned_by, changes))?,
        };
        let mut unsaved = unsaved.into_iter().flatten();
        let parts = ranges.into_iter().zip(images).map(|(range, image)| {
            let mut part = Part::new(range);
            part.set_image(image);
            part.unsaved.extend(unsaved.next().filter(|changes| !changes.is_empty()));
            part
        });
        self.state = State::Parts(parts.collect());
        Ok(())
    }

    /// Does what there is to do, until the output is full.
    fn go_on(&mut self, out: &mut Output) -> Result<Progress> {
        loop {
            if let Some(busy) = self.busy {
                if parts_of(&mut self.state)?[busy].running()?.resume(out)? == Progress::More {
                    return Ok(Progress::More);
                }
                self.busy = None;
            }
            if out.is_full() {
                return Ok(Progress::More);
            }
            if let Some((part, port, delta)) = self.backlog.pop_front() {
                self.push_to(part, port, delta, out)?;
                continue;
            }
            let Some(ending) = &mut self.ending else { return Ok(Progress::Done) };
            let Some((part, step)) = ending.current else {
                if self.next_part()? {
                    continue;
                }
                return Ok(Progress::Done);
            };
            match step {
                Step::TakeQueued => match parts_of(&mut self.state)?[part].queue.pop(PUSHED_BYTES)? {
                    Some((port, delta)) => self.push_to(part, port, delta, out)?,
                    None => ending.current = Some((part, Step::End)),
                },
                Step::End => {
                    ending.current = Some((part, Step::Ended));
                    let running = parts_of(&mut self.state)?[part].running()?;
                    if running.end_epoch(&ending.header, out)? == Progress::More {
                        self.busy = Some(part);
                    }
                }
                Step::Ended => {
                    ending.current = None;
                    let part = &mut parts_of(&mut self.state)?[part];
                    if part.is_touched {
                        self.n_uses += 1;
                        part.note_ended(self.n_uses);
                        self.make_room()?;
                        // Others get their turn.
                        return Ok(Progress::More);
                    }
                }
            }
        }
    }

    fn push_to(&mut self, part: usize, port: Port, delta: Delta, out: &mut Output) -> Result<()> {
        let part_state = &mut parts_of(&mut self.state)?[part];
        part_state.is_touched = true;
        if part_state.running()?.push(port, delta, out)? == Progress::More {
            self.busy = Some(part);
        }
        Ok(())
    }

    /// Goes on to the next part that has something to do at the end of the epoch; returns whether there is one.
    fn next_part(&mut self) -> Result<bool> {
        let Some(ending) = &mut self.ending else { return Ok(false) };
        while let Some(next) = ending.todo.pop_front() {
            let part = &mut parts_of(&mut self.state)?[next];
            if part.is_away() && part.queue.is_empty() {
                continue;
            }
            if part.is_away() {
                part.load(|| self.plan.build(next, self.ended))?;
            }
            ending.current = Some((next, Step::TakeQueued));
            return Ok(true);
        }
        self.ended = ending.header.epoch;
        self.ending = None;
        Ok(false)
    }

    /// Puts parts away that have ended the epoch, as long as too much memory is in use.
    fn make_room(&mut self) -> Result<()> {
        self.watch.report(self.n_bytes(), self.n_spillable_bytes());
        let mut excess = self.watch.excess();
        if let State::Whole(whole) = &self.state {
            let is_short = excess > 0 || self.watch.is_spilling();
            if is_short && whole.n_bytes() > SPILLED_BYTES_MIN {
                self.split().map_err(|e| not_spilled(&e))?;
                self.watch.report(0, 0);
            }
            self.watch.note_whole(self.n_whole_bytes());
            return Ok(());
        }
        if excess == 0 {
            return Ok(());
        }
        let (saver, is_tracked) = (self.plan.saver(), self.is_tracked);
        let parts = parts_of(&mut self.state)?;
        let mut ended: Vec<usize> = (0..parts.len()).filter(|&i| !parts[i].is_away() && !parts[i].is_touched).collect();
        ended.sort_unstable_by_key(|&i| parts[i].used);
        for i in ended {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(parts[i].n_bytes.max(1));
            parts[i].put_away(&saver, is_tracked).map_err(|e| not_spilled(&e))?;
        }
        self.watch.report(self.n_bytes(), self.n_spillable_bytes());
        Ok(())
    }

    /// Nothing was pushed since an epoch was ended.
    fn is_between_epochs(&self) -> bool {
        self.ending.is_none()
            && match &self.state {
                State::Whole(_) => !self.is_whole_touched,
                State::Parts(_) => self.busy.is_none() && self.backlog.is_empty(),
            }
    }

    /// After the one operator has ended an epoch.
    fn note_ended(&mut self, progress: Progress) -> Result<Progress> {
        if progress == Progress::Done
            && let Some(ending) = self.ending.take()
        {
            self.ended = ending.header.epoch;
            self.is_whole_touched = false;
            self.make_room()?;
        }
        Ok(progress)
    }
}

impl Operator for Spilling {
    fn push(&mut self, port: Port, delta: Delta, out: &mut Output) -> Result<Progress> {
        let parts = match &mut self.state {
            State::Whole(whole) => {
                self.is_whole_touched = true;
                return whole.push(port, delta, out);
            }
            State::Parts(parts) => parts,
        };
        let is_short = self.watch.excess() > 0;
        for (part, delta) in self.plan.split(port, &delta)? {
            if parts[part].is_away() || is_short {
                parts[part].queue.push(port, delta);
            } else {
                self.backlog.push_back((part, port, delta));
            }
        }
        if is_short && parts.iter().map(|part| part.queue.n_bytes()).sum::<usize>() > self.queued_bytes_max {
            let put_away = |part: &mut Part| part.queue.put_away(&self.plan.store);
            parts.iter_mut().try_for_each(put_away).map_err(|e| not_spilled(&e))?;
        }
        self.go_on(out)
    }

    fn end_epoch(&mut self, header: &EpochHeader, out: &mut Output) -> Result<Progress> {
        let mut ending = Ending { header: header.clone(), todo: VecDeque::new(), current: None };
        match &mut self.state {
            State::Whole(whole) => {
                self.ending = Some(ending);
                let progress = whole.end_epoch(header, out)?;
                self.note_ended(progress)
            }
            State::Parts(parts) => {
                let (away, here) = (0..parts.len()).partition::<Vec<usize>, _>(|&i| parts[i].is_away());
                ending.todo.extend(here.into_iter().chain(away));
                self.ending = Some(ending);
                self.go_on(out)
            }
        }
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        match &mut self.state {
            State::Whole(whole) => {
                let progress = whole.resume(out)?;
                self.note_ended(progress)
            }
            State::Parts(_) => self.go_on(out),
        }
    }

    fn save(&self, partitioned_by: &[Vec<usize>], saved: &mut StateChanges) -> Result<()> {
        match &self.state {
            State::Whole(whole) => whole.save(partitioned_by, saved),
            State::Parts(parts) => parts.iter().try_for_each(|part| part.save(partitioned_by, saved)),
        }
    }

    fn track_changes(&mut self) {
        if std::mem::replace(&mut self.is_tracked, true) {
            return;
        }
        match &mut self.state {
            State::Whole(whole) => whole.track_changes(),
            State::Parts(parts) if self.is_all_unsaved => parts.iter_mut().for_each(Part::track_changes),
            // What was restored is saved, and parts note their changes in any case.
            State::Parts(_) => {}
        }
    }

    fn save_changes(&mut self, partitioned_by: &[Vec<usize>], changes: &mut StateChanges) -> Result<Progress> {
        self.is_all_unsaved = false;
        // What is handed over stays until it is written: where there is no memory for it, it is put away.
        let n_bytes = changes.n_bytes();
        let is_short = n_bytes >= SAVED_BYTES_MIN && self.watch.is_short_for(n_bytes);
        match &mut self.state {
            State::Whole(whole) => {
                if is_short && self.saved_away.is_none() {
                    self.saved_away = Some(self.plan.saver().begin(&self.plan.ranges()));
                }
                let said = self.saved_away.as_mut().map_or(&mut *changes, Spill::changes);
                let progress = whole.save_changes(partitioned_by, said)?;
                if progress == Progress::Done
                    && let Some(away) = self.saved_away.take()
                {
                    let mut parts = away.finish()?.into_iter().filter(|part| !part.is_empty());
                    parts.try_for_each(|part| changes.add_away(vec![part]))?;
                }
                Ok(progress)
            }
            State::Parts(parts) => {
                let saver = self.plan.saver();
                if let Some(part) = parts.get_mut(self.n_saved_parts) {
                    if part.take_changes(&saver, is_short, changes)? == Progress::Done {
                        self.n_saved_parts += 1;
                    }
                    return Ok(Progress::More);
                }
                self.n_saved_parts = 0;
                Ok(Progress::Done)
            }
        }
    }

    fn restore(&mut self, saved: &mut SavedState) -> Result<()> {
        self.is_all_unsaved = false;
        if let State::Parts(_) = &self.state {
            let (worker, n_workers) = (self.plan.worker, self.plan.n_workers);
            let arrangements = &self.plan.shared;
            self.state = State::Whole(self.plan.spec.build(BuildContext {
                worker,
                n_workers,
                start: self.ended,
                arrangements,
            })?);
        }
        match &mut self.state {
            State::Whole(whole) => whole.restore(saved),
            State::Parts(_) => Ok(()),
        }
    }

    fn restored_parts(&self, partitions: &Range<usize>, n_wanted: usize) -> Vec<Range<usize>> {
        match &self.state {
            State::Whole(whole) => whole.restored_parts(partitions, n_wanted),
            State::Parts(parts) => (0..parts.len()).map(|part| self.plan.partitions(part)).collect(),
        }
    }

    fn restore_part(&mut self, part: usize, saved: &mut SavedState) -> Result<()> {
        self.is_all_unsaved = false;
        if let State::Whole(whole) = &mut self.state {
            return whole.restore_part(part, saved);
        }
        let operator = self.plan.build(part, self.ended)?;
        self.n_uses += 1;
        parts_of(&mut self.state)?[part].restore(operator, saved, self.n_uses)?;
        self.make_room()
    }

    fn relieve(&mut self) -> Result<()> {
        if self.is_between_epochs() { self.make_room() } else { Ok(()) }
    }

    fn n_bytes(&self) -> usize {
        match &self.state {
            State::Whole(whole) => whole.n_bytes(),
            State::Parts(parts) => {
                let backlog: usize = self.backlog.iter().map(|(_, _, delta)| delta.values_bytes()).sum();
                parts.iter().map(Part::n_bytes_here).sum::<usize>() + backlog
            }
        }
    }

    fn n_spillable_bytes(&self) -> usize {
        match &self.state {
            State::Whole(whole) if self.is_between_epochs() => whole.n_bytes(),
            State::Parts(parts) => parts.iter().map(Part::n_bytes_spillable).sum(),
            State::Whole(_) => 0,
        }
    }

    fn n_spilled_bytes(&self) -> usize {
        match &self.state {
            State::Whole(_) => 0,
            State::Parts(parts) => parts.iter().map(Part::n_bytes_away).sum(),
        }
    }

    fn n_whole_bytes(&self) -> usize {
        match &self.state {
            State::Whole(whole) => whole.n_bytes(),
            State::Parts(_) => 0,
        }
    }

    fn n_entries(&self) -> usize {
        match &self.state {
            State::Whole(whole) => whole.n_entries(),
            State::Parts(parts) => parts.iter().map(Part::n_entries).sum(),
        }
    }
}
