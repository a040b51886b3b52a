//! Accepting connections.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream, ToSocketAddrs},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::{ListenOptions, drive};
use crate::{
    error::{Error, ErrorKind, Result},
    peer::Shared,
};

/// The pause after an `accept` that failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening address. It keeps listening until it is [closed](Listener::close) or the peer is,
/// also when this handle is dropped.
#[derive(Clone, Debug)]
pub struct Listener {
    address: SocketAddr,
    closed: watch::Sender<bool>,
}

impl Listener {
    /// The address that is listened on, with the real port when port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The `ws://` address that a peer on the same machine can connect to; for TLS, replace the
    /// scheme and use a host name that is in the certificate.
    pub fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            let loopback = match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            address.set_ip(loopback);
        }
        format!("ws://{address}")
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
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Io, format!("The address cannot be listened on: {error}"))
    };
    let socket = TcpListener::bind(address).await.map_err(failed)?;
    let address = socket.local_addr().map_err(failed)?;
    let closed = watch::Sender::new(false);
    let listener = Listener { address, closed: closed.clone() };
    let task = accept_task(shared.clone(), socket, options, closed);
    shared.spawn(task);
    debug!(peer = %shared.id, %address, "listening");
    Ok(listener)
}

async fn accept_task(
    shared: Arc<Shared>,
    socket: TcpListener,
    options: ListenOptions,
    closed: watch::Sender<bool>,
) {
    let acceptor = options.tls.map(|tls| TlsAcceptor::from(tls.config));
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
                let opening = drive::Opening::Accept { path: options.path.clone() };
                match acceptor.clone() {
                    None => shared.spawn(drive::serve(shared.clone(), stream, opening)),
                    Some(tls) => shared.spawn(tls_task(shared.clone(), stream, opening, tls)),
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
    opening: drive::Opening,
    acceptor: TlsAcceptor,
) {
    // Counted from here, so that strangers cannot hold endless TLS handshakes.
    let Some(_permit) = shared.tls_permit() else { return };
    let limit = shared.limits.handshake_timeout;
    let mut closed = shared.closed.subscribe();
    let stream = tokio::select! {
        stream = tokio::time::timeout(limit, acceptor.accept(stream)) => stream,
        _ = closed.wait_for(|closed| *closed) => return,
    };
    match stream {
        Ok(Ok(stream)) => shared.spawn(drive::serve(shared.clone(), stream, opening)),
        Ok(Err(error)) => debug!(peer = %shared.id, %error, "TLS handshake failed"),
        Err(_) => debug!(peer = %shared.id, "TLS handshake timed out"),
    }
}
