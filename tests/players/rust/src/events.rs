//! What happens to the peer and what is open in it, for the runner.

use roletalk::{Error, Peer, PeerEvent, Unit, UnitStats};
use serde_json::{Value, json};

use crate::observe;

/// Observes from now on.
pub(crate) fn watch(peer: &Peer) {
    let mut events = peer.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let Some(fields) = fields(&event) {
                observe("peer", fields);
            }
        }
    });
}

fn fields(event: &PeerEvent) -> Option<Value> {
    let (what, unit, error) = match event {
        PeerEvent::UnitOpened(unit) => ("unit-opened", Some(unit), None),
        PeerEvent::UnitClosed(unit) => ("unit-closed", Some(unit), None),
        PeerEvent::ConnectionClosed { unit, reason } => {
            ("connection-closed", unit.as_ref(), Some(reason))
        }
        PeerEvent::BadInput { unit, error } => ("bad-input", unit.as_ref(), Some(error)),
        PeerEvent::AcceptFailed { error } => ("accept-failed", None, Some(error)),
        PeerEvent::HandlerFailed { unit, error, .. } => ("handler-failed", Some(unit), Some(error)),
        PeerEvent::ReconnectSucceeded { address, unit, .. } => {
            return Some(
                json!({ "what": "reconnected", "address": **address, "unit": unit.name() }),
            );
        }
        PeerEvent::Denied { unit, denial } => {
            return Some(json!({
                "what": "denied", "unit": unit.name(), "kind": denial.what(), "role": denial.role,
            }));
        }
        PeerEvent::AuthRefused { reason } => {
            return Some(json!({ "what": "auth-refused", "text": reason }));
        }
        _ => return None,
    };
    Some(json!({
        "what": what,
        "unit": unit.map(Unit::name),
        "unitId": unit.map(|unit| unit.id().to_string()),
        "kind": error.map(|error| error.kind().name()),
        "text": error.map(Error::text),
    }))
}

/// What is open, and what waits, with all units together.
pub(crate) fn totals(peer: &Peer) -> Value {
    let stats = peer.stats();
    let sum = |count: fn(&UnitStats) -> usize| {
        stats.units.iter().map(|(_, unit)| count(unit)).sum::<usize>()
    };
    json!({
        "units": stats.units.len(),
        "connections": sum(|unit| unit.connections.len()),
        "waiting": sum(|unit| unit.waiting),
        "running": sum(|unit| unit.running),
        "streams": sum(|unit| unit.streams),
        "queued": stats.queued,
        "handshakes": stats.handshakes,
    })
}
