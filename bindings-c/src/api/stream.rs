//! The two ends of a stream, blocking or by readiness.

use std::{
    io,
    os::raw::c_void,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::{Buf, Bytes};
use engine::{Error, Readable, Unit, Writable};
use futures_util::{SinkExt, Stream};
use tokio::io::AsyncWrite;

use crate::{
    border::{
        enter::enter,
        failure::{Failure, Status, roletalk_status},
        handles::{roletalk_readable, roletalk_unit, roletalk_writable},
        memory::{check_out, put, slice},
        table, units,
        values::roletalk_string,
    },
    callbacks::{
        closure::{Closure, roletalk_drop},
        item::{Callbacks, Task},
    },
    runtime::wait::{Limit, block_on, check_may_wait},
};

/// Called once when a stream can go on, where the peer's callbacks run.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_ready_handler {
    /// The function; not NULL.
    pub call: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
    /// Given to both functions.
    pub user_data: *mut c_void,
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    pub drop: roletalk_drop,
}

/// Who waits for a stream: a stream itself knows one waker, here many may wait.
#[derive(Default)]
struct Readiness {
    /// It moved since something last did not get through.
    moved: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Readiness {
    /// To be called before the stream is looked at.
    fn wait(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|known| known.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }
}

impl Wake for Readiness {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.moved.store(true, Ordering::Release);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let woken = std::mem::take(&mut *waiting);
        drop(waiting);
        woken.into_iter().for_each(Waker::wake);
    }
}

fn closed() -> Failure {
    Failure::new(Status::StreamClosed, "The stream was closed here")
}

/// An end of a stream behind a handle.
pub(crate) struct End<S> {
    state: Mutex<S>,
    readiness: Arc<Readiness>,
    waker: Waker,
    queue: Arc<Callbacks>,
}

impl<S: Send + 'static> End<S> {
    fn new(state: S, queue: Arc<Callbacks>) -> Arc<End<S>> {
        let readiness = Arc::new(Readiness::default());
        let waker = Waker::from(readiness.clone());
        Arc::new(End { state: Mutex::new(state), readiness, waker, queue })
    }

    fn lock(&self) -> MutexGuard<'_, S> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries until it is ready: the stream wakes all that wait.
    fn poll<T>(
        &self,
        cx: &Context<'_>,
        step: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.readiness.wait(cx);
        step(&mut self.lock(), &mut Context::from_waker(&self.waker))
    }

    fn wait<T>(
        &self,
        limit: Limit,
        mut step: impl FnMut(&mut S, &mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Failure> {
        block_on(None, limit, std::future::poll_fn(|cx| self.poll(cx, &mut step)))
    }

    /// Takes something away for good, and tells those who wait.
    fn close<T>(&self, take: impl FnOnce(&mut S) -> T) -> T {
        let taken = take(&mut self.lock());
        self.waker.wake_by_ref();
        taken
    }

    /// Calls back once when `step` is ready.
    fn on_ready(
        self: &Arc<Self>,
        closure: Closure<ReadyCall>,
        step: impl Fn(&mut S, &mut Context<'_>) -> Poll<()> + Send + 'static,
    ) -> Result<(), Failure> {
        let end = self.clone();
        let ready = std::future::poll_fn(move |cx| end.poll(cx, &step));
        call_when(ready, closure, &self.queue)
    }
}

type ReadyCall = unsafe extern "C" fn(*mut c_void);

/// Calls back once when `ready` is done, unless the peer ends before.
///
/// # Errors
/// `Status::InvalidArgument` when there is no function.
pub(crate) fn call_when(
    ready: impl Future<Output = ()> + Send + 'static,
    closure: Closure<ReadyCall>,
    queue: &Arc<Callbacks>,
) -> Result<(), Failure> {
    // SAFETY: function and argument belong together, and no lock is held.
    when(ready, closure, queue, |call, user_data, ()| unsafe { call(user_data) }).map(drop)
}

/// As [`call_when`], by a task, which whoever calls this may end before, and with what `ready` gives.
pub(crate) fn when<F: Copy + Send + 'static, T: 'static>(
    ready: impl Future<Output = T> + Send + 'static,
    closure: Closure<F>,
    queue: &Arc<Callbacks>,
    invoke: fn(F, *mut c_void, T),
) -> Result<Arc<Task>, Failure> {
    let closure = closure.bind(queue)?;
    Ok(Task::spawn_endless(queue, async move {
        let given = ready.await;
        if let Some((call, user_data)) = closure.parts() {
            invoke(call, user_data, given);
        }
        closure.release_now();
    }))
}

/// What is behind a `roletalk_readable`.
pub(crate) struct Reading {
    /// None when it has ended or was closed.
    stream: Option<Readable>,
    /// The unit, also after the end.
    unit: Unit,
    /// What was received and not read yet.
    rest: Bytes,
    /// How it ended.
    end: Option<Result<(), Failure>>,
}

pub(crate) type ReadEnd = End<Reading>;

impl Reading {
    /// Ready when there is something to read, or the end.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.rest.is_empty() && self.end.is_none() {
            let Some(stream) = &mut self.stream else {
                self.end = Some(Err(closed()));
                break;
            };
            match Pin::new(stream).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(bytes))) => self.rest = bytes,
                Poll::Ready(Some(Err(error))) => self.end = Some(Err(error.into())),
                Poll::Ready(None) => {
                    self.end = Some(Ok(()));
                    // Tells the writer that all was read.
                    self.stream = None;
                }
            }
        }
        Poll::Ready(())
    }
}

impl ReadEnd {
    /// A handle of the stream.
    pub(crate) fn insert(stream: Readable, queue: Arc<Callbacks>) -> roletalk_readable {
        let unit = stream.unit();
        let reading = Reading { stream: Some(stream), unit, rest: Bytes::new(), end: None };
        roletalk_readable { id: table::insert(End::new(reading, queue)) }
    }
}

/// What is behind a `roletalk_writable`.
pub(crate) struct Writing {
    /// None when it was finished or closed.
    stream: Option<Writable>,
    unit: Unit,
    finished: bool,
}

pub(crate) type WriteEnd = End<Writing>;

impl WriteEnd {
    /// A handle of the stream.
    pub(crate) fn insert(stream: Writable, queue: Arc<Callbacks>) -> roletalk_writable {
        let unit = stream.unit();
        let end = End::new(Writing { stream: Some(stream), unit, finished: false }, queue);
        // Nothing has been found stuck yet.
        end.readiness.moved.store(true, Ordering::Release);
        roletalk_writable { id: table::insert(end) }
    }
}

/// The error behind an [`io::Error`] of a stream.
fn stream_error(error: io::Error) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => error.clone().into(),
        None => Failure::io(error),
    }
}

/// Reads up to `capacity` bytes, at least one: waits for `timeout_ms` milliseconds, without a limit if
/// that is negative, not at all if it is 0. `len` is set to how many bytes were read; 0 with
/// ROLETALK_STATUS_OK is the end. The writer may send more as its bytes are read.
///
/// Errors: what the writer broke off with, mostly ROLETALK_STATUS_STREAM_CLOSED, and
/// ROLETALK_STATUS_CONNECTION_LOST, each behind the data that had arrived; ROLETALK_STATUS_TIMEOUT,
/// ROLETALK_STATUS_WOULD_BLOCK; ROLETALK_STATUS_INVALID_ARGUMENT also for a capacity of 0. Any thread; in
/// callbacks as every call that waits.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_readable_read(
    stream: roletalk_readable,
    buffer: *mut c_void,
    capacity: usize,
    timeout_ms: i64,
    len: *mut usize,
) -> roletalk_status {
    enter(|| {
        let end = table::get::<ReadEnd>(stream.id)?;
        check_out(len, "len")?;
        check_out(buffer.cast::<u8>(), "buffer")?;
        if capacity == 0 {
            return Err(Failure::invalid("The buffer has no room"));
        }
        let read = end.wait(Limit::from_millis(timeout_ms), |reading, cx| {
            reading.poll_rest(cx).map(|()| {
                if reading.rest.is_empty() {
                    return reading.end.clone().unwrap_or(Ok(())).map(|()| 0);
                }
                let count = reading.rest.len().min(capacity);
                // SAFETY: the caller has given room for `capacity` bytes, and `rest` has `count`.
                unsafe {
                    let to = buffer.cast::<u8>();
                    to.copy_from_nonoverlapping(reading.rest.as_ptr(), count);
                }
                reading.rest.advance(count);
                Ok(count)
            })
        })??;
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(len, read, "len") }
    })
}

/// Calls `handler` once, as soon as roletalk_readable_read would not wait: at once if there is something, or
/// the stream has ended. `handler.drop` is called after that, when the peer is closed, or when this
/// fails.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_readable_on_ready(
    stream: roletalk_readable,
    handler: roletalk_ready_handler,
) -> roletalk_status {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    enter(move || {
        let end = table::get::<ReadEnd>(stream.id)?;
        end.on_ready(closure, Reading::poll_rest)
    })
}

/// The unit at the other end. The caller frees it with roletalk_unit_free.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_readable_unit(
    stream: roletalk_readable,
    unit: *mut roletalk_unit,
) -> roletalk_status {
    enter(|| {
        check_out(unit, "unit")?;
        let handle = units::insert(table::get::<ReadEnd>(stream.id)?.lock().unit.clone());
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(unit, handle, "unit") }
    })
}

/// Breaks off with a reason for the writer, and ends the handle.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_readable_abort(
    stream: roletalk_readable,
    reason: roletalk_string,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let reason = unsafe { reason.get("reason") }?;
        let end = table::remove::<ReadEnd>(stream.id)?;
        if let Some(stream) = end.close(|reading| reading.stream.take()) {
            stream.abort(reason);
        }
        Ok(())
    })
}

/// Closes the reading end, and ends the handle. A writer that has not come to its end is told; one that
/// waits in roletalk_writable_finish is told that all was read, if it was. Reads that wait on other
/// threads end with ROLETALK_STATUS_STREAM_CLOSED.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_readable_close(stream: roletalk_readable) -> roletalk_status {
    enter(|| {
        let end = table::remove::<ReadEnd>(stream.id)?;
        drop(end.close(|reading| reading.stream.take()));
        Ok(())
    })
}

/// Writes bytes, which are copied: waits for `timeout_ms` milliseconds until the other side and the
/// connection have taken them, without a limit if that is negative, not at all if it is 0. `written` is
/// set to how many bytes were taken, which on ROLETALK_STATUS_OK are all of them, unless the time was
/// over before: then at least one. It may be NULL only when the time has no limit.
///
/// Errors: ROLETALK_STATUS_STREAM_CLOSED when the reader has broken off or the stream was finished,
/// ROLETALK_STATUS_CONNECTION_LOST, ROLETALK_STATUS_TIMEOUT, ROLETALK_STATUS_WOULD_BLOCK. Any thread; the
/// bytes of several writes at the same time may mix. In callbacks as every call that waits.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_writable_write(
    stream: roletalk_writable,
    bytes: *const c_void,
    len: usize,
    timeout_ms: i64,
    written: *mut usize,
) -> roletalk_status {
    enter(|| {
        let end = table::get::<WriteEnd>(stream.id)?;
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let bytes = unsafe { slice(bytes.cast(), len, "bytes") }?;
        let limit = Limit::from_millis(timeout_ms);
        if !(written.is_null() && limit == Limit::Never) {
            check_out(written, "written")?;
        }
        check_may_wait(limit)?;
        let mut done = 0;
        let outcome = end.wait(limit, |writing, cx| {
            let stream = match &mut writing.stream {
                Some(stream) if !writing.finished => stream,
                _ => return Poll::Ready(Err(closed())),
            };
            end.readiness.moved.store(false, Ordering::Release);
            while done < bytes.len() {
                match Pin::new(&mut *stream).poll_write(cx, &bytes[done..]) {
                    Poll::Ready(Ok(count)) => done += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(stream_error(error))),
                    Poll::Pending => return Poll::Pending,
                }
            }
            end.readiness.moved.store(true, Ordering::Release);
            Poll::Ready(Ok(()))
        });
        if !written.is_null() {
            // SAFETY: as above.
            unsafe { put(written, done, "written") }?;
        }
        match outcome {
            Ok(outcome) => outcome,
            Err(failure) if done > 0 && is_over(&failure) => Ok(()),
            Err(failure) => Err(failure),
        }
    })
}

fn is_over(failure: &Failure) -> bool {
    matches!(failure.status(), Status::Timeout | Status::WouldBlock)
}

/// Calls `handler` once, as soon as the stream may go on: at once, unless the last write or finish did not
/// get through. It may be early: try again then. `handler.drop` is called after that, when the peer is
/// closed, or when this fails.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_writable_on_ready(
    stream: roletalk_writable,
    handler: roletalk_ready_handler,
) -> roletalk_status {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    enter(move || {
        let end = table::get::<WriteEnd>(stream.id)?;
        let readiness = end.readiness.clone();
        end.on_ready(closure, move |writing, _| {
            match writing.stream.is_none() || readiness.moved.load(Ordering::Acquire) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
    })
}

/// The unit at the other end. The caller frees it with roletalk_unit_free.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_writable_unit(
    stream: roletalk_writable,
    unit: *mut roletalk_unit,
) -> roletalk_status {
    enter(|| {
        check_out(unit, "unit")?;
        let handle = units::insert(table::get::<WriteEnd>(stream.id)?.lock().unit.clone());
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(unit, handle, "unit") }
    })
}

/// Ends the stream, and waits for `timeout_ms` milliseconds until the reader has read everything and
/// closed its end, without a limit if that is negative, not at all if it is 0. With peers of other
/// implementations it waits only until the end was queued. After ROLETALK_STATUS_TIMEOUT and
/// ROLETALK_STATUS_WOULD_BLOCK the stream has ended all the same: call it again to wait on. The handle is
/// still to be closed.
///
/// Errors: ROLETALK_STATUS_STREAM_CLOSED when the reader has broken off, ROLETALK_STATUS_CONNECTION_LOST,
/// ROLETALK_STATUS_TIMEOUT, ROLETALK_STATUS_WOULD_BLOCK. Any thread; in callbacks as every call that waits.
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_writable_finish(
    stream: roletalk_writable,
    timeout_ms: i64,
) -> roletalk_status {
    enter(|| {
        let end = table::get::<WriteEnd>(stream.id)?;
        let limit = Limit::from_millis(timeout_ms);
        check_may_wait(limit)?;
        end.wait(limit, |writing, cx| {
            writing.finished = true;
            end.readiness.moved.store(false, Ordering::Release);
            match &mut writing.stream {
                Some(stream) => stream.poll_close_unpin(cx).map_err(Failure::from),
                None => Poll::Ready(Err(closed())),
            }
        })?
    })
}

/// Breaks off with a reason for the reader, and ends the handle.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_writable_abort(
    stream: roletalk_writable,
    reason: roletalk_string,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let reason = unsafe { reason.get("reason") }?;
        let end = table::remove::<WriteEnd>(stream.id)?;
        if let Some(stream) = end.close(|writing| writing.stream.take()) {
            stream.abort(reason);
        }
        Ok(())
    })
}

/// Closes the writing end, and ends the handle. Without a successful roletalk_writable_finish before,
/// the reader is told that it broke off. Writes that wait on other threads end with
/// ROLETALK_STATUS_STREAM_CLOSED.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_writable_close(stream: roletalk_writable) -> roletalk_status {
    enter(|| {
        let end = table::remove::<WriteEnd>(stream.id)?;
        drop(end.close(|writing| writing.stream.take()));
        Ok(())
    })
}
