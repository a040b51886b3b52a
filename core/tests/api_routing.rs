//! Requests and streams that no unit has begun go on to the next one; restarts lose nothing.

mod common;

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};

use common::{LIMIT, Log, Pair, Raw, peer, until, within};
use futures_util::{StreamExt, stream::FuturesUnordered};
use roletalk::{Balance, BoxError, Context, Data, Destination, ErrorKind, Peer, PeerBuilder};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::{Notify, mpsc},
    task::JoinHandle,
};

type Seen = Arc<Mutex<HashMap<u64, u32>>>;

/// A service that counts how often it has begun what.
async fn service(client: &Peer, seen: &Seen) -> Peer {
    let service = peer("service");
    let seen = seen.clone();
    service.role("r").unwrap().on_request("count", move |ctx: Context| {
        let seen = seen.clone();
        async move {
            *seen.lock().unwrap().entry(ctx.parse::<u64>()?).or_default() += 1;
            // Others come between.
            tokio::task::yield_now().await;
            Ok(ctx.into_data())
        }
    });
    let listener = service.listen("127.0.0.1:0").await.unwrap();
    client.connect_with(listener.url(), roletalk::ConnectOptions::new().once()).await.unwrap();
    service
}

/// Asks with an id of its own all the while, and says how many were answered.
fn ask(to: &Destination, ids: &Arc<AtomicU64>, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let (to, ids, stop) = (to.clone(), ids.clone(), stop.clone());
    tokio::spawn(async move {
        let mut answered = 0;
        while !stop.load(Ordering::Relaxed) {
            let id = ids.fetch_add(1, Ordering::Relaxed);
            let answer = to.request("count", Data::json(&id).unwrap()).await.unwrap();
            assert_eq!(answer.parse::<u64>().unwrap(), id);
            answered += 1;
        }
        answered
    })
}

#[tokio::test]
async fn a_rolling_restart_loses_nothing() {
    let (client, seen) = (peer("client"), Seen::default());
    let to = client.destination("r").unwrap();
    let mut services = Vec::new();
    for _ in 0..3 {
        services.push(service(&client, &seen).await);
    }
    within("the services", to.ready_with(3)).await.unwrap();
    let (ids, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let asking: Vec<_> = (0..32).map(|_| ask(&to, &ids, &stop)).collect();
    for _ in 0..6 {
        services.push(service(&client, &seen).await);
        within("the new one", to.ready_with(4)).await.unwrap();
        let before = ids.load(Ordering::Relaxed);
        assert!(within("the drain", services.remove(0).drain(LIMIT)).await);
        until("some more", || ids.load(Ordering::Relaxed) > before + 100).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for task in asking {
        answered += within("the last answer", task).await.unwrap();
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len() as u64, answered);
    assert!(seen.values().all(|times| *times == 1), "some were handled twice");
}

/// Two services of which the first rejects as not handled what the second one handles, and a client whose turn
/// it is to ask the first.
struct Two {
    first: Pair,
    second: Peer,
    held: Arc<Notify>,
    cancelled: Arc<Notify>,
}

impl Two {
    async fn new() -> Two {
        let first = Pair::new(|_| {}).await;
        let second = peer("second");
        let (held, cancelled) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let role = second.role("r").unwrap();
        role.on_request("new", |ctx: Context| async move { Ok(ctx.into_data()) });
        let told = (held.clone(), cancelled.clone());
        role.on_request("hold", move |ctx: Context| {
            let (held, cancelled) = told.clone();
            async move {
                held.notify_one();
                ctx.cancellation().cancelled().await;
                cancelled.notify_one();
                Err::<(), BoxError>("cancelled".into())
            }
        });
        role.on_readable("up", |request| async move {
            let mut bytes = Vec::new();
            request.accept("here")?.read_to_end(&mut bytes).await?;
            assert_eq!(bytes, b"data");
            Ok(())
        });
        let listener = second.listen("127.0.0.1:0").await.unwrap();
        first.client.connect(listener.url()).await.unwrap();
        within("both", first.to.ready_with(2)).await.unwrap();
        Two { first, second, held, cancelled }
    }

    fn to(&self) -> &Destination {
        &self.first.to
    }

    fn rerouted(&self) -> u64 {
        let units = self.to().units();
        units.iter().map(|unit| unit.stats().requests_rerouted).sum()
    }

    async fn close(self) {
        within("closing", self.second.close()).await;
        self.first.close().await;
    }
}

#[tokio::test]
async fn what_is_not_handled_goes_on_to_the_next_unit() {
    let two = Two::new().await;
    for n in 0..10 {
        let answer = two.to().request("new", n).await.unwrap();
        assert_eq!((answer.unit().name().as_str(), answer.data()), ("second", &Data::from(n)));
        let (mut stream, answer) = two.to().writable("up", ()).await.unwrap();
        assert_eq!(answer.parse::<String>().unwrap(), "here");
        stream.write_all(b"data").await.unwrap();
        stream.shutdown().await.unwrap();
    }
    assert!(two.rerouted() > 0);
    two.close().await;
}

#[tokio::test]
async fn what_nobody_handles_fails_as_ever() {
    let two = Two::new().await;
    for _ in 0..4 {
        let error = two.to().request("none", ()).await.unwrap_err();
        let text = r#"The event "none" is not handled"#;
        assert_eq!((error.kind(), error.text()), (ErrorKind::Rejected, text));
        assert!(error.is_unhandled());
        assert!(two.to().readable("none", ()).await.is_err());
    }
    two.close().await;
}

#[tokio::test]
async fn what_is_for_one_unit_stays_there() {
    let two = Two::new().await;
    let units = two.to().units();
    let first = units.iter().find(|unit| unit.name() == "server").unwrap();
    for _ in 0..4 {
        let error = two.to().request("new", ()).to(first).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected);
        assert!(two.to().writable("up", ()).to(first).await.is_err());
        assert_eq!(
            two.to().survey("new", ()).all().await.iter().filter(|(_, a)| a.is_err()).count(),
            1
        );
    }
    assert_eq!(two.rerouted(), 0);
    two.close().await;
}

#[tokio::test]
async fn giving_up_reaches_the_unit_that_has_it_now() {
    let two = Two::new().await;
    for _ in 0..4 {
        let request = two.to().request("hold", ());
        tokio::select! {
            answer = request.into_future() => panic!("{answer:?}"),
            () = within("the handler", two.held.notified()) => {}
        }
        within("the end", two.cancelled.notified()).await;
    }
    // However far it has got by then.
    let error = two.to().request("hold", ()).timeout(Duration::from_millis(50)).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Timeout);
    two.close().await;
}

#[tokio::test]
async fn calls_back_go_on_too_and_can_be_given_up() {
    let two = Two::new().await;
    for n in 0..4 {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let call = two.to().request("new", n).call(sender, |sender, answer| {
            let _ = sender.send(answer);
        });
        let Ok(call) = call else { panic!("not sent") };
        let answer = within("the answer", receiver).await.unwrap().unwrap();
        assert_eq!(answer.into_data(), Data::from(n));
        assert!(!call.cancel(), "it has ended");
    }
    for _ in 0..4 {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let call = two.to().request("hold", ()).call(sender, |sender, answer| {
            let _ = sender.send(answer);
        });
        let Ok(call) = call else { panic!("not sent") };
        within("the handler", two.held.notified()).await;
        assert!(call.cancel());
        within("the end", two.cancelled.notified()).await;
        assert!(within("the drop", receiver).await.is_err(), "it was called back");
    }
    two.close().await;
}

#[tokio::test]
async fn a_call_whose_rejection_is_just_there_can_be_given_up() {
    let two = Two::new().await;
    for _ in 0..20 {
        // Its turn is the first one's: both answers come together, and the first gives up the second.
        let first = two.first.unit();
        let later: Arc<Mutex<Option<roletalk::Call>>> = Arc::default();
        let (said, told) = tokio::sync::oneshot::channel();
        let state = (later.clone(), said);
        let asked = two.to().request("echo", ()).to(&first).call(state, |(later, said), answer| {
            assert!(answer.is_ok());
            let call = later.lock().unwrap().take();
            let _ = said.send(call.map(|call| call.cancel()));
        });
        assert!(asked.is_ok());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let first = |all: &[roletalk::Candidate<'_>]| {
            all.iter().position(|candidate| candidate.name == "server").or(Some(0))
        };
        let request = two.to().request("new", ()).balance(Balance::custom(first));
        let call = request.call(sender, |sender, answer| {
            let _ = sender.send(answer);
        });
        let Ok(call) = call else { panic!("not sent") };
        *later.lock().unwrap() = Some(call);
        assert_eq!(within("the first answer", told).await.unwrap(), Some(true));
        assert!(within("the drop", receiver).await.is_err(), "it was called back");
    }
    two.close().await;
}

/// As one that is awaited.
#[tokio::test]
async fn a_call_that_waits_for_a_unit_waits_for_another_one_too() {
    let pair = Pair::new(|_| {}).await;
    let to = pair.to.wait_for_unit();
    let ask = || {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let call = to.request("count", 7).call(sender, |sender, answer| {
            let _ = sender.send(answer);
        });
        assert!(call.is_ok());
        receiver
    };
    let answer = ask();
    until("the rejection", || pair.unit().stats().waiting == 0).await;
    let other = service(&pair.client, &Seen::default()).await;
    let answer = within("the answer", answer).await.unwrap().unwrap();
    assert_eq!(answer.parse::<u64>().unwrap(), 7);
    other.close().await;
    until("one", || to.units().len() == 1).await;
    let closed = ask();
    until("the rejection", || pair.unit().stats().waiting == 0).await;
    pair.client.close().await;
    let error = within("the end", closed).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    pair.close().await;
}

#[tokio::test]
async fn so_many_wait_for_a_unit_and_no_more() {
    let client = Peer::builder().limits(|limits| limits.waiting_requests = 2).build().unwrap();
    let to = client.destination("r").unwrap().wait_for_unit();
    let mut requests: Vec<_> =
        (0..2).map(|n| Box::pin(to.request("new", n).into_future())).collect();
    for request in &mut requests {
        assert!(futures_util::poll!(request).is_pending());
    }
    let error = to.request("new", 2).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.text()),
        (ErrorKind::Overloaded, "Too many requests wait for a unit (the limit is 2)")
    );
    assert!(error.hint().unwrap().contains("waiting_requests"));
    requests.pop();
    let limit = Duration::from_millis(20);
    let late = to.request("new", 2).timeout(limit).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    within("closing", client.close()).await;
}

#[tokio::test]
async fn what_has_waited_in_vain_says_why_it_waited() {
    let pair = Pair::new(|_| {}).await;
    let limit = Duration::from_millis(20);
    let late = pair.to.request("new", ()).wait_for_unit().timeout(limit).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    let hint = late.hint().unwrap();
    assert!(hint.contains("did not handle it") && hint.contains("new"), "{hint}");
    pair.close().await;
}

#[tokio::test]
async fn a_request_can_wait_for_a_unit() {
    let (client, seen) = (peer("client"), Seen::default());
    let to = client.destination("r").unwrap();
    assert_eq!(to.request("count", 1).await.unwrap_err().kind(), ErrorKind::NoUnit);
    let limit = Duration::from_millis(50);
    let late = to.request("count", 1).wait_for_unit().timeout(limit).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    let late = to.readable("count", 1).wait_for_unit().timeout(limit).await;
    assert_eq!(late.err().map(|error| error.kind()), Some(ErrorKind::Timeout));
    let waiting = to.wait_for_unit();
    let mut requests: FuturesUnordered<_> = (0..10u64)
        .map(|n| waiting.request("count", Data::json(&n).unwrap()).into_future())
        .collect();
    assert!(futures_util::poll!(requests.next()).is_pending());
    let service = service(&client, &seen).await;
    while let Some(answer) = within("an answer", requests.next()).await {
        answer.unwrap();
    }
    within("closing", service.close()).await;
    until("its end", || !to.is_ready()).await;
    drop(requests);
    let request = tokio::spawn(async move { waiting.request("count", 1).await.map(drop) });
    within("closing", client.close()).await;
    assert_eq!(within("the end", request).await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_message_goes_to_another_unit_when_its_own_is_gone() {
    let two = Two::new().await;
    within("closing", two.second.close()).await;
    for _ in 0..4 {
        two.to().send("none", ()).await.unwrap();
    }
    two.first.close().await;
}

/// One that is connected and reads nothing holds up what is sent to it, until it is lost.
#[tokio::test]
async fn messages_in_the_queue_of_a_lost_unit_go_to_another() {
    messages_go_on(Peer::builder()).await;
}

/// That one is not asked for what was sent without it, since nobody may call it with the peer's lock.
#[tokio::test]
async fn messages_go_to_another_unit_without_a_function_that_chooses_for_others() {
    let never = Balance::custom(|_| panic!("it is asked"));
    messages_go_on(Peer::builder().balance(never)).await;
}

async fn messages_go_on(client: PeerBuilder) {
    const MESSAGES: usize = 400;
    let client = client.name("client").build().unwrap();
    let to = client.destination("r").unwrap().balance(Balance::round_robin());
    let listener = client.listen("127.0.0.1:0").await.unwrap();
    let stuck = Raw::join(listener.local_addr(), "stuck", &["r"]).await;
    within("the role", to.ready()).await.unwrap();
    let sending = tokio::spawn({
        let to = to.clone();
        async move {
            for number in 0..MESSAGES {
                let mut data = number.to_le_bytes().to_vec();
                data.resize(100_000, 0);
                to.send("m", data).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    let queued = || to.units()[0].stats().connections.iter().map(|conn| conn.queued).sum::<usize>();
    until("a full queue", || queued() >= 1 << 20).await;
    let got = Log::new();
    let server = peer("server");
    server.role("r").unwrap().on_message("m", {
        let got = got.clone();
        move |ctx: Context| {
            let number = ctx.data().bytes()[..8].try_into().unwrap();
            got.push(usize::from_le_bytes(number));
            async { Ok(()) }
        }
    });
    let sent = to.units()[0].stats().messages_sent as usize;
    let lost = to.units()[0].clone();
    client.connect(server.listen("127.0.0.1:0").await.unwrap().url()).await.unwrap();
    within("the other one", to.ready_with(2)).await.unwrap();
    drop(stuck);
    within("the rest", sending).await.unwrap();
    within("the loss", lost.closed()).await;
    until("the last one", || got.all().contains(&(MESSAGES - 1))).await;
    let got = got.take();
    // What was written, or is being written, may be lost. Most of what was queued is not.
    let moved: Vec<_> = got.iter().copied().filter(|number| *number < sent).collect();
    assert!(moved.len() >= 5, "{} of {sent}", moved.len());
    assert!(moved.is_sorted_by(|a, b| a < b), "{moved:?}");
    assert_eq!(moved.last(), Some(&(sent - 1)));
    within("closing", server.close()).await;
    client.close().await;
}

/// Also within a handler, where calls have a task of their own.
#[tokio::test]
async fn a_chosen_unit_stays_the_chosen_one_within_a_handler() {
    let two = Two::new().await;
    let middle = two.first.client.clone();
    let units = two.to().units();
    let chosen = units.into_iter().find(|unit| unit.name() == "server").unwrap();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let to = two.to().clone();
    let gone_on = Arc::new(Notify::new());
    let done = gone_on.clone();
    middle.role("m").unwrap().on_request("on", move |ctx: Context| {
        let (sender, done) = (sender.clone(), done.clone());
        let call = to.request("new", ()).to(&chosen).within(&ctx).call(sender, |sender, answer| {
            let _ = sender.send(answer.map(drop).map_err(|error| error.kind()));
        });
        assert!(call.is_ok());
        async move {
            done.notified().await;
            Ok(())
        }
    });
    let listener = middle.listen("127.0.0.1:0").await.unwrap();
    let client = peer("third");
    client.connect(listener.url()).await.unwrap();
    let to = client.destination("m").unwrap();
    within("the role", to.ready()).await.unwrap();
    let asking = tokio::spawn(async move { to.request("on", ()).await.map(drop) });
    let outcome = within("the outcome", receiver.recv()).await.unwrap();
    assert_eq!(outcome, Err(ErrorKind::Rejected));
    gone_on.notify_one();
    within("the answer", asking).await.unwrap().unwrap();
    within("closing", client.close()).await;
    two.close().await;
}

/// What becomes of a [`Torn`] socket.
#[derive(Default)]
struct Tear {
    /// Nothing can be read until writing has failed.
    deaf: AtomicBool,
    /// Writing fails.
    mute: AtomicBool,
}

struct Torn {
    stream: TcpStream,
    tear: Arc<Tear>,
    has_failed: bool,
}

impl AsyncRead for Torn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.tear.deaf.load(Ordering::SeqCst) && !self.has_failed {
            true => Poll::Pending,
            false => Pin::new(&mut self.stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Torn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.tear.mute.load(Ordering::SeqCst) {
            self.has_failed = true;
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The other side resets the connection when it has closed it and something arrives all the same. Its last words
/// may not be read by then.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_to_be_read_when_writing_fails_counts() {
    let (server, client) = (peer("server"), peer("client"));
    let answer = Arc::new(Notify::new());
    let (begun, mut begins) = mpsc::unbounded_channel();
    server.role("r").unwrap().on_request("e", {
        let answer = answer.clone();
        move |ctx: Context| {
            let (answer, begun) = (answer.clone(), begun.clone());
            async move {
                begun.send(()).unwrap();
                answer.notified().await;
                Ok(ctx.into_data())
            }
        }
    });
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let tear = Arc::new(Tear::default());
    let address = listener.url().trim_start_matches("ws://").trim_end_matches('/').to_owned();
    let open = {
        let tear = tear.clone();
        move |_: &str| {
            let (address, tear) = (address.clone(), tear.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                Ok(Torn { stream, tear, has_failed: false })
            }
        }
    };
    let options = roletalk::ConnectOptions::new().once().connector(open);
    client.connect_with(listener.url(), options).await.unwrap();
    let to = client.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    let ask = |text: &str| {
        let (to, text) = (to.clone(), Data::from(text));
        tokio::spawn(async move { to.request("e", text).await })
    };
    let first = ask("first");
    within("the handler", begins.recv()).await.unwrap();
    tear.deaf.store(true, Ordering::SeqCst);
    answer.notify_one();
    within("the drain", server.drain(Duration::from_secs(1))).await;
    let other = peer("other");
    other.role("r").unwrap().on_request("e", |ctx: Context| async { Ok(ctx.into_data()) });
    let listens = other.listen("127.0.0.1:0").await.unwrap();
    client.connect(listens.url()).await.unwrap();
    within("the other unit", to.ready_with(2)).await.unwrap();
    tear.mute.store(true, Ordering::SeqCst);
    let last = [ask("last"), ask("last")];
    let answer = within("the answer", first).await.unwrap().unwrap();
    assert_eq!(answer.parse::<String>().unwrap(), "first");
    for last in last {
        within("an answer of the other unit", last).await.unwrap().unwrap();
    }
    within("closing", client.close()).await;
    within("closing", other.close()).await;
}

/// An answer that is read together with the close frame counts, though the handlers of what is before it cannot begin.
#[test]
fn an_answer_before_the_close_frame_counts_on_a_connection_that_is_full() {
    let seen = Arc::new(AtomicU64::new(0));
    let builder = || tokio::runtime::Builder::new_multi_thread();
    let servers = builder().worker_threads(2).enable_all().build().unwrap();
    let serve = |name: &str| {
        servers.block_on(async {
            let (peer, count) = (peer(name), seen.clone());
            peer.role("r").unwrap().on_request("once", move |_: Context| {
                count.fetch_add(1, Ordering::Relaxed);
                // Most likely behind the messages; otherwise there is nothing to see.
                async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Ok(1)
                }
            });
            let listener = peer.listen("127.0.0.1:0").await.unwrap();
            (peer, listener)
        })
    };
    let ((a, listens_a), (_b, listens_b)) = (serve("a"), serve("b"));
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    own.block_on(async {
        let builder = Peer::builder().name("client");
        let client = builder.limits(|limits| limits.running_handlers = 1).build().unwrap();
        client
            .role("c")
            .unwrap()
            .on_message("m", |_: Context| std::future::pending::<Result<(), BoxError>>());
        client.connect(listens_a.url()).await.unwrap();
        let to = client.destination("r").unwrap();
        within("one", to.ready()).await.unwrap();
        let asked = tokio::spawn({
            let to = to.clone();
            async move { to.request("once", ()).await.map(drop) }
        });
        until("it is begun", || seen.load(Ordering::Relaxed) == 1).await;
        client.connect(listens_b.url()).await.unwrap();
        within("two", to.ready_with(2)).await.unwrap();
        let begun = seen.load(Ordering::Relaxed);
        // This thread, and so the client, reads nothing meanwhile.
        std::thread::scope(|scope| {
            let drain = || {
                servers.block_on(async {
                    let to = a.destination("c").unwrap();
                    to.ready().await.unwrap();
                    for _ in 0..3 {
                        to.send("m", vec![0u8; 130 << 10]).await.unwrap();
                    }
                    to.send("m", vec![0u8; 1 << 10]).await.unwrap();
                    a.drain(Duration::from_secs(5)).await;
                });
            };
            scope.spawn(drain).join().unwrap();
        });
        let _ = within("the outcome", asked).await.unwrap();
        assert_eq!(seen.load(Ordering::Relaxed), begun, "it was handled twice");
        within("closing", client.close()).await;
    });
}
