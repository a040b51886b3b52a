//! Answers pings while the loop is blocked.
//!
//! A handler that blocks the loop for two seconds would otherwise cost all connections: the other
//! sides' pings are not answered. A thread without the interpreter looks now and then whether the
//! engine has been called lately. When it has not although sockets have something to read, it reads
//! them: the engine answers pings itself, everything else waits until the loop goes on.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{engine::lock, state::State};

/// How often it looks.
const TICK: Duration = Duration::from_millis(250);
/// A loop that has not called for so long may be blocked.
const STALL: Duration = Duration::from_millis(500);

/// What the engine's object and its guard share.
pub(crate) struct Guarded {
    pub(crate) state: Mutex<State>,
    pub(crate) epoch: Instant,
    /// When the loop has last called, in milliseconds since the epoch.
    called: AtomicU64,
}

impl Guarded {
    pub(crate) fn new(state: State) -> Arc<Guarded> {
        let guarded =
            Guarded { state: Mutex::new(state), epoch: Instant::now(), called: AtomicU64::new(0) };
        Arc::new(guarded)
    }

    /// Notes that the loop is alive. Returns the time.
    pub(crate) fn call(&self) -> Duration {
        let now = self.epoch.elapsed();
        self.called.store(now.as_millis() as u64, Relaxed);
        now
    }

    /// Starts the guard, which ends with the last reference to `self`.
    pub(crate) fn start(self: &Arc<Guarded>) -> std::io::Result<()> {
        let guarded = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("roletalk guard".to_owned());
        thread.spawn(move || guard(&guarded)).map(drop)
    }
}

fn guard(guarded: &Weak<Guarded>) {
    // The call that was the last one when something to read was first seen behind it.
    let mut suspicious = None;
    loop {
        std::thread::sleep(TICK);
        let Some(guarded) = guarded.upgrade() else { return };
        let called = guarded.called.load(Relaxed);
        let now = guarded.epoch.elapsed();
        if now.saturating_sub(Duration::from_millis(called)) < STALL {
            suspicious = None;
            continue;
        }
        let mut state = lock(&guarded.state);
        if !state.has_input() {
            // A loop without work does not call either.
            suspicious = None;
        } else if suspicious == Some(called) {
            state.stand_in(now);
        } else {
            suspicious = Some(called);
        }
    }
}

/// Wakes the loop, which watches one end.
#[cfg(unix)]
pub(crate) struct Waker {
    loop_end: std::os::unix::net::UnixStream,
    guard_end: std::os::unix::net::UnixStream,
}

#[cfg(unix)]
impl Waker {
    pub(crate) fn new() -> std::io::Result<Waker> {
        let (loop_end, guard_end) = std::os::unix::net::UnixStream::pair()?;
        loop_end.set_nonblocking(true)?;
        guard_end.set_nonblocking(true)?;
        Ok(Waker { loop_end, guard_end })
    }

    /// What the loop watches.
    pub(crate) fn descriptor(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.loop_end)
    }

    pub(crate) fn wake(&mut self) {
        // When there is no room, the loop will be woken anyway.
        let _ = std::io::Write::write(&mut self.guard_end, &[0]);
    }

    /// The loop has been woken.
    pub(crate) fn woken(&mut self) {
        let _ = std::io::Read::read(&mut self.loop_end, &mut [0; 64]);
    }
}

/// Where the engine owns no sockets there is nothing to guard.
#[cfg(not(unix))]
pub(crate) struct Waker;

#[cfg(not(unix))]
impl Waker {
    pub(crate) fn wake(&mut self) {}
}
