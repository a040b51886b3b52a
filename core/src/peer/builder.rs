//! Setting up a peer.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;

use super::{Peer, shared::Shared};
use crate::{
    Error, ErrorKind, Result,
    engine::{Balance, Config, Keys, Limits, Reconnect},
    net::ConnectOptions,
};

/// Sets up a [`Peer`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> roletalk::Result<()> {
/// let peer = roletalk::Peer::builder()
///     .name("worker")
///     .tag("zone", "eu")
///     .preshared_key("main", "secret")
///     .friendly(false)
///     .limits(|limits| limits.units = 100)
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "call `build` to make the peer"]
pub struct PeerBuilder {
    name: String,
    tags: std::collections::BTreeMap<String, String>,
    friendly: bool,
    keys: Result<Keys>,
    limits: Limits,
    reconnect: Reconnect,
    balance: Balance,
    acquaintance: ConnectOptions,
}

impl PeerBuilder {
    pub(super) fn new() -> PeerBuilder {
        PeerBuilder {
            name: String::new(),
            tags: std::collections::BTreeMap::new(),
            friendly: true,
            keys: Ok(Keys::default()),
            limits: Limits::default(),
            reconnect: Reconnect::default(),
            balance: Balance::least_loaded(),
            acquaintance: ConnectOptions::default(),
        }
    }

    /// The name shown to others. Default empty.
    pub fn name(mut self, name: impl Into<String>) -> PeerBuilder {
        self.name = name.into();
        self
    }

    /// A static tag shown to others.
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> PeerBuilder {
        self.tags.insert(key.into(), value.into());
        self
    }

    /// A preshared key: only peers that share one get in. Several are offered in this order.
    pub fn preshared_key(mut self, id: impl Into<String>, key: impl Into<String>) -> PeerBuilder {
        self.keys = self.keys.and_then(|mut keys| keys.add(id, key).map(|()| keys));
        self
    }

    /// Whether the peer takes part in acquaintance: is told of other peers and dials them. Default
    /// true.
    pub fn friendly(mut self, friendly: bool) -> PeerBuilder {
        self.friendly = friendly;
        self
    }

    /// Changes bounds; see [`Limits`] for each and for what happens there.
    pub fn limits(mut self, change: impl FnOnce(&mut Limits)) -> PeerBuilder {
        change(&mut self.limits);
        self
    }

    /// Changes when lost addresses are dialed again.
    pub fn reconnect(mut self, change: impl FnOnce(&mut Reconnect)) -> PeerBuilder {
        change(&mut self.reconnect);
        self
    }

    /// How destinations choose among the units that serve their role, unless they say it
    /// [themselves](crate::Destination::balance). Default [`Balance::least_loaded`].
    pub fn balance(mut self, balance: Balance) -> PeerBuilder {
        self.balance = balance;
        self
    }

    /// How to connect to the addresses that other units tell, such as which authorities to trust for
    /// `wss`. Whether they are permanent is not taken from here. Whoever gets in decides what the
    /// addresses are: headers given here are no secret.
    pub fn acquaintance_options(mut self, options: ConnectOptions) -> PeerBuilder {
        self.acquaintance = options;
        self
    }

    /// Makes the peer. Its tasks run on the tokio runtime that this is called in; the peer is closed
    /// when that is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] outside of a tokio runtime, or for an unusable key;
    /// [`ErrorKind::Io`] when the system gives no random bytes.
    pub fn build(self) -> Result<Peer> {
        let runtime = Handle::try_current()
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, error.to_string()))?;
        let unavailable = |_| Error::new(ErrorKind::Io, "The system gives no random bytes");
        let random = rustls::crypto::ring::default_provider().secure_random;
        // Tried once, so that it cannot come as a surprise later.
        random.fill(&mut [0u8; 16]).map_err(unavailable)?;
        let mut config = Config::new(Box::new(move |bytes| {
            random.fill(bytes).expect("the system gave random bytes before");
        }));
        config.name = self.name;
        config.tags = self.tags;
        config.friendly = self.friendly;
        config.keys = self.keys?;
        config.limits = self.limits;
        config.reconnect = self.reconnect;
        config.balance = self.balance;
        config.wall_clock =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        Ok(Peer::new(Shared::new(config, self.acquaintance, runtime)))
    }
}
