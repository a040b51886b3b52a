//! Limits: what happens to senders and receivers when one is reached.

mod common;

use std::{sync::Arc, time::Duration};

use common::{Pair, Raw, Watch, never, peer, until, within};
use futures_util::FutureExt;
use roletalk::{Data, ErrorKind, Limits, Peer, PeerEvent};
use roletalk_engine::wire::{DataType, Frame, Payload};
use tokio::sync::Notify;

#[tokio::test]
async fn messages_up_to_the_limit() {
    const SIZE: usize = 64 << 10;
    let small = |name: &str| {
        Peer::builder().name(name).limits(|limits| limits.message_size = SIZE).build().unwrap()
    };
    let pair = Pair::of(small("server"), small("client"), |server| {
        let role = server.role("r").unwrap();
        role.on_request("make", |ctx| async move { Ok(vec![0u8; ctx.parse::<usize>()?]) });
        role.on_request("fail", |ctx| async move {
            Err::<(), _>("x".repeat(ctx.parse::<usize>().unwrap()).into())
        });
        role.on_writable("answer", |request| async move {
            request.accept(vec![0u8; request.context().parse::<usize>()?])?;
            Ok(())
        });
    })
    .await;
    // Type, two lengths and the correlation's, `r`, `echo`, the correlation, the data's type.
    let head = 1 + 2 + 2 + 1 + 1 + 4 + 1 + 1;
    let fits = vec![1u8; SIZE - head];
    let answer = pair.to.request("echo", fits.clone()).await.unwrap();
    assert_eq!(answer.data().bytes(), &fits);
    let error = pair.to.request("echo", vec![1u8; SIZE - head + 1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let error = pair.to.send("echo", vec![1u8; SIZE]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(pair.to.broadcast("x", vec![1u8; SIZE]).await.unwrap_err().kind(), error.kind());
    assert_eq!(pair.unit().stats().waiting, 0);
    // So are answers, and reasons.
    let answer = pair.to.request("make", SIZE - 4).await.unwrap();
    assert_eq!(answer.data().bytes().len(), SIZE - 4);
    for (event, size) in [("make", SIZE), ("fail", SIZE), ("fail", 10 * SIZE)] {
        let error = within(event, pair.to.request(event, size).into_future()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{event}");
    }
    let error = within("refusal", pair.to.readable("answer", SIZE).into_future()).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Rejected);
    assert!(pair.to.request("echo", 1).await.is_ok());
    assert_eq!(pair.client.stats().units[0].1.connections.len(), 1);
    pair.close().await;
}

/// Who receives more than its own limit closes with 1009.
#[tokio::test]
async fn more_than_the_receiver_takes() {
    let server = Peer::builder().limits(|limits| limits.message_size = 1000).build().unwrap();
    let pair = Pair::of(server, peer("client"), |_| {}).await;
    let mut watch = Watch::new(&pair.server);
    let error = pair.to.request("echo", vec![0u8; 1000]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost);
    let bad = watch.next("the report", |e| matches!(e, PeerEvent::BadInput { .. })).await;
    assert!(matches!(bad, PeerEvent::BadInput { unit: Some(_), .. }));
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_mebibytes() {
    const SIZE: usize = 100 << 20;
    // From the listener, which does not mask: unoptimized, that would take longer than all the rest.
    let pair = Pair::new(|_| {}).await;
    pair.client
        .role("c")
        .unwrap()
        .on_request("length", |ctx| async move { Ok(ctx.data().bytes().len()) });
    let to = pair.server.destination("c").unwrap();
    within("the role", to.ready()).await.unwrap();
    let head = 1 + 2 + 2 + 1 + 1 + 6 + 1 + 1;
    let fits = Data::binary(vec![1u8; SIZE - head]);
    let answer = within("an answer", to.request("length", fits).into_future()).await.unwrap();
    assert_eq!(answer.parse::<usize>().unwrap(), SIZE - head);
    let error = to.request("length", vec![1u8; SIZE - head + 1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    pair.close().await;
}

#[tokio::test]
async fn long_names() {
    let longest = "e".repeat(65_535);
    let too_long = "e".repeat(65_536);
    let pair = Pair::new(|server| {
        let role = server.role(&longest).unwrap();
        role.on_request(&longest, |ctx| async move { Ok(ctx.event().len()) });
        assert_eq!(server.role(&too_long).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(server.role("").unwrap_err().kind(), ErrorKind::InvalidArgument);
    })
    .await;
    let to = pair.client.destination(&longest).unwrap();
    assert_eq!(to.request(&longest, ()).await.unwrap().parse::<usize>().unwrap(), 65_535);
    for error in [
        to.request(&too_long, ()).await.unwrap_err(),
        to.send(&too_long, ()).await.unwrap_err(),
        to.writable(&too_long, ()).await.unwrap_err(),
        to.broadcast(&too_long, ()).await.unwrap_err(),
        pair.client.destination(&too_long).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", error.text().len());
    }
    assert!(to.request(&longest, ()).await.is_ok());
    pair.close().await;
}

#[tokio::test]
async fn too_many_waiting_requests() {
    let client = Peer::builder().limits(|limits| limits.waiting_requests = 2).build().unwrap();
    let pair = Pair::of(peer("server"), client, never).await;
    let mut one = pair.to.request("never", ()).into_future();
    let mut two = pair.to.readable("never", ()).into_future();
    assert!(futures_util::poll!(&mut one).is_pending());
    // A stream's opening counts as well, while it waits; this one is refused.
    let _ = futures_util::poll!(&mut two);
    let mut three = pair.to.request("never", ()).into_future();
    let _ = futures_util::poll!(&mut three);
    let error = pair.to.request("echo", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    drop((one, two, three));
    assert!(within("an answer", pair.to.request("echo", 1).into_future()).await.is_ok());
    pair.close().await;
}

#[tokio::test]
async fn too_many_running_handlers() {
    two_handlers_reach_the_limit(|limits| limits.running_handlers = 2).await;
}

#[tokio::test]
async fn too_much_for_the_running_handlers() {
    two_handlers_reach_the_limit(|limits| limits.running_bytes = 2 * LARGE).await;
}

const LARGE: usize = 100_000;

async fn two_handlers_reach_the_limit(limits: impl FnOnce(&mut Limits)) {
    let go = Arc::new(Notify::new());
    let server = Peer::builder().limits(limits).build().unwrap();
    let pair = Pair::of(server, peer("client"), |server| {
        let release = go.clone();
        server.role("r").unwrap().on_request("wait", move |_| {
            let go = release.clone();
            async move {
                go.notified().await;
                Ok(())
            }
        });
    })
    .await;
    let mut watch = Watch::new(&pair.server);
    let ask = |_| pair.to.request("wait", vec![0; LARGE]).into_future();
    let mut running: Vec<_> = (0..2).map(ask).collect();
    for request in &mut running {
        assert!(futures_util::poll!(request).is_pending());
    }
    until("two handlers", || pair.server.units()[0].stats().running == 2).await;
    // Some time for the handlers to end, then it is told.
    let error = within("the answer", pair.to.request("echo", 1).into_future()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.text()),
        (ErrorKind::Rejected, "Too many requests are in progress")
    );
    let slow = watch.next("the report", |e| matches!(e, PeerEvent::SlowConsumer { .. })).await;
    assert!(matches!(slow, PeerEvent::SlowConsumer { dropped: 1, .. }), "{slow:?}");
    assert_eq!(pair.server.units()[0].stats().requests_shed, 1);
    go.notify_waiters();
    for answer in within("answers", futures_util::future::join_all(running)).await {
        answer.unwrap();
    }
    assert!(pair.to.request("echo", 1).await.is_ok());
    assert_eq!(pair.server.units()[0].stats().running_bytes, 0);
    pair.close().await;
}

/// Who sends without waiting is told when to try again.
#[tokio::test(start_paused = true)]
async fn room_is_waited_for_without_a_message() {
    let server = Peer::builder().limits(|limits| limits.queue_per_connection = 1000).build();
    let server = server.unwrap();
    let to = server.destination("r").unwrap();
    assert_eq!(to.room().await.unwrap_err().kind(), ErrorKind::NoUnit);
    let mut raw = Raw::beside(&server, 64 << 10, "raw", &["r"]).await;
    within("the role", to.ready()).await.unwrap();
    let unit = to.units()[0].clone();
    within("room", to.room()).await.unwrap();
    within("room", unit.room()).await.unwrap();
    // It reads nothing: at some time nothing more fits into what is between the two.
    let payload = vec![7u8; 64 << 10];
    let mut sent = 0;
    let both = async || tokio::join!(to.room(), unit.room());
    loop {
        let payload = Payload { kind: DataType::Binary, bytes: &payload };
        match to.send_payload("m", payload).into_future().now_or_never() {
            Some(taken) => sent += usize::from(taken.is_ok()),
            // Often the connection's task only has to have its turn. The clock is moved on only when
            // nothing else can happen.
            None if tokio::time::timeout(Duration::from_millis(200), both()).await.is_ok() => {}
            None => break,
        }
    }
    let (any, this) = tokio::join!(within("room", both()), async {
        for _ in 0..sent {
            let read = raw.frame(|frame| match frame {
                Frame::Message { payload, .. } => Some(payload.bytes.len()),
                _ => None,
            });
            assert_eq!(read.await, payload.len());
        }
    })
    .0;
    assert!(any.is_ok() && this.is_ok());
    drop(raw);
    within("its end", unit.closed()).await;
    assert_eq!(unit.room().await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    assert_eq!(to.room().await.unwrap_err().kind(), ErrorKind::NoUnit);
    server.close().await;
    assert_eq!(to.room().await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn borrowed_payloads_are_sent_as_they_are() {
    let pair = Pair::of(peer("server"), peer("client"), |_| {}).await;
    for (kind, bytes) in [(DataType::Binary, &b"\0\x01"[..]), (DataType::Object, b"[1]")] {
        let payload = Payload { kind, bytes };
        let answer = within("answer", pair.to.request_payload("echo", payload).into_future()).await;
        assert_eq!(answer.unwrap().data().payload(), payload);
    }
    pair.close().await;
}

#[tokio::test]
async fn small_queues_make_sends_wait_and_lose_nothing() {
    let small = |name: &str| {
        Peer::builder()
            .name(name)
            .limits(|limits| {
                limits.queue_per_connection = 1000;
                limits.queue_per_peer = 1500;
            })
            .build()
            .unwrap()
    };
    let pair = Pair::of(small("server"), small("client"), |_| {}).await;
    let payload = vec![9u8; 700];
    let requests = (0..500).map(|_| pair.to.request("echo", payload.clone()).into_future());
    let answers = within("answers", futures_util::future::join_all(requests)).await;
    for answer in answers {
        assert_eq!(answer.unwrap().data().bytes(), &payload);
    }
    pair.close().await;
}
