//! Connecting to addresses.

use crate::{
    api::{
        operation::start,
        peer::{object::get, options::roletalk_connect_options},
    },
    border::{
        enter::enter,
        failure::{Failure, roletalk_status},
        handles::{roletalk_operation, roletalk_peer, roletalk_unit},
        memory::{check_optional, put_optional},
        sized::read_or_default,
        units,
        values::roletalk_string,
    },
    callbacks::{
        closure::Closure,
        completion::{Completion, Outcome, invoke_reply, roletalk_reply_handler},
    },
    runtime::wait::{Limit, check_may_wait},
};

/// Connects to a `ws://` or `wss://` address, and again whenever the connection is lost, until
/// roletalk_peer_disconnect. Waits for the first outcome; after a failure the address is tried further,
/// unless it is to be connected once. `options` may be NULL. `unit`, which may be NULL, is set to the
/// unit that answered; the caller frees it with roletalk_unit_free.
///
/// Errors: ROLETALK_STATUS_CONNECT_FAILED, ROLETALK_STATUS_AUTH_REFUSED, ROLETALK_STATUS_TLS,
/// ROLETALK_STATUS_CLOSED. Any thread; in callbacks as every call that waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_connect(
    peer: roletalk_peer,
    address: roletalk_string,
    options: *const roletalk_connect_options,
    unit: *mut roletalk_unit,
) -> roletalk_status {
    enter(|| {
        let object = get(peer)?;
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let address = unsafe { address.get("address") }?;
        // SAFETY: as above.
        let options = unsafe { read_or_default(options)?.get() }?;
        check_optional(unit, "unit")?;
        check_may_wait(Limit::Never)?;
        let connected = object.wait(Limit::Never, object.peer.connect_with(address, options))??;
        // SAFETY: as above.
        unsafe { put_optional(unit, "unit", || units::insert(connected.unit().clone())) }
    })
}

/// As roletalk_peer_connect, without waiting: `handler` is called with the first outcome, and with the unit
/// if it connected. `operation` may be NULL; canceling it does not end the dialing. `handler.drop` is
/// called after that, or when this fails.
///
/// Errors: ROLETALK_STATUS_TLS, ROLETALK_STATUS_CLOSED; others by callback. Any thread, also inside
/// callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_connect_async(
    peer: roletalk_peer,
    address: roletalk_string,
    options: *const roletalk_connect_options,
    handler: roletalk_reply_handler,
    operation: *mut roletalk_operation,
) -> roletalk_status {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    enter(move || {
        let object = get(peer)?;
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let address = unsafe { address.get("address") }?.to_owned();
        // SAFETY: as above.
        let options = unsafe { read_or_default(options)?.get() }?;
        let completion = Completion::new(closure, &object.queue, invoke_reply)?;
        let peer = object.peer.clone();
        let connecting = async move { peer.connect_with(address, options).await };
        let outcome = |connected: engine::Connected| {
            Outcome::done(engine::Data::null(), Some(connected.unit().clone()))
        };
        // SAFETY: as above.
        unsafe { start(connecting, completion, operation, outcome) }
    })
}

/// Stops dialing an address. A connection that is up stays: roletalk_unit_disconnect ends it.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when the address is not dialed. Any thread, also inside
/// callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_disconnect(
    peer: roletalk_peer,
    address: roletalk_string,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let address = unsafe { address.get("address") }?;
        match get(peer)?.peer.disconnect(address) {
            true => Ok(()),
            false => Err(Failure::invalid("The address is not dialed")),
        }
    })
}
