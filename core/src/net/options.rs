//! How to listen and how to connect.

use std::{io, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    dial::Connector,
    tls::{TlsClient, TlsServer},
};
use crate::{Error, ErrorKind, Result};

/// How to listen, for [`Peer::listen_with`](crate::Peer::listen_with).
#[derive(Clone, Debug, Default)]
pub struct ListenOptions {
    pub(crate) path: Option<String>,
    pub(crate) tls: Option<TlsServer>,
}

impl ListenOptions {
    /// Plain TCP, any path.
    pub fn new() -> ListenOptions {
        ListenOptions::default()
    }

    /// Serves only upgrades to this path, such as `/rt`; others get 400. Queries are ignored.
    pub fn path(mut self, path: impl Into<String>) -> ListenOptions {
        self.path = Some(path.into());
        self
    }

    /// Serves TLS (`wss`).
    pub fn tls(mut self, tls: TlsServer) -> ListenOptions {
        self.tls = Some(tls);
        self
    }
}

/// How to connect, for [`Peer::connect_with`](crate::Peer::connect_with).
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    pub(crate) permanent: bool,
    pub(crate) headers: HeaderMap,
    pub(crate) tls: TlsClient,
    pub(crate) timeout: Duration,
    pub(crate) connector: Option<Connector>,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions {
            permanent: true,
            headers: HeaderMap::new(),
            tls: TlsClient::new(),
            timeout: Duration::from_secs(10),
            connector: None,
        }
    }
}

impl ConnectOptions {
    /// Reconnects for ever, sends no extra headers, verifies certificates against the system's roots.
    pub fn new() -> ConnectOptions {
        ConnectOptions::default()
    }

    /// Connects once: a failure or a loss is final. By default the address is dialed again until it
    /// is [disconnected](crate::Peer::disconnect).
    pub fn once(mut self) -> ConnectOptions {
        self.permanent = false;
        self
    }

    /// Sends a header with the upgrade, such as `Authorization`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the name or the value is not one of HTTP's.
    pub fn header(mut self, name: &str, value: &str) -> Result<ConnectOptions> {
        let invalid = |what: &str| {
            Error::new(ErrorKind::InvalidArgument, format!("The header `{name}` {what}"))
        };
        let name =
            HeaderName::try_from(name).map_err(|_| invalid("has characters that no name has"))?;
        let value = HeaderValue::try_from(value).map_err(|_| invalid("has an unusable value"))?;
        self.headers.append(name, value);
        Ok(self)
    }

    /// How to verify the other side of `wss` addresses, and what to show it.
    pub fn tls(mut self, tls: TlsClient) -> ConnectOptions {
        self.tls = tls;
        self
    }

    /// The time for name lookup, TCP and TLS together. Default 10 s. The upgrade and the handshake
    /// have a limit of their own, [`Limits::handshake_timeout`](crate::engine::Limits).
    pub fn timeout(mut self, timeout: Duration) -> ConnectOptions {
        self.timeout = timeout;
        self
    }

    /// Opens the stream to an address with this function, which is given the address, instead of with
    /// TCP and TLS: for pipes in memory.
    #[doc(hidden)] // For tests; no promise of compatibility.
    pub fn connector<F, Fut, S>(mut self, open: F) -> ConnectOptions
    where
        F: Fn(&str) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.connector = Some(Connector::new(open));
        self
    }
}
