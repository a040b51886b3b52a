//! Answers pings while the loop is blocked.
//!
//! A handler that blocks the loop for two seconds would otherwise cost all connections: the other
//! sides' pings are not answered. A thread looks now and then whether the
//! engine has been called lately. When it has not although sockets have something to read, it reads
//! them: the engine answers pings itself, everything else waits until the loop goes on.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::Host;

/// How often it looks.
const TICK: Duration = Duration::from_millis(250);
/// A loop that has not called for so long may be blocked.
const STALL: Duration = Duration::from_millis(500);

/// What a loop and its guard share.
pub struct Guarded {
    /// The host. The lock is never held while foreign code runs.
    pub state: Mutex<Host>,
    /// When the host's clock began.
    pub epoch: Instant,
    /// When the loop has last called, in milliseconds since the epoch.
    called: AtomicU64,
}

impl Guarded {
    /// Without a guard yet.
    pub fn new(state: Host) -> Arc<Guarded> {
        let guarded =
            Guarded { state: Mutex::new(state), epoch: Instant::now(), called: AtomicU64::new(0) };
        Arc::new(guarded)
    }

    /// Notes that the loop is alive. Returns the time.
    pub fn call(&self) -> Duration {
        let now = self.epoch.elapsed();
        self.called.store(now.as_millis() as u64, Relaxed);
        now
    }

    /// Starts the guard, which ends with the last reference to `self`.
    ///
    /// # Errors
    /// The system's, when it has no thread.
    pub fn start(self: &Arc<Guarded>) -> std::io::Result<()> {
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
pub struct Waker {
    loop_end: std::os::unix::net::UnixStream,
    guard_end: std::os::unix::net::UnixStream,
}

#[cfg(unix)]
impl Waker {
    /// A pair of sockets.
    ///
    /// # Errors
    /// The system's, when it has no more of them.
    pub fn new() -> std::io::Result<Waker> {
        let (loop_end, guard_end) = std::os::unix::net::UnixStream::pair()?;
        loop_end.set_nonblocking(true)?;
        guard_end.set_nonblocking(true)?;
        Ok(Waker { loop_end, guard_end })
    }

    /// What the loop watches.
    pub fn descriptor(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.loop_end)
    }

    /// Wakes the loop.
    pub fn wake(&mut self) {
        // When there is no room, the loop will be woken anyway.
        let _ = std::io::Write::write(&mut self.guard_end, &[0]);
    }

    /// The loop has been woken.
    pub fn woken(&mut self) {
        let _ = std::io::Read::read(&mut self.loop_end, &mut [0; 64]);
    }
}

/// Where the engine owns no sockets there is nothing to guard.
#[cfg(not(unix))]
pub struct Waker;

#[cfg(not(unix))]
impl Waker {
    /// Wakes the loop.
    pub fn wake(&mut self) {}
}

/// Locks it, also after a panic: no lock is held across foreign code, and what panics under one has changed
/// nothing yet.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
