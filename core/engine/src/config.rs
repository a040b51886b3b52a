//! What a peer is told at the start: who it is, and how much it may use.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use crate::{
    Origins, PeerKey, Policy,
    acquaintance::AcquaintanceFilter,
    balance::Balance,
    error::{Error, ErrorKind, Result},
    limits::Limits,
    wire::Extensions,
};

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
    /// Which of these addresses are dialed.
    pub acquaintance: AcquaintanceFilter,
    /// Preshared keys, in the order in which they are offered.
    pub keys: Keys,
    /// Whether proofs of keys are bound to the TLS connection. Default [`ChannelBinding::Prefer`].
    pub channel_binding: ChannelBinding,
    /// The peer's own key. The peer's id begins with the name of the key. Over TLS others verify this, so that nobody
    /// else can claim the id. They recognize the peer by the name after a restart. Default: none; the id is random.
    pub peer_key: Option<PeerKey>,
    /// Who may call and serve what. Default: everyone may do everything.
    pub policy: Option<Arc<Policy>>,
    /// Origins whose pages may connect. Default none: a page in a browser on the same machine is a stranger.
    pub origins: Arc<Origins>,
    /// Whether the application judges each upgrade that the engine answers, see
    /// [`Received::UpgradeRequest`](crate::Received::UpgradeRequest). Default false.
    pub authenticates: bool,
    /// The headers of upgrades that are kept as part of the [`Identity`](crate::Identity), at most 8 KiB of each
    /// upgrade. Default none: they may be secrets.
    pub identity_headers: Vec<String>,
    /// Bounds.
    pub limits: Limits,
    /// How destinations choose among units where nothing else is said. Default round robin.
    pub balance: Balance,
    /// When lost addresses are dialed again.
    pub reconnect: Reconnect,
    /// What the host stands for beyond the protocol of the originals. Default all.
    pub extensions: Extensions,
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
            acquaintance: AcquaintanceFilter::default(),
            keys: Keys::default(),
            channel_binding: ChannelBinding::default(),
            peer_key: None,
            policy: None,
            origins: Arc::default(),
            authenticates: false,
            identity_headers: Vec::new(),
            limits: Limits::default(),
            balance: Balance::round_robin(),
            reconnect: Reconnect::default(),
            extensions: Extensions::ALL,
            os: std::env::consts::OS.to_owned(),
            runtime: "rust".to_owned(),
            wall_clock: 0,
            entropy,
        }
    }
}

/// Whether proofs of preshared keys are bound to the TLS connection, so that nobody can relay them. Between two peers
/// of this implementation, the one that asks for a proof names the connection in its challenge, and the one that
/// proves compares it with its own connection. Without TLS there is nothing to name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Connections are neither named nor compared: for proxies that terminate TLS with another certificate.
    Disable,
    /// A challenge that names another connection is refused. One that names none, as from an original, is
    /// answered.
    #[default]
    Prefer,
    /// The key is proved only for a challenge that names this connection.
    Require,
}

impl ChannelBinding {
    /// Every mode.
    pub const ALL: [ChannelBinding; 3] =
        [ChannelBinding::Disable, ChannelBinding::Prefer, ChannelBinding::Require];

    /// Its name: `disable`, `prefer` or `require`.
    pub fn name(self) -> &'static str {
        ["disable", "prefer", "require"][self as usize]
    }

    /// The mode with this name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`], which says which there are.
    pub fn parse(name: &str) -> Result<ChannelBinding> {
        let found = ChannelBinding::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| {
            let text =
                format!("the channel binding `{name}` is neither disable, prefer nor require");
            Error::new(ErrorKind::InvalidArgument, text)
        })
    }
}

/// Preshared keys by id. An id may end in `#` and a version, such as `billing#2`: keys that differ in nothing else stand
/// for the same [identity](crate::Identity), so that one can be replaced by another. Neither `Debug` nor anything else shows the keys.
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
