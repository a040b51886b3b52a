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

mod attempts;
mod calls;
mod choosing;
mod dispatch;
mod output;
mod sending;
mod settings;
mod watching;

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use pyo3::{exceptions::PyRuntimeError, intern, prelude::*, types::PyTuple};
use roletalk_engine::{DataType, Error, ErrorKind, Failure, Moment, Unit, UnitId, wire::Payload};
use roletalk_host::{Host, lock};

#[cfg(unix)]
use crate::guarded::Guarded;
use crate::{
    balance::Balance,
    data::{Codec, to_python},
    error::{ends_program, exception, failure},
    event_loop::EventLoop,
    exit::Inside,
    table::Table,
};
pub(crate) use sending::Sent;
pub(crate) use settings::add_tables;

/// How often this process has been forked off since the module was loaded.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Called in a child process: the engines of the parent are of no use in it.
#[pyfunction]
pub(crate) fn forked() {
    FORKS.fetch_add(1, Relaxed);
    #[cfg(unix)]
    crate::guarded::forget_shared();
}

/// What those are told who use a peer in a thread that is not its loop's.
pub(crate) const OTHER_THREAD: &str = "The peer belongs to the event loop of another thread: use \
    loop.call_soon_threadsafe or asyncio.run_coroutine_threadsafe";

thread_local! {
    static THREAD: u8 = const { 0 };
}

/// A number that no other thread has, never zero.
pub(crate) fn this_thread() -> usize {
    THREAD.with(|thread| std::ptr::from_ref(thread) as usize)
}

/// One peer engine. It belongs to the thread whose loop it is bound to, and to the process.
#[pyclass(frozen, module = "roletalk._engine")]
pub struct Engine {
    id: String,
    /// No lock is held across foreign code.
    state: Arc<Mutex<Host>>,
    epoch: Instant,
    #[cfg(unix)]
    guard: Mutex<Option<Guarded>>,
    table: Mutex<Table>,
    event_loop: Mutex<Option<Arc<EventLoop>>>,
    pub(crate) codec: Codec,
    /// How destinations choose among units that do not say it themselves.
    pub(crate) balance: Py<Balance>,
    /// Hears of what is rare.
    listener: Mutex<Option<Py<PyAny>>>,
    forks: u32,
    /// The thread that may use it, 0 as long as it is not bound.
    thread: AtomicUsize,
    /// The loop will call `flush`.
    armed: AtomicBool,
    /// How often the loop was asked to.
    armings: AtomicU64,
    /// The listener wants to know when nothing is under way.
    draining: AtomicBool,
}

fn lost() -> Error {
    Error::unit_gone()
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
    fn look(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, Host>> {
        self.check_process(py)?;
        Ok(lock(&self.state))
    }

    /// The time, if the caller may use this engine.
    fn enter(&self, py: Python<'_>) -> PyResult<Moment> {
        self.check_process(py)?;
        let thread = self.thread.load(Relaxed);
        if thread != 0 && thread != this_thread() {
            return Err(PyRuntimeError::new_err(OTHER_THREAD));
        }
        Ok(Moment::at(self.epoch.elapsed()))
    }

    fn event_loop(&self, py: Python<'_>) -> PyResult<Arc<EventLoop>> {
        let event_loop = lock(&self.event_loop).clone();
        // It lets go of its loop when it is closed.
        event_loop.ok_or_else(|| match self.thread.load(Relaxed) {
            0 => failure(py, ErrorKind::Closed, "The peer is not bound to an event loop"),
            _ => exception(py, &Error::peer_closed()),
        })
    }

    /// The time.
    pub(crate) fn clock(&self) -> Moment {
        Moment::at(self.epoch.elapsed())
    }

    /// Whether this thread is the loop's.
    pub(crate) fn is_thread(&self, thread: usize) -> bool {
        self.thread.load(Relaxed) == thread
    }

    /// Has the loop's thread call a method: at once, when this is it.
    pub(crate) fn hand_over<'py>(
        &self,
        py: Python<'py>,
        slf: &Bound<'py, Engine>,
        method: &str,
        arguments: Bound<'py, PyTuple>,
    ) -> PyResult<()> {
        if let Some(listener) = self.listener(py) {
            let method = PyTuple::new(py, [slf.getattr(method)?])?;
            let arguments = method.as_sequence().concat(arguments.as_sequence())?.to_tuple()?;
            listener.call_method1("hand_over", arguments)?;
        }
        Ok(())
    }

    /// An error as the application gets it: that connections are lost is not what matters when it has closed
    /// the peer itself.
    pub(crate) fn exception(&self, py: Python<'_>, error: &Error) -> PyErr {
        if error.kind() == ErrorKind::ConnectionLost && lock(&self.state).is_closed() {
            return exception(py, &Error::peer_closed());
        }
        let made = exception(py, error);
        if error.is_unhandled()
            && let Err(other) = made.value(py).setattr(intern!(py, "unhandled"), true)
        {
            return other;
        }
        if let Some(failure) = error.failure()
            && let Err(other) = self.add_failure(py, &made, failure)
        {
            return other;
        }
        made
    }

    /// Adds what a handler says of its failure besides the text.
    fn add_failure(&self, py: Python<'_>, made: &PyErr, failure: &Failure) -> PyResult<()> {
        let data = failure.data.as_ref().map(|json| {
            let payload = Payload { kind: DataType::Object, bytes: json.as_bytes() };
            to_python(py, payload, &self.codec)
        });
        let data = match data.transpose() {
            Err(error) if ends_program(py, &error) => return Err(error),
            data => data.ok().flatten(),
        };
        let retry_after = failure.retry_after.map(|time| time.as_secs_f64());
        let arguments = (failure.code.as_deref(), data, retry_after, failure.unhandled);
        made.value(py).call_method1(intern!(py, "_set_failure"), arguments)?;
        Ok(())
    }

    fn listener<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        lock(&self.listener).as_ref().map(|listener| listener.bind(py).clone())
    }

    /// Changes the state, then sees to it that what follows is done in this turn of the loop.
    pub(crate) fn with_state<T>(
        slf: &Bound<'_, Engine>,
        change: impl FnOnce(&mut Host, Moment) -> T,
    ) -> PyResult<T> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let result = change(&mut lock(&this.state), now);
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
            let Some(event_loop) = lock(&self.event_loop).clone() else { return Ok(()) };
            let _inside = Inside::enter(py);
            event_loop.call_soon.bind(py).call1((&event_loop.flush,))?;
            self.armed.store(true, Relaxed);
            self.armings.fetch_add(1, Relaxed);
        }
        Ok(())
    }
}
