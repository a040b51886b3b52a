//! Requests that call a function back.

mod common;

use std::sync::{Mutex, mpsc};

use common::{Pair, within};
use roletalk::{Answer, Balance, BoxError, Context, Data, ErrorKind, Result};

type Sender = mpsc::Sender<Result<Answer>>;

fn tell(sender: Sender, answer: Result<Answer>) {
    sender.send(answer).unwrap();
}

async fn next(receiver: mpsc::Receiver<Result<Answer>>) -> Result<Data> {
    let received = tokio::task::spawn_blocking(move || receiver.recv().unwrap());
    within("the outcome", received).await.unwrap().map(Answer::into_data)
}

async fn pair() -> Pair {
    Pair::new(|server| {
        let role = server.role("r").unwrap();
        role.on_request("echo", |ctx: Context| async move { Ok(ctx.into_data()) });
        role.on_request("never", |_| std::future::pending::<Result<(), BoxError>>());
    })
    .await
}

#[tokio::test]
async fn the_function_is_called_with_the_outcome() {
    let pair = pair().await;
    for (event, expected) in [("echo", Ok(Data::from(1))), ("none", Err(ErrorKind::Rejected))] {
        let (sender, receiver) = mpsc::channel();
        let call = pair.to.request(event, 1).call(sender, tell).unwrap();
        assert_eq!(next(receiver).await.map_err(|error| error.kind()), expected);
        assert!(!call.cancel(), "it has ended");
    }
}

#[tokio::test]
async fn a_canceled_call_drops_its_state() {
    let pair = pair().await;
    let (sender, receiver) = mpsc::channel();
    let call = pair.to.request("never", ()).call(sender, tell).unwrap();
    assert!(call.cancel());
    assert!(!call.cancel());
    assert_eq!(receiver.try_recv().unwrap_err(), mpsc::TryRecvError::Disconnected);
}

#[tokio::test]
async fn the_end_of_the_unit_is_an_outcome() {
    let pair = pair().await;
    let (sender, receiver) = mpsc::channel();
    pair.to.request("never", ()).call(sender.clone(), tell).unwrap();
    pair.server.close().await;
    assert_eq!(next(receiver).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    let nobody = pair.client.destination("nobody").unwrap();
    let (_, error) = nobody.request("x", ()).call(sender, tell).unwrap_err();
    assert_eq!(error.unwrap().kind(), ErrorKind::NoUnit);
}

/// A unit may go between its choice and the sending.
#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_has_just_gone_is_as_one_without_room() {
    let pair = pair().await;
    let unit = pair.to.units().remove(0);
    let server = Mutex::new(Some(pair.server.clone()));
    let gone = unit.clone();
    // It is gone when it is chosen.
    let choose = Balance::custom(move |_| {
        if let Some(server) = server.lock().unwrap().take() {
            tokio::spawn(async move { server.close().await });
            let begun = std::time::Instant::now();
            while gone.is_open() {
                assert!(begun.elapsed() < common::LIMIT);
                std::thread::yield_now();
            }
        }
        Some(0)
    });
    let (sender, _receiver) = mpsc::channel();
    let (_, error) = pair.to.request("echo", 1).balance(choose).call(sender, tell).unwrap_err();
    assert!(error.is_none(), "it may go to another unit: {error:?}");
    // The unit itself was meant.
    let asking = pair.to.request("echo", 1).to(&unit).into_future();
    let error = within("the error", asking).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost);
}

#[tokio::test]
async fn a_call_of_a_handler_is_given_up_with_it() {
    let last = pair().await;
    let (sender, receiver) = mpsc::channel();
    let (to, begun) = (last.to.clone(), common::Log::new());
    let log = begun.clone();
    let first = Pair::new(move |server| {
        server.role("r").unwrap().on_request("on", move |ctx: Context| {
            let call = to.request("never", ()).within(&ctx).call(sender.clone(), tell);
            log.push(call.is_ok());
            std::future::pending::<Result<(), BoxError>>()
        });
    })
    .await;
    let to = first.to.clone();
    let asking = tokio::spawn(async move { to.request("on", ()).await.map(drop) });
    let server = || last.server.units().into_iter().map(|unit| unit.stats().running).sum::<usize>();
    common::until("it to begin", || server() == 1).await;
    assert_eq!(begun.all(), [true]);
    asking.abort();
    let error = next(receiver).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let cancelled = || last.server.units()[0].stats().cancels_received;
    common::until("the last to hear of it", || cancelled() == 1).await;
    first.close().await;
    last.close().await;
}
