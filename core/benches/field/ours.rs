//! This crate, as an application uses it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use roletalk::{Data, Destination, ErrorKind, Peer, PeerEvent};
use tokio::{io::AsyncWriteExt, task::JoinSet};

use crate::system::{self, COUNT, Done, Latencies, Outcome, PIECE};

/// Messages sent between looks at the clock.
const BATCH: u64 = 1024;

pub(crate) async fn serve(announce: impl FnOnce(SocketAddr)) -> Outcome<()> {
    let peer = Peer::builder().name("server").build()?;
    watch(&peer, &[ErrorKind::Closed, ErrorKind::ConnectionLost]);
    let role = peer.inactive_role("bench")?;
    let messages = Arc::new(AtomicU64::new(0));
    role.on_request("echo", |ctx| async move { Ok(ctx.into_data()) });
    let count = messages.clone();
    role.on_message("count", move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }
    });
    role.on_request("end", move |_| {
        let count = messages.swap(0, Ordering::Relaxed);
        async move { Ok(count) }
    });
    role.on_readable("upload", |request| async move {
        let mut stream = request.accept(())?;
        while let Some(piece) = stream.next().await {
            std::hint::black_box(piece?.len());
        }
        Ok(())
    });
    role.enable();
    announce(peer.listen("127.0.0.1:0").await?.local_addr());
    std::future::pending().await
}

/// A measurement during which a connection was lost is worth nothing: say why it was.
fn watch(peer: &Peer, ended: &'static [ErrorKind]) {
    let mut events = peer.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                // The server loses its clients in the end.
                PeerEvent::ConnectionClosed { reason, .. } if !ended.contains(&reason.kind()) => {
                    eprintln!("closed: {reason}");
                }
                PeerEvent::BadInput { error, .. } => eprintln!("bad input: {error}"),
                PeerEvent::SlowConsumer { queued, dropped, .. } => {
                    eprintln!("slow consumer: {queued} bytes queued, {dropped} dropped");
                }
                _ => {}
            }
        }
    });
}

/// How requests in flight are awaited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Tasks,
    Joined,
}

/// With a task for each request in flight.
pub(crate) struct Client {
    /// Closes when dropped.
    _peer: Peer,
    bench: Destination,
}

impl Client {
    async fn requests_in(
        &self,
        style: Style,
        size: usize,
        window: usize,
        time: Duration,
    ) -> Outcome<Done> {
        let data = Data::binary(vec![COUNT; size]);
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            stopping.store(true, Ordering::Relaxed);
        });
        let start = Instant::now();
        let loops = (0..window).map(|_| echo(self.bench.clone(), data.clone(), stop.clone()));
        let mut count = 0;
        match style {
            Style::Tasks => {
                let mut tasks: JoinSet<_> = loops.collect();
                while let Some(done) = tasks.join_next().await {
                    count += done??;
                }
            }
            Style::Joined => {
                let mut futures: FuturesUnordered<_> = loops.collect();
                while let Some(done) = futures.next().await {
                    count += done?;
                }
            }
        }
        Ok(Done { count, time: start.elapsed(), ..Done::default() })
    }

    async fn latencies(&self, size: usize, time: Duration) -> Outcome<Done> {
        let data = Data::binary(vec![COUNT; size]);
        let mut latencies = Latencies::new();
        let start = Instant::now();
        let mut last = start;
        while last - start < time {
            let answer = self.bench.request("echo", data.clone()).await?;
            check(&answer, &data)?;
            let now = Instant::now();
            latencies.add(now - last);
            last = now;
        }
        Ok(latencies.done(start.elapsed()))
    }
}

/// What an application does over and over.
async fn echo(bench: Destination, data: Data, stop: Arc<AtomicBool>) -> Outcome<u64> {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        check(&bench.request("echo", data.clone()).await?, &data)?;
        count += 1;
    }
    Ok(count)
}

fn check(answer: &roletalk::Answer, data: &Data) -> Outcome<()> {
    match answer.data().bytes().len() == data.bytes().len() {
        true => Ok(()),
        false => Err("another answer than expected".into()),
    }
}

impl system::Client for Client {
    async fn connect(address: SocketAddr) -> Outcome<Client> {
        let peer = Peer::builder().name("client").build()?;
        watch(&peer, &[ErrorKind::Closed]);
        peer.connect(format!("ws://{address}")).await?;
        let bench = peer.destination("bench")?;
        bench.ready().await?;
        Ok(Client { _peer: peer, bench })
    }

    async fn requests(&mut self, size: usize, window: usize, time: Duration) -> Outcome<Done> {
        match window {
            1 => self.latencies(size, time).await,
            _ => self.requests_in(Style::Tasks, size, window, time).await,
        }
    }

    async fn messages(&mut self, size: usize, time: Duration) -> Outcome<Done> {
        let data = Data::binary(vec![COUNT; size]);
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < time {
            for _ in 0..BATCH {
                self.bench.send("count", data.clone()).await?;
            }
            count += BATCH;
        }
        let counted = self.bench.request("end", ()).await?.parse::<u64>()?;
        system::check_count(count, counted)?;
        Ok(Done { count, time: start.elapsed(), ..Done::default() })
    }

    async fn stream(&mut self, bytes: u64) -> Outcome<Done> {
        let piece = vec![COUNT; PIECE];
        let start = Instant::now();
        let (mut stream, _) = self.bench.writable("upload", ()).await?;
        let mut count = 0;
        while count < bytes {
            stream.write_all(&piece).await?;
            count += PIECE as u64;
        }
        // Returns when the reader has read all.
        stream.shutdown().await?;
        Ok(Done { count, time: start.elapsed(), ..Done::default() })
    }
}

/// With one task for all requests in flight.
pub(crate) struct Joined(Client);

impl system::Client for Joined {
    async fn connect(address: SocketAddr) -> Outcome<Joined> {
        Ok(Joined(<Client as system::Client>::connect(address).await?))
    }

    async fn requests(&mut self, size: usize, window: usize, time: Duration) -> Outcome<Done> {
        self.0.requests_in(Style::Joined, size, window, time).await
    }

    async fn messages(&mut self, size: usize, time: Duration) -> Outcome<Done> {
        self.0.messages(size, time).await
    }

    async fn stream(&mut self, bytes: u64) -> Outcome<Done> {
        self.0.stream(bytes).await
    }
}
