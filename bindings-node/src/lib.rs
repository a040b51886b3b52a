//! The Node-API addon of the npm package `roletalk-native`: the roletalk engine for a host that is
//! Node's own event loop.
//!
//! JavaScript owns sockets, timers and the clock. It calls [`NativePeer`] with what came in, and
//! reads events and bytes to write from memory that both share; the addon never calls into
//! JavaScript. One call carries a batch: all frames of a chunk that was read, or all commands of a
//! turn of the loop.

mod commands;
mod events;
mod names;
mod native;
mod slab;
mod state;

pub use native::{NativePeer, PeerSettings, StreamSettings, error_kinds};
