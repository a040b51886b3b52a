//! The library's diagnostics, for a function of the program's.
//!
//! They arise under locks, so they are put into a queue and handed out by a thread of their own.

use std::{
    collections::VecDeque,
    fmt::{Debug, Write},
    os::raw::c_void,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::Interest,
};

use crate::{
    border::{
        enter::enter,
        failure::{Failure, roletalk_status},
        process,
        values::roletalk_string,
    },
    callbacks::closure::{Closure, roletalk_drop},
    runtime::threads::spawn,
};

/// No diagnostics.
pub const ROLETALK_LOG_OFF: i32 = 0;
/// What is broken.
pub const ROLETALK_LOG_ERROR: i32 = 1;
/// What should be looked at: refused authentication and TLS, with the remote address and the reason, bad input,
/// failed handlers, slow consumers.
pub const ROLETALK_LOG_WARN: i32 = 2;
/// Listening, units that connect and disconnect, draining.
pub const ROLETALK_LOG_INFO: i32 = 3;
/// Connections of strangers, addresses that are dialed in vain, and messages that have no handler.
pub const ROLETALK_LOG_DEBUG: i32 = 4;
/// Everything.
pub const ROLETALK_LOG_TRACE: i32 = 5;

/// Records that wait for the function at most; further ones are dropped.
const WAITING: usize = 1024;

/// A line of diagnostics. Valid during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_log_record {
    /// The size of this struct in the library.
    pub struct_size: usize,
    /// ROLETALK_LOG_ERROR and so on.
    pub level: i32,
    /// The part of the library that it comes from.
    pub target: roletalk_string,
    /// The message, with its fields as ` name=value`.
    pub text: roletalk_string,
    /// How many records were dropped before this one, since the function was too slow.
    pub dropped: u64,
}

/// Called for each line, one at a time, on a thread that does nothing else.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_log_handler {
    /// The function; NULL to log no more.
    pub call:
        Option<unsafe extern "C" fn(user_data: *mut c_void, record: *const roletalk_log_record)>,
    /// Given to both functions.
    pub user_data: *mut c_void,
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    pub drop: roletalk_drop,
}

type LogClosure = Closure<unsafe extern "C" fn(*mut c_void, *const roletalk_log_record)>;

struct Record {
    level: i32,
    target: &'static str,
    text: String,
    dropped: u64,
}

/// What one call of `roletalk_log` has set up.
struct Logger {
    level: i32,
    /// Another process has another one: this one's thread and lock are not there.
    epoch: u8,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    records: VecDeque<Record>,
    dropped: u64,
    stopped: bool,
    ended: bool,
    thread: Option<libc::pthread_t>,
}

static LOGGER: ArcSwapOption<Logger> = ArcSwapOption::const_empty();
/// The level of the logger, for a look without it.
static LEVEL: AtomicI32 = AtomicI32::new(ROLETALK_LOG_OFF);

impl Logger {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, mut record: Record) {
        let mut state = self.lock();
        if state.records.len() >= WAITING {
            state.dropped += 1;
            return;
        }
        record.dropped = std::mem::take(&mut state.dropped);
        state.records.push_back(record);
        self.changed.notify_all();
    }

    /// The body of the thread.
    fn run(&self, closure: LogClosure) {
        self.lock().thread = Some(this_thread());
        loop {
            let mut state = self.lock();
            let record = loop {
                match state.records.pop_front() {
                    Some(record) => break Some(record),
                    None if state.stopped => break None,
                    None => {
                        state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            drop(state);
            let (Some(record), Some((call, user_data))) = (record, closure.parts()) else { break };
            let view = roletalk_log_record {
                struct_size: size_of::<roletalk_log_record>(),
                level: record.level,
                target: roletalk_string::lend(record.target),
                text: roletalk_string::lend(&record.text),
                dropped: record.dropped,
            };
            // SAFETY: function and argument belong together; the view points into `record`, and no
            // lock is held.
            unsafe { call(user_data, &view) };
        }
        closure.release_now();
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Ends the thread, and waits for it unless this is it.
    fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        self.changed.notify_all();
        let own = state.thread == Some(this_thread());
        while !own && !state.ended {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// As long as it lives, no other thread has this id.
fn this_thread() -> libc::pthread_t {
    // SAFETY: it demands nothing.
    unsafe { libc::pthread_self() }
}

fn level_of(level: &Level) -> i32 {
    match *level {
        Level::ERROR => ROLETALK_LOG_ERROR,
        Level::WARN => ROLETALK_LOG_WARN,
        Level::INFO => ROLETALK_LOG_INFO,
        Level::DEBUG => ROLETALK_LOG_DEBUG,
        Level::TRACE => ROLETALK_LOG_TRACE,
    }
}

/// Collects what `tracing` tells. Spans carry nothing that the records do not say.
struct Collector;

impl Subscriber for Collector {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && level_of(metadata.level()) <= LEVEL.load(Ordering::Relaxed)
    }

    fn event(&self, event: &Event<'_>) {
        let Some(logger) = LOGGER.load_full() else { return };
        if logger.epoch != process::epoch() || process::check().is_err() {
            return;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        let metadata = event.metadata();
        let level = level_of(metadata.level());
        if level <= logger.level {
            let target = metadata.target();
            logger.add(Record { level, target, text: text.0, dropped: 0 });
        }
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// Lets `handler` have the diagnostics of all peers up to `level`, ROLETALK_LOG_ERROR to
/// ROLETALK_LOG_TRACE, in the place of the handler before, whose `drop` is called before this returns
/// (or, inside its own call, after that). ROLETALK_LOG_OFF or a NULL function logs no more and ends the
/// thread. Keys and proofs never appear.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for other levels, ROLETALK_STATUS_IO. Any thread, also inside
/// callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_log(level: i32, handler: roletalk_log_handler) -> roletalk_status {
    static COLLECT: Once = Once::new();
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    enter(move || {
        if !(ROLETALK_LOG_OFF..=ROLETALK_LOG_TRACE).contains(&level) {
            return Err(Failure::invalid(format!("there is no level {level}")));
        }
        let on = level != ROLETALK_LOG_OFF && closure.parts().is_some();
        let logger = on.then(|| {
            Arc::new(Logger {
                level,
                epoch: process::epoch(),
                state: Mutex::default(),
                changed: Condvar::new(),
            })
        });
        if let Some(logger) = logger.clone() {
            // A program in Rust that has this library in it may collect by itself.
            COLLECT.call_once(|| drop(tracing::subscriber::set_global_default(Collector)));
            spawn("roletalk-log", move || logger.run(closure))?;
        }
        LEVEL.store(if on { level } else { ROLETALK_LOG_OFF }, Ordering::Relaxed);
        if let Some(before) = LOGGER.swap(logger)
            && before.epoch == process::epoch()
        {
            before.stop();
        }
        Ok(())
    })
}
