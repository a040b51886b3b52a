//! What the remote peer says.

use std::time::Duration;

use bytes::{Buf, Bytes};

use super::{
    Event, News, Unit,
    handlers::{EXPIRED, Work},
    incoming::Layout,
    timed_out,
    waiting::NamesNumber,
};
use crate::{
    ConnId, Failure, Fields, FieldsView, Moment, NoHandler,
    error::{Error, ErrorKind, Result},
    hint, printable,
    wire::{self, Data, DataType, Frame, Num, Payload, Wrapped},
};

impl<R> Unit<R> {
    /// A message came on a connection.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] when it cannot be understood: the host closes that connection with
    /// [`close_code::MALFORMED`](crate::close_code::MALFORMED).
    pub fn receive(&mut self, conn: ConnId, message: Bytes, now: Moment) -> Result<()> {
        let Some(at) = self.at(conn) else { return Ok(()) };
        self.links[at].heard(message.len(), now);
        self.clock = now;
        match self.last_names.read(&message) {
            Some(again) => self.work_again(at, message, again, now),
            None => match wire::read_response(&message) {
                Some((corr, Payload { kind, bytes })) => {
                    let before = message.len() - bytes.len();
                    let mut bytes = message;
                    bytes.advance(before);
                    let data = Data::from_raw(kind, bytes);
                    self.responded(corr, data, FieldsView::default(), now);
                }
                None => self.receive_other(at, message, now)?,
            },
        }
        Ok(())
    }

    fn receive_other(&mut self, at: usize, message: Bytes, now: Moment) -> Result<()> {
        if message.len() > self.limits.handshake_message_size && Frame::is_json(&message) {
            let text = "the announcement is too large";
            return Err(Error::new(ErrorKind::Protocol, text));
        }
        if Frame::is_roles(&message) {
            return self.receive_roles(at, message, now);
        }
        match self.links[at].extensions.fields > 0 && Wrapped::is(&message) {
            true => self.receive_wrapped(at, &message, now),
            false => self.receive_frame(at, &message, &message, None, now),
        }
    }

    #[inline(never)]
    fn receive_wrapped(&mut self, at: usize, message: &Bytes, now: Moment) -> Result<()> {
        match Wrapped::decode(message).map_err(not_understood)? {
            Some(wrapped) => self.receive_frame(at, message, wrapped.inner, Some(wrapped), now),
            None => Ok(()),
        }
    }

    /// `inner` is the frame in the message, behind what it is wrapped in.
    #[inline(always)] // Most are not wrapped, and should not pay for it.
    fn receive_frame(
        &mut self,
        at: usize,
        message: &Bytes,
        inner: &[u8],
        wrapped: Option<Wrapped<'_>>,
        now: Moment,
    ) -> Result<()> {
        let conn = self.links[at].conn;
        let fields = wrapped.map_or_else(FieldsView::default, |wrapped| wrapped.fields);
        let frame = Frame::decode(inner).map_err(not_understood)?;
        match frame {
            Frame::Cancel { .. } if self.links[at].extensions.cancel == 0 => {
                let error = wire::DecodeError::UnknownFrame(inner[0]);
                return Err(not_understood(error));
            }
            Frame::Cancel { corr } => self.given_up(at, corr),
            Frame::Message { .. } | Frame::Request { .. } | Frame::StreamRequest { .. } => {
                let block = wrapped.map_or(0, |wrapped| wrapped.block_len());
                if let Some(mut work) = Work::of(frame, message, conn, block) {
                    if let Some(tag) = wrapped.and_then(|wrapped| wrapped.unknown) {
                        self.needs_more(at, work, tag);
                        return Ok(());
                    }
                    work.due = fields.time_left().map(|left| now + left);
                    let Layout { role, event, ref mended, .. } = work.layout;
                    if mended.is_none() && wrapped.is_none() {
                        self.last_names.note(message, role, event);
                        work.layout.number = self.last_names.serial();
                    }
                    self.work(at, message.clone(), work, now);
                }
            }
            Frame::Response { corr, payload } => {
                let data = own(message, payload);
                self.responded(corr, data, fields, now);
            }
            Frame::Reject { corr, payload } => {
                let answer = Answer::Rejection(own(message, payload));
                self.answered(conn, corr, answer, fields, now);
            }
            Frame::StreamAccept { corr, chan, payload } => {
                let answer = Answer::Acceptance(own(message, payload), chan);
                self.answered(conn, corr, answer, fields, now);
            }
            Frame::StreamRefuse { corr, payload, .. } => {
                let answer = Answer::Refusal(own(message, payload));
                self.answered(conn, corr, answer, fields, now);
            }
            Frame::Stream { chan, op } => self.stream_op(conn, chan, op, message),
            Frame::Acquaint(acquaint) => self.events.push(Event::News(News::Acquaint(acquaint))),
            // Not reached: unwrapped ones go to `receive_roles`, and this frame cannot be wrapped.
            Frame::Roles(update) => self.events.push(Event::News(News::Roles(update))),
        }
        Ok(())
    }

    #[inline(always)] // Nearly all answers are responses.
    fn responded(&mut self, corr: Num, data: Data, fields: FieldsView<'_>, now: Moment) {
        let Some(waiting) = self.waiting.answered(corr.value(), false, now) else { return };
        self.stats.last_answer = Some(now.since(waiting.sent));
        let outcome = match waiting.stream {
            None => Ok(data),
            Some(id) => {
                let text = "The stream was answered as if a request";
                let error = Error::new(ErrorKind::Protocol, text);
                self.stream_not_opened(id, &error);
                self.events.push(Event::Stream(id));
                Err(error)
            }
        };
        let fields = (!fields.is_empty()).then(|| Box::new(Fields::received(fields)));
        self.events.push(Event::Answer { tag: waiting.tag, outcome, reason: None, fields });
    }

    fn answered(
        &mut self,
        conn: ConnId,
        corr: Num,
        answer: Answer,
        fields: FieldsView<'_>,
        now: Moment,
    ) {
        let rejects = !matches!(answer, Answer::Acceptance(..));
        let Some(waiting) = self.waiting.answered(corr.value(), rejects, now) else {
            if let Answer::Acceptance(_, chan) = answer {
                self.stream_opened_late(conn, chan);
            }
            return;
        };
        self.stats.last_answer = Some(now.since(waiting.sent));
        let rejected =
            |text| Err(self.rejection(conn, waiting.names, waiting.timeout, text, fields));
        let (outcome, reason) = match (answer, waiting.stream) {
            (Answer::Acceptance(data, _), None) => (Ok(data), None),
            (Answer::Acceptance(data, chan), Some(id)) => {
                (self.stream_opened(conn, id, chan).map(|()| data), None)
            }
            (Answer::Rejection(data), _) => (rejected(text_of(&data)), Some(data)),
            (Answer::Refusal(data), _) => (rejected(unwrapped(&data)), Some(data)),
        };
        if let Some(id) = waiting.stream {
            if let Err(error) = &outcome {
                self.stream_not_opened(id, error);
            }
            self.events.push(Event::Stream(id));
        }
        let fields = (!fields.is_empty()).then(|| Box::new(Fields::received(fields)));
        self.events.push(Event::Answer { tag: waiting.tag, outcome, reason, fields });
    }

    /// The error of a request that was rejected with this text.
    #[cold]
    fn rejection(
        &self,
        conn: ConnId,
        names: NamesNumber,
        timeout: Duration,
        text: String,
        fields: FieldsView<'_>,
    ) -> Error {
        // Who takes fields says it with them.
        let says_so = self.at(conn).is_some_and(|at| self.links[at].extensions.fields > 0);
        let not_begun = !says_so && self.asked.is_refused(names, &text);
        let failure = fields.failure();
        let mut hint = self.asked.hint(names, &self.info);
        // Whichever side has noticed it first: the requester's time is up.
        let error = match &failure {
            Some(Failure { unhandled: true, .. }) if text == EXPIRED => timed_out(timeout),
            _ => {
                if NoHandler::is_told_by(&text) {
                    let event = self.asked.event(names);
                    hint.push_str(&hint::not_handled(event, &fields.known_events()));
                }
                Error::new(ErrorKind::Rejected, text)
            }
        };
        let error = error.with_hint(hint);
        let error = if not_begun { error.not_begun() } else { error };
        match failure {
            Some(failure) => error.with_failure(failure),
            None => error,
        }
    }

    /// A request that this unit has not begun went on to another one.
    pub fn note_rerouted(&mut self) {
        self.stats.requests_rerouted += 1;
    }

    pub(super) fn answer_event(&mut self, tag: R, outcome: Result<Data>) {
        self.events.push(Event::Answer { tag, outcome, reason: None, fields: None });
    }

    /// A pong came on a connection.
    pub fn pong(&mut self, conn: ConnId, payload: &[u8], now: Moment) {
        if let Some(at) = self.at(conn) {
            self.clock = now;
            self.links[at].pong(payload, now);
            self.let_follow(at);
            self.note_fence(now);
            if self.full {
                // Messages may take a connection now that they could not take before.
                self.note_room();
            }
        }
    }
}

#[cold]
pub(super) fn not_understood(error: wire::DecodeError) -> Error {
    Error::new(ErrorKind::Protocol, printable(&error.to_string()))
}

fn own(message: &Bytes, payload: Payload<'_>) -> Data {
    Data::from_raw(payload.kind, message.slice_ref(payload.bytes))
}

/// What a remote peer says to a request of ours, but for a response.
enum Answer {
    Rejection(Data),
    /// The stream's channel comes with it.
    Acceptance(Data, Num),
    Refusal(Data),
}

/// The text of a refused stream, which the JavaScript original puts into JSON inside a string.
fn unwrapped(data: &Data) -> String {
    #[derive(serde::Deserialize)]
    struct Wrapped {
        data: String,
    }
    let text = text_of(data);
    serde_json::from_str(&text).map_or(text, |Wrapped { data }| data)
}

/// The text of a rejection. The Go original sends `{}` whatever the reason.
fn text_of(data: &Data) -> String {
    match data.kind() {
        DataType::String => data.as_str().unwrap_or_default().into_owned(),
        DataType::Boolean => data.as_bool().unwrap_or_default().to_string(),
        DataType::Null | DataType::Unknown(_) => "null".to_owned(),
        _ => String::from_utf8_lossy(data.bytes()).into_owned(),
    }
}
