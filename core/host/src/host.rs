//! The engine with its sockets: everything that an event loop changes, under one lock.

use std::{
    io::{ErrorKind::Interrupted, ErrorKind::WouldBlock, Read, Write},
    net::{Shutdown, TcpStream},
};

use roletalk_engine::{ConnId, Engine, EngineEvent, Moment, Question, Unit, UnitId, wire::Payload};
use rustc_hash::FxHashMap;

use crate::guard::Waker;

/// Bytes asked for with one read.
const READ: usize = 256 << 10;
/// Bytes of one connection that are read while the loop is blocked.
const STAND_IN: usize = 1 << 20;

/// Something for the loop's side of a connection to do.
#[derive(Debug)]
pub enum Action {
    /// Write this to the transport.
    Write(ConnId, Vec<u8>),
    /// Call when the socket is writable.
    AwaitWritable(ConnId),
    /// All is written: do not call any more.
    StopWriting(ConnId),
    /// Read no more.
    Pause(ConnId),
    /// Read again.
    Resume(ConnId),
    /// All is said. Wait a little for the other side to close, too.
    Part(ConnId),
    /// The socket is at its end: stop watching it, then release it.
    Gone(ConnId),
}

/// One connection on the host's side.
struct Link {
    /// None when the loop has a transport of its own.
    socket: Option<TcpStream>,
    /// Waits for the socket to be writable, or for the transport to have written.
    waiting: bool,
    /// The loop watches whether the socket is writable.
    watched: bool,
    /// It is in the list of those that may have output.
    fresh: bool,
    /// The engine is through with it.
    ending: bool,
    /// All is written, the other side has still to close.
    parting: bool,
    gone: bool,
    paused: bool,
    /// Bytes that were read since the loop was blocked.
    stand_in: usize,
}

impl Link {
    /// Whether the socket is to be read for the engine.
    fn is_open(&self) -> bool {
        !self.gone && !self.parting && !self.paused
    }
}

/// One peer's engine and its connections. All times are those of one clock that never goes back.
pub struct Host {
    /// The engine. Connections are closed by way of the host.
    pub engine: Engine<u32>,
    links: FxHashMap<ConnId, Link>,
    fresh: Vec<ConnId>,
    paused: Vec<ConnId>,
    actions: Vec<Action>,
    buffer: Vec<u8>,
    /// There may be events that were not handed out yet.
    backlog: bool,
    /// The application has closed the peer.
    closed: bool,
    /// There is one as soon as there is a guard.
    pub waker: Option<Waker>,
}

impl Host {
    /// A host without connections.
    pub fn new(engine: Engine<u32>) -> Host {
        Host {
            engine,
            links: FxHashMap::default(),
            fresh: Vec::new(),
            paused: Vec::new(),
            actions: Vec::new(),
            buffer: Vec::new(),
            backlog: false,
            closed: false,
            waker: None,
        }
    }

    /// A connection was opened in the engine: on this socket, which does not block, or on a transport.
    pub fn add_link(&mut self, conn: ConnId, socket: Option<TcpStream>) {
        let link = Link {
            socket,
            waiting: false,
            watched: false,
            fresh: false,
            ending: false,
            parting: false,
            gone: false,
            paused: false,
            stand_in: 0,
        };
        self.links.insert(conn, link);
    }

    /// Forgets a connection that is gone, or that was never watched, and closes its socket.
    pub fn release(&mut self, conn: ConnId, now: Moment) {
        self.links.remove(&conn);
        self.engine.closed(conn, now);
    }

    /// The engine is through with a connection: its socket ends behind what is still to be written.
    pub fn ending(&mut self, conn: ConnId) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.ending = true;
            mark(&mut self.fresh, conn, link);
        }
    }

    // Reading.

    /// A socket is readable.
    pub fn readable(&mut self, conn: ConnId, now: Moment) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        // What came before is to be handed out first, or it would pile up. The loop calls again.
        if self.backlog {
            return;
        }
        let Some(socket) = &mut link.socket else { return };
        if link.gone || (link.paused && !link.parting) {
            return;
        }
        self.buffer.resize(READ, 0);
        link.stand_in = 0;
        match read(socket, &mut self.buffer) {
            Ok(0) => self.lost(conn, now),
            // Only the end is still of interest.
            Ok(_) if link.parting => {}
            Ok(len) => {
                self.engine.receive(conn, &self.buffer[..len], now);
                self.consider_pause(conn);
            }
            Err(error) if error.kind() == WouldBlock => {}
            Err(_) => self.lost(conn, now),
        }
    }

    /// Whether a socket has something to read.
    pub fn has_input(&self) -> bool {
        let readable = |link: &Link| {
            let socket = link.socket.as_ref().filter(|_| link.is_open());
            socket.is_some_and(|socket| matches!(socket.peek(&mut [0]), Ok(1..)))
        };
        self.links.values().any(readable)
    }

    /// Reads and writes in place of a loop that is blocked. What it would have to hear of waits for it,
    /// so that not much is read. Losses of connections are left to it, too.
    pub fn stand_in(&mut self, now: Moment) {
        self.buffer.resize(READ, 0);
        let mut any = false;
        for (conn, link) in &mut self.links {
            while link.is_open()
                && link.stand_in < STAND_IN
                && self.engine.may_read(*conn)
                && let Some(socket) = &mut link.socket
                && let Ok(len @ 1..) = read(socket, &mut self.buffer)
            {
                link.stand_in += len;
                any = true;
                self.engine.receive(*conn, &self.buffer[..len], now);
            }
        }
        self.actions = self.write(now);
        if let (true, Some(waker)) = (any, &mut self.waker) {
            waker.wake();
        }
    }

    /// Bytes came on a transport.
    pub fn feed(&mut self, conn: ConnId, bytes: &[u8], now: Moment) {
        if self.links.get(&conn).is_some_and(|link| !link.parting && !link.gone) {
            self.engine.receive(conn, bytes, now);
            self.consider_pause(conn);
        }
    }

    /// The other side has closed, or the socket has failed.
    pub fn lost(&mut self, conn: ConnId, now: Moment) {
        if let Some(link) = self.links.get_mut(&conn)
            && !link.gone
        {
            link.gone = true;
            self.actions.push(Action::Gone(conn));
            self.engine.closed(conn, now);
        }
    }

    fn consider_pause(&mut self, conn: ConnId) {
        if let Some(link) = self.links.get_mut(&conn)
            && !link.paused
            && !self.engine.may_read(conn)
        {
            link.paused = true;
            self.paused.push(conn);
            self.actions.push(Action::Pause(conn));
        }
    }

    fn consider_resume(&mut self) {
        let Host { paused, links, engine, actions, .. } = self;
        paused.retain(|conn| {
            let Some(link) = links.get_mut(conn) else { return false };
            link.paused = !engine.may_read(*conn);
            if !link.paused {
                actions.push(Action::Resume(*conn));
            }
            link.paused
        });
    }

    // Writing.

    /// A socket is writable.
    pub fn writable(&mut self, conn: ConnId) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.waiting = false;
            mark(&mut self.fresh, conn, link);
        }
    }

    /// A transport has written all that it was given.
    pub fn written(&mut self, conn: ConnId, now: Moment) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.waiting = false;
            mark(&mut self.fresh, conn, link);
            self.engine.written(conn, now);
        }
    }

    /// Writes to sockets what is to be written. Returns what the loop has to do for that.
    pub fn write(&mut self, now: Moment) -> Vec<Action> {
        loop {
            while let Some(conn) = self.engine.poll_output() {
                if let Some(link) = self.links.get_mut(&conn) {
                    mark(&mut self.fresh, conn, link);
                }
            }
            let Some(conn) = self.fresh.pop() else { break };
            self.write_link(conn, now);
        }
        if !self.paused.is_empty() {
            self.consider_resume();
        }
        std::mem::take(&mut self.actions)
    }

    fn write_link(&mut self, conn: ConnId, now: Moment) {
        let Host { links, engine, actions, .. } = self;
        let Some(link) = links.get_mut(&conn) else { return };
        link.fresh = false;
        if link.gone || link.parting || link.waiting {
            return;
        }
        let Some(socket) = &mut link.socket else {
            let mut taken = Vec::new();
            engine.take_output(conn, &mut taken);
            if !taken.is_empty() {
                link.waiting = true;
                actions.push(Action::Write(conn, taken));
            }
            if link.ending {
                link.parting = true;
                engine.closed(conn, now);
                actions.push(Action::Part(conn));
            }
            return;
        };
        let mut any = false;
        loop {
            let output = engine.output(conn, now);
            if output.is_empty() {
                break;
            }
            match socket.write(output) {
                Ok(len) => {
                    engine.wrote(conn, len);
                    any = true;
                }
                Err(error) if error.kind() == Interrupted => {}
                Err(error) if error.kind() == WouldBlock => {
                    if any {
                        engine.writing(conn, now);
                    }
                    link.waiting = true;
                    if !std::mem::replace(&mut link.watched, true) {
                        actions.push(Action::AwaitWritable(conn));
                    }
                    return;
                }
                Err(_) => return self.lost(conn, now),
            }
        }
        if std::mem::take(&mut link.watched) {
            actions.push(Action::StopWriting(conn));
        }
        if link.ending {
            link.parting = true;
            // The other side may have closed already.
            let _ = socket.shutdown(Shutdown::Write);
            engine.closed(conn, now);
            actions.push(Action::Part(conn));
        }
    }

    /// Closes the peer.
    pub fn close(&mut self, now: Moment) {
        self.closed = true;
        self.engine.close(now);
    }

    /// Whether the application has closed the peer.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Gives a question back to its unit.
    pub fn answer(
        &mut self,
        unit: UnitId,
        question: Question,
        outcome: Result<Payload<'_>, &str>,
        now: Moment,
    ) {
        self.engine.with_unit(unit, now, |machine| machine.answer(question, outcome, now));
    }

    // Time.

    /// When [`Host::timeout`] is to be called next.
    pub fn deadline(&self) -> Option<Moment> {
        self.engine.deadline()
    }

    /// Does what is due.
    pub fn timeout(&mut self, now: Moment) {
        self.engine.handle_timeout(now);
    }

    /// Requests that wait, handlers that run, and streams that are open.
    pub fn busy(&self) -> usize {
        let units = self.engine.peer().units().filter_map(|unit| self.engine.unit(unit));
        units.map(Unit::busy).sum()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<EngineEvent<u32>> {
        let event = self.engine.poll_event();
        self.backlog = event.is_some();
        event
    }
}

fn read(socket: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match socket.read(buffer) {
            Err(error) if error.kind() == Interrupted => {}
            read => return read,
        }
    }
}

fn mark(fresh: &mut Vec<ConnId>, conn: ConnId, link: &mut Link) {
    if !std::mem::replace(&mut link.fresh, true) {
        fresh.push(conn);
    }
}
