//! What all of a run share: the ledger, the trace, the one source of randomness, and the network.

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use roletalk::ConnectOptions;
use roletalk_engine::Moment;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    Profile,
    ledger::Ledger,
    node::Node,
    pipe::{Pipe, Wire},
    rng::Rng,
    trace::Trace,
};

pub(crate) struct World {
    begun: Instant,
    profile: Profile,
    state: Mutex<State>,
    /// The first promise that was broken.
    failure: watch::Sender<Option<String>>,
    /// Handlers that never answer may go when this is set.
    pub(crate) over: watch::Sender<bool>,
}

pub(crate) struct State {
    pub(crate) rng: Rng,
    pub(crate) ledger: Ledger,
    trace: Trace,
    now: Moment,
    /// Who listens at which address.
    places: Vec<Option<Arc<Node>>>,
    unreachable: Vec<Instant>,
    wires: Vec<Entry>,
    /// Nothing goes wrong any more.
    calm: bool,
    nodes: usize,
}

struct Entry {
    wire: Arc<Wire>,
    places: [usize; 2],
}

impl State {
    pub(crate) fn note(&mut self, node: usize, what: fmt::Arguments<'_>) {
        self.trace.note(self.now, node, what);
    }
}

impl World {
    pub(crate) fn new(seed: u64, profile: Profile) -> Arc<World> {
        let begun = Instant::now();
        let mut ledger = Ledger::new();
        ledger.late = Some(Duration::from_millis(20));
        Arc::new(World {
            begun,
            profile,
            state: Mutex::new(State {
                rng: Rng::new(seed),
                ledger,
                trace: Trace::new(),
                now: Moment::EPOCH,
                places: (0..profile.peers).map(|_| None).collect(),
                unreachable: vec![begun; profile.peers],
                wires: Vec::new(),
                calm: profile.is_calm(),
                nodes: 0,
            }),
            failure: watch::Sender::new(None),
            over: watch::Sender::new(false),
        })
    }

    pub(crate) fn profile(&self) -> &Profile {
        &self.profile
    }

    pub(crate) fn now(&self) -> Moment {
        Moment::at(self.begun.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on what is shared. No peer may be called in there. Handlers and tasks may panic without
    /// anybody noticing: a promise that is found broken ends the whole run.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        state.now = self.now();
        self.check(|| work(&mut state))
    }

    /// Does what may find a promise broken, which ends the whole run.
    pub(crate) fn check<T>(&self, work: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            self.fail(text);
            resume_unwind(panic)
        })
    }

    pub(crate) fn fail(&self, text: &str) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| text.to_owned());
            first
        });
    }

    /// The first promise that is broken, when that happens.
    pub(crate) async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        let failure = failure.wait_for(Option::is_some).await.expect("the sender is here");
        failure.clone().unwrap_or_default()
    }

    pub(crate) fn percent(&self, percent: u64) -> bool {
        self.with(|state| state.rng.percent(percent))
    }

    pub(crate) fn millis(&self, low: u64, high: u64) -> Duration {
        self.with(|state| state.rng.millis(low, high))
    }

    pub(crate) fn number(&self) -> u64 {
        self.with(|state| state.ledger.number())
    }

    // Nodes.

    /// A number for a new node; none is used twice.
    pub(crate) fn next_node(&self) -> usize {
        self.with(|state| {
            state.nodes += 1;
            state.nodes - 1
        })
    }

    /// The node listens at the place from now on. Gives the one before.
    pub(crate) fn settle(&self, place: usize, node: Option<Arc<Node>>) -> Option<Arc<Node>> {
        self.with(|state| std::mem::replace(&mut state.places[place], node))
    }

    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        self.with(|state| state.places.iter().flatten().cloned().collect())
    }

    // The network.

    /// How a node at this place connects.
    pub(crate) fn options(self: &Arc<World>, place: usize) -> ConnectOptions {
        let world = Arc::downgrade(self);
        ConnectOptions::new().connector(move |address| {
            let (world, to) = (world.clone(), target(address));
            async move {
                match world.upgrade() {
                    Some(world) => world.connect(place, to).await,
                    None => Err(io::ErrorKind::ConnectionRefused.into()),
                }
            }
        })
    }

    async fn connect(self: &Arc<World>, from: usize, to: usize) -> io::Result<Pipe> {
        let (wait, fails) = self.with(|state| {
            let now = Instant::now();
            let State { rng, unreachable, .. } = state;
            let fails = rng.below(1000) < self.profile.dial_failures && !state.calm
                || unreachable[from] > now
                || unreachable[to] > now;
            let wait = match fails && rng.percent(50) {
                true => rng.millis(0, 15_000),
                false => rng.millis(1, 2 * self.profile.nature.latency),
            };
            (wait, fails)
        });
        sleep(wait).await;
        if fails {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (far, listener, near) = self.with(|state| {
            let listener = state.places[to].clone();
            let State { rng, calm, .. } = state;
            let (wire, near, far) =
                Wire::new(Arc::downgrade(self), self.profile.nature, *calm, rng);
            if listener.is_some() {
                state.wires.retain(|entry| !entry.wire.is_gone());
                state.wires.push(Entry { wire, places: [from, to] });
            }
            (far, listener, near)
        });
        match listener {
            None => Err(io::ErrorKind::ConnectionRefused.into()),
            Some(listener) => {
                listener.accept(far);
                Ok(near)
            }
        }
    }

    /// Connections of which an end is open.
    pub(crate) fn wires(&self) -> usize {
        self.with(|state| {
            state.wires.retain(|entry| !entry.wire.is_gone());
            state.wires.len()
        })
    }

    // Faults.

    /// Does something to the network at random.
    pub(crate) fn fault(&self) {
        let Profile { losses, stalls, partitions, .. } = self.profile;
        self.with(|state| {
            state.wires.retain(|entry| !entry.wire.is_gone());
            let now = Instant::now();
            if state.rng.below(1000) < losses && !state.wires.is_empty() {
                let (at, kind) = (state.rng.index(state.wires.len()), state.rng.below(4));
                state.lose(at, kind);
            }
            if state.rng.below(1000) < stalls && !state.wires.is_empty() {
                let at = state.rng.index(state.wires.len());
                let until = match state.rng.percent(80) {
                    true => now + state.rng.millis(0, 3000),
                    // For good, in effect.
                    false => now + Duration::from_secs(3600),
                };
                let way = state.rng.below(3) as usize;
                state.note(0, format_args!("wire {at} is held {way}"));
                for way in if way == 2 { 0..2 } else { way..way + 1 } {
                    state.wires[at].wire.hold(way, until);
                }
            }
            if state.rng.below(1000) < partitions {
                let place = state.rng.index(state.places.len());
                state.unreachable[place] = now + state.rng.millis(0, 10_000);
                state.note(place, format_args!("is unreachable"));
                for at in 0..state.wires.len() {
                    if state.wires[at].places.contains(&place) {
                        let kind = state.rng.below(4);
                        state.lose(at, kind);
                    }
                }
            }
        });
    }

    /// Half of all connections are lost at once, and both ends hear of it.
    pub(crate) fn lose_many(&self) {
        self.with(|state| {
            for at in 0..state.wires.len() {
                if state.rng.percent(50) {
                    state.lose(at, 0);
                }
            }
        });
    }

    /// Nothing goes wrong from now on.
    pub(crate) fn calm(&self) {
        self.with(|state| {
            state.calm = true;
            for entry in &state.wires {
                entry.wire.calm();
            }
        });
    }
}

impl State {
    fn lose(&mut self, at: usize, kind: u64) {
        let [a, b] = self.wires[at].places;
        self.note(a, format_args!("loses the wire to {b}, kind {kind}"));
        self.wires[at].wire.cut(kind);
    }
}

pub(crate) fn url(place: usize) -> String {
    format!("ws://n{place}/")
}

fn target(url: &str) -> usize {
    url.trim_start_matches("ws://n").trim_end_matches('/').parse().expect("a URL of ours")
}
