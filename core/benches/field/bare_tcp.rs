//! Frames with a 32-bit length on TCP: the floor. Answers are matched in order, the frames of one
//! turn are written together.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::system::{self, COUNT, Done, ECHO, END, Latencies, Outcome, PIECE};

/// Bytes asked for with one read.
const READ: usize = 64 << 10;
/// Bytes collected before they are written, when there is no turn to end.
const WRITE: usize = 64 << 10;

pub(crate) async fn serve(announce: impl FnOnce(SocketAddr)) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve_one(stream));
    }
}

async fn serve_one(stream: TcpStream) -> Outcome<()> {
    let mut conn = Conn::new(stream);
    let (mut messages, mut bytes) = (0u64, 0u64);
    let mut out = Vec::new();
    loop {
        if conn
            .read(|body| match body[0] {
                ECHO => push(&mut out, body),
                COUNT => {
                    messages += 1;
                    bytes += body.len() as u64;
                }
                _ => {
                    push(&mut out, &[messages.to_le_bytes(), bytes.to_le_bytes()].concat());
                    (messages, bytes) = (0, 0);
                }
            })
            .await?
            == 0
        {
            return Ok(());
        }
        if !out.is_empty() {
            conn.stream.write_all(&out).await?;
            out.clear();
        }
    }
}

fn push(out: &mut Vec<u8>, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(body);
}

struct Conn {
    stream: TcpStream,
    input: BytesMut,
}

impl Conn {
    fn new(stream: TcpStream) -> Conn {
        Conn { stream, input: BytesMut::new() }
    }

    /// Reads once and gives all whole frames. Zero is the end.
    async fn read(&mut self, mut each: impl FnMut(&[u8])) -> Outcome<usize> {
        self.input.reserve(READ);
        let read = self.stream.read_buf(&mut self.input).await?;
        let mut rest = &self.input[..];
        while let Some((head, tail)) = rest.split_first_chunk() {
            let len = u32::from_le_bytes(*head) as usize;
            let Some((body, tail)) = tail.split_at_checked(len) else { break };
            each(body);
            rest = tail;
        }
        let taken = self.input.len() - rest.len();
        self.input.advance(taken);
        Ok(read)
    }
}

pub(crate) struct Client {
    conn: Conn,
    out: Vec<u8>,
}

impl Client {
    async fn write(&mut self) -> Outcome<()> {
        self.conn.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// Tells the server that it was all, and returns what has arrived.
    async fn end(&mut self) -> Outcome<(u64, u64)> {
        push(&mut self.out, &[END]);
        self.write().await?;
        let mut counted = None;
        while counted.is_none() {
            let read = self.conn.read(|body| {
                let number = |at| body[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                counted = number(0).zip(number(8));
            });
            if read.await? == 0 {
                return Err("closed".into());
            }
        }
        counted.ok_or_else(|| "no count".into())
    }
}

impl system::Client for Client {
    async fn connect(address: SocketAddr) -> Outcome<Client> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Client { conn: Conn::new(stream), out: Vec::new() })
    }

    async fn requests(&mut self, size: usize, window: usize, time: Duration) -> Outcome<Done> {
        let body = vec![ECHO; size];
        let start = Instant::now();
        let mut last = start;
        let mut latencies = Latencies::new();
        let (mut count, mut in_flight) = (0u64, window);
        (0..window).for_each(|_| push(&mut self.out, &body));
        self.write().await?;
        while in_flight > 0 {
            let mut answers = 0;
            let read = self.conn.read(|body| answers += usize::from(body.len() == size));
            if read.await? == 0 {
                return Err("closed".into());
            }
            count += answers as u64;
            let now = Instant::now();
            if window == 1 && answers == 1 {
                latencies.add(now - last);
                last = now;
            }
            if now - start < time {
                (0..answers).for_each(|_| push(&mut self.out, &body));
                self.write().await?;
            } else {
                in_flight -= answers;
            }
        }
        match window {
            1 => Ok(latencies.done(start.elapsed())),
            _ => Ok(Done { count, time: start.elapsed(), ..Done::default() }),
        }
    }

    async fn messages(&mut self, size: usize, time: Duration) -> Outcome<Done> {
        let body = vec![COUNT; size];
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < time {
            while self.out.len() < WRITE {
                push(&mut self.out, &body);
                count += 1;
            }
            self.write().await?;
        }
        system::check_count(count, self.end().await?.0)?;
        Ok(Done { count, time: start.elapsed(), ..Done::default() })
    }

    async fn stream(&mut self, bytes: u64) -> Outcome<Done> {
        let piece = vec![COUNT; PIECE];
        let start = Instant::now();
        let mut count = 0;
        while count < bytes {
            push(&mut self.out, &piece);
            self.write().await?;
            count += PIECE as u64;
        }
        system::check_count(count, self.end().await?.1)?;
        Ok(Done { count, time: start.elapsed(), ..Done::default() })
    }
}
