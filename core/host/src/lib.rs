//! What the hosts of other languages share beside the engine: the sockets of an event loop that is not
//! ours, what is written to them and when they are not read, and a guard for when the loop is blocked.
//!
//! This crate is for bindings, as `roletalk-engine` is. It owns no loop: that watches descriptors and
//! timers, calls [`Host`] when something is due, and does what the [`Action`]s say.

mod config;
mod guard;
mod host;

pub use config::config;
#[cfg(unix)]
pub use guard::Waker;
pub use guard::{Guarded, lock};
pub use host::{Action, Host};
