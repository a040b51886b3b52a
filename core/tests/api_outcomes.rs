//! Every way in which a handler can end gives exactly one outcome.

mod common;

use std::{
    panic::panic_any,
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use common::{Log, Pair, until, within};
use roletalk::{BoxError, Context, Data, Deferred, Error, ErrorKind, Kind, Next, Peer, PeerEvent};

/// Panics with another one of itself when it is dropped, some times.
struct Bomb(u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 > 0 {
            panic_any(Bomb(self.0 - 1));
        }
    }
}

/// Is ready, or panics, and then panics once more when it is dropped.
struct Spiteful {
    polls: u32,
    panics: bool,
    armed: bool,
}

impl Spiteful {
    fn new(polls: u32, panics: bool) -> Spiteful {
        Spiteful { polls, panics, armed: true }
    }
}

impl Future for Spiteful {
    type Output = Result<Data, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        if self.polls > 0 {
            self.polls -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.panics {
            panic_any(Bomb(2));
        }
        Poll::Ready(Ok(Data::null()))
    }
}

impl Drop for Spiteful {
    fn drop(&mut self) {
        // Two panics at once would end the process, in any program.
        if std::mem::take(&mut self.armed) && !std::thread::panicking() {
            panic_any(Bomb(2));
        }
    }
}

/// An error that cannot be printed.
#[derive(Debug)]
struct Unprintable;

impl std::error::Error for Unprintable {}

impl std::fmt::Display for Unprintable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("no text")
    }
}

/// A result that cannot be sent.
struct Unsendable;

impl From<Unsendable> for Data {
    fn from(_: Unsendable) -> Data {
        panic_any(42)
    }
}

const PANICKED: &str = "The handler panicked";
const UNANSWERED: &str = "The handler did not answer";

/// Ways to end, and the text of the rejection; none for an answer.
const WAYS: &[(&str, Option<&str>)] = &[
    ("value", None),
    ("late value", None),
    ("error", Some("on purpose")),
    ("late error", Some("on purpose")),
    ("panic in the function", Some(PANICKED)),
    ("panic with text", Some(PANICKED)),
    ("panic with a number", Some(PANICKED)),
    ("panic with a bomb", Some(PANICKED)),
    ("late panic with a bomb", Some(PANICKED)),
    ("panic when dropped", Some(PANICKED)),
    ("late panic when dropped", Some(PANICKED)),
    ("panic, and when dropped", Some(PANICKED)),
    ("late panic, and when dropped", Some(PANICKED)),
    ("error without text", Some(PANICKED)),
    ("value without data", Some(PANICKED)),
    ("deferred value", None),
    ("deferred error", Some("on purpose")),
    ("deferred later", None),
    ("deferred dropped", Some(UNANSWERED)),
    ("deferred dropped later", Some(UNANSWERED)),
    ("deferred dropped by a panic", Some(PANICKED)),
    ("deferred, then panic", None),
    ("deferred kept, then panic", None),
];

fn register(peer: &Peer, kind: Kind) {
    let role = peer.role("r").unwrap();
    macro_rules! on {
        ($event:expr, $function:expr) => {
            match kind {
                Kind::Message => role.on_message($event, $function),
                _ => role.on_request($event, $function),
            }
        };
    }
    let later = tokio::task::yield_now;
    let on_purpose = || Error::new(ErrorKind::HandlerFailed, "on purpose");
    on!("value", |_| async { Ok(()) });
    on!("late value", move |_| async move {
        later().await;
        Ok(())
    });
    on!("error", |_| async { Err::<(), _>("on purpose".into()) });
    on!("late error", move |_| async move {
        later().await;
        Err::<(), _>("on purpose".into())
    });
    on!("panic in the function", |ctx| {
        if ctx.role() == "r" {
            panic_any(Bomb(2));
        }
        async { Ok(()) }
    });
    on!("panic with text", |ctx| async move {
        if ctx.role() == "r" {
            panic!("on purpose");
        }
        Ok(())
    });
    on!("panic with a number", |ctx| async move {
        if ctx.role() == "r" {
            panic_any(42u64);
        }
        Ok(())
    });
    on!("panic with a bomb", |ctx| async move {
        if ctx.role() == "r" {
            panic_any(Bomb(3));
        }
        Ok(())
    });
    on!("late panic with a bomb", move |ctx| async move {
        later().await;
        if ctx.role() == "r" {
            panic_any(Bomb(3));
        }
        Ok(())
    });
    on!("panic when dropped", |_| Spiteful::new(0, false));
    on!("late panic when dropped", |_| Spiteful::new(2, false));
    on!("panic, and when dropped", |_| Spiteful::new(0, true));
    on!("late panic, and when dropped", |_| Spiteful::new(2, true));
    on!("error without text", |_| async { Err::<(), _>(Unprintable.into()) });
    on!("value without data", |_| async { Ok(Unsendable) });
    let deferred = |event, function: fn(Context, Deferred)| {
        role.on_deferred(kind, event, function);
    };
    deferred("deferred value", |_, deferred| deferred.respond(Ok(Data::null())));
    role.on_deferred(kind, "deferred error", move |_, deferred| {
        deferred.respond(Err(on_purpose()));
    });
    deferred("deferred later", |_, deferred| {
        std::thread::spawn(move || deferred.respond(Ok(Data::null())));
    });
    deferred("deferred dropped", |_, _| {});
    deferred("deferred dropped later", |_, deferred| {
        std::thread::spawn(move || drop(deferred));
    });
    deferred("deferred dropped by a panic", |_, _deferred| panic_any(Bomb(2)));
    deferred("deferred, then panic", |_, deferred| {
        deferred.respond(Ok(Data::null()));
        panic_any(Bomb(2));
    });
    deferred("deferred kept, then panic", |_, deferred| {
        let (go, gone) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            let _ = gone.recv();
            deferred.respond(Ok(Data::null()));
        });
        let _go = go;
        panic_any(Bomb(2));
    });
}

/// What is in front of the handlers.
type Layer = fn(&Peer);

fn layers() -> [(&'static str, Layer); 3] {
    [
        ("none", |_| {}),
        ("passes on", |peer| {
            peer.layer(|ctx, next: Next| async move { next.run(ctx).await });
        }),
        ("waits, then passes on", |peer| {
            peer.layer(|ctx, next: Next| async move {
                tokio::task::yield_now().await;
                next.run(ctx).await
            });
        }),
    ]
}

#[tokio::test]
async fn every_way_to_end_is_one_outcome() {
    for (layer, set) in layers() {
        let pair = Pair::new(|server| {
            register(server, Kind::Request);
            set(server);
        })
        .await;
        for &(way, rejection) in WAYS {
            // Behind middleware the panic is that of the whole.
            let through = layer != "none" && way.ends_with("then panic");
            let rejection = if through { Some(PANICKED) } else { rejection };
            let what = format!("{way}, middleware {layer}");
            let outcome = within(&what, pair.to.request(way, ()).into_future()).await;
            match (outcome, rejection) {
                (Ok(_), None) => {}
                (Err(error), Some(text)) => {
                    assert_eq!((error.kind(), error.text()), (ErrorKind::Rejected, text), "{what}");
                }
                (outcome, _) => panic!("{what}: {outcome:?} instead of {rejection:?}"),
            }
            until(&what, || pair.server.units()[0].stats().running == 0).await;
        }
        // All on one connection, which has stayed.
        assert_eq!(pair.unit().stats().connections.len(), 1);
        assert_eq!(pair.client.stats().reconnects, 0);
        assert!(pair.server.drain(common::LIMIT).await);
        pair.close().await;
    }
}

/// The sender of a message hears of nothing, the events of its receiver tell of what went wrong: once.
#[tokio::test]
async fn every_way_to_end_is_one_event_at_most() {
    for (layer, set) in layers() {
        let pair = Pair::new(|server| {
            register(server, Kind::Message);
            set(server);
        })
        .await;
        let mut events = common::Watch::new(&pair.server);
        for &(way, rejection) in WAYS {
            pair.to.send(way, ()).await.unwrap();
            // Behind it in order.
            pair.to.request("echo", ()).await.unwrap();
            let what = format!("{way}, middleware {layer}");
            until(&what, || pair.server.units()[0].stats().running == 0).await;
            let failed = rejection.is_some() && !way.starts_with("deferred dropped")
                || way.ends_with("panic");
            let told = events.so_far().len();
            let of_handlers = events.seen.drain(..told).filter(
                |event| matches!(event, PeerEvent::HandlerFailed { event, .. } if **event == *way),
            );
            // Middleware has to be told of something in the place of an answer that nobody gives.
            let unanswered = layer != "none" && rejection == Some(UNANSWERED);
            assert_eq!(of_handlers.count(), usize::from(failed || unanswered), "{what}");
        }
        pair.close().await;
    }
}

#[tokio::test]
async fn middleware_that_panics_or_drops_what_it_waits_for() {
    let ran = Log::new();
    let seen = ran.clone();
    let pair = Pair::new(|server| {
        server.layer(|ctx, next: Next| async move {
            match ctx.event() {
                "before" => panic_any(Bomb(2)),
                "behind" => {
                    let _outcome = next.run(ctx).await;
                    panic_any(Bomb(2))
                }
                "given up" => {
                    let mut running = Box::pin(next.run(ctx));
                    let first = std::future::poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx)));
                    assert!(first.await.is_pending());
                    Ok(Data::from("without"))
                }
                "not run" => {
                    drop((ctx, next));
                    Ok(Data::from("without"))
                }
                _ => next.run(ctx).await,
            }
        });
        let role = server.role("r").unwrap();
        for event in ["before", "behind", "not run"] {
            let seen = seen.clone();
            role.on_request(event, move |_| {
                seen.push(event);
                async { Ok(()) }
            });
        }
        let kept = std::sync::Mutex::new(None);
        role.on_deferred(Kind::Request, "given up", move |_, deferred| {
            // Answers the one before, which nobody waits for any more.
            let before: Option<Deferred> = kept.lock().unwrap().replace(deferred);
            if let Some(before) = before {
                before.respond(Ok(Data::null()));
            }
        });
    })
    .await;
    for (event, outcome) in [
        ("before", Err(PANICKED)),
        ("behind", Err(PANICKED)),
        ("given up", Ok("without")),
        ("not run", Ok("without")),
        ("given up", Ok("without")),
    ] {
        let answer = within(event, pair.to.request(event, ()).into_future()).await;
        let answer = answer.map(|answer| answer.data().as_str().unwrap().to_string());
        let answer: Result<String, String> = answer.map_err(|error| error.text().to_owned());
        let outcome: Result<String, String> = outcome.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(answer, outcome, "{event}");
    }
    assert_eq!(ran.all(), ["behind"]);
    assert!(within("draining", pair.server.drain(common::LIMIT)).await);
    pair.close().await;
}
