//! How the cost of a request grows with the number of roles and units, in the async API.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use roletalk::{Data, Destination, Error, Peer, Unit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinSet,
};

use crate::{
    Outcome,
    common::{Options, Target},
    growth::{BATCH, SIZES, print_growth},
    hub::{Remote, engine, role_names},
};

/// Requests in flight.
const WINDOW: usize = BATCH;

pub(crate) fn run(options: &Options) -> Outcome<Vec<Target>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut targets = roles(options).await?;
        targets.extend(units(options).await?);
        Ok(targets)
    })
}

/// Where requests go: in turn, or always to the first.
#[derive(Clone)]
struct Targets {
    destinations: Arc<[Destination]>,
    unit: Option<Unit>,
}

/// Nanoseconds per request.
async fn cost(targets: &Targets, time: Duration) -> Outcome<f64> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        stopping.store(true, Ordering::Relaxed);
    });
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for at in 0..WINDOW {
        let (targets, stop) = (targets.clone(), stop.clone());
        tasks.spawn(async move {
            let data = Data::binary(vec![7; 32]);
            let (mut at, mut count) = (at, 0u64);
            while !stop.load(Ordering::Relaxed) {
                let destination = &targets.destinations[at % targets.destinations.len()];
                let request = destination.request("echo", data.clone());
                match &targets.unit {
                    Some(unit) => request.to(unit).await?,
                    None => request.await?,
                };
                at += WINDOW;
                count += 1;
            }
            Ok::<_, Error>(count)
        });
    }
    let mut count = 0;
    while let Some(done) = tasks.join_next().await {
        count += done??;
    }
    Ok(begun.elapsed().as_nanos() as f64 / count as f64)
}

/// Measures rows of one set of targets for each size.
async fn measure(
    options: &Options,
    rows: &[[Targets; SIZES.len()]],
) -> Outcome<Vec<[Vec<f64>; SIZES.len()]>> {
    let time = options.pick(Duration::from_millis(30), Duration::from_millis(200));
    let mut costs = vec![[const { Vec::new() }; SIZES.len()]; rows.len()];
    for _ in 0..options.pick(3, 9) {
        for (row, costs) in rows.iter().zip(&mut costs) {
            for (targets, costs) in row.iter().zip(costs) {
                costs.push(cost(targets, time).await?);
            }
        }
    }
    Ok(costs)
}

/// A peer that offers many roles and a peer that looks for them, on loopback.
async fn roles(options: &Options) -> Outcome<Vec<Target>> {
    let mut peers = Vec::new();
    let mut rows: [Vec<Targets>; 2] = Default::default();
    for size in SIZES {
        let (server, client) = (Peer::builder().build()?, Peer::builder().build()?);
        let mut destinations = Vec::new();
        for name in role_names(size) {
            let role = server.role(&name)?;
            role.on_request("echo", |ctx| async move { Ok(ctx.into_data()) });
            destinations.push(client.destination(&name)?);
        }
        client.connect(server.listen("127.0.0.1:0").await?.url()).await?;
        for destination in &destinations {
            destination.ready().await?;
        }
        peers.push((server, client));
        let first: Arc<[Destination]> = destinations[..1].into();
        rows[0].push(Targets { destinations: first, unit: None });
        rows[1].push(Targets { destinations: destinations.into(), unit: None });
    }
    let rows = rows.map(array);
    let costs = measure(options, &rows).await?;
    let names = ["requests, always the same", "requests, all in turn"];
    let title = "Growth with roles of one unit, async API over TCP, both sides";
    Ok(print_growth(title, &names, &costs))
}

/// A peer with many units. The units are engines behind in-memory pipes.
async fn units(options: &Options) -> Outcome<Vec<Target>> {
    let mut peers = Vec::new();
    let mut rows: [Vec<Targets>; 2] = Default::default();
    for size in SIZES {
        let begun = Instant::now();
        let peer = Peer::builder().build()?;
        let destination = peer.destination("role-00000")?;
        for at in 0..size {
            let (near, far) = tokio::io::duplex(64 << 10);
            tokio::spawn(remote(at as u64, far));
            let hub = peer.clone();
            tokio::spawn(async move { hub.accept_upgraded(near).await });
            // Not more at once than may shake hands.
            if at % 256 == 0 || at + 1 == size {
                while destination.units().len() < at + 1 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
        println!("{size} units connected to one peer in {:.2?}", begun.elapsed());
        let unit = destination.units().into_iter().next();
        let destinations: Arc<[Destination]> = [destination].into();
        rows[0].push(Targets { destinations: destinations.clone(), unit });
        rows[1].push(Targets { destinations, unit: None });
        peers.push(peer);
    }
    let rows = rows.map(array);
    let costs = measure(options, &rows).await?;
    let names = ["requests, always the same", "requests, all in turn"];
    let title = "Growth with units of one peer, async API over pipes, both sides";
    Ok(print_growth(title, &names, &costs))
}

fn array(row: Vec<Targets>) -> [Targets; SIZES.len()] {
    row.try_into().unwrap_or_else(|_| unreachable!("one for each size"))
}

/// An engine that echoes, at the far end of a pipe.
async fn remote(seed: u64, mut pipe: DuplexStream) -> Outcome<()> {
    let start = Instant::now();
    let mut remote = Remote::new(engine(seed + 1000, &role_names(1))?)?;
    let (mut output, mut input) = (Vec::new(), Vec::new());
    loop {
        remote.turn(start, &input, &mut output);
        pipe.write_all(&output).await?;
        output.clear();
        input.clear();
        // Grows only as far as it must: there are thousands of these.
        input.reserve(1024);
        if pipe.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}
