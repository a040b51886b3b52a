//! Accepting connections.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream, ToSocketAddrs},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::{
    ListenOptions, TlsServer, drive, remote,
    tls_failure::{Reason, Side},
};
use crate::{
    Error, ErrorKind, Result,
    engine::{self, Opening, hint},
    peer::{PeerEvent, Shared},
};

/// The pause after an `accept` that failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    let failed = |addresses: &str, error: std::io::Error| {
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
    let bound = TcpListener::bind(&*addresses).await;
    let socket = bound.map_err(|error| failed(&names, error))?;
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

async fn accept_task(
    shared: Arc<Shared>,
    socket: TcpListener,
    options: ListenOptions,
    closed: watch::Sender<bool>,
) {
    let (mut stop, mut peer_closed) = (closed.subscribe(), shared.closed.subscribe());
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stop.wait_for(|closed| *closed) => return,
            _ = peer_closed.wait_for(|closed| *closed) => return,
        };
        match accepted {
            Ok((stream, from)) => {
                debug!(peer = %shared.id, %from, "accepted");
                // Pings, requests and answers are small and must not wait for each other.
                let _ = stream.set_nodelay(true);
                let opening = Opening::Accept { path: options.path.clone() };
                match options.tls.clone() {
                    None => {
                        let remote = engine::Remote::at(from);
                        shared.spawn(drive::serve(shared.clone(), stream, opening, remote));
                    }
                    Some(tls) => {
                        shared.spawn(tls_task(shared.clone(), stream, from, opening, tls));
                    }
                }
            }
            Err(error) => {
                warn!(peer = %shared.id, %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Does the TLS handshake, then leaves the connection to a task of its own, which is much smaller.
async fn tls_task(
    shared: Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
    opening: Opening,
    tls: TlsServer,
) {
    // Counted from here, so that strangers cannot hold endless TLS handshakes.
    let Some(_permit) = shared.tls_permit() else { return };
    // That of this moment: it may change at any time.
    let (acceptor, end_point) = match tls.shown() {
        Ok(shown) => (TlsAcceptor::from(shown.config.clone()), shown.end_point),
        Err(error) => return refuse(&shared, from, error.text().to_owned()),
    };
    let limit = shared.limits.handshake_timeout;
    let mut closed = shared.closed.subscribe();
    let stream = tokio::select! {
        stream = tokio::time::timeout(limit, acceptor.accept(stream)) => stream,
        _ = closed.wait_for(|closed| *closed) => return,
    };
    match stream {
        Ok(Ok(stream)) => {
            let remote = remote::of_server(stream.get_ref().1, from, end_point);
            shared.spawn(drive::serve(shared.clone(), stream, opening, remote));
        }
        Ok(Err(error)) => {
            let reason = Reason { error: &error, side: Side::Listener };
            refuse(&shared, from, format!("The TLS handshake with {from} failed: {reason}"));
        }
        Err(_) => {
            refuse(
                &shared,
                from,
                format!("The TLS handshake with {from} took more than {limit:?}"),
            );
        }
    }
}

/// The peer's state machine never hears of a connection without TLS, its listener should.
fn refuse(shared: &Shared, from: SocketAddr, text: String) {
    warn!(peer = %shared.id, remote = %from, reason = text, "TLS refused");
    let reason = Error::new(ErrorKind::Tls, text);
    shared.emit(PeerEvent::ConnectionClosed { unit: None, reason });
}
