//! One table of error kinds for every language.

use std::{borrow::Cow, fmt, io, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    hint::{self, DialFault},
    wire::{DataError, Failure},
};

/// Makes [`ErrorKind`] from one row for each: documentation, kind, number and name.
macro_rules! error_kinds {
    (
        $(#[$about:meta])*
        ErrorKind {
            $($(#[$text:meta])+ $kind:ident = $code:literal, $name:literal;)+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum ErrorKind {
            $($(#[$text])+ $kind = $code,)+
        }

        impl ErrorKind {
            /// Every kind, in the order of the numbers.
            pub const ALL: [ErrorKind; [$($code),+].len()] = [$(ErrorKind::$kind),+];

            /// The fixed name, in the form of a JavaScript or C constant.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ErrorKind::$kind => $name,)+
                }
            }
        }
    };
}

error_kinds! {
    /// What went wrong, with a fixed number.
    ///
    /// The numbers never change and are never reused: C status codes, JavaScript `code`s and Python
    /// exception classes are made from them. New kinds may be added.
    ErrorKind {
        /// An argument is not usable: a name that is too long, an address that does not parse.
        InvalidArgument = 1, "INVALID_ARGUMENT";
        /// The peer was closed, or is draining and takes no new work.
        Closed = 2, "CLOSED";
        /// No connected unit serves the role.
        NoUnit = 3, "NO_UNIT";
        /// The answer did not come in time.
        Timeout = 4, "TIMEOUT";
        /// The remote peer rejected the request or refused the stream.
        Rejected = 5, "REJECTED";
        /// The unit's last connection, or the stream's connection, was lost.
        ConnectionLost = 6, "CONNECTION_LOST";
        /// A bound was reached: queued bytes, waiting requests, open streams, units.
        Overloaded = 7, "OVERLOADED";
        /// The message is larger than the limit.
        TooLarge = 8, "TOO_LARGE";
        /// One side did not accept the other's preshared key, or broke the handshake.
        AuthRefused = 9, "AUTH_REFUSED";
        /// The address could not be dialed: name, TCP, TLS or upgrade.
        ConnectFailed = 10, "CONNECT_FAILED";
        /// The remote peer sent something that the protocol does not allow.
        Protocol = 11, "PROTOCOL";
        /// The stream was ended, or broken off by the other end.
        StreamClosed = 12, "STREAM_CLOSED";
        /// A payload could not be converted to or from the asked type.
        Data = 13, "DATA";
        /// An operation of the operating system failed.
        Io = 14, "IO";
        /// Certificates, keys or TLS settings are not usable.
        Tls = 15, "TLS";
        /// A handler panicked.
        HandlerPanicked = 16, "HANDLER_PANICKED";
        /// A handler returned an error; its text goes to the requester.
        HandlerFailed = 17, "HANDLER_FAILED";
        /// The remote peer did not answer a ping in time.
        HeartbeatTimeout = 18, "HEARTBEAT_TIMEOUT";
        /// The unit does not take what the caller requires, such as headers.
        Unsupported = 19, "UNSUPPORTED";
        /// It was given up: by the caller, or with the request that it was made for.
        Cancelled = 20, "CANCELLED";
    }
}

impl ErrorKind {
    /// The fixed number, at least 1.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// An error of this crate: a kind to act on and a text to read.
///
/// Where the npm package `roletalk` 1.1.3 has a text for the same situation, the text is the same. The
/// [hint](Error::hint) says what there is to know besides, and what to try.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    text: Text,
}

/// Small, since every result is as large as its error: nearly all of them are none.
#[derive(Clone)]
enum Text {
    Plain(&'static str),
    More(Arc<More>),
}

#[derive(Clone, Default)]
struct More {
    text: Cow<'static, str>,
    fault: Option<DialFault>,
    hint: Option<Cow<'static, str>>,
    failure: Option<Failure>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    not_begun: bool,
}

/// Errors are equal when kind and text are.
impl PartialEq for Error {
    fn eq(&self, other: &Error) -> bool {
        (self.kind, self.text()) == (other.kind, other.text())
    }
}

impl Eq for Error {}

impl Error {
    /// Makes an error of a kind with a text.
    pub fn new(kind: ErrorKind, text: impl Into<Cow<'static, str>>) -> Error {
        let text = match text.into() {
            Cow::Borrowed(text) => Text::Plain(text),
            text => Text::More(Arc::new(More { text, ..More::default() })),
        };
        Error { kind, text }
    }

    /// The error of an address that could not be dialed. [`Peer::dial_failed`](crate::Peer::dial_failed)
    /// gives it the hint that goes with the fault.
    #[must_use]
    pub fn with_fault(self, fault: impl Into<Option<DialFault>>) -> Error {
        let fault = fault.into();
        match (&self.text, fault) {
            (Text::Plain(_), None) => self,
            _ => self.with(|more| more.fault = fault),
        }
    }

    /// Adds the error that it comes from, whose text is part of this one's in most cases.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        let source = Some(source.into().into());
        self.with(|more| more.source = source)
    }

    /// Adds what to try.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<Cow<'static, str>>) -> Error {
        let hint = Some(hint.into());
        self.with(|more| more.hint = hint)
    }

    /// The error of a handler that rejects: with a text for people, to which code and data may be added.
    ///
    /// ```
    /// # use roletalk_engine::Error;
    /// # fn example() -> Result<(), Error> {
    /// Err(Error::rejection("There is no such order").with_code("NOT_FOUND").with_data(&[7])?)
    /// # }
    /// assert_eq!(example().unwrap_err().data(), Some("[7]"));
    /// ```
    pub fn rejection(text: impl Into<Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::HandlerFailed, text)
    }

    /// Adds a name for programs.
    #[must_use]
    pub fn with_code(self, code: impl Into<String>) -> Error {
        let code = Some(code.into());
        self.change_failure(|failure| failure.code = code)
    }

    /// Adds data, which travels as JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] for what is no JSON.
    pub fn with_data<T: Serialize + ?Sized>(self, data: &T) -> Result<Error> {
        let json = serde_json::to_string(data)
            .map_err(|error| Error::new(ErrorKind::Data, error.to_string()).with_source(error))?;
        Ok(self.change_failure(|failure| failure.data = Some(json)))
    }

    /// Adds when it is worth trying again. Milliseconds travel.
    #[must_use]
    pub fn with_retry_after(self, time: Duration) -> Error {
        self.change_failure(|failure| failure.retry_after = Some(time))
    }

    fn change_failure(self, change: impl FnOnce(&mut Failure)) -> Error {
        self.with(|more| change(more.failure.get_or_insert_default()))
    }

    /// The handler's name for the failure.
    pub fn code(&self) -> Option<&str> {
        self.failure()?.code.as_deref()
    }

    /// The handler's data, as JSON.
    pub fn data(&self) -> Option<&str> {
        self.failure()?.data.as_deref()
    }

    /// The handler's data as a type of the application's; none without data.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] when it is not of that type.
    pub fn parse_data<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let parsed = self.data().map(serde_json::from_str).transpose();
        parsed.map_err(|error| Error::new(ErrorKind::Data, error.to_string()).with_source(error))
    }

    /// When, says the handler, it is worth trying again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.failure()?.retry_after
    }

    /// Whether surely no handler was begun: the request was not sent, or the other side has said so. False says
    /// nothing.
    pub fn is_unhandled(&self) -> bool {
        self.more().is_some_and(|more| {
            more.not_begun || more.failure.as_ref().is_some_and(|failure| failure.unhandled)
        })
    }

    /// Notes that surely no handler was begun.
    #[must_use]
    pub(crate) fn not_begun(self) -> Error {
        self.with(|more| more.not_begun = true)
    }

    /// Adds what the handler said of its failure, or says of it.
    #[must_use]
    pub fn with_failure(self, failure: Failure) -> Error {
        self.with(|more| more.failure = Some(failure))
    }

    /// What the handler says of its failure, besides the text; none when it says nothing.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.text {
            Text::Plain(_) => None,
            Text::More(more) => more.failure.as_ref(),
        }
    }

    fn with(self, change: impl FnOnce(&mut More)) -> Error {
        let mut more = match self.text {
            Text::Plain(text) => More { text: text.into(), ..More::default() },
            Text::More(more) => Arc::unwrap_or_clone(more),
        };
        change(&mut more);
        Error { kind: self.kind, text: Text::More(Arc::new(more)) }
    }

    fn more(&self) -> Option<&More> {
        match &self.text {
            Text::Plain(_) => None,
            Text::More(more) => Some(more),
        }
    }

    /// The error of whatever is done with a peer that was closed.
    pub fn peer_closed() -> Error {
        Error::new(ErrorKind::Closed, "The peer is closed")
            .with_hint("A peer that was closed is not opened again: make a new one.")
    }

    /// The error of what is sent to a unit whose connections are all gone.
    pub fn unit_gone() -> Error {
        Error::new(ErrorKind::ConnectionLost, "No open sockets left")
            .with_hint("The unit has no open connection: it, or this peer, was closed meanwhile.")
            .not_begun()
    }

    pub(crate) fn fault(&self) -> Option<DialFault> {
        self.more().and_then(|more| more.fault)
    }

    /// What there is to know besides the text, and what to try: for people, in English. It may
    /// change.
    pub fn hint(&self) -> Option<&str> {
        self.more().and_then(|more| more.hint.as_deref())
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The text that [`Display`](fmt::Display) prints.
    pub fn text(&self) -> &str {
        match &self.text {
            Text::Plain(text) => text,
            Text::More(more) => &more.text,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text())?;
        match self.hint() {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.text {
            Text::Plain(_) => None,
            Text::More(more) => more.source.as_deref().map(|source| source as _),
        }
    }
}

impl From<DataError> for Error {
    fn from(error: DataError) -> Error {
        let hint = match error {
            DataError::Serialize(_) => hint::JSON,
            DataError::InvalidJson(_) => "Send a text as a string, or correct the JSON.",
            DataError::Parse { .. } => {
                "Look at the type of the data, or at what the other side sent."
            }
        };
        Error::new(ErrorKind::Data, error.to_string()).with_hint(hint).with_source(error)
    }
}

/// For functions that return [`io::Result`]: the error stays available as the source.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.kind() {
            ErrorKind::ConnectionLost => io::ErrorKind::ConnectionReset,
            ErrorKind::StreamClosed => io::ErrorKind::BrokenPipe,
            ErrorKind::Timeout => io::ErrorKind::TimedOut,
            ErrorKind::InvalidArgument => io::ErrorKind::InvalidInput,
            ErrorKind::Data | ErrorKind::Protocol => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_fixed_and_listed_in_order() {
        for (at, kind) in ErrorKind::ALL.iter().enumerate() {
            assert_eq!(usize::from(kind.code()), at + 1, "{kind:?}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = ErrorKind::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }
}
