//! Counters as JavaScript sees them.

use roletalk_engine::{CounterValue, UnitStats};
use serde_json::{Map, Value};

/// Counters of a unit, as JSON. Times are in milliseconds.
pub(crate) fn json(stats: &UnitStats) -> String {
    let connections = stats.connections.iter().map(|conn| object_of(conn.counters()));
    let connections: Vec<_> = connections.collect();
    let mut counters = object_of(stats.counters());
    counters.insert("connections".to_owned(), connections.into());
    Value::Object(counters).to_string()
}

fn object_of(counters: impl Iterator<Item = (&'static str, CounterValue)>) -> Map<String, Value> {
    let value = |value| match value {
        CounterValue::Number(number) => Value::from(number),
        CounterValue::Time(time) => Value::from(time.map(|time| time.as_secs_f64() * 1e3)),
    };
    counters.map(|(name, counter)| (camel_case(name), value(counter))).collect()
}

/// `stream_bytes_sent` as `streamBytesSent`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        name + &initial.to_ascii_uppercase() + rest
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_as_in_javascript() {
        let mut stats = UnitStats::default();
        stats.stream_bytes_sent = 7;
        stats.last_answer = Some(std::time::Duration::from_micros(1500));
        let told: Value = serde_json::from_str(&json(&stats)).unwrap();
        assert_eq!(told["streamBytesSent"], 7);
        assert_eq!(told["runningBytes"], 0);
        assert_eq!(told["lastAnswer"], 1.5);
        assert_eq!(told["connections"], Value::Array(Vec::new()));
    }
}
