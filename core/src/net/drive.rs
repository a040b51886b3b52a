//! The task of a connection: reads large pieces, gives the engine every frame in them, and writes
//! with one call all that is queued.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tracing::{Instrument, debug, debug_span};
use url::Url;

use super::{ConnHandle, linger::Linger};
use crate::{
    Error, ErrorKind, Result,
    engine::{AddressId, ConnId, Connection, Event, HandshakeState, Moment, Received, close_code},
    peer::{Dispatcher, Intake, Outlook, PeerEvent, Shared, Tag, Unit, UnitInner},
    ws::Side,
};

/// Bytes asked for with one read.
const READ: usize = 64 << 10;
/// Bytes read before other tasks get their turn.
const TURN: usize = 256 << 10;
/// Messages handled before other tasks get their turn, and what they have caused is written: the
/// other side works on the first answers while this one makes the next.
const PORTION: usize = 24;
/// A write buffer that is larger than this is given back when it has been written.
const KEEP: usize = 256 << 10;
/// The time that the other side has to answer a close frame.
const CLOSING: Duration = Duration::from_secs(2);

thread_local! {
    /// Every connection of a thread reads into the same buffer, so that an idle one needs none.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// How a connection begins.
pub(crate) enum Opening {
    /// Accepted; the upgrade is still to come.
    Accept { path: Option<String> },
    /// Accepted; the application has done the upgrade.
    Upgraded,
    /// Dialed for an address.
    Dial { address: AddressId, url: Url, headers: HeaderMap },
}

/// Serves a connection until it ends.
pub(crate) async fn serve<S>(shared: Arc<Shared>, stream: S, opening: Opening)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let address = match &opening {
        Opening::Dial { address, .. } => Some(*address),
        _ => None,
    };
    match Drive::open(&shared, stream, opening) {
        Ok(mut drive) => {
            let span = debug_span!("connection", peer = %shared.id, conn = drive.conn.0);
            let reason = poll_fn(|cx| drive.poll(cx)).instrument(span).await;
            drive.ended(reason);
            // On the heap, since it comes once and would otherwise take room all the time.
            Box::pin(drive.part()).await;
        }
        Err(error) => {
            debug!(peer = %shared.id, %error, "connection refused");
            if let Some(address) = address {
                shared.with_core(|core, now| core.peer.dial_failed(address, error, now));
            }
        }
    }
}

/// Ends the bookkeeping of a connection whose task is dropped midway, such as at the end of the
/// runtime.
impl<S> Drop for Drive<S> {
    fn drop(&mut self) {
        self.ended(Error::new(ErrorKind::ConnectionLost, "Socket closed"));
    }
}

struct Drive<S> {
    shared: Arc<Shared>,
    stream: S,
    conn: ConnId,
    connection: Connection,
    handle: Arc<ConnHandle>,
    unit: Option<Arc<UnitInner>>,
    dispatcher: Dispatcher,
    /// What the connection itself says, before and beside the unit: upgrade, handshake, pongs.
    own: Vec<u8>,
    /// What is being written, and how much of it has been.
    out: Vec<u8>,
    written: usize,
    /// How much of `out` is the unit's.
    of_unit: usize,
    flushing: bool,
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Moment>,
    /// Read, but not given to the unit yet.
    messages: VecDeque<Bytes>,
    events: Vec<Event<Tag>>,
    linger: Linger,
    /// A close frame was queued or received: nothing is read, the rest is written.
    closing: Option<Error>,
    /// Nothing is read before handlers have ended, or what waits for that was given up.
    saturated: bool,
    close_received: bool,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Drive<S> {
    fn open(shared: &Arc<Shared>, stream: S, opening: Opening) -> Result<Drive<S>> {
        let handle = Arc::new(ConnHandle::default());
        let mut own = Vec::new();
        let limits = &shared.limits;
        let (conn, connection) = shared.with_core(|core, now| {
            let seed = core.peer.entropy();
            let (connection, address) = match opening {
                Opening::Accept { path } => (Connection::accept(path, limits, seed), None),
                Opening::Upgraded => (Connection::upgraded(Side::Server, limits, seed), None),
                Opening::Dial { address, url, headers } => {
                    let random = u128::from(seed) << 64 | u128::from(core.peer.entropy());
                    let random = random.to_ne_bytes();
                    let connection = Connection::dial(&url, &headers, limits, random, &mut own)?;
                    (connection, Some(address))
                }
            };
            let conn = core.peer.begin(address, address.is_some(), now)?;
            core.conns.insert(conn, handle.clone());
            Ok::<_, Error>((conn, connection))
        })?;
        let mut drive = Drive {
            shared: shared.clone(),
            stream,
            conn,
            connection,
            handle,
            unit: None,
            dispatcher: Dispatcher::new(),
            own,
            out: Vec::new(),
            written: 0,
            of_unit: 0,
            flushing: false,
            timer: Box::pin(sleep_until(Instant::now())),
            timer_at: None,
            messages: VecDeque::new(),
            events: Vec::new(),
            linger: Linger::default(),
            closing: None,
            saturated: false,
            close_received: false,
            ended: false,
        };
        if drive.connection.is_open() {
            drive.start_handshake();
        }
        Ok(drive)
    }

    /// Ready with the reason when the connection is over, whether or not all has been written.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.handle.waker.register(cx.waker());
        loop {
            self.handle.set_polling(true);
            if let Some(command) = self.handle.take_command() {
                for frame in &command.frames {
                    self.connection.write(frame, &mut self.own);
                }
                self.say_close(command.code, &command.reason);
                let error = Error::new(ErrorKind::Closed, "The connection was closed");
                self.closing.get_or_insert(error);
            }
            // Before the timer: what has arrived may show that the other side lives.
            if self.closing.is_none()
                && let Err(error) = self.poll_read(cx)
            {
                self.closing = Some(error);
            }
            self.poll_timer(cx);
            let clogged = self.is_clogged();
            let written = self.poll_write(cx);
            self.handle.set_polling(false);
            if let Err(error) = written {
                return Poll::Ready(self.closing.take().unwrap_or(error));
            }
            // What is still queued then is written within the closing time, by `part`.
            if let Some(error) = self.closing.take() {
                return Poll::Ready(error);
            }
            // What was not read for want of room to answer can be read now.
            let unclogged = clogged && !self.is_clogged();
            if !self.settle(cx) && !unclogged {
                return Poll::Pending;
            }
        }
    }

    // Reading.

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let mut read = 0;
        loop {
            self.saturated = self.is_saturated();
            if self.saturated || self.is_clogged() {
                return Ok(());
            }
            if self.closing.is_some() {
                return Ok(());
            }
            // The rest of what was read last time comes first.
            self.handle_messages();
            if !self.messages.is_empty() || read >= TURN {
                cx.waker().wake_by_ref();
                return Ok(());
            }
            let done = BUFFER.with(|buffer| {
                let mut buffer = match buffer.try_borrow_mut() {
                    Ok(buffer) => buffer,
                    // A handler that blocks on another runtime inside this one's thread.
                    Err(_) => return Err(Error::new(ErrorKind::Io, "reading is reentrant")),
                };
                let mut into = ReadBuf::new(&mut buffer);
                match Pin::new(&mut self.stream).poll_read(cx, &mut into) {
                    Poll::Pending => Ok(None),
                    Poll::Ready(Err(error)) => Err(Error::new(
                        ErrorKind::ConnectionLost,
                        format!("Socket errored: {error}"),
                    )),
                    Poll::Ready(Ok(())) if into.filled().is_empty() => Err(lost()),
                    Poll::Ready(Ok(())) => {
                        let filled = into.filled().len();
                        self.parse(&buffer[..filled]).map(|()| Some(filled))
                    }
                }
            });
            // A part of a long message is a sign of life, too.
            if self.messages.is_empty() && matches!(done, Ok(Some(_))) {
                self.note_reading();
            }
            let done = match done {
                Ok(done) => done,
                Err(error) => {
                    // What was read before an error counts.
                    while self.handle_messages() {}
                    return Err(error);
                }
            };
            match done {
                None => {
                    if self.linger.emptied(read, || self.shared.clock.now()) {
                        cx.waker().wake_by_ref();
                    }
                    return Ok(());
                }
                Some(filled) => read += filled,
            }
        }
    }

    /// Cuts bytes into messages. Handshake messages are handled at once, others collected.
    fn parse(&mut self, mut input: &[u8]) -> Result<()> {
        loop {
            let received = match self.connection.receive(&mut input, &mut self.own) {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(()),
                Err((error, code)) => {
                    if let Some(code) = code {
                        self.refuse_input(code, &error);
                    }
                    return Err(error);
                }
            };
            match received {
                Received::Message(message) if self.unit.is_some() => {
                    self.messages.push_back(message)
                }
                Received::Message(message) => self.handshake(Some(&message))?,
                Received::Text if self.unit.is_some() => {
                    let error = Error::new(ErrorKind::Protocol, "A text message was received");
                    self.refuse_input(close_code::MALFORMED, &error);
                    return Err(error);
                }
                Received::Text => self.handshake(None)?,
                Received::Upgraded(_) => self.start_handshake(),
                Received::Ping(_) => {}
                Received::Pong(payload) => {
                    if let Some(unit) = &self.unit {
                        let now = self.shared.clock.now();
                        unit.with(|state| state.machine.pong(self.conn, &payload, now));
                    }
                }
                Received::Closed { code, reason } => {
                    self.close_received = true;
                    let text = format!("Socket closed ({code}) {reason}").trim_end().to_owned();
                    return Err(Error::new(ErrorKind::ConnectionLost, text));
                }
            }
        }
    }

    /// Tells the other side, and whoever listens, that it sent something impossible.
    fn refuse_input(&mut self, code: u16, error: &Error) {
        self.say_close(code, error.text());
        let unit = self.unit.clone().map(Unit::new);
        self.shared.emit(PeerEvent::BadInput { unit, error: error.clone() });
    }

    fn start_handshake(&mut self) {
        let frames = self.shared.with_core(|core, now| core.peer.upgraded(self.conn, now));
        for frame in &frames {
            self.connection.write(frame, &mut self.own);
        }
    }

    fn handshake(&mut self, message: Option<&[u8]>) -> Result<()> {
        let shared = self.shared.clone();
        let (conn, handle) = (self.conn, self.handle.clone());
        let (frames, outcome) = shared.with_core(|core, now| {
            let reply = core.peer.handshake(conn, message, now);
            let outcome = match reply.state {
                HandshakeState::Pending => Ok(None),
                HandshakeState::Refused(error) => Err(error),
                HandshakeState::Ready(ready) => {
                    let connection = &mut self.connection;
                    // The unit's frames come behind those of the handshake.
                    for frame in &reply.frames {
                        connection.write(frame, &mut self.own);
                    }
                    let writer = connection.authenticated(shared.limits.message_size);
                    let unit = shared.admit(core, &ready, conn, writer, &handle, now);
                    return (Vec::new(), Ok(Some(unit)));
                }
            };
            (reply.frames, outcome)
        });
        for frame in &frames {
            self.connection.write(frame, &mut self.own);
        }
        match outcome {
            Ok(None) => Ok(()),
            Ok(Some(unit)) => {
                debug!(unit = %unit.info.load().id, "connection ready");
                self.unit = Some(unit);
                Ok(())
            }
            Err(error) => {
                self.connection.close(close_code::AUTH, "", &mut self.own);
                Err(error)
            }
        }
    }

    /// Gives a portion of the collected messages to the unit, and what they mean to whom it concerns.
    /// When too much waits for handlers to end, the rest stays for later. Whether any were taken.
    fn handle_messages(&mut self) -> bool {
        let Some(unit) = self.unit.clone() else { return false };
        if self.messages.is_empty() {
            return false;
        }
        let now = self.shared.clock.now();
        let (conn, messages, events) = (self.conn, &mut self.messages, &mut self.events);
        let (taken, refused) = unit.with(|state| {
            let mut taken = 0;
            let mut result = Ok(());
            for message in messages.iter().take(PORTION) {
                if state.machine.is_saturated(conn) {
                    break;
                }
                taken += 1;
                result = state.machine.receive(conn, message, now, events);
                if result.is_err() {
                    taken = messages.len();
                    break;
                }
            }
            messages.drain(..taken);
            state.hold(events);
            (taken, result)
        });
        self.handle_events(&unit);
        if let Err(error) = refused {
            self.refuse_input(close_code::MALFORMED, &error);
            self.closing.get_or_insert(error);
        }
        taken > 0
    }

    fn handle_events(&mut self, unit: &Arc<UnitInner>) {
        for dead in self.dispatcher.dispatch(unit, &mut self.events) {
            if dead == self.conn {
                self.say_close(close_code::HEARTBEAT, close_code::HEARTBEAT_REASON);
                let error = Error::new(ErrorKind::HeartbeatTimeout, close_code::HEARTBEAT_REASON);
                self.closing.get_or_insert(error);
            } else {
                unit.close_dead(dead);
            }
        }
    }

    /// Whether to let the handlers catch up first. Goes on with what waits for those that have ended.
    fn is_saturated(&mut self) -> bool {
        loop {
            let Some(unit) = &self.unit else { return false };
            match unit.intake(self.conn) {
                Intake::Open => return false,
                Intake::Saturated => return true,
                Intake::Postponed => {
                    let unit = unit.clone();
                    unit.start_postponed(self.conn, &mut self.events);
                    self.handle_events(&unit);
                }
            }
        }
    }

    /// Whether to let the other side read first what it has caused. Nobody else would stop one that
    /// sends pings, or requests that are rejected, and never reads.
    fn is_clogged(&self) -> bool {
        // All that is queued is written at once, unless the socket is full.
        if self.written == self.out.len() {
            return false;
        }
        let own = self.own.len() + (self.out.len() - self.of_unit).saturating_sub(self.written);
        own >= self.shared.limits.owed()
            || self.unit.as_ref().is_some_and(|unit| unit.is_clogged(self.conn))
    }

    // Writing.

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let mut progress = false;
        loop {
            if self.written == self.out.len() {
                self.refill();
                if self.out.is_empty() {
                    break;
                }
            }
            while self.written < self.out.len() {
                let rest = &self.out[self.written..];
                match Pin::new(&mut self.stream).poll_write(cx, rest) {
                    Poll::Pending => {
                        if progress {
                            self.note_writing();
                        }
                        return Ok(());
                    }
                    Poll::Ready(Ok(0)) => return Err(lost()),
                    Poll::Ready(Ok(written)) => {
                        self.written += written;
                        self.flushing = true;
                        progress = true;
                    }
                    Poll::Ready(Err(error)) => {
                        let text = format!("Socket errored: {error}");
                        return Err(Error::new(ErrorKind::ConnectionLost, text));
                    }
                }
            }
        }
        if self.flushing
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            self.flushing = false;
            flushed.map_err(|error| {
                Error::new(ErrorKind::ConnectionLost, format!("Socket errored: {error}"))
            })?;
        }
        Ok(())
    }

    fn note_reading(&self) {
        if let Some(unit) = &self.unit {
            let now = self.shared.clock.now();
            unit.with(|state| state.machine.reading(self.conn, now));
        }
    }

    fn note_writing(&self) {
        if let Some(unit) = &self.unit {
            let now = self.shared.clock.now();
            unit.with(|state| state.machine.writing(self.conn, now));
        }
    }

    /// Reports what has been written and takes what is to be written next.
    fn refill(&mut self) {
        self.out.clear();
        if self.out.capacity() > KEEP {
            self.out = Vec::new();
        }
        let wrote = std::mem::take(&mut self.of_unit);
        self.written = 0;
        if let Some(unit) = self.unit.clone() {
            let (conn, out, events) = (self.conn, &mut self.out, &mut self.events);
            let close_received = self.close_received;
            unit.with(|state| {
                if wrote > 0 {
                    state.machine.written(conn, wrote, self.shared.clock.now(), events);
                }
                // Nothing may follow the answer to a close frame.
                if !close_received {
                    state.machine.take_output(conn, out);
                }
            });
            self.of_unit = self.out.len();
            self.handle_events(&unit);
        }
        if !self.own.is_empty() {
            // Pongs do not wait behind data.
            self.out.splice(0..0, self.own.drain(..));
        }
    }

    fn say_close(&mut self, code: u16, reason: &str) {
        match &self.unit {
            Some(unit) => {
                unit.with(|state| state.machine.close(self.conn, code, reason));
                self.connection.close_sent();
            }
            None => self.connection.close(code, reason, &mut self.own),
        }
    }

    // Time.

    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        let Some(unit) = self.unit.clone() else { return };
        if self.timer_at.is_none() || self.timer.as_mut().poll(cx).is_pending() {
            return;
        }
        self.timer_at = None;
        let (now, events) = (self.shared.clock.now(), &mut self.events);
        unit.with(|state| state.machine.handle_timeout(now, events));
        self.handle_events(&unit);
    }

    /// Sets the timer. True when there is more to do that others have left while they saw this task at
    /// work and did not wake it.
    fn settle(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(unit) = &self.unit else { return false };
        let Outlook { deadline, has_output, intake } = unit.outlook(self.conn);
        let more_input = match intake {
            Intake::Open => self.saturated,
            Intake::Postponed => true,
            Intake::Saturated => false,
        };
        if more_input || (has_output && self.out.is_empty()) {
            return true;
        }
        if deadline != self.timer_at {
            self.timer_at = deadline;
            if let Some(at) = deadline {
                self.timer.as_mut().reset(self.shared.clock.instant(at));
                if self.timer.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
        }
        self.handle.has_command()
    }

    /// Writes what is left, says goodbye, and waits a little for the other side to do the same.
    async fn part(mut self) {
        let parting = async {
            poll_fn(|cx| {
                loop {
                    while self.written < self.out.len() {
                        let rest = &self.out[self.written..];
                        match ready!(Pin::new(&mut self.stream).poll_write(cx, rest)) {
                            Ok(written) if written > 0 => self.written += written,
                            _ => return Poll::Ready(()),
                        }
                    }
                    if self.own.is_empty() {
                        break;
                    }
                    self.out = std::mem::take(&mut self.own);
                    self.written = 0;
                }
                let _ = ready!(Pin::new(&mut self.stream).poll_flush(cx));
                let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
                Poll::Ready(())
            })
            .await;
            // Closing with unread input would reset the connection and could take our last words
            // from the other side.
            loop {
                let read = poll_fn(|cx| {
                    BUFFER.with_borrow_mut(|buffer| {
                        let mut into = ReadBuf::new(buffer);
                        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into));
                        Poll::Ready(read.map(|()| into.filled().len()))
                    })
                });
                if !matches!(read.await, Ok(filled) if filled > 0) {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(CLOSING, parting).await;
    }
}

impl<S> Drive<S> {
    /// Takes the connection out of the unit and the peer. What the unit still has to say on it goes
    /// to `own`.
    fn ended(&mut self, reason: Error) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let unit = self.unit.take();
        if let Some(unit) = &unit {
            let mut rest = Vec::new();
            unit.with(|state| state.machine.take_output(self.conn, &mut rest));
            // Nothing may follow the answer to a close frame.
            if !self.close_received {
                self.own.extend_from_slice(&rest);
            }
            unit.detach(self.conn, &mut self.events);
            for _ in self.dispatcher.dispatch(unit, &mut self.events) {}
        }
        let (conn, unit) = (self.conn, unit.map(|unit| unit.id));
        self.shared.with_core(|core, now| {
            core.conns.remove(&conn);
            core.peer.connection_closed(conn, unit, reason, now);
        });
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "Socket closed")
}
