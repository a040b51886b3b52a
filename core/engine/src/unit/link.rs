//! One connection of a unit: its output queue and its heartbeat.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use super::{
    Moves,
    drain::FENCE,
    retire::{Hold, ORDER, Retiring},
};
use crate::ws::{FrameWriter, messages};
use crate::{
    CLOSE_TIMEOUT, ConnId, ConnectionStats, Extensions, Moment, RequestId, StreamId, error::Error,
};

const PING_INTERVAL: Duration = Duration::from_secs(5);
const PONG_TIMEOUT: Duration = Duration::from_secs(2);
/// While bytes still go out, a pong may take longer, but not longer than this after the last byte
/// that came in: what the operating system takes from us may never leave it.
const SILENCE: Duration = Duration::from_secs(20);
/// A host that calls this much too late was itself not running: it must get a chance to read what
/// has arrived meanwhile before anyone is declared dead.
const STALL: Duration = Duration::from_millis(500);
/// A queue that has had no room for this long belongs to a slow consumer.
const SLOW: Duration = Duration::from_secs(2);
/// An output buffer of an idle connection that is larger than this is given back.
const KEEP: usize = 4 << 10;

/// What the heartbeat wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Nothing,
    Ping,
    Dead,
}

/// A message that waits for handlers to end, and until when it is worth beginning.
pub(super) struct Postponed {
    pub(super) message: Bytes,
    pub(super) due: Option<Moment>,
    /// The connection that it was received on, which may be gone.
    pub(super) conn: ConnId,
    /// Its place among all that were postponed, on all connections.
    pub(super) place: u64,
    /// The requester has given it up.
    pub(super) given_up: bool,
}

pub(super) struct Link {
    pub(super) conn: ConnId,
    pub(super) writer: FrameWriter,
    /// Whole WebSocket frames, to be written in order.
    pub(super) out: Vec<u8>,
    /// The same, where it is not to be written any more.
    aside: Vec<u8>,
    /// The places of messages in these that may not go to any unit.
    pinned: Vec<(u64, Moves)>,
    /// Bytes that the host has taken and not yet written.
    in_flight: usize,
    /// Bytes that were queued whatever the limits, in `out` and in what the host has taken.
    owed: usize,
    owed_in_flight: usize,
    /// Likewise, bytes of answers. Beyond a limit, further answers wait outside the queue.
    answers: usize,
    answers_in_flight: usize,
    /// Whether the host knows that there is output.
    pub(super) announced: bool,
    /// No more frames: a close frame was queued, with this code and reason.
    pub(super) closing: bool,
    pub(super) said: Option<(u16, String)>,
    /// It is being replaced by another one.
    pub(super) retiring: Option<Retiring>,
    /// What is queued is held until all that was sent in order on another connection has arrived.
    pub(super) behind: Option<Hold>,
    /// Stream writers that wait for room.
    pub(super) blocked: Vec<StreamId>,
    /// Messages for handlers that came while too many were running, and their bytes.
    pub(super) postponed: VecDeque<Postponed>,
    pub(super) postponed_bytes: usize,
    /// The places of postponed requests that may be given up, by correlation. Not hashed: the remote peer
    /// chooses the numbers.
    pub(super) revocable: BTreeMap<RequestId, u64>,
    /// The last announcement of roles, while it waits for its turn.
    pub(super) roles: Option<Bytes>,
    /// The error of a deferred announcement that turned out to be malformed.
    pub(super) broken: Option<Error>,
    /// Those in force.
    pub(super) extensions: Extensions,
    /// How many frames the host has taken, to be written. What is behind them was surely not sent.
    taken: u64,
    /// Whether the answer to the ping is awaited behind which nothing comes that was sent before the roles
    /// were withdrawn.
    pub(super) fenced: bool,
    /// How many frames had been queued before that ping.
    frames_at_fence: Option<u64>,
    full_since: Option<Moment>,
    full_reported: bool,
    next_ping: Moment,
    /// When the last ping was sent, until a pong comes: any, as it shows that somebody is there.
    ping_sent: Option<Moment>,
    /// Likewise, until its own pong comes.
    measured: Option<Moment>,
    /// Pings sent, but for the application's.
    pings: u64,
    /// When something was last heard, or a byte last written.
    alive: Moment,
    /// When something was last heard.
    heard: Moment,
    /// Not declared dead before this.
    spared_until: Moment,
    /// Ordered frames sent: in all, in front of the last question whether they have arrived, and those that have.
    pub(super) ordered: u64,
    ordered_asked: u64,
    ordered_arrived: u64,
    frames_at_ping: u64,
    stats: ConnectionStats,
}

impl Link {
    pub(super) fn new(
        conn: ConnId,
        writer: FrameWriter,
        extensions: Extensions,
        now: Moment,
    ) -> Link {
        Link {
            conn,
            writer,
            out: Vec::new(),
            aside: Vec::new(),
            pinned: Vec::new(),
            in_flight: 0,
            owed: 0,
            owed_in_flight: 0,
            answers: 0,
            answers_in_flight: 0,
            announced: false,
            closing: false,
            said: None,
            retiring: None,
            behind: None,
            blocked: Vec::new(),
            postponed: VecDeque::new(),
            postponed_bytes: 0,
            revocable: BTreeMap::new(),
            roles: None,
            broken: None,
            extensions,
            taken: 0,
            fenced: false,
            frames_at_fence: None,
            full_since: None,
            full_reported: false,
            next_ping: now + PING_INTERVAL,
            ping_sent: None,
            measured: None,
            pings: 0,
            alive: now,
            heard: now,
            spared_until: now,
            ordered: 0,
            ordered_asked: 0,
            ordered_arrived: 0,
            frames_at_ping: 0,
            stats: ConnectionStats {
                conn,
                frames_sent: 0,
                frames_received: 0,
                bytes_sent: 0,
                bytes_received: 0,
                queued: 0,
                round_trip: None,
            },
        }
    }

    /// Keeps a message for later, behind all that was kept before; `corr` is that of a request.
    pub(super) fn postpone(&mut self, postponed: Postponed, corr: Option<u64>) {
        if let Some(corr) = corr
            && self.extensions.cancel > 0
        {
            let request = RequestId { conn: postponed.conn, corr };
            self.revocable.insert(request, postponed.place);
        }
        self.postponed_bytes += postponed.message.len();
        self.postponed.push_back(postponed);
    }

    /// Takes the oldest message that was kept.
    pub(super) fn take_postponed(&mut self) -> Option<Postponed> {
        let postponed = self.postponed.pop_front()?;
        self.postponed_bytes -= postponed.message.len();
        Some(postponed)
    }

    /// Takes all that was kept, with what of it may be given up.
    pub(super) fn release_postponed(&mut self) -> (VecDeque<Postponed>, BTreeMap<RequestId, u64>) {
        self.postponed_bytes = 0;
        (std::mem::take(&mut self.postponed), std::mem::take(&mut self.revocable))
    }

    /// Keeps what another connection has kept, in the order of the places.
    pub(super) fn adopt_postponed(
        &mut self,
        (postponed, revocable): (VecDeque<Postponed>, BTreeMap<RequestId, u64>),
    ) {
        self.postponed_bytes += postponed.iter().map(|one| one.message.len()).sum::<usize>();
        self.postponed.extend(postponed);
        self.postponed.make_contiguous().sort_unstable_by_key(|postponed| postponed.place);
        self.revocable.extend(revocable);
    }

    /// The request that was kept at this place is begun or rejected.
    pub(super) fn settle_postponed(&mut self, request: RequestId, place: u64) {
        if self.revocable.get(&request) == Some(&place) {
            self.revocable.remove(&request);
        }
    }

    /// Notes that a request is given up, if it was kept.
    pub(super) fn give_up_postponed(&mut self, request: RequestId) -> bool {
        let Some(place) = self.revocable.remove(&request) else { return false };
        if let Ok(at) = self.postponed.binary_search_by_key(&place, |postponed| postponed.place) {
            self.postponed[at].given_up = true;
        }
        true
    }

    /// Frames that were queued.
    #[inline]
    pub(super) fn frames(&self) -> u64 {
        self.stats.frames_sent
    }

    /// Those of them that the host has taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes that are not written yet.
    #[inline]
    pub(super) fn queued(&self) -> usize {
        self.out.len() + self.aside.len() + self.in_flight
    }

    /// Notes where the message queued last may go: not to any unit.
    pub(super) fn pin(&mut self, moves: Moves) {
        self.pinned.push((self.stats.frames_sent, moves));
    }

    /// What is queued is not to be written: nobody reads it.
    pub(super) fn set_aside(&mut self) {
        if self.aside.is_empty() {
            self.aside = std::mem::take(&mut self.out);
        }
    }

    /// The frames that were never taken and begin with a byte that `wanted` likes, and where each may go.
    pub(super) fn unsent(&self, wanted: fn(u8) -> bool) -> impl Iterator<Item = (Bytes, Moves)> {
        let queued = if self.aside.is_empty() { &self.out } else { &self.aside };
        let moves = |frame| match self.pinned.binary_search_by_key(&frame, |(frame, _)| *frame) {
            Ok(at) => self.pinned[at].1,
            Err(_) => Moves::ToAnyUnit,
        };
        let frames = messages(queued, wanted).zip(self.taken + 1..);
        frames.filter_map(move |(message, frame)| Some((message?, moves(frame))))
    }

    /// Notes that so many of the bytes queued last were queued whatever the limits.
    pub(super) fn owe(&mut self, bytes: usize) {
        self.owed += bytes;
    }

    /// Bytes that were queued whatever the limits and are not written yet.
    pub(super) fn owed(&self) -> usize {
        self.owed + self.owed_in_flight
    }

    /// Notes that so many of the bytes queued last were an answer.
    #[inline]
    pub(super) fn answer(&mut self, bytes: usize) {
        self.answers += bytes;
    }

    /// Bytes of answers that are not written yet.
    pub(super) fn answers(&self) -> usize {
        self.answers + self.answers_in_flight
    }

    /// Whether there is something that the host may take.
    pub(super) fn has_output(&self) -> bool {
        !self.out.is_empty() && self.behind.is_none()
    }

    /// Appends one frame of exactly `len` bytes. Returns the bytes it added to the queue.
    #[inline]
    pub(super) fn push(&mut self, len: usize, body: impl FnOnce(&mut Vec<u8>)) -> usize {
        let before = self.out.len();
        self.writer.binary(&mut self.out, len, body);
        let added = self.out.len() - before;
        self.stats.frames_sent += 1;
        self.stats.bytes_sent += added as u64;
        added
    }

    pub(super) fn close(&mut self, code: u16, reason: &str) {
        if !self.closing {
            self.closing = true;
            self.behind = None;
            self.announced = false;
            self.said = Some((code, reason.to_owned()));
            self.writer.close(&mut self.out, code, reason);
        }
    }

    /// Appends a ping, unless the connection is closing. Returns the bytes it added to the queue.
    pub(super) fn ping(&mut self, payload: &[u8]) -> usize {
        let before = self.out.len();
        if !self.closing {
            self.writer.ping(&mut self.out, payload);
        }
        self.out.len() - before
    }

    /// Sends the ping behind which nothing comes that was sent before the roles were withdrawn. Returns the bytes it
    /// added to the queue.
    pub(super) fn fence(&mut self) -> usize {
        // Of two pongs, nobody can say which ping it is for.
        if !std::mem::replace(&mut self.fenced, true) {
            self.frames_at_fence = Some(self.stats.frames_sent);
        }
        self.ping(FENCE)
    }

    /// Holds what is queued, now and from now on.
    pub(super) fn hold(&mut self, behind: Hold) {
        self.behind = Some(behind);
        // A ping may be queued, too.
        self.ping_sent = None;
        self.measured = None;
    }

    /// Sends what was held. The other side is to show at once that it is there.
    pub(super) fn release(&mut self, now: Moment) {
        self.behind = None;
        self.announced = false;
        self.next_ping = now;
    }

    /// Asks whether all has arrived that was sent in order, if that is not known. Returns the bytes it added to the
    /// queue.
    pub(super) fn ask_whether_arrived(&mut self) -> usize {
        self.ordered_asked = self.ordered;
        match self.has_arrived() {
            true => 0,
            false => self.ping(&[ORDER, &self.ordered.to_be_bytes()].concat()),
        }
    }

    /// Whether that was asked since the last of them was sent.
    pub(super) fn has_asked(&self) -> bool {
        self.ordered_asked == self.ordered
    }

    /// Whether the other side has said that all has arrived that was sent in order. When it answers any other ping, it
    /// may have messages that it has read and not given to handlers.
    #[inline]
    pub(super) fn has_arrived(&self) -> bool {
        self.ordered == self.ordered_arrived
    }

    /// Whether the other side has said, with that ping's pong, that it has all that was ever sent to it.
    pub(super) fn is_delivered(&self) -> bool {
        !self.fenced && self.frames_at_fence == Some(self.stats.frames_sent)
    }

    /// Swaps the queue for the host's empty buffer.
    pub(super) fn take(&mut self, buffer: &mut Vec<u8>) {
        self.announced = false;
        if self.behind.is_some() {
            return;
        }
        if self.aside.is_empty() {
            self.taken = self.stats.frames_sent;
            self.pinned.clear();
        }
        std::mem::swap(&mut self.out, buffer);
        self.in_flight += buffer.len();
        self.owed_in_flight += std::mem::take(&mut self.owed);
        self.answers_in_flight += std::mem::take(&mut self.answers);
    }

    pub(super) fn written(&mut self, bytes: usize, now: Moment) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        if self.in_flight == 0 {
            self.owed_in_flight = 0;
            self.answers_in_flight = 0;
        }
        self.writing(now);
    }

    /// A byte was written at this time: not necessarily later than what was heard last.
    pub(super) fn writing(&mut self, at: Moment) {
        self.alive = self.alive.max(at);
    }

    #[inline]
    pub(super) fn reading(&mut self, now: Moment) {
        self.alive = now;
        self.heard = now;
    }

    #[inline]
    pub(super) fn heard(&mut self, bytes: usize, now: Moment) {
        self.stats.frames_received += 1;
        self.stats.bytes_received += bytes as u64;
        self.reading(now);
    }

    /// A pong came: for a ping of the heartbeat, or of the application.
    pub(super) fn pong(&mut self, payload: &[u8], now: Moment) {
        self.reading(now);
        self.ping_sent = None;
        self.fenced &= payload != FENCE;
        if let Some(ordered) = payload.strip_prefix(ORDER).and_then(|count| count.try_into().ok()) {
            self.ordered_arrived = u64::from_be_bytes(ordered).min(self.ordered);
        }
        if payload == self.beat_payload()
            && let Some(sent) = self.measured.take()
        {
            self.stats.round_trip = Some(now.since(sent));
        }
    }

    /// What the last ping of the heartbeat carries, so that its pong is known among those for the
    /// application's pings.
    fn beat_payload(&self) -> [u8; 12] {
        let mut payload = *b"beat        ";
        payload[4..].copy_from_slice(&self.pings.to_be_bytes());
        payload
    }

    fn pong_deadline(&self) -> Option<Moment> {
        self.ping_sent.map(|sent| {
            let late = sent.max(self.alive) + PONG_TIMEOUT;
            late.min(sent.max(self.heard) + SILENCE).max(self.spared_until)
        })
    }

    pub(super) fn deadline(&self) -> Moment {
        match &self.retiring {
            Some(Retiring::Leaving { until, at_most }) => self.leaves_at(*until, *at_most),
            Some(Retiring::InUse { look_at, .. }) => self.usual_deadline().min(*look_at),
            None => self.usual_deadline(),
        }
    }

    /// When it is given up although the other side has not closed it: not while something is heard.
    fn leaves_at(&self, until: Moment, at_most: Moment) -> Moment {
        let waits = if self.postponed.is_empty() { self.alive + CLOSE_TIMEOUT } else { at_most };
        until.max(waits).min(at_most).max(self.spared_until)
    }

    fn usual_deadline(&self) -> Moment {
        let beat = match self.pong_deadline() {
            None => self.next_ping,
            Some(deadline) if self.hears_more() => deadline.min(self.next_ping),
            Some(deadline) => deadline,
        };
        match self.full_since {
            Some(since) if !self.full_reported => beat.min(since + SLOW),
            _ => beat,
        }
    }

    pub(super) fn beat(&mut self, now: Moment) -> Beat {
        if let Some(Retiring::Leaving { until, at_most }) = self.retiring {
            // Nothing may be sent behind the close frame.
            let deadline = self.leaves_at(until, at_most);
            if now > deadline + STALL {
                self.spared_until = now + STALL;
            }
            return if now < self.leaves_at(until, at_most) { Beat::Nothing } else { Beat::Dead };
        }
        if let Some(deadline) = self.pong_deadline() {
            if now < deadline {
                return self.repeat_ping(now);
            }
            if now > deadline + STALL {
                self.spared_until = now + STALL;
                return Beat::Nothing;
            }
            return Beat::Dead;
        }
        if now < self.next_ping {
            return Beat::Nothing;
        }
        self.next_ping = now + PING_INTERVAL;
        if self.behind.is_some() {
            // It would not leave, and its pong would be missed.
            return Beat::Nothing;
        }
        self.ping_sent = Some(now);
        self.measured = Some(now);
        self.pings += 1;
        if self.frames_at_ping == self.stats.frames_sent && self.out.capacity() > KEEP {
            self.out.shrink_to(KEEP);
        }
        self.frames_at_ping = self.stats.frames_sent;
        let payload = self.beat_payload();
        self.writer.ping(&mut self.out, &payload);
        Beat::Ping
    }

    /// Whether a ping of its own was ever answered.
    pub(super) fn is_answered(&self) -> bool {
        self.stats.round_trip.is_some()
    }

    /// Has the next ping sent at once, if none is under way.
    pub(super) fn beat_soon(&mut self, now: Moment) {
        self.next_ping = self.next_ping.min(now);
    }

    /// A pong cannot overtake the long message that the other side is sending. It hears nothing but our
    /// pings meanwhile, so it gets another one as long as the message goes on.
    fn repeat_ping(&mut self, now: Moment) -> Beat {
        if now < self.next_ping || !self.hears_more() {
            return Beat::Nothing;
        }
        self.next_ping = now + PING_INTERVAL;
        let payload = self.beat_payload();
        self.writer.ping(&mut self.out, &payload);
        Beat::Ping
    }

    /// Whether anything was heard since the last ping was sent.
    fn hears_more(&self) -> bool {
        self.heard + PING_INTERVAL > self.next_ping
    }

    /// Notes that the queue is full, at the latest from now on.
    pub(super) fn full_from(&mut self, now: Moment) {
        self.full_since.get_or_insert(now);
    }

    /// Notes whether the queue is full. True when it has been for long, once.
    pub(super) fn note_full(&mut self, full: bool, now: Moment) -> bool {
        if !full {
            self.full_since = None;
            self.full_reported = false;
            return false;
        }
        let since = *self.full_since.get_or_insert(now);
        let slow = !self.full_reported && now.since(since) >= SLOW;
        self.full_reported |= slow;
        slow
    }

    pub(super) fn stats(&self) -> ConnectionStats {
        ConnectionStats { queued: self.queued(), ..self.stats }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::Side;

    fn link() -> Link {
        Link::new(ConnId(0), FrameWriter::new(Side::Server, 1), Extensions::NONE, Moment::EPOCH)
    }

    fn seconds(s: f64) -> Moment {
        Moment::at(Duration::from_secs_f64(s))
    }

    #[test]
    fn pings_every_five_seconds_and_dies_two_later() {
        let mut link = link();
        assert_eq!(link.deadline(), seconds(5.0));
        assert_eq!(link.beat(seconds(4.9)), Beat::Nothing);
        assert_eq!(link.beat(seconds(5.0)), Beat::Ping);
        link.pong(&link.beat_payload(), seconds(5.1));
        assert_eq!(link.stats().round_trip, Some(seconds(5.1) - seconds(5.0)));
        assert_eq!(link.deadline(), seconds(10.0));
        assert_eq!(link.beat(seconds(10.0)), Beat::Ping);
        assert_eq!(link.deadline(), seconds(12.0));
        assert_eq!(link.beat(seconds(12.0)), Beat::Dead);
    }

    #[test]
    fn a_pong_for_another_ping_only_shows_that_somebody_is_there() {
        let mut link = link();
        assert_eq!(link.beat(seconds(5.0)), Beat::Ping);
        let beat = link.beat_payload();
        // For a ping that the application has sent before.
        link.pong(b"", seconds(5.1));
        assert_eq!(link.deadline(), seconds(10.0), "it is alive");
        assert_eq!(link.stats().round_trip, None);
        link.pong(&beat, seconds(5.2));
        assert_eq!(link.stats().round_trip, Some(seconds(5.2) - seconds(5.0)));
        assert_eq!(link.beat(seconds(10.0)), Beat::Ping);
        link.pong(&beat, seconds(11.0));
        assert_eq!(
            link.stats().round_trip,
            Some(seconds(5.2) - seconds(5.0)),
            "that was for the ping before"
        );
    }

    #[test]
    fn traffic_counts_as_life() {
        let mut link = link();
        assert_eq!(link.beat(seconds(5.0)), Beat::Ping);
        link.heard(10, seconds(6.5));
        assert_eq!(link.beat(seconds(7.0)), Beat::Nothing);
        link.heard(10, seconds(8.0));
        assert_eq!(link.beat(seconds(9.9)), Beat::Nothing);
        assert_eq!(link.beat(seconds(10.0)), Beat::Dead);
    }

    #[test]
    fn writing_alone_does_not_keep_it_alive() {
        let mut link = link();
        assert_eq!(link.beat(seconds(5.0)), Beat::Ping);
        for second in 6..25 {
            link.written(10, seconds(second.into()));
            assert_eq!(link.beat(seconds(second.into())), Beat::Nothing);
        }
        assert_eq!(link.beat(seconds(25.0)), Beat::Dead);
    }

    #[test]
    fn a_sender_of_a_long_message_hears_of_its_reader() {
        let mut reader = link();
        let mut pings = 0;
        for second in 1..=60 {
            reader.reading(seconds(second.into()));
            let due = reader.deadline() <= seconds(second.into());
            let beat = reader.beat(seconds(second.into()));
            assert_eq!(beat, if second % 5 == 0 { Beat::Ping } else { Beat::Nothing });
            assert_eq!(due, beat == Beat::Ping);
            pings += u32::from(due);
        }
        assert_eq!(pings, 12);
        // Its pongs come with the end of the message, all for the same ping.
        let payload = reader.beat_payload();
        reader.pong(&payload, seconds(61.0));
        assert_eq!(reader.stats().round_trip, Some(Duration::from_secs(56)));
        assert_eq!(reader.deadline(), seconds(65.0));
    }

    #[test]
    fn a_reader_whose_long_message_stops_gives_up() {
        let mut reader = link();
        assert_eq!(reader.beat(seconds(5.0)), Beat::Ping);
        reader.reading(seconds(9.0));
        assert_eq!(reader.beat(seconds(10.0)), Beat::Ping);
        assert_eq!(reader.deadline(), seconds(11.0));
        assert_eq!(reader.beat(seconds(11.0)), Beat::Dead);
    }

    #[test]
    fn news_of_an_earlier_write_does_not_undo_what_was_heard() {
        let mut link = link();
        assert_eq!(link.beat(seconds(5.0)), Beat::Ping);
        link.heard(10, seconds(6.5));
        link.written(10, seconds(5.0));
        assert_eq!(link.deadline(), seconds(8.5));
    }

    #[test]
    fn a_host_that_stalled_reads_first() {
        let mut link = link();
        assert_eq!(link.beat(seconds(5.0)), Beat::Ping);
        assert_eq!(link.beat(seconds(9.0)), Beat::Nothing);
        assert_eq!(link.deadline(), seconds(9.5));
        assert_eq!(link.beat(seconds(9.5)), Beat::Dead);
    }

    #[test]
    fn a_queue_that_stays_full_is_reported_once() {
        let mut link = link();
        assert!(!link.note_full(true, seconds(0.0)));
        assert_eq!(link.deadline(), seconds(2.0));
        assert!(link.note_full(true, seconds(2.0)));
        assert!(!link.note_full(true, seconds(3.0)));
        assert!(!link.note_full(false, seconds(4.0)));
        assert!(!link.note_full(true, seconds(5.0)));
    }
}
