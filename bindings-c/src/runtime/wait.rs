//! Blocking calls.

use std::{
    cell::OnceCell,
    pin::pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use crate::{
    border::failure::{Failure, Status},
    callbacks::frame,
};

/// How long a call may wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    /// Not at all.
    Now,
    Within(Duration),
    Never,
}

impl Limit {
    /// From milliseconds: negative means without a limit.
    pub(crate) fn from_millis(millis: i64) -> Limit {
        match u64::try_from(millis) {
            Ok(0) => Limit::Now,
            Ok(millis) => Limit::Within(Duration::from_millis(millis)),
            Err(_) => Limit::Never,
        }
    }
}

/// Where a thread waits. Not `std::thread::park`: that makes something for the thread that memory checkers
/// take for lost when it is the program's.
#[derive(Default)]
struct Parking {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Parking {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is woken, or was since the last time, or the time is over.
    fn park(&self, until: Option<Instant>) {
        let mut woken = self.lock();
        while !std::mem::take(&mut *woken) {
            woken = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(woken).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return,
                Some(rest) => {
                    let waited = self.changed.wait_timeout(woken, rest);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Wake for Parking {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        *self.lock() = true;
        self.changed.notify_one();
    }
}

thread_local! {
    /// Made once for each thread.
    static PARKING: OnceCell<Arc<Parking>> = const { OnceCell::new() };
}

fn parking() -> Arc<Parking> {
    // While the thread ends, there is none to keep.
    PARKING.try_with(|known| known.get_or_init(Arc::default).clone()).unwrap_or_default()
}

/// Refuses to wait on a thread that does a peer's input and output: to be called before anything is
/// done that could not be undone.
///
/// # Errors
/// [`Status::WouldDeadlock`].
pub(crate) fn check_may_wait(limit: Limit) -> Result<(), Failure> {
    if limit == Limit::Now || !frame::is_inline() {
        return Ok(());
    }
    let text = "A callback on the library's own thread must not wait: use the call that calls back";
    Err(Failure::new(Status::WouldDeadlock, text))
}

/// Waits for a future on this thread.
///
/// # Errors
/// [`Status::Timeout`]; [`Status::WouldBlock`] when it was not to wait;
/// [`Status::WouldDeadlock`] on the thread that does the peer's input and output.
pub(crate) fn block_on<F: Future>(
    runtime: Option<&Handle>,
    limit: Limit,
    future: F,
) -> Result<F::Output, Failure> {
    let mut future = pin!(future);
    let parking = parking();
    let waker = Waker::from(parking.clone());
    let mut cx = Context::from_waker(&waker);
    let mut poll = || {
        // Timers and sockets belong to the peer's runtime.
        let _runtime = runtime.map(Handle::enter);
        future.as_mut().poll(&mut cx)
    };
    if let Poll::Ready(output) = poll() {
        return Ok(output);
    }
    if limit == Limit::Now {
        return Err(Failure::new(Status::WouldBlock, "It cannot be done without waiting"));
    }
    check_may_wait(limit)?;
    // Those that were answered in this callback must not wait for it.
    frame::flush_answers();
    let until = match limit {
        Limit::Within(time) => Instant::now().checked_add(time),
        _ => None,
    };
    loop {
        if until.is_some_and(|until| until <= Instant::now()) {
            return Err(Failure::new(Status::Timeout, "The time is over"));
        }
        parking.park(until);
        if let Poll::Ready(output) = poll() {
            return Ok(output);
        }
    }
}
