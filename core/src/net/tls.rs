//! TLS settings, from PEM or from configurations of rustls.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls_platform_verifier::Verifier;

use crate::{Error, ErrorKind, Result, engine::end_point};

fn tls_error(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Tls, format!("{what}: {error}")).with_source(error)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| tls_error("The PEM certificates cannot be read", error))?;
    match certificates.is_empty() {
        true => Err(Error::new(ErrorKind::Tls, "The PEM has no certificate")),
        false => Ok(certificates),
    }
}

fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| tls_error("The PEM private key cannot be read", error))
}

fn roots(pem: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots
            .add(certificate)
            .map_err(|error| tls_error("A CA certificate is not usable", error))?;
    }
    Ok(roots)
}

/// The listener's side of TLS: TLS 1.2 and 1.3.
///
/// `docs/TLS.md` of the repository says how to make an authority and certificates that every language
/// accepts; `core/examples/tls.rs` uses them.
#[derive(Clone)]
pub struct TlsServer {
    pub(super) config: Arc<ServerConfig>,
    /// The hash of the certificate that it shows, where that is known.
    pub(super) end_point: Option<[u8; 32]>,
}

impl TlsServer {
    /// Whatever rustls can be told, such as certificates by name or a `ServerConfig` that changes its own. ALPN is
    /// left to it.
    pub fn from_config(config: Arc<ServerConfig>) -> TlsServer {
        TlsServer { config, end_point: None }
    }

    /// Shows this certificate chain, leaf first, and asks for no client certificates.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] when the PEM cannot be read or the key does not fit the certificate.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<TlsServer> {
        TlsServer::build(certificates, key, None)
    }

    /// As [`from_pem`](TlsServer::from_pem), but only clients with a certificate that one of these
    /// authorities has signed get in.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] as there, or when the authorities cannot be used.
    pub fn with_client_ca(certificates: &[u8], key: &[u8], client_ca: &[u8]) -> Result<TlsServer> {
        TlsServer::build(certificates, key, Some(client_ca))
    }

    fn build(chain: &[u8], private: &[u8], client_ca: Option<&[u8]>) -> Result<TlsServer> {
        let unusable = |error: rustls::Error| tls_error("The TLS settings are not usable", error);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let roots = Arc::new(roots(pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|error| tls_error("The client authorities are not usable", error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates(chain)?;
        let end_point = chain.first().map(|leaf| end_point(leaf));
        let config = builder.with_single_cert(chain, key(private)?).map_err(unusable)?;
        Ok(TlsServer { config: Arc::new(config), end_point })
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsServer")
    }
}

/// The dialer's side of TLS. By default the system's roots decide whom to trust.
#[derive(Clone, Default)]
pub struct TlsClient {
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
    unverified: bool,
    /// Made once: the platform's roots take a while to read.
    config: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl TlsClient {
    /// Verifies against the system's roots, shows no certificate.
    pub fn new() -> TlsClient {
        TlsClient::default()
    }

    /// Whatever rustls can be told, such as a verifier of one's own. What is set besides, but for the
    /// [server's name](TlsClient::server_name), makes another configuration in its place.
    pub fn from_config(config: Arc<ClientConfig>) -> TlsClient {
        TlsClient { config: Arc::new(OnceLock::from(config)), ..TlsClient::default() }
    }

    /// Trusts these authorities (PEM), and no others.
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> TlsClient {
        self.ca = Some(pem.into());
        self.config = Arc::default();
        self
    }

    /// Shows this certificate chain, leaf first, when the listener asks for one (PEM).
    pub fn identity(
        mut self,
        certificates: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> TlsClient {
        self.identity = Some((certificates.into(), key.into()));
        self.config = Arc::default();
        self
    }

    /// Expects the certificate to be for this name instead of the address's host.
    pub fn server_name(mut self, name: impl Into<String>) -> TlsClient {
        self.server_name = Some(name.into());
        self
    }

    /// Accepts any certificate. Whoever can reach the wire can then read and change everything:
    /// only for tests.
    pub fn danger_accept_any_certificate(mut self) -> TlsClient {
        self.unverified = true;
        self.config = Arc::default();
        self
    }

    /// The name to expect for a host.
    pub(super) fn name_for(&self, host: &str) -> Result<ServerName<'static>> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        ServerName::try_from(name.clone())
            .map_err(|error| tls_error(&format!("`{name}` is not a server name"), error))
    }

    /// # Errors
    /// [`ErrorKind::Tls`] when a PEM cannot be read or a key does not fit its certificate.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let config = self.build()?;
        Ok(self.config.get_or_init(|| config).clone())
    }

    fn build(&self) -> Result<Arc<ClientConfig>> {
        let unusable = |error: rustls::Error| tls_error("The TLS settings are not usable", error);
        let provider = provider();
        let verifier: Arc<dyn ServerCertVerifier> = match (&self.ca, self.unverified) {
            (_, true) => Arc::new(Unverified(provider.clone())),
            (Some(pem), false) => {
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots(pem)?), provider.clone())
                    .build()
                    .map_err(|error| tls_error("The authorities are not usable", error))?
            }
            (None, false) => Arc::new(
                Verifier::new(provider.clone())
                    .map_err(|error| tls_error("The system's roots are not usable", error))?,
            ),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, private)) => builder
                .with_client_auth_cert(certificates(chain)?, key(private)?)
                .map_err(unusable)?,
        };
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient")
            .field("own_ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .field("unverified", &self.unverified)
            .finish()
    }
}

/// Trusts everyone, but still checks that the other side holds its certificate's key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
