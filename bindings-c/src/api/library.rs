//! The library itself: versions, and texts for statuses.

use crate::border::{
    enter::{Last, with_last_error},
    failure::Status,
    values::roletalk_string,
};

/// The text of the last call on this thread that returned something else than ROLETALK_STATUS_OK.
/// Successful calls leave it as it is. Never fails; empty before the first. Any thread, also inside
/// callbacks. Valid until the next call that fails on this thread, so copy what is to be kept.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_last_error() -> roletalk_string {
    lend_last(|last| &last.text)
}

/// A text of the last error, which lives until the next one.
fn lend_last(text: fn(&Last) -> &str) -> roletalk_string {
    let lent = with_last_error(|last| roletalk_string::lend(text(last)));
    lent.unwrap_or_else(|| roletalk_string::lend(""))
}

/// What there is to know besides roletalk_last_error, and what to try: for people, in English; empty when there
/// is nothing. Never fails, any thread, also inside callbacks, and valid as long as that text.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_last_error_hint() -> roletalk_string {
    lend_last(|last| &last.hint)
}

/// The name that the handler at the other end has given its failure (roletalk_failure.code), such as
/// `NOT_FOUND`; empty when it has given none. Never fails, any thread, also inside callbacks, and valid as long as
/// roletalk_last_error.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_last_error_code() -> roletalk_string {
    lend_last(|last| &last.code)
}

/// What that handler has added to its failure (roletalk_failure.data): JSON; empty for nothing. Never fails, any
/// thread, also inside callbacks, and valid as long as roletalk_last_error.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_last_error_data() -> roletalk_string {
    lend_last(|last| &last.data)
}

/// After how many milliseconds, says that handler, it is worth trying again; -1 when it says nothing. Never
/// fails. Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_last_error_retry_after_ms() -> i64 {
    with_last_error(|last| last.retry_after_ms).unwrap_or(-1)
}

/// Whether the other side has said that it has begun no handler, so that surely nothing was done: 1 or 0, which
/// says nothing. Never fails. Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_last_error_unhandled() -> i32 {
    i32::from(with_last_error(|last| last.unhandled).unwrap_or(false))
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
