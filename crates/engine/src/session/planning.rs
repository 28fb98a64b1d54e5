//! What a statement does on the thread that serves its connection, above all planning: with a stack that is deep enough, in
//! nobody's way, and stopped by a cancel request or `statement_timeout`.

use std::sync::Arc;

use millstream_planner::interrupt::{self, Stop};
use millstream_types::Error;
use millstream_types::deep_stack::{on_deep_stack, on_own_stack};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

use super::timeout;
use crate::api::CancelHandle;

/// The text of a statement that may take long to plan is longer, or nests more brackets. Others are planned before they could
/// be in the way.
const SHORT_TEXT_BYTES: usize = 1_024;
const FEW_BRACKETS: usize = 16;
/// The text of a statement that nests more deeply than the thread's own stack allows is longer.
const SHALLOW_TEXT_BYTES: usize = 2_048;

/// How a statement is worked on.
pub(super) struct Planning {
    stop: Stop,
    text_bytes: usize,
    may_take_long: bool,
}

impl Planning {
    pub(super) fn new(text: &str, cancel: &CancelHandle, deadline: Option<Instant>) -> Self {
        let cancel = cancel.clone();
        let stop = move || {
            if cancel.is_cancelled() {
                return Err(Error::cancelled());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(timeout::error());
            }
            Ok(())
        };
        Planning { stop: Arc::new(stop), text_bytes: text.len(), may_take_long: may_take_long(text) }
    }

    /// Does a part of the statement's work, which may take its time.
    pub(super) fn work<T>(&self, work: impl FnOnce() -> T) -> T {
        let work = || interrupt::under(&self.stop, work);
        let work = || if self.text_bytes > SHALLOW_TEXT_BYTES { on_own_stack(work) } else { on_deep_stack(work) };
        if !self.may_take_long {
            return work();
        }
        // Other connections of this thread are served by another one meanwhile.
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
            _ => work(),
        }
    }
}

fn may_take_long(text: &str) -> bool {
    let n_brackets = || text.bytes().filter(|byte| *byte == b'(').count();
    text.len() > SHORT_TEXT_BYTES || n_brackets() > FEW_BRACKETS
}
