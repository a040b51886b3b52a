//! The async Rust API, on tokio.

mod answers;
mod authenticate;
mod backlog;
mod builder;
mod context;
mod deferred;
mod destination;
mod dispatch;
mod event;
mod foreign;
mod handler;
mod open;
mod outcome;
mod policy;
mod request;
mod role;
mod route;
mod scope;
mod send;
mod serve;
mod shared;
mod stream;
mod survey;
mod unit;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, header::ORIGIN};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::ToSocketAddrs,
    sync::oneshot,
    task::JoinHandle,
};

pub(crate) use answers::Tag;
pub use authenticate::UpgradeRequest;
pub use builder::PeerBuilder;
pub use context::{Context, ReadableRequest, WritableRequest};
pub use deferred::Deferred;
pub use destination::Destination;
pub(crate) use dispatch::Dispatcher;
pub use event::{Events, PeerEvent};
pub use handler::Next;
pub use open::OpenStream;
pub use request::{Answer, Call, Requesting, SendRequest};
pub use role::{BoxError, Role};
pub use scope::{OnCancel, Scope};
pub use send::{SendMessage, Sending};
pub(crate) use shared::{Conn, Shared, lock};
pub use stream::{Readable, Writable};
pub use survey::Survey;
pub use unit::Unit;
pub(crate) use unit::{Outlook, UnitInner};

use crate::{
    Error, ErrorKind, Result,
    engine::{ConnId, Opening, Remote, UnitStats},
    net::{self, ConnectOptions, ListenOptions, Listener, TlsClient},
    wire::Data,
    ws::Side,
};
use destination::DestinationInner;
use role::{RoleInner, Roles};
use shared::{Dialed, Waiter};

/// The local node: it offers roles, finds those of others, and is connected to them in any direction.
///
/// A handle: clones are cheap and stand for the same peer. The peer closes when it is told to, or
/// when its last handle is dropped; handlers that own a clone keep it open until then.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> roletalk::Result<()> {
/// use roletalk::Peer;
///
/// let worker = Peer::builder().name("worker").build()?;
/// worker.role("math")?.on_request("double", |ctx| async move {
///     Ok(ctx.parse::<i64>()? * 2)
/// });
/// let listener = worker.listen("127.0.0.1:0").await?;
///
/// let client = Peer::builder().name("client").build()?;
/// client.connect(listener.url()).await?;
/// let math = client.destination("math")?;
/// math.ready().await?;
/// assert_eq!(math.request("double", 21).await?.parse::<i64>()?, 42);
/// # client.close().await;
/// # worker.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Peer {
    handle: Arc<Handle>,
}

/// Closes the peer with the last handle.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// A connection that was dialed.
#[derive(Clone, Debug)]
pub struct Connected {
    unit: Unit,
    connection: ConnId,
}

impl Connected {
    /// The unit that answered.
    pub fn unit(&self) -> &Unit {
        &self.unit
    }

    /// The connection, as in [`UnitStats::connections`].
    pub fn connection(&self) -> ConnId {
        self.connection
    }
}

/// Counters of a peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerStats {
    /// Connected units, each with its counters.
    pub units: Vec<(Unit, UnitStats)>,
    /// Accepted connections whose handshake is under way.
    pub handshakes: usize,
    /// Bytes that wait to be written on all connections.
    pub queued: usize,
    /// Addresses that were connected again after a loss, or after failures.
    pub reconnects: u64,
    /// Addresses that units have told and that were not dialed: see [`AcquaintanceFilter`](crate::AcquaintanceFilter).
    /// One whose name resolves to such addresses counts for each attempt.
    pub addresses_ignored: u64,
}

impl Peer {
    /// Starts to set up a peer.
    pub fn builder() -> PeerBuilder {
        PeerBuilder::new()
    }

    fn new(shared: Arc<Shared>) -> Peer {
        Peer { handle: Arc::new(Handle { shared }) }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// This peer's id, unique for its lifetime: 32 hexadecimal digits, or with a [key](PeerBuilder::peer_key) of its own
    /// the name of that, and further digits.
    pub fn id(&self) -> Arc<str> {
        self.shared().id.clone()
    }

    /// Sets a tag. Units that connect from now on see it.
    pub fn set_tag(&self, key: impl Into<String>, value: impl Into<String>) {
        self.shared().with_core(|core, _| core.peer.set_tag(key.into(), value.into()));
    }

    /// This peer's tags.
    pub fn tags(&self) -> BTreeMap<String, String> {
        self.shared().with_core(|core, _| core.peer.tags().clone())
    }

    /// Adds a preshared key, or replaces the one with this id. From the first one on, only peers
    /// that share a key get in. Connections that are up stay.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the id or the key is empty or longer than 1 024 bytes.
    pub fn add_preshared_key(&self, id: &str, key: &str) -> Result<()> {
        self.shared().with_core(|core, _| core.peer.keys_mut().add(id, key))
    }

    /// Removes a preshared key; false when there is none with this id. Connections that are up stay.
    /// Without any key everyone gets in.
    pub fn remove_preshared_key(&self, id: &str) -> bool {
        self.shared().with_core(|core, _| core.peer.keys_mut().remove(id))
    }

    /// The role of this name, added and offered if it is new. Units that are connected are told at
    /// once, and what they ask before the handlers are set is rejected:
    /// [`inactive_role`](Peer::inactive_role) is for roles that are added while others are connected.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the name is empty or longer than 65 535 bytes,
    /// [`ErrorKind::Closed`].
    pub fn role(&self, name: &str) -> Result<Role> {
        self.add_role(name, true)
    }

    /// The role of this name, added but not offered yet if it is new: [`Role::enable`] offers it,
    /// after its handlers have been set.
    ///
    /// # Errors
    /// As [`role`](Peer::role).
    pub fn inactive_role(&self, name: &str) -> Result<Role> {
        self.add_role(name, false)
    }

    fn add_role(&self, name: &str, active: bool) -> Result<Role> {
        let shared = self.shared();
        shared.check_open()?;
        let inner = shared.with_core(|core, now| {
            core.peer.add_role(name, active, now)?;
            if let Some(role) = shared.roles.load().get(name) {
                return Ok(role.clone());
            }
            let name: Arc<str> = name.into();
            let role = Arc::new(RoleInner::new(name.clone(), active, shared.changes.clone()));
            shared.roles.rcu(|roles| {
                let mut roles = Roles::clone(roles);
                roles.insert(name.clone(), role.clone());
                roles
            });
            Ok::<_, Error>(role)
        })?;
        Ok(Role::new(shared.clone(), inner))
    }

    /// All roles, in the order in which they were added.
    pub fn roles(&self) -> Vec<Role> {
        let shared = self.shared();
        let names: Vec<Arc<str>> =
            shared.with_core(|core, _| core.peer.roles().map(|(name, _)| name.clone()).collect());
        let roles = shared.roles.load();
        let known = names.iter().filter_map(|name| roles.get(name));
        known.map(|role| Role::new(shared.clone(), role.clone())).collect()
    }

    /// The destination of this name, added if it is new. Acquaintance looks for the roles of
    /// destinations.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the name is empty or longer than 65 535 bytes,
    /// [`ErrorKind::Closed`].
    pub fn destination(&self, role: &str) -> Result<Destination> {
        let shared = self.shared();
        shared.check_open()?;
        let inner = shared.with_core(|core, _| {
            if let Some(known) = core.destinations.get(role) {
                return Ok(known.clone());
            }
            let name = core.peer.add_destination(role)?;
            let turn = core.peer.turn(role).cloned().unwrap_or_default();
            let inner = Arc::new(DestinationInner::new(name.clone(), turn));
            core.destinations.insert(name, inner.clone());
            Ok::<_, Error>(inner)
        })?;
        Ok(Destination::new(shared.clone(), inner))
    }

    /// All destinations, in no particular order.
    pub fn destinations(&self) -> Vec<Destination> {
        let shared = self.shared();
        let inner: Vec<_> =
            shared.with_core(|core, _| core.destinations.values().cloned().collect());
        inner.into_iter().map(|inner| Destination::new(shared.clone(), inner)).collect()
    }

    /// All connected units, in no particular order.
    pub fn units(&self) -> Vec<Unit> {
        let units: Vec<_> =
            self.shared().with_core(|core, _| core.units.values().cloned().collect());
        units.into_iter().map(Unit::new).collect()
    }

    /// Subscribes to what happens from now on.
    pub fn events(&self) -> Events {
        let shared = self.shared();
        Events::new(shared.events.subscribe(), shared.ended.subscribe())
    }

    /// Adds middleware for everything that any role handles. It sees what passes the checks (the
    /// role is offered, the event has a handler), in the order in which it was added, before the
    /// roles' own.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let peer = roletalk::Peer::builder().build()?;
    /// peer.layer(|ctx, next| async move {
    ///     let what = format!("{}/{}", ctx.role(), ctx.event());
    ///     let outcome = next.run(ctx).await;
    ///     println!("{what}: {}", if outcome.is_ok() { "ok" } else { "failed" });
    ///     outcome
    /// });
    /// # Ok::<_, roletalk::Error>(()) }).unwrap();
    /// ```
    pub fn layer<F, Fut>(&self, middleware: F)
    where
        F: Fn(Context, Next) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Data>> + Send + 'static,
    {
        let shared = self.shared();
        role::add_middleware(&shared.middleware, &shared.changes, middleware);
    }

    /// Listens on an address, such as `127.0.0.1:9000`; port 0 takes a free one. May be called
    /// several times.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the address cannot be listened on, [`ErrorKind::Closed`].
    pub async fn listen(&self, address: impl ToSocketAddrs) -> Result<Listener> {
        self.listen_with(address, ListenOptions::new()).await
    }

    /// As [`listen`](Peer::listen), with a path or TLS.
    ///
    /// # Errors
    /// As [`listen`](Peer::listen), and [`ErrorKind::InvalidArgument`] for a path that does not begin
    /// with a slash.
    pub async fn listen_with(
        &self,
        address: impl ToSocketAddrs,
        options: ListenOptions,
    ) -> Result<Listener> {
        let shared = self.shared();
        shared.on_runtime(net::listen(shared, address, options)).await
    }

    /// Serves a connection that the application's own server has accepted: its first bytes are an
    /// HTTP upgrade. Returns when the connection has ended; spawn it. Dropping the future ends the
    /// connection.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`].
    pub async fn accept<S>(&self, stream: S) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.accept_from(stream, Remote::default()).await
    }

    /// As [`accept`](Peer::accept), with what the application's server knows of the other end, for its
    /// [`Identity`](crate::Identity): address and certificate. Without an address, no policy rule about addresses
    /// matches it.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`].
    pub async fn accept_from<S>(&self, stream: S, remote: Remote) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.take_over(stream, Opening::Accept { path: None }, remote).await
    }

    /// Serves a connection whose upgrade to WebSocket the application's own server has done, such
    /// as hyper's `Upgraded` in `hyper_util::rt::TokioIo`. Returns when the connection has ended;
    /// spawn it. Dropping the future ends the connection. [`accept_key`](crate::accept_key) helps to
    /// answer the upgrade.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`].
    pub async fn accept_upgraded<S>(&self, stream: S) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.accept_upgraded_from(stream, Remote::default()).await
    }

    /// As [`accept_upgraded`](Peer::accept_upgraded), with what the application's server knows of the other end, for its
    /// [`Identity`](crate::Identity): address, certificate, headers, claims. That server has to look at the `Origin` of
    /// the upgrade and to authenticate by itself: [`Peer::check_origin`] helps with the former.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`].
    pub async fn accept_upgraded_from<S>(&self, stream: S, remote: Remote) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.take_over(stream, Opening::Upgraded { side: Side::Server, address: None }, remote)
            .await
    }

    /// Whether an upgrade with these headers may go on, by its origin: for servers of the application's that do
    /// upgrades themselves, which answer 403 otherwise.
    ///
    /// # Errors
    /// [`ErrorKind::AuthRefused`], with the origin that is [not allowed](PeerBuilder::allow_origin).
    pub fn check_origin(&self, headers: &HeaderMap) -> Result<()> {
        let origins = headers.get_all(ORIGIN).iter().map(HeaderValue::as_bytes);
        self.shared().origins.check(origins).map_err(|origin| {
            Error::new(ErrorKind::AuthRefused, format!("The origin {origin:?} is foreign"))
        })
    }

    async fn take_over<S>(&self, stream: S, opening: Opening, remote: Remote) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        /// Ends the connection when nobody waits for it any more.
        struct AbortOnDrop(JoinHandle<()>);

        impl Drop for AbortOnDrop {
            fn drop(&mut self) {
                self.0.abort();
            }
        }

        let shared = self.shared();
        shared.check_open()?;
        // A task of the peer's runtime, since it needs that, and since `close` waits for it, whether or not
        // the caller goes on to poll this.
        let task = shared.start(net::serve(shared.clone(), stream, opening, remote));
        // It fails when the runtime goes, which is an end as well.
        let _ = (&mut AbortOnDrop(task).0).await;
        Ok(())
    }

    /// Connects to a `ws://` or `wss://` address, and again whenever the connection is lost, until
    /// [`disconnect`](Peer::disconnect). Waits for the first outcome; after a failure, or when the
    /// future is dropped, the address is still tried further. [`dial`](Peer::dial) does not wait.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`], [`ErrorKind::ConnectFailed`], [`ErrorKind::AuthRefused`],
    /// [`ErrorKind::Closed`].
    pub async fn connect(&self, address: impl AsRef<str>) -> Result<Connected> {
        self.connect_with(address, ConnectOptions::new()).await
    }

    /// As [`connect`](Peer::connect), with options: once only, headers, TLS, a time limit.
    ///
    /// # Errors
    /// As [`connect`](Peer::connect), and [`ErrorKind::Tls`].
    pub async fn connect_with(
        &self,
        address: impl AsRef<str>,
        options: ConnectOptions,
    ) -> Result<Connected> {
        let (sender, receiver) = oneshot::channel();
        self.start_dialing(address.as_ref(), options, Some(sender))?;
        let closed = |_| Err(Error::peer_closed());
        let (unit, connection) = receiver.await.unwrap_or_else(closed)?;
        Ok(Connected { unit: Unit::new(unit), connection })
    }

    /// As [`connect`](Peer::connect), but in the background: for a program that may start before those
    /// that it needs. [`Destination::ready`] waits for them; each attempt's outcome is an event
    /// ([`PeerEvent::ReconnectSucceeded`], [`PeerEvent::ReconnectFailed`]).
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let math = roletalk::Peer::builder().build()?;
    /// # math.role("math")?;
    /// # let listener = math.listen("127.0.0.1:0").await?;
    /// # let address = listener.url();
    /// # let peer = roletalk::Peer::builder().build()?;
    /// peer.dial(address)?;
    /// peer.destination("math")?.ready().await?;
    /// # Ok::<_, roletalk::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`], [`ErrorKind::Closed`].
    pub fn dial(&self, address: impl AsRef<str>) -> Result<()> {
        self.dial_with(address, ConnectOptions::new())
    }

    /// As [`dial`](Peer::dial), with options.
    ///
    /// # Errors
    /// As [`dial`](Peer::dial), and [`ErrorKind::Tls`].
    pub fn dial_with(&self, address: impl AsRef<str>, options: ConnectOptions) -> Result<()> {
        self.start_dialing(address.as_ref(), options, None)
    }

    fn start_dialing(
        &self,
        address: &str,
        options: ConnectOptions,
        waiter: Option<Waiter>,
    ) -> Result<()> {
        if address.starts_with("wss:") {
            options.tls.config()?;
        }
        let tls = options.tls.watched();
        self.shared().with_core(|core, now| {
            let id = core.peer.connect(address, options.permanent, now)?;
            // Those that were to be dialed once are forgotten by the engine when they are lost.
            if core.dialed.len().is_power_of_two() {
                core.dialed.retain(|id, _| core.peer.is_dialed(*id));
            }
            core.dialed.insert(id, Dialed { options: Arc::new(options), waiter });
            Ok::<_, Error>(())
        })?;
        self.shared().use_tls(&tls);
        Ok(())
    }

    /// Stops dialing an address. A connection that is up stays; close its unit to end it. One that
    /// is being opened is given up: whoever waits in [`connect`](Peer::connect) gets
    /// [`ErrorKind::ConnectFailed`]. False when the address is not dialed.
    pub fn disconnect(&self, address: &str) -> bool {
        self.shared().with_core(|core, _| {
            let forgotten = core.peer.forget_url(address);
            for id in &forgotten {
                if let Some(waiter) = core.dialed.remove(id).and_then(|dialed| dialed.waiter) {
                    let text = format!("`{address}` is not to be dialed any more");
                    let _ = waiter.send(Err(Error::new(ErrorKind::ConnectFailed, text)));
                }
            }
            !forgotten.is_empty()
        })
    }

    /// Reads the files of all TLS settings in use by this peer again, as
    /// [`TlsServer::reload`](crate::TlsServer::reload) does for one listener. Settings that do not come from files stay
    /// as they are.
    ///
    /// # Errors
    /// The first error of [`TlsServer::reload`](crate::TlsServer::reload). The files of all settings are tried, and the
    /// usable ones take effect.
    pub fn reload_tls(&self) -> Result<()> {
        self.shared().tls_used.reload()
    }

    /// The earliest expiry of the TLS settings that this peer listens or dials with: see
    /// [`TlsServer::expires`](crate::TlsServer::expires).
    pub fn tls_expires(&self) -> Option<SystemTime> {
        self.shared().tls_used.expires()
    }

    /// The TLS settings that an address is dialed with, as it was given to [`dial`](Peer::dial), to change them or to
    /// see when they expire; none when it is not dialed.
    pub fn dialed_tls(&self, address: &str) -> Option<TlsClient> {
        self.shared().with_core(|core, _| {
            let id = core.peer.addresses_of(address).into_iter().next()?;
            core.dialed.get(&id).map(|dialed| dialed.options.tls.clone())
        })
    }

    /// Counters.
    pub fn stats(&self) -> PeerStats {
        let (handshakes, reconnects, addresses_ignored) = self.shared().with_core(|core, _| {
            (core.peer.handshakes(), core.reconnects, core.peer.addresses_ignored())
        });
        let units = self.units().into_iter().map(|unit| {
            let stats = unit.stats();
            (unit, stats)
        });
        PeerStats {
            units: units.collect(),
            handshakes,
            queued: self.shared().budget.queued(),
            reconnects,
            addresses_ignored,
        }
    }

    /// Withdraws the roles, serves what units have sent before they know (at most a second), lets running requests
    /// and streams finish within the limit, then [closes](Peer::close). Requests that come too late go on to
    /// other units; those of an original are handled as long as it is connected. [`serve`](Peer::serve) does this on a
    /// signal. A handler that calls this would wait for itself: let it spawn a task for that.
    ///
    /// True when everything had finished; false also when the peer was closed elsewhere before that. A stream towards
    /// roletalk 1.1.3 (Node 14 or later) has finished when its application has read it to the end.
    pub async fn drain(&self, limit: Duration) -> bool {
        let shared = self.shared();
        shared.draining.store(true, Ordering::Relaxed);
        let (withdrawal, units, now) = shared.with_core(|core, now| {
            let units: Vec<_> = core.units.values().cloned().collect();
            (core.peer.withdraw(), units, now)
        });
        for unit in units {
            unit.with(|state| state.machine.drain(&withdrawal, now));
        }
        let idle = async {
            loop {
                let idle = shared.idle.notified();
                tokio::pin!(idle);
                idle.as_mut().enable();
                if !shared.with_core(|core, _| core.is_busy()) {
                    return;
                }
                idle.await;
            }
        };
        let mut closed = shared.closed.subscribe();
        let finished = async {
            tokio::select! {
                // When the runtime has gone, the peer is closed and there is no time any more.
                biased;
                _ = closed.wait_for(|closed| *closed) => !shared.cut_off.load(Ordering::Acquire),
                finished = tokio::time::timeout(limit, idle) => finished.is_ok(),
            }
        };
        let finished = shared.on_runtime(finished).await;
        self.close().await;
        finished
    }

    /// Closes all connections with code 4000, stops listening and dialing, drops all handlers, and
    /// waits until that is done: at most about two seconds, when the other side does not answer. Then
    /// the peer's tasks, timers and descriptors are gone, and [`events`](Peer::events) have come to
    /// their end.
    ///
    /// Handlers that are running see their streams and requests fail, and are dropped where they wait
    /// next, also one that calls this itself: what is to come after it belongs into a task of its own.
    /// [`drain`](Peer::drain) lets them finish. Who drops this future has closed the peer all the same.
    pub async fn close(&self) {
        self.shared().close();
        self.shared().until_ended().await;
    }

    /// Waits until the peer is closed, by whomever: at the beginning of the closing, where
    /// [`close`](Peer::close) returns at its end. Cancel-safe.
    pub async fn closed(&self) {
        // The sender lives in `self`.
        let _ = self.shared().closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Whether the peer was closed.
    pub fn is_closed(&self) -> bool {
        self.shared().is_closed()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("id", &self.shared().id).finish_non_exhaustive()
    }
}
