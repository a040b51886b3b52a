//! Streams between two peers, with a third one that keeps to no rule.

mod node;
mod world;

use std::time::Duration;

use roletalk_engine::wire::{DataType, Direction, Extensions, Frame, Num, Payload, StreamOp};

use crate::input::Input;
use world::World;

/// The first bytes say what the peers are like, the rest are operations: on streams, requests
/// and messages between two peers that are joined in memory by up to two connections, on these
/// connections, and frames of a hostile third peer.
///
/// Whatever the third one does: each stream's bytes arrive in order and complete, or both ends see an
/// error; each request has exactly one outcome; messages are in order; queues stay within bounds;
/// nothing is left behind in the end.
pub fn stream(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kinds = [input.byte(), input.byte()];
    let windows = kinds.map(|n| [1, 100, 4096, 256 << 10][n as usize % 4]);
    let extensions = kinds.map(|n| {
        let [fields, cancel, drained] = [4, 8, 16].map(|bit| u8::from(n & bit == 0));
        Extensions { fields, cancel, drained }
    });
    let mut world = World::new(windows, extensions, input.byte());
    while !input.is_empty() {
        step(&mut world, &mut input);
        world.check_bounds();
    }
    world.settle();
    world.end();
}

fn step(world: &mut World, input: &mut Input<'_>) {
    let op = input.byte();
    // The node that acts, where one does.
    let at = usize::from(op >> 7);
    // Whether it has fields, and requests a time limit.
    world.with_fields(op & 0x40 != 0);
    match op & 0x1f {
        0 => world.open(at, Direction::RequesterReads, input.byte()),
        1 => world.open(at, Direction::RequesterWrites, input.byte()),
        2 => world.accept(at),
        3 => world.refuse(at),
        4 | 5 => {
            let which = input.byte();
            let len = input.len() << (input.byte() % 8);
            world.write(at, which, len);
        }
        6 | 7 => world.read(at, input.byte()),
        8 => world.finish(at, input.byte()),
        9 => world.close_stream(at, input.byte()),
        10 | 11 => world.pump(at, 0, input.len() << 4),
        12 => world.pump(at, 1, input.len() << 4),
        13 => world.pump_all(),
        14 => world.request(at, input.len()),
        15 => world.respond(at, input.byte() & 1 == 0),
        16 => world.message(at, input.len()),
        17 => world.pass(Duration::from_millis(10 << (input.byte() % 10))),
        18 => world.cut(input.byte()),
        19 => world.join(),
        20 => world.hostile_join(input.byte()),
        21 => world.hostile_cut(),
        22 => world.hostile_hears(),
        23 => world.hostile_raw(input.chunk()),
        24 => world.hostile_message(input.chunk()),
        25 | 26 => hostile_frame(world, input, op & 0x40 != 0),
        27 => {
            let (chan, quota) = (Num::new(input.byte().into()), input.byte());
            let quota = Num::new(u64::MAX >> (quota % 64));
            for _ in 0..16 {
                world.hostile_says(&Frame::Stream { chan, op: StreamOp::Quota(quota) });
            }
        }
        28 => world.open_to_hostile(op & 0x20 == 0),
        29 => world.accept_hostile(),
        30 => world.use_hostile(input.byte()),
        _ => world.abandon(at),
    }
}

/// A well-formed frame that is probably out of place.
fn hostile_frame(world: &mut World, input: &mut Input<'_>, has_fields: bool) {
    let fields = if has_fields { input.chunk() } else { &[] };
    let kind = input.byte();
    let corr = Num::padded((input.byte() % 16).into(), input.byte() % 12);
    let chan = Num::padded((input.byte() % 16).into(), input.byte() % 12);
    let payload = Payload { kind: DataType::from_byte(input.byte() % 8), bytes: input.chunk() };
    let (role, event) = ("role".into(), "event".into());
    let direction = match kind & 0x80 {
        0 => Direction::RequesterReads,
        _ => Direction::RequesterWrites,
    };
    let large = vec![0; payload.bytes.len() << (kind >> 4)];
    let op = match kind % 5 {
        0 => StreamOp::Chunk(&large[..large.len().min(32 << 10)]),
        1 => StreamOp::Finish,
        2 => StreamOp::Error(String::from_utf8_lossy(payload.bytes)),
        3 => StreamOp::Quota(corr),
        _ => StreamOp::Unknown(kind | 4),
    };
    let frame = match kind % 16 {
        0 => Frame::Message { role, event, payload },
        1 => Frame::Request { role, event, corr, payload },
        2..=4 => Frame::StreamRequest { direction, role, event, corr, chan, payload },
        5 => Frame::StreamAccept { corr, chan, payload },
        6 => Frame::StreamRefuse { corr, chan, payload },
        7 => Frame::Response { corr, payload },
        8 => Frame::Reject { corr, payload },
        15 => Frame::Cancel { corr },
        _ => Frame::Stream { chan, op },
    };
    if !has_fields {
        return world.hostile_says(&frame);
    }
    let mut message = vec![110, (fields.len() >> 8) as u8, fields.len() as u8];
    message.extend_from_slice(fields);
    frame.encode(&mut message);
    world.hostile_message(&message);
}
