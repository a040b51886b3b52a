//! What goes out: the choice of a connection, and its queue.

use super::{
    BULK_MARK, Event, OWED_MAX, Order, Queued, Unit, drain::Drain, link::Link, send::Prefix,
};
use crate::{
    ConnId, Moment,
    error::{Error, ErrorKind, Result},
    wire::Frame,
};

impl<R> Unit<R> {
    /// Whether more may be sent, in order or not. When it is false, [`Event::Room`] tells when to try
    /// again.
    pub fn has_room(&mut self) -> bool {
        let room = self.route(Order::Kept).is_some_and(|at| self.fits(at));
        // Only the event ends the waiting: somebody else may still wait for it.
        self.full |= !room;
        room
    }

    #[inline]
    pub(super) fn fits(&self, at: usize) -> bool {
        let peer_full = self.budget.queued() >= self.limits.queue_per_peer;
        // A unit with nothing queued gets at least one message through whatever the others do,
        // or nobody would tell it when there is room.
        let idle = || self.links.iter().all(|link| link.queued() == 0);
        self.links[at].queued() < self.limits.queue_per_connection && (!peer_full || idle())
    }

    /// The next connection that has output the host does not know of, or that may be read again after it
    /// was [saturated](Unit::is_saturated).
    pub fn poll_output(&mut self) -> Option<ConnId> {
        self.fresh.pop()
    }

    /// Takes what is to be written to a connection, in exchange for an empty buffer. Call
    /// [`written`](Unit::written) when it has been written, before taking more.
    pub fn take_output(&mut self, conn: ConnId, buffer: &mut Vec<u8>) {
        debug_assert!(buffer.is_empty());
        if let Some(at) = self.at(conn) {
            self.links[at].take(buffer);
        }
    }

    /// Whether a connection has something to write.
    pub fn has_output(&self, conn: ConnId) -> bool {
        self.at(conn).is_some_and(|at| self.links[at].has_output())
    }

    /// Whether what is queued on a connection is held.
    pub(crate) fn is_held(&self, conn: ConnId) -> bool {
        self.at(conn).is_some_and(|at| self.links[at].behind.is_some())
    }

    /// Bytes of a connection have been written.
    pub fn written(&mut self, conn: ConnId, bytes: usize, now: Moment) {
        let Some(at) = self.at(conn) else { return };
        // Handlers may be started by this.
        self.clock = now;
        let link = &mut self.links[at];
        link.written(bytes, now);
        self.budget.sub(bytes);
        if link.queued() < BULK_MARK && !link.blocked.is_empty() {
            self.unblock_streams(at);
        }
        if self.full || !self.is_answered() {
            if !self.is_answered() {
                self.patience.steps = 0;
            }
            let full = self.is_full(at);
            let link = &mut self.links[at];
            if link.note_full(full, now) {
                let queued = link.queued();
                let dropped = self.stats.messages_dropped + self.stats.requests_shed;
                self.events.push(Event::SlowConsumer { conn, queued, dropped });
            }
            self.note_room();
        }
    }

    /// Whether something that is to be sent has to wait for [`Event::Room`]. Not without a connection: then
    /// trying gives the error. From here on it counts how long a queue has been full, for
    /// [`Event::SlowConsumer`].
    pub fn must_wait(&mut self, now: Moment) -> bool {
        let full = self.is_open() && !self.has_room();
        if full {
            self.note_full(now);
        }
        full
    }

    pub(super) fn note_full(&mut self, now: Moment) {
        for at in 0..self.links.len() {
            if self.is_full(at) {
                self.links[at].full_from(now);
            }
        }
    }

    /// Whether a connection's queue has no room, for messages or for answers.
    fn is_full(&self, at: usize) -> bool {
        self.links[at].queued() >= self.limits.queue_per_connection || self.owes_answers(at)
    }

    /// A part of what was taken from a connection has been written, but not all: pings wait behind
    /// it, so that the connection is not dead yet. To be called while something large goes out.
    pub fn writing(&mut self, conn: ConnId, now: Moment) {
        if let Some(at) = self.at(conn) {
            self.links[at].writing(now);
            if !self.is_answered() {
                // Handlers have ended whose answers are on their way.
                self.patience.steps = 0;
            }
        }
    }

    pub(super) fn note_room(&mut self) {
        self.settle_late();
        // Answers and other units fill queues as well, so this is checked again.
        if self.full && (!self.is_open() || self.has_room()) {
            self.full = false;
            self.events.push(Event::Room);
        }
        self.start_postponed();
    }

    #[inline]
    pub(super) fn announce(&mut self, at: usize) {
        let link = &mut self.links[at];
        if !link.announced && link.has_output() {
            link.announced = true;
            self.fresh.push(link.conn);
        }
    }

    /// Has the host look at a connection again, though there may be nothing to write.
    pub(super) fn alert(&mut self, at: usize) {
        self.fresh.push(self.links[at].conn);
    }

    #[inline]
    pub(super) fn push(&mut self, at: usize, frame: &Frame<'_>) -> usize {
        self.push_with(at, frame.encoded_len(), |out| frame.encode(out))
    }

    #[inline(never)]
    pub(super) fn push_prefixed(
        &mut self,
        at: usize,
        prefix: Prefix<'_>,
        frame: &Frame<'_>,
    ) -> usize {
        self.push_with(at, prefix.len() + frame.encoded_len(), |out| {
            prefix.put(out);
            frame.encode(out);
        })
    }

    /// Queues a frame of this length.
    #[inline]
    pub(super) fn push_with(
        &mut self,
        at: usize,
        len: usize,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> usize {
        let added = self.links[at].push(len, body);
        self.budget.add(added);
        self.announce(at);
        added
    }

    /// Queues what the remote peer has caused, and what no limit holds back.
    pub(super) fn push_owed(&mut self, at: usize, frame: &Frame<'_>) {
        self.push_owed_with(at, Prefix::default(), frame);
    }

    pub(super) fn push_owed_with(&mut self, at: usize, prefix: Prefix<'_>, frame: &Frame<'_>) {
        let added = self.push_prefixed(at, prefix, frame);
        // Payloads belong to the application. One that is large must not keep two peers that send
        // such to each other from reading.
        self.links[at].owe(added.min(OWED_MAX));
    }

    /// Whether so much waits to be written to a connection that the remote peer has caused and that
    /// no limit holds back (rejections, answers to streams) that the host reads no more from the
    /// connection before some of it has been written. Otherwise a peer that sends and never reads
    /// could fill the memory.
    pub fn is_clogged(&self, conn: ConnId) -> bool {
        self.at(conn).is_some_and(|at| self.links[at].owed() >= self.limits.owed())
    }

    /// Whether the close frame of a connection is queued, or the connection gone.
    pub(crate) fn is_closing(&self, conn: ConnId) -> bool {
        self.at(conn).is_none_or(|at| self.links[at].closing)
    }

    /// Code and reason of the close frame that is queued on a connection.
    pub(crate) fn closed_with(&self, conn: ConnId) -> Option<(u16, String)> {
        self.links[self.at(conn)?].said.clone()
    }

    /// Queues the close frame of a connection; nothing else goes out behind it.
    pub fn close(&mut self, conn: ConnId, code: u16, reason: &str) {
        let (code, reason) = self.farewell(conn, (code, reason));
        if code == crate::close_code::DRAINED {
            // It says that nothing more is begun.
            self.drain = Drain::Over;
        }
        if let Some(at) = self.at(conn) {
            let before = self.links[at].out.len();
            self.links[at].close(code, reason);
            self.load.set_open(self.is_open());
            self.budget.add(self.links[at].out.len() - before);
            self.announce(at);
        }
    }

    /// What is queued on a connection is not written any more, but for a close frame: nobody reads there.
    pub(crate) fn set_aside(&mut self, conn: ConnId) {
        if let Some(at) = self.at(conn) {
            self.links[at].set_aside();
        }
    }

    /// Queues a ping beside those of the heartbeat. Of `payload` at most 125 bytes are sent.
    pub fn ping(&mut self, conn: ConnId, payload: &[u8]) {
        if let Some(at) = self.at(conn) {
            let added = self.links[at].ping(payload);
            self.budget.add(added);
            self.announce(at);
        }
    }

    /// Picks a connection for something that is `len` bytes long.
    #[inline]
    fn pick(&mut self, order: Order, len: usize) -> Result<usize> {
        if len > self.limits.message_size {
            return Err(too_large(len, self.limits.message_size));
        }
        let Some(at) = self.route(order) else {
            return Err(Error::unit_gone());
        };
        if !self.fits(at) {
            self.full = true;
            return Err(Error::new(ErrorKind::Overloaded, "The unit's send queue is full"));
        }
        Ok(at)
    }

    /// The connection that something takes, full or not.
    #[inline]
    pub(super) fn route(&self, order: Order) -> Option<usize> {
        if order == Order::Kept
            && let Some(at) = self.ordered.and_then(|conn| self.at(conn))
        {
            let link = &self.links[at];
            let only = self.links.len() == 1;
            let stays = only || !link.has_arrived() || link.queued() == 0;
            if !link.closing && stays && !self.is_let_go(link) {
                return Some(at);
            }
        }
        self.least_loaded()
    }

    pub(super) fn least_loaded(&self) -> Option<usize> {
        let open = self.links.iter().enumerate().filter(|(_, link)| !link.closing);
        let several = self.links.len() > 1;
        let key = |link: &Link| (if several { self.rank(link) } else { 0 }, link.queued());
        open.min_by_key(|(_, link)| key(link)).map(|(at, _)| at)
    }

    /// What was just queued on a connection.
    #[inline]
    pub(super) fn queued_at(&self, at: usize) -> Queued {
        let link = &self.links[at];
        Queued { conn: link.conn, frame: link.frames() }
    }

    /// The same behind a prefix.
    #[inline(never)]
    pub(super) fn send_prefixed(
        &mut self,
        order: Order,
        prefix: Prefix<'_>,
        frame: &Frame<'_>,
    ) -> Result<Queued> {
        let at = self.pick_in_order(order, prefix.len() + frame.encoded_len())?;
        self.push_prefixed(at, prefix, frame);
        Ok(self.queued_at(at))
    }

    /// As [`pick`](Self::pick), and notes what was picked for what must stay in order.
    #[inline]
    pub(super) fn pick_in_order(&mut self, order: Order, len: usize) -> Result<usize> {
        let at = self.pick(order, len)?;
        if order == Order::Kept {
            self.note_ordered(at);
        }
        Ok(at)
    }

    /// The message queued last, or next, on a connection is one that must stay in order.
    #[inline]
    pub(super) fn note_ordered(&mut self, at: usize) {
        let link = &mut self.links[at];
        link.ordered += 1;
        let conn = link.conn;
        if self.ordered != Some(conn) {
            self.follow(at);
            self.ordered = Some(conn);
        }
    }
}

#[cold]
fn too_large(len: usize, limit: usize) -> Error {
    let text = format!("The message has {len} bytes, more than the limit of {limit}");
    Error::new(ErrorKind::TooLarge, text)
        .with_hint("Send it as a stream, in parts, or raise the limit for messages on both sides.")
}
