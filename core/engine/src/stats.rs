//! Counters.

use std::time::Duration;

use crate::ConnId;

/// Counters of one connection since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// The connection.
    pub conn: ConnId,
    /// roletalk frames sent, or waiting to be written.
    pub frames_sent: u64,
    /// roletalk frames received.
    pub frames_received: u64,
    /// Bytes of WebSocket frames sent, or waiting to be written.
    pub bytes_sent: u64,
    /// Bytes of roletalk frames received.
    pub bytes_received: u64,
    /// Bytes that wait to be written.
    pub queued: usize,
    /// The time that the last ping took; none before the first answer.
    pub round_trip: Option<Duration>,
}

/// Counters of one unit since it connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnitStats {
    /// One-way messages sent.
    pub messages_sent: u64,
    /// One-way messages received.
    pub messages_received: u64,
    /// One-way messages dropped because too many handlers were running.
    pub messages_dropped: u64,
    /// Requests sent, stream openings included.
    pub requests_sent: u64,
    /// Requests received, stream openings included.
    pub requests_received: u64,
    /// Requests rejected because too many handlers were running.
    pub requests_shed: u64,
    /// Requests sent that wait for an answer.
    pub waiting: usize,
    /// Handlers that are running for this unit's messages and requests.
    pub running: usize,
    /// Bytes of what those handlers were given, as far as the host [holds](crate::Unit::hold) it.
    pub running_bytes: usize,
    /// Streams that are open or being opened.
    pub streams: usize,
    /// Stream bytes sent.
    pub stream_bytes_sent: u64,
    /// Stream bytes received.
    pub stream_bytes_received: u64,
    /// The time from the last answered request to its answer.
    pub last_answer: Option<Duration>,
    /// One entry for each connection.
    pub connections: Vec<ConnectionStats>,
}
