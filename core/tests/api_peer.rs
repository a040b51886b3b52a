//! The peer as a whole: who it is, whom it lets in, what it tells, and how it ends.

mod common;

use std::{sync::Arc, time::Duration};

use common::{
    AGAIN, LIMIT, Log, Pair, Raw, Watch, confirmation, echo, never, null, pass, peer, until, within,
};
use futures_util::{SinkExt, StreamExt};
use roletalk::{ConnectOptions, DataType, Error, ErrorKind, Peer, PeerEvent};
use roletalk_engine::wire::{Acquaint, Challenge, Frame, Handshake, Num, Proof, RolesUpdate};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::Instant,
};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn who_it_is() {
    let server = Peer::builder()
        .name("wörker")
        .tag("zone", "eu")
        .tag("zone", "us")
        .friendly(false)
        .build()
        .unwrap();
    server.set_tag("later", "x");
    let pair = Pair::of(server, peer(""), |_| {}).await;
    let unit = pair.unit();
    assert_eq!(unit.id(), pair.server.id());
    assert_eq!(unit.id().len(), 32);
    assert_eq!(unit.name(), "wörker");
    assert!(!unit.is_friendly() && unit.is_open());
    assert_eq!(*unit.roles(), ["r"]);
    let tags: Vec<_> = unit.tags().into_iter().collect();
    assert_eq!(tags, [("later".into(), "x".into()), ("zone".into(), "us".into())]);
    assert_eq!(unit.meta().protocol, "2.0.0");
    let seen = pair.server.units()[0].clone();
    assert_eq!((seen.id(), &*seen.name()), (pair.client.id(), ""));
    assert!(seen.is_friendly());
    assert_ne!(pair.server.id(), pair.client.id());
    // Only units that connect from then on see it.
    pair.server.set_tag("zone", "asia");
    assert_eq!(pair.unit().tags()["zone"], "us");
    assert_eq!(pair.server.tags()["zone"], "asia");
    pair.close().await;
}

#[test]
fn no_peer_outside_of_a_runtime() {
    assert_eq!(Peer::builder().build().unwrap_err().kind(), ErrorKind::InvalidArgument);
}

async fn gets_in(server: &str, keys: &[(&str, &str)]) -> Result<Peer, Error> {
    let mut builder = Peer::builder();
    for (id, key) in keys {
        builder = builder.preshared_key(*id, *key);
    }
    let client = builder.build().unwrap();
    client.connect_with(server, ConnectOptions::new().once()).await.map(|_| client)
}

#[tokio::test]
async fn preshared_keys() {
    let server =
        Peer::builder().preshared_key("a", "one").preshared_key("b", "two").build().unwrap();
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let mut watch = Watch::new(&server);
    let url = listener.url();
    for keys in [&[("a", "one")][..], &[("b", "two")], &[("x", "y"), ("b", "two")]] {
        let outcome = gets_in(url, keys).await;
        assert!(outcome.is_ok(), "{keys:?}: {outcome:?}");
    }
    let cases: [(&[(&str, &str)], &str); 3] = [
        (&[], "The peer has not such proofs: a,b"),
        // Either side may be the first to find out.
        (&[("x", "one")], "The peer has not such proofs: "),
        (&[("a", "wrong")], "Preshared key mismatch. Chosen id: a"),
    ];
    for (keys, text) in cases {
        let error = gets_in(url, keys).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AuthRefused);
        assert!(error.text().contains(text), "{error}");
        let event = watch.next(text, |e| matches!(e, PeerEvent::AuthRefused { .. })).await;
        let PeerEvent::AuthRefused { reason } = event else { unreachable!() };
        assert!(reason.contains(text), "{reason}");
    }
    // At run time. Who is in stays in.
    let inside = gets_in(url, &[("a", "one")]).await.unwrap();
    assert!(server.remove_preshared_key("a") && !server.remove_preshared_key("a"));
    assert!(gets_in(url, &[("a", "one")]).await.is_err());
    server.add_preshared_key("a", "new").unwrap();
    assert!(gets_in(url, &[("a", "new")]).await.is_ok());
    assert_eq!(inside.units().len(), 1);
    server.remove_preshared_key("a");
    server.remove_preshared_key("b");
    assert!(gets_in(url, &[]).await.is_ok());
    server.add_preshared_key("a", "again").unwrap();
    assert!(gets_in(url, &[]).await.is_err());
    for (id, key) in [("", "x"), ("x", ""), ("x", &*"x".repeat(1025))] {
        let error = server.add_preshared_key(id, key).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(Peer::builder().preshared_key(id, key).build().is_err());
    }
    server.close().await;
}

#[tokio::test]
async fn keys_are_never_shown() {
    let builder = Peer::builder().preshared_key("id", "the-secret");
    assert!(!format!("{builder:?} {builder:#?}").contains("the-secret"));
    let peer = builder.build().unwrap();
    let wrong =
        gets_in(peer.listen("127.0.0.1:0").await.unwrap().url(), &[("id", "another-secret")])
            .await
            .unwrap_err();
    let shown = format!("{peer:?} {wrong:?} {wrong}");
    assert!(!shown.contains("the-secret") && !shown.contains("another-secret"), "{shown}");
    peer.close().await;
}

/// A stranger hands the challenge back on a second connection, to be given the proof.
#[tokio::test]
async fn a_reflected_challenge_is_refused() {
    let server = Peer::builder().preshared_key("k", "secret").build().unwrap();
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let mut watch = Watch::new(&server);
    let mut first = Raw::dial(listener.local_addr()).await;
    let Handshake::Challenge(Challenge { challenge, ids }) = first.handshake().await else {
        panic!("no challenge")
    };
    assert_eq!(ids, ["k"]);
    let mut second = Raw::dial(listener.local_addr()).await;
    let Handshake::Challenge(other) = second.handshake().await else { panic!("no challenge") };
    assert_ne!(challenge, other.challenge);
    second.send_handshake(Handshake::Challenge(Challenge { challenge, ids })).await;
    let answer = second.handshake().await;
    assert!(matches!(&answer, Handshake::Error(_)), "{answer:?}");
    assert_eq!(u16::from(second.closed().await.unwrap().code), 4002);
    watch.next("the refusal", |e| matches!(e, PeerEvent::AuthRefused { .. })).await;
    // Its own connection's challenge is no better.
    first.send_handshake(Handshake::Challenge(other)).await;
    let _ = first.handshake().await;
    let mut third = Raw::dial(listener.local_addr()).await;
    let Handshake::Challenge(own) = third.handshake().await else { panic!("no challenge") };
    third.send_handshake(Handshake::Challenge(own)).await;
    assert!(matches!(third.handshake().await, Handshake::Error(_)));
    // Nor is a proof out of nowhere, or none at all.
    for frame in [
        Handshake::Proof(Proof { proof: "0".repeat(64), id: "k".into() }),
        Handshake::Confirm(Box::new(confirmation("stranger", &[]))),
    ] {
        let confirms = matches!(frame, Handshake::Confirm(_));
        let mut raw = Raw::dial(listener.local_addr()).await;
        assert!(matches!(raw.handshake().await, Handshake::Challenge(_)));
        raw.send_handshake(frame).await;
        if confirms {
            raw.request(1, "r", "x", null()).await;
        }
        assert!(matches!(raw.handshake().await, Handshake::Error(_)));
        assert!(raw.closed().await.is_some());
    }
    assert!(server.units().is_empty());
    server.close().await;
}

#[tokio::test]
async fn limits_on_handshakes_units_and_connections() {
    const PATIENCE: Duration = Duration::from_secs(10);
    let server = Peer::builder()
        .limits(|limits| {
            limits.handshakes = 2;
            limits.units = 1;
            limits.connections_per_unit = 2;
            limits.handshake_timeout = PATIENCE;
        })
        .build()
        .unwrap();
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let mut watch = Watch::new(&server);
    let mut one = TcpStream::connect(listener.local_addr()).await.unwrap();
    let mut two = TcpStream::connect(listener.local_addr()).await.unwrap();
    until("two handshakes", || server.stats().handshakes == 2).await;
    // The oldest one is evicted, and that is reported.
    let mut three = TcpStream::connect(listener.local_addr()).await.unwrap();
    assert_eq!(within("the end", one.read(&mut [0; 1])).await.unwrap_or(0), 0);
    watch
        .next("the eviction", |event| match event {
            PeerEvent::AcceptFailed { error } => error.kind() == ErrorKind::Overloaded,
            _ => false,
        })
        .await;
    assert_eq!(server.stats().handshakes, 2);
    // One is too slow with the upgrade, the other too large.
    two.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
    let _ = two.write_all(&[b'x'; 20_000]).await;
    let mut answer = Vec::new();
    let _ = within("the answer", two.read_to_end(&mut answer)).await;
    assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    pass(PATIENCE).await;
    assert_eq!(within("the end", three.read(&mut [0; 1])).await.unwrap_or(0), 0);
    until("no handshakes", || server.stats().handshakes == 0).await;
    // Two connections of one unit, and nothing more.
    let client = peer("client");
    for _ in 0..2 {
        client.connect(listener.url()).await.unwrap();
    }
    for (dialer, text) in [(client.clone(), "Too many connections"), (peer("x"), "Too many units")]
    {
        let once = ConnectOptions::new().once();
        let outcome = dialer.connect_with(listener.url(), once).await;
        // The confirmation had been sent before: it may have been in for a moment.
        watch
            .next(text, |e| matches!(e, PeerEvent::AuthRefused { reason } if reason == text))
            .await;
        drop(outcome);
    }
    until("one unit", || server.units().len() == 1 && client.units().len() == 1).await;
    assert_eq!(server.units()[0].stats().connections.len(), 2);
    client.close().await;
    server.close().await;
}

#[tokio::test]
async fn events_of_units_and_destinations() {
    let server = peer("server");
    let client = peer("client");
    let mut watch = Watch::new(&client);
    client.destination("r").unwrap();
    client.destination("late").unwrap();
    echo(&server);
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    client.connect(listener.url()).await.unwrap();
    let names = |watch: &mut Watch| -> Vec<String> {
        let seen = watch.so_far().iter().map(|event| match event {
            PeerEvent::UnitOpened(unit) => format!("unit+ {}", unit.name()),
            PeerEvent::UnitClosed(unit) => format!("unit- {}", unit.name()),
            PeerEvent::DestinationOpened(role) => format!("open {role}"),
            PeerEvent::DestinationClosed(role) => format!("close {role}"),
            PeerEvent::DestinationGained { role, unit } => format!("{role}+ {}", unit.name()),
            PeerEvent::DestinationLost { role, unit } => format!("{role}- {}", unit.name()),
            PeerEvent::ConnectionClosed { unit, .. } => format!("conn- {}", unit.is_some()),
            other => format!("{other:?}"),
        });
        seen.collect()
    };
    watch.next("the role", |e| matches!(e, PeerEvent::DestinationGained { .. })).await;
    assert_eq!(names(&mut watch), ["unit+ server", "open r", "r+ server"]);
    watch.seen.clear();
    // Roles come and go; what is running goes on.
    let role = server.inactive_role("late").unwrap();
    assert!(!role.is_active());
    role.enable();
    watch.next("the role", |e| matches!(e, PeerEvent::DestinationGained { .. })).await;
    server.role("r").unwrap().disable();
    watch.next("its end", |e| matches!(e, PeerEvent::DestinationClosed(_))).await;
    assert_eq!(names(&mut watch), ["open late", "late+ server", "r- server", "close r"]);
    assert_eq!(*client.units()[0].roles(), ["late"]);
    let roles = server.roles();
    let roles: Vec<_> = roles.iter().map(|role| (role.name(), role.is_active())).collect();
    assert_eq!(roles, [("r", false), ("late", true)]);
    watch.seen.clear();
    // A second unit joins and leaves a destination that stays open.
    let second = peer("second");
    second.role("late").unwrap();
    let other = second.listen("127.0.0.1:0").await.unwrap();
    client.connect_with(other.url(), ConnectOptions::new().once()).await.unwrap();
    second.close().await;
    watch.next("its end", |e| matches!(e, PeerEvent::UnitClosed(_))).await;
    assert_eq!(
        names(&mut watch),
        ["unit+ second", "late+ second", "conn- true", "late- second", "unit- second"]
    );
    watch.seen.clear();
    server.units()[0].close().await;
    watch.next("its end", |e| matches!(e, PeerEvent::UnitClosed(_))).await;
    assert_eq!(
        names(&mut watch)[..4],
        ["conn- true", "late- server", "close late", "unit- server"]
    );
    client.close().await;
    server.close().await;
}

/// Subscribers that are too slow miss events and hear of it; at the end there is an end.
#[tokio::test]
async fn slow_subscribers() {
    let server = peer("server");
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let mut events = server.events();
    for _ in 0..1100 {
        TcpStream::connect(listener.local_addr()).await.unwrap();
    }
    until("all of them gone", || server.stats().handshakes == 0).await;
    server.close().await;
    drop((server, listener));
    let first = within("an event", events.next()).await;
    assert!(matches!(first, Some(PeerEvent::Missed(missed)) if missed > 0), "{first:?}");
    within("the end", async { while events.next().await.is_some() {} }).await;
}

#[tokio::test]
async fn closing() {
    let server = peer("server");
    echo(&server);
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let mut raw = Raw::join(listener.local_addr(), "raw", &[]).await;
    let mut half = Raw::dial(listener.local_addr()).await;
    let _ = half.confirmed().await;
    let reading = tokio::spawn(async move { (raw.closed().await, half.closed().await) });
    within("closing", server.close()).await;
    assert!(server.is_closed() && server.units().is_empty());
    let (frame, half) = within("the close frames", reading).await.unwrap();
    let frame = frame.expect("a close frame");
    assert_eq!((u16::from(frame.code), &*frame.reason), (4000, "intentionaly closed"));
    assert_eq!(u16::from(half.expect("a close frame").code), 4000);
    assert!(TcpStream::connect(listener.local_addr()).await.is_err());
    // Again, and dropped.
    within("closing", server.close()).await;
    let pair = Pair::new(|_| {}).await;
    drop(pair.server);
    until("the unit's end", || pair.client.units().is_empty()).await;
    pair.client.close().await;
}

#[tokio::test(start_paused = true)]
async fn somebody_who_does_not_answer_holds_up_closing_for_two_seconds() {
    let server = peer("server");
    let _silent = Raw::beside(&server, 4096, "silent", &[]).await;
    let begun = Instant::now();
    within("closing", server.close()).await;
    assert!((2000..2100).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

/// Who has everything need not answer the close frame; who was answered meanwhile may not have that yet.
#[tokio::test(start_paused = true)]
async fn a_peer_with_nothing_to_answer_is_drained_when_its_units_know_of_it() {
    for idle in [true, false] {
        let server = peer("server");
        echo(&server);
        let mut raw = Raw::beside(&server, 4096, "silent", &[]).await;
        let begun = Instant::now();
        let draining = tokio::spawn({
            let server = server.clone();
            async move { server.drain(LIMIT).await }
        });
        let fence = |message: &Message| matches!(message, Message::Ping(payload) if payload == "roletalk fence");
        while !fence(&raw.ws.next().await.unwrap().unwrap()) {}
        if !idle {
            raw.request(0, "r", "echo", null()).await;
        }
        // With the pong. From now on it reads no more.
        raw.ws.flush().await.unwrap();
        assert!(within("the drain", draining).await.unwrap());
        let elapsed = begun.elapsed();
        assert_eq!(elapsed < Duration::from_secs(1), idle, "{elapsed:?}");
    }
}

#[tokio::test]
async fn draining() {
    for (finishes, within_limit) in [(true, LIMIT), (false, Duration::from_millis(100))] {
        let go = Arc::new(Notify::new());
        let pair = Pair::new(|server| {
            let role = server.role("r").unwrap();
            let release = go.clone();
            role.on_request("wait", move |_| {
                let go = release.clone();
                async move {
                    go.notified().await;
                    Ok("done")
                }
            });
            role.on_readable("up", |request| async move {
                let mut stream = request.accept(())?;
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
                Ok(())
            });
        })
        .await;
        let mut running = pair.to.request("wait", ()).into_future();
        assert!(futures_util::poll!(&mut running).is_pending());
        let (mut stream, _) = pair.to.writable("up", ()).await.unwrap();
        let unit = pair.unit();
        until("the handlers", || pair.server.units()[0].stats().running == 2).await;
        let draining = tokio::spawn({
            let server = pair.server.clone();
            async move { server.drain(within_limit).await }
        });
        if !finishes {
            assert!(!within("the drain", draining).await.unwrap());
            assert_eq!(running.await.unwrap_err().kind(), ErrorKind::ConnectionLost);
            assert!(stream.write_all(b"x").await.is_err());
            drop(stream);
            pair.close().await;
            continue;
        }
        until("the role's end", || !pair.to.is_ready()).await;
        // What reaches it before its fence is answered is handled, and only it knows when that is.
        let rejected = within("a rejection", async {
            loop {
                if let Err(error) = pair.to.request("echo", ()).to(&unit).await {
                    break error;
                }
            }
        });
        let rejected = rejected.await;
        assert_eq!(rejected.text(), r#"The role "r" is disabled"#);
        assert!(!draining.is_finished());
        go.notify_one();
        assert_eq!(running.await.unwrap().parse::<String>().unwrap(), "done");
        stream.write_all(&vec![0; 1_000_000]).await.unwrap();
        assert!(!draining.is_finished());
        stream.shutdown().await.unwrap();
        drop(stream);
        assert!(within("the drain", draining).await.unwrap());
        assert!(pair.server.is_closed());
        pair.close().await;
    }
    // With nothing to do it ends at once.
    let pair = Pair::new(|_| {}).await;
    assert!(within("the drain", pair.server.drain(LIMIT)).await);
    pair.close().await;
}

/// The dialer is told when an address works again, and how often it did not.
#[tokio::test]
async fn reconnection_to_a_new_peer_on_the_same_port() {
    let pair = Pair::at(AGAIN, peer("server"), peer("client"), |_| {}).await;
    let address = pair.listener.local_addr();
    let mut watch = Watch::new(&pair.client);
    let before = pair.unit();
    pair.server.close().await;
    within("the end", before.closed()).await;
    let failed = watch.next("a failure", |e| matches!(e, PeerEvent::ReconnectFailed { .. })).await;
    let PeerEvent::ReconnectFailed { address: url, count, error } = failed else { unreachable!() };
    assert_eq!(&*url, pair.listener.url());
    assert_eq!(error.kind(), ErrorKind::ConnectFailed);
    let server = peer("new");
    echo(&server);
    server.listen(address).await.unwrap();
    let came = watch.next("success", |e| matches!(e, PeerEvent::ReconnectSucceeded { .. })).await;
    let PeerEvent::ReconnectSucceeded { count: now, unit, .. } = came else { unreachable!() };
    assert!(now > count, "{now} after {count}");
    assert_ne!(unit, before);
    assert_eq!((unit.id(), &*unit.name()), (server.id(), "new"));
    assert!(pair.to.request("echo", 1).await.is_ok());
    assert_eq!(pair.client.stats().reconnects, 1);
    assert!(!before.is_open());
    // Closed by this side, it is not dialed again.
    within("closing", unit.close()).await;
    let again = tokio::time::timeout(Duration::from_millis(100), async {
        watch.next("nothing", |e| matches!(e, PeerEvent::UnitOpened(_))).await
    });
    assert!(again.await.is_err(), "a unit that was closed came back");
    pair.client.close().await;
    server.close().await;
}

#[tokio::test]
async fn a_refusal_is_tried_again_too() {
    let server = Peer::builder().preshared_key("k", "right").build().unwrap();
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let client = peer("client");
    let mut watch = Watch::new(&client);
    let error = client.connect(listener.url()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AuthRefused);
    watch.next("a second try", |e| matches!(e, PeerEvent::ReconnectFailed { .. })).await;
    client.add_preshared_key("k", "right").unwrap();
    watch.next("success", |e| matches!(e, PeerEvent::ReconnectSucceeded { .. })).await;
    assert_eq!(client.units().len(), 1);
    client.close().await;
    server.close().await;
}

/// A and B listen; C and B know A, and want what the other one serves.
#[tokio::test]
async fn acquaintance() {
    let build = |name: &str, friendly| {
        let peer = Peer::builder().name(name).friendly(friendly).build().unwrap();
        peer.role(name).unwrap();
        peer
    };
    let a = build("a", true);
    let b = build("b", true);
    let at_a = a.listen("127.0.0.1:0").await.unwrap();
    let at_b = b.listen("127.0.0.1:0").await.unwrap();
    // A has dialed B, so it can tell of it.
    a.connect(at_b.url()).await.unwrap();
    // C is interested in B's role and hears of it; D is not, E does not want to be told.
    let c = build("c", true);
    let to_b = c.destination("b").unwrap();
    c.connect(at_a.url()).await.unwrap();
    within("acquaintance", to_b.ready()).await.unwrap();
    assert_eq!(to_b.units()[0].id(), b.id());
    until("the other side", || b.units().iter().any(|unit| unit.id() == c.id())).await;
    let d = build("d", true);
    d.connect(at_a.url()).await.unwrap();
    let e = build("e", false);
    e.destination("b").unwrap();
    e.connect(at_a.url()).await.unwrap();
    // Nobody can tell of C, D or E: A has not dialed them.
    let to_c = b.destination("c").unwrap();
    let f = build("f", true);
    f.destination("c").unwrap();
    f.connect(at_a.url()).await.unwrap();
    // What A says reaches them before its answer to a request does.
    for peer in [&d, &e, &f] {
        let to = peer.destination("a").unwrap();
        to.ready().await.unwrap();
        assert!(to.request("x", ()).await.is_err());
        assert_eq!(peer.units().len(), 1, "{:?}", peer.units());
    }
    assert_eq!(to_c.units().len(), 1, "C has dialed B itself");
    for peer in [a, b, c, d, e, f] {
        within("closing", peer.close()).await;
    }
}

/// What is told to whom, frame by frame; and an unfriendly peer tells nothing.
#[tokio::test]
async fn acquaintance_frame_by_frame() {
    for friendly in [true, false] {
        let teller = Peer::builder().friendly(friendly).build().unwrap();
        let listener = teller.listen("127.0.0.1:0").await.unwrap();
        let dialed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", dialed.local_addr().unwrap());
        let once = ConnectOptions::new().once();
        let (connected, mut other) = tokio::join!(teller.connect_with(&url, once), async {
            let mut raw = Raw::accept(&dialed).await;
            raw.confirm("dialed", &["x", "y"]).await;
            assert_eq!(raw.confirmed().await.friendly, friendly);
            raw
        });
        connected.unwrap();
        let mut newcomer = Raw::join(listener.local_addr(), "newcomer", &["z"]).await;
        // Something after it, so that the absence of a frame can be seen.
        newcomer.request(1, "nope", "", null()).await;
        let told = newcomer
            .frame(|frame| match frame {
                Frame::Acquaint(told) => Some(Some(told)),
                Frame::Reject { .. } => Some(None),
                _ => None,
            })
            .await;
        let expected = Acquaint {
            id: "dialed".into(),
            address: Some(url),
            roles: vec!["x".into(), "y".into()],
        };
        assert_eq!(told, friendly.then_some(expected), "friendly: {friendly}");
        // It came by itself: nobody is told of it.
        other.request(1, "nope", "", null()).await;
        other
            .frame(|frame| {
                assert!(!matches!(frame, Frame::Acquaint(_)), "{frame:?}");
                matches!(frame, Frame::Reject { .. }).then_some(())
            })
            .await;
        within("closing", async {
            drop((newcomer, other));
            teller.close().await;
        })
        .await;
    }
}

/// What a unit tells may be narrowed; a name is judged by what it resolves to.
#[tokio::test]
async fn acquaintance_is_no_tool_for_others() {
    let (teller, subject) = (peer("teller"), peer("subject"));
    subject.role("x").unwrap();
    let at_teller = teller.listen("127.0.0.1:0").await.unwrap();
    let at_subject = subject.listen("127.0.0.1:0").await.unwrap();
    let named = format!("ws://localhost:{}", at_subject.local_addr().port());
    within("connecting", teller.connect(named)).await.unwrap();
    // All are on one machine.
    let near = Peer::builder().build().unwrap();
    near.connect(at_teller.url()).await.unwrap();
    within("acquaintance", near.destination("x").unwrap().ready()).await.unwrap();
    assert_eq!(near.stats().addresses_ignored, 0);
    let by_address = Peer::builder().acquaintance_networks("public, 10.0.0.0/8");
    let by_port = Peer::builder().acquaintance_ports("1-9");
    for builder in [by_address, by_port] {
        let narrow = builder.build().unwrap();
        narrow.destination("x").unwrap();
        narrow.connect(at_teller.url()).await.unwrap();
        until("what is ignored", || narrow.stats().addresses_ignored > 0).await;
        assert_eq!(narrow.units().len(), 1);
        within("closing", narrow.close()).await;
    }
    for unusable in [
        Peer::builder().acquaintance_networks("intranet").acquaintance_ports("9000"),
        Peer::builder().acquaintance_networks("near").acquaintance_ports("0"),
    ] {
        assert_eq!(unusable.build().unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    for peer in [near, teller, subject] {
        within("closing", peer.close()).await;
    }
}

/// Told addresses that lead nowhere are bounded and given up.
#[tokio::test]
async fn acquaintance_with_the_dead() {
    let peer = Peer::builder()
        .limits(|limits| {
            limits.acquaintance_addresses = 2;
            limits.acquaintance_dials = 1;
        })
        .build()
        .unwrap();
    peer.destination("x").unwrap();
    let listener = peer.listen("127.0.0.1:0").await.unwrap();
    let mut liar = Raw::join(listener.local_addr(), "liar", &[]).await;
    let accepting = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = accepting.local_addr().unwrap().port();
    for n in 0..20 {
        let address = Some(format!("ws://127.0.0.1:{port}/{n}"));
        let told = Acquaint { id: format!("id{n}"), address, roles: vec!["x".into()] };
        liar.send_frame(&Frame::Acquaint(told)).await;
    }
    liar.request(1, "nope", "", null()).await;
    liar.frame(|frame| matches!(frame, Frame::Reject { .. }).then_some(())).await;
    // One at a time: the second only when the first has failed.
    let (first, _) = within("a dial", accepting.accept()).await.unwrap();
    let second = tokio::time::timeout(Duration::from_millis(50), accepting.accept()).await;
    assert!(second.is_err(), "two at a time");
    drop(first);
    within("the next dial", accepting.accept()).await.unwrap();
    within("closing", async {
        drop(liar);
        peer.close().await;
    })
    .await;
}

#[tokio::test]
async fn roles_that_change_during_the_handshake_are_announced() {
    let server = peer("server");
    server.role("first").unwrap();
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let mut raw = Raw::dial(listener.local_addr()).await;
    let confirm = raw.confirmed().await;
    assert_eq!(confirm.roles, ["first"]);
    // Ours has been sent, theirs has not.
    server.role("second").unwrap();
    server.role("first").unwrap().disable();
    raw.confirm("raw", &[]).await;
    let mut last = Some(0);
    // Several changes may come as one announcement, or as several.
    for expected in [&["second"][..], &["second", "third"]] {
        loop {
            let update = raw.roles().await;
            assert!(update.i > last, "{update:?} after {last:?}");
            last = update.i;
            if update.roles == expected {
                break;
            }
        }
        if expected.len() == 1 {
            server.role("third").unwrap();
        }
    }
    // And the other way: stale ones do not count.
    let to = server.destination("x").unwrap();
    for (i, roles) in [(Some(5), vec!["x"]), (Some(4), vec![]), (Some(5), vec![])] {
        let roles = roles.into_iter().map(str::to_owned).collect();
        raw.send_frame(&Frame::Roles(RolesUpdate { i, roles })).await;
    }
    within("the role", to.ready()).await.unwrap();
    raw.request(1, "nope", "", null()).await;
    raw.frame(|frame| matches!(frame, Frame::Reject { .. }).then_some(())).await;
    assert!(to.is_ready());
    raw.send_frame(&Frame::Roles(RolesUpdate { i: None, roles: vec![] })).await;
    until("its end", || !to.is_ready()).await;
    within("closing", async {
        drop(raw);
        server.close().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn heartbeats() {
    let server = peer("server");
    let mut watch = Watch::new(&server);
    // One that is never read from, and so never answers; one that does.
    let begun = Instant::now();
    let mut dead = Raw::beside(&server, 4096, "dead", &[]).await;
    let mut alive = Raw::beside(&server, 4096, "alive", &[]).await;
    // Its own pings are answered with what they carry.
    alive.ws.send(Message::Ping(b"abc"[..].into())).await.unwrap();
    let pong = within("a pong", alive.ws.next()).await;
    assert!(matches!(&pong, Some(Ok(Message::Pong(bytes))) if &bytes[..] == b"abc"), "{pong:?}");
    let answering = tokio::spawn(async move { alive.closed().await });
    let closed = watch.next("its end", |e| matches!(e, PeerEvent::ConnectionClosed { .. })).await;
    let took = begun.elapsed();
    let PeerEvent::ConnectionClosed { unit, reason } = closed else { unreachable!() };
    assert_eq!(&*unit.unwrap().id(), "dead");
    assert_eq!(reason.kind(), ErrorKind::HeartbeatTimeout);
    assert!((7000..7100).contains(&took.as_millis()), "after {took:?}");
    let frame = dead.closed().await.unwrap();
    assert_eq!((u16::from(frame.code), &*frame.reason), (4001, "PING TIMEOUT"));
    assert_eq!(server.units().len(), 1);
    assert!(server.units()[0].round_trip().is_some());
    within("closing", server.close()).await;
    assert_eq!(u16::from(within("its end", answering).await.unwrap().unwrap().code), 4000);
}

/// Messages that take longer than the heartbeat has patience, in both directions: no ping can be
/// answered in their midst.
#[tokio::test(start_paused = true)]
async fn long_messages_outlast_the_heartbeat() {
    let server = peer("server");
    echo(&server);
    let mut watch = Watch::new(&server);
    let sending = async {
        let mut raw = Raw::beside(&server, 4096, "sending", &[]).await;
        let mut frame = Vec::new();
        let payload =
            roletalk_engine::wire::Payload { kind: DataType::Binary, bytes: &[0; 20_000] };
        let request =
            Frame::Request { role: "r".into(), event: "echo".into(), corr: Num::new(0), payload };
        request.encode(&mut frame);
        let len = u16::try_from(frame.len()).unwrap().to_be_bytes();
        let stream = raw.ws.get_mut();
        stream.write_all(&[0x82, 0x80 | 126, len[0], len[1], 0, 0, 0, 0]).await.unwrap();
        for piece in frame.chunks(frame.len() / 18 + 1) {
            stream.write_all(piece).await.unwrap();
            // Slow is what this is about.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        raw.frame(|frame| matches!(frame, Frame::Response { .. }).then_some(())).await;
        raw
    };
    let receiving = async {
        let mut raw = Raw::beside(&server, 64 << 10, "receiving", &["big"]).await;
        let to = server.destination("big").unwrap();
        within("the role", to.ready()).await.unwrap();
        to.send("", vec![0; 60 << 20]).await.unwrap();
        let mut piece = vec![0; 2 << 20];
        for _ in 0..18 {
            within("bytes", raw.ws.get_mut().read_exact(&mut piece)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        raw
    };
    let raws = tokio::join!(sending, receiving);
    for event in watch.so_far() {
        assert!(!matches!(event, PeerEvent::ConnectionClosed { .. }), "{event:?}");
    }
    assert_eq!(server.units().len(), 2);
    drop(raws);
    within("closing", server.close()).await;
}

/// The runtime goes, the peers do not know: nothing hangs and nothing panics.
#[test]
fn a_peer_can_be_used_from_any_runtime() {
    let own = tokio::runtime::Runtime::new().unwrap();
    let (server, client) = {
        let _own = own.enter();
        (peer("server"), peer("client"))
    };
    echo(&server);
    // One without sockets and timers.
    let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
    other.block_on(async {
        let listener = server.listen("127.0.0.1:0").await.unwrap();
        client.connect(listener.url()).await.unwrap();
        let to = client.destination("r").unwrap();
        to.ready().await.unwrap();
        assert_eq!(to.request("echo", 1).timeout(LIMIT).await.unwrap().parse::<u8>().unwrap(), 1);
        let (ours, theirs) = tokio::io::duplex(1024);
        drop(ours);
        server.accept(theirs).await.unwrap();
        assert!(client.drain(LIMIT).await);
        server.close().await;
    });
}

#[test]
fn a_runtime_that_is_dropped() {
    for threads in [0, 2] {
        let mut builder = match threads {
            0 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = builder.enable_all().build().unwrap();
        let (pair, events) = runtime.block_on(async {
            let pair = Pair::new(never).await;
            for _ in 0..3 {
                let to = pair.to.clone();
                tokio::spawn(async move { to.request("never", ()).await.map(drop) });
            }
            until("requests", || pair.server.units()[0].stats().running == 3).await;
            let events = pair.client.events();
            (pair, events)
        });
        drop(runtime);
        // Whoever comes from another runtime is told that it is over.
        let other = tokio::runtime::Runtime::new().unwrap();
        other.block_on(async {
            let url = pair.listener.url().to_owned();
            let error = within("an error", pair.client.connect(url)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Closed);
            let error = within("an error", pair.to.request("echo", 1).into_future()).await;
            assert!(error.is_err());
            assert!(pair.to.send("x", ()).await.is_err());
            pair.close().await;
        });
        drop(events);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_peers_in_one_process() {
    const COUNT: usize = 40;
    let hub = peer("hub");
    echo(&hub);
    let listener = hub.listen("127.0.0.1:0").await.unwrap();
    let got = Log::new();
    let clients: Vec<Peer> = (0..COUNT).map(|n| peer(&format!("client {n}"))).collect();
    for client in &clients {
        let got = got.clone();
        client.role("all").unwrap().on_message("m", move |ctx| {
            got.push(ctx.unit().name());
            async { Ok(()) }
        });
    }
    let connecting = clients.iter().map(|client| client.connect(listener.url()));
    for connected in futures_util::future::join_all(connecting).await {
        connected.unwrap();
    }
    let all = hub.destination("all").unwrap();
    until("all of them", || all.units().len() == COUNT).await;
    let asking = clients.iter().map(|client| async {
        let to = client.destination("r").unwrap();
        for n in 0..20 {
            assert_eq!(to.request("echo", n).await.unwrap().parse::<i32>().unwrap(), n);
        }
    });
    within("answers", futures_util::future::join_all(asking)).await;
    assert_eq!(all.broadcast("m", ()).await.unwrap(), COUNT);
    until("the messages", || got.len() == COUNT).await;
    let closing = clients.iter().map(Peer::close);
    within("closing", futures_util::future::join_all(closing)).await;
    until("nobody", || hub.units().is_empty()).await;
    hub.close().await;
}
