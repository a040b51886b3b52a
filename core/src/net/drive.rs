//! The task of a connection: reads large pieces, gives the engine every frame in them, and writes
//! with one call all that is queued.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    iter,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tracing::{Instrument, Span, debug, debug_span, field::Empty, info, warn};

use super::{
    ConnHandle,
    dial::fault,
    handle::CloseCommand,
    linger::Linger,
    tls_failure::{self, Reason},
};
use crate::{
    Error, ErrorKind, Result,
    engine::{
        self, CLOSE_TIMEOUT, Certificate, Claims, Connection, Event, Moment, Opening, Parting,
        Received, close_code, is_fence, printable,
    },
    peer::{Conn, Dispatcher, Outlook, PeerEvent, Shared, Tag, Unit, UnitInner, UpgradeRequest},
    wire::Frame,
    ws::{Denied, Upgraded},
};

/// Bytes asked for with one read.
const READ: usize = 64 << 10;
/// Bytes read before other tasks get their turn.
const TURN: usize = 256 << 10;
/// Messages handled before other tasks get their turn, and what they have caused is written: the
/// other side works on the first answers while this one makes the next.
const PORTION: usize = 24;
/// One-way messages, which cause nothing to be written, count as one so many together.
const ONE_WAY: usize = 8;
/// A task that has been busy for so long lets the runtime poll for I/O of other tasks. By itself, the runtime does so
/// only after dozens of turns.
const BUSY: Duration = Duration::from_micros(200);
/// Turns of reading after writing has failed.
const LAST_TURNS: usize = 64;

thread_local! {
    /// Every connection of a thread reads into the same buffer, so that an idle one needs none.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// Serves a connection until it ends.
pub(crate) async fn serve<S>(shared: Arc<Shared>, stream: S, opening: Opening, end: engine::Remote)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let address = match &opening {
        Opening::Dial { address, .. } => Some(*address),
        _ => None,
    };
    let remote = end.address;
    match Drive::open(&shared, stream, opening, end) {
        Ok(mut drive) => {
            let (conn, remote) = (drive.connection.id().0, shown(remote));
            let span = debug_span!(
                "connection", peer = %shared.id, conn, remote, unit = Empty, name = Empty
            );
            poll_fn(|cx| drive.poll(cx)).instrument(span).await;
            // On the heap, since it comes once and would otherwise take room all the time.
            Box::pin(drive.part()).await;
        }
        Err(error) => {
            let remote = shown(remote);
            // Evictions can be very many: they are reported together, as one event.
            match error.kind() {
                ErrorKind::Overloaded => debug!(peer = %shared.id, remote, "evicted"),
                _ => warn!(peer = %shared.id, remote, reason = %error, "connection refused"),
            }
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
        self.end(None, lost());
    }
}

struct Drive<S> {
    shared: Arc<Shared>,
    remote: Option<SocketAddr>,
    /// What the other side has shown, for the application to judge.
    certificate: Option<Arc<Certificate>>,
    /// Whether this side has dialed.
    dials: bool,
    stream: S,
    connection: Connection,
    handle: Arc<ConnHandle>,
    unit: Option<Arc<UnitInner>>,
    dispatcher: Dispatcher,
    flushing: bool,
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Moment>,
    /// Read, but not given to the unit yet.
    messages: VecDeque<Bytes>,
    /// The answer to a fence came behind them.
    fence: Option<Bytes>,
    /// Nothing more is read.
    last: bool,
    events: Vec<Event<Tag>>,
    linger: Linger,
    /// Bytes were read since the unit was last told that the other side is alive.
    heard: bool,
    /// Whether more may be read, when that was last looked at.
    may_read: bool,
    /// Whether handlers can take more of what was read.
    may_deliver: bool,
    /// Since when the socket has never run out of input.
    busy_since: Option<Moment>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Drive<S> {
    fn open(
        shared: &Arc<Shared>,
        stream: S,
        opening: Opening,
        end: engine::Remote,
    ) -> Result<Drive<S>> {
        let handle = Arc::new(ConnHandle::default());
        let dials = matches!(opening, Opening::Dial { .. });
        let remote = end.address;
        let judged = shared.authenticate.load().is_some();
        let certificate = end.certificate.clone().filter(|_| judged);
        let connection = shared.with_core(|core, now| {
            let place = end.place;
            let connection = core.peer.open(opening, end, now)?;
            if let Some(place) = place {
                core.strangers.remove(&place);
            }
            let conn = Conn { handle: handle.clone(), remote, identity: None };
            core.conns.insert(connection.id(), conn);
            Ok::<_, Error>(connection)
        })?;
        Ok(Drive {
            shared: shared.clone(),
            remote,
            certificate,
            dials,
            stream,
            connection,
            handle,
            unit: None,
            dispatcher: Dispatcher::new(),
            flushing: false,
            timer: Box::pin(sleep_until(Instant::now())),
            timer_at: None,
            messages: VecDeque::new(),
            fence: None,
            last: false,
            events: Vec::new(),
            linger: Linger::default(),
            heard: false,
            may_read: true,
            may_deliver: true,
            busy_since: None,
        })
    }

    /// Ready when the connection has ended, whether or not all has been written.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.handle.waker.register(cx.waker());
        loop {
            self.handle.set_polling(true);
            if let Some(command) = self.handle.take_command() {
                let CloseCommand { frames, code, reason, at_once } = command;
                self.connection.say(&frames);
                if at_once {
                    self.connection.leave_at_once();
                }
                let error = Error::new(ErrorKind::Closed, "The connection was closed");
                self.end(Some((code, &reason)), error);
            }
            if let Some(verdict) = self.handle.take_verdict()
                && let Err(error) = self.judge(verdict)
            {
                self.end(None, error);
            }
            // Before the timer: what has arrived may show that the other side lives.
            if let Err(error) = self.poll_read(cx) {
                self.end(None, error);
            }
            self.poll_timer(cx);
            let written = self.poll_write(cx);
            self.handle.set_polling(false);
            if let Err(error) = written
                && !self.connection.has_ended()
            {
                let error = self.read_rest(cx).err().unwrap_or(error);
                self.end(None, error);
            }
            // What is still queued then is written within the closing time, by `part`.
            if self.connection.has_ended() {
                return Poll::Ready(());
            }
            if !self.settle(cx) {
                return Poll::Pending;
            }
        }
    }

    // Reading.

    /// Nothing can be written any more. What the other side has said before it left may still be there to be read: it
    /// tells requests that it has dropped from those that are lost.
    fn read_rest(&mut self, cx: &mut Context<'_>) -> Result<()> {
        self.last = true;
        for _ in 0..LAST_TURNS {
            let read = self.poll_read(cx)?;
            while self.unit.is_some() && !self.messages.is_empty() {
                self.handle_messages()?;
            }
            if read.is_pending() {
                break;
            }
        }
        Ok(())
    }

    /// Pending when there is nothing more to read for now, or handlers can take no more; ready when there may be
    /// more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>> {
        let mut read = 0;
        loop {
            // The rest of what was read last time comes first.
            self.handle_messages()?;
            if !self.may_read && !self.last {
                if self.may_deliver && !self.messages.is_empty() {
                    self.go_on_later(cx);
                }
                return Ok(Poll::Pending);
            }
            if !self.messages.is_empty() || read >= TURN || self.has_been_busy(read) {
                self.go_on_later(cx);
                return Ok(Poll::Ready(()));
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
                    Poll::Ready(Err(error)) => Err(errored(&error, self.dials)),
                    Poll::Ready(Ok(())) if into.filled().is_empty() => Err(lost()),
                    Poll::Ready(Ok(())) => {
                        let filled = into.filled().len();
                        self.heard = true;
                        self.parse(&buffer[..filled]).map(|()| Some(filled))
                    }
                }
            });
            match done {
                Ok(Some(filled)) => read += filled,
                Ok(None) => {
                    self.busy_since = None;
                    if self.linger.emptied(read, || self.shared.clock.now()) {
                        cx.waker().wake_by_ref();
                    }
                    return Ok(Poll::Pending);
                }
                Err(error) => {
                    // What was read before an error counts, however much: answers that are dropped would be
                    // taken for such that nobody has given.
                    self.last = true;
                    while self.unit.is_some() && !self.messages.is_empty() {
                        self.handle_messages()?;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Whether this task has been busy for long; `read` is the number of bytes in this turn.
    fn has_been_busy(&mut self, read: usize) -> bool {
        if read < READ {
            return false;
        }
        let now = self.shared.clock.now();
        now.since(*self.busy_since.get_or_insert(now)) >= BUSY
    }

    /// Yields to other tasks, and after a long busy time also to the runtime's I/O.
    fn go_on_later(&mut self, cx: &mut Context<'_>) {
        let now = self.shared.clock.now();
        if now.since(*self.busy_since.get_or_insert(now)) < BUSY {
            cx.waker().wake_by_ref();
        } else {
            self.busy_since = None;
            // It wakes this task after the runtime has polled for I/O.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
        }
    }

    /// Cuts bytes into messages. Those of the handshake are handled at once, others collected.
    fn parse(&mut self, mut input: &[u8]) -> Result<()> {
        while let Some(received) = self.connection.receive(&mut input)? {
            match received {
                Received::Message(message) => {
                    self.messages.push_back(message);
                    self.messages.extend(iter::from_fn(|| self.connection.receive_more()));
                }
                Received::UpgradeRequest(request) => self.ask(request),
                Received::Handshake(message) => self.handshake(message.as_deref())?,
                Received::Upgraded(upgraded) => {
                    let connection = &mut self.connection;
                    self.shared.with_core(|core, now| {
                        core.peer.upgrade_requested(connection.id(), &upgraded);
                        core.peer.upgraded(connection, now);
                    });
                }
                Received::Ping(_) => self.connection.set_behind(!self.messages.is_empty()),
                Received::Pong(payload) if is_fence(&payload) && !self.messages.is_empty() => {
                    self.fence = Some(payload);
                }
                Received::Pong(payload) => {
                    if let Some(unit) = &self.unit {
                        let (conn, now) = (self.connection.id(), self.shared.clock.now());
                        unit.with(|state| state.machine.pong(conn, &payload, now));
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks the application whether somebody may upgrade. Its answer is a command to this task.
    fn ask(&mut self, request: Upgraded) {
        let conn = self.connection.id();
        self.shared.with_core(|core, _| core.peer.upgrade_requested(conn, &request));
        let Some(authenticate) = self.shared.authenticate.load_full() else { return };
        let (address, certificate) = (self.remote, self.certificate.take());
        let Upgraded { path, headers, .. } = request;
        let request = UpgradeRequest { path, headers, address, certificate };
        let handle = self.handle.clone();
        let limit = self.shared.limits.handshake_timeout;
        self.shared.spawn_handler(async move {
            let verdict = tokio::time::timeout(limit, authenticate.ask(request)).await;
            handle.judge(verdict.unwrap_or_else(|_| {
                Err(Denied { status: 503, reason: format!("the hook took more than {limit:?}") })
            }));
        });
    }

    fn judge(&mut self, verdict: Result<Claims, Denied>) -> Result<()> {
        let connection = &mut self.connection;
        self.shared.with_core(|core, now| core.peer.judge(connection, verdict, now))
    }

    fn handshake(&mut self, message: Option<&[u8]>) -> Result<()> {
        let (connection, handle) = (&mut self.connection, &self.handle);
        let unit = self.shared.with_core(|core, now| {
            let ready = core.peer.handshake(connection, message, now)?;
            Ok::<_, Error>(
                ready.map(|ready| self.shared.admit(core, ready, connection.id(), handle, now)),
            )
        })?;
        if let Some(unit) = unit {
            let info = unit.info.load();
            let (remote, conn) = (shown(self.remote), self.connection.id().0);
            let (id, name) = (printable(&info.id), printable(&info.name));
            info!(peer = %self.shared.id, unit = %id, name, conn, remote, "connected");
            Span::current().record("unit", id).record("name", name);
            self.unit = Some(unit);
        }
        Ok(())
    }

    /// Gives a portion of the collected messages to the unit, as long as handlers can take them, and hands
    /// out what has happened to it. Looks whether more may be read.
    fn handle_messages(&mut self) -> Result<()> {
        let Some(unit) = self.unit.clone() else {
            self.may_read = self.connection.may_read(None::<&engine::Unit<Tag>>);
            return Ok(());
        };
        let heard = std::mem::take(&mut self.heard);
        let now = match heard || !self.messages.is_empty() {
            true => self.shared.clock.now(),
            false => Moment::EPOCH,
        };
        let (fence, last) = (&mut self.fence, self.last);
        let (connection, messages) = (&mut self.connection, &mut self.messages);
        let conn = connection.id();
        let received = unit.with(|state| {
            let machine = &mut state.machine;
            if heard {
                machine.reading(conn, now);
            }
            let mut taken = 0;
            let mut received = Ok(());
            while received.is_ok()
                && taken < PORTION * ONE_WAY
                && (last || !machine.is_saturated(conn))
                && let Some(message) = messages.pop_front()
            {
                taken += if Frame::is_message(&message) { 1 } else { ONE_WAY };
                received = connection.deliver(machine, message, now);
            }
            if messages.is_empty() {
                connection.set_behind(false);
                if let Some(payload) = fence.take() {
                    machine.pong(conn, &payload, now);
                }
            }
            machine.take_events(&mut self.events);
            self.may_read = connection.may_read(Some(machine));
            self.may_deliver = !machine.is_saturated(conn);
            received
        });
        self.handle_events(&unit);
        received
    }

    fn handle_events(&mut self, unit: &Arc<UnitInner>) {
        for dead in self.dispatcher.dispatch(unit, &mut self.events) {
            let (code, reason) = (close_code::HEARTBEAT, close_code::HEARTBEAT_REASON);
            if dead == self.connection.id() {
                let error = Error::new(ErrorKind::HeartbeatTimeout, reason);
                self.end(Some((code, reason)), error);
            } else {
                unit.close(dead, code, reason);
            }
        }
    }

    // Writing.

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let mut progress = false;
        loop {
            if self.connection.rest().is_empty() {
                self.refill();
            }
            let rest = self.connection.rest();
            if rest.is_empty() {
                break;
            }
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Pending => {
                    if let (Some(unit), true) = (&self.unit, progress) {
                        let (conn, now) = (self.connection.id(), self.shared.clock.now());
                        unit.with(|state| state.machine.writing(conn, now));
                    }
                    return Ok(());
                }
                Poll::Ready(Ok(0)) => return Err(lost()),
                Poll::Ready(Ok(written)) => {
                    self.connection.wrote(written);
                    self.flushing = true;
                    progress = true;
                }
                Poll::Ready(Err(error)) => return Err(errored(&error, self.dials)),
            }
        }
        if self.flushing
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            self.flushing = false;
            flushed.map_err(|error| errored(&error, self.dials))?;
        }
        Ok(())
    }

    /// Reports what has been written and takes what is to be written next.
    fn refill(&mut self) {
        let now = self.shared.clock.now();
        let Some(unit) = self.unit.clone() else {
            self.connection.output(None::<&mut engine::Unit<Tag>>, now);
            return;
        };
        let (connection, events) = (&mut self.connection, &mut self.events);
        unit.with(|state| {
            connection.output(Some(&mut state.machine), now);
            state.machine.take_events(events);
        });
        self.handle_events(&unit);
    }

    // Time.

    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        let Some(unit) = self.unit.clone() else { return };
        if self.timer_at.is_none() || self.timer.as_mut().poll(cx).is_pending() {
            return;
        }
        self.timer_at = None;
        let (now, events) = (self.shared.clock.now(), &mut self.events);
        unit.with(|state| {
            state.machine.handle_timeout(now);
            state.machine.take_events(events);
        });
        self.handle_events(&unit);
    }

    /// Sets the timer. True when there is more to do that others have left while they saw this task at
    /// work and did not wake it, or that has become possible by what was written.
    fn settle(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(unit) = &self.unit else {
            let may_read = self.connection.may_read(None::<&engine::Unit<Tag>>);
            return may_read && !self.may_read;
        };
        let Outlook { deadline, has_output, has_events, may_read, may_deliver } =
            unit.outlook(&self.connection);
        if has_events
            || (may_read && !self.may_read)
            || (may_deliver && !self.may_deliver && !self.messages.is_empty())
            || (has_output && self.connection.rest().is_empty())
        {
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

    /// Writes what is left, says goodbye, and waits a little for the other side to do the same, unless that has
    /// received all but the goodbye.
    async fn part(mut self) {
        let parting = self.connection.parting();
        let patient = parting != Parting::LeaveAtOnce;
        let farewell = async {
            poll_fn(|cx| {
                loop {
                    let now = self.shared.clock.now();
                    let rest = self.connection.output(None::<&mut engine::Unit<Tag>>, now);
                    if rest.is_empty() {
                        break;
                    }
                    match Pin::new(&mut self.stream).poll_write(cx, rest) {
                        Poll::Ready(Ok(written)) if written > 0 => self.connection.wrote(written),
                        Poll::Pending if patient => return Poll::Pending,
                        _ => return Poll::Ready(()),
                    }
                }
                let done = Pin::new(&mut self.stream).poll_flush(cx).is_ready()
                    && Pin::new(&mut self.stream).poll_shutdown(cx).is_ready();
                if done || !patient { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            // Closing with unread input would reset the connection and could take our last words
            // from the other side.
            loop {
                let read = poll_fn(|cx| {
                    BUFFER.with_borrow_mut(|buffer| {
                        let mut into = ReadBuf::new(buffer);
                        match Pin::new(&mut self.stream).poll_read(cx, &mut into) {
                            Poll::Pending if !parting.waits() => Poll::Ready(Ok(0)),
                            read => read.map_ok(|()| into.filled().len()),
                        }
                    })
                });
                if !matches!(read.await, Ok(filled) if filled > 0) {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
    }
}

impl<S> Drive<S> {
    /// Takes the connection out of the unit and the peer, with a close frame if there is one to send.
    /// Nothing happens the second time.
    fn end(&mut self, close: Option<(u16, &str)>, reason: Error) {
        if self.connection.has_ended() {
            return;
        }
        let conn = self.connection.id();
        let (peer, remote) = (&self.shared.id, shown(self.remote));
        if self.connection.is_violated() {
            match self.unit.as_ref().map(|unit| unit.info.load()) {
                None => warn!(%peer, conn = conn.0, remote, %reason, "bad input"),
                Some(unit) => {
                    let (unit, name) = (printable(&unit.id), printable(&unit.name));
                    warn!(%peer, conn = conn.0, remote, %unit, name, %reason, "bad input");
                }
            }
            let unit = self.unit.clone().map(Unit::new);
            self.shared.emit(PeerEvent::BadInput { unit, error: reason.clone() });
        }
        if let Some(unit) = self.unit.as_ref().map(|unit| unit.info.load()) {
            let (unit, name) = (printable(&unit.id), printable(&unit.name));
            info!(%peer, %unit, name, conn = conn.0, remote, %reason, "disconnected");
        } else {
            debug!(%peer, conn = conn.0, remote, %reason, "connection closed");
        }
        let unit = self.unit.take();
        let id = match &unit {
            None => self.connection.end(None::<&mut engine::Unit<Tag>>, close),
            Some(unit) => {
                let id = unit.detach(&mut self.connection, close, &mut self.events);
                for _ in self.dispatcher.dispatch(unit, &mut self.events) {}
                id
            }
        };
        self.shared.with_core(|core, now| {
            core.conns.remove(&conn);
            core.peer.connection_closed(conn, id, reason, now);
        });
    }
}

fn errored(error: &std::io::Error, dials: bool) -> Error {
    let text = match tls_failure::of(error) {
        None => format!("Socket errored: {error}"),
        Some(_) => {
            let side = if dials { tls_failure::Side::Dialer } else { tls_failure::Side::Listener };
            format!("Socket errored: {}", Reason { error, side })
        }
    };
    // With TLS 1.3, a listener refuses a dialer's certificate after the dialer's side of the handshake.
    Error::new(ErrorKind::ConnectionLost, text).with_fault(fault(error))
}

/// For the log.
pub(crate) fn shown(remote: Option<SocketAddr>) -> String {
    remote.map_or_else(|| "unknown".to_owned(), |remote| remote.to_string())
}

fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "Socket closed")
}
