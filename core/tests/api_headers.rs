//! Headers, trace context, and failures with a code, over real sockets.

mod common;

use std::time::Duration;

use common::{Log, Pair, within};
use roletalk::{BoxError, Context, Error, ErrorKind, Fields, HeaderValue, Next, Peer};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What a handler sees of the headers: text or bytes.
type Seen = Vec<(String, Result<String, Vec<u8>>)>;

fn seen(ctx: &Context) -> Seen {
    let owned =
        |value: HeaderValue<'_>| value.text().map(str::to_owned).ok_or(value.bytes().to_vec());
    ctx.headers().map(|(name, value)| (name.to_owned(), owned(value))).collect()
}

/// Serves all kinds, and logs what comes besides the payload.
fn serve(peer: &Peer, log: &Log<Seen>) {
    let role = peer.role("r").unwrap();
    let logging = || log.clone();
    let log = logging();
    role.on_message("m", move |ctx| {
        log.push(seen(&ctx));
        async { Ok(()) }
    });
    let log = logging();
    role.on_request("q", move |ctx| {
        log.push(seen(&ctx));
        async move {
            ctx.set_header("at-once", "yes")?;
            tokio::task::yield_now().await;
            ctx.set_header("raw", &b"\xff\0"[..])?;
            Ok("answer")
        }
    });
    let log = logging();
    role.on_readable("up", move |request| {
        log.push(seen(request.context()));
        async move {
            request.context().set_header("kind", "up")?;
            request.accept("accepted")?;
            Ok(())
        }
    });
}

#[tokio::test]
async fn headers_reach_handlers_of_every_kind_and_come_back() {
    let log = Log::new();
    let pair = Pair::new(|server| serve(server, &log)).await;
    let to = &pair.to;
    let request = to.request("q", ()).header("tenant", "blue").header("id", &[1u8, 255][..]);
    let answer = within("the answer", request.into_future()).await.unwrap();
    assert_eq!(answer.header("at-once"), Some(HeaderValue::Text("yes")));
    assert_eq!(answer.header("raw"), Some(HeaderValue::Bytes(b"\xff\0")));
    assert_eq!(answer.headers().count(), 2);
    let expected =
        vec![("tenant".into(), Ok("blue".to_owned())), ("id".into(), Err(vec![1u8, 255]))];
    assert_eq!(log.take(), [expected]);
    let mut fields = Fields::new();
    fields.add_header("all", "x").unwrap();
    let with = to.with_fields(fields);
    assert_eq!(within("the broadcast", with.broadcast("m", ())).await.unwrap(), 1);
    within("the message", with.send("m", ()).header("a", "b").into_future()).await.unwrap();
    let answers = within("the survey", with.survey("q", ()).all()).await;
    assert_eq!(answers[0].1.as_ref().unwrap().headers().count(), 2);
    let opened = with.writable("up", ()).header("c", "d");
    let (_stream, answer) = within("the stream", opened.into_future()).await.unwrap();
    assert_eq!(answer.header("kind"), Some(HeaderValue::Text("up")));
    let names: Vec<Vec<String>> = log
        .all()
        .into_iter()
        .map(|seen| seen.into_iter().map(|(name, _)| name).collect())
        .collect();
    assert_eq!(names, [vec!["all"], vec!["all", "a"], vec!["all"], vec!["all", "c"]]);
    pair.close().await;
}

#[tokio::test]
async fn headers_end_at_8_kib() {
    let log = Log::new();
    let pair = Pair::new(|server| serve(server, &log)).await;
    let most = "x".repeat(8192 - 1);
    let request = pair.to.request("q", ()).header("n", &*most);
    within("the answer", request.into_future()).await.unwrap();
    assert_eq!(log.take()[0][0].1.as_ref().unwrap().len(), 8191);
    let more = pair.to.request("q", ()).header("n", &*most).header("m", "");
    let error = within("the error", more.into_future()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(error.text(), "The headers have 8193 bytes, more than the limit of 8192");
    let wrong = pair.to.send("m", ()).header("Wrong", "");
    let error = within("the error", wrong.into_future()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(log.len(), 0, "nothing was sent");
    pair.close().await;
}

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Missing {
    ids: Vec<u32>,
}

#[tokio::test]
async fn a_failure_comes_with_code_and_data() {
    let pair = Pair::new(|server| {
        let role = server.role("r").unwrap();
        let fail = || {
            Error::rejection("There is no such order")
                .with_code("NOT_FOUND")
                .with_retry_after(Duration::from_millis(1500))
                .with_data(&Missing { ids: vec![7, 8] })
        };
        role.on_request("plain", move |_| async move { Err::<(), _>(fail()?.into()) });
        role.on_request("late", move |_| async move {
            tokio::task::yield_now().await;
            Err::<(), _>(fail()?.into())
        });
        role.on_readable("stream", move |_| async move { Err(fail()?.into()) });
        role.on_request("text", |_| async { Err::<(), _>("no".into()) });
        role.on_request("panics", |_| async { panic!("on purpose") as Result<(), BoxError> });
    })
    .await;
    let to = &pair.to;
    let mut errors = Vec::new();
    for event in ["plain", "late"] {
        errors.push(within("the error", to.request(event, ()).into_future()).await.unwrap_err());
    }
    errors.push(within("the error", to.writable("stream", ()).into_future()).await.unwrap_err());
    for error in errors {
        assert_eq!((error.kind(), error.text()), (ErrorKind::Rejected, "There is no such order"));
        assert_eq!(error.code(), Some("NOT_FOUND"));
        assert_eq!(error.parse_data::<Missing>().unwrap(), Some(Missing { ids: vec![7, 8] }));
        assert_eq!(error.parse_data::<u32>().unwrap_err().kind(), ErrorKind::Data);
        assert_eq!(error.retry_after(), Some(Duration::from_millis(1500)));
        assert!(!error.is_unhandled());
    }
    for (event, unhandled) in [("text", false), ("panics", false), ("none", true)] {
        let error = within("the error", to.request(event, ()).into_future()).await.unwrap_err();
        assert_eq!((error.code(), error.is_unhandled()), (None, unhandled), "{event}");
    }
    pair.close().await;
}

#[tokio::test]
async fn a_trace_is_handed_down() {
    let log = Log::new();
    let last = Pair::new(|server| {
        let (one, two) = (log.clone(), log.clone());
        let trace = |ctx: &Context| {
            let text = |text: Option<&str>| text.map(str::to_owned);
            (ctx.traceparent(), text(ctx.tracestate()), text(ctx.baggage()))
        };
        let role = server.role("r").unwrap();
        role.on_request("q", move |ctx| {
            one.push(trace(&ctx));
            async { Ok(()) }
        });
        role.on_message("m", move |ctx| {
            two.push(trace(&ctx));
            async { Ok(()) }
        });
    })
    .await;
    let to = last.to.clone();
    let first = Pair::new(move |server| {
        // Middleware in front makes no difference.
        server.layer(|ctx, next: Next| async move { next.run(ctx).await });
        server.role("r").unwrap().on_request("on", move |_| {
            let to = to.clone();
            async move {
                to.send("m", ()).await?;
                tokio::task::yield_now().await;
                to.request("q", ()).await?;
                to.survey("q", ()).all().await;
                to.request("q", ()).detached().await?;
                to.request("q", ()).trace(&PARENT.replace("b7", "c7"), "", "").await?;
                Ok(())
            }
        });
    })
    .await;
    let request = first.to.request("on", ()).trace(PARENT, "a=b", "k=v");
    within("the answer", request.into_future()).await.unwrap();
    let own = |parent: &str| Some(parent.to_owned());
    let handed = (own(PARENT), own("a=b"), own("k=v"));
    let other = (own(&PARENT.replace("b7", "c7")), None, None);
    let none = (None, None, None);
    assert_eq!(log.all(), [handed.clone(), handed.clone(), handed, none, other]);
    first.close().await;
    last.close().await;
}

#[tokio::test]
async fn a_task_hands_down_what_it_is_told_to() {
    let log = Log::new();
    let last = Pair::new(|server| {
        let (one, two) = (log.clone(), log.clone());
        let role = server.role("r").unwrap();
        role.on_request("q", move |ctx| {
            one.push(("q", ctx.traceparent().is_some(), ctx.remaining().is_some()));
            async { Ok(()) }
        });
        role.on_message("m", move |ctx| {
            two.push(("m", ctx.traceparent().is_some(), ctx.remaining().is_some()));
            async { Ok(()) }
        });
    })
    .await;
    let (to, other) = (last.to.clone(), last.to.clone());
    let first = Pair::new(move |server| {
        let role = server.role("r").unwrap();
        role.on_request("on", move |ctx: Context| {
            let to = to.clone();
            async move {
                // The handler's own requests go without, those of the task do not.
                to.detached().survey("q", ()).all().await;
                to.detached().broadcast("m", ()).await?;
                to.detached().request("q", ()).await?;
                let task = tokio::spawn(async move {
                    let to = to.within(&ctx);
                    to.survey("q", ()).all().await;
                    to.broadcast("m", ()).await?;
                    to.request("q", ()).await
                });
                Ok(task.await.unwrap()?.into_data())
            }
        });
        // A message is not given up, but has a trace context.
        role.on_message("on", move |ctx: Context| {
            let to = other.clone();
            async move {
                let task =
                    tokio::spawn(async move { to.send("m", ()).within(&ctx).await.map(drop) });
                Ok(task.await.unwrap()?)
            }
        });
    })
    .await;
    let request = first.to.request("on", ()).trace(PARENT, "", "").timeout(Duration::from_secs(60));
    within("the answer", request.into_future()).await.unwrap();
    let (without, with) =
        ([("q", false, false), ("m", false, false)], [("q", true, true), ("m", true, false)]);
    let mut expected = Vec::new();
    for [q, m] in [without, with] {
        expected.extend([q, m, q]);
    }
    assert_eq!(log.take(), expected);
    within("the message", first.to.send("on", ()).trace(PARENT, "", "").into_future())
        .await
        .unwrap();
    common::until("the message to go on", || log.len() == 1).await;
    assert_eq!(log.all(), [("m", true, false)]);
    first.close().await;
    last.close().await;
}
