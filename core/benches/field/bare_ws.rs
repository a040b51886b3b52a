//! tokio-tungstenite with its defaults: whole messages, answers matched in order, all that a turn
//! wants to say fed first and flushed once. The HTTP upgrade is left out, nothing here measures it.

use std::{
    future::poll_fn,
    net::SocketAddr,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::system::{self, COUNT, Done, ECHO, END, Latencies, Outcome, PIECE};

type Socket = WebSocketStream<TcpStream>;

pub(crate) async fn serve(announce: impl FnOnce(SocketAddr)) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            serve_one(WebSocketStream::from_raw_socket(stream, Role::Server, None).await).await
        });
    }
}

async fn serve_one(mut socket: Socket) -> Outcome<()> {
    let (mut messages, mut bytes) = (0u64, 0u64);
    let mut answers: Vec<Message> = Vec::new();
    loop {
        read(&mut socket, |body| match body[0] {
            ECHO => answers.push(Message::Binary(body)),
            COUNT => {
                messages += 1;
                bytes += body.len() as u64;
            }
            _ => {
                let counted = [messages.to_le_bytes(), bytes.to_le_bytes()].concat();
                answers.push(Message::Binary(counted.into()));
                (messages, bytes) = (0, 0);
            }
        })
        .await?;
        if !answers.is_empty() {
            for answer in answers.drain(..) {
                socket.feed(answer).await?;
            }
            socket.flush().await?;
        }
    }
}

/// Waits for a message, then gives all that are there.
async fn read(socket: &mut Socket, mut each: impl FnMut(Bytes)) -> Outcome<()> {
    poll_fn(|cx| {
        let mut any = false;
        loop {
            match socket.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(Message::Binary(body)))) => {
                    any = true;
                    each(body);
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                Poll::Ready(None) => return Poll::Ready(Err("closed".into())),
                Poll::Pending if any => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

pub(crate) struct Client {
    socket: Socket,
}

impl Client {
    /// Tells the server that it was all, and returns what has arrived.
    async fn end(&mut self) -> Outcome<(u64, u64)> {
        self.socket.send(Message::Binary(Bytes::from_static(&[END]))).await?;
        let mut counted = None;
        read(&mut self.socket, |body| {
            let number = |at| body[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            counted = number(0).zip(number(8));
        })
        .await?;
        counted.ok_or_else(|| "no count".into())
    }
}

impl system::Client for Client {
    async fn connect(address: SocketAddr) -> Outcome<Client> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        Ok(Client { socket })
    }

    async fn requests(&mut self, size: usize, window: usize, time: Duration) -> Outcome<Done> {
        let body = Bytes::from(vec![ECHO; size]);
        let start = Instant::now();
        let mut last = start;
        let mut latencies = Latencies::new();
        let (mut count, mut in_flight, mut to_send) = (0u64, window, window);
        while in_flight > 0 {
            if to_send > 0 {
                for _ in 0..to_send {
                    self.socket.feed(Message::Binary(body.clone())).await?;
                }
                self.socket.flush().await?;
            }
            let mut answers = 0;
            read(&mut self.socket, |body| answers += usize::from(body.len() == size)).await?;
            count += answers as u64;
            let now = Instant::now();
            if window == 1 && answers == 1 {
                latencies.add(now - last);
                last = now;
            }
            to_send = if now - start < time { answers } else { 0 };
            in_flight -= answers - to_send;
        }
        match window {
            1 => Ok(latencies.done(start.elapsed())),
            _ => Ok(Done { count, time: start.elapsed(), ..Done::default() }),
        }
    }

    async fn messages(&mut self, size: usize, time: Duration) -> Outcome<Done> {
        let body = Bytes::from(vec![COUNT; size]);
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < time {
            // Written whenever 128 KiB have come together.
            for _ in 0..1024 {
                self.socket.feed(Message::Binary(body.clone())).await?;
            }
            count += 1024;
        }
        system::check_count(count, self.end().await?.0)?;
        Ok(Done { count, time: start.elapsed(), ..Done::default() })
    }

    async fn stream(&mut self, bytes: u64) -> Outcome<Done> {
        let piece = Bytes::from(vec![COUNT; PIECE]);
        let start = Instant::now();
        let mut count = 0;
        while count < bytes {
            self.socket.feed(Message::Binary(piece.clone())).await?;
            count += PIECE as u64;
        }
        system::check_count(count, self.end().await?.1)?;
        Ok(Done { count, time: start.elapsed(), ..Done::default() })
    }
}
