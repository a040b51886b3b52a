//! Asking for streams.

use std::{os::raw::c_void, sync::Arc};

use engine::{Data, Destination, OpenStream, Readable, Writable};

use crate::{
    api::{
        destination::{
            answer::put_answer,
            options::{Asking, Given, given, owned, roletalk_send_options, with_more},
        },
        operation::start,
        stream::{ReadEnd, WriteEnd},
    },
    border::{
        enter::enter,
        failure::{Failure, roletalk_status},
        handles::{
            roletalk_answer, roletalk_destination, roletalk_operation, roletalk_readable,
            roletalk_writable,
        },
        memory::{check_optional, check_out, put},
        values::{roletalk_data, roletalk_string},
    },
    callbacks::{
        closure::{Closure, roletalk_drop},
        completion::{Completion, Outcome, roletalk_reply},
        item::Callbacks,
        lend,
    },
    runtime::wait::{Limit, check_may_wait},
};

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

impl Asking {
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
        if self.wait_for_unit {
            opening = opening.wait_for_unit();
        }
        with_more!(opening, self.more);
        opening
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
