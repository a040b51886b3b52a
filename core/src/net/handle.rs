//! How others reach the task of a connection.

use roletalk_engine::{Claims, ws::Denied};

use super::sync::{AtomicBool, AtomicWaker, Mutex, Ordering, lock};

/// What to say before a connection is closed from outside.
pub(crate) struct CloseCommand {
    pub(crate) frames: Vec<Vec<u8>>,
    pub(crate) code: u16,
    pub(crate) reason: String,
    /// Whether to close the socket without waiting for the other side.
    pub(crate) at_once: bool,
}

/// The outside of a connection's task.
#[derive(Default)]
pub(crate) struct ConnHandle {
    pub(crate) waker: AtomicWaker,
    /// The task is running and looks at everything once more before it sleeps.
    polling: AtomicBool,
    closing: AtomicBool,
    command: Mutex<Option<CloseCommand>>,
    judged: AtomicBool,
    verdict: Mutex<Option<Result<Claims, Denied>>>,
}

impl ConnHandle {
    /// There is something to write, or a timer to set: to be called after the change was made
    /// under the unit's lock, which the task takes between [`set_polling(false)`](Self::set_polling)
    /// and its last look.
    pub(crate) fn wake(&self) {
        if !self.polling.load(Ordering::Acquire) {
            self.waker.wake();
        }
    }

    pub(crate) fn set_polling(&self, polling: bool) {
        self.polling.store(polling, Ordering::Release);
    }

    /// Asks the task to close the connection. The first call counts.
    pub(crate) fn close(&self, command: CloseCommand) {
        if !self.closing.swap(true, Ordering::AcqRel) {
            *lock(&self.command) = Some(command);
            self.waker.wake();
        }
    }

    /// The application has judged the upgrade.
    pub(crate) fn judge(&self, verdict: Result<Claims, Denied>) {
        *lock(&self.verdict) = Some(verdict);
        self.judged.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn take_verdict(&self) -> Option<Result<Claims, Denied>> {
        if !self.judged.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.verdict).take()
    }

    pub(crate) fn has_command(&self) -> bool {
        self.closing.load(Ordering::Acquire) && lock(&self.command).is_some()
            || self.judged.load(Ordering::Acquire) && lock(&self.verdict).is_some()
    }

    pub(crate) fn take_command(&self) -> Option<CloseCommand> {
        if !self.closing.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.command).take()
    }
}
