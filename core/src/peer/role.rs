//! A service that this peer offers.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll, ready},
};

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;

use super::{
    context::{Context, ReadableRequest, WritableRequest},
    deferred::Deferred,
    handler::{Call, Chain, Function, Handler, HandlerFuture, Middleware, Names, Next},
    scope::OnCancel,
    shared::Shared,
};
use crate::{
    Error, ErrorKind, Result,
    engine::{Kind, Serves},
    wire::Data,
};

/// The keys are the application's, so they need no defence against collisions.
type ByEvent = FxHashMap<Arc<str>, Arc<Handler>>;
pub(crate) type Roles = FxHashMap<Arc<str>, Arc<RoleInner>>;

/// Counts changes of roles, handlers and middleware: what was found before one may be wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes(Arc<AtomicU64>);

impl Changes {
    pub(crate) fn note(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Clone, Default)]
struct Handlers {
    message: ByEvent,
    request: ByEvent,
    readable: ByEvent,
    writable: ByEvent,
}

pub(crate) struct RoleInner {
    name: Arc<str>,
    active: AtomicBool,
    handlers: ArcSwap<Handlers>,
    middleware: ArcSwap<Vec<Middleware>>,
    changes: Changes,
}

impl RoleInner {
    pub(crate) fn new(name: Arc<str>, active: bool, changes: Changes) -> RoleInner {
        RoleInner {
            changes,
            name,
            active: AtomicBool::new(active),
            handlers: ArcSwap::default(),
            middleware: ArcSwap::default(),
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    pub(crate) fn set_active(&self, active: bool) {
        self.active.store(active, Ordering::Release);
    }

    /// The middleware of peer and role, if there is any.
    pub(crate) fn chain(&self, peer: &ArcSwap<Vec<Middleware>>) -> Option<Chain> {
        let (peer, role) = (peer.load(), self.middleware.load());
        let any = !peer.is_empty() || !role.is_empty();
        any.then(|| Chain { peer: peer.clone(), role: role.clone() })
    }

    fn register(&self, kind: Kind, event: &str, function: Function, on_cancel: OnCancel) {
        let names = Arc::new(Names { role: self.name.clone(), event: event.into() });
        let handler = Arc::new(Handler { names: names.clone(), function, on_cancel });
        self.handlers.rcu(|handlers| {
            let mut handlers = Handlers::clone(handlers);
            let by_event = match kind {
                Kind::Message => &mut handlers.message,
                Kind::Request => &mut handlers.request,
                Kind::Readable => &mut handlers.readable,
                Kind::Writable => &mut handlers.writable,
            };
            by_event.insert(names.event.clone(), handler.clone());
            handlers
        });
        self.changes.note();
    }
}

impl Handlers {
    fn of(&self, kind: Kind) -> &ByEvent {
        match kind {
            Kind::Message => &self.message,
            Kind::Request => &self.request,
            Kind::Readable => &self.readable,
            Kind::Writable => &self.writable,
        }
    }
}

impl Serves for RoleInner {
    type Handler = Arc<Handler>;

    fn is_active(&self) -> bool {
        RoleInner::is_active(self)
    }

    fn handler(&self, kind: Kind, event: &str) -> Option<Arc<Handler>> {
        self.handlers.load().of(kind).get(event).cloned()
    }

    fn events(&self, kind: Kind, most: usize) -> Vec<String> {
        self.handlers.load().of(kind).keys().take(most).map(|event| event.to_string()).collect()
    }
}

/// Turns an application's closure into a handler.
fn handler<A, F, Fut, T>(function: F, argument: fn(Context) -> A) -> Function
where
    A: 'static,
    F: Fn(A) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, BoxError>> + Send + 'static,
    T: Into<Data>,
{
    let function = Arc::new(move |context| function(argument(context)));
    let reusable = function.clone();
    Function::Future {
        start: Box::new(move |context| -> HandlerFuture {
            let future = function(context);
            Box::pin(async move { finished(future.await) })
        }),
        call: Box::new(move || {
            Box::new(Running { function: reusable.clone(), future: Box::pin(None) })
        }),
    }
}

/// What a handler may fail with: any error, with `?`, or a text, with `into()`.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn finished<T: Into<Data>>(outcome: Result<T, BoxError>) -> Result<Data> {
    match outcome {
        Ok(data) => Ok(data.into()),
        Err(error) => Err(failed(&error)),
    }
}

#[cold]
fn failed(error: &BoxError) -> Error {
    let failed = Error::new(ErrorKind::HandlerFailed, error.to_string());
    // Of errors that come from elsewhere only the text is passed on: code and data are between those two.
    let own =
        error.downcast_ref::<Error>().filter(|error| error.kind() == ErrorKind::HandlerFailed);
    match own.and_then(Error::failure) {
        Some(failure) => failed.with_failure(failure.clone()),
        None => failed,
    }
}

/// A [`Call`] of an application's closure.
struct Running<F, Fut> {
    function: Arc<F>,
    /// None before the call and after it.
    future: Pin<Box<Option<Fut>>>,
}

impl<F, Fut, T> Call for Running<F, Fut>
where
    F: Fn(Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, BoxError>> + Send + 'static,
    T: Into<Data>,
{
    fn begin(
        &mut self,
        context: &mut Option<Context>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<Data>> {
        self.future.set(context.take().map(|context| (self.function)(context)));
        self.poll(cx)
    }

    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Data>> {
        let Some(future) = self.future.as_mut().as_pin_mut() else { return Poll::Pending };
        let outcome = ready!(future.poll(cx));
        self.future.set(None);
        Poll::Ready(finished(outcome))
    }
}

/// A service that this peer offers, and the handlers of its events.
///
/// A handle: clones are cheap and stand for the same role. One handler serves an event of each
/// kind; registering again replaces it. Handlers are called for many messages at the same time, in
/// the order in which the messages of a unit arrived; what they do after their first `await` is
/// concurrent. A handler runs on the task of the connection until it first waits: long computations
/// belong into [`spawn_blocking`](tokio::task::spawn_blocking).
///
/// The error of a handler, whatever type it has, rejects the request with its text, and one of
/// [`Error::rejection`] with its code and data, too; so does a panic, with a fixed text.
///
/// From beginning to end a handler runs in the `tracing` span `connection` (level debug; `peer`, `conn`,
/// `remote`, and the `unit` with its `name`) and in no other. A span of its own for each request is what
/// [middleware](Role::layer) makes, with `next.run(ctx).instrument(span)`; so it is with what tasks
/// inherit: `LOCAL.scope(value, next.run(ctx))`.
#[derive(Clone)]
pub struct Role {
    shared: Arc<Shared>,
    inner: Arc<RoleInner>,
    on_cancel: OnCancel,
}

impl Role {
    pub(crate) fn new(shared: Arc<Shared>, inner: Arc<RoleInner>) -> Role {
        Role { shared, inner, on_cancel: OnCancel::default() }
    }

    /// The same role, as a handle whose handlers are treated so when nobody waits for their answers any more.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use roletalk::OnCancel;
    ///
    /// let peer = roletalk::Peer::builder().build()?;
    /// // What was begun is done to its end, whether or not the requester still waits.
    /// peer.role("orders")?.on_cancel(OnCancel::Ignore).on_request("place", |ctx| async move {
    ///     Ok(ctx.into_data())
    /// });
    /// # Ok::<_, roletalk::Error>(()) }).unwrap();
    /// ```
    #[must_use = "handlers are registered with what this returns"]
    pub fn on_cancel(&self, on_cancel: OnCancel) -> Role {
        Role { on_cancel, ..self.clone() }
    }

    /// The role's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Handles one-way messages.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let peer = roletalk::Peer::builder().build()?;
    /// peer.role("log")?.on_message("line", |ctx| async move {
    ///     println!("{}: {:?}", ctx.unit().name(), ctx.data().as_str());
    ///     Ok(())
    /// });
    /// # Ok::<_, roletalk::Error>(()) }).unwrap();
    /// ```
    pub fn on_message<F, Fut, T>(&self, event: &str, function: F) -> &Role
    where
        F: Fn(Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, BoxError>> + Send + 'static,
        T: Into<Data>,
    {
        let handler = handler(function, |context| context);
        self.inner.register(Kind::Message, event, handler, self.on_cancel);
        self
    }

    /// Handles requests: what the handler returns is the answer.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let peer = roletalk::Peer::builder().build()?;
    /// peer.role("math")?.on_request("add", |ctx| async move {
    ///     let (a, b): (i64, i64) = ctx.parse()?;
    ///     Ok(a + b)
    /// });
    /// # Ok::<_, roletalk::Error>(()) }).unwrap();
    /// ```
    pub fn on_request<F, Fut, T>(&self, event: &str, function: F) -> &Role
    where
        F: Fn(Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, BoxError>> + Send + 'static,
        T: Into<Data>,
    {
        let handler = handler(function, |context| context);
        self.inner.register(Kind::Request, event, handler, self.on_cancel);
        self
    }

    /// Handles units that want to write a stream, which this peer reads.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use tokio::io::AsyncReadExt;
    ///
    /// let peer = roletalk::Peer::builder().build()?;
    /// peer.role("store")?.on_readable("upload", |request| async move {
    ///     let mut stream = request.accept(())?;
    ///     let mut bytes = Vec::new();
    ///     stream.read_to_end(&mut bytes).await?;
    ///     println!("{} bytes", bytes.len());
    ///     Ok(())
    /// });
    /// # Ok::<_, roletalk::Error>(()) }).unwrap();
    /// ```
    pub fn on_readable<F, Fut>(&self, event: &str, function: F) -> &Role
    where
        F: Fn(ReadableRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let handler = handler(function, ReadableRequest);
        self.inner.register(Kind::Readable, event, handler, self.on_cancel);
        self
    }

    /// Handles units that want to read a stream, which this peer writes.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use tokio::io::AsyncWriteExt;
    ///
    /// let peer = roletalk::Peer::builder().build()?;
    /// peer.role("store")?.on_writable("download", |request| async move {
    ///     let mut stream = request.accept("text/plain")?;
    ///     stream.write_all(b"hello").await?;
    ///     Ok(stream.shutdown().await?)
    /// });
    /// # Ok::<_, roletalk::Error>(()) }).unwrap();
    /// ```
    pub fn on_writable<F, Fut>(&self, event: &str, function: F) -> &Role
    where
        F: Fn(WritableRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let handler = handler(function, WritableRequest);
        self.inner.register(Kind::Writable, event, handler, self.on_cancel);
        self
    }

    /// Handles one kind of communication with a function that answers later, from wherever it likes,
    /// without a future of its own. For those who hand work to threads or queues of theirs, such as
    /// other languages. The function is called on the task of the connection and must not block.
    ///
    /// A stream is accepted with [`Context::accept_readable`] or [`Context::accept_writable`], after
    /// which the response says only that the handler is done, or refused by responding with an error.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use roletalk::{Data, Kind};
    ///
    /// let (sender, receiver) = std::sync::mpsc::channel::<(roletalk::Context, roletalk::Deferred)>();
    /// std::thread::spawn(move || {
    ///     for (context, deferred) in receiver {
    ///         deferred.respond(Ok(context.into_data()));
    ///     }
    /// });
    /// let peer = roletalk::Peer::builder().build()?;
    /// peer.role("echo")?.on_deferred(Kind::Request, "say", move |context, deferred| {
    ///     let _ = sender.send((context, deferred));
    /// });
    /// # Ok::<_, roletalk::Error>(()) }).unwrap();
    /// ```
    pub fn on_deferred<F>(&self, kind: Kind, event: &str, function: F) -> &Role
    where
        F: Fn(Context, Deferred) + Send + Sync + 'static,
    {
        let function = Function::Deferred(Box::new(function));
        self.inner.register(kind, event, function, self.on_cancel);
        self
    }

    /// Adds middleware for everything that this role handles. It runs behind the peer's own
    /// ([`Peer::layer`](crate::Peer::layer)) and those added before.
    pub fn layer<F, Fut>(&self, middleware: F) -> &Role
    where
        F: Fn(Context, Next) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Data>> + Send + 'static,
    {
        add_middleware(&self.inner.middleware, &self.inner.changes, middleware);
        self
    }

    /// Offers the role no longer: requests are rejected, messages dropped, units are told. What is
    /// running goes on.
    pub fn disable(&self) {
        self.set_active(false);
    }

    /// Offers the role again; units are told.
    pub fn enable(&self) {
        self.set_active(true);
    }

    /// Whether the role is offered. No role is by a peer that drains, though what others have sent before they knew
    /// is still handled.
    pub fn is_active(&self) -> bool {
        self.inner.is_active() && !self.shared.draining.load(Ordering::Relaxed)
    }

    fn set_active(&self, active: bool) {
        // Under the lock, so that what units are told is what is true.
        self.shared.with_core(|core, now| {
            self.inner.set_active(active);
            core.peer.set_role_active(&self.inner.name, active, now);
        });
    }
}

pub(crate) fn add_middleware<F, Fut>(
    chain: &ArcSwap<Vec<Middleware>>,
    changes: &Changes,
    middleware: F,
) where
    F: Fn(Context, Next) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Data>> + Send + 'static,
{
    let middleware: Middleware =
        Arc::new(move |context, next| -> HandlerFuture { Box::pin(middleware(context, next)) });
    chain.rcu(|chain| {
        let mut chain = Vec::clone(chain);
        chain.push(middleware.clone());
        chain
    });
    changes.note();
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Role")
            .field("name", &self.inner.name)
            .field("active", &self.is_active())
            .finish()
    }
}
