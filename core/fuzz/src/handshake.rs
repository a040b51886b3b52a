//! A peer before anybody has shown who he is.

use std::time::Duration;

use roletalk_engine::{
    Engine, EngineEvent, Event, Moment, PeerEvent,
    wire::{Handshake, Payload, Proof},
    ws::Side,
};

use crate::{
    host::{self, Wire},
    input::Input,
};

const SECRET: &str = "nobody-may-ever-hear-this";

/// The first byte says what the peer is like, the rest are operations of somebody who has two
/// connections to it and repeats on one what he hears on the other.
///
/// Whoever does not hold the key does not get in, the key never goes out, and nothing is left behind
/// when the connections are closed.
pub fn handshake(bytes: &[u8]) {
    decode(bytes);
    let mut input = Input::new(bytes);
    let flags = input.byte();
    let keyed = flags & 1 != 0;
    // Another peer with the key answers challenges for the stranger.
    let helped = flags & 2 != 0;
    let sides = [side(flags & 4), side(flags & 8)];

    let keys = |config: &mut roletalk_engine::Config| {
        config.keys.add("k", SECRET).expect("a usable key");
    };
    let mut victim: Engine<()> = host::engine("victim", 1, |config| {
        config.keys.add("other", "another-secret").expect("a usable key");
        keys(config);
        if !keyed {
            config.keys = Default::default();
        }
    });
    let mut helper: Engine<()> = host::engine("helper", 2, keys);
    let mut now = Moment::EPOCH;
    victim.with_peer(now, |peer| {
        peer.add_role("role", true, now)
            .and_then(|()| peer.add_destination("role"))
            .expect("usable");
    });
    let mut wires = sides.map(|side| Wire::open(&mut victim, side, now).expect("room"));
    let mut guests = 0;

    while !input.is_empty() {
        let op = input.byte();
        let at = usize::from(op >> 7);
        match op % 10 {
            0 => wires[at].send(&mut victim, input.chunk(), now),
            1 => wires[at].raw(&mut victim, input.chunk(), now),
            2 => {
                // Confirmations come last and are the least to be reflected: the newest is theirs.
                let heard = &wires[1 - at].heard;
                if !heard.is_empty() {
                    let message = heard[usize::from(input.byte()) % heard.len()].clone();
                    wires[at].send(&mut victim, &message, now);
                }
            }
            3 => {
                let own = victim.peer().id().clone();
                let id = ["a", "b", "c", "d", "e", &*own][usize::from(input.byte()) % 6];
                let confirm = host::confirm(id, input.byte());
                wires[at].send(&mut victim, &confirm, now);
            }
            4 => {
                let id = if input.byte() & 1 == 0 { "k" } else { "other" }.to_owned();
                let proof = String::from_utf8_lossy(input.chunk()).into_owned();
                let mut message = Vec::new();
                Handshake::Proof(Proof { proof, id }).encode(&mut message);
                wires[at].send(&mut victim, &message, now);
            }
            5 if helped => {
                if let Some(proof) = ask_helper(&mut helper, &wires[at], now) {
                    wires[at].send(&mut victim, &proof, now);
                }
            }
            6 => {
                now += Duration::from_millis(100 * input.len() as u64);
                victim.handle_timeout(now);
            }
            7 => {
                victim.closed(wires[at].conn, now);
                if let Some(wire) = Wire::open(&mut victim, sides[at], now) {
                    wires[at] = wire;
                }
            }
            8 => victim.with_peer(now, |peer| {
                peer.set_role_active("role", input.byte() & 1 == 0, now);
            }),
            _ => {}
        }
        for wire in &mut wires {
            let said = wire.hear(&mut victim, now);
            // Unmasked, and masked with the bytes that a client has chosen.
            let secret = |text: &[u8]| text.windows(SECRET.len()).any(|w| w == SECRET.as_bytes());
            assert!(!secret(&said) && !wire.heard.iter().any(|message| secret(message)));
        }
        guests += serve(&mut victim, now);
        assert!(guests == 0 || !keyed || helped, "a stranger got in");
        assert!(victim.peer().handshakes() <= victim.peer().limits().handshakes);
        assert!(victim.peer().units().count() <= victim.peer().limits().units);
    }

    for wire in &wires {
        victim.closed(wire.conn, now);
    }
    serve(&mut victim, now);
    assert_eq!(victim.peer().units().count(), 0);
    assert_eq!(victim.peer().handshakes(), 0);
    assert_eq!(victim.budget().queued(), 0);
}

fn side(flag: u8) -> Side {
    if flag == 0 { Side::Server } else { Side::Client }
}

/// What is decoded encodes to something that decodes to the same.
fn decode(bytes: &[u8]) {
    match Handshake::decode(bytes) {
        Ok(handshake) => {
            let mut encoded = Vec::new();
            handshake.encode(&mut encoded);
            assert_eq!(Handshake::decode(&encoded), Ok(handshake));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Gives the newest challenge on a wire to somebody who knows the answer.
fn ask_helper(helper: &mut Engine<()>, wire: &Wire, now: Moment) -> Option<bytes::Bytes> {
    let challenge = wire.heard.iter().rev().find(|message| message.first() == Some(&1))?;
    let mut asked = Wire::open(helper, Side::Server, now)?;
    asked.send(helper, challenge, now);
    asked.hear(helper, now);
    helper.closed(asked.conn, now);
    asked.heard.into_iter().find(|message| message.first() == Some(&2))
}

/// Answers what comes from units. Returns how many units have opened.
fn serve(victim: &mut Engine<()>, now: Moment) -> usize {
    let mut opened = 0;
    while let Some(event) = victim.poll_event() {
        match event {
            EngineEvent::Peer(PeerEvent::UnitOpened { .. }) => opened += 1,
            EngineEvent::Unit { unit, event } => {
                victim.with_unit(unit, now, |unit| {
                    if let Event::Incoming(incoming, question) = event {
                        let payload = Payload { kind: incoming.kind(), bytes: incoming.payload() };
                        unit.answer(question, Ok(payload), now);
                    }
                });
            }
            _ => {}
        }
    }
    opened
}
