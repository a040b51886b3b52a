//! What handlers answer, at once or later.

use std::{
    ffi::c_char,
    os::raw::c_void,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use engine::{CancelReason, Context, Data, Error, Fields, HeaderValue, Kind, Payload};

use crate::{
    api::stream::{ReadEnd, WriteEnd, when},
    border::{
        enter::enter,
        failure::{Failure, Status, roletalk_status},
        handles::{roletalk_context, roletalk_readable, roletalk_unit, roletalk_writable},
        headers::{self, lend_value, roletalk_header},
        memory::{check_out, put},
        sized::{self, sized},
        table, units,
        values::{self, roletalk_data, roletalk_string},
    },
    callbacks::{
        closure::{Closure, roletalk_drop},
        exchange::{Exchange, failed, roletalk_incoming, roletalk_outcome_handler},
        lend::{self, Lendable},
    },
};

/// What was deferred, until somebody answers.
#[derive(Default)]
struct Kept(Mutex<Option<Exchange>>);

impl Kept {
    fn with<T>(&self, work: impl FnOnce(&mut Exchange) -> T) -> Result<T, Failure> {
        let mut exchange = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        exchange.as_mut().map(work).ok_or_else(table::invalid)
    }
}

impl roletalk_context {
    /// Works on what the handle stands for, where it stays.
    fn with<T>(self, work: impl FnOnce(&mut Exchange) -> T) -> Result<T, Failure> {
        match table::is_special(self.id) {
            true => lend::with_exchange(self.id, work),
            false => table::get::<Kept>(self.id)?.with(work),
        }
    }

    /// What its handler is looking at.
    pub(super) fn context(self) -> Result<Context, Failure> {
        self.with(|exchange| exchange.context().clone())
    }

    /// Takes what the handle stands for: of several that try, one succeeds.
    fn take(self) -> Result<Exchange, Failure> {
        if table::is_special(self.id) {
            return lend::part_with_exchange(self.id);
        }
        let kept = table::remove::<Kept>(self.id)?;
        let mut exchange = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        exchange.take().ok_or_else(table::invalid)
    }

    /// Answers with the outcome, which may be made of what came.
    fn answer(self, outcome: impl FnOnce(&Exchange) -> Result<Data, Error>) -> Result<(), Failure> {
        let (closed, given) = self.with(|exchange| {
            let outcome = outcome(exchange);
            let Some(outcome) = exchange.replace_outcome(outcome) else { return (None, None) };
            // What the running callback is looking at stays where it is.
            let closed = table::is_special(self.id).then(|| exchange.close()).flatten();
            (closed, Some(outcome))
        })?;
        match (closed, given) {
            (Some(closing), Some(outcome)) => closing.answer(outcome),
            (None, Some(outcome)) => Exchange::finish(&mut Some(self.take()?), outcome),
            (_, None) => {}
        }
        Ok(())
    }
}

/// Answers a request with a payload, which is copied. Ends the context. For a message it says that it
/// was dealt with, which also returning from the handler does.
///
/// When the unit has no room for the answer, the library keeps it until there is. Inside an outcome
/// handler it replaces the outcome.
///
/// Errors: ROLETALK_STATUS_DATA, ROLETALK_STATUS_INVALID_ARGUMENT: the context is as before. Any thread,
/// also inside callbacks, for deferred contexts; inside the handler for others.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_respond(
    context: roletalk_context,
    data: roletalk_data,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let Payload { kind, bytes } = unsafe { data.payload() }?;
        context.answer(|exchange| {
            // Nothing is copied of what came and goes back.
            let copy = || Bytes::copy_from_slice(bytes);
            Ok(Data::from_raw(kind, exchange.share(bytes).unwrap_or_else(copy)))
        })
    })
}

/// Rejects a request or a stream with a text for the requester. Ends the context. A message that is
/// rejected, and a stream that was accepted before, is reported by ROLETALK_EVENT_HANDLER_FAILED.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT: the context is as before. Any thread, also inside callbacks,
/// for deferred contexts; inside the handler for others.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_reject(
    context: roletalk_context,
    reason: roletalk_string,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let reason = unsafe { reason.get("reason") }?;
        context.answer(|_| Err(failed(reason)))
    })
}

/// How a handler fails. All but the reason may be zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_failure {
    /// sizeof(roletalk_failure).
    pub struct_size: usize,
    /// A text for people.
    pub reason: roletalk_string,
    /// A name for programs, such as `NOT_FOUND`.
    pub code: roletalk_string,
    /// What belongs to it, as JSON.
    pub data: roletalk_string,
    /// After how many milliseconds it is worth trying again; 0 or less says nothing of that.
    pub retry_after_ms: i64,
}

sized!(roletalk_failure);

/// As roletalk_context_reject, with a code and data for the requester's program, who finds them in roletalk_reply, or
/// with roletalk_last_error_code and so on. Peers that do not know of these get the reason alone.
/// `failure->struct_size` must be set.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT, ROLETALK_STATUS_DATA for `data` that is not JSON,
/// ROLETALK_STATUS_TOO_LARGE for more than 8 KiB of code and data: the context is as before. Threads and callbacks
/// as roletalk_context_reject.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_reject_with(
    context: roletalk_context,
    failure: *const roletalk_failure,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let given = unsafe { sized::read(failure) }?.ok_or_else(|| Failure::null("failure"))?;
        // SAFETY: as above.
        let (reason, code, data) = unsafe {
            (given.reason.get("reason")?, given.code.get("code")?, given.data.get("data")?)
        };
        if !data.is_empty() {
            Data::check_json(data.as_bytes())
                .map_err(|error| values::data_error(error.to_string()))?;
        }
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let millis = u64::try_from(given.retry_after_ms).ok().filter(|millis| *millis > 0);
        let retry_after = millis.map(Duration::from_millis);
        let (code, data) = (some(code), some(data));
        let failure = engine::Failure { code, data, retry_after, unhandled: false };
        // Whether it is too large is to be told here.
        Fields::new().set_failure(&failure)?;
        context.answer(|_| Err(failed(reason).with_failure(failure)))
    })
}

/// Accepts a stream that this peer reads, with a payload for the requester. Ends the context; the
/// stream belongs to the caller, who closes it with roletalk_readable_close.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when the context is not of ROLETALK_KIND_READABLE,
/// ROLETALK_STATUS_DATA: the context is as before. ROLETALK_STATUS_CONNECTION_LOST when the requester is
/// gone, ROLETALK_STATUS_OVERLOADED when too many streams are open: the context has ended. Any thread,
/// also inside callbacks, for deferred contexts; inside the handler for others.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_accept_readable(
    context: roletalk_context,
    data: roletalk_data,
    stream: *mut roletalk_readable,
) -> roletalk_status {
    enter(|| {
        check_out(stream, "stream")?;
        // SAFETY: the contract of pointers in the header's introduction.
        let data = unsafe { data.get() }?;
        check_kind(context, Kind::Readable)?;
        let exchange = context.take()?;
        let queue = exchange.queue().clone();
        let accepted = exchange.context().accept_readable(data);
        exchange.say_done(&accepted);
        let end = ReadEnd::insert(accepted?, queue);
        // SAFETY: as above.
        unsafe { put(stream, end, "stream") }
    })
}

/// Accepts a stream that this peer writes, with a payload for the requester. Ends the context; the
/// stream belongs to the caller, who finishes it with roletalk_writable_finish and closes it with
/// roletalk_writable_close.
///
/// Errors, threads and callbacks as roletalk_context_accept_readable, for ROLETALK_KIND_WRITABLE.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_accept_writable(
    context: roletalk_context,
    data: roletalk_data,
    stream: *mut roletalk_writable,
) -> roletalk_status {
    enter(|| {
        check_out(stream, "stream")?;
        // SAFETY: the contract of pointers in the header's introduction.
        let data = unsafe { data.get() }?;
        check_kind(context, Kind::Writable)?;
        let exchange = context.take()?;
        let queue = exchange.queue().clone();
        let accepted = exchange.context().accept_writable(data);
        exchange.say_done(&accepted);
        let end = WriteEnd::insert(accepted?, queue);
        // SAFETY: as above.
        unsafe { put(stream, end, "stream") }
    })
}

fn check_kind(context: roletalk_context, kind: Kind) -> Result<(), Failure> {
    match context.with(|exchange| exchange.kind() == kind)? {
        true => Ok(()),
        false => Err(Failure::invalid(format!("The context is not of a {kind:?}"))),
    }
}

/// Keeps what came beyond the handler's return, to be answered later from any thread. `context` ends;
/// `deferred` belongs to the caller and is valid until it is answered, also when the peer has closed
/// meanwhile. Until then it counts as a running handler.
///
/// Inside the handler or middleware.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_defer(
    context: roletalk_context,
    deferred: *mut roletalk_context,
) -> roletalk_status {
    enter(|| {
        check_out(deferred, "deferred")?;
        if !table::is_special(context.id) {
            return Err(Failure::invalid("The context is deferred already"));
        }
        let told = context.with(|exchange| exchange.is_answered())?;
        if told {
            return Err(Failure::invalid("There is nothing to defer in an outcome handler"));
        }
        let mut exchange = context.take()?;
        exchange.hold();
        if exchange.is_through() {
            exchange.outlive_handler();
        }
        let id = table::insert(Arc::new(Kept(Mutex::new(Some(exchange)))));
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(deferred, roletalk_context { id }, "deferred") }
    })
}

/// Shows a deferred context again, as its handler saw it. `incoming->struct_size` must be set. The
/// pointers are valid until the context is answered; `incoming->unit` is none: see roletalk_context_unit.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_view(
    context: roletalk_context,
    incoming: *mut roletalk_incoming,
) -> roletalk_status {
    enter(|| {
        let mut view = context.with(|exchange| {
            // It lives on in the exchange.
            let replaced = exchange.replaced();
            exchange.view(replaced.as_ref(), roletalk_unit::NONE)
        })?;
        view.context = context;
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { sized::write(incoming, &view) }
    })
}

/// The unit that sent it. The caller frees it with roletalk_unit_free.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the handler for others.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_unit(
    context: roletalk_context,
    unit: *mut roletalk_unit,
) -> roletalk_status {
    enter(|| {
        check_out(unit, "unit")?;
        let found = context.with(|exchange| exchange.context().unit())?;
        let handle = units::insert(found);
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(unit, handle, "unit") }
    })
}

/// Passes what middleware has deferred on to the next middleware or the handler. Ends the context.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a context that is not deferred: returning from the
/// middleware passes that on. Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_context_next(context: roletalk_context) -> roletalk_status {
    enter(|| {
        if table::is_special(context.id) {
            return Err(Failure::invalid("Return from the middleware to pass it on"));
        }
        // A handler that has nobody behind it is not called again.
        if context.with(|exchange| exchange.is_through())? {
            return Err(Failure::invalid("It was the handler that has deferred this: answer it"));
        }
        context.take()?.queue_up();
        Ok(())
    })
}

/// Replaces the payload, for middleware that changes it before the handler sees it. Pointers into the
/// payload before are valid until the callback returns; in a deferred context they end.
///
/// Errors: ROLETALK_STATUS_DATA. Any thread, also inside callbacks, for deferred contexts; inside the
/// middleware for others.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_set_data(
    context: roletalk_context,
    data: roletalk_data,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let data = unsafe { data.get() }?;
        // The one before is dropped outside, and callbacks hold it for as long as they need.
        let old = context.with(|exchange| exchange.replace_data(data))?;
        match old {
            Some(_) => Ok(()),
            None => Err(Failure::invalid("Only middleware can replace the payload")),
        }
    })
}

/// For middleware: calls `handler` with the outcome, before the requester gets it. Several are called
/// in the reverse order of their middleware. `drop` is called also when this fails.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the middleware for others.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_context_on_outcome(
    context: roletalk_context,
    handler: roletalk_outcome_handler,
) -> roletalk_status {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    enter(move || {
        let queue = context.with(|exchange| exchange.queue().clone())?;
        let closure = closure.bind(&queue)?;
        // Dropped outside, if it comes back.
        context
            .with(|exchange| exchange.observe_with(closure))?
            .map_err(drop)
            .map_err(|()| Failure::invalid("Only middleware can ask for the outcome"))
    })
}

// What comes and goes besides the payload.

/// The first header of this name that came with it: `value` is set to text or bytes, or to null when there is none.
/// `value->bytes` is valid as long as the payload.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the handler for others.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_header(
    context: roletalk_context,
    name: roletalk_string,
    value: *mut roletalk_data,
) -> roletalk_status {
    enter(|| {
        check_out(value, "value")?;
        // SAFETY: the contract of pointers in the header's introduction.
        let name = unsafe { name.get("name") }?;
        let lend = |value: Option<HeaderValue<'_>>| {
            value.map_or_else(|| roletalk_data::lend(&Data::null()), lend_value)
        };
        // What is lent lies in what came, which is not moved with the exchange.
        let found = context.with(|exchange| lend(exchange.context().header(name)))?;
        // SAFETY: as above.
        unsafe { put(value, found, "value") }
    })
}

/// One of the headers that came with it, in the order in which the sender has added them: `at` counts from 0. What
/// `header` points to is valid as long as the payload.
///
/// Errors: ROLETALK_STATUS_END when there are not so many. Any thread, also inside callbacks, for deferred contexts;
/// inside the handler for others.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_header_at(
    context: roletalk_context,
    at: usize,
    header: *mut roletalk_header,
) -> roletalk_status {
    enter(|| {
        check_out(header, "header")?;
        let found = context.with(|exchange| {
            let header = exchange.context().headers().nth(at);
            header.map(|(name, value)| roletalk_header::lend(name, value))
        })?;
        let none = || Failure::new(Status::End, "There are not so many headers");
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(header, found.ok_or_else(none)?, "header") }
    })
}

/// Sets a header of the answer in the place of what was set by this name, whether that is a payload, a rejection or
/// an accepted stream. The value is text or bytes. All headers may have 8 KiB together, names included. Left out
/// where the requester's peer does not take headers; for a message nothing happens.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a name that does not fit (see roletalk_header), and for another kind of
/// data; ROLETALK_STATUS_DATA; ROLETALK_STATUS_TOO_LARGE. Any thread, also inside callbacks, for deferred contexts;
/// inside the handler, middleware or outcome handler for others.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_set_header(
    context: roletalk_context,
    name: roletalk_string,
    value: roletalk_data,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let (name, value) = unsafe { (name.get("name")?, headers::value(value)?) };
        let added = context.with(|exchange| match exchange.scope() {
            Some(scope) => scope.with_answer(|fields| fields.add_header(name, value)),
            None => Fields::new().add_header(name, value),
        })?;
        Ok(added?)
    })
}

/// A trace context, as in W3C Trace Context and W3C Baggage. Set `struct_size` before.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_trace {
    /// sizeof(roletalk_trace).
    pub struct_size: usize,
    /// Text with a zero at the end; empty when there is no trace context.
    pub traceparent: [c_char; 56],
    /// May be empty.
    pub tracestate: roletalk_string,
    /// May be empty.
    pub baggage: roletalk_string,
}

sized!(roletalk_trace);

/// The trace context that came with it. `trace->struct_size` must be set. The two strings are valid as long as the
/// payload. What is sent with this context as its parent hands it on by itself; see roletalk_send_options.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the handler for others.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_trace(
    context: roletalk_context,
    trace: *mut roletalk_trace,
) -> roletalk_status {
    enter(|| {
        let view = context.with(|exchange| {
            let context = exchange.context();
            let mut traceparent = [0; 56];
            // One is left for the zero.
            for (to, from) in traceparent[..55]
                .iter_mut()
                .zip(context.traceparent().iter().flat_map(|text| text.bytes()))
            {
                *to = from as c_char;
            }
            let lend = |text: Option<&str>| roletalk_string::lend(text.unwrap_or_default());
            let (tracestate, baggage) = (lend(context.tracestate()), lend(context.baggage()));
            roletalk_trace {
                struct_size: size_of::<roletalk_trace>(),
                traceparent,
                tracestate,
                baggage,
            }
        })?;
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { sized::write(trace, &view) }
    })
}

// Time, and being canceled.

/// How many milliseconds the requester still waits: -1 when it has set no time limit, 0 when the time is up.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the handler for others.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_remaining_ms(
    context: roletalk_context,
    remaining: *mut i64,
) -> roletalk_status {
    enter(|| {
        let left = context.with(|exchange| exchange.context().remaining())?;
        // Rounded up: it is 0 only when the time is up.
        let millis =
            |left: Duration| i64::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i64::MAX);
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(remaining, left.map_or(-1, millis), "remaining") }
    })
}

/// Somebody waits for the answer.
pub const ROLETALK_CANCEL_NONE: i32 = 0;
/// The requester has given up.
pub const ROLETALK_CANCEL_REQUESTER: i32 = 1;
/// The requester's time is up.
pub const ROLETALK_CANCEL_DEADLINE: i32 = 2;
/// The unit is gone.
pub const ROLETALK_CANCEL_UNIT_LOST: i32 = 3;

fn number_of(reason: Option<CancelReason>) -> i32 {
    match reason {
        None => ROLETALK_CANCEL_NONE,
        Some(CancelReason::Requester) => ROLETALK_CANCEL_REQUESTER,
        Some(CancelReason::Deadline) => ROLETALK_CANCEL_DEADLINE,
        Some(CancelReason::UnitLost) => ROLETALK_CANCEL_UNIT_LOST,
        // A test fails before there is one.
        Some(_) => ROLETALK_CANCEL_REQUESTER,
    }
}

/// Why nobody waits for the answer any more: ROLETALK_CANCEL_REQUESTER and so on, or ROLETALK_CANCEL_NONE (0) while
/// somebody does. For handlers that work on for long: ask now and then, and end if it is not 0. What is answered all
/// the same is dropped. Always 0 for messages and for handlers that are detached (roletalk_handler_options); a
/// callback of ROLETALK_CALLBACKS_INLINE holds up what would tell it.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the handler for others.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_context_cancel_reason(
    context: roletalk_context,
    reason: *mut i32,
) -> roletalk_status {
    enter(|| {
        check_out(reason, "reason")?;
        let known = context.with(|exchange| exchange.scope().and_then(|scope| scope.reason()))?;
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(reason, number_of(known), "reason") }
    })
}

/// Called when nobody waits for an answer any more, where the peer's callbacks run.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_cancel_handler {
    /// The function; not NULL. `reason` is ROLETALK_CANCEL_REQUESTER, ROLETALK_CANCEL_DEADLINE or
    /// ROLETALK_CANCEL_UNIT_LOST.
    pub call: Option<unsafe extern "C" fn(user_data: *mut c_void, reason: i32)>,
    /// Given to both functions.
    pub user_data: *mut c_void,
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    pub drop: roletalk_drop,
}

/// Calls `handler` once if nobody waits for the answer any more: the requester has given up, its time is up, or its unit
/// is gone. Soon, if that is so already. The context is still to be answered, which nobody hears of.
/// `handler.drop` is called after that, when the context is answered, or when this fails: then there is no call any
/// more, unless it has begun on another thread. Never called for messages and for handlers that are detached
/// (roletalk_handler_options). Callbacks of a peer run one after the other: it is for contexts that are deferred, now or
/// later in the handler; a handler that works on itself asks roletalk_context_cancel_reason.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the handler for others.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_context_on_cancel(
    context: roletalk_context,
    handler: roletalk_cancel_handler,
) -> roletalk_status {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    enter(move || {
        let (queue, scope) =
            context.with(|exchange| (exchange.queue().clone(), exchange.scope().cloned()))?;
        let canceled = async move {
            match scope {
                Some(scope) => {
                    scope.token().cancelled().await;
                    number_of(scope.reason())
                }
                None => std::future::pending().await,
            }
        };
        // SAFETY: function and argument belong together, and no lock is held.
        let watch = when(canceled, closure, &queue, |call, user_data, reason| unsafe {
            call(user_data, reason);
        })?;
        let mut watch = Some(watch);
        let kept = context
            .with(|exchange| watch.take().into_iter().for_each(|watch| exchange.watch(watch)));
        // It was answered meanwhile.
        if let Some(watch) = watch {
            watch.cancel();
        }
        kept
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_number_of_its_own() {
        let numbers = CancelReason::ALL.map(|reason| number_of(Some(reason)));
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(number_of(None), 0);
    }
}
