//! A policy, and calls of a unit to which it applies.

use std::sync::Arc;

use roletalk_engine::{
    Engine, EngineEvent, ErrorKind, Event, Moment, Policy,
    wire::{DataType, Direction, Frame, Num, Payload},
    ws::Side,
};

use crate::{
    host::{self, Wire},
    input::Input,
};

/// The text of a policy up to the first zero byte, then calls: a kind, a role and an event each.
///
/// A text is a policy, or an error says why not. A policy gives every call one verdict, and the same one the next time;
/// what it denies begins no handler. Without a policy every call is allowed.
pub fn policy(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    let policy = match Policy::parse(&text) {
        Ok(policy) => Arc::new(policy),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            return assert!(!error.text().is_empty());
        }
    };
    let now = Moment::EPOCH;
    let mut engine: Engine<()> =
        host::engine("judge", 1, |config| config.policy = Some(policy.clone()));
    let Some(mut wire) = Wire::open(&mut engine, Side::Server, now) else { return };
    wire.send(&mut engine, &host::confirm(host::HOSTILE, 0), now);
    wire.hear(&mut engine, now);
    let mut denied = 0;
    verdicts(&mut engine, &mut denied, now);

    let mut input = Input::new(bytes.get(end + 1..).unwrap_or_default());
    let mut corr = 0;
    while !input.is_empty() {
        let kind = input.byte();
        let role = String::from_utf8_lossy(input.chunk()).into_owned();
        let event = String::from_utf8_lossy(input.chunk()).into_owned();
        let mut call = |engine: &mut Engine<()>| {
            corr += 1;
            wire.send(engine, &frame(kind, &role, &event, corr), now);
            wire.hear(engine, now);
            verdicts(engine, &mut denied, now)
        };
        let first = call(&mut engine);
        assert_eq!(first.0 + first.1, 1, "one verdict on {kind} {role:?} {event:?}");
        assert_eq!(call(&mut engine), first, "{kind} {role:?} {event:?}");
        engine.with_peer(now, |peer| peer.set_policy(None));
        assert_eq!(call(&mut engine), (1, 0), "nobody denies {kind} {role:?} {event:?}");
        engine.with_peer(now, |peer| peer.set_policy(Some(policy.clone())));
    }
}

fn frame(kind: u8, role: &str, event: &str, corr: u64) -> Vec<u8> {
    let payload = Payload { kind: DataType::Null, bytes: &[] };
    let (role, event) = (role.into(), event.into());
    let (corr, chan) = (Num::from(corr), Num::from(corr));
    let frame = match kind % 4 {
        0 => Frame::Message { role, event, payload },
        1 => Frame::Request { role, event, corr, payload },
        kind => {
            let direction =
                if kind == 2 { Direction::RequesterReads } else { Direction::RequesterWrites };
            Frame::StreamRequest { direction, role, event, corr, chan, payload }
        }
    };
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

/// How many calls would begin a handler, and how many are denied, since the last time. All are answered.
fn verdicts(engine: &mut Engine<()>, denied: &mut u64, now: Moment) -> (u64, u64) {
    let mut allowed = 0;
    while let Some(event) = engine.poll_event() {
        if let EngineEvent::Unit { unit, event: Event::Incoming(_, question) } = event {
            allowed += 1;
            engine.with_unit(unit, now, |unit| unit.answer(question, Err("seen"), now));
        }
    }
    let units = engine.peer().units().filter_map(|unit| engine.unit(unit));
    let before = std::mem::replace(denied, units.map(|unit| unit.stats().denied).sum());
    (allowed, *denied - before)
}
