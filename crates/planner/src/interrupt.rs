//! Stopping a statement while it is planned: whoever plans says what to ask, and planning asks it every now and then.

use std::cell::RefCell;
use std::sync::Arc;

use datafusion::common::DataFusionError;
use millstream_types::Result;

use crate::binder::external;

/// Fails if the statement is to stop.
pub type Stop = Arc<dyn Fn() -> Result<()> + Send + Sync>;

thread_local! {
    static STOP: RefCell<Option<Stop>> = const { RefCell::new(None) };
}

/// Does something on this thread that ends with the error of `stop` soon after that fails.
pub fn under<T>(stop: &Stop, plan: impl FnOnce() -> T) -> T {
    /// Puts back what was there, also after a panic.
    struct Before(Option<Stop>);
    impl Drop for Before {
        fn drop(&mut self) {
            STOP.set(self.0.take());
        }
    }
    let _before = Before(STOP.replace(Some(Arc::clone(stop))));
    plan()
}

/// Fails if the statement that this thread plans is to stop.
pub(crate) fn check() -> std::result::Result<(), DataFusionError> {
    STOP.with_borrow(|stop| stop.as_ref().map_or(Ok(()), |stop| stop())).map_err(external)
}
