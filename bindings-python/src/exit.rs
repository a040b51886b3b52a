//! The end of the interpreter while other threads run event loops.
//!
//! Up to CPython 3.13, a thread that takes the interpreter's lock while the interpreter ends is ended by
//! `pthread_exit`, which unwinds the frames of this module if they are below: what these drop would be
//! dropped without the lock. So from `atexit` on, threads that come by wait here for the process to
//! end, as CPython 3.14 has them do itself, and `atexit` waits for those that are inside.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use pyo3::prelude::*;

use crate::engine::this_thread;

/// How long to wait for threads that are inside. Handlers that are called inline may take any time.
const PATIENCE: Duration = Duration::from_secs(1);

/// The thread that ends the interpreter, 0 before that.
static EXITING: AtomicUsize = AtomicUsize::new(0);
/// How many calls are under way that may run Python code.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// A call that may run Python code.
pub(crate) struct Inside(());

impl Inside {
    pub(crate) fn enter(py: Python<'_>) -> Inside {
        let inside = Inside::begin();
        let exiting = EXITING.load(SeqCst);
        if exiting != 0 && exiting != this_thread() {
            drop(inside);
            py.detach(|| {
                loop {
                    thread::park();
                }
            });
            return Inside::begin();
        }
        inside
    }

    /// For a thread that is not the interpreter's and is about to attach to it. None when it ends.
    #[cfg(unix)]
    pub(crate) fn from_outside() -> Option<Inside> {
        let inside = Inside::begin();
        (EXITING.load(SeqCst) == 0).then_some(inside)
    }

    fn begin() -> Inside {
        INSIDE.fetch_add(1, SeqCst);
        Inside(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.fetch_sub(1, SeqCst);
    }
}

/// For `atexit`.
#[pyfunction]
pub(crate) fn exiting(py: Python<'_>) {
    EXITING.store(this_thread(), SeqCst);
    py.detach(|| {
        let since = Instant::now();
        while INSIDE.load(SeqCst) > 0 && since.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
    });
}
