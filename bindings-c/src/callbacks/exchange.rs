//! What comes to a role's handlers, on its way through middleware to the handler and back.

use std::{
    os::raw::c_void,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use engine::{Context, Data, Deferred, Error, ErrorKind, Kind, Payload};

use crate::{
    border::{
        enter::enter,
        failure::{Failure, Status, roletalk_status},
        handles::{roletalk_context, roletalk_readable, roletalk_unit, roletalk_writable},
        memory::{check_out, put},
        sized::{self, sized},
        table,
        values::{roletalk_data, roletalk_string},
    },
    callbacks::{
        closure::{Closure, roletalk_drop},
        queue::{self, Item, Queue},
    },
    role::Layers,
    stream::{ReadEnd, WriteEnd},
};

/// What a handler is for, from its own side. A message: nobody waits for an answer.
pub const ROLETALK_KIND_MESSAGE: i32 = 1;
/// A request: the handler answers.
pub const ROLETALK_KIND_REQUEST: i32 = 2;
/// A stream that this peer reads: another one asked for a writable.
pub const ROLETALK_KIND_READABLE: i32 = 3;
/// A stream that this peer writes: another one asked for a readable.
pub const ROLETALK_KIND_WRITABLE: i32 = 4;

/// What came for a handler. Valid until the handler returns, also when it answers before.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_incoming {
    /// The size of this struct in the library.
    pub struct_size: usize,
    /// ROLETALK_KIND_MESSAGE, ROLETALK_KIND_REQUEST, ROLETALK_KIND_READABLE or ROLETALK_KIND_WRITABLE.
    pub kind: i32,
    /// The role that it is addressed to.
    pub role: roletalk_string,
    /// The name of the action; may be empty.
    pub event: roletalk_string,
    /// The payload.
    pub data: roletalk_data,
    /// The unit that sent it, borrowed.
    pub unit: roletalk_unit,
    /// What to answer.
    pub context: roletalk_context,
}

/// Called for what comes, where the peer's callbacks run. Messages of one unit come in their order.
///
/// A request or a stream that the handler neither answers nor defers is rejected when it returns.
/// Middleware that neither answers nor defers passes it on.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_incoming_handler {
    /// The function; not NULL.
    pub call:
        Option<unsafe extern "C" fn(user_data: *mut c_void, incoming: *const roletalk_incoming)>,
    /// Given to both functions.
    pub user_data: *mut c_void,
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    pub drop: roletalk_drop,
}

/// How something that middleware has passed on was answered. Valid during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_outcome {
    /// The size of this struct in the library.
    pub struct_size: usize,
    /// ROLETALK_STATUS_OK, or ROLETALK_STATUS_HANDLER_FAILED when it was rejected.
    pub status: roletalk_status,
    /// The answer, when it was not rejected.
    pub data: roletalk_data,
    /// Why it was rejected.
    pub error: roletalk_string,
    /// roletalk_context_respond and roletalk_context_reject replace the outcome.
    pub context: roletalk_context,
}

/// Called with the outcome of what went on to further middleware and the handler.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_outcome_handler {
    /// The function; not NULL.
    pub call:
        Option<unsafe extern "C" fn(user_data: *mut c_void, outcome: *const roletalk_outcome)>,
    /// Given to both functions.
    pub user_data: *mut c_void,
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    pub drop: roletalk_drop,
}

sized!(roletalk_incoming roletalk_outcome);

pub(crate) type IncomingCall = unsafe extern "C" fn(*mut c_void, *const roletalk_incoming);
pub(crate) type IncomingClosure = Closure<IncomingCall>;
type OutcomeClosure = Closure<unsafe extern "C" fn(*mut c_void, *const roletalk_outcome)>;

impl roletalk_incoming_handler {
    pub(crate) fn take(self) -> IncomingClosure {
        Closure::new(self.call, self.user_data, self.drop)
    }
}

fn kind_of(kind: Kind) -> i32 {
    match kind {
        Kind::Message => ROLETALK_KIND_MESSAGE,
        Kind::Request => ROLETALK_KIND_REQUEST,
        Kind::Readable => ROLETALK_KIND_READABLE,
        Kind::Writable => ROLETALK_KIND_WRITABLE,
    }
}

/// A handler of a role, with all that it needs when something comes.
pub(crate) struct Handler {
    pub(crate) closure: IncomingClosure,
    pub(crate) queue: Arc<Queue>,
    /// That of the peer, then that of the role.
    pub(crate) layers: [Arc<Layers>; 2],
}

impl Handler {
    /// For what needs no handler any more.
    fn none(queue: Arc<Queue>) -> Handler {
        let closure = Closure::new(None, std::ptr::null_mut(), None);
        Handler { closure, queue, layers: Default::default() }
    }
}

/// Something that came, until it is answered.
pub(crate) struct Exchange {
    context: Context,
    /// None when it was answered while a callback is looking at it.
    deferred: Option<Deferred>,
    handler: Arc<Handler>,
    /// Only where there is middleware.
    detour: Option<Box<Detour>>,
}

/// The way through middleware.
struct Detour {
    layers: Vec<Arc<IncomingClosure>>,
    /// How many layers it has passed.
    at: usize,
    /// A payload in the place of the original one.
    data: Option<Data>,
    observers: Vec<OutcomeClosure>,
    /// The outcome, while observers are told of it.
    outcome: Option<Result<Data, Error>>,
}

impl Exchange {
    fn new(context: Context, deferred: Deferred, handler: Arc<Handler>) -> Exchange {
        let detour = handler.layers.iter().any(|layers| layers.any()).then(|| {
            let layers = handler.layers.iter().flat_map(|layers| layers.list()).collect();
            Box::new(Detour { layers, at: 0, data: None, observers: Vec::new(), outcome: None })
        });
        Exchange { context, deferred: Some(deferred), handler, detour }
    }

    /// Something came for a handler: begins, where callbacks run.
    pub(crate) fn come_in(context: Context, deferred: Deferred, handler: &Arc<Handler>) {
        let mut slot = Some(Exchange::new(context, deferred, handler.clone()));
        if let Some(running) = handler.queue.begin_here() {
            // In its place: it is large.
            return running.run(|| Exchange::run_in(&mut slot, handler));
        }
        if let Some(exchange) = slot {
            handler.queue.push(Item::Exchange(exchange));
        }
    }

    fn queue(&self) -> &Arc<Queue> {
        &self.handler.queue
    }

    /// Whether callbacks run where it was read.
    fn is_inline(&self) -> bool {
        self.handler.queue.is_inline()
    }

    /// A payload of middleware's in the place of the original one.
    fn replaced(&self) -> Option<Data> {
        self.detour.as_ref().and_then(|detour| detour.data.clone())
    }

    /// The part of the payload that the bytes are, if they are one, without a copy.
    fn share(&self, bytes: &[u8]) -> Option<Bytes> {
        let whole = self.context.bytes().as_ptr_range();
        let part = bytes.as_ptr_range();
        let within = whole.start <= part.start && part.end <= whole.end && !bytes.is_empty();
        within.then(|| self.context.data().into_bytes().slice_ref(bytes))
    }

    /// The middleware that is next; none when it is the handler's turn.
    fn next_layer(&mut self) -> Option<Arc<IncomingClosure>> {
        let detour = self.detour.as_mut()?;
        detour.at += 1;
        detour.layers.get(detour.at - 1).cloned()
    }

    /// Whether the last callback was the handler.
    fn is_through(&self) -> bool {
        self.detour.as_ref().is_none_or(|detour| detour.at > detour.layers.len())
    }

    fn is_answered(&self) -> bool {
        self.detour.as_ref().is_some_and(|detour| detour.outcome.is_some())
    }

    /// Goes on to where it is answered or deferred, or tells of its outcome.
    pub(crate) fn run(self) {
        let handler = self.handler.clone();
        Exchange::run_in(&mut Some(self), &handler);
    }

    /// The same, where it lies; `handler` is its own.
    fn run_in(slot: &mut Option<Exchange>, handler: &Handler) {
        while let Some(exchange) = slot {
            if exchange.is_answered() {
                return Exchange::observe(slot);
            }
            let layer = exchange.next_layer();
            let closure = layer.as_deref().unwrap_or(&handler.closure);
            let Some((call, user_data)) = closure.parts() else { return };
            let replaced = exchange.replaced();
            let mut view = exchange.view(replaced.as_ref(), roletalk_unit::NONE);
            queue::lend_exchange(slot, |number, unit| {
                view.context.id = number;
                view.unit = unit;
                // SAFETY: function and argument belong together; the view points into the bytes of the
                // context, which `slot` or the frame holds, and into `replaced`; no lock is held.
                unsafe { call(user_data, &view) };
            });
            match slot {
                Some(exchange) if !exchange.is_open() => return,
                Some(exchange) if exchange.is_through() => {
                    let outcome = match exchange.context.kind() {
                        Kind::Message => Ok(Data::null()),
                        _ => Err(failed("The handler did not answer")),
                    };
                    return Exchange::finish(slot, outcome);
                }
                _ => {}
            }
        }
    }

    /// The view's pointers are valid as long as the context, or a clone of it, and `replaced`.
    fn view(&self, replaced: Option<&Data>, unit: roletalk_unit) -> roletalk_incoming {
        let own = || roletalk_data::lend_parts(self.context.data_type(), self.context.bytes());
        let (role, event) = self.context.names();
        roletalk_incoming {
            struct_size: size_of::<roletalk_incoming>(),
            kind: kind_of(self.context.kind()),
            role: roletalk_string::lend_bytes(role),
            event: roletalk_string::lend_bytes(event),
            data: replaced.map_or_else(own, roletalk_data::lend),
            unit,
            context: roletalk_context { id: 0 },
        }
    }

    /// Whether callbacks can still do something with it.
    pub(crate) fn is_open(&self) -> bool {
        self.deferred.is_some()
    }

    /// What a callback is looking at, to be kept until it returns.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// The means to answer, unless someone wants to know of the outcome before.
    fn close(&mut self) -> Option<Deferred> {
        let observed = self.detour.as_ref().is_some_and(|detour| !detour.observers.is_empty());
        if observed { None } else { self.deferred.take() }
    }

    /// Answers, or takes it out to tell of the outcome first.
    fn finish(slot: &mut Option<Exchange>, outcome: Result<Data, Error>) {
        let Some(exchange) = slot else { return };
        if let Some(deferred) = exchange.close() {
            return queue::answer(exchange.is_inline(), deferred, outcome);
        }
        if let Some(detour) = &mut exchange.detour {
            detour.outcome = Some(outcome);
        }
        if let Some(exchange) = slot.take() {
            let queue = exchange.queue().clone();
            queue.push(Item::Exchange(exchange));
        }
    }

    /// Says that the handler is done with a stream: the requester has its answer.
    fn say_done<T>(mut self, accepted: &Result<T, Error>) {
        if let Some(deferred) = self.deferred.take() {
            let outcome = accepted.as_ref().map(|_| Data::null()).map_err(Clone::clone);
            queue::answer(self.is_inline(), deferred, outcome);
        }
    }

    /// Tells those who wanted to know, the last middleware first.
    fn observe(slot: &mut Option<Exchange>) {
        while let Some(exchange) = slot {
            let Some(detour) = &mut exchange.detour else { return };
            let Some(outcome) = detour.outcome.clone() else { return };
            let Some(observer) = detour.observers.pop() else {
                if let Some(deferred) = exchange.deferred.take() {
                    queue::answer(exchange.is_inline(), deferred, outcome);
                }
                return;
            };
            let Some((call, user_data)) = observer.parts() else { continue };
            let (null, status) =
                (Data::null(), outcome.as_ref().err().map(|e| Status::of(e.kind())));
            let mut view = roletalk_outcome {
                struct_size: size_of::<roletalk_outcome>(),
                status: status.unwrap_or(Status::Ok),
                data: roletalk_data::lend(outcome.as_ref().unwrap_or(&null)),
                error: roletalk_string::lend(outcome.as_ref().err().map_or("", Error::text)),
                context: roletalk_context { id: 0 },
            };
            queue::lend_exchange(slot, |number, _| {
                view.context.id = number;
                // SAFETY: function and argument belong together; the view points into `outcome`, which
                // lives on, and no lock is held.
                unsafe { call(user_data, &view) };
            });
            observer.release_now();
        }
    }
}

fn failed(text: &str) -> Error {
    Error::new(ErrorKind::HandlerFailed, text.to_owned())
}

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
            true => queue::with_exchange(self.id, work),
            false => table::get::<Kept>(self.id)?.with(work),
        }
    }

    /// Takes what the handle stands for: of several that try, one succeeds.
    fn take(self) -> Result<Exchange, Failure> {
        if table::is_special(self.id) {
            return queue::part_with_exchange(self.id);
        }
        let kept = table::remove::<Kept>(self.id)?;
        let mut exchange = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        exchange.take().ok_or_else(table::invalid)
    }

    /// Answers with the outcome, which may be made of what came.
    fn answer(self, outcome: impl FnOnce(&Exchange) -> Result<Data, Error>) -> Result<(), Failure> {
        let (closed, given) = self.with(|exchange| {
            let given = outcome(exchange);
            if let Some(Detour { outcome: Some(outcome), .. }) = exchange.detour.as_deref_mut() {
                // Within an observer it replaces the outcome, and the exchange goes on.
                *outcome = given;
                return (None, None);
            }
            // What the running callback is looking at stays where it is.
            let closed = table::is_special(self.id).then(|| exchange.close()).flatten();
            (closed.map(|deferred| (exchange.is_inline(), deferred)), Some(given))
        })?;
        match (closed, given) {
            (Some((inline, deferred)), Some(outcome)) => queue::answer(inline, deferred, outcome),
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
        let accepted = exchange.context.accept_readable(data);
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
        let accepted = exchange.context.accept_writable(data);
        exchange.say_done(&accepted);
        let end = WriteEnd::insert(accepted?, queue);
        // SAFETY: as above.
        unsafe { put(stream, end, "stream") }
    })
}

fn check_kind(context: roletalk_context, kind: Kind) -> Result<(), Failure> {
    match context.with(|exchange| exchange.context.kind() == kind)? {
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
            // It may be kept for longer than the handler.
            exchange.handler = Arc::new(Handler::none(exchange.queue().clone()));
            if let Some(detour) = &mut exchange.detour {
                detour.at -= std::mem::take(&mut detour.layers).len();
            }
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
        let found = context.with(|exchange| exchange.context.unit())?;
        let handle = crate::unit::insert(found);
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
        let mut data = Some(data);
        // The one before is dropped outside, and callbacks hold it for as long as they need.
        let old = context.with(|exchange| {
            exchange.detour.as_mut().map(|detour| std::mem::replace(&mut detour.data, data.take()))
        })?;
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
        let mut closure = Some(closure.bind(&queue)?);
        context.with(|exchange| {
            if let Some(detour) = &mut exchange.detour {
                detour.observers.extend(closure.take());
            }
        })?;
        match closure {
            None => Ok(()),
            Some(_) => Err(Failure::invalid("Only middleware can ask for the outcome")),
        }
    })
}
