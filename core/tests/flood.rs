//! A peer that sends more than the other one can take: nobody's memory is filled, and nothing is lost
//! as long as work is done. All in virtual time.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Raw, Watch, never};
use futures_util::{FutureExt, SinkExt, StreamExt};
use roletalk::{DataType, Limits, Peer, PeerEvent};
use roletalk_engine::{
    wire::{Confirm, Frame, Handshake, Num, Payload},
    ws::{FrameWriter, Incoming, Side, Socket},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;

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
/// `expected` answers have arrived.
async fn flood(
    mut ours: DuplexStream,
    flood: &[u8],
    expected: usize,
    is_answer: fn(&Incoming) -> bool,
) {
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
        while answers < expected {
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
    for _ in 1..COUNT {
        writer.ping(&mut bytes, &[7; 125]);
    }
    // Of pings that arrive together, not all are answered; the last one is.
    writer.ping(&mut bytes, &[8; 125]);
    flood(ours, &bytes, 1, |message| *message == Incoming::Pong(vec![8; 125].into())).await;
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
    flood(ours, &bytes, COUNT, rejected).await;
}

// Handlers.

const TOO_MANY: &[u8] = b"Too many requests are in progress";

fn limited(limits: impl FnOnce(&mut Limits)) -> Peer {
    Peer::builder().name("server").limits(limits).build().unwrap()
}

fn payload(bytes: &[u8]) -> Payload<'_> {
    Payload { kind: DataType::Binary, bytes }
}

fn request<'a>(corr: u64, event: &'a str, bytes: &'a [u8]) -> Message {
    let (role, event, corr) = ("r".into(), event.into(), Num::new(corr));
    let mut frame = Vec::new();
    Frame::Request { role, event, corr, payload: payload(bytes) }.encode(&mut frame);
    Message::binary(frame)
}

/// Requests the event `work`, and counts answers and rejections until all have come. Pings are answered.
async fn flood_with_requests(raw: Raw<DuplexStream>, count: u64, bytes: &[u8]) -> (usize, usize) {
    let (mut sending, mut receiving) = raw.ws.split();
    let sent = async {
        for corr in 0..count {
            sending.send(request(corr, "work", bytes)).await.unwrap();
        }
        sending
    };
    let received = async {
        let (mut answers, mut rejections) = (0, 0);
        while answers + rejections < count as usize {
            let message = receiving.next().await.expect("still connected").unwrap();
            let Message::Binary(frame) = message else { continue };
            match Frame::decode(&frame).unwrap() {
                Frame::Response { .. } => answers += 1,
                Frame::Reject { payload, .. } => {
                    assert_eq!(payload.bytes, TOO_MANY);
                    rejections += 1;
                }
                _ => {}
            }
        }
        (answers, rejections)
    };
    let (_sending, counts) = tokio::join!(sent, received);
    counts
}

/// However long it takes in all: what counts is that handlers end.
#[tokio::test(start_paused = true)]
async fn slow_handlers_that_end_reject_nothing() {
    let cases: [fn(&mut Limits); 2] =
        [|limits| limits.running_handlers = 1, |limits| limits.running_bytes = 30_000];
    for (limits, bytes) in cases.into_iter().zip([100, 20_000]) {
        let server = limited(limits);
        let one = Arc::new(tokio::sync::Semaphore::new(1));
        server.role("r").unwrap().on_request("work", move |_| {
            let one = one.clone();
            async move {
                let _one = one.acquire().await;
                sleep(Duration::from_millis(700)).await;
                Ok(())
            }
        });
        let raw = Raw::beside(&server, 4096, "raw", &[]).await;
        let begun = Instant::now();
        assert_eq!(flood_with_requests(raw, 50, &vec![7; bytes]).await, (50, 0));
        assert!(begun.elapsed() >= Duration::from_millis(50 * 700), "one after the other");
        assert_eq!(server.units()[0].stats().requests_shed, 0);
        server.close().await;
    }
}

/// A handler that waits for an answer behind requests for which there is no room: those are rejected in
/// the end, or nothing would ever be read again.
#[tokio::test(start_paused = true)]
async fn a_handler_that_waits_for_what_comes_behind_a_flood_gets_it() {
    const COUNT: u64 = 40;
    let server = limited(|limits| limits.running_handlers = 1);
    let inner = server.destination("inner").unwrap();
    server.role("r").unwrap().on_request("outer", move |_| {
        let inner = inner.clone();
        async move { Ok(inner.request("", ()).await?.data().clone()) }
    });
    let mut raw = Raw::beside(&server, 4096, "raw", &["inner"]).await;
    raw.ws.send(request(1000, "outer", b"")).await.unwrap();
    let corr = raw
        .frame(|frame| match frame {
            Frame::Request { corr, .. } => Some(corr.value()),
            _ => None,
        })
        .await;
    let begun = Instant::now();
    let (mut sending, mut receiving) = raw.ws.split();
    let sent = async {
        for n in 0..COUNT {
            sending.send(request(n, "work", &[0; 16 << 10])).await.unwrap();
        }
        let mut frame = Vec::new();
        Frame::Response { corr: Num::new(corr), payload: payload(b"inner") }.encode(&mut frame);
        sending.send(Message::binary(frame)).await.unwrap();
        sending
    };
    let received = async {
        let mut rejections = 0;
        loop {
            let message = receiving.next().await.expect("still connected").unwrap();
            let Message::Binary(frame) = message else { continue };
            match Frame::decode(&frame).unwrap() {
                Frame::Reject { .. } => rejections += 1,
                Frame::Response { corr, payload } => {
                    assert_eq!((corr.value(), payload.bytes), (1000, &b"inner"[..]));
                    return rejections;
                }
                _ => {}
            }
        }
    };
    let (_sending, rejections) = tokio::join!(sent, received);
    assert_eq!(rejections, COUNT);
    let took = begun.elapsed();
    assert!((1000..1100).contains(&took.as_millis()), "{took:?}");
    server.close().await;
}

/// Overrun, and nothing to do: the processor must be left alone.
#[tokio::test(start_paused = true)]
async fn a_connection_that_waits_for_handlers_sleeps() {
    let cases: [fn(&mut Limits); 2] =
        [|limits| limits.running_handlers = 2, |limits| limits.running_bytes = 200_000];
    for limits in cases {
        let server = limited(limits);
        never(&server);
        let polls = Arc::new(AtomicUsize::new(0));
        let (peer, counted) = (server.clone(), polls.clone());
        let serve = |end| {
            tokio::spawn(async move {
                let mut serving = std::pin::pin!(peer.accept_upgraded(end));
                std::future::poll_fn(|cx| {
                    // With a task that never sleeps, time would stand still for ever.
                    assert!(counted.fetch_add(1, Ordering::Relaxed) < 10_000, "a busy loop");
                    serving.as_mut().poll(cx)
                })
                .await
            });
        };
        let mut raw = Raw::in_memory(4096, serve, "raw", &[]).await;
        for corr in 0..2 {
            raw.ws.send(request(corr, "never", &[0; 100_000])).await.unwrap();
        }
        // More than is read while these run.
        let more = tokio::spawn(async move {
            for corr in 2..7 {
                raw.ws.send(request(corr, "never", &[0; 100_000])).await.unwrap();
            }
            raw
        });
        sleep(Duration::from_millis(200)).await;
        assert_eq!(server.units()[0].stats().running, 2);
        assert!(!more.is_finished(), "all was read");
        // Until it is given up.
        let before = polls.load(Ordering::Relaxed);
        sleep(Duration::from_millis(750)).await;
        assert!(polls.load(Ordering::Relaxed) - before <= 6, "steps of waiting");
        assert_eq!(server.units()[0].stats().requests_shed, 0);
        sleep(Duration::from_millis(550)).await;
        let raw = more.now_or_never().expect("all was read").unwrap();
        assert_eq!(server.units()[0].stats().requests_shed, 5);
        // And while they still run, up to the next ping.
        let before = polls.load(Ordering::Relaxed);
        sleep(Duration::from_secs(3)).await;
        assert!(polls.load(Ordering::Relaxed) - before <= 1, "nothing is to be done");
        drop(raw);
        server.close().await;
    }
}

/// Handlers that finish let the connection go on at once, not after some time.
#[tokio::test(start_paused = true)]
async fn a_full_house_goes_on_as_soon_as_there_is_room() {
    const COUNT: usize = 20;
    let server = limited(|limits| limits.running_handlers = 1);
    let done = Arc::new(AtomicUsize::new(0));
    let counter = done.clone();
    server.role("r").unwrap().on_message("m", move |_| {
        let done = counter.clone();
        async move {
            sleep(Duration::from_millis(5)).await;
            done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    });
    let mut raw = Raw::beside(&server, 4096, "raw", &[]).await;
    let begun = Instant::now();
    for _ in 0..COUNT {
        let (role, event) = ("r".into(), "m".into());
        raw.send_frame(&Frame::Message { role, event, payload: Payload::NULL }).await;
    }
    common::until("the last", || done.load(Ordering::Relaxed) == COUNT).await;
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?} for {COUNT}", begun.elapsed());
    assert_eq!(server.units()[0].stats().messages_dropped, 0);
    drop(raw);
    server.close().await;
}

// Sending.

/// A unit that reads nothing: sends wait, nothing grows beyond its bound, and all is told.
#[tokio::test(start_paused = true)]
async fn slow_consumers() {
    const SIZE: usize = 10_000;
    const TOTAL: usize = 200;
    let server = limited(|limits| limits.queue_per_connection = QUEUE);
    let mut watch = Watch::new(&server);
    let mut raw = Raw::beside(&server, 4096, "raw", &["r"]).await;
    let to = server.destination("r").unwrap();
    common::within("the role", to.ready()).await.unwrap();
    let unit = to.units()[0].clone();
    let sent = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let sending = tokio::spawn({
        let (to, sent) = (to.clone(), sent.clone());
        async move {
            for _ in 0..TOTAL {
                to.send("m", vec![0u8; SIZE]).await.unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let slow = watch.next("the report", |e| matches!(e, PeerEvent::SlowConsumer { .. })).await;
    let PeerEvent::SlowConsumer { queued, unit: who, dropped } = slow else { unreachable!() };
    let told = begun.elapsed();
    assert!((2000..2100).contains(&told.as_millis()), "told after {told:?}");
    assert_eq!((who, dropped), (unit.clone(), 0));
    assert!((QUEUE..QUEUE + SIZE + 100).contains(&queued), "{queued}");
    assert!((QUEUE..QUEUE + SIZE + 100).contains(&server.stats().queued));
    assert!(!sending.is_finished() && sent.load(Ordering::Relaxed) < TOTAL);
    // It reads after all, and gets everything.
    for _ in 0..TOTAL {
        raw.frame(|frame| matches!(frame, Frame::Message { .. }).then_some(())).await;
    }
    common::within("the sends", sending).await.unwrap();
    common::until("an empty queue", || server.stats().queued == 0).await;
    drop(raw);
    server.close().await;
}
