//! [`Engine`]: one peer engine on an asyncio event loop.
//!
//! Two locks: `state` has the engine and its sockets and no Python object; `table` has the Python
//! objects that wait for something. Making, calling and dropping Python objects may run any Python
//! code, which may call anything here, so that neither is held meanwhile. When both are needed,
//! `table` comes first.
//!
//! What comes in is handed out by `dispatch`, event by event, each taken out under the lock. What has
//! to go out is written once for each turn of the loop: behind the dispatch when nobody was woken,
//! else by `flush`, which the loop calls behind those who were.

use std::{
    net::TcpStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyRuntimeError, PyTypeError, PyValueError},
    intern,
    prelude::*,
    types::{PyBytes, PyDict, PyList, PyString},
};
use roletalk::{
    Data, Error, ErrorKind,
    engine::{
        AddressId, Chunk, Config, ConnId, Engine as Core, EngineEvent, Event, Incoming, Limits,
        Moment, Order, Outgoing, PeerEvent, StreamId, Unit, UnitId, UnitStats,
    },
    wire::{Direction, Payload},
};

use crate::{
    context::{Context, Kind, Ticket},
    data::{Codec, to_python, utf8, with_payload},
    destination::limit,
    error::{exception, failure, text_of},
    guard::Guarded,
    host::Host,
    routes::Mode,
    state::{Action, Question, State},
    table::{Table, Timer, Waiting},
};

/// How often this process has been forked off since the module was loaded.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Called in a child process: the engines of the parent are of no use in it.
#[pyfunction]
pub(crate) fn forked() {
    FORKS.fetch_add(1, Relaxed);
}

thread_local! {
    static THREAD: u8 = const { 0 };
}

/// A number that no other thread has, never zero.
fn this_thread() -> usize {
    THREAD.with(|thread| std::ptr::from_ref(thread) as usize)
}

/// Messages, requests and answers that are handed out before what they have caused is written, so that
/// the other side works on that while this one goes on: with all of a read at a time, the two take turns.
const BATCH: usize = 32;

/// Cancelled requests are looked for when there are more waiting than this, and twice as many as
/// after the last time.
const SWEEP: usize = 256;

/// What handing out events has come to.
#[derive(Clone, Copy)]
struct Dispatched {
    /// There were events.
    any: bool,
    /// Something will run in this turn of the loop that may want to send something.
    woken: bool,
    /// There may be more: this was a batch.
    full: bool,
}

/// How far writing and what follows has come.
enum Progress {
    /// Nothing is left.
    Complete,
    /// The rest is for another turn of the loop.
    Suspended,
}

/// What became of a request.
pub(crate) enum Asked<'py> {
    /// It has a future, perhaps one that failed already.
    Sent(Bound<'py, PyAny>),
    /// The unit has no room.
    Full(UnitId),
}

/// What became of a message.
pub(crate) enum Sent {
    Queued(UnitId),
    Full(UnitId),
    Failed(Error),
}

/// One peer engine. It belongs to the thread whose loop it is bound to, and to the process.
#[pyclass(frozen, module = "roletalk._engine")]
pub struct Engine {
    id: String,
    shared: Arc<Guarded>,
    table: Mutex<Table>,
    host: Mutex<Option<Arc<Host>>>,
    pub(crate) codec: Codec,
    /// Hears of what is rare.
    listener: Mutex<Option<Py<PyAny>>>,
    forks: u32,
    /// The thread that may use it, 0 as long as it is not bound.
    thread: AtomicUsize,
    /// The loop will call `flush`.
    armed: AtomicBool,
    /// The listener wants to know when nothing is under way.
    draining: AtomicBool,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No lock is held across foreign code, and what panics under one has changed nothing yet.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "No open sockets left")
}

impl Engine {
    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if self.forks != FORKS.load(Relaxed) {
            let text = "The peer belongs to the parent process: make a new one after a fork";
            return Err(failure(py, ErrorKind::Closed, text));
        }
        Ok(())
    }

    /// The state, for a look from any thread. In a child process the lock may be held for ever.
    fn look(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, State>> {
        self.check_process(py)?;
        Ok(lock(&self.shared.state))
    }

    /// The time, if the caller may use this engine.
    fn enter(&self, py: Python<'_>) -> PyResult<Moment> {
        self.check_process(py)?;
        let thread = self.thread.load(Relaxed);
        if thread != 0 && thread != this_thread() {
            return Err(PyRuntimeError::new_err(
                "The peer belongs to the event loop of another thread: use \
                 loop.call_soon_threadsafe or asyncio.run_coroutine_threadsafe",
            ));
        }
        Ok(self.shared.call())
    }

    fn host(&self, py: Python<'_>) -> PyResult<Arc<Host>> {
        let host = lock(&self.host).clone();
        host.ok_or_else(|| failure(py, ErrorKind::Closed, "The peer is not bound to an event loop"))
    }

    fn listener<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        lock(&self.listener).as_ref().map(|listener| listener.bind(py).clone())
    }

    /// Changes the state, then sees to it that what follows is done in this turn of the loop.
    pub(crate) fn with_state<T>(
        slf: &Bound<'_, Engine>,
        change: impl FnOnce(&mut State, Moment) -> T,
    ) -> PyResult<T> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let result = change(&mut lock(&this.shared.state), now);
        this.arm(py)?;
        Ok(result)
    }

    fn with_unit<T>(
        slf: &Bound<'_, Engine>,
        unit: UnitId,
        change: impl FnOnce(&mut Unit<u32>, Moment) -> T,
    ) -> PyResult<Option<T>> {
        Engine::with_state(slf, |state, now| {
            state.engine.with_unit(unit, now, |unit| change(unit, now))
        })
    }

    /// Has the loop call `flush` in this turn, or in the next.
    fn arm(&self, py: Python<'_>) -> PyResult<()> {
        if !self.armed.load(Relaxed) {
            // Without a loop there is nothing to be done yet.
            let Some(host) = lock(&self.host).clone() else { return Ok(()) };
            host.call_soon.bind(py).call1((&host.flush,))?;
            self.armed.store(true, Relaxed);
        }
        Ok(())
    }

    // Sending.

    pub(crate) fn send(
        slf: &Bound<'_, Engine>,
        outgoing: Outgoing<'_>,
        pick: impl FnOnce(&State) -> Option<UnitId>,
    ) -> PyResult<Sent> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let sent = {
            let mut state = lock(&this.shared.state);
            let Some(unit) = pick(&state) else {
                return Ok(Sent::Failed(state.no_unit(outgoing.role)));
            };
            let sent = state.engine.with_unit(unit, now, |machine| {
                if machine.has_room() || !machine.is_open() {
                    return Some(machine.send(outgoing));
                }
                machine.note_full(now);
                None
            });
            match sent {
                None => Sent::Failed(lost()),
                Some(None) => Sent::Full(unit),
                Some(Some(Ok(_))) => Sent::Queued(unit),
                Some(Some(Err(error))) => Sent::Failed(error),
            }
        };
        this.arm(py)?;
        Ok(sent)
    }

    pub(crate) fn request<'py>(
        slf: &Bound<'py, Engine>,
        outgoing: Outgoing<'_>,
        pick: impl FnOnce(&State) -> Option<UnitId>,
        limit: Option<Duration>,
    ) -> PyResult<Asked<'py>> {
        Engine::ask(slf, pick, outgoing.role, |machine, now, tag| {
            machine.request(outgoing, limit, now, tag).map(|corr| (corr, ()))
        })
        .map(|(asked, _)| asked)
    }

    /// Sends something that is answered, if the unit has room.
    fn ask<'py, T>(
        slf: &Bound<'py, Engine>,
        pick: impl FnOnce(&State) -> Option<UnitId>,
        role: &str,
        ask: impl FnOnce(&mut Unit<u32>, Moment, u32) -> Result<(u64, T), Error>,
    ) -> PyResult<(Asked<'py>, Option<(UnitId, T)>)> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let host = this.host(py)?;
        let future = host.create_future.bind(py).call0()?;
        let kept = future.clone().unbind();
        let (outcome, must_sweep) = {
            let mut table = lock(&this.table);
            let mut state = lock(&this.shared.state);
            let picked = pick(&state);
            let outcome = match picked {
                None => Err(state.no_unit(role)),
                Some(unit) => {
                    let tag = table.waiting.vacant_key();
                    let asked = state.engine.with_unit(unit, now, |machine| {
                        if machine.has_room() || !machine.is_open() {
                            return ask(machine, now, tag as u32).map(Some);
                        }
                        machine.note_full(now);
                        Ok(None)
                    });
                    asked.unwrap_or_else(|| Err(lost())).map(|asked| (unit, asked))
                }
            };
            let outcome = outcome.map(|(unit, asked)| {
                asked.map_or(Err(unit), |(corr, opened)| {
                    table.waiting.insert(Waiting { future: kept, unit, corr });
                    Ok((unit, opened))
                })
            });
            let waiting = table.waiting.len();
            (outcome, waiting > SWEEP && waiting > 2 * table.swept)
        };
        this.arm(py)?;
        if must_sweep {
            this.sweep(py, now)?;
        }
        match outcome {
            Ok(Ok(opened)) => Ok((Asked::Sent(future), Some(opened))),
            Ok(Err(unit)) => Ok((Asked::Full(unit), None)),
            Err(error) => {
                let error = exception(py, &error);
                future.call_method1(intern!(py, "set_exception"), (error.value(py),))?;
                Ok((Asked::Sent(future), None))
            }
        }
    }

    /// Abandons requests whose futures were cancelled. Nobody tells of a cancellation: a callback
    /// for each future would cost more than to look at all of them now and then.
    fn sweep(&self, py: Python<'_>, now: Moment) -> PyResult<()> {
        let futures: Vec<(usize, Py<PyAny>)> = {
            let table = lock(&self.table);
            table.waiting.iter().map(|(at, waiting)| (at, waiting.future.clone_ref(py))).collect()
        };
        for (at, future) in futures {
            if future.call_method0(py, intern!(py, "done"))?.is_truthy(py)? {
                let waiting = {
                    let mut table = lock(&self.table);
                    let same = |waiting: &Waiting| waiting.future.is(&future);
                    let Some(true) = table.waiting.get(at).map(same) else { continue };
                    table.waiting.remove(at)
                };
                let mut state = lock(&self.shared.state);
                state.engine.with_unit(waiting.unit, now, |unit| unit.abandon(waiting.corr));
                drop(state);
            }
        }
        let mut table = lock(&self.table);
        table.swept = table.waiting.len();
        Ok(())
    }

    // Events.

    /// Hands out all events.
    fn dispatch(slf: &Bound<'_, Engine>, now: Moment) -> PyResult<Dispatched> {
        let this = slf.get();
        let mut dispatched = Dispatched { any: false, woken: false, full: false };
        let mut handled = 0;
        loop {
            let event = {
                let mut state = lock(&this.shared.state);
                // There may be no further turn when the peer is closed.
                if handled == BATCH && !state.is_closed() {
                    dispatched.full = true;
                    return Ok(dispatched);
                }
                state.poll_event()
            };
            let Some(event) = event else { return Ok(dispatched) };
            dispatched.any = true;
            if let EngineEvent::Unit {
                event: Event::Answer { .. } | Event::Request(..) | Event::Message(..),
                ..
            } = &event
            {
                handled += 1;
            }
            dispatched.woken |= match event {
                EngineEvent::Unit { unit, event } => this.unit_event(slf, unit, event, now)?,
                EngineEvent::Peer(event) => this.peer_event(slf.py(), event)?,
                event => this.connection_event(slf.py(), event)?,
            };
        }
    }

    fn unit_event(
        &self,
        slf: &Bound<'_, Engine>,
        unit: UnitId,
        event: Event<u32>,
        now: Moment,
    ) -> PyResult<bool> {
        let py = slf.py();
        match event {
            Event::Answer { tag, outcome, .. } => {
                let waiting = lock(&self.table).waiting.try_remove(tag as usize);
                if let Some(waiting) = waiting {
                    self.settle(waiting.future.bind(py), &outcome);
                }
                Ok(true)
            }
            Event::Request(incoming, responder) => {
                self.incoming(slf, unit, Kind::Request, Question::Request(responder), incoming, now)
            }
            Event::Message(incoming) => {
                self.incoming(slf, unit, Kind::Message, Question::None, incoming, now)
            }
            Event::StreamRequest(incoming, offer) => {
                let kind = if offer.is_writable_here() { Kind::Writable } else { Kind::Readable };
                self.incoming(slf, unit, kind, Question::Stream(offer), incoming, now)
            }
            Event::Stream(stream) => {
                let waiter = lock(&self.table).streams.remove(&(unit, stream));
                Ok(wake(py, waiter))
            }
            Event::Room => {
                lock(&self.shared.state).has_room(unit, now);
                let waiters = lock(&self.table).room.remove(&unit);
                Ok(wake(py, waiters.into_iter().flatten()))
            }
            Event::SlowConsumer { queued, dropped, .. } => {
                let unit = self.unit_object(py, unit);
                self.tell(py, "slow_consumer", (unit, queued, dropped))
            }
            _ => Ok(false),
        }
    }

    /// Gives a future its outcome, unless nobody waits for it any more.
    fn settle(&self, future: &Bound<'_, PyAny>, outcome: &Result<Data, Error>) {
        let py = future.py();
        let value = match outcome {
            Ok(data) => to_python(py, data.payload(), &self.codec),
            Err(error) => Err(exception(py, error)),
        };
        // It fails when the future was cancelled, or the loop is closed.
        let _ = match value {
            Ok(value) => future.call_method1(intern!(py, "set_result"), (value,)),
            Err(error) => future.call_method1(intern!(py, "set_exception"), (error.value(py),)),
        };
    }

    /// Finds and starts the handler of something that came.
    fn incoming(
        &self,
        slf: &Bound<'_, Engine>,
        unit: UnitId,
        kind: Kind,
        question: Question,
        incoming: Incoming,
        now: Moment,
    ) -> PyResult<bool> {
        let py = slf.py();
        let (found, ticket, unit_object) = {
            let mut table = lock(&self.table);
            let found = table.routes.find(py, incoming.role(), kind, incoming.event());
            let object = table.units.get(&unit).map(|unit| unit.clone_ref(py));
            match (found, object) {
                (Ok(found), Some(object)) => (found, table.begin(unit, question), object),
                (found, _) => {
                    drop(table);
                    let reason = found.err().unwrap_or_else(|| "Socket closed".to_owned());
                    lock(&self.shared.state).answer(unit, question, Err(&reason), now);
                    return self.tell(py, "not_handled", (reason,));
                }
            }
        };
        let payload = Payload { kind: incoming.kind(), bytes: incoming.payload() };
        let data = match to_python(py, payload, &self.codec) {
            Ok(data) => data.unbind(),
            Err(error) => {
                let reason = text_of(error.value(py));
                self.finish(py, ticket, Err(&reason), now);
                return self.tell(py, "bad_data", (unit_object, reason));
            }
        };
        let (mode, names) = (found.mode, (found.role, found.event));
        let context = Context::new(slf.clone().unbind(), kind, ticket, names, data, unit_object);
        let context = Bound::new(py, context)?;
        let function = found.function.bind(py);
        match mode {
            Mode::Task => {
                let host = self.host(py)?;
                let coroutine = host.run.bind(py).call1((function, &context))?;
                let task = host.spawn.bind(py).call1((coroutine,))?.unbind();
                // An eager task may have ended already.
                let ended = match lock(&self.table).running(ticket) {
                    Some(running) => {
                        running.task = Some(task);
                        None
                    }
                    None => Some(task),
                };
                Ok(ended.is_none())
            }
            Mode::Inline => match function.call1((&context,)) {
                Ok(value) => {
                    Engine::answer(slf, &context, &value)?;
                    Ok(false)
                }
                Err(error) => self.tell(py, "handler_failed", (context, error.value(py))),
            },
            Mode::Pool => self.tell(py, "submit", (function, context)),
        }
    }

    /// Answers what a handler was called for, and forgets it.
    fn finish(
        &self,
        py: Python<'_>,
        ticket: Ticket,
        outcome: Result<Payload<'_>, &str>,
        now: Moment,
    ) -> bool {
        let Some(running) = lock(&self.table).end(ticket) else { return false };
        lock(&self.shared.state).answer(running.unit, running.question, outcome, now);
        // Outside of the locks.
        drop(running.task.map(|task| task.into_bound(py)));
        true
    }

    fn unit_object(&self, py: Python<'_>, unit: UnitId) -> Option<Py<PyAny>> {
        lock(&self.table).units.get(&unit).map(|unit| unit.clone_ref(py))
    }

    fn unit_objects(&self, py: Python<'_>, units: &[UnitId]) -> Vec<Py<PyAny>> {
        let table = lock(&self.table);
        let objects = units.iter().filter_map(|unit| table.units.get(unit));
        objects.map(|unit| unit.clone_ref(py)).collect()
    }

    /// Tells the listener of something rare.
    fn tell<'py>(
        &self,
        py: Python<'py>,
        what: &str,
        arguments: impl pyo3::call::PyCallArgs<'py>,
    ) -> PyResult<bool> {
        if let Some(listener) = self.listener(py) {
            listener.call_method1(what, arguments)?;
        }
        Ok(true)
    }

    fn connection_event(&self, py: Python<'_>, event: EngineEvent<u32>) -> PyResult<bool> {
        match event {
            EngineEvent::Dial { address, url } => self.tell(py, "dial", (address.0, &*url)),
            EngineEvent::Attached { conn, unit, info, roles } => {
                lock(&self.shared.state).attached(conn, unit);
                let description = serde_json::json!({
                    "id": &*info.id,
                    "name": info.name,
                    "friendly": info.friendly,
                    "meta": info.meta,
                    "tags": info.tags,
                    "roles": &*roles,
                });
                let Some(listener) = self.listener(py) else { return Ok(false) };
                let known = self.unit_object(py, unit);
                let arguments = (known, unit.0, description.to_string());
                let object = listener.call_method1(intern!(py, "attached"), arguments)?.unbind();
                let before = lock(&self.table).units.insert(unit, object);
                drop(before);
                Ok(true)
            }
            EngineEvent::Close { conn, .. } => {
                lock(&self.shared.state).ending(conn);
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    fn peer_event(&self, py: Python<'_>, event: PeerEvent) -> PyResult<bool> {
        let object = |unit| self.unit_object(py, unit);
        match event {
            PeerEvent::UnitOpened { unit, .. } => self.tell(py, "unit_opened", (object(unit),)),
            PeerEvent::UnitClosed { unit } => {
                let (object, waiters) = {
                    let mut table = lock(&self.table);
                    (table.units.remove(&unit), table.room.remove(&unit))
                };
                wake(py, waiters.into_iter().flatten());
                self.tell(py, "unit_closed", (object,))
            }
            PeerEvent::UnitRoles { unit, roles } => {
                self.tell(py, "unit_roles", (object(unit), roles.to_vec()))
            }
            PeerEvent::DestinationOpened { role } => self.tell(py, "destination_opened", (&*role,)),
            PeerEvent::DestinationClosed { role } => self.tell(py, "destination_closed", (&*role,)),
            PeerEvent::DestinationGained { role, unit } => {
                self.tell(py, "destination_gained", (&*role, object(unit)))
            }
            PeerEvent::DestinationLost { role, unit } => {
                self.tell(py, "destination_lost", (&*role, object(unit)))
            }
            PeerEvent::AuthRefused { reason, .. } => self.tell(py, "auth_refused", (reason,)),
            PeerEvent::Dialed { address, url, count, outcome, again } => {
                let (unit, error) = match outcome {
                    Ok((unit, _)) => (object(unit), None),
                    Err(error) => (None, Some(exception(py, &error))),
                };
                self.tell(py, "dialed", (address.0, &*url, count, again, unit, error))
            }
            PeerEvent::ConnectionClosed { unit, reason, .. } => {
                let unit = unit.and_then(object);
                self.tell(py, "connection_closed", (unit, exception(py, &reason)))
            }
            _ => Ok(false),
        }
    }

    // Input and output.

    /// Something came in: hands it out, and writes what follows, unless somebody was woken who may
    /// have more to write.
    fn after_input(slf: &Bound<'_, Engine>, now: Moment) -> PyResult<()> {
        let this = slf.get();
        // What handlers send now goes out in any case.
        let armed = this.armed.swap(true, Relaxed);
        let dispatched = Engine::dispatch(slf, now);
        let written = match &dispatched {
            Ok(Dispatched { woken: false, .. }) => Engine::write_all(slf, now),
            _ => Ok(Progress::Suspended),
        };
        this.armed.store(armed, Relaxed);
        if !matches!(written, Ok(Progress::Complete)) {
            this.arm(slf.py())?;
        }
        dispatched.and(written).map(drop)
    }

    /// Writes, and does what follows, until there is nothing left, or until those that were woken
    /// are to run first.
    fn write_all(slf: &Bound<'_, Engine>, now: Moment) -> PyResult<Progress> {
        let (py, this) = (slf.py(), slf.get());
        loop {
            let actions = lock(&this.shared.state).write(now);
            let idle = actions.is_empty();
            for action in actions {
                this.act(py, action)?;
            }
            let dispatched = Engine::dispatch(slf, now)?;
            if dispatched.full && dispatched.woken {
                return Ok(Progress::Suspended);
            }
            if !dispatched.any && idle {
                this.tell_idle(py)?;
                this.arm_timer(py, now)?;
                return Ok(Progress::Complete);
            }
        }
    }

    /// Tells a draining peer when nothing is under way any more.
    fn tell_idle(&self, py: Python<'_>) -> PyResult<()> {
        if self.draining.load(Relaxed) && lock(&self.shared.state).busy() == 0 {
            self.draining.store(false, Relaxed);
            self.tell(py, "idle", ())?;
        }
        Ok(())
    }

    fn act(&self, py: Python<'_>, action: Action) -> PyResult<()> {
        let Some(listener) = self.listener(py) else { return Ok(()) };
        let (what, conn) = match action {
            Action::Write(conn, bytes) => {
                listener.call_method1("write", (conn.0, PyBytes::new(py, &bytes)))?;
                return Ok(());
            }
            Action::AwaitWritable(conn) => ("await_writable", conn),
            Action::StopWriting(conn) => ("stop_writing", conn),
            Action::Pause(conn) => ("pause", conn),
            Action::Resume(conn) => ("resume", conn),
            Action::Part(conn) => ("part", conn),
            Action::Gone(conn) => ("gone", conn),
        };
        listener.call_method1(what, (conn.0,))?;
        Ok(())
    }

    /// Sets the loop's timer for the engine's deadline, unless one comes before that.
    fn arm_timer(&self, py: Python<'_>, now: Moment) -> PyResult<()> {
        let deadline = lock(&self.shared.state).deadline();
        let armed = lock(&self.table).timer.as_ref().map(|timer| timer.at);
        let Some(deadline) = deadline else {
            if armed.is_some() {
                self.cancel_timer(py)?;
            }
            return Ok(());
        };
        if armed.is_some_and(|at| at <= deadline) {
            return Ok(());
        }
        self.cancel_timer(py)?;
        let Some(host) = lock(&self.host).clone() else { return Ok(()) };
        let delay = deadline.saturating_sub(now).as_secs_f64();
        let handle = host.call_later.bind(py).call1((delay, &host.timeout))?.unbind();
        let before = lock(&self.table).timer.replace(Timer { at: deadline, handle });
        drop(before);
        Ok(())
    }

    fn cancel_timer(&self, py: Python<'_>) -> PyResult<()> {
        let timer = lock(&self.table).timer.take();
        if let Some(timer) = timer {
            timer.handle.call_method0(py, intern!(py, "cancel"))?;
        }
        Ok(())
    }

    // Streams.

    /// Opens the stream that a handler was called for.
    pub(crate) fn accept_stream<'py>(
        slf: &Bound<'py, Engine>,
        context: &Bound<'py, Context>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let ticket = context.get().ticket;
        let accepted = with_payload(data, &this.codec, |payload| {
            let mut table = lock(&this.table);
            let running = table.running(ticket);
            let question = running.and_then(|running| match running.question {
                Question::Stream(offer) => {
                    running.question = Question::None;
                    Some((running.unit, offer))
                }
                _ => None,
            });
            let (unit, offer) = question.ok_or_else(|| {
                Error::new(ErrorKind::StreamClosed, "The stream was answered already")
            })?;
            let accepted = lock(&this.shared.state).engine.with_unit(unit, now, |machine| {
                let accepted = machine.accept_stream(offer, payload);
                if let Err(error) = &accepted {
                    // Whoever asked is gone when this fails, too.
                    let _ = machine.refuse_stream(offer, error.text());
                }
                accepted
            });
            let gone = || Err(Error::new(ErrorKind::ConnectionLost, "Socket closed"));
            accepted.unwrap_or_else(gone).map(|stream| (unit, stream))
        })?;
        this.arm(py)?;
        let (_, stream) = accepted.map_err(|error| exception(py, &error))?;
        let listener = this.listener(py).ok_or_else(|| exception(py, &lost()))?;
        listener.call_method1("accepted", (context, stream.0))
    }
}

/// Wakes who waits with a future. Whether there was anybody.
fn wake(py: Python<'_>, futures: impl IntoIterator<Item = Py<PyAny>>) -> bool {
    let mut any = false;
    for future in futures {
        // It fails when the future was cancelled.
        let _ = future.call_method1(py, intern!(py, "set_result"), (py.None(),));
        any = true;
    }
    any
}

fn headers_of(pairs: Vec<(String, String)>) -> PyResult<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let invalid = || PyValueError::new_err(format!("the header `{name}` is not one of HTTP's"));
        let key = HeaderName::try_from(name.as_str()).map_err(|_| invalid())?;
        headers.append(key, HeaderValue::try_from(value).map_err(|_| invalid())?);
    }
    Ok(headers)
}

/// Takes over the socket of a Python socket object, which is closed for Python from then on.
#[cfg(unix)]
fn take_socket(socket: &Bound<'_, PyAny>) -> PyResult<TcpStream> {
    use std::os::fd::{FromRawFd, OwnedFd, RawFd};
    let fd: RawFd = socket.call_method0("detach")?.extract()?;
    if fd < 0 {
        return Err(PyValueError::new_err("the socket is closed"));
    }
    // SAFETY: `detach` has given up the descriptor, which was open: nobody else closes it.
    Ok(TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

#[cfg(not(unix))]
fn take_socket(_socket: &Bound<'_, PyAny>) -> PyResult<TcpStream> {
    Err(PyRuntimeError::new_err("sockets cannot be handed over on this system"))
}

fn set_limits(limits: &mut Limits, given: &Bound<'_, PyDict>) -> PyResult<()> {
    for (name, value) in given {
        let name: String = name.extract()?;
        let size = || value.extract::<usize>();
        let time = || -> PyResult<Duration> {
            let seconds = limit(Some(value.extract()?))?;
            Ok(seconds.unwrap_or_default())
        };
        match name.as_str() {
            "message_size" => limits.message_size = size()?,
            "handshake_message_size" => limits.handshake_message_size = size()?,
            "upgrade_size" => limits.upgrade_size = size()?,
            "handshake_timeout" => limits.handshake_timeout = time()?,
            "handshakes" => limits.handshakes = size()?,
            "units" => limits.units = size()?,
            "connections_per_unit" => limits.connections_per_unit = size()?,
            "waiting_requests" => limits.waiting_requests = size()?,
            "running_handlers" => limits.running_handlers = size()?,
            "queue_per_connection" => limits.queue_per_connection = size()?,
            "owed_per_connection" => limits.owed_per_connection = size()?,
            "queue_per_peer" => limits.queue_per_peer = size()?,
            "streams" => limits.streams = size()?,
            "stream_window" => limits.stream_window = size()?,
            "stream_overrun" => limits.stream_overrun = size()?,
            "request_timeout" => limits.request_timeout = time()?,
            "acquaintance_dials" => limits.acquaintance_dials = size()?,
            "acquaintance_addresses" => limits.acquaintance_addresses = size()?,
            "acquaintance_patience" => limits.acquaintance_patience = time()?,
            _ => return Err(PyTypeError::new_err(format!("there is no limit `{name}`"))),
        }
    }
    Ok(())
}

fn unit_stats<'py>(py: Python<'py>, stats: &UnitStats) -> PyResult<Bound<'py, PyDict>> {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let connections = PyList::empty(py);
    for conn in &stats.connections {
        let counters = PyDict::new(py);
        counters.set_item("frames_sent", conn.frames_sent)?;
        counters.set_item("frames_received", conn.frames_received)?;
        counters.set_item("bytes_sent", conn.bytes_sent)?;
        counters.set_item("bytes_received", conn.bytes_received)?;
        counters.set_item("queued", conn.queued)?;
        counters.set_item("round_trip", seconds(conn.round_trip))?;
        connections.append(counters)?;
    }
    let counters = PyDict::new(py);
    counters.set_item("messages_sent", stats.messages_sent)?;
    counters.set_item("messages_received", stats.messages_received)?;
    counters.set_item("messages_dropped", stats.messages_dropped)?;
    counters.set_item("requests_sent", stats.requests_sent)?;
    counters.set_item("requests_received", stats.requests_received)?;
    counters.set_item("requests_shed", stats.requests_shed)?;
    counters.set_item("waiting", stats.waiting)?;
    counters.set_item("running", stats.running)?;
    counters.set_item("streams", stats.streams)?;
    counters.set_item("stream_bytes_sent", stats.stream_bytes_sent)?;
    counters.set_item("stream_bytes_received", stats.stream_bytes_received)?;
    counters.set_item("last_answer", seconds(stats.last_answer))?;
    counters.set_item("connections", connections)?;
    Ok(counters)
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (*, name, tags, friendly, keys, limits, reconnect, runtime, dumps, loads))]
    #[expect(clippy::too_many_arguments, reason = "called from one place, by keyword")]
    fn new(
        py: Python<'_>,
        name: String,
        tags: Vec<(String, String)>,
        friendly: bool,
        keys: Vec<(String, String)>,
        limits: &Bound<'_, PyDict>,
        reconnect: (f64, f64),
        runtime: String,
        dumps: Py<PyAny>,
        loads: Py<PyAny>,
    ) -> PyResult<Engine> {
        // Tried once, so that it cannot come as a surprise later.
        getrandom::fill(&mut [0u8; 16])
            .map_err(|error| failure(py, ErrorKind::Io, error.to_string()))?;
        let mut config = Config::new(Box::new(|bytes| {
            getrandom::fill(bytes).expect("the system gave random bytes before");
        }));
        config.name = name;
        config.tags = tags.into_iter().collect();
        config.friendly = friendly;
        for (id, key) in keys {
            config.keys.add(id, key).map_err(|error| exception(py, &error))?;
        }
        set_limits(&mut config.limits, limits)?;
        let (cap, jitter) = reconnect;
        config.reconnect.cap = limit(Some(cap))?.unwrap_or_default();
        config.reconnect.jitter = jitter;
        config.runtime = runtime;
        config.wall_clock =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        let core = Core::new(config);
        Ok(Engine {
            id: core.peer().id().to_string(),
            shared: Guarded::new(State::new(core)),
            table: Mutex::default(),
            host: Mutex::new(None),
            codec: Codec { dumps, loads },
            listener: Mutex::new(None),
            forks: FORKS.load(Relaxed),
            thread: AtomicUsize::new(0),
            armed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        })
    }

    /// Binds it to the loop of this thread. `listener` hears of what is rare, `spawn` makes tasks of
    /// coroutines, `run` makes a coroutine of a handler and a context.
    fn bind(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, PyAny>,
        listener: Py<PyAny>,
        spawn: Py<PyAny>,
        run: Py<PyAny>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        this.enter(py)?;
        let host = Host {
            call_soon: event_loop.getattr("call_soon")?.unbind(),
            call_later: event_loop.getattr("call_later")?.unbind(),
            create_future: event_loop.getattr("create_future")?.unbind(),
            spawn,
            run,
            flush: slf.getattr("flush")?.unbind(),
            timeout: slf.getattr("timeout")?.unbind(),
        };
        this.thread.store(this_thread(), Relaxed);
        let before = lock(&this.listener).replace(listener);
        drop(before);
        let before = lock(&this.host).replace(Arc::new(host));
        drop(before);
        this.arm(py)
    }

    /// Lets go of the loop and of everything that waits.
    fn unbind(&self) {
        self.__clear__();
    }

    /// Starts the guard. Returns what the loop has to watch, to call `awake` when it is readable.
    #[cfg(unix)]
    fn guard(slf: &Bound<'_, Self>) -> PyResult<i32> {
        let this = slf.get();
        let waker = crate::guard::Waker::new()?;
        let descriptor = waker.descriptor();
        this.shared.start()?;
        Engine::with_state(slf, |state, _| state.waker = Some(waker))?;
        Ok(descriptor)
    }

    // What the loop calls.

    /// The guard has read something.
    #[cfg(unix)]
    fn awake(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let now = this.enter(slf.py())?;
        if let Some(waker) = &mut lock(&this.shared.state).waker {
            waker.woken();
        }
        Engine::after_input(slf, now)
    }

    /// Does what was asked for in this turn of the loop.
    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        // What handlers send meanwhile is written here, too.
        this.armed.store(true, Relaxed);
        let written = Engine::write_all(slf, now);
        this.armed.store(false, Relaxed);
        if !matches!(written, Ok(Progress::Complete)) {
            this.arm(py)?;
        }
        written.map(drop)
    }

    /// Does what is due.
    fn timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let timer = lock(&this.table).timer.take();
        drop(timer);
        lock(&this.shared.state).timeout(now);
        Engine::flush(slf)
    }

    /// A socket is readable.
    fn readable(slf: &Bound<'_, Self>, conn: u64) -> PyResult<()> {
        let this = slf.get();
        let now = this.enter(slf.py())?;
        lock(&this.shared.state).readable(ConnId(conn), now);
        Engine::after_input(slf, now)
    }

    /// A socket is writable.
    fn writable(slf: &Bound<'_, Self>, conn: u64) -> PyResult<()> {
        let this = slf.get();
        let now = this.enter(slf.py())?;
        lock(&this.shared.state).writable(ConnId(conn));
        Engine::after_input(slf, now)
    }

    /// Bytes came on a transport.
    fn feed(slf: &Bound<'_, Self>, conn: u64, bytes: &[u8]) -> PyResult<()> {
        let this = slf.get();
        let now = this.enter(slf.py())?;
        lock(&this.shared.state).feed(ConnId(conn), bytes, now);
        Engine::after_input(slf, now)
    }

    /// A transport has written all that it was given.
    fn written(slf: &Bound<'_, Self>, conn: u64) -> PyResult<()> {
        Engine::with_state(slf, |state, now| state.written(ConnId(conn), now))
    }

    /// A transport has written a part of what it was given.
    fn writing(slf: &Bound<'_, Self>, conn: u64) -> PyResult<()> {
        Engine::with_state(slf, |state, now| state.engine.writing(ConnId(conn), now))
    }

    /// A transport was lost.
    fn lost(slf: &Bound<'_, Self>, conn: u64) -> PyResult<()> {
        Engine::with_state(slf, |state, now| state.lost(ConnId(conn), now))
    }

    /// Closes a connection's socket, which is watched no longer.
    fn release(slf: &Bound<'_, Self>, conn: u64) -> PyResult<()> {
        Engine::with_state(slf, |state, now| state.release(ConnId(conn), now))
    }

    // The peer.

    /// The peer's id.
    #[getter]
    fn id(&self) -> &str {
        &self.id
    }

    /// Sets a tag.
    fn set_tag(slf: &Bound<'_, Self>, key: String, value: String) -> PyResult<()> {
        Engine::with_state(slf, |state, now| {
            state.engine.with_peer(now, |peer| peer.set_tag(key, value))
        })
    }

    /// The tags.
    fn tags(&self, py: Python<'_>) -> PyResult<Vec<(String, String)>> {
        let state = self.look(py)?;
        let tags = state.engine.peer().tags().iter();
        Ok(tags.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Adds a preshared key.
    fn add_key(slf: &Bound<'_, Self>, id: String, key: String) -> PyResult<()> {
        Engine::with_state(slf, |state, now| {
            state.engine.with_peer(now, |peer| peer.keys_mut().add(id, key))
        })?
        .map_err(|error| exception(slf.py(), &error))
    }

    /// Removes a preshared key; false when there is none with this id.
    fn remove_key(slf: &Bound<'_, Self>, id: &str) -> PyResult<bool> {
        Engine::with_state(slf, |state, now| {
            state.engine.with_peer(now, |peer| peer.keys_mut().remove(id))
        })
    }

    /// Adds a role; nothing happens when it is known.
    fn add_role(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>, active: bool) -> PyResult<()> {
        let bytes = utf8(name)?;
        let text = String::from_utf8_lossy(bytes.as_bytes());
        Engine::with_state(slf, |state, now| {
            state.engine.with_peer(now, |peer| peer.add_role(&text, active, now))
        })?
        .map_err(|error| exception(slf.py(), &error))?;
        let object = name.clone().unbind();
        lock(&slf.get().table).routes.add_role(&text, object, active);
        Ok(())
    }

    /// Disables or enables a role.
    fn set_role_active(slf: &Bound<'_, Self>, name: &str, active: bool) -> PyResult<()> {
        lock(&slf.get().table).routes.set_active(name, active);
        Engine::with_state(slf, |state, now| {
            state.engine.with_peer(now, |peer| peer.set_role_active(name, active, now))
        })
    }

    /// Whether a role is offered.
    fn is_role_active(&self, name: &str) -> bool {
        lock(&self.table).routes.is_active(name)
    }

    /// Disables all roles.
    fn disable_roles(slf: &Bound<'_, Self>) -> PyResult<()> {
        lock(&slf.get().table).routes.disable_all();
        Engine::with_state(slf, |state, now| {
            state.engine.with_peer(now, |peer| peer.disable_roles(now))
        })
    }

    /// Sets the handler of an event. `mode` is `task`, `inline` or `pool`.
    fn set_handler(
        slf: &Bound<'_, Self>,
        role: &str,
        kind: &str,
        event: &Bound<'_, PyString>,
        function: Py<PyAny>,
        mode: &str,
    ) -> PyResult<()> {
        let kind = Kind::parse(kind).ok_or_else(|| PyValueError::new_err("unknown kind"))?;
        let mode = match mode {
            "task" => Mode::Task,
            "inline" => Mode::Inline,
            "pool" => Mode::Pool,
            _ => return Err(PyValueError::new_err("unknown mode")),
        };
        let bytes = utf8(event)?;
        let text = String::from_utf8_lossy(bytes.as_bytes());
        let name = event.clone().unbind();
        let before =
            lock(&slf.get().table).routes.set_handler(role, kind, &text, name, function, mode);
        drop(before);
        Ok(())
    }

    /// Declares interest in a role.
    fn add_destination(slf: &Bound<'_, Self>, role: &str) -> PyResult<()> {
        Engine::with_state(slf, |state, now| {
            state.engine.with_peer(now, |peer| peer.add_destination(role).map(drop))
        })?
        .map_err(|error| exception(slf.py(), &error))
    }

    /// The units that serve a destination's role.
    fn destination_units(&self, py: Python<'_>, role: &str) -> PyResult<Vec<Py<PyAny>>> {
        let units = self.look(py)?.engine.peer().destination(role).to_vec();
        Ok(self.unit_objects(py, &units))
    }

    /// All units.
    fn units(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        let units: Vec<UnitId> = self.look(py)?.engine.peer().units().collect();
        Ok(self.unit_objects(py, &units))
    }

    /// Whether a unit has an open connection.
    fn is_open(&self, py: Python<'_>, unit: u64) -> PyResult<bool> {
        Ok(self.look(py)?.engine.unit(UnitId(unit)).is_some_and(Unit::is_open))
    }

    /// Closes a unit.
    fn close_unit(slf: &Bound<'_, Self>, unit: u64) -> PyResult<()> {
        Engine::with_state(slf, |state, now| state.engine.close_unit(UnitId(unit), now))
    }

    /// Closes the peer.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Engine::with_state(slf, |state, now| state.close(now))
    }

    // Connections.

    /// Dials an address from now on. Returns its number.
    fn connect(slf: &Bound<'_, Self>, url: &str, permanent: bool) -> PyResult<u64> {
        Engine::with_state(slf, |state, now| {
            state.engine.with_peer(now, |peer| peer.connect(url, permanent, now))
        })?
        .map(|address| address.0)
        .map_err(|error| exception(slf.py(), &error))
    }

    /// Stops dialing an address. Returns the numbers that were forgotten.
    fn forget_url(slf: &Bound<'_, Self>, url: &str) -> PyResult<Vec<u64>> {
        Engine::with_state(slf, |state, now| {
            let forgotten = state.engine.with_peer(now, |peer| peer.forget_url(url));
            forgotten.into_iter().map(|address| address.0).collect()
        })
    }

    /// Whether an address is still dialed, or its connection is up.
    fn is_dialed(&self, py: Python<'_>, address: u64) -> PyResult<bool> {
        Ok(self.look(py)?.engine.peer().is_dialed(AddressId(address)))
    }

    /// An address could not be dialed.
    fn dial_failed(slf: &Bound<'_, Self>, address: u64, reason: String) -> PyResult<()> {
        let error = Error::new(ErrorKind::ConnectFailed, reason);
        Engine::with_state(slf, |state, now| {
            state.engine.dial_failed(AddressId(address), error, now);
        })
    }

    /// An address was dialed. Takes the socket over, or none when Python has a transport. Returns the
    /// connection's number.
    fn dialed(
        slf: &Bound<'_, Self>,
        address: u64,
        url: &str,
        headers: Vec<(String, String)>,
        socket: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let headers = headers_of(headers)?;
        let socket = socket.map(take_socket).transpose()?;
        let conn = Engine::with_state(slf, |state, now| {
            let conn = state.engine.dialed(AddressId(address), url, &headers, now)?;
            state.add_link(conn, socket);
            Ok::<_, Error>(conn.0)
        })?;
        conn.map_err(|error| exception(slf.py(), &error))
    }

    /// A connection was accepted. As `dialed`.
    fn accepted(
        slf: &Bound<'_, Self>,
        path: Option<String>,
        socket: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let socket = socket.map(take_socket).transpose()?;
        let conn = Engine::with_state(slf, |state, now| {
            let conn = state.engine.accepted(path, now)?;
            state.add_link(conn, socket);
            Ok::<_, Error>(conn.0)
        })?;
        conn.map_err(|error| exception(slf.py(), &error))
    }

    // Handlers.

    /// The handler of a context has returned this.
    fn answer(
        slf: &Bound<'_, Self>,
        context: &Bound<'_, Context>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let ticket = context.get().ticket;
        // What the handlers of messages and streams return means nothing.
        if context.get().kind != Kind::Request {
            this.finish(py, ticket, Ok(Data::null().payload()), now);
            return this.arm(py);
        }
        let finish = |payload: Payload<'_>| this.finish(py, ticket, Ok(payload), now);
        if let Err(error) = with_payload(value, &this.codec, finish) {
            this.tell(py, "handler_failed", (context, error.value(py)))?;
        }
        this.arm(py)
    }

    /// The handler of a context has failed.
    fn fail(slf: &Bound<'_, Self>, context: &Bound<'_, Context>, reason: &str) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        this.finish(py, context.get().ticket, Err(reason), now);
        this.arm(py)
    }

    /// The tasks of running handlers.
    fn tasks(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        let table = lock(&self.table);
        let tasks = table.running.iter().filter_map(|(_, running)| running.task.as_ref());
        tasks.map(|task| task.clone_ref(py)).collect()
    }

    /// Has the listener's `idle` called when nothing is under way.
    fn drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        this.sweep(py, now)?;
        this.draining.store(true, Relaxed);
        this.arm(py)
    }

    /// A future that is done when a unit may have room, or is gone.
    fn wait_room<'py>(&self, py: Python<'py>, unit: u64) -> PyResult<Bound<'py, PyAny>> {
        self.enter(py)?;
        let future = self.host(py)?.create_future.bind(py).call0()?;
        let kept = future.clone().unbind();
        let full = {
            let mut table = lock(&self.table);
            let unit = UnitId(unit);
            let mut state = lock(&self.shared.state);
            let now = self.shared.call();
            let full = state.engine.with_unit(unit, now, |unit| unit.is_open() && !unit.has_room());
            if full == Some(true) {
                table.room.entry(unit).or_default().push(kept);
                true
            } else {
                false
            }
        };
        if !full {
            wake(py, [future.clone().unbind()]);
        }
        Ok(future)
    }

    // Streams.

    /// Asks a unit, or the next one in turn, for a stream, if that has room. Returns the unit's number,
    /// the stream's number and a future of the answer; None for the numbers when that has failed.
    #[expect(clippy::too_many_arguments, reason = "called from one place")]
    fn open_stream<'py>(
        slf: &Bound<'py, Self>,
        role: &str,
        event: &str,
        data: &Bound<'py, PyAny>,
        unit: u64,
        timeout: Option<f64>,
        writable: bool,
    ) -> PyResult<Option<(Option<u64>, Bound<'py, PyAny>)>> {
        let limit = limit(timeout)?;
        let direction = match writable {
            true => Direction::RequesterWrites,
            false => Direction::RequesterReads,
        };
        let (asked, opened) = with_payload(data, &slf.get().codec, |payload| {
            let outgoing = Outgoing { role, event, payload, order: Order::Any };
            Engine::ask(
                slf,
                |_| Some(UnitId(unit)),
                role,
                |machine, now, tag| {
                    let opened = machine.open_stream(direction, outgoing, limit, now, tag);
                    opened.map(|(stream, corr)| (corr, stream))
                },
            )
        })??;
        let stream = opened.map(|(_, stream)| stream.0);
        Ok(match asked {
            Asked::Sent(future) => Some((stream, future)),
            Asked::Full(_) => None,
        })
    }

    /// The next piece of a stream: None when there is none yet, empty at the end.
    fn read_stream<'py>(
        slf: &Bound<'py, Self>,
        unit: u64,
        stream: u64,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let py = slf.py();
        let chunk = Engine::with_unit(slf, UnitId(unit), |unit, _| {
            loop {
                match unit.read(StreamId(stream)) {
                    Chunk::Data(bytes) if bytes.is_empty() => {}
                    chunk => return chunk,
                }
            }
        })?;
        match chunk {
            Some(Chunk::Data(bytes)) => Ok(Some(PyBytes::new(py, &bytes))),
            Some(Chunk::Pending) => Ok(None),
            Some(Chunk::End) => Ok(Some(PyBytes::new(py, b""))),
            Some(Chunk::Failed(error)) => Err(exception(py, &error)),
            None => Err(failure(py, ErrorKind::ConnectionLost, "Socket closed")),
        }
    }

    /// Writes to a stream from `offset` on. Returns up to where it was taken.
    fn write_stream(
        slf: &Bound<'_, Self>,
        unit: u64,
        stream: u64,
        bytes: &[u8],
        offset: usize,
    ) -> PyResult<usize> {
        let py = slf.py();
        let written = Engine::with_unit(slf, UnitId(unit), |unit, now| {
            let mut at = offset;
            while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
                match unit.write(StreamId(stream), rest, now)? {
                    0 => break,
                    len => at += len,
                }
            }
            Ok(at)
        })?;
        let gone = || Err(Error::new(ErrorKind::ConnectionLost, "Socket closed"));
        written.unwrap_or_else(gone).map_err(|error| exception(py, &error))
    }

    /// Ends a writer. Whether it has ended: the reader has everything, as far as it can be known.
    fn finish_stream(slf: &Bound<'_, Self>, unit: u64, stream: u64) -> PyResult<bool> {
        let py = slf.py();
        let finished = Engine::with_unit(slf, UnitId(unit), |unit, _| {
            unit.finish(StreamId(stream))?;
            unit.finished(StreamId(stream)).transpose()
        })?;
        let gone = || Err(Error::new(ErrorKind::ConnectionLost, "Socket closed"));
        let finished = finished.unwrap_or_else(gone).map_err(|error| exception(py, &error))?;
        Ok(finished.is_some())
    }

    /// Forgets a stream; when it is not at its end, the other end is told why. Does nothing where a
    /// stream cannot be used any more.
    fn close_stream(slf: &Bound<'_, Self>, unit: u64, stream: u64, reason: &str) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if this.enter(py).is_err() {
            return Ok(());
        }
        let key = (UnitId(unit), StreamId(stream));
        let waiter = lock(&this.table).streams.remove(&key);
        wake(py, waiter);
        Engine::with_unit(slf, key.0, |unit, _| unit.close_stream(key.1, reason))?;
        Ok(())
    }

    /// A future that is done when a stream can be read from or written to again, or has ended.
    fn wait_stream<'py>(
        &self,
        py: Python<'py>,
        unit: u64,
        stream: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.enter(py)?;
        let future = self.host(py)?.create_future.bind(py).call0()?;
        let kept = future.clone().unbind();
        let before = lock(&self.table).streams.insert((UnitId(unit), StreamId(stream)), kept);
        wake(py, before);
        Ok(future)
    }

    // Counters.

    /// Counters of a unit.
    fn unit_stats<'py>(&self, py: Python<'py>, unit: u64) -> PyResult<Option<Bound<'py, PyDict>>> {
        let now = self.enter(py)?;
        self.sweep(py, now)?;
        let stats = lock(&self.shared.state).engine.unit(UnitId(unit)).map(Unit::stats);
        stats.map(|stats| unit_stats(py, &stats)).transpose()
    }

    /// Handshakes under way, and bytes that wait to be written.
    fn stats(&self, py: Python<'_>) -> PyResult<(usize, usize)> {
        let state = self.look(py)?;
        Ok((state.engine.peer().handshakes(), state.engine.budget().queued()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.codec.dumps)?;
        visit.call(&self.codec.loads)?;
        // The collector never runs while a lock is held, since no Python object is made then.
        if let Ok(listener) = self.listener.try_lock() {
            visit.call(&*listener)?;
        }
        if let Ok(host) = self.host.try_lock()
            && let Some(host) = &*host
        {
            host.traverse(&visit)?;
        }
        match self.table.try_lock() {
            Ok(table) => table.traverse(&visit),
            Err(_) => Ok(()),
        }
    }

    fn __clear__(&self) {
        // Dropped outside of the locks.
        let host = lock(&self.host).take();
        let listener = lock(&self.listener).take();
        let table = std::mem::take(&mut *lock(&self.table));
        drop((host, listener, table));
    }
}
