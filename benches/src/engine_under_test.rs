//! Where the Nexmark benchmark meets the engine: planner and runtime, driven as the coordinator drives them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use millstream_planner::ast::Name;
use millstream_planner::catalog::{Catalog, Column, Created, Kind, NewRelation, RelationId};
use millstream_planner::streaming::StreamingPlan;
use millstream_planner::{Purpose, bind_query, optimize, parser, streaming};
use millstream_runtime::{
    Account, Command, DataflowMetrics, EpochWork, Events, InFlight, InstallDataflow, Intake, Pressure, RelationInput,
    RelationShared, RelationSpec, Root, RowErrorLog, Sink, SinkWriter, Source, Workers,
};
use millstream_state::Holds;
use millstream_types::{Delta, Epoch, EpochHeader, Error, Result, SqlType};

/// Epochs in flight, as many as the coordinator allows a dataflow.
const IN_FLIGHT_MAX: usize = 3;

/// What the engine is to do.
pub struct Job {
    /// The query: one `SELECT`.
    pub sql: &'static str,
    /// The relations it reads, by name; offsets of all of them count the same events.
    pub sources: Vec<(&'static str, Arc<dyn Source>)>,
    /// Threads that share the work.
    pub n_workers: usize,
    /// Where the result goes.
    pub output: Output,
}

/// Where a query's changes go.
#[derive(Clone)]
pub enum Output {
    /// Every column is computed, and dropped.
    Blackhole,
    /// Every change is handed over, from whichever worker it comes.
    Observed(Arc<dyn Fn(&Delta) + Send + Sync>),
}

/// A query that is installed and waits for input.
pub struct EngineUnderTest {
    workers: Workers,
    /// The relations that each epoch brings rows to.
    sources: Vec<RelationId>,
    reports: Receiver<Report>,
    /// By worker, the last epoch that it has completed.
    completed: Vec<Epoch>,
    last: Epoch,
    errors: Arc<RowErrorLog>,
    /// The dataflow as `EXPLAIN` shows it.
    pub explain: Vec<String>,
    /// What each operator did.
    pub metrics: DataflowMetrics,
}

impl EngineUnderTest {
    /// Runs one epoch for each range of offsets, in order, and returns when the last is complete on all workers.
    ///
    /// As many epochs may be in flight as the engine allows when it is in use. The time of an epoch is that from taking
    /// its range to its completion on all workers.
    ///
    /// # Errors
    /// If the query fails.
    pub fn run(&mut self, epochs: &mut dyn Iterator<Item = Range<u64>>) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        let mut in_flight: VecDeque<(Epoch, Instant)> = VecDeque::new();
        let mut epochs = epochs.fuse();
        loop {
            while in_flight.len() < IN_FLIGHT_MAX
                && let Some(offsets) = epochs.next()
            {
                let started = Instant::now();
                in_flight.push_back((self.send(&offsets), started));
            }
            let Some(&(earliest, started)) = in_flight.front() else { break };
            if self.completed.iter().all(|epoch| *epoch >= earliest) {
                times.push(started.elapsed());
                in_flight.pop_front();
            } else {
                self.take_report()?;
            }
        }
        if !self.errors.is_empty() {
            let example = self.errors.entries().swap_remove(0);
            return Err(Error::internal(format!("{} rows failed", self.errors.len())).with_detail(example.message));
        }
        Ok(times)
    }

    fn send(&mut self, offsets: &Range<u64>) -> Epoch {
        self.last = self.last.next();
        let header = EpochHeader { epoch: self.last, now_us: 0 };
        let (len, n_workers) = (offsets.end - offsets.start, self.workers.len() as u64);
        let at = |worker: u64| offsets.start + len * worker / n_workers;
        self.workers.send_all(|worker| {
            let share = at(worker as u64)..at(worker as u64 + 1);
            let inputs = self.sources.iter().map(|id| (*id, RelationInput::Offsets(share.clone()))).collect();
            Command::Epoch(EpochWork { header: header.clone(), inputs })
        });
        self.last
    }

    /// Waits for one.
    fn take_report(&mut self) -> Result<()> {
        match self.reports.recv() {
            Ok(Report::Completed(worker, epoch)) => self.completed[worker] = epoch,
            Ok(Report::Failed(error)) => return Err(error),
            Err(_) => return Err(Error::internal("all workers have ended")),
        }
        Ok(())
    }
}

/// What a worker says.
enum Report {
    Completed(usize, Epoch),
    Failed(Error),
}

/// Passes on what workers say of the query; what they say of its sources does not matter.
struct Reporter {
    query: RelationId,
    reports: Sender<Report>,
}

impl Events for Reporter {
    fn completed(&self, relation: RelationId, worker: usize, epoch: Epoch) {
        if relation == self.query {
            // Nobody listens once the benchmark is over.
            let _ = self.reports.send(Report::Completed(worker, epoch));
        }
    }

    fn restored(&self, _: RelationId, _: usize) {}

    fn failed(&self, _: RelationId, _: Epoch, error: Error) {
        let _ = self.reports.send(Report::Failed(error));
    }

    fn memory_exceeded(&self, _: RelationId, _: Epoch) {
        let _ = self.reports.send(Report::Failed(Error::internal("memory has passed a limit that was not set")));
    }

    fn worker_lost(&self, _: usize, error: Error) {
        let _ = self.reports.send(Report::Failed(error));
    }
}

impl Sink for Output {
    fn open(&self, _: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(self.clone()))
    }
}

impl SinkWriter for Output {
    fn write(&mut self, _: Epoch, deltas: Vec<Delta>) -> Result<()> {
        match self {
            Output::Blackhole => drop(deltas),
            Output::Observed(observe) => deltas.iter().for_each(|delta| observe(delta)),
        }
        Ok(())
    }
}

/// Plans and installs the query.
///
/// # Errors
/// If the query cannot be planned.
pub fn start(job: Job) -> Result<EngineUnderTest> {
    let (mut catalog, sources) = declare(&job.sources)?;
    let plan = plan(&catalog, job.sql)?;
    let columns = plan.result.schema.fields().iter().map(|f| column_of(f)).collect::<Result<_>>()?;
    let query = create(&mut catalog, "q", NewRelation::new(Kind::Sink(None), columns))?;
    let (sender, reports) = channel();
    let workers = millstream_runtime::start(job.n_workers, Arc::new(Reporter { query, reports: sender }), None)?;
    let memory = Account::root(usize::MAX, usize::MAX);
    for (id, (_, source)) in sources.iter().zip(&job.sources) {
        let shared = Arc::new(RelationShared::new(job.n_workers, memory.part(None), Holds::new()));
        let spec = Arc::new(RelationSpec::Source { source: Arc::clone(source), shared });
        workers.send_all(|_| Command::CreateRelation(*id, Arc::clone(&spec)));
    }
    let epoch = Epoch::ZERO.next();
    let explain = plan.dataflow.explain();
    let metrics = DataflowMetrics::new(job.n_workers, plan.dataflow.nodes.len());
    let errors = Arc::new(RowErrorLog::default());
    let install = Arc::new(InstallDataflow {
        id: query,
        name: "q".to_owned(),
        offsets: plan.dataflow.imports().map(|_| Some(0..0)).collect(),
        pressure: Arc::new(Pressure::new(&plan.dataflow, job.n_workers, &InFlight::new(usize::MAX, job.n_workers))),
        intake: Arc::new(Intake::default()),
        account: memory.part(None),
        hook: None,
        dataflow: plan.dataflow,
        root: Root::Sink(Arc::new(job.output)),
        start: EpochHeader { epoch, now_us: 0 },
        restored: None,
        keeps: false,
        metrics: metrics.clone(),
        errors: Arc::clone(&errors),
    });
    workers.send_all(|_| Command::Install(Arc::clone(&install)));
    let completed = vec![Epoch::ZERO; job.n_workers];
    let mut engine = EngineUnderTest { workers, sources, reports, completed, last: epoch, errors, explain, metrics };
    while engine.completed.iter().any(|completed| *completed < epoch) {
        engine.take_report()?;
    }
    engine.workers.send_all(|_| Command::Follow(query));
    Ok(engine)
}

/// A catalog with the sources as streams, and their ids.
fn declare(sources: &[(&'static str, Arc<dyn Source>)]) -> Result<(Catalog, Vec<RelationId>)> {
    let mut catalog = Catalog::new();
    let mut ids = Vec::new();
    for (name, source) in sources {
        let columns = source.schema().fields().iter().map(|f| column_of(f)).collect::<Result<_>>()?;
        let stream = NewRelation {
            append_only: true,
            options: vec![("connector".to_owned(), "nexmark".to_owned())],
            ..NewRelation::new(Kind::Stream, columns)
        };
        ids.push(create(&mut catalog, name, stream)?);
    }
    Ok((catalog, ids))
}

fn create(catalog: &mut Catalog, name: &str, new: NewRelation) -> Result<RelationId> {
    let name = Name { schema: None, name: name.to_owned(), position: 0 };
    match catalog.create(&name, false, new)? {
        Created::New(relation) | Created::Replaced(relation) => Ok(relation.id),
        Created::Exists(_) => Err(Error::internal("a relation was declared twice")),
    }
}

fn column_of(field: &arrow::datatypes::Field) -> Result<Column> {
    let sql_type = SqlType::of_arrow(field.data_type())
        .ok_or_else(|| Error::internal(format!("column {} has no SQL type", field.name())))?;
    Ok(Column::new(field.name(), sql_type))
}

fn plan(catalog: &Catalog, sql: &str) -> Result<StreamingPlan> {
    let query = parser::parse_query(sql)?;
    let bound = bind_query(catalog, &query, &[], Purpose::View)?;
    streaming::plan(&optimize(bound.plan, Purpose::View, None)?, &bound.columns, &[])
}
