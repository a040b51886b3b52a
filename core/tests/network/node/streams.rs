//! The streams that the application opens, writes and reads.

use std::{sync::Arc, time::Duration};

use futures_util::SinkExt;
use roletalk::{Bytes, Readable, Unit, Writable};
use roletalk_engine::Dialect;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use super::{Node, payload};
use crate::ledger::End;

enum Ends {
    Writer(Writable),
    Reader(Readable),
}

/// What to do with a stream.
pub(super) struct Plan {
    pub(super) event: &'static str,
    pub(super) writes: bool,
    pub(super) size: usize,
    pub(super) limit: Duration,
    pub(super) patience: Option<Duration>,
    pub(super) mischief: bool,
}

/// Enters the end of a stream, also when its handler is dropped in the middle, since its peer is closed.
struct Ending {
    node: Arc<Node>,
    id: u64,
    writes: bool,
    end: End,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Ending { node, id, writes, end } = self;
        // A panic is a failure already.
        if std::thread::panicking() {
            return;
        }
        node.world.with(|state| {
            let what = if *writes { "writer" } else { "reader" };
            state.note(node.index, format_args!("{what} of {id} ends {end:?}"));
            match writes {
                true => state.ledger.writer_ended(*id, *end, true),
                false => state.ledger.reader_ended(*id, *end),
            }
        });
    }
}

impl Node {
    /// Enters the writer of a stream whose reader is at the unit. Gives how it sees the reader: with a
    /// window, unless it writes what may be sent later.
    pub(super) fn writer_opens(&self, id: u64, unit: &Unit) -> Dialect {
        let window = unit.tags()["window"].parse().expect("a number");
        let dialect = match self.percent(80) {
            true => Dialect::Credit { window },
            false => Dialect::Original { acknowledges: true },
        };
        self.world.with(|state| state.ledger.writer_opened(id, dialect));
        dialect
    }

    pub(super) async fn open_stream(self: Arc<Node>, role: &str, unit: Option<Unit>, plan: Plan) {
        let id = self.world.number();
        let Ok(to) = self.peer.destination(role) else { return };
        self.world.with(|state| state.ledger.stream_planned(id, plan.size));
        self.asks(id, unit.as_ref(), plan.limit);
        let patience = plan.patience.unwrap_or(Duration::from_secs(3600));
        let outcome = match plan.writes {
            true => {
                let mut opening = to.writable(plan.event, payload(id, 8)).timeout(plan.limit);
                if let Some(unit) = &unit {
                    opening = opening.to(unit);
                }
                let opened = timeout(patience, opening.into_future()).await;
                opened.map(|opened| opened.map(|(stream, answer)| (Ends::Writer(stream), answer)))
            }
            false => {
                let mut opening = to.readable(plan.event, payload(id, 8)).timeout(plan.limit);
                if let Some(unit) = &unit {
                    opening = opening.to(unit);
                }
                let opened = timeout(patience, opening.into_future()).await;
                opened.map(|opened| opened.map(|(stream, answer)| (Ends::Reader(stream), answer)))
            }
        };
        match outcome {
            Err(_) => self.abandoned(id),
            Ok(Err(error)) => self.answered(id, &Err(error)),
            Ok(Ok((stream, answer))) => {
                self.answered(id, &Ok(answer.into_data()));
                match stream {
                    Ends::Writer(stream) => {
                        let dialect = self.writer_opens(id, &stream.unit());
                        self.write_all(id, stream, dialect, plan.mischief).await;
                    }
                    Ends::Reader(stream) => {
                        self.world.with(|state| state.ledger.reader_opened(id));
                        self.read_all(id, stream, plan.mischief).await;
                    }
                }
            }
        }
    }

    /// When an end is given up: after so many bytes, and after this time; and how often it pauses.
    fn mischief(&self, id: u64, mischief: bool) -> (usize, Duration, bool) {
        let never = Duration::from_secs(3600);
        self.world.with(|state| match mischief {
            false => (usize::MAX, never, false),
            true => {
                let size = state.ledger.stream(id).size;
                let rng = &mut state.rng;
                let at = if rng.percent(15) { rng.index(size + 1) } else { usize::MAX };
                let time = if rng.percent(8) { rng.millis(0, 2000) } else { never };
                (at, time, rng.percent(30))
            }
        })
    }

    pub(super) async fn write_all(
        self: Arc<Node>,
        id: u64,
        stream: Writable,
        how: Dialect,
        mischief: bool,
    ) {
        let (break_at, time, slow) = self.mischief(id, mischief);
        let writing = async {
            match how {
                Dialect::Credit { .. } => self.write(id, stream, break_at, slow).await,
                _ => self.sink(id, stream).await,
            }
        };
        let mut ending = Ending { node: self.clone(), id, writes: true, end: End::Broken };
        ending.end = timeout(time, writing).await.unwrap_or(End::Broken);
    }

    fn next_piece(&self, id: u64) -> (usize, usize, Vec<u8>) {
        self.world.with(|state| {
            let stream = state.ledger.stream(id);
            let (size, sent) = (stream.size, stream.sent);
            let len = (size - sent).min(60_000);
            (size, sent, state.ledger.piece(id, sent, len).to_vec())
        })
    }

    async fn write(&self, id: u64, mut stream: Writable, break_at: usize, slow: bool) -> End {
        loop {
            let (size, sent, piece) = self.next_piece(id);
            if sent >= break_at && sent < size {
                // Dropping it means the same.
                if self.percent(50) {
                    stream.abort("enough written");
                }
                return End::Broken;
            }
            if sent == size {
                return match stream.shutdown().await {
                    Ok(()) => End::Complete,
                    Err(_) => End::Broken,
                };
            }
            match stream.write(&piece).await {
                Ok(len) => self.world.with(|state| state.ledger.wrote(id, len)),
                Err(_) => return End::Broken,
            }
            if slow && self.percent(50) {
                sleep(self.world.millis(0, 150)).await;
            }
        }
    }

    /// As a sink, which takes what it cannot send yet.
    async fn sink(&self, id: u64, mut stream: Writable) -> End {
        loop {
            let (size, sent, piece) = self.next_piece(id);
            if sent == size {
                return match SinkExt::<Bytes>::close(&mut stream).await {
                    Ok(()) => End::Complete,
                    Err(_) => End::Broken,
                };
            }
            self.world.with(|state| state.ledger.wrote(id, piece.len()));
            if SinkExt::send(&mut stream, Bytes::from(piece)).await.is_err() {
                return End::Broken;
            }
        }
    }

    pub(super) async fn read_all(self: Arc<Node>, id: u64, stream: Readable, mischief: bool) {
        let (break_at, time, slow) = self.mischief(id, mischief);
        let reading = self.read(id, stream, break_at, slow);
        let mut ending = Ending { node: self.clone(), id, writes: false, end: End::Broken };
        ending.end = timeout(time, reading).await.unwrap_or(End::Broken);
    }

    async fn read(&self, id: u64, mut stream: Readable, break_at: usize, slow: bool) -> End {
        let mut buffer = match self.percent(30) {
            // Larger than any piece: what is read in parts counts as read with the first one.
            true => vec![0; 512 << 10],
            false => Vec::new(),
        };
        loop {
            if self.world.with(|state| state.ledger.stream(id).read) >= break_at {
                if self.percent(50) {
                    stream.abort("enough read");
                }
                return End::Broken;
            }
            let piece = match buffer.is_empty() {
                true => stream.next().await.map(|piece| piece.map_err(drop)),
                false => match stream.read(&mut buffer).await {
                    Ok(0) => None,
                    Ok(len) => Some(Ok(Bytes::copy_from_slice(&buffer[..len]))),
                    Err(_) => Some(Err(())),
                },
            };
            match piece {
                Some(Ok(piece)) => self.world.with(|state| state.ledger.read(id, &piece)),
                Some(Err(())) => return End::Broken,
                None => return End::Complete,
            }
            if slow && self.percent(50) {
                sleep(self.world.millis(0, 150)).await;
            }
        }
    }
}
