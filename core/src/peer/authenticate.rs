//! The application's judgement of whoever asks for an upgrade.

use std::{fmt, net::SocketAddr, pin::Pin, sync::Arc};

use http::HeaderMap;

use super::foreign::guarded;
use crate::{
    engine::{Certificate, Claims},
    ws::Denied,
};

/// A request for an upgrade, which [`PeerBuilder::authenticate`](crate::PeerBuilder::authenticate) judges.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UpgradeRequest {
    /// The path that is asked for, without the query.
    pub path: String,
    /// The headers, such as `Authorization`. They may be secrets.
    pub headers: HeaderMap,
    /// Where the connection comes from, if that is known.
    pub address: Option<SocketAddr>,
    /// The certificate that was shown, which TLS has verified.
    pub certificate: Option<Arc<Certificate>>,
}

impl UpgradeRequest {
    /// A header as text; none when it is missing or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The token of an `Authorization: Bearer` header.
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }
}

type Judging = Pin<Box<dyn Future<Output = Result<Claims, Denied>> + Send>>;

/// The application's function.
pub(crate) struct Authenticate(Box<dyn Fn(UpgradeRequest) -> Judging + Send + Sync>);

impl Authenticate {
    pub(super) fn new<F, Fut>(judge: F) -> Authenticate
    where
        F: Fn(UpgradeRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Claims, Denied>> + Send + 'static,
    {
        Authenticate(Box::new(move |request| Box::pin(judge(request))))
    }

    /// Its verdict. A panic is a refusal.
    pub(crate) async fn ask(&self, request: UpgradeRequest) -> Result<Claims, Denied> {
        let panicked = || Denied { status: 500, reason: "The hook panicked".to_owned() };
        let mut judging = guarded(|| self.0(request)).ok_or_else(panicked)?;
        let verdict = std::future::poll_fn(|cx| match guarded(|| judging.as_mut().poll(cx)) {
            Some(poll) => poll,
            None => std::task::Poll::Ready(Err(panicked())),
        })
        .await;
        guarded(|| drop(judging));
        verdict
    }
}

impl fmt::Debug for Authenticate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authenticate")
    }
}
