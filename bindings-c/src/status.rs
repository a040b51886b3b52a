//! Status codes, the text of the last error, and the border that no panic crosses.

use std::{
    borrow::Cow,
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
};

use engine::{Error, ErrorKind};

use crate::{process, types::roletalk_string};

/// It worked.
pub const ROLETALK_STATUS_OK: i32 = 0;
/// An argument is not usable: NULL where something is needed, a name that is too long or not UTF-8,
/// an address that does not parse, a `struct_size` that no version knows.
pub const ROLETALK_STATUS_INVALID_ARGUMENT: i32 = 1;
/// The peer was closed, or is draining and takes no new work.
pub const ROLETALK_STATUS_CLOSED: i32 = 2;
/// No connected unit serves the role.
pub const ROLETALK_STATUS_NO_UNIT: i32 = 3;
/// It did not come in time.
pub const ROLETALK_STATUS_TIMEOUT: i32 = 4;
/// The remote peer rejected the request or refused the stream.
pub const ROLETALK_STATUS_REJECTED: i32 = 5;
/// The unit's last connection, or the stream's connection, was lost.
pub const ROLETALK_STATUS_CONNECTION_LOST: i32 = 6;
/// A bound was reached: queued bytes, waiting requests, open streams, units.
pub const ROLETALK_STATUS_OVERLOADED: i32 = 7;
/// The message is larger than the limit, or the buffer is smaller than the text.
pub const ROLETALK_STATUS_TOO_LARGE: i32 = 8;
/// One side did not accept the other's preshared key, or broke the handshake.
pub const ROLETALK_STATUS_AUTH_REFUSED: i32 = 9;
/// The address could not be dialed: name, TCP, TLS or upgrade.
pub const ROLETALK_STATUS_CONNECT_FAILED: i32 = 10;
/// The remote peer sent something that the protocol does not allow.
pub const ROLETALK_STATUS_PROTOCOL: i32 = 11;
/// The stream was ended, or broken off by the other end.
pub const ROLETALK_STATUS_STREAM_CLOSED: i32 = 12;
/// A payload is not of the type that it says, or not of the one that was asked for.
pub const ROLETALK_STATUS_DATA: i32 = 13;
/// An operation of the operating system failed.
pub const ROLETALK_STATUS_IO: i32 = 14;
/// Certificates, keys or TLS settings are not usable.
pub const ROLETALK_STATUS_TLS: i32 = 15;
/// A handler panicked. Handlers of C programs do not; only events of peers in Rust tell of it.
pub const ROLETALK_STATUS_HANDLER_PANICKED: i32 = 16;
/// A handler rejected a message, or a stream after it had accepted it.
pub const ROLETALK_STATUS_HANDLER_FAILED: i32 = 17;
/// The remote peer did not answer a ping in time.
pub const ROLETALK_STATUS_HEARTBEAT_TIMEOUT: i32 = 18;
/// Nothing more comes: the end of a stream or of a survey.
pub const ROLETALK_STATUS_END: i32 = 100;
/// Nothing can be done without waiting, and the caller did not want to wait.
pub const ROLETALK_STATUS_WOULD_BLOCK: i32 = 101;
/// The handle is zero, of another kind, was closed or freed, or is valid only inside the callback that
/// it was given to.
pub const ROLETALK_STATUS_INVALID_HANDLE: i32 = 102;
/// The call would wait for something that cannot happen while its caller waits.
pub const ROLETALK_STATUS_WOULD_DEADLOCK: i32 = 103;
/// The process is the child of a fork, and the handle is of the parent.
pub const ROLETALK_STATUS_FORKED: i32 = 104;
/// The operation was canceled.
pub const ROLETALK_STATUS_CANCELED: i32 = 105;
/// A bug of the library. It caught itself; what the call was about may be lost.
pub const ROLETALK_STATUS_INTERNAL: i32 = 106;

/// Why a call fails: a status code and a text.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    code: i32,
    text: Cow<'static, str>,
}

impl Failure {
    pub(crate) fn new(code: i32, text: impl Into<Cow<'static, str>>) -> Failure {
        Failure { code, text: text.into() }
    }

    pub(crate) fn invalid(text: impl Into<Cow<'static, str>>) -> Failure {
        Failure::new(ROLETALK_STATUS_INVALID_ARGUMENT, text)
    }

    pub(crate) fn null(what: &str) -> Failure {
        Failure::invalid(format!("`{what}` is NULL"))
    }

    pub(crate) fn code(&self) -> i32 {
        self.code
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Makes it this thread's last error.
    fn report(self) -> i32 {
        // While the thread ends there is no text any more.
        let _ = LAST.try_with(|last| {
            let mut last = last.borrow_mut();
            last.clear();
            last.push_str(&self.text);
        });
        self.code
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::new(i32::from(error.kind().code()), error.text().to_owned())
    }
}

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs the body of an exported function: not in the child of a fork, and no panic leaves it.
pub(crate) fn enter(body: impl FnOnce() -> Result<(), Failure>) -> i32 {
    enter_any(|| process::check().and_then(|()| body()))
}

/// As [`enter`], also in the child of a fork.
pub(crate) fn enter_any(body: impl FnOnce() -> Result<(), Failure>) -> i32 {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => ROLETALK_STATUS_OK,
        Ok(Err(failure)) => failure.report(),
        Err(panic) => {
            // What was thrown may throw again when it is dropped.
            std::mem::forget(panic);
            Failure::new(ROLETALK_STATUS_INTERNAL, "The library panicked: this is a bug of it")
                .report()
        }
    }
}

/// The text of the last call on this thread that returned something else than ROLETALK_STATUS_OK.
/// Successful calls leave it as it is. Never fails; empty before the first. Any thread, also inside
/// callbacks. Valid until the next call that fails on this thread, so copy what is to be kept.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_last_error() -> roletalk_string {
    let last = LAST.try_with(|last| roletalk_string::lend(&last.borrow()));
    last.unwrap_or_else(|_| roletalk_string::lend(""))
}

/// The name of a status code, such as `NO_UNIT`; `UNKNOWN` for other numbers. Never fails. Any thread, also
/// inside callbacks. Valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_status_name(status: i32) -> roletalk_string {
    let kind = ErrorKind::ALL.iter().find(|kind| i32::from(kind.code()) == status);
    roletalk_string::lend(match (kind, status) {
        (Some(kind), _) => kind.name(),
        (None, ROLETALK_STATUS_OK) => "OK",
        (None, ROLETALK_STATUS_END) => "END",
        (None, ROLETALK_STATUS_WOULD_BLOCK) => "WOULD_BLOCK",
        (None, ROLETALK_STATUS_INVALID_HANDLE) => "INVALID_HANDLE",
        (None, ROLETALK_STATUS_WOULD_DEADLOCK) => "WOULD_DEADLOCK",
        (None, ROLETALK_STATUS_FORKED) => "FORKED",
        (None, ROLETALK_STATUS_CANCELED) => "CANCELED",
        (None, ROLETALK_STATUS_INTERNAL) => "INTERNAL",
        _ => "UNKNOWN",
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_table() {
        let codes = [
            (ROLETALK_STATUS_INVALID_ARGUMENT, ErrorKind::InvalidArgument),
            (ROLETALK_STATUS_CLOSED, ErrorKind::Closed),
            (ROLETALK_STATUS_NO_UNIT, ErrorKind::NoUnit),
            (ROLETALK_STATUS_TIMEOUT, ErrorKind::Timeout),
            (ROLETALK_STATUS_REJECTED, ErrorKind::Rejected),
            (ROLETALK_STATUS_CONNECTION_LOST, ErrorKind::ConnectionLost),
            (ROLETALK_STATUS_OVERLOADED, ErrorKind::Overloaded),
            (ROLETALK_STATUS_TOO_LARGE, ErrorKind::TooLarge),
            (ROLETALK_STATUS_AUTH_REFUSED, ErrorKind::AuthRefused),
            (ROLETALK_STATUS_CONNECT_FAILED, ErrorKind::ConnectFailed),
            (ROLETALK_STATUS_PROTOCOL, ErrorKind::Protocol),
            (ROLETALK_STATUS_STREAM_CLOSED, ErrorKind::StreamClosed),
            (ROLETALK_STATUS_DATA, ErrorKind::Data),
            (ROLETALK_STATUS_IO, ErrorKind::Io),
            (ROLETALK_STATUS_TLS, ErrorKind::Tls),
            (ROLETALK_STATUS_HANDLER_PANICKED, ErrorKind::HandlerPanicked),
            (ROLETALK_STATUS_HANDLER_FAILED, ErrorKind::HandlerFailed),
            (ROLETALK_STATUS_HEARTBEAT_TIMEOUT, ErrorKind::HeartbeatTimeout),
        ];
        assert_eq!(codes.len(), ErrorKind::ALL.len(), "a kind has no constant yet");
        for (code, kind) in codes {
            assert_eq!(code, i32::from(kind.code()), "{kind:?}");
        }
    }

    #[test]
    fn a_panic_becomes_a_status() {
        assert_eq!(enter(|| panic!("on purpose")), ROLETALK_STATUS_INTERNAL);
        assert_eq!(enter(|| Err(Failure::invalid("text"))), ROLETALK_STATUS_INVALID_ARGUMENT);
        assert_eq!(enter(|| Ok(())), ROLETALK_STATUS_OK);
        assert_eq!(LAST.with_borrow(String::clone), "text");
    }
}
