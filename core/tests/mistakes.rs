//! What users do wrong, and what they are told: the rows of `tests/data/mistakes.json`, one test each. The
//! other languages have the same.

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{peer, within};
use libtest_mimic::{Arguments, Failed, Trial};
use roletalk::{
    BoxError, ConnectOptions, Data, Error, Limits, ListenOptions, Peer, PeerBuilder, TlsClient,
    TlsServer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[derive(serde::Deserialize)]
struct Row {
    mistake: String,
    kind: String,
    hint: String,
}

fn main() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data");
    let rows: Vec<Row> =
        serde_json::from_slice(&std::fs::read(format!("{data}/mistakes.json")).unwrap()).unwrap();
    let trials = rows.into_iter().map(|row| {
        let name = row.mistake.clone();
        Trial::test(name, move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let error = runtime.block_on(within(&row.mistake, make(&row.mistake)));
            check(&row, &error)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

fn check(row: &Row, error: &Error) -> Result<(), Failed> {
    let hint = error.hint().unwrap_or_default();
    let kind = row.kind.split('|').any(|kind| kind == error.kind().name());
    let told = row.hint.split('|').any(|part| hint.contains(part));
    match kind && told {
        true => Ok(()),
        false => {
            Err(format!("{error:?} where {} with `{}` is expected", row.kind, row.hint).into())
        }
    }
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../tests/data/tls/{name}.pem", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A listener with this certificate, dialed as a client would that trusts the authority of the tests or not.
async fn over_tls(certificate: &str, client: TlsClient, scheme: &str) -> Error {
    let server = peer("service");
    let tls = TlsServer::from_pem(&pem(certificate), &pem("key")).unwrap();
    let listening = ListenOptions::new().tls(tls);
    let listener = server.listen_with("127.0.0.1:0", listening).await.unwrap();
    let address = format!("{scheme}://localhost:{}", listener.local_addr().port());
    refused(&address, ConnectOptions::new().tls(client)).await
}

fn trusting() -> TlsClient {
    TlsClient::new().ca(pem("ca"))
}

async fn refused(address: &str, options: ConnectOptions) -> Error {
    let client = peer("client");
    let error = client.connect_with(address, options.once()).await.unwrap_err();
    client.close().await;
    error
}

/// What a peer with these keys is told by one with those.
async fn with_keys(service: &[(&str, &str)], client: &[(&str, &str)]) -> Error {
    let add = |builder: PeerBuilder, keys: &[(&str, &str)]| {
        keys.iter().fold(builder, |builder, (id, key)| builder.preshared_key(*id, *key)).build()
    };
    let service = add(Peer::builder().name("service"), service).unwrap();
    let client = add(Peer::builder().name("client"), client).unwrap();
    let listener = service.listen("127.0.0.1:0").await.unwrap();
    client.connect_with(listener.url(), ConnectOptions::new().once()).await.unwrap_err()
}

/// A listener that answers the upgrade with this, or with nothing.
async fn answering(answer: Option<&'static str>) -> Error {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await.unwrap();
        match answer {
            Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
            None => std::future::pending().await,
        }
    });
    let impatient = |limits: &mut Limits| limits.handshake_timeout = Duration::from_millis(50);
    let client = Peer::builder().limits(impatient).build().unwrap();
    let error = client.connect_with(&address, ConnectOptions::new().once()).await.unwrap_err();
    serving.abort();
    error
}

/// A client of a service `math`, and what it is told.
async fn asking<F: Future<Output = Error>>(ask: impl FnOnce(Peer) -> F) -> Error {
    let (service, client) = served().await;
    let error = ask(client).await;
    service.close().await;
    error
}

async fn served() -> (Peer, Peer) {
    let (service, client) = (peer("service"), peer("client"));
    let math = service.role("math").unwrap();
    math.on_request("add", |_| async { Ok(Data::null()) });
    math.on_request("slow", |_| std::future::pending::<Result<Data, BoxError>>());
    let listener = service.listen("127.0.0.1:0").await.unwrap();
    client.connect(listener.url()).await.unwrap();
    client.destination("math").unwrap().ready().await.unwrap();
    (service, client)
}

async fn make(mistake: &str) -> Error {
    let plain = ConnectOptions::new;
    match mistake {
        "port closed" => {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = format!("ws://{}", listener.local_addr().unwrap());
            drop(listener);
            refused(&address, plain()).await
        }
        "name unknown" => refused("ws://no..name:9000", plain()).await,
        "silent port" => answering(None).await,
        "TLS against a plain port" => {
            let service = peer("service");
            let listener = service.listen("127.0.0.1:0").await.unwrap();
            let address = format!("wss://localhost:{}", listener.local_addr().port());
            refused(&address, plain().tls(trusting())).await
        }
        "plain against a TLS port" => over_tls("localhost", trusting(), "ws").await,
        "certificate of an unknown authority" => {
            over_tls("localhost", TlsClient::new(), "wss").await
        }
        "certificate expired" => over_tls("expired", trusting(), "wss").await,
        "certificate of another host" => over_tls("other-name", trusting(), "wss").await,
        "client certificate missing" => {
            let service = peer("service");
            let tls = TlsServer::with_client_ca(&pem("localhost"), &pem("key"), &pem("ca"));
            let listening = ListenOptions::new().tls(tls.unwrap());
            let listener = service.listen_with("127.0.0.1:0", listening).await.unwrap();
            let address = format!("wss://localhost:{}", listener.local_addr().port());
            refused(&address, plain().tls(trusting())).await
        }
        "no key" => with_keys(&[("k", "secret")], &[]).await,
        "wrong key" => with_keys(&[("k", "secret")], &[("k", "other")]).await,
        "no common key" => with_keys(&[("k", "secret")], &[("l", "secret")]).await,
        "path refused" => {
            let service = peer("service");
            let listening = ListenOptions::new().path("/mesh");
            let listener = service.listen_with("127.0.0.1:0", listening).await.unwrap();
            refused(&format!("ws://{}/other", listener.local_addr()), plain()).await
        }
        "origin refused" => answering(Some("HTTP/1.1 403 Forbidden\r\n\r\n")).await,
        "address without a scheme" => refused("localhost", plain()).await,
        "port out of range" => refused("ws://localhost:99999", plain()).await,
        "empty address" => refused("", plain()).await,
        "role not served" => {
            asking(|client| async move {
                client.destination("meth").unwrap().request("add", ()).await.unwrap_err()
            })
            .await
        }
        "event mistyped" => {
            asking(|client| async move {
                client.destination("math").unwrap().request("ad", ()).await.unwrap_err()
            })
            .await
        }
        "not serializable" => {
            let keys = BTreeMap::from([((1, 2), 3)]);
            Error::from(Data::json(&keys).unwrap_err())
        }
        "too large" => {
            asking(|client| async move {
                let math = client.destination("math").unwrap();
                math.request("add", Data::binary(vec![0; 101 << 20])).await.unwrap_err()
            })
            .await
        }
        "timeout" => {
            asking(|client| async move {
                let math = client.destination("math").unwrap();
                let request = math.request("slow", ()).timeout(Duration::from_millis(10));
                request.await.unwrap_err()
            })
            .await
        }
        "unit lost" => {
            let (service, client) = served().await;
            let math = client.destination("math").unwrap();
            let mut request = math.request("slow", ()).into_future();
            assert!(futures_util::poll!(&mut request).is_pending());
            service.close().await;
            request.await.unwrap_err()
        }
        "closed peer" => {
            asking(|client| async move {
                let math = client.destination("math").unwrap();
                client.close().await;
                math.request("add", ()).await.unwrap_err()
            })
            .await
        }
        "port in use" => {
            let service = peer("service");
            let listener = service.listen("127.0.0.1:0").await.unwrap();
            service.listen(listener.local_addr()).await.unwrap_err()
        }
        other => panic!("nobody has told how to make the mistake `{other}`"),
    }
}
