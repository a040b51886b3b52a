//! Calls of the application's code, which may panic with anything.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use super::handler::HandlerFuture;
use crate::{Error, ErrorKind, Result, wire::Data};

/// Runs the application's code. None when it has panicked, with whatever it was.
#[inline]
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(discard).ok()
}

/// Drops what somebody has panicked with: that may panic, too.
#[cold]
#[inline(never)]
pub(crate) fn discard(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // This could go on for ever.
        std::mem::forget(another);
    }
}

pub(crate) fn panicked() -> Error {
    Error::new(ErrorKind::HandlerPanicked, "The handler panicked")
}

/// A handler's future, whose panics, also those of its end, are its outcome.
pub(crate) struct Guarded(Option<HandlerFuture>);

impl Guarded {
    pub(crate) fn new(future: HandlerFuture) -> Guarded {
        Guarded(Some(future))
    }

    fn end(&mut self) -> Option<()> {
        guarded(|| self.0 = None)
    }
}

impl Future for Guarded {
    type Output = Result<Data>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Data>> {
        let Some(future) = &mut self.0 else { return Poll::Pending };
        let outcome = match guarded(|| future.as_mut().poll(cx)) {
            Some(Poll::Pending) => return Poll::Pending,
            Some(Poll::Ready(outcome)) => Some(outcome),
            None => None,
        };
        let ended = self.end();
        Poll::Ready(outcome.zip(ended).map_or_else(|| Err(panicked()), |(outcome, ())| outcome))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.end();
    }
}
