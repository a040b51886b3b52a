//! Blocking calls.

use std::{
    cell::OnceCell,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
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

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    /// Made once for each thread.
    static WAKER: OnceCell<Waker> = const { OnceCell::new() };
}

fn waker() -> Waker {
    let make = || Waker::from(Arc::new(Unpark(std::thread::current())));
    // While the thread ends, there is none to keep.
    WAKER.try_with(|waker| waker.get_or_init(make).clone()).unwrap_or_else(|_| make())
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
    let waker = waker();
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
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => std::thread::park(),
            Some(Duration::ZERO) => {
                return Err(Failure::new(Status::Timeout, "The time is over"));
            }
            Some(rest) => std::thread::park_timeout(rest),
        }
        if let Poll::Ready(output) = poll() {
            return Ok(output);
        }
    }
}
