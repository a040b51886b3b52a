//! What it costs to give requests up, beside being answered: both sides in one thread, over TCP.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use roletalk::{Data, Destination, Error, Limits, Peer};
use roletalk_engine::{Event, Moment, Unit, UnitId};
use tokio::sync::Notify;

use crate::{
    Outcome,
    common::{Options, Table, Target, median, number},
    hub::{Hub, outgoing, role_names},
};

/// Requests in flight.
const COUNT: usize = 10_000;

pub(crate) fn run(options: &Options) -> Outcome<Vec<Target>> {
    let rounds = options.pick(3, 9);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut given_up, mut answered) = (Vec::new(), Vec::new());
    let mut engine = Vec::new();
    runtime.block_on(async {
        let pair = Pair::new().await?;
        for _ in 0..rounds {
            given_up.push(pair.cost(false).await?);
            answered.push(pair.cost(true).await?);
        }
        Ok::<_, Error>(())
    })?;
    for _ in 0..rounds {
        engine.push(engine_cost()?);
    }
    let mut table = Table::new(["", "ns each"]);
    table.row(["given up, until the handler has ended".into(), number(median(given_up.clone()))]);
    table.row(["answered by the handler instead".into(), number(median(answered.clone()))]);
    table.row(["of that the engine, given up".into(), number(median(engine.clone()))]);
    table.print("10,000 requests in flight, whose handlers wait; async API over TCP, both sides");
    let more = given_up.iter().zip(&answered).map(|(given_up, answered)| given_up - answered);
    Ok(vec![Target {
        what: "giving up one of 10,000 requests, ns more than its answer costs".into(),
        value: median(more),
        bound: 1000.0,
        at_least: false,
    }])
}

/// Both engines: 10,000 requests are given up, and their handlers' questions given back.
fn engine_cost() -> Outcome<f64> {
    let roles = role_names(1);
    let mut hub = Hub::new(1, &roles)?;
    let unit = hub.units[0];
    let now = Moment::EPOCH;
    let ask =
        |machine: &mut Unit<()>| machine.request(outgoing(&roles[0], "e", &[]), None, now, ());
    let mut corrs = Vec::new();
    for _ in 0..COUNT {
        corrs.push(hub.engine.with_unit(unit, now, ask).ok_or("no unit")??);
    }
    let mut questions = Vec::new();
    let mut at_remote = UnitId(0);
    hub.carry(|id, event| {
        at_remote = id;
        if let Event::Incoming(_, question) = event {
            questions.push(question);
        }
    });
    let begun = Instant::now();
    hub.engine.with_unit(unit, now, |machine| {
        for corr in corrs {
            let _ = machine.abandon(corr);
        }
    });
    let mut cancelled = 0;
    hub.carry(|_, event| cancelled += usize::from(matches!(event, Event::Cancelled { .. })));
    let remote = &mut hub.remotes[0].engine;
    remote.with_unit(at_remote, now, |machine| {
        questions.drain(..).for_each(|question| machine.forget(question, now));
    });
    let time = begun.elapsed();
    match cancelled {
        COUNT => Ok(time.as_nanos() as f64 / COUNT as f64),
        other => Err(format!("{other} were told").into()),
    }
}

struct Pair {
    to: Destination,
    counts: Arc<Counts>,
    _peers: [Peer; 2],
}

#[derive(Default)]
struct Counts {
    begun: AtomicUsize,
    ended: AtomicUsize,
    release: Notify,
}

impl Pair {
    async fn new() -> Result<Pair, Error> {
        let many = |limits: &mut Limits| {
            limits.waiting_requests = 2 * COUNT;
            limits.running_handlers = 2 * COUNT;
        };
        let server = Peer::builder().limits(many).build()?;
        let client = Peer::builder().limits(many).build()?;
        let counts = Arc::<Counts>::default();
        let counted = counts.clone();
        server.role("r")?.on_request("waits", move |ctx| {
            counted.begun.fetch_add(1, Ordering::Relaxed);
            let counts = counted.clone();
            async move {
                let token = ctx.cancellation();
                tokio::select! {
                    () = token.cancelled() => {}
                    () = counts.release.notified() => {}
                }
                counts.ended.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        });
        client.connect(server.listen("127.0.0.1:0").await?.url()).await?;
        let to = client.destination("r")?;
        to.ready().await?;
        Ok(Pair { to, counts, _peers: [server, client] })
    }

    /// Nanoseconds for each, from the moment at which they are given up or answered.
    async fn cost(&self, answered: bool) -> Result<f64, Error> {
        let Counts { begun, ended, release } = &*self.counts;
        begun.store(0, Ordering::Relaxed);
        ended.store(0, Ordering::Relaxed);
        let request = || self.to.request("waits", Data::null()).into_future();
        let mut requests: FuturesUnordered<_> = (0..COUNT).map(|_| request()).collect();
        while begun.load(Ordering::Relaxed) < COUNT {
            let _ = requests.next().now_or_never();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let start = Instant::now();
        if answered {
            release.notify_waiters();
            while let Some(answer) = requests.next().await {
                answer?;
            }
        } else {
            drop(requests);
            while ended.load(Ordering::Relaxed) < COUNT {
                tokio::task::yield_now().await;
            }
        }
        Ok(start.elapsed().as_nanos() as f64 / COUNT as f64)
    }
}
