//! Certificates that change while peers run.

mod common;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{Authority, LIMIT, Pair, Watch, echo, peer, until, within};
use roletalk::{
    ConnectOptions, Error, ErrorKind, ListenOptions, Listener, Peer, PeerEvent, TlsClient,
    TlsServer,
};

/// A directory of files that are written as a program should: a whole file takes the place of another.
struct Files(PathBuf);

impl Files {
    fn new() -> Files {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("roletalk-tls-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        Files(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn put(&self, name: &str, content: &[u8]) {
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    fn put_identity(&self, name: &str, (chain, key): (Vec<u8>, Vec<u8>)) {
        self.put(&format!("{name}.pem"), &chain);
        self.put(&format!("{name}.key"), &key);
    }

    fn server(&self) -> TlsServer {
        let tls = TlsServer::from_files_with_client_ca(
            self.path("server.pem"),
            self.path("server.key"),
            self.path("ca.pem"),
        );
        tls.unwrap()
    }

    fn client(&self) -> TlsClient {
        TlsClient::new()
            .ca_file(self.path("ca.pem"))
            .identity_files(self.path("client.pem"), self.path("client.key"))
            .server_name("localhost")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A year, so that certificates can be told apart by their end.
fn until_year(year: i32) -> impl Fn(&mut rcgen::CertificateParams) {
    move |params| params.not_after = rcgen::date_time_ymd(year, 1, 1)
}

fn year(year: i32) -> SystemTime {
    let at = rcgen::date_time_ymd(year, 1, 1).unix_timestamp();
    UNIX_EPOCH + Duration::from_secs(at.try_into().unwrap())
}

async fn listen(server: &Peer, tls: TlsServer) -> Listener {
    server.listen_with("127.0.0.1:0", ListenOptions::new().tls(tls)).await.unwrap()
}

async fn dial(client: &Peer, to: &Listener, tls: TlsClient) -> Result<(), Error> {
    let options = ConnectOptions::new().once().tls(tls);
    let connected = within("an outcome", client.connect_with(to.url(), options)).await?;
    within("the end", connected.unit().close()).await;
    Ok(())
}

fn is_reloaded(event: &PeerEvent) -> bool {
    matches!(event, PeerEvent::TlsReloaded { .. })
}

fn is_failed(event: &PeerEvent) -> bool {
    matches!(event, PeerEvent::TlsReloadFailed { .. })
}

/// What goes on while certificates change.
struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    handshakes: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(pair: &Pair, tls: &TlsClient) -> Load {
        let stop: Arc<AtomicBool> = Arc::default();
        let (requests, handshakes): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let (to, stop, requests) = (pair.to.clone(), stop.clone(), requests.clone());
            tasks.push(tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    assert_eq!(to.request("echo", 7).await.unwrap().parse::<i32>().unwrap(), 7);
                    requests.fetch_add(1, SeqCst);
                }
            }));
        }
        for _ in 0..2 {
            let (stop, handshakes) = (stop.clone(), handshakes.clone());
            let (listener, tls) = (pair.listener.clone(), tls.clone());
            tasks.push(tokio::spawn(async move {
                let newcomer = peer("newcomer");
                while !stop.load(SeqCst) {
                    dial(&newcomer, &listener, tls.clone()).await.unwrap();
                    handshakes.fetch_add(1, SeqCst);
                }
                newcomer.close().await;
            }));
        }
        Load { stop, requests, handshakes, tasks }
    }

    /// Waits until both have gone on.
    async fn go_on(&self) {
        let (requests, handshakes) = (self.requests.load(SeqCst), self.handshakes.load(SeqCst));
        until("requests and handshakes", || {
            // What has failed has ended.
            assert!(!self.tasks.iter().any(tokio::task::JoinHandle::is_finished));
            self.requests.load(SeqCst) > requests && self.handshakes.load(SeqCst) > handshakes
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, SeqCst);
        for task in self.tasks {
            within("the load", task).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_rotations_under_load() {
    let (authority, files) = (Authority::new(), Files::new());
    let issue = |n: i32| authority.issue_with(&["localhost"], until_year(3000 + n));
    files.put("ca.pem", &authority.pem());
    files.put_identity("server", issue(0));
    files.put_identity("client", issue(0));
    let (server, client) = (peer("server"), peer("client"));
    let mut events = Watch::new(&server);
    echo(&server);
    let tls = files.client();
    let listener = listen(&server, files.server()).await;
    let options = ConnectOptions::new().tls(tls.clone());
    within("connecting", client.connect_with(listener.url(), options)).await.unwrap();
    let to = client.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    let pair = Pair { server, client, listener, to };
    let load = Load::start(&pair, &tls);
    for n in 1..=100 {
        match n % 2 {
            0 => {
                files.put_identity("server", issue(n));
                files.put_identity("client", issue(n));
                pair.server.reload_tls().unwrap();
                pair.client.reload_tls().unwrap();
            }
            _ => {
                let (chain, key) = issue(n);
                pair.listener.tls().unwrap().replace(&chain, &key, None).unwrap();
                let (chain, key) = issue(n);
                let dialed = pair.client.dialed_tls(pair.listener.url()).unwrap();
                dialed.replace(None, Some((&chain, &key))).unwrap();
            }
        }
        assert_eq!(pair.server.tls_expires(), Some(year(3000 + n)));
        assert_eq!(tls.expires(), Some(year(3000 + n)));
        load.go_on().await;
    }
    load.end().await;
    let lost = |event: &PeerEvent| matches!(event, PeerEvent::ConnectionClosed { reason, .. } if reason.kind() == ErrorKind::Tls);
    assert!(!events.so_far().iter().any(lost), "{:#?}", events.seen);
    assert!(events.seen.iter().any(is_reloaded));
    pair.close().await;
}

#[tokio::test]
async fn authorities_change_on_both_sides() {
    let (old, new) = (Authority::named("old"), Authority::named("new"));
    let files = Files::new();
    files.put("ca.pem", &old.pem());
    files.put_identity("server", old.issue(&["localhost"]));
    files.put_identity("client", old.issue(&["client"]));
    let (server, client) = (peer("server"), peer("client"));
    let listener = listen(&server, files.server()).await;
    let tls = files.client();
    dial(&client, &listener, tls.clone()).await.unwrap();
    // Both are trusted, then everybody shows the new one's, then only that is trusted.
    let all = |files: &Files| {
        server.reload_tls().unwrap();
        tls.reload().unwrap();
        assert!(tls.expires().is_some(), "{}", files.0.display());
    };
    files.put("ca.pem", &[old.pem(), new.pem()].concat());
    all(&files);
    dial(&client, &listener, tls.clone()).await.unwrap();
    files.put_identity("server", new.issue(&["localhost"]));
    all(&files);
    dial(&client, &listener, tls.clone()).await.unwrap();
    files.put_identity("client", new.issue(&["client"]));
    files.put("ca.pem", &new.pem());
    all(&files);
    dial(&client, &listener, tls.clone()).await.unwrap();
    let left_behind = {
        let (chain, key) = old.issue(&["client"]);
        TlsClient::new().ca(new.pem()).identity(chain, key).server_name("localhost")
    };
    assert!(dial(&client, &listener, left_behind).await.is_err());
    let distrusting = files.client().ca(old.pem());
    assert!(dial(&client, &listener, distrusting).await.is_err());
    // Without authorities, those that there are stay.
    let (chain, key) = new.issue(&["localhost"]);
    listener.tls().unwrap().replace(&chain, &key, None).unwrap();
    let nobody = TlsClient::new().ca(new.pem()).server_name("localhost");
    assert!(dial(&client, &listener, nobody).await.is_err());
    within("closing", client.close()).await;
    within("closing", server.close()).await;
}

#[tokio::test]
async fn files_are_watched() {
    let (authority, files) = (Authority::new(), Files::new());
    let good = |at: i32| authority.issue_with(&["localhost"], until_year(at));
    files.put("ca.pem", &authority.pem());
    files.put_identity("server", good(3000));
    files.put_identity("client", good(3000));
    let (server, client) = (peer("server"), peer("client"));
    let (mut at_server, mut at_client) = (Watch::new(&server), Watch::new(&client));
    let every = Duration::from_millis(5);
    let listener = listen(&server, files.server().watch(every)).await;
    let tls = files.client().watch(every);
    client.connect_with(listener.url(), ConnectOptions::new().tls(tls.clone())).await.unwrap();
    let (torn, torn_key) = good(3001);
    let expired = authority.issue_with(&["localhost"], until_year(2001));
    let future = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2900, 1, 1);
    };
    let early = authority.issue_with(&["localhost"], future);
    let unfit = (good(3002).0, torn_key.clone());
    let bad = [
        ("half written", (torn[..torn.len() / 2].to_vec(), torn_key), "cannot be read"),
        ("empty", (Vec::new(), Vec::new()), "has no certificate"),
        ("expired", expired, "has expired on 2001-01-01"),
        ("early", early, "begins in the future, on 2900-01-01"),
        ("unfit", unfit, "The private key does not belong to the certificate"),
    ];
    for (n, (what, identity, says)) in (3003..).zip(bad) {
        let before = (server.tls_expires(), tls.expires());
        files.put_identity("server", identity.clone());
        files.put_identity("client", identity);
        for (events, file) in [(&mut at_server, "server.pem"), (&mut at_client, "client.pem")] {
            // While both files are being written, they do not fit together either.
            let told = |event: &PeerEvent| matches!(event, PeerEvent::TlsReloadFailed { error } if error.text().contains(says));
            let PeerEvent::TlsReloadFailed { error } = events.next(what, told).await else {
                unreachable!()
            };
            assert_eq!(error.kind(), ErrorKind::Tls);
            assert!(error.text().contains(file), "{error}");
            assert!(error.text().contains("what was in force stays"), "{error}");
        }
        // By a call, it is said at once, and again.
        for peer in [&server, &client] {
            let error = peer.reload_tls().unwrap_err();
            assert!(error.text().contains(says), "{what}: {error}");
        }
        assert_eq!((server.tls_expires(), tls.expires()), before, "{what}");
        dial(&client, &listener, tls.clone()).await.unwrap();
        files.put_identity("server", good(n));
        files.put_identity("client", good(n));
        for events in [&mut at_server, &mut at_client] {
            let told = |event: &PeerEvent| matches!(event, PeerEvent::TlsReloaded { expires } if *expires == Some(year(n)));
            events.next(what, told).await;
        }
        dial(&client, &listener, tls.clone()).await.unwrap();
    }
    within("closing", client.close()).await;
    within("closing", server.close()).await;
}

#[tokio::test]
async fn what_cannot_be_used_is_told_once() {
    let (authority, files) = (Authority::new(), Files::new());
    let good = |at: i32| authority.issue_with(&["localhost"], until_year(at));
    files.put("ca.pem", &authority.pem());
    files.put_identity("server", good(3000));
    let server = peer("server");
    let mut events = Watch::new(&server);
    let tls = files.server().watch(Duration::from_millis(1));
    let _listener = listen(&server, tls.clone()).await;
    std::fs::remove_file(files.path("server.pem")).unwrap();
    events.next("the failure", is_failed).await;
    // It is looked at many times more before there is something good again: another watcher of the same kind, which
    // begins later, tells of a failure of its own meanwhile.
    let other = peer("other");
    let mut others = Watch::new(&other);
    let later = Files::new();
    later.put("ca.pem", &authority.pem());
    later.put_identity("server", good(3000));
    let _second = listen(&other, later.server().watch(Duration::from_millis(50))).await;
    std::fs::remove_file(later.path("server.pem")).unwrap();
    others.next("the other's failure", is_failed).await;
    files.put_identity("server", good(3001));
    events.next("the success", is_reloaded).await;
    assert_eq!(events.seen.iter().filter(|event| is_failed(event)).count(), 1);
    within("closing", server.close()).await;
    within("closing", other.close()).await;
}

/// As Kubernetes does it: the files are links through a link, which is what changes.
#[cfg(unix)]
#[tokio::test]
async fn directories_behind_a_link_are_watched() {
    use std::os::unix::fs::symlink;
    let (authority, files) = (Authority::new(), Files::new());
    let version = |n: i32| {
        let directory = files.path(&n.to_string());
        std::fs::create_dir(&directory).unwrap();
        let (chain, key) = authority.issue_with(&["localhost"], until_year(n));
        std::fs::write(directory.join("tls.crt"), chain).unwrap();
        std::fs::write(directory.join("tls.key"), key).unwrap();
        let new = files.path("..data.new");
        symlink(n.to_string(), &new).unwrap();
        std::fs::rename(new, files.path("..data")).unwrap();
    };
    version(3000);
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), files.path(name)).unwrap();
    }
    let server = peer("server");
    let mut events = Watch::new(&server);
    let tls = TlsServer::from_files(files.path("tls.crt"), files.path("tls.key")).unwrap();
    let _listener = listen(&server, tls.watch(Duration::from_millis(5))).await;
    for n in 3001..3004 {
        version(n);
        let event = events.next("the new version", is_reloaded).await;
        assert!(matches!(event, PeerEvent::TlsReloaded { expires } if expires == Some(year(n))));
    }
    assert!(!events.so_far().iter().any(is_failed), "{:#?}", events.seen);
    within("closing", server.close()).await;
}

#[tokio::test]
async fn watching_ends_with_the_settings_and_with_the_peer() {
    let (authority, files) = (Authority::new(), Files::new());
    files.put("ca.pem", &authority.pem());
    files.put_identity("server", authority.issue(&["localhost"]));
    let server = peer("server");
    let listener = listen(&server, files.server().watch(Duration::from_millis(1))).await;
    assert!(server.tls_expires().is_some());
    listener.close();
    drop(listener);
    // Nobody has them any more.
    until("the end of the settings", || server.tls_expires().is_none()).await;
    let tls = files.server().watch(Duration::from_secs(3600));
    let _listener = listen(&server, tls.clone()).await;
    // However long it would wait.
    tokio::time::timeout(LIMIT, server.close()).await.expect("closing");
    assert!(tls.reload().is_ok());
}

#[test]
fn what_is_not_from_files_is_not_reloaded() {
    use roletalk::rustls::{ClientConfig, RootCertStore, crypto::ring};
    let authority = Authority::new();
    let (chain, key) = authority.issue_with(&["localhost"], until_year(3000));
    let given = TlsServer::from_pem(&chain, &key).unwrap();
    assert_eq!(given.reload().unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(given.expires(), Some(year(3000)));
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let foreign = TlsClient::from_config(config.into());
    for error in [foreign.reload(), foreign.replace(Some(&authority.pem()), None)] {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.text().contains("a configuration of rustls"), "{error}");
    }
    assert_eq!((foreign.expires(), TlsClient::new().expires()), (None, None));
    let missing = TlsServer::from_files("/no/such/file.pem", "/no/such/file.key").unwrap_err();
    assert!(missing.text().contains("`/no/such/file.pem` cannot be read"), "{missing}");
    // Both authorities have to expire before nobody is trusted.
    let bundle = [authority.pem(), Authority::new().pem()].concat();
    let client = TlsClient::new().ca(bundle);
    assert_eq!(client.expires(), TlsClient::new().ca(authority.pem()).expires());
}
