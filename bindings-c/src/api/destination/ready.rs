//! The units that serve a role.

use std::os::raw::c_void;

use crate::{
    api::{destination::object::get, unit},
    border::{enter::enter, failure::roletalk_status, handles::roletalk_destination},
    runtime::wait::Limit,
};

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
