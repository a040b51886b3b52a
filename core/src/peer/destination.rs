//! A role as offered by units.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_core::Stream;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{
    answers::Tag,
    shared::Shared,
    stream::{Readable, Writable},
    unit::{Unit, UnitInner},
};
use crate::{
    Error, ErrorKind, Result,
    engine::{self, Moment, Order, Outgoing, Policy, StreamId},
    wire::{Data, Direction, Payload},
};

pub(crate) struct DestinationInner {
    role: Arc<str>,
    /// The units that serve the role, in the order in which they were found.
    units: ArcSwap<Vec<Arc<UnitInner>>>,
    /// How many they are, for those who wait.
    count: watch::Sender<usize>,
    policy: Arc<dyn Policy>,
}

impl DestinationInner {
    pub(crate) fn new(role: Arc<str>, policy: Arc<dyn Policy>) -> DestinationInner {
        DestinationInner { role, units: ArcSwap::default(), count: watch::Sender::new(0), policy }
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
/// goes to the next unit in turn, unless one is chosen with `to`.
#[derive(Clone)]
pub struct Destination {
    shared: Arc<Shared>,
    inner: Arc<DestinationInner>,
}

impl Destination {
    pub(crate) fn new(shared: Arc<Shared>, inner: Arc<DestinationInner>) -> Destination {
        Destination { shared, inner }
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
                Err(Error::new(ErrorKind::Closed, "The peer is closed"))
            }
        }
    }

    /// The unit that the policy chooses.
    fn pick(&self) -> Result<Arc<UnitInner>> {
        self.shared.check_open()?;
        let units = self.inner.units.load();
        // One candidate is no choice.
        if let [only] = units.as_slice()
            && only.is_open()
        {
            return Ok(only.clone());
        }
        let chosen = self.inner.policy.choose(units.len(), &|at| &units[at].load);
        chosen.map(|at| units[at].clone()).ok_or_else(|| self.no_unit())
    }

    #[cold]
    fn no_unit(&self) -> Error {
        engine::no_unit(&self.inner.role)
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
        SendMessage { what: self.addressed(event, Content::Owned(data.into()), Order::Kept) }
    }

    /// As [`send`](Destination::send), from bytes that are borrowed until they are in the queue: for
    /// those that have no [`Bytes`](bytes::Bytes) to share, such as other languages. Nothing is checked,
    /// as with [`Data::from_raw`].
    #[doc(hidden)] // For bindings; no promise of compatibility.
    pub fn send_payload<'a>(&'a self, event: &'a str, payload: Payload<'a>) -> SendMessage<'a> {
        SendMessage { what: self.addressed(event, Content::Borrowed(payload), Order::Kept) }
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
                return Err(self.no_unit());
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
        let mut sends: FuturesUnordered<_> = units
            .iter()
            .map(|unit| unit.send(outgoing(&self.inner.role, event, data.payload(), Order::Kept)))
            .collect();
        let mut taken = 0;
        while let Some(sent) = sends.next().await {
            match sent {
                Ok(()) => taken += 1,
                Err(error) if error.kind() == ErrorKind::ConnectionLost => {}
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// Sends a request to the next unit and waits for the answer. Dropping the future gives up
    /// waiting; the handler at the other end is not told.
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
        let what = self.addressed(event, Content::Owned(data.into()), Order::Kept);
        SendRequest { what, timeout: None }
    }

    /// As [`request`](Destination::request), from borrowed bytes, as
    /// [`send_payload`](Destination::send_payload).
    #[doc(hidden)] // For bindings; no promise of compatibility.
    pub fn request_payload<'a>(&'a self, event: &'a str, payload: Payload<'a>) -> SendRequest<'a> {
        let what = self.addressed(event, Content::Borrowed(payload), Order::Kept);
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
        let answers = units.iter().cloned().map(|unit| {
            let (role, event, data) = (role.clone(), event.clone(), data.clone());
            let asking = async move {
                let outgoing = outgoing(&role, &event, data.payload(), Order::Kept);
                let answer = ask(&unit, outgoing, timeout).await;
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
            what: self.addressed(event, Content::Owned(data.into()), Order::Any),
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
            what: self.addressed(event, Content::Owned(data.into()), Order::Any),
            timeout: None,
            direction: Direction::RequesterWrites,
            make: Writable::new,
        }
    }

    fn addressed<'a>(&'a self, event: &'a str, data: Content<'a>, order: Order) -> Addressed<'a> {
        Addressed { destination: self, event, data, unit: None, order }
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

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A payload about to be sent.
#[derive(Debug)]
enum Content<'a> {
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
struct Addressed<'a> {
    destination: &'a Destination,
    event: &'a str,
    data: Content<'a>,
    unit: Option<Unit>,
    order: Order,
}

impl Addressed<'_> {
    /// The chosen unit, or the next one.
    fn unit(&self) -> Result<Arc<UnitInner>> {
        match &self.unit {
            Some(unit) => self.destination.shared.check_open().map(|()| unit.inner.clone()),
            None => self.destination.pick(),
        }
    }

    fn outgoing(&self) -> Outgoing<'_> {
        outgoing(&self.destination.inner.role, self.event, self.data.payload(), self.order)
    }
}

/// A message about to be sent: `await` it. Made by [`Destination::send`].
#[must_use = "nothing is sent until it is awaited"]
#[derive(Debug)]
pub struct SendMessage<'a> {
    what: Addressed<'a>,
}

impl<'a> SendMessage<'a> {
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
        let Some(what) = &self.what else { return Ok(None) };
        let unit = what.unit()?;
        if let Some(sent) = unit.send_if_room(what.outgoing()) {
            return sent.map(|()| Some(Unit::new(unit)));
        }
        self.queued = self.what.take().map(|what| -> Boxed<'a, _> {
            Box::pin(async move {
                unit.send(what.outgoing()).await?;
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

/// A request about to be sent: `await` it. Made by [`Destination::request`].
#[must_use = "nothing is sent until it is awaited"]
#[derive(Debug)]
pub struct SendRequest<'a> {
    what: Addressed<'a>,
    timeout: Option<Duration>,
}

impl<'a> SendRequest<'a> {
    /// Asks this unit instead of the next in turn.
    pub fn to(mut self, unit: &Unit) -> SendRequest<'a> {
        self.what.unit = Some(unit.clone());
        self
    }

    /// Fails with [`ErrorKind::Timeout`] when the answer takes longer, counted from the `await`, so
    /// with the wait for room in the unit's queue. The default is
    /// [`Limits::request_timeout`](crate::engine::Limits), five minutes.
    pub fn timeout(mut self, timeout: Duration) -> SendRequest<'a> {
        self.timeout = Some(timeout);
        self
    }

    /// Takes the least loaded connection of the unit, though the request may then overtake others.
    pub fn unordered(mut self) -> SendRequest<'a> {
        self.what.order = Order::Any;
        self
    }
}

impl SendRequest<'_> {
    /// Sends at once, and calls `on_answer` with `state` and the outcome, without a future: for those who
    /// call back themselves, such as other languages. The function is called on the task of the connection
    /// and must not block.
    ///
    /// ```no_run
    /// # fn example(math: roletalk::Destination) {
    /// let asked = math.request("pi", ()).call("pi is", |what, answer| println!("{what} {answer:?}"));
    /// if let Ok(call) = asked {
    ///     call.cancel();
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// Nothing was sent, and `state` comes back: without an error when the unit has no room, else as
    /// [`Requesting`] for what can be told at once.
    #[doc(hidden)] // For bindings; no promise of compatibility.
    pub fn call<S: Send + 'static>(
        self,
        state: S,
        on_answer: fn(S, Result<Answer>),
    ) -> std::result::Result<Call, (S, Option<Error>)> {
        let SendRequest { what, timeout } = self;
        let unit = match what.unit() {
            Ok(unit) => unit,
            Err(error) => return Err((state, Some(error))),
        };
        let mut state = Some(state);
        let sent = unit.if_room(|unit_state, now| {
            let tag = unit_state.answers.open(None);
            let sent = unit_state.machine.request(what.outgoing(), timeout, now, tag);
            if sent.is_err() {
                unit_state.answers.close(tag);
            } else if let Some(state) = state.take() {
                let unit = unit.clone();
                let call = move |data: Result<Data>| {
                    on_answer(state, data.map(|data| Answer { data, unit }));
                };
                unit_state.answers.call(tag, Box::new(call));
            }
            sent.map(|corr| (tag, corr))
        });
        match (sent.transpose(), state) {
            (Ok(Some((tag, corr))), _) => Ok(Call { unit, tag, corr }),
            (sent, Some(state)) => Err((state, sent.err())),
            (_, None) => unreachable!("the state went where the request went"),
        }
    }
}

/// A request that calls a function back. Dropping it changes nothing. Made by [`SendRequest::call`].
#[doc(hidden)] // For bindings; no promise of compatibility.
pub struct Call {
    unit: Arc<UnitInner>,
    tag: Tag,
    corr: u64,
}

impl Call {
    /// Gives up waiting: the function is dropped, uncalled. The handler at the other end is not told.
    /// False when the outcome is there already.
    pub fn cancel(&self) -> bool {
        let function = self.unit.with(|state| {
            let function = state.answers.give_up(self.tag);
            if function.is_some() {
                state.machine.abandon(self.corr);
            }
            function
        });
        // What is dropped here, without the lock, may do anything.
        function.is_some()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl<'a> IntoFuture for SendRequest<'a> {
    type Output = Result<Answer>;
    type IntoFuture = Requesting<'a>;

    fn into_future(self) -> Requesting<'a> {
        Requesting { state: State::New(self) }
    }
}

/// A request under way. Dropping it gives up waiting. Made by awaiting [`SendRequest`].
///
/// # Errors
/// [`ErrorKind::Rejected`] with the handler's text, [`ErrorKind::Timeout`],
/// [`ErrorKind::NoUnit`], [`ErrorKind::ConnectionLost`], [`ErrorKind::Overloaded`] when too many
/// requests wait, [`ErrorKind::TooLarge`], [`ErrorKind::InvalidArgument`] for an event name over
/// 65 535 bytes, [`ErrorKind::Closed`].
#[derive(Debug)]
pub struct Requesting<'a> {
    state: State<'a>,
}

enum State<'a> {
    New(SendRequest<'a>),
    /// The unit had no room at first.
    Queued(Boxed<'a, Result<Waiting>>),
    Waiting(Waiting),
    Done,
}

impl fmt::Debug for State<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::New(_) => "New",
            State::Queued(_) => "Queued",
            State::Waiting(_) => "Waiting",
            State::Done => "Done",
        })
    }
}

impl Requesting<'_> {
    fn step(&mut self, cx: &mut Context<'_>) -> Result<Poll<Result<Answer>>> {
        loop {
            match &mut self.state {
                State::New(_) => {
                    let State::New(request) = std::mem::replace(&mut self.state, State::Done)
                    else {
                        continue;
                    };
                    let SendRequest { what, timeout } = request;
                    let (unit, waker) = (what.unit()?, Some(cx.waker()));
                    self.state = match try_ask(&unit, what.outgoing(), timeout, None, waker)? {
                        // It will be woken.
                        Some(waiting) => {
                            self.state = State::Waiting(waiting);
                            return Ok(Poll::Pending);
                        }
                        None => State::Queued(Box::pin(async move {
                            ask_with_room(&unit, what.outgoing(), timeout).await
                        })),
                    };
                }
                State::Queued(queued) => match queued.as_mut().poll(cx) {
                    Poll::Pending => return Ok(Poll::Pending),
                    Poll::Ready(waiting) => self.state = State::Waiting(waiting?),
                },
                State::Waiting(waiting) => return Ok(waiting.poll(cx)),
                State::Done => return Ok(Poll::Pending),
            }
        }
    }
}

impl Future for Requesting<'_> {
    type Output = Result<Answer>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Answer>> {
        let step = self.step(cx);
        let poll = step.unwrap_or_else(|error| Poll::Ready(Err(error)));
        if poll.is_ready() {
            self.state = State::Done;
        }
        poll
    }
}

/// A request that was sent, for a stream or not. Gives it up when dropped before the answer.
struct Waiting {
    unit: Arc<UnitInner>,
    tag: Tag,
    /// What to abandon. A stream's request is abandoned with the stream.
    corr: Option<u64>,
    answered: bool,
}

impl Waiting {
    /// Sends what `ask` says, if the unit has room; gives what that gives, too.
    fn begin<T>(
        unit: &Arc<UnitInner>,
        waker: Option<&Waker>,
        ask: impl FnOnce(&mut engine::Unit<Tag>, Moment, Tag) -> Result<T>,
        corr: impl FnOnce(&T) -> Option<u64>,
    ) -> Option<Result<(Waiting, T)>> {
        unit.if_room(|state, now| {
            let tag = state.answers.open(waker);
            let asked = ask(&mut state.machine, now, tag);
            if asked.is_err() {
                state.answers.close(tag);
            }
            let asked = asked?;
            let corr = corr(&asked);
            Ok((Waiting { unit: unit.clone(), tag, corr, answered: false }, asked))
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer>> {
        let outcome = self.unit.answer(self.tag, cx);
        outcome.map(|outcome| {
            self.answered = true;
            let data = outcome.unwrap_or_else(|| Err(Unit::gone()))?;
            Ok(Answer { data, unit: self.unit.clone() })
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered {
            self.unit.with(|state| {
                state.answers.close(self.tag);
                self.corr.map(|corr| state.machine.abandon(corr));
            });
        }
    }
}

fn outgoing<'a>(role: &'a str, event: &'a str, payload: Payload<'a>, order: Order) -> Outgoing<'a> {
    Outgoing { role, event, payload, order }
}

/// Sends a request if the unit has room. Its time limit runs since then, or from now on.
fn try_ask(
    unit: &Arc<UnitInner>,
    outgoing: Outgoing<'_>,
    timeout: Option<Duration>,
    since: Option<Moment>,
    waker: Option<&Waker>,
) -> Result<Option<Waiting>> {
    let ask = |machine: &mut engine::Unit<Tag>, now, tag| {
        machine.request(outgoing, timeout, since.unwrap_or(now), tag)
    };
    let sent = Waiting::begin(unit, waker, ask, |corr| Some(*corr));
    sent.map(|sent| sent.map(|(waiting, _)| waiting)).transpose()
}

async fn ask_with_room(
    unit: &Arc<UnitInner>,
    outgoing: Outgoing<'_>,
    timeout: Option<Duration>,
) -> Result<Waiting> {
    let since = Some(unit.shared.clock.now());
    let attempt = || try_ask(unit, outgoing, timeout, since, None).transpose();
    unit.when_room_within(timeout, attempt).await
}

async fn ask(
    unit: &Arc<UnitInner>,
    outgoing: Outgoing<'_>,
    timeout: Option<Duration>,
) -> Result<Answer> {
    let mut waiting = ask_with_room(unit, outgoing, timeout).await?;
    poll_fn(|cx| waiting.poll(cx)).await
}

/// The answer to a request.
#[derive(Clone)]
pub struct Answer {
    data: Data,
    unit: Arc<UnitInner>,
}

impl Answer {
    /// The payload.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The payload, giving up the rest.
    pub fn into_data(self) -> Data {
        self.data
    }

    /// The payload as a type of the application's; see [`Data::parse`].
    ///
    /// # Errors
    /// [`ErrorKind::Data`] when the payload is not of that type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(self.data.parse()?)
    }

    /// The unit that answered.
    pub fn unit(&self) -> Unit {
        Unit::new(self.unit.clone())
    }

    /// The unit that answered, and the payload.
    pub fn into_parts(self) -> (Unit, Data) {
        (Unit::new(self.unit), self.data)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("data", &self.data).finish_non_exhaustive()
    }
}

type Asking = Boxed<'static, (Unit, Result<Answer>)>;

/// The answers to a survey as they arrive: a [`Stream`]. Dropping it gives up waiting. Nothing is
/// sent before it is first polled.
#[must_use = "nothing is asked until the answers are awaited"]
pub struct Survey {
    asked: usize,
    answers: FuturesUnordered<Asking>,
}

impl Survey {
    /// How many units are asked.
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// The next answer, or why a unit gave none; none when every unit has been heard. Cancel-safe.
    pub async fn next(&mut self) -> Option<(Unit, Result<Answer>)> {
        self.answers.next().await
    }

    /// All answers, in the order of arrival.
    pub async fn all(self) -> Vec<(Unit, Result<Answer>)> {
        self.answers.collect().await
    }
}

impl Stream for Survey {
    type Item = (Unit, Result<Answer>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.answers.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Survey")
            .field("asked", &self.asked)
            .field("open", &self.answers.len())
            .finish()
    }
}

/// A stream about to be asked for: `await` it to get the stream and the answer's payload. Made by
/// [`Destination::readable`] and [`Destination::writable`].
#[must_use = "nothing is asked until it is awaited"]
pub struct OpenStream<'a, S> {
    what: Addressed<'a>,
    timeout: Option<Duration>,
    direction: Direction,
    make: fn(Arc<UnitInner>, StreamId) -> S,
}

impl<'a, S> OpenStream<'a, S> {
    /// Asks this unit instead of the next in turn.
    pub fn to(mut self, unit: &Unit) -> OpenStream<'a, S> {
        self.what.unit = Some(unit.clone());
        self
    }

    /// Fails with [`ErrorKind::Timeout`] when the stream is not accepted within this time. It does
    /// not limit the stream itself.
    pub fn timeout(mut self, timeout: Duration) -> OpenStream<'a, S> {
        self.timeout = Some(timeout);
        self
    }
}

impl<'a, S: Send + 'a> IntoFuture for OpenStream<'a, S> {
    type Output = Result<(S, Answer)>;
    type IntoFuture = Boxed<'a, Result<(S, Answer)>>;

    /// # Errors
    /// As [`SendRequest`]; [`ErrorKind::Rejected`] when the stream is refused,
    /// [`ErrorKind::Overloaded`] also when too many streams are open.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let OpenStream { what, timeout, direction, make } = self;
            let unit = what.unit()?;
            let since = unit.shared.clock.now();
            let attempt = || {
                let ask = |machine: &mut engine::Unit<Tag>, _, tag| {
                    machine.open_stream(direction, what.outgoing(), timeout, since, tag)
                };
                Waiting::begin(&unit, None, ask, |_| None)
            };
            let (mut waiting, (id, _)) = unit.when_room_within(timeout, attempt).await?;
            // From here on it closes the stream when it is dropped, also while it is being opened.
            let stream = make(unit.clone(), id);
            let answer = poll_fn(|cx| waiting.poll(cx)).await?;
            Ok((stream, answer))
        })
    }
}
