//! Handlers of a unit: how many run, what waits for them to end, and how long.

use std::{iter, time::Duration};

use bytes::Bytes;

use super::{
    Event, Incoming, Question, Unit,
    incoming::Layout,
    link::Postponed,
    question::{Responder, StreamOffer, Way},
    types::CancelReason,
};
use crate::{
    ConnId, Dialect, Moment, RequestId,
    wire::{Frame, Num, Repeated, Wrapped},
};

/// What is postponed on one connection before its host is to read no more.
const POSTPONED: usize = 256 << 10;
/// What is postponed on one connection of a host that reads on all the same, or that reads much at a
/// time. One message may go over.
const POSTPONED_MAX: usize = 1 << 20;
/// How long to wait for a handler to end before what was postponed is given up: time is counted in
/// steps, so that a host that was not running itself counts one, however long that took.
const STEP: Duration = Duration::from_millis(250);
const STEPS: u32 = 4;

/// What requesters are told of what is given up.
const OVERRUN: &str = "Too many requests are in progress";
/// What a requester is told whose time was up before its request was begun.
pub(super) const EXPIRED: &str = "The time of the request was up before it was begun";

/// How long no handler has ended although something waits for that.
#[derive(Default)]
pub(super) struct Patience {
    /// When the step under way began.
    since: Moment,
    /// Steps in which none has ended.
    pub(super) steps: u32,
}

impl Patience {
    /// Whether handlers seem to wait for each other, or for something that is not read.
    fn is_over(&self) -> bool {
        self.steps >= STEPS
    }
}

/// Something for a handler: where its parts are, and where the answer goes.
pub(super) struct Work {
    pub(super) layout: Layout,
    pub(super) way: Way,
    /// Until when it is worth beginning.
    pub(super) due: Option<Moment>,
}

impl Work {
    /// None for what is not for a handler.
    pub(super) fn of(frame: Frame<'_>, message: &[u8], conn: ConnId, fields: u16) -> Option<Work> {
        let (names, payload, way) = match frame {
            Frame::Message { role, event, payload } => ((role, event), payload, Way::Nowhere),
            Frame::Request { role, event, corr, payload } => {
                ((role, event), payload, Way::Request(Responder { conn, corr }))
            }
            Frame::StreamRequest { direction, role, event, corr, chan, payload } => {
                let offer = StreamOffer { conn, corr, chan, direction, due: None };
                ((role, event), payload, Way::Stream(Box::new(offer)))
            }
            _ => return None,
        };
        Some(Work { layout: Layout::of(message, names, payload, fields), way, due: None })
    }

    /// A message, or a request, with the names of the one before.
    #[inline]
    pub(super) fn again(repeated: Repeated, names: u64, conn: ConnId) -> Work {
        let Repeated { role, event, corr, kind, payload } = repeated;
        let way = corr.map_or(Way::Nowhere, |corr| Way::Request(Responder { conn, corr }));
        let layout = Layout { role, event, payload, kind, mended: None, fields: 0, number: names };
        Work { layout, way, due: None }
    }
}

impl<R> Unit<R> {
    /// Handlers have ended for which so many bytes were held.
    pub(super) fn handled(&mut self, handlers: u32, held: usize) {
        self.stats.running = self.stats.running.saturating_sub(handlers as usize);
        self.release(held);
    }

    /// The requester has given a request up: it is not begun if it is postponed, and its handler is to be
    /// told if it runs. Requests of connections that are closed are given up on any other.
    pub(super) fn given_up(&mut self, at: usize, corr: Num) {
        self.stats.cancels_received += 1;
        let corr = corr.value();
        let here = self.links[at].conn;
        self.forget_gone();
        let closing = self.links.iter().filter(|link| link.closing && link.conn != here);
        let closed: Vec<_> =
            closing.map(|link| link.conn).chain(self.gone.iter().copied()).collect();
        // Correlations are those of the unit, so there is one of these at most.
        let requests =
            iter::once(here).chain(closed.iter().copied()).map(|conn| RequestId { conn, corr });
        for request in requests.clone() {
            if self.links.iter_mut().any(|link| link.give_up_postponed(request)) {
                return;
            }
        }
        self.events.extend(requests.map(|request| Event::Cancelled {
            request: Some(request),
            reason: CancelReason::Requester,
        }));
    }

    /// Connections that are gone do not matter when nothing is left of what was received on them.
    pub(super) fn forget_gone(&mut self) {
        if self.stats.running == 0 && self.postponed == 0 {
            self.gone.clear();
        }
    }

    /// Something for a handler came with a field that is not known and that must be.
    pub(super) fn needs_more(&mut self, at: usize, work: Work, tag: u8) {
        match work.way {
            Way::Nowhere => {
                self.stats.messages_received += 1;
                self.stats.messages_dropped += 1;
                self.shed(self.links[at].conn, at);
            }
            way => {
                self.stats.requests_received += 1;
                self.reject_unhandled(way, &format!("The field {tag} is not understood"));
            }
        }
    }

    pub(super) fn hold(&mut self, bytes: usize) {
        self.stats.running_bytes += bytes;
    }

    pub(super) fn release(&mut self, bytes: usize) {
        self.stats.running_bytes = self.stats.running_bytes.saturating_sub(bytes);
        self.patience.steps = 0;
    }

    /// Whether so many handlers are running, or so much is held for them, that further messages and
    /// requests are postponed.
    fn is_overrun(&self) -> bool {
        self.stats.running >= self.limits.running_handlers
            || self.stats.running_bytes >= self.limits.running_bytes
            || self.is_late()
    }

    /// Whether so much is postponed on a connection that the host reads no more from it for now: until
    /// handlers end, or until [`handle_timeout`](Unit::handle_timeout) has given up what waits for
    /// that; the connection is named by [`poll_output`](Unit::poll_output) then. Everything else that
    /// comes on it, answers and what belongs to streams, is not postponed, so that handlers can wait for
    /// that.
    pub fn is_saturated(&self, conn: ConnId) -> bool {
        self.at(conn).is_some_and(|at| self.links[at].postponed_bytes >= POSTPONED)
    }

    /// Goes on with what was postponed, as far as handlers have ended since: in the order in which it came,
    /// on all connections.
    pub(super) fn start_postponed(&mut self) {
        while self.postponed > 0 && !self.is_overrun() {
            let places = self.links.iter().enumerate().filter_map(|(at, link)| {
                let oldest = link.postponed.front()?;
                Some((oldest.place, at))
            });
            let Some((_, at)) = places.min() else { return };
            if let Some(postponed) = self.take_postponed(at) {
                self.begin_postponed(at, postponed, true);
            }
        }
    }

    /// What was postponed on a connection that goes waits on another one, within the bound of that: otherwise a unit
    /// that opens and closes connections could fill the memory.
    pub(super) fn hand_over_postponed(&mut self, at: usize) {
        let bytes = self.links[at].postponed_bytes;
        let has_room = |(other, link): &(usize, &super::Link)| {
            *other != at && !link.closing && link.postponed_bytes + bytes <= POSTPONED_MAX
        };
        let other = self.links.iter().enumerate().find(has_room).map(|(other, _)| other);
        if let Some(other) = other
            && !self.links[at].postponed.is_empty()
        {
            let moved = self.links[at].release_postponed();
            self.links[other].adopt_postponed(moved);
        }
    }

    /// Rejects requests and drops messages that were postponed.
    pub(super) fn give_up_postponed(&mut self, at: usize) {
        while let Some(postponed) = self.take_postponed(at) {
            self.begin_postponed(at, postponed, false);
        }
    }

    fn begin_postponed(&mut self, at: usize, postponed: Postponed, room: bool) {
        let Postponed { message, due, conn, place, given_up } = postponed;
        if given_up {
            self.stats.requests_expired += 1;
            return;
        }
        // It was understood when it came.
        let (inner, fields) = match Wrapped::decode(&message) {
            Ok(Some(wrapped)) => (wrapped.inner, wrapped.block_len()),
            _ => (&message[..], 0),
        };
        // An original's streams are bound to a connection, and it gives nothing up.
        let conn = match self.dialect {
            Dialect::Credit { .. } => conn,
            _ => self.links[at].conn,
        };
        if let Ok(frame) = Frame::decode(inner)
            && let Some(work) = Work::of(frame, &message, conn, fields)
        {
            if let Some(request) = work.way.request() {
                self.links[at].settle_postponed(request, place);
            }
            let work = Work { due, ..work };
            // It may have become another policy meanwhile.
            if !self.is_allowed(&message, &work) {
                return self.deny(&message, work, self.clock);
            }
            self.begin(at, message, work, room);
        }
    }

    fn take_postponed(&mut self, at: usize) -> Option<Postponed> {
        let link = &mut self.links[at];
        let saturated = link.postponed_bytes >= POSTPONED;
        let postponed = link.take_postponed()?;
        self.postponed -= 1;
        if saturated && link.postponed_bytes < POSTPONED {
            self.alert(at);
        }
        Some(postponed)
    }

    /// Keeps something for a handler for later. False when it is given up.
    fn postpone(&mut self, at: usize, message: &Bytes, work: &Work, now: Moment) -> bool {
        let link = &mut self.links[at];
        if self.patience.is_over() || link.postponed_bytes >= POSTPONED_MAX {
            return false;
        }
        if self.postponed == 0 {
            self.patience = Patience { since: now, steps: 0 };
        }
        self.postponed += 1;
        self.next_place += 1;
        let (message, due, place) = (message.clone(), work.due, self.next_place);
        let corr = work.way.request().map(|request| request.corr);
        let conn = link.conn;
        link.postpone(Postponed { message, due, conn, place, given_up: false }, corr);
        true
    }

    pub(super) fn patience_deadline(&self) -> Option<Moment> {
        (self.postponed > 0).then(|| self.patience.since + STEP)
    }

    /// Counts the time in which no handler has ended, and gives up what was postponed when that has
    /// been too long.
    pub(super) fn lose_patience(&mut self, now: Moment) {
        if self.patience_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        self.patience.since = now;
        // Otherwise the host is about to start it.
        if self.is_overrun() {
            self.patience.steps += 1;
        }
        if self.patience.is_over() {
            (0..self.links.len()).for_each(|at| self.give_up_postponed(at));
        }
    }

    /// A message, or a request, with the names of the one before, as nearly all are. Nothing is put together for
    /// it that is not handed out.
    #[inline(always)]
    pub(super) fn work_again(&mut self, at: usize, message: Bytes, again: Repeated, now: Moment) {
        let (names, conn) = (self.last_names.serial(), self.links[at].conn);
        let Work { layout, way, .. } = Work::again(again, names, conn);
        if self.is_overrun()
            || self.postponed > 0
            || self.drain.is_over()
            || !self.is_allowed_again()
        {
            return self.work_later(at, message, Work { layout, way, due: None }, now);
        }
        match way {
            Way::Nowhere => self.stats.messages_received += 1,
            _ => self.stats.requests_received += 1,
        }
        let held = message.len();
        self.stats.running += 1;
        self.hold(held);
        let incoming = Incoming::new(message, layout, conn, None);
        self.events.push(Event::Incoming(incoming, Question::new(way, held)));
    }

    #[cold]
    #[inline(never)]
    fn work_later(&mut self, at: usize, message: Bytes, work: Work, now: Moment) {
        self.work(at, message, work, now);
    }

    /// Something for a handler came.
    #[inline(always)] // Otherwise what is known of it is moved from call to call.
    pub(super) fn work(&mut self, at: usize, message: Bytes, work: Work, now: Moment) {
        match work.way {
            Way::Nowhere => self.stats.messages_received += 1,
            _ => self.stats.requests_received += 1,
        }
        if !self.is_allowed(&message, &work) {
            return self.deny(&message, work, now);
        }
        // An original would take a rejection for the outcome, and may write a request behind the pong that it had meant
        // to be before: roletalk-go does.
        let goes_on = self.links[at].extensions.drained > 0;
        if goes_on && self.drain.is_over() && !matches!(work.way, Way::Nowhere) {
            return self.turn_away(at, message, work);
        }
        let room = !self.is_overrun() && self.postponed == 0;
        if room || !self.postpone(at, &message, &work, now) {
            self.begin(at, message, work, room);
        }
    }

    /// Has a handler called; without room for that, the message is given up.
    #[inline(always)]
    fn begin(&mut self, at: usize, message: Bytes, work: Work, room: bool) {
        let Work { layout, way, due } = work;
        if due.is_some_and(|due| due <= self.clock) {
            return self.expire(way);
        }
        if !room || (matches!(way, Way::Stream(_)) && self.check_streams().is_err()) {
            return self.give_up(at, way);
        }
        let request = way.request();
        let conn = request.map_or_else(|| self.links[at].conn, |request| request.conn);
        let held = message.len();
        self.stats.running += 1;
        self.hold(held);
        let way = match due {
            None => way,
            Some(due) => self.expires(way, due),
        };
        let incoming = Incoming::new(message, layout, conn, due);
        self.events.push(Event::Incoming(incoming, Question::new(way, held)));
    }

    #[inline(never)]
    fn expires(&mut self, way: Way, due: Moment) -> Way {
        if let Some(request) = way.request() {
            self.expiring.insert((due, request));
        }
        way.timed(due)
    }

    #[cold]
    fn expire(&mut self, way: Way) {
        self.stats.requests_expired += 1;
        self.reject_unhandled(way, EXPIRED);
    }

    #[cold]
    fn give_up(&mut self, at: usize, way: Way) {
        match &way {
            Way::Nowhere => self.stats.messages_dropped += 1,
            _ => self.stats.requests_shed += 1,
        }
        self.shed(self.links[at].conn, at);
        self.reject_unhandled(way, OVERRUN);
    }

    fn shed(&mut self, conn: ConnId, at: usize) {
        let dropped = self.stats.messages_dropped + self.stats.requests_shed;
        // Each doubling is told, not each loss.
        if dropped.is_power_of_two() {
            let queued = self.links[at].queued();
            self.events.push(Event::SlowConsumer { conn, queued, dropped });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Arc};

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        Budget, Ended, Limits, Moves, Outgoing, UnitInfo,
        wire::{Extensions, Payload},
        ws::{FrameWriter, Side},
    };

    const ONE: ConnId = ConnId(1);
    const TWO: ConnId = ConnId(2);

    fn at(seconds: f64) -> Moment {
        Moment::at(Duration::from_secs_f64(seconds))
    }

    /// A unit with two connections.
    fn unit(limits: impl FnOnce(&mut Limits)) -> Unit<u8> {
        let mut all = Limits::default();
        limits(&mut all);
        let mut unit = Unit::new(
            UnitInfo::example(Dialect::Credit { window: 0 }),
            Arc::new(all),
            Budget::default(),
            Arc::default(),
        );
        for conn in [ONE, TWO] {
            let writer = FrameWriter::new(Side::Server, 0);
            unit.attach(conn, writer, Extensions::NONE, Moment::EPOCH);
        }
        // The ping of the second one.
        unit.handle_timeout(Moment::EPOCH);
        unit.take_output(TWO, &mut Vec::new());
        unit
    }

    fn one_handler() -> Unit<u8> {
        unit(|limits| limits.running_handlers = 1)
    }

    fn receive(unit: &mut Unit<u8>, conn: ConnId, frame: &Frame<'_>) -> Vec<Event<u8>> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        unit.receive(conn, bytes.into(), Moment::EPOCH).unwrap();
        take(unit)
    }

    fn take(unit: &mut Unit<u8>) -> Vec<Event<u8>> {
        let mut events = Vec::new();
        unit.take_events(&mut events);
        events
    }

    fn message<'a>(event: &'a str, bytes: &'a [u8]) -> Frame<'a> {
        let payload = Payload { kind: crate::DataType::Binary, bytes };
        Frame::Message { role: "r".into(), event: event.into(), payload }
    }

    fn request(event: &str) -> Frame<'_> {
        let (role, event, corr) = ("r".into(), event.into(), Num::new(7));
        Frame::Request { role, event, corr, payload: Payload::NULL }
    }

    /// The events for which handlers are called.
    fn called(events: &[Event<u8>]) -> Vec<&str> {
        let incoming = events.iter().filter_map(|event| match event {
            Event::Incoming(incoming, _) => Some(incoming),
            _ => None,
        });
        incoming.map(Incoming::event).collect()
    }

    /// The handler of a message of no size has ended: what starts then.
    fn end(unit: &mut Unit<u8>) -> Vec<Event<u8>> {
        unit.answer(Question::message(0), Ok(Payload::NULL), Moment::EPOCH);
        take(unit)
    }

    fn timeout(unit: &mut Unit<u8>, seconds: f64) -> Vec<Event<u8>> {
        unit.handle_timeout(at(seconds));
        take(unit)
    }

    /// What was given up: messages and requests.
    fn lost(unit: &Unit<u8>) -> (u64, u64) {
        let stats = unit.stats();
        (stats.messages_dropped, stats.requests_shed)
    }

    /// What a connection has to say, without its pings.
    fn said(unit: &mut Unit<u8>, conn: ConnId) -> Vec<String> {
        let (mut bytes, mut said) = (Vec::new(), Vec::new());
        unit.take_output(conn, &mut bytes);
        let mut socket = crate::ws::Socket::new(Side::Client, 1 << 20);
        let mut input = &bytes[..];
        while let Some(received) = socket.read(&mut input, &mut Vec::new()).unwrap() {
            if let crate::ws::Incoming::Binary(frame) = received {
                said.push(format!("{:?}", Frame::decode(&frame).unwrap()));
            }
        }
        said
    }

    #[test]
    fn what_is_too_much_starts_in_order_when_handlers_end() {
        let mut unit = one_handler();
        assert_eq!(called(&receive(&mut unit, ONE, &message("a", b""))), ["a"]);
        for event in ["b", "c"] {
            assert_eq!(called(&receive(&mut unit, ONE, &message(event, b""))), [""; 0]);
        }
        assert_eq!((unit.stats().running, unit.busy()), (1, 3));
        assert_eq!(called(&end(&mut unit)), ["b"]);
        assert_eq!(called(&receive(&mut unit, ONE, &message("d", b""))), [""; 0]);
        assert_eq!(called(&end(&mut unit)), ["c"]);
        assert_eq!(called(&end(&mut unit)), ["d"]);
        assert_eq!(called(&end(&mut unit)), [""; 0]);
        assert_eq!((unit.busy(), lost(&unit)), (0, (0, 0)));
        assert_eq!(unit.stats().messages_received, 4);
        assert!(unit.deadline() > Some(at(1.0)), "nothing is waited for any more");
    }

    #[test]
    fn what_waits_on_several_connections_starts_in_order() {
        let mut unit = one_handler();
        receive(&mut unit, ONE, &message("a", b""));
        for (conn, event) in [(TWO, "b"), (ONE, "c"), (TWO, "d"), (ONE, "e")] {
            receive(&mut unit, conn, &message(event, b""));
        }
        let started: Vec<_> = (0..4).map(|_| called(&end(&mut unit)).join(" ")).collect();
        assert_eq!(started, ["b", "c", "d", "e"]);
    }

    proptest! {
        /// Requests on two connections, some of them given up, and handlers that end, in any order.
        #[test]
        fn what_is_begun_is_what_came_first_and_is_waited_for(steps in vec((0..6u8, 0..2u8), 0..80)) {
            let mut unit = unit(|limits| limits.running_handlers = 2);
            let (mut waiting, mut begun) = (VecDeque::new(), VecDeque::new());
            let mut running = VecDeque::new();
            unit.links.iter_mut().for_each(|link| link.extensions = Extensions::ALL);
            let mut next = 0;
            for (step, which) in steps {
                let conn = [ONE, TWO][usize::from(which)];
                let mut told = None;
                let events = match step {
                    0..3 => {
                        next += 1;
                        waiting.push_back(RequestId { conn, corr: next });
                        let (role, event, corr) = ("r".into(), "e".into(), Num::new(next));
                        let frame = Frame::Request { role, event, corr, payload: Payload::NULL };
                        receive(&mut unit, conn, &frame)
                    }
                    3 => {
                        // One that waits, runs, has ended, or never was.
                        let corr = next.saturating_sub(u64::from(which) * 3);
                        let request = RequestId { conn, corr };
                        let before = waiting.len();
                        waiting.retain(|waits| *waits != request);
                        told = (waiting.len() == before).then_some(request);
                        receive(&mut unit, conn, &Frame::Cancel { corr: Num::new(corr) })
                    }
                    _ => {
                        let Some(question) = running.pop_front() else { continue };
                        unit.answer(question, Ok(Payload::NULL), Moment::EPOCH);
                        take(&mut unit)
                    }
                };
                for event in events {
                    match event {
                        Event::Incoming(_, question) => {
                            begun.push_back(question.request().unwrap());
                            running.push_back(question);
                        }
                        Event::Cancelled { request, reason: CancelReason::Requester } => {
                            prop_assert_eq!(request, told.take());
                        }
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
                prop_assert_eq!(told, None);
                while let Some(request) = begun.pop_front() {
                    prop_assert_eq!(Some(request), waiting.pop_front());
                }
                prop_assert!(running.len() == 2 || waiting.is_empty());
                prop_assert_eq!(unit.stats().running, running.len());
            }
            let marks = unit.links.iter().map(|link| link.revocable.len()).sum::<usize>();
            prop_assert_eq!(marks, waiting.len());
        }
    }

    const THREE: ConnId = ConnId(3);

    /// With three connections on which requests can be given up.
    fn three(running_handlers: usize) -> Unit<u8> {
        let mut unit = unit(|limits| limits.running_handlers = running_handlers);
        unit.attach(THREE, FrameWriter::new(Side::Server, 0), Extensions::NONE, Moment::EPOCH);
        unit.links.iter_mut().for_each(|link| link.extensions = Extensions::ALL);
        unit
    }

    /// What the cancel of the request with the usual correlation is about, on this connection.
    fn cancel(unit: &mut Unit<u8>, conn: ConnId) -> Vec<ConnId> {
        let events = receive(unit, conn, &Frame::Cancel { corr: Num::new(7) });
        let requests = events.iter().map(|event| match event {
            Event::Cancelled { request: Some(RequestId { conn, corr: 7 }), .. } => *conn,
            other => panic!("{other:?}"),
        });
        requests.collect()
    }

    #[test]
    fn what_waits_is_given_up_on_any_connection_when_its_own_is_closed() {
        for gone in [false, true] {
            let mut unit = three(1);
            receive(&mut unit, ONE, &message("a", b""));
            receive(&mut unit, ONE, &request("b"));
            assert_eq!(
                cancel(&mut unit, THREE),
                [THREE],
                "as long as it is open, it is another request"
            );
            if gone {
                unit.detach(ONE, Ended::Lost);
            } else {
                unit.close(ONE, 1000, "");
            }
            assert_eq!(cancel(&mut unit, THREE), []);
            assert_eq!(called(&end(&mut unit)), [""; 0]);
            assert_eq!((unit.stats().requests_expired, unit.busy()), (1, 0));
        }
    }

    #[test]
    fn what_runs_is_given_up_on_any_connection_when_its_own_is_closed() {
        for postponed in [false, true] {
            let mut unit = three(2);
            receive(&mut unit, ONE, &message("a", b""));
            if postponed {
                receive(&mut unit, ONE, &message("b", b""));
            }
            receive(&mut unit, ONE, &request("c"));
            unit.detach(ONE, Ended::Lost);
            if postponed {
                assert_eq!(called(&end(&mut unit)), ["c"]);
            }
            // It keeps its name, whoever has kept it.
            assert_eq!(cancel(&mut unit, THREE), [THREE, ONE]);
        }
    }

    #[test]
    fn no_more_connections_are_remembered_than_there_may_be() {
        let mut unit = unit(|limits| limits.connections_per_unit = 3);
        receive(&mut unit, ONE, &message("a", b""));
        for number in 10..20 {
            let writer = FrameWriter::new(Side::Server, 0);
            unit.attach(ConnId(number), writer, Extensions::ALL, Moment::EPOCH);
            unit.detach(ConnId(number), Ended::Closed);
        }
        assert_eq!(unit.gone, [17, 18, 19].map(ConnId));
        end(&mut unit);
        unit.detach(ONE, Ended::Closed);
        assert!(unit.gone.is_empty(), "nothing runs");
    }

    #[test]
    fn what_starts_keeps_to_the_bytes_that_may_be_held() {
        let mut unit = unit(|limits| limits.running_bytes = 1000);
        let payload = [0; 600];
        let mut questions = Vec::new();
        for event in ["a", "b", "c", "d", "e"] {
            for event in receive(&mut unit, ONE, &message(event, &payload)) {
                let Event::Incoming(_, question) = event else { panic!("{event:?}") };
                questions.push(question);
            }
        }
        assert_eq!(unit.stats().running, 2);
        let mut started = Vec::new();
        for question in questions {
            unit.answer(question, Ok(Payload::NULL), Moment::EPOCH);
            started.extend(take(&mut unit));
        }
        assert_eq!(called(&started), ["c", "d"]);
    }

    #[test]
    fn an_answer_without_room_waits_and_counts() {
        let mut unit = unit(|limits| limits.queue_per_connection = 100);
        let mut questions = Vec::new();
        for _ in 0..3 {
            for event in receive(&mut unit, ONE, &request("r")) {
                let Event::Incoming(_, question) = event else { panic!("{event:?}") };
                questions.push(question);
            }
        }
        let payload = Payload { kind: crate::DataType::Binary, bytes: &[0; 200] };
        for question in questions {
            unit.answer(question, Ok(payload), Moment::EPOCH);
        }
        // The first went to one connection; there is room on the other, but that is not the way back.
        let mut answered = 0;
        while unit.stats().running > 0 {
            assert!(unit.stats().running_bytes >= 200 * unit.stats().running);
            for conn in [ONE, TWO] {
                let mut bytes = Vec::new();
                unit.take_output(conn, &mut bytes);
                answered += bytes.len() / 200;
                unit.written(conn, bytes.len(), Moment::EPOCH);
            }
        }
        let mut bytes = Vec::new();
        unit.take_output(ONE, &mut bytes);
        assert_eq!(answered + bytes.len() / 200, 3);
        assert_eq!(unit.stats().running_bytes, 0);
    }

    #[test]
    fn answers_that_wait_end_with_the_last_connection() {
        let mut unit = unit(|limits| limits.queue_per_connection = 1);
        for conn in [ONE, TWO] {
            for event in receive(&mut unit, conn, &request("r")) {
                let Event::Incoming(_, question) = event else { panic!("{event:?}") };
                unit.answer(question, Err("no"), Moment::EPOCH);
            }
        }
        unit.detach(ONE, Ended::Lost);
        unit.detach(TWO, Ended::Lost);
        assert_eq!((unit.stats().running, unit.stats().running_bytes), (0, 0));
    }

    #[test]
    fn what_handlers_may_wait_for_is_not_postponed() {
        let mut unit = one_handler();
        receive(&mut unit, ONE, &request("a"));
        receive(&mut unit, ONE, &request("b"));
        let to = Outgoing {
            role: "r",
            event: "nested",
            payload: Payload::NULL,
            order: <_>::default(),
            fields: None,
            bulkhead: None,
            moves: Moves::WithinUnit,
        };
        let corr = unit.request(to, None, Moment::EPOCH, 5).unwrap();
        let answer = Frame::Response { corr: Num::new(corr), payload: Payload::NULL };
        let events = receive(&mut unit, ONE, &answer);
        assert!(matches!(events[..], [Event::Answer { tag: 5, .. }]), "{events:?}");
    }

    #[test]
    fn a_request_brings_nothing_nearer_but_its_own_end() {
        let mut unit = unit(|_| {});
        let to = Outgoing {
            role: "r",
            event: "e",
            payload: Payload::NULL,
            order: <_>::default(),
            fields: None,
            bulkhead: None,
            moves: Moves::WithinUnit,
        };
        for seconds in [60, 3, 7, 1] {
            let before = unit.deadline().unwrap();
            let limit = Some(Duration::from_secs(seconds));
            unit.request(to, limit, Moment::EPOCH, 5).unwrap();
            assert_eq!(unit.deadline(), unit.request_deadline().map(|due| due.min(before)));
        }
        assert_eq!(unit.deadline(), unit.request_deadline());
    }

    #[test]
    fn a_second_in_which_no_handler_ends_is_too_long() {
        let mut unit = one_handler();
        receive(&mut unit, ONE, &request("a"));
        receive(&mut unit, ONE, &request("b"));
        receive(&mut unit, TWO, &message("c", b""));
        for seconds in [0.25, 0.5, 0.75] {
            assert_eq!(unit.deadline(), Some(at(seconds)));
            // Too early calls do no harm.
            assert!(timeout(&mut unit, seconds - 0.01).is_empty());
            assert!(timeout(&mut unit, seconds).is_empty());
        }
        assert_eq!(lost(&unit), (0, 0));
        let told = timeout(&mut unit, 1.0);
        assert!(matches!(told[..], [Event::SlowConsumer { .. }, Event::SlowConsumer { .. }]));
        assert_eq!(lost(&unit), (1, 1));
        let said = said(&mut unit, ONE);
        assert!(said.len() == 1 && said[0].contains("Reject"), "{said:?}");
        // From now on at once, until a handler ends.
        receive(&mut unit, ONE, &request("d"));
        assert_eq!(lost(&unit), (1, 2));
        assert!(unit.deadline() > Some(at(1.25)));
        end(&mut unit);
        assert_eq!(called(&receive(&mut unit, ONE, &request("e"))), ["e"]);
        receive(&mut unit, ONE, &request("f"));
        assert_eq!(lost(&unit), (1, 2));
    }

    #[test]
    fn each_handler_that_ends_starts_the_time_anew() {
        // With each that ends there is room for one, and while there is none all the time.
        for (handlers, bytes) in [(1, usize::MAX), (100, 1)] {
            let mut unit = unit(|limits| {
                limits.running_handlers = handlers;
                limits.running_bytes = bytes;
            });
            let mut calls = called(&receive(&mut unit, ONE, &request("first"))).len();
            for _ in 0..20 {
                receive(&mut unit, ONE, &request("later"));
            }
            let mut now = 0.0;
            for _ in 0..20 {
                for _ in 0..3 {
                    now += 0.25;
                    assert_eq!(called(&timeout(&mut unit, now)), [""; 0]);
                }
                match handlers {
                    1 => calls += called(&end(&mut unit)).len(),
                    _ => unit.release(0),
                }
            }
            assert_eq!(lost(&unit), (0, 0), "after {now} s");
            assert_eq!((calls, unit.busy()), if handlers == 1 { (21, 1) } else { (1, 21) });
        }
    }

    #[test]
    fn a_host_that_was_not_running_counts_one_step() {
        let mut unit = one_handler();
        receive(&mut unit, ONE, &request("a"));
        receive(&mut unit, ONE, &request("b"));
        for seconds in [6.0, 60.0, 600.0] {
            timeout(&mut unit, seconds);
            assert_eq!(lost(&unit), (0, 0));
        }
        assert_eq!(called(&end(&mut unit)), ["b"]);
    }

    #[test]
    fn a_connection_that_brings_too_much_is_not_to_be_read() {
        let mut unit = one_handler();
        receive(&mut unit, ONE, &message("a", b""));
        let piece = vec![0; 16 << 10];
        let mut count = 0;
        while !unit.is_saturated(ONE) {
            receive(&mut unit, ONE, &message("m", &piece));
            count += 1;
        }
        assert!(count * piece.len() < POSTPONED + piece.len() && !unit.is_saturated(TWO));
        // What was read with it is kept as well, but not for ever.
        while lost(&unit).0 == 0 {
            receive(&mut unit, ONE, &message("m", &piece));
            count += 1;
        }
        assert!((POSTPONED_MAX..POSTPONED_MAX + 2 * piece.len()).contains(&(count * piece.len())));
        assert_eq!(called(&end(&mut unit)).len(), 1);
        assert!(unit.is_saturated(ONE), "one of many has started");
        for step in 1..=STEPS {
            timeout(&mut unit, f64::from(step));
        }
        assert!(!unit.is_saturated(ONE));
        assert!(iter::from_fn(|| unit.poll_output()).any(|conn| conn == ONE));
        assert_eq!(lost(&unit).0 as usize, count - 1);
    }

    #[test]
    fn what_waits_begins_when_an_answer_that_waited_is_sent() {
        let mut unit = unit(|limits| {
            limits.running_handlers = 1;
            limits.queue_per_connection = 1;
        });
        let mut events = receive(&mut unit, ONE, &request("a"));
        events.extend(receive(&mut unit, TWO, &request("b")));
        let [Event::Incoming(_, question)] = &mut events[..] else { panic!("{events:?}") };
        let question = std::mem::replace(question, Question::message(0));
        for conn in [ONE, TWO] {
            unit.ping(conn, b"so that there is no room");
        }
        unit.answer(question, Ok(Payload::NULL), Moment::EPOCH);
        assert_eq!(called(&take(&mut unit)), [""; 0], "its answer is not sent yet");
        for conn in [ONE, TWO] {
            let mut bytes = Vec::new();
            unit.take_output(conn, &mut bytes);
            unit.written(conn, bytes.len(), Moment::EPOCH);
        }
        assert_eq!(called(&take(&mut unit)), ["b"]);
    }

    #[test]
    fn what_waits_on_a_connection_that_is_gone_waits_on_another() {
        let mut unit = one_handler();
        let mut events = receive(&mut unit, ONE, &request("a"));
        let [Event::Incoming(_, question)] = &mut events[..] else { panic!("{events:?}") };
        let question = std::mem::replace(question, Question::message(0));
        receive(&mut unit, ONE, &request("b"));
        receive(&mut unit, TWO, &request("c"));
        receive(&mut unit, ONE, &request("d"));
        unit.detach(ONE, Ended::Lost);
        assert_eq!((lost(&unit), unit.busy()), ((0, 0), 4));
        unit.answer(question, Ok(Payload::NULL), Moment::EPOCH);
        for event in ["b", "c", "d"] {
            let mut events = take(&mut unit);
            assert_eq!(called(&events), [event], "in the order of their arrival");
            let question = events.iter_mut().find_map(|event| match event {
                Event::Incoming(_, question) => {
                    Some(std::mem::replace(question, Question::message(0)))
                }
                _ => None,
            });
            unit.answer(question.unwrap(), Ok(Payload::NULL), Moment::EPOCH);
        }
        // Without another one, it cannot be answered.
        receive(&mut unit, TWO, &request("e"));
        receive(&mut unit, TWO, &request("f"));
        unit.detach(TWO, Ended::Lost);
        assert_eq!(lost(&unit), (0, 1));
    }

    #[test]
    fn what_waits_on_connections_that_go_is_bounded() {
        let mut unit = one_handler();
        receive(&mut unit, ONE, &request("first"));
        let large = vec![0; 200 << 10];
        for conn in 10..30 {
            let conn = ConnId(conn);
            unit.attach(conn, FrameWriter::new(Side::Server, 0), Extensions::ALL, Moment::EPOCH);
            let payload = Payload { bytes: &large, ..Payload::NULL };
            let (role, event, corr) = ("r".into(), "e".into(), Num::new(conn.0));
            receive(&mut unit, conn, &Frame::Request { role, event, corr, payload });
            unit.detach(conn, Ended::Lost);
        }
        let most: usize = unit.links.iter().map(|link| link.postponed_bytes).sum();
        assert!((POSTPONED_MAX / 2..=2 * POSTPONED_MAX).contains(&most), "{most} bytes wait");
        assert!(lost(&unit).1 > 0, "what has no room is rejected");
    }
}
