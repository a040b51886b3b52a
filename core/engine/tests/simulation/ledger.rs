//! What was promised to whom: requests, streams and messages, seen from both ends.
//!
//! The nodes enter what they do and what they are told; what contradicts the promises panics at
//! once, what is missing is found by [`Ledger::check_settled`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use roletalk_engine::{ConnId, Data, Dialect, Error, ErrorKind, Moment, UnitId};

/// Bytes of streams: a table without short periods, so that a piece in the wrong place shows.
const TABLE: usize = 65_521;

pub(crate) struct Ledger {
    pub(crate) requests: BTreeMap<u64, Request>,
    pub(crate) streams: BTreeMap<u64, Stream>,
    orders: BTreeMap<(usize, usize, u64), u64>,
    /// The same for each connection of the receiver. That order holds whatever happens to others.
    orders_of_connections: BTreeMap<(usize, u64, ConnId), u64>,
    /// Runs whose senders have lost a connection.
    broken: BTreeSet<u64>,
    /// Runs whose senders have lost the unit. What was not sent goes to others, one by one, and from there perhaps on:
    /// where some of it meets again, it has no order.
    scattered: BTreeSet<u64>,
    /// Sent and not seen yet, by number.
    messages: BTreeMap<u64, Message>,
    /// Messages to many: the nodes that have seen them.
    broadcasts: BTreeMap<u64, BTreeSet<usize>>,
    surveys: BTreeMap<u64, Survey>,
    /// Messages and requests that went out with fields.
    fields: BTreeSet<u64>,
    next: u64,
    table: Vec<u8>,
    /// Peers share an id: answers may go astray, roles may be mixed up.
    pub(crate) twins: bool,
    /// Nobody learns later than this that a request has run out of time, where that is certain.
    pub(crate) late: Option<Duration>,
    pub(crate) counts: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    pub(crate) delivered: u64,
    pub(crate) answered: u64,
    pub(crate) rejected: u64,
    pub(crate) timed_out: u64,
    pub(crate) lost: u64,
    pub(crate) overloaded: u64,
    pub(crate) abandoned: u64,
    pub(crate) cancelled: u64,
    pub(crate) unhandled: u64,
    /// Of those that were lost, those that surely were not begun.
    pub(crate) drained: u64,
    /// Given up, and not begun by then.
    pub(crate) not_begun: u64,
    pub(crate) streams_complete: u64,
    pub(crate) streams_broken: u64,
    pub(crate) stream_bytes: u64,
    pub(crate) units: u64,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) node: usize,
    pub(crate) unit: UnitId,
    sent: Moment,
    timeout: Duration,
    outcome: Option<&'static str>,
    handled: bool,
    /// The other side was told how long it is waited for.
    limit_told: bool,
    /// The other side has heard that it was given up.
    given_up: bool,
}

#[derive(Debug)]
struct Message {
    to: Option<(usize, u64, u64)>,
    /// Nothing was done that excuses its loss.
    sound: bool,
}

/// A request to many.
#[derive(Debug)]
struct Survey {
    asked: usize,
    outcomes: usize,
    handled: BTreeSet<usize>,
}

/// Both ends of a stream, by the number of the request that opens it.
#[derive(Debug)]
pub(crate) struct Stream {
    /// What the writer means to write.
    pub(crate) size: usize,
    pub(crate) sent: usize,
    pub(crate) read: usize,
    window: Option<u64>,
    pub(crate) writer: End,
    pub(crate) reader: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The other end does not exist, or not yet.
    None,
    Open,
    /// The writer was told that the reader has everything; the reader came to the end.
    Complete,
    Broken,
}

impl Ledger {
    pub(crate) fn new() -> Ledger {
        let mut rng = super::rng::Rng::new(1);
        let mut table = vec![0; TABLE];
        rng.fill(&mut table);
        // Any piece of up to 64 KiB is one slice.
        table.extend_from_within(..);
        Ledger {
            requests: BTreeMap::new(),
            streams: BTreeMap::new(),
            orders: BTreeMap::new(),
            orders_of_connections: BTreeMap::new(),
            broken: BTreeSet::new(),
            scattered: BTreeSet::new(),
            messages: BTreeMap::new(),
            broadcasts: BTreeMap::new(),
            surveys: BTreeMap::new(),
            fields: BTreeSet::new(),
            next: 1,
            table,
            twins: false,
            late: None,
            counts: Counts::default(),
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The last one that was given.
    pub(crate) fn last_number(&self) -> u64 {
        self.next
    }

    // Messages.

    /// A message is sent; `order` is the run of messages that it must keep its place in, if any.
    pub(crate) fn message_sent(&mut self, id: u64, order: Option<(usize, u64, u64)>, sound: bool) {
        self.counts.messages += 1;
        self.messages.insert(id, Message { to: order, sound });
    }

    /// A message is about to be sent to many.
    pub(crate) fn broadcast_begun(&mut self, id: u64) {
        self.broadcasts.insert(id, BTreeSet::new());
    }

    /// How many nodes have seen a message to many.
    pub(crate) fn seen(&self, id: u64) -> usize {
        self.broadcasts[&id].len()
    }

    /// The sender of these messages has lost a connection that may have carried some. Those may arrive late; those that
    /// were not sent yet go another way, and may arrive before them.
    pub(crate) fn run_broken(&mut self, run: u64) {
        self.broken.insert(run);
    }

    /// A message has arrived at a node, on a connection if that is known.
    pub(crate) fn message_received(&mut self, id: u64, node: usize, conn: Option<ConnId>) {
        if let Some(nodes) = self.broadcasts.get_mut(&id) {
            assert!(nodes.insert(node), "message {id}, to many, came twice");
            self.counts.delivered += 1;
            return;
        }
        let message = self.messages.remove(&id);
        let message = message.unwrap_or_else(|| panic!("message {id} came twice, or was not sent"));
        self.counts.delivered += 1;
        if let Some((from, run, at)) = message.to
            && !self.scattered.contains(&run)
        {
            let last = self.orders.insert((from, node, run), at);
            let last = last.filter(|_| !self.broken.contains(&run));
            assert!(last.is_none_or(|last| last < at), "message {at} came after {last:?}");
            let last =
                conn.and_then(|conn| self.orders_of_connections.insert((node, run, conn), at));
            assert!(
                last.is_none_or(|last| last < at),
                "message {at} came after {last:?}, {conn:?}"
            );
        }
    }

    /// The messages that got lost although nothing excused it.
    pub(crate) fn check_sound_messages(&self) {
        let lost: Vec<_> = self.messages.iter().filter(|(_, m)| m.sound).take(5).collect();
        assert!(lost.is_empty(), "messages were lost without reason: {lost:?}");
    }

    // Requests.

    pub(crate) fn request_sent(
        &mut self,
        id: u64,
        node: usize,
        unit: UnitId,
        sent: Moment,
        timeout: Duration,
    ) {
        let (outcome, handled, limit_told, given_up) = (None, false, false, false);
        let request = Request { node, unit, sent, timeout, outcome, handled, limit_told, given_up };
        assert!(self.requests.insert(id, request).is_none());
    }

    pub(crate) fn request_handled(&mut self, id: u64, node: usize) {
        if let Some(survey) = self.surveys.get_mut(&id) {
            assert!(survey.handled.insert(node), "request {id}, to many, was handled twice");
            return;
        }
        let request = self.requests.get_mut(&id).expect("a request that nobody has sent");
        assert!(!request.handled, "request {id} was handled twice");
        // Twins number their requests alike.
        assert!(!request.given_up || self.twins, "request {id} was begun after it was given up");
        request.handled = true;
    }

    /// A request went out with how long it is waited for.
    pub(crate) fn limit_told(&mut self, id: u64) {
        self.requests.get_mut(&id).expect("a request that was sent").limit_told = true;
    }

    /// The time of a request, as its handler sees it.
    pub(crate) fn check_limit(&self, id: u64, due: Option<Moment>, now: Moment) {
        let request = &self.requests[&id];
        assert_eq!(due.is_some(), request.limit_told, "the time of {id}");
        if let Some(due) = due {
            assert!(due > now, "request {id} was begun after its time");
            assert!(due <= now + request.timeout, "request {id} has more time than was given");
        }
    }

    /// That a request was given up has arrived where it was sent to, and was looked at.
    pub(crate) fn given_up(&mut self, id: u64) {
        let request = self.requests.get_mut(&id).expect("a request that was sent");
        request.given_up = true;
        self.counts.not_begun += u64::from(!request.handled);
        let outcome = request.outcome;
        let ended = matches!(outcome, Some("abandoned" | "TIMEOUT"));
        assert!(ended, "request {id} was given up, but its outcome is {outcome:?}");
    }

    /// A handler is told that nobody waits.
    pub(crate) fn handler_told(&mut self, id: u64) {
        assert!(self.requests[&id].handled, "request {id} was cancelled, but not begun");
        self.counts.cancelled += 1;
    }

    /// Something went out with fields.
    pub(crate) fn fields_sent(&mut self, id: u64) {
        self.fields.insert(id);
    }

    pub(crate) fn has_fields(&self, id: u64) -> bool {
        self.fields.contains(&id)
    }

    fn settle(&mut self, id: u64, outcome: &'static str) -> &Request {
        let request = self.requests.get_mut(&id).expect("an answer to what nobody has asked");
        let before = request.outcome.replace(outcome);
        assert_eq!(before, None, "request {id} got a second outcome, {outcome}");
        request
    }

    pub(crate) fn answered(
        &mut self,
        id: u64,
        node: usize,
        outcome: &Result<Data, Error>,
        now: Moment,
    ) {
        let name = match outcome {
            Ok(_) => "answered",
            Err(error) => error.kind().name(),
        };
        let (twins, late) = (self.twins, self.late);
        let request = self.settle(id, name);
        assert_eq!(request.node, node);
        match outcome {
            Ok(data) => {
                let answers = u64::from_le_bytes(data.bytes()[..8].try_into().unwrap());
                assert!(answers == id || twins, "{answers}'s answer was given to {id}");
                assert!(request.handled || twins, "an answer that nobody gave");
                self.counts.answered += 1;
            }
            Err(error) if error.is_unhandled() && request.handled && !twins => {
                panic!("request {id} was handled, and may be sent again: {error:?}")
            }
            Err(error) => match error.kind() {
                ErrorKind::Rejected => {
                    let unhandled = error.failure().is_some_and(|failure| failure.unhandled);
                    assert!(!unhandled || !request.handled || twins, "request {id} was handled");
                    self.counts.unhandled += u64::from(unhandled);
                    self.counts.rejected += 1;
                }
                ErrorKind::Timeout => {
                    let end = request.sent + request.timeout;
                    // The other side counts what was left in whole milliseconds.
                    let told = error.failure().map_or(Duration::ZERO, |_| Duration::from_millis(1));
                    // A twin may be told that the other one's time is up.
                    let is_due = now + told >= end || (twins && error.failure().is_some());
                    assert!(is_due, "a timeout before its time");
                    assert!(told.is_zero() || !request.handled || twins, "{id} was handled");
                    if let Some(late) = late {
                        assert!(now <= end + late, "a timeout came {:?} late", now - end);
                    }
                    self.counts.timed_out += 1;
                }
                ErrorKind::ConnectionLost => {
                    self.counts.lost += 1;
                    self.counts.drained += u64::from(error.is_unhandled());
                }
                // A twin has answered to what its twin has asked.
                ErrorKind::Protocol if twins => self.counts.rejected += 1,
                _ => panic!("request {id} failed in an unexpected way: {error:?}"),
            },
        }
    }

    pub(crate) fn abandoned(&mut self, id: u64) {
        self.settle(id, "abandoned");
        self.counts.abandoned += 1;
    }

    /// The request was refused at once, by this side.
    pub(crate) fn refused(&mut self, id: u64) {
        let request = self.settle(id, "refused");
        assert!(!request.handled, "request {id} was refused, and handled");
        self.counts.overloaded += 1;
    }

    pub(crate) fn survey_begun(&mut self, id: u64, asked: usize) {
        let survey = Survey { asked, outcomes: 0, handled: BTreeSet::new() };
        assert!(self.surveys.insert(id, survey).is_none());
    }

    /// One of those asked has answered, or will not.
    pub(crate) fn survey_outcome(&mut self, id: u64, outcome: &Result<Data, Error>) {
        let survey = self.surveys.get_mut(&id).expect("an answer to what nobody has asked");
        survey.outcomes += 1;
        assert!(survey.outcomes <= survey.asked, "more answers than questions");
        match outcome {
            Ok(data) => {
                let answers = u64::from_le_bytes(data.bytes()[..8].try_into().unwrap());
                assert_eq!(answers, id, "another's answer");
            }
            Err(error) => assert!(
                matches!(
                    error.kind(),
                    ErrorKind::Rejected
                        | ErrorKind::Timeout
                        | ErrorKind::ConnectionLost
                        | ErrorKind::Overloaded
                ),
                "survey {id} failed in an unexpected way: {error:?}"
            ),
        }
    }

    /// Every one of those asked has had an outcome.
    pub(crate) fn survey_ended(&mut self, id: u64) {
        let survey = &self.surveys[&id];
        assert_eq!(survey.outcomes, survey.asked, "the survey {id} ended too early");
    }

    /// A unit closed: whoever waits for it has been told.
    pub(crate) fn unit_closed(&self, node: usize, unit: UnitId) {
        for (id, request) in &self.requests {
            let waits = request.node == node && request.unit == unit && request.outcome.is_none();
            assert!(!waits, "request {id} still waits for a unit that is gone");
        }
    }

    // Streams.

    pub(crate) fn stream_planned(&mut self, id: u64, size: usize) {
        let (writer, reader) = (End::None, End::None);
        let stream = Stream { size, sent: 0, read: 0, window: None, writer, reader };
        self.streams.insert(id, stream);
    }

    /// The writer exists now; `dialect` is how it sees the reader.
    pub(crate) fn writer_opened(&mut self, id: u64, dialect: Dialect) {
        let stream = self.stream(id);
        assert_eq!(stream.writer, End::None);
        stream.writer = End::Open;
        if let Dialect::Credit { window } = dialect {
            stream.window = Some(window);
        }
    }

    pub(crate) fn reader_opened(&mut self, id: u64) {
        let stream = self.stream(id);
        assert_eq!(stream.reader, End::None);
        stream.reader = End::Open;
    }

    pub(crate) fn stream(&mut self, id: u64) -> &mut Stream {
        self.streams.get_mut(&id).expect("a stream that nobody asked for")
    }

    pub(crate) fn piece(&self, id: u64, at: usize, len: usize) -> &[u8] {
        let from = (id as usize * 7919 + at) % TABLE;
        &self.table[from..from + len]
    }

    pub(crate) fn wrote(&mut self, id: u64, len: usize) {
        self.counts.stream_bytes += len as u64;
        let stream = self.stream(id);
        stream.sent += len;
        if let Some(window) = stream.window {
            let unread = stream.sent.saturating_sub(stream.read) as u64;
            assert!(unread <= window, "{unread} bytes under way, over the window of {window}");
        }
    }

    pub(crate) fn read(&mut self, id: u64, bytes: &[u8]) {
        let at = self.stream(id).read;
        for (n, part) in bytes.chunks(TABLE).enumerate() {
            let expected = self.piece(id, at + n * TABLE, part.len());
            // Of twins, one may get the bytes that are for the other.
            let is_right = part == expected || self.twins;
            assert!(is_right, "stream {id} has other bytes than were written at {at}");
        }
        let twins = self.twins;
        let stream = self.stream(id);
        stream.read += bytes.len();
        assert!(stream.read <= stream.sent || twins, "stream {id} gives more than was written");
    }

    pub(crate) fn reader_ended(&mut self, id: u64, how: End) {
        let twins = self.twins;
        let stream = self.stream(id);
        assert_eq!(stream.reader, End::Open, "the reader of {id} ended twice");
        stream.reader = how;
        if how == End::Complete {
            let (read, sent, size) = (stream.read, stream.sent, stream.size);
            assert!(read == sent || twins, "stream {id} ended before all was read");
            assert!(sent == size || twins, "stream {id} ended before all was written");
            self.counts.streams_complete += 1;
        } else {
            self.counts.streams_broken += 1;
        }
    }

    /// `acknowledged` by a reader that only says so when it has read everything.
    pub(crate) fn writer_ended(&mut self, id: u64, how: End, acknowledged: bool) {
        let twins = self.twins;
        let stream = self.stream(id);
        assert_eq!(stream.writer, End::Open, "the writer of {id} ended twice");
        stream.writer = how;
        if how == End::Complete && acknowledged && !twins {
            assert_eq!(stream.read, stream.size, "{id} was finished well, but not read");
        }
    }

    /// What is still under way.
    pub(crate) fn open(&self) -> usize {
        let waiting = self.requests.values().filter(|r| r.outcome.is_none()).count();
        let open = |s: &&Stream| s.writer == End::Open || s.reader == End::Open;
        waiting + self.streams.values().filter(open).count()
    }

    /// When nothing is under way any more, everything has had its outcome.
    pub(crate) fn check_settled(&self) {
        for (id, request) in &self.requests {
            assert!(request.outcome.is_some(), "request {id} never got an outcome: {request:?}");
        }
        if !self.twins {
            self.check_streams();
        }
    }

    /// No stream is open. Those of twins may be until the connections close: what opens or refuses one may move to a
    /// connection that leads to the other twin.
    pub(crate) fn check_streams(&self) {
        for (id, stream) in &self.streams {
            let ends = (stream.writer, stream.reader);
            let open = ends.0 == End::Open || ends.1 == End::Open;
            assert!(!open, "stream {id} hangs: {stream:?}");
            let one_sided = matches!(ends, (End::Complete, End::None) | (End::None, End::Complete));
            assert!(
                !one_sided || self.twins,
                "only one end of stream {id} ever existed: {stream:?}"
            );
        }
    }
}

/// Runs of ordered messages from one node to one of its units. A run ends when the connection that
/// carried its last message is gone: what was on its way then may come late or never.
#[derive(Default)]
pub(crate) struct Runs {
    by_unit: BTreeMap<UnitId, Run>,
    /// Every run of a unit, the last one among them.
    all: BTreeMap<UnitId, Vec<u64>>,
}

struct Run {
    number: u64,
    at: u64,
    /// The connections one of which carried the last message.
    carriers: Vec<ConnId>,
    /// Those of the messages before it.
    earlier: BTreeSet<ConnId>,
}

impl Runs {
    /// The run and the place in it of a message that went out on one of `carriers`.
    pub(crate) fn place(
        &mut self,
        unit: UnitId,
        carriers: Vec<ConnId>,
        is_open: impl Fn(ConnId) -> bool,
        ledger: &mut Ledger,
    ) -> (u64, u64) {
        let (number, at, earlier) = match self.by_unit.get(&unit) {
            Some(run) if run.carriers.iter().all(|last| is_open(*last)) => {
                let earlier = run.earlier.iter().chain(&run.carriers).copied().collect();
                (run.number, run.at + 1, earlier)
            }
            ended => {
                ended.inspect(|run| ledger.run_broken(run.number));
                let fresh = ledger.number();
                self.all.entry(unit).or_default().push(fresh);
                (fresh, 0, BTreeSet::new())
            }
        };
        self.by_unit.insert(unit, Run { number, at, carriers, earlier });
        (number, at)
    }

    /// A connection of the unit is lost: this one, or any. If it was cut off, earlier messages may still be under way on it.
    pub(crate) fn lost(&self, unit: UnitId, conn: Option<ConnId>, cut: bool, ledger: &mut Ledger) {
        let carried = |run: &&Run| {
            conn.is_none_or(|conn| {
                run.carriers.contains(&conn) || (cut && run.earlier.contains(&conn))
            })
        };
        if let Some(run) = self.by_unit.get(&unit).filter(carried) {
            ledger.run_broken(run.number);
        }
    }

    pub(crate) fn forget(&mut self, unit: UnitId, ledger: &mut Ledger) {
        self.by_unit.remove(&unit);
        ledger.scattered.extend(self.all.remove(&unit).into_iter().flatten());
    }
}
