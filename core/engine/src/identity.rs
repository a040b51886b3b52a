//! The identity of the other end of a connection: what it has shown, not what it claims.

use std::{fmt, net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderName};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use x509_cert::{
    Certificate as X509,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use crate::{
    PlaceId,
    error::{Error, ErrorKind, Result},
    text::printable_up_to,
    wire,
};

/// The most that is kept of the headers of an upgrade, in bytes.
const MAX_HEADERS: usize = 8 << 10;
/// The most that is kept of claims, in bytes of JSON.
const MAX_CLAIMS: usize = 8 << 10;

/// The claims that an application's `authenticate` hook returns: a JSON object. `sub` is the subject, as in a JSON Web
/// Token.
pub type Claims = Map<String, Value>;

/// The certificate that the other end has shown, and that TLS has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Certificate {
    /// The subject as RFC 4514 writes it, such as `CN=billing,O=Example`; empty when it has none.
    pub subject: String,
    /// Its subject alternative names, each with its type: `dns:a.example`, `uri:spiffe://prod/a`, `ip:10.0.0.1`,
    /// `email:a@example.org`. Others are left out.
    pub names: Vec<String>,
    /// SHA-256 of the whole certificate, 64 lowercase hexadecimal digits.
    pub fingerprint: String,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] when it is none.
    pub fn from_der(der: &[u8]) -> Result<Certificate> {
        let unusable = |error: x509_cert::der::Error| {
            Error::new(ErrorKind::Tls, format!("The certificate cannot be read: {error}"))
        };
        let parsed = X509::from_der(der).map_err(unusable)?;
        let parsed = parsed.tbs_certificate();
        let names = match parsed.get_extension::<SubjectAltName>().map_err(unusable)? {
            Some((_, SubjectAltName(names))) => names.iter().filter_map(name).collect(),
            None => Vec::new(),
        };
        Ok(Certificate {
            subject: parsed.subject().to_string(),
            names,
            fingerprint: hex(&Sha256::digest(der)),
            expires: parsed.validity().not_after.to_unix_duration().as_secs(),
        })
    }

    /// Whether both are of the same holder: such as one and what it was replaced with.
    fn is_alike(&self, other: &Certificate) -> bool {
        let unnamed = self.subject.is_empty() && self.names.is_empty();
        let same = self.subject == other.subject && self.names == other.names;
        self.fingerprint == other.fingerprint || (same && !unnamed)
    }

    /// Whether both have a name in common, as that for serving and that for dialing have.
    fn is_akin(&self, other: &Certificate) -> bool {
        self.is_alike(other) || self.names.iter().any(|name| other.names.contains(name))
    }
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(format!("dns:{name}").to_lowercase()),
        GeneralName::UniformResourceIdentifier(uri) => Some(format!("uri:{uri}")),
        GeneralName::Rfc822Name(email) => Some(format!("email:{email}")),
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from);
            v4.or_else(|_| v6()).ok().map(|address| format!("ip:{address}"))
        }
        _ => None,
    }
}

/// Values that are unique to one TLS connection and known to both its ends. Proofs of keys that name them cannot be
/// relayed.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Binding {
    /// Whether there is TLS at all: a host may know neither of the following.
    pub tls: bool,
    /// Keying material exported with the label `EXPORTER-roletalk-psk` and an empty context (RFC 8446, 7.5; RFC 5705).
    pub exporter: Option<[u8; 32]>,
    /// SHA-256 of the listener's certificate in DER.
    pub end_point: Option<[u8; 32]>,
}

impl Binding {
    /// The label of the exporter.
    pub const LABEL: &str = "EXPORTER-roletalk-psk";

    /// Its values by the names that challenges have for them.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&'static str, [u8; 32])> {
        let named = [("exp", self.exporter), ("end", self.end_point)];
        named.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// An exporter is a secret of the connection.
impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values().map(|(name, _)| name)).finish()
    }
}

/// The other end of a connection, as the host knows it before anything was said.
#[derive(Clone, Debug, Default)]
pub struct Remote {
    /// Where the connection comes from or leads to.
    pub address: Option<SocketAddr>,
    /// What it has shown in the TLS handshake, if that was verified.
    pub certificate: Option<Arc<Certificate>>,
    /// Of the TLS connection.
    pub binding: Binding,
    /// What the application's hook has said, where the host does the upgrade itself.
    pub claims: Option<Claims>,
    /// The headers of the upgrade, where the host does that itself.
    pub headers: Option<HeaderMap>,
    /// The place from [`Peer::enter`](crate::Peer::enter), if that was called for this connection.
    pub place: Option<PlaceId>,
}

impl Remote {
    /// One at an address, without TLS.
    pub fn at(address: impl Into<Option<SocketAddr>>) -> Remote {
        Remote { address: address.into(), ..Remote::default() }
    }

    /// Adds the certificate that it has shown, in DER. Of one that cannot be read, which TLS has accepted all the same,
    /// only the fingerprint is known.
    pub fn with_certificate(mut self, der: &[u8]) -> Remote {
        let unreadable = |_| Certificate {
            subject: String::new(),
            names: Vec::new(),
            fingerprint: hex(&Sha256::digest(der)),
            expires: 0,
        };
        self.certificate = Some(Certificate::from_der(der).unwrap_or_else(unreadable).into());
        self
    }
}

/// The identity of the other end of a connection: what it has shown, as opposed to what it says about itself.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Identity {
    /// The id of the preshared key that it has proved; none when this peer asks for no proof.
    pub key: Option<String>,
    /// The name of its own [key](crate::PeerKey), when it has proved that its id belongs to that: `key-` and 40
    /// hexadecimal digits, the same after each of its restarts.
    pub peer: Option<String>,
    /// Its certificate.
    pub certificate: Option<Arc<Certificate>>,
    /// What the application's hook has said when the connection was accepted.
    pub claims: Claims,
    /// Where the connection comes from or leads to.
    pub address: Option<SocketAddr>,
    /// The headers of its upgrade that were [to be kept](crate::Config::identity_headers), in lower case.
    pub headers: Vec<(String, String)>,
    /// Whether this peer has dialed it.
    pub dialed: bool,
}

impl Identity {
    pub(crate) fn of(remote: Remote, dialed: bool, kept: &[String]) -> Identity {
        let Remote { address, certificate, binding: _, claims, headers, place: _ } = remote;
        let mut identity = Identity {
            address,
            certificate,
            dialed,
            claims: claims.unwrap_or_default(),
            ..Identity::default()
        };
        if let Some(headers) = headers {
            identity.keep_headers(&headers, kept);
        }
        identity
    }

    /// Keeps those headers that are asked for, as far as they are text.
    pub(crate) fn keep_headers(&mut self, headers: &HeaderMap, kept: &[String]) {
        let names = kept.iter().filter_map(|name| HeaderName::try_from(name.as_str()).ok());
        let pairs = names.flat_map(|name| {
            let values = headers.get_all(&name).iter().filter_map(|value| value.to_str().ok());
            values.map(|value| (name.to_string(), value.to_owned())).collect::<Vec<_>>()
        });
        let mut room = MAX_HEADERS;
        self.headers = pairs
            .take_while(|(name, value)| {
                let len = name.len() + value.len();
                let fits = len <= room;
                room = room.saturating_sub(len);
                fits
            })
            .collect();
    }

    /// The key that was proved, without the version behind a `#`: keys that differ in nothing else stand for
    /// the same, so that one can be replaced by another.
    pub fn key_name(&self) -> Option<&str> {
        self.key.as_deref().map(|id| id.split_once('#').map_or(id, |(name, _)| name))
    }

    /// Whether a further connection may join this unit: it shows the same, and lacks nothing that it could have shown.
    pub(crate) fn admits(&self, further: &Identity) -> bool {
        let key = self.key.is_none() || self.key_name() == further.key_name();
        let certificate = match (&self.certificate, &further.certificate) {
            (Some(known), Some(shown)) if self.dialed == further.dialed => known.is_alike(shown),
            // One and the same peer may serve with another certificate than it dials with.
            (Some(known), Some(shown)) => known.is_akin(shown),
            // Listeners that ask for no certificates see none.
            (Some(_), None) => self.dialed && !further.dialed,
            (None, _) => true,
        };
        let peer = self.peer == further.peer;
        let claims = self.dialed
            || further.dialed
            || match (self.claims.get("sub"), further.claims.get("sub")) {
                (None, None) => self.claims == further.claims,
                (known, shown) => known == shown,
            };
        key && peer && certificate && claims
    }

    /// For those who read logs: the strongest thing that it has shown.
    pub fn label(&self) -> Option<String> {
        let subject = self.claims.get("sub").and_then(Value::as_str);
        let certificate = self
            .certificate
            .as_deref()
            .map(|certificate| certificate.names.first().unwrap_or(&certificate.subject).as_str());
        let shown = [
            ("sub", subject),
            ("certificate", certificate),
            ("peer", self.peer.as_deref()),
            ("key", self.key.as_deref()),
        ];
        let (what, name) = shown.into_iter().find_map(|(what, name)| Some((what, name?)))?;
        Some(format!("{what} {}", printable_up_to(name, 128)))
    }

    /// All of it as JSON, for hosts of other languages:
    /// `{"key", "peer", "certificate": {"subject", "names", "fingerprint", "expires"}, "claims", "address", "headers", "dialed"}`.
    /// What is not known is `null`; headers are pairs of name and value.
    pub fn to_json(&self) -> Value {
        let certificate = self.certificate.as_ref().map(|certificate| {
            let Certificate { subject, names, fingerprint, expires } = &**certificate;
            json!({
                "subject": subject, "names": names, "fingerprint": fingerprint, "expires": expires,
            })
        });
        json!({
            "key": self.key,
            "peer": self.peer,
            "certificate": certificate,
            "claims": self.claims,
            "address": self.address.map(|address| address.to_string()),
            "headers": self.headers,
            "dialed": self.dialed,
        })
    }
}

/// Checks the name of a header that is to be [kept](crate::Config::identity_headers).
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when no header can have it.
pub fn check_header(name: &str) -> Result<()> {
    HeaderName::try_from(name).map(drop).map_err(|_| {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("`{}` is no name of a header", wire::cut(name, 128)),
        )
    })
}

/// Checks claims that are given as JSON.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when it is no object, or larger than 8 KiB.
pub fn parse_claims(text: &str) -> Result<Claims> {
    let invalid = |why: String| Error::new(ErrorKind::InvalidArgument, format!("The claims {why}"));
    if text.len() > MAX_CLAIMS {
        return Err(invalid(format!(
            "have {} bytes of JSON, {MAX_CLAIMS} are allowed",
            text.len()
        )));
    }
    serde_json::from_str(text).map_err(|error| invalid(format!("are no JSON object: {error}")))
}

/// Checks claims that are given as they are.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when their JSON is larger than 8 KiB.
pub fn check_claims(claims: &Claims) -> Result<()> {
    let text = serde_json::to_string(claims).unwrap_or_default();
    parse_claims(&text).map(|_| ())
}

/// SHA-256 of a certificate in DER, for [`Binding::end_point`].
pub fn end_point(der: &[u8]) -> [u8; 32] {
    Sha256::digest(der).into()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The origins whose pages may connect. Clients that are no browsers send none, and get in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Allows an origin, such as `https://app.example.org`, or all with `*`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when it has a path, no scheme, or anything else that no browser sends.
    pub fn allow(&mut self, origin: &str) -> Result<()> {
        let usable = match origin {
            "*" | "null" => true,
            origin => url::Url::parse(origin).is_ok_and(|url| {
                url.has_host() && matches!(url.path(), "" | "/") && !origin.ends_with('/')
            }),
        };
        if !usable {
            let text = format!(
                "`{origin}` is no origin: it should be scheme, host and port only, such as https://app.example.org"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        // As browsers write it: in lower case, without the port of the scheme.
        let written = match origin {
            "*" | "null" => origin.to_owned(),
            origin => url::Url::parse(origin)
                .map(|url| url.as_str().trim_end_matches('/').to_owned())
                .unwrap_or_default(),
        };
        self.0.push(written);
        Ok(())
    }

    /// Whether an upgrade with these headers may proceed: it has no origin, or an allowed one. The host of the request
    /// is not considered: with a DNS name that points to this machine, any page can make it match.
    ///
    /// # Errors
    /// The foreign origin.
    pub fn check<'a>(&self, mut origins: impl Iterator<Item = &'a [u8]>) -> Result<(), String> {
        let Some(origin) = origins.next() else { return Ok(()) };
        let allowed = |known: &String| known == "*" || known.as_bytes() == origin;
        match origins.next() {
            None if self.0.iter().any(allowed) => Ok(()),
            _ => Err(wire::cut(&String::from_utf8_lossy(origin), 128).to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(names: &[&str], fingerprint: &str) -> Option<Arc<Certificate>> {
        Some(Arc::new(Certificate {
            subject: String::new(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            fingerprint: fingerprint.to_owned(),
            expires: 0,
        }))
    }

    fn claims(json: &str) -> Claims {
        parse_claims(json).unwrap()
    }

    #[test]
    fn further_connections_show_the_same() {
        let key = |id: &str| Identity { key: Some(id.to_owned()), ..Identity::default() };
        let none = Identity::default;
        let dialed = |certificate| Identity { certificate, dialed: true, ..none() };
        let accepted = |certificate| Identity { certificate, ..none() };
        let claim = |json| Identity { claims: claims(json), ..none() };
        let (a, a2, b) = (
            shown(&["dns:a.example"], "1"),
            shown(&["dns:a.example"], "2"),
            shown(&["dns:b.example"], "3"),
        );
        let both = shown(&["dns:a.example", "uri:spiffe://a"], "4");
        for (unit, further, expected) in [
            (none(), none(), true),
            (key("a"), key("a"), true),
            (key("a#1"), key("a#2"), true),
            (key("a"), key("b"), false),
            (key("a"), none(), false),
            (none(), key("a"), true),
            (accepted(a.clone()), accepted(a2.clone()), true),
            (accepted(a.clone()), accepted(b.clone()), false),
            (accepted(a.clone()), accepted(both.clone()), false),
            (accepted(a.clone()), dialed(both), true),
            (accepted(a.clone()), dialed(b), false),
            (accepted(a.clone()), none(), false),
            (accepted(a.clone()), dialed(None), false),
            // A listener that asks for no certificate.
            (dialed(a.clone()), none(), true),
            (dialed(a.clone()), dialed(None), false),
            (none(), accepted(a), true),
            (claim(r#"{"sub": "a", "iat": 1}"#), claim(r#"{"sub": "a", "iat": 2}"#), true),
            (claim(r#"{"sub": "a"}"#), claim(r#"{"sub": "b"}"#), false),
            (claim(r#"{"sub": "a"}"#), none(), false),
            (claim(r#"{"team": "a"}"#), claim(r#"{"team": "b"}"#), false),
            (claim(r#"{"sub": "a"}"#), dialed(None), true),
        ] {
            assert_eq!(unit.admits(&further), expected, "{unit:?}\n{further:?}");
        }
    }

    #[test]
    fn origins_are_compared_as_browsers_write_them() {
        let mut origins = Origins::default();
        let check = |origins: &Origins, sent: &[&str]| {
            origins.check(sent.iter().map(|origin| origin.as_bytes())).is_ok()
        };
        assert!(check(&origins, &[]));
        assert!(!check(&origins, &["https://app.example.org"]));
        assert!(!check(&origins, &["null"]) && !check(&origins, &[""]));
        for origin in ["HTTPS://App.Example.org:443", "http://localhost:3000"] {
            origins.allow(origin).unwrap();
        }
        assert!(check(&origins, &["https://app.example.org"]));
        assert!(check(&origins, &["http://localhost:3000"]));
        assert!(!check(&origins, &["http://localhost:3001"]));
        assert!(!check(&origins, &["http://localhost:3000", "https://evil.example"]));
        assert!(!check(&origins, &["null"]));
        for origin in ["app.example.org", "https://a.example/path", "https://a.example/", "", "a"] {
            assert!(origins.allow(origin).is_err(), "{origin}");
        }
        origins.allow("*").unwrap();
        assert!(check(&origins, &["null"]) && check(&origins, &["https://evil.example"]));
    }

    #[test]
    fn of_a_certificate_that_cannot_be_read_the_fingerprint_is_known() {
        let remote = Remote::default().with_certificate(b"none");
        let certificate = remote.certificate.unwrap();
        assert_eq!((certificate.fingerprint.len(), certificate.names.len()), (64, 0));
        assert!(certificate.is_alike(&certificate.clone()));
        let other = Remote::default().with_certificate(b"another").certificate.unwrap();
        assert!(!certificate.is_alike(&other) && !certificate.is_akin(&other));
    }

    #[test]
    fn headers_are_bounded_and_only_those_that_are_asked_for() {
        let mut headers = HeaderMap::new();
        headers.insert("x-team", "a".parse().unwrap());
        headers.insert("cookie", "secret".parse().unwrap());
        headers.insert("x-long", "x".repeat(MAX_HEADERS).parse().unwrap());
        let mut identity = Identity::default();
        let kept = ["X-Team", "no header", "x-long"].map(str::to_owned);
        identity.keep_headers(&headers, &kept);
        assert_eq!(identity.headers, [("x-team".to_owned(), "a".to_owned())]);
        assert!(!identity.to_json().to_string().contains("secret"));
    }
}
