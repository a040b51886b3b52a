//! Messages on their way out, and what everything that is sent begins with: to whom.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;

use super::{
    Destination,
    route::Route,
    scope::{self, Inherit, Scope},
    unit::{Unit, UnitInner},
};
use crate::{
    Error, ErrorKind, Result,
    engine::{Balance, Fields, Moves, Order, Outgoing, Retry, Tried, timed_out},
    wire::{Data, DataType, Payload},
};

pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The bytes of a payload about to be sent.
#[derive(Debug)]
enum Content<'a> {
    Owned(Bytes),
    Borrowed(&'a [u8]),
}

/// What is about to be sent, and to whom. It is moved with each future, so it is to stay small.
#[derive(Debug)]
pub(crate) struct Addressed<'a> {
    pub(crate) destination: &'a Destination,
    event: &'a str,
    content: Content<'a>,
    kind: DataType,
    pub(crate) order: Order,
    /// Whether a unit is waited for.
    pub(crate) waits: bool,
    /// Whether it inherits what its extras say, not what the destination's do.
    inherits_own: bool,
    pub(crate) unit: Option<Unit>,
    /// Rare, so apart.
    pub(crate) extra: Option<Box<Extra>>,
}

/// What goes with something besides its payload, or the first thing that was wrong with that; and how its unit is
/// chosen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    pub(crate) fields: Option<Fields>,
    fault: Option<Error>,
    /// How to choose the unit, unless as the destination does.
    pub(crate) balance: Option<Balance>,
    /// How to make it again, unless as the destination does.
    pub(crate) retry: Option<Retry>,
    /// What it inherits of, where it does not inherit as the destination does.
    scope: Option<Arc<Scope>>,
}

impl Extra {
    pub(crate) fn new(fields: Fields) -> Box<Extra> {
        Box::new(Extra { fields: Some(fields), ..Extra::default() })
    }

    fn is_required(&self) -> bool {
        self.fields.as_ref().is_some_and(Fields::is_required)
    }
}

/// What is to be sent, for those who outlive the call.
pub(crate) struct Kept {
    destination: Destination,
    event: Box<str>,
    data: Data,
    unit: Option<Unit>,
    order: Order,
    waits: bool,
    extra: Option<Box<Extra>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.destination.shared().kept.fetch_sub(self.data.bytes().len(), Ordering::Relaxed);
    }
}

impl Kept {
    pub(crate) fn addressed(&self) -> Addressed<'_> {
        Addressed {
            unit: self.unit.clone(),
            waits: self.waits,
            inherits_own: true,
            extra: self.extra.clone(),
            ..Addressed::borrowed(&self.destination, &self.event, self.data.payload(), self.order)
        }
    }
}

/// What is sent, once it is known who sends it.
pub(crate) struct Prepared {
    /// None when a unit is to be waited for.
    pub(crate) unit: Option<Arc<UnitInner>>,
    /// What gives it up.
    pub(crate) scope: Option<Arc<Scope>>,
    pub(crate) timeout: Option<Duration>,
}

impl<'a> Addressed<'a> {
    #[inline]
    pub(crate) fn owned(
        destination: &'a Destination,
        event: &'a str,
        data: Data,
        order: Order,
    ) -> Addressed<'a> {
        let kind = data.kind();
        Addressed::new(destination, event, (kind, Content::Owned(data.into_bytes())), order)
    }

    #[inline]
    pub(crate) fn borrowed(
        destination: &'a Destination,
        event: &'a str,
        Payload { kind, bytes }: Payload<'a>,
        order: Order,
    ) -> Addressed<'a> {
        Addressed::new(destination, event, (kind, Content::Borrowed(bytes)), order)
    }

    #[inline]
    fn new(
        destination: &'a Destination,
        event: &'a str,
        (kind, content): (DataType, Content<'a>),
        order: Order,
    ) -> Addressed<'a> {
        let extra = destination.own_fields().map(Extra::new);
        Addressed {
            destination,
            event,
            content,
            kind,
            order,
            waits: false,
            inherits_own: false,
            unit: None,
            extra,
        }
    }
}

impl Addressed<'_> {
    /// Whether nothing is to be looked at but the destination's units: neither the call nor the destination has any
    /// options. So it nearly always is.
    #[inline]
    fn is_plain(&self) -> bool {
        self.unit.is_none() && self.extra.is_none() && self.destination.is_plain()
    }

    /// As a plain message, if that is all that it is.
    #[inline]
    fn plain_message(&self) -> Option<Outgoing<'_>> {
        (self.is_plain() && !scope::has_trace()).then(|| self.plain_outgoing())
    }

    /// As a plain request, likewise.
    #[inline]
    pub(crate) fn plain_request(&self) -> Option<Outgoing<'_>> {
        let is_plain = self.is_plain() && !self.waits && !scope::is_entered();
        is_plain.then(|| self.plain_outgoing())
    }

    #[inline]
    fn plain_outgoing(&self) -> Outgoing<'_> {
        let to = outgoing(self.destination.role(), self.event, self.payload(), self.order, None);
        Outgoing { moves: Moves::ToAnyUnit, ..to }
    }

    #[inline]
    fn payload(&self) -> Payload<'_> {
        let bytes = match &self.content {
            Content::Owned(bytes) => bytes,
            Content::Borrowed(bytes) => *bytes,
        };
        Payload { kind: self.kind, bytes }
    }

    /// Whether a unit is waited for, since the caller or the destination says so.
    pub(crate) fn waits(&self) -> bool {
        self.waits || self.destination.waits()
    }

    /// Inherits of this scope, or of none, not as the destination does.
    pub(crate) fn inherit_of(&mut self, scope: Option<Arc<Scope>>) {
        self.inherits_own = true;
        if scope.is_some() || self.extra.is_some() {
            self.extra.get_or_insert_default().scope = scope;
        }
    }

    fn inherit(&self) -> Inherit {
        match self.inherits_own {
            true => Inherit::From(self.extra.as_ref().and_then(|extra| extra.scope.clone())),
            false => self.destination.inherit(),
        }
    }

    /// The chosen unit, or the next one.
    fn unit(&self) -> Result<Arc<UnitInner>> {
        let required = match self.extra.as_deref() {
            None => false,
            Some(Extra { fault: Some(fault), .. }) => return Err(fault.clone()),
            Some(extra) => extra.is_required(),
        };
        self.destination.pick(self.unit.as_ref(), self.balance(), required, &Tried::NONE)
    }

    fn balance(&self) -> Option<&Balance> {
        self.extra.as_deref().and_then(|extra| extra.balance.as_ref())
    }

    /// A unit where it has not been.
    pub(crate) fn pick(&self, tried: &Tried) -> Result<Arc<UnitInner>> {
        let required = self.extra.as_deref().is_some_and(Extra::is_required);
        self.destination.pick(None, self.balance(), required, tried)
    }

    /// How it is made again, if it may be. Whoever chose the unit meant that one.
    pub(crate) fn retry(&self) -> Option<&Retry> {
        let own = self.extra.as_deref().and_then(|extra| extra.retry.as_ref());
        own.or(self.destination.retries()).filter(|_| self.unit.is_none())
    }

    /// Has the unit chosen in this way.
    pub(crate) fn choose_by(&mut self, balance: Balance) {
        self.extra.get_or_insert_default().balance = Some(balance);
    }

    pub(crate) fn choose_by_key(&mut self, key: &[u8]) {
        let balance = self.balance().unwrap_or_else(|| self.destination.balance_in_force());
        let balance = balance.with_key(key);
        self.choose_by(balance);
    }

    /// The same, owned.
    pub(crate) fn keep(&self) -> Kept {
        let bytes = match &self.content {
            Content::Owned(bytes) => bytes.clone(),
            Content::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        };
        let data = Data::from_raw(self.kind, bytes);
        let mut extra = self.extra.clone();
        // What it inherits it has.
        if let Some(extra) = &mut extra {
            extra.scope = None;
        }
        self.destination.shared().kept.fetch_add(data.bytes().len(), Ordering::Relaxed);
        Kept {
            destination: self.destination.clone(),
            event: self.event.into(),
            data,
            unit: self.unit.clone(),
            order: self.order,
            waits: self.waits,
            extra,
        }
    }

    /// The same, as long as not too much is kept: what is sent already needs it only to be sent again.
    pub(crate) fn keep_if_room(&self) -> Option<Kept> {
        let shared = self.destination.shared();
        let len = self.payload().bytes.len();
        let room = shared.kept.load(Ordering::Relaxed) + len <= shared.limits.queue_per_peer;
        room.then(|| self.keep())
    }

    /// Takes over what the handler that sends it hands down, and finds the unit.
    pub(crate) fn prepare(&mut self, timeout: Option<Duration>) -> Result<Prepared> {
        let scope = self.inherit().scope();
        let timeout = match &scope {
            None => timeout,
            Some(scope) => self.hand_down(scope, timeout)?,
        };
        let unit = match self.unit() {
            Ok(unit) => Some(unit),
            Err(error) if self.waits() && error.kind() == ErrorKind::NoUnit => None,
            Err(error) => return Err(error),
        };
        Ok(Prepared { unit, scope, timeout })
    }

    #[cold]
    fn hand_down(&mut self, scope: &Scope, timeout: Option<Duration>) -> Result<Option<Duration>> {
        scope.check()?;
        self.hand_down_trace(scope);
        let Some(left) = scope.left() else { return Ok(timeout) };
        let timeout = timeout.map_or(left, |timeout| timeout.min(left));
        match timeout.is_zero() {
            true => Err(timed_out(timeout)),
            false => Ok(Some(timeout)),
        }
    }

    /// Adds the trace context, unless there is one.
    pub(crate) fn hand_down_trace(&mut self, scope: &Scope) {
        if let Some(trace) = scope.trace() {
            let fields = self.extra.get_or_insert_default().fields.get_or_insert_default();
            if fields.view().traceparent().is_none() {
                fields.inherit_trace(trace);
            }
        }
    }

    /// Changes what goes with it. What is wrong is told when it is sent.
    pub(crate) fn with_fields(&mut self, change: impl FnOnce(&mut Fields) -> Result<()>) {
        let extra = self.extra.get_or_insert_default();
        if let Err(error) = change(extra.fields.get_or_insert_default()) {
            extra.fault.get_or_insert(error);
        }
    }

    /// Sends a message that has options, if its unit has room.
    #[inline(never)]
    fn send_with_options(&mut self) -> Result<(Arc<UnitInner>, Option<Result<()>>)> {
        // A message is not given up: it has nobody who waits.
        if let Some(scope) = self.inherit().trace() {
            self.hand_down_trace(&scope);
        }
        let unit = self.unit()?;
        let sent = unit.send_if_room(self.outgoing());
        Ok((unit, sent))
    }

    pub(crate) fn outgoing(&self) -> Outgoing<'_> {
        let fields = self.extra.as_ref().and_then(|extra| extra.fields.as_ref());
        let payload = self.payload();
        let bulkhead = self.destination.bulkhead();
        let to = outgoing(self.destination.role(), self.event, payload, self.order, fields);
        let for_any = self.unit.is_none()
            && match self.balance() {
                None => self.destination.is_for_any(),
                Some(balance) => !balance.means_one(),
            };
        let moves = if for_any { Moves::ToAnyUnit } else { Moves::WithinUnit };
        Outgoing { bulkhead, moves, ..to }
    }
}

/// What messages, requests and streams have in common, on a type whose `what` is [`Addressed`].
macro_rules! addressed {
    () => {
        /// Adds a header: text or bytes. Left out, and counted, where the unit does not take headers. What is
        /// wrong with it is the error of sending: [`ErrorKind::InvalidArgument`](crate::ErrorKind) for a name
        /// that does not fit, [`ErrorKind::TooLarge`](crate::ErrorKind) for more than 8 KiB in all; see
        /// [`Fields::add_header`](crate::Fields::add_header).
        pub fn header<'v>(mut self, name: &str, value: impl Into<$crate::HeaderValue<'v>>) -> Self {
            self.what.with_fields(|fields| fields.add_header(name, value));
            self
        }

        /// Chooses only units that take headers; the error is [`ErrorKind::Unsupported`](crate::ErrorKind) when
        /// there is none.
        pub fn headers_required(mut self) -> Self {
            self.what.with_fields(|fields| {
                fields.set_required(true);
                Ok(())
            });
            self
        }

        /// Sets the trace context, in the form of the W3C headers; the last two may be empty. What is wrong with
        /// it is the error of sending; see [`Fields::set_trace`](crate::Fields::set_trace).
        pub fn trace(mut self, traceparent: &str, tracestate: &str, baggage: &str) -> Self {
            self.what.with_fields(|fields| fields.set_trace(traceparent, tracestate, baggage));
            self
        }

        /// Inherits nothing of the handler that makes it. Otherwise it has at most the time that is left there,
        /// is given up with it, and has its trace context.
        pub fn detached(mut self) -> Self {
            self.what.inherit_of(None);
            self
        }

        /// Inherits of the handler with this context, while that runs: for what is made on a task or a thread of
        /// its own, which knows nothing of the handler. The trace context is inherited in any case.
        pub fn within(mut self, context: &$crate::Context) -> Self {
            self.what.inherit_of(context.handed_down());
            self
        }

        /// Chooses the unit in this way, not in that of the destination.
        ///
        /// ```no_run
        /// # async fn example(math: roletalk::Destination) -> roletalk::Result<()> {
        /// use roletalk::Balance;
        ///
        /// math.request("pi", ()).balance(Balance::least_loaded()).await?;
        /// # Ok(()) }
        /// ```
        pub fn balance(mut self, balance: $crate::Balance) -> Self {
            self.what.choose_by(balance);
            self
        }

        /// Chooses the same unit for the same key, among those that the destination prefers: see
        /// [`Balance::key`](crate::Balance::key).
        pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
            self.what.choose_by_key(key.as_ref());
            self
        }

        /// Sends these headers and this trace context, in the place of what was added before.
        #[doc(hidden)] // For bindings; no promise of compatibility.
        pub fn fields(mut self, fields: $crate::Fields) -> Self {
            self.what.extra.get_or_insert_default().fields = Some(fields);
            self
        }
    };
}
pub(crate) use addressed;

#[inline]
pub(crate) fn outgoing<'a>(
    role: &'a str,
    event: &'a str,
    payload: Payload<'a>,
    order: Order,
    fields: Option<&'a Fields>,
) -> Outgoing<'a> {
    Outgoing { role, event, payload, order, fields, bulkhead: None, moves: Moves::WithinUnit }
}

/// A message about to be sent: `await` it. Made by [`Destination::send`].
#[must_use = "nothing is sent until it is awaited"]
#[derive(Debug)]
pub struct SendMessage<'a> {
    pub(crate) what: Addressed<'a>,
}

impl<'a> SendMessage<'a> {
    addressed!();

    /// Sends to this unit instead of the next in turn.
    pub fn to(mut self, unit: &Unit) -> SendMessage<'a> {
        self.what.unit = Some(unit.clone());
        self
    }

    /// Takes the least loaded connection of the unit, though the message may then overtake others.
    pub fn unordered(mut self) -> SendMessage<'a> {
        self.what.order = Order::Any;
        self
    }
}

impl<'a> IntoFuture for SendMessage<'a> {
    type Output = Result<Unit>;
    type IntoFuture = Sending<'a>;

    fn into_future(self) -> Sending<'a> {
        Sending { what: Some(self.what), queued: None }
    }
}

/// A message on its way into a queue. Dropping it before it is finished sends nothing. Made by
/// awaiting [`SendMessage`].
///
/// # Errors
/// [`ErrorKind::NoUnit`], [`ErrorKind::ConnectionLost`], [`ErrorKind::TooLarge`],
/// [`ErrorKind::InvalidArgument`] for an event name over 65 535 bytes, [`ErrorKind::Closed`].
pub struct Sending<'a> {
    what: Option<Addressed<'a>>,
    /// The unit had no room at first.
    queued: Option<Boxed<'a, Result<Unit>>>,
}

impl<'a> Sending<'a> {
    /// Sends at once if the unit has room.
    fn start(&mut self) -> Result<Option<Unit>> {
        // Used where it is: moving it would cost as much as some of the work.
        let Some(what) = &mut self.what else { return Ok(None) };
        let (unit, sent) = match what.plain_message() {
            Some(message) => {
                let unit = what.destination.next_unit()?;
                let sent = unit.send_if_room(message);
                (unit, sent)
            }
            None => what.send_with_options()?,
        };
        match sent {
            Some(Ok(())) => return Ok(Some(Unit::new(unit))),
            // The unit has just gone.
            Some(Err(error)) if error.is_unhandled() => {}
            Some(Err(error)) => return Err(error),
            None => {}
        }
        self.queued = self.what.take().map(|what| -> Boxed<'a, _> {
            Box::pin(async move {
                let mut route = Route::from_now(&what, None);
                route.begin(&unit);
                let mut unit = unit;
                while let Err(error) = unit.send(what.outgoing()).await {
                    route.failed(unit, error)?;
                    unit = route.unit().await?;
                }
                Ok(Unit::new(unit))
            })
        });
        Ok(None)
    }
}

impl Future for Sending<'_> {
    type Output = Result<Unit>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Unit>> {
        if self.queued.is_none() {
            let started = self.start();
            if let Some(sent) = started.transpose() {
                self.what = None;
                return Poll::Ready(sent);
            }
        }
        match &mut self.queued {
            Some(queued) => queued.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("queued", &self.queued.is_some()).finish()
    }
}
