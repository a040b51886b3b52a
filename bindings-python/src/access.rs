//! Who is at the other end of a connection, and what the policy lets it do, as Python says it.

use std::sync::{Arc, Mutex};

use http::HeaderMap;
use pyo3::{prelude::*, types::PyString};
use roletalk_engine::{
    Binding, Certificate, ErrorKind, Identity, Origins, PeerKey, Policy as Core,
    PolicyFile as CoreFile, Remote, end_point,
};
use roletalk_host::lock;

use crate::error::{exception, failure};

/// Who may call and serve what: checked, and not changed any more.
#[pyclass(frozen, module = "roletalk._engine")]
pub struct Policy(Arc<Core>);

impl Policy {
    pub(crate) fn core(&self) -> Arc<Core> {
        self.0.clone()
    }
}

#[pymethods]
impl Policy {
    /// Raises `InvalidArgumentError`, which says where and what is wrong.
    #[new]
    fn new(py: Python<'_>, text: &str) -> PyResult<Policy> {
        match Core::parse(text) {
            Ok(policy) => Ok(Policy(Arc::new(policy))),
            Err(error) => Err(exception(py, &error)),
        }
    }
}

/// A file that a policy is taken from. Python reads it.
#[pyclass(frozen, module = "roletalk._engine")]
pub struct PolicyFile {
    path: String,
    file: Mutex<CoreFile>,
}

#[pymethods]
impl PolicyFile {
    #[new]
    fn new(path: &Bound<'_, PyString>) -> PolicyFile {
        PolicyFile { path: path.to_string_lossy().into_owned(), file: Mutex::default() }
    }

    /// Takes the text of the file, or None and why there is none. Returns a policy when it is a new one.
    ///
    /// Raises `InvalidArgumentError` when there is no usable policy, once for each change of the file.
    #[pyo3(signature = (text, reason="", /))]
    fn read(&self, py: Python<'_>, text: Option<String>, reason: &str) -> PyResult<Option<Policy>> {
        let read = text.ok_or_else(|| reason.to_owned());
        let policy = lock(&self.file).read(&self.path, read).transpose();
        policy.map(|policy| policy.map(Policy)).map_err(|error| exception(py, &error))
    }
}

/// A certificate in DER as JSON, as `Identity` has it; None when it cannot be read.
#[pyfunction]
pub(crate) fn certificate(der: &[u8]) -> Option<String> {
    let mut identity = Identity::default();
    identity.certificate = Some(Arc::new(Certificate::from_der(der).ok()?));
    identity.to_json().get("certificate").map(ToString::to_string)
}

/// What a transport knows of its other end: the address, its certificate, and that which the listener of the two has
/// shown, both in DER; and whether it has TLS.
pub(crate) type Shown = (Option<String>, Option<Vec<u8>>, Option<Vec<u8>>, bool);

pub(crate) fn remote_of(shown: Option<Shown>) -> Remote {
    let Some((address, certificate, listener, has_tls)) = shown else { return Remote::default() };
    let remote = Remote::at(address.and_then(|address| address.parse().ok()));
    let mut remote = match certificate {
        Some(der) => remote.with_certificate(&der),
        None => remote,
    };
    let end_point = listener.map(|der| end_point(&der));
    remote.binding = Binding { tls: has_tls, exporter: None, end_point };
    remote
}

pub(crate) fn origins_of(py: Python<'_>, allowed: &[String]) -> PyResult<Arc<Origins>> {
    let mut origins = Origins::default();
    for origin in allowed {
        origins.allow(origin).map_err(|error| exception(py, &error))?;
    }
    Ok(Arc::new(origins))
}

pub(crate) fn peer_key_of(py: Python<'_>, secret: &[u8]) -> PyResult<PeerKey> {
    let secret = secret.try_into().map_err(|_| {
        let text = format!(
            "The peer_key must have 32 random bytes, such as os.urandom(32) gives, not {}",
            secret.len()
        );
        failure(py, ErrorKind::InvalidArgument, text)
    })?;
    Ok(PeerKey::from_secret(secret))
}

/// The headers of an upgrade. Their values are taken for Latin-1, as which every byte is a character.
pub(crate) fn pairs_of(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| bytes.iter().copied().map(char::from).collect();
    let pairs = headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes())));
    pairs.collect()
}
