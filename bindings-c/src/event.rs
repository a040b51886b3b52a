//! What happens to a peer.

use std::os::raw::c_void;

use engine::{PeerEvent, Unit};

use crate::{
    closure::{Closure, rt_drop},
    operation::{Operation, put_operation},
    options::sized,
    peer, queue,
    status::{RT_OK, enter},
    task::Task,
    types::*,
};

/// A unit connected.
pub const RT_EVENT_UNIT_OPENED: i32 = 1;
/// A unit's last connection closed.
pub const RT_EVENT_UNIT_CLOSED: i32 = 2;
/// The first unit that serves a destination's role is there.
pub const RT_EVENT_DESTINATION_OPENED: i32 = 3;
/// No unit serves a destination's role any more.
pub const RT_EVENT_DESTINATION_CLOSED: i32 = 4;
/// A unit serves a destination's role from now on.
pub const RT_EVENT_DESTINATION_GAINED: i32 = 5;
/// A unit serves a destination's role no longer.
pub const RT_EVENT_DESTINATION_LOST: i32 = 6;
/// A handshake was refused, by this side or the other: `text` says why.
pub const RT_EVENT_AUTH_REFUSED: i32 = 7;
/// An address that was lost, or never reached, is connected now, after `count` failures.
pub const RT_EVENT_RECONNECT_SUCCEEDED: i32 = 8;
/// An address was dialed again in vain. It is tried further.
pub const RT_EVENT_RECONNECT_FAILED: i32 = 9;
/// A connection closed: `status` and `text` say why. `unit` is none before the handshake was done.
pub const RT_EVENT_CONNECTION_CLOSED: i32 = 10;
/// Something came that the protocol does not allow; that one connection is closed.
pub const RT_EVENT_BAD_INPUT: i32 = 11;
/// A unit takes no data although `queued` bytes wait for it, or sends more than the handlers can do:
/// `count` messages and requests were dropped or rejected so far.
pub const RT_EVENT_SLOW_CONSUMER: i32 = 12;
/// The handler of a message failed, or that of a stream after it had accepted it: `role` and `event` say
/// which, `text` is what it rejected with.
pub const RT_EVENT_HANDLER_FAILED: i32 = 13;
/// This subscriber was too slow and has missed `count` events.
pub const RT_EVENT_MISSED: i32 = 14;

/// Something that happened to a peer. Valid during the call. Fields that do not belong to the kind are
/// zero. New kinds may be added.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct rt_event {
    /// The size of this struct in the library.
    pub struct_size: usize,
    /// RT_EVENT_UNIT_OPENED and so on.
    pub kind: i32,
    /// The status code that belongs to `text`.
    pub status: i32,
    /// The unit, borrowed.
    pub unit: rt_unit,
    /// The role of the destination, or of the handler.
    pub role: rt_string,
    /// The address that was dialed.
    pub address: rt_string,
    /// What there is to say.
    pub text: rt_string,
    /// How many.
    pub count: u64,
    /// Bytes that wait to be written.
    pub queued: u64,
    /// The event that the handler is for; may be empty.
    pub event: rt_string,
}

/// Called for each event, in their order, where the peer's callbacks run.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct rt_event_handler {
    /// The function; not NULL.
    pub call: Option<unsafe extern "C" fn(user_data: *mut c_void, event: *const rt_event)>,
    /// Given to both functions.
    pub user_data: *mut c_void,
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    pub drop: rt_drop,
}

sized!(rt_event);

/// The view's pointers are valid as long as the event.
fn view(event: &PeerEvent) -> rt_event {
    let none = rt_string::lend("");
    let mut view = rt_event {
        struct_size: size_of::<rt_event>(),
        kind: 0,
        status: RT_OK,
        unit: rt_unit::NONE,
        role: none,
        address: none,
        text: none,
        count: 0,
        queued: 0,
        event: none,
    };
    let lend = |unit: &Unit| queue::lend_unit(unit);
    let optional = |unit: &Option<Unit>| unit.as_ref().map_or(rt_unit::NONE, queue::lend_unit);
    let fail = |view: &mut rt_event, error: &engine::Error| {
        view.status = i32::from(error.kind().code());
        // The text lives in the event, which the closure's caller has.
        view.text = rt_string { data: error.text().as_ptr().cast(), len: error.text().len() };
    };
    match event {
        PeerEvent::UnitOpened(unit) => {
            (view.kind, view.unit) = (RT_EVENT_UNIT_OPENED, lend(unit));
        }
        PeerEvent::UnitClosed(unit) => {
            (view.kind, view.unit) = (RT_EVENT_UNIT_CLOSED, lend(unit));
        }
        PeerEvent::DestinationOpened(role) => {
            (view.kind, view.role) = (RT_EVENT_DESTINATION_OPENED, rt_string::lend(role));
        }
        PeerEvent::DestinationClosed(role) => {
            (view.kind, view.role) = (RT_EVENT_DESTINATION_CLOSED, rt_string::lend(role));
        }
        PeerEvent::DestinationGained { role, unit } => {
            (view.kind, view.role) = (RT_EVENT_DESTINATION_GAINED, rt_string::lend(role));
            view.unit = lend(unit);
        }
        PeerEvent::DestinationLost { role, unit } => {
            (view.kind, view.role) = (RT_EVENT_DESTINATION_LOST, rt_string::lend(role));
            view.unit = lend(unit);
        }
        PeerEvent::AuthRefused { reason } => {
            (view.kind, view.status) = (RT_EVENT_AUTH_REFUSED, crate::status::RT_AUTH_REFUSED);
            view.text = rt_string::lend(reason);
        }
        PeerEvent::ReconnectSucceeded { address, count, unit } => {
            (view.kind, view.address) = (RT_EVENT_RECONNECT_SUCCEEDED, rt_string::lend(address));
            (view.count, view.unit) = (u64::from(*count), lend(unit));
        }
        PeerEvent::ReconnectFailed { address, count, error } => {
            (view.kind, view.address) = (RT_EVENT_RECONNECT_FAILED, rt_string::lend(address));
            view.count = u64::from(*count);
            fail(&mut view, error);
        }
        PeerEvent::ConnectionClosed { unit, reason } => {
            (view.kind, view.unit) = (RT_EVENT_CONNECTION_CLOSED, optional(unit));
            fail(&mut view, reason);
        }
        PeerEvent::BadInput { unit, error } => {
            (view.kind, view.unit) = (RT_EVENT_BAD_INPUT, optional(unit));
            fail(&mut view, error);
        }
        PeerEvent::SlowConsumer { unit, queued, dropped } => {
            (view.kind, view.unit) = (RT_EVENT_SLOW_CONSUMER, lend(unit));
            (view.queued, view.count) = (*queued as u64, *dropped);
        }
        PeerEvent::HandlerFailed { unit, role, event, error } => {
            (view.kind, view.unit) = (RT_EVENT_HANDLER_FAILED, lend(unit));
            (view.role, view.event) = (rt_string::lend(role), rt_string::lend(event));
            fail(&mut view, error);
        }
        PeerEvent::Missed(count) => (view.kind, view.count) = (RT_EVENT_MISSED, *count),
        // A kind that this header does not know: nothing that C programs could do with it.
        _ => {}
    }
    view
}

/// Subscribes to what happens from now on. `operation`, which may be NULL, is set to a handle to cancel
/// the subscription with; the caller frees it with rt_operation_free. `handler.drop` is called when the
/// subscription is canceled or the peer closed, or when this fails. A subscriber that lags
/// more than a thousand events behind misses the oldest, and is told by RT_EVENT_MISSED.
///
/// Errors: RT_INVALID_ARGUMENT, RT_INVALID_HANDLE. Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rt_peer_on_event(
    peer: rt_peer,
    handler: rt_event_handler,
    operation: *mut rt_operation,
) -> i32 {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    enter(move || {
        let object = peer::get(peer)?;
        check_optional(operation, "operation")?;
        let closure = closure.bind(&object.queue)?;
        let mut events = object.peer.events();
        let telling = async move {
            while let Some(event) = events.next().await {
                let view = view(&event);
                if let (1.., Some((call, user_data))) = (view.kind, closure.parts()) {
                    // SAFETY: function and argument belong together; the view points into `event`,
                    // and no lock is held.
                    unsafe { call(user_data, &view) };
                }
            }
        };
        let task = Task::spawn_endless(&object.queue, telling);
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put_operation(operation, Operation::Task(task)) }
    })
}
