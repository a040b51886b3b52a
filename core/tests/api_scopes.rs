//! Time limits, requests that are given up, and what the requests of a handler inherit, over real sockets.

mod common;

use std::time::Duration;

use common::{LIMIT, Log, Pair, Raw, peer, until, within};
use roletalk::{CancelReason, Context, Data, Destination, ErrorKind, Kind, OnCancel, Peer, Result};
use roletalk_engine::wire::{Frame, Num};

/// Tells when it is dropped.
struct OnDrop(Log<&'static str>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.push("dropped");
    }
}

/// Serves `waits`, which tells what becomes of it, and ends when it is cancelled.
fn waits(peer: &Peer, begun: &Log<Option<Duration>>, ended: &Log<CancelReason>) {
    let (begun, ended) = (begun.clone(), ended.clone());
    peer.role("r").unwrap().on_request("waits", move |ctx| {
        begun.push(ctx.remaining());
        let ended = ended.clone();
        async move {
            ctx.cancellation().cancelled().await;
            ended.push(ctx.cancel_reason().expect("a reason"));
            Ok(())
        }
    });
}

async fn logged() -> (Pair, Log<Option<Duration>>, Log<CancelReason>) {
    let (begun, ended) = (Log::new(), Log::new());
    let pair = Pair::new(|server| waits(server, &begun, &ended)).await;
    (pair, begun, ended)
}

#[tokio::test]
async fn handlers_hear_that_their_requesters_have_given_up() {
    let (pair, begun, ended) = logged().await;
    let mut requests: Vec<_> = (0..100).map(|_| tokio::spawn(ask(&pair.to, "waits"))).collect();
    until("all to begin", || begun.len() == 100).await;
    assert!(begun.all().iter().all(Option::is_none), "nobody has set a time limit");
    requests.drain(..).for_each(|request| request.abort());
    until("all to end", || ended.len() == 100).await;
    assert!(ended.all().iter().all(|reason| *reason == CancelReason::Requester));
    until("nothing to be left", || pair.server.units()[0].stats().running == 0).await;
    assert_eq!(pair.unit().stats().cancels_sent, 100);
    assert_eq!(pair.server.units()[0].stats().cancels_received, 100);
    pair.close().await;
}

fn ask(to: &Destination, event: &'static str) -> impl Future<Output = Result<Data>> + use<> {
    let to = to.clone();
    async move { to.request(event, ()).await.map(|answer| answer.into_data()) }
}

#[tokio::test]
async fn handlers_hear_that_their_unit_is_gone() {
    let (pair, begun, ended) = logged().await;
    let requests: Vec<_> = (0..100).map(|_| tokio::spawn(ask(&pair.to, "waits"))).collect();
    until("all to begin", || begun.len() == 100).await;
    within("closing", pair.client.close()).await;
    until("all to end", || ended.len() == 100).await;
    assert!(ended.all().iter().all(|reason| *reason == CancelReason::UnitLost));
    for request in requests {
        within("an outcome", request).await.unwrap().unwrap_err();
    }
    pair.close().await;
}

#[tokio::test]
async fn a_time_limit_reaches_the_handler() {
    let (pair, begun, ended) = logged().await;
    let asked = pair.to.request("waits", ()).timeout(Duration::from_millis(200));
    let error = within("the time", asked.into_future()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    until("the handler to hear of it", || ended.len() == 1).await;
    let left = begun.all()[0].expect("a time limit");
    assert!(left <= Duration::from_millis(200), "{left:?}");
    pair.close().await;
}

#[tokio::test]
async fn what_happens_to_a_handler_is_chosen_where_it_is_registered() {
    let (log, begun) = (Log::new(), Log::new());
    let pair = Pair::new(|server| {
        for (event, on_cancel) in
            [("tell", OnCancel::Tell), ("drop", OnCancel::Drop), ("ignore", OnCancel::Ignore)]
        {
            let (log, begun) = (log.clone(), begun.clone());
            let role = server.role("r").unwrap().on_cancel(on_cancel);
            role.on_request(event, move |ctx: Context| {
                let guard = OnDrop(log.clone());
                begun.push(event);
                async move {
                    let token = ctx.cancellation();
                    std::future::pending::<()>().await;
                    drop((guard, token));
                    Ok(())
                }
            });
        }
    })
    .await;
    let requests = ["tell", "ignore", "drop"].map(|event| tokio::spawn(ask(&pair.to, event)));
    until("all to begin", || begun.len() == 3).await;
    requests.iter().for_each(|request| request.abort());
    until("one to be dropped", || log.len() == 1).await;
    until("it to be over", || pair.server.units()[0].stats().running == 2).await;
    assert_eq!(log.len(), 1);
    pair.close().await;
}

#[tokio::test]
async fn a_detached_handler_has_all_the_time() {
    let seen = Log::new();
    let pair = Pair::new(|server| {
        let seen = seen.clone();
        let role = server.role("r").unwrap().on_cancel(OnCancel::Ignore);
        role.on_request("on", move |ctx: Context| {
            let seen = seen.clone();
            async move {
                // It inherits no time either.
                let back = ctx.unit().id();
                let token = ctx.cancellation();
                tokio::task::yield_now().await;
                seen.push((token.is_cancelled(), ctx.cancel_reason(), back.is_empty()));
                Ok(())
            }
        });
    })
    .await;
    within("the answer", ask(&pair.to, "on")).await.unwrap();
    assert_eq!(seen.all(), [(false, None, false)]);
    pair.close().await;
}

/// Three peers in a row: `a` asks `b`, whose handler asks `c`.
struct Chain {
    b: Pair,
    c: Pair,
    begun: Log<Option<Duration>>,
    ended: Log<CancelReason>,
    between: Log<String>,
}

impl Chain {
    async fn new(detached: bool) -> Chain {
        let (c, begun, ended) = logged().await;
        let between = Log::new();
        let b = Pair::new(|server| {
            let (to, between) = (c.to.clone(), between.clone());
            server.role("r").unwrap().on_request("on", move |_| {
                let (to, between) = (to.clone(), between.clone());
                async move {
                    let request = to.request("waits", ());
                    let request = if detached { request.detached() } else { request };
                    let outcome = request.await;
                    let told = outcome.as_ref().map_or_else(
                        |error| format!("{:?}: {error}", error.kind()),
                        |_| "answered".into(),
                    );
                    between.push(told);
                    Ok(outcome?.into_data())
                }
            });
        })
        .await;
        Chain { b, c, begun, ended, between }
    }

    async fn close(self) {
        self.b.close().await;
        self.c.close().await;
    }
}

#[tokio::test]
async fn a_time_limit_crosses_three_peers() {
    let chain = Chain::new(false).await;
    let limit = Duration::from_millis(300);
    let asked = chain.b.to.request("on", ()).timeout(limit);
    assert_eq!(
        within("the time", asked.into_future()).await.unwrap_err().kind(),
        ErrorKind::Timeout
    );
    until("the last one to hear of it", || chain.ended.len() == 1).await;
    let left = chain.begun.all()[0].expect("a time limit");
    assert!(left <= limit, "{left:?}");
    chain.close().await;
}

#[tokio::test]
async fn giving_up_crosses_three_peers() {
    let chain = Chain::new(false).await;
    let requests: Vec<_> = (0..100).map(|_| tokio::spawn(ask(&chain.b.to, "on"))).collect();
    until("all to begin", || chain.begun.len() == 100).await;
    requests.iter().for_each(|request| request.abort());
    until("all to end", || chain.ended.len() == 100 && chain.between.len() == 100).await;
    let told = "Cancelled: Given up with its handler: The requester has given up";
    assert!(chain.between.all().iter().all(|entry| entry == told), "{:?}", chain.between.all()[0]);
    chain.close().await;
}

#[tokio::test]
async fn the_loss_of_the_first_reaches_the_last() {
    let chain = Chain::new(false).await;
    let request = tokio::spawn(ask(&chain.b.to, "on"));
    until("it to begin", || chain.begun.len() == 1).await;
    within("closing", chain.b.client.close()).await;
    until("it to end", || chain.ended.len() == 1).await;
    assert_eq!(chain.ended.all(), [CancelReason::Requester]);
    within("an outcome", request).await.unwrap().unwrap_err();
    chain.close().await;
}

#[tokio::test]
async fn what_is_detached_inherits_nothing() {
    let chain = Chain::new(true).await;
    let asked = chain.b.to.request("on", ()).timeout(Duration::from_millis(100));
    within("the time", asked.into_future()).await.unwrap_err();
    until("it to begin", || chain.begun.len() == 1).await;
    assert_eq!(chain.begun.all(), [None]);
    assert_eq!((chain.ended.len(), chain.between.len()), (0, 0));
    // It ends with its peers.
    chain.close().await;
}

#[tokio::test]
async fn a_task_of_its_own_inherits_when_it_is_told_to() {
    let (c, begun, ended) = logged().await;
    let to = c.to.clone();
    let b = Pair::new(move |server| {
        server.role("r").unwrap().on_request("on", move |ctx: Context| {
            let to = to.clone();
            async move {
                let _ = ctx.cancellation();
                let other = ctx.clone();
                let task = tokio::spawn(async move {
                    to.request("waits", ()).within(&other).await.map(|answer| answer.into_data())
                });
                Ok(task.await.unwrap()?)
            }
        });
    })
    .await;
    let to = b.to.clone();
    let request = tokio::spawn(async move { to.request("on", ()).timeout(LIMIT).await.map(drop) });
    until("it to begin", || begun.len() == 1).await;
    assert!(begun.all()[0].is_some_and(|left| left <= LIMIT), "{:?}", begun.all());
    request.abort();
    until("it to end", || ended.len() == 1).await;
    b.close().await;
    c.close().await;
}

#[tokio::test]
async fn there_is_no_time_for_what_is_asked_too_late() {
    let seen = Log::new();
    let (c, begun, _) = logged().await;
    let (to, log) = (c.to.clone(), seen.clone());
    let b = Pair::new(move |server| {
        server.role("r").unwrap().on_request("on", move |ctx: Context| {
            let (to, log) = (to.clone(), log.clone());
            async move {
                ctx.cancellation().cancelled().await;
                log.push(to.request("waits", ()).await.unwrap_err().kind());
                log.push(to.readable("none", ()).await.unwrap_err().kind());
                let survey = to.survey("waits", ()).all().await;
                log.push(survey.into_iter().next().unwrap().1.unwrap_err().kind());
                Ok(())
            }
        });
    })
    .await;
    let asked = b.to.request("on", ()).timeout(Duration::from_millis(50));
    within("the time", asked.into_future()).await.unwrap_err();
    until("all to be told", || seen.len() == 3).await;
    assert_eq!(seen.all(), [ErrorKind::Cancelled; 3]);
    assert_eq!(begun.len(), 0);
    b.close().await;
    c.close().await;
}

#[tokio::test]
async fn a_survey_that_is_given_up_gives_up_what_it_asked() {
    let (pair, begun, ended) = logged().await;
    let to = pair.to.clone();
    let survey = tokio::spawn(async move { to.survey("waits", ()).all().await.len() });
    until("it to begin", || begun.len() == 1).await;
    survey.abort();
    until("it to end", || ended.len() == 1).await;
    pair.close().await;
}

#[tokio::test]
async fn a_stream_that_is_not_accepted_can_be_given_up() {
    let (begun, ended) = (Log::new(), Log::new());
    let pair = Pair::new(|server| {
        let (begun, ended) = (begun.clone(), ended.clone());
        server.role("r").unwrap().on_writable("never", move |request| {
            begun.push(());
            let ended = ended.clone();
            async move {
                request.context().cancellation().cancelled().await;
                ended.push(request.context().cancel_reason());
                Ok(())
            }
        });
    })
    .await;
    let to = pair.to.clone();
    let opening = tokio::spawn(async move { to.readable("never", ()).await.map(drop) });
    until("it to begin", || begun.len() == 1).await;
    opening.abort();
    until("it to end", || ended.len() == 1).await;
    assert_eq!(ended.all(), [Some(CancelReason::Requester)]);
    pair.close().await;
}

#[tokio::test]
async fn a_stream_that_was_accepted_ends_by_itself() {
    let tokens = Log::new();
    let pair = Pair::new(|server| {
        let tokens = tokens.clone();
        server.role("r").unwrap().on_readable("sink", move |request| {
            let tokens = tokens.clone();
            async move {
                let token = request.context().cancellation();
                let mut stream = request.accept(())?;
                let end = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                tokens.push((end.is_err(), token.is_cancelled()));
                Ok(())
            }
        });
    })
    .await;
    let (stream, _) =
        within("the stream", pair.to.writable("sink", ()).into_future()).await.unwrap();
    within("closing", pair.client.close()).await;
    until("it to end", || tokens.len() == 1).await;
    assert_eq!(tokens.all(), [(true, false)]);
    drop(stream);
    pair.close().await;
}

#[tokio::test]
async fn a_deferred_handler_can_be_told() {
    let (begun, ended) = (Log::new(), Log::new());
    let pair = Pair::new(|server| {
        let (begun, ended) = (begun.clone(), ended.clone());
        server.role("r").unwrap().on_deferred(Kind::Request, "later", move |ctx, deferred| {
            let token = ctx.cancellation();
            begun.push(());
            let ended = ended.clone();
            tokio::spawn(async move {
                token.cancelled().await;
                ended.push(ctx.cancel_reason());
                deferred.respond(Ok(Data::null()));
                ended.push(ctx.cancel_reason());
            });
        });
    })
    .await;
    let request = tokio::spawn(ask(&pair.to, "later"));
    until("it to begin", || begun.len() == 1).await;
    request.abort();
    until("it to end", || ended.len() == 2).await;
    assert_eq!(
        ended.all(),
        [Some(CancelReason::Requester), None],
        "one that has ended is told nothing"
    );
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn handlers_that_wait_behind_slow_ones_are_not_begun() {
    let log = Log::new();
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = std::sync::Mutex::new(blocked);
    let pair = Pair::new(|server| {
        let (one, two) = (log.clone(), log.clone());
        let role = server.role("r").unwrap();
        role.on_request("blocks", move |_| {
            one.push("blocks");
            // So that the runtime knows of it: else everything else might wait for this thread.
            tokio::task::block_in_place(|| {
                let _ = blocked.lock().unwrap().recv_timeout(LIMIT);
                // Slow in any case.
                std::thread::sleep(Duration::from_millis(10));
            });
            async { Ok(()) }
        });
        role.on_request("never", move |_| {
            two.push("begun");
            async { Ok(()) }
        });
    })
    .await;
    let first = tokio::spawn(ask(&pair.to, "blocks"));
    until("the first to block", || log.len() == 1).await;
    let second = tokio::spawn(ask(&pair.to, "blocks"));
    until("the second to be sent", || pair.unit().stats().requests_sent == 2).await;
    unblock.send(()).unwrap();
    // That one was slow, so that the second holds up a task of its own.
    until("the second to block", || log.len() == 2).await;
    let others: Vec<_> = (0..10).map(|_| tokio::spawn(ask(&pair.to, "never"))).collect();
    let server = pair.server.units().remove(0);
    until("the others to wait", || server.stats().requests_received == 12).await;
    others.iter().for_each(|request| request.abort());
    until("them to be given up", || server.stats().cancels_received == 10).await;
    unblock.send(()).unwrap();
    for request in [first, second, tokio::spawn(ask(&pair.to, "echo"))] {
        within("an answer", request).await.unwrap().unwrap();
    }
    assert_eq!(log.all(), ["blocks", "blocks"]);
    until("nothing to be left", || server.stats().running == 0).await;
    pair.close().await;
}

/// The number of a cancel frame.
fn given_up(frame: Frame<'_>) -> Option<Num> {
    match frame {
        Frame::Cancel { corr } => Some(corr),
        _ => None,
    }
}

#[tokio::test]
async fn an_original_is_told_nothing() {
    let client = peer("client");
    let listener = client.listen("127.0.0.1:0").await.unwrap();
    let mut raw = Raw::join(listener.local_addr(), "raw", &["r"]).await;
    let to = client.destination("r").unwrap();
    within("the role", to.ready()).await.unwrap();
    let asking = tokio::spawn({
        let to = to.clone();
        async move { to.request("e", ()).timeout(LIMIT).header("a", "b").await.map(drop) }
    });
    let request = raw.binary().await;
    assert_eq!(request[0], 101, "as it always was");
    asking.abort();
    let _ = asking.await;
    to.send("after", ()).await.unwrap();
    let next = raw.binary().await;
    assert_eq!(next[0], 100);
    assert!(given_up(Frame::decode(&next).unwrap()).is_none());
    assert_eq!(to.units()[0].stats().fields_left_out, 1);
    let error = to.request("e", ()).headers_required().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.text(), "No connected unit with role [r] takes headers");
    within("closing", client.close()).await;
}
