//! Brokerless, peer-to-peer messaging between services, over WebSocket.
//!
//! Processes connect in any direction, learn each other's *roles* (services) by themselves, and
//! talk: one-way messages, requests, binary streams, broadcast, survey; load-balanced over the
//! units that serve a role. The wire is that of the npm package `roletalk` 1.1.3 and of
//! `roletalk-go`, so they can be talked to as well.
//!
//! Start with [`Peer`]. The engine below it, without sockets and threads, is the crate
//! `roletalk-engine`, for those who bring an event loop of their own.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod net;
mod peer;

use roletalk_engine::{self as engine, wire, ws};

pub use bytes::Bytes;
pub use engine::{
    AcquaintanceFilter, Balance, Binding, CancelReason, Candidate, Certificate, ChannelBinding,
    Claims, ConnId, ConnectionStats, CounterValue, Data, DataType, Denial, Ejection, Error,
    ErrorKind, Failure, Fields, FieldsView, HeaderValue, Hedge, Identity, Kind, LimitValue, Limits,
    Measure, PROTOCOL_VERSION, PeerKey, Policy, Quantity, Reconnect, Remote, Result, Retry,
    Standing, UnitStats,
    wire::Meta,
    ws::{Denied, accept_key},
};
#[doc(hidden)] // For bindings; no promise of compatibility.
pub use engine::{parse_claims, wire::Payload};
#[doc(no_inline)]
pub use rustls;

pub use net::{ConnectOptions, ListenOptions, Listener, TlsClient, TlsServer};
pub use peer::{
    Answer, BoxError, Connected, Context, Deferred, Destination, Events, Next, OnCancel,
    OpenStream, Peer, PeerBuilder, PeerEvent, PeerStats, Readable, ReadableRequest, Requesting,
    Role, SendMessage, SendRequest, Sending, Survey, Unit, UpgradeRequest, Writable,
    WritableRequest,
};
#[doc(hidden)] // For bindings; no promise of compatibility.
pub use peer::{Call, Scope};
