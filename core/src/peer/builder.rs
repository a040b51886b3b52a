//! Setting up a peer.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::runtime::Handle;

use super::{
    Peer,
    authenticate::{Authenticate, UpgradeRequest},
    shared::Shared,
};
use crate::{
    Error, ErrorKind, Result,
    engine::{
        self, AcquaintanceFilter, Balance, ChannelBinding, Claims, Config, Keys, Limits, Origins,
        PeerKey, Policy, Reconnect,
    },
    net::ConnectOptions,
    ws::Denied,
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
    channel_binding: ChannelBinding,
    peer_key: Option<PeerKey>,
    policy: Option<Policy>,
    origins: Result<Origins>,
    identity_headers: Vec<String>,
    authenticate: Option<Authenticate>,
    limits: Limits,
    reconnect: Reconnect,
    balance: Balance,
    acquaintance: ConnectOptions,
    filter: Result<AcquaintanceFilter>,
}

impl PeerBuilder {
    pub(super) fn new() -> PeerBuilder {
        PeerBuilder {
            name: String::new(),
            tags: std::collections::BTreeMap::new(),
            friendly: true,
            keys: Ok(Keys::default()),
            channel_binding: ChannelBinding::default(),
            peer_key: None,
            policy: None,
            origins: Ok(Origins::default()),
            identity_headers: Vec::new(),
            authenticate: None,
            limits: default_limits(),
            reconnect: Reconnect::default(),
            balance: Balance::least_loaded(),
            acquaintance: ConnectOptions::default(),
            filter: Ok(AcquaintanceFilter::default()),
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

    /// Whether proofs of keys are bound to TLS connections, so that nobody can relay them. Default
    /// [`ChannelBinding::Prefer`].
    pub fn channel_binding(mut self, mode: ChannelBinding) -> PeerBuilder {
        self.channel_binding = mode;
        self
    }

    /// The peer's own key. The peer's id begins with the [name](PeerKey::name) of the key. Over TLS nobody else can
    /// claim that id. After a restart others recognize the peer by the name, which [policies](Policy) can use, too.
    pub fn peer_key(mut self, key: PeerKey) -> PeerBuilder {
        self.peer_key = Some(key);
        self
    }

    /// Who may call and serve what. Default: no restriction. [`Peer::set_policy`] and [`Peer::watch_policy`] change
    /// it later.
    pub fn policy(mut self, policy: Policy) -> PeerBuilder {
        self.policy = Some(policy);
        self
    }

    /// Lets pages of this origin connect, such as `https://app.example.org`; `*` lets all. By default upgrades with any
    /// `Origin` are refused with 403: browsers send one, others do not, and a page that somebody opens on this machine
    /// could reach this peer.
    pub fn allow_origin(mut self, origin: &str) -> PeerBuilder {
        self.origins = self.origins.and_then(|mut origins| origins.allow(origin).map(|()| origins));
        self
    }

    /// Keeps this header of upgrades as part of the [`Identity`](crate::Identity): at most 8 KiB in all. Whoever dials
    /// chooses what is in it, unless a proxy does.
    pub fn identity_header(mut self, name: impl Into<String>) -> PeerBuilder {
        self.identity_headers.push(name.into());
        self
    }

    /// Calls a function to judge each upgrade before it is answered. It returns claims, which become part of the
    /// [`Identity`](crate::Identity), or refuses. Its time counts towards the
    /// [handshake timeout](crate::Limits::handshake_timeout). It applies to connections from this peer's listeners and
    /// [`Peer::accept`]. The claim `sub` is the subject; it is the same on all connections of a unit.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use roletalk::{Claims, Denied, Peer};
    ///
    /// let peer = Peer::builder().authenticate(|request| async move {
    ///     match request.bearer() {
    ///         Some("secret") => Ok(Claims::from_iter([("sub".to_owned(), "billing".into())])),
    ///         _ => Err(Denied { status: 401, reason: "no token".to_owned() }),
    ///     }
    /// }).build()?;
    /// # Ok::<_, roletalk::Error>(()) }).unwrap();
    /// ```
    pub fn authenticate<F, Fut>(mut self, judge: F) -> PeerBuilder
    where
        F: Fn(UpgradeRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Claims, Denied>> + Send + 'static,
    {
        self.authenticate = Some(Authenticate::new(judge));
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

    /// The networks in which addresses from other units are dialed, separated by commas: `public`, `private`,
    /// `loopback`, `link_local`, blocks such as `10.0.0.0/8`, or `near`, which stands for loopback and private
    /// addresses from units that have such an address themselves. Default `public, near`. Addresses that the
    /// application connects to are not filtered. See [`AcquaintanceFilter`](crate::AcquaintanceFilter) for the details,
    /// and [`Limits`] for the number of addresses.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> roletalk::Result<()> {
    /// let peer = roletalk::Peer::builder()
    ///     .acquaintance_networks("10.1.0.0/16")
    ///     .acquaintance_ports("9000-9100")
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn acquaintance_networks(mut self, networks: &str) -> PeerBuilder {
        self.filter = self.filter.and_then(|filter| filter.networks(networks));
        self
    }

    /// The ports at which addresses from other units are dialed, separated by commas: numbers, ranges such as
    /// `9000-9100`, or `any`. Default `80, 443, 1024-65535`: below that are mail, name servers and the like.
    pub fn acquaintance_ports(mut self, ports: &str) -> PeerBuilder {
        self.filter = self.filter.and_then(|filter| filter.ports(ports));
        self
    }

    /// Makes the peer. Its tasks run on the tokio runtime that this is called in; the peer is closed
    /// when that is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] outside of a tokio runtime, for an unusable key, origin or name of a header, and
    /// for networks or ports of acquaintance that cannot be read;
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
        config.acquaintance = self.filter?;
        config.keys = self.keys?;
        config.channel_binding = self.channel_binding;
        config.peer_key = self.peer_key;
        config.policy = self.policy.map(Arc::new);
        config.origins = Arc::new(self.origins?);
        self.identity_headers.iter().try_for_each(|name| engine::check_header(name))?;
        config.identity_headers = self.identity_headers;
        config.authenticates = self.authenticate.is_some();
        config.limits = self.limits;
        config.reconnect = self.reconnect;
        config.balance = self.balance;
        config.wall_clock =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        Ok(Peer::new(Shared::new(config, self.acquaintance, self.authenticate, runtime)))
    }
}

/// The limits of a peer, as far as the application does not set them.
fn default_limits() -> Limits {
    let mut limits = Limits::default();
    if let Some(descriptors) = descriptors() {
        limits.fit_descriptors(descriptors);
    }
    limits
}

/// The process's soft limit on open file descriptors (`RLIMIT_NOFILE`); none where there is no such limit.
fn descriptors() -> Option<u64> {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, getrlimit};
        Some(getrlimit(Resource::RLIMIT_NOFILE).ok()?.0)
    }
    #[cfg(not(unix))]
    None
}
