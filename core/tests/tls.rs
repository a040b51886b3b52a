//! Certificates made as docs/TLS.md says; what errors say that are about them.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use common::{Authority, Watch, echo, peer, within};
use roletalk::{ConnectOptions, ErrorKind, ListenOptions, Peer, PeerEvent, TlsClient, TlsServer};

const GUIDE: &str = include_str!("../../docs/TLS.md");

/// The first block of a language.
fn block(language: &str) -> &'static str {
    let begin = format!("```{language}\n");
    let from = GUIDE.find(&begin).unwrap() + begin.len();
    let len = GUIDE[from..].find("```").unwrap();
    &GUIDE[from..from + len]
}

/// A directory with the certificates of the guide; none where there is no openssl.
struct Certificates(PathBuf);

impl Certificates {
    fn new(name: &str) -> Option<Certificates> {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("left out: openssl is not installed");
            return None;
        }
        let directory =
            std::env::temp_dir().join(format!("roletalk-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let made = Certificates(directory);
        let made_as_said = Command::new("sh")
            .args(["-e", "-c", block("sh")])
            .current_dir(&made.0)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&made_as_said.stderr);
        assert!(made_as_said.status.success(), "{errors}");
        Some(made)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.join(name)).unwrap()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_guide_shows_the_example() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tls.rs");
    let example = std::fs::read_to_string(example).unwrap();
    let program = block("rust").strip_prefix("// core/examples/tls.rs\n").unwrap();
    assert!(example.ends_with(program), "docs/TLS.md and core/examples/tls.rs differ");
}

#[tokio::test]
async fn the_recipe_of_the_guide() {
    let Some(made) = Certificates::new("recipe") else { return };
    let server = peer("server");
    echo(&server);
    let (chain, key, ca) =
        (made.read("service.pem"), made.read("service.key"), made.read("ca.pem"));
    let tls = TlsServer::with_client_ca(&chain, &key, &ca).unwrap();
    let options = ListenOptions::new().tls(tls);
    let listener = server.listen_with("127.0.0.1:0", options).await.unwrap();
    let client = peer("client");
    for host in ["localhost", "127.0.0.1"] {
        let tls = TlsClient::new()
            .ca(made.read("ca.pem"))
            .identity(made.read("client.pem"), made.read("client.key"));
        let address = format!("wss://{host}:{}", listener.local_addr().port());
        client.connect_with(address, ConnectOptions::new().once().tls(tls)).await.unwrap();
    }
    client.close().await;
    server.close().await;
}

/// What the dialer's error says, and the listener's event.
struct Case {
    what: &'static str,
    listener: Option<(Vec<u8>, Vec<u8>)>,
    client_ca: bool,
    dialer: TlsClient,
    plain: bool,
    says: &'static str,
    event: &'static str,
}

#[tokio::test]
async fn errors_name_the_address_and_the_remedy() {
    let authority = Authority::new();
    let good = || Some(authority.issue(&["localhost"]));
    let trusting = || TlsClient::new().ca(authority.pem());
    let expired = |params: &mut rcgen::CertificateParams| {
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    };
    let future = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    };
    let of = |purpose: rcgen::ExtendedKeyUsagePurpose| {
        move |params: &mut rcgen::CertificateParams| params.extended_key_usages = vec![purpose]
    };
    let server_only = || of(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    let client_only = || of(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let identity = |(chain, key): (Vec<u8>, Vec<u8>)| trusting().identity(chain, key);
    let case = |what, listener, dialer, says, event| Case {
        what,
        listener,
        client_ca: false,
        dialer,
        plain: false,
        says,
        event,
    };
    let with_ca = |case: Case| Case { client_ca: true, ..case };
    let not_accepted = "does not accept this side's certificate";
    let stranger = Authority::named("another");
    let cases = [
        case(
            "untrusted",
            good(),
            TlsClient::new().ca(stranger.pem()),
            "comes from no authority that is trusted here",
            "does not trust the authority",
        ),
        case(
            "the same name, another key",
            good(),
            TlsClient::new().ca(Authority::new().pem()),
            "comes from no authority that is trusted here",
            not_accepted,
        ),
        case(
            "another name",
            Some(authority.issue(&["elsewhere"])),
            trusting(),
            "is for another name",
            not_accepted,
        ),
        case(
            "expired",
            Some(authority.issue_with(&["localhost"], expired)),
            trusting(),
            "has expired",
            not_accepted,
        ),
        case(
            "in the future",
            Some(authority.issue_with(&["localhost"], future)),
            trusting(),
            "begins in the future",
            not_accepted,
        ),
        case(
            "for clients only",
            Some(authority.issue_with(&["localhost"], client_only())),
            trusting(),
            "extendedKeyUsage needs serverAuth",
            not_accepted,
        ),
        case(
            "the authority's own",
            Some(authority.own()),
            trusting(),
            "An authority's own certificate is not to be shown",
            not_accepted,
        ),
        with_ca(case(
            "no certificate of the dialer's",
            good(),
            trusting(),
            "wants a certificate of the dialer's",
            "The dialer has shown no certificate",
        )),
        with_ca(case(
            "a dialer of another authority",
            good(),
            identity(stranger.issue(&["client"])),
            "",
            "The dialer's certificate comes from no authority of `client_ca`",
        )),
        with_ca(case(
            "a dialer that has expired",
            good(),
            identity(authority.issue_with(&["client"], expired)),
            "does not accept",
            "The dialer's certificate has expired",
        )),
        with_ca(case(
            "a dialer's for servers only",
            good(),
            identity(authority.issue_with(&["client"], server_only())),
            "does not accept",
            "extendedKeyUsage needs clientAuth",
        )),
        case("TLS against plain", None, trusting(), "does not speak TLS", ""),
        Case {
            plain: true,
            ..case("plain against TLS", good(), trusting(), "", "dial wss:// instead of ws://")
        },
    ];
    for Case { what, listener, client_ca, dialer, plain, says, event } in cases {
        let (server, client) = (peer("server"), peer("client"));
        let mut options = ListenOptions::new();
        if let Some((chain, key)) = &listener {
            options = options.tls(match client_ca {
                false => TlsServer::from_pem(chain, key).unwrap(),
                true => TlsServer::with_client_ca(chain, key, &authority.pem()).unwrap(),
            });
        }
        let listening = server.listen_with("127.0.0.1:0", options).await.unwrap();
        let scheme = if listener.is_some() != plain { "wss" } else { "ws" };
        let scheme = if listener.is_none() { "wss" } else { scheme };
        let address = format!("{scheme}://localhost:{}", listening.local_addr().port());
        let mut events = Watch::new(&server);
        let once = ConnectOptions::new().once().tls(dialer);
        let refused = within(what, client.connect_with(&address, once)).await.unwrap_err();
        assert!(refused.text().contains(says), "{what}: {refused}");
        assert!(refused.text().contains(&address) || client_ca || plain, "{what}: {refused}");
        let closed = |event: &PeerEvent| matches!(event, PeerEvent::ConnectionClosed { .. });
        let closed = events.next(what, closed).await;
        let PeerEvent::ConnectionClosed { reason, .. } = closed else { unreachable!() };
        assert!(reason.text().contains(event), "{what}: {reason}");
        if listener.is_some() {
            assert_eq!(reason.kind(), ErrorKind::Tls, "{what}");
            assert!(reason.text().contains("with 127.0.0.1:"), "{what}: {reason}");
        }
        close(client, server).await;
    }
}

async fn close(client: Peer, server: Peer) {
    client.close().await;
    server.close().await;
}

#[tokio::test]
async fn configurations_of_rustls() {
    use roletalk::rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    };
    let authority = Authority::new();
    let (chain, key) = authority.issue(&["localhost"]);
    let provider = || std::sync::Arc::new(ring::default_provider());
    let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>().unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(&key).unwrap())
        .unwrap();
    let server = peer("server");
    echo(&server);
    let tls = TlsServer::from_config(config.into());
    let listener = server.listen_with("127.0.0.1:0", ListenOptions::new().tls(tls)).await.unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&authority.pem()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = TlsClient::from_config(config.into()).server_name("localhost");
    let client = peer("client");
    let options = ConnectOptions::new().tls(tls.clone());
    within("connecting", client.connect_with(listener.url(), options)).await.unwrap();
    let to = client.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    within("the answer", to.request("echo", 1).into_future()).await.unwrap();
    // Another authority takes the place of the configuration.
    let other = ConnectOptions::new().tls(tls.ca(Authority::new().pem())).once();
    let error = within("the error", client.connect_with(listener.url(), other)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectFailed);
    let source = std::error::Error::source(&error).expect("the error of the handshake");
    assert!(source.is::<std::io::Error>());
    within("closing", client.close()).await;
    within("closing", server.close()).await;
}
