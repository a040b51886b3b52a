//! What Python calls.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyRuntimeError, PyValueError},
    prelude::*,
    types::{PyBytes, PyDict, PyString},
};
use roletalk_engine::{
    AddressId, ChannelBinding, Chunk, ConnId, Data, Engine as Core, Error, ErrorKind, Extensions,
    Failure, Fields, Kind, Moment, Opening, PlaceId, StreamId, Unit, UnitId, parse_claims,
    wire::Payload, ws::Denied,
};
use roletalk_host::{Host, dial_fault, lock};

use super::{
    Engine, FORKS, OTHER_THREAD,
    dispatch::wake,
    lost,
    output::Progress,
    settings::{check_header_names, headers_of, set_limits, take_socket, unit_stats},
    this_thread,
    watching::fail_quietly,
};
use crate::{
    access::{Policy, Shown, origins_of, peer_key_of, remote_of},
    balance::Balance,
    context::{Context, Ticket},
    data::{Codec, json_of, utf8, with_payload},
    destination::seconds,
    error::{ends_program, exception},
    event_loop::EventLoop,
    exit::Inside,
    extras::with_header,
    routes::Mode,
    table::{Table, running_of},
};

#[cfg(unix)]
use crate::guarded::Guarded;

/// Bytes asked for with one read.
const READ: usize = 256 << 10;
/// What the guard reads of one connection: each message becomes a task at once when the loop goes on.
const STAND_IN: usize = 1 << 20;

impl Engine {
    fn let_go(&self, py: Python<'_>) {
        #[cfg(unix)]
        {
            let guarded = lock(&self.guard).take();
            py.detach(|| drop(guarded));
        }
        self.__clear__();
    }

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
            let Table { running, requests, .. } = &mut *table;
            let running = running_of(running, ticket).ok_or_else(|| {
                Error::new(ErrorKind::StreamClosed, "The stream was answered already")
            })?;
            // From here on, it tells of its own end.
            requests.remove(&running.question);
            let (unit, question) = (running.unit, &mut running.question);
            let fields = running.fields.take();
            let accepted = lock(&this.state).engine.with_unit(unit, now, |machine| {
                machine.accept_with(question, payload, fields.as_deref())
            });
            let gone = || Err(Error::new(ErrorKind::ConnectionLost, "Socket closed"));
            accepted.unwrap_or_else(gone).map(|stream| (unit, stream))
        })?;
        this.arm(py)?;
        context.get().end();
        let (_, stream) = accepted.map_err(|error| this.exception(py, &error))?;
        let listener = this.listener(py).ok_or_else(|| this.exception(py, &lost()))?;
        listener.call_method1("accepted", (context, stream.0))
    }

    /// Sets a header of the answer to what a handler was called for; any thread may.
    pub(crate) fn set_header(
        &self,
        py: Python<'_>,
        ticket: Ticket,
        name: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.check_process(py)?;
        let before = lock(&self.table).running(ticket).and_then(|running| running.fields.clone());
        let fields = with_header(before.as_deref(), name, value)?;
        match lock(&self.table).running(ticket).filter(|running| running.question.is_heard()) {
            Some(running) => running.fields = Some(Box::new(fields)),
            None => return Err(PyRuntimeError::new_err("it was answered already")),
        }
        Ok(())
    }

    /// What a handler says of its failure.
    fn failure_of(
        &self,
        py: Python<'_>,
        (code, data, retry_after): FailureParts<'_>,
    ) -> PyResult<Failure> {
        let retry_after = retry_after.and_then(|time| Duration::try_from_secs_f64(time).ok());
        let data = match data.filter(|data| !data.is_none()) {
            Some(data) => Some(json_of(&data, &self.codec)?),
            None => None,
        };
        let failure = Failure { code, data, retry_after, unhandled: false };
        Fields::new().set_failure(&failure).map_err(|error| exception(py, &error))?;
        Ok(failure)
    }
}

/// Code, data, and the seconds after which to try again.
type FailureParts<'py> = (Option<String>, Option<Bound<'py, PyAny>>, Option<f64>);

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (
        *, name, tags, friendly, keys, channel_binding, peer_key, policy, origins, identity_headers,
        authenticates, limits, reconnect, balance, eject, runtime, dumps, loads,
        acquaintance=(None, None), extensions=true
    ))]
    #[expect(clippy::too_many_arguments, reason = "called from one place, by keyword")]
    fn new(
        py: Python<'_>,
        name: String,
        tags: Vec<(String, String)>,
        friendly: bool,
        keys: Vec<(String, String)>,
        channel_binding: &str,
        peer_key: Option<&[u8]>,
        policy: Option<&Bound<'_, Policy>>,
        origins: Vec<String>,
        identity_headers: Vec<String>,
        authenticates: bool,
        limits: &Bound<'_, PyDict>,
        reconnect: (f64, f64),
        balance: &Bound<'_, PyAny>,
        eject: Option<&Bound<'_, PyAny>>,
        runtime: String,
        dumps: Py<PyAny>,
        loads: Py<PyAny>,
        acquaintance: (Option<String>, Option<String>),
        extensions: bool,
    ) -> PyResult<Engine> {
        let mut config = roletalk_host::config().map_err(|error| exception(py, &error))?;
        if !extensions {
            config.extensions = Extensions::NONE;
        }
        config.name = name;
        config.tags = tags.into_iter().collect();
        config.friendly = friendly;
        for (id, key) in keys {
            config.keys.add(id, key).map_err(|error| exception(py, &error))?;
        }
        config.channel_binding =
            ChannelBinding::parse(channel_binding).map_err(|error| exception(py, &error))?;
        config.peer_key = peer_key.map(|secret| peer_key_of(py, secret)).transpose()?;
        config.policy = policy.map(|policy| policy.get().core());
        config.origins = origins_of(py, &origins)?;
        check_header_names(py, &identity_headers)?;
        config.identity_headers = identity_headers;
        config.authenticates = authenticates;
        set_limits(&mut config.limits, limits)?;
        let (networks, ports) = acquaintance;
        if let Some(networks) = networks {
            let filter = config.acquaintance.networks(&networks);
            config.acquaintance = filter.map_err(|error| exception(py, &error))?;
        }
        if let Some(ports) = ports {
            let filter = config.acquaintance.ports(&ports);
            config.acquaintance = filter.map_err(|error| exception(py, &error))?;
        }
        let (cap, jitter) = reconnect;
        config.reconnect.cap = seconds("reconnect_cap", cap)?;
        config.reconnect.jitter = jitter;
        let balance = Balance::of(balance, eject)?;
        config.balance = balance.core().clone();
        config.runtime = runtime;
        let core = Core::new(config);
        let epoch = Instant::now();
        let id = core.peer().id().to_string();
        let mut host = Host::new(core, epoch, READ);
        host.set_stand_in(STAND_IN);
        Ok(Engine {
            id,
            state: Arc::new(Mutex::new(host)),
            epoch,
            #[cfg(unix)]
            guard: Mutex::new(None),
            table: Mutex::default(),
            event_loop: Mutex::new(None),
            codec: Codec { dumps, loads },
            balance: Py::new(py, balance)?,
            listener: Mutex::new(None),
            forks: FORKS.load(Relaxed),
            thread: AtomicUsize::new(0),
            armed: AtomicBool::new(false),
            armings: AtomicU64::new(0),
            draining: AtomicBool::new(false),
        })
    }

    /// Binds it to the loop of this thread. `call_soon`, `call_later`, `create_future` and `time` are that
    /// loop's, see [`EventLoop`]. `listener` hears of what is rare, `spawn` makes tasks of coroutines, `run`
    /// makes a coroutine of a handler, a context and what it inherits, `call_inheriting` calls one at once.
    #[pyo3(signature = (
        *, call_soon, call_later, create_future, time, copy_context, listener, spawn, run, call_inheriting
    ))]
    #[expect(clippy::too_many_arguments, reason = "called from one place, by keyword")]
    fn bind(
        slf: &Bound<'_, Self>,
        call_soon: Py<PyAny>,
        call_later: Py<PyAny>,
        create_future: Py<PyAny>,
        time: Py<PyAny>,
        copy_context: Py<PyAny>,
        listener: Py<PyAny>,
        spawn: Py<PyAny>,
        run: Py<PyAny>,
        call_inheriting: Py<PyAny>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        this.enter(py)?;
        let event_loop = EventLoop {
            call_soon,
            call_later,
            create_future,
            time,
            copy_context,
            spawn,
            run,
            flush: slf.getattr("flush")?.unbind(),
            timeout: slf.getattr("timeout")?.unbind(),
            given_up: slf.getattr("given_up")?.unbind(),
            call_inheriting,
        };
        // Of several threads that bind it at the same time, one succeeds.
        let me = this_thread();
        if this.thread.compare_exchange(0, me, Relaxed, Relaxed).is_err_and(|bound| bound != me) {
            return Err(PyRuntimeError::new_err(OTHER_THREAD));
        }
        let before = lock(&this.listener).replace(listener);
        drop(before);
        let before = lock(&this.event_loop).replace(Arc::new(event_loop));
        drop(before);
        this.arm(py)
    }

    /// Lets go of the loop and of everything that waits, and of the guard, whose thread may have to end.
    fn unbind(&self, py: Python<'_>) -> PyResult<()> {
        self.cancel_timer(py)?;
        self.let_go(py);
        Ok(())
    }
    /// Closes the peer and its sockets at once, in any thread: its loop has ended.
    fn abandon(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process(py)?;
        let now = Moment::at(self.epoch.elapsed());
        lock(&self.state).abandon(now);
        self.let_go(py);
        Ok(())
    }

    /// Has the loop guarded. Returns what it has to watch, to call `awake` when it is readable. `check` is a
    /// weak reference to a method that lets go of the peer if the loop has ended; any thread may call it.
    #[cfg(unix)]
    fn guard(slf: &Bound<'_, Self>, check: Py<PyAny>) -> PyResult<i32> {
        let this = slf.get();
        this.enter(slf.py())?;
        let guarded = Guarded::new(&this.state, check)?;
        let descriptor = guarded.descriptor();
        *lock(&this.guard) = Some(guarded);
        Ok(descriptor)
    }

    // What the loop calls.

    /// The guard has read something.
    #[cfg(unix)]
    fn awake(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let now = this.enter(slf.py())?;
        if let Some(guarded) = &*lock(&this.guard) {
            guarded.woken();
        }
        Engine::after_input(slf, now)
    }

    /// Does what was asked for in this turn of the loop.
    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let _inside = Inside::enter(py);
        // What handlers send meanwhile is written here, too.
        this.armed.store(true, Relaxed);
        let written = this.bury_stillborn(py, now).and_then(|()| Engine::write_all(slf, now));
        this.armed.store(false, Relaxed);
        if !matches!(written, Ok(Progress::Complete)) || !lock(&this.table).young.is_empty() {
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
        lock(&this.state).handle_timeout(now);
        this.look_at_fresh(py, now)?;
        let ended = this.expire(py, now);
        Engine::flush(slf).and(ended)
    }

    /// The future of a request is done that was not answered: it was cancelled.
    fn given_up(slf: &Bound<'_, Self>, future: Py<PyAny>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        this.watched_is_done(&future, now);
        this.arm(py)
    }

    /// A request is given up, and fails with this error.
    pub(crate) fn give_up(
        slf: &Bound<'_, Self>,
        tag: usize,
        serial: u64,
        error: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        if let Some(waiting) = this.forget(tag, serial, now) {
            fail_quietly(waiting.future.bind(py), error);
        }
        this.arm(py)
    }

    /// A socket is readable.
    fn readable(slf: &Bound<'_, Self>, conn: u64) -> PyResult<()> {
        let this = slf.get();
        let now = this.enter(slf.py())?;
        lock(&this.state).readable(ConnId(conn), now);
        Engine::after_input(slf, now)
    }

    /// A socket is writable.
    fn writable(slf: &Bound<'_, Self>, conn: u64) -> PyResult<()> {
        let this = slf.get();
        let now = this.enter(slf.py())?;
        lock(&this.state).writable(ConnId(conn), now);
        Engine::after_input(slf, now)
    }

    /// Bytes came on a transport.
    fn feed(slf: &Bound<'_, Self>, conn: u64, bytes: &[u8]) -> PyResult<()> {
        let this = slf.get();
        let now = this.enter(slf.py())?;
        lock(&this.state).feed(ConnId(conn), bytes, now);
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
    #[pyo3(signature = (conn, reason=""))]
    fn lost(slf: &Bound<'_, Self>, conn: u64, reason: &str) -> PyResult<()> {
        let fault = dial_fault(None, "", reason);
        Engine::with_state(slf, |state, now| state.lost(ConnId(conn), fault, now))
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

    /// Sets who may call and serve what from now on; None: everyone everything.
    fn set_policy(slf: &Bound<'_, Self>, policy: Option<&Bound<'_, Policy>>) -> PyResult<()> {
        let policy = policy.map(|policy| policy.get().core());
        Engine::with_state(slf, |state, now| {
            state.engine.with_peer(now, |peer| peer.set_policy(policy));
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
        Engine::with_state(slf, |state, now| {
            state.engine.with_peer(now, |peer| peer.set_role_active(name, active, now));
        })?;
        lock(&slf.get().table).routes.set_active(name, active);
        Ok(())
    }

    /// Whether a role is offered.
    fn is_role_active(&self, name: &str) -> bool {
        lock(&self.table).routes.is_active(name)
    }

    /// Sets the handler of an event. `mode` is `task`, `inline` or `pool`.
    fn set_handler(
        slf: &Bound<'_, Self>,
        role: &str,
        kind: &str,
        event: &Bound<'_, PyString>,
        function: Py<PyAny>,
        mode: &str,
        detached: bool,
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
        let before = {
            let routes = &mut lock(&slf.get().table).routes;
            routes.set_handler(role, kind, &text, name, function, mode, detached)
        };
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
        let now = Engine::with_state(slf, |state, now| {
            state.close(now);
            now
        })?;
        slf.get().end_parked(slf.py(), now)
    }

    // Connections.

    /// Dials an address from now on. Returns its number. The headers are those `dialed` will be given.
    fn connect(
        slf: &Bound<'_, Self>,
        url: &str,
        permanent: bool,
        headers: Vec<(String, String)>,
    ) -> PyResult<u64> {
        headers_of(slf.py(), headers)?;
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

    /// What there is to know when no unit serves a role.
    fn no_unit_hint(&self, py: Python<'_>, role: &str) -> PyResult<String> {
        let error = self.look(py)?.engine.peer().no_unit(role);
        Ok(error.hint().unwrap_or_default().to_owned())
    }

    /// An address could not be dialed. `code` is the name of the error, `errno` its number where it is one
    /// of the operating system.
    fn dial_failed(
        slf: &Bound<'_, Self>,
        address: u64,
        reason: &Bound<'_, PyString>,
        code: &str,
        errno: Option<i32>,
    ) -> PyResult<()> {
        let reason = reason.to_string_lossy().into_owned();
        let fault = dial_fault(errno, code, &reason);
        let error = Error::new(ErrorKind::ConnectFailed, reason).with_fault(fault);
        Engine::with_state(slf, |state, now| {
            state.engine.dial_failed(AddressId(address), error, now);
        })
    }

    /// Those of the addresses that the name of an address has resolved to that may be connected to; raises when it is
    /// none of them.
    fn admit_found(
        slf: &Bound<'_, Self>,
        address: u64,
        found: Vec<String>,
    ) -> PyResult<Vec<String>> {
        let ip = |text: &String| text.split('%').next().and_then(|ip| ip.parse::<IpAddr>().ok());
        let ips = found.iter().filter_map(ip).collect();
        let admitted = Engine::with_state(slf, |state, now| {
            state.engine.with_peer(now, |peer| peer.admit_found(AddressId(address), ips))
        })?;
        let admitted = admitted.map_err(|error| exception(slf.py(), &error))?;
        let is_admitted = |text: &String| ip(text).is_some_and(|ip| admitted.contains(&ip));
        Ok(found.into_iter().filter(is_admitted).collect())
    }

    /// How many told addresses were not dialed.
    fn addresses_ignored(&self) -> u64 {
        lock(&self.state).engine.peer().addresses_ignored()
    }

    /// An address was dialed. Takes the socket over, or none when Python has a transport, of which `shown` is what
    /// it knows of its other end. Returns the connection's number.
    #[pyo3(signature = (address, url, headers, socket, shown=None))]
    fn dialed(
        slf: &Bound<'_, Self>,
        address: u64,
        url: &str,
        headers: Vec<(String, String)>,
        socket: Option<&Bound<'_, PyAny>>,
        shown: Option<Shown>,
    ) -> PyResult<u64> {
        let headers = headers_of(slf.py(), headers)?;
        let socket = socket.map(take_socket).transpose()?;
        let conn = Engine::with_state(slf, |state, now| {
            let opening = Opening::dial(AddressId(address), url, headers)?;
            state.open(opening, socket, remote_of(shown), now).map(|conn| conn.0)
        })?;
        conn.map_err(|error| exception(slf.py(), &error))
    }

    /// A connection from this IP address was accepted that cannot be opened yet. Returns the number of its place; the
    /// host's `evict` is called when the connection is to be closed.
    ///
    /// Raises `ClosedError` when the peer is closed, and `OverloadedError` when a limit is 0: close the socket at once.
    #[pyo3(name = "enter")]
    fn enter_stranger(slf: &Bound<'_, Self>, address: Option<&str>) -> PyResult<u64> {
        let address = address.and_then(|address| address.parse().ok());
        let place = Engine::with_state(slf, |state, now| state.engine.enter(address, now))?;
        place.map(|place| place.0).map_err(|error| exception(slf.py(), &error))
    }

    /// Frees the place of a connection that ended before it was opened. No effect on any other place.
    fn left(slf: &Bound<'_, Self>, place: u64) -> PyResult<()> {
        Engine::with_state(slf, |state, now| {
            state.engine.with_peer(now, |peer| peer.vacate(PlaceId(place)));
        })
    }

    /// Seconds to wait before the next connection is accepted.
    fn accept_pause(&self, py: Python<'_>) -> PyResult<f64> {
        let now = self.clock();
        Ok(self.look(py)?.engine.peer().accept_pause(now).as_secs_f64())
    }

    /// The system cannot accept a connection, for this reason: an eighth of the unauthenticated connections is evicted.
    fn accept_failed(slf: &Bound<'_, Self>, reason: &str) -> PyResult<()> {
        Engine::with_state(slf, |state, now| {
            state.engine.with_peer(now, |peer| peer.accept_failed(reason, now));
        })
    }

    /// A connection was accepted, and has this place if it has one. As `dialed`.
    #[pyo3(signature = (path, place, socket, shown=None))]
    fn accepted(
        slf: &Bound<'_, Self>,
        path: Option<String>,
        place: Option<u64>,
        socket: Option<&Bound<'_, PyAny>>,
        shown: Option<Shown>,
    ) -> PyResult<u64> {
        let socket = socket.map(take_socket).transpose()?;
        let mut remote = remote_of(shown);
        remote.place = place.map(PlaceId);
        let conn = Engine::with_state(slf, |state, now| {
            state.open(Opening::Accept { path }, socket, remote, now).map(|conn| conn.0)
        })?;
        conn.map_err(|error| exception(slf.py(), &error))
    }

    /// The application lets somebody upgrade, with claims, a JSON object. Nothing happens when the connection has ended
    /// meanwhile.
    ///
    /// Raises `InvalidArgumentError` for claims that are too large; nothing is answered then.
    fn allow_upgrade(slf: &Bound<'_, Self>, conn: u64, claims: &str) -> PyResult<()> {
        let claims = parse_claims(claims).map_err(|error| exception(slf.py(), &error))?;
        Engine::with_state(slf, |state, now| state.engine.judge(ConnId(conn), Ok(claims), now))
    }

    /// The application does not, with an HTTP status.
    fn deny_upgrade(
        slf: &Bound<'_, Self>,
        conn: u64,
        status: u16,
        reason: &Bound<'_, PyString>,
    ) -> PyResult<()> {
        let denied = Denied { status, reason: reason.to_string_lossy().into_owned() };
        Engine::with_state(slf, |state, now| state.engine.judge(ConnId(conn), Err(denied), now))
    }

    // Handlers.

    /// The handler of a context has returned this.
    pub(super) fn answer(
        slf: &Bound<'_, Self>,
        context: &Bound<'_, Context>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let ticket = context.get().ticket;
        // What the handlers of messages and streams return means nothing.
        if context.get().kind != Kind::Request {
            this.finish(py, ticket, Ok(Data::null().payload()), None, now);
            context.get().end();
            return this.arm(py);
        }
        let finish = |payload: Payload<'_>| this.finish(py, ticket, Ok(payload), None, now);
        let finished = with_payload(value, &this.codec, finish);
        context.get().end();
        if let Err(error) = finished {
            this.tell(py, "handler_failed", (context, error.value(py)))?;
            if ends_program(py, &error) {
                return Err(error);
            }
        }
        this.arm(py)
    }

    /// The handler of a context has failed: with a code, data, and seconds after which to try again, when it
    /// says so.
    ///
    /// Raises `DataError` and `TooLargeError` when these cannot be sent; nothing is said then.
    #[pyo3(signature = (context, reason, failure=None))]
    fn fail<'py>(
        slf: &Bound<'py, Self>,
        context: &Bound<'py, Context>,
        reason: &Bound<'py, PyString>,
        failure: Option<FailureParts<'py>>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let failure = failure.map(|parts| this.failure_of(py, parts)).transpose()?;
        let reason = reason.to_string_lossy();
        this.finish(py, context.get().ticket, Err(&reason), failure.as_ref(), now);
        context.get().end();
        this.arm(py)
    }

    /// How many entries the tables have: nothing of a request may stay.
    fn sizes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let sizes = {
            let table = lock(&self.table);
            [
                ("waiting", table.waiting.len()),
                ("parked", table.parking.len()),
                ("watched", table.watched.len()),
                ("fresh", table.fresh.len()),
                ("running", table.running.len()),
                ("requests", table.requests.len()),
                ("young", table.young.len()),
                ("room", table.room.len()),
                ("streams", table.streams.len()),
            ]
        };
        let dict = PyDict::new(py);
        for (name, size) in sizes {
            dict.set_item(name, size)?;
        }
        Ok(dict)
    }

    /// The tasks of running handlers.
    fn tasks(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        let table = lock(&self.table);
        let tasks = table.running.iter().filter_map(|(_, running)| running.task.as_ref());
        tasks.map(|task| task.clone_ref(py)).collect()
    }

    /// Withdraws the roles, and has the listener's `idle` called when nothing is under way.
    fn drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        this.sweep(py, now)?;
        lock(&this.state).engine.drain(now);
        this.draining.store(true, Relaxed);
        this.arm(py)
    }

    /// A future that is done when a unit may have room, or is gone.
    fn wait_room<'py>(slf: &Bound<'py, Self>, unit: u64) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let future = this.event_loop(py)?.create_future.bind(py).call0()?;
        let kept = future.clone().unbind();
        let full = {
            let mut table = lock(&this.table);
            let unit = UnitId(unit);
            let mut state = lock(&this.state);
            let full = state.engine.with_unit(unit, now, |unit| unit.must_wait(now));
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
            Some(Chunk::Failed(error)) => Err(slf.get().exception(py, &error)),
            None => {
                let gone = Error::new(ErrorKind::ConnectionLost, "Socket closed");
                Err(slf.get().exception(py, &gone))
            }
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
        written.unwrap_or_else(gone).map_err(|error| slf.get().exception(py, &error))
    }

    /// Ends a writer. Whether it has ended: the reader has everything, as far as it can be known.
    fn finish_stream(slf: &Bound<'_, Self>, unit: u64, stream: u64) -> PyResult<bool> {
        let py = slf.py();
        let finished = Engine::with_unit(slf, UnitId(unit), |unit, _| {
            unit.finish(StreamId(stream))?;
            unit.finished(StreamId(stream)).transpose()
        })?;
        let gone = || Err(Error::new(ErrorKind::ConnectionLost, "Socket closed"));
        let finished =
            finished.unwrap_or_else(gone).map_err(|error| slf.get().exception(py, &error))?;
        Ok(finished.is_some())
    }

    /// Forgets a stream; when it is not at its end, the other end is told why.
    fn close_stream(
        slf: &Bound<'_, Self>,
        unit: u64,
        stream: u64,
        reason: &Bound<'_, PyString>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        this.enter(py)?;
        let reason = reason.to_string_lossy();
        let key = (UnitId(unit), StreamId(stream));
        let waiter = lock(&this.table).streams.remove(&key);
        wake(py, waiter);
        Engine::with_unit(slf, key.0, |unit, _| unit.close_stream(key.1, &reason))?;
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
        let future = self.event_loop(py)?.create_future.bind(py).call0()?;
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
        let stats = lock(&self.state).engine.unit(UnitId(unit)).map(Unit::stats);
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
        visit.call(&self.balance)?;
        // The collector never runs while a lock is held, since no Python object is made then.
        if let Ok(listener) = self.listener.try_lock() {
            visit.call(&*listener)?;
        }
        if let Ok(event_loop) = self.event_loop.try_lock()
            && let Some(event_loop) = &*event_loop
        {
            event_loop.traverse(&visit)?;
        }
        match self.table.try_lock() {
            Ok(table) => table.traverse(&visit),
            Err(_) => Ok(()),
        }
    }

    fn __clear__(&self) {
        // Dropped outside of the locks.
        let event_loop = lock(&self.event_loop).take();
        let listener = lock(&self.listener).take();
        let table = std::mem::take(&mut *lock(&self.table));
        drop((event_loop, listener, table));
    }
}
