//! What the tests over real sockets share.
//!
//! Nothing here waits for time to pass: everything waits for an event or a condition, with a limit
//! that is only there to fail.

// Each test file is a crate of its own and uses another part of this.
#![allow(dead_code, unreachable_pub)]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use roletalk::{Destination, Events, Listener, Peer, PeerEvent, Unit};
use roletalk_engine::wire::{
    Confirm, Direction, Frame, Handshake, Meta, Num, Payload, RolesUpdate, StreamOp,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role},
    },
};

/// Longer than anything takes, also on a machine that is busy with much else.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Where to listen when somebody else must be able to listen there later: an address of its own for
/// this, where the system has many, so that nobody else is given the port meanwhile.
pub const AGAIN: &str = if cfg!(target_os = "linux") { "127.0.77.1:0" } else { "127.0.0.1:0" };

/// Waits for a future, and says what it was that did not come.
#[track_caller]
pub fn within<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(LIMIT, future).await {
            Ok(output) => output,
            Err(_) => panic!("{what}: not within {LIMIT:?} ({caller})"),
        }
    }
}

/// Waits until a condition holds that nothing announces.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let begun = std::time::Instant::now();
        while !condition() {
            assert!(begun.elapsed() < LIMIT, "{what}: not within {LIMIT:?} ({caller})");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Lets the clock go on, for what is to run out of time. Real time takes no part in that, so that
/// everything before it may have a limit that no machine is too slow for.
pub async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// A subscription that remembers what it has seen.
pub struct Watch {
    events: Events,
    pub seen: Vec<PeerEvent>,
}

impl Watch {
    pub fn new(peer: &Peer) -> Watch {
        Watch { events: peer.events(), seen: Vec::new() }
    }

    /// The next event that fits; those before it go to `seen`, as it does itself.
    pub async fn next(
        &mut self,
        what: &str,
        mut fits: impl FnMut(&PeerEvent) -> bool,
    ) -> PeerEvent {
        let waiting = async {
            loop {
                let event = self.events.next().await.unwrap_or_else(|| panic!("{what}: the end"));
                self.seen.push(event.clone());
                if fits(&event) {
                    return event;
                }
            }
        };
        match tokio::time::timeout(LIMIT, waiting).await {
            Ok(event) => event,
            Err(_) => panic!("{what}: did not come; seen {:#?}", self.seen),
        }
    }

    /// What has happened until now.
    pub fn so_far(&mut self) -> &[PeerEvent] {
        use futures_util::FutureExt;
        while let Some(Some(event)) = self.events.next().now_or_never() {
            self.seen.push(event);
        }
        &self.seen
    }
}

/// Two peers, the second connected to the first, and what the first serves as a destination.
pub struct Pair {
    pub server: Peer,
    pub client: Peer,
    pub listener: Listener,
    pub to: Destination,
}

impl Pair {
    /// The server serves role `r` with an `echo`, besides what `set_up` adds.
    pub async fn new(set_up: impl FnOnce(&Peer)) -> Pair {
        Pair::of(peer("server"), peer("client"), set_up).await
    }

    pub async fn of(server: Peer, client: Peer, set_up: impl FnOnce(&Peer)) -> Pair {
        Pair::at("127.0.0.1:0", server, client, set_up).await
    }

    pub async fn at(address: &str, server: Peer, client: Peer, set_up: impl FnOnce(&Peer)) -> Pair {
        echo(&server);
        set_up(&server);
        let listener = server.listen(address).await.unwrap();
        client.connect(listener.url()).await.unwrap();
        let to = client.destination("r").unwrap();
        within("the role", to.ready()).await.unwrap();
        until("the other side", || !server.units().is_empty()).await;
        Pair { server, client, listener, to }
    }

    /// The server, as the client sees it.
    pub fn unit(&self) -> Unit {
        self.to.units().into_iter().next().expect("the server's unit")
    }

    pub async fn close(self) {
        within("closing", async {
            self.client.close().await;
            self.server.close().await;
        })
        .await;
    }
}

/// A peer that asks one unit after the other, whatever their answers take on this machine.
pub fn peer(name: &str) -> Peer {
    Peer::builder().name(name).balance(roletalk::Balance::round_robin()).build().unwrap()
}

/// Serves role `r`, event `echo`.
pub fn echo(peer: &Peer) {
    peer.role("r").unwrap().on_request("echo", |ctx| async move { Ok(ctx.into_data()) });
}

/// Serves role `r`, event `never`, without ever answering.
pub fn never(peer: &Peer) {
    peer.role("r").unwrap().on_request("never", |_| async {
        std::future::pending::<()>().await;
        Ok(())
    });
}

/// An address whose first connection leads to another one, until the task is aborted.
pub async fn relay(target: SocketAddr) -> (String, tokio::task::JoinHandle<()>) {
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}", relay.local_addr().unwrap());
    let relaying = tokio::spawn(async move {
        let (mut one, _) = relay.accept().await.unwrap();
        let mut two = TcpStream::connect(target).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut one, &mut two).await;
    });
    (address, relaying)
}

/// A list that handlers and tests share.
#[derive(Debug)]
pub struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Log(self.0.clone())
    }
}

impl<T: Clone> Log<T> {
    pub fn new() -> Log<T> {
        Log(Arc::new(Mutex::new(Vec::new())))
    }

    pub fn push(&self, entry: T) {
        self.0.lock().unwrap().push(entry);
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }

    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// The other side of a connection, scripted frame by frame.
pub struct Raw<S = TcpStream> {
    pub ws: WebSocketStream<S>,
}

impl Raw {
    /// Connects and upgrades.
    pub async fn dial(to: SocketAddr) -> Raw {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let url = format!("ws://{to}/");
        let (ws, _) =
            within("the upgrade", tokio_tungstenite::client_async(url, stream)).await.unwrap();
        Raw { ws }
    }

    /// Accepts the next connection and upgrades it.
    pub async fn accept(listener: &TcpListener) -> Raw {
        let (stream, _) = within("a connection", listener.accept()).await.unwrap();
        let ws = within("the upgrade", tokio_tungstenite::accept_async(stream)).await.unwrap();
        Raw { ws }
    }

    /// Connects, and finishes a handshake without keys as the peer of this id and roles.
    pub async fn join(to: SocketAddr, id: &str, roles: &[&str]) -> Raw {
        let mut raw = Raw::dial(to).await;
        raw.confirm(id, roles).await;
        let _ = raw.confirmed().await;
        raw
    }
}

/// Without a socket, and so without anything that happens outside of the program: with a paused clock,
/// which goes on when there is nothing else to do, all of it takes the same time on every machine.
impl Raw<DuplexStream> {
    /// As [`join`](Raw::join). Up to `room` bytes are on their way in each direction; `serve` is given
    /// the peer's end.
    pub async fn in_memory(
        room: usize,
        serve: impl FnOnce(DuplexStream),
        id: &str,
        roles: &[&str],
    ) -> Raw<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(room);
        serve(theirs);
        let ws = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        let mut raw = Raw { ws };
        raw.confirm(id, roles).await;
        let _ = raw.confirmed().await;
        raw
    }

    /// The same, served by a task of this runtime.
    pub async fn beside(peer: &Peer, room: usize, id: &str, roles: &[&str]) -> Raw<DuplexStream> {
        let peer = peer.clone();
        let serve = |end| drop(tokio::spawn(async move { peer.accept_upgraded(end).await }));
        Raw::in_memory(room, serve, id, roles).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub async fn send(&mut self, bytes: Vec<u8>) {
        self.ws.send(Message::binary(bytes)).await.unwrap();
    }

    pub async fn send_frame(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.send(bytes).await;
    }

    pub async fn send_handshake(&mut self, frame: Handshake) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.send(bytes).await;
    }

    pub async fn confirm(&mut self, id: &str, roles: &[&str]) {
        self.send_handshake(Handshake::Confirm(Box::new(confirmation(id, roles)))).await;
    }

    /// The next message, pings and pongs left out. None at the end of the connection.
    pub async fn message(&mut self) -> Option<Message> {
        // Pings would keep a limit for each message from ever being reached.
        within("a message", async {
            loop {
                match self.ws.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(message)) => return Some(message),
                    Some(Err(_)) | None => return None,
                }
            }
        })
        .await
    }

    /// The next binary message.
    pub async fn binary(&mut self) -> Vec<u8> {
        match self.message().await {
            Some(Message::Binary(bytes)) => bytes.to_vec(),
            other => panic!("expected a binary message, got {other:?}"),
        }
    }

    pub async fn handshake(&mut self) -> Handshake {
        let bytes = self.binary().await;
        Handshake::decode(&bytes).unwrap_or_else(|error| panic!("{error}: {bytes:?}"))
    }

    /// The confirmation, which must come next.
    pub async fn confirmed(&mut self) -> Confirm {
        match self.handshake().await {
            Handshake::Confirm(confirm) => *confirm,
            other => panic!("expected a confirmation, got {other:?}"),
        }
    }

    /// The next frame that fits, passing over others.
    pub async fn frame<T>(&mut self, mut fits: impl FnMut(Frame<'_>) -> Option<T>) -> T {
        loop {
            let bytes = self.binary().await;
            if let Some(found) = fits(Frame::decode(&bytes).unwrap()) {
                return found;
            }
        }
    }

    /// The next announcement of roles.
    pub async fn roles(&mut self) -> RolesUpdate {
        self.frame(|frame| match frame {
            Frame::Roles(update) => Some(update),
            _ => None,
        })
        .await
    }

    /// The close frame, passing over what comes before it.
    pub async fn closed(&mut self) -> Option<CloseFrame> {
        loop {
            match self.message().await {
                Some(Message::Close(frame)) => return frame,
                Some(_) => {}
                None => return None,
            }
        }
    }

    pub async fn request(&mut self, corr: u64, role: &str, event: &str, payload: Payload<'_>) {
        let (role, event) = (role.into(), event.into());
        self.send_frame(&Frame::Request { role, event, corr: Num::new(corr), payload }).await;
    }

    pub async fn stream_request(&mut self, direction: Direction, corr: u64, event: &str) {
        self.send_frame(&Frame::StreamRequest {
            direction,
            role: "r".into(),
            event: event.into(),
            corr: Num::new(corr),
            chan: Num::new(corr + 1),
            payload: null(),
        })
        .await;
    }

    pub async fn stream(&mut self, chan: u64, op: StreamOp<'_>) {
        self.send_frame(&Frame::Stream { chan: Num::new(chan), op }).await;
    }
}

pub fn null() -> Payload<'static> {
    Payload { kind: roletalk::DataType::Null, bytes: &[] }
}

/// As the JavaScript original would say it: no window.
pub fn confirmation(id: &str, roles: &[&str]) -> Confirm {
    Confirm {
        id: id.to_owned(),
        roles: roles.iter().map(|&role| role.to_owned()).collect(),
        friendly: true,
        name: "raw".to_owned(),
        meta: Meta {
            os: "linux".to_owned(),
            runtime: "raw".to_owned(),
            time: 0,
            uptime: 0,
            protocol: "2.0.0".to_owned(),
        },
        tags: Default::default(),
        window: None,
        i: None,
        x: <_>::default(),
        k: None,
        s: <_>::default(),
    }
}

/// A certificate authority and what it signs, as PEM.
pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    key: Vec<u8>,
}

impl Authority {
    pub fn new() -> Authority {
        Authority::named("roletalk authority")
    }

    pub fn named(name: &str) -> Authority {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let pem = key.serialize_pem().into_bytes();
        Authority { certificate, issuer: rcgen::Issuer::new(params, key), key: pem }
    }

    /// Its own certificate and key.
    pub fn own(&self) -> (Vec<u8>, Vec<u8>) {
        (self.pem(), self.key.clone())
    }

    pub fn pem(&self) -> Vec<u8> {
        self.certificate.pem().into_bytes()
    }

    /// A certificate for these names, and its key.
    pub fn issue(&self, names: &[&str]) -> (Vec<u8>, Vec<u8>) {
        self.issue_with(names, |_| {})
    }

    /// The same, with something changed about it.
    pub fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> (Vec<u8>, Vec<u8>) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

/// Bytes that are the same each time, but repeat only after 4 GiB.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 4);
    let mut counter = 0u32;
    while bytes.len() < len {
        bytes.extend_from_slice(&counter.to_le_bytes());
        counter = counter.wrapping_add(1);
    }
    bytes.truncate(len);
    bytes
}
