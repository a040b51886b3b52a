//! Listening, connecting, TLS, and connections that somebody else has accepted.

mod common;

use std::{convert::Infallible, time::Duration};

use common::{AGAIN, Authority, LIMIT, Pair, Raw, Watch, echo, pass, peer, until, within};
use futures_util::FutureExt;
use http_body_util::Empty;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
};
use hyper_util::rt::TokioIo;
use roletalk::{ConnectOptions, ErrorKind, ListenOptions, Peer, PeerEvent, TlsClient, TlsServer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

async fn answers(client: &Peer) {
    let to = client.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    let answer = within("an answer", to.request("echo", "hello").into_future()).await.unwrap();
    assert_eq!(answer.data().as_str().as_deref(), Some("hello"));
}

#[tokio::test]
async fn port_0_answers_with_the_real_one_and_listeners_add_up() {
    let server = peer("server");
    echo(&server);
    let one = server.listen("127.0.0.1:0").await.unwrap();
    let two = server.listen("127.0.0.1:0").await.unwrap();
    let six = server.listen("[::1]:0").await.unwrap();
    assert_ne!(one.local_addr().port(), 0);
    assert_ne!(one.local_addr(), two.local_addr());
    for listener in [&one, &two, &six] {
        let client = peer("client");
        let connected = client.connect(listener.url()).await.unwrap();
        assert_eq!(connected.unit().id(), server.id());
        assert_eq!(connected.unit().name(), "server");
        answers(&client).await;
        client.close().await;
    }
    let any = server.listen("0.0.0.0:0").await.unwrap();
    let client = peer("client");
    client.connect(any.url()).await.unwrap();
    client.close().await;
    let taken = server.listen(one.local_addr()).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Io);
    server.close().await;
    assert_eq!(server.listen("127.0.0.1:0").await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_closed_listener_keeps_its_connections() {
    let pair = Pair::new(|_| {}).await;
    let address = pair.listener.local_addr();
    pair.listener.close();
    within("the end of listening", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(pair.to.request("echo", 1).await.is_ok());
    pair.close().await;
}

#[tokio::test]
async fn a_path_is_served_and_others_get_400() {
    let server = peer("server");
    echo(&server);
    let options = ListenOptions::new().path("/rt");
    let listener = server.listen_with("127.0.0.1:0", options).await.unwrap();
    let base = format!("ws://{}", listener.local_addr());
    let client = peer("client");
    for wrong in ["", "/", "/rt/", "/other"] {
        let address = format!("{base}{wrong}");
        let error = client.connect_with(&address, ConnectOptions::new().once()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectFailed, "{address}");
        assert!(error.text().contains("400"), "{address}: {error}");
    }
    client.connect(format!("{base}/rt?token=x")).await.unwrap();
    // What a listener says of itself can be connected to.
    assert_eq!(listener.url(), format!("{base}/rt"));
    client.connect(listener.url()).await.unwrap();
    answers(&client).await;
    let error =
        server.listen_with("127.0.0.1:0", ListenOptions::new().path("rt")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    client.close().await;
    server.close().await;
}

#[tokio::test]
async fn addresses_are_checked() {
    let client = peer("client");
    for bad in ["", "127.0.0.1:80", "http://127.0.0.1", "ws://", "not a url", "ws:"] {
        let error = client.connect(bad).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}: {error}");
    }
    assert!(!client.disconnect("ws://127.0.0.1:1"));
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let once = ConnectOptions::new().once();
    let error = client.connect_with(format!("ws://{free}"), once.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectFailed);
    let once = once.header("x y", "z");
    assert_eq!(once.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(ConnectOptions::new().header("x", "a\nb").is_err());
    client.close().await;
    let error = client.connect(format!("ws://{free}")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

/// Reads the head of an HTTP request.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("the upgrade", stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn headers_of_the_application_are_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = peer("client");
    let options = ConnectOptions::new()
        .once()
        .header("Authorization", "Bearer abc")
        .and_then(|options| options.header("X-Two", "1"))
        .and_then(|options| options.header("X-Two", "2"))
        .unwrap();
    let connecting = client.connect_with(format!("ws://{address}/path?q=1"), options);
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = head(&mut stream).await.to_ascii_lowercase();
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        head
    };
    let (outcome, head) = tokio::join!(connecting, server);
    assert!(head.starts_with("get /path?q=1 http/1.1\r\n"), "{head}");
    for line in ["authorization: bearer abc", "x-two: 1", "x-two: 2", &format!("host: {address}")] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is not in {head}");
    }
    assert!(!head.contains("sec-websocket-extensions") && !head.contains("sec-websocket-protocol"));
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectFailed);
    assert!(error.text().contains("403"), "{error}");
    // A header that the upgrade itself needs.
    let reserved = ConnectOptions::new().once().header("Sec-WebSocket-Key", "x").unwrap();
    let error = client.connect_with(format!("ws://{address}"), reserved).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    client.close().await;
}

#[tokio::test]
async fn a_silent_listener_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = Peer::builder()
        .limits(|limits| limits.handshake_timeout = Duration::from_millis(100))
        .build()
        .unwrap();
    let once = ConnectOptions::new().once();
    // TCP works, the upgrade is never answered.
    let error =
        within("refusal", client.connect_with(format!("ws://{address}"), once.clone())).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::ConnectFailed);
    // Nor is TLS.
    let short = once.clone().timeout(Duration::from_millis(100));
    let error = within("refusal", client.connect_with(format!("wss://{address}"), short)).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectFailed);
    assert!(error.text().contains("did not answer"), "{error}");
    client.close().await;
    // It upgrades, and never shakes hands.
    let patience = Duration::from_secs(10);
    let client =
        Peer::builder().limits(|limits| limits.handshake_timeout = patience).build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = async {
        let mut raw = Raw::accept(&listener).await;
        raw.confirmed().await;
        pass(patience).await;
        (raw.binary().await, raw.closed().await)
    };
    let connecting = client.connect_with(format!("ws://{address}"), once);
    let (error, (frame, close)) = tokio::join!(within("refusal", connecting), silent);
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AuthRefused, "{error}");
    assert!(error.text().contains("Authentication time elapsed"), "{error}");
    assert_eq!(frame[0], 0);
    assert_eq!(u16::from(close.unwrap().code), 4002);
    client.close().await;
}

#[tokio::test]
async fn once_is_not_dialed_again_and_permanent_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}", listener.local_addr().unwrap());
    let client = peer("client");
    let mut watch = Watch::new(&client);
    let accept = || async {
        let mut raw = Raw::accept(&listener).await;
        raw.confirm("remote", &["r"]).await;
        raw.confirmed().await;
        raw
    };
    let once = client.connect_with(&address, ConnectOptions::new().once());
    let (connected, raw) = tokio::join!(once, accept());
    assert_eq!(&*connected.unwrap().unit().id(), "remote");
    drop(raw);
    watch.next("the loss", |event| matches!(event, PeerEvent::UnitClosed(_))).await;
    let (connected, raw) = tokio::join!(client.connect(&address), accept());
    connected.unwrap();
    drop(raw);
    // Only the permanent one comes back: exactly one connection, and no second one with it.
    let again = accept().await;
    watch.next("it again", |e| matches!(e, PeerEvent::ReconnectSucceeded { .. })).await;
    let none = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(none.is_err(), "an address that was to be dialed once is dialed again");
    // Disconnected, the connection stays; after its loss nothing is dialed.
    assert!(client.disconnect(&address));
    assert!(!client.disconnect(&address));
    assert_eq!(client.units().len(), 1);
    drop(again);
    watch.next("the loss", |event| matches!(event, PeerEvent::UnitClosed(_))).await;
    let none = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(none.is_err(), "a disconnected address is dialed again");
    client.close().await;
}

#[tokio::test]
async fn dialing_in_the_background_tells_of_every_outcome() {
    let address = TcpListener::bind(AGAIN).await.unwrap().local_addr().unwrap();
    let client = peer("client");
    assert_eq!(client.dial("http://h").unwrap_err().kind(), ErrorKind::InvalidArgument);
    let mut watch = Watch::new(&client);
    client.dial(format!("ws://{address}")).unwrap();
    let failed = |event: &PeerEvent| matches!(event, PeerEvent::ReconnectFailed { count: 0, .. });
    watch.next("the first failure", failed).await;
    let server = peer("server");
    echo(&server);
    server.listen(address).await.unwrap();
    answers(&client).await;
    let succeeded = |event: &PeerEvent| matches!(event, PeerEvent::ReconnectSucceeded { .. });
    watch.next("the success", succeeded).await;
    client.close().await;
    server.close().await;
}

#[tokio::test]
async fn a_connect_that_nobody_waits_for_goes_on() {
    let server = peer("server");
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let client = peer("client");
    let mut watch = Watch::new(&client);
    let mut connecting = Box::pin(client.connect(listener.url()));
    assert!(connecting.as_mut().now_or_never().is_none());
    drop(connecting);
    let succeeded = |event: &PeerEvent| matches!(event, PeerEvent::ReconnectSucceeded { .. });
    watch.next("the connection", succeeded).await;
    client.close().await;
    server.close().await;
}

#[tokio::test]
async fn several_units_can_be_waited_for() {
    let client = peer("client");
    let to = client.destination("r").unwrap();
    let mut both = Box::pin(to.ready_with(2));
    let servers = [peer("one"), peer("two")];
    for server in &servers {
        assert!(both.as_mut().now_or_never().is_none());
        echo(server);
        client.dial(server.listen("127.0.0.1:0").await.unwrap().url()).unwrap();
        within("a unit", to.ready()).await.unwrap();
    }
    within("both units", both).await.unwrap();
    assert_eq!(to.units().len(), 2);
    let third = to.ready_with(3);
    client.close().await;
    assert_eq!(within("the end", third).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn an_address_that_is_disconnected_while_it_is_dialed_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}", listener.local_addr().unwrap());
    let client = peer("client");
    let connecting = client.connect(&address);
    let disconnecting = async {
        // The upgrade is under way.
        let mut raw = Raw::accept(&listener).await;
        assert!(client.disconnect(&address));
        raw.closed().await
    };
    let (outcome, _) = within("giving up", async { tokio::join!(connecting, disconnecting) }).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectFailed, "{error:?}");
    assert!(client.units().is_empty());
    client.close().await;
}

fn tls(listener: &roletalk::Listener, host: &str) -> String {
    format!("wss://{host}:{}", listener.local_addr().port())
}

#[tokio::test]
async fn tls_verifies_whom_it_talks_to() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue(&["localhost"]);
    let server = peer("server");
    echo(&server);
    let options = ListenOptions::new().tls(TlsServer::from_pem(&certificate, &key).unwrap());
    let listener = server.listen_with("127.0.0.1:0", options).await.unwrap();
    assert_eq!(listener.url(), format!("wss://{}", listener.local_addr()));
    let client = peer("client");
    let once = || ConnectOptions::new().once();
    let own = || TlsClient::new().ca(authority.pem());

    let good = client.connect_with(tls(&listener, "localhost"), once().tls(own())).await;
    assert_eq!(good.unwrap().unit().id(), server.id());
    answers(&client).await;

    let refused = [
        ("the system's roots", "localhost", TlsClient::new()),
        ("another authority", "localhost", TlsClient::new().ca(Authority::new().pem())),
        ("another name", "127.0.0.1", own()),
        ("an overridden name", "localhost", own().server_name("example.com")),
    ];
    for (what, host, tls_client) in refused {
        let outcome = client.connect_with(tls(&listener, host), once().tls(tls_client)).await;
        let error = outcome.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::ConnectFailed, "{what}: {error}");
        assert!(error.text().contains("TLS") && error.text().contains("certificate"), "{error}");
    }
    let overridden = own().server_name("localhost");
    client.connect_with(tls(&listener, "127.0.0.1"), once().tls(overridden)).await.unwrap();
    // One that is not verified is none: such a connection joins no unit that has shown one, but another peer may do with it.
    let unverified = || once().tls(TlsClient::new().danger_accept_any_certificate());
    let refused = client.connect_with(tls(&listener, "127.0.0.1"), unverified()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::AuthRefused);
    let careless = peer("careless");
    careless.connect_with(tls(&listener, "127.0.0.1"), unverified()).await.unwrap();
    careless.close().await;

    // Plain text at a TLS port fails without harm.
    let plain = format!("ws://{}", listener.local_addr());
    assert!(client.connect_with(plain, once()).await.is_err());
    answers(&client).await;

    // Unusable settings are told at once, not with every attempt.
    let unusable = once().tls(TlsClient::new().ca("no PEM"));
    let error = client.connect_with(tls(&listener, "localhost"), unusable).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls);
    assert_eq!(TlsServer::from_pem(b"", &key).unwrap_err().kind(), ErrorKind::Tls);
    assert_eq!(TlsServer::from_pem(&certificate, b"").unwrap_err().kind(), ErrorKind::Tls);
    let (_, other_key) = authority.issue(&["localhost"]);
    assert_eq!(TlsServer::from_pem(&certificate, &other_key).unwrap_err().kind(), ErrorKind::Tls);
    client.close().await;
    server.close().await;
}

#[tokio::test]
async fn client_certificates_are_demanded() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.issue(&["localhost"]);
    let server = peer("server");
    echo(&server);
    let tls_server = TlsServer::with_client_ca(&certificate, &key, &clients.pem()).unwrap();
    let options = ListenOptions::new().tls(tls_server);
    let listener = server.listen_with("127.0.0.1:0", options).await.unwrap();
    let mut watch = Watch::new(&server);
    let client = peer("client");
    let address = tls(&listener, "localhost");
    let own = || TlsClient::new().ca(authority.pem());
    let stranger = authority.issue(&["client"]);
    for (what, tls_client) in
        [("no certificate", own()), ("a wrong one", own().identity(stranger.0, stranger.1))]
    {
        let options = ConnectOptions::new().once().tls(tls_client);
        let outcome = within(what, client.connect_with(&address, options)).await;
        assert!(outcome.is_err(), "{what} got in");
        let closed = watch.next(what, |e| matches!(e, PeerEvent::ConnectionClosed { .. })).await;
        let PeerEvent::ConnectionClosed { reason, unit: None, .. } = closed else { panic!() };
        assert_eq!(reason.kind(), ErrorKind::Tls, "{what}: {reason}");
    }
    let (certificate, key) = clients.issue(&["client"]);
    let options = ConnectOptions::new().once().tls(own().identity(certificate, key));
    client.connect_with(&address, options).await.unwrap();
    answers(&client).await;
    client.close().await;
    server.close().await;
}

#[tokio::test]
async fn a_stalled_tls_handshake_ends_and_closing_does_not_wait_for_it() {
    let (certificate, key) = Authority::new().issue(&["localhost"]);
    let options = || ListenOptions::new().tls(TlsServer::from_pem(&certificate, &key).unwrap());
    let server = Peer::builder()
        .limits(|limits| limits.handshake_timeout = Duration::from_millis(100))
        .build()
        .unwrap();
    let listener = server.listen_with("127.0.0.1:0", options()).await.unwrap();
    let mut silent = TcpStream::connect(listener.local_addr()).await.unwrap();
    assert_eq!(within("the end", silent.read(&mut [0; 8])).await.unwrap(), 0);
    server.close().await;

    let server =
        Peer::builder().limits(|limits| limits.handshake_timeout = 10 * LIMIT).build().unwrap();
    let listener = server.listen_with("127.0.0.1:0", options()).await.unwrap();
    let _silent = TcpStream::connect(listener.local_addr()).await.unwrap();
    tokio::task::yield_now().await;
    within("closing, without waiting for a stranger", server.close()).await;
}

#[tokio::test]
async fn streams_from_a_listener_of_the_application() {
    let server = peer("server");
    echo(&server);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = {
        let server = server.clone();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            server.accept(stream).await
        })
    };
    let client = peer("client");
    client.connect(format!("ws://{address}")).await.unwrap();
    answers(&client).await;
    client.close().await;
    within("the end", accepting).await.unwrap().unwrap();
    server.close().await;
    let (_here, there) = tokio::io::duplex(64);
    assert_eq!(server.accept(there).await.unwrap_err().kind(), ErrorKind::Closed);
    let (_here, there) = tokio::io::duplex(64);
    assert_eq!(server.accept_upgraded(there).await.unwrap_err().kind(), ErrorKind::Closed);
}

/// Closing waits for connections that were handed over, too.
#[tokio::test]
async fn any_stream_will_do_and_closing_waits_for_it() {
    let server = peer("server");
    echo(&server);
    let (here, there) = tokio::io::duplex(100);
    let accepting = {
        let server = server.clone();
        tokio::spawn(async move { server.accept(there).await })
    };
    let (ws, _) =
        within("the upgrade", tokio_tungstenite::client_async("ws://x/", here)).await.unwrap();
    until("the handshake", || server.stats().handshakes == 1).await;
    let reading = tokio::spawn(async move {
        use futures_util::StreamExt;
        let mut ws = ws;
        let mut last = None;
        while let Some(Ok(message)) = ws.next().await {
            last = Some(message);
        }
        last
    });
    within("closing", server.close()).await;
    assert!(accepting.is_finished(), "the connection outlived the peer");
    let last = within("the end", reading).await.unwrap();
    assert!(
        matches!(&last, Some(tokio_tungstenite::tungstenite::Message::Close(Some(frame)))
            if u16::from(frame.code) == 4000),
        "{last:?}"
    );
}

/// As a server with hyper would do it; see also `examples/hyper.rs`.
async fn upgrade(
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    let Some(key) = key.filter(|_| request.uri().path() == "/rt") else {
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    };
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, roletalk::accept_key(key).parse().unwrap());
    headers.insert(header::CONNECTION, "upgrade".parse().unwrap());
    headers.insert(header::UPGRADE, "websocket".parse().unwrap());
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(request).await.unwrap();
        peer.accept_upgraded(TokioIo::new(upgraded)).await.unwrap();
    });
    Ok(response)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_that_a_hyper_server_has_done() {
    let server = peer("server");
    echo(&server);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = {
        let server = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = server.clone();
                let service =
                    hyper::service::service_fn(move |request| upgrade(server.clone(), request));
                tokio::spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ =
                        http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                });
            }
        })
    };
    let client = peer("client");
    let once = ConnectOptions::new().once();
    let elsewhere = client.connect_with(format!("ws://{address}/"), once).await.unwrap_err();
    assert!(elsewhere.text().contains("404"), "{elsewhere}");
    client.connect(format!("ws://{address}/rt")).await.unwrap();
    answers(&client).await;
    let to = client.destination("r").unwrap();
    let large = vec![7u8; 1 << 20];
    let answer = within("an answer", to.request("echo", large.clone()).into_future()).await;
    assert_eq!(answer.unwrap().data().as_binary().map(|bytes| bytes.len()), Some(large.len()));
    client.close().await;
    server.close().await;
    serving.abort();
}

/// One peer that is dialed by itself, and two that dial each other.
#[tokio::test]
async fn in_any_direction() {
    let alone = peer("alone");
    echo(&alone);
    let listener = alone.listen("127.0.0.1:0").await.unwrap();
    let connected = alone.connect(listener.url()).await.unwrap();
    assert_eq!(connected.unit().id(), alone.id());
    answers(&alone).await;
    until("both ends", || connected.unit().stats().connections.len() == 2).await;
    assert_eq!(alone.units().len(), 1);

    let other = peer("other");
    let back = other.listen("127.0.0.1:0").await.unwrap();
    let (there, here) = tokio::join!(other.connect(listener.url()), alone.connect(back.url()));
    let (there, here) = (there.unwrap(), here.unwrap());
    answers(&other).await;
    until("two connections", || {
        there.unit().stats().connections.len() == 2 && here.unit().stats().connections.len() == 2
    })
    .await;
    assert_eq!(other.units().len(), 1);
    alone.close().await;
    other.close().await;
}

#[tokio::test]
async fn connections_are_replaced_at_their_age_and_nothing_is_lost() {
    let client = Peer::builder()
        .name("client")
        .limits(|limits| limits.connection_age = Duration::from_millis(300))
        .build()
        .unwrap();
    let pair = Pair::of(peer("server"), client, |_| {}).await;
    let mut events = Watch::new(&pair.client);
    let unit = pair.unit();
    let ended = |event: &&PeerEvent| matches!(event, PeerEvent::ConnectionClosed { .. });
    while events.so_far().iter().filter(ended).count() < 3 {
        let requests = (0..16).map(|number| pair.to.request("echo", number).into_future());
        for answer in futures_util::future::join_all(requests).await {
            answer.unwrap();
        }
    }
    assert_eq!(pair.client.units(), [unit], "it is the same unit");
    assert!(!events.so_far().iter().any(|event| matches!(event, PeerEvent::UnitClosed { .. })));
    pair.close().await;
}
