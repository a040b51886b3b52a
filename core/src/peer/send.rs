//! Messages on their way out, and what everything that is sent begins with: to whom.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use super::{
    Destination,
    route::Route,
    scope::{Inherit, Scope},
    unit::{Unit, UnitInner},
};
use crate::{
    Error, ErrorKind, Result,
    engine::{Balance, Fields, Moves, Order, Outgoing, Retry, Tried, timed_out},
    wire::{Data, Payload},
};

pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A payload about to be sent.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    Owned(Data),
    Borrowed(Payload<'a>),
}

impl Content<'_> {
    fn payload(&self) -> Payload<'_> {
        match self {
            Content::Owned(data) => data.payload(),
            Content::Borrowed(payload) => *payload,
        }
    }
}

/// What is about to be sent, and to whom.
#[derive(Debug)]
pub(crate) struct Addressed<'a> {
    pub(crate) destination: &'a Destination,
    pub(crate) event: &'a str,
    pub(crate) data: Content<'a>,
    pub(crate) unit: Option<Unit>,
    pub(crate) order: Order,
    pub(crate) inherit: Inherit,
    /// Whether a unit is waited for.
    pub(crate) waits: bool,
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
            destination: &self.destination,
            event: &self.event,
            data: Content::Borrowed(self.data.payload()),
            unit: self.unit.clone(),
            order: self.order,
            inherit: Inherit::From(None),
            waits: self.waits,
            extra: self.extra.clone(),
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

impl Addressed<'_> {
    /// The chosen unit, or the next one.
    #[inline]
    pub(crate) fn unit(&self) -> Result<Arc<UnitInner>> {
        let required = match self.extra.as_deref() {
            None => false,
            Some(Extra { fault: Some(fault), .. }) => return Err(fault.clone()),
            Some(extra) => extra.is_required(),
        };
        self.destination.pick(self.unit.as_ref(), self.balance(), required, &Tried::NONE)
    }

    #[inline]
    fn balance(&self) -> Option<&Balance> {
        self.extra.as_deref().and_then(|extra| extra.balance.as_ref())
    }

    /// A unit where it has not been.
    pub(crate) fn pick(&self, tried: &Tried) -> Result<Arc<UnitInner>> {
        let required = self.extra.as_deref().is_some_and(Extra::is_required);
        self.destination.pick(None, self.balance(), required, tried)
    }

    /// How it is made again, if it may be. Whoever chose the unit meant that one.
    #[inline]
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
        let data = match &self.data {
            Content::Owned(data) => data.clone(),
            Content::Borrowed(payload) => (*payload).into(),
        };
        self.destination.shared().kept.fetch_add(data.bytes().len(), Ordering::Relaxed);
        Kept {
            destination: self.destination.clone(),
            event: self.event.into(),
            data,
            unit: self.unit.clone(),
            order: self.order,
            waits: self.waits,
            extra: self.extra.clone(),
        }
    }

    /// The same, as long as not too much is kept: what is sent already needs it only to be sent again.
    pub(crate) fn keep_if_room(&self) -> Option<Kept> {
        let shared = self.destination.shared();
        let len = self.data.payload().bytes.len();
        let room = shared.kept.load(Ordering::Relaxed) + len <= shared.limits.queue_per_peer;
        room.then(|| self.keep())
    }

    /// Takes over what the handler that sends it hands down, and finds the unit.
    #[inline]
    pub(crate) fn prepare(&mut self, timeout: Option<Duration>) -> Result<Prepared> {
        let scope = self.inherit.scope();
        let timeout = match &scope {
            None => timeout,
            Some(scope) => self.hand_down(scope, timeout)?,
        };
        let unit = match self.unit() {
            Ok(unit) => Some(unit),
            Err(error) if self.waits && error.kind() == ErrorKind::NoUnit => None,
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

    #[inline]
    pub(crate) fn outgoing(&self) -> Outgoing<'_> {
        let fields = self.extra.as_ref().and_then(|extra| extra.fields.as_ref());
        let payload = self.data.payload();
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
            self.what.inherit = $crate::peer::scope::Inherit::From(None);
            self
        }

        /// Inherits of the handler with this context, while that runs: for what is made on a task or a thread of
        /// its own, which knows nothing of the handler. The trace context is inherited in any case.
        pub fn within(mut self, context: &$crate::Context) -> Self {
            self.what.inherit = $crate::peer::scope::Inherit::From(context.handed_down());
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
        // A message is not given up: it has nobody who waits.
        if let Some(scope) = what.inherit.trace() {
            what.hand_down_trace(&scope);
        }
        let unit = what.unit()?;
        match unit.send_if_room(what.outgoing()) {
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
