//! The settings under which the statement that this thread is planning reads constants.
//!
//! Constants of unknown type get their type deep inside of the resolution of types, wherever an operator or a function
//! wants one; all of that runs on one thread, within [`under`].

use std::cell::{Cell, RefCell};

use millstream_types::pg::FormatSettings;

thread_local! {
    static FOLDS: Cell<bool> = const { Cell::new(false) };
    static SETTINGS: RefCell<FormatSettings> = RefCell::default();
}

/// Plans something under a session's settings.
pub(crate) fn under<T>(settings: &FormatSettings, plan: impl FnOnce() -> T) -> T {
    /// Puts back what was there, also after a panic.
    struct Before(FormatSettings);
    impl Drop for Before {
        fn drop(&mut self) {
            SETTINGS.with(|s| std::mem::swap(&mut *s.borrow_mut(), &mut self.0));
        }
    }
    // A plan may be kept, so no constant means the present.
    let settings = FormatSettings { now_us: None, ..settings.clone() };
    let _before = Before(SETTINGS.with(|s| s.replace(settings)));
    plan()
}

/// The settings of the statement that is being planned.
pub(crate) fn settings() -> FormatSettings {
    SETTINGS.with(|s| s.borrow().clone())
}

/// Runs rules that fold constants.
pub(crate) fn folding<T>(optimize: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            FOLDS.set(self.0);
        }
    }
    let _before = Before(FOLDS.replace(true));
    optimize()
}

/// Whether this thread folds constants: what is computed then is kept in a plan, so it must not be large.
pub(crate) fn folds() -> bool {
    FOLDS.get()
}
