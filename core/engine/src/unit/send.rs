//! What this side asks for: messages and requests, and giving them up.

use std::time::Duration;

use super::{Moves, Order, Outgoing, Queued, TimeLimit, Unit, waiting::Waiting};
use crate::{
    Bulkhead, ConnId, Fields, Moment,
    error::{Error, ErrorKind, Result},
    load::nanos,
    printable,
    wire::{self, Frame, MAX_NUMBER, Num},
};

impl<R> Unit<R> {
    /// Sends a one-way message.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] when [`has_room`](Unit::has_room) is false,
    /// [`ErrorKind::ConnectionLost`] without an open connection, [`ErrorKind::TooLarge`],
    /// [`ErrorKind::InvalidArgument`] for names over 65 535 bytes.
    pub fn send(&mut self, outgoing: Outgoing<'_>) -> Result<Queued> {
        let Outgoing { role, event, payload, order, fields, moves, .. } = outgoing;
        check_names(role, event)?;
        if fields.is_some() {
            return self.send_with_fields(outgoing);
        }
        let len = wire::message_len(role, event, &payload);
        let at = self.pick_in_order(order, len)?;
        self.push_with(at, len, |out| wire::put_message(role, event, &payload, out));
        if moves != Moves::ToAnyUnit {
            self.links[at].pin(moves);
        }
        self.stats.messages_sent += 1;
        Ok(self.queued_at(at))
    }

    #[inline(never)]
    fn send_with_fields(&mut self, outgoing: Outgoing<'_>) -> Result<Queued> {
        let Outgoing { role, event, payload, order, fields, moves, .. } = outgoing;
        let prefix = self.prefix(fields, None)?;
        let frame = Frame::Message { role: role.into(), event: event.into(), payload };
        let queued = self.send_prefixed(order, prefix, &frame)?;
        // Another unit may not take what is required.
        let moves = match moves {
            Moves::ToAnyUnit if fields.is_some_and(Fields::is_required) => Moves::WithinUnit,
            moves => moves,
        };
        if moves != Moves::ToAnyUnit
            && let Some(at) = self.at(queued.conn)
        {
            self.links[at].pin(moves);
        }
        self.stats.messages_sent += 1;
        Ok(queued)
    }

    /// What goes before a frame to this unit: nothing, when there is nothing to say, or when the unit does
    /// not take it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when it does not take what is required.
    #[inline]
    pub(super) fn prefix<'a>(
        &mut self,
        fields: Option<&'a Fields>,
        deadline: Option<Duration>,
    ) -> Result<Prefix<'a>> {
        match (fields, deadline) {
            (None, None) => Ok(Prefix::default()),
            _ => self.some_prefix(fields, deadline),
        }
    }

    #[cold]
    fn some_prefix<'a>(
        &mut self,
        fields: Option<&'a Fields>,
        deadline: Option<Duration>,
    ) -> Result<Prefix<'a>> {
        let fields = fields.filter(|fields| !fields.is_empty());
        if self.takes_fields() {
            return Ok(Prefix { fields, deadline });
        }
        // That something is not handled is said whether or not anybody asks for it.
        if let Some(fields) = fields.filter(|fields| !fields.view().is_only_failure()) {
            if fields.is_required() && self.is_open() {
                let text = format!("The unit {} takes no headers", printable(self.info.label()));
                return Err(Error::new(ErrorKind::Unsupported, text).with_hint(
                    "Its version is too old. Do without `required` to leave them out.",
                ));
            }
            self.stats.fields_left_out += 1;
        }
        Ok(Prefix::default())
    }

    /// Sends a request; [`Event::Answer`](super::Event::Answer) brings `tag` back with the outcome. Returns the number
    /// under which it can be abandoned.
    ///
    /// # Errors
    /// As [`send`](Unit::send), and [`ErrorKind::Overloaded`] when too many requests wait.
    pub fn request(
        &mut self,
        outgoing: Outgoing<'_>,
        timeout: impl Into<TimeLimit>,
        now: Moment,
        tag: R,
    ) -> Result<u64> {
        let Outgoing { role, event, payload, order, fields, bulkhead, .. } = outgoing;
        check_names(role, event)?;
        self.check_waiting()?;
        let entered = bulkhead.map(Bulkhead::enter).transpose()?;
        let limit = timeout.into();
        let corr = self.free_corr();
        let Queued { conn, frame } = match (fields, limit.limit) {
            (None, None) => {
                let corr = Num::new(corr);
                let len = wire::request_len(role, event, corr, &payload);
                let at = self.pick_in_order(order, len)?;
                self.push_with(at, len, |out| {
                    wire::put_request(role, event, corr, &payload, out);
                });
                self.queued_at(at)
            }
            _ => {
                let prefix = self.prefix(fields, limit.left(now))?;
                let (role, event, corr) = (role.into(), event.into(), Num::new(corr));
                let request = Frame::Request { role, event, corr, payload };
                self.send_prefixed(order, prefix, &request)?
            }
        };
        let names = self.asked.number(role, event);
        let (sent, timeout) = self.limit(limit, now);
        let waiting = Waiting {
            tag,
            conn,
            frame,
            sent,
            asked: nanos(now),
            timeout,
            stream: None,
            names,
            _entered: entered,
        };
        self.wait(corr, waiting);
        Ok(corr)
    }

    /// Since when a request waits, and how long.
    pub(super) fn limit(
        &self,
        TimeLimit { limit, since }: TimeLimit,
        now: Moment,
    ) -> (Moment, Duration) {
        (since.unwrap_or(now), limit.unwrap_or(self.limits.request_timeout))
    }

    pub(super) fn check_waiting(&self) -> Result<()> {
        if self.waiting.len() < self.limits.waiting_requests {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Overloaded, "Too many requests wait for an answer of the unit"))
    }

    pub(super) fn free_corr(&self) -> u64 {
        let mut corr = self.next_corr;
        while self.waiting.contains(corr) {
            corr = (corr + 1) & MAX_NUMBER;
        }
        corr
    }

    pub(super) fn wait(&mut self, corr: u64, waiting: Waiting<R>) {
        self.next_corr = (corr + 1) & MAX_NUMBER;
        self.stats.requests_sent += 1;
        self.waiting.insert(corr, waiting);
    }

    /// Gives up waiting for an answer; a later one is ignored. The other side is told, if it can be. Returns
    /// the tag when it was waiting.
    pub fn abandon(&mut self, corr: u64) -> Option<R> {
        let waiting = self.waiting.remove(corr)?;
        self.cancel(waiting.conn, corr);
        Some(waiting.tag)
    }

    /// Tells the other side that nobody waits for an answer any more: on the connection of the request, or, when that is
    /// closed, on another one.
    pub(super) fn cancel(&mut self, conn: ConnId, corr: u64) {
        let at = match self.at(conn).filter(|at| !self.links[*at].closing) {
            Some(at) => Some(at).filter(|at| self.links[*at].extensions.cancel > 0),
            None => self.best_to_cancel(),
        };
        if let Some(at) = at {
            self.push(at, &Frame::Cancel { corr: Num::new(corr) });
            self.stats.cancels_sent += 1;
        }
    }

    #[cold]
    pub(super) fn best_to_cancel(&self) -> Option<usize> {
        let takes = |at: &usize| !self.links[*at].closing && self.links[*at].extensions.cancel > 0;
        (0..self.links.len()).filter(takes).min_by_key(|at| self.rank(&self.links[*at]))
    }

    /// Writes a frame that the peer's state machine made, whatever is queued.
    pub fn send_raw(&mut self, frame: &[u8]) {
        if let Some(at) = self.route(Order::Kept) {
            let added = self.links[at].push(frame.len(), |out| out.extend_from_slice(frame));
            self.budget.add(added);
            self.announce(at);
        }
    }

    /// Writes frames that the peer's state machine made and that the remote peer can do without,
    /// unless its queue is full.
    pub fn introduce(&mut self, frames: &[Vec<u8>]) {
        if self.route(Order::Kept).is_some_and(|at| self.fits(at)) {
            frames.iter().for_each(|frame| self.send_raw(frame));
        }
    }
}

/// What goes before a frame.
#[derive(Clone, Copy, Default)]
pub(super) struct Prefix<'a> {
    pub(super) fields: Option<&'a Fields>,
    pub(super) deadline: Option<Duration>,
}

impl Prefix<'_> {
    #[inline]
    fn is_empty(&self) -> bool {
        self.fields.is_none() && self.deadline.is_none()
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        if self.is_empty() { 0 } else { wire::fields_len(self.fields, self.deadline) }
    }

    #[inline]
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            wire::put_fields(self.fields, self.deadline, out);
        }
    }
}

impl TimeLimit {
    /// What is left of a time that was given.
    pub(super) fn left(&self, now: Moment) -> Option<Duration> {
        let gone = now.since(self.since.unwrap_or(now));
        Some(self.limit?.saturating_sub(gone))
    }
}

#[inline]
pub(super) fn check_names(role: &str, event: &str) -> Result<()> {
    wire::check_name(role).and_then(|()| wire::check_name(event)).map_err(unfit)
}

#[cold]
fn unfit(error: wire::NameTooLong) -> Error {
    Error::new(ErrorKind::InvalidArgument, error.to_string())
}
