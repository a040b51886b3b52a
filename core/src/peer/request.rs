//! Requests, and the wait for their answers.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;
use tracing::error;

use super::{
    answers::{Asked, Outcome, Received, Tag},
    foreign::guarded,
    lock,
    route::{Next, Route, sleep_until},
    scope::{Scope, Watch},
    send::{Addressed, Boxed, Kept, Prepared, addressed},
    unit::{Unit, UnitInner},
};
#[cfg(doc)]
use crate::Destination;
use crate::{
    Error, ErrorKind, Result,
    engine::{self, Fields, HeaderValue, Moment, Order, Outgoing, Retry, TimeLimit},
    wire::Data,
};

/// A request about to be sent: `await` it. Made by [`Destination::request`].
#[must_use = "nothing is sent until it is awaited"]
#[derive(Debug)]
pub struct SendRequest<'a> {
    pub(crate) what: Addressed<'a>,
    pub(crate) timeout: Option<Duration>,
}

impl<'a> SendRequest<'a> {
    addressed!();

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

    /// Waits for a unit, within the time limit, when none serves the role: then it does not matter who starts
    /// first. Otherwise the error is [`ErrorKind::NoUnit`].
    pub fn wait_for_unit(mut self) -> SendRequest<'a> {
        self.what.waits = true;
        self
    }

    /// Takes the least loaded connection of the unit, though the request may then overtake others.
    pub fn unordered(mut self) -> SendRequest<'a> {
        self.what.order = Order::Any;
        self
    }

    /// Says that the request may be handled more than once, and how to make it again: after a failure that need not
    /// happen again, and, if so told, when its answer takes long. Otherwise nothing is ever made again that may
    /// have been begun. Not where the unit is chosen with [`to`](SendRequest::to).
    ///
    /// A clone of the same value is to be used for all requests of a kind: it has the account of how many there may be.
    ///
    /// ```no_run
    /// # async fn example(store: roletalk::Destination) -> roletalk::Result<()> {
    /// use roletalk::{Hedge, Retry};
    ///
    /// let retry = Retry::new().hedge(Hedge::Quantile(0.95));
    /// let answer = store.request("get", "key").retry(retry.clone()).await?;
    /// # Ok(()) }
    /// ```
    pub fn retry(mut self, retry: Retry) -> SendRequest<'a> {
        self.what.extra.get_or_insert_default().retry = Some(retry);
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
    /// Nothing was sent, and `state` comes back: without an error when the unit has no room or has just gone, so that
    /// the request is to be awaited; else as [`Requesting`] for what can be told at once.
    #[doc(hidden)] // For bindings; no promise of compatibility.
    pub fn call<S: Send + 'static>(
        self,
        state: S,
        on_answer: fn(S, Result<Answer>),
    ) -> std::result::Result<Call, (S, Option<Error>)> {
        let SendRequest { mut what, timeout } = self;
        let Prepared { unit, timeout, scope } = match what.prepare(timeout) {
            Ok(prepared) => prepared,
            Err(error) => return Err((state, Some(error))),
        };
        let (Some(unit), None, None) = (&unit, &scope, what.retry()) else {
            let Some(kept) = what.keep_if_room() else {
                let text = "Too much is kept for requests that wait";
                let error = Error::new(ErrorKind::Overloaded, text)
                    .with_hint("Wait for answers before asking more, or raise `queue_per_peer`.");
                return Err((state, Some(error)));
            };
            let answer = Box::new(move |answer| on_answer(state, answer));
            return Ok(call_within(kept, timeout, unit, scope, answer));
        };
        // What it is asked again with, elsewhere. Who chose the unit meant that one, and a copy that only a unit
        // could use that is not there yet is not worth its time, unless that unit is waited for.
        let goes_on = what.unit.is_none() && (what.waits() || what.destination.has_choice());
        let kept = if goes_on { what.keep_if_room() } else { None };
        let course = kept.as_ref().map(|_| Arc::new(Mutex::new(Course::First)));
        let mut kept = kept.zip(course.clone());
        let mut state = Some(state);
        let sent = unit.if_room(|unit_state, now| {
            let tag = unit_state.answers.next();
            let corr = unit_state.machine.request(what.outgoing(), timeout, now, tag)?;
            if let Some(state) = state.take() {
                let (unit, kept) = (unit.clone(), kept.take());
                let call = move |received: Result<Received>| match (received, kept) {
                    (Err(error), Some((kept, course))) if error.is_unhandled() => {
                        let answer = Box::new(move |answer| on_answer(state, answer));
                        ask_elsewhere(kept, &course, unit, (timeout, now), error, answer);
                    }
                    (received, kept) => {
                        let ended = kept.is_none_or(|(_, course)| lock(&course).end());
                        if ended {
                            on_answer(state, received.map(|received| Answer::new(received, unit)));
                        }
                    }
                };
                unit_state.answers.open_for_call(Asked { corr, since: now }, Box::new(call));
            }
            Ok((tag, corr))
        });
        match (unless_gone(sent.transpose()), state) {
            (Ok(Some((tag, corr))), _) => {
                Ok(Call(Calling::Slot { unit: unit.clone(), tag, corr, course }))
            }
            (sent, Some(state)) => Err((state, sent.err())),
            (_, None) => unreachable!("the state went where the request went"),
        }
    }
}

/// A request that calls a function back. Dropping it changes nothing. Made by [`SendRequest::call`].
#[doc(hidden)] // For bindings; no promise of compatibility.
pub struct Call(Calling);

enum Calling {
    Slot {
        unit: Arc<UnitInner>,
        tag: Tag,
        corr: u64,
        /// Of one that may go on to other units.
        course: Option<Arc<Mutex<Course>>>,
    },
    /// Of a handler that may be given up: a task looks after both.
    Task(Arc<Mutex<Option<OnAnswer>>>, AbortHandle),
}

/// Where a request is that calls back and may go on to other units.
enum Course {
    /// At the first unit, or its outcome is just being handed over.
    First,
    /// A task looks for another.
    Elsewhere(Arc<Mutex<Option<OnAnswer>>>, AbortHandle),
    GivenUp,
    Ended,
}

impl Course {
    /// Its outcome is there. False when nobody wants it.
    fn end(&mut self) -> bool {
        let before = std::mem::replace(self, Course::Ended);
        !matches!(before, Course::GivenUp)
    }
}

type OnAnswer = Box<dyn FnOnce(Result<Answer>) + Send>;

/// Asks on behalf of a handler, or of one who waits for a unit, on a task of its own.
fn call_within(
    kept: Kept,
    timeout: Option<Duration>,
    unit: Option<Arc<UnitInner>>,
    scope: Option<Arc<Scope>>,
    on_answer: OnAnswer,
) -> Call {
    let shared = kept.addressed().destination.shared().clone();
    let since = shared.clock.now();
    let on_answer = Arc::new(Mutex::new(Some(on_answer)));
    let slot = on_answer.clone();
    let task = shared.runtime.spawn(async move {
        let answer = ask_any(&kept.addressed(), unit, (timeout, since), scope).await;
        hand_over(&slot, answer);
    });
    Call(Calling::Task(on_answer, task.abort_handle()))
}

/// Asks another unit than the one that has not begun it, on a task of its own, unless it was given up meanwhile.
fn ask_elsewhere(
    kept: Kept,
    course: &Mutex<Course>,
    unit: Arc<UnitInner>,
    time: Time,
    error: Error,
    on_answer: OnAnswer,
) {
    // The function is dropped behind the lock: that may do anything.
    let on_answer = Arc::new(Mutex::new(Some(on_answer)));
    let mut course = lock(course);
    if matches!(*course, Course::GivenUp) {
        return;
    }
    let (slot, runtime) = (on_answer.clone(), unit.shared.runtime.clone());
    let task = runtime.spawn(async move {
        let answer = ask_others(&kept.addressed(), unit, time, error).await;
        hand_over(&slot, answer);
    });
    *course = Course::Elsewhere(on_answer, task.abort_handle());
}

fn hand_over(slot: &Mutex<Option<OnAnswer>>, answer: Result<Answer>) {
    let on_answer = lock(slot).take();
    if let Some(on_answer) = on_answer
        && guarded(|| on_answer(answer)).is_none()
    {
        error!("the function that a request was to call panicked");
    }
}

impl Call {
    /// Gives up waiting: the function is dropped, uncalled. The handler at the other end is told.
    /// False when the outcome is there already.
    pub fn cancel(&self) -> bool {
        match &self.0 {
            Calling::Slot { unit, tag, corr, course } => {
                let function = unit.with(|state| {
                    let function = state.answers.give_up(*tag);
                    if function.is_some() {
                        state.machine.abandon(*corr);
                    }
                    function
                });
                // What is dropped here, without the lock, may do anything.
                if function.is_some() {
                    return true;
                }
                let Some(course) = course else { return false };
                let mut course = lock(course);
                match &*course {
                    Course::First => {
                        *course = Course::GivenUp;
                        true
                    }
                    Course::Elsewhere(on_answer, task) => {
                        let (on_answer, task) = (on_answer.clone(), task.clone());
                        drop(course);
                        give_up(&on_answer, &task)
                    }
                    Course::GivenUp | Course::Ended => false,
                }
            }
            Calling::Task(on_answer, task) => give_up(on_answer, task),
        }
    }
}

fn give_up(on_answer: &Mutex<Option<OnAnswer>>, task: &AbortHandle) -> bool {
    let on_answer = lock(on_answer).take();
    task.abort();
    on_answer.is_some()
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

impl<'a> IntoFuture for SendRequest<'a> {
    type Output = Result<Answer>;
    type IntoFuture = Requesting<'a>;

    fn into_future(self) -> Requesting<'a> {
        Requesting { what: Some(self.what), timeout: self.timeout, state: State::New }
    }
}

/// A request under way. Dropping it gives up waiting, and tells the handler at the other end. Made by awaiting
/// [`SendRequest`]. What a unit has surely not begun goes on to the next one, to each once.
///
/// # Errors
/// [`ErrorKind::Rejected`] with the handler's text, [`ErrorKind::Timeout`],
/// [`ErrorKind::NoUnit`], [`ErrorKind::ConnectionLost`], [`ErrorKind::Overloaded`] when too many
/// requests wait, [`ErrorKind::TooLarge`], [`ErrorKind::InvalidArgument`] for an event name over
/// 65 535 bytes, [`ErrorKind::Closed`], [`ErrorKind::Cancelled`] when the handler that has made it is given up.
#[derive(Debug)]
pub struct Requesting<'a> {
    /// Until it is done, for other units.
    what: Option<Addressed<'a>>,
    timeout: Option<Duration>,
    state: State<'a>,
}

enum State<'a> {
    New,
    /// The unit had no room at first, or was none, or a handler asks that may be given up.
    Queued(Boxed<'a, Result<Answer>>),
    Waiting(Waiting),
    Done,
}

impl fmt::Debug for State<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::New => "New",
            State::Queued(_) => "Queued",
            State::Waiting(_) => "Waiting",
            State::Done => "Done",
        })
    }
}

impl<'a> Requesting<'a> {
    fn step(&mut self, cx: &mut Context<'_>) -> Result<Poll<Result<Answer>>> {
        loop {
            match &mut self.state {
                State::New => {
                    let Some(what) = &self.what else { return Ok(Poll::Pending) };
                    let Some(outgoing) = what.plain_request() else {
                        self.begin(cx)?;
                        continue;
                    };
                    let unit = what.destination.next_unit()?;
                    let asked = try_ask(&unit, outgoing, self.timeout.into(), Some(cx.waker()));
                    match unless_gone(asked)? {
                        Some(waiting) => {
                            // It will be woken.
                            self.state = State::Waiting(waiting);
                            return Ok(Poll::Pending);
                        }
                        None => self.ask(Some(unit), None),
                    }
                }
                State::Queued(queued) => return Ok(queued.as_mut().poll(cx)),
                State::Waiting(waiting) => match waiting.poll_outcome(cx) {
                    Poll::Pending => return Ok(Poll::Pending),
                    Poll::Ready((unit, Outcome { since, result: Err(error) }))
                        if error.is_unhandled() =>
                    {
                        self.ask_elsewhere(unit, since, error);
                    }
                    Poll::Ready((unit, outcome)) => {
                        return Ok(Poll::Ready(Ok(Answer::new(outcome.result?, unit))));
                    }
                },
                State::Done => return Ok(Poll::Pending),
            }
        }
    }

    /// Sends one that has options, or that a handler makes.
    #[inline(never)]
    fn begin(&mut self, cx: &Context<'_>) -> Result<()> {
        let Some(what) = &mut self.what else { return Ok(()) };
        let Prepared { unit, scope, timeout } = what.prepare(self.timeout)?;
        self.timeout = timeout;
        if let (Some(unit), None, None) = (&unit, &scope, what.retry()) {
            let asked = try_ask(unit, what.outgoing(), timeout.into(), Some(cx.waker()));
            if let Some(waiting) = unless_gone(asked)? {
                self.state = State::Waiting(waiting);
                return Ok(());
            }
        }
        self.ask(unit, scope);
        Ok(())
    }

    #[cold]
    fn ask(&mut self, unit: Option<Arc<UnitInner>>, scope: Option<Arc<Scope>>) {
        let Some(what) = self.what.take() else { return };
        let time = (self.timeout, what.destination.shared().clock.now());
        self.state =
            State::Queued(Box::pin(async move { ask_any(&what, unit, time, scope).await }));
    }

    #[cold]
    fn ask_elsewhere(&mut self, unit: Arc<UnitInner>, since: Moment, error: Error) {
        let Some(what) = self.what.take() else { return };
        let time = (self.timeout, since);
        self.state =
            State::Queued(Box::pin(async move { ask_others(&what, unit, time, error).await }));
    }
}

impl Future for Requesting<'_> {
    type Output = Result<Answer>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Answer>> {
        let step = self.step(cx);
        let poll = step.unwrap_or_else(|error| Poll::Ready(Err(error)));
        if poll.is_ready() {
            self.state = State::Done;
            self.what = None;
        }
        poll
    }
}

/// A request that was sent, for a stream or not. Gives it up when dropped before the answer.
pub(crate) struct Waiting {
    /// None when it is answered.
    unit: Option<Arc<UnitInner>>,
    // Both parts of its tag: on its own that would take more room.
    serial: u64,
    slot: u32,
    /// A stream's request is abandoned with the stream.
    is_of_stream: bool,
}

impl Waiting {
    /// Sends what `ask` says, if the unit has room; gives what that gives, too. `due` is what comes nearer by it.
    pub(crate) fn begin<T>(
        unit: &Arc<UnitInner>,
        waker: Option<&Waker>,
        due: impl FnOnce(&engine::Unit<Tag>) -> Option<Moment>,
        ask: impl FnOnce(&mut engine::Unit<Tag>, Moment, Tag) -> Result<T>,
        corr: impl FnOnce(&T) -> Option<u64>,
    ) -> Option<Result<(Waiting, T)>> {
        unit.if_room_until(due, |state, now| {
            let tag = state.answers.next();
            let asked = ask(&mut state.machine, now, tag)?;
            let corr = corr(&asked);
            let (is_of_stream, corr) = (corr.is_none(), corr.unwrap_or_default());
            let Tag { slot, serial } = state.answers.open(Asked { corr, since: now }, waker);
            Ok((Waiting { unit: Some(unit.clone()), serial, slot, is_of_stream }, asked))
        })
    }

    fn tag(&self) -> Tag {
        Tag { slot: self.slot, serial: self.serial }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer>> {
        self.poll_outcome(cx).map(|(unit, outcome)| Ok(Answer::new(outcome.result?, unit)))
    }

    /// Gives the unit back with the outcome.
    #[inline]
    fn poll_outcome(&mut self, cx: &Context<'_>) -> Poll<(Arc<UnitInner>, Outcome)> {
        let Some(unit) = &self.unit else { return Poll::Pending };
        let outcome = ready!(unit.answer(self.tag(), cx));
        match self.unit.take() {
            Some(unit) => Poll::Ready((unit, outcome)),
            None => Poll::Pending,
        }
    }
}

impl Drop for Waiting {
    #[inline]
    fn drop(&mut self) {
        if let Some(unit) = self.unit.take() {
            self.give_up(&unit);
        }
    }
}

impl Waiting {
    #[cold]
    fn give_up(&self, unit: &UnitInner) {
        unit.with(|state| {
            let corr = state.answers.close(self.tag()).filter(|_| !self.is_of_stream);
            corr.map(|corr| state.machine.abandon(corr));
        });
    }
}

/// Nothing was sent to a unit that has just gone, as if it had no room: another one may be asked.
fn unless_gone<T>(sent: Result<Option<T>>) -> Result<Option<T>> {
    match sent {
        Err(error) if error.is_unhandled() => Ok(None),
        sent => sent,
    }
}

/// Sends a request if the unit has room.
fn try_ask(
    unit: &Arc<UnitInner>,
    outgoing: Outgoing<'_>,
    limit: TimeLimit,
    waker: Option<&Waker>,
) -> Result<Option<Waiting>> {
    let ask =
        |machine: &mut engine::Unit<Tag>, now, tag| machine.request(outgoing, limit, now, tag);
    let due = engine::Unit::request_deadline;
    let sent = Waiting::begin(unit, waker, due, ask, |corr| Some(*corr));
    sent.map(|sent| sent.map(|(waiting, _)| waiting)).transpose()
}

/// Asks this unit.
pub(crate) async fn ask(
    unit: &Arc<UnitInner>,
    outgoing: Outgoing<'_>,
    limit: TimeLimit,
) -> Result<Answer> {
    let attempt = || try_ask(unit, outgoing, limit, None).transpose();
    let mut waiting = unit.when_room_within(limit, attempt).await?;
    poll_fn(|cx| waiting.poll(cx)).await
}

/// What the caller gives it, and when that began.
type Time = (Option<Duration>, Moment);

/// Asks this unit, or else one that is waited for, and others as long as none has begun it; or however the request may
/// be made again.
async fn ask_any(
    what: &Addressed<'_>,
    unit: Option<Arc<UnitInner>>,
    (timeout, since): Time,
    scope: Option<Arc<Scope>>,
) -> Result<Answer> {
    let asking = async {
        let mut route = Route::new(what, what.retry(), timeout, since);
        if let Some(unit) = &unit {
            route.begin(unit);
        }
        match what.retry() {
            None => ask_in_turn(what, unit, route).await,
            Some(_) => ask_besides(what, unit, route).await,
        }
    };
    Watch::new(scope).run(asking).await
}

/// Asks other units than the one that has not begun it.
async fn ask_others(
    what: &Addressed<'_>,
    unit: Arc<UnitInner>,
    (timeout, since): Time,
    error: Error,
) -> Result<Answer> {
    let mut route = Route::new(what, None, timeout, since);
    route.begin(&unit);
    route.failed(unit, error)?;
    ask_in_turn(what, None, route).await
}

/// One attempt after the other, at this unit first.
async fn ask_in_turn(
    what: &Addressed<'_>,
    mut first: Option<Arc<UnitInner>>,
    mut route: Route<'_>,
) -> Result<Answer> {
    loop {
        let unit = match first.take() {
            Some(unit) => unit,
            None => route.unit().await?,
        };
        match ask(&unit, what.outgoing(), route.limit()).await {
            Err(error) => route.failed(unit, error)?,
            answer => return answer,
        }
    }
}

/// The same, with several attempts at a time.
async fn ask_besides(
    what: &Addressed<'_>,
    first: Option<Arc<UnitInner>>,
    mut route: Route<'_>,
) -> Result<Answer> {
    let limit = route.limit();
    let attempt = |unit: Arc<UnitInner>| async move {
        let answer = ask(&unit, what.outgoing(), limit).await;
        (unit, answer)
    };
    let shared = what.destination.shared();
    let mut attempts: FuturesUnordered<_> = first.into_iter().map(attempt).collect();
    loop {
        let until = match route.next().await? {
            Next::Ask(unit) => {
                attempts.push(attempt(unit));
                continue;
            }
            Next::Wait(until) => until,
        };
        let ended = tokio::select! {
            biased;
            ended = attempts.next() => ended,
            () = sleep_until(shared, until.unwrap_or_default()), if until.is_some() => None,
        };
        match ended {
            None => {}
            Some((unit, Err(error))) => route.failed(unit, error)?,
            Some((_, answer)) => {
                route.answered();
                return answer;
            }
        }
    }
}

/// The answer to a request.
#[derive(Clone)]
pub struct Answer {
    data: Data,
    unit: Arc<UnitInner>,
    fields: Option<Arc<Fields>>,
}

impl Answer {
    #[inline]
    fn new(Received { data, fields }: Received, unit: Arc<UnitInner>) -> Answer {
        Answer { data, unit, fields: fields.map(share) }
    }

    /// The headers that the handler has added, in its order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, HeaderValue<'_>)> {
        self.fields.iter().flat_map(|fields| fields.view().headers())
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<HeaderValue<'_>> {
        self.fields.as_ref()?.view().header(name)
    }

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

#[cold]
fn share(fields: Box<Fields>) -> Arc<Fields> {
    Arc::from(fields)
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("data", &self.data).finish_non_exhaustive()
    }
}
