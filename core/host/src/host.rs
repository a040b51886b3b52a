//! The engine with its connections: everything that an event loop changes, under one lock.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, ErrorKind::Interrupted, ErrorKind::WouldBlock, Read, Write},
    mem,
    net::{Shutdown, TcpStream},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use roletalk_engine::{
    CLOSE_TIMEOUT, ConnId, Engine, EngineEvent, Fields, Moment, Opening, Parting, Question,
    Refusal, Remote, Result, Unit, UnitId, hint::DialFault, wire::Payload,
};
use rustc_hash::FxHashMap;

#[cfg(unix)]
use crate::guard::Bell;
use crate::link::Link;

/// The guard reads no more from a connection when it has so much for the loop: four windows of a stream.
const STAND_IN: usize = 4 << 20;
/// Likewise when it has so much for the loop from all connections of a peer.
const STAND_IN_TOTAL: usize = 256 << 20;
/// How often a socket is read before it is closed for good.
const LAST_READS: usize = 16;
/// How long what is queued may take to be written when a connection of a unit ends, as in `ws`.
const ENDING: Duration = Duration::from_secs(30);

/// Something for the loop's side of a connection to do.
#[derive(Debug)]
pub enum Action {
    /// Write this to the transport, then call [`Host::written`].
    Write(ConnId, Vec<u8>),
    /// Call [`Host::writable`] when the socket is.
    AwaitWritable(ConnId),
    /// All is written: do not call it any more.
    StopWriting(ConnId),
    /// Read no more.
    Pause(ConnId),
    /// Read again.
    Resume(ConnId),
    /// All that the engine had queued for the socket is being written. See [`Host::tell_progress`].
    Taken(ConnId),
    /// What was taken is written. See [`Host::tell_progress`].
    Written(ConnId),
    /// All is written, and a socket's half of the connection is closed. The other side has this time to close,
    /// too; then close it.
    Part(ConnId, Duration),
    /// The same, and the other side has surely received all but the close frame: close without waiting for it.
    Leave(ConnId),
    /// It is at its end, or has failed for this reason: stop watching it, then [release](Host::release) it.
    Gone(ConnId, Option<io::Error>),
}

/// One peer's engine and its connections, each of which has a socket here, or a transport of the loop's.
///
/// After each call, hand out all [events](Host::poll_event), [write](Host::write), and do what the
/// [actions](Host::poll_action) say. All times are those of one clock that never goes back.
pub struct Host {
    /// The engine. Connections are opened and lost by way of the host.
    pub engine: Engine<u32>,
    pub(crate) links: FxHashMap<ConnId, Link>,
    /// Sockets that the guard had when they were released.
    lingering: Vec<Weak<TcpStream>>,
    fresh: Vec<ConnId>,
    paused: Vec<ConnId>,
    /// When connections are given up that end as soon as all is written.
    ending: BTreeSet<(Moment, ConnId)>,
    /// Connections of which a part of what was [fed](Host::feed) waits for the next turn of the loop.
    held: Vec<ConnId>,
    actions: VecDeque<Action>,
    buffer: Box<[u8]>,
    tells_progress: bool,
    /// Bytes of one connection that the guard reads while the loop is blocked.
    stand_in: usize,
    /// There may be events that were not handed out yet.
    backlog: bool,
    /// The application has closed the peer.
    closed: bool,
    /// When the clock began, and what the loop has last said of it.
    epoch: Instant,
    latest: Moment,
    /// How often the loop has come by to read or to write.
    turns: u64,
    /// In which turn the guard has last stood in, and how many bytes it has read since.
    stalled: u64,
    stood_in: usize,
    #[cfg(unix)]
    bell: Option<Arc<Bell>>,
}

impl Host {
    /// A host without connections, whose clock begins at `epoch`. It reads at most so many bytes of a
    /// connection at once.
    pub fn new(engine: Engine<u32>, epoch: Instant, read: usize) -> Host {
        Host {
            engine,
            links: FxHashMap::default(),
            lingering: Vec::new(),
            fresh: Vec::new(),
            paused: Vec::new(),
            ending: BTreeSet::new(),
            held: Vec::new(),
            actions: VecDeque::new(),
            buffer: vec![0; read].into(),
            tells_progress: false,
            stand_in: STAND_IN,
            backlog: false,
            closed: false,
            epoch,
            latest: Moment::EPOCH,
            turns: 0,
            stalled: 0,
            stood_in: 0,
            #[cfg(unix)]
            bell: None,
        }
    }

    /// From now on, [`Action::Taken`] and [`Action::Written`] tell how writing to sockets goes on.
    pub fn tell_progress(&mut self) {
        self.tells_progress = true;
    }

    /// How many bytes of each connection the guard reads while the loop is blocked, give or take one read. The loop
    /// has all of it to handle when it goes on. Default 4 MiB.
    pub fn set_stand_in(&mut self, bytes: usize) {
        self.stand_in = bytes;
    }

    // Connections.

    /// A connection is there: on this socket, which does not block, or on a transport of the loop's. Where `remote`
    /// has no address, that of the socket is taken.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open(
        &mut self,
        opening: Opening,
        socket: Option<TcpStream>,
        mut remote: Remote,
        now: Moment,
    ) -> Result<ConnId> {
        if let (None, Some(socket)) = (remote.address, &socket) {
            remote.address = socket.peer_addr().ok();
        }
        let conn = self.engine.open(opening, remote, now)?;
        self.links.insert(conn, Link::new(socket));
        self.ring();
        Ok(conn)
    }

    /// A connection is on this socket from now on, which does not block, and no longer on a transport: that
    /// has written all that it was given.
    pub fn adopt(&mut self, conn: ConnId, socket: TcpStream) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.socket = Some(Arc::new(socket));
            self.ring();
        }
    }

    /// Forgets a connection that is gone or parting, or that was never watched, and closes its socket: at once, or
    /// as soon as the guard lets go of it, see [`has_lingering`](Host::has_lingering).
    pub fn release(&mut self, conn: ConnId, now: Moment) {
        self.forget_end(conn);
        if let Some(Link { socket: Some(socket), gone, .. }) = self.links.remove(&conn) {
            if gone {
                // The other side is to hear of it at once, also while the guard has the socket.
                let _ = socket.shutdown(Shutdown::Both);
            }
            if Arc::strong_count(&socket) > 1 {
                if self.lingering.len() == self.lingering.capacity() {
                    self.has_lingering();
                }
                self.lingering.push(Arc::downgrade(&socket));
            }
        }
        self.ring();
        self.engine.closed(conn, now);
    }

    /// Whether a socket that was released is still open, since the guard has it: it lets go of it in a moment.
    pub fn has_lingering(&mut self) -> bool {
        self.lingering.retain(|socket| socket.strong_count() > 0);
        !self.lingering.is_empty()
    }

    /// The other side has closed, or the transport has failed; then [`dial_fault`](crate::dial_fault) may know
    /// what that means.
    pub fn lost(&mut self, conn: ConnId, fault: Option<DialFault>, now: Moment) {
        if let Some(link) = self.links.get_mut(&conn)
            && link.is_there()
            && !link.rest.is_empty()
        {
            // What came before that still counts.
            let rest = mem::take(&mut link.rest);
            self.engine.receive(conn, &rest, now);
        }
        self.lose_to(conn, None, fault, now);
    }

    fn lose(&mut self, conn: ConnId, error: Option<io::Error>, now: Moment) {
        self.lose_to(conn, error, None, now);
    }

    fn lose_to(
        &mut self,
        conn: ConnId,
        error: Option<io::Error>,
        fault: Option<DialFault>,
        now: Moment,
    ) {
        self.forget_end(conn);
        if let Some(link) = self.links.get_mut(&conn)
            && !link.gone
        {
            link.gone = true;
            let error = link.failed.take().or(error);
            self.actions.push_back(Action::Gone(conn, error));
            self.engine.failed(conn, fault, now);
        }
    }

    /// Bytes that were taken to be written to a socket, and are not written yet.
    pub fn pending(&mut self, conn: ConnId) -> usize {
        let taken = self.links.get(&conn).is_some_and(|link| link.taken);
        if taken { self.engine.output(conn, self.latest).len() } else { 0 }
    }

    // Reading.

    /// A socket is readable.
    pub fn readable(&mut self, conn: ConnId, now: Moment) {
        self.turn(now);
        // What came before is to be handed out first, or it would pile up. The loop calls again.
        if self.backlog {
            return;
        }
        if let Some(link) = self.links.get_mut(&conn)
            && (link.is_open() || link.parting && !link.gone)
        {
            link.stood_in = 0;
            self.read(conn, now);
        }
    }

    /// Whether anything came, the end included.
    fn read(&mut self, conn: ConnId, now: Moment) -> bool {
        let Host { links, engine, buffer, actions, .. } = self;
        let alone = links.len() == 1;
        let Some(link) = links.get_mut(&conn) else { return false };
        let Some(socket) = &link.socket else { return false };
        let portion = link.next_portion(alone, buffer.len());
        match read(socket, &mut buffer[..portion]) {
            // The other side has said all. What it is being told goes on.
            Ok(0) if link.ending && link.waiting && link.failed.is_none() => {
                link.paused = true;
                actions.push_back(Action::Pause(conn));
            }
            Ok(0) => self.lose(conn, None, now),
            // Only the end is still of interest.
            Ok(_) if link.parting => {}
            Ok(len) => {
                let before = engine.events();
                engine.receive(conn, &buffer[..len], now);
                link.digest(len, len == portion, engine.events() - before);
                self.consider_pause(conn);
            }
            Err(error) if error.kind() == WouldBlock => return false,
            Err(error) => self.lose(conn, Some(error), now),
        }
        true
    }

    /// Bytes came on a transport. A part of them may wait for the next turns of the loop, so that a connection that
    /// brings much does not delay the others: until then, the [deadline](Host::deadline) is now.
    pub fn feed(&mut self, conn: ConnId, bytes: &[u8], now: Moment) {
        let Some(link) = self.links.get_mut(&conn).filter(|link| link.is_there()) else { return };
        if link.rest.is_empty() {
            let taken = self.digest(conn, bytes, now);
            self.hold(conn, &bytes[taken..]);
        } else {
            // The transport had it already when it was paused.
            link.rest.extend_from_slice(bytes);
        }
    }

    /// Gives the engine a portion of what came on a transport. Returns how many bytes that was.
    fn digest(&mut self, conn: ConnId, bytes: &[u8], now: Moment) -> usize {
        let alone = self.links.len() == 1;
        let Some(link) = self.links.get_mut(&conn) else { return bytes.len() };
        // What strangers may bring is little, and they are not to have it kept.
        let portion = link.next_portion(alone || !link.attached, bytes.len());
        let before = self.engine.events();
        self.engine.receive(conn, &bytes[..portion], now);
        link.digest(portion, portion < bytes.len(), self.engine.events() - before);
        self.consider_pause(conn);
        portion
    }

    /// Keeps what is left of a portion, and pauses the transport until all of it is handled.
    fn hold(&mut self, conn: ConnId, rest: &[u8]) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        if rest.is_empty() || !link.is_there() {
            return;
        }
        link.rest.extend_from_slice(rest);
        link.held = true;
        self.held.push(conn);
        if !link.paused {
            self.actions.push_back(Action::Pause(conn));
        }
    }

    /// Handles a further portion of each connection that has brought much.
    fn go_on(&mut self, now: Moment) {
        // What came before is to be handed out first.
        if self.backlog {
            return;
        }
        for conn in mem::take(&mut self.held) {
            let Some(link) = self.links.get_mut(&conn).filter(|link| link.is_there()) else {
                continue;
            };
            if link.paused {
                self.held.push(conn);
                continue;
            }
            let mut rest = mem::take(&mut link.rest);
            let taken = self.digest(conn, &rest, now);
            let Some(link) = self.links.get_mut(&conn) else { continue };
            rest.drain(..taken);
            link.held = !rest.is_empty();
            link.rest = rest;
            if link.held {
                self.held.push(conn);
            } else if !link.paused && link.is_there() {
                self.actions.push_back(Action::Resume(conn));
            }
        }
    }

    fn consider_pause(&mut self, conn: ConnId) {
        if let Some(link) = self.links.get_mut(&conn)
            && !link.paused
            && !self.engine.may_read(conn)
        {
            link.paused = true;
            self.paused.push(conn);
            if !link.held {
                self.actions.push_back(Action::Pause(conn));
            }
        }
    }

    fn consider_resume(&mut self) {
        let Host { paused, links, engine, actions, .. } = self;
        let before = paused.len();
        paused.retain(|conn| {
            let Some(link) = links.get_mut(conn) else { return false };
            link.paused = !engine.may_read(*conn);
            if !link.paused && !link.held {
                actions.push_back(Action::Resume(*conn));
            }
            link.paused
        });
        if paused.len() < before {
            self.ring();
        }
    }

    // Writing.

    /// A socket is writable.
    pub fn writable(&mut self, conn: ConnId, now: Moment) {
        self.turn(now);
        let Some(link) = self.links.get_mut(&conn) else { return };
        if link.failed.is_none() {
            link.waiting = false;
            link.mark(conn, &mut self.fresh);
        } else if !self.backlog && !self.read(conn, now) {
            // What the other side has said before was read, also when it was not to be: that may be why.
            self.lose(conn, None, now);
        }
    }

    /// A transport has written all that it was given.
    pub fn written(&mut self, conn: ConnId, now: Moment) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.waiting = false;
            link.mark(conn, &mut self.fresh);
            self.engine.written(conn, now);
        }
    }

    /// Writes to sockets what is to be written, and takes what is for transports.
    pub fn write(&mut self, now: Moment) {
        self.turn(now);
        self.pump(now);
    }

    fn pump(&mut self, now: Moment) {
        loop {
            while let Some(conn) = self.engine.poll_output() {
                if let Some(link) = self.links.get_mut(&conn) {
                    link.mark(conn, &mut self.fresh);
                }
            }
            let Some(conn) = self.fresh.pop() else { break };
            self.write_link(conn, now);
        }
        if !self.paused.is_empty() {
            self.consider_resume();
        }
    }

    fn write_link(&mut self, conn: ConnId, now: Moment) {
        let Host { links, engine, actions, tells_progress, .. } = self;
        let Some(link) = links.get_mut(&conn) else { return };
        if !link.unmark() {
            if link.ending && link.is_there() && leaves_at_once(engine, conn) {
                self.part(conn, now);
            }
            return;
        }
        let Some(socket) = &link.socket else { return self.give(conn, now) };
        loop {
            let output = engine.output(conn, now);
            let len = output.len();
            if len == 0 {
                break;
            }
            if !mem::replace(&mut link.taken, true) && *tells_progress {
                actions.push_back(Action::Taken(conn));
            }
            let written = match (&**socket).write(output) {
                Ok(written) => written,
                Err(error) if error.kind() == Interrupted => continue,
                Err(error) if error.kind() == WouldBlock => 0,
                Err(error) => {
                    link.failed.get_or_insert(error);
                    return link.await_writable(conn, actions);
                }
            };
            engine.wrote(conn, written);
            if written < len {
                if written > 0 {
                    // A connection over which something large goes out slowly is alive.
                    engine.writing(conn, now);
                }
                if link.ending && leaves_at_once(engine, conn) {
                    return self.part(conn, now);
                }
                return link.await_writable(conn, actions);
            }
            link.taken = false;
            if *tells_progress {
                actions.push_back(Action::Written(conn));
            }
        }
        if link.ending {
            // The other side may have closed already.
            let _ = socket.shutdown(Shutdown::Write);
        }
        link.stop_writing(conn, actions);
        if link.ending {
            self.part(conn, now);
        }
    }

    /// Gives a transport what is to be written.
    fn give(&mut self, conn: ConnId, now: Moment) {
        let Host { links, engine, actions, .. } = self;
        let Some(link) = links.get_mut(&conn) else { return };
        let mut taken = Vec::new();
        engine.take_output(conn, &mut taken);
        if !taken.is_empty() {
            link.waiting = true;
            actions.push_back(Action::Write(conn, taken));
        }
        if link.ending && (!link.waiting || leaves_at_once(engine, conn)) {
            self.part(conn, now);
        }
    }

    fn part(&mut self, conn: ConnId, now: Moment) {
        self.forget_end(conn);
        let Host { links, engine, buffer, actions, .. } = self;
        let Some(link) = links.get_mut(&conn) else { return };
        link.parting = true;
        let waits = engine.parting(conn).is_some_and(Parting::waits);
        if let (false, Some(socket)) = (waits, &link.socket) {
            // Closing with unread input would reset the connection. One that goes on sending is not waited for.
            let mut reads = (0..LAST_READS).map(|_| read(socket, buffer));
            let _ = reads.find(|read| !matches!(read, Ok(1..)));
        }
        actions.push_back(if waits {
            Action::Part(conn, CLOSE_TIMEOUT)
        } else {
            Action::Leave(conn)
        });
        engine.closed(conn, now);
    }

    /// How many things there are for the loop to do.
    pub fn actions(&self) -> usize {
        self.actions.len()
    }

    /// The next thing for the loop to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    // The peer.

    /// Closes the peer.
    pub fn close(&mut self, now: Moment) {
        self.closed = true;
        self.engine.close(now);
    }

    /// Closes the peer and every socket at once, for a loop that has ended: nobody asks for actions any more.
    /// What there is to say is said as far as the sockets take it.
    pub fn abandon(&mut self, now: Moment) {
        self.close(now);
        while self.poll_event().is_some() {}
        self.write(now);
        while self.poll_event().is_some() {}
        self.actions.clear();
        self.ending.clear();
        self.held.clear();
        for (_, link) in self.links.drain() {
            if let Some(socket) = link.socket {
                // The guard may still have it for a moment.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        self.ring();
    }

    /// Whether the application has closed the peer.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Gives a question back to its unit, with what goes with the answer.
    pub fn answer(
        &mut self,
        unit: UnitId,
        question: Question,
        outcome: std::result::Result<Payload<'_>, &str>,
        fields: Option<&Fields>,
        now: Moment,
    ) {
        self.engine.with_unit(unit, now, |machine| {
            machine.answer_with(question, outcome, fields, now);
        });
    }

    /// Gives a question back for which no handler was begun.
    pub fn refuse(
        &mut self,
        unit: UnitId,
        question: Question,
        refusal: impl Into<Refusal>,
        now: Moment,
    ) {
        self.engine.with_unit(unit, now, |machine| machine.refuse(question, refusal, now));
    }

    /// Requests that wait, handlers that run, and streams that are open.
    pub fn busy(&self) -> usize {
        let units = self.engine.peer().units().filter_map(|unit| self.engine.unit(unit));
        units.map(Unit::busy).sum()
    }

    /// When [`handle_timeout`](Host::handle_timeout) is to be called.
    pub fn deadline(&self) -> Option<Moment> {
        let ending = self.ending.first().map(|(until, _)| *until);
        let goes_on = |conn| self.links.get(conn).is_some_and(|link| !link.paused);
        let held = self.held.iter().any(goes_on).then_some(Moment::EPOCH);
        [self.engine.deadline(), ending, held].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.engine.handle_timeout(now);
        while let Some((until, _)) = self.ending.first()
            && *until <= now
            && let Some((_, conn)) = self.ending.pop_first()
        {
            self.lose(conn, None, now);
        }
        self.go_on(now);
    }

    /// The next event. After [`EngineEvent::Close`], the connection ends as soon as all is written.
    pub fn poll_event(&mut self) -> Option<EngineEvent<u32>> {
        let event = self.engine.poll_event();
        self.backlog = event.is_some();
        match &event {
            Some(EngineEvent::Close { conn, .. }) => self.begin_ending(*conn),
            Some(EngineEvent::Attached { conn, .. }) => {
                if let Some(link) = self.links.get_mut(conn) {
                    link.attached = true;
                }
            }
            _ => {}
        }
        event
    }

    fn begin_ending(&mut self, conn: ConnId) {
        let now = self.now();
        let Some(link) = self.links.get_mut(&conn).filter(|link| link.is_there()) else { return };
        link.ending = true;
        link.mark(conn, &mut self.fresh);
        let limit = match self.engine.parting(conn) {
            Some(Parting::Wait | Parting::Leave) => ENDING,
            _ => CLOSE_TIMEOUT,
        };
        link.until = Some(now + limit);
        self.ending.insert((now + limit, conn));
    }

    fn forget_end(&mut self, conn: ConnId) {
        let until = self.links.get_mut(&conn).and_then(|link| link.until.take());
        if let Some(until) = until {
            self.ending.remove(&(until, conn));
        }
    }

    /// The time, as the loop would say it. A clock that the loop has set ahead counts as that.
    fn now(&self) -> Moment {
        self.latest.max(Moment::at(self.epoch.elapsed()))
    }

    // The guard.

    fn turn(&mut self, now: Moment) {
        self.turns += 1;
        self.latest = now;
    }

    /// Whether the guard has read something from a connection that the loop has not read from since.
    pub fn has_stood_in(&self, conn: ConnId) -> bool {
        self.links.get(&conn).is_some_and(|link| link.stood_in > 0)
    }

    fn ring(&self) {
        #[cfg(unix)]
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

/// What the guard sees of a socket.
#[cfg(unix)]
pub(crate) struct Watched {
    pub(crate) conn: ConnId,
    pub(crate) socket: Arc<TcpStream>,
}

#[cfg(unix)]
impl Host {
    pub(crate) fn set_bell(&mut self, bell: Option<&Arc<Bell>>) {
        self.bell = bell.cloned();
    }

    /// How often the loop has come by.
    pub(crate) fn turns(&self) -> u64 {
        self.turns
    }

    /// Whether something waits to be written to a socket.
    pub(crate) fn has_pending(&self) -> bool {
        self.links.values().any(|link| link.waiting && link.socket.is_some() && !link.gone)
    }

    /// The sockets that the guard may read.
    pub(crate) fn watched(&self, all: &mut Vec<Watched>) {
        let may_read = |link: &Link| self.turns != self.stalled || link.stood_in < self.stand_in;
        all.extend(self.links.iter().filter_map(|(conn, link)| {
            let socket = link.socket.as_ref().filter(|_| link.is_open() && may_read(link))?;
            Some(Watched { conn: *conn, socket: socket.clone() })
        }));
    }

    /// Reads in place of a loop that has not come by since `turns`. What it would have to hear of waits
    /// for it, so that not much is read. Losses of connections are left to it, too. Returns whether there
    /// is something for it.
    pub(crate) fn read_for_loop(&mut self, conn: ConnId, turns: u64) -> bool {
        if self.turns != turns {
            return false;
        }
        if mem::replace(&mut self.stalled, turns) != turns {
            self.stood_in = 0;
            self.links.values_mut().for_each(|link| link.stood_in = 0);
        }
        let now = self.now();
        let Some(link) = self.links.get_mut(&conn) else { return false };
        let Some(socket) = &link.socket else { return false };
        let before = link.stood_in;
        while link.is_open()
            && link.stood_in < self.stand_in
            && self.stood_in < STAND_IN_TOTAL
            && self.engine.may_read(conn)
        {
            match read(socket, &mut self.buffer) {
                Ok(0) => break,
                Ok(len) => {
                    link.stood_in += len;
                    self.stood_in += len;
                    self.engine.receive(conn, &self.buffer[..len], now);
                }
                Err(error) if error.kind() == WouldBlock => break,
                Err(error) => {
                    link.failed.get_or_insert(error);
                    break;
                }
            }
        }
        link.stood_in > before
    }

    /// Likewise writes.
    pub(crate) fn write_for_loop(&mut self, turns: u64) {
        if self.turns == turns {
            let waiting = |(conn, link): (&ConnId, &mut Link)| {
                if link.socket.is_some() && link.failed.is_none() && mem::take(&mut link.waiting) {
                    link.mark(*conn, &mut self.fresh);
                }
            };
            self.links.iter_mut().for_each(waiting);
            self.pump(self.now());
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.ring();
    }
}

/// What an unauthenticated connection does not read keeps its socket no longer.
fn leaves_at_once(engine: &Engine<u32>, conn: ConnId) -> bool {
    engine.parting(conn) == Some(Parting::LeaveAtOnce)
}

fn read(mut socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(buffer) {
            Err(error) if error.kind() == Interrupted => {}
            read => return read,
        }
    }
}
