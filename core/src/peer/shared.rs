//! What the handles of one peer share, and how the engine's effects reach the world.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{
    runtime::Handle,
    sync::{Notify, broadcast, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tracing::{Instrument, Span, debug, warn};

use super::{
    authenticate::Authenticate,
    destination::DestinationInner,
    event::PeerEvent,
    handler::Middleware,
    role::{Changes, Roles},
    unit::UnitInner,
};
use crate::{
    Error, ErrorKind, Result,
    engine::{
        self, AddressId, Balance, Budget, ConnId, Identity, Limits, Moment, Origins, PeerEffect,
        PlaceId, Ready, UnitId, Unsent, printable,
    },
    net::{AllTls, CloseCommand, ConnHandle, ConnectOptions, shown},
};

/// Events that a slow subscriber can lag behind before it misses some.
const EVENT_BACKLOG: usize = 1024;

/// Monotonic time since the peer was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    pub(crate) fn now(&self) -> Moment {
        Moment::at(self.0.elapsed())
    }

    pub(crate) fn instant(&self, at: Moment) -> Instant {
        // "Never" must be a time that can be waited for.
        const YEARS: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
        self.0.checked_add(at.since_epoch()).unwrap_or_else(|| Instant::now() + YEARS)
    }
}

/// Locks without caring for poison: no lock here is held across foreign code.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) type Waiter = oneshot::Sender<Result<(Arc<UnitInner>, ConnId)>>;

/// An address that is being dialed on behalf of the application.
pub(crate) struct Dialed {
    pub(crate) options: Arc<ConnectOptions>,
    pub(crate) waiter: Option<Waiter>,
}

/// A connection, also one whose handshake is under way.
pub(crate) struct Conn {
    pub(crate) handle: Arc<ConnHandle>,
    /// Where it comes from or leads to, if that is known.
    pub(crate) remote: Option<SocketAddr>,
    /// What the other end has shown, once it belongs to a unit.
    pub(crate) identity: Option<(UnitId, Arc<Identity>)>,
}

/// The part under the peer's lock. It is taken when connections, roles or units change, never for a
/// message.
pub(crate) struct Core {
    pub(crate) peer: engine::Peer,
    pub(crate) units: HashMap<UnitId, Arc<UnitInner>>,
    pub(crate) conns: HashMap<ConnId, Conn>,
    /// For evicting connections in the TLS handshake: sends whether the handshake timeout has expired.
    pub(crate) strangers: HashMap<PlaceId, oneshot::Sender<bool>>,
    pub(crate) dialed: HashMap<AddressId, Dialed>,
    pub(crate) destinations: HashMap<Arc<str>, Arc<DestinationInner>>,
    pub(crate) reconnects: u64,
}

pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) limits: Arc<Limits>,
    /// How destinations choose where nothing else is said.
    pub(crate) balance: Balance,
    pub(crate) budget: Budget,
    pub(crate) runtime: Handle,
    pub(crate) id: Arc<str>,
    core: Mutex<Core>,
    /// Changed under the peer's lock only.
    pub(crate) roles: ArcSwap<Roles>,
    pub(crate) middleware: ArcSwap<Vec<Middleware>>,
    /// Of roles, handlers and middleware.
    pub(crate) changes: Changes,
    pub(crate) origins: Arc<Origins>,
    /// None, too, when the peer is closed.
    pub(crate) authenticate: ArcSwapOption<Authenticate>,
    /// The file that the policy is taken from.
    pub(crate) policy_file: watch::Sender<Option<Arc<Path>>>,
    /// How to connect to addresses that other units tell.
    acquaintance: Arc<ConnectOptions>,
    pub(crate) events: broadcast::Sender<PeerEvent>,
    /// Tells the timer task that the deadline may have changed.
    timer: Notify,
    pub(crate) closed: watch::Sender<bool>,
    /// The same, for a look without a lock.
    is_closed: AtomicBool,
    /// Requests or streams were running when it was closed.
    pub(crate) cut_off: AtomicBool,
    pub(crate) draining: AtomicBool,
    /// Bytes of payloads that are kept to be sent again.
    pub(crate) kept: AtomicUsize,
    /// Requests that wait for a unit.
    pub(crate) parked: AtomicUsize,
    /// Told whenever work may have ended while draining.
    pub(crate) idle: Notify,
    /// Tasks that serve connections, listeners and the timer.
    tasks: AtomicUsize,
    /// It is closed, and these tasks have ended: nothing more can happen.
    pub(crate) ended: watch::Sender<bool>,
    /// Tasks of handlers.
    handlers: AtomicUsize,
    /// Told when the last of them has ended after the peer has.
    no_handlers: Notify,
    /// The TLS settings of listeners and dialed addresses.
    pub(crate) tls_used: AllTls,
}

impl Shared {
    pub(crate) fn new(
        config: engine::Config,
        acquaintance: ConnectOptions,
        authenticate: Option<Authenticate>,
        runtime: Handle,
    ) -> Arc<Shared> {
        let limits = Arc::new(config.limits.clone());
        let (balance, origins) = (config.balance.clone(), config.origins.clone());
        let peer = engine::Peer::new(config);
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            limits,
            balance,
            budget: Budget::default(),
            runtime,
            id: peer.id().clone(),
            core: Mutex::new(Core {
                peer,
                units: HashMap::new(),
                conns: HashMap::new(),
                strangers: HashMap::new(),
                dialed: HashMap::new(),
                destinations: HashMap::new(),
                reconnects: 0,
            }),
            roles: ArcSwap::default(),
            middleware: ArcSwap::default(),
            changes: Changes::default(),
            origins,
            authenticate: ArcSwapOption::from(authenticate.map(Arc::new)),
            policy_file: watch::Sender::new(None),
            acquaintance: Arc::new(acquaintance),
            events: broadcast::Sender::new(EVENT_BACKLOG),
            timer: Notify::new(),
            closed: watch::Sender::new(false),
            is_closed: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            kept: AtomicUsize::new(0),
            parked: AtomicUsize::default(),
            idle: Notify::new(),
            tasks: AtomicUsize::new(0),
            ended: watch::Sender::new(false),
            handlers: AtomicUsize::new(0),
            no_handlers: Notify::new(),
            tls_used: AllTls::default(),
        });
        shared.spawn(timer_task(shared.clone()));
        shared.use_tls(&shared.acquaintance.tls.watched());
        shared
    }

    /// Changes the peer's state, then does what follows from it.
    pub(crate) fn with_core<T>(
        self: &Arc<Shared>,
        change: impl FnOnce(&mut Core, Moment) -> T,
    ) -> T {
        let mut after = Vec::new();
        let result = {
            let mut core = lock(&self.core);
            let now = self.clock.now();
            let before = core.peer.deadline();
            let result = change(&mut core, now);
            self.apply(&mut core, &mut after);
            let deadline = core.peer.deadline();
            // A later deadline is noticed when the earlier one comes.
            if deadline.is_some() && deadline != before {
                self.timer.notify_one();
            }
            result
        };
        for action in after {
            action.run(self);
        }
        result
    }

    /// Turns effects into changes under the lock and actions for after it.
    fn apply(self: &Arc<Shared>, core: &mut Core, after: &mut Vec<After>) {
        while let Some(effect) = core.peer.poll_effect() {
            match effect {
                PeerEffect::Dial { address, url } => {
                    let options = core.dialed.get(&address).map(|dialed| dialed.options.clone());
                    let options = options.unwrap_or_else(|| self.acquaintance.clone());
                    after.push(After::Dial(address, url, options));
                }
                PeerEffect::Send { unit, frame } => {
                    if let Some(unit) = core.units.get(&unit) {
                        unit.with(|state| state.machine.send_raw(&frame));
                    }
                }
                PeerEffect::Retire { unit, conn } => {
                    if let Some(unit) = core.units.get(&unit) {
                        let now = self.clock.now();
                        unit.with(|state| state.machine.retire(conn, now));
                    }
                }
                PeerEffect::Introduce { unit, frames } => {
                    if let Some(unit) = core.units.get(&unit) {
                        unit.with(|state| state.machine.introduce(&frames));
                    }
                }
                PeerEffect::Close { conn, frames, code, reason, at_once } => {
                    if let Some(Conn { handle, .. }) = core.conns.get(&conn) {
                        let reason = reason.to_owned();
                        handle.close(CloseCommand { frames, code, reason, at_once });
                    }
                }
                PeerEffect::Evict { place, late } => {
                    if let Some(stranger) = core.strangers.remove(&place) {
                        let _ = stranger.send(late);
                    }
                }
                PeerEffect::Event(event) => self.apply_event(core, event, after),
            }
        }
    }

    fn apply_event(
        self: &Arc<Shared>,
        core: &mut Core,
        event: engine::PeerEvent,
        after: &mut Vec<After>,
    ) {
        use engine::PeerEvent as From;
        let event = match event {
            From::UnitOpened { unit, .. } => match core.units.get(&unit) {
                Some(unit) => PeerEvent::UnitOpened(super::Unit::new(unit.clone())),
                None => return,
            },
            From::UnitClosed { unit } => match core.units.remove(&unit) {
                Some(unit) => {
                    unit.closed.send_replace(true);
                    PeerEvent::UnitClosed(super::Unit::new(unit))
                }
                None => return,
            },
            From::UnitRoles { unit, roles } => match core.units.get(&unit) {
                Some(unit) => {
                    *lock(&unit.roles) = roles;
                    return;
                }
                None => return,
            },
            From::DestinationOpened { role } => PeerEvent::DestinationOpened(role),
            From::DestinationClosed { role } => PeerEvent::DestinationClosed(role),
            From::DestinationGained { role, unit } => {
                core.refresh_destination(&role);
                match core.units.get(&unit) {
                    Some(unit) => {
                        PeerEvent::DestinationGained { role, unit: super::Unit::new(unit.clone()) }
                    }
                    None => return,
                }
            }
            From::DestinationLost { role, unit } => {
                core.refresh_destination(&role);
                match core.units.get(&unit) {
                    Some(unit) => {
                        PeerEvent::DestinationLost { role, unit: super::Unit::new(unit.clone()) }
                    }
                    None => return,
                }
            }
            From::UnitEjected { role, unit } => match core.units.get(&unit) {
                Some(unit) => {
                    let info = unit.info.load();
                    let (id, name) = (printable(&info.id), printable(&info.name));
                    warn!(peer = %self.id, unit = %id, name, role = &*role, "ejected");
                    PeerEvent::UnitEjected { role, unit: super::Unit::new(unit.clone()) }
                }
                None => return,
            },
            From::UnitRestored { role, unit } => match core.units.get(&unit) {
                Some(unit) => {
                    PeerEvent::UnitRestored { role, unit: super::Unit::new(unit.clone()) }
                }
                None => return,
            },
            From::Denied { unit, denial } => match core.units.get(&unit) {
                Some(unit) => {
                    let info = unit.info.load();
                    let (identity, count) = (info.identity.label(), denial.count);
                    let (id, name) = (printable(&info.id), printable(&info.name));
                    warn!(peer = %self.id, unit = %id, name, identity, %denial, count, "denied");
                    PeerEvent::Denied { unit: super::Unit::new(unit.clone()), denial }
                }
                None => return,
            },
            From::AuthRefused { conn, reason } => {
                let remote = shown(core.conns.get(&conn).and_then(|conn| conn.remote));
                warn!(peer = %self.id, conn = conn.0, remote, reason, "authentication refused");
                PeerEvent::AuthRefused { reason }
            }
            From::AcceptFailed { error } => {
                warn!(peer = %self.id, reason = %error, "connections refused");
                PeerEvent::AcceptFailed { error }
            }
            From::Dialed { address, url, count, outcome, again } => {
                let unit = match &outcome {
                    Ok((unit, conn)) => core.units.get(unit).map(|unit| (unit.clone(), *conn)),
                    Err(_) => None,
                };
                let known = match outcome {
                    Ok(_) => unit.ok_or_else(|| Error::new(ErrorKind::Closed, "The unit is gone")),
                    Err(error) => Err(error),
                };
                let waiter = core.dialed.get_mut(&address).and_then(|d| d.waiter.take());
                let told = waiter.is_some_and(|waiter| waiter.send(known.clone()).is_ok());
                if !core.peer.is_dialed(address) {
                    core.dialed.remove(&address);
                }
                core.reconnects += u64::from(again && known.is_ok());
                match known {
                    _ if told => return,
                    Ok((unit, _)) => {
                        let unit = super::Unit::new(unit);
                        PeerEvent::ReconnectSucceeded { address: url, count, unit }
                    }
                    Err(error) => {
                        debug!(peer = %self.id, address = %url, count, %error, "reconnect failed");
                        PeerEvent::ReconnectFailed { address: url, count, error }
                    }
                }
            }
            From::AddressIgnored { unit, url, reason } => {
                let unit = core.units.get(&unit).map(|unit| unit.info.load().id.clone());
                let unit = unit.as_deref().unwrap_or_default();
                debug!(peer = %self.id, unit, url, reason, "told address ignored");
                return;
            }
            From::ConnectionClosed { unit, reason, .. } => {
                let unit = unit.and_then(|unit| core.units.get(&unit)).cloned();
                let unit = unit.map(super::Unit::new);
                PeerEvent::ConnectionClosed { unit, reason }
            }
        };
        after.push(After::Event(event));
    }

    pub(crate) fn emit(&self, event: PeerEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    /// A connection is ready: makes it part of its unit. Runs before the effects of the handshake,
    /// which may already want to send to the unit.
    pub(crate) fn admit(
        self: &Arc<Shared>,
        core: &mut Core,
        ready: Ready,
        conn: ConnId,
        handle: &Arc<ConnHandle>,
        now: Moment,
    ) -> Arc<UnitInner> {
        let unit = core
            .units
            .entry(ready.unit)
            .or_insert_with(|| Arc::new(UnitInner::new(self.clone(), &ready)))
            .clone();
        if let Some(conn) = core.conns.get_mut(&conn) {
            conn.identity = Some((ready.unit, ready.info.identity.clone()));
        }
        unit.info.store(ready.info);
        *lock(&unit.roles) = ready.roles;
        unit.attach(conn, ready.writer, ready.extensions, handle.clone(), now);
        if core.peer.is_withdrawn() {
            unit.with(|state| state.machine.withdrawn());
        }
        unit
    }

    /// Sends a message that a lost unit has not got to another one, if there is one.
    #[cold]
    pub(crate) fn resend(self: &Arc<Self>, unsent: &Unsent) {
        // Each unit that is just being lost has been told so before it is chosen again.
        let next = || {
            self.with_core(|core, now| {
                let unit = core.peer.choose_for(unsent, now).ok()?;
                core.units.get(&unit).cloned()
            })
        };
        while let Some(unit) = next() {
            if unit.with(|state| state.machine.resend(unsent)).is_ok() {
                break;
            }
        }
    }

    /// The error of everything that is tried on a closed peer.
    pub(crate) fn check_open(&self) -> Result<()> {
        match self.is_closed() {
            false => Ok(()),
            true => Err(Error::peer_closed()),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Waits so long, whoever polls it, also while the runtime is being ended: a timer must not be polled then. For
    /// what is rare.
    pub(crate) async fn pause(&self, time: Duration) {
        struct Ended(JoinHandle<()>);
        impl Drop for Ended {
            fn drop(&mut self) {
                self.0.abort();
            }
        }
        let mut task = Ended(self.runtime.spawn(async move { tokio::time::sleep(time).await }));
        if (&mut task.0).await.is_err() {
            // Nothing happens any more. That the peer is closed is told otherwise.
            std::future::pending().await
        }
    }

    /// Runs a future of tokio's on the peer's runtime, whoever polls it.
    pub(crate) async fn on_runtime<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            let _runtime = self.runtime.enter();
            future.as_mut().poll(cx)
        })
        .await
    }

    /// Closes everything. Idempotent; [`Shared::until_ended`] waits until it is done.
    pub(crate) fn close(self: &Arc<Shared>) {
        if self.is_closed.swap(true, Ordering::SeqCst) {
            return;
        }
        self.with_core(|core, _| {
            self.cut_off.store(core.is_busy(), Ordering::Release);
            self.closed.send_replace(true);
            core.peer.close();
            core.dialed.clear();
            let units: Vec<_> = core.units.values().cloned().collect();
            for unit in units {
                unit.close_connections();
            }
            for Conn { handle, .. } in core.conns.values() {
                handle.close(CloseCommand::manual());
            }
        });
        // Handlers often own handles of the peer: without this they would keep each other alive.
        self.roles.store(Arc::default());
        self.middleware.store(Arc::default());
        self.authenticate.store(None);
        self.changes.note();
        self.timer.notify_one();
        self.note_end();
    }

    /// To be called when the peer was closed or the last task has ended: the second of them ends all.
    fn note_end(&self) {
        if self.is_closed.load(Ordering::SeqCst) && self.tasks.load(Ordering::SeqCst) == 0 {
            self.ended.send_replace(true);
        }
    }

    /// Waits until nothing of a peer that was closed is left: connections, listeners, timers, handlers.
    pub(crate) async fn until_ended(&self) {
        // The sender lives in `self`.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
        loop {
            let mut none = std::pin::pin!(self.no_handlers.notified());
            none.as_mut().enable();
            if self.handlers.load(Ordering::SeqCst) == 0 {
                return;
            }
            none.await;
        }
    }

    pub(crate) fn note_idle(&self) {
        if self.draining.load(Ordering::Relaxed) {
            self.idle.notify_waiters();
        }
    }
}

impl Core {
    pub(crate) fn is_busy(&self) -> bool {
        self.units.values().any(|unit| unit.busy() > 0)
    }

    fn refresh_destination(&self, role: &Arc<str>) {
        if let Some(destination) = self.destinations.get(role) {
            let units = self.peer.destination(role);
            let units = units.iter().filter_map(|unit| self.units.get(unit).cloned()).collect();
            destination.set_units(units);
        }
    }
}

/// What is done after the lock was released.
enum After {
    Dial(AddressId, Arc<str>, Arc<ConnectOptions>),
    Event(PeerEvent),
}

impl After {
    fn run(self, shared: &Arc<Shared>) {
        match self {
            After::Dial(address, url, options) => {
                let task = crate::net::dial_task(shared.clone(), address, url, options);
                shared.spawn(task);
            }
            After::Event(event) => shared.emit(event),
        }
    }
}

/// Counts a task for as long as it lives.
struct TaskGuard(Arc<Shared>);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if self.0.tasks.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.note_end();
        }
    }
}

/// Counts the task of a handler for as long as it lives.
struct HandlerGuard(Arc<Shared>);

impl Drop for HandlerGuard {
    fn drop(&mut self) {
        if self.0.handlers.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_closed() {
            self.0.no_handlers.notify_waiters();
        }
    }
}

impl Shared {
    /// Spawns a task that [`Peer::close`](super::Peer::close) waits for.
    pub(crate) fn spawn(self: &Arc<Shared>, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.start(task));
    }

    /// The same, for those who wait for it themselves.
    pub(crate) fn start(
        self: &Arc<Shared>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        self.tasks.fetch_add(1, Ordering::SeqCst);
        let guard = TaskGuard(self.clone());
        self.runtime.spawn(async move {
            let _guard = guard;
            task.await;
        })
    }

    /// Spawns a task that runs handlers. It is dropped where it waits when the peer has ended: what it
    /// waits for may never come, and nobody could hear of its outcome.
    pub(crate) fn spawn_handler(
        self: &Arc<Shared>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.handlers.fetch_add(1, Ordering::SeqCst);
        let guard = HandlerGuard(self.clone());
        let mut ended = self.ended.subscribe();
        let task = async move {
            let _guard = guard;
            tokio::select! {
                // It sees what has ended first.
                biased;
                () = task => {}
                _ = ended.wait_for(|ended| *ended) => {}
            }
        };
        // That of the connection: what the handler has done so far was in that, too.
        self.runtime.spawn(task.instrument(Span::current()));
    }
}

/// Calls the peer's state machine when something is due.
async fn timer_task(shared: Arc<Shared>) {
    /// Closes the peer when the task is dropped with its runtime: nobody would dial any more or
    /// notice that time passes, and those who wait on another runtime would wait for ever.
    struct OnDrop(Arc<Shared>);

    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.close();
        }
    }

    const FAR: Duration = Duration::from_secs(3600);
    let _guard = OnDrop(shared.clone());
    let mut closed = shared.closed.subscribe();
    loop {
        let changed = shared.timer.notified();
        let deadline = lock(&shared.core).peer.deadline();
        let at = shared.clock.instant(deadline.unwrap_or_else(|| shared.clock.now() + FAR));
        tokio::select! {
            () = tokio::time::sleep_until(at) => {
                shared.with_core(|core, now| core.peer.handle_timeout(now));
            }
            () = changed => {}
            _ = closed.wait_for(|closed| *closed) => return,
        }
    }
}
