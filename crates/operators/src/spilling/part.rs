//! One part of an operator: in memory, or away.

use std::ops::Range;
use std::sync::Arc;

use millstream_state::changes::sum;
use millstream_state::spilled::{Spill, spill, state_of};
use millstream_state::{ColdStore, SavedState, SpilledChanges, StateChanges};
use millstream_types::{Error, Result};

use super::queue::Queue;
use crate::operator::{Operator, Progress};

/// What has changed is written behind what there was until it takes more than that and so much.
const REWRITTEN_BYTES_MIN: usize = if cfg!(test) { 200 } else { 1 << 16 };

/// Puts away what operators say of their state.
pub(super) struct Saver<'a> {
    pub(super) store: &'a Arc<dyn ColdStore>,
    pub(super) partitioned_by: &'a [Vec<usize>],
}

impl Saver<'_> {
    /// Puts away what is said, by range of partitions.
    pub(super) fn put(
        &self,
        ranges: &[Range<usize>],
        say: impl FnOnce(&mut StateChanges) -> Result<()>,
    ) -> Result<Vec<SpilledChanges>> {
        spill(self.store, ranges, say)
    }

    /// Puts away what will be said, by range of partitions.
    pub(super) fn begin(&self, ranges: &[Range<usize>]) -> Spill {
        Spill::new(self.store, ranges)
    }

    /// Lets an operator say what has changed.
    pub(super) fn changes(&self, operator: &mut dyn Operator, changes: &mut StateChanges) -> Result<()> {
        operator.save_all_changes(self.partitioned_by, changes)
    }
}

/// A part of an operator.
pub(super) struct Part {
    /// Its partitions.
    range: [Range<usize>; 1],
    /// The operator, if it is in memory.
    running: Option<Box<dyn Operator>>,
    /// The operator notes what changes since it was built, and was not asked for that yet.
    is_new: bool,
    /// What comes to the state as it was put away last, or asked for; nothing if neither was.
    image: Option<Vec<SpilledChanges>>,
    /// Bytes of the first of the image.
    n_image_bytes: usize,
    /// What has changed since the whole was last asked for its changes, and is away.
    pub(super) unsaved: Vec<SpilledChanges>,
    /// Rows that wait for the end of the epoch.
    pub(super) queue: Queue,
    /// It has taken rows since the last epoch that it has ended, so it cannot be put away.
    pub(super) is_touched: bool,
    /// When it was used last.
    pub(super) used: u64,
    /// Bytes and entries when it last ended an epoch.
    pub(super) n_bytes: usize,
    n_entries: usize,
}

impl Part {
    /// A part without state.
    pub(super) fn new(partitions: Range<usize>) -> Self {
        Part {
            range: [partitions],
            running: None,
            is_new: false,
            image: None,
            n_image_bytes: 0,
            unsaved: Vec::new(),
            queue: Queue::default(),
            is_touched: false,
            used: 0,
            n_bytes: 0,
            n_entries: 0,
        }
    }

    /// Its state is this, and nothing else.
    pub(super) fn set_image(&mut self, image: SpilledChanges) {
        self.n_image_bytes = image.n_bytes();
        if self.is_away() {
            // More or less: some entries are several rows.
            self.n_entries = image.n_rows();
        }
        self.image = Some(vec![image]);
    }

    pub(super) fn is_away(&self) -> bool {
        self.running.is_none()
    }

    /// The operator.
    ///
    /// # Errors
    /// Internal, if it is away.
    pub(super) fn running(&mut self) -> Result<&mut dyn Operator> {
        match &mut self.running {
            Some(running) => Ok(&mut **running),
            None => Err(Error::internal("a part of an operator is not in memory")),
        }
    }

    /// Reads the state back.
    pub(super) fn load(&mut self, build: impl FnOnce() -> Result<Box<dyn Operator>>) -> Result<()> {
        let mut operator = build()?;
        if let Some(image) = &self.image {
            operator.restore(&mut state_of(image)?)?;
        }
        operator.track_changes();
        self.is_new = self.image.is_none();
        self.running = Some(operator);
        Ok(())
    }

    /// Takes over saved state.
    pub(super) fn restore(
        &mut self,
        mut operator: Box<dyn Operator>,
        saved: &mut SavedState,
        use_number: u64,
    ) -> Result<()> {
        operator.restore(saved)?;
        operator.track_changes();
        self.running = Some(operator);
        self.note_ended(use_number);
        Ok(())
    }

    /// It has ended an epoch.
    pub(super) fn note_ended(&mut self, use_number: u64) {
        self.is_touched = false;
        self.used = use_number;
        if let Some(running) = &self.running {
            (self.n_bytes, self.n_entries) = (running.n_bytes(), running.n_entries());
        }
    }

    /// Writes what has changed since the state was read, and lets go of it.
    pub(super) fn put_away(&mut self, saver: &Saver<'_>, is_tracked: bool) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let n_entries = running.n_entries();
        let is_all = std::mem::take(&mut self.is_new);
        let changes = saver.put(&self.range, |changes| saver.changes(&mut *running, changes))?.remove(0);
        if is_tracked && !changes.is_empty() {
            self.unsaved.push(changes.clone());
        }
        match &mut self.image {
            Some(image) => {
                if !changes.is_empty() {
                    image.push(changes);
                }
                let n_bytes: usize = image.iter().map(SpilledChanges::n_bytes).sum();
                if n_bytes > 2 * self.n_image_bytes + REWRITTEN_BYTES_MIN {
                    let whole = saver.put(&self.range, |saved| running.save(saver.partitioned_by, saved))?.remove(0);
                    self.set_image(whole);
                }
            }
            None if is_all => self.set_image(changes),
            None => {
                let whole = saver.put(&self.range, |saved| running.save(saver.partitioned_by, saved))?.remove(0);
                self.set_image(whole);
            }
        }
        self.n_entries = n_entries;
        Ok(())
    }

    /// From now on the whole is asked for its changes: all there is has to be said first.
    pub(super) fn track_changes(&mut self) {
        self.unsaved = self.image.iter().flatten().filter(|changes| !changes.is_empty()).cloned().collect();
    }

    /// Adds some more of what has changed since the last save. What was put away stays away, and the rest is put away where
    /// memory is short.
    pub(super) fn take_changes(
        &mut self,
        saver: &Saver<'_>,
        is_short: bool,
        taken: &mut StateChanges,
    ) -> Result<Progress> {
        if let Some(running) = &mut self.running {
            self.is_new = false;
            if self.image.is_none() && !is_short {
                debug_assert!(self.unsaved.is_empty(), "a part that was away has an image");
                return running.save_changes(saver.partitioned_by, taken);
            }
            let since = saver.put(&self.range, |changes| saver.changes(&mut **running, changes))?.remove(0);
            if !since.is_empty() {
                if let Some(image) = &mut self.image {
                    image.push(since.clone());
                }
                self.unsaved.push(since);
            }
        }
        if !self.unsaved.is_empty() {
            taken.add_away(std::mem::take(&mut self.unsaved))?;
        }
        Ok(Progress::Done)
    }

    /// Adds the whole state.
    pub(super) fn save(&self, partitioned_by: &[Vec<usize>], saved: &mut StateChanges) -> Result<()> {
        if let Some(running) = &self.running {
            return running.save(partitioned_by, saved);
        }
        let image = self.image.iter().flatten().map(SpilledChanges::read).collect::<Result<Vec<_>>>()?;
        saved.merge(sum(image)?)
    }

    /// Bytes in memory.
    pub(super) fn n_bytes_here(&self) -> usize {
        self.running.as_ref().map_or(0, |running| running.n_bytes()) + self.queue.n_bytes()
    }

    /// Bytes in memory that can be put away now.
    pub(super) fn n_bytes_spillable(&self) -> usize {
        self.running.as_ref().filter(|_| !self.is_touched).map_or(0, |running| running.n_bytes())
    }

    /// Bytes that are away.
    pub(super) fn n_bytes_away(&self) -> usize {
        let image: usize = self.image.iter().flatten().map(SpilledChanges::n_bytes).sum();
        image + self.queue.n_bytes_away()
    }

    pub(super) fn n_entries(&self) -> usize {
        self.running.as_ref().map_or(self.n_entries, |running| running.n_entries())
    }
}
