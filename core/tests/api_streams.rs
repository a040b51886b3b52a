//! Streams over real sockets.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use common::{Log, Pair, Raw, null, pattern, peer, relay, until, within};
use futures_util::{SinkExt, StreamExt};
use roletalk::{ConnectOptions, Error, ErrorKind, Peer};
use roletalk_engine::wire::{Direction, Frame, Num, StreamOp};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

const WINDOW: usize = 1 << 20;

/// Serves `up`, which logs what it read, and `down`, which writes as many bytes as it is asked for.
fn serve(peer: &Peer, read: &Log<Result<Vec<u8>, String>>) {
    let read = read.clone();
    let role = peer.role("r").unwrap();
    role.on_readable("up", move |request| {
        let read = read.clone();
        async move {
            let mut stream = request.accept(request.context().data())?;
            let mut bytes = Vec::new();
            let outcome = stream.read_to_end(&mut bytes).await;
            read.push(outcome.map(|_| bytes).map_err(|error| error.to_string()));
            Ok(())
        }
    });
    role.on_writable("down", |request| async move {
        let mut stream = request.accept(request.context().data())?;
        stream.write_all(&pattern(request.context().parse()?)).await?;
        stream.shutdown().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    });
}

async fn both_ways() {
    let read = Log::new();
    let pair = Pair::new(|server| serve(server, &read)).await;
    for len in [0, 1, 65_536, WINDOW, WINDOW + 1, 5_000_000] {
        let expected = pattern(len);
        let (mut stream, answer) = pair.to.readable("down", len).await.unwrap();
        assert_eq!(answer.parse::<usize>().unwrap(), len);
        let mut bytes = Vec::new();
        within("the bytes", stream.read_to_end(&mut bytes)).await.unwrap();
        assert_eq!(Sha256::digest(&bytes), Sha256::digest(&expected), "{len} bytes down");
        assert_eq!(bytes.len(), len);
        drop(stream);
        let (mut stream, _) = pair.to.writable("up", ()).await.unwrap();
        within("the bytes", stream.write_all(&expected)).await.unwrap();
        // Returns when the reader has read everything.
        within("the end", stream.shutdown()).await.unwrap();
        let error = stream.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        drop(stream);
        until("the other end", || read.len() == 1).await;
        let got = read.take().remove(0).unwrap();
        assert_eq!(Sha256::digest(&got), Sha256::digest(&expected), "{len} bytes up");
    }
    until("no streams", || pair.unit().stats().streams == 0).await;
    until("no streams there", || pair.server.units()[0].stats().streams == 0).await;
    pair.close().await;
}

#[tokio::test]
async fn any_length_both_ways() {
    both_ways().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_length_both_ways_on_several_threads() {
    both_ways().await;
}

#[tokio::test]
async fn as_stream_and_sink() {
    let read = Log::new();
    let pair = Pair::new(|server| serve(server, &read)).await;
    let (mut sink, _) = pair.to.writable("up", ()).await.unwrap();
    let mut expected = Vec::new();
    for n in 0..50u8 {
        let piece = Bytes::from(vec![n; 10_000 + usize::from(n)]);
        expected.extend_from_slice(&piece);
        within("room", sink.send(piece)).await.unwrap();
    }
    within("room", sink.send(Bytes::new())).await.unwrap();
    within("the end", sink.close()).await.unwrap();
    until("the other end", || read.len() == 1).await;
    assert!(read.take() == [Ok(expected)]);
    let (stream, _) = pair.to.readable("down", 300_000).await.unwrap();
    let pieces: Vec<Bytes> =
        within("the pieces", stream.map(Result::unwrap).collect::<Vec<_>>()).await;
    assert!(pieces.iter().all(|piece| !piece.is_empty()));
    assert_eq!(pieces.concat(), pattern(300_000));
    // A reader with a small buffer.
    let (mut stream, _) = pair.to.readable("down", 10_000).await.unwrap();
    let mut bytes = Vec::new();
    let mut piece = [0u8; 7];
    loop {
        match within("bytes", stream.read(&mut piece)).await.unwrap() {
            0 => break,
            n => bytes.extend_from_slice(&piece[..n]),
        }
    }
    assert_eq!(bytes, pattern(10_000));
    pair.close().await;
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back() {
    let (written, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let total = 4 << 20;
    let pair = Pair::new(|server| {
        let written = written.clone();
        server.role("r").unwrap().on_writable("down", move |request| {
            let written = written.clone();
            async move {
                let mut stream = request.accept(())?;
                let piece = vec![1u8; 1000];
                while written.load(Ordering::Relaxed) < total {
                    stream.write_all(&piece).await?;
                    written.fetch_add(piece.len(), Ordering::Relaxed);
                }
                Ok(stream.shutdown().await?)
            }
        });
        let go = go.clone();
        server.role("r").unwrap().on_readable("up", move |request| {
            let go = go.clone();
            async move {
                let mut stream = request.accept(())?;
                go.notified().await;
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
                Ok(())
            }
        });
    })
    .await;
    let (mut stream, _) = pair.to.readable("down", ()).await.unwrap();
    // The window, and at most one piece that has been taken in part.
    until("a stalled writer", || written.load(Ordering::Relaxed) >= WINDOW - 1000).await;
    for _ in 0..20 {
        pair.to.request("echo", ()).await.unwrap();
    }
    let stalled = written.load(Ordering::Relaxed);
    assert!(stalled <= WINDOW, "{stalled} bytes written into a window of {WINDOW}");
    until("an empty queue", || pair.server.stats().queued == 0).await;
    // Reading a little lets it write about as much.
    let mut some = vec![0u8; WINDOW / 2];
    within("bytes", stream.read_exact(&mut some)).await.unwrap();
    until("more", || written.load(Ordering::Relaxed) > stalled + WINDOW / 4).await;
    let mut rest = Vec::new();
    within("the rest", stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(some.len() + rest.len(), written.load(Ordering::Relaxed));
    // The other way: writing stalls here.
    let (mut stream, _) = pair.to.writable("up", ()).await.unwrap();
    let mut sent = 0;
    let piece = vec![1u8; 1000];
    while sent < WINDOW {
        sent += within("the window", stream.write(&piece)).await.unwrap();
    }
    assert_eq!(sent, WINDOW);
    until("an empty queue", || pair.client.stats().queued == 0).await;
    // All of it has arrived, and whatever it might have caused has come back.
    pair.to.request("echo", ()).await.unwrap();
    assert!(futures_util::poll!(std::pin::pin!(stream.write(&piece))).is_pending());
    go.notify_one();
    within("room", stream.write_all(&vec![1u8; WINDOW])).await.unwrap();
    within("the end", stream.shutdown()).await.unwrap();
    pair.close().await;
}

/// What the ends of a broken stream see.
#[tokio::test]
async fn breaking_off() {
    let read = Log::new();
    let seen = Log::new();
    let pair = Pair::new(|server| {
        serve(server, &read);
        let log = seen.clone();
        server.role("r").unwrap().on_writable("endless", move |request| {
            let log = log.clone();
            async move {
                let mut stream = request.accept(())?;
                let error = loop {
                    if let Err(error) = stream.write_all(&[0; 1000]).await {
                        break error;
                    }
                };
                log.push(error.to_string());
                Ok(())
            }
        });
        server.role("r").unwrap().on_writable("never", |_| async {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            Err("too late".into())
        });
        server.role("r").unwrap().on_writable("breaks", |request| async move {
            let mut stream = request.accept(())?;
            stream.write_all(b"some").await?;
            match request.context().parse::<bool>()? {
                true => stream.abort("no more"),
                false => drop(stream),
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
    })
    .await;
    let last = |log: &Log<String>| log.take().pop().unwrap();
    // The reader gives up: with a reason, and without.
    let (stream, _) = pair.to.readable("endless", ()).await.unwrap();
    stream.abort("enough");
    until("the writer's end", || seen.len() == 1).await;
    assert!(last(&seen).contains("enough"));
    let (stream, _) = pair.to.readable("endless", ()).await.unwrap();
    drop(stream);
    until("the writer's end", || seen.len() == 1).await;
    assert!(last(&seen).contains("closed"));
    // The writer does; what came before is read first.
    for (abort, text) in [(true, "no more"), (false, "dropped")] {
        let (mut stream, _) = pair.to.readable("breaks", abort).await.unwrap();
        let mut bytes = Vec::new();
        let error = within("the end", stream.read_to_end(&mut bytes)).await.unwrap_err();
        assert_eq!(bytes, b"some");
        assert!(error.to_string().contains(text), "{error}");
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>()).unwrap();
        assert_eq!(inner.kind(), ErrorKind::StreamClosed);
    }
    let (mut stream, _) = pair.to.writable("up", ()).await.unwrap();
    stream.write_all(b"some").await.unwrap();
    stream.abort("changed my mind");
    until("the reader's end", || read.len() == 1).await;
    assert!(read.take()[0].as_ref().unwrap_err().contains("changed my mind"));
    // Not accepted in time; and given up before the answer.
    let error = pair.to.readable("never", 1).timeout(std::time::Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    {
        let mut opening = pair.to.readable("down", 1_000_000).into_future();
        assert!(futures_util::poll!(&mut opening).is_pending());
        assert_eq!(pair.unit().stats().streams, 1);
    }
    assert_eq!((pair.unit().stats().streams, pair.unit().stats().waiting), (0, 0));
    until("no streams", || pair.server.units()[0].stats().streams == 0).await;
    assert!(pair.to.request("echo", 1).await.is_ok());
    pair.close().await;
}

#[tokio::test]
async fn a_lost_connection_reaches_both_ends() {
    let read = Log::new();
    let pair = Pair::new(|server| serve(server, &read)).await;
    let (mut down, _) = pair.to.readable("down", 4 * WINDOW).await.unwrap();
    let (mut up, _) = pair.to.writable("up", ()).await.unwrap();
    up.write_all(b"some").await.unwrap();
    pair.server.units()[0].close().await;
    let mut bytes = Vec::new();
    let error = within("the end", down.read_to_end(&mut bytes)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(within("the end", up.write_all(&vec![0; 1_000_000])).await.is_err());
    assert!(within("the end", up.shutdown()).await.is_err());
    until("the reader's end", || read.len() == 1).await;
    assert!(read.take()[0].is_err());
    pair.close().await;
}

#[tokio::test]
async fn many_at_once_and_their_limit() {
    let limited = Peer::builder().limits(|limits| limits.streams = 20).build().unwrap();
    let read = Log::new();
    let pair = Pair::of(peer("server"), limited, |server| serve(server, &read)).await;
    pair.client.connect(pair.listener.url()).await.unwrap();
    let streams = (0..20).map(|n| {
        let to = &pair.to;
        async move {
            let len = 20_000 * n;
            let (mut stream, _) = to.readable("down", len).await.unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.unwrap();
            assert!(bytes == pattern(len), "stream of {len}");
        }
    });
    within("the streams", futures_util::future::join_all(streams)).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        // More than a window.
        open.push(pair.to.readable("down", 2_000_000).await.unwrap());
    }
    let error = pair.to.readable("down", 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    open.pop();
    assert!(pair.to.readable("down", 1).await.is_ok());
    drop(open);
    pair.close().await;
}

/// The connection of a stream is lost, the unit has another.
#[tokio::test]
async fn streams_die_with_their_connection_only() {
    let read = Log::new();
    let server = peer("server");
    serve(&server, &read);
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let client = peer("client");
    let (through, relaying) = relay(listener.local_addr()).await;
    client.connect_with(through, ConnectOptions::new().once()).await.unwrap();
    let to = client.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    let (mut lost, _) = to.readable("down", 10_000_000).await.unwrap();
    client.connect(listener.url()).await.unwrap();
    relaying.abort();
    let mut bytes = Vec::new();
    let error = within("the end", lost.read_to_end(&mut bytes)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let (mut stream, _) = to.readable("down", 1_000_000).await.unwrap();
    within("the bytes", stream.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(client.units().len(), 1);
    client.close().await;
    server.close().await;
}

/// With a peer that knows no credit, as the JavaScript original.
#[tokio::test]
async fn with_an_original() {
    let read = Log::new();
    let server = peer("server");
    serve(&server, &read);
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let mut raw = Raw::join(listener.local_addr(), "raw", &["r"]).await;
    let accepted = async |raw: &mut Raw| {
        raw.frame(|frame| match frame {
            Frame::StreamAccept { chan, .. } => Some(chan.value()),
            _ => None,
        })
        .await
    };
    raw.stream_request(Direction::RequesterWrites, 0, "up").await;
    let chan = accepted(&mut raw).await;
    // More than it was ever granted, in one piece; then the end.
    raw.stream(chan, StreamOp::Chunk(&pattern(1_000_000))).await;
    raw.stream(chan, StreamOp::Finish).await;
    until("the reader's end", || read.len() == 1).await;
    assert!(read.take() == [Ok(pattern(1_000_000))]);
    // A reader that never grants gets everything all the same.
    raw.send_frame(&Frame::StreamRequest {
        direction: Direction::RequesterReads,
        role: "r".into(),
        event: "down".into(),
        corr: Num::new(1),
        chan: Num::new(9),
        payload: roletalk::Data::from(1_000_000).payload(),
    })
    .await;
    accepted(&mut raw).await;
    let mut bytes = Vec::new();
    loop {
        let more = raw
            .frame(|frame| match frame {
                Frame::Stream { chan, op: StreamOp::Chunk(chunk) } => {
                    assert_eq!(chan.value(), 9);
                    Some(Some(chunk.to_vec()))
                }
                Frame::Stream { op: StreamOp::Finish, .. } => Some(None),
                _ => None,
            })
            .await;
        match more {
            Some(chunk) => bytes.extend(chunk),
            None => break,
        }
    }
    assert!(bytes == pattern(1_000_000));
    // Beyond all bounds, the stream is failed and nothing else.
    let bounded = Peer::builder().limits(|limits| limits.stream_overrun = WINDOW).build().unwrap();
    bounded.role("r").unwrap().on_readable("up", |request| async move {
        let stream = request.accept(())?;
        std::future::pending::<()>().await;
        drop(stream);
        Ok(())
    });
    let listener = bounded.listen("127.0.0.1:0").await.unwrap();
    let mut raw = Raw::join(listener.local_addr(), "raw", &["r"]).await;
    raw.stream_request(Direction::RequesterWrites, 0, "up").await;
    let chan = accepted(&mut raw).await;
    raw.stream(chan, StreamOp::Chunk(&vec![0; WINDOW + 1])).await;
    let reason = raw
        .frame(|frame| match frame {
            Frame::Stream { op: StreamOp::Error(reason), .. } => Some(reason.into_owned()),
            _ => None,
        })
        .await;
    assert!(reason.contains("more than"), "{reason}");
    raw.request(5, "r", "echo", null()).await;
    raw.frame(|frame| matches!(frame, Frame::Reject { .. }).then_some(())).await;
    within("closing", async {
        bounded.close().await;
        server.close().await;
    })
    .await;
}
