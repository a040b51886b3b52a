//! What is logged, at which level and in which span.

mod common;

use std::{collections::BTreeMap, sync::OnceLock};

use common::{Authority, Log, Pair, Raw, echo, peer, until, within};
use roletalk::{ConnectOptions, ListenOptions, Next, Peer, TlsClient, TlsServer};
use tokio::net::TcpListener;
use tracing::{
    Instrument, Level, Subscriber,
    field::{Field, Visit},
    info, info_span, span,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

#[derive(Clone, Debug, Default)]
struct Record {
    level: Option<Level>,
    text: String,
    fields: BTreeMap<String, String>,
    /// The names of the spans that it is in, the innermost first.
    spans: Vec<&'static str>,
}

impl Record {
    fn has(&self, field: &str, value: &str) -> bool {
        self.fields.get(field).is_some_and(|known| known.contains(value))
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.text = format!("{value:?}"),
            name => drop(self.fields.insert(name.to_owned(), format!("{value:?}"))),
        }
    }
}

struct Collect(Log<Record>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collect {
    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut record = Record { level: Some(*event.metadata().level()), ..Record::default() };
        event.record(&mut record);
        if let Some(scope) = context.event_scope(event) {
            record.spans = scope.map(|span| span.name()).collect();
        }
        self.0.push(record);
    }

    fn on_new_span(&self, _: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {}
}

/// The log of the whole process: its tests tell peers apart.
fn log() -> &'static Log<Record> {
    static LOG: OnceLock<Log<Record>> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::new();
        let collect = tracing_subscriber::registry().with(Collect(log.clone()));
        tracing::subscriber::set_global_default(collect).unwrap();
        log
    })
}

/// The record of a peer with this text, which may still be to come.
async fn logged(of: &Peer, text: &str) -> Record {
    let find = || {
        let known = log().all();
        known.into_iter().find(|record| record.text == text && record.has("peer", &of.id()))
    };
    until(text, || find().is_some()).await;
    find().unwrap()
}

#[tokio::test]
async fn connecting_and_listening_is_told_at_info() {
    log();
    let pair = Pair::new(|_| {}).await;
    let (server, client) = (pair.server.clone(), pair.client.clone());
    let url = pair.listener.url().to_owned();
    pair.close().await;
    let listening = logged(&server, "listening").await;
    assert!(listening.has("url", &url), "{listening:?}");
    for (of, other, name) in [(&server, &client, "client"), (&client, &server, "server")] {
        for text in ["connected", "disconnected"] {
            let record = logged(of, text).await;
            assert_eq!(record.level, Some(Level::INFO), "{record:?}");
            assert!(record.has("unit", &other.id()) && record.has("name", name), "{record:?}");
            assert!(record.has("remote", "127.0.0.1:"), "{record:?}");
            assert!(text == "connected" || record.fields.contains_key("reason"), "{record:?}");
        }
    }
    assert_eq!(listening.level, Some(Level::INFO));
}

#[tokio::test]
async fn refusals_and_bad_input_are_told_at_warn() {
    log();
    let authority = Authority::new();
    let (certificate, key) = authority.issue(&["localhost"]);
    let server = Peer::builder().name("server").preshared_key("k", "secret").build().unwrap();
    let plain = server.listen("127.0.0.1:0").await.unwrap();
    let options = ListenOptions::new().tls(TlsServer::from_pem(&certificate, &key).unwrap());
    let tls = server.listen_with("127.0.0.1:0", options).await.unwrap();

    // A wrong key: both sides tell, each where the other is.
    let client = Peer::builder().preshared_key("k", "another").build().unwrap();
    let once = || ConnectOptions::new().once();
    within("no", client.connect_with(plain.url(), once())).await.unwrap_err();
    let here = plain.local_addr().to_string();
    for (of, remote) in [(&server, "127.0.0.1:"), (&client, here.as_str())] {
        let record = logged(of, "authentication refused").await;
        assert_eq!(record.level, Some(Level::WARN));
        assert!(record.has("remote", remote) && record.has("reason", ""), "{record:?}");
    }
    // TLS that the dialer does not trust.
    let stranger = TlsClient::new().ca(Authority::new().pem()).server_name("localhost");
    within("no", client.connect_with(tls.url(), once().tls(stranger))).await.unwrap_err();
    let record = logged(&server, "TLS refused").await;
    assert_eq!(record.level, Some(Level::WARN));
    assert!(
        record.has("remote", "127.0.0.1:") && record.has("reason", "does not accept"),
        "{record:?}"
    );
    // What is no handshake, and then what no unit may send.
    let open = peer("open");
    let listener = open.listen("127.0.0.1:0").await.unwrap();
    let mut raw = Raw::dial(listener.local_addr()).await;
    raw.send(vec![255, 1, 2, 3]).await;
    let record = logged(&open, "authentication refused").await;
    assert_eq!(record.level, Some(Level::WARN));
    let remote = raw.ws.get_ref().local_addr().unwrap().to_string();
    assert!(record.has("remote", &remote) && record.has("reason", ""), "{record:?}");
    let mut raw = Raw::join(listener.local_addr(), "some id", &[]).await;
    raw.send(vec![255, 1, 2, 3]).await;
    let record = logged(&open, "bad input").await;
    assert_eq!(record.level, Some(Level::WARN));
    assert!(record.has("remote", "127.0.0.1:") && record.has("reason", ""), "{record:?}");
    assert!(record.has("unit", "some id") && record.has("name", "raw"), "{record:?}");
    for peer in [server, client, open] {
        peer.close().await;
    }
}

tokio::task_local! {
    static TENANT: String;
}

/// The span of one request, the value of its task, or those of whoever has set up the peer, reach no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_has_spans_of_its_own() {
    log();
    let set_up = info_span!("set up");
    let (server, client) = set_up.in_scope(|| (peer("server"), peer("client")));
    let pair = Pair::of(server, client, |server| {
        let role = server.role("r").unwrap();
        role.layer(|ctx, next: Next| async move {
            if ctx.event() == "plain" {
                return next.run(ctx).await;
            }
            let who = ctx.data().as_str().unwrap_or_default().into_owned();
            let span = info_span!("request", who);
            TENANT.scope(who, next.run(ctx)).instrument(span).await
        });
        for event in ["plain", "own"] {
            role.on_request(event, |ctx| async move {
                let who = ctx.data().as_str().unwrap_or_default().into_owned();
                info!(who, "before");
                tokio::task::yield_now().await;
                info!(who, "behind");
                let tenant = TENANT.try_with(Clone::clone).unwrap_or_default();
                Ok(tenant)
            });
        }
    })
    .instrument(set_up)
    .await;
    let asking = info_span!("asking");
    for n in 0..20 {
        for event in ["own", "plain"] {
            let who = format!("{event} {n}");
            let asked = pair.to.request(event, who.as_str()).into_future();
            let asked = TENANT.scope("nobody".to_owned(), asked.instrument(asking.clone()));
            let tenant = within("an answer", asked).await.unwrap();
            let expected = if event == "own" { who.as_str() } else { "" };
            assert_eq!(tenant.data().as_str().as_deref(), Some(expected));
        }
    }
    for n in 0..20 {
        for (event, spans) in [("own", &["request", "connection"][..]), ("plain", &["connection"])]
        {
            let who = format!("{event} {n}");
            for text in ["before", "behind"] {
                let known = log().all();
                let record =
                    known.iter().find(|r| r.text == text && r.has("who", &format!("{who}\"")));
                assert_eq!(record.expect(&who).spans, spans, "{text} {who}");
            }
        }
    }
    echo(&pair.server);
    pair.close().await;
}

/// A handler that has to wait for the unit's other handlers, which are slow.
#[tokio::test]
async fn handlers_behind_slow_ones_are_in_the_same_span() {
    log();
    let pair = Pair::new(|server| {
        server.role("r").unwrap().on_request("slow", |ctx| async move {
            std::thread::sleep(std::time::Duration::from_millis(10));
            info!(who = ctx.data().as_str().as_deref(), "slow");
            Ok(())
        });
    })
    .await;
    let asked = (0..8).map(|n| {
        let who = format!("slow {n}");
        let to = pair.to.clone();
        async move { to.request("slow", who).await.map(drop) }
    });
    for answer in within("answers", futures_util::future::join_all(asked)).await {
        answer.unwrap();
    }
    for record in log().all().iter().filter(|record| record.text == "slow") {
        assert_eq!(record.spans, ["connection"], "{record:?}");
    }
    pair.close().await;
}

/// What listens there says nothing: dialing in vain is no warning.
#[tokio::test]
async fn an_address_that_nobody_listens_to_is_told_at_debug() {
    log();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = peer("client");
    client.dial(&address).unwrap();
    let record = logged(&client, "reconnect failed").await;
    assert_eq!(record.level, Some(Level::DEBUG));
    assert!(record.has("address", &address), "{record:?}");
    client.close().await;
}
