//! Counters.

use std::time::Duration;

use crate::{
    ConnId,
    quantity::{Measure, Quantity},
};

/// What a counter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterValue {
    /// Of [`Measure::Count`] and [`Measure::Bytes`].
    Number(u64),
    /// Of [`Measure::Time`]; none when it was not measured yet.
    Time(Option<Duration>),
}

impl From<u64> for CounterValue {
    fn from(number: u64) -> CounterValue {
        CounterValue::Number(number)
    }
}

impl From<usize> for CounterValue {
    fn from(number: usize) -> CounterValue {
        CounterValue::Number(number as u64)
    }
}

impl From<Option<Duration>> for CounterValue {
    fn from(time: Option<Duration>) -> CounterValue {
        CounterValue::Time(time)
    }
}

/// Makes a struct with counters from one row for each, and what walks them. Other fields stand before
/// and after the counters.
macro_rules! counters {
    (
        $(#[$about:meta])*
        $stats:ident {
            $($(#[$before_text:meta])+ $before:ident: $before_type:ty,)*
            ---
            $($(#[$text:meta])+ $name:ident: $type:ty = $measure:ident,)+
            ---
            $($(#[$after_text:meta])+ $after:ident: $after_type:ty,)*
        }
    ) => {
        $(#[$about])*
        #[non_exhaustive]
        pub struct $stats {
            $($(#[$before_text])+ pub $before: $before_type,)*
            $($(#[$text])+ pub $name: $type,)+
            $($(#[$after_text])+ pub $after: $after_type,)*
        }

        impl $stats {
            /// Every counter, in the order of the fields. The names are those of the fields; other
            /// languages have the same, in their spelling.
            pub const ALL: &[Quantity] =
                &[$(Quantity { name: stringify!($name), measure: Measure::$measure }),+];

            /// Every counter's name and value, in the order of `ALL`.
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, CounterValue)> + use<> {
                [$((stringify!($name), CounterValue::from(self.$name))),+].into_iter()
            }
        }
    };
}

counters! {
    /// Counters of one connection since it was opened.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    ConnectionStats {
        /// The connection.
        conn: ConnId,
        ---
        /// roletalk frames sent, or waiting to be written.
        frames_sent: u64 = Count,
        /// roletalk frames received.
        frames_received: u64 = Count,
        /// Bytes of WebSocket frames sent, or waiting to be written.
        bytes_sent: u64 = Bytes,
        /// Bytes of roletalk frames received.
        bytes_received: u64 = Bytes,
        /// Bytes that wait to be written.
        queued: usize = Bytes,
        /// The time that the last ping took; none before the first answer.
        round_trip: Option<Duration> = Time,
        ---
    }
}

counters! {
    /// Counters of one unit since it connected.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    UnitStats {
        ---
        /// One-way messages sent.
        messages_sent: u64 = Count,
        /// One-way messages received.
        messages_received: u64 = Count,
        /// One-way messages dropped because too many handlers were running.
        messages_dropped: u64 = Count,
        /// Requests sent, stream openings included.
        requests_sent: u64 = Count,
        /// Requests received, stream openings included.
        requests_received: u64 = Count,
        /// Requests rejected because too many handlers were running.
        requests_shed: u64 = Count,
        /// Requests received that were not begun, since their time was up or their requester had given up.
        requests_expired: u64 = Count,
        /// Messages and requests received, stream openings included, that the policy did not allow.
        denied: u64 = Count,
        /// Requests received that were not begun, since they came after the roles were withdrawn.
        requests_turned_away: u64 = Count,
        /// Requests sent that the other side has surely not begun, and that went on to another unit.
        requests_rerouted: u64 = Count,
        /// Requests sent that were given up, of which the other side was told.
        cancels_sent: u64 = Count,
        /// Requests received of which the other side told that they were given up, whether or not they were
        /// still running.
        cancels_received: u64 = Count,
        /// Messages, requests and answers whose headers and trace context were left out, since the other side
        /// does not take them.
        fields_left_out: u64 = Count,
        /// Requests sent that wait for an answer.
        waiting: usize = Count,
        /// Handlers that are running for this unit's messages and requests.
        running: usize = Count,
        /// Bytes of what those handlers were given.
        running_bytes: usize = Bytes,
        /// Streams that are open or being opened.
        streams: usize = Count,
        /// Stream bytes sent.
        stream_bytes_sent: u64 = Bytes,
        /// Stream bytes received.
        stream_bytes_received: u64 = Bytes,
        /// The time from the last answered request to its answer.
        last_answer: Option<Duration> = Time,
        /// The time that its answers take, smoothed, a second at most: what the choice of the least loaded unit counts
        /// with.
        answer_time: Option<Duration> = Time,
        ---
        /// One entry for each connection.
        connections: Vec<ConnectionStats>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_walked_in_the_order_of_the_table_with_values_of_their_measure() {
        let connection = ConnectionStats {
            conn: ConnId(1),
            frames_sent: 2,
            frames_received: 3,
            bytes_sent: 4,
            bytes_received: 5,
            queued: 6,
            round_trip: Some(Duration::from_millis(7)),
        };
        let values: Vec<_> = connection.counters().map(|(_, value)| value).collect();
        let mut expected: Vec<_> = (2..7).map(CounterValue::Number).collect();
        expected.push(CounterValue::Time(Some(Duration::from_millis(7))));
        assert_eq!(values, expected);
        check(ConnectionStats::ALL, connection.counters());
        check(UnitStats::ALL, UnitStats::default().counters());
    }

    fn check(table: &[Quantity], counters: impl Iterator<Item = (&'static str, CounterValue)>) {
        let counters: Vec<_> = counters.collect();
        let names = |table: &[Quantity]| table.iter().map(|row| row.name).collect::<Vec<_>>();
        assert_eq!(names(table), counters.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        for (row, (name, value)) in table.iter().zip(counters) {
            let time = matches!(value, CounterValue::Time(_));
            assert_eq!(row.measure == Measure::Time, time, "{name}");
        }
    }
}
