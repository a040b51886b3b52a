//! Who gets in, who it is, and what it may do, over real sockets and TLS.

mod common;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use common::{Authority, LIMIT, Log, Raw, Watch, peer, until, within};
use roletalk::{
    ChannelBinding, Claims, ConnectOptions, Denied, Destination, Error, ErrorKind, ListenOptions,
    Listener, Peer, PeerBuilder, PeerEvent, PeerKey, Policy, Remote, Result, TlsClient, TlsServer,
    Unit,
};
use roletalk_engine::wire::{Challenge, Handshake};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// One that gives a busy machine time for the handshake.
fn builder(name: &str) -> PeerBuilder {
    Peer::builder().name(name).friendly(false).limits(|limits| limits.handshake_timeout = LIMIT)
}

fn keyed(name: &str) -> PeerBuilder {
    builder(name).preshared_key(name, "secret")
}

fn guarded(policy: &str) -> Peer {
    let policy = Policy::parse(policy).unwrap();
    keyed("a").name("server").preshared_key("b", "secret").policy(policy).build().unwrap()
}

async fn listen(peer: &Peer) -> Listener {
    peer.listen("127.0.0.1:0").await.unwrap()
}

fn once() -> ConnectOptions {
    ConnectOptions::new().once()
}

async fn close(peers: impl IntoIterator<Item = Peer>) {
    for peer in peers {
        within("closing", peer.close()).await;
    }
}

/// The other end, as this peer sees it.
async fn unit_of(here: &Peer, there: &Peer) -> Unit {
    let find = || here.units().into_iter().find(|unit| unit.id() == there.id());
    until("the unit", || find().is_some()).await;
    find().unwrap()
}

fn is_denied(event: &PeerEvent) -> bool {
    matches!(event, PeerEvent::Denied { .. })
}

async fn next_denial(events: &mut Watch) -> (String, String) {
    match events.next("a denial", is_denied).await {
        PeerEvent::Denied { unit, denial } => (unit.name(), denial.to_string()),
        event => panic!("{event:?}"),
    }
}

// Calls.

const KINDS: [&str; 6] = ["message", "request", "readable", "writable", "broadcast", "survey"];

/// Calls in one of these ways. Of messages nobody hears what has become of them.
async fn call(to: &Destination, kind: &str, event: &str) -> Result<()> {
    match kind {
        "message" => to.send(event, 1).await.map(drop),
        "request" => to.request(event, 1).await.map(drop),
        "readable" => to.readable(event, 1).await.map(drop),
        "writable" => to.writable(event, 1).await.map(drop),
        "broadcast" => {
            assert_eq!(to.broadcast(event, 1).await?, 1);
            Ok(())
        }
        "survey" => {
            let mut answers = to.survey(event, 1).all().await;
            assert_eq!(answers.len(), 1);
            answers.remove(0).1.map(drop)
        }
        kind => panic!("{kind}"),
    }
}

/// Handles these events, whatever their kind, and logs which came.
fn handle(peer: &Peer, events: &[&str]) -> Log<String> {
    let log = Log::new();
    let role = peer.role("r").unwrap();
    for event in events {
        let came = || (log.clone(), (*event).to_owned());
        let (message, request, readable, writable) = (came(), came(), came(), came());
        role.on_message(event, move |_| {
            message.0.push(message.1.clone());
            async { Ok(()) }
        });
        role.on_request(event, move |_| {
            request.0.push(request.1.clone());
            async { Ok(1) }
        });
        role.on_readable(event, move |request| {
            readable.0.push(readable.1.clone());
            async move { Ok(request.accept(()).map(drop)?) }
        });
        role.on_writable(event, move |request| {
            writable.0.push(writable.1.clone());
            async move { Ok(request.accept(()).map(drop)?) }
        });
    }
    log
}

fn assert_denied(what: &str, outcome: Result<()>) {
    let error = outcome.expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Rejected, "{what}: {error}");
    assert_eq!(error.code(), Some("NOT_ALLOWED"), "{what}: {error}");
    assert!(error.is_unhandled(), "{what}: {error}");
    assert!(error.text().contains("Not allowed by the policy of the peer"), "{what}: {error}");
}

#[tokio::test]
async fn every_kind_of_call_is_allowed_or_denied() {
    let server = guarded(r#"{"rules": [{"who": {"key": "a"}, "call": ["r/open"]}]}"#);
    let client = keyed("a").build().unwrap();
    let log = handle(&server, &["open", "shut"]);
    let mut events = Watch::new(&server);
    client.connect(listen(&server).await.url()).await.unwrap();
    let to = client.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    let unit = unit_of(&server, &client).await;
    for (at, kind) in KINDS.into_iter().enumerate() {
        let outcome = within(kind, call(&to, kind, "shut")).await;
        match kind {
            "message" | "broadcast" => outcome.unwrap(),
            _ => assert_denied(kind, outcome),
        }
        // It comes behind the other, which was judged by then.
        within(kind, call(&to, kind, "open")).await.unwrap();
        until(kind, || log.len() > at).await;
        assert_eq!(unit.stats().denied, at as u64 + 1, "{kind}");
    }
    assert_eq!(log.all(), ["open"; KINDS.len()]);
    let (name, denial) = next_denial(&mut events).await;
    assert_eq!((&*name, &*denial), ("a", r#"may not call "r" / "shut" (message)"#));
    // Others are allowed nothing at all.
    let other = keyed("b").build().unwrap();
    other.connect(listen(&server).await.url()).await.unwrap();
    let to = other.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    for kind in ["request", "readable", "writable", "survey"] {
        assert_denied(kind, within(kind, call(&to, kind, "open")).await);
    }
    close([client, other, server]).await;
}

#[tokio::test]
async fn another_policy_is_in_force_at_once() {
    let server = guarded(r#"{"default": "deny", "rules": []}"#);
    let client = keyed("a").build().unwrap();
    handle(&server, &["e"]);
    client.connect(listen(&server).await.url()).await.unwrap();
    let to = client.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    assert_denied("at first", call(&to, "request", "e").await);
    server.set_policy(Policy::parse(r#"{"default": "allow"}"#).unwrap());
    call(&to, "request", "e").await.unwrap();
    server.set_policy(Policy::parse("{}").unwrap());
    assert_denied("again", call(&to, "request", "e").await);
    server.set_policy(None);
    call(&to, "request", "e").await.unwrap();
    close([client, server]).await;
}

#[tokio::test]
async fn a_stranger_that_announces_a_role_is_asked_nothing() {
    let policy = r#"{"default": {"call": "allow"}, "rules": [
        {"who": {"key": "a"}, "serve": ["r"]}
    ]}"#;
    let server = guarded(policy);
    let listener = listen(&server).await;
    let mut events = Watch::new(&server);
    let (good, stranger) = (keyed("a").build().unwrap(), keyed("b").build().unwrap());
    let (of_good, of_stranger) = (handle(&good, &["e"]), handle(&stranger, &["e"]));
    stranger.connect(listener.url()).await.unwrap();
    let told = next_denial(&mut events).await;
    assert_eq!(told, ("b".to_owned(), r#"may not serve the role "r""#.to_owned()));
    let to = server.destination("r").unwrap();
    assert_eq!(call(&to, "request", "e").await.unwrap_err().kind(), ErrorKind::NoUnit);
    good.connect(listener.url()).await.unwrap();
    within("the role", to.ready()).await.unwrap();
    for _ in 0..10 {
        call(&to, "request", "e").await.unwrap();
    }
    // Of those who serve it there is one.
    for kind in KINDS {
        within(kind, call(&to, kind, "e")).await.unwrap();
    }
    until("all of them", || of_good.len() == 10 + KINDS.len()).await;
    assert_eq!(of_stranger.len(), 0);
    // One that is added later, on a connection that is up.
    stranger.role("later").unwrap();
    let told = next_denial(&mut events).await;
    assert_eq!(told.1, r#"may not serve the role "later""#);
    assert!(!server.destination("later").unwrap().is_ready());
    // With permission it is there at once, and gone without.
    server.set_policy(Policy::parse(r#"{"default": "allow"}"#).unwrap());
    assert_eq!(to.units().len(), 2);
    server.set_policy(Policy::parse(policy).unwrap());
    assert_eq!(to.units(), [unit_of(&server, &good).await]);
    close([good, stranger, server]).await;
}

// Upgrades by hand.

/// Asks for an upgrade with these headers, and gives the status of the answer; none when there is no answer.
async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    headers: &[&str],
) -> Option<u16> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let request = format!(
        "GET /some/path?query HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.ok()?;
    let head = std::str::from_utf8(&head).unwrap();
    Some(head.strip_prefix("HTTP/1.1 ").unwrap().parse().unwrap())
}

async fn upgrade_at(address: SocketAddr, headers: &[&str]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    within("the answer", upgrade(&mut stream, headers)).await
}

#[tokio::test]
async fn pages_of_foreign_origins_are_refused() {
    let (evil, app) = ("Origin: https://evil.example", "Origin: https://app.example");
    for (allowed, cases) in [
        (None, &[(None, 101), (Some(evil), 403), (Some(app), 403)][..]),
        (Some("https://app.example"), &[(None, 101), (Some(evil), 403), (Some(app), 101)]),
        (Some("*"), &[(None, 101), (Some(evil), 101), (Some("Origin: null"), 101)]),
    ] {
        let mut server = builder("server");
        if let Some(origin) = allowed {
            server = server.allow_origin(origin);
        }
        let server = server.build().unwrap();
        let mut events = Watch::new(&server);
        let listener = listen(&server).await;
        for (origin, expected) in cases {
            let headers: Vec<&str> = origin.iter().copied().collect();
            let status = upgrade_at(listener.local_addr(), &headers).await;
            assert_eq!(status, Some(*expected), "{allowed:?} {origin:?}");
            if *expected == 403 {
                let foreign = |event: &PeerEvent| matches!(event, PeerEvent::ConnectionClosed { reason, .. } if reason.text().contains("is foreign"));
                events.next("why", foreign).await;
            }
        }
        close([server]).await;
    }
    assert!(builder("x").allow_origin("https://a.example/path").build().is_err());
}

// The application's judgement.

fn claims(sub: &str) -> Claims {
    Claims::from_iter([("sub".to_owned(), sub.into())])
}

fn bearer(token: &str) -> ConnectOptions {
    once().header("authorization", &format!("Bearer {token}")).unwrap()
}

#[tokio::test]
async fn the_application_judges_upgrades() {
    let later = Arc::new(Notify::new());
    let hook = later.clone();
    let policy = r#"{"rules": [{"who": {"claim": {"sub": "billing"}}, "call": ["r/*"]}]}"#;
    let server = builder("server")
        .policy(Policy::parse(policy).unwrap())
        .identity_header("X-Team")
        .authenticate(move |request| {
            assert!(request.path == "/" || request.path == "/some/path", "{}", request.path);
            assert_eq!(request.address.unwrap().ip().to_string(), "127.0.0.1");
            let token = request.bearer().map(str::to_owned);
            assert_ne!(token.as_deref(), Some("panics at once"), "on purpose");
            let later = hook.clone();
            async move {
                match token.as_deref() {
                    Some("billing") => Ok(claims("billing")),
                    Some("later") => {
                        later.notified().await;
                        Ok(claims("later"))
                    }
                    Some("panics") => panic!("on purpose"),
                    Some("too much") => Ok(claims(&"x".repeat(9000))),
                    Some("teapot") => Err(Denied { status: 418, reason: "tea".to_owned() }),
                    Some(_) => Err(Denied::new("another")),
                    None => Err(Denied { status: 401, reason: "no token".to_owned() }),
                }
            }
        })
        .build()
        .unwrap();
    handle(&server, &["e"]);
    let mut events = Watch::new(&server);
    let listener = listen(&server).await;
    for (token, status, reason) in [
        (None, 401, "no token"),
        (Some("teapot"), 418, "tea"),
        (Some("whatever"), 403, "another"),
        (Some("panics"), 500, "panicked"),
        (Some("panics at once"), 500, "panicked"),
        (Some("too much"), 500, "8192 are allowed"),
    ] {
        let header = token.map(|token| format!("Authorization: Bearer {token}"));
        let headers: Vec<&str> = header.as_deref().into_iter().collect();
        let answered = upgrade_at(listener.local_addr(), &headers).await;
        assert_eq!(answered, Some(status), "{token:?}");
        let closed = |event: &PeerEvent| matches!(event, PeerEvent::ConnectionClosed { .. });
        match events.next("why", closed).await {
            PeerEvent::ConnectionClosed { reason: told, .. } => {
                assert!(told.text().contains(reason), "{token:?}: {told}");
            }
            event => panic!("{event:?}"),
        }
    }
    // The dialer hears of the status alone.
    let client = builder("client").build().unwrap();
    let refused = within("the refusal", client.connect_with(listener.url(), bearer("teapot")));
    let refused = refused.await.unwrap_err();
    assert!(refused.text().contains("418") && !refused.text().contains("tea"), "{refused}");
    // Claims are part of the identity, and the policy goes by them.
    let options = bearer("billing").header("x-team", "red").unwrap();
    within("connecting", client.connect_with(listener.url(), options)).await.unwrap();
    let to = client.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    call(&to, "request", "e").await.unwrap();
    let identity = unit_of(&server, &client).await.identity();
    assert_eq!(identity.claims, claims("billing"));
    assert_eq!(identity.headers, [("x-team".to_owned(), "red".to_owned())]);
    // Others are let in by another, and may do nothing. Nothing goes on before the verdict.
    let other = builder("other").build().unwrap();
    let dialing = tokio::spawn({
        let (other, url) = (other.clone(), listener.url().to_owned());
        async move { other.connect_with(url, bearer("later")).await }
    });
    until("the question", || server.stats().handshakes == 1).await;
    later.notify_one();
    within("connecting", dialing).await.unwrap().unwrap();
    let to = other.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    assert_denied("another", call(&to, "request", "e").await);
    close([client, other, server]).await;
}

/// Says when it is dropped.
struct Dropped(Log<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.push(());
    }
}

#[tokio::test(start_paused = true)]
async fn a_verdict_that_does_not_come_is_a_refusal() {
    const PATIENCE: Duration = Duration::from_secs(4);
    let (asked, dropped) = (Log::new(), Log::new());
    let (hook_asked, hook_dropped) = (asked.clone(), dropped.clone());
    let server = Peer::builder()
        .limits(|limits| limits.handshake_timeout = PATIENCE)
        .authenticate(move |_| {
            hook_asked.push(());
            let dropped = Dropped(hook_dropped.clone());
            async move {
                std::future::pending::<()>().await;
                drop(dropped);
                Ok(Claims::new())
            }
        })
        .build()
        .unwrap();
    let mut events = Watch::new(&server);
    let (mut ours, theirs) = tokio::io::duplex(1 << 16);
    let accepting = server.clone();
    let served = tokio::spawn(async move { accepting.accept(theirs).await });
    let begun = tokio::time::Instant::now();
    let status = upgrade(&mut ours, &[]).await;
    assert!(matches!(status, None | Some(503)), "{status:?}");
    assert_eq!(begun.elapsed(), PATIENCE);
    let closed = |event: &PeerEvent| matches!(event, PeerEvent::ConnectionClosed { .. });
    events.next("the end", closed).await;
    drop(ours);
    served.await.unwrap().unwrap();
    until("the end of the hook", || dropped.len() == 1).await;
    assert_eq!((asked.len(), server.units().len(), server.stats().handshakes), (1, 0, 0));
    server.close().await;
}

#[tokio::test]
async fn what_the_hook_owns_ends_with_the_peer() {
    let dropped = Log::new();
    let owned = Dropped(dropped.clone());
    let server = builder("server")
        .authenticate(move |_| {
            let _owned = &owned;
            async { Ok(Claims::new()) }
        })
        .build()
        .unwrap();
    let client = builder("client").build().unwrap();
    client.connect(listen(&server).await.url()).await.unwrap();
    let kept = unit_of(&server, &client).await;
    assert_eq!(dropped.len(), 0);
    close([server, client]).await;
    assert_eq!(dropped.len(), 1);
    assert!(!kept.is_open());
}

// Identities.

fn tls(authority: &Authority, names: &[&str]) -> TlsClient {
    let (chain, key) = authority.issue(names);
    TlsClient::new().ca(authority.pem()).identity(chain, key).server_name("localhost")
}

/// Serves TLS, and demands certificates of this authority.
async fn listen_tls(peer: &Peer, authority: &Authority) -> Listener {
    let (chain, key) = authority.issue(&["localhost"]);
    let tls = TlsServer::with_client_ca(&chain, &key, &authority.pem()).unwrap();
    peer.listen_with("127.0.0.1:0", ListenOptions::new().tls(tls)).await.unwrap()
}

#[test]
fn the_example_of_the_guide_is_a_policy() {
    let guide = include_str!("../../docs/POLICY.md");
    let (_, rest) = guide.split_once("```json\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    Policy::parse(example).unwrap();
}

#[tokio::test]
async fn both_ends_know_what_the_other_has_shown() {
    let authority = Authority::new();
    let server = keyed("k#1").identity_header("x-kept").build().unwrap();
    let own = PeerKey::from_secret(&[7; 32]);
    let client = keyed("k#1").peer_key(own.clone()).build().unwrap();
    assert!(client.id().starts_with(own.name()));
    let listener = listen_tls(&server, &authority).await;
    let options = once()
        .tls(tls(&authority, &["billing.example"]))
        .header("x-kept", "yes")
        .unwrap()
        .header("x-other", "no")
        .unwrap();
    let connected = within("connecting", client.connect_with(listener.url(), options)).await;
    let dialed = connected.unwrap().unit().identity();
    let unit = unit_of(&server, &client).await;
    let accepted = unit.identity();
    for identity in [&dialed, &accepted] {
        assert_eq!((identity.key.as_deref(), identity.key_name()), (Some("k#1"), Some("k")));
    }
    assert!(dialed.dialed && !accepted.dialed);
    assert_eq!((dialed.peer.as_deref(), accepted.peer.as_deref()), (None, Some(own.name())));
    assert_eq!(dialed.address, Some(listener.local_addr()));
    assert_eq!(dialed.certificate.as_ref().unwrap().names, ["dns:localhost"]);
    let certificate = accepted.certificate.as_ref().unwrap();
    assert_eq!(certificate.names, ["dns:billing.example"]);
    assert_eq!(certificate.fingerprint.len(), 64);
    assert!(certificate.expires > 1_000_000_000);
    assert!(accepted.address.unwrap().ip().is_loopback());
    assert_eq!(accepted.headers, [("x-kept".to_owned(), "yes".to_owned())]);
    // A certificate that is not verified says nothing: anybody can write any name into one.
    let careless = tls(&authority, &["billing.example"]).danger_accept_any_certificate();
    let careless = once().tls(careless);
    let stranger = keyed("k#1").build().unwrap();
    let connected = within("careless", stranger.connect_with(listener.url(), careless)).await;
    assert_eq!(connected.unwrap().unit().identity().certificate, None);
    close([stranger]).await;
    // A second connection of the same, from another port.
    let again = once().tls(tls(&authority, &["billing.example"]));
    within("again", client.connect_with(listen_tls(&server, &authority).await.url(), again))
        .await
        .unwrap();
    until("both", || unit.identities().len() == 2).await;
    let identities = unit.identities();
    assert_ne!(identities[0].1.address, identities[1].1.address);
    assert!(identities.iter().all(|(_, identity)| identity.key == accepted.key));
    close([client, server]).await;
}

#[tokio::test]
async fn a_policy_goes_by_certificates_and_addresses() {
    let authority = Authority::new();
    let server = builder("server").build().unwrap();
    handle(&server, &["e"]);
    let listener = listen_tls(&server, &authority).await;
    let client = builder("client").build().unwrap();
    let options = ConnectOptions::new().tls(tls(&authority, &["billing.example"]));
    within("connecting", client.connect_with(listener.url(), options)).await.unwrap();
    let to = client.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    for (who, allowed) in [
        (r#"{"certificate": "dns:billing.example"}"#, true),
        (r#"{"certificate": "dns:*.example"}"#, true),
        (r#"{"certificate": "dns:other.example"}"#, false),
        (r#"{"certificate": "uri:billing.example"}"#, false),
        (r#"{"address": "127.0.0.0/8"}"#, true),
        (r#"{"address": "10.0.0.0/8"}"#, false),
        (r#"{"certificate": "dns:billing.example", "address": "10.0.0.0/8"}"#, false),
        (r#"{"key": "*"}"#, false),
        (r#""any""#, true),
    ] {
        let policy = format!(r#"{{"rules": [{{"who": {who}, "call": ["*"]}}]}}"#);
        server.set_policy(Policy::parse(&policy).unwrap());
        let outcome = call(&to, "request", "e").await;
        match allowed {
            true => outcome.unwrap(),
            false => assert_denied(who, outcome),
        }
    }
    close([client, server]).await;
}

#[tokio::test]
async fn a_connection_that_the_application_accepts_has_the_address_it_says() {
    let server = builder("server").build().unwrap();
    let client = builder("client").build().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", socket.local_addr().unwrap());
    let accepting = server.clone();
    let serving = tokio::spawn(async move {
        let (stream, from) = socket.accept().await.unwrap();
        (from, accepting.accept_from(stream, Remote::at(from)).await)
    });
    within("connecting", client.connect_with(url, once())).await.unwrap();
    let address = unit_of(&server, &client).await.identity().address;
    within("closing", client.close()).await;
    let (from, served) = within("the end", serving).await.unwrap();
    served.unwrap();
    assert_eq!(address, Some(from));
    close([server]).await;
}

#[tokio::test]
async fn a_further_connection_of_another_identity_is_refused() {
    let server = guarded(r#"{"default": "allow"}"#);
    let client = keyed("a").build().unwrap();
    handle(&server, &["e"]);
    let (one, two) = (listen(&server).await, listen(&server).await);
    within("connecting", client.connect_with(one.url(), once())).await.unwrap();
    let unit = unit_of(&server, &client).await;
    // The same peer, with the other key.
    client.add_preshared_key("b", "secret").unwrap();
    assert!(client.remove_preshared_key("a"));
    let refused = within("the refusal", client.connect_with(two.url(), once())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AuthRefused, "{refused}");
    assert!(refused.text().contains("A unit with this id has shown another identity"), "{refused}");
    assert_eq!(unit.identities().len(), 1);
    assert_eq!(unit.identity().key.as_deref(), Some("a"));
    // The one before is as it was.
    let to = client.destination("r").unwrap();
    call(&to, "request", "e").await.unwrap();
    close([client, server]).await;

    // With certificates: one that was renewed gets in, that of somebody else does not. Without keys, the dialer may take
    // itself for connected until it hears of that.
    let authority = Authority::new();
    let server = builder("server").build().unwrap();
    let client = builder("client").build().unwrap();
    let connect = async |name: &str| {
        let listener = listen_tls(&server, &authority).await;
        let options = once().tls(tls(&authority, &[name]));
        within(name, client.connect_with(listener.url(), options)).await.map(drop)
    };
    connect("a.example").await.unwrap();
    connect("a.example").await.unwrap();
    let mut events = Watch::new(&server);
    let _ = connect("b.example").await;
    let refused = |event: &PeerEvent| matches!(event, PeerEvent::ConnectionClosed { .. });
    match events.next("the refusal", refused).await {
        PeerEvent::ConnectionClosed { unit: None, reason } => {
            assert!(reason.text().contains("has shown another identity"), "{reason}");
        }
        event => panic!("{event:?}"),
    }
    assert_eq!(unit_of(&server, &client).await.identities().len(), 2);
    close([client, server]).await;
}

// Channel binding.

/// An address that somebody in between serves: with a certificate of his own that the dialer trusts, and with a TLS
/// connection of his own to the listener, he passes on all that is said.
async fn tls_relay(authority: &Authority, target: SocketAddr) -> String {
    use roletalk::rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    };
    let provider = || Arc::new(ring::default_provider());
    let (chain, key) = authority.issue(&["localhost"]);
    let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>().unwrap();
    let serving = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(&key).unwrap())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&authority.pem()).unwrap()).unwrap();
    let dialing = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(serving));
    let connector = tokio_rustls::TlsConnector::from(Arc::new(dialing));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://localhost:{}", socket.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let mut one = acceptor.accept(stream).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let there = TcpStream::connect(target).await.unwrap();
            let mut two = connector.connect(name, there).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut one, &mut two).await;
        }
    });
    url
}

#[tokio::test]
async fn keys_are_not_proved_through_a_relay() {
    use ChannelBinding::{Disable, Prefer, Require};
    const MODES: [(ChannelBinding, ChannelBinding); 5] = [
        (Prefer, Prefer),
        (Disable, Disable),
        (Require, Require),
        (Disable, Require),
        (Require, Prefer),
    ];
    let authority = Authority::new();
    for (of_server, of_client) in MODES {
        let modes = format!("{of_server:?} {of_client:?}");
        let server = keyed("k").channel_binding(of_server).build().unwrap();
        let (chain, key) = authority.issue(&["localhost"]);
        let tls = TlsServer::from_pem(&chain, &key).unwrap();
        let secure =
            server.listen_with("127.0.0.1:0", ListenOptions::new().tls(tls)).await.unwrap();
        let direct = format!("wss://localhost:{}", secure.local_addr().port());
        let plain = listen(&server).await.url().to_owned();
        let relayed = tls_relay(&authority, secure.local_addr()).await;
        let names = of_server != Disable && of_client != Disable;
        let demands = of_server == Require || of_client == Require;
        for (what, url, gets_in) in [
            ("direct", &direct, names || !demands),
            ("plain", &plain, !demands),
            ("relayed", &relayed, !names && !demands),
        ] {
            let client = keyed("k").channel_binding(of_client).build().unwrap();
            let options = once().tls(TlsClient::new().ca(authority.pem()));
            let outcome = within(what, client.connect_with(url, options)).await;
            match (gets_in, outcome) {
                (true, outcome) => {
                    drop(outcome.unwrap_or_else(|error| panic!("{what}, {modes}: {error}")))
                }
                (false, Ok(_)) => panic!("{what}, {modes}: gets in"),
                (false, Err(error)) => {
                    assert_eq!(error.kind(), ErrorKind::AuthRefused, "{what}, {modes}: {error}");
                    if what == "relayed" && names {
                        let text = error.text();
                        assert!(text.contains("for another TLS connection"), "{modes}: {text}");
                    }
                }
            }
            close([client]).await;
        }
        close([server]).await;
    }
}

#[tokio::test]
async fn a_challenge_is_not_answered_by_its_own_author() {
    let server = keyed("k").build().unwrap();
    let to = listen(&server).await.local_addr();
    let challenged = async |raw: &mut Raw| match raw.handshake().await {
        Handshake::Challenge(challenge) => challenge,
        other => panic!("{other:?}"),
    };
    // On another connection, and on the same.
    for same in [false, true] {
        let (mut one, mut two) = (Raw::dial(to).await, Raw::dial(to).await);
        let Challenge { challenge, ids } = challenged(&mut one).await;
        challenged(&mut two).await;
        let by = if same { &mut one } else { &mut two };
        by.send_handshake(Handshake::Challenge(Challenge { challenge, ids })).await;
        match by.handshake().await {
            Handshake::Error(reason) => assert_eq!(reason, "The challenge was reflected"),
            other => panic!("{other:?}"),
        }
        assert!(by.closed().await.is_some());
    }
    assert!(server.units().is_empty());
    close([server]).await;
}

// A policy in a file.

/// A directory with a file that is replaced as a whole.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> File {
        let directory =
            std::env::temp_dir().join(format!("roletalk-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        File(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.join("policy.json")
    }

    fn replace(&self, text: &str) {
        let next = self.0.join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, self.path()).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn is_loaded(event: &PeerEvent) -> bool {
    matches!(event, PeerEvent::PolicyLoaded { .. })
}

fn is_failed(event: &PeerEvent) -> bool {
    matches!(event, PeerEvent::PolicyFailed { .. })
}

async fn why_failed(events: &mut Watch) -> (Arc<Path>, Error) {
    match events.next("the failure", is_failed).await {
        PeerEvent::PolicyFailed { path, error } => (path, error),
        event => panic!("{event:?}"),
    }
}

#[tokio::test]
async fn a_file_is_in_force_as_soon_as_it_has_changed() {
    let file = File::new("watched");
    let server = keyed("a").build().unwrap();
    let client = keyed("a").build().unwrap();
    handle(&server, &["e"]);
    let mut events = Watch::new(&server);
    client.connect(listen(&server).await.url()).await.unwrap();
    let to = client.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    // None that could be used: nothing changes.
    for text in [None, Some(""), Some("{"), Some(r#"{"unknown": 1}"#)] {
        text.into_iter().for_each(|text| file.replace(text));
        let error = server.watch_policy(file.path()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text:?}");
        assert!(error.text().contains("policy.json"), "{text:?}: {error}");
    }
    call(&to, "request", "e").await.unwrap();
    file.replace("{}");
    server.watch_policy(file.path()).await.unwrap();
    assert_denied("the file", call(&to, "request", "e").await);
    file.replace(r#"{"default": "allow"}"#);
    events.next("the change", is_loaded).await;
    call(&to, "request", "e").await.unwrap();
    file.replace(r#"{"default": "maybe"}"#);
    let (path, error) = why_failed(&mut events).await;
    assert_eq!(*path, *file.path());
    assert!(error.text().contains("policy.json"), "{error}");
    call(&to, "request", "e").await.unwrap();
    file.replace("{}");
    events.next("the change", is_loaded).await;
    assert_denied("the file", call(&to, "request", "e").await);
    close([client, server]).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_broken_is_told_of_once() {
    let file = File::new("broken");
    let server = builder("server").build().unwrap();
    let mut events = Watch::new(&server);
    file.replace("{}");
    server.watch_policy(file.path()).await.unwrap();
    let while_it_looks = || tokio::time::sleep(Duration::from_secs(10));
    while_it_looks().await;
    assert!(events.so_far().is_empty(), "it has not changed");
    file.replace("{");
    while_it_looks().await;
    assert_eq!(events.so_far().iter().filter(|event| is_failed(event)).count(), 1);
    std::fs::remove_file(file.path()).unwrap();
    while_it_looks().await;
    assert_eq!(events.so_far().iter().filter(|event| is_failed(event)).count(), 2);
    assert!(!events.seen.iter().any(is_loaded));
    file.replace(r#"{"default": "allow"}"#);
    while_it_looks().await;
    assert_eq!(events.so_far().iter().filter(|event| is_loaded(event)).count(), 1);
    // One that is set takes its place.
    server.set_policy(None);
    file.replace("{}");
    while_it_looks().await;
    assert_eq!(events.so_far().len(), 3);
    close([server]).await;
}

/// What is read while another policy is set is not in force any more.
#[cfg(unix)]
#[tokio::test]
async fn a_file_that_is_read_too_late_changes_nothing() {
    let file = File::new("late");
    let server = keyed("a").build().unwrap();
    let client = keyed("a").build().unwrap();
    handle(&server, &["e"]);
    client.connect(listen(&server).await.url()).await.unwrap();
    let to = client.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    file.replace(r#"{"default": "allow"}"#);
    server.watch_policy(file.path()).await.unwrap();
    // Whoever reads a pipe waits for its writer, who waits for the reader.
    let pipe = file.0.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::rename(pipe, file.path()).unwrap();
    let path = file.path();
    let opening = tokio::task::spawn_blocking(move || {
        std::fs::OpenOptions::new().write(true).open(path).unwrap()
    });
    let mut writer = within("the reader", opening).await.unwrap();
    // Another one takes its place meanwhile.
    let other = File::new("late-other");
    other.replace("{}");
    server.watch_policy(other.path()).await.unwrap();
    assert_denied("the other file", call(&to, "request", "e").await);
    let mut events = Watch::new(&server);
    std::io::Write::write_all(&mut writer, br#"{"default": "allow", "comment": 1}"#).unwrap();
    drop(writer);
    other.replace(r#"{"rules": []}"#);
    match events.next("the change", is_loaded).await {
        PeerEvent::PolicyLoaded { path } => assert_eq!(*path, *other.path()),
        event => panic!("{event:?}"),
    }
    assert_denied("the other file", call(&to, "request", "e").await);
    close([client, server]).await;
}

#[tokio::test]
async fn what_cannot_be_is_an_error() {
    assert!(Policy::parse("[]").is_err());
    for origin in ["app.example", "https://app.example/", ""] {
        let error = builder("x").allow_origin(origin).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{origin}");
    }
    for name in ["", "not good", "x:y"] {
        let error = builder("x").identity_header(name).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name}");
        assert!(error.text().contains("is no name of a header"), "{error}");
    }
    let server = peer("server");
    close([server.clone()]).await;
    let error = server.watch_policy("/there/is/no/such/file").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}
