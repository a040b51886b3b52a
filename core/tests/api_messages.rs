//! Messages and requests: destinations, handlers, middleware, failures.

mod common;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{
    Log, Pair, Raw, Watch, confirmation, echo, never, null, pass, peer, relay, until, within,
};
use roletalk::{Data, DataType, Error, ErrorKind, Kind, Peer, PeerEvent};
use roletalk_engine::wire::{Frame, Handshake, Num, Payload};
use tokio::{sync::Notify, time::Instant};

#[tokio::test]
async fn every_kind_of_data_both_ways() {
    let seen = Log::new();
    let pair = Pair::new(|server| {
        let seen = seen.clone();
        server.role("r").unwrap().on_message("m", move |ctx| {
            seen.push(ctx.data());
            async { Ok(()) }
        });
    })
    .await;
    let values = [
        Data::null(),
        Data::from(true),
        Data::from(false),
        Data::from(""),
        Data::from("grüße 🎉 \u{0}"),
        Data::binary(Vec::new()),
        Data::binary(vec![0, 255, 1]),
        Data::from(0),
        Data::from(1.5),
        Data::from(f64::NAN),
        Data::from(f64::NEG_INFINITY),
        Data::from(1e21),
        Data::from(9_007_199_254_740_993_i64),
        Data::from(u64::MAX),
        Data::from(i64::MIN),
        Data::json(&vec![(1, "two")]).unwrap(),
        Data::json(&serde_json::json!({"a": {"b": [null, 1.25]}})).unwrap(),
        Data::raw_json(r#"{"z":1, "a":2}"#).unwrap(),
    ];
    for value in &values {
        let answer = pair.to.request("echo", value.clone()).await.unwrap();
        assert_eq!(answer.data(), value);
        assert_eq!(answer.data().bytes(), value.bytes());
        pair.to.send("m", value.clone()).await.unwrap();
    }
    until("the messages", || seen.len() == values.len()).await;
    assert_eq!(seen.all(), values);
    // Integers stay exact, where a JavaScript number would not.
    let answer = pair.to.request("echo", 9_007_199_254_740_993_i64).await.unwrap();
    assert_eq!(answer.parse::<i64>().unwrap(), 9_007_199_254_740_993);
    assert_eq!(pair.to.request("echo", u64::MAX).await.unwrap().parse::<u64>().unwrap(), u64::MAX);
    let answer = pair.to.request("echo", 1.5).await.unwrap();
    assert_eq!(answer.parse::<i64>().unwrap_err().kind(), ErrorKind::Data);
    pair.close().await;
}

/// Whoever waits for an answer need not run on tokio, also not when there is no room at first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_from_another_executor() {
    let small = Peer::builder().limits(|limits| limits.queue_per_connection = 1000).build();
    let pair = Pair::of(peer("server"), small.unwrap(), |_| {}).await;
    let to = pair.to.clone();
    let asking = std::thread::spawn(move || {
        let requests = (0..50).map(|_| to.request("echo", vec![1u8; 700]).into_future());
        let all = futures_util::future::join_all(requests);
        // `block_on` of the simplest kind: it does not know what a timer is.
        let mut all = std::pin::pin!(all);
        let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut cx = std::task::Context::from_waker(&waker);
        loop {
            match all.as_mut().poll(&mut cx) {
                std::task::Poll::Ready(answers) => return answers,
                std::task::Poll::Pending => std::thread::park(),
            }
        }
    });
    until("the answers", || asking.is_finished()).await;
    assert!(asking.join().unwrap().iter().all(Result::is_ok));
    pair.close().await;
}

struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[tokio::test]
async fn what_nobody_serves_is_rejected() {
    let pair = Pair::new(|server| {
        server.role("off").unwrap().on_request("x", |_| async { Ok(()) });
        server.role("off").unwrap().disable();
    })
    .await;
    let unit = pair.unit();
    let cases = [
        ("nope", "x", r#"The role "nope" is not registered"#),
        ("off", "x", r#"The role "off" is disabled"#),
        ("r", "nope", r#"The event "nope" is not handled"#),
        ("r", "", r#"The event "" is not handled"#),
    ];
    for (role, event, text) in cases {
        let to = pair.client.destination(role).unwrap();
        let error = to.request(event, ()).to(&unit).await.unwrap_err();
        assert_eq!((error.kind(), error.text()), (ErrorKind::Rejected, text));
        let error = to.readable(event, ()).to(&unit).await.unwrap_err();
        assert_eq!((error.kind(), error.text()), (ErrorKind::Rejected, text));
        to.send(event, ()).to(&unit).await.unwrap();
    }
    // Registered for another kind only.
    let error = pair.to.writable("echo", ()).await.unwrap_err();
    assert_eq!(error.text(), r#"The event "echo" is not handled"#);
    assert_eq!(pair.to.request("echo", 1).await.unwrap().parse::<i32>().unwrap(), 1);
    until("nothing left", || pair.server.units()[0].stats().running == 0).await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_fails_or_panics_rejects_that_one_request() {
    let pair = Pair::new(|server| {
        let role = server.role("r").unwrap();
        role.on_request("text", |_| async { Err::<(), _>("plain text".into()) });
        role.on_request("type", |_| async {
            Err::<(), _>(std::io::Error::other("of any type").into())
        });
        role.on_request("late", |_| async {
            tokio::task::yield_now().await;
            Err::<(), _>("after an await".into())
        });
        role.on_request("sync panic", |ctx| {
            assert!(ctx.event().is_empty(), "at once");
            async { Ok(()) }
        });
        role.on_request("panic", |ctx| async move {
            assert!(ctx.event().is_empty(), "when polled");
            Ok(())
        });
        role.on_request("late panic", |ctx| async move {
            tokio::task::yield_now().await;
            assert!(ctx.event().is_empty(), "later");
            Ok(())
        });
        role.on_message("panic", |ctx| async move {
            assert!(ctx.event().is_empty(), "a message");
            Ok(())
        });
        role.on_message("text", |_| async { Err::<(), _>("no requester will hear it".into()) });
        role.on_readable("panic", |request| async move {
            assert!(request.context().event().is_empty(), "a stream");
            Ok(())
        });
        role.on_writable("forgets", |_| async move { Ok(()) });
        role.on_writable("fails later", |request| async move {
            let _stream = request.accept(())?;
            Err(Error::new(ErrorKind::Io, "disk full").into())
        });
    })
    .await;
    let mut watch = Watch::new(&pair.server);
    let panicked = "The handler panicked";
    let cases = [
        ("text", "plain text"),
        ("type", "of any type"),
        ("late", "after an await"),
        ("sync panic", panicked),
        ("panic", panicked),
        ("late panic", panicked),
    ];
    let others = pair.to.request("echo", "others");
    for (event, text) in cases {
        let error = within(event, pair.to.request(event, ()).into_future()).await.unwrap_err();
        assert_eq!((error.kind(), error.text()), (ErrorKind::Rejected, text), "{event}");
        if text == panicked {
            let event = watch.next(event, |e| matches!(e, PeerEvent::HandlerFailed { .. })).await;
            let PeerEvent::HandlerFailed { error, .. } = event else { unreachable!() };
            assert_eq!(error.kind(), ErrorKind::HandlerPanicked);
        }
    }
    others.await.unwrap();
    for (event, kind) in [("panic", ErrorKind::HandlerPanicked), ("text", ErrorKind::HandlerFailed)]
    {
        pair.to.send(event, ()).await.unwrap();
        let failed = watch.next(event, |e| matches!(e, PeerEvent::HandlerFailed { .. })).await;
        let PeerEvent::HandlerFailed { role, event: name, error, .. } = failed else {
            unreachable!()
        };
        assert_eq!((&*role, &*name, error.kind()), ("r", event, kind));
    }
    let error = pair.to.writable("panic", ()).await.unwrap_err();
    assert_eq!((error.kind(), error.text()), (ErrorKind::Rejected, panicked));
    watch.next("the panic", |e| matches!(e, PeerEvent::HandlerFailed { .. })).await;
    let error = pair.to.readable("forgets", ()).await.unwrap_err();
    assert_eq!((error.kind(), error.text()), (ErrorKind::Rejected, "The stream was not accepted"));
    // The requester has its answer already: then the error is told here.
    let (mut stream, _) = pair.to.readable("fails later", ()).await.unwrap();
    assert!(stream.next().await.unwrap().is_err());
    let event = watch.next("the failure", |e| matches!(e, PeerEvent::HandlerFailed { .. })).await;
    let PeerEvent::HandlerFailed { error, .. } = event else { unreachable!() };
    assert_eq!(error.text(), "disk full");
    assert!(pair.to.request("echo", 1).await.is_ok());
    until("nothing left", || pair.server.units()[0].stats().running == 0).await;
    pair.close().await;
}

/// `peer:one>` and so on, in the order in which the layers run, around what the handler did.
#[tokio::test]
async fn middleware_runs_around_the_handler() {
    let log = Log::new();
    let pair = Pair::new(|server| {
        let layer = |name: &'static str| {
            let log = log.clone();
            move |ctx: roletalk::Context, next: roletalk::Next| {
                let log = log.clone();
                async move {
                    log.push(format!("{name}>{:?}", ctx.kind()));
                    let outcome = next.run(ctx).await;
                    log.push(format!("<{name} {}", outcome.is_ok()));
                    outcome
                }
            }
        };
        let role = server.role("r").unwrap();
        role.layer(layer("role 1"));
        server.layer(layer("peer 1"));
        server.layer(layer("peer 2"));
        role.layer(layer("role 2"));
        role.on_message("m", |_| async { Ok(()) });
        role.on_readable("s", |request| async move {
            request.accept(())?;
            Ok(())
        });
        role.on_writable("s", |_| async move { Err::<(), _>("no".into()) });
        server.role("other").unwrap().on_request("x", |_| async { Ok(()) });
    })
    .await;
    let expect = |kind: Kind, ok: bool| {
        let mut expected: Vec<String> =
            ["peer 1", "peer 2", "role 1", "role 2"].map(|n| format!("{n}>{kind:?}")).into();
        expected.extend(["role 2", "role 1", "peer 2", "peer 1"].map(|n| format!("<{n} {ok}")));
        expected
    };
    pair.to.request("echo", 1).await.unwrap();
    assert_eq!(log.take(), expect(Kind::Request, true));
    pair.to.send("m", 1).await.unwrap();
    until("the message", || log.len() == 8).await;
    assert_eq!(log.take(), expect(Kind::Message, true));
    let _ = pair.to.writable("s", 1).await.unwrap();
    assert_eq!(log.take(), expect(Kind::Readable, true));
    assert!(pair.to.readable("s", 1).await.is_err());
    assert_eq!(log.take(), expect(Kind::Writable, false));
    let other = pair.client.destination("other").unwrap();
    other.request("x", 1).await.unwrap();
    assert_eq!(log.take(), ["peer 1>Request", "peer 2>Request", "<peer 2 true", "<peer 1 true"]);
    // What does not pass the checks does not pass the layers.
    assert!(pair.to.request("nope", 1).await.is_err());
    assert!(log.take().is_empty());
    pair.close().await;
}

#[tokio::test]
async fn middleware_changes_answers_and_replaces() {
    let calls = Arc::new(AtomicUsize::new(0));
    let pair = Pair::new(|server| {
        let role = server.role("r").unwrap();
        let count = calls.clone();
        role.on_request("double", move |ctx| {
            count.fetch_add(1, Ordering::Relaxed);
            async move { Ok(ctx.parse::<i64>()? * 2) }
        });
        role.layer(|mut ctx, next| async move {
            match ctx.data().as_i64() {
                // Before: other data.
                Some(1) => {
                    ctx.set_data(100);
                    assert_eq!(ctx.data_type(), DataType::Number);
                    next.run(ctx).await
                }
                // Instead of the handler.
                Some(2) => Ok("cached".into()),
                Some(3) => Err(Error::new(ErrorKind::Rejected, "forbidden")),
                // After: another outcome.
                Some(4) => next.run(ctx).await.and(Err(Error::new(ErrorKind::Data, "worse"))),
                Some(5) => Ok(next.run(ctx).await.unwrap_or_default()),
                Some(6) => panic!("in a layer"),
                _ => Ok(next.run(ctx).await.unwrap_or_else(|error| error.text().into())),
            }
        });
    })
    .await;
    let ask = |n: i64| pair.to.request("double", n).into_future();
    assert_eq!(ask(1).await.unwrap().parse::<i64>().unwrap(), 200);
    assert_eq!(ask(2).await.unwrap().parse::<String>().unwrap(), "cached");
    assert_eq!(ask(3).await.unwrap_err().text(), "forbidden");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(ask(4).await.unwrap_err().text(), "worse");
    assert_eq!(ask(5).await.unwrap().parse::<i64>().unwrap(), 10);
    assert_eq!(ask(6).await.unwrap_err().text(), "The handler panicked");
    assert_eq!(ask(7).await.unwrap().parse::<i64>().unwrap(), 14);
    let answer = pair.to.request("double", "x").await.unwrap();
    assert_eq!(answer.data().kind(), DataType::String, "the error became an answer");
    pair.close().await;
}

/// Whatever the API offers may be called from handlers, in their synchronous part as well.
#[tokio::test]
async fn handlers_may_call_anything() {
    anything_from_handlers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_may_call_anything_on_several_threads() {
    anything_from_handlers().await;
}

async fn anything_from_handlers() {
    let pair = Pair::new(|server| {
        let role = server.role("r").unwrap();
        let peer = server.clone();
        role.on_request("sync", move |_| {
            // A new role, another handler, this role, events, counters: at once.
            peer.role("more").unwrap().on_request("x", |_| async { Ok("more") });
            peer.role("r").unwrap().on_request("added", |_| async { Ok("added") });
            peer.role("r").unwrap().disable();
            peer.role("r").unwrap().enable();
            peer.layer(|ctx, next| next.run(ctx));
            peer.set_tag("k", "v");
            let _ = (peer.stats(), peer.units(), peer.events(), peer.roles());
            let _ = peer.destination("back").unwrap().is_ready();
            async { Ok("done") }
        });
        let peer = server.clone();
        role.on_request("back", move |ctx| {
            let peer = peer.clone();
            async move {
                let back = peer.destination("back")?;
                let answer = back.request("ask", 20).to(&ctx.unit()).await?;
                Ok(answer.parse::<i64>()? + 1)
            }
        });
        let peer = server.clone();
        role.on_request("disable", move |_| {
            let peer = peer.clone();
            async move {
                peer.role("r")?.disable();
                Ok(())
            }
        });
    })
    .await;
    pair.client
        .role("back")
        .unwrap()
        .on_request("ask", |ctx| async move { Ok(ctx.parse::<i64>()? * 2) });
    let ask = |event: &'static str| within(event, pair.to.request(event, ()).into_future());
    assert_eq!(ask("sync").await.unwrap().parse::<String>().unwrap(), "done");
    assert_eq!(ask("added").await.unwrap().parse::<String>().unwrap(), "added");
    let more = pair.client.destination("more").unwrap();
    within("the new role", more.ready()).await.unwrap();
    assert_eq!(more.request("x", ()).await.unwrap().parse::<String>().unwrap(), "more");
    assert_eq!(ask("back").await.unwrap().parse::<i64>().unwrap(), 41);
    // Its own answer still arrives.
    ask("disable").await.unwrap();
    until("the role to vanish", || !pair.to.is_ready()).await;
    pair.close().await;
}

#[tokio::test]
async fn handlers_may_close_units_and_the_peer() {
    for event in ["close unit", "close peer", "sync close", "drop"] {
        let pair = Pair::new(|server| {
            let role = server.role("r").unwrap();
            role.on_request("close unit", |ctx| async move {
                ctx.unit().close().await;
                Ok(())
            });
            let peer = server.clone();
            role.on_request("close peer", move |_| {
                let peer = peer.clone();
                async move {
                    peer.close().await;
                    Ok(())
                }
            });
            // The last handles are here: dropping them closes the peer.
            let mine = std::sync::Mutex::new(Some(server.clone()));
            role.on_request("drop", move |_| {
                drop(mine.lock().unwrap().take());
                async { Ok(()) }
            });
            let peer = server.clone();
            role.on_request("sync close", move |_| {
                use futures_util::FutureExt;
                assert!(peer.close().now_or_never().is_none());
                async { Ok(()) }
            });
        })
        .await;
        let Pair { server, client, to, .. } = pair;
        if event == "drop" {
            // Only the handlers' own are left.
            server.role("r").unwrap().on_request("close peer", |_| async { Ok(()) });
            server.role("r").unwrap().on_request("sync close", |_| async { Ok(()) });
            drop(server);
        }
        // It may have been answered before the connection was closed, or not.
        let _ = within(event, to.request(event, ()).into_future()).await;
        until(event, || client.units().is_empty()).await;
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn roles_come_and_go_while_requests_run() {
    let pair = Pair::new(|_| {}).await;
    let server = pair.server.clone();
    let changing = tokio::task::spawn_blocking(move || {
        for n in 0..300 {
            let role = server.role(&format!("n{}", n % 20)).unwrap();
            let peer = server.clone();
            role.on_request("x", move |_| {
                peer.role("r").unwrap();
                async { Ok(()) }
            });
            role.disable();
            role.enable();
        }
    });
    let requests = (0..300).map(|n| pair.to.request("echo", n).into_future());
    let answers = within("answers", futures_util::future::join_all(requests)).await;
    assert!(answers.iter().all(Result::is_ok));
    within("changes", changing).await.unwrap();
    let last = pair.client.destination("n19").unwrap();
    within("the last role", last.ready()).await.unwrap();
    pair.close().await;
}

#[tokio::test]
async fn timeouts() {
    let pair = Pair::new(never).await;
    let ask = || pair.to.request("never", ());
    let begun = Instant::now();
    let error = ask().timeout(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.text()),
        (ErrorKind::Timeout, "Request timeout exceeded (100 ms)")
    );
    assert!(begun.elapsed() >= Duration::from_millis(100));
    let error = pair.to.request("never", ()).timeout(Duration::ZERO).await.unwrap_err();
    assert_eq!(error.text(), "Request timeout exceeded (0 ms)");
    assert_eq!(pair.unit().stats().waiting, 0);
    // No limit at all.
    let answer = pair.to.request("echo", 1).timeout(Duration::MAX).await;
    assert!(answer.is_ok());
    // Dropped, it is abandoned.
    {
        let request = ask().into_future();
        tokio::pin!(request);
        assert!(futures_util::poll!(&mut request).is_pending());
        assert_eq!(pair.unit().stats().waiting, 1);
    }
    assert_eq!(pair.unit().stats().waiting, 0);
    let many = pair.to.survey_within("never", (), Duration::from_millis(20)).all().await;
    assert_eq!(many.len(), 1);
    assert_eq!(many[0].1.as_ref().unwrap_err().kind(), ErrorKind::Timeout);
    pair.close().await;
    let short = Peer::builder()
        .limits(|limits| limits.request_timeout = Duration::from_millis(30))
        .build()
        .unwrap();
    let pair = Pair::of(peer("server"), short, never).await;
    let error = pair.to.request("never", ()).await.unwrap_err();
    assert_eq!(error.text(), "Request timeout exceeded (30 ms)");
    pair.close().await;
}

/// The connection takes nothing: timeouts come all the same.
#[tokio::test(start_paused = true)]
async fn timeouts_of_requests_that_cannot_be_written() {
    let server = peer("server");
    let raw = Raw::beside(&server, 4096, "raw", &["r"]).await;
    let to = server.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    let unit = to.units()[0].clone();
    let queued = || unit.stats().connections[0].queued;
    // Less than the queue's bound of 1 MiB.
    while queued() < 512 << 10 {
        to.send("x", vec![0u8; 64 << 10]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let ask = || {
        let request = to.request("x", ()).timeout(Duration::from_millis(100));
        within("a timeout", request.into_future())
    };
    let begun = Instant::now();
    let mut long = to.request("x", ()).into_future();
    assert!(futures_util::poll!(&mut long).is_pending());
    let (first, second) = tokio::join!(ask(), ask());
    assert_eq!(first.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    // No room even in the queue.
    while queued() < 1 << 20 {
        to.send("x", vec![0u8; 64 << 10]).await.unwrap();
    }
    let begun = Instant::now();
    let error = ask().await.unwrap_err();
    assert_eq!(error.text(), "Request timeout exceeded (100 ms)");
    let opening = to.readable("x", ()).timeout(Duration::from_millis(100)).into_future();
    assert_eq!(within("a timeout", opening).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    drop((long, raw));
    server.close().await;
}

/// Three units that serve role `r`, and the client.
async fn three(set_up: impl Fn(&Peer, usize)) -> (Vec<Peer>, Peer) {
    let client = peer("client");
    let mut servers = Vec::new();
    for n in 0..3 {
        let server = peer(&format!("server {n}"));
        echo(&server);
        let name = format!("server {n}");
        server.role("r").unwrap().on_request("who", move |_| {
            let name = name.clone();
            async move { Ok(name) }
        });
        set_up(&server, n);
        let listener = server.listen("127.0.0.1:0").await.unwrap();
        client.connect(listener.url()).await.unwrap();
        servers.push(server);
    }
    let to = client.destination("r").unwrap();
    until("three units", || to.units().len() == 3).await;
    (servers, client)
}

#[tokio::test]
async fn round_robin_choice_broadcast_and_survey() {
    let got = Log::new();
    let (servers, client) = three(|server, n| {
        let got = got.clone();
        server.role("r").unwrap().on_message("m", move |_| {
            got.push(n);
            async { Ok(()) }
        });
        server.role("r").unwrap().on_request("fail 1", move |_| async move {
            if n == 1 { Err("not me".into()) } else { Ok(n as u64) }
        });
    })
    .await;
    let to = client.destination("r").unwrap();
    let mut counts = HashMap::new();
    let mut order = Vec::new();
    for _ in 0..30 {
        let who: String = to.request("who", ()).await.unwrap().parse().unwrap();
        *counts.entry(who.clone()).or_insert(0) += 1;
        order.push(who);
    }
    assert_eq!(counts.len(), 3);
    assert!(counts.values().all(|count| *count == 10), "{counts:?}");
    assert!(order.iter().zip(&order[3..]).all(|(one, three_later)| one == three_later));
    // A chosen unit, whoever's turn it is.
    for unit in to.units() {
        for _ in 0..2 {
            let answer = to.request("who", ()).to(&unit).await.unwrap();
            assert_eq!(answer.parse::<String>().unwrap(), unit.name());
            assert_eq!(answer.unit(), unit);
        }
    }
    // Messages take turns with each other as well.
    for _ in 0..6 {
        to.send("m", ()).await.unwrap();
    }
    until("the messages", || got.len() == 6).await;
    let mut all = got.take();
    all.sort_unstable();
    assert_eq!(all, [0, 0, 1, 1, 2, 2]);
    let unit = to.units()[2].clone();
    assert_eq!(to.send("m", ()).to(&unit).await.unwrap(), unit);
    until("the message", || got.len() == 1).await;
    assert_eq!(got.take(), [2]);
    assert_eq!(to.broadcast("m", "all").await.unwrap(), 3);
    until("the messages", || got.len() == 3).await;
    let mut all = got.take();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2]);

    let survey = to.survey("fail 1", ());
    assert_eq!(survey.asked(), 3);
    let answers = within("answers", survey.all()).await;
    assert_eq!(answers.len(), 3);
    for (unit, answer) in answers {
        match &*unit.name() {
            "server 1" => assert_eq!(answer.unwrap_err().text(), "not me"),
            name => {
                let n: usize = answer.unwrap().parse().unwrap();
                assert_eq!(name, format!("server {n}"));
            }
        }
    }
    let mut survey = to.survey("who", ());
    let mut heard = 0;
    while let Some((unit, answer)) = within("an answer", survey.next()).await {
        assert_eq!(answer.unwrap().parse::<String>().unwrap(), unit.name());
        heard += 1;
    }
    assert_eq!(heard, 3);
    // One leaves: the others share.
    servers[0].close().await;
    until("two units", || to.units().len() == 2).await;
    let mut counts = HashMap::new();
    for _ in 0..10 {
        let who: String = to.request("who", ()).await.unwrap().parse().unwrap();
        *counts.entry(who).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 2);
    assert!(counts.values().all(|count| *count == 5), "{counts:?}");
    client.close().await;
    let error = to.request("who", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(to.broadcast("m", ()).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn nobody_there() {
    let client = peer("client");
    let to = client.destination("r").unwrap();
    assert!(!to.is_ready() && to.units().is_empty());
    assert_eq!(to.request("x", ()).await.unwrap_err().kind(), ErrorKind::NoUnit);
    assert_eq!(to.send("x", ()).await.unwrap_err().kind(), ErrorKind::NoUnit);
    assert_eq!(to.readable("x", ()).await.unwrap_err().kind(), ErrorKind::NoUnit);
    assert_eq!(to.broadcast("x", ()).await.unwrap(), 0);
    assert!(to.survey("x", ()).all().await.is_empty());
    assert_eq!(client.destination("").unwrap_err().kind(), ErrorKind::InvalidArgument);
    let ready = tokio::spawn({
        let to = to.clone();
        async move { to.ready().await }
    });
    client.close().await;
    assert_eq!(within("ready", ready).await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(client.destination("x").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(client.role("x").unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn ready_waits_for_the_role() {
    let pair = Pair::new(|server| {
        server.inactive_role("late").unwrap();
    })
    .await;
    let late = pair.client.destination("late").unwrap();
    let ready = tokio::spawn({
        let late = late.clone();
        async move { late.ready().await }
    });
    pair.to.request("echo", 1).await.unwrap();
    assert!(!ready.is_finished() && !late.is_ready());
    pair.server.role("late").unwrap().enable();
    within("ready", ready).await.unwrap().unwrap();
    assert_eq!(late.units(), [pair.unit()]);
    pair.close().await;
}

/// 0, 1, 2 and so on.
#[track_caller]
fn assert_in_order(numbers: &[u64]) {
    let wrong = numbers.iter().enumerate().find(|(at, number)| **number != *at as u64);
    assert!(wrong.is_none(), "out of order: (place, number) {wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redundant_connections_keep_the_order() {
    const COUNT: u64 = 10_000;
    let got = Log::new();
    let pair = Pair::new(|server| {
        let got = got.clone();
        server.role("r").unwrap().on_message("n", move |ctx| {
            let got = got.clone();
            // In the future, not in the closure: that is where handlers do their work.
            async move {
                got.push(ctx.parse::<u64>()?);
                Ok(())
            }
        });
    })
    .await;
    for _ in 0..2 {
        pair.client.connect(pair.listener.url()).await.unwrap();
    }
    let unit = pair.unit();
    assert_eq!(unit.stats().connections.len(), 3);
    assert_eq!(pair.client.units().len(), 1);
    for n in 0..COUNT {
        pair.to.send("n", n).await.unwrap();
    }
    until("the messages", || got.len() == COUNT as usize).await;
    assert_in_order(&got.take());
    // Told to, it takes whatever connection is free, and loses nothing.
    for n in 0..COUNT {
        pair.to.send("n", n).unordered().await.unwrap();
    }
    until("the messages", || got.len() == COUNT as usize).await;
    let mut all = got.take();
    all.sort_unstable();
    assert_in_order(&all);
    pair.close().await;
}

/// Handlers that block a little make the batches slow, whose handlers then run elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn slow_handlers_keep_the_order() {
    const COUNT: u64 = 2_000;
    let got = Log::new();
    let pair = Pair::new(|server| {
        let got = got.clone();
        server.role("r").unwrap().on_message("n", move |ctx| {
            let got = got.clone();
            async move {
                let n = ctx.parse::<u64>()?;
                if n.is_multiple_of(500) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                got.push(n);
                tokio::task::yield_now().await;
                Ok(())
            }
        });
    })
    .await;
    for n in 0..COUNT {
        pair.to.send("n", n).await.unwrap();
    }
    until("the messages", || got.len() == COUNT as usize).await;
    assert_in_order(&got.take());
    until("nothing left", || pair.server.units()[0].stats().running == 0).await;
    pair.close().await;
}

#[tokio::test]
async fn one_connection_of_two_is_lost_while_requests_run() {
    let go = Arc::new(Notify::new());
    let pair = Pair::new(|server| {
        let go = go.clone();
        server.role("r").unwrap().on_request("wait", move |_| {
            let go = go.clone();
            async move {
                go.notified().await;
                Ok("after all")
            }
        });
    })
    .await;
    // The second connection comes through a relay that can be cut.
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}", relay.local_addr().unwrap());
    let target = pair.listener.local_addr();
    let relaying = tokio::spawn(async move {
        let (mut one, _) = relay.accept().await.unwrap();
        let mut two = tokio::net::TcpStream::connect(target).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut one, &mut two).await;
    });
    let once = roletalk::ConnectOptions::new().once();
    let second = pair.client.connect_with(address, once).await.unwrap();
    let unit = second.unit().clone();
    assert_eq!(unit.stats().connections.len(), 2);
    let mut watch = Watch::new(&pair.client);
    let on_both =
        |stats: roletalk::UnitStats| stats.connections.iter().all(|conn| conn.frames_sent > 1);
    let payload = vec![0u8; 300_000];
    let mut requests = Vec::new();
    for _ in 0..8 {
        let mut request = pair.to.request("wait", payload.clone()).unordered().into_future();
        assert!(futures_util::poll!(&mut request).is_pending());
        requests.push(request);
    }
    until("use of both", || on_both(unit.stats())).await;
    until("requests", || pair.server.units()[0].stats().running == 8).await;
    relaying.abort();
    let lost = watch.next("the loss", |e| matches!(e, PeerEvent::ConnectionClosed { .. })).await;
    assert!(matches!(lost, PeerEvent::ConnectionClosed { unit: Some(u), .. } if u == unit));
    assert_eq!(unit.stats().connections.len(), 1);
    assert!(unit.is_open());
    go.notify_waiters();
    let answers = within("the answers", futures_util::future::join_all(requests)).await;
    for answer in answers {
        assert_eq!(answer.unwrap().parse::<String>().unwrap(), "after all");
    }
    pair.close().await;
}

/// The connection that a request went out on keeps its time, and is lost.
#[tokio::test]
async fn timeouts_outlive_their_connection() {
    let server = peer("server");
    never(&server);
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let client = peer("client");
    let (through, relaying) = relay(listener.local_addr()).await;
    let once = roletalk::ConnectOptions::new().once();
    let first = client.connect_with(through, once).await.unwrap();
    client.connect(listener.url()).await.unwrap();
    let to = client.destination("r").unwrap();
    const LONG: Duration = Duration::from_secs(2 * common::LIMIT.as_secs());
    let mut request = to.request("never", ()).timeout(LONG).into_future();
    assert!(futures_util::poll!(&mut request).is_pending());
    let stats = || first.unit().stats();
    until("the request", || server.units()[0].stats().running == 1).await;
    assert_eq!(stats().connections[0].conn, first.connection());
    assert!(stats().connections[0].frames_sent > stats().connections[1].frames_sent);
    relaying.abort();
    until("the loss", || stats().connections.len() == 1).await;
    assert!(futures_util::poll!(&mut request).is_pending());
    // Its time began when it was asked, not when the connection was lost.
    pass(LONG).await;
    assert_eq!(within("the timeout", request).await.unwrap_err().kind(), ErrorKind::Timeout);
    client.close().await;
    server.close().await;
}

#[tokio::test]
async fn requests_fail_with_the_last_connection() {
    let pair = Pair::new(never).await;
    let unit = pair.unit();
    let mut request = pair.to.request("never", ()).into_future();
    assert!(futures_util::poll!(&mut request).is_pending());
    until("the request", || pair.server.units()[0].stats().running == 1).await;
    pair.server.close().await;
    let error = within("the end", request).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.text()),
        (ErrorKind::ConnectionLost, "All unit's sockets have been closed")
    );
    within("the end", unit.closed()).await;
    assert!(!unit.is_open());
    let error = pair.to.request("never", ()).to(&unit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost);
    assert_eq!(unit.name(), "server");
    pair.client.close().await;
}

#[tokio::test]
async fn counters() {
    let pair = Pair::new(|server| {
        server.role("r").unwrap().on_message("m", |_| async { Ok(()) });
    })
    .await;
    for _ in 0..3 {
        pair.to.request("echo", "x").await.unwrap();
    }
    pair.to.send("m", ()).await.unwrap();
    let here = pair.unit();
    let there = pair.server.units()[0].clone();
    until("the message", || there.stats().messages_received == 1).await;
    let (stats, theirs) = (here.stats(), there.stats());
    assert_eq!((stats.requests_sent, stats.messages_sent, stats.waiting), (3, 1, 0));
    assert_eq!((theirs.requests_received, theirs.messages_received), (3, 1));
    assert_eq!((stats.streams, theirs.running), (0, 0));
    assert!(stats.last_answer.is_some());
    let (conn, other) = (stats.connections[0], theirs.connections[0]);
    assert_eq!(conn.frames_sent, other.frames_received);
    assert!(conn.bytes_sent > other.bytes_received && other.bytes_received > 0);
    let stats = pair.client.stats();
    assert_eq!(stats.units.len(), 1);
    assert_eq!(stats.units[0].0, here);
    assert_eq!((stats.handshakes, stats.queued, stats.reconnects), (0, 0, 0));
    pair.close().await;
}

/// Answers of any kind from a peer of another make.
#[tokio::test]
async fn answers_of_others() {
    let server = peer("server");
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let mut raw = Raw::join(listener.local_addr(), "raw", &["r"]).await;
    let to = server.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    let next = async |raw: &mut Raw| {
        raw.frame(|frame| match frame {
            Frame::Request { corr, .. } => Some(corr),
            _ => None,
        })
        .await
    };
    let asking = to.request("x", 1).into_future();
    let answering = async {
        let corr = next(&mut raw).await;
        // Nobody waits for these.
        for other in [corr.value() + 1, 77] {
            let payload = Payload { kind: DataType::String, bytes: b"wrong" };
            raw.send_frame(&Frame::Response { corr: Num::new(other), payload }).await;
        }
        let payload = Payload { kind: DataType::String, bytes: b"right" };
        raw.send_frame(&Frame::Response { corr, payload }).await;
        raw.send_frame(&Frame::Reject { corr, payload }).await;
    };
    let (answer, ()) = tokio::join!(asking, answering);
    assert_eq!(answer.unwrap().parse::<String>().unwrap(), "right");
    let asking = to.request("x", 1).into_future();
    let answering = async {
        let corr = next(&mut raw).await;
        raw.send_frame(&Frame::Reject { corr, payload: null() }).await;
    };
    let (answer, ()) = tokio::join!(asking, answering);
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Rejected);
    // A second confirmation is an error of its connection only.
    let mut other = Raw::join(listener.local_addr(), "other", &[]).await;
    other.send_handshake(Handshake::Confirm(Box::new(confirmation("raw", &[])))).await;
    assert!(other.closed().await.is_some());
    assert_eq!(server.units().len(), 1);
    server.close().await;
}
