//! TLS settings, from PEM or from configurations of rustls.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
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

use super::tls_live::{Live, Material, Pem, Sources, Watched};
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
/// Certificates and authorities can change while a peer listens: with [`reload`](TlsServer::reload) and
/// [`watch`](TlsServer::watch) if they come from files, or with [`replace`](TlsServer::replace) by new PEM. Clones
/// share the change. New handshakes use the new certificates; existing connections stay. Incomplete, expired or
/// mismatched certificates change nothing.
///
/// `docs/TLS.md` of the repository says how to make an authority and certificates that every language
/// accepts; `core/examples/tls.rs` uses them.
#[derive(Clone)]
pub struct TlsServer {
    live: Arc<Live<Shown>>,
}

/// What handshakes use.
pub(super) struct Shown {
    pub(super) config: Arc<ServerConfig>,
    /// The hash of the certificate that it shows, where that is known.
    pub(super) end_point: Option<[u8; 32]>,
}

impl TlsServer {
    /// Whatever rustls can be told, such as certificates by name or a `ServerConfig` that changes its own. ALPN is
    /// left to it.
    pub fn from_config(config: Arc<ServerConfig>) -> TlsServer {
        TlsServer { live: Arc::new(Live::made(Arc::new(Shown { config, end_point: None }))) }
    }

    /// Shows this certificate chain, leaf first, and asks for no client certificates.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] when the PEM cannot be read or the key does not fit the certificate.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<TlsServer> {
        TlsServer::new(given(certificates, key), None)
    }

    /// As [`from_pem`](TlsServer::from_pem), but only clients with a certificate that one of these
    /// authorities has signed get in.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] as there, or when the authorities cannot be used.
    pub fn with_client_ca(certificates: &[u8], key: &[u8], client_ca: &[u8]) -> Result<TlsServer> {
        TlsServer::new(given(certificates, key), Some(Pem::Given(client_ca.to_vec())))
    }

    /// As [`from_pem`](TlsServer::from_pem), from files. Reads them, which may block.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] as there, when a file cannot be read, and when a certificate is not valid now.
    pub fn from_files(
        certificates: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<TlsServer> {
        TlsServer::new(files(certificates, key), None)
    }

    /// As [`with_client_ca`](TlsServer::with_client_ca), from files. Reads them, which may block.
    ///
    /// # Errors
    /// As [`from_files`](TlsServer::from_files), and when none of the authorities is valid now.
    pub fn from_files_with_client_ca(
        certificates: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        client_ca: impl Into<PathBuf>,
    ) -> Result<TlsServer> {
        TlsServer::new(files(certificates, key), Some(Pem::File(client_ca.into())))
    }

    fn new(identity: (Pem, Pem), ca: Option<Pem>) -> Result<TlsServer> {
        let sources = Sources { identity: Some(identity), ca };
        let live = Arc::new(Live::new(sources, Box::new(server_config)));
        live.config()?;
        Ok(TlsServer { live })
    }

    /// Checks the files at this interval, at least a millisecond, on the runtime of a peer that listens with them, and
    /// loads them when they have changed, however they were written. Success is reported as
    /// [`PeerEvent::TlsReloaded`](crate::PeerEvent::TlsReloaded). Unusable files change nothing, and are retried at
    /// each check. When a second check, after at most a second, finds the same fault, the peer reports it once for each
    /// change, as [`PeerEvent::TlsReloadFailed`](crate::PeerEvent::TlsReloadFailed) and as a warning in the log.
    /// Watching ends with the peer, or with the last clone and listener. Without files it does nothing.
    pub fn watch(self, every: Duration) -> TlsServer {
        self.live.watch(every);
        self
    }

    /// Reads the files again, which may block, whether or not they have changed.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] when a file cannot be read, when key and certificate do not fit together, and when a
    /// certificate is not valid now: then all stays as it was. [`ErrorKind::InvalidArgument`] where there are no files.
    pub fn reload(&self) -> Result<()> {
        self.live.reload()
    }

    /// Shows another certificate chain, and trusts other client authorities; none leaves them as they are. Files that
    /// are watched are taken again when they next change.
    ///
    /// # Errors
    /// As [`reload`](TlsServer::reload); [`ErrorKind::InvalidArgument`] for settings
    /// [of rustls](TlsServer::from_config).
    pub fn replace(&self, certificates: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> Result<()> {
        self.live.replace(Some((certificates, key)), client_ca)
    }

    /// When the settings in force expire: when any certificate of the chain does, or when the last of the client
    /// authorities does, whichever is earlier. None for settings [of rustls](TlsServer::from_config).
    pub fn expires(&self) -> Option<SystemTime> {
        self.live.expires()
    }

    /// For the next handshake.
    pub(super) fn shown(&self) -> Result<Arc<Shown>> {
        self.live.config()
    }

    pub(super) fn watched(&self) -> Arc<dyn Watched> {
        self.live.clone()
    }
}

fn given(certificates: &[u8], key: &[u8]) -> (Pem, Pem) {
    (Pem::Given(certificates.to_vec()), Pem::Given(key.to_vec()))
}

fn files(certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> (Pem, Pem) {
    (Pem::File(certificates.into()), Pem::File(key.into()))
}

fn unusable(error: rustls::Error) -> Error {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            tls_error("The private key does not belong to the certificate", error)
        }
        error => tls_error("The TLS settings are not usable", error),
    }
}

fn server_config(material: &Material) -> Result<Arc<Shown>> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match &material.ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let roots = Arc::new(roots(pem)?);
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|error| tls_error("The client authorities are not usable", error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let Some((chain, private)) = &material.identity else {
        return Err(Error::new(ErrorKind::Tls, "A listener needs a certificate"));
    };
    let chain = certificates(chain)?;
    let end_point = chain.first().map(|leaf| end_point(leaf));
    let config = builder.with_single_cert(chain, key(private)?).map_err(unusable)?;
    Ok(Arc::new(Shown { config: Arc::new(config), end_point }))
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsServer")
    }
}

/// The dialer's side of TLS. By default the system's roots decide whom to trust.
///
/// Like the [listener's](TlsServer), the certificates can change while they are in use, and clones share the change:
/// the next attempt to dial uses the new ones. Methods that take the settings by value return independent settings,
/// with their own files and PEM.
#[derive(Clone)]
pub struct TlsClient {
    sources: Sources,
    server_name: Option<String>,
    unverified: bool,
    /// Made once: the platform's roots take a while to read.
    live: Arc<Live<ClientConfig>>,
}

impl Default for TlsClient {
    fn default() -> TlsClient {
        let (sources, server_name, unverified) = (Sources::default(), None, false);
        TlsClient { live: TlsClient::live(&sources, unverified), sources, server_name, unverified }
    }
}

impl TlsClient {
    /// Verifies against the system's roots, shows no certificate.
    pub fn new() -> TlsClient {
        TlsClient::default()
    }

    /// Whatever rustls can be told, such as a verifier of one's own. What is set besides, but for the
    /// [server's name](TlsClient::server_name), makes another configuration in its place.
    pub fn from_config(config: Arc<ClientConfig>) -> TlsClient {
        TlsClient { live: Arc::new(Live::made(config)), ..TlsClient::default() }
    }

    fn live(sources: &Sources, unverified: bool) -> Arc<Live<ClientConfig>> {
        let build = move |material: &Material| client_config(material, unverified);
        Arc::new(Live::new(sources.clone(), Box::new(build)))
    }

    fn change(mut self, change: impl FnOnce(&mut TlsClient)) -> TlsClient {
        change(&mut self);
        let every = self.live.every();
        self.live = TlsClient::live(&self.sources, self.unverified);
        match every {
            Some(every) => self.watch(every),
            None => self,
        }
    }

    /// Trusts these authorities (PEM), and no others.
    pub fn ca(self, pem: impl Into<Vec<u8>>) -> TlsClient {
        self.change(|tls| tls.sources.ca = Some(Pem::Given(pem.into())))
    }

    /// Trusts the authorities in this file (PEM), and no others. It is read when an address is first dialed; what is
    /// wrong with it, or with its validity, is the error of dialing then.
    pub fn ca_file(self, path: impl Into<PathBuf>) -> TlsClient {
        self.change(|tls| tls.sources.ca = Some(Pem::File(path.into())))
    }

    /// Shows this certificate chain, leaf first, when the listener asks for one (PEM).
    pub fn identity(self, certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> TlsClient {
        let identity = (Pem::Given(certificates.into()), Pem::Given(key.into()));
        self.change(|tls| tls.sources.identity = Some(identity))
    }

    /// Shows the certificate chain in this file, leaf first, when the listener asks for one (PEM). The files are read
    /// as that [of the authorities](TlsClient::ca_file) is.
    pub fn identity_files(
        self,
        certificates: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> TlsClient {
        let identity = files(certificates, key);
        self.change(|tls| tls.sources.identity = Some(identity))
    }

    /// Expects the certificate to be for this name instead of the address's host.
    pub fn server_name(mut self, name: impl Into<String>) -> TlsClient {
        self.server_name = Some(name.into());
        self
    }

    /// Accepts any certificate. Whoever can reach the wire can then read and change everything:
    /// only for tests.
    pub fn danger_accept_any_certificate(self) -> TlsClient {
        self.change(|tls| tls.unverified = true)
    }

    /// Looks at the files every so often while an address is dialed with them, as
    /// [a listener does](TlsServer::watch).
    pub fn watch(self, every: Duration) -> TlsClient {
        self.live.watch(every);
        self
    }

    /// Reads the files again, which may block, as [a listener does](TlsServer::reload).
    ///
    /// # Errors
    /// As there.
    pub fn reload(&self) -> Result<()> {
        self.live.reload()
    }

    /// Trusts other authorities, and shows another certificate chain with its key; what is none stays as it is. Files
    /// that are watched are taken again when they next change.
    ///
    /// # Errors
    /// As [`TlsServer::replace`].
    pub fn replace(&self, ca: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<()> {
        self.live.replace(identity, ca)
    }

    /// When the settings in force expire: when any certificate of the chain does, or when the last of the authorities
    /// does, whichever is earlier. None if only the system's authorities are used, or if the expiry cannot be read.
    pub fn expires(&self) -> Option<SystemTime> {
        self.live.expires()
    }

    pub(crate) fn watched(&self) -> Arc<dyn Watched> {
        self.live.clone()
    }

    /// Whether certificates are not verified.
    pub(super) fn is_unverified(&self) -> bool {
        self.unverified
    }

    /// The name to expect for a host.
    pub(super) fn name_for(&self, host: &str) -> Result<ServerName<'static>> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        ServerName::try_from(name.clone())
            .map_err(|error| tls_error(&format!("`{name}` is not a server name"), error))
    }

    /// For the next handshake.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] when a PEM cannot be read or a key does not fit its certificate.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>> {
        self.live.config()
    }
}

fn client_config(material: &Material, unverified: bool) -> Result<Arc<ClientConfig>> {
    let provider = provider();
    let verifier: Arc<dyn ServerCertVerifier> = match (&material.ca, unverified) {
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
    let config = match &material.identity {
        None => builder.with_no_client_auth(),
        Some((chain, private)) => {
            builder.with_client_auth_cert(certificates(chain)?, key(private)?).map_err(unusable)?
        }
    };
    Ok(Arc::new(config))
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient")
            .field("own_ca", &self.sources.ca.is_some())
            .field("identity", &self.sources.identity.is_some())
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
