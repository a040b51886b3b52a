//! Requests that may be handled more than once are made again, others are not.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{LIMIT, Log, peer, until, within};
use roletalk::{
    Balance, BoxError, ConnectOptions, Context, Destination, Error, ErrorKind, Hedge, Peer, Retry,
};
use tokio::sync::{Notify, oneshot};

/// Services whose handlers do as they are told, and one who asks them, one after the other.
struct Field {
    client: Peer,
    to: Destination,
    services: Vec<Peer>,
    /// Who was asked, in order.
    asked: Log<&'static str>,
}

/// What a service does with a request.
#[derive(Clone, Copy)]
enum Does {
    Answers,
    Rejects,
    /// And says when to try again.
    RejectsForNow,
    /// Loses all its connections.
    Breaks,
    Hangs,
}

impl Field {
    async fn new(services: &[(&'static str, Does)]) -> Field {
        let client = peer("client");
        let to = client.destination("r").unwrap();
        let mut field = Field { client, to, services: Vec::new(), asked: Log::new() };
        for (name, does) in services {
            field.join(name, *does, Arc::default()).await;
        }
        field
    }

    async fn join(&mut self, name: &'static str, does: Does, cancelled: Arc<Notify>) {
        let service = peer(name);
        let (asked, weak) = (self.asked.clone(), service.clone());
        service.role("r").unwrap().on_request("do", move |ctx: Context| {
            asked.push(name);
            let (service, cancelled) = (weak.clone(), cancelled.clone());
            async move {
                match does {
                    Does::Answers => return Ok(name),
                    Does::Rejects => return Err(BoxError::from("no")),
                    Does::RejectsForNow => {
                        let later = Error::rejection("not now");
                        return Err(later.with_retry_after(Duration::from_millis(5)).into());
                    }
                    Does::Breaks => {
                        tokio::spawn(async move { service.close().await });
                    }
                    Does::Hangs => {}
                }
                ctx.cancellation().cancelled().await;
                cancelled.notify_one();
                Err("given up".into())
            }
        });
        let listener = service.listen("127.0.0.1:0").await.unwrap();
        self.client.connect_with(listener.url(), ConnectOptions::new().once()).await.unwrap();
        let count = self.services.len() + 1;
        within("the role", self.to.ready_with(count)).await.unwrap();
        self.services.push(service);
    }

    async fn ask(&self, retry: Option<&Retry>) -> Result<String, ErrorKind> {
        let mut request = self.to.request("do", ()).timeout(LIMIT);
        if let Some(retry) = retry {
            request = request.retry(retry.clone());
        }
        let answer = within("an outcome", request.into_future()).await;
        answer.map(|answer| answer.parse().unwrap()).map_err(|error| error.kind())
    }

    async fn close(self) {
        within("closing", self.client.close()).await;
        for service in self.services {
            within("closing", service.close()).await;
        }
    }
}

#[tokio::test]
async fn what_may_have_begun_is_made_again_only_where_that_was_said() {
    let services = [("a", Does::Breaks), ("b", Does::Answers)];
    let field = Field::new(&services).await;
    assert_eq!(field.ask(None).await, Err(ErrorKind::ConnectionLost));
    assert_eq!(field.asked.take(), ["a"]);
    field.close().await;

    let field = Field::new(&services).await;
    let retry = Retry::new();
    assert_eq!(field.ask(Some(&retry)).await, Ok("b".to_owned()));
    assert_eq!(field.asked.take(), ["a", "b"]);
    assert_eq!((retry.retried(), retry.hedged(), retry.refused()), (1, 0, 0));
    field.close().await;

    // For all requests of a handle.
    let field = Field::new(&services).await;
    let to = field.to.retry(retry.clone());
    assert!(within("the answer", to.request("do", ()).into_future()).await.is_ok());
    assert_eq!(retry.retried(), 2);
    // Whoever chooses the unit means that one.
    let unit = to.units().remove(0);
    assert!(to.request("do", ()).to(&unit).await.is_ok());
    field.close().await;
}

#[tokio::test]
async fn an_answer_is_an_answer_even_if_it_is_a_rejection() {
    let field = Field::new(&[("a", Does::Rejects), ("b", Does::Answers)]).await;
    assert_eq!(field.ask(Some(&Retry::new())).await, Err(ErrorKind::Rejected));
    assert_eq!(field.asked.take(), ["a"]);
    field.close().await;
}

#[tokio::test]
async fn who_says_when_to_try_again_is_asked_again_after_the_others() {
    let names = [("a", Does::RejectsForNow), ("b", Does::RejectsForNow)];
    let field = Field::new(&names).await;
    let retry =
        Retry::new().attempts(4).backoff(Duration::from_millis(1), Duration::from_millis(1));
    assert_eq!(field.ask(Some(&retry)).await, Err(ErrorKind::Rejected));
    // Never the same one twice in a row.
    assert_eq!(field.asked.take(), ["a", "b", "a", "b"]);
    assert_eq!(retry.retried(), 3);
    assert_eq!(field.ask(Some(&retry.clone().attempts(1))).await, Err(ErrorKind::Rejected));
    assert_eq!(field.asked.take().len(), 1);
    field.close().await;
}

#[tokio::test]
async fn a_slow_answer_is_overtaken_and_its_handler_given_up() {
    let mut field = Field::new(&[]).await;
    let cancelled = Arc::new(Notify::new());
    field.join("slow", Does::Hangs, cancelled.clone()).await;
    field.join("quick", Does::Answers, Arc::default()).await;
    field.to = field.to.balance(Balance::custom(|all| {
        all.iter().position(|candidate| candidate.name == "slow").or(Some(0))
    }));
    let retry = Retry::new().hedge(Hedge::After(Duration::from_millis(10)));
    for _ in 0..2 {
        assert_eq!(field.ask(Some(&retry)).await, Ok("quick".to_owned()));
        within("the end", cancelled.notified()).await;
        assert_eq!(field.asked.take(), ["slow", "quick"]);
    }
    assert_eq!((retry.retried(), retry.hedged()), (0, 2));
    field.close().await;
}

#[tokio::test]
async fn all_attempts_have_one_time_limit() {
    let field = Field::new(&[("a", Does::Hangs), ("b", Does::Hangs)]).await;
    let retry = Retry::new().attempts(9).hedge(Hedge::After(Duration::from_millis(5)));
    let limit = Duration::from_millis(100);
    let late = field.to.request("do", ()).timeout(limit).retry(retry.clone()).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    assert_eq!(late.text(), "Request timeout exceeded (100 ms)");
    assert_eq!((retry.retried(), retry.hedged()), (0, 1));
    field.close().await;
}

#[tokio::test]
async fn what_is_dropped_is_given_up_wherever_it_is() {
    let mut field = Field::new(&[]).await;
    let cancelled = Arc::new(Notify::new());
    for name in ["a", "b"] {
        field.join(name, Does::Hangs, cancelled.clone()).await;
    }
    let to = field.to.retry(Retry::new().hedge(Hedge::After(Duration::from_millis(1))));
    let mut request = Box::pin(to.request("do", ()).into_future());
    tokio::select! {
        _ = &mut request => panic!("nobody answers"),
        () = until("both", || field.asked.len() == 2) => {}
    }
    drop(request);
    for _ in 0..2 {
        within("the end", cancelled.notified()).await;
    }
    field.close().await;
}

#[tokio::test]
async fn what_waits_for_a_further_attempt_ends_with_its_peer() {
    let field = Field::new(&[("a", Does::RejectsForNow)]).await;
    let retry = Retry::new().backoff(LIMIT * 10, LIMIT * 10);
    let to = field.to.retry(retry.clone());
    let asking = tokio::spawn(async move { to.request("do", ()).timeout(LIMIT * 100).await });
    until("the wait", || retry.retried() == 1).await;
    within("closing", field.client.close()).await;
    let error = within("the end", asking).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.text()), (ErrorKind::Rejected, "not now"));
    assert_eq!(field.asked.take(), ["a"]);
    field.close().await;
}

#[tokio::test]
async fn calls_back_are_made_again_too() {
    let field = Field::new(&[("a", Does::Breaks), ("b", Does::Answers)]).await;
    let (sender, receiver) = oneshot::channel();
    let call = field.to.request("do", ()).retry(Retry::new()).call(sender, |sender, answer| {
        let _ = sender.send(answer);
    });
    assert!(call.is_ok());
    let answer = within("the answer", receiver).await.unwrap().unwrap();
    assert_eq!(answer.parse::<String>().unwrap(), "b");
    field.close().await;
}

#[tokio::test]
async fn what_was_not_begun_goes_on_and_costs_nothing() {
    let mut field = Field::new(&[]).await;
    let nothing = peer("nothing");
    nothing.role("r").unwrap();
    let listener = nothing.listen("127.0.0.1:0").await.unwrap();
    field.client.connect(listener.url()).await.unwrap();
    within("the role", field.to.ready()).await.unwrap();
    let retry = Retry::new().budget(0.0).attempts(1);
    assert_eq!(field.ask(Some(&retry)).await, Err(ErrorKind::Rejected));
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let service = peer("b");
    service.role("r").unwrap().on_request("do", move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok("b") }
    });
    let listener = service.listen("127.0.0.1:0").await.unwrap();
    field.client.connect(listener.url()).await.unwrap();
    within("both", field.to.ready_with(2)).await.unwrap();
    for _ in 0..4 {
        assert_eq!(field.ask(Some(&retry)).await, Ok("b".to_owned()));
    }
    assert_eq!((retry.retried(), count.load(Ordering::Relaxed)), (0, 4));
    field.services = vec![nothing, service];
    field.close().await;
}
