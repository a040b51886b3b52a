//! What a peer is told at the start: who it is, and how much it may use.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::error::{Error, ErrorKind, Result};

/// Bounds on what a peer holds and how long it waits.
///
/// Every queue in the engine is bounded by one of these. What happens at the bound is said at each.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one WebSocket message, sent or received, fragmented or not. Default 100 MiB, which
    /// is all that the original accepts. Sending more is an error; receiving more closes the
    /// connection with 1009.
    pub message_size: usize,
    /// Bytes of one message before the connection is authenticated, and of one announcement (roles,
    /// acquaintance) after it. Default 1 MiB; more closes the connection.
    pub handshake_message_size: usize,
    /// Bytes of the HTTP head of an upgrade. Default 16 KiB; more is answered with 431.
    pub upgrade_size: usize,
    /// Time for the upgrade and the handshake together. Default 4 s, as the original; a connection
    /// that needs longer is refused.
    pub handshake_timeout: Duration,
    /// Accepted connections that have not finished their handshake. Default 1 024; further ones
    /// are dropped at once.
    pub handshakes: usize,
    /// Connected units. Default 65 536; the handshake of a further one is refused.
    pub units: usize,
    /// Connections of one unit. Default 16; the handshake of a further one is refused.
    pub connections_per_unit: usize,
    /// Requests to one unit that wait for an answer, stream openings included. Default 65 536;
    /// further ones fail with [`ErrorKind::Overloaded`].
    pub waiting_requests: usize,
    /// Requests and messages of one unit whose handlers are running. Default 65 536. At the bound
    /// further ones wait for handlers to end, and when 256 KiB of them wait, their connection is not
    /// read. If no handler ends for a second, those that wait and all that come until one does are
    /// given up, lest handlers wait for ever for what is not read: requests are rejected and messages
    /// dropped, each counted and reported as a slow consumer.
    pub running_handlers: usize,
    /// Bytes of the requests and messages of one unit whose handlers are running. Default 256 MiB; at
    /// the bound as for `running_handlers`. What comes with the same read may go over.
    pub running_bytes: usize,
    /// Bytes that wait to be written to one connection. Default 1 MiB, so that pongs do not wait
    /// long behind it. At the bound, sending waits
    /// (asynchronous API) or fails with [`ErrorKind::Overloaded`] (engine). One message may go over.
    pub queue_per_connection: usize,
    /// Bytes that wait to be written to one connection and that the other side has caused itself
    /// (pongs, rejections, answers to streams). Default 1 MiB, and never more than
    /// `queue_per_connection`. At the bound nothing is read from it until it has read some of that.
    pub owed_per_connection: usize,
    /// Bytes that wait to be written to all connections of the peer. Default 256 MiB, as above.
    pub queue_per_peer: usize,
    /// Open streams with one unit, both directions. Default 4 096; further ones fail or are refused.
    pub streams: usize,
    /// Bytes of one stream that this peer is willing to hold unread. Default 1 MiB. Announced to
    /// peers that know credit; for the others the quota that is granted.
    pub stream_window: usize,
    /// Bytes of one stream that are held unread although the sender does not keep to its quota, as
    /// the originals may. Default 16 MiB; over it the stream is broken off with an error.
    pub stream_overrun: usize,
    /// Bytes that all streams of one unit together hold unread beyond their windows, for the same
    /// reason. Default 256 MiB; a stream that would need more is broken off with an error.
    pub overrun_per_unit: usize,
    /// Default time for an answer. Default 5 minutes, as the original.
    pub request_timeout: Duration,
    /// Addresses learned by acquaintance that are being dialed at the same time. Default 16; further
    /// ones wait for their turn.
    pub acquaintance_dials: usize,
    /// Addresses learned by acquaintance that are remembered. Default 1 024; further ones are ignored.
    pub acquaintance_addresses: usize,
    /// How long an address learned by acquaintance is tried without success before it is forgotten.
    /// Default 2 minutes.
    pub acquaintance_patience: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_size: 100 << 20,
            handshake_message_size: 1 << 20,
            upgrade_size: 16 << 10,
            handshake_timeout: Duration::from_secs(4),
            handshakes: 1024,
            units: 65_536,
            connections_per_unit: 16,
            waiting_requests: 65_536,
            running_handlers: 65_536,
            running_bytes: 256 << 20,
            queue_per_connection: 1 << 20,
            owed_per_connection: 1 << 20,
            queue_per_peer: 256 << 20,
            streams: 4096,
            stream_window: 1 << 20,
            stream_overrun: 16 << 20,
            overrun_per_unit: 256 << 20,
            request_timeout: Duration::from_secs(300),
            acquaintance_dials: 16,
            acquaintance_addresses: 1024,
            acquaintance_patience: Duration::from_secs(120),
        }
    }
}

impl Limits {
    /// The bound on what a remote peer has caused itself.
    pub fn owed(&self) -> usize {
        self.owed_per_connection.min(self.queue_per_connection)
    }
}

/// When a lost address is dialed again.
///
/// The original's schedule is 0, 1, 2, 3, 4, 5, 10, 30 and then every 60 seconds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Reconnect {
    /// The longest wait between two attempts. Default 60 s.
    pub cap: Duration,
    /// The share of each wait that is random, from 0 (the default, as the original) to 1 (anything
    /// between nothing and the whole wait), so that many peers do not come back at the same moment.
    pub jitter: f64,
}

impl Default for Reconnect {
    fn default() -> Reconnect {
        Reconnect { cap: Duration::from_secs(60), jitter: 0.0 }
    }
}

impl Reconnect {
    /// The wait before attempt number `attempt` (0 is the first one after a loss), with `random`
    /// from 0 to 1.
    pub(crate) fn wait(&self, attempt: u32, random: f64) -> Duration {
        const SECONDS: [u64; 9] = [0, 1, 2, 3, 4, 5, 10, 30, 60];
        let at = (attempt as usize).min(SECONDS.len() - 1);
        let wait = Duration::from_secs(SECONDS[at]).min(self.cap);
        wait.mul_f64(1.0 - self.jitter.clamp(0.0, 1.0) * random.clamp(0.0, 1.0))
    }
}

/// The source of random bytes that a host gives to the engine: fills the whole slice with
/// unpredictable bytes. Challenges depend on it.
pub type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// What a peer is made from.
pub struct Config {
    /// The name shown to others. Default empty.
    pub name: String,
    /// Static key-value tags shown to others.
    pub tags: BTreeMap<String, String>,
    /// Whether this peer dials the addresses that others tell it, and is told of them. Default true.
    pub friendly: bool,
    /// Preshared keys, in the order in which they are offered.
    pub keys: Keys,
    /// Bounds.
    pub limits: Limits,
    /// When lost addresses are dialed again.
    pub reconnect: Reconnect,
    /// The operating system, for `meta.os`: as Rust names it unless set.
    pub os: String,
    /// What runs this peer, for `meta.runtime`, such as `rust`.
    pub runtime: String,
    /// The wall clock, in milliseconds since 1970, at the moment that the host calls zero.
    pub wall_clock: u64,
    /// Random bytes.
    pub entropy: Entropy,
}

impl Config {
    /// A configuration with defaults everywhere else.
    pub fn new(entropy: Entropy) -> Config {
        Config {
            name: String::new(),
            tags: BTreeMap::new(),
            friendly: true,
            keys: Keys::default(),
            limits: Limits::default(),
            reconnect: Reconnect::default(),
            os: std::env::consts::OS.to_owned(),
            runtime: "rust".to_owned(),
            wall_clock: 0,
            entropy,
        }
    }
}

/// Preshared keys by id. Neither `Debug` nor anything else shows the keys.
#[derive(Clone, Default)]
pub struct Keys(Vec<(String, String)>);

impl Keys {
    /// Adds a key, or replaces the one with this id.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the id or the key is empty or longer than 1 024 bytes.
    pub fn add(&mut self, id: impl Into<String>, key: impl Into<String>) -> Result<()> {
        let (id, key) = (id.into(), key.into());
        if id.is_empty() || id.len() > 1024 {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "a preshared key's id must have 1 to 1024 bytes",
            ));
        }
        if key.is_empty() || key.len() > 1024 {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("the preshared key `{id}` must have 1 to 1024 bytes"),
            ));
        }
        match self.0.iter_mut().find(|(known, _)| *known == id) {
            Some(entry) => entry.1 = key,
            None => self.0.push((id, key)),
        }
        Ok(())
    }

    /// Removes a key; false when there is none with this id.
    pub fn remove(&mut self, id: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(known, _)| known != id);
        self.0.len() != before
    }

    /// Whether there are no keys: then everyone is let in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ids, in the order in which they were added.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(id, _)| id.as_str())
    }

    pub(crate) fn get(&self, id: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == id).map(|(_, key)| key.as_str())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_schedule_of_the_original() {
        let plain = Reconnect::default();
        let waits: Vec<u64> = (0..12).map(|n| plain.wait(n, 0.7).as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 3, 4, 5, 10, 30, 60, 60, 60, 60]);
        let capped = Reconnect { cap: Duration::from_secs(8), jitter: 0.5 };
        assert_eq!(capped.wait(8, 1.0), Duration::from_secs(4));
        assert_eq!(capped.wait(8, 0.0), Duration::from_secs(8));
    }

    #[test]
    fn keys_are_never_printed() {
        let mut keys = Keys::default();
        keys.add("id", "the-secret").unwrap();
        assert_eq!(format!("{keys:?}"), r#"["id"]"#);
        assert!(keys.add("", "x").is_err() && keys.add("x", "").is_err());
    }
}
