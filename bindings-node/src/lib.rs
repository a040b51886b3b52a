//! The Node-API addon of the npm package `roletalk-native`: the roletalk engine for a host that is
//! Node's own event loop.
//!
//! JavaScript owns timers, the clock and most sockets. It calls [`NativePeer`] with what came in, and
//! reads events and bytes to write from memory that both share. One call carries a batch: all frames
//! of a chunk that was read, or all commands of a turn of the loop.
//!
//! Plain TCP sockets are read and written here, see `socket`. The addon calls into JavaScript only to
//! tell that one of them is ready; no state is borrowed then.

mod access;
mod choice;
mod commands;
mod counters;
mod course;
mod events;
mod fields;
mod names;
mod native;
mod protocol;
mod retry;
mod running;
mod slab;
#[cfg(unix)]
mod socket;
#[cfg(not(unix))]
#[path = "no_socket.rs"]
mod socket;
mod state;

pub use access::{
    AccessSettings, NativePolicyFile, RemoteSettings, certificate_of, check_access, check_claims,
};
pub use choice::{EjectionSettings, WantedSettings};
pub use native::{
    AskSettings, NativePeer, PeerSettings, address_hint, cancel_reasons, check_balance,
    check_fields, error_kinds, json_hint, listen_hint, printable, too_many_waiting,
};
pub use protocol::{ProtocolNumber, protocol};
pub use retry::{NativeRetry, RetrySettings};
