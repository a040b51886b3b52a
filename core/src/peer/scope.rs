//! What a handler's own requests inherit, and how it learns that nobody waits for it any more.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{outcome::batch_unit, shared::lock, unit::UnitInner};
use crate::{
    Error, ErrorKind, Result,
    engine::{CancelReason, Fields, FieldsView, Incoming, Question, RequestId},
};

/// What happens to a handler when nobody waits for its answer any more: the requester has given up, its time
/// is up, or its unit is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnCancel {
    /// Its [token](crate::Context::cancellation) is cancelled, and so are the requests that it has made; it
    /// ends by itself. The default.
    #[default]
    Tell,
    /// Its future is dropped, besides.
    Drop,
    /// Nothing: it is detached, and so are its requests.
    Ignore,
}

/// One handler that runs.
pub struct Scope {
    on_cancel: OnCancel,
    token: OnceLock<CancellationToken>,
    reason: OnceLock<CancelReason>,
    /// Of the clock that all peers of the process share.
    deadline: Option<Instant>,
    /// The trace context alone.
    trace: Option<Fields>,
    /// What goes with the answer.
    answer: Mutex<Option<Box<Fields>>>,
}

impl Scope {
    fn new(on_cancel: OnCancel, deadline: Option<Instant>, fields: FieldsView<'_>) -> Arc<Scope> {
        let trace = fields.traceparent().is_some().then(|| {
            let mut trace = Fields::new();
            trace.inherit_trace(fields);
            trace
        });
        // Whoever is detached has all the time.
        let deadline = deadline.filter(|_| on_cancel != OnCancel::Ignore);
        let (token, reason) = (OnceLock::new(), OnceLock::new());
        Arc::new(Scope { on_cancel, token, reason, deadline, trace, answer: Mutex::default() })
    }

    /// What is left of a handler that has no scope, or none any more: its trace context.
    pub(crate) fn of_trace(fields: FieldsView<'_>) -> Option<Arc<Scope>> {
        let any = !fields.is_empty() && fields.traceparent().is_some();
        any.then(|| Scope::new(OnCancel::Ignore, None, fields))
    }

    pub(crate) fn on_cancel(&self) -> OnCancel {
        self.on_cancel
    }

    /// See [`Context::cancellation`](crate::Context::cancellation).
    pub fn token(&self) -> &CancellationToken {
        let token = self.token.get_or_init(CancellationToken::new);
        // It may have been cancelled just before there was one.
        if self.reason.get().is_some() {
            token.cancel();
        }
        token
    }

    fn cancel(&self, reason: CancelReason) {
        if self.on_cancel != OnCancel::Ignore && self.reason.set(reason).is_ok() {
            self.token().cancel();
        }
    }

    /// See [`Context::cancel_reason`](crate::Context::cancel_reason).
    pub fn reason(&self) -> Option<CancelReason> {
        self.reason.get().copied()
    }

    /// How much time is left.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn trace(&self) -> Option<FieldsView<'_>> {
        self.trace.as_ref().map(Fields::view)
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.reason().map_or(Ok(()), |reason| Err(cancelled(reason)))
    }

    /// Changes what goes with the answer.
    pub fn with_answer<T>(&self, change: impl FnOnce(&mut Fields) -> T) -> T {
        change(lock(&self.answer).get_or_insert_default())
    }

    pub(crate) fn take_answer(&self) -> Option<Box<Fields>> {
        lock(&self.answer).take()
    }
}

/// The error of what was given up with the handler that had asked for it.
pub(crate) fn cancelled(reason: CancelReason) -> Error {
    Error::new(ErrorKind::Cancelled, format!("Given up with its handler: {}", reason.text()))
}

/// The handlers of a unit that run and that somebody has a scope of: all that wait, and those that have
/// asked for it. A handler that ends at once costs nothing here.
#[derive(Default)]
pub(crate) struct Scopes {
    /// How many there are, for a look without the lock.
    count: AtomicUsize,
    by_request: Mutex<FxHashMap<RequestId, Arc<Scope>>>,
}

impl Scopes {
    /// A scope of a request that has brought nothing besides its payload.
    pub(crate) fn begin(&self, request: RequestId, on_cancel: OnCancel) -> Arc<Scope> {
        let scope = Scope::new(on_cancel, None, FieldsView::default());
        self.add(request, scope.clone());
        scope
    }

    fn add(&self, request: RequestId, scope: Arc<Scope>) {
        let mut all = lock(&self.by_request);
        all.insert(request, scope);
        self.count.store(all.len(), Ordering::Release);
    }

    pub(crate) fn get(&self, request: RequestId) -> Option<Arc<Scope>> {
        match self.count.load(Ordering::Acquire) {
            0 => None,
            _ => lock(&self.by_request).get(&request).cloned(),
        }
    }

    /// A handler has ended, or nobody can give its request up any more.
    pub(crate) fn remove(&self, request: RequestId) -> Option<Arc<Scope>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut all = lock(&self.by_request);
        let scope = all.remove(&request);
        self.count.store(all.len(), Ordering::Release);
        if all.is_empty() && all.capacity() > 1024 {
            *all = FxHashMap::default();
        }
        scope
    }

    /// Tells handlers that nobody waits for them: one, or all. What wakes runs without the lock.
    pub(crate) fn cancel(&self, request: Option<RequestId>, reason: CancelReason) {
        let scopes: Vec<_> = match request {
            Some(request) => self.get(request).into_iter().collect(),
            None => lock(&self.by_request).values().cloned().collect(),
        };
        scopes.iter().for_each(|scope| scope.cancel(reason));
    }
}

/// The handler that this thread is polling.
#[derive(Default)]
pub(crate) enum Current {
    /// None, or one that has nothing to be inherited.
    #[default]
    None,
    /// One that nobody has asked for its scope yet.
    Begun(Begun),
    /// One with a scope.
    Scope(Arc<Scope>),
}

/// What a scope is made from. Its unit is that of the batch that is being called.
#[derive(Clone, Copy)]
pub(crate) struct Begun {
    request: RequestId,
    on_cancel: OnCancel,
}

/// [`Current`] in a thread's cell, which costs nearly nothing as long as there is no scope.
#[derive(Clone, Copy)]
enum State {
    None,
    Begun(Begun),
    /// It is in the other cell.
    Scope,
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::None) };
    static SCOPE: RefCell<Option<Arc<Scope>>> = const { RefCell::new(None) };
}

/// Makes it the one that this thread is polling, and gives that before it.
pub(crate) fn enter(current: Current) -> Current {
    let before = match STATE.get() {
        State::None => Current::None,
        State::Begun(begun) => Current::Begun(begun),
        State::Scope => SCOPE.take().map_or(Current::None, Current::Scope),
    };
    match current {
        Current::None => STATE.set(State::None),
        Current::Begun(begun) => STATE.set(State::Begun(begun)),
        Current::Scope(scope) => enter_scope(scope),
    }
    before
}

#[inline(never)]
fn enter_scope(scope: Arc<Scope>) {
    SCOPE.replace(Some(scope));
    STATE.set(State::Scope);
}

/// The scope of what has brought something besides its payload: it has one from the beginning.
#[inline(never)]
pub(crate) fn with_fields(
    unit: &UnitInner,
    incoming: &Incoming,
    question: &Question,
    on_cancel: OnCancel,
) -> Arc<Scope> {
    let deadline = incoming.deadline().map(|at| unit.shared.clock.instant(at));
    let scope = Scope::new(on_cancel, deadline, incoming.fields());
    if let Some(request) = question.request() {
        unit.scopes.add(request, scope.clone());
    }
    scope
}

/// Begins a handler, in a batch: between two handlers there is none. False when it has nothing to be
/// inherited: then it costs nothing, and need not [`end`].
#[inline(always)] // It is called for each message.
pub(crate) fn begin(
    request: Option<RequestId>,
    on_cancel: OnCancel,
    scope: Option<Arc<Scope>>,
) -> bool {
    match (scope, request) {
        (Some(scope), _) => enter_scope(scope),
        (None, Some(request)) => STATE.set(State::Begun(Begun { request, on_cancel })),
        (None, None) => return false,
    }
    true
}

/// Ends the handler, or its first try. Gives its scope, if anybody has asked for it.
#[inline(always)] // It is called for each request.
pub(crate) fn end() -> Option<Arc<Scope>> {
    let scope = match STATE.get() {
        State::None | State::Begun(_) => None,
        State::Scope => SCOPE.take(),
    };
    STATE.set(State::None);
    scope
}

/// The scope of the handler that this thread is polling.
#[inline]
pub(crate) fn current() -> Option<Arc<Scope>> {
    match STATE.get() {
        State::None => None,
        State::Begun(begun) => begun_scope(begun),
        State::Scope => known(),
    }
}

/// The same for what only hands on the trace context: no scope is made for that.
#[inline]
pub(crate) fn current_trace() -> Option<Arc<Scope>> {
    match STATE.get() {
        State::None | State::Begun(_) => None,
        State::Scope => known(),
    }
}

/// Whether this thread is polling a handler that has something to hand down.
#[inline]
pub(crate) fn is_entered() -> bool {
    !matches!(STATE.get(), State::None)
}

/// Whether it has a trace context to hand down, perhaps.
#[inline]
pub(crate) fn has_trace() -> bool {
    matches!(STATE.get(), State::Scope)
}

#[inline(never)]
fn begun_scope(Begun { request, on_cancel }: Begun) -> Option<Arc<Scope>> {
    let unit = batch_unit()?;
    let scope = unit.scopes.begin(request, on_cancel);
    enter_scope(scope.clone());
    Some(scope)
}

#[inline(never)]
fn known() -> Option<Arc<Scope>> {
    // While the thread ends, there is none.
    SCOPE.try_with(|scope| scope.borrow().clone()).ok().flatten()
}

/// Whether this thread is polling the handler of this request for the first time.
pub(crate) fn is_begun(unit: &Arc<UnitInner>, request: RequestId) -> bool {
    let begun = matches!(STATE.get(), State::Begun(begun) if begun.request == request);
    begun && batch_unit().is_some_and(|batch| Arc::ptr_eq(&batch, unit))
}

/// A handler's future that goes on under its scope.
pub(crate) struct Scoped<F> {
    pub(crate) scope: Arc<Scope>,
    pub(crate) future: F,
}

impl<F: Future + Unpin> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        /// Also when the future panics.
        struct Leave(Option<Current>);
        impl Drop for Leave {
            fn drop(&mut self) {
                enter(self.0.take().unwrap_or_default());
            }
        }
        let before = enter(Current::Scope(self.scope.clone()));
        let _leave = Leave(Some(before));
        Pin::new(&mut self.future).poll(cx)
    }
}

/// What a request takes over from the handler that makes it.
#[derive(Clone, Default)]
pub(crate) enum Inherit {
    /// Of the handler that polls it first.
    #[default]
    Current,
    /// Of this one.
    From(Option<Arc<Scope>>),
}

impl Inherit {
    #[inline]
    pub(crate) fn scope(&self) -> Option<Arc<Scope>> {
        match self {
            Inherit::Current => current(),
            Inherit::From(scope) => scope.clone(),
        }
    }

    /// What a message takes over: the trace context.
    #[inline]
    pub(crate) fn trace(&self) -> Option<Arc<Scope>> {
        match self {
            Inherit::Current => current_trace(),
            Inherit::From(scope) => scope.clone(),
        }
    }
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope").field("reason", &self.reason()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Inherit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Inherit::Current => "Current",
            Inherit::From(None) => "Nothing",
            Inherit::From(Some(_)) => "From",
        })
    }
}

/// The wait for the end of a scope, of those who have one.
pub(crate) struct Watch(Option<(Arc<Scope>, Pin<Box<WaitForCancellationFutureOwned>>)>);

impl Watch {
    #[inline]
    pub(crate) fn new(scope: Option<Arc<Scope>>) -> Watch {
        Watch(scope.filter(|scope| scope.on_cancel != OnCancel::Ignore).map(|scope| {
            let cancelled = Box::pin(scope.token().clone().cancelled_owned());
            (scope, cancelled)
        }))
    }

    /// Ready with the error when the scope was cancelled.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some((scope, token)) = &mut self.0 else { return Poll::Pending };
        match token.as_mut().poll(cx) {
            Poll::Ready(()) => {
                let error = cancelled(scope.reason().unwrap_or(CancelReason::Requester));
                self.0 = None;
                Poll::Ready(error)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Does the work unless the scope is cancelled before.
    pub(crate) async fn run<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = std::pin::pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => self.poll(cx).map(Err),
        })
        .await
    }
}
