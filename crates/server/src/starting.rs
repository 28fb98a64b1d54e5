//! A server that listens before its engine is there: clients get through at once, and are told how far it is.

use std::sync::{Arc, OnceLock};

use millstream_engine::{Engine, Session, StartProgress};
use millstream_types::{Error, ErrorKind, Result, SqlState};

use crate::Backend;

/// 57P03: cannot connect now.
const STARTING_UP: SqlState = SqlState("57P03");

/// The engine, from when it has started on.
#[derive(Clone, Default)]
pub struct StartingEngine {
    engine: Arc<OnceLock<Engine>>,
    progress: Arc<StartProgress>,
}

impl StartingEngine {
    /// How far it is.
    pub fn progress(&self) -> Arc<StartProgress> {
        Arc::clone(&self.progress)
    }

    /// It has started: clients are let in from here on.
    pub fn has_started(&self, engine: Engine) {
        // It starts once.
        let _ = self.engine.set(engine);
    }

    fn not_yet(&self) -> Error {
        let doing = match self.progress.shown() {
            Some(shown) => format!("It takes in what is on the disk: {shown}."),
            None => "It looks at what is on the disk.".to_owned(),
        };
        Error::new(ErrorKind::Resource, STARTING_UP, "the database system is starting up").with_detail(doing)
    }
}

impl Backend for StartingEngine {
    type Session = Session;

    fn session(&self, user: &str, database: &str, params: &[(String, String)]) -> Result<Session> {
        match self.engine.get() {
            Some(engine) => engine.session(user, database, params),
            None => Err(self.not_yet()),
        }
    }
}
