//! Who may connect, call and serve: what JavaScript says of that, and what it asks.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use napi::bindgen_prelude::{ClassInstance, Uint8Array};
use napi_derive::napi;
use roletalk_engine::{
    Certificate, ChannelBinding, Config, Denial, Error, ErrorKind, Identity, PeerKey, Policy,
    PolicyFile, Remote, check_header, end_point, parse_claims,
};
use roletalk_host::lock;
use serde_json::json;

use crate::native::{Call, NativePeer, failed_with};

/// Who may connect, call and serve. What is not given is as the engine has it.
#[napi(object)]
pub struct AccessSettings {
    /// The policy, as JSON.
    pub policy: Option<String>,
    /// Origins whose pages may connect.
    pub origins: Vec<String>,
    /// Headers of upgrades that are kept.
    pub identity_headers: Vec<String>,
    /// The name of the mode.
    pub channel_binding: Option<String>,
    /// The secret of the peer's own key.
    pub peer_key: Option<Uint8Array>,
}

impl AccessSettings {
    /// # Errors
    /// [`ErrorKind::InvalidArgument`].
    pub(crate) fn apply(self, config: &mut Config) -> roletalk_engine::Result<()> {
        let AccessSettings { policy, origins, identity_headers, channel_binding, peer_key } = self;
        if let Some(text) = policy {
            config.policy = Some(Arc::new(Policy::parse(&text)?));
        }
        let allowed = Arc::make_mut(&mut config.origins);
        origins.iter().try_for_each(|origin| allowed.allow(origin))?;
        identity_headers.iter().try_for_each(|name| check_header(name))?;
        config.identity_headers = identity_headers;
        if let Some(name) = channel_binding {
            config.channel_binding = ChannelBinding::parse(&name)?;
        }
        if let Some(secret) = peer_key {
            let secret = <&[u8; 32]>::try_from(&*secret).map_err(|_| {
                let text = format!("The peer's key has {} bytes instead of 32", secret.len());
                Error::new(ErrorKind::InvalidArgument, text)
            })?;
            config.peer_key = Some(PeerKey::from_secret(secret));
        }
        Ok(())
    }
}

/// The error of settings that are not usable, as [`NativePeer::no_choice`] has it.
#[napi(catch_unwind)]
pub fn check_access(access: AccessSettings) -> Option<Vec<String>> {
    let mut config = Config::new(Box::new(|_| {}));
    access.apply(&mut config).err().map(|error| failed_with(&error))
}

/// What JavaScript knows of the other end of a connection.
#[napi(object)]
pub struct RemoteSettings {
    /// Its IP address, perhaps with a zone behind a `%`.
    pub address: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// Its certificate in DER, if TLS has verified that.
    pub certificate: Option<Uint8Array>,
    /// Whether there is TLS.
    pub tls: bool,
    /// What was exported from TLS, see [`Binding::LABEL`](roletalk_engine::Binding::LABEL).
    pub exporter: Option<Uint8Array>,
    /// The certificate of whoever listens, in DER.
    pub leaf: Option<Uint8Array>,
    /// The claims that the application has made, as JSON.
    pub claims: Option<String>,
    /// Headers of the upgrade that are to be kept, names and values in turn.
    pub headers: Vec<String>,
}

impl RemoteSettings {
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the claims are no usable JSON.
    pub(crate) fn remote(self) -> roletalk_engine::Result<Remote> {
        let RemoteSettings { address, port, certificate, tls, exporter, leaf, claims, headers } =
            self;
        let address = address.as_deref().and_then(address_of).zip(port).map(Into::into);
        let mut remote = Remote::at(address);
        if let Some(der) = certificate {
            remote = remote.with_certificate(&der);
        }
        remote.binding.tls = tls;
        remote.binding.exporter = exporter.and_then(|bytes| (&*bytes).try_into().ok());
        remote.binding.end_point = leaf.map(|der| end_point(&der));
        remote.claims = claims.map(|text| parse_claims(&text)).transpose()?;
        remote.headers = (!headers.is_empty()).then(|| header_map(&headers));
        Ok(remote)
    }
}

fn address_of(text: &str) -> Option<IpAddr> {
    text.split('%').next().unwrap_or_default().parse().ok()
}

fn header_map(pairs: &[String]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for pair in pairs.chunks_exact(2) {
        if let (Ok(name), Ok(value)) =
            (HeaderName::try_from(&pair[0]), HeaderValue::try_from(&pair[1]))
        {
            headers.append(name, value);
        }
    }
    headers
}

/// The error of claims that are not usable, as [`NativePeer::no_choice`] has it.
#[napi(catch_unwind)]
pub fn check_claims(claims: String) -> Option<Vec<String>> {
    parse_claims(&claims).err().map(|error| failed_with(&error))
}

/// What a certificate in DER says, as JSON, see [`Identity::to_json`](roletalk_engine::Identity::to_json); none when it
/// cannot be read.
#[napi(catch_unwind)]
pub fn certificate_of(der: &[u8]) -> Option<String> {
    let Certificate { subject, names, fingerprint, expires, .. } =
        Certificate::from_der(der).ok()?;
    let certificate = json!({
        "subject": subject, "names": names, "fingerprint": fingerprint, "expires": expires,
    });
    Some(certificate.to_string())
}

/// A [`PolicyFile`], which JavaScript reads.
#[napi]
pub struct NativePolicyFile {
    path: String,
    file: PolicyFile,
}

#[napi]
impl NativePolicyFile {
    /// One that was not read yet.
    #[napi(constructor)]
    #[must_use]
    pub fn new(path: String) -> NativePolicyFile {
        NativePolicyFile { path, file: PolicyFile::default() }
    }
}

#[napi]
impl NativePeer {
    /// Who may call and serve what, as JSON, from now on. Returns the error of one that cannot be used, as
    /// [`no_choice`](NativePeer::no_choice) does: then nothing has changed.
    #[napi(catch_unwind)]
    pub fn set_policy(&mut self, policy: Option<String>, now: f64) -> Option<Vec<String>> {
        match policy.map(|text| Policy::parse(&text)).transpose() {
            Ok(policy) => {
                let Call { mut host, now, .. } = self.begin(now);
                host.engine.with_peer(now, |peer| peer.set_policy(policy.map(Arc::new)));
                None
            }
            Err(error) => Some(failed_with(&error)),
        }
    }

    /// Takes the policy from what was read of a file: its bytes, or else the text of the error. Returns none when the file
    /// has not changed, an empty list when what is in it is in force now, or the error, as
    /// [`no_choice`](NativePeer::no_choice) does.
    #[napi(catch_unwind)]
    pub fn read_policy(
        &mut self,
        mut file: ClassInstance<'_, NativePolicyFile>,
        bytes: Option<&[u8]>,
        failure: String,
        now: f64,
    ) -> Option<Vec<String>> {
        let read = match bytes {
            Some(bytes) => {
                std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| error.to_string())
            }
            None => Err(failure),
        };
        let NativePolicyFile { path, file } = &mut *file;
        match file.read(path, read)? {
            Ok(policy) => {
                let Call { mut host, now, .. } = self.begin(now);
                host.engine.with_peer(now, |peer| peer.set_policy(Some(policy)));
                Some(Vec::new())
            }
            Err(error) => Some(failed_with(&error)),
        }
    }

    /// The origin that is foreign, of an upgrade with this one; none when it may go on.
    #[napi(catch_unwind)]
    pub fn foreign_origin(&self, origin: String) -> Option<String> {
        self.origins.check(std::iter::once(origin.as_bytes())).err()
    }

    /// Milliseconds that upgrade and handshake of a connection may take together.
    #[napi(getter)]
    pub fn handshake_timeout(&self) -> f64 {
        lock(&self.host).engine.peer().limits().handshake_timeout.as_secs_f64() * 1e3
    }

    /// How many accepted connections may be about to upgrade or to finish their handshake.
    #[napi(getter)]
    pub fn most_handshakes(&self) -> f64 {
        lock(&self.host).engine.peer().limits().handshakes as f64
    }
}

/// Something that a unit was not allowed, as JSON, with what logs have of it: a text, and who the unit is.
pub(crate) fn denied(denial: &Denial, identity: Option<&Identity>) -> String {
    let Denial { role, event, count, .. } = denial;
    let denied = json!({
        "what": denial.what(), "role": role, "event": event, "count": count,
        "text": denial.to_string(), "identity": identity.and_then(Identity::label),
    });
    denied.to_string()
}
