//! Connections in memory that do what connections over a network do: bytes take time, come in other
//! pieces than they were written in, wait, get lost in the middle of a frame, or reach one side only.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{rng::Rng, scanner::Scanner, world::World};

/// What a connection is like when nothing goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nature {
    /// Bytes on their way in one direction.
    pub(crate) capacity: usize,
    /// The longest latency in milliseconds.
    pub(crate) latency: u64,
}

/// One connection: its bytes in both directions. Way 0 leads from end 0 to end 1.
pub(crate) struct Wire {
    state: Mutex<State>,
    world: Weak<World>,
}

struct State {
    ways: [Way; 2],
    capacity: usize,
    latency: Duration,
    jitter: u64,
    rng: Rng,
    /// What is written goes out when it is flushed, as with TLS.
    buffered: bool,
    /// Nothing goes wrong any more: bytes are read and written whole, and flushed at once.
    calm: bool,
    cut: bool,
}

#[derive(Default)]
struct Way {
    /// On their way, each with its arrival.
    flying: VecDeque<(Instant, VecDeque<u8>)>,
    /// Written and not flushed.
    staged: VecDeque<u8>,
    /// Bytes in both.
    bytes: usize,
    last_arrival: Option<Instant>,
    /// Nothing is read before.
    held: Option<Instant>,
    flushing: Option<Instant>,
    /// When the reader comes to the end.
    end: Option<Instant>,
    /// It is an error.
    reset: bool,
    /// What is written gets lost.
    lost: bool,
    /// The reading end is gone.
    deaf: bool,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    scanner: Scanner,
}

impl Way {
    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// Loses all but so many of the bytes that are on their way.
    fn truncate(&mut self, mut left: usize) {
        for (_, piece) in &mut self.flying {
            piece.truncate(left);
            left -= piece.len();
        }
        self.flying.retain(|(_, piece)| !piece.is_empty());
        self.staged.clear();
    }

    fn on_their_way(&self) -> usize {
        self.flying.iter().map(|(_, piece)| piece.len()).sum()
    }

    /// The reader comes to the end then, if it would not sooner.
    fn end_at(&mut self, at: Instant) {
        self.end = Some(self.end.map_or(at, |end| end.min(at)));
        self.wake_reader();
    }

    fn has_ended(&self, now: Instant) -> bool {
        self.flying.is_empty() && self.end.is_some_and(|end| end <= now)
    }
}

impl State {
    /// Sends what was staged.
    fn send(&mut self, from: usize) {
        let now = Instant::now();
        let jitter = if self.jitter > 0 { self.rng.below(self.jitter) } else { 0 };
        let way = &mut self.ways[from];
        let piece = std::mem::take(&mut way.staged);
        if piece.is_empty() {
            return;
        }
        if way.lost || way.deaf {
            return;
        }
        let at = now + self.latency + Duration::from_millis(jitter);
        let at = way.last_arrival.map_or(at, |last| last.max(at));
        way.last_arrival = Some(at);
        way.flying.push_back((at, piece));
        way.wake_reader();
    }

    /// Mostly whole, sometimes byte by byte.
    fn piece(&mut self, all: usize) -> usize {
        match self.rng.below(10) {
            _ if self.calm => all,
            0 => self.rng.index(16) + 1,
            1..4 => self.rng.size(all).max(1),
            _ => all,
        }
        .min(all)
    }

    /// An end is closed; the other one hears of it behind what was written.
    fn close(&mut self, from: usize) {
        self.send(from);
        let soon = Instant::now() + self.latency;
        let way = &mut self.ways[from];
        if !std::mem::replace(&mut way.closed, true) && !way.lost {
            let at = way.last_arrival.map_or(soon, |last| last.max(soon));
            way.end_at(at);
        }
    }

    fn is_gone(&self) -> bool {
        self.ways.iter().all(|way| way.deaf)
    }
}

impl Wire {
    /// A connection and its two ends.
    pub(crate) fn new(
        world: Weak<World>,
        nature: Nature,
        calm: bool,
        rng: &mut Rng,
    ) -> (Arc<Wire>, Pipe, Pipe) {
        let mut rng = rng.fork();
        let state = Mutex::new(State {
            ways: Default::default(),
            capacity: nature.capacity,
            latency: rng.millis(1, nature.latency),
            jitter: rng.below(nature.latency),
            buffered: rng.percent(30),
            calm,
            cut: false,
            rng,
        });
        let wire = Arc::new(Wire { state, world });
        let (near, far) = (Pipe::new(&wire, 0), Pipe::new(&wire, 1));
        (wire, near, far)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether both ends were dropped.
    pub(crate) fn is_gone(&self) -> bool {
        self.lock().is_gone()
    }

    /// Nothing goes wrong from now on, unless it has already.
    pub(crate) fn calm(&self) {
        let mut state = self.lock();
        state.calm = true;
        let now = Instant::now();
        for way in &mut state.ways {
            // What is held up for good is as good as cut; heartbeats find it.
            if way.held.is_some_and(|until| until > now) && !way.lost {
                way.held = None;
                way.wake_reader();
            }
        }
    }

    /// What is on its way from this end, and what follows, arrives then at the soonest. Writing goes on
    /// until the connection is full.
    pub(crate) fn hold(&self, from: usize, until: Instant) {
        self.lock().ways[from].held = Some(until);
    }

    /// The connection is lost, at any byte. Of four `kind`s: both ends hear of it, one hears late, one
    /// does not hear at all, neither does. Sometimes as an error.
    pub(crate) fn cut(&self, kind: u64) {
        let mut state = self.lock();
        let State { ways, rng, cut, .. } = &mut *state;
        if std::mem::replace(cut, true) {
            return;
        }
        let now = Instant::now();
        for way in ways.iter_mut() {
            way.truncate(rng.index(way.on_their_way() + 1));
            way.lost = true;
            way.reset = rng.percent(30);
        }
        let mut soon = || now + rng.millis(0, 60);
        match kind {
            0 => {
                ways[0].end_at(soon());
                ways[1].end_at(soon());
            }
            1 => {
                let at = [soon(), now + rng.millis(0, 20_000)];
                let first = rng.index(2);
                ways[first].end_at(at[0]);
                ways[1 - first].end_at(at[1]);
            }
            2 => {
                let at = soon();
                ways[rng.index(2)].end_at(at);
            }
            _ => {}
        }
    }
}

/// One end of a [`Wire`]. Dropping it closes it.
pub(crate) struct Pipe {
    wire: Arc<Wire>,
    end: usize,
    reading: Pin<Box<Sleep>>,
    flushing: Pin<Box<Sleep>>,
}

impl Pipe {
    fn new(wire: &Arc<Wire>, end: usize) -> Pipe {
        let timer = || Box::pin(sleep_until(Instant::now()));
        Pipe { wire: wire.clone(), end, reading: timer(), flushing: timer() }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Pipe { wire, end, reading, .. } = &mut *self;
        let mut state = wire.lock();
        let from = 1 - *end;
        loop {
            let now = Instant::now();
            let room = into.remaining();
            let way = &state.ways[from];
            let held = way.held.filter(|until| *until > now);
            let next = match way.flying.front() {
                Some((at, _)) => Some(held.map_or(*at, |held| held.max(*at))),
                None => way.end,
            };
            if next.is_some_and(|next| next <= now) {
                if way.flying.is_empty() {
                    let reset = way.reset;
                    return Poll::Ready(match reset {
                        true => Err(io::ErrorKind::ConnectionReset.into()),
                        false => Ok(()),
                    });
                }
                let here = way.flying.iter().take_while(|(at, _)| *at <= now);
                let here = here.map(|(_, piece)| piece.len()).sum::<usize>();
                let mut left = state.piece(here.min(room));
                let way = &mut state.ways[from];
                way.bytes -= left;
                while left > 0 {
                    let (_, piece) = way.flying.front_mut().expect("they are here");
                    let (first, _) = piece.as_slices();
                    let len = first.len().min(left);
                    into.put_slice(&first[..len]);
                    piece.drain(..len);
                    left -= len;
                    if piece.is_empty() {
                        way.flying.pop_front();
                    }
                }
                way.wake_writer();
                return Poll::Ready(Ok(()));
            }
            state.ways[from].reader = Some(cx.waker().clone());
            let Some(next) = next else { return Poll::Pending };
            reading.as_mut().reset(next);
            if reading.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.wire.lock();
        let from = self.end;
        assert!(!state.ways[from].closed, "written to what was shut down");
        if state.ways[1 - from].has_ended(Instant::now()) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = state.capacity.saturating_sub(state.ways[from].bytes);
        if room == 0 {
            state.send(from);
            state.ways[from].writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let len = state.piece(bytes.len()).min(room);
        let bytes = &bytes[..len];
        let way = &mut state.ways[from];
        match self.wire.world.upgrade() {
            Some(world) => world.check(|| way.scanner.scan(bytes, false)),
            None => way.scanner.scan(bytes, false),
        }
        way.bytes += len;
        way.staged.extend(bytes);
        if !state.buffered {
            state.send(from);
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Pipe { wire, end, flushing, .. } = &mut *self;
        let mut state = wire.lock();
        let State { ways, rng, calm, .. } = &mut *state;
        let way = &mut ways[*end];
        if !way.staged.is_empty() && way.flushing.is_none() && !*calm && rng.percent(20) {
            let until = Instant::now() + rng.millis(0, 100);
            way.flushing = Some(until);
            flushing.as_mut().reset(until);
        }
        if way.flushing.is_some() {
            if flushing.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            way.flushing = None;
        }
        state.send(*end);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.lock().close(self.end);
        Poll::Ready(Ok(()))
    }
}

/// As with a socket: what was not read then resets the connection, which may take the last words of this
/// end from the other.
impl Drop for Pipe {
    fn drop(&mut self) {
        let mut state = self.wire.lock();
        state.close(self.end);
        let incoming = &mut state.ways[1 - self.end];
        incoming.deaf = true;
        let unread = incoming.on_their_way() > 0;
        incoming.truncate(0);
        incoming.bytes = 0;
        incoming.wake_writer();
        if unread && state.rng.percent(50) {
            let way = &mut state.ways[self.end];
            way.truncate(0);
            way.reset = true;
            if !way.lost {
                way.end_at(Instant::now());
            }
        }
    }
}
