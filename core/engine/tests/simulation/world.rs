//! The world: virtual time, and a network that does what networks do.
//!
//! A *wire* is one TCP connection. Each direction holds a bounded number of bytes between one
//! host's write and the other's read, keeps their order, and cuts and joins them anywhere.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use roletalk_engine::{AddressId, ConnId, Error, ErrorKind, Moment, Opening, Remote};

use super::{
    host::{Host, Task},
    ledger::Ledger,
    rng::Rng,
    scanner::{Change, Scanner},
    script::Script,
    trace::Trace,
};

/// What nodes do and suffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    pub(crate) peers: usize,
    /// How many of a hundred take part in acquaintance.
    pub(crate) friendly: u64,
    /// The largest message and stream.
    pub(crate) message: usize,
    pub(crate) stream: usize,
    /// Streams are broken off and abandoned.
    pub(crate) stream_mischief: bool,
    pub(crate) close_units: bool,
    /// Chances of faults in a thousand actions: connections lost, hosts stalled, partitions.
    pub(crate) losses: u64,
    pub(crate) stalls: u64,
    pub(crate) partitions: u64,
    pub(crate) dial_failures: u64,
    /// Bytes on their way in one direction.
    pub(crate) capacity: usize,
    /// The longest latency in microseconds.
    pub(crate) latency: u64,
}

/// What a node may use and touch while it is called.
pub(crate) struct Ctx<'a> {
    pub(crate) now: Moment,
    pub(crate) rng: &'a mut Rng,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) trace: &'a mut Trace,
    pub(crate) effects: &'a mut Vec<Effect>,
}

impl Ctx<'_> {
    pub(crate) fn note(&mut self, node: usize, what: fmt::Arguments<'_>) {
        self.trace.note(self.now, node, what);
    }
}

/// What a node wants of the world.
pub(crate) enum Effect {
    Dial { address: AddressId, url: Arc<str> },
    Close { conn: ConnId },
    Task { at: Moment, task: Task },
}

pub(crate) enum Node {
    Host(Box<Host>),
    Script(Box<Script>),
}

enum Event {
    Deliver { wire: usize, to: usize, bytes: Vec<u8> },
    Read { wire: usize, end: usize },
    Fin { wire: usize, end: usize },
    Accept { wire: usize },
    Connect { node: usize, address: AddressId, url: Arc<str> },
    ConnectFailed { node: usize, address: AddressId },
    ForceClose { wire: usize, end: usize },
    Timer { node: usize, at: Moment },
    Task { node: usize, task: Task },
    Wake { node: usize },
    Act,
}

#[derive(Default)]
struct End {
    node: usize,
    conn: Option<ConnId>,
    /// What the host writes now, and how much of it has gone.
    out: Vec<u8>,
    gone: usize,
    /// Bytes on their way from here, or not read by the other end yet.
    flying: usize,
    /// The last of them arrives then.
    arrival: Moment,
    inbox: VecDeque<u8>,
    reading: bool,
    closing: bool,
    closed: bool,
    /// The other end has closed.
    fin: bool,
    /// Of a wire that was cut: how many of the flying bytes still arrive.
    last_bytes: usize,
    scanner: Scanner,
    /// Follows what this end has read.
    input: Scanner,
}

struct Wire {
    ends: [End; 2],
    latency: Duration,
    jitter: u64,
    cut: bool,
}

pub(crate) struct World {
    pub(crate) now: Moment,
    pub(crate) nodes: Vec<Node>,
    pub(crate) rng: Rng,
    pub(crate) ledger: Ledger,
    pub(crate) trace: Trace,
    pub(crate) profile: Profile,
    queue: BinaryHeap<Reverse<(Moment, u64)>>,
    events: HashMap<u64, Event>,
    next: u64,
    wires: BTreeMap<usize, Wire>,
    /// The correlations that nodes have sent to others, and not given up.
    asked: HashMap<(usize, usize), HashSet<u64>>,
    next_wire: usize,
    /// By node and connection: the wire and which end of it.
    conns: BTreeMap<(usize, ConnId), (usize, usize)>,
    stalled: Vec<Moment>,
    unreachable: Vec<Moment>,
    armed: Vec<Option<Moment>>,
    effects: Vec<Effect>,
    dirty: VecDeque<usize>,
    acting: Acting,
}

/// What happens at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acting {
    Nothing,
    Everything,
    /// Only what makes it hard to agree about roles.
    Roles,
}

impl World {
    pub(crate) fn new(seed: u64, profile: Profile) -> World {
        World {
            now: Moment::EPOCH,
            nodes: Vec::new(),
            rng: Rng::new(seed),
            ledger: Ledger::new(),
            trace: Trace::new(),
            profile,
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            next: 0,
            wires: BTreeMap::new(),
            asked: HashMap::new(),
            next_wire: 0,
            conns: BTreeMap::new(),
            stalled: Vec::new(),
            unreachable: Vec::new(),
            armed: Vec::new(),
            effects: Vec::new(),
            dirty: VecDeque::new(),
            acting: Acting::Nothing,
        }
    }

    pub(crate) fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.stalled.push(Moment::EPOCH);
        self.unreachable.push(Moment::EPOCH);
        self.armed.push(None);
        self.nodes.len() - 1
    }

    fn at(&mut self, at: Moment, event: Event) {
        self.next += 1;
        self.queue.push(Reverse((at.max(self.now), self.next)));
        self.events.insert(self.next, event);
    }

    // Calls of nodes.

    fn call<T>(&mut self, node: usize, call: impl FnOnce(&mut Node, &mut Ctx) -> T) -> T {
        let World { nodes, rng, ledger, trace, effects, now, .. } = self;
        let result = call(&mut nodes[node], &mut Ctx { now: *now, rng, ledger, trace, effects });
        for effect in std::mem::take(&mut self.effects) {
            self.effect(node, effect);
        }
        self.dirty.push_back(node);
        result
    }

    /// Works on an engine's host, then does all that follows from it.
    pub(crate) fn with_host<T>(
        &mut self,
        node: usize,
        work: impl FnOnce(&mut Host, &mut Ctx) -> T,
    ) -> T {
        let result = self.call(node, |node, ctx| match node {
            Node::Host(host) => work(host, ctx),
            Node::Script(_) => panic!("not a host"),
        });
        self.settle();
        result
    }

    pub(crate) fn host(&self, node: usize) -> Option<&Host> {
        match &self.nodes[node] {
            Node::Host(host) => Some(host),
            Node::Script(_) => None,
        }
    }

    fn effect(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Task { at, task } => self.at(at, Event::Task { node, task }),
            Effect::Close { conn } => {
                let Some(&(wire, end)) = self.conns.get(&(node, conn)) else { return };
                self.wires.get_mut(&wire).expect("open").ends[end].closing = true;
                // A host gives its last words this long.
                self.at(self.now + Duration::from_secs(2), Event::ForceClose { wire, end });
            }
            Effect::Dial { address, url } => {
                let to = target(&url);
                let soon = self.now + self.rng.micros(100, 2 * self.profile.latency + 200);
                let fails = self.rng.below(1000) < self.profile.dial_failures
                    || self.unreachable[to] > self.now
                    || self.unreachable[node] > self.now;
                if fails {
                    let late = if self.rng.percent(50) {
                        soon
                    } else {
                        self.now + self.rng.millis(0, 2500)
                    };
                    self.at(late, Event::ConnectFailed { node, address });
                } else {
                    self.at(soon, Event::Connect { node, address, url });
                }
            }
        }
    }

    /// Lets every node that was called say all that it has to say.
    fn settle(&mut self) {
        while let Some(node) = self.dirty.pop_front() {
            self.call(node, |node, ctx| match node {
                Node::Host(host) => host.drain(ctx),
                Node::Script(script) => script.drain(ctx),
            });
            self.dirty.pop_back();
            loop {
                let conn = match &mut self.nodes[node] {
                    Node::Host(host) => host.engine.poll_output(),
                    Node::Script(script) => script.poll_output(),
                };
                let Some(conn) = conn else { break };
                if let Some(&(wire, end)) = self.conns.get(&(node, conn)) {
                    self.pump(wire, end);
                }
            }
            self.finish_closing(node);
            if self.dirty.contains(&node) {
                continue;
            }
            let deadline = match &self.nodes[node] {
                Node::Host(host) => host.engine.deadline(),
                Node::Script(script) => script.deadline(),
            };
            if deadline != self.armed[node] {
                self.armed[node] = deadline;
                if let Some(at) = deadline {
                    // Timers are late, never early.
                    let late = self.rng.micros(0, 1500);
                    self.at(at.max(self.now) + late, Event::Timer { node, at });
                }
            }
        }
    }

    fn is_stalled(&self, node: usize) -> bool {
        self.stalled[node] > self.now
    }

    // The network.

    /// Moves what an end wants to write into the network, as much as fits.
    fn pump(&mut self, id: usize, from: usize) {
        loop {
            let Some(wire) = self.wires.get_mut(&id) else { return };
            let end = &mut wire.ends[from];
            let node = end.node;
            let Some(conn) = end.conn.filter(|_| !end.closed) else { return };
            if self.stalled[node] > self.now {
                return;
            }
            if end.gone == end.out.len() {
                let wrote = !end.out.is_empty();
                end.out.clear();
                end.gone = 0;
                let mut out = std::mem::take(&mut end.out);
                if wrote {
                    self.call(node, |node, ctx| match node {
                        Node::Host(host) => host.engine.written(conn, ctx.now),
                        Node::Script(_) => {}
                    });
                }
                match &mut self.nodes[node] {
                    Node::Host(host) => host.engine.take_output(conn, &mut out),
                    Node::Script(script) => script.take_output(conn, &mut out),
                }
                let Some(wire) = self.wires.get_mut(&id) else { return };
                let end = &mut wire.ends[from];
                end.scanner.scan(&out, self.ledger.twins);
                let changes = end.scanner.changes();
                end.out = out;
                let asked = self.asked.entry((node, wire.ends[1 - from].node)).or_default();
                for change in changes {
                    match change {
                        Change::Asked(corr) => _ = asked.insert(corr),
                        Change::GivenUp(corr) => {
                            let was_asked = asked.remove(&corr) || self.ledger.twins;
                            assert!(was_asked, "{corr} is given up, and was not asked, or twice");
                        }
                    }
                }
                wire.ends[from].scanner.check_agreed(&wire.ends[1 - from].scanner);
                let end = &mut wire.ends[from];
                if end.out.is_empty() {
                    return;
                }
            }
            let Some(wire) = self.wires.get_mut(&id) else { return };
            let end = &mut wire.ends[from];
            let room = self.profile.capacity.saturating_sub(end.flying);
            if room == 0 {
                return;
            }
            let rest = end.out.len() - end.gone;
            // Mostly whole, sometimes byte by byte.
            let piece = match self.rng.below(10) {
                0 => self.rng.index(16) + 1,
                1..4 => self.rng.size(rest).max(1),
                _ => rest,
            };
            let len = piece.min(rest).min(room);
            if let Node::Host(host) = &mut self.nodes[node] {
                host.engine.writing(conn, self.now);
            }
            let bytes = end.out[end.gone..end.gone + len].to_vec();
            end.gone += len;
            end.flying += len;
            let cut = wire.cut;
            let at = self.now + wire.latency + self.rng.micros(0, wire.jitter);
            let end = &mut wire.ends[from];
            end.arrival = end.arrival.max(at);
            let arrival = end.arrival;
            if !cut {
                self.at(arrival, Event::Deliver { wire: id, to: 1 - from, bytes });
            }
        }
    }

    fn deliver(&mut self, id: usize, to: usize, mut bytes: Vec<u8>) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        if wire.cut {
            let from = &mut wire.ends[1 - to];
            bytes.truncate(from.last_bytes);
            from.last_bytes -= bytes.len();
        }
        if wire.ends[to].closed {
            wire.ends[1 - to].flying -= bytes.len();
            return;
        }
        wire.ends[to].inbox.extend(&bytes);
        self.schedule_read(id, to);
    }

    fn schedule_read(&mut self, id: usize, end: usize) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        if !std::mem::replace(&mut wire.ends[end].reading, true) {
            // What comes meanwhile is read together with it.
            let late = self.rng.micros(0, 300);
            self.at(self.now + late, Event::Read { wire: id, end });
        }
    }

    fn read(&mut self, id: usize, to: usize) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let end = &mut wire.ends[to];
        let node = end.node;
        if self.stalled[node] > self.now {
            let at = self.stalled[node];
            return self.at(at, Event::Read { wire: id, end: to });
        }
        if let (Node::Host(host), Some(conn)) = (&self.nodes[node], end.conn)
            && !host.engine.may_read(conn)
        {
            let at = self.now + Duration::from_millis(1);
            return self.at(at, Event::Read { wire: id, end: to });
        }
        end.reading = false;
        // Not accepted yet, or gone.
        let Some(conn) = end.conn.filter(|_| !end.closed) else { return };
        if end.inbox.is_empty() {
            if end.fin {
                self.hang_up(id, to);
                self.call(node, |node, ctx| match node {
                    Node::Host(host) => host.engine.closed(conn, ctx.now),
                    Node::Script(script) => script.closed(conn),
                });
                self.settle();
            }
            return;
        }
        let all = end.inbox.len();
        let len = if self.rng.percent(80) { all } else { self.rng.index(all) + 1 };
        let bytes: Vec<u8> = end.inbox.drain(..len).collect();
        wire.ends[1 - to].flying -= len;
        let input = &mut wire.ends[to].input;
        input.scan(&bytes, self.ledger.twins);
        input.changes();
        let (given_up, elsewhere) = (input.given_up(), input.elsewhere());
        self.call(node, |node, ctx| match node {
            Node::Host(host) => {
                host.given_up_elsewhere(conn, elsewhere);
                host.engine.receive(conn, &bytes, ctx.now);
            }
            Node::Script(script) => script.receive(ctx, conn, &bytes),
        });
        self.settle();
        // What is read of a connection that has ended is not looked at.
        if let Node::Host(host) = &self.nodes[node]
            && host.has(conn)
        {
            given_up.into_iter().for_each(|id| self.ledger.given_up(id));
        }
        // There is room again.
        self.pump(id, 1 - to);
        self.settle();
        let more = |wire: &Wire| !wire.ends[to].inbox.is_empty() || wire.ends[to].fin;
        if self.wires.get(&id).is_some_and(more) {
            self.schedule_read(id, to);
        }
    }

    /// Closes the sockets of a node that have nothing more to say.
    fn finish_closing(&mut self, node: usize) {
        let done: Vec<_> = self
            .conns
            .range((node, ConnId(0))..=(node, ConnId(u64::MAX)))
            .filter(|(_, (wire, end))| {
                let end = &self.wires[wire].ends[*end];
                end.closing && end.gone == end.out.len()
            })
            .map(|(_, at)| *at)
            .collect();
        for (wire, end) in done {
            if !self.is_stalled(node) {
                self.close_socket(wire, end);
            }
        }
    }

    fn close_socket(&mut self, id: usize, at: usize) {
        let Some(wire) = self.wires.get(&id) else { return };
        let end = &wire.ends[at];
        let (node, Some(conn)) = (end.node, end.conn.filter(|_| !end.closed)) else { return };
        self.hang_up(id, at);
        self.call(node, |node, ctx| match node {
            Node::Host(host) => host.engine.closed(conn, ctx.now),
            Node::Script(script) => script.closed(conn),
        });
    }

    /// The socket of an end is closed; the other end hears of it behind what was written.
    fn hang_up(&mut self, id: usize, at: usize) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let end = &mut wire.ends[at];
        end.closed = true;
        if let Some(conn) = end.conn.take() {
            self.conns.remove(&(end.node, conn));
        }
        let unread = end.inbox.len();
        end.inbox.clear();
        let arrival = end.arrival.max(self.now + wire.latency);
        wire.ends[1 - at].flying -= unread;
        let (cut, both) = (wire.cut, wire.ends[1 - at].closed);
        if both {
            self.wires.remove(&id);
        } else if !cut {
            self.at(arrival, Event::Fin { wire: id, end: 1 - at });
        }
    }

    fn connect(&mut self, node: usize, address: AddressId, url: &str) {
        if self.is_stalled(node) {
            let url = url.into();
            return self.at(self.stalled[node], Event::Connect { node, address, url });
        }
        let conn = self.call(node, |node, ctx| match node {
            Node::Host(host) => host.dialed(ctx, address, url),
            Node::Script(script) => script.dialed(ctx, address, url),
        });
        if let Some(conn) = conn {
            let id = self.next_wire;
            self.next_wire += 1;
            let latency = self.rng.micros(20, self.profile.latency);
            let jitter = self.rng.below(self.profile.latency);
            let dialer = End { node, conn: Some(conn), ..End::default() };
            let listener = End { node: target(url), ..End::default() };
            let ends = [dialer, listener];
            self.wires.insert(id, Wire { ends, latency, jitter, cut: false });
            self.conns.insert((node, conn), (id, 0));
            self.at(self.now + latency, Event::Accept { wire: id });
        }
        self.settle();
    }

    fn accept(&mut self, id: usize) {
        let Some(wire) = self.wires.get(&id).filter(|wire| !wire.ends[1].closed) else { return };
        let node = wire.ends[1].node;
        if self.is_stalled(node) {
            return self.at(self.stalled[node], Event::Accept { wire: id });
        }
        let conn = self.call(node, |node, ctx| match node {
            Node::Host(host) => {
                host.engine.open(Opening::Accept { path: None }, Remote::default(), ctx.now).ok()
            }
            Node::Script(script) => script.accepted(),
        });
        match conn {
            Some(conn) => {
                self.wires.get_mut(&id).expect("open").ends[1].conn = Some(conn);
                self.conns.insert((node, conn), (id, 1));
                self.schedule_read(id, 1);
            }
            None => self.hang_up(id, 1),
        }
        self.settle();
    }

    // Faults.

    fn fault(&mut self) {
        if self.rng.below(1000) < self.profile.losses && !self.wires.is_empty() {
            let ids: Vec<usize> = self.wires.keys().copied().collect();
            let id = self.rng.pick(&ids);
            self.cut(id);
        }
        if self.rng.below(1000) < self.profile.stalls {
            let node = self.rng.index(self.nodes.len());
            let until = self.now + self.rng.millis(0, 3000);
            self.trace.note(self.now, node, format_args!("stalls until {until:?}"));
            self.stalled[node] = until;
            self.at(until, Event::Wake { node });
        }
        if self.rng.below(1000) < self.profile.partitions {
            let node = self.rng.index(self.nodes.len());
            self.unreachable[node] = self.now + self.rng.millis(0, 10_000);
            self.trace.note(self.now, node, format_args!("is unreachable"));
            let ids: Vec<usize> = self
                .wires
                .iter()
                .filter(|(_, wire)| wire.ends.iter().any(|end| end.node == node))
                .map(|(id, _)| *id)
                .collect();
            for id in ids {
                self.cut(id);
            }
        }
    }

    /// A connection is lost, at any byte.
    fn cut(&mut self, id: usize) {
        let kind = self.rng.below(4);
        self.lose(id, kind);
    }

    /// Half of all connections are lost at once, and both ends hear of it.
    pub(crate) fn lose_many(&mut self) {
        for id in self.wires.keys().copied().collect::<Vec<_>>() {
            if self.rng.percent(50) {
                self.lose(id, 0);
            }
        }
    }

    fn lose(&mut self, id: usize, kind: u64) {
        let Some(wire) = self.wires.get_mut(&id).filter(|wire| !wire.cut) else { return };
        wire.cut = true;
        for end in &mut wire.ends {
            end.last_bytes = self.rng.index(end.flying + 1);
        }
        let (a, b) = (wire.ends[0].node, wire.ends[1].node);
        self.trace.note(self.now, a, format_args!("loses wire {id} to {b}, kind {kind}"));
        let soon = |rng: &mut Rng| rng.millis(0, 60);
        let late = |rng: &mut Rng| rng.millis(0, 20_000);
        match kind {
            // Both hear.
            0 => {
                for end in 0..2 {
                    let at = self.now + soon(&mut self.rng);
                    self.at(at, Event::Fin { wire: id, end });
                }
            }
            // One hears late.
            1 => {
                let first = self.rng.index(2);
                let (soon, late) = (soon(&mut self.rng), late(&mut self.rng));
                self.at(self.now + soon, Event::Fin { wire: id, end: first });
                self.at(self.now + late, Event::Fin { wire: id, end: 1 - first });
            }
            // One hears.
            2 => {
                let end = self.rng.index(2);
                let at = self.now + soon(&mut self.rng);
                self.at(at, Event::Fin { wire: id, end });
            }
            // Nobody hears.
            _ => {}
        }
    }

    // Time.

    /// Lets all that is due until then happen.
    pub(crate) fn run_until(&mut self, until: Moment) {
        while let Some(&Reverse((at, id))) = self.queue.peek() {
            if at > until {
                break;
            }
            self.queue.pop();
            self.now = at;
            let event = self.events.remove(&id).expect("it was queued");
            self.handle(event);
        }
        self.now = until;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { wire, to, bytes } => self.deliver(wire, to, bytes),
            Event::Read { wire, end } => self.read(wire, end),
            Event::Fin { wire, end } => {
                if let Some(found) = self.wires.get_mut(&wire) {
                    found.ends[end].fin = true;
                    // Nobody will ever accept it.
                    if found.ends[end].conn.is_none() && !found.ends[end].closed {
                        self.hang_up(wire, end);
                    } else {
                        self.schedule_read(wire, end);
                    }
                }
            }
            Event::Accept { wire } => self.accept(wire),
            Event::Connect { node, address, url } => self.connect(node, address, &url),
            Event::ConnectFailed { node, address } => {
                if self.is_stalled(node) {
                    return self.at(self.stalled[node], Event::ConnectFailed { node, address });
                }
                self.call(node, |node, ctx| {
                    if let Node::Host(host) = node {
                        let error = Error::new(ErrorKind::ConnectFailed, "unreachable");
                        host.engine.dial_failed(address, error, ctx.now);
                    }
                });
                self.settle();
            }
            Event::ForceClose { wire, end } => {
                self.close_socket(wire, end);
                self.settle();
            }
            Event::Timer { node, at } => {
                if self.armed[node] != Some(at) {
                    return;
                }
                if self.is_stalled(node) {
                    return self.at(self.stalled[node], Event::Timer { node, at });
                }
                self.armed[node] = None;
                self.call(node, |node, ctx| match node {
                    Node::Host(host) => host.handle_timeout(ctx),
                    Node::Script(script) => script.handle_timeout(ctx),
                });
                self.settle();
            }
            Event::Task { node, task } => {
                if self.is_stalled(node) {
                    return self.at(self.stalled[node], Event::Task { node, task });
                }
                self.call(node, |node, ctx| match node {
                    Node::Host(host) => host.task(ctx, task),
                    Node::Script(script) => script.task(ctx, task),
                });
                self.settle();
            }
            Event::Wake { node } => {
                let at: Vec<_> = self
                    .conns
                    .range((node, ConnId(0))..=(node, ConnId(u64::MAX)))
                    .map(|(_, at)| *at)
                    .collect();
                for (wire, end) in at {
                    self.pump(wire, end);
                }
                self.dirty.push_back(node);
                self.settle();
            }
            Event::Act => self.act(),
        }
    }

    /// Starts, changes or stops the random work and the faults.
    pub(crate) fn set_acting(&mut self, acting: Acting) {
        if self.acting == Acting::Nothing {
            self.at(self.now, Event::Act);
        }
        self.acting = acting;
    }

    fn act(&mut self) {
        let all = match self.acting {
            Acting::Nothing => return,
            Acting::Everything => true,
            Acting::Roles => false,
        };
        self.fault();
        let node = self.rng.index(self.nodes.len());
        if !self.is_stalled(node) {
            self.call(node, |node, ctx| match node {
                Node::Host(host) if all => host.act(ctx),
                Node::Host(host) => host.change_roles(ctx),
                Node::Script(_) => {}
            });
            self.settle();
        }
        let next = self.now + self.rng.micros(0, 20_000);
        self.at(next, Event::Act);
    }

    /// Lets the scripts begin.
    pub(crate) fn start_scripts(&mut self) {
        self.dirty.extend(0..self.nodes.len());
        self.settle();
    }

    /// Connections that are left.
    pub(crate) fn wires(&self) -> usize {
        self.wires.len()
    }
}

pub(crate) fn url(node: usize) -> String {
    format!("ws://n{node}/")
}

fn target(url: &str) -> usize {
    url.trim_start_matches("ws://n").trim_end_matches('/').parse().expect("a URL of ours")
}
