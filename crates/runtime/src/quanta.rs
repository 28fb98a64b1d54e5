//! Turns on a worker's thread: between two calls of operators, commands that need nothing but the worker's relations are
//! served, so that none of them waits for all the work there is.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Work after which commands are looked at, and another operator gets its turn.
pub(crate) const QUANTUM: Duration = Duration::from_millis(1);

/// Serves commands, in their order, up to one that must wait for the end of the step; returns whether there is one.
type Serve = Box<dyn Fn() -> bool>;

/// A worker's turns; operators' adapters ask at each opportunity whether one is over.
#[derive(Clone, Default)]
pub(crate) struct Quanta(Rc<State>);

#[derive(Default)]
struct State {
    /// When commands were last looked at.
    since: Cell<Option<Instant>>,
    serve: RefCell<Option<Serve>>,
    /// A command waits for the end of the step.
    hurry: Cell<bool>,
}

impl Quanta {
    pub(crate) fn set_serve(&self, serve: Serve) {
        *self.0.serve.borrow_mut() = Some(serve);
    }

    /// Commands have just been looked at.
    pub(crate) fn begin(&self) {
        self.0.since.set(Some(Instant::now()));
        self.0.hurry.set(false);
    }

    /// Between two calls of operators: serves commands if it is time to. Returns whether the step is to end, for a
    /// command that needs the worker as a whole.
    pub(crate) fn turn(&self, now: Instant) -> bool {
        if self.0.hurry.get() {
            return true;
        }
        if self.0.since.get().is_some_and(|since| now.saturating_duration_since(since) < QUANTUM) {
            return false;
        }
        if let Some(serve) = &*self.0.serve.borrow() {
            self.0.hurry.set(serve());
        }
        self.0.since.set(Some(Instant::now()));
        self.0.hurry.get()
    }
}
