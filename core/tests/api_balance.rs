//! Which of several units gets what is sent to their role.

mod common;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{LIMIT, Log, Watch, until, within};
use futures_util::{FutureExt, future::join_all};
use roletalk::{
    Balance, BoxError, ConnectOptions, Destination, Ejection, Error, ErrorKind, Peer, PeerBuilder,
    PeerEvent,
};
use tokio::sync::{Notify, oneshot};

/// Services and one who asks them.
struct Field {
    client: Peer,
    to: Destination,
    services: Vec<Peer>,
    /// The names of those who were asked, in order.
    asked: Log<String>,
}

impl Field {
    /// Services of these names, each with a tag, that answer with their names.
    async fn new(client: PeerBuilder, services: &[(&str, &str)]) -> Field {
        let client = client.name("client").friendly(false).build().unwrap();
        let to = client.destination("r").unwrap();
        let mut field = Field { client, to, services: Vec::new(), asked: Log::new() };
        for (name, zone) in services {
            field.join(name, zone).await;
        }
        field
    }

    async fn join(&mut self, name: &str, zone: &str) -> Peer {
        let service = Peer::builder().name(name).tag("zone", zone).friendly(false).build().unwrap();
        let role = service.role("r").unwrap();
        for event in ["name", "slow"] {
            let (name, asked) = (name.to_owned(), self.asked.clone());
            role.on_request(event, move |_| {
                asked.push(name.clone());
                let name = name.clone();
                async move {
                    if event == "slow" {
                        std::future::pending::<()>().await;
                    }
                    Ok(name)
                }
            });
        }
        let (name, asked) = (name.to_owned(), self.asked.clone());
        role.on_message("name", move |_| {
            asked.push(name.clone());
            async { Ok(()) }
        });
        role.on_readable("bytes", |request| async move {
            request.accept(())?.abort("enough");
            Ok(())
        });
        let listener = service.listen("127.0.0.1:0").await.unwrap();
        self.client.connect_with(listener.url(), ConnectOptions::new().once()).await.unwrap();
        let count = self.services.len() + 1;
        within("the role", self.to.ready_with(count)).await.unwrap();
        self.services.push(service.clone());
        service
    }

    /// The names of those who answer, one after the other.
    async fn ask(&self, to: &Destination, times: usize) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..times {
            names.push(name(to.request("name", ())).await);
        }
        names
    }

    async fn close(self) {
        within("closing", self.client.close()).await;
        within("closing", join_all(self.services.iter().map(Peer::close))).await;
    }
}

async fn name(request: roletalk::SendRequest<'_>) -> String {
    within("an answer", request.into_future()).await.unwrap().parse().unwrap()
}

fn shares(names: &[String]) -> HashMap<&str, usize> {
    let mut shares = HashMap::new();
    for name in names {
        *shares.entry(name.as_str()).or_default() += 1;
    }
    shares
}

const THREE: [(&str, &str); 3] = [("a", "x"), ("b", "y"), ("c", "y")];

#[tokio::test]
async fn round_robin_asks_one_after_the_other() {
    let field = Field::new(Peer::builder().balance(Balance::round_robin()), &THREE).await;
    let names = field.ask(&field.to, 30).await;
    assert!(names.windows(3).all(|three| three.iter().collect::<HashSet<_>>().len() == 3));
    field.close().await;
}

#[tokio::test]
async fn who_owes_an_answer_gets_nothing_more_by_default() {
    let field = Field::new(Peer::builder(), &THREE).await;
    let mut stuck = Box::pin(field.to.request("slow", ()).into_future());
    assert!((&mut stuck).now_or_never().is_none());
    until("the slow one", || field.asked.len() == 1).await;
    let slow = field.asked.take().remove(0);
    let begun = std::time::Instant::now();
    let names = field.ask(&field.to, 60).await;
    let shares = shares(&names);
    // It is looked whether it answers, at most once a second.
    let probes = begun.elapsed().as_secs() as usize;
    let asked = shares.get(slow.as_str()).copied().unwrap_or(0);
    assert!(asked <= probes, "{shares:?} with {slow} slow");
    drop(stuck);
    field.close().await;
}

#[tokio::test]
async fn one_way_messages_and_streams_are_spread_like_requests() {
    for balance in [Balance::round_robin(), Balance::least_loaded()] {
        let field = Field::new(Peer::builder().balance(balance), &THREE).await;
        for _ in 0..30 {
            field.to.send("name", ()).await.unwrap();
        }
        until("the messages", || field.asked.len() == 30).await;
        assert_eq!(shares(&field.asked.take()).into_values().collect::<Vec<_>>(), [10; 3]);
        for _ in 0..3 {
            within("a stream", field.to.writable("bytes", ()).into_future()).await.unwrap();
        }
        field.close().await;
    }
}

#[tokio::test]
async fn the_same_key_goes_to_the_same_unit_for_everybody() {
    let names = ["math-1", "math-2", "math-3", "math-4"].map(|name| (name, ""));
    let mut field = Field::new(Peer::builder(), &names).await;
    let table = include_str!("../../tests/data/key-placement.txt");
    let rows = table.lines().filter_map(|line| line.split_once(" -> "));
    let mut placed = Vec::new();
    for (key, expected) in rows.take(40) {
        assert_eq!(name(field.to.request("name", ()).key(key)).await, expected, "{key}");
        let keyed = field.to.balance(Balance::key(key));
        assert_eq!(field.ask(&keyed, 1).await, [expected]);
        field.asked.take();
        field.to.send("name", ()).key(key).await.unwrap();
        until("the message", || field.asked.len() == 1).await;
        assert_eq!(field.asked.take(), [expected]);
        placed.push((key, expected));
    }
    // The keys of one that leaves go elsewhere, all others stay; and come back with its name.
    assert!(field.services.remove(0).drain(LIMIT).await);
    for (key, before) in &placed {
        let now = name(field.to.request("name", ()).key(key)).await;
        assert_eq!(now == *before, *before != "math-1", "{key}");
    }
    field.join("math-1", "").await;
    for (key, before) in &placed {
        assert_eq!(name(field.to.request("name", ()).key(key)).await, *before, "{key}");
    }
    field.close().await;
}

#[tokio::test]
async fn those_with_a_tag_are_preferred_as_long_as_there_are_any() {
    let mut field = Field::new(Peer::builder(), &THREE).await;
    let near = field.to.balance(Balance::round_robin().prefer("zone", "x"));
    assert_eq!(field.ask(&near, 3).await, ["a"; 3]);
    // A key goes among those that are preferred.
    assert_eq!(name(near.request("name", ()).key("any")).await, "a");
    assert!(field.services.remove(0).drain(LIMIT).await);
    let far: HashSet<String> = field.ask(&near, 4).await.into_iter().collect();
    assert_eq!(far, ["b", "c"].map(str::to_owned).into());
    let nowhere = field.to.balance(Balance::round_robin().prefer("zone", "z"));
    assert_eq!(field.ask(&nowhere, 4).await.len(), 4);
    field.close().await;
}

#[tokio::test]
async fn a_call_says_more_than_a_destination_and_that_more_than_a_peer() {
    let first = |name: &'static str| {
        Balance::custom(move |all| all.iter().position(|candidate| candidate.name == name))
    };
    let field = Field::new(Peer::builder().balance(first("a")), &THREE).await;
    let to = field.to.balance(first("b"));
    assert_eq!(field.ask(&field.to, 2).await, ["a"; 2]);
    assert_eq!(field.ask(&to, 2).await, ["b"; 2]);
    assert_eq!(name(to.request("name", ()).balance(first("c"))).await, "c");
    // And a unit more than all of these.
    let units = field.to.units();
    let c = units.iter().find(|unit| unit.name() == "c").unwrap();
    assert_eq!(name(to.request("name", ()).balance(first("a")).to(c)).await, "c");
    field.close().await;
}

#[tokio::test]
async fn a_function_chooses_and_may_choose_none() {
    let mut field = Field::new(Peer::builder(), &THREE).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let choose = {
        let seen = seen.clone();
        Balance::custom(move |all| {
            let of = |candidate: &roletalk::Candidate<'_>| {
                let zone = candidate.tags["zone"].clone();
                (candidate.name.to_owned(), zone, candidate.waiting, candidate.answer_time)
            };
            *seen.lock().unwrap() = all.iter().map(of).collect();
            all.iter().position(|candidate| candidate.name == "b")
        })
    };
    let to = field.to.balance(choose);
    let mut stuck = Box::pin(to.request("slow", ()).into_future());
    assert!((&mut stuck).now_or_never().is_none());
    assert_eq!(field.ask(&to, 1).await, ["b"]);
    {
        let seen = seen.lock().unwrap();
        let names = |at: usize| (&*seen[at].0, &*seen[at].1, seen[at].2);
        assert_eq!([names(0), names(1), names(2)], [("a", "x", 0), ("b", "y", 1), ("c", "y", 0)]);
        assert_eq!(seen[0].3, Duration::ZERO);
    }
    drop(stuck);
    // None of them will do: as if there was none.
    field.services.remove(1).close().await;
    until("two", || field.to.units().len() == 2).await;
    let error = within("an error", to.request("name", ()).into_future()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoUnit);
    let error = to.send("name", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoUnit);
    // Or they wait for one that will.
    let waits = to.wait_for_unit();
    let mut waiting = Box::pin(waits.request("name", ()).into_future());
    assert!((&mut waiting).now_or_never().is_none());
    let back = Peer::builder().name("b").tag("zone", "y").friendly(false).build().unwrap();
    back.role("r").unwrap().on_request("name", |_| async { Ok("b, anew") });
    let listener = back.listen("127.0.0.1:0").await.unwrap();
    field.client.connect(listener.url()).await.unwrap();
    let answer = within("the answer", waiting).await.unwrap();
    assert_eq!(answer.parse::<String>().unwrap(), "b, anew");
    back.close().await;
    field.close().await;
}

#[tokio::test]
async fn a_function_may_refuse_the_only_one() {
    let field = Field::new(Peer::builder().balance(Balance::custom(|_| None)), &THREE[..1]).await;
    let error = within("an error", field.to.request("name", ()).into_future()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoUnit);
    // That it takes the headers that are required is not what is wrong with it.
    let request = field.to.request("name", ()).header("a", "b").headers_required();
    let error = within("an error", request.into_future()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoUnit);
    let asks = field.to.balance(Balance::round_robin());
    assert_eq!(field.ask(&asks, 1).await, ["a"]);
    field.close().await;
}

#[tokio::test]
async fn a_function_that_fails_ends_what_is_sent_and_what_waits() {
    let field = Field::new(Peer::builder(), &THREE).await;
    let fails = Arc::new(AtomicBool::new(true));
    let choose = {
        let fails = fails.clone();
        Balance::try_custom(move |_| match fails.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorKind::InvalidArgument, "on purpose")),
            false => Ok(None),
        })
    };
    let to = field.to.balance(choose).wait_for_unit();
    let ask = || to.request("name", ()).into_future();
    let error = within("an error", ask()).await.unwrap_err();
    assert_eq!((error.kind(), error.text()), (ErrorKind::InvalidArgument, "on purpose"));
    let error = within("an error", to.send("name", ()).into_future()).await.unwrap_err();
    assert_eq!(error.text(), "on purpose");
    // One that fails when something goes on to another unit.
    let count = AtomicUsize::new(0);
    let later = Balance::try_custom(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Ok(Some(0)),
        _ => Err(Error::new(ErrorKind::InvalidArgument, "later")),
    });
    let error = field.to.request("none", ()).balance(later).await.unwrap_err();
    assert_eq!(error.text(), "later");
    // One that fails while something waits for a unit.
    fails.store(false, Ordering::Relaxed);
    let (sender, receiver) = oneshot::channel();
    let call = to.request("name", ()).call(sender, |sender, answer| {
        let _ = sender.send(answer);
    });
    assert!(call.is_ok());
    let mut waiting = Box::pin(ask());
    assert!((&mut waiting).now_or_never().is_none());
    fails.store(true, Ordering::Relaxed);
    field.services[0].close().await;
    assert_eq!(within("an error", waiting).await.unwrap_err().text(), "on purpose");
    let error = within("an error", receiver).await.unwrap().unwrap_err();
    assert_eq!(error.text(), "on purpose");
    field.close().await;
}

#[tokio::test]
async fn what_goes_on_is_chosen_for_in_the_same_way() {
    let mut field = Field::new(Peer::builder(), &THREE).await;
    // It rejects what it has no handler for as not handled, and is what the function likes most.
    let first = Peer::builder().name("0").tag("zone", "x").friendly(false).build().unwrap();
    first.role("r").unwrap();
    let listener = first.listen("127.0.0.1:0").await.unwrap();
    field.client.connect(listener.url()).await.unwrap();
    within("four", field.to.ready_with(4)).await.unwrap();
    let calls = Log::new();
    let by_name = {
        let calls = calls.clone();
        Balance::custom(move |all| {
            let mut names: Vec<_> = all.iter().map(|one| one.name.to_owned()).collect();
            calls.push(names.clone());
            names.sort();
            all.iter().position(|candidate| candidate.name == names[0])
        })
    };
    assert_eq!(name(field.to.request("name", ()).balance(by_name)).await, "a");
    assert_eq!(calls.take().iter().map(Vec::len).collect::<Vec<_>>(), [4, 3]);
    // By key, to the next one that its key likes.
    for key in 0..20u8 {
        let key = [key];
        let before = name(field.to.request("name", ()).key(key)).await;
        assert_eq!(name(field.to.request("name", ()).key(key)).await, before);
    }
    first.close().await;
    field.services.clear();
    field.client.close().await;
}

#[tokio::test]
async fn a_function_may_send_and_close_its_peer() {
    let field = Field::new(Peer::builder(), &THREE).await;
    let (inner, closed) = (field.to.clone(), Arc::new(Notify::new()));
    let choose = {
        let (client, closed) = (field.client.clone(), closed.clone());
        Balance::custom(move |_| {
            assert!(inner.send("name", ()).into_future().now_or_never().is_some());
            let (client, closed) = (client.clone(), closed.clone());
            tokio::spawn(async move {
                client.close().await;
                closed.notify_one();
            });
            Some(0)
        })
    };
    let answer = within("an outcome", field.to.request("name", ()).balance(choose).into_future());
    // Either is right.
    let _ = answer.await;
    within("closing", closed.notified()).await;
    field.close().await;
}

#[tokio::test]
async fn the_answer_time_of_a_unit_can_be_read() {
    let field = Field::new(Peer::builder(), &[("a", "x")]).await;
    let unit = field.to.units().remove(0);
    assert_eq!(unit.stats().answer_time, None);
    field.ask(&field.to, 1).await;
    let stats = unit.stats();
    assert_eq!(stats.answer_time, stats.last_answer.map(|time| time.min(Duration::from_secs(1))));
    field.close().await;
}

#[tokio::test]
async fn a_unit_that_keeps_rejecting_is_left_out_if_that_counts() {
    let field = Field::new(Peer::builder(), &THREE).await;
    let rejects = Arc::new(AtomicBool::new(true));
    let (asked, failing) = (field.asked.clone(), rejects.clone());
    field.services[1].role("r").unwrap().on_request("name", move |_| {
        asked.push("b".to_owned());
        let rejects = failing.load(Ordering::Relaxed);
        async move { if rejects { Err(BoxError::from("no")) } else { Ok("b") } }
    });
    let mut ejection = Ejection::default();
    (ejection.failures, ejection.rejections) = (3, true);
    // Longer than the test.
    ejection.time = Duration::from_secs(3600);
    let mut events = Watch::new(&field.client);
    let to = field.to.balance(Balance::round_robin().eject(ejection));
    let mut failed = 0;
    for _ in 0..30 {
        failed +=
            usize::from(within("an outcome", to.request("name", ()).into_future()).await.is_err());
    }
    assert_eq!(failed, 3);
    let ejected = |event: &PeerEvent| match event {
        PeerEvent::UnitEjected { role, unit } => &**role == "r" && unit.name() == "b",
        _ => false,
    };
    events.next("that it is left out", ejected).await;
    let standing = |unit: &str| {
        let standings = to.standings();
        let (_, standing) = standings.iter().find(|(one, _)| one.name() == unit).unwrap();
        *standing
    };
    assert!(standing("b").rejected >= 3 && standing("a").rejected == 0);
    assert!(standing("b").ejected.is_some() && standing("a").ejected.is_none());
    // Who does not leave it out asks it all the same, and its answer takes it back.
    rejects.store(false, Ordering::Relaxed);
    assert!(
        field.ask(&field.to.balance(Balance::round_robin()), 3).await.contains(&"b".to_owned())
    );
    assert!(standing("b").ejected.is_none() && standing("b").rejected == 0);
    assert!(field.ask(&to, 3).await.contains(&"b".to_owned()));
    let restored = |event: &PeerEvent| match event {
        PeerEvent::UnitRestored { role, unit } => &**role == "r" && unit.name() == "b",
        _ => false,
    };
    events.next("that it is back", restored).await;
    assert_eq!(events.seen.iter().filter(|event| ejected(event) || restored(event)).count(), 2);
    field.close().await;
}

#[tokio::test]
async fn so_many_are_in_flight_to_a_destination_and_no_more() {
    let field = Field::new(Peer::builder(), &THREE).await;
    let to = field.to.max_in_flight(2);
    let again = to.clone();
    let mut stuck: Vec<_> = [&to, &again]
        .map(|to| Box::pin(to.request("slow", ()).into_future()))
        .into_iter()
        .collect();
    for request in &mut stuck {
        assert!(request.now_or_never().is_none());
    }
    let error = to.request("name", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert_eq!(
        error.text(),
        "Too many requests to this destination are in flight (the limit is 2)"
    );
    let error = to.writable("bytes", ()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    // Messages, other handles and surveys have nothing to do with it.
    to.send("name", ()).await.unwrap();
    field.ask(&field.to, 1).await;
    assert_eq!(within("the survey", to.survey("name", ()).all()).await.len(), 3);
    // One that is given up leaves room for another, and so does one that is answered.
    stuck.pop();
    field.ask(&to, 3).await;
    drop(stuck);
    field.close().await;
}
