//! Why a call fails.

use std::{borrow::Cow, time::Duration};

use engine::{Error, ErrorKind};

/// What a call returns. Numbers never change their meaning; later versions may have further ones, so take
/// what is not known for a failure.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum roletalk_status {
    /// It worked.
    Ok = 0,
    /// An argument is not usable: NULL where something is needed, a name that is too long or not UTF-8,
    /// an address that does not parse, a `struct_size` that no version knows.
    InvalidArgument = 1,
    /// The peer was closed, or is draining and takes no new work.
    Closed = 2,
    /// No connected unit serves the role.
    NoUnit = 3,
    /// It did not come in time.
    Timeout = 4,
    /// The remote peer rejected the request or refused the stream.
    Rejected = 5,
    /// The unit's last connection, or the stream's connection, was lost.
    ConnectionLost = 6,
    /// A bound was reached: queued bytes, waiting requests, open streams, units.
    Overloaded = 7,
    /// The message is larger than the limit, or the buffer is smaller than the text.
    TooLarge = 8,
    /// One side did not accept the other's preshared key, or broke the handshake.
    AuthRefused = 9,
    /// The address could not be dialed: name, TCP, TLS or upgrade.
    ConnectFailed = 10,
    /// The remote peer sent something that the protocol does not allow.
    Protocol = 11,
    /// The stream was ended, or broken off by the other end.
    StreamClosed = 12,
    /// A payload is not of the type that it says, or not of the one that was asked for.
    Data = 13,
    /// An operation of the operating system failed.
    Io = 14,
    /// Certificates, keys or TLS settings are not usable.
    Tls = 15,
    /// A handler panicked. Handlers of C programs do not; only events of peers in Rust tell of it.
    HandlerPanicked = 16,
    /// A handler rejected a message, or a stream after it had accepted it.
    HandlerFailed = 17,
    /// The remote peer did not answer a ping in time.
    HeartbeatTimeout = 18,
    /// The unit does not take what is required, such as headers.
    Unsupported = 19,
    /// It was given up with its parent (roletalk_send_options.parent), for whose answer nobody waits any more.
    /// `CANCELLED` in other languages. What the program cancels itself is ROLETALK_STATUS_CANCELED.
    ParentCanceled = 20,
    /// Nothing more comes: the end of a stream or of a survey.
    End = 100,
    /// Nothing can be done without waiting, and the caller did not want to wait.
    WouldBlock = 101,
    /// The handle is zero, of another kind, was closed or freed, or is valid only inside the callback that
    /// it was given to.
    InvalidHandle = 102,
    /// The call would wait for something that cannot happen while its caller waits.
    WouldDeadlock = 103,
    /// The process is the child of a fork, and the handle is of the parent.
    Forked = 104,
    /// The program has canceled the operation, or it has ended with its peer.
    Canceled = 105,
    /// A bug of the library. It caught itself; what the call was about may be lost.
    Internal = 106,
}

pub(crate) use roletalk_status as Status;

/// The names of those that are no error of the engine's, or have another name there.
const OWN_NAMES: [(Status, &str); 9] = [
    (Status::ParentCanceled, "PARENT_CANCELED"),
    (Status::Ok, "OK"),
    (Status::End, "END"),
    (Status::WouldBlock, "WOULD_BLOCK"),
    (Status::InvalidHandle, "INVALID_HANDLE"),
    (Status::WouldDeadlock, "WOULD_DEADLOCK"),
    (Status::Forked, "FORKED"),
    (Status::Canceled, "CANCELED"),
    (Status::Internal, "INTERNAL"),
];

impl Status {
    /// The name of a status that has this number.
    pub(crate) fn name_of(number: i32) -> Option<&'static str> {
        let own = OWN_NAMES.iter().find(|(own, _)| *own as i32 == number);
        let kind = || ErrorKind::ALL.iter().find(|kind| i32::from(kind.code()) == number);
        own.map(|(_, name)| *name).or_else(|| kind().map(|kind| kind.name()))
    }

    /// That of an error of the engine's.
    pub(crate) fn of(kind: ErrorKind) -> Status {
        match kind {
            ErrorKind::InvalidArgument => Status::InvalidArgument,
            ErrorKind::Closed => Status::Closed,
            ErrorKind::NoUnit => Status::NoUnit,
            ErrorKind::Timeout => Status::Timeout,
            ErrorKind::Rejected => Status::Rejected,
            ErrorKind::ConnectionLost => Status::ConnectionLost,
            ErrorKind::Overloaded => Status::Overloaded,
            ErrorKind::TooLarge => Status::TooLarge,
            ErrorKind::AuthRefused => Status::AuthRefused,
            ErrorKind::ConnectFailed => Status::ConnectFailed,
            ErrorKind::Protocol => Status::Protocol,
            ErrorKind::StreamClosed => Status::StreamClosed,
            ErrorKind::Data => Status::Data,
            ErrorKind::Io => Status::Io,
            ErrorKind::Tls => Status::Tls,
            ErrorKind::HandlerPanicked => Status::HandlerPanicked,
            ErrorKind::HandlerFailed => Status::HandlerFailed,
            ErrorKind::HeartbeatTimeout => Status::HeartbeatTimeout,
            ErrorKind::Unsupported => Status::Unsupported,
            ErrorKind::Cancelled => Status::ParentCanceled,
            // A test fails before there is one.
            _ => Status::Internal,
        }
    }
}

/// Why a call fails: a status, a text, and what to try.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    status: Status,
    text: Cow<'static, str>,
    more: Option<Box<More>>,
}

/// What there is to know besides.
#[derive(Clone, Debug)]
struct More {
    hint: String,
    said: engine::Failure,
}

impl Failure {
    pub(crate) fn new(status: Status, text: impl Into<Cow<'static, str>>) -> Failure {
        Failure { status, text: text.into(), more: None }
    }

    pub(crate) fn invalid(text: impl Into<Cow<'static, str>>) -> Failure {
        Failure::new(Status::InvalidArgument, text)
    }

    pub(crate) fn null(what: &str) -> Failure {
        Failure::invalid(format!("`{what}` is NULL"))
    }

    pub(crate) fn io(error: std::io::Error) -> Failure {
        Failure::new(Status::Io, error.to_string())
    }

    /// The same with what it is about in front of its text.
    pub(crate) fn about(self, what: &str) -> Failure {
        Failure { text: format!("`{what}`: {}", self.text).into(), ..self }
    }

    pub(crate) fn status(&self) -> Status {
        self.status
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Empty when there is none.
    pub(crate) fn hint(&self) -> &str {
        self.more.as_ref().map_or("", |more| &more.hint)
    }

    /// What the handler at the other end has said of it.
    pub(crate) fn said(&self) -> Said<'_> {
        self.more.as_ref().map_or(Said::NOTHING, |more| Said::of(&more.said))
    }
}

/// What a handler says of its failure besides the text.
#[derive(Clone, Copy)]
pub(crate) struct Said<'a> {
    pub(crate) code: &'a str,
    /// JSON.
    pub(crate) data: &'a str,
    /// -1 for nothing.
    pub(crate) retry_after_ms: i64,
    pub(crate) unhandled: bool,
}

impl<'a> Said<'a> {
    pub(crate) const NOTHING: Said<'static> =
        Said { code: "", data: "", retry_after_ms: -1, unhandled: false };

    pub(crate) fn of(failure: &'a engine::Failure) -> Said<'a> {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Said {
            code: failure.code.as_deref().unwrap_or_default(),
            data: failure.data.as_deref().unwrap_or_default(),
            retry_after_ms: failure.retry_after.map_or(-1, millis),
            unhandled: failure.unhandled,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let more = (error.hint().is_some() || error.failure().is_some()).then(|| {
            let hint = error.hint().unwrap_or_default().to_owned();
            Box::new(More { hint, said: error.failure().cloned().unwrap_or_default() })
        });
        Failure { more, ..Failure::new(Status::of(error.kind()), error.text().to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_the_numbers_of_the_table() {
        for kind in ErrorKind::ALL {
            assert_eq!(Status::of(kind) as i32, i32::from(kind.code()), "{kind:?}");
        }
    }
}
