//! When checkpoints are written, and of what.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_planner::{Catalog, RelationId};
use millstream_runtime::{Command, StoreRows};
use millstream_types::{Epoch, Error, ErrorKind, Result, SqlState};
use tokio::sync::oneshot;

use super::Coordinator;
use crate::checkpoints::{BaseImage, Checkpointed, Checkpointer, DataflowImage, Image};
use crate::journal::Journal;
use crate::retention::Kept;

/// A start that finds more segments of the log has a checkpoint written at once: each start leaves one.
const SEGMENTS_MAX: usize = 16;

/// When a checkpoint is written without being asked for.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointWhen {
    /// After so long, if something has happened since the last one.
    pub interval: Duration,
    /// When the log has had so many bytes of records since the last one.
    pub log_bytes: usize,
}

impl Default for CheckpointWhen {
    fn default() -> Self {
        CheckpointWhen { interval: Duration::from_secs(10), log_bytes: 256 << 20 }
    }
}

/// The coordinator's part in checkpoints.
pub(super) struct Checkpointing {
    checkpointer: Checkpointer,
    when: CheckpointWhen,
    /// As of the last epoch that was made.
    catalog: Catalog,
    /// The epoch of the last one that was written.
    last: Epoch,
    /// When the last one was begun.
    began: Instant,
    /// One is being written.
    is_writing: bool,
    /// The last record of the log.
    last_sequence: u64,
    /// Bytes of records since the last one was begun.
    n_log_bytes: usize,
    /// Who waits for the one that is being written, and for the one after it.
    waiting: Vec<oneshot::Sender<Result<()>>>,
    waiting_for_next: Vec<oneshot::Sender<Result<()>>>,
}

impl Coordinator {
    /// From now on epochs are recorded, and checkpoints written. `last` is the epoch of the last checkpoint, `catalog` that
    /// of the last epoch.
    pub(crate) fn record_in(
        &mut self,
        journal: Journal,
        checkpointer: Checkpointer,
        when: CheckpointWhen,
        catalog: Catalog,
        last: Epoch,
    ) {
        let is_due = journal.n_segments_found() > SEGMENTS_MAX;
        self.checkpointing = Some(Checkpointing {
            checkpointer,
            when,
            catalog,
            last,
            began: Instant::now(),
            is_writing: false,
            last_sequence: journal.last_found(),
            n_log_bytes: if is_due { when.log_bytes } else { 0 },
            waiting: vec![],
            waiting_for_next: vec![],
        });
        self.journal = Some(journal);
    }

    /// Notes that a record was appended.
    pub(super) fn note_record(&mut self, sequence: u64, n_bytes: usize) {
        if let Some(checkpointing) = &mut self.checkpointing {
            checkpointing.last_sequence = sequence;
            checkpointing.n_log_bytes += n_bytes;
        }
    }

    /// Notes what becomes of the catalog with the epoch that is being made.
    pub(super) fn note_catalog(&mut self, changes: Vec<millstream_planner::catalog::CatalogChange>) {
        if let Some(checkpointing) = &mut self.checkpointing {
            changes.into_iter().for_each(|change| checkpointing.catalog.apply(change));
        }
    }

    /// Somebody waits for a checkpoint of all that was written so far.
    pub(super) fn want_checkpoint(&mut self, reply: oneshot::Sender<Result<()>>) {
        match &mut self.checkpointing {
            Some(checkpointing) => checkpointing.waiting_for_next.push(reply),
            // All data is in memory: there is nothing to be done.
            None => drop(reply.send(Ok(()))),
        }
    }

    pub(super) fn checkpoint_if_due(&mut self) {
        let epoch = self.last_epoch;
        let Some(checkpointing) = &mut self.checkpointing else { return };
        if checkpointing.is_writing {
            return;
        }
        // It would not have what is not back yet. Who waits does so until all is.
        if self.restoring.is_some() {
            return;
        }
        if !self.damaged.is_empty() {
            let waiting = std::mem::take(&mut checkpointing.waiting_for_next);
            waiting.into_iter().for_each(|reply| drop(reply.send(Err(has_damage()))));
            return;
        }
        if epoch == checkpointing.last {
            let waiting = std::mem::take(&mut checkpointing.waiting_for_next);
            waiting.into_iter().for_each(|reply| drop(reply.send(Ok(()))));
            return;
        }
        let when = checkpointing.when;
        let is_due = !checkpointing.waiting_for_next.is_empty()
            || checkpointing.began.elapsed() >= when.interval
            || checkpointing.n_log_bytes >= when.log_bytes;
        if !is_due {
            return;
        }
        checkpointing.waiting = std::mem::take(&mut checkpointing.waiting_for_next);
        checkpointing.is_writing = true;
        checkpointing.began = Instant::now();
        checkpointing.n_log_bytes = 0;
        let bases = self.bases.values().map(|base| BaseImage {
            live: Arc::clone(&base.live),
            next_row_id: base.next_row_id,
            position: base.source.as_ref().map(super::sources::SourceState::position),
            floor: base.kept.as_ref().map_or(Epoch::ZERO, Kept::floor),
        });
        let mut bases: Vec<BaseImage> = bases.collect();
        bases.sort_by_key(|base| base.live.id);
        let mut dataflows = Vec::new();
        for flow in self.flows.iter_mut().filter(|flow| flow.is_saved()) {
            let is_asked = flow.follows() && !flow.is_being_saved;
            if is_asked {
                flow.is_being_saved = true;
                flow.live.mark_row_errors(epoch);
            }
            dataflows.push(DataflowImage { live: Arc::clone(&flow.live), owner: flow.owner, is_asked });
        }
        let header = millstream_types::EpochHeader { epoch, now_us: self.last_now_us };
        let (log_sequence, catalog) = (checkpointing.last_sequence.saturating_add(1), checkpointing.catalog.clone());
        let image = Image { header, log_sequence, catalog, bases, dataflows };
        checkpointing.checkpointer.write(image, &self.workers);
    }

    /// A dataflow keeps open what a checkpoint waits for.
    pub(super) fn stalls_checkpoint(&self, owner: u64) {
        if let Some(checkpointing) = &self.checkpointing {
            checkpointing.checkpointer.stalls(owner);
        }
    }

    /// How long until a checkpoint is due.
    pub(super) fn until_checkpoint_is_due(&self) -> Option<Duration> {
        let checkpointing = self.checkpointing.as_ref()?;
        if checkpointing.is_writing || self.is_restoring() {
            return None;
        }
        if !checkpointing.waiting_for_next.is_empty() {
            return Some(Duration::ZERO);
        }
        let is_wanted = self.last_epoch > checkpointing.last && self.damaged.is_empty();
        is_wanted.then(|| checkpointing.when.interval.saturating_sub(checkpointing.began.elapsed()))
    }

    /// A checkpoint is written, or could not be.
    pub(super) fn checkpointed(&mut self, checkpointed: Checkpointed) {
        let Checkpointed { header, outcome, behind, stored } = checkpointed;
        let epoch = header.epoch;
        for (rows, n_bytes) in stored {
            self.note_stored(rows.relation, epoch, header.now_us, n_bytes);
            self.store(&Arc::new(rows));
        }
        let Some(checkpointing) = &mut self.checkpointing else { return };
        checkpointing.is_writing = false;
        if outcome.is_ok() {
            checkpointing.last = epoch;
        }
        let waiting = std::mem::take(&mut checkpointing.waiting);
        waiting.into_iter().for_each(|reply| drop(reply.send(outcome.clone())));
        self.flows.iter_mut().for_each(|flow| flow.is_being_saved = behind.contains(&flow.owner));
    }

    /// Has workers read rows of a stream from where they lie now.
    pub(super) fn store(&self, rows: &Arc<StoreRows>) {
        self.workers.send_all(|_| Command::Store(Arc::clone(rows)));
    }

    /// What was restored of a table or stream is as of an epoch.
    pub(crate) fn note_restored(
        &mut self,
        id: RelationId,
        epoch: Epoch,
        next_row_id: Option<i64>,
        position: Option<u64>,
    ) {
        let Some(base) = self.bases.get_mut(&id) else { return };
        base.next_row_id = next_row_id.unwrap_or(base.next_row_id);
        if let (Some(source), Some(position)) = (&mut base.source, position) {
            source.go_to(position);
            base.live.advance(epoch, position);
        }
        base.live.touch(epoch);
    }
}

fn has_damage() -> Error {
    let message = "no checkpoint is written while a table or stream is damaged";
    Error::new(ErrorKind::External, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .with_hint("Put the file that it names when it is read back from a copy and start again, or drop it.")
}
