//! Merging what checkpoints have written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use millstream_planner::RelationId;
use millstream_runtime::StoreRows;
use millstream_storage::bucket::is_taken_over;
use millstream_storage::checkpoint::{CheckpointStore, MergedStream};
use millstream_types::Result;

use super::{Limits, by_worker};
use crate::coordinator::{Clock, Request};
use crate::journal::end_taken_over;
use crate::retention::Retention;

/// Merges what was written.
pub(super) struct Merger {
    pub(super) store: Arc<CheckpointStore>,
    pub(super) clock: Arc<Clock>,
    pub(super) limits: Limits,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) n_workers: usize,
}

impl Merger {
    pub(super) fn run(self, committed: &Receiver<()>) {
        while committed.recv().is_ok() {
            while !self.stop.load(Ordering::Acquire) {
                match self.merge() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) if is_taken_over(&error) => end_taken_over(&error),
                    Err(error) => {
                        tracing::warn!(%error, "checkpoints could not be merged; it is tried again after the next");
                        break;
                    }
                }
            }
        }
    }

    /// Merges what should be merged next; returns whether there was something.
    fn merge(&self) -> Result<bool> {
        let has_merged = self.store.merge_once(&self.stop)?.is_some();
        let limits = |stream: u64| {
            let limits = self.limits.lock().get(&stream).cloned();
            limits.unwrap_or_else(|| Retention::limits(None))
        };
        let Some(merged) = self.store.merge_streams_once(&self.stop, limits)? else { return Ok(has_merged) };
        let MergedStream { stream, replaced, up_to, blocks } = merged;
        let blocks = by_worker(blocks, self.n_workers);
        // The coordinator may have ended.
        let store = StoreRows { relation: RelationId(stream), up_to, replaced, blocks };
        let _ = self.clock.request(Request::Stored(Arc::new(store)));
        Ok(true)
    }
}
