//! A peer that sends and never reads fills nobody's memory.

use std::time::Duration;

use roletalk::{
    Peer,
    wire::{Confirm, Frame, Handshake, Num, Payload},
    ws::{FrameWriter, Incoming, Side, Socket},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::timeout,
};

const COUNT: usize = 20_000;
const QUEUE: usize = 64 << 10;

/// A connection in memory to a peer that listens, with its handshake done.
async fn connect(peer: &Peer) -> (DuplexStream, FrameWriter) {
    let (mut ours, theirs) = tokio::io::duplex(4096);
    let accepting = peer.clone();
    tokio::spawn(async move { accepting.accept_upgraded(theirs).await });
    let mut confirm = Vec::new();
    let from = Confirm { id: "flood".into(), ..Confirm::default() };
    Handshake::Confirm(Box::new(from)).encode(&mut confirm);
    let mut writer = FrameWriter::new(Side::Client, 1);
    let mut bytes = Vec::new();
    writer.binary(&mut bytes, confirm.len(), |out| out.extend_from_slice(&confirm));
    ours.write_all(&bytes).await.unwrap();
    (ours, writer)
}

/// Sends all of `flood` and only then reads, if that is possible; it must not be. Then reads until
/// every frame was answered.
async fn flood(mut ours: DuplexStream, flood: &[u8], is_answer: fn(&Incoming) -> bool) {
    let mut sent = 0;
    // The clock is moved on only when nothing else can happen: then the peer reads no more.
    while let Ok(written) = timeout(Duration::from_secs(1), ours.write(&flood[sent..])).await {
        sent += written.unwrap();
        assert!(sent < flood.len(), "all {sent} bytes were taken, and no answer was read");
    }
    assert!(sent < 8 * QUEUE, "{sent} bytes were taken, and no answer was read");
    assert!(sent > QUEUE / 4, "{sent} bytes");

    let (mut reading, mut writing) = tokio::io::split(ours);
    let rest = &flood[sent..];
    let read = async {
        let mut socket = Socket::new(Side::Client, 1 << 20);
        let (mut answers, mut buffer) = (0, vec![0; 4096]);
        while answers < COUNT {
            let len = reading.read(&mut buffer).await.unwrap();
            assert!(len > 0, "closed after {answers} answers");
            let mut piece = &buffer[..len];
            while let Some(message) = socket.read(&mut piece, &mut Vec::new()).unwrap() {
                answers += usize::from(is_answer(&message));
            }
        }
    };
    let (written, ()) = tokio::join!(writing.write_all(rest), read);
    written.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pings() {
    let peer = Peer::builder().limits(|l| l.queue_per_connection = QUEUE).build().unwrap();
    let (ours, mut writer) = connect(&peer).await;
    let mut bytes = Vec::new();
    for _ in 0..COUNT {
        writer.ping(&mut bytes, &[7; 125]);
    }
    flood(ours, &bytes, |message| matches!(message, Incoming::Pong(_))).await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_rejected() {
    let peer = Peer::builder().limits(|l| l.queue_per_connection = QUEUE).build().unwrap();
    let (ours, mut writer) = connect(&peer).await;
    let mut bytes = Vec::new();
    for corr in 0..COUNT {
        let request = Frame::Request {
            role: "unknown".into(),
            event: "".into(),
            corr: Num::new(corr as u64),
            payload: Payload::NULL,
        };
        let len = request.encoded_len();
        writer.binary(&mut bytes, len, |out| request.encode(out));
    }
    let rejected = |message: &Incoming| {
        matches!(message, Incoming::Binary(frame)
            if matches!(Frame::decode(frame), Ok(Frame::Reject { .. })))
    };
    flood(ours, &bytes, rejected).await;
}
