//! One connection on the host's side.

use std::{collections::VecDeque, io, mem, net::TcpStream, sync::Arc};

use roletalk_engine::{ConnId, Moment};

use crate::Action;

#[derive(Default)]
pub(crate) struct Link {
    /// None when the loop has a transport of its own. The guard may hold it for a moment.
    pub(crate) socket: Option<Arc<TcpStream>>,
    /// It belongs to a unit.
    pub(crate) attached: bool,
    /// Waits for the socket to be writable, or for the transport to have written.
    pub(crate) waiting: bool,
    /// The loop watches whether the socket is writable.
    watched: bool,
    /// It is in the list of those that may have output.
    fresh: bool,
    /// What was taken to be written is not written yet.
    pub(crate) taken: bool,
    /// The engine is through with it.
    pub(crate) ending: bool,
    /// All is written, the other side has still to close.
    pub(crate) parting: bool,
    pub(crate) gone: bool,
    /// When it is given up, while it is ending.
    pub(crate) until: Option<Moment>,
    /// The engine takes no more for now.
    pub(crate) paused: bool,
    /// What the transport has brought and the engine was not given yet.
    pub(crate) rest: Vec<u8>,
    /// The transport is paused until there is no rest.
    pub(crate) held: bool,
    /// What was found to be wrong where nothing could follow from it yet: the system tells of it once.
    pub(crate) failed: Option<io::Error>,
    /// Bytes that the guard has read since the loop is blocked.
    pub(crate) stood_in: usize,
    /// Bytes that the engine is given at once, while there are other connections.
    portion: usize,
}

/// The size of a portion at first, and the least, in bytes.
const FIRST_PORTION: usize = 8 << 10;
const LEAST_PORTION: usize = 512;
/// The most: pings that cause no event take time as well.
const MOST_PORTION: usize = 64 << 10;
/// The most events that one portion should cause, so that a connection that sends much does not delay the others.
const HELPING: usize = 64;

impl Link {
    pub(crate) fn new(socket: Option<TcpStream>) -> Link {
        Link { socket: socket.map(Arc::new), portion: FIRST_PORTION, ..Link::default() }
    }

    /// How many bytes are to be given to the engine at once, of at most so many.
    pub(crate) fn next_portion(&self, alone: bool, most: usize) -> usize {
        if alone { most } else { self.portion.min(most) }
    }

    /// Adapts the portion: so many bytes have caused so many events, and perhaps there are `more`.
    pub(crate) fn digest(&mut self, bytes: usize, more: bool, events: usize) {
        if events > HELPING {
            let fitting = bytes.saturating_mul(HELPING) / events;
            self.portion = fitting.max(LEAST_PORTION);
        } else if more && events <= HELPING / 2 {
            self.portion = self.portion.saturating_mul(2).min(MOST_PORTION);
        }
    }

    /// Whether the engine still has to do with it.
    pub(crate) fn is_there(&self) -> bool {
        !self.gone && !self.parting
    }

    /// Whether it is to be read for the engine.
    pub(crate) fn is_open(&self) -> bool {
        !self.gone && !self.parting && !self.paused
    }

    /// Puts it into the list of those that may have output.
    pub(crate) fn mark(&mut self, conn: ConnId, fresh: &mut Vec<ConnId>) {
        if !mem::replace(&mut self.fresh, true) {
            fresh.push(conn);
        }
    }

    /// Takes it out of that list. Whether anything can be written to it now.
    pub(crate) fn unmark(&mut self) -> bool {
        self.fresh = false;
        !self.gone && !self.parting && !self.waiting
    }

    pub(crate) fn await_writable(&mut self, conn: ConnId, actions: &mut VecDeque<Action>) {
        self.waiting = true;
        if !mem::replace(&mut self.watched, true) {
            actions.push_back(Action::AwaitWritable(conn));
        }
    }

    pub(crate) fn stop_writing(&mut self, conn: ConnId, actions: &mut VecDeque<Action>) {
        if mem::take(&mut self.watched) {
            actions.push_back(Action::StopWriting(conn));
        }
    }
}
