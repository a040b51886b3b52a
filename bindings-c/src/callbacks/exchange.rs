//! What comes to a role's handlers, on its way through middleware to the handler and back.

use std::{
    os::raw::c_void,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use engine::{Context, Data, Deferred, Error, ErrorKind, Kind, Scope};

use crate::{
    border::{
        failure::{Failure, Said, Status, roletalk_status},
        handles::{roletalk_context, roletalk_unit},
        sized::sized,
        values::{roletalk_data, roletalk_string},
    },
    callbacks::{
        closure::{Closure, roletalk_drop},
        frame,
        item::{Callbacks, Item, Task},
        lend::{self, Lendable},
    },
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
    /// roletalk_context_respond, roletalk_context_reject and roletalk_context_reject_with replace the outcome.
    pub context: roletalk_context,
    /// The name that the handler has given its failure (roletalk_failure.code); may be empty.
    pub error_code: roletalk_string,
    /// What the handler has added to its failure (roletalk_failure.data): JSON; may be empty.
    pub error_data: roletalk_string,
    /// After how many milliseconds, says the handler, it is worth trying again; -1 when it says nothing.
    pub retry_after_ms: i64,
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
pub(crate) type OutcomeClosure =
    Closure<unsafe extern "C" fn(*mut c_void, *const roletalk_outcome)>;

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

/// # Errors
/// `Status::InvalidArgument`.
pub(crate) fn kind_from(number: i32) -> Result<Kind, Failure> {
    match number {
        ROLETALK_KIND_MESSAGE => Ok(Kind::Message),
        ROLETALK_KIND_REQUEST => Ok(Kind::Request),
        ROLETALK_KIND_READABLE => Ok(Kind::Readable),
        ROLETALK_KIND_WRITABLE => Ok(Kind::Writable),
        other => Err(Failure::invalid(format!("there is no kind {other}"))),
    }
}

/// A handler of a role, with all that it needs when something comes.
pub(crate) struct Handler {
    pub(crate) closure: IncomingClosure,
    pub(crate) queue: Arc<Callbacks>,
    /// That of the peer, then that of the role.
    pub(crate) layers: [Arc<Layers>; 2],
}

impl Handler {
    /// For what needs no handler any more.
    fn none(queue: Arc<Callbacks>) -> Handler {
        let closure = Closure::new(None, std::ptr::null_mut(), None);
        Handler { closure, queue, layers: Default::default() }
    }
}

/// Middleware, in its order.
#[derive(Default)]
pub(crate) struct Layers {
    /// For nearly all there is none: then this is all that is looked at.
    any: AtomicBool,
    list: RwLock<Vec<Arc<IncomingClosure>>>,
}

impl Layers {
    pub(crate) fn add(&self, layer: IncomingClosure) {
        self.list.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(layer));
        self.any.store(true, Ordering::Release);
    }

    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    pub(crate) fn list(&self) -> Vec<Arc<IncomingClosure>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets go of all, when the peer ends.
    pub(crate) fn clear(&self) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let layers = std::mem::take(&mut *list);
        drop(list);
        drop(layers);
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
    /// What tells when nobody waits for the answer any more. Not asked for by what is answered where it came.
    scope: Option<Arc<Scope>>,
    /// Those who wait for that.
    watches: Watches,
}

/// Callbacks for when nobody waits for an answer any more: they end with this. To be dropped where foreign code
/// may be called.
#[derive(Default)]
pub(crate) struct Watches(Vec<Arc<Task>>);

impl Drop for Watches {
    fn drop(&mut self) {
        for watch in &self.0 {
            watch.cancel();
        }
    }
}

/// The means to answer, taken from what came.
pub(crate) struct Closing {
    inline: bool,
    deferred: Deferred,
    watches: Watches,
}

impl Closing {
    pub(crate) fn answer(self, outcome: Result<Data, Error>) {
        let Closing { inline, deferred, watches } = self;
        // From here on it is not canceled any more.
        drop(watches);
        frame::answer(inline, deferred, outcome);
    }
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

impl Lendable for Exchange {
    fn context(&self) -> &Context {
        &self.context
    }

    fn is_open(&self) -> bool {
        self.deferred.is_some()
    }
}

impl Exchange {
    fn new(context: Context, deferred: Deferred, handler: Arc<Handler>) -> Exchange {
        let detour = handler.layers.iter().any(|layers| layers.any()).then(|| {
            let layers = handler.layers.iter().flat_map(|layers| layers.list()).collect();
            Box::new(Detour { layers, at: 0, data: None, observers: Vec::new(), outcome: None })
        });
        let (scope, watches) = (None, Watches::default());
        Exchange { context, deferred: Some(deferred), handler, detour, scope, watches }
    }

    /// Something came for a handler: begins, where callbacks run.
    pub(crate) fn come_in(context: Context, deferred: Deferred, handler: &Arc<Handler>) {
        let mut slot = Some(Exchange::new(context, deferred, handler.clone()));
        if let Some(running) = handler.queue.begin_here() {
            // In its place: it is large.
            return running.run(|| Exchange::run_in(&mut slot, handler));
        }
        if let Some(exchange) = slot {
            exchange.queue_up();
        }
    }

    /// Goes on later, where callbacks run.
    pub(crate) fn queue_up(mut self) {
        self.hold();
        let queue = self.queue().clone();
        queue.push(Item::Exchange(self));
    }

    /// Asks for what tells when nobody waits for the answer any more: for what outlives the function that it came
    /// to this is the last chance.
    pub(crate) fn hold(&mut self) {
        if self.scope.is_none() {
            self.scope = self.context.scope();
        }
    }

    /// What tells when nobody waits for the answer any more; none for a message.
    pub(crate) fn scope(&mut self) -> Option<&Arc<Scope>> {
        self.hold();
        self.scope.as_ref()
    }

    /// Ends something with the answer.
    pub(crate) fn watch(&mut self, watch: Arc<Task>) {
        self.watches.0.push(watch);
    }

    pub(crate) fn queue(&self) -> &Arc<Callbacks> {
        &self.handler.queue
    }

    /// Whether callbacks run where it was read.
    pub(crate) fn is_inline(&self) -> bool {
        self.handler.queue.is_inline()
    }

    /// A payload of middleware's in the place of the original one.
    pub(crate) fn replaced(&self) -> Option<Data> {
        self.detour.as_ref().and_then(|detour| detour.data.clone())
    }

    /// The part of the payload that the bytes are, if they are one, without a copy.
    pub(crate) fn share(&self, bytes: &[u8]) -> Option<Bytes> {
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
    pub(crate) fn is_through(&self) -> bool {
        self.detour.as_ref().is_none_or(|detour| detour.at > detour.layers.len())
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.detour.as_ref().is_some_and(|detour| detour.outcome.is_some())
    }

    /// Whether no callback has been called yet.
    fn is_fresh(&self) -> bool {
        self.detour.as_ref().is_none_or(|detour| detour.at == 0 && detour.outcome.is_none())
    }

    /// Goes on to where it is answered or deferred, or tells of its outcome.
    pub(crate) fn run(self) {
        let canceled = self.scope.as_ref().and_then(|scope| scope.reason());
        if let Some(reason) = canceled.filter(|_| self.is_fresh()) {
            // It is not begun: nobody hears of it.
            return self.say_done(&Err::<(), _>(Error::new(ErrorKind::Cancelled, reason.text())));
        }
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
            lend::lend_exchange(slot, |number, unit| {
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
    pub(crate) fn view(&self, replaced: Option<&Data>, unit: roletalk_unit) -> roletalk_incoming {
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

    pub(crate) fn kind(&self) -> Kind {
        self.context.kind()
    }

    /// Lets go of the handler and the middleware that it has passed, where it may be kept for longer.
    pub(crate) fn outlive_handler(&mut self) {
        self.handler = Arc::new(Handler::none(self.queue().clone()));
        if let Some(detour) = &mut self.detour {
            detour.at -= std::mem::take(&mut detour.layers).len();
        }
    }

    /// Puts a payload in the place of the one that came, and gives the one before. None where there is no
    /// middleware.
    pub(crate) fn replace_data(&mut self, data: Data) -> Option<Option<Data>> {
        self.detour.as_mut().map(|detour| detour.data.replace(data))
    }

    /// Tells `observer` of the outcome. Gives it back where there is no middleware.
    pub(crate) fn observe_with(&mut self, observer: OutcomeClosure) -> Result<(), OutcomeClosure> {
        match &mut self.detour {
            Some(detour) => {
                detour.observers.push(observer);
                Ok(())
            }
            None => Err(observer),
        }
    }

    /// Within an observer: replaces the outcome, and the exchange goes on. Elsewhere gives it back.
    pub(crate) fn replace_outcome(
        &mut self,
        outcome: Result<Data, Error>,
    ) -> Option<Result<Data, Error>> {
        match self.detour.as_deref_mut() {
            Some(Detour { outcome: Some(known), .. }) => {
                *known = outcome;
                None
            }
            _ => Some(outcome),
        }
    }

    /// The means to answer, unless someone wants to know of the outcome before.
    pub(crate) fn close(&mut self) -> Option<Closing> {
        let observed = self.detour.as_ref().is_some_and(|detour| !detour.observers.is_empty());
        let deferred = if observed { None } else { self.deferred.take() }?;
        let (inline, watches) = (self.is_inline(), std::mem::take(&mut self.watches));
        Some(Closing { inline, deferred, watches })
    }

    /// Answers, or takes it out to tell of the outcome first.
    pub(crate) fn finish(slot: &mut Option<Exchange>, outcome: Result<Data, Error>) {
        let Some(exchange) = slot else { return };
        if let Some(closing) = exchange.close() {
            return closing.answer(outcome);
        }
        drop(std::mem::take(&mut exchange.watches));
        if let Some(detour) = &mut exchange.detour {
            detour.outcome = Some(outcome);
        }
        if let Some(exchange) = slot.take() {
            exchange.queue_up();
        }
    }

    /// Says that the handler is done with a stream: the requester has its answer.
    pub(crate) fn say_done<T>(mut self, accepted: &Result<T, Error>) {
        if let Some(deferred) = self.deferred.take() {
            let outcome = accepted.as_ref().map(|_| Data::null()).map_err(Clone::clone);
            frame::answer(self.is_inline(), deferred, outcome);
        }
    }

    /// Tells those who wanted to know, the last middleware first.
    fn observe(slot: &mut Option<Exchange>) {
        while let Some(exchange) = slot {
            let Some(detour) = &mut exchange.detour else { return };
            let Some(outcome) = detour.outcome.clone() else { return };
            let Some(observer) = detour.observers.pop() else {
                if let Some(deferred) = exchange.deferred.take() {
                    frame::answer(exchange.is_inline(), deferred, outcome);
                }
                return;
            };
            let Some((call, user_data)) = observer.parts() else { continue };
            let (null, error) = (Data::null(), outcome.as_ref().err());
            let status = error.map(|error| Status::of(error.kind()));
            let said = error.and_then(Error::failure).map_or(Said::NOTHING, Said::of);
            let mut view = roletalk_outcome {
                struct_size: size_of::<roletalk_outcome>(),
                status: status.unwrap_or(Status::Ok),
                data: roletalk_data::lend(outcome.as_ref().unwrap_or(&null)),
                error: roletalk_string::lend(error.map_or("", Error::text)),
                context: roletalk_context { id: 0 },
                error_code: roletalk_string::lend(said.code),
                error_data: roletalk_string::lend(said.data),
                retry_after_ms: said.retry_after_ms,
            };
            lend::lend_exchange(slot, |number, _| {
                view.context.id = number;
                // SAFETY: function and argument belong together; the view points into `outcome`, which
                // lives on, and no lock is held.
                unsafe { call(user_data, &view) };
            });
            observer.release_now();
        }
    }
}

pub(crate) fn failed(text: &str) -> Error {
    Error::new(ErrorKind::HandlerFailed, text.to_owned())
}
