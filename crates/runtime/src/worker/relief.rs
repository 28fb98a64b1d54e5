//! Gives memory back: puts rows away that lie in arrangements, and asks operators to put their state away.
//!
//! Operators that work put state away by themselves, at the end of an epoch. This is about all others, on this worker.

use std::time::{Duration, Instant};

use millstream_operators::RelationId;

use super::state::WorkerState;
use crate::relation::{Part, Relation};

/// How often it is looked whether memory is short.
const LOOKED_EVERY: Duration = Duration::from_millis(5);
/// How long a worker that has nothing to do sleeps at most while memory is short.
pub(super) const ASLEEP_FOR: Duration = Duration::from_millis(50);
/// Bytes that are put away in one turn.
const TURN_BYTES: usize = 2 << 20;
/// How long nothing is put away after that has failed.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// How often operators that may have nothing to do are asked to put their state away.
const ASKED_EVERY: Duration = Duration::from_millis(50);

/// When memory was looked at.
#[derive(Default)]
pub(super) struct ReliefState {
    looked: Option<Instant>,
    asked: Option<Instant>,
    failed: Option<Instant>,
    was_short: bool,
    /// The relation whose rows go first next time.
    next: Option<RelationId>,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Relieved {
    /// There is enough memory.
    Enough,
    /// Memory is short, and there is no more that this worker could do.
    Short,
    /// There is more to put away.
    More,
}

impl WorkerState {
    /// Puts state away for a part of a turn, if memory is short.
    pub(super) fn relieve(&mut self) -> Relieved {
        if self.spill.is_none() {
            return Relieved::Enough;
        }
        let now = Instant::now();
        if self.relief.looked.is_some_and(|looked| now.duration_since(looked) < LOOKED_EVERY) {
            return if self.relief.was_short { Relieved::Short } else { Relieved::Enough };
        }
        self.relief.looked = Some(now);
        let asks = self.relief.asked.is_none_or(|asked| now.duration_since(asked) >= ASKED_EVERY);
        let mut is_short = false;
        for installed in self.dataflows.values() {
            let context = &installed.built.context;
            if context.account.excess() > 0 && !context.failure.has_failed() {
                is_short = true;
                if asks {
                    context.relieve();
                    self.relief.asked = Some(now);
                }
            }
        }
        self.relief.was_short = is_short;
        let mut short: Vec<RelationId> = self.relations.iter().filter(|(_, r)| is_due(r)).map(|(&id, _)| id).collect();
        if short.is_empty() {
            return if is_short { Relieved::Short } else { Relieved::Enough };
        }
        if self.relief.failed.is_some_and(|failed| now.duration_since(failed) < FAILED_FOR) {
            return Relieved::Short;
        }
        self.relief.was_short = true;
        short.sort_unstable();
        let first = short.iter().position(|id| self.relief.next.is_some_and(|next| *id >= next)).unwrap_or(0);
        short.rotate_left(first);
        let mut n_freed = 0;
        for &id in &short {
            let Some(relation) = self.relations.get_mut(&id) else { continue };
            let excess = relation.shared.account.excess().min(TURN_BYTES - n_freed);
            let Some(arrangement) = relation.arrangement() else { continue };
            let spilled = arrangement.borrow_mut().spill(excess);
            match spilled {
                Ok(n_bytes) => n_freed += n_bytes,
                Err(error) => {
                    tracing::warn!(relation = %id, %error, "state cannot be spilled");
                    self.relief.failed = Some(now);
                }
            }
            self.measure(id);
            self.relief.next = Some(RelationId(id.0 + 1));
            if n_freed >= TURN_BYTES || self.relief.failed == Some(now) {
                break;
            }
        }
        if n_freed > 0 {
            // Whoever waits for memory need not wait longer than that takes.
            self.relief.looked = None;
            return Relieved::More;
        }
        Relieved::Short
    }

    /// Reports what a relation's rows have in use.
    fn measure(&mut self, id: RelationId) {
        let Some(relation) = self.relations.get_mut(&id) else { return };
        match (&relation.part, self.dataflows.get(&id)) {
            (Part::View(arrangement), Some(installed)) => {
                let arrangement = arrangement.borrow();
                let (n_bytes, spilled) = (arrangement.n_bytes(), arrangement.n_bytes_spilled());
                installed.built.root_memory.set_all(n_bytes, arrangement.n_bytes_spillable(), spilled);
                relation.shared.note_size(self.index, n_bytes, spilled);
            }
            _ => relation.measure(self.index),
        }
    }
}

/// Whether rows of a relation are to go. After an attempt that has failed there is another one: a disk may have room again.
fn is_due(relation: &Relation) -> bool {
    relation.shared.account.excess() > 0
        && relation.arrangement().is_some_and(|arrangement| arrangement.borrow().n_bytes_to_spill() > 0)
}
