//! A connected remote peer.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, watch};

use super::{
    answers::{Answers, Brought, Outcome, Received, Tag},
    backlog::Backlog,
    scope::Scopes,
    shared::{Shared, lock},
};
use crate::{
    Error, ErrorKind, Result,
    engine::{
        self, ConnId, Connection, Event, Extensions, Identity, Load, Moment, Outgoing, Ready,
        StreamId, TimeLimit, UnitId, UnitInfo, UnitStats, close_code,
    },
    net::{CloseCommand, ConnHandle},
    wire::Meta,
    ws::FrameWriter,
};

/// The part under the unit's lock.
pub(crate) struct UnitState {
    pub(crate) machine: engine::Unit<Tag>,
    pub(crate) answers: Answers,
    /// Who waits for a stream.
    wakers: FxHashMap<StreamId, Waker>,
    conns: Vec<(ConnId, Arc<ConnHandle>)>,
    /// When the connections' tasks will look at the time: what is due before that has to wake one.
    armed: Option<Moment>,
}

impl UnitState {
    fn wake_all(&self) {
        for (_, handle) in &self.conns {
            handle.wake();
        }
    }

    /// Has a task look at the time by then: what is queued wakes one only if it is the first in the queue.
    #[inline]
    fn arm(&mut self, due: Option<Moment>) {
        if due.is_some_and(|due| self.armed.is_none_or(|armed| due < armed)) {
            self.armed = due;
            self.wake_all();
        }
    }

    /// Remembers to wake the task when the stream moves.
    pub(crate) fn wait(&mut self, stream: StreamId, cx: &Context<'_>) {
        match self.wakers.get_mut(&stream) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                self.wakers.insert(stream, cx.waker().clone());
            }
        }
    }

    pub(crate) fn forget(&mut self, stream: StreamId) {
        self.wakers.remove(&stream);
    }

    pub(crate) fn waker(&mut self, stream: StreamId) -> Option<Waker> {
        self.wakers.remove(&stream)
    }

    /// The task of one of the unit's connections, for timers.
    pub(crate) fn any_conn(&self) -> Option<&Arc<ConnHandle>> {
        self.conns.first().map(|(_, handle)| handle)
    }
}

pub(crate) struct UnitInner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: UnitId,
    pub(crate) info: ArcSwap<UnitInfo>,
    pub(crate) roles: Mutex<Arc<[String]>>,
    state: Mutex<UnitState>,
    /// For a look without the lock.
    pub(crate) load: Arc<Load>,
    pub(crate) backlog: Backlog,
    pub(crate) scopes: Scopes,
    /// Told when there is room to send again, and when there is no connection left.
    pub(crate) room: Notify,
    pub(crate) closed: watch::Sender<bool>,
}

/// Wakes the connections that got something to do, without the lock.
fn wake_connections(mut state: MutexGuard<'_, UnitState>) {
    // Nearly always at most one.
    let first = state.machine.poll_output();
    let mut more = Vec::new();
    if first.is_some() {
        while let Some(conn) = state.machine.poll_output() {
            more.push(conn);
        }
    }
    let handle = |conn: ConnId| {
        state.conns.iter().find(|(known, _)| *known == conn).map(|(_, handle)| handle.clone())
    };
    let mut first = first.and_then(handle);
    let more: Vec<_> = more.into_iter().filter_map(handle).collect();
    // Somebody has to hand out what has happened, if the caller does not.
    if first.is_none() && state.machine.has_events() {
        first = state.any_conn().cloned();
    }
    drop(state);
    for handle in first.into_iter().chain(more) {
        handle.wake();
    }
}

impl UnitInner {
    pub(crate) fn new(shared: Arc<Shared>, ready: &Ready) -> UnitInner {
        let (limits, budget) = (shared.limits.clone(), shared.budget.clone());
        let machine = engine::Unit::new(ready.info.clone(), limits, budget, ready.load.clone());
        UnitInner {
            shared,
            id: ready.unit,
            info: ArcSwap::new(ready.info.clone()),
            roles: Mutex::new(Vec::new().into()),
            state: Mutex::new(UnitState {
                machine,
                answers: Answers::default(),
                wakers: FxHashMap::default(),
                conns: Vec::new(),
                armed: None,
            }),
            load: ready.load.clone(),
            backlog: Backlog::default(),
            scopes: Scopes::default(),
            room: Notify::new(),
            closed: watch::Sender::new(false),
        }
    }

    pub(crate) fn attach(
        &self,
        conn: ConnId,
        writer: FrameWriter,
        extensions: Extensions,
        handle: Arc<ConnHandle>,
        now: Moment,
    ) {
        let mut state = lock(&self.state);
        state.machine.attach(conn, writer, extensions, now);
        state.conns.push((conn, handle));
    }

    /// Works on the unit's state, then wakes the connections that got something to do.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut UnitState) -> T) -> T {
        let mut state = lock(&self.state);
        let result = work(&mut state);
        match state.machine.is_settled() {
            true => drop(state),
            false => wake_connections(state),
        }
        self.shared.note_idle();
        result
    }

    /// Brings outcomes to those who asked.
    pub(crate) fn bring(&self, outcomes: impl Iterator<Item = (Tag, Result<Received>)>) {
        let mut brought = Vec::with_capacity(outcomes.size_hint().1.unwrap_or_default());
        let mut state = lock(&self.state);
        brought.extend(outcomes.filter_map(|(tag, data)| state.answers.bring(tag, data)));
        drop(state);
        brought.into_iter().for_each(Brought::finish);
    }

    /// Fetches the outcome of a request.
    pub(crate) fn answer(&self, tag: Tag, cx: &Context<'_>) -> Poll<Outcome> {
        lock(&self.state).answers.poll(tag, cx)
    }

    /// Ends a connection.
    pub(crate) fn detach(
        &self,
        connection: &mut Connection,
        close: Option<(u16, &str)>,
        events: &mut Vec<Event<Tag>>,
    ) -> Option<UnitId> {
        let id = self.with(|state| {
            let id = connection.end(Some(&mut state.machine), close);
            state.machine.take_events(events);
            state.conns.retain(|(known, _)| *known != connection.id());
            id
        });
        self.room.notify_waiters();
        id
    }

    /// Closes all connections, as the application.
    pub(crate) fn close_connections(&self) {
        let handles = self.with(|state| {
            let conns: Vec<ConnId> = state.machine.connections().collect();
            for conn in conns {
                state.machine.close(conn, close_code::MANUAL, close_code::MANUAL_REASON);
            }
            state.conns.iter().map(|(_, handle)| handle.clone()).collect::<Vec<_>>()
        });
        for handle in handles {
            handle.close(CloseCommand::manual());
        }
    }

    /// Sends, unless the unit has no room: then nothing happens.
    pub(crate) fn if_room<T>(
        &self,
        send: impl FnOnce(&mut UnitState, Moment) -> Result<T>,
    ) -> Option<Result<T>> {
        self.if_room_until(engine::Unit::deadline, send)
    }

    /// The same for what brings nothing nearer of all that is due but `due`.
    #[inline]
    pub(crate) fn if_room_until<T>(
        &self,
        due: impl FnOnce(&engine::Unit<Tag>) -> Option<Moment>,
        send: impl FnOnce(&mut UnitState, Moment) -> Result<T>,
    ) -> Option<Result<T>> {
        self.with(|state| {
            let now = self.shared.clock.now();
            if state.machine.must_wait(now) {
                state.arm(state.machine.deadline());
                return None;
            }
            let result = send(state, now);
            state.arm(due(&state.machine));
            Some(result)
        })
    }

    /// As [`if_room`](Self::if_room), for a one-way message. Nothing that is due comes nearer by it, so that
    /// neither deadlines nor the clock are looked at while there is room.
    pub(crate) fn send_if_room(&self, outgoing: Outgoing<'_>) -> Option<Result<()>> {
        match self.with(|state| state.machine.send(outgoing)) {
            Err(error) if error.kind() == ErrorKind::Overloaded => {
                self.if_room(|state, _| state.machine.send(outgoing).map(drop))
            }
            sent => Some(sent.map(drop)),
        }
    }

    /// Tries again and again until the unit has room.
    pub(crate) async fn when_room<T>(
        &self,
        mut attempt: impl FnMut() -> Option<Result<T>>,
    ) -> Result<T> {
        if let Some(result) = attempt() {
            return result;
        }
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if let Some(result) = attempt() {
                return result;
            }
            room.await;
        }
    }

    /// As [`when_room`](Self::when_room), but not for ever.
    pub(crate) async fn when_room_within<T>(
        &self,
        limit: TimeLimit,
        attempt: impl FnMut() -> Option<Result<T>>,
    ) -> Result<T> {
        let now = self.shared.clock.now();
        let gone = limit.since.map_or(Duration::ZERO, |since| now.since(since));
        let limit = limit.limit.unwrap_or(self.shared.limits.request_timeout);
        tokio::select! {
            biased;
            sent = self.when_room(attempt) => sent,
            () = self.shared.pause(limit.saturating_sub(gone)) => Err(engine::timed_out(limit)),
        }
    }

    pub(crate) async fn send(&self, outgoing: Outgoing<'_>) -> Result<()> {
        self.when_room(|| self.send_if_room(outgoing)).await
    }

    /// Waits until there is room to send, or no connection any more.
    pub(crate) async fn has_room(&self) {
        // Nothing is sent that could fail.
        let _ = self.when_room(|| self.if_room(|_, _| Ok(()))).await;
    }

    pub(crate) fn is_open(&self) -> bool {
        self.load.is_open()
    }

    /// What a connection's task has to look after before it sleeps.
    pub(crate) fn outlook(&self, connection: &Connection) -> Outlook {
        let mut state = lock(&self.state);
        state.armed = state.machine.deadline();
        let machine = Some(&state.machine);
        Outlook {
            deadline: state.armed,
            has_output: connection.has_output(machine),
            has_events: state.machine.has_events(),
            may_read: connection.may_read(machine),
            may_deliver: !state.machine.is_saturated(connection.id()),
        }
    }

    /// Closes a connection, which another task serves.
    pub(crate) fn close(&self, conn: ConnId, code: u16, reason: &str) {
        let handle = self.with(|state| {
            state.machine.close(conn, code, reason);
            state.conns.iter().find(|(known, _)| *known == conn).map(|(_, handle)| handle.clone())
        });
        if let Some(handle) = handle {
            handle.close(CloseCommand::new(code, reason));
        }
    }

    pub(crate) fn busy(&self) -> usize {
        lock(&self.state).machine.busy()
    }
}

/// See [`UnitInner::outlook`].
pub(crate) struct Outlook {
    /// When the unit wants to be called next.
    pub(crate) deadline: Option<Moment>,
    /// The connection has something to write.
    pub(crate) has_output: bool,
    /// Something has happened that nobody has handed out.
    pub(crate) has_events: bool,
    /// The connection may be read.
    pub(crate) may_read: bool,
    /// Handlers can take more of what was read.
    pub(crate) may_deliver: bool,
}

/// A connected remote peer: its name, tags and roles, and the means to close it.
///
/// A handle: clones are cheap and stand for the same unit. It stays valid after the unit has gone;
/// then everything that needs a connection fails with [`ErrorKind::ConnectionLost`].
#[derive(Clone)]
pub struct Unit {
    pub(crate) inner: Arc<UnitInner>,
}

impl Unit {
    pub(crate) fn new(inner: Arc<UnitInner>) -> Unit {
        Unit { inner }
    }

    /// The remote peer's id, unique for its lifetime. Opaque text.
    pub fn id(&self) -> Arc<str> {
        self.inner.info.load().id.clone()
    }

    /// The remote peer's name; may be empty.
    pub fn name(&self) -> String {
        self.inner.info.load().name.clone()
    }

    /// The remote peer's tags, as they were when it connected.
    pub fn tags(&self) -> BTreeMap<String, String> {
        self.inner.info.load().tags.clone()
    }

    /// What the remote peer runs on, as it was when it connected.
    pub fn meta(&self) -> Meta {
        self.inner.info.load().meta.clone()
    }

    /// Its identity, as shown on the most recently opened connection: key, certificate, claims. The name, the tags and
    /// the id are only what it says about itself.
    pub fn identity(&self) -> Arc<Identity> {
        self.inner.info.load().identity.clone()
    }

    /// What it has shown on each of its connections, which agree in all but address, headers and direction.
    pub fn identities(&self) -> Vec<(ConnId, Arc<Identity>)> {
        self.inner.shared.with_core(|core, _| {
            let known = core.conns.iter().filter_map(|(conn, known)| {
                let (unit, identity) = known.identity.as_ref()?;
                (*unit == self.inner.id).then(|| (*conn, identity.clone()))
            });
            let mut identities: Vec<_> = known.collect();
            identities.sort_unstable_by_key(|(conn, _)| *conn);
            identities
        })
    }

    /// Whether the remote peer wants to be told of others.
    pub fn is_friendly(&self) -> bool {
        self.inner.info.load().friendly
    }

    /// The roles that the remote peer serves now.
    pub fn roles(&self) -> Arc<[String]> {
        lock(&self.inner.roles).clone()
    }

    /// Whether a connection is open.
    pub fn is_open(&self) -> bool {
        self.inner.is_open()
    }

    /// Waits until the unit has room for a message; see [`Destination::room`](super::Destination::room).
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`ErrorKind::ConnectionLost`] when it has no connection.
    pub async fn room(&self) -> Result<()> {
        self.inner.has_room().await;
        if self.is_open() { Ok(()) } else { Err(Unit::gone()) }
    }

    /// Waits until the last connection has closed.
    pub async fn closed(&self) {
        // The sender lives in `inner`: waiting cannot fail.
        let _ = self.inner.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Closes all connections with code 4000. The addresses that this peer dialed for them are not
    /// dialed again; the remote peer may come back if it dialed us. Returns once the connections
    /// are closed, at the latest when the closing time limit of two seconds is over.
    pub async fn close(&self) {
        let shared = &self.inner.shared;
        shared.with_core(|core, _| core.peer.unit_closing(self.inner.id));
        self.inner.close_connections();
        self.closed().await;
    }

    /// Counters of this unit and its connections.
    pub fn stats(&self) -> UnitStats {
        lock(&self.inner.state).machine.stats()
    }

    /// The round-trip time of the last answered ping on any connection; none before the first.
    pub fn round_trip(&self) -> Option<Duration> {
        self.stats().connections.iter().filter_map(|conn| conn.round_trip).min()
    }

    /// The error of a unit that is not there any more.
    pub(crate) fn gone() -> Error {
        Error::unit_gone()
    }
}

impl PartialEq for Unit {
    fn eq(&self, other: &Unit) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Unit {}

impl std::hash::Hash for Unit {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.inner).hash(state);
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.inner.info.load();
        f.debug_struct("Unit").field("id", &info.id).field("name", &info.name).finish()
    }
}
