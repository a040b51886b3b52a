//! A role as offered by units.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::watch;

use super::{
    context::Context,
    open::OpenStream,
    request::{SendRequest, ask},
    scope::{Inherit, Scope, Watch},
    send::{Addressed, SendMessage, outgoing},
    shared::Shared,
    stream::{Readable, Writable},
    survey::{Asking, Survey},
    unit::{Unit, UnitInner},
};
use crate::{
    Error, ErrorKind, Result,
    engine::{
        Balance, Bulkhead, Fields, Load, Order, Retry, Standing, TimeLimit, Tried, Turn, UnitId,
        Units, Wanted,
    },
    wire::{Data, Direction, Payload},
};

pub(crate) struct DestinationInner {
    role: Arc<str>,
    /// The units that serve the role, in the order in which they were found.
    units: ArcSwap<Vec<Arc<UnitInner>>>,
    /// How many they are, for those who wait.
    count: watch::Sender<usize>,
    turn: Arc<Turn>,
}

impl DestinationInner {
    pub(crate) fn new(role: Arc<str>, turn: Arc<Turn>) -> DestinationInner {
        DestinationInner { role, units: ArcSwap::default(), count: watch::Sender::new(0), turn }
    }

    pub(crate) fn set_units(&self, units: Vec<Arc<UnitInner>>) {
        let count = units.len();
        self.units.store(Arc::new(units));
        self.count.send_replace(count);
    }
}

/// A role as offered by the units that are connected: where messages, requests and streams go.
///
/// A handle: clones are cheap and stand for the same destination. Each message, request or stream
/// goes to the unit that the [balance](Balance) says, unless one is chosen with `to`.
#[derive(Clone)]
pub struct Destination {
    shared: Arc<Shared>,
    inner: Arc<DestinationInner>,
    /// None: nothing was set. So it nearly always is, and then only this is looked at.
    options: Option<Arc<Options>>,
}

/// What is set for a handle of a destination.
#[derive(Clone, Default)]
struct Options {
    fields: Option<Arc<Fields>>,
    inherit: Inherit,
    waits: bool,
    balance: Option<Balance>,
    bulkhead: Option<Bulkhead>,
    retry: Option<Retry>,
}

impl Destination {
    pub(crate) fn new(shared: Arc<Shared>, inner: Arc<DestinationInner>) -> Destination {
        // Of a balance for which one unit is not as good as any.
        let options = shared.balance.means_one().then(Arc::default);
        Destination { shared, inner, options }
    }

    fn with_options(&self, set: impl FnOnce(&mut Options)) -> Destination {
        let mut options = self.options.as_deref().cloned().unwrap_or_default();
        set(&mut options);
        Destination { options: Some(Arc::new(options)), ..self.clone() }
    }

    /// The same destination, as a handle whose requests and streams wait for a unit, within their time limits,
    /// when none serves the role: then it does not matter who starts first. As [`SendRequest::wait_for_unit`]
    /// for each.
    ///
    /// ```no_run
    /// # async fn example(peer: roletalk::Peer) -> roletalk::Result<()> {
    /// let math = peer.destination("math")?.wait_for_unit();
    /// let answer = math.request("add", roletalk::Data::json(&(2, 3))?).await?;
    /// # Ok(()) }
    /// ```
    #[must_use = "it is another handle"]
    pub fn wait_for_unit(&self) -> Destination {
        self.with_options(|options| options.waits = true)
    }

    /// The same destination, as a handle that chooses in this way among the units that serve the role; otherwise
    /// it is the [peer's](crate::PeerBuilder::balance). Broadcasts and surveys go to all of them.
    ///
    /// ```no_run
    /// # async fn example(peer: roletalk::Peer) -> roletalk::Result<()> {
    /// use roletalk::Balance;
    ///
    /// let math = peer.destination("math")?.balance(Balance::least_loaded().prefer("zone", "a"));
    /// # Ok(()) }
    /// ```
    #[must_use = "it is another handle"]
    pub fn balance(&self, balance: Balance) -> Destination {
        self.with_options(|options| options.balance = Some(balance))
    }

    /// The same destination, as a handle that has at most so many requests in flight, stream openings included: a
    /// further one fails at once, with [`ErrorKind::Overloaded`]. Clones of the handle share the bound, others do
    /// not. Messages and surveys are not counted.
    #[must_use = "it is another handle"]
    pub fn max_in_flight(&self, requests: usize) -> Destination {
        self.with_options(|options| options.bulkhead = Some(Bulkhead::new(requests)))
    }

    /// The same destination, as a handle whose requests may all be handled more than once, and are made again in this
    /// way: as [`SendRequest::retry`] for each.
    #[must_use = "it is another handle"]
    pub fn retry(&self, retry: Retry) -> Destination {
        self.with_options(|options| options.retry = Some(retry))
    }

    /// How the units that serve the role stand with this peer: what they owe, how long they take, which of them fail
    /// and are left out. In the order in which they were found, as [`units`](Destination::units).
    pub fn standings(&self) -> Vec<(Unit, Standing)> {
        let units = self.inner.units.load();
        let now = self.shared.clock.now();
        let standings = self.balance_in_force().standings(&Serving(&units), now);
        units.iter().cloned().map(Unit::new).zip(standings).collect()
    }

    /// The same destination, as a handle that sends these headers and this trace context with everything:
    /// messages, requests, streams, broadcasts and surveys.
    ///
    /// ```no_run
    /// # async fn example(health: roletalk::Destination) -> roletalk::Result<()> {
    /// let mut fields = roletalk::Fields::new();
    /// fields.add_header("tenant", "blue")?;
    /// let answers = health.with_fields(fields).survey("check", ()).all().await;
    /// # Ok(()) }
    /// ```
    #[must_use = "it is another handle"]
    pub fn with_fields(&self, fields: Fields) -> Destination {
        self.with_options(|options| options.fields = Some(Arc::new(fields)))
    }

    /// The same destination, as a handle that inherits nothing of handlers: messages, requests, streams,
    /// broadcasts and surveys. As [`SendRequest::detached`] for each.
    #[must_use = "it is another handle"]
    pub fn detached(&self) -> Destination {
        self.with_options(|options| options.inherit = Inherit::From(None))
    }

    /// The same destination, as a handle that inherits of the handler with this context, while that runs, on
    /// whichever task or thread it is used. As [`SendRequest::within`] for each.
    ///
    /// ```no_run
    /// # async fn example(ctx: roletalk::Context, health: roletalk::Destination) {
    /// let answers = tokio::spawn(async move { health.within(&ctx).survey("check", ()).all().await });
    /// # }
    /// ```
    #[must_use = "it is another handle"]
    pub fn within(&self, context: &Context) -> Destination {
        self.with_options(|options| options.inherit = Inherit::From(context.handed_down()))
    }

    /// The role's name.
    pub fn name(&self) -> &str {
        &self.inner.role
    }

    /// The units that serve the role now, in the order in which they were found.
    pub fn units(&self) -> Vec<Unit> {
        self.inner.units.load().iter().cloned().map(Unit::new).collect()
    }

    /// Whether a unit serves the role now.
    pub fn is_ready(&self) -> bool {
        !self.inner.units.load().is_empty()
    }

    /// Waits until a unit serves the role. Cancel-safe; use [`tokio::time::timeout`] for a limit.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] when the peer is closed.
    pub async fn ready(&self) -> Result<()> {
        self.ready_with(1).await
    }

    /// Waits until at least so many units serve the role at the same time. Cancel-safe.
    ///
    /// # Errors
    /// As [`ready`](Destination::ready).
    pub async fn ready_with(&self, units: usize) -> Result<()> {
        let mut count = self.inner.count.subscribe();
        let mut closed = self.shared.closed.subscribe();
        tokio::select! {
            // The sender lives in `self`.
            _ = count.wait_for(|count| *count >= units) => Ok(()),
            _ = closed.wait_for(|closed| *closed) => {
                Err(Error::peer_closed())
            }
        }
    }

    pub(crate) fn role(&self) -> &Arc<str> {
        &self.inner.role
    }

    /// Whether more than one unit serves the role now.
    pub(crate) fn has_choice(&self) -> bool {
        self.inner.units.load().len() > 1
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Changes whenever a unit begins or ceases to serve the role, and when the peer is closed.
    pub(crate) fn changes(&self) -> watch::Receiver<usize> {
        self.inner.count.subscribe()
    }

    /// Whether nothing was set, so that only its units are to be looked at.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.options.is_none()
    }

    /// Whether its messages may go to any unit: see [`Balance::means_one`].
    pub(crate) fn is_for_any(&self) -> bool {
        !self.balance_in_force().means_one()
    }

    /// Whether a unit is waited for when there is none.
    pub(crate) fn waits(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.waits)
    }

    pub(crate) fn inherit(&self) -> Inherit {
        self.options.as_ref().map_or_else(Inherit::default, |options| options.inherit.clone())
    }

    fn shared_fields(&self) -> Option<&Arc<Fields>> {
        self.options.as_ref()?.fields.as_ref()
    }

    /// What goes with everything, for one that may add to it.
    #[inline]
    pub(crate) fn own_fields(&self) -> Option<Fields> {
        match &self.options {
            None => None,
            Some(options) => options.fields.as_deref().cloned(),
        }
    }

    /// What its requests have to find room in.
    pub(crate) fn bulkhead(&self) -> Option<&Bulkhead> {
        self.options.as_ref()?.bulkhead.as_ref()
    }

    /// How its requests are made again.
    pub(crate) fn retries(&self) -> Option<&Retry> {
        self.options.as_ref()?.retry.as_ref()
    }

    /// How units are chosen.
    pub(crate) fn balance_in_force(&self) -> &Balance {
        let own = self.options.as_ref().and_then(|options| options.balance.as_ref());
        own.unwrap_or(&self.shared.balance)
    }

    /// The unit whose turn it is, of a destination that [is plain](Destination::is_plain).
    #[inline]
    pub(crate) fn next_unit(&self) -> Result<Arc<UnitInner>> {
        self.shared.check_open()?;
        let units = self.inner.units.load();
        // One candidate is no choice.
        match units.as_slice() {
            [only] if only.is_open() => Ok(only.clone()),
            units => {
                let balance = &self.shared.balance;
                self.choose(units, Wanted { balance, takes_fields: false, tried: &Tried::NONE })
            }
        }
    }

    /// The unit that the caller or else the balance chooses, where it has not been.
    pub(crate) fn pick(
        &self,
        chosen: Option<&Unit>,
        balance: Option<&Balance>,
        takes_fields: bool,
        tried: &Tried,
    ) -> Result<Arc<UnitInner>> {
        self.shared.check_open()?;
        if let Some(chosen) = chosen {
            return Ok(chosen.inner.clone());
        }
        let units = self.inner.units.load();
        let balance = balance.unwrap_or_else(|| self.balance_in_force());
        // One candidate is no choice; but a function may refuse it.
        if let [only] = units.as_slice()
            && only.is_open()
            && !takes_fields
            && tried.is_empty()
            && !balance.may_refuse()
        {
            return Ok(only.clone());
        }
        self.choose(&units, Wanted { balance, takes_fields, tried })
    }

    fn choose(&self, units: &[Arc<UnitInner>], wanted: Wanted<'_>) -> Result<Arc<UnitInner>> {
        let now = || self.shared.clock.now();
        let chosen = self.inner.turn.choose(&Serving(units), wanted, &now);
        if self.inner.turn.has_news() {
            self.shared.with_core(|core, _| core.peer.tell_ejections());
        }
        let chosen = chosen?;
        chosen.map(|at| units[at].clone()).ok_or_else(|| self.no_choice(wanted.takes_fields))
    }

    #[cold]
    pub(crate) fn no_choice(&self, takes_fields: bool) -> Error {
        self.shared.with_core(|core, _| core.peer.no_choice(&self.inner.role, takes_fields))
    }

    /// Sends a one-way message to the next unit. Finished when the unit's connection has taken it
    /// into its queue, which may have to wait for room; nothing tells whether it arrived.
    ///
    /// ```no_run
    /// # async fn example(log: roletalk::Destination) -> roletalk::Result<()> {
    /// let unit = log.send("line", "hello").await?;
    /// log.send("line", "to the same one").to(&unit).await?;
    /// # Ok(()) }
    /// ```
    pub fn send<'a>(&'a self, event: &'a str, data: impl Into<Data>) -> SendMessage<'a> {
        SendMessage { what: Addressed::owned(self, event, data.into(), Order::Kept) }
    }

    /// As [`send`](Destination::send), from bytes that are borrowed until they are in the queue: for
    /// those that have no [`Bytes`](bytes::Bytes) to share, such as other languages. Nothing is checked,
    /// as with [`Data::from_raw`].
    #[doc(hidden)] // For bindings; no promise of compatibility.
    pub fn send_payload<'a>(&'a self, event: &'a str, payload: Payload<'a>) -> SendMessage<'a> {
        SendMessage { what: Addressed::borrowed(self, event, payload, Order::Kept) }
    }

    /// Waits until a unit that serves the role has room for a message: for those who send without
    /// waiting, by polling [`send`](Destination::send) once. It may be another one than whose turn it is,
    /// and somebody else may take the room: try again then. Cancel-safe.
    ///
    /// # Errors
    /// [`ErrorKind::NoUnit`] when none serves the role, or none does any more; [`ErrorKind::Closed`].
    pub async fn room(&self) -> Result<()> {
        let mut changes = self.inner.count.subscribe();
        loop {
            self.shared.check_open()?;
            changes.mark_unchanged();
            let units = self.inner.units.load_full();
            let open = units.iter().filter(|unit| unit.is_open());
            let rooms = open.map(|unit| async move {
                unit.has_room().await;
                unit.is_open()
            });
            let mut rooms: FuturesUnordered<_> = rooms.collect();
            if rooms.is_empty() {
                return Err(self.no_choice(false));
            }
            tokio::select! {
                biased;
                // The sender lives in `self`.
                _ = changes.changed() => {}
                room = rooms.next() => if room == Some(true) {
                    return Ok(());
                },
            }
        }
    }

    /// Sends a one-way message to every unit that serves the role now. Returns how many took it.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`]; [`ErrorKind::TooLarge`] and [`ErrorKind::InvalidArgument`], which no
    /// unit would take. Units that close meanwhile are passed over.
    pub async fn broadcast(&self, event: &str, data: impl Into<Data>) -> Result<usize> {
        self.shared.check_open()?;
        let data = data.into();
        let units = self.inner.units.load_full();
        let fields = self.handed_down(self.inherit().trace().as_deref());
        let fields = fields.as_deref();
        let message = outgoing(&self.inner.role, event, data.payload(), Order::Kept, fields);
        let mut sends: FuturesUnordered<_> = units.iter().map(|unit| unit.send(message)).collect();
        let mut taken = 0;
        while let Some(sent) = sends.next().await {
            match sent {
                Ok(()) => taken += 1,
                Err(error) if error.kind() == ErrorKind::ConnectionLost => {}
                // Required headers mean that others are passed over.
                Err(error) if error.kind() == ErrorKind::Unsupported => {}
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// Sends a request to the next unit and waits for the answer. Dropping the future gives up
    /// waiting, and cancels the handler at the other end.
    ///
    /// ```no_run
    /// # async fn example(math: roletalk::Destination) -> roletalk::Result<()> {
    /// use std::time::Duration;
    ///
    /// let answer = math.request("add", roletalk::Data::json(&(2, 3))?)
    ///     .timeout(Duration::from_secs(1))
    ///     .await?;
    /// assert_eq!(answer.parse::<i64>()?, 5);
    /// # Ok(()) }
    /// ```
    pub fn request<'a>(&'a self, event: &'a str, data: impl Into<Data>) -> SendRequest<'a> {
        let what = Addressed::owned(self, event, data.into(), Order::Kept);
        SendRequest { what, timeout: None }
    }

    /// As [`request`](Destination::request), from borrowed bytes, as
    /// [`send_payload`](Destination::send_payload).
    #[doc(hidden)] // For bindings; no promise of compatibility.
    pub fn request_payload<'a>(&'a self, event: &'a str, payload: Payload<'a>) -> SendRequest<'a> {
        let what = Addressed::borrowed(self, event, payload, Order::Kept);
        SendRequest { what, timeout: None }
    }

    /// Sends a request to every unit that serves the role now. The answers come as they arrive.
    ///
    /// ```no_run
    /// # async fn example(health: roletalk::Destination) -> roletalk::Result<()> {
    /// let mut survey = health.survey("check", ());
    /// while let Some((unit, answer)) = survey.next().await {
    ///     println!("{}: {:?}", unit.name(), answer.map(|answer| answer.into_data()));
    /// }
    /// let all = health.survey("check", ()).all().await;
    /// # Ok(()) }
    /// ```
    pub fn survey(&self, event: &str, data: impl Into<Data>) -> Survey {
        self.survey_within(event, data, None)
    }

    /// As [`survey`](Destination::survey), with a time limit for each answer.
    pub fn survey_within(
        &self,
        event: &str,
        data: impl Into<Data>,
        timeout: impl Into<Option<Duration>>,
    ) -> Survey {
        let (role, event): (Arc<str>, Arc<str>) = (self.inner.role.clone(), event.into());
        let (data, timeout) = (data.into(), timeout.into());
        let units = self.inner.units.load_full();
        let asked = units.len();
        let scope = self.inherit().scope();
        let fields = self.handed_down(scope.as_deref());
        let answers = units.iter().cloned().map(|unit| {
            let (role, event, data) = (role.clone(), event.clone(), data.clone());
            let (fields, scope) = (fields.clone(), scope.clone());
            let asking = async move {
                let fields = fields.as_deref();
                let outgoing = outgoing(&role, &event, data.payload(), Order::Kept, fields);
                let left = scope.as_ref().and_then(|scope| scope.left());
                let timeout = timeout.into_iter().chain(left).min();
                let limit = TimeLimit { limit: timeout, since: Some(unit.shared.clock.now()) };
                let answer = Watch::new(scope).run(ask(&unit, outgoing, limit)).await;
                (Unit::new(unit), answer)
            };
            Box::pin(asking) as Asking
        });
        Survey { asked, answers: answers.collect() }
    }

    /// Asks the next unit for a stream to read.
    ///
    /// ```no_run
    /// # async fn example(store: roletalk::Destination) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::AsyncReadExt;
    ///
    /// let (mut stream, answer) = store.readable("download", "x").await?;
    /// let mut bytes = Vec::new();
    /// stream.read_to_end(&mut bytes).await?;
    /// # Ok(()) }
    /// ```
    pub fn readable<'a>(
        &'a self,
        event: &'a str,
        data: impl Into<Data>,
    ) -> OpenStream<'a, Readable> {
        OpenStream {
            what: Addressed::owned(self, event, data.into(), Order::Any),
            timeout: None,
            direction: Direction::RequesterReads,
            make: Readable::new,
        }
    }

    /// Asks the next unit for a stream to write.
    ///
    /// ```no_run
    /// # async fn example(store: roletalk::Destination) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::AsyncWriteExt;
    ///
    /// let (mut stream, answer) = store.writable("upload", "x").await?;
    /// stream.write_all(b"hello").await?;
    /// stream.shutdown().await?;
    /// # Ok(()) }
    /// ```
    pub fn writable<'a>(
        &'a self,
        event: &'a str,
        data: impl Into<Data>,
    ) -> OpenStream<'a, Writable> {
        OpenStream {
            what: Addressed::owned(self, event, data.into(), Order::Any),
            timeout: None,
            direction: Direction::RequesterWrites,
            make: Writable::new,
        }
    }

    /// What goes with everything, and the trace context of the handler that sends it.
    fn handed_down(&self, scope: Option<&Scope>) -> Option<Arc<Fields>> {
        let Some(trace) = scope.and_then(Scope::trace) else {
            return self.shared_fields().cloned();
        };
        let mut fields = self.own_fields().unwrap_or_default();
        if fields.view().traceparent().is_none() {
            fields.inherit_trace(trace);
        }
        Some(Arc::new(fields))
    }
}

/// The units that serve a role.
struct Serving<'a>(&'a [Arc<UnitInner>]);

impl Units for Serving<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn unit(&self, at: usize) -> UnitId {
        self.0[at].id
    }

    fn load(&self, at: usize) -> &Load {
        &self.0[at].load
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination")
            .field("role", &self.inner.role)
            .field("units", &self.inner.units.load().len())
            .finish()
    }
}
