//! The library itself: versions, and texts for statuses.

use crate::border::{
    enter::{with_last_error, with_last_hint},
    failure::Status,
    values::roletalk_string,
};

/// The text of the last call on this thread that returned something else than ROLETALK_STATUS_OK.
/// Successful calls leave it as it is. Never fails; empty before the first. Any thread, also inside
/// callbacks. Valid until the next call that fails on this thread, so copy what is to be kept.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_last_error() -> roletalk_string {
    // It lives until the next one.
    with_last_error(roletalk_string::lend).unwrap_or_else(|| roletalk_string::lend(""))
}

/// What there is to know besides roletalk_last_error, and what to try: for people, in English; empty when there
/// is nothing. Never fails, any thread, also inside callbacks, and valid as long as that text.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_last_error_hint() -> roletalk_string {
    with_last_hint(roletalk_string::lend).unwrap_or_else(|| roletalk_string::lend(""))
}

/// The name of a status code, such as `NO_UNIT`; `UNKNOWN` for other numbers. Never fails. Any thread, also
/// inside callbacks. Valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_status_name(status: i32) -> roletalk_string {
    roletalk_string::lend(Status::name_of(status).unwrap_or("UNKNOWN"))
}

/// The version of the library, such as `0.1.0`. Never fails. Any thread, also inside callbacks. Valid for
/// ever.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_version() -> roletalk_string {
    roletalk_string::lend(env!("CARGO_PKG_VERSION"))
}

/// The version of the ABI. A program runs with every library whose ABI version is the ROLETALK_ABI_VERSION
/// that it was compiled with. Never fails. Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_abi_version() -> u32 {
    ROLETALK_ABI_VERSION
}

/// The version of the ABI that this header describes; the number in the soname.
pub const ROLETALK_ABI_VERSION: u32 = 0;
