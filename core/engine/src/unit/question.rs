//! What a handler was called for, and the answer to it.

use std::collections::VecDeque;

use super::{Order, Queued, Unit, send::Prefix, text};
use crate::{
    ConnId, Fields, Moment, Refusal, RequestId, StreamId,
    error::{Error, ErrorKind, Result},
    wire::{self, Data, Direction, Frame, Num, Payload},
};

/// What a requester is told of a stream whose handler returned without accepting it.
const NOT_ACCEPTED: &str = "The stream was not accepted";

/// What kind of communication something belongs to, from the handler's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A one-way message.
    Message,
    /// A request.
    Request,
    /// A stream that this peer reads.
    Readable,
    /// A stream that this peer writes.
    Writable,
}

impl Kind {
    /// All kinds, each at the place `kind as usize`.
    pub const ALL: [Kind; 4] = [Kind::Message, Kind::Request, Kind::Readable, Kind::Writable];

    /// Its name: `message`, `request`, `readable` or `writable`.
    pub fn name(self) -> &'static str {
        ["message", "request", "readable", "writable"][self as usize]
    }

    /// The kind with this name.
    pub fn parse(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The one token of what a handler is called for. It counts as a running handler, and with the bytes that
/// are kept for it, until [`Unit::answer`] takes it back. So it must be given back also when there is
/// nothing to say, as for a message.
///
/// One of a unit that is [over](Unit::is_over) may be dropped.
#[derive(Debug)]
#[must_use = "the handler counts as running until `Unit::answer` takes this back"]
pub struct Question {
    kind: Kind,
    /// Handlers that it stands for, see [`Question::join`].
    handlers: u32,
    way: Way,
    /// Bytes that are kept until it is answered.
    held: usize,
}

/// Where the answer goes.
#[derive(Debug)]
pub(super) enum Way {
    /// Nobody waits for it: it was a message, or a stream that was accepted.
    Nowhere,
    Request(Responder),
    /// That of a request whose requester has said how long it waits. Apart, so that all others stay small.
    Timed(Box<Timed>),
    /// Apart, since it is large and streams are few.
    Stream(Box<StreamOffer>),
}

impl Way {
    /// What kind of handler it is for.
    #[inline]
    pub(super) fn kind(&self) -> Kind {
        match self {
            Way::Nowhere => Kind::Message,
            Way::Request(_) | Way::Timed(_) => Kind::Request,
            Way::Stream(offer) => match offer.direction {
                Direction::RequesterReads => Kind::Writable,
                Direction::RequesterWrites => Kind::Readable,
            },
        }
    }

    #[inline]
    pub(super) fn request(&self) -> Option<RequestId> {
        let (conn, corr) = match self {
            Way::Nowhere => return None,
            Way::Request(to) => (to.conn, to.corr),
            Way::Timed(timed) => (timed.to.conn, timed.to.corr),
            Way::Stream(offer) => (offer.conn, offer.corr),
        };
        Some(RequestId { conn, corr: corr.value() })
    }

    /// The same with the time at which it is over; of messages it does not matter.
    pub(super) fn timed(self, due: Moment) -> Way {
        match self {
            Way::Request(to) => Way::Timed(Box::new(Timed { to, due })),
            Way::Stream(mut offer) => {
                offer.due = Some(due);
                Way::Stream(offer)
            }
            other => other,
        }
    }

    /// The same without that, and what it was.
    fn untimed(self) -> (Way, Option<Moment>) {
        match self {
            Way::Timed(timed) => (Way::Request(timed.to), Some(timed.due)),
            Way::Stream(mut offer) => {
                let due = offer.due.take();
                (Way::Stream(offer), due)
            }
            other => (other, None),
        }
    }
}

/// The way back for the answer to a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Responder {
    pub(super) conn: ConnId,
    pub(super) corr: Num,
}

/// The way back for an answer for which there is so much time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timed {
    to: Responder,
    due: Moment,
}

/// A stream that the remote peer asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamOffer {
    pub(super) conn: ConnId,
    pub(super) corr: Num,
    pub(super) chan: Num,
    pub(super) direction: Direction,
    /// See [`Incoming::deadline`](crate::Incoming::deadline).
    pub(super) due: Option<Moment>,
}

impl Question {
    #[inline]
    pub(super) fn new(way: Way, held: usize) -> Question {
        Question { kind: way.kind(), handlers: 1, way, held }
    }

    #[cfg(test)]
    pub(super) fn message(held: usize) -> Question {
        Question::new(Way::Nowhere, held)
    }

    /// The kind of communication.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The request that it belongs to, by which [`Event::Cancelled`](crate::Event::Cancelled) names it; none of
    /// what nobody waits for.
    #[inline]
    pub fn request(&self) -> Option<RequestId> {
        self.way.request()
    }

    /// Adds the question of another handler of the same unit: both are given back at once, which costs less.
    /// Only for questions whose outcome nobody [hears of](Question::is_heard).
    ///
    /// # Panics
    /// When a requester waits for an answer to one of them.
    #[inline]
    pub fn join(&mut self, other: Question) {
        assert!(!self.is_heard() && !other.is_heard(), "an answer would be lost");
        self.handlers += other.handlers;
        self.held += other.held;
    }

    /// Whether a requester hears of the outcome. If not, an error of the handler is for the
    /// application's log: it was a message, or a stream that was accepted, which tells of its own end.
    #[inline]
    pub fn is_heard(&self) -> bool {
        !matches!(self.way, Way::Nowhere)
    }
}

/// Answers that wait for room in the unit's queues. Their handlers count as running, and the answers as
/// what is held for these.
#[derive(Default)]
pub(super) struct Late {
    answers: VecDeque<LateAnswer>,
    /// Their bytes.
    held: usize,
}

/// Answers queued for one unit may take `queue_per_peer` divided by this, and those on each of its connections an equal
/// share: a unit that sends requests and does not read must not hold more.
const ANSWERS: usize = 32;
/// Answers without room that are passed over for answers on other connections.
const PASSED: usize = 64;
/// Bytes of answers waiting for room from which on no further handlers are called.
const LATE: usize = 32 << 20;

struct LateAnswer {
    question: Question,
    outcome: Result<Data, String>,
    fields: Option<Box<Fields>>,
}

impl<R> Unit<R> {
    /// Takes a question back: the handler has ended, with this answer or with the text of an error. Without
    /// room, the answer is kept until there is some. One whose time is up is not sent. An answer that cannot be sent is turned into a
    /// rejection; what cannot be sent either needs no answer any more, since the unit is gone.
    #[inline]
    pub fn answer(&mut self, question: Question, outcome: Result<Payload<'_>, &str>, now: Moment) {
        if question.is_heard() {
            return self.answer_with(question, outcome, None, now);
        }
        self.clock = now;
        self.handled(question.handlers, question.held);
        if self.postponed > 0 {
            self.start_postponed();
        }
    }

    /// As [`answer`](Unit::answer), with fields: headers, or how the handler failed. They are left out where
    /// the unit does not take them.
    pub fn answer_with(
        &mut self,
        mut question: Question,
        outcome: Result<Payload<'_>, &str>,
        fields: Option<&Fields>,
        now: Moment,
    ) {
        self.clock = now;
        // Whose time is up is answered by that: an answer that just makes it would tell of the handler's end.
        match self.forget_due(&mut question) {
            true => self.handled(question.handlers, question.held),
            false if self.has_room_for(&question, now) => self.settle(question, outcome, fields),
            false => self.keep(question, outcome, fields),
        }
        if self.postponed > 0 {
            self.start_postponed();
        }
    }

    /// Takes a question back whose requester no longer waits, as [`Event::Cancelled`](crate::Event::Cancelled) has
    /// told: nothing is said.
    pub fn forget(&mut self, mut question: Question, now: Moment) {
        self.clock = now;
        self.forget_due(&mut question);
        self.handled(question.handlers, question.held);
        self.start_postponed();
    }

    /// Takes a question back for which no handler was begun, with the text of why, or what
    /// [`find`](crate::find) gives: the requester may go elsewhere.
    pub fn refuse(&mut self, question: Question, refusal: impl Into<Refusal>, now: Moment) {
        let refusal = refusal.into();
        let fields = unhandled(refusal.events());
        self.answer_with(question, Err(refusal.reason()), Some(&fields), now);
    }

    /// Accepts the stream that the remote peer asked for. The question stays with the handler, to be
    /// [given back](Unit::answer) when it has ended. The stream must be [closed](Unit::close_stream) in
    /// the end.
    ///
    /// # Errors
    /// [`ErrorKind::StreamClosed`] when it was accepted or refused before, or is no stream;
    /// [`ErrorKind::ConnectionLost`] when the connection that it came on is gone;
    /// [`ErrorKind::Overloaded`] when too many streams are open; [`ErrorKind::TooLarge`]. The requester is
    /// told.
    pub fn accept(&mut self, question: &mut Question, payload: Payload<'_>) -> Result<StreamId> {
        self.accept_with(question, payload, None)
    }

    /// As [`accept`](Unit::accept), with headers, which are left out where the unit does not take them.
    ///
    /// # Errors
    /// As there.
    pub fn accept_with(
        &mut self,
        question: &mut Question,
        payload: Payload<'_>,
        fields: Option<&Fields>,
    ) -> Result<StreamId> {
        let offer = match &question.way {
            Way::Stream(offer) => **offer,
            _ => {
                return Err(Error::new(ErrorKind::StreamClosed, "The stream was answered already"));
            }
        };
        self.forget_due(question);
        question.way = Way::Nowhere;
        let accepted = self.accept_stream(offer, payload, fields);
        if let Err(error) = &accepted {
            let _ = self.refuse_stream(offer, error.text(), None);
        }
        accepted
    }

    /// Whether no answer waits for room.
    pub(super) fn is_answered(&self) -> bool {
        self.late.answers.is_empty()
    }

    /// Whether so many bytes of answers wait for room that no further handlers are called.
    #[inline]
    pub(super) fn is_late(&self) -> bool {
        self.late.held >= LATE
    }

    /// Whether the connection that an answer takes has room for it.
    fn has_room_for_answer(&mut self, request: Option<RequestId>) -> bool {
        let at = request.and_then(|request| self.back(request.conn));
        at.is_some_and(|at| self.fits(at) && !self.owes_answers(at))
    }

    /// Whether the answers queued on a connection have reached its share of their limit.
    pub(super) fn owes_answers(&self, at: usize) -> bool {
        let answers = self.links[at].answers();
        answers > 0 && answers >= self.limits.queue_per_peer / ANSWERS / self.links.len()
    }

    /// Answers of different requests have no order, but one that is late must not starve.
    fn has_room_for(&mut self, question: &Question, now: Moment) -> bool {
        if !question.is_heard() {
            return true;
        }
        let full = self.is_open() && !self.has_room_for_answer(question.way.request());
        if full {
            self.note_full(now);
        }
        !full && self.late.answers.is_empty()
    }

    /// Its time limit matters no more. True when it is past.
    #[inline]
    fn forget_due(&mut self, question: &mut Question) -> bool {
        match &question.way {
            Way::Nowhere | Way::Request(_) => false,
            Way::Timed(_) | Way::Stream(_) => self.forget_time(question),
        }
    }

    #[inline(never)]
    fn forget_time(&mut self, question: &mut Question) -> bool {
        let (way, due) = std::mem::replace(&mut question.way, Way::Nowhere).untimed();
        question.way = way;
        let (Some(due), Some(request)) = (due, question.request()) else { return false };
        self.expiring.remove(&(due, request));
        due <= self.clock
    }

    fn keep(
        &mut self,
        mut question: Question,
        outcome: Result<Payload<'_>, &str>,
        fields: Option<&Fields>,
    ) {
        let held = outcome.map_or_else(str::len, |payload| payload.bytes.len())
            + fields.map_or(0, |fields| wire::fields_len(Some(fields), None));
        self.release(question.held);
        self.hold(held);
        question.held = held;
        let outcome = outcome.map(Data::from).map_err(str::to_owned);
        let fields = fields.map(|fields| Box::new(fields.clone()));
        self.late.held += held;
        self.late.answers.push_back(LateAnswer { question, outcome, fields });
    }

    /// Sends answers that have waited, while there is room; all of them when the unit has no connection any more.
    pub(super) fn settle_late(&mut self) {
        let mut at = 0;
        while let Some(late) = self.late.answers.get(at) {
            let request = late.question.way.request();
            if self.is_open() && !self.has_room_for_answer(request) {
                // Another connection may have room.
                at += 1;
                if self.links.len() > 1 && at < PASSED {
                    continue;
                }
                return;
            }
            let Some(late) = self.late.answers.remove(at) else { return };
            self.late.held = self.late.held.saturating_sub(late.question.held);
            let outcome = late.outcome.as_ref().map(Data::payload).map_err(String::as_str);
            self.settle(late.question, outcome, late.fields.as_deref());
        }
    }

    #[inline(always)] // It is called for each answer.
    fn settle(
        &mut self,
        question: Question,
        outcome: Result<Payload<'_>, &str>,
        fields: Option<&Fields>,
    ) {
        self.handled(question.handlers, question.held);
        // Errors of sending do not matter: a unit that is gone needs no answer.
        let to = match question.way {
            Way::Nowhere => return,
            Way::Request(to) => to,
            Way::Timed(timed) => timed.to,
            Way::Stream(offer) => {
                let reason = outcome.err().unwrap_or(NOT_ACCEPTED);
                let _ = self.refuse_stream(*offer, reason, fields);
                return;
            }
        };
        match outcome {
            Ok(payload) => {
                if let Err(error) = self.respond(to, payload, fields)
                    && error.kind() == ErrorKind::TooLarge
                {
                    let _ = self.reject(to, error.text(), None);
                }
            }
            Err(reason) => {
                let _ = self.reject(to, reason, fields);
            }
        }
    }

    fn respond(
        &mut self,
        to: Responder,
        payload: Payload<'_>,
        fields: Option<&Fields>,
    ) -> Result<Queued> {
        let len = wire::response_len(to.corr, &payload);
        let at = match fields {
            None => {
                let at = self.way_back(to.conn, len)?;
                let added =
                    self.push_with(at, len, |out| wire::put_response(to.corr, &payload, out));
                self.links[at].answer(added);
                at
            }
            Some(_) => {
                let frame = Frame::Response { corr: to.corr, payload };
                let prefix = self.prefix(fields, None).unwrap_or_default();
                let len = prefix.len() + len;
                let at = self.way_back(to.conn, len)?;
                let added = self.push_prefixed(at, prefix, &frame);
                self.links[at].answer(added);
                at
            }
        };
        Ok(self.queued_at(at))
    }

    /// Rejects what no handler was begun for.
    pub(super) fn reject_unhandled(&mut self, way: Way, reason: &str) {
        self.reject_unhandled_with(way, reason, &unhandled(&[]));
    }

    pub(super) fn reject_unhandled_with(&mut self, way: Way, reason: &str, fields: &Fields) {
        // Errors of sending do not matter: a unit that is gone needs no answer.
        let _ = match way.untimed().0 {
            Way::Nowhere | Way::Timed(_) => return,
            Way::Request(to) => self.reject(to, reason, Some(fields)),
            Way::Stream(offer) => self.refuse_stream(*offer, reason, Some(fields)),
        };
    }

    pub(super) fn reject(
        &mut self,
        to: Responder,
        reason: &str,
        fields: Option<&Fields>,
    ) -> Result<Queued> {
        let reason = wire::cut(reason, self.longest_reason());
        let frame = Frame::Reject { corr: to.corr, payload: text(reason) };
        self.send_refusal(to.conn, fields, &frame)
    }

    /// A reason that does not fit into a message must not keep the requester waiting: longer ones
    /// are cut to this length.
    pub(super) fn longest_reason(&self) -> usize {
        // What goes before it has two numbers of at most 255 bytes.
        self.limits.message_size.saturating_sub(1024)
    }

    /// The connection that the request came on, or another one when it is gone.
    fn way_back(&mut self, conn: ConnId, len: usize) -> Result<usize> {
        if len > self.limits.message_size {
            return Err(Error::new(ErrorKind::TooLarge, format!("The answer has {len} bytes")));
        }
        self.back(conn).ok_or_else(Error::unit_gone)
    }

    /// The connection that an answer takes: that of its request, or another one when that is gone, held or overdue.
    pub(super) fn back(&mut self, conn: ConnId) -> Option<usize> {
        let is_free = |at: &usize| {
            let link = &self.links[*at];
            !link.closing && link.behind.is_none() && !link.is_overdue(self.clock)
        };
        match self.at(conn).filter(is_free) {
            Some(at) => Some(at),
            None => self.route(Order::Any),
        }
    }

    pub(super) fn send_refusal(
        &mut self,
        conn: ConnId,
        fields: Option<&Fields>,
        frame: &Frame<'_>,
    ) -> Result<Queued> {
        let len = frame.encoded_len();
        let mut prefix = self.prefix(fields, None).unwrap_or_default();
        // The reason matters more.
        if prefix.len() + len > self.limits.message_size {
            prefix = Prefix::default();
        }
        let at = self.way_back(conn, prefix.len() + len)?;
        self.push_owed_with(at, prefix, frame);
        Ok(self.queued_at(at))
    }
}

fn unhandled(known: &[String]) -> Fields {
    let mut fields = Fields::new();
    // It is below the limit.
    let _ = fields.set_unhandled(known);
    fields
}
