//! Dialing addresses.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::{ConnectOptions, drive};
use crate::{
    Error, ErrorKind, Result,
    engine::{AddressId, Opening},
    peer::Shared,
};

/// Dials an address, then leaves the connection to a task of its own, which is much smaller.
pub(crate) async fn dial_task(
    shared: Arc<Shared>,
    address: AddressId,
    url: Arc<str>,
    options: Arc<ConnectOptions>,
) {
    let mut closed = shared.closed.subscribe();
    let attempt = tokio::time::timeout(options.timeout, connect(&url, &options));
    let connected = tokio::select! {
        connected = attempt => connected.unwrap_or_else(|_| {
            let text = format!("Socket errored: `{url}` did not answer in {:?}", options.timeout);
            Err(Error::new(ErrorKind::ConnectFailed, text))
        }),
        _ = closed.wait_for(|closed| *closed) => return,
    };
    match connected {
        Err(error) => {
            shared.with_core(|core, now| core.peer.dial_failed(address, error, now));
        }
        Ok((url, stream)) => {
            let headers = options.headers.clone();
            let opening = Opening::Dial { address, url, headers };
            match stream {
                Stream::Plain(stream) => {
                    shared.spawn(drive::serve(shared.clone(), stream, opening))
                }
                Stream::Tls(stream) => shared.spawn(drive::serve(shared.clone(), *stream, opening)),
            }
        }
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

async fn connect(address: &str, options: &ConnectOptions) -> Result<(Url, Stream)> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::ConnectFailed, format!("Socket errored: {what} `{address}`: {error}"))
    };
    let url = Url::parse(address).map_err(|error| failed("cannot parse", &error))?;
    let port = url.port_or_known_default().unwrap_or(80);
    let stream = match url.host() {
        Some(Host::Domain(name)) => TcpStream::connect((name, port)).await,
        Some(Host::Ipv4(ip)) => TcpStream::connect((ip, port)).await,
        Some(Host::Ipv6(ip)) => TcpStream::connect((ip, port)).await,
        None => return Err(failed("cannot dial", &"no host")),
    };
    let stream = stream.map_err(|error| failed("cannot connect to", &error))?;
    let _ = stream.set_nodelay(true);
    if url.scheme() != "wss" {
        return Ok((url, Stream::Plain(stream)));
    }
    let name = options.tls.name_for(url.host_str().unwrap_or_default())?;
    let connector = TlsConnector::from(options.tls.config()?);
    let stream =
        connector.connect(name, stream).await.map_err(|error| failed("no TLS with", &error))?;
    Ok((url, Stream::Tls(Box::new(stream))))
}
