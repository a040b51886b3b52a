//! Handlers that answer later, from elsewhere.

mod common;

use std::sync::mpsc;

use common::{Log, Pair, until, within};
use roletalk::{Context, Data, Deferred, Error, ErrorKind, Kind, PeerEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Given = (Context, Deferred);

/// A pair whose server hands what comes for one event to the test.
async fn pair(kind: Kind) -> (Pair, mpsc::Receiver<Given>) {
    let (sender, receiver) = mpsc::channel();
    let pair = Pair::new(|server| {
        server.role("r").unwrap().on_deferred(kind, "later", move |context, deferred| {
            sender.send((context, deferred)).unwrap();
        });
    })
    .await;
    (pair, receiver)
}

/// Takes the next from the channel without blocking the runtime.
async fn next(receiver: mpsc::Receiver<Given>) -> (Given, mpsc::Receiver<Given>) {
    tokio::task::spawn_blocking(move || (receiver.recv().unwrap(), receiver)).await.unwrap()
}

#[tokio::test]
async fn requests_are_answered_from_another_thread_in_any_order() {
    let (pair, receiver) = pair(Kind::Request).await;
    std::thread::spawn(move || {
        let mut held: Vec<Given> = (0..3).map(|_| receiver.recv().unwrap()).collect();
        let (last, deferred) = held.pop().unwrap();
        deferred.respond(Ok(last.into_data()));
        Deferred::respond_all(held.into_iter().enumerate().map(|(n, (context, deferred))| {
            let refused = Error::new(ErrorKind::HandlerFailed, "not the first");
            (deferred, if n == 0 { Ok(context.into_data()) } else { Err(refused) })
        }));
    });
    let (first, second, third) = tokio::join!(
        pair.to.request("later", 1),
        pair.to.request("later", 2),
        pair.to.request("later", 3),
    );
    assert_eq!(first.unwrap().into_data(), Data::from(1));
    let refused = second.unwrap_err();
    assert_eq!((refused.kind(), refused.text()), (ErrorKind::Rejected, "not the first"));
    assert_eq!(third.unwrap().into_data(), Data::from(3));
}

#[tokio::test]
async fn a_deferred_that_is_dropped_rejects() {
    let pair = Pair::new(|server| {
        let role = server.role("r").unwrap();
        role.on_deferred(Kind::Request, "drop", |_, _| {});
        role.on_deferred(Kind::Request, "panic", |_, _| panic!("on purpose"));
        role.on_deferred(Kind::Readable, "drop", |_, _| {});
    })
    .await;
    for (event, text) in [("drop", "The handler did not answer"), ("panic", "The handler panicked")]
    {
        let refused = pair.to.request(event, ()).await.unwrap_err();
        assert_eq!((refused.kind(), refused.text()), (ErrorKind::Rejected, text), "{event}");
    }
    let refused = pair.to.writable("drop", ()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Rejected);
}

#[tokio::test]
async fn messages_count_as_running_until_their_deferred_is_gone() {
    let (pair, receiver) = pair(Kind::Message).await;
    pair.to.send("later", "x").await.unwrap();
    let ((context, deferred), _receiver) = next(receiver).await;
    assert_eq!(context.data(), Data::from("x"));
    let unit = context.unit();
    assert_eq!(unit.stats().running, 1);
    drop(deferred);
    assert_eq!(unit.stats().running, 0);
}

#[tokio::test]
async fn a_message_whose_handler_failed_is_reported() {
    let (pair, receiver) = pair(Kind::Message).await;
    let mut events = pair.server.events();
    pair.to.send("later", ()).await.unwrap();
    let ((_, deferred), _receiver) = next(receiver).await;
    deferred.respond(Err(Error::new(ErrorKind::HandlerFailed, "no disk")));
    let failed = async {
        loop {
            if let Some(PeerEvent::HandlerFailed { error, .. }) = events.next().await {
                return error;
            }
        }
    };
    assert_eq!(within("the event", failed).await.text(), "no disk");
}

#[tokio::test]
async fn streams_are_accepted_and_refused_later() {
    let (pair, receiver) = pair(Kind::Readable).await;
    let serve = async {
        let ((context, deferred), receiver) = next(receiver).await;
        let mut stream = context.accept_readable("yes").unwrap();
        deferred.respond(Ok(Data::null()));
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"hello");
        // The writer's end waits for it.
        drop(stream);
        let ((context, deferred), _receiver) = next(receiver).await;
        let wrong = context.accept_writable(()).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::InvalidArgument);
        deferred.respond(Err(Error::new(ErrorKind::HandlerFailed, "full")));
    };
    let ask = async {
        let (mut stream, answer) = pair.to.writable("later", ()).await.unwrap();
        assert_eq!(answer.into_data(), Data::from("yes"));
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        pair.to.writable("later", ()).await.unwrap_err()
    };
    let (_, refused) = within("both", async { tokio::join!(serve, ask) }).await;
    assert_eq!(refused.kind(), ErrorKind::Rejected);
}

#[tokio::test]
async fn middleware_sees_deferred_outcomes() {
    let outcomes = Log::new();
    let (pair, receiver) = pair(Kind::Request).await;
    let seen = outcomes.clone();
    pair.server.layer(move |context, next| {
        let seen = seen.clone();
        async move {
            let outcome = next.run(context).await;
            seen.push(outcome.clone());
            outcome
        }
    });
    std::thread::spawn(move || {
        let (_, deferred) = receiver.recv().unwrap();
        deferred.respond(Ok(Data::from(7)));
    });
    assert_eq!(pair.to.request("later", ()).await.unwrap().into_data(), Data::from(7));
    until("the outcome", || outcomes.len() == 1).await;
    assert_eq!(outcomes.all(), [Ok(Data::from(7))]);
}
