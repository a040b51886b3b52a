//! Messages, requests, answers and cancels that were in the queue of a connection when that was lost.

use bytes::Bytes;
use rustc_hash::FxHashSet;

use super::{Event, Moves, OWED_MAX, Unit, link::Link};
use crate::{
    Order,
    error::{Error, Result},
    wire::{Frame, Wrapped},
};

/// A one-way message that was surely not sent, to be [sent](Unit::resend) to another unit.
#[derive(Clone, Debug)]
pub struct Unsent {
    role: String,
    /// The frame, with its fields.
    message: Bytes,
    /// How many bytes the fields take in front of the frame that they go with.
    fields: usize,
}

impl Unsent {
    /// A message; none when the frame is none.
    fn of(message: Bytes) -> Option<Unsent> {
        let wrapped = Wrapped::decode(&message).ok()?;
        let inner = wrapped.map_or(&message[..], |wrapped| wrapped.inner);
        let Ok(Frame::Message { role, .. }) = Frame::decode(inner) else { return None };
        let (role, fields) = (role.to_string(), message.len() - inner.len());
        Some(Unsent { role, message, fields })
    }

    /// The role that it is for.
    pub fn role(&self) -> &str {
        &self.role
    }
}

impl<R> Unit<R> {
    /// Sends a message that another unit has not got, behind what is queued, whatever the limits: it was within
    /// them there, and was counted there.
    ///
    /// # Errors
    /// [`ErrorKind::ConnectionLost`](crate::ErrorKind::ConnectionLost) without an open connection.
    pub fn resend(&mut self, unsent: &Unsent) -> Result<()> {
        let at = self.route(Order::Kept).ok_or_else(Error::unit_gone)?;
        let takes_fields = self.links[at].extensions.fields > 0;
        let from = if takes_fields { 0 } else { unsent.fields };
        self.stats.fields_left_out += u64::from(from > 0);
        self.resend_on(at, &unsent.message[from..]);
        Ok(())
    }

    /// Has a request that was never taken sent on another connection. Without one, it fails with the others.
    fn move_request(&mut self, link: &Link, message: &Bytes, corr: u64, fields: usize) {
        let Some(at) = self.route(Order::Kept) else { return };
        let fits = fields == 0 || self.links[at].extensions.fields > 0;
        if fits && self.waiting.is_on(corr, link.conn) {
            self.resend_on(at, message);
            let sent = self.queued_at(at);
            self.waiting.moved(corr, sent.conn, sent.frame);
        }
    }

    fn resend_on(&mut self, at: usize, message: &[u8]) {
        self.note_ordered(at);
        self.push_with(at, message.len(), |out| out.extend_from_slice(message));
    }

    /// Has an answer that was never taken sent on another connection, within the bounds of answers: otherwise, a unit
    /// that opens and closes connections without reading could fill the memory.
    fn move_answer(&mut self, message: &Bytes, Answer { fields, is_response }: Answer) {
        let has_room = |at: &usize| {
            let link = &self.links[*at];
            let owes = self.owes_answers(*at) || link.owed() >= self.limits.owed();
            !link.closing && !owes && self.budget.queued() < self.limits.queue_per_peer
        };
        let others = (0..self.links.len()).filter(has_room);
        let Some(at) = others.min_by_key(|at| self.rank(&self.links[*at])) else { return };
        let from = if self.links[at].extensions.fields > 0 { 0 } else { fields };
        let message = &message[from..];
        let added = self.push_with(at, message.len(), |out| out.extend_from_slice(message));
        match is_response {
            true => self.links[at].answer(added),
            false => self.links[at].owe(added.min(OWED_MAX)),
        }
    }

    /// Has the word that a request was given up go on another connection.
    fn move_cancel(&mut self, message: &Bytes) {
        if let Some(at) = self.best_to_cancel() {
            self.push_with(at, message.len(), |out| out.extend_from_slice(message));
        }
    }

    /// Has what is in the queue of a lost connection sent on another one of this unit; messages, if there is none, by
    /// another unit.
    pub(super) fn move_on(&mut self, link: &Link) {
        let mut never_sent = FxHashSet::default();
        for (message, moves) in link.unsent(Frame::may_move) {
            if let Ok(Frame::Cancel { corr }) = Frame::decode(&message) {
                if !never_sent.contains(&corr.value()) {
                    self.move_cancel(&message);
                }
                continue;
            }
            if let Some(answer) = Answer::of(&message) {
                self.move_answer(&message, answer);
                continue;
            }
            if let Some((corr, fields)) = request_of(&message) {
                never_sent.insert(corr);
                if moves != Moves::Nowhere {
                    self.move_request(link, &message, corr, fields);
                }
                continue;
            }
            if moves == Moves::Nowhere {
                continue;
            }
            let Some(unsent) = Unsent::of(message.clone()) else { continue };
            match self.route(Order::Kept) {
                Some(at) if unsent.fields == 0 || self.links[at].extensions.fields > 0 => {
                    self.resend_on(at, &unsent.message);
                    if moves != Moves::ToAnyUnit {
                        self.links[at].pin(moves);
                    }
                }
                _ if moves != Moves::ToAnyUnit => {}
                _ => self.events.push(Event::Unsent(Box::new(unsent))),
            }
        }
    }
}

/// An answer that opens no stream.
struct Answer {
    /// How many bytes its fields take.
    fields: usize,
    /// Whether it is no rejection.
    is_response: bool,
}

impl Answer {
    /// None when the frame is something else.
    fn of(message: &[u8]) -> Option<Answer> {
        let wrapped = Wrapped::decode(message).ok()?;
        let inner = wrapped.map_or(message, |wrapped| wrapped.inner);
        let is_response = match Frame::decode(inner).ok()? {
            Frame::Response { .. } => true,
            Frame::Reject { .. } | Frame::StreamRefuse { .. } => false,
            _ => return None,
        };
        Some(Answer { fields: message.len() - inner.len(), is_response })
    }
}

/// The correlation of a request, and how many bytes its fields take.
fn request_of(message: &[u8]) -> Option<(u64, usize)> {
    let wrapped = Wrapped::decode(message).ok()?;
    let inner = wrapped.map_or(message, |wrapped| wrapped.inner);
    let (Frame::Request { corr, .. } | Frame::StreamRequest { corr, .. }) =
        Frame::decode(inner).ok()?
    else {
        return None;
    };
    Some((corr.value(), message.len() - inner.len()))
}
