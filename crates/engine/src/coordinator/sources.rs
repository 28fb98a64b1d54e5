//! Replayable sources: how far each may go in the next epoch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_planner::RelationId;
use millstream_runtime::Source;
use millstream_types::Error;

use super::epochs::{Offsets, interval};
use super::{Base, Coordinator};
use crate::journal::Journal;

/// How often a source with a rate advances at most.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// How long what can wait waits when the disk is full.
const PUT_OFF: Duration = Duration::from_millis(100);

/// A source's place.
pub(super) struct SourceState {
    source: Arc<dyn Source>,
    started: Instant,
    /// Where it was then.
    started_at: u64,
    position: u64,
    last_advanced: Instant,
}

impl SourceState {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        let now = Instant::now();
        SourceState { source, started: now, started_at: 0, position: 0, last_advanced: now - TICK }
    }

    /// Where it is.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Goes to where it was.
    pub(super) fn go_to(&mut self, position: u64) {
        self.position = position;
    }

    /// Goes on from where it is, whenever it got there.
    pub(super) fn restart(&mut self) {
        (self.started, self.started_at) = (Instant::now(), self.position);
    }

    /// The offset up to which it has rows now.
    fn available(&self, epoch_offsets_max: u64) -> u64 {
        let by_rate = match self.source.rate() {
            Some(rate) => self.started_at + (self.started.elapsed().as_secs_f64() * rate) as u64,
            None => self.position + epoch_offsets_max,
        };
        by_rate.min(self.position + epoch_offsets_max).min(self.source.end().unwrap_or(u64::MAX))
    }

    /// How long it has to wait before its next epoch, for one that is slowed by a power of two, or has a rate.
    fn until_next_tick(&self, pace: Option<u32>) -> Duration {
        let tick = match (pace, self.source.rate()) {
            (None, None) => Duration::ZERO,
            (pace, _) => interval(pace.unwrap_or(0)),
        };
        tick.saturating_sub(self.last_advanced.elapsed())
    }

    fn is_ended(&self) -> bool {
        self.source.end().is_some_and(|end| self.position >= end)
    }
}

impl Coordinator {
    /// Offsets to bind to the next epoch.
    pub(super) fn due_offsets(&mut self) -> Offsets {
        if !self.bases.values().any(|b| b.source.is_some()) || self.order.is_held() || self.is_put_off() {
            return vec![];
        }
        let throttled = self.throttled();
        let followed = self.followed();
        let paces = self.paces();
        let large = self.large_epochs();
        let mut due = Vec::new();
        for (&id, base) in &self.bases {
            let Some(state) = &base.source else { continue };
            let unlimited = state.source.rate().is_none();
            if throttled.contains(&id) || unlimited && !followed.contains(&id) {
                continue;
            }
            if state.until_next_tick(paces.get(&id).copied()) > Duration::ZERO {
                continue;
            }
            let pace = paces.get(&id).copied().unwrap_or(0);
            let offsets_of = |n_bytes: u64| (n_bytes / base.live.shared.offset_bytes().max(1)).max(1);
            let usual = self.epoch_offsets_max.min(offsets_of(self.epoch_bytes_max));
            let offsets_max = large.get(&id).copied().map_or(0, offsets_of).max(usual);
            let to = state.available((offsets_max >> pace).max(1));
            if to > state.position {
                due.push((id, state.position..to));
            }
        }
        due
    }

    /// Notes offsets as taken.
    pub(super) fn note_advance(&mut self, offsets: &Offsets) {
        for (id, range) in offsets {
            if let Some(state) = self.bases.get_mut(id).and_then(|base| base.source.as_mut()) {
                state.position = range.end;
                state.last_advanced = Instant::now();
            }
        }
    }

    /// There is no room for the record of an epoch that can wait: sources and rounds wait for a while.
    pub(super) fn put_off(&mut self, error: &Error) {
        if self.put_off_until.is_none() {
            tracing::error!(%error, "epochs cannot be recorded; sources and views that catch up wait");
        }
        self.put_off_until = Some(Instant::now() + PUT_OFF);
    }

    /// Whether what can wait waits: for the disk, or for the next start.
    pub(super) fn is_put_off(&self) -> bool {
        self.is_ending
            || self.put_off_until.is_some_and(|until| until > Instant::now())
            || self.journal.as_ref().is_some_and(Journal::is_behind)
    }

    /// How long until a source may advance; `None` if only a request or a worker can change that.
    pub(super) fn until_sources_are_due(&mut self) -> Option<Duration> {
        if !self.bases.values().any(|b| b.source.is_some()) {
            return None;
        }
        if self.is_put_off() {
            return Some(TICK);
        }
        let throttled = self.throttled();
        let followed = self.followed();
        let paces: HashMap<RelationId, u32> = self.paces();
        let wait = |(id, base): (&RelationId, &Base)| {
            let state = base.source.as_ref().filter(|s| !s.is_ended() && !throttled.contains(id))?;
            let tick = state.until_next_tick(paces.get(id).copied());
            match state.source.rate() {
                None => followed.contains(id).then_some(tick),
                Some(rate) => {
                    let next =
                        Duration::try_from_secs_f64((state.position + 1 - state.started_at) as f64 / rate).ok()?;
                    Some(next.saturating_sub(state.started.elapsed()).max(tick))
                }
            }
        };
        self.bases.iter().filter_map(wait).min()
    }

    /// Whether some source waits for its followers.
    pub(super) fn has_throttled_source(&mut self) -> bool {
        let throttled = self.throttled();
        self.bases.iter().any(|(id, b)| b.source.as_ref().is_some_and(|s| !s.is_ended()) && throttled.contains(id))
    }

    /// A source's position now.
    pub(crate) fn source_position(&self, id: RelationId) -> Option<u64> {
        self.base(id)?.source.as_ref().map(|s| s.position)
    }
}
