//! What happens to a peer.

use std::{os::raw::c_void, path::Path};

use engine::{PeerEvent, Unit};

use crate::{
    api::{
        operation::{Operation, put_operation},
        peer::{object, tls::millis},
    },
    border::{
        enter::enter,
        failure::{Status, roletalk_status},
        handles::{roletalk_operation, roletalk_peer, roletalk_unit},
        memory::check_optional,
        sized::sized,
        values::roletalk_string,
    },
    callbacks::{
        closure::{Closure, roletalk_drop},
        item::Task,
        lend,
    },
};

/// A unit connected.
pub const ROLETALK_EVENT_UNIT_OPENED: i32 = 1;
/// A unit's last connection closed.
pub const ROLETALK_EVENT_UNIT_CLOSED: i32 = 2;
/// The first unit that serves a destination's role is there.
pub const ROLETALK_EVENT_DESTINATION_OPENED: i32 = 3;
/// No unit serves a destination's role any more.
pub const ROLETALK_EVENT_DESTINATION_CLOSED: i32 = 4;
/// A unit serves a destination's role from now on.
pub const ROLETALK_EVENT_DESTINATION_GAINED: i32 = 5;
/// A unit serves a destination's role no longer.
pub const ROLETALK_EVENT_DESTINATION_LOST: i32 = 6;
/// A handshake was refused, by this side or the other: `text` says why.
pub const ROLETALK_EVENT_AUTH_REFUSED: i32 = 7;
/// An address that was lost, or never reached, is connected now, after `count` failures.
pub const ROLETALK_EVENT_RECONNECT_SUCCEEDED: i32 = 8;
/// An address was dialed again in vain. It is tried further.
pub const ROLETALK_EVENT_RECONNECT_FAILED: i32 = 9;
/// A connection closed: `status` and `text` say why. `unit` is none before the handshake was done.
pub const ROLETALK_EVENT_CONNECTION_CLOSED: i32 = 10;
/// Something came that the protocol does not allow; that one connection is closed.
pub const ROLETALK_EVENT_BAD_INPUT: i32 = 11;
/// A unit takes no data although `queued` bytes wait for it, or sends more than the handlers can do:
/// `count` messages and requests were dropped or rejected so far.
pub const ROLETALK_EVENT_SLOW_CONSUMER: i32 = 12;
/// The handler of a message failed, or that of a stream after it had accepted it: `role` and `event` say
/// which, `text` is what it rejected with.
pub const ROLETALK_EVENT_HANDLER_FAILED: i32 = 13;
/// This subscriber was too slow and has missed `count` events.
pub const ROLETALK_EVENT_MISSED: i32 = 14;
/// A unit keeps failing, so the destination of `role` leaves it out for a while (roletalk_balance.eject). Reported at
/// the next choice of a unit.
pub const ROLETALK_EVENT_UNIT_EJECTED: i32 = 15;
/// A unit that was left out has recovered. Reported at the next choice of a unit.
pub const ROLETALK_EVENT_UNIT_RESTORED: i32 = 16;
/// A unit has made a call, or announced a role, that the policy does not allow: `what`, `role` and `event` describe it,
/// `count` is the number of denials since the last report, and `text` has all of this. Denied calls are reported at
/// most once a second for each unit.
pub const ROLETALK_EVENT_DENIED: i32 = 17;
/// The file of the policy, `path`, has changed, and what is in it is in force.
pub const ROLETALK_EVENT_POLICY_LOADED: i32 = 18;
/// The file of the policy, `path`, has changed, and cannot be used: `text` says why, and the policy before stays in force.
pub const ROLETALK_EVENT_POLICY_FAILED: i32 = 19;
/// Certificates that the peer listens or dials with have changed, through their files or a call. `expires_ms` is when
/// they expire. Several changes in quick succession may be reported as one.
pub const ROLETALK_EVENT_TLS_RELOADED: i32 = 20;
/// Files of certificates that are watched have changed, and cannot be used: `text` says which and why. What was in
/// force stays. Told once for each change.
pub const ROLETALK_EVENT_TLS_RELOAD_FAILED: i32 = 21;

/// Connections could not be accepted for want of file descriptors or memory, or unauthenticated connections were
/// evicted (roletalk_limits.handshakes): `status`, `text` and `hint` say what is lacking. The peer goes on accepting
/// as soon as it can. Reported at most once a second for each of the two.
pub const ROLETALK_EVENT_ACCEPT_FAILED: i32 = 22;

/// Something that happened to a peer. Valid during the call. Fields that do not belong to the kind are
/// zero. New kinds may be added.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_event {
    /// The size of this struct in the library.
    pub struct_size: usize,
    /// ROLETALK_EVENT_UNIT_OPENED and so on.
    pub kind: i32,
    /// The status code that belongs to `text`.
    pub status: roletalk_status,
    /// The unit, borrowed.
    pub unit: roletalk_unit,
    /// The role of the destination, or of the handler.
    pub role: roletalk_string,
    /// The address that was dialed.
    pub address: roletalk_string,
    /// What there is to say.
    pub text: roletalk_string,
    /// How many.
    pub count: u64,
    /// Bytes that wait to be written.
    pub queued: u64,
    /// The event that the handler is for; may be empty.
    pub event: roletalk_string,
    /// What there is to know besides `text`, and what to try; may be empty.
    pub hint: roletalk_string,
    /// What was denied: `message`, `request`, `readable`, `writable`, or `serve` for a role that was announced.
    pub what: roletalk_string,
    /// The file of the policy.
    pub path: roletalk_string,
    /// Milliseconds since 1970; 0 when it is not known.
    pub expires_ms: u64,
}

/// Called for each event, in their order, where the peer's callbacks run.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_event_handler {
    /// The function; not NULL.
    pub call: Option<unsafe extern "C" fn(user_data: *mut c_void, event: *const roletalk_event)>,
    /// Given to both functions.
    pub user_data: *mut c_void,
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    pub drop: roletalk_drop,
}

sized!(roletalk_event);

/// The view's pointers are valid as long as the event, and what was put into `room`.
fn view(event: &PeerEvent, room: &mut String) -> roletalk_event {
    let none = roletalk_string::lend("");
    let mut view = roletalk_event {
        struct_size: size_of::<roletalk_event>(),
        kind: 0,
        status: Status::Ok,
        unit: roletalk_unit::NONE,
        role: none,
        address: none,
        text: none,
        count: 0,
        queued: 0,
        event: none,
        hint: none,
        what: none,
        path: none,
        expires_ms: 0,
    };
    let lend = |unit: &Unit| lend::lend_unit(unit);
    let optional = |unit: &Option<Unit>| unit.as_ref().map_or(roletalk_unit::NONE, lend::lend_unit);
    let fail = |view: &mut roletalk_event, error: &engine::Error| {
        view.status = Status::of(error.kind());
        // The text lives in the event, which the closure's caller has.
        let borrow = |text: &str| roletalk_string { data: text.as_ptr().cast(), len: text.len() };
        view.text = borrow(error.text());
        view.hint = borrow(error.hint().unwrap_or_default());
    };
    match event {
        PeerEvent::UnitOpened(unit) => {
            (view.kind, view.unit) = (ROLETALK_EVENT_UNIT_OPENED, lend(unit));
        }
        PeerEvent::UnitClosed(unit) => {
            (view.kind, view.unit) = (ROLETALK_EVENT_UNIT_CLOSED, lend(unit));
        }
        PeerEvent::DestinationOpened(role) => {
            (view.kind, view.role) =
                (ROLETALK_EVENT_DESTINATION_OPENED, roletalk_string::lend(role));
        }
        PeerEvent::DestinationClosed(role) => {
            (view.kind, view.role) =
                (ROLETALK_EVENT_DESTINATION_CLOSED, roletalk_string::lend(role));
        }
        PeerEvent::DestinationGained { role, unit } => {
            (view.kind, view.role) =
                (ROLETALK_EVENT_DESTINATION_GAINED, roletalk_string::lend(role));
            view.unit = lend(unit);
        }
        PeerEvent::DestinationLost { role, unit } => {
            (view.kind, view.role) = (ROLETALK_EVENT_DESTINATION_LOST, roletalk_string::lend(role));
            view.unit = lend(unit);
        }
        PeerEvent::UnitEjected { role, unit } => {
            (view.kind, view.role) = (ROLETALK_EVENT_UNIT_EJECTED, roletalk_string::lend(role));
            view.unit = lend(unit);
        }
        PeerEvent::UnitRestored { role, unit } => {
            (view.kind, view.role) = (ROLETALK_EVENT_UNIT_RESTORED, roletalk_string::lend(role));
            view.unit = lend(unit);
        }
        PeerEvent::Denied { unit, denial } => {
            (view.kind, view.unit) = (ROLETALK_EVENT_DENIED, lend(unit));
            (view.role, view.event) =
                (roletalk_string::lend(&denial.role), roletalk_string::lend(&denial.event));
            (view.what, view.count) = (roletalk_string::lend(denial.what()), denial.count);
            *room = denial.to_string();
            view.text = roletalk_string::lend(room);
        }
        PeerEvent::PolicyLoaded { path } => {
            view.kind = ROLETALK_EVENT_POLICY_LOADED;
            view.path = lend_path(path);
        }
        PeerEvent::PolicyFailed { path, error } => {
            (view.kind, view.path) = (ROLETALK_EVENT_POLICY_FAILED, lend_path(path));
            fail(&mut view, error);
        }
        PeerEvent::AuthRefused { reason } => {
            (view.kind, view.status) = (ROLETALK_EVENT_AUTH_REFUSED, Status::AuthRefused);
            view.text = roletalk_string::lend(reason);
        }
        PeerEvent::ReconnectSucceeded { address, count, unit } => {
            (view.kind, view.address) =
                (ROLETALK_EVENT_RECONNECT_SUCCEEDED, roletalk_string::lend(address));
            (view.count, view.unit) = (u64::from(*count), lend(unit));
        }
        PeerEvent::ReconnectFailed { address, count, error } => {
            (view.kind, view.address) =
                (ROLETALK_EVENT_RECONNECT_FAILED, roletalk_string::lend(address));
            view.count = u64::from(*count);
            fail(&mut view, error);
        }
        PeerEvent::ConnectionClosed { unit, reason } => {
            (view.kind, view.unit) = (ROLETALK_EVENT_CONNECTION_CLOSED, optional(unit));
            fail(&mut view, reason);
        }
        PeerEvent::BadInput { unit, error } => {
            (view.kind, view.unit) = (ROLETALK_EVENT_BAD_INPUT, optional(unit));
            fail(&mut view, error);
        }
        PeerEvent::SlowConsumer { unit, queued, dropped } => {
            (view.kind, view.unit) = (ROLETALK_EVENT_SLOW_CONSUMER, lend(unit));
            (view.queued, view.count) = (*queued as u64, *dropped);
        }
        PeerEvent::HandlerFailed { unit, role, event, error } => {
            (view.kind, view.unit) = (ROLETALK_EVENT_HANDLER_FAILED, lend(unit));
            (view.role, view.event) = (roletalk_string::lend(role), roletalk_string::lend(event));
            fail(&mut view, error);
        }
        PeerEvent::TlsReloaded { expires } => {
            (view.kind, view.expires_ms) = (ROLETALK_EVENT_TLS_RELOADED, millis(*expires));
        }
        PeerEvent::TlsReloadFailed { error } => {
            view.kind = ROLETALK_EVENT_TLS_RELOAD_FAILED;
            fail(&mut view, error);
        }
        PeerEvent::AcceptFailed { error } => {
            view.kind = ROLETALK_EVENT_ACCEPT_FAILED;
            fail(&mut view, error);
        }
        PeerEvent::Missed(count) => (view.kind, view.count) = (ROLETALK_EVENT_MISSED, *count),
        // A kind that this header does not know: nothing that C programs could do with it.
        _ => {}
    }
    view
}

/// The program has given it as UTF-8.
fn lend_path(path: &Path) -> roletalk_string {
    roletalk_string::lend(path.to_str().unwrap_or_default())
}

/// Subscribes to what happens from now on. `operation`, which may be NULL, is set to a handle to cancel
/// the subscription with; the caller frees it with roletalk_operation_free. `handler.drop` is called when the
/// subscription is canceled or the peer closed, or when this fails. A subscriber that lags
/// more than a thousand events behind misses the oldest, and is told by ROLETALK_EVENT_MISSED.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_on_event(
    peer: roletalk_peer,
    handler: roletalk_event_handler,
    operation: *mut roletalk_operation,
) -> roletalk_status {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    enter(move || {
        let object = object::get(peer)?;
        check_optional(operation, "operation")?;
        let closure = closure.bind(&object.queue)?;
        let mut events = object.peer.events();
        let telling = async move {
            let mut room = String::new();
            while let Some(event) = events.next().await {
                let view = view(&event, &mut room);
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
