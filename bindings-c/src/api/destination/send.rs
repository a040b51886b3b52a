//! One-way messages.

use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;

use crate::{
    api::{
        destination::{
            object::get,
            options::{Given, Options, given, owned, roletalk_send_options, to_all, with_more},
        },
        stream::{call_when, roletalk_ready_handler},
    },
    border::{
        enter::enter,
        failure::{Failure, Status, roletalk_status},
        handles::roletalk_destination,
        memory::{check_optional, put_optional},
        values::{roletalk_data, roletalk_string},
    },
    callbacks::closure::Closure,
};

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
        with_more!(message, options.more);
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
        let options = unsafe { Options::read(options, &object.queue) }?;
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
        let to = to_all(&options.more, &object.destination);
        let broadcast = to.broadcast(event, owned(payload));
        let taken = object.wait(options.limit(), broadcast).map_err(overloaded)??;
        // SAFETY: as above.
        unsafe { put_optional(count, "count", || taken) }
    })
}
