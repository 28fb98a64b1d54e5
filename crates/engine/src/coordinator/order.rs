//! The write order: who writes next, and how one transaction may keep it for itself for a while.
//!
//! A statement or transaction that keeps failing because what it reads changes takes hold of the order before it reads
//! again. Until it commits, gives the hold back or has had it for too long, other writes wait, in the order in which they
//! came, and sources do not advance; reads, DDL and everything else go on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream_types::Result;
use tokio::sync::oneshot;

use super::{Clock, Coordinator, Request, shutting_down};

/// A hold on the write order; dropping it gives it back.
pub(crate) struct OrderHold {
    clock: Arc<Clock>,
    id: u64,
}

impl OrderHold {
    /// Waits for the write order, to have it for a while at most.
    ///
    /// # Errors
    /// 57P01 if the engine is shutting down.
    pub(crate) async fn take(clock: &Arc<Clock>, at_most: Duration) -> Result<OrderHold> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        // Made before it is granted: who gives up waiting takes it back.
        let hold = OrderHold { clock: Arc::clone(clock), id: NEXT_ID.fetch_add(1, Ordering::Relaxed) };
        let (granted, receive) = oneshot::channel();
        clock.request(Request::HoldOrder { id: hold.id, at_most, granted })?;
        receive.await.map_err(|_| shutting_down())?;
        Ok(hold)
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for OrderHold {
    fn drop(&mut self) {
        // Without a coordinator there is no order to give back.
        let _ = self.clock.request(Request::ReleaseOrder(self.id));
    }
}

/// Who has the write order, and what waits for it.
#[derive(Default)]
pub(super) struct WriteOrder {
    held: Option<Held>,
    /// Writes and holds that came while it was held.
    waiting: VecDeque<Request>,
}

struct Held {
    id: u64,
    until: Instant,
}

impl WriteOrder {
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether a write may be resolved now.
    pub(super) fn admits(&self, hold: Option<u64>) -> bool {
        self.held.as_ref().is_none_or(|held| hold == Some(held.id))
    }

    /// Whether a write is the one for which the order is held.
    pub(super) fn is_holder(&self, hold: Option<u64>) -> bool {
        self.held.as_ref().is_some_and(|held| hold == Some(held.id))
    }

    pub(super) fn wait(&mut self, request: Request) {
        self.waiting.push_back(request);
    }

    /// The first request that waits, once nobody has the order.
    pub(super) fn next(&mut self) -> Option<Request> {
        if self.is_held() { None } else { self.waiting.pop_front() }
    }

    pub(super) fn grant(&mut self, id: u64, at_most: Duration, granted: oneshot::Sender<()>) {
        debug_assert!(!self.is_held(), "one at a time");
        // Who does not wait any more does not get it.
        if granted.send(()).is_ok() {
            self.held = Some(Held { id, until: Instant::now() + at_most });
        }
    }

    pub(super) fn release(&mut self, id: u64) {
        if self.held.as_ref().is_some_and(|held| held.id == id) {
            self.held = None;
        }
    }

    /// How long it is still held; a hold that has lasted long enough ends here.
    pub(super) fn remaining(&mut self) -> Option<Duration> {
        let remaining = self.held.as_ref()?.until.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            self.held = None;
            return None;
        }
        Some(remaining)
    }
}

impl Coordinator {
    /// The next request that is there.
    pub(super) fn take_request(&mut self) -> Option<Request> {
        self.order.next().or_else(|| self.requests.try_recv().ok())
    }
}
