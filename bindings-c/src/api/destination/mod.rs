//! Sending, asking and opening streams.

use std::{
    os::raw::c_void,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use engine::{
    Answer, Data, Destination, OpenStream, Payload, Readable, SendRequest, Survey, Unit, Writable,
};
use futures_util::FutureExt;
use tokio::runtime::Handle;

use crate::{
    api::{
        operation::{Operation, put_operation, start},
        stream::{ReadEnd, WriteEnd, call_when, roletalk_ready_handler},
        unit,
    },
    border::{
        enter::enter,
        failure::{Failure, Status, roletalk_status},
        handles::{
            roletalk_answer, roletalk_destination, roletalk_operation, roletalk_readable,
            roletalk_survey, roletalk_unit, roletalk_writable,
        },
        memory::{check_optional, check_out, put, put_optional},
        sized::{self, read_or_default, sized},
        table, units,
        values::{roletalk_data, roletalk_string},
    },
    callbacks::{
        closure::{Closure, roletalk_drop},
        completion::{
            Asked, Completion, Outcome, invoke_reply, roletalk_reply, roletalk_reply_handler,
        },
        frame,
        item::{Callbacks, Task},
        lend,
    },
    runtime::{
        keep::Keep,
        wait::{Limit, block_on, check_may_wait},
    },
};

pub(crate) struct DestinationObject {
    pub(crate) destination: Destination,
    pub(crate) queue: Arc<Callbacks>,
    pub(crate) keep: Arc<Keep>,
    pub(crate) runtime: Handle,
}

impl DestinationObject {
    fn wait<T>(&self, limit: Limit, future: impl Future<Output = T>) -> Result<T, Failure> {
        block_on(Some(&self.runtime), limit, future)
    }
}

fn get(destination: roletalk_destination) -> Result<Arc<DestinationObject>, Failure> {
    table::get(destination.id)
}

/// How to send or to ask. All zero but the size: to the next unit in turn, in order, with the default
/// time limit.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_send_options {
    /// sizeof(roletalk_send_options).
    pub struct_size: usize,
    /// The unit to send to; zero for the next in turn. Not for broadcasts and surveys.
    pub unit: roletalk_unit,
    /// Not 0: take the least loaded connection, though it may then overtake others. Not for streams.
    pub unordered: i32,
    /// Requests, surveys, streams: milliseconds for the answer; 0 stands for the default, five minutes.
    /// roletalk_destination_send, roletalk_destination_broadcast: milliseconds to wait for room in the
    /// queue; 0: without a limit; negative: not at all.
    pub timeout_ms: i64,
}

sized!(roletalk_send_options);

/// Read options.
struct Options {
    unit: Option<Unit>,
    unordered: bool,
    timeout_ms: i64,
}

impl Options {
    /// # Safety
    /// `options` is NULL or as the header demands.
    unsafe fn read(options: *const roletalk_send_options) -> Result<Options, Failure> {
        // SAFETY: the caller's promise.
        let options = unsafe { read_or_default(options) }?;
        let unit = units::optional(options.unit)?;
        Ok(Options { unit, unordered: options.unordered != 0, timeout_ms: options.timeout_ms })
    }

    /// For what is answered.
    fn asking(self) -> Result<Asking, Failure> {
        let timeout = match u64::try_from(self.timeout_ms) {
            Ok(0) => None,
            Ok(millis) => Some(Duration::from_millis(millis)),
            Err(_) => return Err(Failure::invalid("The time for an answer is negative")),
        };
        Ok(Asking { unit: self.unit, unordered: self.unordered, timeout })
    }

    /// For room. The thread that makes it does not wait for it.
    fn limit(&self) -> Limit {
        match self.timeout_ms {
            _ if frame::is_inline() => Limit::Now,
            0 => Limit::Never,
            millis if millis < 0 => Limit::Now,
            millis => Limit::from_millis(millis),
        }
    }

    fn not_for_units(&self) -> Result<(), Failure> {
        match self.unit {
            None => Ok(()),
            Some(_) => Err(Failure::invalid("This goes to every unit: none can be chosen")),
        }
    }
}

/// How to ask.
struct Asking {
    unit: Option<Unit>,
    unordered: bool,
    timeout: Option<Duration>,
}

impl Asking {
    fn request<'a>(
        &self,
        to: &'a Destination,
        event: &'a str,
        payload: Payload<'a>,
    ) -> SendRequest<'a> {
        let mut request = to.request_payload(event, payload);
        if let Some(unit) = &self.unit {
            request = request.to(unit);
        }
        if let Some(timeout) = self.timeout {
            request = request.timeout(timeout);
        }
        if self.unordered {
            request = request.unordered();
        }
        request
    }

    fn open<'a, S: Stream>(
        &self,
        to: &'a Destination,
        event: &'a str,
        data: Data,
    ) -> OpenStream<'a, S> {
        let mut opening = S::open(to, event, data);
        if let Some(unit) = &self.unit {
            opening = opening.to(unit);
        }
        if let Some(timeout) = self.timeout {
            opening = opening.timeout(timeout);
        }
        opening
    }
}

/// What every call is given that sends something.
struct Given<'a> {
    object: Arc<DestinationObject>,
    event: &'a str,
    /// The caller's, mostly sent before the call returns, without a copy.
    payload: Payload<'a>,
    options: Options,
}

/// A copy that outlives the call.
fn owned(payload: Payload<'_>) -> Data {
    Data::from_raw(payload.kind, Bytes::copy_from_slice(payload.bytes))
}

impl Given<'_> {
    fn survey(self, data: Data) -> Result<(Arc<DestinationObject>, Survey), Failure> {
        let Given { object, event, options, .. } = self;
        options.not_for_units()?;
        let survey = object.destination.survey_within(event, data, options.asking()?.timeout);
        Ok((object, survey))
    }
}

/// # Safety
/// The pointers are as the header demands, and valid for `'a`.
unsafe fn given<'a>(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
) -> Result<Given<'a>, Failure> {
    let object = get(destination)?;
    // SAFETY: the caller's promise.
    let (event, payload, options) =
        unsafe { (event.get("event")?, data.payload()?, Options::read(options)?) };
    Ok(Given { object, event, payload, options })
}

/// Waits until a unit serves the role: for `timeout_ms` milliseconds, without a limit if that is
/// negative, not at all if it is 0.
///
/// Errors: ROLETALK_STATUS_TIMEOUT, ROLETALK_STATUS_WOULD_BLOCK, ROLETALK_STATUS_CLOSED. Any thread; in
/// callbacks as every call that waits.
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_destination_ready(
    destination: roletalk_destination,
    timeout_ms: i64,
) -> roletalk_status {
    enter(|| {
        let object = get(destination)?;
        Ok(object.wait(Limit::from_millis(timeout_ms), object.destination.ready())??)
    })
}

/// Calls `visitor` for each unit that serves the role, before this returns.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_destination_each_unit(
    destination: roletalk_destination,
    visitor: unit::roletalk_unit_visitor,
    user_data: *mut c_void,
) -> roletalk_status {
    enter(|| unit::visit(get(destination)?.destination.units(), visitor, user_data))
}

/// Sends a one-way message. Returns when the unit's connection has taken it into its queue: nothing
/// tells whether it arrived. `options` may be NULL. When the queue is full it waits for room, as
/// `options->timeout_ms` says; in a callback of ROLETALK_CALLBACKS_INLINE not at all.
///
/// Errors: ROLETALK_STATUS_NO_UNIT, ROLETALK_STATUS_CONNECTION_LOST, ROLETALK_STATUS_OVERLOADED when
/// there is no room and it is not to wait, ROLETALK_STATUS_TIMEOUT, ROLETALK_STATUS_TOO_LARGE,
/// ROLETALK_STATUS_DATA, ROLETALK_STATUS_CLOSED. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_send(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let given = unsafe { given(destination, event, data, options) }?;
        let Given { object, event, payload, options } = given;
        let mut message = object.destination.send_payload(event, payload);
        if let Some(unit) = &options.unit {
            message = message.to(unit);
        }
        if options.unordered {
            message = message.unordered();
        }
        let mut sending = message.into_future();
        // Mostly there is room.
        if let Poll::Ready(sent) = sending.poll_unpin(&mut Context::from_waker(Waker::noop())) {
            return Ok(sent.map(drop)?);
        }
        object.wait(options.limit(), sending).map_err(overloaded)??;
        Ok(())
    })
}

/// Calls `handler` once, as soon as roletalk_destination_send may find room: at once if there is some, or
/// if it would fail for another reason, such as ROLETALK_STATUS_NO_UNIT. For programs that send without
/// waiting, as in callbacks of ROLETALK_CALLBACKS_INLINE: after ROLETALK_STATUS_OVERLOADED, send on in
/// `handler`. It may be early, if others take the room, or it is another unit's than whose turn it is:
/// try again then. Of `options`, which may be NULL, `unit` counts. `handler.drop` is called after that,
/// when the peer is closed, or when this fails.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_on_room(
    destination: roletalk_destination,
    options: *const roletalk_send_options,
    handler: roletalk_ready_handler,
) -> roletalk_status {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    enter(move || {
        let object = get(destination)?;
        // SAFETY: the contract of pointers in the header's introduction.
        let options = unsafe { Options::read(options) }?;
        let to = object.clone();
        let room = async move {
            // Why there will be none is what sending says.
            let _ = match &options.unit {
                Some(unit) => unit.room().await,
                None => to.destination.room().await,
            };
        };
        call_when(room, closure, &object.queue)
    })
}

/// Not to wait for room is a matter of load.
fn overloaded(failure: Failure) -> Failure {
    match failure.status() {
        Status::WouldBlock => Failure::new(Status::Overloaded, "The unit's queue is full"),
        _ => failure,
    }
}

/// Sends a one-way message to every unit that serves the role. `count`, which may be NULL, is set to how
/// many took it. `options` may be NULL. Waits for room as roletalk_destination_send.
///
/// Errors: ROLETALK_STATUS_OVERLOADED and ROLETALK_STATUS_TIMEOUT when some units had no room: others may
/// have taken it. ROLETALK_STATUS_TOO_LARGE, ROLETALK_STATUS_DATA, ROLETALK_STATUS_CLOSED. Any thread,
/// also inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_broadcast(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
    count: *mut usize,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let given = unsafe { given(destination, event, data, options) }?;
        let Given { object, event, payload, options } = given;
        options.not_for_units()?;
        check_optional(count, "count")?;
        let broadcast = object.destination.broadcast(event, owned(payload));
        let taken = object.wait(options.limit(), broadcast).map_err(overloaded)??;
        // SAFETY: as above.
        unsafe { put_optional(count, "count", || taken) }
    })
}

/// What a blocking call was answered with.
struct AnswerObject(Outcome);

/// # Safety
/// `answer` is NULL or points to a `roletalk_answer`.
unsafe fn put_answer(answer: *mut roletalk_answer, outcome: Outcome) -> Result<(), Failure> {
    let insert = || roletalk_answer { id: table::insert(Arc::new(AnswerObject(outcome))) };
    // SAFETY: the caller's promise.
    unsafe { put_optional(answer, "answer", insert) }
}

/// Asks, and waits for the answer. `options` may be NULL; `options->timeout_ms` limits the whole.
/// `answer`, which may be NULL, is set on success; the caller frees it with roletalk_answer_free.
///
/// Errors: ROLETALK_STATUS_REJECTED (roletalk_last_error is the handler's text), ROLETALK_STATUS_TIMEOUT,
/// ROLETALK_STATUS_NO_UNIT, ROLETALK_STATUS_CONNECTION_LOST, ROLETALK_STATUS_OVERLOADED,
/// ROLETALK_STATUS_TOO_LARGE, ROLETALK_STATUS_DATA, ROLETALK_STATUS_CLOSED. Any thread. In a callback it
/// holds up all other callbacks of that peer: a request to a handler of the same peer ends with
/// ROLETALK_STATUS_TIMEOUT there.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_request(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
    answer: *mut roletalk_answer,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let given = unsafe { given(destination, event, data, options) }?;
        let Given { object, event, payload, options } = given;
        let asking = options.asking()?;
        check_optional(answer, "answer")?;
        check_may_wait(Limit::Never)?;
        let request = asking.request(&object.destination, event, payload);
        let answered = object.wait(Limit::Never, request.into_future())??;
        // SAFETY: as above.
        unsafe { put_answer(answer, Outcome::of(Ok(answered))) }
    })
}

/// Asks, without waiting: `handler` is called with the answer, once. `options` may be NULL. `operation`,
/// which may be NULL, is set to a handle to cancel it with; the caller frees it with
/// roletalk_operation_free. `handler.drop` is called after that, or when this fails. A request for which
/// there is no room in the unit's queue is kept until there is.
///
/// Errors: ROLETALK_STATUS_NO_UNIT, ROLETALK_STATUS_CONNECTION_LOST, ROLETALK_STATUS_OVERLOADED when too
/// many requests wait for answers, or for room (`queue_per_peer` bounds the bytes of these),
/// ROLETALK_STATUS_TOO_LARGE, ROLETALK_STATUS_DATA, ROLETALK_STATUS_CLOSED: then there is no call. By
/// callback: ROLETALK_STATUS_REJECTED, ROLETALK_STATUS_TIMEOUT, ROLETALK_STATUS_CONNECTION_LOST,
/// ROLETALK_STATUS_CANCELED. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_request_async(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
    handler: roletalk_reply_handler,
    operation: *mut roletalk_operation,
) -> roletalk_status {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    enter(move || {
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let given = unsafe { given(destination, event, data, options) }?;
        let Given { object, event, payload, options } = given;
        let asking = options.asking()?;
        check_optional(operation, "operation")?;
        let completion = Completion::new(closure, &object.queue, invoke_reply)?;
        let request = asking.request(&object.destination, event, payload);
        let completion = match request.call(completion, Asked::answered) {
            // SAFETY: as above.
            Ok(call) => return unsafe { put_operation(operation, Operation::Request(call)) },
            Err((completion, None)) => completion,
            Err((completion, Some(error))) => return completion.refuse(error.into()),
        };
        // It has to wait for room.
        let kept = match object.keep.copy(payload) {
            Ok(kept) => kept,
            Err(failure) => return completion.refuse(failure),
        };
        let (event, to) = (Box::<str>::from(event), object.clone());
        let waiting =
            async move { asking.request(&to.destination, &event, kept.data.payload()).await };
        // SAFETY: as above.
        unsafe { start(waiting, completion, operation, |answer| Outcome::of(Ok(answer))) }
    })
}

/// Shows an answer. `reply->struct_size` must be set. The pointers are valid until the answer is
/// freed; `reply->unit` is none: see roletalk_answer_unit.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_answer_view(
    answer: roletalk_answer,
    reply: *mut roletalk_reply,
) -> roletalk_status {
    enter(|| {
        let answer = table::get::<AnswerObject>(answer.id)?;
        let view = answer.0.view(|_| roletalk_unit::NONE);
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { sized::write(reply, &view) }
    })
}

/// The unit that answered. The caller frees it with roletalk_unit_free.
///
/// Errors: ROLETALK_STATUS_NO_UNIT when it is not known. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_answer_unit(
    answer: roletalk_answer,
    unit: *mut roletalk_unit,
) -> roletalk_status {
    enter(|| {
        check_out(unit, "unit")?;
        let answer = table::get::<AnswerObject>(answer.id)?;
        let none = || Failure::new(Status::NoUnit, "It is not known which unit answered");
        let handle = units::insert(answer.0.unit.clone().ok_or_else(none)?);
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(unit, handle, "unit") }
    })
}

/// Frees an answer; pointers into it end.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_answer_free(answer: roletalk_answer) -> roletalk_status {
    enter(|| table::remove::<AnswerObject>(answer.id).map(drop))
}

struct SurveyObject {
    survey: Mutex<Survey>,
    runtime: Handle,
}

/// Asks every unit that serves the role. `options` may be NULL; `options->timeout_ms` limits each answer.
/// Take the answers with roletalk_survey_next; the caller ends the survey with roletalk_survey_close.
/// Nothing is sent before the first roletalk_survey_next.
///
/// Errors: ROLETALK_STATUS_DATA. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_survey(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
    survey: *mut roletalk_survey,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let given = unsafe { given(destination, event, data, options) }?;
        check_out(survey, "survey")?;
        let data = owned(given.payload);
        let (object, made) = given.survey(data)?;
        let runtime = object.runtime.clone();
        let id = table::insert(Arc::new(SurveyObject { survey: Mutex::new(made), runtime }));
        // SAFETY: as above.
        unsafe { put(survey, roletalk_survey { id }, "survey") }
    })
}

/// Waits for the next answer: for `timeout_ms` milliseconds, without a limit if that is negative, not at
/// all if it is 0. The caller frees the answer with roletalk_answer_free; its status says whether that unit
/// gave one, roletalk_answer_unit which it was.
///
/// Errors: ROLETALK_STATUS_END when every unit has been heard, ROLETALK_STATUS_TIMEOUT,
/// ROLETALK_STATUS_WOULD_BLOCK. One thread at a time, ROLETALK_STATUS_INVALID_ARGUMENT for others; in
/// callbacks as every call that waits.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_survey_next(
    survey: roletalk_survey,
    timeout_ms: i64,
    answer: *mut roletalk_answer,
) -> roletalk_status {
    enter(|| {
        check_out(answer, "answer")?;
        let object = table::get::<SurveyObject>(survey.id)?;
        let mut survey = match object.survey.try_lock() {
            Ok(survey) => survey,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => {
                return Err(Failure::invalid("Another thread waits for this survey"));
            }
        };
        let limit = Limit::from_millis(timeout_ms);
        match block_on(Some(&object.runtime), limit, survey.next())? {
            // SAFETY: the contract of pointers in the header's introduction.
            Some((unit, answered)) => unsafe {
                put_answer(answer, survey_outcome(unit, answered, 0))
            },
            None => Err(Failure::new(Status::End, "Every unit has been heard")),
        }
    })
}

fn survey_outcome(unit: Unit, answer: engine::Result<Answer>, remaining: usize) -> Outcome {
    Outcome { unit: Some(unit), remaining, ..Outcome::of(answer) }
}

/// Ends a survey, waiting for further answers included, and its handle.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_survey_close(survey: roletalk_survey) -> roletalk_status {
    enter(|| table::remove::<SurveyObject>(survey.id).map(drop))
}

/// Asks every unit that serves the role, without waiting: `handler` is called for each with its answer
/// or why there is none, and how many remain. When none serves it, there is no call. `handler.drop` is
/// called after the last one, or when this fails. `options` and `operation` may be NULL;
/// when the operation is canceled there are no more calls.
///
/// Errors: ROLETALK_STATUS_DATA. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_survey_async(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
    handler: roletalk_reply_handler,
    operation: *mut roletalk_operation,
) -> roletalk_status {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    enter(move || {
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let given = unsafe { given(destination, event, data, options) }?;
        check_optional(operation, "operation")?;
        let kept = given.object.keep.copy(given.payload)?;
        let (object, mut survey) = given.survey(kept.data.clone())?;
        let closure = closure.bind(&object.queue)?;
        let hearing = async move {
            let _kept = kept;
            let mut remaining = survey.asked();
            while let Some((unit, answer)) = survey.next().await {
                remaining -= 1;
                if let Some((call, user_data)) = closure.parts() {
                    let outcome = survey_outcome(unit, answer, remaining);
                    invoke_reply(call, user_data.cast(), Ok(outcome));
                }
            }
        };
        let task = Task::spawn(&object.queue, hearing);
        // SAFETY: as above.
        unsafe { put_operation(operation, Operation::Task(task)) }
    })
}

/// Called with a stream that was opened, or why it was not: then `stream` is zero. `reply->data` is what
/// the other side has said. The stream is the callee's, who closes it with roletalk_readable_close.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_readable_handler {
    /// The function; not NULL.
    pub call: Option<
        unsafe extern "C" fn(
            user_data: *mut c_void,
            reply: *const roletalk_reply,
            stream: roletalk_readable,
        ),
    >,
    /// Given to both functions.
    pub user_data: *mut c_void,
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    pub drop: roletalk_drop,
}

/// Called with a stream that was opened, or why it was not: then `stream` is zero. `reply->data` is what
/// the other side has said. The stream is the callee's, who closes it with roletalk_writable_close.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_writable_handler {
    /// The function; not NULL.
    pub call: Option<
        unsafe extern "C" fn(
            user_data: *mut c_void,
            reply: *const roletalk_reply,
            stream: roletalk_writable,
        ),
    >,
    /// Given to both functions.
    pub user_data: *mut c_void,
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    pub drop: roletalk_drop,
}

/// What both directions of streams have in common.
trait Stream: Sized + Send + 'static {
    /// What the program gets.
    type Handle: Copy;
    const NONE: Self::Handle;

    fn open<'a>(to: &'a Destination, event: &'a str, data: Data) -> OpenStream<'a, Self>;

    fn insert(self, queue: Arc<Callbacks>) -> Self::Handle;
}

impl Stream for Readable {
    type Handle = roletalk_readable;
    const NONE: roletalk_readable = roletalk_readable { id: 0 };

    fn open<'a>(to: &'a Destination, event: &'a str, data: Data) -> OpenStream<'a, Readable> {
        to.readable(event, data)
    }

    fn insert(self, queue: Arc<Callbacks>) -> roletalk_readable {
        ReadEnd::insert(self, queue)
    }
}

impl Stream for Writable {
    type Handle = roletalk_writable;
    const NONE: roletalk_writable = roletalk_writable { id: 0 };

    fn open<'a>(to: &'a Destination, event: &'a str, data: Data) -> OpenStream<'a, Writable> {
        to.writable(event, data)
    }

    fn insert(self, queue: Arc<Callbacks>) -> roletalk_writable {
        WriteEnd::insert(self, queue)
    }
}

impl Given<'_> {
    /// # Safety
    /// `stream` and `answer` are NULL or point to such handles.
    unsafe fn open<S: Stream>(
        self,
        stream: *mut S::Handle,
        answer: *mut roletalk_answer,
    ) -> Result<(), Failure> {
        let Given { object, event, payload, options } = self;
        let asking = options.asking()?;
        check_out(stream, "stream")?;
        check_optional(answer, "answer")?;
        check_may_wait(Limit::Never)?;
        let opening = asking.open::<S>(&object.destination, event, owned(payload));
        let (opened, answered) = object.wait(Limit::Never, opening.into_future())??;
        // SAFETY: the caller's promise.
        unsafe {
            put_answer(answer, Outcome::of(Ok(answered)))?;
            put(stream, opened.insert(object.queue.clone()), "stream")
        }
    }

    /// # Safety
    /// `operation` is NULL or points to a `roletalk_operation`.
    unsafe fn open_async<S: Stream>(
        self,
        closure: Closure<OpenedCall<S>>,
        operation: *mut roletalk_operation,
    ) -> Result<(), Failure> {
        let Given { object, event, payload, options } = self;
        let asking = options.asking()?;
        let (event, kept) = (Box::<str>::from(event), object.keep.copy(payload)?);
        let completion = Completion::new(closure, &object.queue, invoke_opened::<S>)?;
        let opening = async move {
            let data = kept.data.clone();
            let opened = asking.open::<S>(&object.destination, &event, data).await?;
            Ok((opened, object.queue.clone()))
        };
        let outcome = |((stream, answer), queue)| (Outcome::of(Ok(answer)), Some((stream, queue)));
        // SAFETY: the caller's promise.
        unsafe { start(opening, completion, operation, outcome) }
    }
}

type OpenedCall<S> =
    unsafe extern "C" fn(*mut c_void, *const roletalk_reply, stream: <S as Stream>::Handle);

/// An outcome, and the stream with what its handle is made of.
type Opened<S> = (Outcome, Option<(S, Arc<Callbacks>)>);

/// For [`Completion`]: only here, where it is called, is a handle made.
fn invoke_opened<S: Stream>(
    call: OpenedCall<S>,
    user_data: *mut c_void,
    result: Result<Opened<S>, Failure>,
) {
    let (outcome, stream) = result.unwrap_or_else(|failure| (Outcome::failed(failure), None));
    let view = outcome.view(lend::lend_unit);
    let stream = stream.map_or(S::NONE, |(stream, queue)| stream.insert(queue));
    // SAFETY: function and argument belong together; the view points into `outcome`, and no lock is
    // held.
    unsafe { call(user_data, &view, stream) };
}

/// Asks for a stream to read, and waits until it is accepted. `options` may be NULL;
/// `options->timeout_ms` limits the wait. The caller closes the stream with roletalk_readable_close.
/// `answer`, which may be NULL, is set to what the other side has said; the caller frees it with
/// roletalk_answer_free.
///
/// Errors: those of roletalk_destination_request; ROLETALK_STATUS_REJECTED when it is refused,
/// ROLETALK_STATUS_OVERLOADED also when too many streams are open. Any thread; in a callback as
/// roletalk_destination_request.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_readable(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
    stream: *mut roletalk_readable,
    answer: *mut roletalk_answer,
) -> roletalk_status {
    // SAFETY: the contract of pointers in the header's introduction.
    enter(|| unsafe { given(destination, event, data, options)?.open::<Readable>(stream, answer) })
}

/// Asks for a stream to write, and waits until it is accepted, as roletalk_destination_readable. The caller
/// finishes it with roletalk_writable_finish and closes it with roletalk_writable_close.
///
/// Errors, threads and callbacks as roletalk_destination_readable.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_writable(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
    stream: *mut roletalk_writable,
    answer: *mut roletalk_answer,
) -> roletalk_status {
    // SAFETY: the contract of pointers in the header's introduction.
    enter(|| unsafe { given(destination, event, data, options)?.open::<Writable>(stream, answer) })
}

/// Asks for a stream to read, without waiting: `handler` is called once. `options` and `operation` may
/// be NULL. `handler.drop` is called after that, or when this fails.
///
/// Errors: those of roletalk_destination_request_async. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_readable_async(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
    handler: roletalk_readable_handler,
    operation: *mut roletalk_operation,
) -> roletalk_status {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    // SAFETY: the contract of pointers in the header's introduction.
    enter(move || unsafe {
        given(destination, event, data, options)?.open_async::<Readable>(closure, operation)
    })
}

/// Asks for a stream to write, without waiting: `handler` is called once. `options` and `operation` may
/// be NULL. `handler.drop` is called after that, or when this fails.
///
/// Errors: those of roletalk_destination_request_async. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_writable_async(
    destination: roletalk_destination,
    event: roletalk_string,
    data: roletalk_data,
    options: *const roletalk_send_options,
    handler: roletalk_writable_handler,
    operation: *mut roletalk_operation,
) -> roletalk_status {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    // SAFETY: the contract of pointers in the header's introduction.
    enter(move || unsafe {
        given(destination, event, data, options)?.open_async::<Writable>(closure, operation)
    })
}
