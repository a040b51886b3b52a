//! A peer with an application that does at random all that applications do.

mod handlers;
mod streams;
mod traffic;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use roletalk::{Context, Data, Error, ErrorKind, Events, Limits, Peer, PeerEvent, Unit};
use roletalk_engine::UnitId;
use tokio::time::{Instant, sleep, timeout};

use super::{
    Profile,
    ledger::Runs,
    pipe::Pipe,
    world::{World, url},
};
use streams::Plan;

const ROLES: [&str; 6] = ["r0", "r1", "r2", "r3", "r4", "r5"];
/// The role that everybody always serves, without mischief.
const ALWAYS: &str = "always";
/// What is queued beyond the limit of a connection: see core/engine/tests/simulation/host.rs.
const SLACK: usize = (64 << 10) + (32 << 10);
const BULK: usize = 128 << 10;
/// A peer or a unit is closed within the time that the other side has for its close frame.
const CLOSING: Duration = Duration::from_millis(2100);

type Result<T> = std::result::Result<T, Error>;

pub(crate) struct Node {
    /// In the ledger. A peer that is made anew is another one.
    pub(crate) index: usize,
    pub(crate) place: usize,
    pub(crate) peer: Peer,
    world: Arc<World>,
    limits: Limits,
    /// Tasks of the application.
    tasks: AtomicUsize,
    app: Mutex<App>,
}

#[derive(Default)]
struct App {
    units: HashMap<Unit, UnitId>,
    runs: Runs,
    /// Handlers that never end.
    stuck: BTreeMap<UnitId, usize>,
}

impl Node {
    /// A new peer, which listens at the place.
    pub(crate) fn start(world: &Arc<World>, place: usize) -> Arc<Node> {
        let index = world.next_node();
        let profile = *world.profile();
        let (limits, friendly, key) = world.with(|state| {
            let rng = &mut state.rng;
            let mut limits = Limits::default();
            limits.queue_per_connection = rng.pick(&[30_000, 200_000]);
            limits.queue_per_peer = rng.pick(&[60_000, 2_000_000]);
            limits.stream_window = rng.pick(&[1000, 65_536, 262_144]);
            limits.connections_per_unit = rng.pick(&[2, 16]);
            limits.waiting_requests = rng.pick(&[20, 65_536]);
            limits.streams = rng.pick(&[5, 4096]);
            limits.owed_per_connection = rng.pick(&[200, 1 << 20]);
            if profile.few_handlers {
                // Enough for one that waits for another.
                limits.running_handlers = rng.pick(&[2, 4]);
            }
            limits.acquaintance_patience = Duration::from_secs(5);
            limits.acquaintance_dials = rng.pick(&[1, 16]);
            limits.connection_age = rng.pick(&[0, 1, 3].map(Duration::from_secs));
            let key = match rng.below(10) {
                _ if !profile.keys => None,
                0 => None,
                1 => Some("wrong"),
                _ => Some("right"),
            };
            (limits, rng.percent(profile.friendly), key)
        });
        let mut builder = Peer::builder()
            .name(index.to_string())
            .tag("window", limits.stream_window.to_string())
            .friendly(friendly)
            .reconnect(|reconnect| reconnect.cap = Duration::from_secs(4))
            .acquaintance_options(world.options(place))
            .limits(|bounds| *bounds = limits.clone());
        if let Some(key) = key {
            builder = builder.preshared_key("k", key);
        }
        let node = Arc::new(Node {
            index,
            place,
            peer: builder.build().expect("within a runtime"),
            world: world.clone(),
            limits,
            tasks: AtomicUsize::new(0),
            app: Mutex::default(),
        });
        tokio::spawn(watch(Arc::downgrade(&node), node.peer.events()));
        node.serve(&node.peer.inactive_role(ALWAYS).expect("open"), false);
        node.peer.role(ALWAYS).expect("open").enable();
        node.peer.destination(ALWAYS).expect("open");
        for _ in 0..5 {
            node.add_role();
            node.add_destination();
        }
        for _ in 0..world.with(|state| state.rng.between(1, profile.dials)) {
            node.dial(true);
        }
        world.settle(place, Some(node.clone()));
        node.note(format_args!("listens at {place}"));
        node
    }

    fn app(&self) -> MutexGuard<'_, App> {
        self.app.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.world.with(|state| state.note(self.index, what));
    }

    fn percent(&self, percent: u64) -> bool {
        self.world.percent(percent)
    }

    /// The ledger's name for a unit.
    fn unit_id(&self, unit: &Unit) -> UnitId {
        let mut app = self.app();
        let next = UnitId(app.units.len() as u64);
        *app.units.entry(unit.clone()).or_insert(next)
    }

    fn spawn(self: &Arc<Node>, task: impl Future<Output = ()> + Send + 'static) {
        let node = self.clone();
        node.tasks.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            task.await;
            node.tasks.fetch_sub(1, Ordering::Relaxed);
        });
    }

    // Connections.

    pub(crate) fn accept(self: &Arc<Node>, pipe: Pipe) {
        let peer = self.peer.clone();
        // It fails when the peer is closed.
        tokio::spawn(async move { drop(peer.accept(pipe).await) });
    }

    fn dial(&self, permanent: bool) {
        // Sometimes itself.
        let to = self.world.with(|state| state.rng.index(self.world.profile().peers));
        self.note(format_args!("dials {to}"));
        let options = self.world.options(self.place);
        let options = if permanent { options } else { options.once() };
        self.expect_open(self.peer.dial_with(url(to), options));
    }

    fn connect(self: &Arc<Node>) {
        let node = self.clone();
        self.spawn(async move {
            let to = node.world.with(|state| state.rng.index(node.world.profile().peers));
            let options = node.world.options(node.place).once();
            let patience = node.world.millis(1, 20_000);
            node.note(format_args!("connects to {to}"));
            let (address, begun) = (url(to), Instant::now());
            let connected = timeout(patience, node.peer.connect_with(&address, options)).await;
            // An attempt has a limit, and so has the handshake.
            let limit = Duration::from_secs(10 + 4 + 1);
            let late = begun.elapsed();
            node.world.with(|_| assert!(late < limit, "no outcome of connecting after {late:?}"));
            if let Ok(Ok(connected)) = connected {
                node.unit_id(connected.unit());
            }
        });
    }

    fn expect_open<T>(&self, outcome: Result<T>) {
        if let Err(error) = outcome {
            let closed = error.kind() == ErrorKind::Closed;
            self.world.with(|_| assert!(closed, "failed in an unexpected way: {error:?}"));
        }
    }

    fn units(&self) -> Vec<Unit> {
        let mut units = self.peer.units();
        // They come in no particular order.
        units.sort_by_key(|unit| unit.name().parse::<usize>().unwrap_or(usize::MAX));
        units
    }

    fn random_unit(&self) -> Option<Unit> {
        let units = self.units();
        let at = (!units.is_empty()).then(|| self.world.with(|s| s.rng.index(units.len())))?;
        units.into_iter().nth(at)
    }

    fn random_role(&self) -> &'static str {
        self.world.with(|state| state.rng.pick(&ROLES))
    }

    // Roles.

    fn add_role(self: &Arc<Node>) {
        let name = self.random_role();
        if self.peer.roles().iter().any(|role| role.name() == name) {
            return;
        }
        // Sometimes it is offered before its handlers are there.
        let role = match self.percent(50) {
            true => self.peer.role(name),
            false => self.peer.inactive_role(name),
        };
        let Ok(role) = role else { return };
        self.serve(&role, true);
        role.enable();
    }

    fn add_destination(&self) {
        self.expect_open(self.peer.destination(self.random_role()));
    }

    /// Changes roles, so that they are on their way while connections come and go.
    pub(crate) fn change_roles(&self) {
        let (name, active) = (self.random_role(), self.percent(50));
        let role = self.peer.roles().into_iter().find(|role| role.name() == name);
        let Some(role) = role else { return };
        self.note(format_args!("role {name} active: {active}"));
        if active { role.enable() } else { role.disable() }
    }

    // Actions.

    /// Does something at random.
    pub(crate) fn act(self: &Arc<Node>) {
        self.check();
        let Profile { close_units, stream, .. } = *self.world.profile();
        if self.world.with(|state| state.rng.below(1000)) < 3 {
            let permanent = self.percent(70);
            self.dial(permanent);
        }
        // The unit, or whose turn it is.
        let unit = self.random_unit();
        let to = if self.percent(70) { unit.clone() } else { None };
        let node = self.clone();
        match self.world.with(|state| state.rng.below(100)) {
            0..2 => self.add_role(),
            2..6 => self.change_roles(),
            6..8 => self.add_destination(),
            8 => self.connect(),
            9 if close_units => {
                let Some(unit) = unit else { return };
                self.note(format_args!("closes {:?}", self.unit_id(&unit)));
                self.spawn(async move { node.close_unit(&unit).await });
            }
            9..40 => self.send_some(to),
            40..45 => self.spawn(async move {
                let (role, max) = (node.random_role(), node.world.profile().message);
                let len = node.world.with(|state| state.rng.size(max));
                node.broadcast(role, len).await;
            }),
            45..50 => self.spawn(async move {
                let (limit, dropped) = (node.world.millis(500, 10_000), node.percent(20));
                node.survey(node.random_role(), limit, dropped).await;
            }),
            50..80 => {
                for _ in 0..self.world.with(|state| state.rng.between(1, 4)) {
                    self.ask_some(to.clone());
                }
            }
            _ => {
                let role = self.random_role();
                let plan = self.world.with(|state| {
                    let rng = &mut state.rng;
                    Plan {
                        event: rng.pick(&["s", "s", "t"]),
                        writes: rng.percent(50),
                        size: rng.size(stream),
                        limit: rng.millis(500, 10_000),
                        patience: rng.percent(10).then(|| rng.millis(0, 1000)),
                        mischief: true,
                    }
                });
                self.spawn(async move { node.open_stream(role, to, plan).await });
            }
        }
    }

    async fn close_unit(&self, unit: &Unit) {
        let begun = Instant::now();
        unit.close().await;
        let took = begun.elapsed();
        self.world.with(|_| assert!(took <= CLOSING, "closing a unit took {took:?}"));
    }

    /// Closes the peer.
    pub(crate) async fn close(&self) {
        let (drains, limit) = (self.percent(30), self.world.millis(0, 3000));
        self.note(format_args!("closes, drains: {drains}"));
        let begun = Instant::now();
        let limit = match drains {
            true => {
                self.peer.drain(limit).await;
                limit + CLOSING
            }
            false => {
                self.peer.close().await;
                CLOSING
            }
        };
        let took = begun.elapsed();
        self.world.with(|_| assert!(took <= limit, "closing took {took:?}, over {limit:?}"));
        let stats = self.peer.stats();
        let left = (stats.units.len(), stats.handshakes, stats.queued);
        self.world.with(|_| assert_eq!(left, (0, 0, 0), "units, handshakes, bytes are left"));
    }

    /// What holds at any time.
    fn check(&self) {
        let stats = self.peer.stats();
        self.world.with(|_| {
            let (mut sum, mut conns) = (0, 0);
            for (_, unit) in &stats.units {
                // What was queued on others that are lost may have moved to a connection.
                conns += self.limits.connections_per_unit;
                for conn in &unit.connections {
                    let most = self.limits.queue_per_connection.max(BULK) + SLACK;
                    let most = most * self.limits.connections_per_unit;
                    assert!(conn.queued <= most, "{} bytes queued on {:?}", conn.queued, conn.conn);
                    sum += conn.queued;
                }
            }
            assert_eq!(stats.queued, sum, "the budget is not what is queued");
            assert!(sum <= self.limits.queue_per_peer + conns * (BULK + SLACK), "{sum} queued");
        });
    }

    // When nothing goes wrong any more.

    /// Sends each unit all that there is. Nothing may have to wait for a timer: what a lost wake-up has
    /// left would go on with the next ping at the latest.
    pub(crate) async fn prove(self: &Arc<Node>) {
        // To there and back, with some time for what is to be written before.
        let turn = Duration::from_millis(8 * self.world.profile().nature.latency + 100);
        for unit in self.units() {
            for kept in [true, false] {
                let sent = self.send(ALWAYS, Some(&unit), kept, 100, true);
                self.soon("a message", turn, sent).await.unwrap_or_else(|error| {
                    self.world.fail(&format!("a message was refused: {error:?}"));
                });
            }
            for event in ["e", "d", "chain"] {
                let asked = self.ask(ALWAYS, event, Some(&unit), 100);
                self.soon(event, 2 * turn, asked).await;
            }
            for (writes, event) in [(true, "s"), (false, "t")] {
                let limit = Duration::from_secs(30);
                let (patience, mischief, size) = (None, false, 3000);
                let plan = Plan { event, writes, size, limit, patience, mischief };
                let opened = self.clone().open_stream(ALWAYS, Some(unit.clone()), plan);
                self.soon("a stream", 5 * turn, opened).await;
            }
        }
        let (id, count) = self.soon("a broadcast", turn, self.broadcast(ALWAYS, 100)).await;
        let surveyed = self.survey(ALWAYS, Duration::from_secs(30), false);
        self.soon("a survey", turn, surveyed).await;
        self.world.with(|state| {
            assert_eq!(state.ledger.seen(id), count, "a broadcast that not all have seen");
        });
    }

    async fn soon<T>(&self, what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let output = future.await;
        let took = begun.elapsed();
        self.world.with(|_| assert!(took <= limit, "{what} took {took:?}, more than {limit:?}"));
        output
    }

    /// What still waits for something, if anything does.
    pub(crate) fn busy(&self) -> Option<String> {
        let tasks = self.tasks.load(Ordering::Relaxed);
        let stats = self.peer.stats();
        let mut busy = tasks > 0 || stats.handshakes > 0;
        let mut text = format!("{tasks} tasks, {} handshakes", stats.handshakes);
        for (unit, stats) in &stats.units {
            let id = self.unit_id(unit);
            let stuck = self.app().stuck.get(&id).copied().unwrap_or_default();
            let running = stats.running - stuck;
            busy |= stats.waiting + stats.streams + running > 0;
            text += &format!(
                "; {id:?}: {} waiting, {} streams, {running} running",
                stats.waiting, stats.streams
            );
        }
        busy.then_some(text)
    }

    /// Everybody sees those that see it, and the roles that they serve.
    pub(crate) fn check_agreement(&self, nodes: &[Arc<Node>]) {
        for unit in self.units() {
            let other = nodes.iter().find(|node| node.peer.id() == unit.id());
            let other = other.expect("a unit that is none of the peers");
            let seen = other.units().iter().any(|unit| unit.id() == self.peer.id());
            assert!(seen, "{} sees {}, not so the other way", self.index, other.index);
            let mut known = unit.roles().to_vec();
            let roles = other.peer.roles();
            let active = roles.iter().filter(|role| role.is_active());
            let mut truly: Vec<_> = active.map(|role| role.name().to_owned()).collect();
            known.sort_unstable();
            truly.sort_unstable();
            assert_eq!(known, truly, "roles that {} knows of {}", self.index, other.index);
            for destination in self.peer.destinations() {
                let found = destination.units().contains(&unit);
                let role = destination.name();
                let serves = truly.iter().any(|truly| truly == role);
                assert_eq!(found, serves, "{role} of {}", other.index);
            }
        }
    }
}

/// Follows a peer's events for as long as it lives.
/// What a refusal counts as after the handshake.
const REFUSED_LATE: &str = "unknown frame type 0";

async fn watch(node: Weak<Node>, mut events: Events) {
    while let Some(event) = events.next().await {
        let Some(node) = node.upgrade() else { return };
        let world = &node.world;
        match event {
            PeerEvent::UnitOpened(unit) => {
                let id = node.unit_id(&unit);
                world.with(|state| {
                    state.ledger.counts.units += 1;
                    state.note(node.index, format_args!("{id:?} opened: {}", unit.name()));
                });
            }
            PeerEvent::UnitClosed(unit) => {
                let id = node.unit_id(&unit);
                node.note(format_args!("{id:?} closed"));
                let mut app = node.app();
                world.with(|state| app.runs.forget(id, &mut state.ledger));
                drop(app);
                let node = node.clone();
                tokio::spawn(async move {
                    // Time goes on only when all that were woken have had their turn.
                    sleep(Duration::from_millis(1)).await;
                    node.world.with(|state| state.ledger.unit_closed(node.index, id));
                });
            }
            // A refusal, such as of one connection too many, may cross this side's own confirmation; then it
            // is no frame of a unit.
            PeerEvent::BadInput { error, .. } if error.text() == REFUSED_LATE => {}
            PeerEvent::BadInput { error, .. } => world.fail(&format!("bad input: {error:?}")),
            PeerEvent::Missed(count) => world.fail(&format!("{count} events were missed")),
            PeerEvent::ConnectionClosed { unit, reason } => {
                node.note(format_args!("connection closed: {reason}"));
                if let Some(unit) = unit {
                    let (id, app) = (node.unit_id(&unit), node.app());
                    world.with(|state| app.runs.lost(id, None, true, &mut state.ledger));
                }
                if world.profile().is_calm() && reason.kind() == ErrorKind::ConnectFailed {
                    world.fail(&format!("a connection failed without reason: {reason:?}"));
                }
            }
            _ => {}
        }
    }
}

/// The number that a payload begins with.
fn number(context: &Context) -> u64 {
    u64::from_le_bytes(context.bytes()[..8].try_into().expect("a payload of the simulation"))
}

/// A payload that begins with a number.
fn payload(id: u64, len: usize) -> Data {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.resize(len.max(8), 0);
    Data::binary(bytes)
}
