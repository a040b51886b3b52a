//! From the engine's events to the application's handlers, and back with the answers.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    future::poll_fn,
    num::NonZeroU64,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context as TaskContext, Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::{
    answers::Tag,
    context::{Context, Offer},
    event::PeerEvent,
    lock,
    role::RoleInner,
    shared::Shared,
    unit::UnitInner,
};
use crate::{
    Error, ErrorKind, Result,
    engine::{self, ConnId, Event, Incoming, Kind, Question},
    wire::{Data, Payload},
};

/// A future of a handler, on the heap.
pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Data>> + Send>>;

/// What serves an event.
pub(crate) struct Handler {
    pub(crate) names: Arc<Names>,
    pub(crate) function: Function,
}

/// What a handler was set for.
pub(crate) struct Names {
    pub(crate) role: Arc<str>,
    pub(crate) event: Arc<str>,
}

pub(crate) enum Function {
    /// Its outcome is the answer.
    Future {
        start: Box<dyn Fn(Context) -> HandlerFuture + Send + Sync>,
        /// Makes what can be called over and over.
        call: Box<dyn Fn() -> Box<dyn Call> + Send + Sync>,
    },
    /// It is given the means to answer.
    Deferred(Box<dyn Fn(Context, Deferred) + Send + Sync>),
}

/// A handler's future whose place on the heap serves for one call after the other: most handlers end at
/// once, and making room for each costs more than many of them.
pub(crate) trait Call: Send {
    /// Calls the handler. Once it is ready, the next call may begin.
    fn begin(&mut self, context: Context, cx: &mut TaskContext<'_>) -> Poll<Result<Data>>;

    /// Goes on with the call.
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Data>>;
}

impl Function {
    /// Behind middleware, which waits for an outcome in any case.
    fn start(&self, context: Context) -> HandlerFuture {
        match self {
            Function::Future { start, .. } => start(context),
            Function::Deferred(function) => {
                let (sender, receiver) = oneshot::channel();
                function(context, Deferred(Some(Way::Middleware(sender))));
                Box::pin(async { receiver.await.unwrap_or_else(|_| Err(unanswered())) })
            }
        }
    }
}

pub(crate) type Middleware = Arc<dyn Fn(Context, Next) -> HandlerFuture + Send + Sync>;

/// The middleware that something goes through.
#[derive(Clone)]
pub(crate) struct Chain {
    pub(crate) peer: Arc<Vec<Middleware>>,
    pub(crate) role: Arc<Vec<Middleware>>,
}

/// The rest of the chain behind a middleware: further middleware, then the handler.
pub struct Next {
    chain: Chain,
    at: usize,
    handler: Arc<Handler>,
}

impl Next {
    /// Runs the rest of the chain and gives its outcome, which the middleware may pass on, change
    /// or replace. Not calling it means that the handler does not run.
    ///
    /// # Errors
    /// What the handler or a later middleware failed with.
    pub async fn run(self, context: Context) -> Result<Data> {
        self.start(context).await
    }

    fn start(mut self, context: Context) -> HandlerFuture {
        let Chain { peer, role } = &self.chain;
        let middleware = match peer.get(self.at) {
            Some(middleware) => Some(middleware),
            None => role.get(self.at - peer.len()),
        };
        match middleware.cloned() {
            Some(middleware) => {
                self.at += 1;
                middleware(context, self)
            }
            None => self.handler.function.start(context),
        }
    }
}

/// The way back for an outcome.
enum Reply {
    Question(Question),
    /// That of a stream, which the context may accept.
    Stream(Arc<Offer>),
}

impl Reply {
    /// Whether a requester hears of the outcome.
    fn is_heard(&self) -> bool {
        match self {
            Reply::Question(question) => question.is_heard(),
            Reply::Stream(offer) => offer.is_heard(),
        }
    }

    fn question(self) -> Option<Question> {
        match self {
            Reply::Question(question) => Some(question),
            Reply::Stream(offer) => offer.take(),
        }
    }
}

/// The means to answer what a [deferred](crate::Role::on_deferred) handler was called for: once, at
/// any time, on any thread.
///
/// Dropping it unanswered rejects a request or a stream that was not accepted. A message has no
/// answer; dropping its `Deferred` says that it has been dealt with. What is not answered yet counts as a
/// running handler ([`Limits::running_handlers`](engine::Limits)).
pub struct Deferred(Option<Way>);

/// Where an outcome goes.
enum Way {
    Unit(Arc<UnitInner>, Arc<Names>, Reply),
    Middleware(oneshot::Sender<Result<Data>>),
}

impl Deferred {
    /// Answers, or rejects with the error's text. Never waits: when the unit has no room, a task
    /// does. Within the handler itself the answer leaves with those of the handlers that the connection
    /// calls next.
    pub fn respond(mut self, outcome: Result<Data>) {
        match self.0.take() {
            Some(Way::Unit(unit, names, reply)) => {
                report(&unit, &names, reply.is_heard(), &outcome);
                if let Some((reply, outcome)) = with_batch(&unit, (reply, outcome)) {
                    let mut outcomes = Outcomes::default();
                    outcomes.add(reply, outcome);
                    outcomes.give_back(&unit);
                }
            }
            Some(Way::Middleware(sender)) => {
                // The middleware may have gone on without it.
                let _ = sender.send(outcome);
            }
            None => {}
        }
    }

    /// Answers many at once, which costs less than one after the other.
    #[doc(hidden)] // For bindings; no promise of compatibility.
    pub fn respond_all(answers: impl IntoIterator<Item = (Deferred, Result<Data>)>) {
        let mut batch = Outcomes::default();
        let mut of: Option<Arc<UnitInner>> = None;
        for (mut deferred, outcome) in answers {
            match deferred.0.take() {
                Some(Way::Unit(unit, names, reply)) => {
                    report(&unit, &names, reply.is_heard(), &outcome);
                    if let Some(other) = of.take_if(|of| !Arc::ptr_eq(of, &unit)) {
                        batch.give_back(&other);
                    }
                    of.get_or_insert(unit);
                    batch.add(reply, outcome);
                }
                Some(Way::Middleware(sender)) => {
                    // The middleware may have gone on without it.
                    let _ = sender.send(outcome);
                }
                None => {}
            }
        }
        if let Some(unit) = of {
            batch.give_back(&unit);
        }
    }
}

/// What handlers of one unit have come to, until all is given back under one lock.
#[derive(Default)]
struct Outcomes {
    heard: Vec<(Reply, Result<Data>)>,
    /// The questions of messages, all in one.
    unheard: Option<Question>,
}

impl Outcomes {
    #[inline]
    fn add(&mut self, reply: Reply, outcome: Result<Data>) {
        let question = match reply {
            Reply::Question(question) if !question.is_heard() => question,
            reply => return self.heard.push((reply, outcome)),
        };
        match &mut self.unheard {
            Some(unheard) => unheard.join(question),
            none => *none = Some(question),
        }
    }

    fn append(&mut self, other: &mut Outcomes) {
        self.heard.append(&mut other.heard);
        match (&mut self.unheard, other.unheard.take()) {
            (Some(unheard), Some(question)) => unheard.join(question),
            (none @ None, question) => *none = question,
            (Some(_), None) => {}
        }
    }

    /// Gives all questions back. The allocation is kept.
    fn give_back(&mut self, unit: &UnitInner) {
        let unheard = self.unheard.take();
        if self.heard.is_empty() && unheard.is_none() {
            return;
        }
        let now = unit.shared.clock.now();
        unit.with(|state| {
            for (reply, outcome) in self.heard.drain(..) {
                if let Some(question) = reply.question() {
                    let outcome = outcome.as_ref().map(Data::payload).map_err(Error::text);
                    state.machine.answer(question, outcome, now);
                }
            }
            if let Some(question) = unheard {
                state.machine.answer(question, Ok(Payload::NULL), now);
            }
        });
    }
}

/// The answers that deferred handlers give before they return.
struct Batch {
    unit: Arc<UnitInner>,
    outcomes: Outcomes,
}

thread_local! {
    /// That of the handlers that this thread is calling.
    static BATCH: RefCell<Option<Batch>> = const { RefCell::new(None) };
}

/// Puts an answer to the others of the unit, or gives it back.
fn with_batch(
    unit: &Arc<UnitInner>,
    answer: (Reply, Result<Data>),
) -> Option<(Reply, Result<Data>)> {
    let mut answer = Some(answer);
    // While the thread ends, there is none.
    let _ = BATCH.try_with(|batch| {
        if let Some(batch) = &mut *batch.borrow_mut()
            && Arc::ptr_eq(&batch.unit, unit)
            && let Some((reply, outcome)) = answer.take()
        {
            batch.outcomes.add(reply, outcome);
        }
    });
    answer
}

impl Drop for Deferred {
    fn drop(&mut self) {
        if let Some(way) = self.0.take() {
            let outcome = match &way {
                Way::Unit(_, _, Reply::Question(question)) if !question.is_heard() => {
                    Ok(Data::null())
                }
                _ => Err(unanswered()),
            };
            Deferred(Some(way)).respond(outcome);
        }
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deferred")
    }
}

/// A batch of handlers that takes longer than this keeps the connection from answering pings: the
/// following ones are started by another task, until so many in a row were quick.
const SLOW_BATCH: Duration = Duration::from_millis(5);
const SLOW_FOR: Duration = Duration::from_secs(1);
/// A batch that turns out to be slow is looked at after so many handlers; the rest is left to the task.
const LOOK: usize = 24;
const QUICK: usize = 1024;
/// How long that task collects the answers of quick handlers.
const SHARED: Duration = Duration::from_micros(200);
/// So many handlers behind a slow one leave their answers alone.
const ALONE: usize = 64;

/// A handler that was found for something that came, and all that it needs.
struct Job {
    handler: Arc<Handler>,
    chain: Option<Chain>,
    context: Context,
    reply: Reply,
}

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
    handler: Arc<Handler>,
    /// Empty for nearly all.
    chain: Option<Chain>,
    place: Place,
    /// See [`Incoming::same_names`].
    names: Option<NonZeroU64>,
}

/// Where a handler's futures are.
#[derive(Default)]
enum Place {
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
        let Names { role, event } = &*self.handler.names;
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
    answers: Vec<(Tag, Result<Data>)>,
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
        let mut dead = Vec::new();
        if events.is_empty() {
            return dead;
        }
        let shared = &unit.shared;
        for event in events.extract_if(.., |event| !matches!(event, Event::Incoming(..))) {
            match event {
                Event::Answer { tag, outcome, .. } => self.answers.push((tag, outcome)),
                Event::Stream(id) => {
                    if let Some(waker) = unit.with(|state| state.waker(id)) {
                        waker.wake();
                    }
                }
                Event::Room => unit.room.notify_waiters(),
                Event::News(news) => {
                    shared.with_core(|core, now| core.peer.hear(unit.id, news, now));
                }
                Event::Dead(conn) => dead.push(conn),
                Event::SlowConsumer { queued, dropped, .. } => {
                    warn!(unit = %unit.info.load().id, queued, dropped, "slow consumer");
                    let unit = super::Unit::new(unit.clone());
                    shared.emit(PeerEvent::SlowConsumer { unit, queued, dropped });
                }
                Event::Incoming(..) => {}
            }
        }
        unit.bring(&mut self.answers);
        self.run(unit, events);
        dead
    }

    /// Runs handlers for what came, without any lock.
    fn run(&mut self, unit: &Arc<UnitInner>, incoming: &mut Vec<Event<Tag>>) {
        if incoming.is_empty() {
            return;
        }
        let mut incoming = incoming.drain(..).filter_map(|event| match event {
            Event::Incoming(incoming, question) => Some((incoming, question)),
            _ => None,
        });
        let begun = Instant::now();
        if unit.backlog.is_on(begun) {
            return self.leave(unit, incoming);
        }
        let mut started = 0;
        run_all(unit, &mut self.room, |outcomes| {
            for (incoming, question) in incoming.by_ref() {
                match find(&mut self.found, unit, &incoming, question.kind()) {
                    Ok(found) => {
                        let (context, reply) = prepare(unit, incoming, question);
                        let Found { handler, chain, place, .. } = found;
                        first_step(unit, handler, chain.clone(), place, context, reply, outcomes);
                    }
                    Err(reason) => refuse(unit, question, &reason),
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
    fn leave(
        &mut self,
        unit: &Arc<UnitInner>,
        incoming: impl Iterator<Item = (Incoming, Question)>,
    ) {
        let jobs = incoming.filter_map(|(incoming, question)| {
            let found = find(&mut self.found, unit, &incoming, question.kind());
            let (handler, chain) = match found {
                Ok(found) => (found.handler.clone(), found.chain.clone()),
                Err(reason) => {
                    refuse(unit, question, &reason);
                    return None;
                }
            };
            let (context, reply) = prepare(unit, incoming, question);
            Some(Job { handler, chain, context, reply })
        });
        // Found before the lock is taken.
        let jobs: Vec<Job> = jobs.collect();
        unit.backlog.add(unit, jobs);
    }
}

/// Finds the handler, or why there is none.
#[inline]
fn find<'a>(
    found: &'a mut Option<Found>,
    unit: &UnitInner,
    incoming: &Incoming,
    kind: Kind,
) -> Result<&'a mut Found, String> {
    let at = unit.shared.changes.count();
    if found.as_mut().is_some_and(|found| !found.is_for(incoming, kind, at)) {
        *found = None;
    }
    match found {
        Some(found) => Ok(found),
        None => Ok(found.insert(look_up(&unit.shared, incoming, kind, at)?)),
    }
}

fn look_up(shared: &Shared, incoming: &Incoming, kind: Kind, at: u64) -> Result<Found, String> {
    let (name, event) = (incoming.role(), incoming.event());
    let roles = shared.roles.load();
    let (role, handler) = engine::find(name, roles.get(name), kind, event)?;
    let chain = role.chain(&shared.middleware);
    let (role, names) = (role.clone(), incoming.same_names());
    Ok(Found { at, role, kind, handler, chain, place: Place::Any, names })
}

/// What a handler is called with, and the way back.
#[inline]
fn prepare(unit: &Arc<UnitInner>, incoming: Incoming, question: Question) -> (Context, Reply) {
    let kind = question.kind();
    let (reply, offer) = match kind {
        Kind::Message | Kind::Request => (Reply::Question(question), None),
        Kind::Readable | Kind::Writable => {
            let offer = Arc::new(Offer::new(question));
            (Reply::Stream(offer.clone()), Some(offer))
        }
    };
    (Context::new(unit.clone(), incoming, kind, offer), reply)
}

/// Room for the outcomes of a batch, empty between two.
#[derive(Default)]
struct Room {
    outcomes: Outcomes,
    /// Of deferred handlers.
    deferred: Outcomes,
}

/// Has handlers started one after the other; all answers that they give at once leave together.
fn run_all(unit: &Arc<UnitInner>, room: &mut Room, start: impl FnOnce(&mut Outcomes)) {
    let Room { outcomes, deferred } = room;
    let batch = Batch { unit: unit.clone(), outcomes: std::mem::take(deferred) };
    let before = BATCH.replace(Some(batch));
    start(outcomes);
    if let Some(batch) = BATCH.replace(before) {
        *deferred = batch.outcomes;
        outcomes.append(deferred);
    }
    outcomes.give_back(unit);
}

/// Takes a handler to its end and puts its outcome to the others, or takes it to where it first waits and
/// leaves it to a task, which polls it once more: the wake-up of this first try is not needed.
#[inline]
fn first_step(
    unit: &Arc<UnitInner>,
    handler: &Arc<Handler>,
    chain: Option<Chain>,
    place: &mut Place,
    context: Context,
    reply: Reply,
    outcomes: &mut Outcomes,
) {
    if let (Function::Deferred(function), None) = (&handler.function, &chain) {
        let deferred = Deferred(Some(Way::Unit(unit.clone(), handler.names.clone(), reply)));
        let call = AssertUnwindSafe(|| function(context, deferred));
        if std::panic::catch_unwind(call).is_err() {
            report(unit, &handler.names, false, &Err(panicked()));
        }
        return;
    }
    // Foreign code: it may do anything, panicking included.
    let step = std::panic::catch_unwind(AssertUnwindSafe(|| {
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
        let mut future = match chain {
            None => handler.function.start(context),
            Some(chain) => Next { chain, at: 0, handler: handler.clone() }.start(context),
        };
        match future.as_mut().poll(cx) {
            Poll::Ready(outcome) => {
                *place = Place::Any;
                Step::Done(outcome)
            }
            Poll::Pending => Step::Waits(future),
        }
    }));
    let future = match step.unwrap_or_else(|_| Step::Done(Err(panicked()))) {
        Step::Done(outcome) => {
            report(unit, &handler.names, reply.is_heard(), &outcome);
            return outcomes.add(reply, outcome);
        }
        Step::Waits(future) => future,
    };
    let (unit, names) = (unit.clone(), handler.names.clone());
    let runtime = unit.shared.runtime.clone();
    runtime.spawn(async move {
        let outcome = AssertUnwindSafe(future).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| Err(panicked()));
        report(&unit, &names, reply.is_heard(), &outcome);
        let mut outcomes = Outcomes::default();
        outcomes.add(reply, outcome);
        outcomes.give_back(&unit);
    });
}

/// Handlers of a unit that a task of its own starts, one after the other, in the order in which
/// their messages came: those of a connection that must not be held up, and all that come after
/// them until the task is through. Bounded by [`Limits::running_handlers`](engine::Limits).
#[derive(Default)]
pub(crate) struct Backlog(Mutex<BacklogState>);

#[derive(Default)]
struct BacklogState {
    waiting: VecDeque<Job>,
    task: bool,
    /// Until then the task starts all.
    until: Option<Instant>,
    /// Handlers that were quick, in a row.
    quick: usize,
}

impl Backlog {
    /// Handlers were slow: the task is to start the next ones.
    fn begin(&self, until: Instant) {
        let mut state = lock(&self.0);
        state.until = Some(until);
        state.quick = 0;
    }

    /// Whether the task is to start what comes now.
    fn is_on(&self, now: Instant) -> bool {
        let state = lock(&self.0);
        state.task || state.until.is_some_and(|until| now < until)
    }

    /// Leaves handlers to the task.
    fn add(&self, unit: &Arc<UnitInner>, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let mut state = lock(&self.0);
        state.waiting.extend(jobs);
        if !std::mem::replace(&mut state.task, true) {
            unit.shared.runtime.spawn(backlog_task(unit.clone()));
        }
    }

    /// The next handler to start, and whether its answer is to leave alone. None ends the task.
    fn next(&self) -> Option<(Job, bool)> {
        let mut state = lock(&self.0);
        let next = state.waiting.pop_front();
        state.task = next.is_some();
        next.map(|job| (job, state.quick < ALONE))
    }

    /// So many handlers were quick, or one of them was not.
    fn note(&self, quick: bool, handlers: usize) {
        let mut state = lock(&self.0);
        state.quick = if quick { state.quick + handlers } else { 0 };
        if state.quick >= QUICK {
            state.until = None;
        }
    }

    /// As [`next`](Backlog::next), but the task goes on in any case.
    fn next_if_any(&self) -> Option<Job> {
        lock(&self.0).waiting.pop_front()
    }
}

async fn backlog_task(unit: Arc<UnitInner>) {
    let mut room = Room::default();
    while let Some((first, alone)) = unit.backlog.next() {
        // Those that are quick leave their answers together; behind a slow one nobody is to wait.
        let until = Instant::now() + SHARED;
        let mut started = 1;
        let more = std::iter::from_fn(|| match !alone && Instant::now() < until {
            true => unit.backlog.next_if_any().inspect(|_| started += 1),
            false => None,
        });
        run_all(&unit, &mut room, |outcomes| {
            for Job { handler, chain, context, reply } in std::iter::once(first).chain(more) {
                let place = &mut Place::Own;
                first_step(&unit, &handler, chain, place, context, reply, outcomes);
            }
        });
        let quick = Instant::now() < until;
        unit.backlog.note(quick, started);
        match quick {
            true => tokio::task::consume_budget().await,
            // Pings are to be answered meanwhile.
            false => tokio::task::yield_now().await,
        }
    }
}

fn unanswered() -> Error {
    Error::new(ErrorKind::HandlerFailed, "The handler did not answer")
}

fn panicked() -> Error {
    Error::new(ErrorKind::HandlerPanicked, "The handler panicked")
}

/// Rejects what has no handler. Messages are dropped: their sender is not told, as in the original, so
/// the log is where a misspelt name shows.
fn refuse(unit: &Arc<UnitInner>, question: Question, reason: &str) {
    debug!(unit = %unit.info.load().id, reason, "not handled");
    let now = unit.shared.clock.now();
    unit.with(|state| state.machine.answer(question, Err(reason), now));
}

/// Tells of errors that no requester will hear of, and of panics.
#[inline]
fn report(unit: &Arc<UnitInner>, names: &Names, heard: bool, outcome: &Result<Data>) {
    if let Err(error) = outcome {
        report_error(unit, names, heard, error);
    }
}

#[cold]
fn report_error(unit: &Arc<UnitInner>, names: &Names, heard: bool, error: &Error) {
    if !heard || error.kind() == ErrorKind::HandlerPanicked {
        let Names { role, event } = names;
        warn!(unit = %unit.info.load().id, %role, %event, %error, "handler failed");
        unit.shared.emit(PeerEvent::HandlerFailed {
            unit: super::Unit::new(unit.clone()),
            role: role.clone(),
            event: event.clone(),
            error: error.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_ends_when_enough_handlers_in_a_row_were_quick() {
        let backlog = Backlog::default();
        let is_on = || lock(&backlog.0).until.is_some();
        backlog.begin(Instant::now() + SLOW_FOR);
        backlog.note(true, QUICK - 1);
        assert!(is_on());
        // A slow one: the count begins anew.
        backlog.note(false, 1);
        backlog.note(true, QUICK - 1);
        assert!(is_on());
        backlog.note(true, 1);
        assert!(!is_on());
        // What was quick before counts no more when it begins again.
        backlog.begin(Instant::now() + SLOW_FOR);
        backlog.note(true, QUICK - 1);
        assert!(is_on());
    }
}
