//! One connection on the host's side.

use std::{collections::VecDeque, io, mem, net::TcpStream, sync::Arc};

use roletalk_engine::ConnId;

use crate::Action;

#[derive(Default)]
pub(crate) struct Link {
    /// None when the loop has a transport of its own. The guard may hold it for a moment.
    pub(crate) socket: Option<Arc<TcpStream>>,
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
    pub(crate) paused: bool,
    /// What was found to be wrong where nothing could follow from it yet: the system tells of it once.
    pub(crate) failed: Option<io::Error>,
    /// Bytes that the guard has read since the loop is blocked.
    pub(crate) stood_in: usize,
}

impl Link {
    pub(crate) fn new(socket: Option<TcpStream>) -> Link {
        Link { socket: socket.map(Arc::new), ..Link::default() }
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
