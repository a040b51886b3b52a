//! How the guard's thread sleeps, and is woken. Also part of core/models, where loom tries every order of the threads.

use super::sync::{AtomicBool, Ordering::SeqCst};

/// What wakes the thread while it waits for sockets.
pub(crate) trait Line {
    /// Ends the wait that goes on, or else the next one.
    fn wake(&self);
}

/// Wakes the guard.
pub(crate) struct Bell<L> {
    line: L,
    /// Whether the guard sleeps until something comes.
    asleep: AtomicBool,
    /// Whether it is to end.
    over: AtomicBool,
}

/// The guard is to end.
pub(crate) struct Over;

impl<L: Line> Bell<L> {
    pub(crate) fn new(line: L) -> Bell<L> {
        Bell { line, asleep: AtomicBool::new(false), over: AtomicBool::new(false) }
    }

    /// What there is to watch has changed.
    pub(crate) fn ring(&self) {
        if self.asleep.swap(false, SeqCst) {
            self.line.wake();
        }
    }

    /// The guard is to end: now if it waits, else after its look.
    pub(crate) fn finish(&self) {
        self.over.store(true, SeqCst);
        self.line.wake();
    }

    /// Has the guard sleep until something comes. `watched` finds what there is to watch: a change that it does not
    /// see rings, and ends `wait`.
    pub(crate) fn sleep<W>(
        &self,
        watched: impl FnOnce() -> W,
        wait: impl FnOnce(W),
    ) -> Result<(), Over> {
        // A swap, though what it was does not matter: loom lets later swaps overlook a store.
        self.asleep.swap(true, SeqCst);
        let watched = watched();
        let heard = self.wait(|| wait(watched));
        self.asleep.swap(false, SeqCst);
        heard
    }

    /// Waits, as long as the guard is not to end.
    pub(crate) fn wait(&self, wait: impl FnOnce()) -> Result<(), Over> {
        wait();
        if self.over.load(SeqCst) { Err(Over) } else { Ok(()) }
    }
}
