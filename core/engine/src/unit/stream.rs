//! One stream: the flow control of its reader or its writer.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

use crate::{ConnId, Moment, peer::Dialect};
use crate::{
    error::{Error, ErrorKind},
    wire::Num,
};

/// Stream data goes out in pieces of at most this, so that pings and messages get in between.
pub(super) const MAX_CHUNK: usize = 64 << 10;
/// What a writer may send to an original before it has heard of any quota. An original reader grants
/// only after half of its high-water mark has arrived, and does not tell how much that is.
const BLIND_START: u64 = 256 << 10;
/// A writer that has used up its start and heard of no quota sends this much more, doubled each
/// time: the reader's high-water mark may be larger than the start.
const PROBE: u64 = 64 << 10;
const PROBE_AFTER: Duration = Duration::from_millis(20);
/// No reader has a high-water mark beyond this; without a quota by then, the reader is just slow.
const PROBE_MAX: u64 = 32 << 20;

/// Chunks below this size are copied together while others wait before them. Each by itself would
/// keep alive the buffer that it came in, of up to this size, however few bytes count against the
/// window.
const SMALL: usize = 4 << 10;

/// What reading from a stream gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Chunk {
    /// The next piece.
    Data(Bytes),
    /// Nothing has arrived yet.
    Pending,
    /// The writer finished; there is nothing more.
    End,
    /// The stream broke off; there is nothing more.
    Failed(Error),
}

/// A stream of either kind, and where its frames go.
#[derive(Debug)]
pub(super) struct Stream {
    /// The connection that carries it; none until it is accepted.
    pub(super) conn: Option<ConnId>,
    /// The number that the other end addresses it by.
    pub(super) chan: u64,
    /// The number that the other end is addressed by.
    pub(super) remote: Num,
    /// The correlation of the request that opens it, while that waits.
    pub(super) opening: Option<u64>,
    pub(super) end: End,
}

#[derive(Debug)]
pub(super) enum End {
    Reader(Reader),
    Writer(Writer),
}

impl Stream {
    pub(super) fn fail(&mut self, error: Error) {
        match &mut self.end {
            End::Reader(reader) => reader.fail(error),
            End::Writer(writer) => writer.fail(error),
        }
    }

    pub(super) fn error(&self) -> Option<&Error> {
        match &self.end {
            End::Reader(reader) => reader.error.as_ref(),
            End::Writer(writer) => writer.error.as_ref(),
        }
    }
}

/// The receiving end. It grants as the application consumes.
#[derive(Debug)]
pub(super) struct Reader {
    chunks: VecDeque<Bytes>,
    /// Small chunks that came behind `chunks`.
    tail: Vec<u8>,
    /// Bytes in both.
    buffered: usize,
    window: usize,
    overrun: usize,
    credit: bool,
    /// With credit: what the writer may still send.
    allowance: usize,
    consumed: usize,
    received: usize,
    /// Whether a quota was ever granted.
    granted: bool,
    waiting: bool,
    finished: bool,
    error: Option<Error>,
}

/// What a received chunk leads to.
#[derive(Debug, PartialEq)]
pub(super) enum Accepted {
    Yes,
    /// The stream is over already: drop it.
    Late,
    /// More than the writer was allowed.
    Overrun,
    /// More than there is left for all writers of the unit that do not keep to what they are allowed.
    Crowded,
}

impl Reader {
    pub(super) fn new(window: usize, overrun: usize, dialect: Dialect) -> Reader {
        Reader {
            chunks: VecDeque::new(),
            tail: Vec::new(),
            buffered: 0,
            window,
            overrun: overrun.max(window),
            credit: matches!(dialect, Dialect::Credit { .. }),
            allowance: window,
            consumed: 0,
            received: 0,
            granted: false,
            waiting: false,
            finished: false,
            error: None,
        }
    }

    /// Takes a chunk. With it, at most `spare` bytes more than now may be held beyond the window.
    pub(super) fn chunk(&mut self, chunk: Bytes, spare: usize) -> Accepted {
        if self.finished || self.error.is_some() {
            return Accepted::Late;
        }
        let over = match self.credit {
            true => chunk.len() > self.allowance,
            false => self.buffered + chunk.len() > self.overrun,
        };
        if over {
            return Accepted::Overrun;
        }
        let excess = (self.buffered + chunk.len()).saturating_sub(self.window);
        if excess.saturating_sub(self.excess()) > spare {
            return Accepted::Crowded;
        }
        let waits = self.buffered > 0;
        self.allowance -= chunk.len().min(self.allowance);
        self.buffered += chunk.len();
        self.received += chunk.len();
        if waits && chunk.len() < SMALL {
            self.tail.extend_from_slice(&chunk);
            if self.tail.len() >= MAX_CHUNK {
                self.end_tail();
            }
        } else if !chunk.is_empty() {
            self.end_tail();
            self.chunks.push_back(chunk);
        }
        Accepted::Yes
    }

    /// Bytes that are held beyond the window.
    pub(super) fn excess(&self) -> usize {
        self.buffered.saturating_sub(self.window)
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(std::mem::take(&mut self.tail).into());
        }
    }

    pub(super) fn finish(&mut self) {
        if self.error.is_none() {
            self.finished = true;
        }
    }

    pub(super) fn fail(&mut self, error: Error) {
        if !self.finished && self.error.is_none() {
            self.error = Some(error);
        }
    }

    pub(super) fn read(&mut self) -> Chunk {
        if self.chunks.is_empty() {
            self.end_tail();
        }
        if let Some(chunk) = self.chunks.pop_front() {
            self.buffered -= chunk.len();
            self.consumed += chunk.len();
            self.waiting = false;
            return Chunk::Data(chunk);
        }
        if self.finished {
            return Chunk::End;
        }
        if let Some(error) = &self.error {
            return Chunk::Failed(error.clone());
        }
        self.waiting = true;
        Chunk::Pending
    }

    /// Whether the writer finished and everything was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.finished && self.buffered == 0
    }

    pub(super) fn is_over(&self) -> bool {
        self.finished || self.error.is_some()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// The quota to send now, if any.
    pub(super) fn grant(&mut self, dialect: Dialect) -> Option<u64> {
        if self.is_over() {
            return None;
        }
        let half = (self.window / 2).max(1);
        // A JavaScript writer with a high-water mark of 0 sends nothing before it is granted something.
        let news = self.received > 0 || !self.granted;
        let starving = self.waiting && self.buffered == 0 && news;
        if self.credit {
            let room = self.window.saturating_sub(self.allowance + self.buffered);
            if room == 0 || room < half && self.allowance > 0 {
                return None;
            }
            self.allowance += room;
            self.received = 0;
            self.consumed = 0;
            return Some(room as u64);
        }
        if self.consumed < half && !starving {
            return None;
        }
        let quota = match dialect {
            // It adds what it is told.
            Dialect::Go => self.consumed,
            // It forgets what was left, so tell all that there is room for.
            _ => self.window.saturating_sub(self.buffered),
        };
        self.received = 0;
        self.consumed = 0;
        self.granted |= quota > 0;
        (quota > 0).then_some(quota as u64)
    }
}

/// The sending end.
#[derive(Debug)]
pub(super) struct Writer {
    quota: i64,
    credit: bool,
    granted: bool,
    probe: u64,
    probed: u64,
    starved_since: Option<Moment>,
    /// The application waits to write.
    pub(super) waiting: bool,
    /// It waits for its connection, which knows.
    pub(super) blocked: bool,
    /// The application has ended it; the finish was sent, or will be when it is accepted.
    pub(super) finishing: bool,
    pub(super) finish_sent: bool,
    /// Ended well: the reader has everything, as far as one may wait for it to tell.
    pub(super) done: bool,
    /// The reader said behind the finish that it is through, or that it reads no further.
    pub(super) acknowledged: bool,
    pub(super) error: Option<Error>,
}

impl Writer {
    pub(super) fn new(dialect: Dialect) -> Writer {
        let (quota, credit) = match dialect {
            Dialect::Credit { window } => (window, true),
            _ => (BLIND_START, false),
        };
        Writer {
            quota: i64::try_from(quota).unwrap_or(i64::MAX),
            credit,
            granted: false,
            probe: PROBE,
            probed: 0,
            starved_since: None,
            waiting: false,
            blocked: false,
            finishing: false,
            finish_sent: false,
            done: false,
            acknowledged: false,
            error: None,
        }
    }

    /// How much of `len` bytes may go out now.
    pub(super) fn allowed(&mut self, len: usize, now: Moment) -> usize {
        if self.quota <= 0 {
            self.starved_since.get_or_insert(now);
            return 0;
        }
        self.starved_since = None;
        len.min(MAX_CHUNK).min(usize::try_from(self.quota).unwrap_or(usize::MAX))
    }

    pub(super) fn sent(&mut self, len: usize) {
        self.quota = self.quota.saturating_sub(i64::try_from(len).unwrap_or(i64::MAX));
    }

    pub(super) fn granted(&mut self, quota: u64) {
        self.granted = true;
        self.quota = self.quota.saturating_add(i64::try_from(quota).unwrap_or(i64::MAX));
        if self.quota > 0 {
            self.starved_since = None;
        }
    }

    /// When to send more without having been told to.
    pub(super) fn probe_deadline(&self) -> Option<Moment> {
        let blind = !self.credit && !self.granted && self.waiting && self.probed < PROBE_MAX;
        self.starved_since.filter(|_| blind).map(|since| since + PROBE_AFTER)
    }

    pub(super) fn probe(&mut self, now: Moment) -> bool {
        if self.probe_deadline().is_none_or(|at| now < at) {
            return false;
        }
        self.quota = self.quota.saturating_add(self.probe as i64);
        self.probed += self.probe;
        self.probe *= 2;
        self.starved_since = None;
        true
    }

    pub(super) fn fail(&mut self, error: Error) {
        if !self.done && self.error.is_none() {
            self.error = Some(error);
            self.waiting = false;
        }
    }

    /// The reader sent an error. After the finish an empty one only means that it is through.
    pub(super) fn reader_said(&mut self, reason: &str) {
        self.acknowledged = self.finish_sent;
        if self.finish_sent && reason.is_empty() {
            self.done = true;
        } else if reason.is_empty() {
            self.fail(Error::new(ErrorKind::StreamClosed, "Remote readable stream was closed"));
        } else {
            let text = format!("Remote readable stream sent error: {reason}");
            self.fail(Error::new(ErrorKind::StreamClosed, text));
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.done || self.error.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDIT: Dialect = Dialect::Credit { window: 100 };
    const ORIGINAL: Dialect = Dialect::Original { acknowledges: true };
    const SPARE: usize = 16 << 20;

    fn bytes(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    #[test]
    fn credit_never_exceeds_the_window() {
        let mut reader = Reader::new(100, 100, CREDIT);
        assert_eq!(reader.chunk(bytes(60), SPARE), Accepted::Yes);
        assert_eq!(reader.grant(CREDIT), None, "nothing consumed, nothing granted");
        assert!(matches!(reader.read(), Chunk::Data(_)));
        assert_eq!(reader.grant(CREDIT), Some(60));
        assert_eq!(reader.chunk(bytes(100), SPARE), Accepted::Yes);
        assert_eq!(reader.chunk(bytes(1), SPARE), Accepted::Overrun);
    }

    #[test]
    fn small_credit_is_granted_when_the_writer_has_none() {
        let mut reader = Reader::new(100, 100, CREDIT);
        for _ in 0..10 {
            assert_eq!(reader.chunk(bytes(10), SPARE), Accepted::Yes);
        }
        assert!(matches!(reader.read(), Chunk::Data(_)));
        assert_eq!(reader.grant(CREDIT), Some(10));
    }

    /// The JavaScript writer: a quota replaces what was left, and a chunk may overshoot it.
    #[test]
    fn an_original_writer_with_a_tiny_start_never_waits_forever() {
        for start in [0i64, 1, 1000, 16_384, 1 << 20] {
            let mut reader = Reader::new(64 << 10, 16 << 20, ORIGINAL);
            let (mut quota, mut left) = (start, 1_000_000usize);
            while left > 0 {
                if quota > 0 {
                    let len = left.min(700);
                    assert_eq!(reader.chunk(bytes(len), SPARE), Accepted::Yes);
                    quota -= len as i64;
                    left -= len;
                    continue;
                }
                while matches!(reader.read(), Chunk::Data(_)) {}
                quota = reader.grant(ORIGINAL).expect("the writer starves") as i64;
            }
        }
    }

    /// The JavaScript reader: grants what it received once half of its mark is used up.
    #[test]
    fn an_original_reader_with_any_mark_is_served() {
        for mark in [0i64, 1, 1000, 16_384, 65_536, 8 << 20] {
            let mut writer = Writer::new(ORIGINAL);
            let (mut remain, mut left, mut now) = (mark, 20usize << 20, Moment::EPOCH);
            writer.waiting = true;
            while left > 0 {
                let len = writer.allowed(left, now);
                if len == 0 {
                    let at = writer.probe_deadline().expect("must not wait forever");
                    now = at;
                    assert!(writer.probe(now));
                    continue;
                }
                writer.sent(len);
                left -= len;
                remain -= len as i64;
                if remain as f64 <= mark as f64 * 0.5 {
                    writer.granted((mark - remain) as u64);
                    remain = mark;
                }
            }
            assert!(now < Moment::at(Duration::from_secs(2)), "mark {mark} took {now:?}");
        }
    }

    #[test]
    fn a_reader_with_credit_is_never_probed() {
        let mut writer = Writer::new(CREDIT);
        writer.waiting = true;
        writer.sent(100);
        assert_eq!(writer.allowed(1, Moment::EPOCH), 0);
        assert_eq!(writer.probe_deadline(), None);
    }

    /// One that sends a byte at a time, among other things, would otherwise make an unread stream
    /// hold a thousand times its window.
    #[test]
    fn what_is_unread_takes_no_more_memory_than_it_counts() {
        let mut reader = Reader::new(1 << 20, 1 << 20, ORIGINAL);
        let mut sent = Vec::new();
        let mut buffers = Vec::new();
        for n in 0..200_000 {
            let buffer = Bytes::from(vec![n as u8; 32]);
            let len = if n % 50_000 == 3 { SMALL } else { 1 };
            let chunk = if len == 1 { buffer.slice(7..8) } else { bytes(len) };
            sent.extend_from_slice(&chunk);
            assert_eq!(reader.chunk(chunk, SPARE), Accepted::Yes);
            buffers.push(buffer);
        }
        let held = buffers.iter().filter(|buffer| !buffer.is_unique()).count();
        assert_eq!(held, 1, "only the first needs no copy");
        assert!(reader.chunks.len() < 20, "{} pieces", reader.chunks.len());
        let mut read = Vec::new();
        while let Chunk::Data(chunk) = reader.read() {
            read.extend_from_slice(&chunk);
        }
        assert!(read == sent);
    }

    #[test]
    fn data_before_an_error_is_delivered_first() {
        let mut reader = Reader::new(100, 100, CREDIT);
        reader.chunk(bytes(5), SPARE);
        reader.fail(Error::new(ErrorKind::StreamClosed, "x"));
        assert!(matches!(reader.read(), Chunk::Data(_)));
        assert!(matches!(reader.read(), Chunk::Failed(_)));
        assert!(matches!(reader.read(), Chunk::Failed(_)));
    }
}
