//! What a handler gets.

use std::{
    fmt,
    num::NonZeroU64,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[cfg(doc)]
use super::OnCancel;
use super::{
    scope::{self, Scope},
    stream::{Readable, Writable},
    unit::{Unit, UnitInner},
};
use crate::{
    Error, ErrorKind, Result,
    engine::{CancelReason, Fields, HeaderValue, Incoming, Kind, Question, RequestId, StreamId},
    peer::lock,
    wire::{Data, DataType},
};

/// A request for a stream, which the context may accept until the handler has ended.
pub(crate) struct Offer(Mutex<Option<Question>>);

impl Offer {
    pub(crate) fn new(question: Question) -> Offer {
        Offer(Mutex::new(Some(question)))
    }

    /// Whether the requester waits for an answer.
    pub(crate) fn is_heard(&self) -> bool {
        lock(&self.0).as_ref().is_some_and(Question::is_heard)
    }

    pub(crate) fn request(&self) -> Option<RequestId> {
        lock(&self.0).as_ref().and_then(Question::request)
    }

    pub(crate) fn take(&self) -> Option<Question> {
        lock(&self.0).take()
    }
}

/// A message, a request or a request for a stream, with who sent it and to what.
///
/// For a stream, the handler turns it into a [`ReadableRequest`] or [`WritableRequest`]. Clones are cheap
/// and stand for the same: a stream can be accepted once.
#[derive(Clone)]
pub struct Context {
    unit: Arc<UnitInner>,
    incoming: Incoming,
    kind: Kind,
    /// The correlation of its request, and one.
    request: Option<NonZeroU64>,
    offer: Option<Arc<Offer>>,
    /// What middleware has put in place of the payload: rare, so apart.
    data: Option<Box<Data>>,
}

impl Context {
    #[inline]
    pub(crate) fn new(unit: Arc<UnitInner>, incoming: Incoming, kind: Kind) -> Context {
        Context { unit, incoming, kind, request: None, offer: None, data: None }
    }

    #[inline]
    pub(crate) fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    /// Has a stream to accept.
    pub(crate) fn offers(&mut self, question: Question) -> Arc<Offer> {
        self.offer.insert(Arc::new(Offer::new(question))).clone()
    }

    /// Notes the request that it belongs to, and gives it back.
    #[inline]
    pub(crate) fn belongs_to(&mut self, request: Option<RequestId>) -> Option<RequestId> {
        self.request = request.and_then(|request| NonZeroU64::MIN.checked_add(request.corr));
        request
    }

    fn request(&self) -> Option<RequestId> {
        let corr = self.request?.get() - 1;
        Some(RequestId { conn: self.incoming.connection(), corr })
    }

    /// The kind of communication.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The role that it is addressed to.
    pub fn role(&self) -> &str {
        self.incoming.role()
    }

    /// The name of the action; may be empty.
    pub fn event(&self) -> &str {
        self.incoming.event()
    }

    /// The bytes of [`role`](Context::role) and [`event`](Context::event), which are UTF-8: for those
    /// who need no `str`, as other languages.
    #[doc(hidden)] // For bindings; no promise of compatibility.
    pub fn names(&self) -> (&[u8], &[u8]) {
        self.incoming.names()
    }

    /// The unit that sent it.
    pub fn unit(&self) -> Unit {
        Unit::new(self.unit.clone())
    }

    /// Whether this unit sent it.
    #[doc(hidden)] // For bindings; no promise of compatibility.
    pub fn is_from(&self, unit: &Unit) -> bool {
        Arc::ptr_eq(&self.unit, &unit.inner)
    }

    /// The bytes of the payload, which are what [`data_type`](Context::data_type) says.
    #[doc(hidden)] // For bindings; no promise of compatibility.
    pub fn bytes(&self) -> &[u8] {
        self.data.as_ref().map_or_else(|| self.incoming.payload(), |data| data.bytes())
    }

    /// The payload.
    pub fn data(&self) -> Data {
        self.data.as_deref().cloned().unwrap_or_else(|| self.incoming.data())
    }

    /// The payload, giving up the rest.
    pub fn into_data(self) -> Data {
        self.data.map_or_else(|| self.incoming.into_data(), |data| *data)
    }

    /// Replaces the payload, for middleware that changes it before the handler sees it.
    pub fn set_data(&mut self, data: impl Into<Data>) {
        self.data = Some(Box::new(data.into()));
    }

    /// The type of the payload.
    pub fn data_type(&self) -> DataType {
        self.data.as_ref().map_or_else(|| self.incoming.kind(), |data| data.kind())
    }

    /// The payload as a type of the application's; see [`Data::parse`].
    ///
    /// # Errors
    /// [`ErrorKind::Data`] when the payload is not of that type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(self.data().parse()?)
    }

    // What comes and goes besides the payload.

    /// The headers that came with it, in the order in which the sender has added them.
    ///
    /// ```
    /// # fn example(ctx: roletalk::Context) {
    /// if let Some(tenant) = ctx.header("tenant").and_then(|value| value.text()) {
    ///     println!("for {tenant}");
    /// }
    /// # }
    /// ```
    pub fn headers(&self) -> impl Iterator<Item = (&str, HeaderValue<'_>)> {
        self.incoming.fields().headers()
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<HeaderValue<'_>> {
        self.incoming.fields().header(name)
    }

    /// The `traceparent` of the sender's trace context, as in W3C Trace Context.
    pub fn traceparent(&self) -> Option<String> {
        self.incoming.fields().traceparent()
    }

    /// The `tracestate` of the sender's trace context.
    pub fn tracestate(&self) -> Option<&str> {
        self.incoming.fields().tracestate()
    }

    /// The `baggage` of the sender's trace context.
    pub fn baggage(&self) -> Option<&str> {
        self.incoming.fields().baggage()
    }

    /// Sets a header of the answer in the place of what was set by this name, whether that is a payload, an error, or a stream. Left out where the
    /// requester's peer does not take headers; nothing happens for a message, or once the handler has ended.
    ///
    /// # Errors
    /// As [`Fields::add_header`].
    pub fn set_header<'v>(&self, name: &str, value: impl Into<HeaderValue<'v>>) -> Result<()> {
        match self.scope() {
            Some(scope) => scope.with_answer(|fields| fields.set_header(name, value)),
            None => Fields::new().add_header(name, value),
        }
    }

    // Time, and being given up.

    /// When the requester gives up, by this machine's clock; none when it has set no time limit. Past that,
    /// the [token](Context::cancellation) is cancelled.
    pub fn deadline(&self) -> Option<Instant> {
        self.incoming.deadline().map(|at| self.unit.shared.clock.instant(at))
    }

    /// How long until the [deadline](Context::deadline); zero when it is past.
    pub fn remaining(&self) -> Option<Duration> {
        let deadline = self.incoming.deadline()?;
        Some(deadline.since(self.unit.shared.clock.now()))
    }

    /// Cancelled when nobody waits for the answer any more: the requester has given up, the
    /// [deadline](Context::deadline) is past, or the unit is gone. Never for a message, a stream that was accepted, a
    /// handler that has ended, or one that [ignores](OnCancel::Ignore) it.
    ///
    /// Requests that the handler makes are given up with it by themselves.
    ///
    /// ```
    /// # async fn compute() -> i64 { 5 }
    /// # async fn example(ctx: roletalk::Context) -> roletalk::Result<i64> {
    /// let token = ctx.cancellation();
    /// match token.run_until_cancelled(compute()).await {
    ///     Some(result) => Ok(result),
    ///     None => Err(roletalk::Error::new(roletalk::ErrorKind::Cancelled, "nobody waits")),
    /// }
    /// # }
    /// ```
    ///
    /// In a [deferred](crate::Role::on_deferred) handler it is to be asked for before the function returns.
    pub fn cancellation(&self) -> CancellationToken {
        self.scope().map_or_else(CancellationToken::new, |scope| scope.token().clone())
    }

    /// Why nobody waits any more; none while somebody does.
    pub fn cancel_reason(&self) -> Option<CancelReason> {
        self.scope().and_then(|scope| scope.reason())
    }

    /// The handler's scope, while it runs: for those who ask it often. As the
    /// [token](Context::cancellation), it is to be asked for before the function of a deferred handler returns.
    #[doc(hidden)] // For bindings; no promise of compatibility.
    pub fn scope(&self) -> Option<Arc<Scope>> {
        let request = self.request()?;
        match scope::is_begun(&self.unit, request) {
            true => scope::current(),
            false => self.unit.scopes.get(request),
        }
    }

    /// What is handed down to what is sent on behalf of the handler.
    pub(crate) fn handed_down(&self) -> Option<Arc<Scope>> {
        self.scope().or_else(|| Scope::of_trace(self.incoming.fields()))
    }

    /// Accepts a stream that this peer reads, for [deferred](crate::Role::on_deferred) handlers; as
    /// [`ReadableRequest::accept`].
    ///
    /// # Errors
    /// As there, and [`ErrorKind::InvalidArgument`] when the context is not of [`Kind::Readable`].
    pub fn accept_readable(&self, data: impl Into<Data>) -> Result<Readable> {
        let id = self.accept(Kind::Readable, &data.into())?;
        Ok(Readable::new(self.unit.clone(), id))
    }

    /// Accepts a stream that this peer writes, for [deferred](crate::Role::on_deferred) handlers; as
    /// [`WritableRequest::accept`].
    ///
    /// # Errors
    /// As there, and [`ErrorKind::InvalidArgument`] when the context is not of [`Kind::Writable`].
    pub fn accept_writable(&self, data: impl Into<Data>) -> Result<Writable> {
        let id = self.accept(Kind::Writable, &data.into())?;
        Ok(Writable::new(self.unit.clone(), id))
    }

    /// Gives the requester its answer and opens the stream.
    fn accept(&self, kind: Kind, data: &Data) -> Result<StreamId> {
        if self.kind != kind {
            let text = format!("This is a {:?}, not a {kind:?}", self.kind);
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        let mut question = self.offer.as_ref().map(|offer| lock(&offer.0));
        let question = question.as_mut().and_then(|question| question.as_mut());
        let question = question.ok_or_else(|| {
            Error::new(ErrorKind::StreamClosed, "The stream was answered already")
        })?;
        // What is accepted tells of its own end. Its requests still inherit what they did.
        let scope = self.scope();
        if let Some(request) = self.request() {
            self.unit.scopes.remove(request);
        }
        let fields = scope.and_then(|scope| scope.take_answer());
        self.unit
            .with(|state| state.machine.accept_with(question, data.payload(), fields.as_deref()))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("kind", &self.kind)
            .field("role", &self.role())
            .field("event", &self.event())
            .field("data", &self.data())
            .finish()
    }
}

/// A unit wants to write a stream that this peer reads.
#[derive(Debug)]
pub struct ReadableRequest(pub(crate) Context);

impl ReadableRequest {
    /// Who asks, with what: event, payload, headers, time.
    pub fn context(&self) -> &Context {
        &self.0
    }

    /// Accepts, with a payload for the requester. Refuse by returning an error from the handler
    /// instead.
    ///
    /// # Errors
    /// [`ErrorKind::ConnectionLost`] when the requester is gone, [`ErrorKind::Overloaded`] when too
    /// many streams are open; the requester is told.
    pub fn accept(&self, data: impl Into<Data>) -> Result<Readable> {
        self.0.accept_readable(data)
    }
}

/// A unit wants to read a stream that this peer writes.
#[derive(Debug)]
pub struct WritableRequest(pub(crate) Context);

impl WritableRequest {
    /// Who asks, with what: event, payload, headers, time.
    pub fn context(&self) -> &Context {
        &self.0
    }

    /// Accepts, with a payload for the requester. Refuse by returning an error from the handler
    /// instead.
    ///
    /// # Errors
    /// [`ErrorKind::ConnectionLost`] when the requester is gone, [`ErrorKind::Overloaded`] when too
    /// many streams are open; the requester is told.
    pub fn accept(&self, data: impl Into<Data>) -> Result<Writable> {
        self.0.accept_writable(data)
    }
}
