//! Dataflows as the coordinator drives them: which follow their inputs, which catch up in rounds, which have failed.
//!
//! A new dataflow takes its inputs as of an epoch and queues nothing meanwhile: its inputs are held at that epoch. When
//! it is done it takes what has changed since, as one epoch of its own, and so on, until a round is short; the last round
//! and the first epoch that it follows are sent between the same two epochs, so that nothing falls between. A dataflow
//! that has fallen behind is set aside: what it was sent it still does, and then goes through the same rounds.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_planner::RelationId;
use millstream_runtime::{Command, InstallDataflow, RestoredDataflow, Round};
use millstream_state::Hold;
use millstream_types::{Epoch, EpochHeader, Error, Result, SqlState};

use super::restoring::ComingBack;
use super::{Coordinator, Request};
use crate::epoch_history::EpochEntry;
use crate::live::{Body, Failed, LiveRelation, Stage};

/// Epochs that a dataflow may have in flight before its sources and writers wait.
pub(super) const IN_FLIGHT_MAX: usize = 3;
/// A round that took no longer is the last but one.
const SHORT_ROUND: Duration = Duration::from_millis(100);
/// What an epoch may bring to a dataflow that spills: one part in so many of its memory limit.
const EPOCH_SHARE: usize = 3;
/// Or, if that is more, one part in so many of what it has spilled: then all that is read as its state grows by an amount is
/// a multiple of that amount, however large the state is.
const SPILLED_SHARE: usize = 2;
/// An epoch brings no more than usual to a dataflow whose operators that are not in parts have more than one part in so many
/// of its memory limit.
const WHOLE_SHARE: usize = 16;
/// A dataflow that keeps nobody but a checkpoint waiting may do so for so many times as long.
const CHECKPOINT_PATIENCE: u32 = 6;
/// How much its sources are slowed at most: by this power of two.
const PACE_MAX: u32 = 7;

/// A dataflow as the coordinator knows it.
pub(super) struct Flow {
    pub(super) live: Arc<LiveRelation>,
    /// In the order of the dataflow's imports.
    pub(super) imports: Vec<RelationId>,
    /// The epoch it was started at, later than all that a dataflow before it in the same place was sent.
    start: Epoch,
    /// Epochs that were sent to it and are not complete.
    in_flight: VecDeque<Epoch>,
    /// Since when the first of them is that.
    open_since: Option<(Epoch, Instant)>,
    /// Since when it keeps it open although the others have completed it.
    stalls_since: Option<(Epoch, Instant)>,
    /// If it does not follow its inputs, or not yet.
    catching_up: Option<CatchUp>,
    /// Under this number checkpoints have its state.
    pub(super) owner: u64,
    /// It has still to hand over what the last checkpoint asked for.
    pub(super) is_being_saved: bool,
    /// Until it follows its inputs after a start, if it goes on from saved state.
    pub(super) coming_back: Option<ComingBack>,
}

/// Numbers of dataflows in checkpoints begin here; below are those of tables and streams. Each dataflow starts at an epoch
/// of its own, and no epoch is made twice.
const DATAFLOW_OWNERS: u64 = 1 << 63;

/// What a dataflow starts from.
pub(crate) struct Start {
    /// Of the epoch that it starts at.
    pub(crate) header: EpochHeader,
    /// For each import, the offsets that it starts from if it is a source.
    pub(crate) offsets: Vec<Option<Range<u64>>>,
    /// What it goes on from, if not from its inputs.
    pub(crate) restored: Option<RestoredDataflow>,
}

/// How far a dataflow is that does not follow its inputs.
pub(super) struct CatchUp {
    /// The epoch up to which it was sent its inputs.
    upto: Epoch,
    /// For each import, the position at that epoch if it is a source.
    positions: Vec<Option<u64>>,
    /// Its inputs, held at the epoch up to which it has them.
    holds: Vec<Hold>,
    began: Instant,
    last_round: Option<Duration>,
    /// Its sources are slowed by this power of two, because rounds do not become shorter.
    pace: u32,
    /// This round is the last: it gets the epochs after it.
    joins: bool,
}

impl CatchUp {
    /// It was sent its inputs up to an epoch, at which they are held.
    pub(super) fn from(upto: Epoch, positions: Vec<Option<u64>>, holds: Vec<Hold>) -> Self {
        let (began, last_round) = (Instant::now(), None);
        CatchUp { upto, positions, holds, began, last_round, pace: 0, joins: false }
    }
}

impl Flow {
    /// A dataflow that was sent its start, an epoch.
    pub(super) fn new(
        live: Arc<LiveRelation>,
        imports: Vec<RelationId>,
        start: Epoch,
        catching_up: Option<CatchUp>,
        owner: u64,
    ) -> Self {
        Flow {
            live,
            imports,
            start,
            in_flight: [start].into(),
            open_since: None,
            stalls_since: None,
            catching_up,
            owner,
            is_being_saved: false,
            coming_back: None,
        }
    }

    /// Whether it is sent the epochs that touch its inputs.
    pub(super) fn follows(&self) -> bool {
        self.catching_up.as_ref().is_none_or(|c| c.joins)
    }

    /// Whether checkpoints have its state: it is not a subscription's.
    pub(super) fn is_saved(&self) -> bool {
        !crate::subscribe::is_hidden(self.live.id)
    }

    /// Epochs that it may have in flight before its sources and writers wait. Those that wait their turn are in memory, so
    /// that it is one alone where that is short, and epochs are large.
    fn in_flight_max(&self) -> usize {
        if self.live.shared.account.spilled() > 0 { 1 } else { IN_FLIGHT_MAX }
    }

    fn note_completed(&mut self) {
        let sealed = self.live.sealed();
        while self.in_flight.front().is_some_and(|e| *e <= sealed) {
            self.in_flight.pop_front();
        }
    }

    /// Whether all that it was sent is complete.
    fn is_done(&self) -> bool {
        let sent = self.catching_up.as_ref().map_or(Epoch::MAX, |c| c.upto);
        self.live.sealed() >= sent.min(self.live.last_touched())
    }
}

impl Coordinator {
    /// Whether a dataflow over these relations can be started.
    ///
    /// # Errors
    /// 55000 if one cannot be read now, 42P01 if it is gone.
    pub(crate) fn check_imports(&self, imports: &[RelationId]) -> Result<()> {
        for &id in imports {
            let input = self.clock.relation(id);
            let input = input.ok_or_else(|| Error::user(SqlState::UNDEFINED_TABLE, "a relation was dropped"))?;
            input.check()?;
            if input.stage() != Stage::Following {
                return Err(input.not_readable());
            }
        }
        Ok(())
    }

    /// Starts a dataflow at an epoch of its own. `build` makes it from the epoch's header and the offsets that imports of
    /// sources start from. It waits for those of its inputs that do not follow theirs.
    ///
    /// # Errors
    /// 53100 if there is no room for the epoch's record.
    pub(crate) fn install(
        &mut self,
        live: Arc<LiveRelation>,
        imports: Vec<RelationId>,
        build: impl FnOnce(Start) -> InstallDataflow,
    ) -> Result<()> {
        let holds = self.hold(&imports, self.last_epoch)?;
        let positions = self.positions_of(&imports);
        let header = self.make_empty()?;
        let epoch = header.epoch;
        let offsets = positions.iter().map(|p| p.map(|to| 0..to)).collect();
        let install = Arc::new(build(Start { header, offsets, restored: None }));
        self.clock.relations.write().insert(live.id, Arc::clone(&live));
        live.touch(epoch);
        let catching_up = CatchUp::from(epoch, positions, holds);
        self.flows.push(Flow::new(live, imports, epoch, Some(catching_up), DATAFLOW_OWNERS + epoch.0));
        self.workers.send_all(|_| Command::Install(Arc::clone(&install)));
        Ok(())
    }

    /// Drops a dataflow, and those that read it, so that they can be built anew.
    pub(crate) fn drop_flow(&mut self, id: RelationId) {
        let mut dropped = HashSet::from([id]);
        for flow in &self.flows {
            if flow.imports.iter().any(|input| dropped.contains(input)) {
                dropped.insert(flow.live.id);
            }
        }
        let last_first: Vec<RelationId> =
            self.flows.iter().rev().map(|flow| flow.live.id).filter(|id| dropped.contains(id)).collect();
        last_first.into_iter().for_each(|id| self.drop_if_running(id));
    }

    /// Where each import is, if it is a source.
    pub(super) fn positions_of(&self, imports: &[RelationId]) -> Vec<Option<u64>> {
        imports.iter().map(|id| self.source_position(*id)).collect()
    }

    pub(super) fn hold(&self, imports: &[RelationId], epoch: Epoch) -> Result<Vec<Hold>> {
        let holds = imports.iter().filter_map(|id| self.clock.relation(*id)).map(|input| {
            let held = input.shared.holds.acquire(epoch);
            held.map_err(|since| Error::internal(format!("epoch {epoch} cannot be held after {since}")))
        });
        holds.collect()
    }

    /// Notes which relations an epoch changes, views on them included.
    pub(super) fn touch(&mut self, mut touched: HashSet<RelationId>, epoch: Epoch, entry: Option<&Arc<EpochEntry>>) {
        let touch = |live: &LiveRelation| {
            live.touch(epoch);
            entry.inspect(|entry| live.tell(entry));
        };
        touched.iter().for_each(|id| touch(&self.bases[id].live));
        for flow in &mut self.flows {
            if flow.follows() && flow.imports.iter().any(|i| touched.contains(i)) {
                touched.insert(flow.live.id);
                touch(&flow.live);
                flow.in_flight.push_back(epoch);
            }
        }
    }

    /// Brings dataflows that do not follow their inputs one step further, where they are done with the last.
    pub(super) fn drive_flows(&mut self) {
        let mut began = Vec::new();
        for i in 0..self.flows.len() {
            let flow = &mut self.flows[i];
            flow.note_completed();
            let is_done = flow.is_done();
            let Some(catching_up) = flow.catching_up.as_mut().filter(|_| is_done) else { continue };
            let upto = catching_up.upto;
            catching_up.holds.iter_mut().for_each(|hold| hold.advance(upto));
            if catching_up.joins {
                flow.catching_up = None;
            } else if (!self.is_ending || self.is_restoring()) && self.inputs_follow(i) {
                self.next_round(i);
            }
            if self.flows[i].catching_up.is_none() {
                self.note_back(i);
                began.push((Arc::clone(&self.flows[i].live), upto));
            }
        }
        if !began.is_empty() {
            // A source that waited to be followed goes on at once: who reads the view next sees its first rows.
            self.make_epoch(vec![]);
            // Nobody can read it as of an epoch that is not closed.
            let waits = self.has_to_start().then(|| Arc::clone(&self.clock));
            self.when_closed(Box::new(move || {
                began.into_iter().for_each(|(live, epoch)| live.follow_from(epoch));
                // The coordinator may be gone already.
                waits.into_iter().for_each(|clock| drop(clock.request(Request::Wake)));
            }));
        }
        self.drive_restore();
    }

    /// Whether some dataflow could be brought a step further.
    pub(super) fn has_flow_to_drive(&self) -> bool {
        if self.has_restore_to_drive() {
            return true;
        }
        if self.is_put_off() {
            return false;
        }
        let mut behind = self.flows.iter().enumerate().filter(|(_, f)| f.catching_up.is_some());
        behind.any(|(i, f)| f.is_done() && (f.follows() || self.inputs_follow(i)))
    }

    /// Whether a dataflow catches up with its inputs, and so waits for what workers complete.
    pub(super) fn has_flow_behind(&self) -> bool {
        self.flows.iter().any(|f| f.catching_up.is_some())
    }

    fn inputs_follow(&self, flow_idx: usize) -> bool {
        let imports = &self.flows[flow_idx].imports;
        self.flows[..flow_idx].iter().all(|f| f.follows() || !imports.contains(&f.live.id))
    }

    fn next_round(&mut self, flow_idx: usize) {
        let flow = &self.flows[flow_idx];
        let imports = flow.imports.clone();
        let id = flow.live.id;
        let Some(CatchUp { upto: from, began, last_round, .. }) = flow.catching_up else { return };
        let is_changed = |input: &RelationId| self.clock.relation(*input).is_some_and(|r| r.last_touched() > from);
        if !imports.iter().any(is_changed) {
            self.workers.send_all(|_| Command::Follow(id));
            self.flows[flow_idx].catching_up = None;
            return;
        }
        let now = self.positions_of(&imports);
        let header = match self.make_empty() {
            Ok(header) => header,
            Err(error) => return self.put_off(&error),
        };
        let epoch = header.epoch;
        let flow = &mut self.flows[flow_idx];
        // What came after the checkpoint may be much, whatever the time that reading its state took.
        let is_first_back = flow.coming_back.as_mut().is_some_and(ComingBack::begins_first_round);
        let took = if is_first_back { Duration::MAX } else { began.elapsed() };
        let joins = took <= SHORT_ROUND;
        let Some(catching_up) = &mut flow.catching_up else { return };
        let was = std::mem::replace(&mut catching_up.positions, now.clone());
        let offsets = was.iter().zip(&now).map(|(was, now)| was.zip(*now).map(|(was, now)| was..now)).collect();
        if last_round.is_some_and(|last| took.saturating_mul(5) > last * 4) {
            catching_up.pace = PACE_MAX.min(catching_up.pace + 1);
        }
        (catching_up.upto, catching_up.began, catching_up.joins) = (epoch, Instant::now(), joins);
        catching_up.last_round = (!is_first_back).then_some(took);
        if let Body::Dataflow { intake, .. } = &flow.live.body {
            intake.restart();
        }
        flow.live.touch(epoch);
        flow.in_flight.push_back(epoch);
        tracing::debug!(relation = %id, %from, %epoch, ?took, joins, "a round begins");
        let round = Arc::new(Round { id, header, from, offsets, follows: joins });
        self.workers.send_all(|_| Command::Round(Arc::clone(&round)));
    }

    /// The relations whose followers have as much in flight as they may.
    pub(super) fn throttled(&mut self) -> HashSet<RelationId> {
        let mut throttled = HashSet::new();
        // Views come after what they are built on, so back to front a view's followers are known before it.
        for flow in self.flows.iter_mut().rev() {
            flow.note_completed();
            if flow.follows() && (flow.in_flight.len() >= flow.in_flight_max() || throttled.contains(&flow.live.id)) {
                throttled.extend(flow.imports.iter().copied());
            }
        }
        throttled
    }

    /// The relations that are to be slowed, by which power of two, because a dataflow does not catch up with them.
    pub(super) fn paces(&self) -> HashMap<RelationId, u32> {
        let mut paces: HashMap<RelationId, u32> = HashMap::new();
        for flow in self.flows.iter().rev() {
            let own = flow.catching_up.as_ref().map_or(0, |c| c.pace);
            let pace = own.max(paces.get(&flow.live.id).copied().unwrap_or(0));
            if pace > 0 {
                flow.imports.iter().for_each(|&id| {
                    let slowed = paces.entry(id).or_default();
                    *slowed = pace.max(*slowed);
                });
            }
        }
        paces
    }

    /// The relations of which an epoch may bring more than usual, with how many bytes: a dataflow that spills reads what
    /// it has put away once for each epoch. None of those over which some dataflow has much that would have to stay in memory
    /// beside what such an epoch adds to it.
    pub(super) fn large_epochs(&self) -> HashMap<RelationId, u64> {
        let mut large: HashMap<RelationId, u64> = HashMap::new();
        let mut not_large: HashSet<RelationId> = HashSet::new();
        for flow in self.flows.iter().rev() {
            let account = &flow.live.shared.account;
            let limit = account.limit().into_iter().chain(self.memory.limit()).min().unwrap_or(usize::MAX);
            if account.whole() > limit / WHOLE_SHARE || not_large.contains(&flow.live.id) {
                not_large.extend(flow.imports.iter().copied());
                continue;
            }
            let spilled = account.spilled();
            let own = if spilled > 0 { (limit / EPOCH_SHARE).max(spilled / SPILLED_SHARE) as u64 } else { 0 };
            let n_bytes = own.max(large.get(&flow.live.id).copied().unwrap_or(0));
            if n_bytes > 0 {
                flow.imports.iter().for_each(|&id| {
                    let of_input = large.entry(id).or_default();
                    *of_input = n_bytes.max(*of_input);
                });
            }
        }
        large.retain(|id, _| !not_large.contains(id));
        large
    }

    /// The relations that some dataflow follows.
    pub(super) fn followed(&self) -> HashSet<RelationId> {
        self.flows.iter().filter(|f| f.follows()).flat_map(|f| f.imports.iter().copied()).collect()
    }

    /// Whether something is in flight, so that it may stall.
    pub(super) fn has_epochs_in_flight(&mut self) -> bool {
        self.flows.iter_mut().any(|flow| {
            flow.note_completed();
            flow.follows() && !flow.in_flight.is_empty()
        })
    }

    /// Sets aside the dataflows that have kept an epoch open for too long after all others had completed it.
    pub(super) fn set_stalled_aside(&mut self) {
        for flow in &mut self.flows {
            flow.note_completed();
            let front = flow.in_flight.front().copied().filter(|_| flow.follows());
            flow.open_since = since(front, flow.open_since);
        }
        let mut stalled = Vec::new();
        for i in 0..self.flows.len() {
            // Most epochs are complete before it is worth a look at all the others.
            let open = self.flows[i].open_since.filter(|(_, since)| since.elapsed() >= self.max_stall / 8);
            let stalls = open.map(|(epoch, _)| epoch).filter(|epoch| self.others_have_completed(i, *epoch));
            let flow = &mut self.flows[i];
            flow.stalls_since = since(stalls, flow.stalls_since);
            let Some((_, since)) = flow.stalls_since.filter(|(_, since)| since.elapsed() >= self.max_stall) else {
                continue;
            };
            let keeps_checkpoint = flow.is_being_saved && since.elapsed() >= self.max_stall * CHECKPOINT_PATIENCE;
            if keeps_checkpoint || self.keeps_others_waiting(i) {
                stalled.push(self.flows[i].live.id);
            }
        }
        stalled.into_iter().for_each(|id| self.set_aside(id));
    }

    /// Whether all other dataflows have completed an epoch, but those built on this one and those that are stuck as well.
    fn others_have_completed(&self, flow_idx: usize, epoch: Epoch) -> bool {
        let mut above = HashSet::from([self.flows[flow_idx].live.id]);
        let imports = &self.flows[flow_idx].imports;
        self.flows.iter().enumerate().all(|(i, flow)| {
            if i == flow_idx {
                return true;
            }
            if flow.imports.iter().any(|id| above.contains(id)) {
                above.insert(flow.live.id);
                return true;
            }
            let is_stuck = flow.open_since.is_some_and(|(_, since)| since.elapsed() >= self.max_stall);
            !flow.follows()
                || is_stuck && !imports.contains(&flow.live.id)
                || flow.live.sealed() >= epoch.min(flow.live.last_touched())
        })
    }

    /// Whether somebody else waits for what a dataflow has in flight: writers of what it reads, other dataflows over it, or
    /// their readers. Sources that are read for it alone, and for those built on it, wait for it and for nothing else.
    fn keeps_others_waiting(&self, flow_idx: usize) -> bool {
        let imports = &self.flows[flow_idx].imports;
        if imports.iter().any(|id| self.bases.get(id).is_none_or(|base| base.source.is_none())) {
            return true;
        }
        let mut above = HashSet::from([self.flows[flow_idx].live.id]);
        self.flows.iter().any(|flow| {
            if above.contains(&flow.live.id) || flow.imports.iter().any(|id| above.contains(id)) {
                above.insert(flow.live.id);
                return flow.imports.iter().any(|id| !above.contains(id) && !imports.contains(id));
            }
            flow.imports.iter().any(|id| imports.contains(id))
        })
    }

    /// A dataflow, and those built on it, get no more epochs: they catch up in rounds.
    fn set_aside(&mut self, id: RelationId) {
        let epoch = self.last_epoch;
        let mut aside = HashSet::from([id]);
        for i in 0..self.flows.len() {
            let flow = &self.flows[i];
            let is_meant = flow.live.id == id || flow.imports.iter().any(|i| aside.contains(i));
            if !is_meant || !flow.follows() {
                continue;
            }
            let (id, imports) = (flow.live.id, flow.imports.clone());
            aside.insert(id);
            let mut holds = match self.hold(&imports, epoch) {
                Ok(holds) => holds,
                Err(error) => {
                    tracing::error!(relation = %id, %error, "a dataflow that stalls cannot be set aside");
                    continue;
                }
            };
            tracing::warn!(relation = %self.flows[i].live.relation.name, %epoch, "a dataflow stalls and is set aside");
            let positions = self.positions_of(&imports);
            let flow = &mut self.flows[i];
            flow.stalls_since = None;
            // A last round that it has not taken in yet needs what it held until now.
            holds.extend(flow.catching_up.take().into_iter().flat_map(|c| c.holds));
            flow.catching_up = Some(CatchUp::from(epoch, positions, holds));
            flow.live.set_stage(Stage::CatchingUp);
            let owner = flow.owner;
            if flow.is_being_saved {
                self.stalls_checkpoint(owner);
            }
            self.workers.send_all(|_| Command::SetAside(id));
        }
    }

    /// A dataflow has failed: its state and that of all built on it is freed, and all say why.
    pub(super) fn fail_flow(&mut self, id: RelationId, epoch: Epoch, cause: &Error) {
        let Some(origin) = self.clock.relation(id) else { return };
        if self.flows.iter().any(|f| f.live.id == id && epoch < f.start) {
            // Another worker's word of a failure that the view has been refreshed after.
            return;
        }
        let mut failed = HashSet::from([id]);
        let mut ended = vec![Arc::clone(&origin)];
        for flow in self.flows.iter().filter(|f| f.live.id != id) {
            if flow.imports.iter().any(|i| failed.contains(i)) {
                failed.insert(flow.live.id);
                ended.push(Arc::clone(&flow.live));
            }
        }
        self.flows.retain(|f| !failed.contains(&f.live.id));
        for live in ended {
            let id = live.id;
            let origin = (id != origin.id).then(|| Arc::clone(&origin.relation));
            live.fail(Failed { epoch, cause: cause.clone(), origin });
            self.workers.send_all(|_| Command::Drop(id));
            live.shared.forget_readers();
            self.will_be_freed(&live);
        }
    }

    /// A dataflow computes what its view does not say any more: it, and all built on it, answer with that until they are
    /// rebuilt.
    pub(crate) fn make_stale(&mut self, id: RelationId, cause: &Error) {
        if let Some(live) = self.forget_to_start(id) {
            live.fail(Failed { epoch: self.last_epoch, cause: cause.clone(), origin: None });
        }
        let start = self.flows.iter().find(|f| f.live.id == id).map(|f| f.start);
        if let Some(start) = start {
            self.fail_flow(id, self.last_epoch.max(start), cause);
        }
    }

    /// Notes that a relation has ended, while its state is still there.
    pub(super) fn will_be_freed(&mut self, live: &LiveRelation) {
        let account = &live.shared.account;
        self.freeing.retain(|known| known.used() > 0 && !Arc::ptr_eq(known, account));
        self.freeing.push(Arc::clone(account));
    }

    /// All state together has passed its limit: the largest dataflow fails.
    pub(super) fn relieve_memory(&mut self, epoch: Epoch) {
        // What is freed soon makes room: nothing else has to fail for it.
        let freed_soon: usize = self.freeing.iter().map(|account| account.used()).sum();
        if self.memory.limit().is_none_or(|limit| self.memory.pinned().saturating_sub(freed_soon) <= limit) {
            return;
        }
        let largest = self.flows.iter().max_by_key(|f| f.live.shared.account.pinned());
        let Some((largest, start)) = largest.map(|f| (Arc::clone(&f.live), f.start)) else { return };
        let detail = format!(
            "State that cannot be spilled takes {} bytes, and its limit is {} bytes; this view's takes {} bytes, more than \
             any other's.",
            self.memory.pinned(),
            self.memory.limit().unwrap_or(usize::MAX),
            largest.shared.account.pinned()
        );
        let cause = Error::out_of_memory("the memory limit of the server was reached").with_detail(detail);
        tracing::error!(relation = %largest.relation.name, error = %cause, "a dataflow has failed");
        self.fail_flow(largest.id, epoch.max(start), &cause);
    }
}

/// Since when something is so that is so now, if it is; told apart by the epoch that it is about.
fn since(now: Option<Epoch>, before: Option<(Epoch, Instant)>) -> Option<(Epoch, Instant)> {
    let epoch = now?;
    before.filter(|(e, _)| *e == epoch).or_else(|| Some((epoch, Instant::now())))
}
