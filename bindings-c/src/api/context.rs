//! What handlers answer, at once or later.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use engine::{Data, Error, Kind, Payload};

use crate::{
    api::stream::{ReadEnd, WriteEnd},
    border::{
        enter::enter,
        failure::{Failure, roletalk_status},
        handles::{roletalk_context, roletalk_readable, roletalk_unit, roletalk_writable},
        memory::{check_out, put},
        sized, table, units,
        values::{roletalk_data, roletalk_string},
    },
    callbacks::{
        closure::Closure,
        exchange::{Exchange, failed, roletalk_incoming, roletalk_outcome_handler},
        frame,
        item::Item,
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
            (closed.map(|deferred| (exchange.is_inline(), deferred)), Some(outcome))
        })?;
        match (closed, given) {
            (Some((inline, deferred)), Some(outcome)) => frame::answer(inline, deferred, outcome),
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
        let exchange = context.take()?;
        let queue = exchange.queue().clone();
        queue.push(Item::Exchange(exchange));
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
