//! tokio-tungstenite as an application uses it that awaits each answer: a task for the connection,
//! a channel of calls to it, a one-shot channel back for each, answers matched in order. What
//! `bare_ws` leaves out, and what every library for requests has to do.

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::{
    bare_ws,
    system::{self, Done, ECHO, Latencies, Outcome},
};

type Call = (Bytes, oneshot::Sender<Bytes>);

/// Writes all calls that are there, flushes once, gives all answers that are there.
async fn connection(
    mut socket: WebSocketStream<TcpStream>,
    mut calls: mpsc::UnboundedReceiver<Call>,
) -> Outcome<()> {
    let mut waiting: VecDeque<oneshot::Sender<Bytes>> = VecDeque::new();
    let mut taken = Vec::new();
    loop {
        let open = poll_fn(|cx| {
            let mut moved = false;
            loop {
                match socket.poll_next_unpin(cx) {
                    Poll::Ready(Some(Ok(Message::Binary(body)))) => {
                        moved = true;
                        if let Some(caller) = waiting.pop_front() {
                            let _ = caller.send(body);
                        }
                    }
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending => break,
                }
            }
            match calls.poll_recv_many(cx, &mut taken, 1024) {
                Poll::Ready(0) => Poll::Ready(false),
                Poll::Ready(_) => Poll::Ready(true),
                Poll::Pending if moved => Poll::Ready(true),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if !open {
            return Ok(());
        }
        if !taken.is_empty() {
            for (body, caller) in taken.drain(..) {
                waiting.push_back(caller);
                socket.feed(Message::Binary(body)).await?;
            }
            socket.flush().await?;
        }
    }
}

#[derive(Clone)]
struct Caller(mpsc::UnboundedSender<Call>);

impl Caller {
    async fn call(&self, body: Bytes) -> Outcome<Bytes> {
        let (sender, receiver) = oneshot::channel();
        self.0.send((body, sender))?;
        Ok(receiver.await?)
    }
}

pub(crate) struct Client {
    caller: Caller,
    /// For what is not a call.
    plain: bare_ws::Client,
}

impl system::Client for Client {
    async fn connect(address: SocketAddr) -> Outcome<Client> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(connection(socket, receiver));
        let plain = <bare_ws::Client as system::Client>::connect(address).await?;
        Ok(Client { caller: Caller(sender), plain })
    }

    async fn requests(&mut self, size: usize, window: usize, time: Duration) -> Outcome<Done> {
        let body = Bytes::from(vec![ECHO; size]);
        let start = Instant::now();
        if window == 1 {
            let mut latencies = Latencies::new();
            let mut last = start;
            while last - start < time {
                self.caller.call(body.clone()).await?;
                let now = Instant::now();
                latencies.add(now - last);
                last = now;
            }
            return Ok(latencies.done(start.elapsed()));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            stopping.store(true, Ordering::Relaxed);
        });
        let mut tasks = JoinSet::new();
        for _ in 0..window {
            let (caller, body, stop) = (self.caller.clone(), body.clone(), stop.clone());
            tasks.spawn(async move {
                let mut count = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    if caller.call(body.clone()).await?.len() != size {
                        return Err("another answer than expected".into());
                    }
                    count += 1;
                }
                Outcome::Ok(count)
            });
        }
        let mut count = 0;
        while let Some(done) = tasks.join_next().await {
            count += done??;
        }
        Ok(Done { count, time: start.elapsed(), ..Done::default() })
    }

    async fn messages(&mut self, size: usize, time: Duration) -> Outcome<Done> {
        self.plain.messages(size, time).await
    }

    async fn stream(&mut self, bytes: u64) -> Outcome<Done> {
        self.plain.stream(bytes).await
    }
}
