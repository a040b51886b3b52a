//! Which unit gets what is sent, how much of it, and what is made again.

use crate::{
    api::{
        balance::{Given, roletalk_balance},
        destination::object::{get, set},
        retry,
    },
    border::{
        enter::enter,
        failure::roletalk_status,
        handles::{roletalk_destination, roletalk_retry},
    },
};

/// How a unit is chosen from now on, for all who use this destination; NULL: as the peer says
/// (roletalk_peer_options.balance). What is sent with a balance of its own (roletalk_send_options.balance) has that.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for an unknown `by`, and for tags that are not usable. Any thread, also
/// inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_destination_set_balance(
    destination: roletalk_destination,
    balance: *const roletalk_balance,
) -> roletalk_status {
    enter(|| {
        let object = get(destination)?;
        // SAFETY: the contract of pointers in the header's introduction.
        let given = unsafe { Given::read(balance, &object.queue) }?;
        let balance = given.map(|given| given.balance);
        set(destination, |settings| settings.balance = balance)
    })
}

/// At most so many requests of this destination are in flight from now on, stream openings included: a further one
/// fails at once, with ROLETALK_STATUS_OVERLOADED. 0: any number, which is the default. So a destination that does not
/// answer takes no more than its part of what else the program needs. For all who use this destination; what is in
/// flight already is not counted, and neither are messages, broadcasts and surveys.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_destination_set_max_in_flight(
    destination: roletalk_destination,
    requests: usize,
) -> roletalk_status {
    enter(|| set(destination, |settings| settings.bound(requests)))
}

/// Sets how all requests of this destination are retried, whoever uses it; from now on they may be handled more than
/// once. Zero, the default: they are not retried. A retry of the request itself takes precedence; see
/// roletalk_send_options.retry. Messages, broadcasts, surveys and streams are never retried.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_destination_set_retry(
    destination: roletalk_destination,
    retry: roletalk_retry,
) -> roletalk_status {
    enter(|| {
        let retry = retry::optional(retry)?;
        set(destination, |settings| settings.retry = retry)
    })
}
