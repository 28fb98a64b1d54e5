//! Streams that do not keep all their rows: when they forget what.

use std::collections::HashMap;
use std::time::Duration;

use millstream_planner::RelationId;
use millstream_runtime::RelationInput;
use millstream_types::{Delta, Epoch, EpochHeader};

use super::Coordinator;
use crate::journal::EnteredEpoch;

/// What is due and still held is looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Streams, and the last epoch whose rows each forgets.
pub(crate) type Floors = Vec<(RelationId, Epoch)>;

impl Coordinator {
    /// Lets streams forget what they need not keep any more, in an epoch of its own.
    pub(super) fn forget_expired(&mut self) {
        // What the one transaction that may write has read is to stay as it is.
        if self.order.is_held() || self.is_put_off() || self.bases.values().all(|base| base.kept.is_none()) {
            return;
        }
        let header = self.next_header();
        let expired = self.bases.iter().filter_map(|(&id, base)| {
            let kept = base.kept.as_ref()?;
            Some((id, kept.expired(header.now_us, base.live.shared.holds.since())?))
        });
        let floors: Floors = expired.collect();
        if floors.is_empty() {
            return;
        }
        let record = match self.record(&header, &[], &HashMap::new(), &[], &floors) {
            Ok(record) => record,
            Err(error) => return self.put_off(&error),
        };
        self.make(&header);
        self.note_floors(&header, &floors);
        let epoch = EnteredEpoch { epoch: header.epoch, is_asynchronous: false, answers: vec![], entry: None };
        self.enter(epoch, record);
        self.send_floors(&header, floors);
    }

    /// Notes what streams forget in an epoch, before anybody may see the epoch.
    pub(super) fn note_floors(&mut self, header: &EpochHeader, floors: &Floors) {
        for (id, floor) in floors {
            if let Some(kept) = self.bases.get_mut(id).and_then(|base| base.kept.as_mut()) {
                kept.forget(*floor);
            }
        }
        if !floors.is_empty() {
            self.touch(floors.iter().map(|(id, _)| *id).collect(), header.epoch, None);
        }
    }

    /// Tells the workers.
    pub(super) fn send_floors(&self, header: &EpochHeader, floors: Floors) {
        if floors.is_empty() {
            return;
        }
        let part = || floors.iter().map(|(id, floor)| (*id, RelationInput::Floor(*floor))).collect();
        self.send_epoch(header, (0..self.workers.len()).map(|_| part()).collect());
    }

    /// How long until a stream may forget something.
    pub(super) fn until_expired(&self) -> Option<Duration> {
        let now_us = self.next_header().now_us;
        let kept = self.bases.values().filter_map(|base| base.kept.as_ref());
        let until = kept.filter_map(|kept| kept.until_expired(now_us)).min()?;
        // What is due and not forgotten is held, or the disk is full.
        Some(until.max(LOOK_AGAIN))
    }

    /// Notes what was written to streams that do not keep all, where no checkpoint says.
    pub(super) fn note_kept(&mut self, header: &EpochHeader, deltas: &HashMap<RelationId, Vec<Delta>>) {
        if self.journal.is_some() {
            return;
        }
        for (id, deltas) in deltas {
            if let Some(kept) = self.bases.get_mut(id).and_then(|base| base.kept.as_mut()) {
                let n_bytes = deltas.iter().map(Delta::values_bytes).sum::<usize>() as u64;
                kept.note_written(header.epoch, header.now_us, n_bytes);
            }
        }
    }

    /// Notes that a checkpoint has written an object of a stream, or that one was found.
    pub(crate) fn note_stored(&mut self, id: RelationId, epoch: Epoch, now_us: i64, n_bytes: u64) {
        if let Some(kept) = self.bases.get_mut(&id).and_then(|base| base.kept.as_mut()) {
            kept.note_written(epoch, now_us, n_bytes);
        }
    }

    /// Notes what a stream has forgotten.
    pub(crate) fn note_floor(&mut self, id: RelationId, floor: Epoch) {
        if let Some(kept) = self.bases.get_mut(&id).and_then(|base| base.kept.as_mut()) {
            kept.forget(floor);
        }
    }
}
