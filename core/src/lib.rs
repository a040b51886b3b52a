//! Brokerless, peer-to-peer messaging between services, over WebSocket.
//!
//! Processes connect in any direction, learn each other's *roles* (services) by themselves, and
//! talk: one-way messages, requests, binary streams, broadcast, survey; load-balanced over the
//! units that serve a role. The wire is that of the npm package `roletalk` 1.1.3 and of
//! `roletalk-go`, so they can be talked to as well.
//!
//! Start with [`Peer`]. The engine below it, without sockets and threads, is in [`engine`], for
//! those who bring an event loop of their own.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod engine;
mod error;
#[cfg(feature = "net")]
mod net;
#[cfg(feature = "net")]
mod peer;
pub mod wire;
pub mod ws;

pub use bytes::Bytes;
pub use error::{Error, ErrorKind, Result};
pub use wire::{Data, DataType};

#[cfg(feature = "net")]
pub use net::{ConnectOptions, ListenOptions, Listener, TlsClient, TlsServer};
#[cfg(feature = "net")]
pub use peer::{
    Answer, Call, Connected, Context, Deferred, Destination, Events, Kind, Next, OpenStream, Peer,
    PeerBuilder, PeerEvent, PeerStats, Readable, ReadableRequest, Requesting, Role, SendMessage,
    SendRequest, Sending, Survey, Unit, Writable, WritableRequest,
};

/// The value of `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`, for servers that do the
/// upgrade themselves before `Peer::accept_upgraded`.
pub fn accept_key(key: &str) -> String {
    tungstenite::handshake::derive_accept_key(key.as_bytes())
}
