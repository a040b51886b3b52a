//! Dialing addresses.

use std::{fmt, io, net::SocketAddr, pin::Pin, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::{
    ConnectOptions, drive, remote,
    tls_failure::{self, Reason, Side},
};
use crate::{
    Error, ErrorKind, Result,
    engine::{self, AddressId, Opening, hint::DialFault},
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
    let attempt = connect(&shared, address, &url, &options);
    let attempt = tokio::time::timeout(options.timeout, attempt);
    let connected = tokio::select! {
        connected = attempt => connected.unwrap_or_else(|_| {
            let text = format!("Socket errored: `{url}` did not answer in {:?}", options.timeout);
            Err(Error::new(ErrorKind::ConnectFailed, text).with_fault(DialFault::Silent))
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
                    let remote = engine::Remote::at(stream.peer_addr().ok());
                    shared.spawn(drive::serve(shared.clone(), stream, opening, remote));
                }
                Stream::Tls(stream) => {
                    let (socket, tls) = stream.get_ref();
                    let mut remote = remote::of_client(tls, socket.peer_addr().ok());
                    if options.tls.is_unverified() {
                        // Anybody can write any name into one.
                        remote.certificate = None;
                    }
                    shared.spawn(drive::serve(shared.clone(), *stream, opening, remote));
                }
                Stream::Own(serve) => shared.spawn(serve(shared.clone(), opening)),
            }
        }
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Own(Serve),
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Serves a connection over the stream that a [`Connector`] has opened.
type Serve = Box<dyn FnOnce(Arc<Shared>, Opening) -> Boxed<()> + Send>;

type Open = dyn Fn(&str) -> Boxed<io::Result<Serve>> + Send + Sync;

/// See [`ConnectOptions::connector`].
#[derive(Clone)]
pub(crate) struct Connector(Arc<Open>);

impl Connector {
    pub(super) fn new<F, Fut, S>(open: F) -> Connector
    where
        F: Fn(&str) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Connector(Arc::new(move |address| {
            let opening = open(address);
            Box::pin(async move {
                let stream = opening.await?;
                let serve: Serve = Box::new(move |shared, opening| {
                    Box::pin(drive::serve(shared, stream, opening, engine::Remote::default()))
                });
                Ok(serve)
            })
        }))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

/// Resolves a name, in a task of its own: tokio uses a thread for that, and panics when the system has none. The panic
/// becomes an error here, and does not end the task that dials.
async fn resolve(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let name = name.to_owned();
    let found = tokio::spawn(async move {
        let found = tokio::net::lookup_host((name, port)).await?;
        Ok::<_, io::Error>(found.collect::<Vec<_>>())
    });
    found.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

async fn connect(
    shared: &Arc<Shared>,
    id: AddressId,
    address: &str,
    options: &ConnectOptions,
) -> Result<(Url, Stream)> {
    let failed = |what: &str, error: &dyn fmt::Display| {
        Error::new(ErrorKind::ConnectFailed, format!("Socket errored: {what} `{address}`: {error}"))
    };
    let faulty = |what: &str, error: io::Error| {
        failed(what, &error).with_fault(fault(&error)).with_source(error)
    };
    let url = Url::parse(address).map_err(|error| failed("cannot parse", &error))?;
    if let Some(Connector(open)) = &options.connector {
        let serve = open(address).await.map_err(|error| faulty("cannot connect to", error))?;
        return Ok((url, Stream::Own(serve)));
    }
    let port = url.port_or_known_default().unwrap_or(80);
    let mut found: Vec<SocketAddr> = match url.host() {
        Some(Host::Domain(name)) => {
            let found = resolve(name, port).await;
            found.map_err(|error| {
                let failed = failed("cannot resolve", &error);
                failed.with_fault(DialFault::NameUnknown).with_source(error)
            })?
        }
        Some(Host::Ipv4(ip)) => vec![(ip, port).into()],
        Some(Host::Ipv6(ip)) => vec![(ip, port).into()],
        None => return Err(failed("cannot dial", &"no host")),
    };
    // What is connected to is what was judged: the name may be another machine's the next time.
    let ips = found.iter().map(SocketAddr::ip).collect();
    let admitted = shared.with_core(|core, _| core.peer.admit_found(id, ips))?;
    found.retain(|found| admitted.contains(&found.ip()));
    let stream = TcpStream::connect(&*found).await;
    let stream = stream.map_err(|error| faulty("cannot connect to", error))?;
    let _ = stream.set_nodelay(true);
    if url.scheme() != "wss" {
        return Ok((url, Stream::Plain(stream)));
    }
    let name = options.tls.name_for(url.host_str().unwrap_or_default())?;
    let connector = TlsConnector::from(options.tls.config()?);
    let stream = connector.connect(name, stream).await.map_err(|error| {
        let reason = Reason { error: &error, side: Side::Dialer };
        failed("no TLS with", &reason).with_fault(fault(&error)).with_source(error)
    })?;
    Ok((url, Stream::Tls(Box::new(stream))))
}

/// What an error of a socket, or of TLS on it, says about dialing.
pub(super) fn fault(error: &io::Error) -> Option<DialFault> {
    match tls_failure::of(error) {
        Some(error) => tls_fault(error),
        None => DialFault::of_io(error.kind()),
    }
}

fn tls_fault(error: &rustls::Error) -> Option<DialFault> {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error::*};
    match error {
        InvalidMessage(_) => Some(DialFault::NoTls),
        InvalidCertificate(bad) => Some(match bad {
            Bad::Expired
            | Bad::ExpiredContext { .. }
            | Bad::NotValidYet
            | Bad::NotValidYetContext { .. } => DialFault::Expired,
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => DialFault::WrongName,
            _ => DialFault::Untrusted,
        }),
        AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateUnknown
            | Alert::HandshakeFailure,
        ) => Some(DialFault::ClientCertificate),
        _ => None,
    }
}
