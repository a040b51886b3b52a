//! Requests.

use crate::{
    api::{
        destination::{
            answer::put_answer,
            options::{Given, given_request, roletalk_send_options},
        },
        operation::{Operation, put_operation, start},
    },
    border::{
        enter::enter,
        failure::roletalk_status,
        handles::{roletalk_answer, roletalk_destination, roletalk_operation},
        memory::check_optional,
        values::{roletalk_data, roletalk_string},
    },
    callbacks::{
        closure::Closure,
        completion::{Asked, Completion, Outcome, invoke_reply, roletalk_reply_handler},
    },
    runtime::wait::{Limit, check_may_wait},
};

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
        let given = unsafe { given_request(destination, event, data, options) }?;
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
        let given = unsafe { given_request(destination, event, data, options) }?;
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
        // It has to wait for room, or for another unit.
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
