use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        AUTHORIZATION, CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use tungstenite::{
    error::{CapacityError, Error, ProtocolError},
    handshake::{client, derive_accept_key, machine::TryParse, server},
};
use url::Url;

use crate::Origins;

/// A finished upgrade.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Upgraded {
    /// The path that was asked for, without the query.
    pub path: String,
    /// The headers that the remote sent.
    pub headers: HeaderMap,
}

/// Why there was no upgrade.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The remote does not speak HTTP/1.1.
    #[error("malformed HTTP: {0}")]
    Malformed(String),
    /// The remote speaks TLS.
    #[error("TLS instead of HTTP")]
    Tls,
    /// The HTTP head, or the number of its headers, is over the limit.
    #[error("HTTP head over the limit of {limit} bytes or 124 headers")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The request is not one for a WebSocket.
    #[error("not a WebSocket upgrade: {0}")]
    NotUpgrade(String),
    /// The request is for another path than the one that is served.
    #[error("no WebSocket at path {path:?}")]
    WrongPath {
        /// The path that was asked for.
        path: String,
    },
    /// The request is from a page of a foreign origin, in a browser.
    #[error("the origin {origin:?} is foreign")]
    ForeignOrigin {
        /// The origin, as far as it fits into 128 bytes.
        origin: String,
    },
    /// The application has refused the request.
    #[error("the application has refused the upgrade: {reason}")]
    Denied {
        /// What it has said.
        reason: String,
    },
    /// The listener answered with a status other than 101.
    #[error("{reason}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// `Unexpected server response: ` and the status.
        reason: String,
    },
    /// The listener answered 101, but not as RFC 6455 demands.
    #[error("invalid WebSocket upgrade response: {0}")]
    BadResponse(String),
    /// A header that the upgrade is made of was given by the user.
    #[error("the header {0:?} is set by roletalk and can't be given")]
    ReservedHeader(String),
    /// The URL is not one of a WebSocket.
    #[error("unsupported URL: {0}")]
    BadUrl(String),
    /// Bytes were fed after the upgrade had finished or failed.
    #[error("the upgrade is over")]
    Over,
}

/// The listener's side of an upgrade.
#[derive(Debug)]
pub struct Accept {
    path: Option<String>,
    origins: Arc<Origins>,
    head: Head,
    holds: bool,
    /// The answer that is held.
    answer: Option<String>,
}

impl Accept {
    /// Waits for a request. With `path` only requests for exactly this path are accepted, whatever
    /// their query. Requests of pages in browsers are refused. `max_upgrade` is the limit for the HTTP head in bytes.
    pub fn new(path: Option<String>, max_upgrade: usize) -> Self {
        let head = Head::new(max_upgrade);
        Self { path, origins: Arc::default(), head, holds: false, answer: None }
    }

    /// Accepts requests of pages from these origins, too.
    #[must_use]
    pub fn origins(mut self, origins: Arc<Origins>) -> Self {
        self.origins = origins;
        self
    }

    /// Holds the answer until the request is [accepted](Accept::accept) or [denied](Accept::deny).
    #[must_use]
    pub fn hold(mut self) -> Self {
        self.holds = true;
        self
    }

    /// Takes bytes of the request off `input` and, when it is complete, appends the answer to
    /// `out`. `None` means that the request is not complete and all of `input` was taken. What is
    /// behind the request stays in `input`.
    ///
    /// A subprotocol is not spoken, but the first one that is offered is confirmed, as the original
    /// does. Extensions are declined silently.
    ///
    /// # Errors
    /// When there is nothing to upgrade to. The answer in `out` says so to the remote (400, 403, 426 or
    /// 431) and should be sent before the connection is closed. Any further call fails with
    /// [`UpgradeError::Over`], without an answer.
    pub fn feed(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Upgraded>, UpgradeError> {
        let result = match self.head.feed(input) {
            Ok(Some(head)) => respond(&head, self.path.as_deref(), &self.origins, self.head.max),
            Ok(None) => return Ok(None),
            Err(UpgradeError::Over) => return Err(UpgradeError::Over),
            Err(error) => Err(error),
        };
        match result {
            Ok((upgraded, answer)) => {
                self.answer = Some(answer);
                if !self.holds {
                    self.accept(out);
                }
                Ok(Some(upgraded))
            }
            Err(error) => {
                out.extend_from_slice(refusal(status(&error), "").as_bytes());
                Err(error)
            }
        }
    }

    /// Whether an answer is [held](Accept::hold).
    pub fn is_held(&self) -> bool {
        self.answer.is_some()
    }

    /// Appends the answer that is [held](Accept::hold).
    pub fn accept(&mut self, out: &mut Vec<u8>) {
        let answer = self.answer.take().unwrap_or_default();
        out.extend_from_slice(answer.as_bytes());
    }

    /// Refuses the request whose answer is [held](Accept::hold).
    pub fn deny(&mut self, denied: &Denied, out: &mut Vec<u8>) {
        if self.answer.take().is_some() {
            out.extend_from_slice(refusal(denied.status(), denied.challenge()).as_bytes());
        }
    }
}

/// How an application refuses an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The HTTP status: 401, 403, or another one from 400 to 599.
    pub status: u16,
    /// Why, for this side's log and events. The other side is not told.
    pub reason: String,
}

impl Denied {
    /// Refuses with 403.
    pub fn new(reason: impl Into<String>) -> Denied {
        Denied { status: 403, reason: reason.into() }
    }

    fn status(&self) -> StatusCode {
        let status = StatusCode::from_u16(self.status).ok();
        status
            .filter(|status| status.is_client_error() || status.is_server_error())
            .unwrap_or(StatusCode::FORBIDDEN)
    }

    /// HTTP demands it with 401.
    fn challenge(&self) -> &'static str {
        match self.status() {
            StatusCode::UNAUTHORIZED => "WWW-Authenticate: Bearer\r\n",
            _ => "",
        }
    }
}

/// Judges a request. Gives what came of it and the answer.
fn respond(
    head: &[u8],
    path: Option<&str>,
    origins: &Origins,
    limit: usize,
) -> Result<(Upgraded, String), UpgradeError> {
    let mut request = match server::Request::try_parse(head) {
        Ok(Some((_, request))) => request,
        Ok(None) => return Err(UpgradeError::Malformed("incomplete request".into())),
        Err(Error::Protocol(
            error @ (ProtocolError::WrongHttpMethod | ProtocolError::WrongHttpVersion),
        )) => return Err(UpgradeError::NotUpgrade(error.to_string())),
        Err(error) => return Err(malformed(error, limit)),
    };

    // tungstenite knows version 13 only; 8 differs in nothing but the number.
    let version = request.headers_mut().get_mut(SEC_WEBSOCKET_VERSION);
    if let Some(version) = version.filter(|version| *version == "8") {
        *version = HeaderValue::from_static("13");
    }
    let response = server::create_response(&request).map_err(|error| match error {
        Error::Protocol(
            ProtocolError::MissingSecWebSocketKey | ProtocolError::InvalidSecWebSocketKey,
        ) => UpgradeError::Malformed(error.to_string()),
        error => UpgradeError::NotUpgrade(error.to_string()),
    })?;

    let requested = request.uri().path();
    if path.is_some_and(|path| path != requested) {
        return Err(UpgradeError::WrongPath { path: requested.to_owned() });
    }
    // The latter with version 8.
    let sent = request.headers().get_all(ORIGIN).iter();
    let sent = sent.chain(request.headers().get_all("sec-websocket-origin").iter());
    let sent = sent.map(HeaderValue::as_bytes);
    origins.check(sent).map_err(|origin| UpgradeError::ForeignOrigin { origin })?;

    let accept = text(response.headers(), &SEC_WEBSOCKET_ACCEPT);
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n"
    );
    let first_protocol = text(request.headers(), &SEC_WEBSOCKET_PROTOCOL)
        .split(',')
        .next()
        .unwrap_or_default()
        .trim();
    if !first_protocol.is_empty() {
        answer.push_str(&format!("Sec-WebSocket-Protocol: {first_protocol}\r\n"));
    }
    answer.push_str("\r\n");

    let upgraded =
        Upgraded { path: requested.to_owned(), headers: std::mem::take(request.headers_mut()) };
    Ok((upgraded, answer))
}

/// The status of a request that is not upgraded.
fn status(error: &UpgradeError) -> StatusCode {
    match error {
        UpgradeError::NotUpgrade(_) => StatusCode::UPGRADE_REQUIRED,
        UpgradeError::TooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        UpgradeError::ForeignOrigin { .. } => StatusCode::FORBIDDEN,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// The answer for a request that is not upgraded, with these headers more.
fn refusal(status: StatusCode, more: &str) -> String {
    let headers = match status {
        StatusCode::UPGRADE_REQUIRED => {
            "Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n"
        }
        _ => "Connection: close\r\n",
    };
    // Nothing of the request is repeated in the body: it may come from anywhere.
    let body = status.canonical_reason().unwrap_or_default();
    format!(
        "HTTP/1.1 {} {body}\r\n\
         {headers}\
         {more}\
         Content-Type: text/plain\r\n\
         Content-Length: {}\r\n\
         \r\n\
         {body}",
        status.as_str(),
        body.len()
    )
}

/// The dialer's side of an upgrade.
#[derive(Debug)]
pub struct Dial {
    path: String,
    accept: String,
    head: Head,
}

impl Dial {
    /// Appends the request to `out`.
    ///
    /// `url` has the scheme `ws` or `wss`; a user name and password in it become an `Authorization`
    /// header. `headers` are added to the request; they may replace `Host` and `Authorization`.
    /// `key_entropy` becomes the `Sec-WebSocket-Key`, and must be random: it protects from answers
    /// out of a cache. `max_upgrade` is the limit for the HTTP head of the answer, in bytes.
    ///
    /// # Errors
    /// [`UpgradeError::BadUrl`], and [`UpgradeError::ReservedHeader`] when `headers` has one that
    /// belongs to the upgrade (`Upgrade`, `Connection`, `Sec-WebSocket-*`). Nothing is appended then.
    pub fn new(
        url: &Url,
        headers: &HeaderMap,
        key_entropy: [u8; 16],
        max_upgrade: usize,
        out: &mut Vec<u8>,
    ) -> Result<Self, UpgradeError> {
        if !matches!(url.scheme(), "ws" | "wss") {
            return Err(UpgradeError::BadUrl(format!(
                "the scheme {:?} is neither ws nor wss",
                url.scheme()
            )));
        }
        let host = url.host_str().ok_or_else(|| UpgradeError::BadUrl("there is no host".into()))?;
        if let Some(name) = headers.keys().find(|name| is_reserved(name)) {
            return Err(UpgradeError::ReservedHeader(name.to_string()));
        }

        let key = base64(&key_entropy);
        let mut request = format!("GET {}", url.path());
        if let Some(query) = url.query() {
            request.push('?');
            request.push_str(query);
        }
        request.push_str(" HTTP/1.1\r\n");
        if !headers.contains_key(HOST) {
            request.push_str(&format!("Host: {host}"));
            // `Url` has no port when it is the scheme's own.
            if let Some(port) = url.port() {
                request.push_str(&format!(":{port}"));
            }
            request.push_str("\r\n");
        }
        request.push_str(&format!(
            "Connection: Upgrade\r\n\
             Upgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\n"
        ));
        let has_userinfo = !url.username().is_empty() || url.password().is_some();
        if has_userinfo && !headers.contains_key(AUTHORIZATION) {
            let mut credentials = percent_decoded(url.username());
            credentials.push(b':');
            credentials.extend(percent_decoded(url.password().unwrap_or_default()));
            request.push_str(&format!("Authorization: Basic {}\r\n", base64(&credentials)));
        }

        out.extend_from_slice(request.as_bytes());
        for (name, value) in headers {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            // Not text: a header may have bytes above 127.
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");

        Ok(Self {
            path: url.path().to_owned(),
            accept: derive_accept_key(key.as_bytes()),
            head: Head::new(max_upgrade),
        })
    }

    /// Takes bytes of the answer off `input`. `None` means that the answer is not complete and all
    /// of `input` was taken. What is behind the answer stays in `input`.
    ///
    /// # Errors
    /// When the remote refused, or answered something that is not the upgrade asked for. Any further
    /// call fails with [`UpgradeError::Over`].
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Upgraded>, UpgradeError> {
        let Some(head) = self.head.feed(input)? else {
            return Ok(None);
        };
        let response = match client::Response::try_parse(&head) {
            Ok(Some((_, response))) => response,
            Ok(None) => return Err(UpgradeError::Malformed("incomplete response".into())),
            Err(error) => {
                // Simple servers refuse in HTTP/1.0, which tungstenite does not look into.
                return Err(match http_1_0_status(&head) {
                    Some(status) => refused(status),
                    None => malformed(error, self.head.max),
                });
            }
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(response.status().as_u16()));
        }

        let headers = response.headers();
        let bad = |what: &str| Err(UpgradeError::BadResponse(what.into()));
        if !text(headers, &UPGRADE).eq_ignore_ascii_case("websocket") {
            return bad("no \"Upgrade: websocket\" header");
        }
        let mut connection = headers.get_all(CONNECTION).iter();
        if !connection.any(|value| has_token(value, "upgrade")) {
            return bad("no \"Connection: Upgrade\" header");
        }
        if headers.get(SEC_WEBSOCKET_ACCEPT).is_none_or(|value| *value != self.accept) {
            return bad("missing or wrong Sec-WebSocket-Accept");
        }
        if headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
            return bad("the server selected an extension that was not offered");
        }
        if headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
            return bad("the server selected a subprotocol that was not offered");
        }
        Ok(Some(Upgraded {
            path: std::mem::take(&mut self.path),
            headers: response.into_parts().0.headers,
        }))
    }
}

/// What TLS begins with.
const TLS_ALERT: u8 = 21;
const TLS_HANDSHAKE: u8 = 22;

/// Collects an HTTP head.
#[derive(Debug)]
struct Head {
    buf: Vec<u8>,
    max: usize,
    over: bool,
}

impl Head {
    fn new(max: usize) -> Self {
        Self { buf: Vec::new(), max, over: false }
    }

    /// Gives the head, blank line included, once it is whole. Looks at every byte once, however
    /// small the pieces are that they come in.
    fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, UpgradeError> {
        if self.over {
            return Err(UpgradeError::Over);
        }
        let before = self.buf.len();
        let room = self.max.saturating_add(1) - before;
        let now = &input[..input.len().min(room)];
        self.buf.extend_from_slice(now);

        // Binary junk, such as a TLS client at a plain port, would else be waited for until some
        // timeout.
        let junk = |byte: &u8| !byte.is_ascii_graphic() && !matches!(byte, b'\r' | b'\n');
        if self.buf.first().is_some_and(junk) {
            self.over = true;
            return Err(match self.buf[0] {
                TLS_ALERT | TLS_HANDSHAKE => UpgradeError::Tls,
                _ => UpgradeError::Malformed("not HTTP".into()),
            });
        }

        // The blank line may have begun two bytes ago.
        let from = before.saturating_sub(2);
        let end = blank_line_end(&self.buf[from..]).map(|end| from + end);
        match end {
            Some(end) if end <= self.max => {
                *input = &input[end - before..];
                self.over = true;
                let mut head = std::mem::take(&mut self.buf);
                head.truncate(end);
                Ok(Some(head))
            }
            None if self.buf.len() <= self.max => {
                *input = &[];
                Ok(None)
            }
            _ => {
                self.over = true;
                self.buf = Vec::new();
                Err(UpgradeError::TooLarge { limit: self.max })
            }
        }
    }
}

/// Where the first blank line ends. Lines may end in a bare line feed, as for httparse.
fn blank_line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().enumerate().find_map(|(i, byte)| match byte {
        b'\n' if bytes[i + 1..].starts_with(b"\n") => Some(i + 2),
        b'\n' if bytes[i + 1..].starts_with(b"\r\n") => Some(i + 3),
        _ => None,
    })
}

fn malformed(error: Error, limit: usize) -> UpgradeError {
    match error {
        Error::Capacity(CapacityError::TooManyHeaders) => UpgradeError::TooLarge { limit },
        error => UpgradeError::Malformed(error.to_string()),
    }
}

/// The error as users of the npm library `ws`, the original's, know it.
fn refused(status: u16) -> UpgradeError {
    UpgradeError::Refused { status, reason: format!("Unexpected server response: {status}") }
}

fn http_1_0_status(head: &[u8]) -> Option<u16> {
    let digits = head.strip_prefix(b"HTTP/1.0 ")?.get(..3)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn is_reserved(name: &HeaderName) -> bool {
    name == UPGRADE || name == CONNECTION || name.as_str().starts_with("sec-websocket-")
}

/// The header's value, empty when it is missing or not text.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    let value = value.to_str().unwrap_or_default();
    value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0, |group, &byte| group << 8 | u32::from(byte))
            << (8 * (3 - chunk.len()));
        for i in 0..4 {
            text.push(if i <= chunk.len() {
                char::from(ALPHABET[(group >> (18 - 6 * i) & 63) as usize])
            } else {
                '='
            });
        }
    }
    text
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        let hex = |digit: &u8| char::from(*digit).to_digit(16);
        if let (b'%', [high, low, tail @ ..]) = (byte, tail)
            && let (Some(high), Some(low)) = (hex(high), hex(low))
        {
            bytes.push((high << 4 | low) as u8);
            rest = tail;
        } else {
            bytes.push(*byte);
            rest = tail;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_vectors() {
        // RFC 4648, section 10
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn percent_decoding() {
        assert_eq!(percent_decoded("a%3Ab%zz%4"), b"a:b%zz%4");
        assert_eq!(percent_decoded("%C3%A9+"), "é+".as_bytes());
    }
}
