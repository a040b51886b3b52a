//! Accepting connections.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, ToSocketAddrs},
    sync::{oneshot, watch},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::{
    ListenOptions, TlsServer, drive, remote,
    tls_failure::{Reason, Side},
};
use crate::{
    Error, ErrorKind, Result,
    engine::{self, Opening, PlaceId, hint},
    peer::{PeerEvent, Shared},
};

/// The pause after an `accept` that failed for want of file descriptors or memory: then evicted connections have closed
/// theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// The pause after one that failed for another reason. Shorter pauses between connections are not worth a timer: they
/// accumulate until one is.
const LEAST_PAUSE: Duration = Duration::from_millis(1);
/// The backlog of a listener. The system may lower it.
const BACKLOG: u32 = 4096;
/// Connections that are accepted before the task yields to others.
const ACCEPTED_AT_ONCE: usize = 8;

/// A listening address. It keeps listening until it is [closed](Listener::close) or the peer is,
/// also when this handle is dropped.
#[derive(Clone, Debug)]
pub struct Listener {
    address: SocketAddr,
    url: String,
    tls: Option<TlsServer>,
    closed: watch::Sender<bool>,
}

impl Listener {
    /// The address that is listened on, with the real port when port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The address that a peer on the same machine can connect to, `ws` or `wss`, with the path if
    /// there is one. For TLS, replace the host by one that is in the certificate, or tell the dialer
    /// [the name](crate::TlsClient::server_name).
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The TLS settings that it was given, to change them or to see when they expire; none without TLS.
    pub fn tls(&self) -> Option<&TlsServer> {
        self.tls.as_ref()
    }

    /// Stops listening. Connections that were accepted stay.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }
}

pub(crate) async fn listen(
    shared: &Arc<Shared>,
    address: impl ToSocketAddrs,
    options: ListenOptions,
) -> Result<Listener> {
    shared.check_open()?;
    if let Some(path) = options.path.as_deref().filter(|path| !path.starts_with('/')) {
        let text = format!("The path `{path}` must begin with /");
        return Err(Error::new(ErrorKind::InvalidArgument, text));
    }
    let failed = |addresses: &str, error: io::Error| {
        let text = format!("The address {addresses} cannot be listened on: {error}");
        let failed = Error::new(ErrorKind::Io, text);
        match hint::listen(addresses, error.kind()) {
            Some(hint) => failed.with_hint(hint),
            None => failed,
        }
        .with_source(error)
    };
    let addresses = tokio::net::lookup_host(address).await;
    let addresses: Vec<_> = addresses.map_err(|error| failed("given", error))?.collect();
    let names = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let socket = bind(&addresses).map_err(|error| failed(&names, error))?;
    let address = socket.local_addr().map_err(|error| failed(&names, error))?;
    let closed = watch::Sender::new(false);
    let (url, tls) = (url(address, &options), options.tls.clone());
    let listener = Listener { address, url, tls, closed: closed.clone() };
    if let Some(tls) = &options.tls {
        shared.use_tls(&tls.watched());
    }
    let task = accept_task(shared.clone(), socket, options, closed);
    shared.spawn(task);
    info!(peer = %shared.id, url = listener.url, "listening");
    Ok(listener)
}

/// Listens on the first of these addresses that can be bound.
fn bind(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let listen = |address: &SocketAddr| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // As tokio does: a port can be bound again right after its peer has closed.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.bind(*address)?;
        socket.listen(BACKLOG)
    };
    let mut outcome = Err(io::Error::other("the name has no address"));
    for address in addresses {
        outcome = listen(address);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn url(mut address: SocketAddr, options: &ListenOptions) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    let scheme = if options.tls.is_some() { "wss" } else { "ws" };
    format!("{scheme}://{address}{}", options.path.as_deref().unwrap_or_default())
}

/// Returns false when the listener or the peer is closed first.
async fn sleep(
    pause: Duration,
    stop: &mut watch::Receiver<bool>,
    peer_closed: &mut watch::Receiver<bool>,
) -> bool {
    tokio::select! {
        () = tokio::time::sleep(pause) => true,
        _ = stop.wait_for(|closed| *closed) => false,
        _ = peer_closed.wait_for(|closed| *closed) => false,
    }
}

async fn accept_task(
    shared: Arc<Shared>,
    socket: TcpListener,
    options: ListenOptions,
    closed: watch::Sender<bool>,
) {
    let (mut stop, mut peer_closed) = (closed.subscribe(), shared.closed.subscribe());
    let mut accepted_at_once = 0;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stop.wait_for(|closed| *closed) => return,
            _ = peer_closed.wait_for(|closed| *closed) => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(peer = %shared.id, %error, "accept failed");
                let pause = if is_shortage(&error) {
                    shared.with_core(|core, now| core.peer.accept_failed(error, now));
                    ACCEPT_PAUSE
                } else {
                    // The connection is gone; others may be there.
                    LEAST_PAUSE
                };
                if !sleep(pause, &mut stop, &mut peer_closed).await {
                    return;
                }
                continue;
            }
        };
        debug!(peer = %shared.id, %from, "accepted");
        let entered = shared.with_core(|core, now| {
            let place = core.peer.enter(Some(from.ip()), now)?;
            let (end, ended) = oneshot::channel();
            if options.tls.is_some() {
                core.strangers.insert(place, end);
            }
            Ok::<_, Error>((place, ended))
        });
        // A limit is 0, or the peer is closing.
        let Ok((place, ended)) = entered else { continue };
        // Pings, requests and answers are small and must not wait for each other.
        let _ = stream.set_nodelay(true);
        let remote = engine::Remote { place: Some(place), ..engine::Remote::at(from) };
        let opening = Opening::Accept { path: options.path.clone() };
        match options.tls.clone() {
            None => shared.spawn(drive::serve(shared.clone(), stream, opening, remote)),
            Some(tls) => {
                let stranger = Stranger { shared: shared.clone(), place, ended };
                shared.spawn(tls_task(stranger, stream, from, opening, tls));
            }
        }
        let pause = shared.with_core(|core, now| core.peer.accept_pause(now));
        accepted_at_once += 1;
        if pause >= LEAST_PAUSE {
            if !sleep(pause, &mut stop, &mut peer_closed).await {
                return;
            }
        } else if accepted_at_once % ACCEPTED_AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Whether the process or the system is short of something.
fn is_shortage(error: &io::Error) -> bool {
    #[cfg(unix)]
    let shortages = {
        use nix::errno::Errno;
        [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM].map(|errno| errno as i32)
    };
    // WSAEMFILE and WSAENOBUFS.
    #[cfg(windows)]
    let shortages = [10024, 10055];
    #[cfg(not(any(unix, windows)))]
    let shortages: [i32; 0] = [];
    error.raw_os_error().is_some_and(|errno| shortages.contains(&errno))
}

/// An accepted connection in the TLS handshake. Its place is vacated when this is dropped.
struct Stranger {
    shared: Arc<Shared>,
    place: PlaceId,
    /// Receives the eviction: whether the handshake timeout has expired.
    ended: oneshot::Receiver<bool>,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.shared.with_core(|core, _| {
            core.strangers.remove(&self.place);
            core.peer.vacate(self.place);
        });
    }
}

/// Does the TLS handshake, then leaves the connection to a task of its own, which is much smaller.
async fn tls_task(
    mut stranger: Stranger,
    stream: TcpStream,
    from: SocketAddr,
    opening: Opening,
    tls: TlsServer,
) {
    let shared = stranger.shared.clone();
    // That of this moment: it may change at any time.
    let (acceptor, end_point) = match tls.shown() {
        Ok(shown) => (TlsAcceptor::from(shown.config.clone()), shown.end_point),
        Err(error) => return refuse(&shared, from, error.text().to_owned()),
    };
    let mut closed = shared.closed.subscribe();
    let stream = tokio::select! {
        stream = acceptor.accept(stream) => stream,
        late = &mut stranger.ended => {
            if late == Ok(true) {
                let limit = shared.limits.handshake_timeout;
                let text = format!("The TLS handshake with {from} took more than {limit:?}");
                refuse(&shared, from, text);
            }
            return;
        }
        _ = closed.wait_for(|closed| *closed) => return,
    };
    match stream {
        Ok(stream) => {
            let mut remote = remote::of_server(stream.get_ref().1, from, end_point);
            remote.place = Some(stranger.place);
            let serving = drive::serve(shared.clone(), stream, opening, remote);
            shared.spawn(async move {
                // Once the connection is open, dropping this does not vacate the place.
                let _stranger = stranger;
                serving.await;
            });
        }
        Err(error) => {
            let reason = Reason { error: &error, side: Side::Listener };
            refuse(&shared, from, format!("The TLS handshake with {from} failed: {reason}"));
        }
    }
}

/// The peer's state machine never hears of a connection without TLS, its listener should.
fn refuse(shared: &Shared, from: SocketAddr, text: String) {
    warn!(peer = %shared.id, remote = %from, reason = text, "TLS refused");
    let reason = Error::new(ErrorKind::Tls, text);
    shared.emit(PeerEvent::ConnectionClosed { unit: None, reason });
}
