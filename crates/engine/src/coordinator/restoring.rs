//! After a start: dataflows come back from the state that the last checkpoint has of them, one after the other, while all
//! that is back answers and takes writes.
//!
//! ```text
//!   Waiting ──▶ Reading ──────────▶ Read ────────────────▶ it follows its inputs
//!   its turn    on all workers      rounds, as for one that
//!                                   has fallen behind
//! ```
//!
//! From before the log is done again its inputs are held as of the checkpoint. Until all are back no checkpoint is written,
//! so the last one and the log after it stay what a next start would go on from.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use millstream_planner::RelationId;
use millstream_runtime::{Command, InstallDataflow, RestoredDataflow};
use millstream_types::{Error, Result};

use super::Coordinator;
use super::flows::{CatchUp, Flow, Start};
use crate::checkpoints::Restored;
use crate::live::{Body, Failed, LiveRelation, Stage};
use crate::session::BuildDataflow;
use crate::start_progress::StartProgress;

/// What a byte of a checkpoint takes in memory, more or less.
const SAVED_BYTES: usize = 3;

/// How far a start is with dataflows that come back.
#[derive(Debug)]
pub(crate) struct RestoreProgress {
    /// Bytes of their state that are read.
    pub(crate) read: StartProgress,
    /// Those that are back.
    n_back: AtomicUsize,
    /// Those that are not, and have not failed either.
    n_to_come: AtomicUsize,
    /// When the last one was back, in microseconds from the beginning; 0 before that.
    took_us: AtomicU64,
}

impl RestoreProgress {
    pub(crate) fn new() -> Arc<Self> {
        let (n_back, n_to_come, took_us) = Default::default();
        Arc::new(RestoreProgress { read: StartProgress::of("the state of views"), n_back, n_to_come, took_us })
    }

    pub(crate) fn n_back(&self) -> usize {
        self.n_back.load(Relaxed)
    }

    pub(crate) fn n_to_come(&self) -> usize {
        self.n_to_come.load(Relaxed)
    }

    /// How long it took until the last one was back, once it is; `None` if there was none.
    pub(crate) fn took(&self) -> Option<Duration> {
        Some(Duration::from_micros(self.took_us.load(Relaxed))).filter(|took| !took.is_zero())
    }
}

/// Dataflows that come back, as the coordinator knows them.
pub(super) struct Restoring {
    /// What they are read from, which is there for as long as this.
    _checkpoint: Arc<Restored>,
    began: Instant,
    progress: Arc<RestoreProgress>,
}

/// A dataflow that comes back.
pub(super) struct ComingBack {
    stage: ReadStage,
    /// Bytes of its state.
    n_bytes: u64,
    /// The indexes that its rows are to have, if that has been said.
    indexes: Option<Vec<Vec<usize>>>,
}

enum ReadStage {
    /// It waits for its turn.
    Waiting(Arc<InstallDataflow>),
    /// So many workers have still to read it.
    Reading(Arc<InstallDataflow>, usize),
    /// It has its state, and takes in what came after, in rounds.
    Read { has_round: bool },
}

impl ComingBack {
    fn is_read(&self) -> bool {
        matches!(self.stage, ReadStage::Read { .. })
    }

    /// A round begins; returns whether it is the first.
    pub(super) fn begins_first_round(&mut self) -> bool {
        match &mut self.stage {
            ReadStage::Read { has_round } => !std::mem::replace(has_round, true),
            ReadStage::Waiting(_) | ReadStage::Reading(..) => false,
        }
    }
}

/// A dataflow that is to be made anew once what it reads is back.
pub(super) struct ToStart {
    live: Arc<LiveRelation>,
    imports: Vec<RelationId>,
    build: BuildDataflow,
    indexes: Option<Vec<Vec<usize>>>,
}

impl Coordinator {
    /// Has a dataflow come back from the state that a checkpoint has of it. Its inputs are as of the same epoch, and are held
    /// there from now on.
    ///
    /// # Errors
    /// Internal, if its inputs are not there.
    pub(crate) fn restore_dataflow(
        &mut self,
        live: Arc<LiveRelation>,
        imports: Vec<RelationId>,
        build: BuildDataflow,
        checkpoint: &Arc<Restored>,
        owner: u64,
        progress: &Arc<RestoreProgress>,
    ) -> Result<()> {
        let header = checkpoint.header();
        let epoch = header.epoch;
        let n_bytes = checkpoint.n_bytes_of(owner);
        let catching_up = CatchUp::from(epoch, self.positions_of(&imports), self.hold(&imports, epoch)?);
        let offsets = imports.iter().map(|_| None).collect();
        let restored = Some(restored_dataflow(&live, checkpoint, owner, progress));
        let install = Arc::new(build(Start { header, offsets, restored }));
        self.clock.relations.write().insert(live.id, Arc::clone(&live));
        live.touch(epoch);
        live.set_stage(Stage::Restoring);
        if let Body::Dataflow { intake, .. } = &live.body {
            intake.restart();
            intake.expect(n_bytes);
        }
        progress.read.expect(n_bytes);
        let coming_back = ComingBack { stage: ReadStage::Waiting(install), n_bytes, indexes: None };
        let mut flow = Flow::new(live, imports, epoch, Some(catching_up), owner);
        flow.coming_back = Some(coming_back);
        self.flows.push(flow);
        let (checkpoint, progress) = (Arc::clone(checkpoint), Arc::clone(progress));
        self.restoring.get_or_insert_with(|| Restoring { _checkpoint: checkpoint, began: Instant::now(), progress });
        Ok(())
    }

    /// Makes a dataflow anew as soon as what it reads is back.
    pub(crate) fn start_when_back(&mut self, live: Arc<LiveRelation>, imports: Vec<RelationId>, build: BuildDataflow) {
        self.clock.relations.write().insert(live.id, Arc::clone(&live));
        self.to_start.push(ToStart { live, imports, build, indexes: None });
    }

    /// Whether some dataflow is not back yet.
    pub(super) fn is_restoring(&self) -> bool {
        self.restoring.is_some()
    }

    /// Whether some dataflow is made when what it reads is back.
    pub(super) fn has_to_start(&self) -> bool {
        !self.to_start.is_empty()
    }

    /// Whether the next dataflow can be read, or one be made.
    pub(super) fn has_restore_to_drive(&self) -> bool {
        self.next_to_read().is_some() || self.to_start.iter().any(|to_start| self.can_start(to_start))
    }

    /// Goes on with dataflows that come back, and with those that wait for them.
    pub(crate) fn drive_restore(&mut self) {
        if let Some(i) = self.next_to_read() {
            self.read_state(i);
        }
        while let Some(i) = self.to_start.iter().position(|to_start| self.can_start(to_start)) {
            let to_start = self.to_start.remove(i);
            self.start_now(to_start);
        }
        let Some(restoring) = &self.restoring else { return };
        let n_to_come = self.flows.iter().filter(|flow| flow.coming_back.is_some()).count();
        restoring.progress.n_to_come.store(n_to_come, Relaxed);
        if n_to_come == 0 {
            let took = restoring.began.elapsed();
            restoring.progress.took_us.store(took.as_micros().max(1) as u64, Relaxed);
            tracing::info!(n_back = restoring.progress.n_back(), ?took, "all views are back");
            // Its files may go.
            self.restoring = None;
        }
    }

    /// The dataflow that is read next, if none is being read: what it reads is, and of those somebody waits for it, or it is
    /// the smallest. The first ones answer soon then.
    fn next_to_read(&self) -> Option<usize> {
        self.restoring.as_ref()?;
        let coming_back = || self.flows.iter().filter_map(|flow| Some((flow, flow.coming_back.as_ref()?)));
        if coming_back().any(|(_, c)| matches!(c.stage, ReadStage::Reading(..))) {
            return None;
        }
        let wanted = self.waited_for();
        let is_unread = |id: &RelationId| coming_back().any(|(flow, c)| flow.live.id == *id && !c.is_read());
        let waiting = self.flows.iter().enumerate().filter_map(|(i, flow)| {
            let coming_back = flow.coming_back.as_ref()?;
            let waits = matches!(coming_back.stage, ReadStage::Waiting(_)) && !flow.imports.iter().any(is_unread);
            waits.then_some((!wanted.contains(&flow.live.id), coming_back.n_bytes, i))
        });
        waiting.min().map(|(.., i)| i)
    }

    /// What somebody waits for that is not back, and what that reads.
    fn waited_for(&self) -> HashSet<RelationId> {
        let coming_back = self.flows.iter().filter(|flow| flow.coming_back.is_some());
        let coming_back = coming_back.map(|flow| (&flow.live, &flow.imports));
        let all: Vec<_> = coming_back.chain(self.to_start.iter().map(|later| (&later.live, &later.imports))).collect();
        let is_waited_for = all.iter().filter(|(live, _)| live.is_waited_for());
        let mut wanted: HashSet<RelationId> = is_waited_for.map(|(live, _)| live.id).collect();
        loop {
            let of_wanted = all.iter().filter(|(live, _)| wanted.contains(&live.id));
            let read: Vec<RelationId> = of_wanted.flat_map(|(_, imports)| imports.iter().copied()).collect();
            let n_before = wanted.len();
            wanted.extend(read);
            if wanted.len() == n_before {
                return wanted;
            }
        }
    }

    fn read_state(&mut self, flow_idx: usize) {
        let n_workers = self.workers.len();
        let Some(coming_back) = &mut self.flows[flow_idx].coming_back else { return };
        let ReadStage::Waiting(install) = &coming_back.stage else { return };
        let install = Arc::clone(install);
        coming_back.stage = ReadStage::Reading(Arc::clone(&install), n_workers);
        self.workers.send_all(|_| Command::Restore(Arc::clone(&install)));
    }

    /// A worker has read the state of a dataflow. When all have, it goes on from there.
    pub(super) fn note_read(&mut self, id: RelationId) {
        // It may have been dropped, or have failed.
        let Some(flow) = self.flows.iter_mut().find(|flow| flow.live.id == id) else { return };
        let Some(ComingBack { stage, indexes, .. }) = &mut flow.coming_back else { return };
        let ReadStage::Reading(install, n_missing) = stage else { return };
        *n_missing -= 1;
        if *n_missing > 0 {
            return;
        }
        let (install, indexes) = (Arc::clone(install), indexes.take());
        *stage = ReadStage::Read { has_round: false };
        flow.live.set_stage(Stage::Replaying);
        if let Body::Dataflow { intake, .. } = &flow.live.body {
            intake.restart();
        }
        self.workers.send_all(|_| Command::Install(Arc::clone(&install)));
        self.say_indexes(id, indexes);
    }

    fn say_indexes(&self, id: RelationId, indexes: Option<Vec<Vec<usize>>>) {
        if let Some(indexes) = indexes {
            self.workers.send_all(|_| Command::SetIndexes(id, indexes.clone()));
        }
    }

    /// A dataflow follows its inputs; if it was coming back it is back.
    pub(super) fn note_back(&mut self, flow_idx: usize) {
        let flow = &mut self.flows[flow_idx];
        let (Some(coming_back), Some(restoring)) = (flow.coming_back.take(), &self.restoring) else { return };
        restoring.progress.n_back.fetch_add(1, Relaxed);
        let took = restoring.began.elapsed();
        tracing::info!(relation = %flow.live.relation.name, n_bytes = coming_back.n_bytes, ?took, "a view is back");
    }

    /// Where to note the indexes of what has no rows yet.
    pub(super) fn later_indexes(&mut self, id: RelationId) -> Option<&mut Option<Vec<Vec<usize>>>> {
        let flow = self.flows.iter_mut().find(|flow| flow.live.id == id);
        let coming_back = flow.and_then(|flow| flow.coming_back.as_mut()).filter(|coming_back| !coming_back.is_read());
        let to_start = self.to_start.iter_mut().find(|to_start| to_start.live.id == id);
        coming_back.map(|c| &mut c.indexes).or(to_start.map(|to_start| &mut to_start.indexes))
    }

    /// What waits to be made is not wanted any more; returns it, if it waits.
    pub(super) fn forget_to_start(&mut self, id: RelationId) -> Option<Arc<LiveRelation>> {
        let i = self.to_start.iter().position(|to_start| to_start.live.id == id)?;
        Some(self.to_start.remove(i).live)
    }

    /// Whether all is back that a dataflow reads, or has failed.
    fn can_start(&self, to_start: &ToStart) -> bool {
        let is_awaited = |id: &RelationId| {
            let waits = self.to_start.iter().any(|other| other.live.id == *id && other.live.failure().is_none());
            waits || self.clock.relation(*id).is_some_and(|input| input.is_coming_back())
        };
        !to_start.imports.iter().any(is_awaited)
    }

    fn start_now(&mut self, to_start: ToStart) {
        let ToStart { live, imports, build, indexes } = to_start;
        let check = |id: &RelationId| {
            let input = self.clock.relation(*id);
            input.ok_or_else(|| Error::internal(format!("relation {id} is missing")))?.check()
        };
        let checked = imports.iter().try_for_each(check);
        let started = checked.and_then(|()| self.install(Arc::clone(&live), imports, build));
        match started {
            Ok(()) => self.say_indexes(live.id, indexes),
            Err(cause) => {
                tracing::error!(relation = %live.relation.name, error = %cause, "a view could not be started again");
                live.fail(Failed {
                    epoch: self.last_made().max(millstream_types::Epoch::ZERO.next()),
                    cause,
                    origin: None,
                });
            }
        }
    }
}

/// What workers read of a dataflow's state; its progress is told.
fn restored_dataflow(
    live: &LiveRelation,
    checkpoint: &Arc<Restored>,
    owner: u64,
    progress: &Arc<RestoreProgress>,
) -> RestoredDataflow {
    // What a dataflow was installed with is there as long as it is, and must not keep the checkpoint's files.
    let upgrade = |checkpoint: &Weak<Restored>| {
        checkpoint.upgrade().ok_or_else(|| Error::internal("a dataflow is restored after the start"))
    };
    let intake = match &live.body {
        Body::Dataflow { intake, .. } => Arc::clone(intake),
        _ => Arc::default(),
    };
    let (of_intake, of_start) = (Arc::clone(&intake), Arc::clone(progress));
    let took = Arc::new(move |n_bytes: u64| {
        of_intake.took(n_bytes);
        of_start.read.advance(n_bytes);
    });
    let (of_state, state_took) = (Arc::downgrade(checkpoint), Arc::clone(&took));
    let of_rows = Arc::downgrade(checkpoint);
    RestoredDataflow {
        state: Box::new(move |partitions, node| upgrade(&of_state)?.state(owner, node, partitions, &*state_took)),
        rows: Box::new(move |partitions| upgrade(&of_rows)?.view_rows(owner, partitions, &*took)),
        n_bytes: usize::try_from(checkpoint.n_bytes_of(owner)).unwrap_or(usize::MAX).saturating_mul(SAVED_BYTES),
    }
}
