//! The streams of a unit: opening, flow, ending.

use bytes::Bytes;

use super::{
    BULK_MARK, Event, Order, Outgoing, Queued, TimeLimit, Unit,
    question::StreamOffer,
    send::check_names,
    stream::{Accepted, Chunk, End, Reader, Stream, Writer},
    text,
    waiting::Waiting,
};
use crate::{
    Bulkhead, ConnId, Dialect, Fields, Moment, StreamId,
    error::{Error, ErrorKind, Result},
    load::nanos,
    wire::{self, Direction, Frame, MAX_NUMBER, Num, Payload, StreamOp},
};

/// What the other end is told of a reader that is dropped without a reason.
const BROKEN_OFF: &str = "The readable stream was closed";

const OVERRUN: &str = "The writer sent more than it was allowed to";
const CROWDED: &str = "The unit's writers sent much more than they were allowed to";

impl<R> Unit<R> {
    /// Asks for a stream: to read from when `direction` is [`Direction::RequesterReads`], to write
    /// to otherwise. [`Event::Answer`] brings `tag` back when it was accepted or refused; until
    /// then nothing can be written. The stream must be [closed](Unit::close_stream) in the end, even
    /// when it was refused.
    ///
    /// # Errors
    /// As [`request`](Unit::request), and [`ErrorKind::Overloaded`] when too many streams are open.
    pub fn open_stream(
        &mut self,
        direction: Direction,
        outgoing: Outgoing<'_>,
        timeout: impl Into<TimeLimit>,
        now: Moment,
        tag: R,
    ) -> Result<(StreamId, u64)> {
        let Outgoing { role, event, payload, fields, bulkhead, .. } = outgoing;
        check_names(role, event)?;
        self.check_waiting()?;
        self.check_streams()?;
        let entered = bulkhead.map(Bulkhead::enter).transpose()?;
        let limit = timeout.into();
        let prefix = self.prefix(fields, limit.left(now))?;
        let corr = self.free_corr();
        let number = Num::new(corr);
        let (id, chan) = self.free_chan(number)?;
        let request = Frame::StreamRequest {
            direction,
            role: role.into(),
            event: event.into(),
            corr: number,
            chan: Num::padded(chan, self.chan_width(number)),
            payload,
        };
        let Queued { conn, frame } = self.send_prefixed(Order::Any, prefix, &request)?;
        let end = match direction {
            Direction::RequesterReads => self.reader(),
            Direction::RequesterWrites => self.writer(),
        };
        let stream = Stream { conn: None, chan, remote: Num::new(0), opening: Some(corr), end };
        self.insert_stream(id, stream);
        let ((sent, timeout), names) = (self.limit(limit, now), self.asked.number(role, event));
        let (stream, asked) = (Some(id), nanos(now));
        let waiting =
            Waiting { tag, conn, frame, sent, asked, timeout, stream, names, _entered: entered };
        self.wait(corr, waiting);
        Ok((id, corr))
    }

    fn insert_stream(&mut self, id: StreamId, stream: Stream) {
        if self.dialect == Dialect::Go {
            self.go_chans.insert(stream.chan, id);
        }
        self.streams.insert(id.0, stream);
    }

    pub(super) fn remove_stream(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(&id.0)?;
        if self.dialect == Dialect::Go {
            self.go_chans.remove(&stream.chan);
        }
        Some(stream)
    }

    fn reader(&self) -> End {
        let (window, overrun) = (self.limits.stream_window, self.limits.stream_overrun);
        End::Reader(Reader::new(window, overrun, self.dialect))
    }

    fn writer(&self) -> End {
        End::Writer(Writer::new(self.dialect))
    }

    pub(super) fn check_streams(&self) -> Result<()> {
        if self.streams.len() < self.limits.streams {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Overloaded, "Too many streams with the unit"))
    }

    /// The Go original reads the payload of an acceptance from the right place only when both
    /// numbers have the same length.
    fn chan_width(&self, corr: Num) -> u8 {
        if self.dialect == Dialect::Go { corr.width() } else { 1 }
    }

    /// An id for a new stream, and the number that the other end is to address it by: the same but for the
    /// Go original. That counts from 1 and is answered with its own numbers, so ours for it come from the
    /// other end of the range that the correlation's length leaves, and are soon used again.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] when all of the range are in use: there are only 255 as long as the
    /// correlations are that small.
    fn free_chan(&mut self, corr: Num) -> Result<(StreamId, u64)> {
        if self.dialect == Dialect::Go {
            let last = match corr.width() {
                0..=6 => (1 << (8 * u64::from(corr.width()))) - 1,
                _ => MAX_NUMBER,
            };
            let free = (1..=last).rev().find(|chan| !self.go_chans.contains_key(chan));
            let chan = free.ok_or_else(|| {
                Error::new(ErrorKind::Overloaded, "Too many streams with the unit")
            })?;
            return Ok((self.next_stream(), chan));
        }
        let id = self.next_stream();
        Ok((id, id.0))
    }

    fn next_stream(&mut self) -> StreamId {
        loop {
            self.last_stream = self.last_stream % 0xffff_ffff + 1;
            let id = self.last_stream;
            if !self.streams.contains_key(&id) && !self.unread.contains_key(&id) {
                return StreamId(id);
            }
        }
    }

    /// Opens a stream that the remote peer asked for, and tells it.
    pub(super) fn accept_stream(
        &mut self,
        offer: StreamOffer,
        payload: Payload<'_>,
        fields: Option<&Fields>,
    ) -> Result<StreamId> {
        self.check_streams()?;
        let at = match self.dialect {
            // Its streams belong to the connection on which they are accepted.
            Dialect::Credit { .. } => self.back(offer.conn),
            _ => self.at(offer.conn).filter(|at| !self.links[*at].closing),
        };
        let at = at.ok_or_else(|| Error::new(ErrorKind::ConnectionLost, "Socket closed"))?;
        let (id, chan) = match self.dialect {
            Dialect::Go if self.go_chans.contains_key(&offer.chan.value()) => {
                return Err(Error::new(ErrorKind::Overloaded, "The stream's number is in use"));
            }
            Dialect::Go => (self.next_stream(), offer.chan.value()),
            _ => self.free_chan(offer.corr)?,
        };
        let (corr, number) = match self.dialect {
            Dialect::Go => {
                let width = offer.corr.width().max(Num::new(chan).width());
                (Num::padded(offer.corr.value(), width), Num::padded(chan, width))
            }
            _ => (offer.corr, Num::new(chan)),
        };
        let frame = Frame::StreamAccept { corr, chan: number, payload };
        let prefix = self.prefix(fields, None).unwrap_or_default();
        let len = prefix.len() + frame.encoded_len();
        if len > self.limits.message_size {
            return Err(Error::new(ErrorKind::TooLarge, format!("The answer has {len} bytes")));
        }
        let end = match offer.direction {
            Direction::RequesterReads => self.writer(),
            Direction::RequesterWrites => self.reader(),
        };
        let conn = Some(self.links[at].conn);
        let stream = Stream { conn, chan, remote: offer.chan, opening: None, end };
        self.insert_stream(id, stream);
        self.push_owed_with(at, prefix, &frame);
        Ok(id)
    }

    pub(super) fn refuse_stream(
        &mut self,
        offer: StreamOffer,
        reason: &str,
        fields: Option<&Fields>,
    ) -> Result<Queued> {
        // Escaped, a byte may take six.
        let reason = wire::cut(reason, self.longest_reason() / 6);
        let reason = serde_json::json!({ "data": reason }).to_string();
        let chan = Num::padded(0, self.chan_width(offer.corr));
        let frame = Frame::StreamRefuse { corr: offer.corr, chan, payload: text(&reason) };
        self.send_refusal(offer.conn, fields, &frame)
    }

    /// Takes the next piece out of a reader.
    pub fn read(&mut self, id: StreamId) -> Chunk {
        let Some(Stream { end: End::Reader(reader), opening, .. }) = self.streams.get_mut(&id.0)
        else {
            return Chunk::Failed(not_open());
        };
        let opening = opening.is_some();
        let excess = reader.excess();
        let chunk = reader.read();
        self.overrun -= excess - reader.excess();
        if !opening {
            self.grant(id);
        }
        chunk
    }

    fn grant(&mut self, id: StreamId) {
        let dialect = self.dialect;
        let Some(stream) = self.streams.get_mut(&id.0) else { return };
        let End::Reader(reader) = &mut stream.end else { return };
        let (conn, chan) = (stream.conn, stream.remote);
        if let Some(quota) = reader.grant(dialect) {
            self.stream_frame(conn, chan, StreamOp::Quota(Num::new(quota)));
        }
    }

    fn stream_frame(&mut self, conn: Option<ConnId>, chan: Num, op: StreamOp<'_>) {
        let at = conn.and_then(|conn| self.at(conn)).filter(|at| !self.links[*at].closing);
        if let Some(at) = at {
            self.push_owed(at, &Frame::Stream { chan, op });
        }
    }

    /// Sends as much of `bytes` as is allowed now, at most 64 KiB, and returns how much that was.
    /// Zero for bytes that are not empty means to wait for [`Event::Stream`].
    ///
    /// # Errors
    /// The error that the stream broke with; [`ErrorKind::StreamClosed`] after
    /// [`finish`](Unit::finish).
    pub fn write(&mut self, id: StreamId, bytes: &[u8], now: Moment) -> Result<usize> {
        let Some(Stream { end: End::Writer(writer), conn, remote, .. }) =
            self.streams.get_mut(&id.0)
        else {
            return Err(not_open());
        };
        if let Some(error) = &writer.error {
            return Err(error.clone());
        }
        if writer.finishing {
            return Err(Error::new(ErrorKind::StreamClosed, "write after end"));
        }
        let Some(conn) = *conn else {
            writer.waiting = true;
            return Ok(0);
        };
        let chan = *remote;
        let Some(at) = self.links.iter().position(|link| link.conn == conn && !link.closing) else {
            return Err(Error::new(ErrorKind::ConnectionLost, "Socket closed"));
        };
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.links[at].queued() >= BULK_MARK {
            if !std::mem::replace(&mut writer.blocked, true) {
                self.links[at].blocked.push(id);
            }
            return Ok(0);
        }
        let len = writer.allowed(bytes.len(), now);
        writer.waiting = len == 0;
        if len > 0 {
            writer.sent(len);
            self.stats.stream_bytes_sent += len as u64;
            self.push(at, &Frame::Stream { chan, op: StreamOp::Chunk(&bytes[..len]) });
        }
        Ok(len)
    }

    /// Ends a writer: the reader will come to the end behind what was written. See
    /// [`finished`](Unit::finished) for when it has. Returns the connection that the end was queued
    /// on; none as long as the stream is not accepted.
    ///
    /// # Errors
    /// The error that the stream broke with.
    pub fn finish(&mut self, id: StreamId) -> Result<Option<ConnId>> {
        let Some(Stream { end: End::Writer(writer), conn, remote, .. }) =
            self.streams.get_mut(&id.0)
        else {
            return Err(not_open());
        };
        if let Some(error) = &writer.error {
            return Err(error.clone());
        }
        writer.finishing = true;
        let (conn, chan) = (*conn, *remote);
        if writer.finish_sent || conn.is_none() {
            return Ok(conn);
        }
        writer.finish_sent = true;
        // Only a peer that grants credit tells when its reader is through.
        writer.done |= !matches!(self.dialect, Dialect::Credit { .. });
        self.stream_frame(conn, chan, StreamOp::Finish);
        Ok(conn)
    }

    /// The error that a stream broke with, at either end of it. What a reader received before can
    /// still be [read](Unit::read).
    pub fn failure(&self, id: StreamId) -> Option<&Error> {
        self.streams.get(&id.0)?.error()
    }

    /// Whether a writer has ended: none while it has not, then how.
    pub fn finished(&self, id: StreamId) -> Option<Result<()>> {
        match self.streams.get(&id.0) {
            Some(Stream { end: End::Writer(writer), .. }) => match &writer.error {
                Some(error) => Some(Err(error.clone())),
                None => writer.done.then_some(Ok(())),
            },
            _ => Some(Err(not_open())),
        }
    }

    /// Ends a stream from this side, whatever its state. A reader that has not come to the end and a
    /// writer that was not finished break off: the other end gets `reason`. One that was finished
    /// still counts as [busy](Unit::busy) until its reader is through, if it is one that says so.
    pub fn close_stream(&mut self, id: StreamId, reason: &str) {
        let Some(stream) = self.remove_stream(id) else { return };
        if let End::Reader(reader) = &stream.end {
            self.overrun -= reader.excess();
        }
        if let Some(corr) = stream.opening {
            self.abandon(corr);
            return;
        }
        self.note_unread(id, &stream);
        let credit = matches!(self.dialect, Dialect::Credit { .. });
        let op = match &stream.end {
            End::Reader(reader) if reader.is_at_end() => match credit {
                true => StreamOp::Error("".into()),
                false => return,
            },
            End::Reader(reader) if reader.has_failed() => return,
            // An original that has finished waits for nothing.
            End::Reader(reader) if reader.is_over() && !credit => return,
            // The writer may have finished meanwhile: an empty reason would tell it that everything
            // was read.
            End::Reader(_) if credit && reason.is_empty() => StreamOp::Error(BROKEN_OFF.into()),
            End::Writer(writer) if writer.is_over() || writer.finish_sent => return,
            _ => StreamOp::Error(reason.into()),
        };
        self.stream_frame(stream.conn, stream.remote, op);
    }

    fn note_unread(&mut self, id: StreamId, stream: &Stream) {
        let (Dialect::Original { acknowledges: true }, End::Writer(writer), Some(conn)) =
            (self.dialect, &stream.end, stream.conn)
        else {
            return;
        };
        let told = writer.acknowledged || writer.error.is_some();
        if !writer.finish_sent || told || self.at(conn).is_none() {
            return;
        }
        // An application that never reads to the end leaves its stream here for good.
        if self.unread.len() >= self.limits.streams {
            self.unread.pop_first();
        }
        self.unread.insert(id.0, conn);
    }

    /// The remote peer accepted a stream under the number `chan`.
    pub(super) fn stream_opened(&mut self, conn: ConnId, id: StreamId, chan: Num) -> Result<()> {
        let Some(stream) = self.streams.get_mut(&id.0) else { return Err(not_open()) };
        stream.conn = Some(conn);
        stream.remote = chan;
        stream.opening = None;
        if let End::Writer(Writer { finishing: true, .. }) = stream.end {
            self.finish(id)?;
        }
        self.grant(id);
        Ok(())
    }

    /// The stream that the remote addresses by a number. The Go original uses its own.
    fn addressed(&self, conn: ConnId, chan: Num) -> Option<StreamId> {
        if self.dialect != Dialect::Go {
            return self.streams.contains_key(&chan.value()).then_some(StreamId(chan.value()));
        }
        let by_own =
            |stream: &Stream| stream.conn == Some(conn) && stream.remote.value() == chan.value();
        let own = self.streams.iter().find(|(_, stream)| by_own(stream));
        own.map(|(id, _)| StreamId(*id)).or_else(|| self.go_chans.get(&chan.value()).copied())
    }

    /// A frame for a stream came on a connection.
    pub(super) fn stream_op(&mut self, conn: ConnId, chan: Num, op: StreamOp<'_>, message: &Bytes) {
        let Some(id) = self.addressed(conn, chan) else {
            if matches!(op, StreamOp::Error(_)) && self.unread.get(&chan.value()) == Some(&conn) {
                self.unread.remove(&chan.value());
            }
            return;
        };
        let Some(stream) = self.streams.get_mut(&id.0) else { return };
        if stream.conn != Some(conn) {
            return;
        }
        let mut broken = None;
        match (&mut stream.end, op) {
            (End::Reader(reader), StreamOp::Chunk(bytes)) => {
                self.stats.stream_bytes_received += bytes.len() as u64;
                let excess = reader.excess();
                let spare = self.limits.overrun_per_unit.saturating_sub(self.overrun);
                broken = match reader.chunk(message.slice_ref(bytes), spare) {
                    Accepted::Yes | Accepted::Late => None,
                    Accepted::Overrun => Some((ErrorKind::Protocol, OVERRUN)),
                    Accepted::Crowded => Some((ErrorKind::Overloaded, CROWDED)),
                };
                self.overrun += reader.excess() - excess;
            }
            (End::Reader(reader), StreamOp::Finish) => reader.finish(),
            (End::Reader(reader), StreamOp::Error(reason)) => {
                let text = match reason.is_empty() {
                    true => "Remote writable stream was closed".to_owned(),
                    false => format!("Remote writable stream emitted error: {reason}"),
                };
                reader.fail(Error::new(ErrorKind::StreamClosed, text));
            }
            (End::Writer(writer), StreamOp::Quota(quota)) => writer.granted(quota.value()),
            (End::Writer(writer), StreamOp::Error(reason)) => writer.reader_said(&reason),
            _ => return,
        }
        if let Some((kind, reason)) = broken {
            stream.fail(Error::new(kind, reason));
            let (conn, remote) = (stream.conn, stream.remote);
            self.stream_frame(conn, remote, StreamOp::Error(reason.into()));
        }
        // It may have used up the last quota although the application has read more by now.
        self.grant(id);
        self.events.push(Event::Stream(id));
    }

    /// A peer accepted a stream that nobody waits for any more: it is told so, when it is one that
    /// can stand it.
    pub(super) fn stream_opened_late(&mut self, conn: ConnId, chan: Num) {
        if let Dialect::Credit { .. } = self.dialect {
            let reason = StreamOp::Error("Request was abandoned".into());
            self.stream_frame(Some(conn), chan, reason);
        }
    }

    /// The remote peer refused a stream, or did not answer in time.
    pub(super) fn stream_not_opened(&mut self, id: StreamId, error: &Error) {
        if let Some(stream) = self.streams.get_mut(&id.0) {
            stream.opening = None;
            stream.fail(error.clone());
        }
    }

    /// The connection of these streams is gone.
    pub(super) fn fail_streams(&mut self, conn: ConnId) {
        let mut failed = Vec::new();
        for (id, stream) in &mut self.streams {
            if stream.conn == Some(conn) {
                stream.fail(Error::new(ErrorKind::ConnectionLost, "Socket closed"));
                failed.push(StreamId(*id));
            }
        }
        self.unread.retain(|_, carrier| *carrier != conn);
        failed.sort_unstable();
        self.events.extend(failed.into_iter().map(Event::Stream));
    }

    /// A connection has room for stream data again.
    pub(super) fn unblock_streams(&mut self, at: usize) {
        for id in std::mem::take(&mut self.links[at].blocked) {
            if let Some(Stream { end: End::Writer(writer), .. }) = self.streams.get_mut(&id.0) {
                writer.blocked = false;
            }
            self.events.push(Event::Stream(id));
        }
    }

    /// When [`probe_streams`](Unit::probe_streams) is to be called next. Only the originals are
    /// probed: others need not be searched.
    pub(super) fn probe_deadline(&self) -> Option<Moment> {
        if matches!(self.dialect, Dialect::Credit { .. }) {
            return None;
        }
        let probes = self.streams.values().filter_map(|stream| match &stream.end {
            End::Writer(writer) => writer.probe_deadline(),
            End::Reader(_) => None,
        });
        probes.min()
    }

    /// Lets writers go on that have waited for a first quota long enough.
    pub(super) fn probe_streams(&mut self, now: Moment) {
        if matches!(self.dialect, Dialect::Credit { .. }) {
            return;
        }
        for (id, stream) in &mut self.streams {
            if let End::Writer(writer) = &mut stream.end
                && writer.probe(now)
            {
                self.events.push(Event::Stream(StreamId(*id)));
            }
        }
    }
}

fn not_open() -> Error {
    Error::new(ErrorKind::StreamClosed, "The stream is closed")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        Budget, Limits, UnitInfo,
        ws::{FrameWriter, Side},
    };

    const CONN: ConnId = ConnId(0);

    /// Three streams that an original writes to, and a unit that holds 100 bytes beyond their windows of 10.
    fn unit() -> (Unit<()>, [StreamId; 3]) {
        let limits = Limits {
            stream_window: 10,
            stream_overrun: 80,
            overrun_per_unit: 100,
            ..Limits::default()
        };
        let mut unit = Unit::new(
            UnitInfo::example(Dialect::Original { acknowledges: true }),
            Arc::new(limits),
            Budget::default(),
            Arc::default(),
        );
        let writer = FrameWriter::new(Side::Server, 1);
        unit.attach(CONN, writer, crate::Extensions::NONE, Moment::EPOCH);
        let direction = Direction::RequesterWrites;
        let streams = [1, 2, 3].map(|n| {
            let offer = StreamOffer {
                conn: CONN,
                corr: Num::new(n),
                chan: Num::new(n),
                direction,
                due: None,
            };
            unit.accept_stream(offer, Payload::NULL, None).unwrap()
        });
        (unit, streams)
    }

    fn chunk(unit: &mut Unit<()>, stream: StreamId, len: usize) {
        let bytes = vec![7; len];
        let frame = Frame::Stream { chan: Num::new(stream.0), op: StreamOp::Chunk(&bytes) };
        let mut message = Vec::new();
        frame.encode(&mut message);
        unit.receive(CONN, message.into(), Moment::EPOCH).unwrap();
    }

    fn failure(unit: &Unit<()>, stream: StreamId) -> Option<ErrorKind> {
        unit.failure(stream).map(Error::kind)
    }

    #[test]
    fn what_all_streams_hold_beyond_their_windows_is_bounded() {
        let (mut unit, [first, second, third]) = unit();
        chunk(&mut unit, first, 70);
        chunk(&mut unit, second, 50);
        assert_eq!(unit.overrun, 100);
        chunk(&mut unit, third, 10);
        assert_eq!(failure(&unit, third), None, "its window is its own");
        chunk(&mut unit, third, 1);
        assert_eq!(failure(&unit, third), Some(ErrorKind::Overloaded));
        assert!(matches!(unit.read(third), Chunk::Data(held) if held.len() == 10));
        assert_eq!((failure(&unit, first), failure(&unit, second)), (None, None));
    }

    #[test]
    fn what_is_read_or_closed_is_held_no_more() {
        let (mut unit, [first, second, third]) = unit();
        chunk(&mut unit, first, 70);
        chunk(&mut unit, second, 50);
        assert!(matches!(unit.read(first), Chunk::Data(held) if held.len() == 70));
        assert_eq!(unit.overrun, 40);
        chunk(&mut unit, third, 70);
        assert_eq!((failure(&unit, third), unit.overrun), (None, 100));
        unit.close_stream(third, "");
        unit.close_stream(second, "");
        assert_eq!(unit.overrun, 0);
        chunk(&mut unit, first, 81);
        assert_eq!(failure(&unit, first), Some(ErrorKind::Protocol));
    }
}
