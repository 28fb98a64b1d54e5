//! Replayable sources: how far each may go in the next epoch.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_planner::RelationId;
use millstream_runtime::Source;

use super::epochs::IN_FLIGHT_MAX;
use super::{Base, Coordinator};

/// How often a source with a rate advances at most.
const TICK: Duration = Duration::from_millis(10);

/// A source's place.
pub(super) struct SourceState {
    source: Arc<dyn Source>,
    started: Instant,
    position: u64,
    last_advanced: Instant,
}

impl SourceState {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        let now = Instant::now();
        SourceState { source, started: now, position: 0, last_advanced: now - TICK }
    }

    /// The offset up to which it has rows now.
    fn available(&self, epoch_offsets_max: u64) -> u64 {
        let by_rate = match self.source.rate() {
            Some(rate) => (self.started.elapsed().as_secs_f64() * rate) as u64,
            None => self.position + epoch_offsets_max,
        };
        by_rate.min(self.position + epoch_offsets_max).min(self.source.end().unwrap_or(u64::MAX))
    }

    fn is_ended(&self) -> bool {
        self.source.end().is_some_and(|end| self.position >= end)
    }
}

impl Coordinator {
    /// The sources whose followers have as much in flight as they may.
    fn throttled(&mut self) -> HashSet<RelationId> {
        let mut throttled = HashSet::new();
        // Views come after what they are built on, so back to front a view's followers are known before it.
        for flow in self.flows.iter_mut().rev() {
            let sealed = flow.live.sealed();
            while flow.in_flight.front().is_some_and(|e| *e <= sealed) {
                flow.in_flight.pop_front();
            }
            let has_failed = flow.live.failure().is_some();
            if !has_failed && (flow.in_flight.len() >= IN_FLIGHT_MAX || throttled.contains(&flow.live.id)) {
                throttled.extend(flow.imports.iter().copied());
            }
        }
        throttled
    }

    fn followed(&self) -> HashSet<RelationId> {
        let alive = self.flows.iter().filter(|f| f.live.failure().is_none());
        alive.flat_map(|f| f.imports.iter().copied()).collect()
    }

    /// Offsets to bind to the epoch that is being closed, and notes them as taken.
    pub(super) fn due_offsets(&mut self) -> Vec<(RelationId, Range<u64>)> {
        if !self.bases.values().any(|b| b.source.is_some()) {
            return vec![];
        }
        let throttled = self.throttled();
        let followed = self.followed();
        let epoch_offsets_max = self.epoch_offsets_max;
        let mut due = Vec::new();
        for (&id, base) in &mut self.bases {
            let Some(state) = &mut base.source else { continue };
            let unlimited = state.source.rate().is_none();
            if throttled.contains(&id) || unlimited && !followed.contains(&id) {
                continue;
            }
            if !unlimited && state.last_advanced.elapsed() < TICK {
                continue;
            }
            let to = state.available(epoch_offsets_max);
            if to > state.position {
                due.push((id, state.position..to));
                state.position = to;
                state.last_advanced = Instant::now();
            }
        }
        due
    }

    /// How long until a source may advance; `None` if only a request or a worker can change that.
    pub(super) fn until_sources_are_due(&mut self) -> Option<Duration> {
        if !self.bases.values().any(|b| b.source.is_some()) {
            return None;
        }
        let throttled = self.throttled();
        let followed = self.followed();
        let wait = |(id, base): (&RelationId, &Base)| {
            let state = base.source.as_ref().filter(|s| !s.is_ended() && !throttled.contains(id))?;
            match state.source.rate() {
                None => followed.contains(id).then_some(Duration::ZERO),
                Some(rate) => {
                    let next = Duration::try_from_secs_f64((state.position + 1) as f64 / rate).ok()?;
                    let by_rate = next.saturating_sub(state.started.elapsed());
                    Some(by_rate.max(TICK.saturating_sub(state.last_advanced.elapsed())))
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
