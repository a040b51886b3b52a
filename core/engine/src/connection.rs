//! One connection, from bytes to messages and back: the upgrade on either side, frames, the order of
//! output, closing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use url::Url;

use crate::{
    AddressId, ConnId, Ended, Limits, Moment, Origins, Unit, UnitId, close_code,
    error::{Error, ErrorKind, Result},
    hint::DialFault,
    printable,
    unit::{FENCE, ORDER, OURS},
    ws::{Accept, Denied, Dial, FrameWriter, Incoming, Side, Socket, UpgradeError, Upgraded},
};

/// An output buffer that is larger than this is given back when it has been written.
const KEEP: usize = 256 << 10;
/// The close code of a connection that ended without a close frame.
const ABNORMAL: u16 = 1006;

/// How a connection begins.
#[derive(Clone, Debug)]
pub enum Opening {
    /// It was accepted; the upgrade is still to come.
    Accept {
        /// The only path that is served, if given.
        path: Option<String>,
    },
    /// The host has done the upgrade.
    Upgraded {
        /// Which end this is.
        side: Side,
        /// The address that it was dialed for.
        address: Option<AddressId>,
    },
    /// It was dialed, as [`PeerEffect::Dial`](crate::PeerEffect::Dial) asked for.
    Dial {
        /// The address.
        address: AddressId,
        /// Its URL.
        url: Url,
        /// Headers of the upgrade.
        headers: HeaderMap,
    },
}

impl Opening {
    /// A connection that was dialed, by the text of its address.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the address is no URL.
    pub fn dial(address: AddressId, url: &str, headers: HeaderMap) -> Result<Opening> {
        let url = Url::parse(url).map_err(|error| {
            let text = format!("The address `{url}` is no URL: {error}");
            Error::new(ErrorKind::InvalidArgument, text)
        })?;
        Ok(Opening::Dial { address, url, headers })
    }
}

/// Something that was received on a connection.
#[derive(Debug)]
pub enum Received {
    /// A request for an upgrade, which the [application judges](crate::Config::authenticates): call
    /// [`Peer::judge`](crate::Peer::judge) with its verdict, which may take a while. Nothing is read until then.
    UpgradeRequest(Upgraded),
    /// The WebSocket is open: call [`Peer::upgraded`](crate::Peer::upgraded).
    Upgraded(Upgraded),
    /// A message before the connection belongs to a unit, none for a text message: for
    /// [`Peer::handshake`](crate::Peer::handshake).
    Handshake(Option<Bytes>),
    /// A message for [`Unit::receive`].
    Message(Bytes),
    /// A ping with its payload; it has been answered.
    Ping(Bytes),
    /// The answer to a ping, with the ping's payload: for [`Unit::pong`].
    Pong(Bytes),
}

enum Phase {
    Accepting(Accept),
    /// The application is asked.
    Asking(Accept),
    Dialing(Dial),
    Open(Box<Socket>),
    Over,
}

/// How long the other side may take to close its socket, too. That of a connection without a unit may take no
/// longer to receive all that it is to be told.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How the socket of a connection that has ended is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// All is written, then the other side has [`CLOSE_TIMEOUT`] to close, too.
    Wait,
    /// The same, within [`CLOSE_TIMEOUT`] altogether: it is not authenticated.
    WaitBriefly,
    /// All is written, then it is closed: the other side has surely received all but the close frame, as when a
    /// peer without anything to answer was [drained](Unit::drain).
    Leave,
    /// It is closed at once, after as much as it takes without waiting: it is not authenticated, and there are many.
    LeaveAtOnce,
}

impl Parting {
    /// Whether the other side may have something to receive besides the close frame, so that its end is waited for.
    pub fn waits(self) -> bool {
        matches!(self, Parting::Wait | Parting::WaitBriefly)
    }
}

/// The byte side of one connection. It knows its unit by number only: where the unit matters, the host
/// passes it.
///
/// Output is written in this order: what the connection itself says (upgrade, handshake, pongs), then
/// what the unit has queued on it.
pub struct Connection {
    id: ConnId,
    side: Side,
    phase: Phase,
    limits: Arc<Limits>,
    mask_seed: u64,
    /// Ours until the connection belongs to a unit.
    writer: Option<FrameWriter>,
    unit: Option<UnitId>,
    /// What the connection itself says, and nobody has taken yet.
    own: Vec<u8>,
    /// Likewise, but behind what the unit has queued.
    own_last: Vec<u8>,
    /// Likewise, but held back until all that was received before has been given to the unit.
    own_behind: Vec<u8>,
    /// The host has messages that it has not given to the unit yet, and that come before that.
    behind: bool,
    /// What is being written, and how much of it has been.
    out: Vec<u8>,
    written: usize,
    /// Bytes that are being written: those of the connection itself, which come first, and the unit's.
    own_in_flight: usize,
    unit_in_flight: usize,
    /// Code and reason of the first close frame, in either direction.
    close: Option<(u16, String)>,
    /// The close frame that its failure asks for.
    farewell: Option<(u16, String)>,
    /// The other side has broken the protocol.
    violated: bool,
    /// The other side's close frame was received, and answered: nothing may be written after the answer.
    close_received: bool,
    ended: bool,
    parting: Parting,
}

impl Connection {
    pub(crate) fn new(
        id: ConnId,
        opening: Opening,
        (origins, authenticates): (Arc<Origins>, bool),
        limits: Arc<Limits>,
        random: [u8; 16],
    ) -> Result<Connection> {
        let mut own = Vec::new();
        let (side, phase) = match opening {
            Opening::Accept { path } => {
                let accept = Accept::new(path, limits.upgrade_size).origins(origins);
                let accept = if authenticates { accept.hold() } else { accept };
                (Side::Server, Phase::Accepting(accept))
            }
            Opening::Upgraded { side, .. } => (side, Phase::Open(socket(side, &limits))),
            Opening::Dial { url, headers, .. } => {
                let dial = Dial::new(&url, &headers, random, limits.upgrade_size, &mut own)
                    .map_err(|error| Error::new(ErrorKind::InvalidArgument, error.to_string()))?;
                (Side::Client, Phase::Dialing(dial))
            }
        };
        let mask_seed =
            random.iter().fold(0u64, |seed, byte| seed.rotate_left(7) ^ u64::from(*byte));
        Ok(Connection {
            id,
            side,
            phase,
            limits,
            mask_seed,
            writer: Some(FrameWriter::new(side, mask_seed)),
            unit: None,
            own,
            own_last: Vec::new(),
            own_behind: Vec::new(),
            behind: false,
            out: Vec::new(),
            written: 0,
            own_in_flight: 0,
            unit_in_flight: 0,
            close: None,
            farewell: None,
            violated: false,
            close_received: false,
            ended: false,
            parting: Parting::WaitBriefly,
        })
    }

    /// Its number.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// The unit that it belongs to, once its handshake is done and as long as it has not ended.
    pub fn unit(&self) -> Option<UnitId> {
        self.unit
    }

    /// Whether the WebSocket is open.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Whether it serves no longer: what it still has to say is to be written, then its socket closed.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// How its socket is to be closed, once it has ended.
    pub fn parting(&self) -> Parting {
        self.parting
    }

    // Input.

    /// Takes the next thing out of `input`, which is advanced; what the protocol demands for an answer is
    /// part of the output. None: all of `input` was taken. Not to be called while it
    /// [is clogged](Connection::is_clogged).
    ///
    /// # Errors
    /// The connection is over: [`end`](Connection::end) it. If the other side has broken the protocol,
    /// that tells it so.
    pub fn receive(&mut self, input: &mut &[u8]) -> Result<Option<Received>> {
        if self.ended {
            *input = &[];
            return Ok(None);
        }
        let upgraded = match &mut self.phase {
            Phase::Accepting(accept) => accept.feed(input, &mut self.own),
            Phase::Dialing(dial) => dial.feed(input),
            Phase::Open(_) => return self.receive_open(input),
            // A dialer that sends more before it has an answer does not speak WebSocket.
            Phase::Asking(_) if !input.is_empty() => {
                self.phase = Phase::Over;
                *input = &[];
                let text = "Bytes were received before the upgrade was answered";
                return Err(Error::new(ErrorKind::ConnectFailed, text));
            }
            Phase::Asking(_) => return Ok(None),
            Phase::Over => {
                *input = &[];
                return Ok(None);
            }
        };
        match upgraded {
            Ok(None) => Ok(None),
            Ok(Some(upgraded)) => {
                match std::mem::replace(&mut self.phase, Phase::Over) {
                    Phase::Accepting(accept) if accept.is_held() => {
                        self.phase = Phase::Asking(accept);
                        return Ok(Some(Received::UpgradeRequest(upgraded)));
                    }
                    _ => self.begin_socket(),
                }
                Ok(Some(Received::Upgraded(upgraded)))
            }
            Err(error) => {
                self.phase = Phase::Over;
                Err(upgrade_error(&error))
            }
        }
    }

    fn begin_socket(&mut self) {
        self.phase = Phase::Open(socket(self.side, &self.limits));
    }

    /// Passes on the application's verdict. Returns false if no verdict was pending or the connection has ended.
    ///
    /// # Errors
    /// The connection is over: [`end`](Connection::end) it.
    pub(crate) fn judge(&mut self, verdict: Result<(), &Denied>) -> Result<bool> {
        let Phase::Asking(accept) = &mut self.phase else { return Ok(false) };
        if self.ended {
            return Ok(false);
        }
        match verdict {
            Ok(()) => {
                accept.accept(&mut self.own);
                self.begin_socket();
                Ok(true)
            }
            Err(denied) => {
                accept.deny(denied, &mut self.own);
                self.phase = Phase::Over;
                let reason = crate::hint::shown(&denied.reason);
                Err(upgrade_error(&UpgradeError::Denied { reason }))
            }
        }
    }

    /// The next message for the unit that came together with the one before: what
    /// [`receive`](Connection::receive) would give next, for less. None says nothing of what it would give.
    #[inline]
    pub fn receive_more(&mut self) -> Option<Bytes> {
        match &mut self.phase {
            Phase::Open(socket) if self.unit.is_some() && !self.ended => socket.next_whole(),
            _ => None,
        }
    }

    fn receive_open(&mut self, input: &mut &[u8]) -> Result<Option<Received>> {
        let Phase::Open(socket) = &mut self.phase else { return Ok(None) };
        let before = self.own.len();
        let incoming = match socket.read(input, &mut self.own) {
            Ok(None) => return Ok(None),
            Ok(Some(incoming)) => incoming,
            Err(error) => {
                self.phase = Phase::Over;
                return Err(self.fail(error.close_code(), printable(&error.to_string())));
            }
        };
        Ok(Some(match (incoming, self.unit) {
            (Incoming::Binary(message), Some(_)) => Received::Message(message),
            (Incoming::Binary(message), None) => Received::Handshake(Some(message)),
            (Incoming::Text(_), None) => Received::Handshake(None),
            (Incoming::Text(_), Some(_)) => {
                let text = "A text message was received".to_owned();
                return Err(self.fail(close_code::MALFORMED, text));
            }
            (Incoming::Ping(payload), unit) => {
                if unit.is_some() && payload.as_ref() == FENCE {
                    // Behind what was queued before the other side's roles were known to be withdrawn.
                    self.own_last.extend(self.own.drain(before..));
                } else if unit.is_some() && payload.starts_with(ORDER) {
                    self.own_behind.extend(self.own.drain(before..));
                }
                Received::Ping(payload)
            }
            (Incoming::Pong(payload), _) => Received::Pong(payload),
            (Incoming::Close { code, reason }, _) => {
                self.phase = Phase::Over;
                self.close_received = true;
                let text = format!("Socket closed ({code}) {}", printable(&reason));
                let text = text.trim_end().to_owned();
                self.close.get_or_insert((code, reason));
                return Err(Error::new(ErrorKind::ConnectionLost, text));
            }
        }))
    }

    fn fail(&mut self, code: u16, text: String) -> Error {
        self.violated = true;
        self.farewell = Some((code, text.clone()));
        Error::new(ErrorKind::Protocol, text)
    }

    /// Hands a message to the unit.
    ///
    /// # Errors
    /// As [`Unit::receive`]: the connection is over, [`end`](Connection::end) it.
    #[inline]
    pub fn deliver<R>(&mut self, unit: &mut Unit<R>, message: Bytes, now: Moment) -> Result<()> {
        unit.receive(self.id, message, now)
            .map_err(|error| self.fail(close_code::MALFORMED, error.text().to_owned()))
    }

    /// The handshake has failed.
    pub(crate) fn refused(&mut self) {
        self.farewell = Some((close_code::AUTH, String::new()));
    }

    /// Has its socket closed without a wait, once it has ended.
    pub fn leave_at_once(&mut self) {
        self.parting = Parting::LeaveAtOnce;
    }

    /// Whether the other side has broken the protocol.
    pub fn is_violated(&self) -> bool {
        self.violated
    }

    // Output.

    /// Writes frames of the handshake, such as those of [`PeerEffect::Close`](crate::PeerEffect::Close).
    pub fn say(&mut self, frames: &[Vec<u8>]) {
        if let Some(writer) = &mut self.writer {
            for frame in frames {
                writer.binary(&mut self.own, frame.len(), |out| out.extend_from_slice(frame));
            }
        }
    }

    /// The handshake is done: the connection belongs to this unit from now on. Hands over the writer, for
    /// [`Unit::attach`].
    pub(crate) fn belongs_to(&mut self, unit: UnitId) -> FrameWriter {
        self.unit = Some(unit);
        self.parting = Parting::Wait;
        if let Phase::Open(socket) = &mut self.phase {
            socket.set_max_message(self.limits.message_size);
        }
        self.writer.take().unwrap_or_else(|| FrameWriter::new(self.side, self.mask_seed))
    }

    /// What is to be written next; empty when there is nothing. Tell how much of it was
    /// [written](Connection::wrote), then ask again. `unit` is the one that the connection
    /// [belongs to](Connection::unit).
    pub fn output<R>(&mut self, unit: Option<&mut Unit<R>>, now: Moment) -> &[u8] {
        if self.written == self.out.len() {
            self.refill(unit, now);
        }
        self.rest()
    }

    /// What was taken for writing and is not written yet.
    pub fn rest(&self) -> &[u8] {
        &self.out[self.written..]
    }

    /// So many bytes of the [output](Connection::output) have been written.
    pub fn wrote(&mut self, len: usize) {
        self.written = (self.written + len).min(self.out.len());
    }

    /// Takes all that is to be written, in exchange for an empty buffer: for hosts that hand buffers
    /// over. Call [`flushed`](Connection::flushed) when it has been written, before taking more.
    pub fn take_output<R>(&mut self, unit: Option<&mut Unit<R>>, buffer: &mut Vec<u8>) {
        debug_assert!(buffer.is_empty());
        std::mem::swap(&mut self.out, buffer);
        self.gather(unit);
        std::mem::swap(&mut self.out, buffer);
    }

    /// What was [taken](Connection::take_output) has been written.
    pub fn flushed<R>(&mut self, unit: Option<&mut Unit<R>>, now: Moment) {
        self.own_in_flight = 0;
        let wrote = std::mem::take(&mut self.unit_in_flight);
        if let (Some(unit), 1..) = (unit, wrote) {
            unit.written(self.id, wrote, now);
        }
    }

    /// Whether the unit is still to hear that bytes of its own have been written.
    pub(crate) fn has_in_flight(&self) -> bool {
        self.unit_in_flight > 0
    }

    fn refill<R>(&mut self, mut unit: Option<&mut Unit<R>>, now: Moment) {
        self.out.clear();
        self.written = 0;
        if self.out.capacity() > KEEP {
            self.out = Vec::new();
        }
        self.flushed(unit.as_deref_mut(), now);
        self.gather(unit);
    }

    fn gather<R>(&mut self, unit: Option<&mut Unit<R>>) {
        let may_say_last = self.may_say_last(unit.as_deref());
        if let Some(unit) = unit.filter(|_| !self.close_received && !self.ended) {
            unit.take_output(self.id, &mut self.out);
            self.unit_in_flight += self.out.len();
            if unit.is_closing(self.id) {
                self.own_last.clear();
                self.own_behind.clear();
                self.left(unit.closed_with(self.id));
            }
        }
        if may_say_last && !self.own_last.is_empty() {
            self.own_in_flight += self.own_last.len();
            self.out.append(&mut self.own_last);
        }
        if !self.own_behind.is_empty() && !self.behind {
            self.own.append(&mut self.own_behind);
        }
        // Pongs do not wait behind data.
        if !self.own.is_empty() {
            self.own_in_flight += self.own.len();
            if self.out.is_empty() {
                std::mem::swap(&mut self.out, &mut self.own);
            } else {
                self.out.splice(0..0, self.own.drain(..));
            }
        }
    }

    /// Whether what goes behind the unit's queue may be said: not while that is held.
    fn may_say_last<R>(&self, unit: Option<&Unit<R>>) -> bool {
        !self.behind && !unit.is_some_and(|unit| unit.is_held(self.id))
    }

    /// The unit has queued a close frame by itself, such as for a connection that is [replaced](Unit::retire).
    fn left(&mut self, close: Option<(u16, String)>) {
        if self.close.is_some() {
            // Nothing may follow it.
            self.own.clear();
            return;
        }
        self.close = close;
        if let Phase::Open(socket) = &mut self.phase {
            socket.close_sent();
        }
    }

    /// For hosts that parse ahead: whether messages that were received have not been
    /// [delivered](Connection::deliver) yet. What is to be said behind them waits for that.
    pub fn set_behind(&mut self, behind: bool) {
        self.behind = behind;
    }

    /// Whether there is something to write beside what was taken already.
    pub fn has_output<R>(&self, unit: Option<&Unit<R>>) -> bool {
        !self.rest().is_empty()
            || !self.own.is_empty()
            || (!self.own_behind.is_empty() && !self.behind)
            || (!self.own_last.is_empty() && self.may_say_last(unit))
            || unit.is_some_and(|unit| !self.ended && unit.has_output(self.id))
    }

    /// Whether so much waits to be written that the other side has caused and that no limit holds back
    /// (pongs, rejections, answers to streams) that the host reads no more before some of that has been
    /// written. Nobody else would stop one that sends and never reads.
    pub fn is_clogged<R>(&self, unit: Option<&Unit<R>>) -> bool {
        let own = self.own.len() + self.own_last.len() + self.own_behind.len();
        let own = own + self.own_in_flight.saturating_sub(self.written);
        own >= self.limits.owed() || unit.is_some_and(|unit| unit.is_clogged(self.id))
    }

    /// Whether the host may read: not while the connection [is clogged](Connection::is_clogged), nor while
    /// it has brought [more than handlers can take](Unit::is_saturated).
    pub fn may_read<R>(&self, unit: Option<&Unit<R>>) -> bool {
        !matches!(self.phase, Phase::Asking(_))
            && !self.is_clogged(unit)
            && !unit.is_some_and(|unit| unit.is_saturated(self.id))
    }

    // The end.

    /// Ends the connection: takes it out of its unit, with a close frame when `close` has a code and
    /// a reason, or when it has failed in a way that the other side is to hear of. What is left to
    /// say is the [output](Connection::output). Returns the unit that it belonged to, for
    /// [`Peer::connection_closed`](crate::Peer::connection_closed); nothing happens the second time.
    pub fn end<R>(
        &mut self,
        unit: Option<&mut Unit<R>>,
        close: Option<(u16, &str)>,
    ) -> Option<UnitId> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        // Nothing may follow a close frame, which says as much.
        self.own_last.clear();
        self.own_behind.clear();
        let farewell = self.farewell.take();
        let close = close.or(farewell.as_ref().map(|(code, reason)| (*code, reason.as_str())));
        let close = match (close, &unit) {
            (Some(close), Some(unit)) => Some(unit.farewell(self.id, close)),
            _ => close,
        };
        if let Some((code, reason)) = close {
            self.say_close(unit.as_deref(), code, reason);
        }
        if let Some(unit) = unit {
            // Nothing may follow the answer to a close frame.
            if let (Some((code, reason)), false) = (close, self.close_received) {
                if code == close_code::HEARTBEAT {
                    unit.set_aside(self.id);
                }
                if unit.is_delivered(self.id) {
                    self.parting = Parting::Leave;
                }
                unit.close(self.id, code, reason);
                let mut rest = Vec::new();
                unit.take_output(self.id, &mut rest);
                self.own.extend_from_slice(&rest);
            }
            let ended = match self.close_received {
                false => Ended::Lost,
                true if self.close_reason().0 == close_code::DRAINED => Ended::Drained,
                true => Ended::Closed,
            };
            unit.detach(self.id, ended);
        }
        self.unit_in_flight = 0;
        self.unit.take()
    }

    fn say_close<R>(&mut self, unit: Option<&Unit<R>>, code: u16, reason: &str) {
        self.close.get_or_insert_with(|| (code, reason.to_owned()));
        // With a unit, the close frame goes through its queue.
        if unit.is_none()
            && let (Phase::Open(_) | Phase::Over, Some(mut writer)) =
                (&self.phase, self.writer.take())
        {
            writer.close(&mut self.own, code, reason);
        }
        if let Phase::Open(socket) = &mut self.phase {
            // The other side's answer needs none.
            socket.close_sent();
        }
    }

    /// Code and reason of the close frame that was received or sent first; 1006 when there was none.
    pub fn close_reason(&self) -> (u16, &str) {
        self.close.as_ref().map_or((ABNORMAL, ""), |(code, reason)| (*code, reason))
    }
}

/// The WebSocket of a connection, with the limits that hold before its handshake.
fn socket(side: Side, limits: &Limits) -> Box<Socket> {
    let mut socket = Socket::new(side, limits.handshake_message_size);
    socket.skip_controls_but(OURS);
    Box::new(socket)
}

fn upgrade_error(error: &UpgradeError) -> Error {
    let fault = match error {
        UpgradeError::Refused { status, .. } => Some(DialFault::Status(*status)),
        UpgradeError::Tls => Some(DialFault::Tls),
        UpgradeError::Malformed(_) | UpgradeError::BadResponse(_) => Some(DialFault::NoWebSocket),
        _ => None,
    };
    let explained =
        Error::new(ErrorKind::ConnectFailed, printable(&error.to_string())).with_fault(fault);
    match error {
        UpgradeError::ForeignOrigin { .. } => explained.with_hint(crate::hint::FOREIGN_ORIGIN),
        _ => explained,
    }
}
