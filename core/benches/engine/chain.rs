//! How long it takes until an abort has crossed two services: A asks B, whose handler asks C. All are in one
//! thread, over TCP.

use std::{
    future::pending,
    time::{Duration, Instant},
};

use roletalk::{Destination, Error, OnCancel, Peer};
use tokio::sync::mpsc;

use crate::{
    Outcome,
    common::{Options, Table, Target, number, quantile},
};

pub(crate) fn run(options: &Options) -> Outcome<Vec<Target>> {
    let count = options.pick(500, 4000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut trips, mut aborts, mut more) = (Vec::new(), Vec::new(), Vec::new());
    runtime.block_on(async {
        let mut chain = Chain::new().await?;
        for _ in 0..count {
            let (trip, abort) = (chain.round_trip().await?, chain.abort().await?);
            trips.push(trip);
            aborts.push(abort);
            more.push(abort - trip);
        }
        Ok::<_, Error>(())
    })?;
    let mut table = Table::new(["µs", "p50", "p99", "max"]);
    let mut row = |what: &str, values: &[f64]| {
        let at = [0.5, 0.99, 1.0].map(|part| number(quantile(values, part)));
        table.row([what.to_owned()].into_iter().chain(at));
    };
    row("a request and its answer, A to C and back", &trips);
    row("an abort, until C's future is dropped", &aborts);
    row("of each pair, how much longer the abort took", &more);
    table.print(&format!("A asks B, which asks C; {count} of each in turn, over TCP"));
    Ok(vec![Target {
        what: "an abort at A until C's handler has ended, µs more than a round trip, at most"
            .into(),
        value: quantile(&more, 0.99),
        bound: 5000.0,
        at_least: false,
    }])
}

struct Chain {
    to_b: Destination,
    begun: mpsc::UnboundedReceiver<()>,
    dropped: mpsc::UnboundedReceiver<Instant>,
    _peers: [Peer; 3],
}

/// Tells when it is dropped.
struct Told(mpsc::UnboundedSender<Instant>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(Instant::now());
    }
}

impl Chain {
    async fn new() -> Result<Chain, Error> {
        let (a, b, c) =
            (Peer::builder().build()?, Peer::builder().build()?, Peer::builder().build()?);
        let (begins, begun) = mpsc::unbounded_channel();
        let (drops, dropped) = mpsc::unbounded_channel();
        let role = c.role("c")?.on_cancel(OnCancel::Drop);
        role.on_request("wait", move |_| {
            let told = Told(drops.clone());
            let _ = begins.send(());
            async move {
                let _told = told;
                pending::<()>().await;
                Ok(())
            }
        });
        role.on_request("echo", |ctx| async move { Ok(ctx.into_data()) });
        b.connect(c.listen("127.0.0.1:0").await?.url()).await?;
        let to_c = b.destination("c")?;
        to_c.ready().await?;
        for event in ["wait", "echo"] {
            let to_c = to_c.clone();
            b.role("b")?.on_request(event, move |ctx| {
                let to_c = to_c.clone();
                async move { Ok(to_c.request(event, ctx.into_data()).await?.into_data()) }
            });
        }
        a.connect(b.listen("127.0.0.1:0").await?.url()).await?;
        let to_b = a.destination("b")?;
        to_b.ready().await?;
        Ok(Chain { to_b, begun, dropped, _peers: [a, b, c] })
    }

    /// In microseconds.
    async fn round_trip(&mut self) -> Result<f64, Error> {
        let start = Instant::now();
        self.to_b.request("echo", ()).await?;
        Ok(micros(start, Instant::now()))
    }

    /// The same, from the drop at A to that at C.
    async fn abort(&mut self) -> Result<f64, Error> {
        let mut request = Box::pin(self.to_b.request("wait", ()).into_future());
        tokio::select! {
            answer = &mut request => drop(answer?),
            _ = self.begun.recv() => {}
        }
        // Whatever the beginning has left to do is not measured.
        tokio::time::sleep(Duration::from_micros(100)).await;
        let start = Instant::now();
        drop(request);
        let end = self.dropped.recv().await;
        Ok(micros(start, end.unwrap_or_else(Instant::now)))
    }
}

fn micros(from: Instant, to: Instant) -> f64 {
    (to - from).as_secs_f64() * 1e6
}
