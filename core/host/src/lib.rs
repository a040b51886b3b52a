//! What the hosts of other languages share beside the engine: the connections of an event loop that is not
//! ours, what is written to their sockets and when they are not read, and a guard for when the loop is blocked.
//!
//! This crate is for bindings, as `roletalk-engine` is. It owns no loop: that watches descriptors and
//! timers, calls [`Host`] when something is due, and does what the [`Action`]s say.

#[cfg(unix)]
mod bell;
mod config;
mod dial;
#[cfg(unix)]
mod guard;
mod host;
mod link;
mod running;
#[cfg(test)]
mod tests;

/// What [`bell`] is made of. In core/models, loom's take the place of these.
#[cfg(unix)]
mod sync {
    pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
}

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use config::{config, descriptors};
pub use dial::dial_fault;
#[cfg(unix)]
pub use guard::Guard;
pub use host::{Action, Host};
pub use running::Running;

/// Locks it, also after a panic: no lock is held across foreign code, and what panics under one has changed
/// nothing yet.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
