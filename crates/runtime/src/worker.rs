//! A worker: a thread that runs its share of every dataflow and keeps its partitions of every relation.

mod feed;
mod relief;
mod restore;
mod state;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Thread;
use std::time::Duration;

use millstream_state::ColdStore;
use millstream_types::deep_stack::on_own_stack;
use millstream_types::{Error, Result};
use parking_lot::Mutex;
use timely::WorkerConfig;
use timely::communication::WorkerGuards;

use crate::command::{Command, Events};
use crate::quanta::Quanta;
use feed::Fed;
use relief::{ASLEEP_FOR, Relieved};
use state::WorkerState;

/// How long a worker waits before it looks again whether a dataflow can take more.
const BACKED_UP_FOR: Duration = Duration::from_micros(100);

/// All workers, as the coordinator holds them. Dropping it ends them.
pub struct Workers {
    senders: Vec<(Sender<Command>, Thread)>,
    guards: Mutex<Option<WorkerGuards<()>>>,
}

impl Workers {
    /// The number of workers.
    pub fn len(&self) -> usize {
        self.senders.len()
    }

    /// Whether there are none, which never is.
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }

    /// Gives a command to a worker. A worker that has ended ignores it.
    pub fn send(&self, worker: usize, command: Command) {
        let (sender, thread) = &self.senders[worker];
        if sender.send(command).is_ok() {
            thread.unpark();
        }
    }

    /// Gives each worker a command.
    pub fn send_all(&self, mut command: impl FnMut(usize) -> Command) {
        (0..self.len()).for_each(|worker| self.send(worker, command(worker)));
    }

    /// Ends all workers and waits for them.
    pub fn shutdown(&self) {
        if let Some(guards) = self.guards.lock().take() {
            self.send_all(|_| Command::Shutdown);
            // A worker that panicked has been reported through `Events::worker_lost`.
            drop(guards.join());
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Starts workers. State that memory has no room for goes to `spill`, if it may go anywhere.
///
/// # Errors
/// Internal, if threads cannot be started.
pub fn start(n_workers: usize, events: Arc<dyn Events>, spill: Option<Arc<dyn ColdStore>>) -> Result<Workers> {
    let (receivers, senders): (Vec<_>, Vec<_>) = (0..n_workers).map(|_| channel()).map(|(s, r)| (Some(r), s)).unzip();
    let receivers = Mutex::new(receivers);
    let (threads_send, threads) = channel();
    let config = timely::Config {
        communication: if n_workers == 1 {
            timely::CommunicationConfig::Thread
        } else {
            timely::CommunicationConfig::Process(n_workers)
        },
        worker: WorkerConfig::default(),
    };
    let guards = timely::execute(config, move |timely| {
        let index = timely.index();
        let receiver = receivers.lock()[index].take().expect("each worker starts once");
        // The receiver lives as long as `start` runs.
        let _ = threads_send.send((index, std::thread::current()));
        // Expressions of views may nest deeply.
        let work =
            std::panic::AssertUnwindSafe(|| on_own_stack(|| run(timely, Arc::clone(&events), receiver, spill.clone())));
        if std::panic::catch_unwind(work).is_err() {
            events.worker_lost(index, Error::internal("a worker panicked outside of any dataflow"));
        }
    });
    let guards = guards.map_err(|e| Error::internal(format!("workers did not start: {e}")))?;
    let mut by_index: Vec<(usize, Thread)> = threads.iter().take(n_workers).collect();
    by_index.sort_by_key(|(index, _)| *index);
    let senders = senders.into_iter().zip(by_index).map(|(sender, (_, thread))| (sender, thread)).collect();
    Ok(Workers { senders, guards: Mutex::new(Some(guards)) })
}

/// A worker's life.
fn run(
    timely: &mut timely::worker::Worker,
    events: Arc<dyn Events>,
    commands: Receiver<Command>,
    spill: Option<Arc<dyn ColdStore>>,
) {
    let quanta = Quanta::default();
    let state = WorkerState::new(timely.index(), timely.peers(), events, commands, quanta.clone(), spill);
    let state = Rc::new(RefCell::new(state));
    let served = Rc::downgrade(&state);
    // Within a step nobody else has borrowed the state.
    quanta.set_serve(Box::new(move || served.upgrade().is_some_and(|state| state.borrow_mut().serve())));
    loop {
        quanta.begin();
        loop {
            let next = state.borrow_mut().next_command();
            match next {
                Some(Command::Shutdown) => return end(timely, &state),
                Some(command) => state.borrow_mut().handle(timely, command),
                None => break,
            }
        }
        let is_building = state.borrow_mut().build_indexes();
        let is_restoring = state.borrow_mut().restore();
        let relieved = state.borrow_mut().relieve();
        let wait = match state.borrow_mut().feed_all() {
            _ if is_building || is_restoring || relieved == Relieved::More => Some(Duration::ZERO),
            Fed::More => Some(Duration::ZERO),
            Fed::BackedUp => Some(BACKED_UP_FOR),
            Fed::All if relieved == Relieved::Short => Some(ASLEEP_FOR),
            Fed::All => None,
        };
        // A command wakes the thread, as a message of another worker does.
        timely.step_or_park(wait);
        state.borrow_mut().take_outbox();
    }
}

/// Drops all dataflows, which timely would otherwise wait for.
fn end(timely: &mut timely::worker::Worker, state: &Rc<RefCell<WorkerState>>) {
    state.borrow_mut().forget_dataflows();
    for index in timely.installed_dataflows() {
        timely.drop_dataflow(index);
    }
}
