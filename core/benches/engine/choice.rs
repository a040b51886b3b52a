//! What it costs to choose a unit, and what it is worth when one of four is slow, stops, or recovers. The latter over
//! TCP, with the services on threads of their own.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use roletalk::{Balance, Destination, Error, Hedge, Peer, Retry};
use roletalk_engine::{Moment, Tried};
use tokio::runtime::{Builder, Handle};

use crate::{
    Outcome,
    common::{Options, Table, Target, median, number, quantile},
    hub::{Hub, role_names},
};

const UNITS: [usize; 3] = [2, 4, 16];

pub(crate) fn run(options: &Options) -> Outcome<Vec<Target>> {
    let mut targets = cost(options)?;
    targets.extend(worth(options)?);
    targets.extend(hedged(options)?);
    Ok(targets)
}

fn balances() -> [(&'static str, Balance); 5] {
    [
        ("round robin", Balance::round_robin()),
        ("least loaded", Balance::least_loaded()),
        ("by key", Balance::key("user 17")),
        ("round robin, tag preferred", Balance::round_robin().prefer("zone", "a")),
        ("own function: the first", Balance::custom(|_| Some(0))),
    ]
}

/// Nanoseconds for one choice, with the time read for those that need it.
fn cost(options: &Options) -> Outcome<Vec<Target>> {
    let names = role_names(1);
    let hubs = UNITS.map(|units| Hub::new(units, &names));
    let mut table =
        Table::new(["ns".to_owned()].into_iter().chain(UNITS.map(|n| format!("{n} units"))));
    let mut costs: HashMap<&str, Vec<f64>> = HashMap::new();
    let times = options.pick(20_000, 200_000);
    let hubs = hubs.into_iter().collect::<Outcome<Vec<Hub>>>()?;
    for _ in 0..options.pick(5, 15) {
        for (name, balance) in balances() {
            for hub in &hubs {
                let peer = hub.engine.peer();
                let constant = hub.now();
                let start = Instant::now();
                for _ in 0..times {
                    let now = match balance.counts_requests() {
                        true => Moment::at(hub.start.elapsed()),
                        false => constant,
                    };
                    let chosen = peer.choose(&names[0], Some(&balance), false, &Tried::NONE, now);
                    black_box(&chosen).as_ref().map_err(Clone::clone)?;
                }
                let cost = start.elapsed().as_secs_f64() * 1e9 / f64::from(times);
                costs.entry(name).or_default().push(cost);
            }
        }
    }
    // The rounds of each size are in turn.
    let of =
        |name: &str, at: usize| median(costs[name].iter().copied().skip(at).step_by(UNITS.len()));
    for (name, _) in balances() {
        let cells = (0..UNITS.len()).map(|at| number(of(name, at)));
        table.row([name.to_owned()].into_iter().chain(cells));
    }
    table.print("One choice, and the look-up of its destination");
    let more = (0..UNITS.len()).map(|at| of("least loaded", at) - of("round robin", at));
    Ok(vec![Target {
        what: "the choice of the least loaded, ns more than round robin, at most".into(),
        value: more.fold(f64::MIN, f64::max),
        bound: 50.0,
        at_least: false,
    }])
}

/// Four services, and one who asks 1 000 times a second.
struct Field {
    to: Destination,
    /// Milliseconds that each takes.
    takes: Vec<Arc<AtomicU64>>,
    /// One in so many answers takes a second longer; 0 for none.
    late: Arc<AtomicU64>,
    asked: u64,
    _peers: Vec<Peer>,
}

impl Field {
    async fn new(services: &Handle) -> Outcome<Field> {
        let client = Peer::builder().friendly(false).build()?;
        let (mut takes, mut peers) = (Vec::new(), Vec::new());
        let late = Arc::new(AtomicU64::new(0));
        for at in 0..4 {
            let time = Arc::new(AtomicU64::new(0));
            takes.push(time.clone());
            let (late, count) = (late.clone(), Arc::new(AtomicU64::new(0)));
            let listener = services.spawn(async move {
                let peer = Peer::builder().name(format!("service {at}")).friendly(false).build()?;
                peer.role("role")?.on_request("e", move |_| {
                    let late = late.load(Ordering::Relaxed);
                    let is_late = late > 0 && count.fetch_add(1, Ordering::Relaxed) % late == 0;
                    let time = time.load(Ordering::Relaxed) + 1000 * u64::from(is_late);
                    async move {
                        if time > 0 {
                            tokio::time::sleep(Duration::from_millis(time)).await;
                        }
                        Ok(())
                    }
                });
                Ok::<_, Error>((peer.listen("127.0.0.1:0").await?, peer))
            });
            let (listener, peer) = listener.await??;
            client.connect(listener.url()).await?;
            peers.push(peer);
        }
        let to = client.destination("role")?;
        to.ready_with(4).await?;
        peers.push(client);
        Ok(Field { to, takes, late, asked: 0, _peers: peers })
    }

    /// The times of all answers in milliseconds, and how often each service was asked.
    async fn ask(&mut self, balance: &Balance, time: Duration) -> Outcome<(Vec<f64>, Vec<u64>)> {
        let to = self.to.balance(balance.clone());
        self.ask_at(&to, time).await
    }

    async fn ask_at(&mut self, to: &Destination, time: Duration) -> Outcome<(Vec<f64>, Vec<u64>)> {
        let before = self.sent();
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        let mut asked = Vec::new();
        let end = Instant::now() + time;
        while Instant::now() < end {
            tick.tick().await;
            let to = to.clone();
            asked.push(tokio::spawn(async move {
                let start = Instant::now();
                to.request("e", ()).await?;
                Ok::<_, Error>(start.elapsed().as_secs_f64() * 1e3)
            }));
        }
        self.asked += asked.len() as u64;
        let after = self.sent();
        let mut times = Vec::new();
        for time in asked {
            times.push(time.await??);
        }
        Ok((times, before.iter().zip(after).map(|(before, after)| after - before).collect()))
    }

    fn sent(&self) -> Vec<u64> {
        self.to.units().iter().map(|unit| unit.stats().requests_sent).collect()
    }

    fn set(&self, at: usize, millis: u64) {
        self.takes[at].store(millis, Ordering::Relaxed);
    }
}

fn worth(options: &Options) -> Outcome<Vec<Target>> {
    let time = Duration::from_secs(options.pick(2, 10));
    let runtime = || Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (runtime, services) = (runtime()?, runtime()?);
    let mut table = Table::new(["ms", "p50", "p99", "max", "asked, each of the four"]);
    let mut targets = Vec::new();
    runtime.block_on(async {
        let mut healthy_p99 = f64::NAN;
        for (name, balance) in balances().into_iter().take(2) {
            let mut field = Field::new(services.handle()).await?;
            field.ask(&balance, Duration::from_millis(500)).await?;
            let mut row = |what: &str, (times, shares): &(Vec<f64>, Vec<u64>)| {
                let at = [0.5, 0.99, 1.0].map(|part| number(quantile(times, part)));
                let shares = shares.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
                table.row([format!("{name}: {what}")].into_iter().chain(at).chain([shares]));
            };
            let equal = field.ask(&balance, time).await?;
            row("all alike", &equal);
            if name == "round robin" {
                healthy_p99 = quantile(&equal.0, 0.99);
            }
            field.set(1, 50);
            field.ask(&balance, Duration::from_millis(200)).await?;
            let slow = field.ask(&balance, time).await?;
            row("the second answers 50 ms late", &slow);
            field.set(1, 0);
            field.ask(&balance, Duration::from_secs(5)).await?;
            let recovered = field.ask(&balance, time).await?;
            row("the same, 5 s after it has recovered", &recovered);
            if name == "least loaded" {
                let share = |(_, shares): &(Vec<f64>, Vec<u64>), at: usize| {
                    shares[at] as f64 * 4.0 / shares.iter().sum::<u64>() as f64
                };
                let worst = (0..4).map(|at| (share(&equal, at) - 1.0).abs()).fold(0.0, f64::max);
                targets.push(Target {
                    what: "the p99 with one slow unit of four, to that of equal ones, at most"
                        .into(),
                    value: quantile(&slow.0, 0.99) / healthy_p99,
                    bound: 2.0,
                    at_least: false,
                });
                targets.push(Target {
                    what: "how far equal units are from equal shares, at most".into(),
                    value: worst,
                    bound: 0.05,
                    at_least: false,
                });
                targets.push(Target {
                    what: "the share of a unit 5 s after it has recovered, at least".into(),
                    value: share(&recovered, 1),
                    bound: 0.95,
                    at_least: true,
                });
            }
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    table.print("1 000 requests a second to four services, over TCP");
    Ok(targets)
}

/// Handlers take 10 ms, and one in a hundred a second more.
fn hedged(options: &Options) -> Outcome<Vec<Target>> {
    let time = Duration::from_secs(options.pick(2, 20));
    let runtime = || Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (runtime, services) = (runtime()?, runtime()?);
    let mut table = Table::new(["ms", "p50", "p99", "p99.9", "max", "requests", "asked"]);
    let mut targets = Vec::new();
    runtime.block_on(async {
        let hedge = Retry::new().hedge(Hedge::Quantile(0.95));
        for (name, retry) in [("as they are", None), ("hedged at p95", Some(hedge))] {
            let mut field = Field::new(services.handle()).await?;
            (0..4).for_each(|at| field.set(at, 10));
            let to = field.to.balance(Balance::round_robin());
            let to = retry.map_or(to.clone(), |retry| to.retry(retry));
            field.ask_at(&to, Duration::from_millis(500)).await?;
            field.late.store(100, Ordering::Relaxed);
            let (times, shares) = field.ask_at(&to, time).await?;
            let at = [0.5, 0.99, 0.999, 1.0].map(|part| quantile(&times, part));
            let asked = shares.iter().sum::<u64>();
            let counts = [times.len().to_string(), asked.to_string()];
            table.row([name.to_owned()].into_iter().chain(at.map(number)).chain(counts));
            if name == "as they are" {
                continue;
            }
            targets.push(Target {
                what: "hedged at p95, 1 % late by 1 s: p99.9 to p50, at most".into(),
                value: at[2] / at[0],
                bound: 3.0,
                at_least: false,
            });
            targets.push(Target {
                what: "and how many requests there are to each, at most".into(),
                value: asked as f64 / times.len() as f64,
                bound: 1.06,
                at_least: false,
            });
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    table.print("1 000 requests a second to four services that take 10 ms, and one in a hundred a second more");
    Ok(targets)
}
