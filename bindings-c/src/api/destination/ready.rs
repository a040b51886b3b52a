//! The units that serve a role.

use std::os::raw::c_void;

use crate::{
    api::{destination::object::get, unit},
    border::{
        enter::enter,
        failure::{Failure, roletalk_status},
        handles::{roletalk_destination, roletalk_unit},
        sized::sized,
        units::LentUnit,
    },
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

/// How a unit stands with this peer. Valid during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_standing {
    /// The size of this struct in the library.
    pub struct_size: usize,
    /// The unit; borrowed.
    pub unit: roletalk_unit,
    /// Requests that wait for its answer.
    pub waiting: u64,
    /// Microseconds that an answer is likely to take, by what its answers have taken and how long it has been silent;
    /// 0 when nothing is known.
    pub answer_time_us: i64,
    /// Requests in a row that were not answered within their time.
    pub unanswered: u64,
    /// Requests in a row that were rejected.
    pub rejected: u64,
    /// Milliseconds that it is still left out (roletalk_balance.eject), 0 while one request finds out whether it has
    /// recovered; -1 when it is not left out.
    pub ejected_ms: i64,
}

sized!(roletalk_standing);

/// Called for each unit, on the caller's thread.
pub type roletalk_standing_visitor =
    Option<unsafe extern "C" fn(user_data: *mut c_void, standing: *const roletalk_standing)>;

/// Calls `visitor` for each unit that serves the role, before this returns, with how it stands with this peer: what it
/// owes, how long it takes, whether it fails and is left out, by the balance of the destination.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_destination_each_standing(
    destination: roletalk_destination,
    visitor: roletalk_standing_visitor,
    user_data: *mut c_void,
) -> roletalk_status {
    enter(|| {
        let object = get(destination)?;
        let visitor = visitor.ok_or_else(|| Failure::null("visitor"))?;
        for (unit, known) in object.destination.standings() {
            let lent = LentUnit::new(unit);
            let micros = known.answer_time.as_micros();
            let ejected = known.ejected.map(|time| time.as_micros().div_ceil(1000));
            let standing = roletalk_standing {
                struct_size: size_of::<roletalk_standing>(),
                unit: lent.handle(),
                waiting: known.waiting as u64,
                answer_time_us: i64::try_from(micros).unwrap_or(i64::MAX),
                unanswered: known.unanswered as u64,
                rejected: known.rejected as u64,
                ejected_ms: ejected.map_or(-1, |time| i64::try_from(time).unwrap_or(i64::MAX)),
            };
            // SAFETY: function and argument were given together, and no lock is held.
            unsafe { visitor(user_data, &raw const standing) };
        }
        Ok(())
    })
}
