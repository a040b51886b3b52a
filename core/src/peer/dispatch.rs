//! From the engine's events to the application's handlers.

use std::{
    cell::Cell,
    future::poll_fn,
    num::NonZeroU64,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
    time::Instant,
};

use rustc_hash::FxHashMap;
use tracing::{debug, warn};

use super::{
    answers::{Received, Tag},
    backlog::{Job, LOOK, SLOW_BATCH, SLOW_FOR},
    context::Context,
    deferred::{Deferred, Way},
    event::PeerEvent,
    foreign::{Guarded, discard, guarded, panicked},
    handler::{Call, Chain, DeferredFunction, Function, Handler, HandlerFuture, Names, Next},
    outcome::{Outcome, Outcomes, Reply, Room, report, run_all},
    role::RoleInner,
    scope::{self, OnCancel, Scope, Scoped, Watch, cancelled, with_fields},
    shared::Shared,
    unit::UnitInner,
};
use crate::{
    Result,
    engine::{self, CancelReason, ConnId, Event, Incoming, Kind, Question, Refusal, printable},
    wire::Data,
};

/// Where a handler has come to.
enum Step {
    Done(Result<Data>),
    Waits(HandlerFuture),
}

/// The handler that was found last: the next message nearly always goes there, too.
struct Found {
    /// When it was found, see [`Changes`].
    at: u64,
    role: Arc<RoleInner>,
    kind: Kind,
    service: Service,
    /// See [`Incoming::same_names`].
    names: Option<NonZeroU64>,
}

/// A handler, and what it is called with.
pub(crate) struct Service {
    pub(crate) handler: Arc<Handler>,
    /// Empty for nearly all.
    pub(crate) chain: Option<Chain>,
    pub(crate) place: Place,
}

/// Where a handler's futures are.
#[derive(Default)]
pub(crate) enum Place {
    /// Each in one of its own: the last one had to wait, and went away with its task.
    #[default]
    Own,
    /// Not known yet.
    Any,
    /// One after the other in the same.
    Same(Box<dyn Call>),
}

impl Found {
    #[inline]
    fn is_for(&mut self, incoming: &Incoming, kind: Kind, at: u64) -> bool {
        self.at == at && self.kind == kind && self.has_names(incoming) && self.role.is_active()
    }

    #[inline]
    fn has_names(&mut self, incoming: &Incoming) -> bool {
        let names = incoming.same_names();
        if names.is_some() && names == self.names {
            return true;
        }
        let Names { role, event } = &*self.service.handler.names;
        let same = incoming.names() == (role.as_bytes(), event.as_bytes());
        if same {
            self.names = names;
        }
        same
    }
}

/// Runs handlers for one connection. A handler is started right where its message was read; only
/// when it has to wait does it become a task.
pub(crate) struct Dispatcher {
    found: Option<Found>,
    answers: Vec<(Tag, Result<Received>)>,
    room: Room,
}

impl Dispatcher {
    pub(crate) fn new() -> Dispatcher {
        Dispatcher { found: None, answers: Vec::new(), room: Room::default() }
    }

    /// Does what the events mean. Returns connections that must be closed as dead.
    pub(crate) fn dispatch(
        &mut self,
        unit: &Arc<UnitInner>,
        events: &mut Vec<Event<Tag>>,
    ) -> Vec<ConnId> {
        // Nearly always they are all for handlers, or all for those who wait.
        if events.iter().all(|event| matches!(event, Event::Incoming(..))) {
            self.run(unit, events);
            return Vec::new();
        }
        if events.iter().all(|event| matches!(event, Event::Answer { .. })) {
            unit.bring(events.drain(..).filter_map(answer));
            return Vec::new();
        }
        self.dispatch_others(unit, events)
    }

    #[inline(never)]
    fn dispatch_others(
        &mut self,
        unit: &Arc<UnitInner>,
        events: &mut Vec<Event<Tag>>,
    ) -> Vec<ConnId> {
        let (mut dead, mut cancelled) = (Vec::new(), Vec::new());
        let shared = &unit.shared;
        // How many of those that stay are before the one that is looked at.
        let before = Cell::new(0);
        let is_other = |event: &mut Event<Tag>| {
            let incoming = matches!(event, Event::Incoming(..));
            before.set(before.get() + usize::from(incoming));
            !incoming
        };
        for event in events.extract_if(.., is_other) {
            match event {
                event @ Event::Answer { .. } => self.answers.extend(answer(event)),
                Event::Stream(id) => {
                    if let Some(waker) = unit.with(|state| state.waker(id)) {
                        waker.wake();
                    }
                }
                Event::Room => unit.room.notify_waiters(),
                Event::News(news) => {
                    shared.with_core(|core, now| core.peer.hear(unit.id, news, now));
                }
                Event::Unsent(message) => shared.resend(&message),
                Event::Dead(conn) => dead.push(conn),
                Event::SlowConsumer { queued, dropped, .. } => {
                    let info = unit.info.load();
                    let (id, name) = (printable(&info.id), printable(&info.name));
                    warn!(unit = %id, name, queued, dropped, "slow consumer");
                    let unit = super::Unit::new(unit.clone());
                    shared.emit(PeerEvent::SlowConsumer { unit, queued, dropped });
                }
                Event::Cancelled { request, reason } => {
                    cancelled.push((request, reason, before.get()));
                }
                Event::Incoming(..) => {}
            }
        }
        if !self.answers.is_empty() {
            unit.bring(self.answers.drain(..));
        }
        // Not about what comes behind them, which may have the number of one that was before.
        let mut last = FxHashMap::default();
        if cancelled.iter().any(|(request, _, before)| request.is_some() && *before < events.len())
        {
            last.extend(events.iter().enumerate().filter_map(|(at, event)| match event {
                Event::Incoming(_, question) => Some((question.request()?, at)),
                _ => None,
            }));
        }
        cancelled.retain(|(request, reason, before)| {
            let comes = request.and_then(|request| last.get(&request).copied());
            let early = comes.is_some_and(|at| at >= *before);
            if early {
                unit.scopes.cancel(*request, *reason);
            }
            !early
        });
        self.run(unit, events);
        // Behind what they may be about.
        for (request, reason, _) in cancelled {
            unit.backlog.cancel(request);
            unit.scopes.cancel(request, reason);
        }
        dead
    }

    /// Runs handlers for what came, without any lock.
    fn run(&mut self, unit: &Arc<UnitInner>, incoming: &mut Vec<Event<Tag>>) {
        if incoming.is_empty() {
            return;
        }
        let mut incoming = incoming.drain(..);
        let begun = Instant::now();
        if unit.backlog.is_on(begun) {
            return self.leave(unit, incoming);
        }
        let mut started = 0;
        run_all(unit, &mut self.room, |outcomes| {
            while let Some(Event::Incoming(incoming, question)) = incoming.next() {
                // Where it stays until the handler takes it: what is moved costs as much as some of the work.
                let context = &mut Some(Context::new(unit.clone(), incoming, question.kind()));
                let Some(known) = context else { continue };
                match find(&mut self.found, unit, known.incoming(), question.kind()) {
                    Ok(service) => {
                        let (reply, scope) = prepare(unit, known, question, &service.handler);
                        first_step(unit, service, context, reply, scope, outcomes);
                    }
                    Err(refusal) => refuse(unit, question, refusal),
                }
                started += 1;
                if started % LOOK == 0 && begun.elapsed() > SLOW_BATCH {
                    break;
                }
            }
        });
        let now = Instant::now();
        if now - begun > SLOW_BATCH {
            unit.backlog.begin(now + SLOW_FOR);
            self.leave(unit, incoming);
        }
    }

    /// Leaves what came to the backlog.
    fn leave(&mut self, unit: &Arc<UnitInner>, incoming: impl Iterator<Item = Event<Tag>>) {
        let jobs = incoming.filter_map(|event| {
            let Event::Incoming(incoming, question) = event else { return None };
            let found = find(&mut self.found, unit, &incoming, question.kind());
            let (handler, chain) = match found {
                Ok(service) => (service.handler.clone(), service.chain.clone()),
                Err(refusal) => {
                    refuse(unit, question, refusal);
                    return None;
                }
            };
            let mut context = Context::new(unit.clone(), incoming, question.kind());
            let (reply, scope) = prepare(unit, &mut context, question, &handler);
            let service = Service { handler, chain, place: Place::Own };
            Some(Job { service, context, reply, scope, begins: true })
        });
        // Found before the lock is taken.
        let jobs: Vec<Job> = jobs.collect();
        unit.backlog.add(unit, jobs);
    }
}

/// The outcome of a request, for the one who waits.
#[inline]
fn answer(event: Event<Tag>) -> Option<(Tag, Result<Received>)> {
    match event {
        Event::Answer { tag, outcome, fields, .. } => {
            Some((tag, outcome.map(|data| Received { data, fields })))
        }
        _ => None,
    }
}

/// Finds the handler, or why there is none.
#[inline]
fn find<'a>(
    found: &'a mut Option<Found>,
    unit: &UnitInner,
    incoming: &Incoming,
    kind: Kind,
) -> Result<&'a mut Service, Refusal> {
    let at = unit.shared.changes.count();
    if found.as_mut().is_some_and(|found| !found.is_for(incoming, kind, at)) {
        *found = None;
    }
    let found = match found {
        Some(found) => found,
        None => found.insert(look_up(&unit.shared, incoming, kind, at)?),
    };
    Ok(&mut found.service)
}

#[inline(never)]
fn look_up(shared: &Shared, incoming: &Incoming, kind: Kind, at: u64) -> Result<Found, Refusal> {
    let (name, event) = (incoming.role(), incoming.event());
    let roles = shared.roles.load();
    let (role, handler) = engine::find(name, roles.get(name), kind, event)?;
    let chain = role.chain(&shared.middleware);
    let (role, names) = (role.clone(), incoming.same_names());
    let service = Service { handler, chain, place: Place::Any };
    Ok(Found { at, role, kind, service, names })
}

/// The way back, and what the handler's requests inherit.
#[inline(always)] // It is called for each message.
fn prepare(
    unit: &Arc<UnitInner>,
    context: &mut Context,
    question: Question,
    handler: &Handler,
) -> (Reply, Option<Arc<Scope>>) {
    let incoming = context.incoming();
    let scope = match incoming.has_fields() {
        true => Some(with_fields(unit, incoming, &question, handler.on_cancel)),
        false => None,
    };
    let reply = match question.kind() {
        Kind::Message | Kind::Request => Reply::Question(question),
        Kind::Readable | Kind::Writable => Reply::Stream(context.offers(question)),
    };
    (reply, scope)
}

/// Takes a handler to its end and puts its outcome to the others, or takes it to where it first waits and
/// leaves it to a task, which polls it once more: the wake-up of this first try is not needed.
///
/// `context` is taken.
pub(crate) fn first_step(
    unit: &Arc<UnitInner>,
    service: &mut Service,
    context: &mut Option<Context>,
    reply: Reply,
    scope: Option<Arc<Scope>>,
    outcomes: &mut Outcomes,
) {
    let Service { handler, chain, place } = service;
    let on_cancel = handler.on_cancel;
    let request = match context {
        Some(context) if context.kind() != Kind::Message => context.belongs_to(reply.request()),
        _ => None,
    };
    let begun = scope::begin(request, on_cancel, scope);
    let end = || if begun { scope::end() } else { None };
    if let (Function::Deferred(function), None) = (&handler.function, &chain)
        && let Some(context) = context.take()
    {
        call_deferred(unit, &handler.names, function, context, reply);
        end();
        return;
    }
    // As `guarded` does it, without moving what it gives once more: this is the path of every message.
    let step = catch_unwind(AssertUnwindSafe(|| {
        let cx = &mut TaskContext::from_waker(Waker::noop());
        // What panics leaves nothing behind.
        let call = match (std::mem::take(place), &handler.function, &chain) {
            (Place::Same(call), _, None) => Some(call),
            (Place::Any, Function::Future { call, .. }, None) => Some(call()),
            _ => None,
        };
        if let Some(mut call) = call {
            return match call.begin(context, cx) {
                Poll::Ready(outcome) => {
                    *place = Place::Same(call);
                    Step::Done(outcome)
                }
                Poll::Pending => Step::Waits(Box::pin(poll_fn(move |cx| call.poll(cx)))),
            };
        }
        let mut future = start(handler, chain.as_ref(), context);
        match future.as_mut().poll(cx) {
            Poll::Ready(outcome) => {
                *place = Place::Any;
                Step::Done(outcome)
            }
            Poll::Pending => Step::Waits(future),
        }
    }));
    let scope = end();
    match step {
        Ok(Step::Done(outcome)) => {
            report(unit, &handler.names, reply.is_heard(), &outcome);
            match reply {
                Reply::Question(question) if !question.is_heard() => outcomes.add_unheard(question),
                reply => outcomes.add_heard(ended(unit, reply, outcome, scope)),
            }
        }
        Ok(Step::Waits(future)) => {
            // It may be cancelled from now on.
            let begin = || Some(unit.scopes.begin(request?, on_cancel));
            let scope = scope.or_else(begin);
            go_on(unit.clone(), handler.names.clone(), reply, future, scope);
        }
        Err(payload) => {
            discard(payload);
            let outcome = Err(panicked());
            report(unit, &handler.names, reply.is_heard(), &outcome);
            outcomes.add(ended(unit, reply, outcome, scope));
        }
    }
}

/// Calls a handler whose future goes to a place of its own, perhaps behind middleware.
#[inline(never)]
fn start(
    handler: &Arc<Handler>,
    chain: Option<&Chain>,
    context: &mut Option<Context>,
) -> HandlerFuture {
    let Some(context) = context.take() else { unreachable!("each handler is called once") };
    match chain.cloned() {
        None => handler.function.start(context),
        Some(chain) => Next { chain, at: 0, handler: handler.clone() }.start(context),
    }
}

/// The outcome of a handler, which is to be told nothing more.
#[inline(always)] // It is called for each message.
fn ended(
    unit: &UnitInner,
    reply: Reply,
    outcome: Result<Data>,
    scope: Option<Arc<Scope>>,
) -> Outcome {
    match (scope, outcome) {
        (None, Ok(data)) => Outcome { reply, result: Ok(data), fields: None, cancelled: false },
        (scope, outcome) => ended_with(unit, reply, outcome, scope),
    }
}

#[inline(never)]
fn ended_with(
    unit: &UnitInner,
    reply: Reply,
    outcome: Result<Data>,
    scope: Option<Arc<Scope>>,
) -> Outcome {
    if scope.is_some()
        && let Some(request) = reply.request()
    {
        unit.scopes.remove(request);
    }
    Outcome::new(reply, outcome, scope)
}

/// Apart, as the next one.
#[inline(never)]
fn call_deferred(
    unit: &Arc<UnitInner>,
    names: &Arc<Names>,
    function: &DeferredFunction,
    context: Context,
    reply: Reply,
) {
    let deferred = Deferred(Some(Way::Unit(unit.clone(), names.clone(), reply)));
    if guarded(|| function(context, deferred)).is_none() {
        report(unit, names, false, &Err(panicked()));
    }
}

/// Leaves a handler that has to wait to a task. Apart: what it needs on the stack would cost those that do not.
#[inline(never)]
fn go_on(
    unit: Arc<UnitInner>,
    names: Arc<Names>,
    reply: Reply,
    future: HandlerFuture,
    scope: Option<Arc<Scope>>,
) {
    unit.shared.clone().spawn_handler(async move {
        let future = Guarded::new(future);
        let outcome = match scope.clone() {
            None => future.await,
            Some(scope) => {
                let drops = scope.on_cancel() == OnCancel::Drop;
                let mut watch = Watch::new(Some(scope.clone()).filter(|_| drops));
                watch.run(Scoped { scope, future }).await
            }
        };
        report(&unit, &names, reply.is_heard(), &outcome);
        let mut outcomes = Outcomes::default();
        outcomes.add(ended(&unit, reply, outcome, scope));
        outcomes.give_back(&unit);
    });
}

/// Gives a question back whose handler is not to be called: nobody waits for the answer.
#[cold]
pub(crate) fn not_begun(unit: &UnitInner, reply: Reply) {
    if let Some(request) = reply.request() {
        unit.scopes.remove(request);
    }
    let result = Err(cancelled(CancelReason::Requester));
    let mut outcomes = Outcomes::default();
    outcomes.add(Outcome { reply, result, fields: None, cancelled: true });
    outcomes.give_back(unit);
}

/// Rejects what has no handler. Messages are dropped: their sender is not told, as in the original, so
/// the log is where a misspelt name shows.
fn refuse(unit: &Arc<UnitInner>, question: Question, refusal: Refusal) {
    let info = unit.info.load();
    debug!(
        unit = %printable(&info.id),
        name = printable(&info.name),
        reason = printable(refusal.reason()),
        "not handled"
    );
    let now = unit.shared.clock.now();
    unit.with(|state| state.machine.refuse(question, refusal, now));
}
