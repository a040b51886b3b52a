//! Bounds, and how they are found by name.

use std::time::Duration;

use crate::{
    error::{Error, ErrorKind, Result},
    quantity::{Measure, Quantity},
};

/// The value of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitValue {
    /// Of [`Measure::Count`] and [`Measure::Bytes`].
    Number(usize),
    /// Of [`Measure::Time`].
    Time(Duration),
}

impl From<usize> for LimitValue {
    fn from(number: usize) -> LimitValue {
        LimitValue::Number(number)
    }
}

impl From<Duration> for LimitValue {
    fn from(time: Duration) -> LimitValue {
        LimitValue::Time(time)
    }
}

/// The type of a limit by its measure, its value, and the pattern of that.
macro_rules! of_measure {
    (type Time) => {
        Duration
    };
    (type $number:ident) => {
        usize
    };
    (value Time, $value:expr) => {
        LimitValue::Time($value)
    };
    (value $number:ident, $value:expr) => {
        LimitValue::Number($value)
    };
    (pattern Time, $value:ident) => {
        LimitValue::Time($value)
    };
    (pattern $number:ident, $value:ident) => {
        LimitValue::Number($value)
    };
}

/// Makes [`Limits`] from one row for each: documentation, name, measure and default.
macro_rules! limits {
    (
        $(#[$about:meta])*
        Limits {
            $($(#[doc = $text:literal])+ $name:ident: $measure:ident = $default:expr;)+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct Limits {
            $($(#[doc = $text])+ pub $name: of_measure!(type $measure),)+
        }

        impl Default for Limits {
            fn default() -> Limits {
                Limits { $($name: $default,)+ }
            }
        }

        impl Limits {
            /// Every limit, in the order of the fields. The names are those of the fields, and the
            /// same in every language that has limits.
            pub const ALL: &[Quantity] =
                &[$(Quantity { name: stringify!($name), measure: Measure::$measure }),+];

            /// The limit with this name; none when there is no such limit.
            pub fn get(&self, name: &str) -> Option<LimitValue> {
                match name {
                    $(stringify!($name) => Some(of_measure!(value $measure, self.$name)),)+
                    _ => None,
                }
            }

            /// Sets a limit by its name.
            ///
            /// # Errors
            /// [`ErrorKind::InvalidArgument`] when there is no limit with this name, or when it is
            /// of another measure than the value.
            pub fn set(&mut self, name: &str, value: impl Into<LimitValue>) -> Result<()> {
                let value = value.into();
                match (name, value) {
                    $((stringify!($name), of_measure!(pattern $measure, value)) => {
                        self.$name = value;
                    })+
                    _ => return Err(unsuitable(name, value)),
                }
                Ok(())
            }
        }

        #[cfg(test)]
        const TEXTS: &[&str] = &[$(concat!($($text),+)),+];
    };
}

limits! {
    /// Bounds on what a peer holds and how long it waits.
    ///
    /// Every queue in the engine is bounded by one of these. What happens at the bound is said at each.
    Limits {
        /// Bytes of one WebSocket message, sent or received, fragmented or not. Default 100 MiB, which
        /// is all that the original accepts. Sending more is an error; receiving more closes the
        /// connection with 1009.
        message_size: Bytes = 100 << 20;
        /// Bytes of one message before the connection is authenticated, and of one announcement (roles,
        /// acquaintance) after it. Default 1 MiB; more closes the connection.
        handshake_message_size: Bytes = 1 << 20;
        /// Bytes of the HTTP head of an upgrade. Default 16 KiB; more is answered with 431.
        upgrade_size: Bytes = 16 << 10;
        /// Time for TLS, the upgrade and the handshake together, from accept on. Default 4 s, as the original; a
        /// connection that needs longer is refused.
        handshake_timeout: Time = Duration::from_secs(4);
        /// Unauthenticated connections: accepted, and not through the handshake. Those in the TLS handshake count.
        /// Default 1 024, and at most a quarter of the process's limit on file descriptors. Beyond it, the oldest
        /// one of the address that has the most is evicted.
        handshakes: Count = 1024;
        /// Unauthenticated connections from one IPv4 address or one IPv6 network (/64). Default 1 024. Beyond it,
        /// the oldest one from there is evicted.
        handshakes_per_address: Count = 1024;
        /// Connected units. Default 65 536; the handshake of a further one is refused.
        units: Count = 65_536;
        /// Connections of one unit. Default 16; the handshake of a further one is refused.
        connections_per_unit: Count = 16;
        /// Requests to one unit that wait for an answer, stream openings included, and requests that wait for a unit.
        /// Default 65 536; further ones fail with [`ErrorKind::Overloaded`].
        waiting_requests: Count = 65_536;
        /// Requests and messages of one unit whose handlers are running. Default 65 536. At the bound
        /// further ones wait for handlers to end, and when 256 KiB of them wait, their connection is not
        /// read. If no handler ends for a second, those that wait and all that come until one does are
        /// given up, lest handlers wait for ever for what is not read: requests are rejected and messages
        /// dropped, each counted and reported as a slow consumer.
        running_handlers: Count = 65_536;
        /// Bytes of the requests and messages of one unit whose handlers are running. Default 256 MiB; at
        /// the bound as for `running_handlers`. What comes with the same read may go over.
        running_bytes: Bytes = 256 << 20;
        /// Bytes that wait to be written to one connection. Default 1 MiB, so that pongs do not wait
        /// long behind it. At the bound, sending waits
        /// (asynchronous API) or fails with [`ErrorKind::Overloaded`] (engine). One message may go over.
        queue_per_connection: Bytes = 1 << 20;
        /// Bytes that wait to be written to one connection and that the other side has caused itself
        /// (pongs, rejections, answers to streams). Default 1 MiB, and never more than
        /// `queue_per_connection`. At the bound nothing is read from it until it has read some of that.
        owed_per_connection: Bytes = 1 << 20;
        /// Bytes that wait to be written to all connections of the peer. Default 256 MiB, as above. Answers queued
        /// for one unit take at most a 32nd of it. Up to 32 MiB of further ones may wait behind these; then the
        /// unit's requests wait, and are rejected after a second.
        queue_per_peer: Bytes = 256 << 20;
        /// Open streams with one unit, both directions. Default 4 096; further ones fail or are refused.
        streams: Count = 4096;
        /// Bytes of one stream that this peer is willing to hold unread. Default 1 MiB. Announced to
        /// peers that know credit; for the others the quota that is granted.
        stream_window: Bytes = 1 << 20;
        /// Bytes of one stream that are held unread although the sender does not keep to its quota, as
        /// the originals may. Default 16 MiB; over it the stream is broken off with an error.
        stream_overrun: Bytes = 16 << 20;
        /// Bytes that all streams of one unit together hold unread beyond their windows, for the same
        /// reason. Default 256 MiB; a stream that would need more is broken off with an error.
        overrun_per_unit: Bytes = 256 << 20;
        /// Default time for an answer. Default 5 minutes, as the original.
        request_timeout: Time = Duration::from_secs(300);
        /// Addresses learned by acquaintance that are being dialed at the same time. Default 16; further
        /// ones wait for their turn.
        acquaintance_dials: Count = 16;
        /// Dials of addresses learned by acquaintance in a minute. Default 600, which may come at once; further
        /// ones wait until there is room again, a hundred milliseconds for each.
        acquaintance_dials_per_minute: Count = 600;
        /// Addresses learned by acquaintance that are remembered. Default 1 024; further ones are ignored.
        acquaintance_addresses: Count = 1024;
        /// Addresses learned from one unit that are remembered while there is no connection to them. Default 256;
        /// further ones are ignored.
        acquaintance_addresses_per_unit: Count = 256;
        /// How long an address learned by acquaintance is tried without success before it is forgotten.
        /// Default 2 minutes.
        acquaintance_patience: Time = Duration::from_secs(120);
        /// Maximum age of a permanently dialed connection. It is then replaced by a new one to the same address, so that
        /// changed certificates and keys take effect; nothing is lost. The actual age is up to a tenth less, at random.
        /// Needs room for two connections (`connections_per_unit`, also that of the other side). Default 0 s, which means
        /// never.
        connection_age: Time = Duration::ZERO;
    }
}

impl Limits {
    /// Lowers `handshakes` to a quarter of `descriptors`, the process's limit on file descriptors, which leaves the
    /// rest to the connections of units.
    pub fn fit_descriptors(&mut self, descriptors: u64) {
        let places = usize::try_from(descriptors / 4).unwrap_or(usize::MAX);
        self.handshakes = self.handshakes.min(places);
    }

    /// The bound on what a remote peer has caused itself.
    pub fn owed(&self) -> usize {
        self.owed_per_connection.min(self.queue_per_connection)
    }
}

/// Why a limit cannot be set.
fn unsuitable(name: &str, value: LimitValue) -> Error {
    let given = match value {
        LimitValue::Number(number) => number.to_string(),
        LimitValue::Time(time) => format!("{time:?}"),
    };
    let text = match Limits::ALL.iter().find(|limit| limit.name == name) {
        Some(limit) => format!("the limit `{name}` is {}, it cannot be {given}", limit.measure),
        None => {
            let names: Vec<_> = Limits::ALL.iter().map(|limit| limit.name).collect();
            format!("there is no limit `{name}`; there are {}", names.join(", "))
        }
    };
    Error::new(ErrorKind::InvalidArgument, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_set(name: &str, value: LimitValue) -> Limits {
        let mut limits = Limits::default();
        limits.set(name, value).unwrap();
        limits
    }

    #[test]
    fn every_limit_can_be_set_by_its_name_and_changes_no_other() {
        for &Quantity { name, measure } in Limits::ALL {
            let value = match measure {
                Measure::Count | Measure::Bytes => LimitValue::Number(12_345),
                Measure::Time => LimitValue::Time(Duration::from_millis(12_345)),
            };
            let limits = as_set(name, value);
            assert_eq!(limits.get(name), Some(value), "{name}");
            let back = Limits::default().get(name).unwrap();
            let mut restored = limits.clone();
            restored.set(name, back).unwrap();
            assert_ne!(limits, Limits::default(), "{name}");
            assert_eq!(restored, Limits::default(), "{name}");
        }
        assert_eq!(as_set("streams", 7.into()).streams, 7);
        let time = Duration::from_millis(7);
        assert_eq!(as_set("request_timeout", time.into()).request_timeout, time);
    }

    #[test]
    fn what_cannot_be_set_is_an_error_that_says_what_can() {
        let mut limits = Limits::default();
        let unknown = limits.set("flows", 1).unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::InvalidArgument);
        assert!(unknown.text().starts_with("there is no limit `flows`; there are message_size, "));
        assert!(unknown.text().contains(", streams, "));
        let cases: [(_, LimitValue, _); 3] = [
            ("request_timeout", 5.into(), "the limit `request_timeout` is a time, it cannot be 5"),
            (
                "streams",
                Duration::from_secs(5).into(),
                "the limit `streams` is a number, it cannot be 5s",
            ),
            (
                "running_bytes",
                Duration::from_secs(5).into(),
                "the limit `running_bytes` is a number of bytes, it cannot be 5s",
            ),
        ];
        for (name, value, text) in cases {
            assert_eq!(limits.set(name, value).unwrap_err().text(), text);
        }
        assert_eq!(limits, Limits::default());
        assert_eq!(limits.get("flows"), None);
    }

    /// A default as the documentation writes it: `1 024`, `16 KiB`, `5 minutes`.
    fn written(value: LimitValue, measure: Measure) -> String {
        match (value, measure) {
            (LimitValue::Number(bytes), Measure::Bytes) if bytes % (1 << 20) == 0 => {
                format!("{} MiB", bytes >> 20)
            }
            (LimitValue::Number(bytes), Measure::Bytes) => format!("{} KiB", bytes >> 10),
            (LimitValue::Number(number @ 0..1000), _) => number.to_string(),
            (LimitValue::Number(number), _) => format!("{} {:03}", number / 1000, number % 1000),
            (LimitValue::Time(Duration::ZERO), _) => "0 s".to_owned(),
            (LimitValue::Time(time), _) if time.as_secs() % 60 == 0 => {
                format!("{} minutes", time.as_secs() / 60)
            }
            (LimitValue::Time(time), _) => format!("{} s", time.as_secs()),
        }
    }

    #[test]
    fn the_documentation_of_a_limit_has_its_default() {
        assert_eq!(TEXTS.len(), Limits::ALL.len());
        for (text, &Quantity { name, measure }) in TEXTS.iter().zip(Limits::ALL) {
            let default = written(Limits::default().get(name).unwrap(), measure);
            let rest = text.split_once("Default ").and_then(|(_, rest)| rest.split_once(&default));
            // `time for an answer. Default 5 minutes`, but also `Default time for an answer`.
            let (between, after) = rest.unwrap_or_else(|| panic!("{name}: no {default}: {text}"));
            assert!(between.is_empty() || between.ends_with("Default "), "{name}: {text}");
            assert!(after.starts_with([',', '.', ';']), "{name}: {text}");
        }
    }
}
