//! An engine with others around it, and the byte pipes between them.

use std::time::Instant;

use roletalk_engine::{
    Chunk, Config, ConnId, Engine, EngineEvent, Event, Kind, Moment, Moves, Opening, Order,
    Outgoing, UnitId,
    wire::{DataType, Payload},
    ws::Side,
};

use crate::Outcome;

/// An engine with a role of this name, and more of them.
pub(crate) fn engine(seed: u64, roles: &[String]) -> Outcome<Engine<()>> {
    let mut state = seed;
    let mut config = Config::new(Box::new(move |bytes| {
        for byte in bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
    }));
    // All units are counted as they come, also those that would be too many for one machine.
    config.limits.units = 1 << 20;
    let mut engine = Engine::new(config);
    for role in roles {
        engine
            .with_peer(Default::default(), |peer| peer.add_role(role, true, Default::default()))?;
    }
    Ok(engine)
}

/// `role-00007`: of one length, however many there are.
pub(crate) fn role_names(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("role-{at:05}")).collect()
}

/// Something to send: 32 bytes, or what is given.
pub(crate) fn outgoing<'a>(role: &'a str, event: &'a str, bytes: &'a [u8]) -> Outgoing<'a> {
    let payload = Payload { kind: DataType::Binary, bytes };
    Outgoing {
        role,
        event,
        payload,
        order: Order::Kept,
        fields: None,
        bulkhead: None,
        moves: Moves::ToAnyUnit,
    }
}

/// The other end of one of the hub's connections: serves its roles.
pub(crate) struct Remote {
    pub(crate) engine: Engine<()>,
    conn: ConnId,
    /// One-way messages, or bytes of streams, that have arrived.
    pub(crate) counted: u64,
}

fn upgraded(side: Side) -> Opening {
    Opening::Upgraded { side, address: None }
}

impl Remote {
    pub(crate) fn new(mut engine: Engine<()>) -> Outcome<Remote> {
        let conn = engine.open(upgraded(Side::Client), Default::default(), Moment::EPOCH)?;
        Ok(Remote { engine, conn, counted: 0 })
    }

    /// Takes what came, does what a host with an echo handler does, and gives what is to be written.
    pub(crate) fn turn(&mut self, start: Instant, input: &[u8], output: &mut Vec<u8>) {
        let now = Moment::at(start.elapsed());
        self.engine.receive(self.conn, input, now);
        while let Some(event) = self.engine.poll_event() {
            let EngineEvent::Unit { unit, event } = event else { continue };
            match event {
                Event::Incoming(incoming, mut question) => {
                    let served = self.engine.peer().check_role(incoming.role());
                    let kind = question.kind();
                    self.counted += u64::from(kind == Kind::Message && served.is_ok());
                    self.engine.with_unit(unit, now, |unit| {
                        if matches!(kind, Kind::Readable | Kind::Writable) {
                            let _ = unit.accept(&mut question, Payload::NULL);
                        }
                        let (kind, bytes) = (incoming.kind(), incoming.payload());
                        let answer = served.as_ref().map(|()| Payload { kind, bytes });
                        unit.answer(question, answer.map_err(String::as_str), now);
                    });
                }
                Event::Stream(id) => {
                    let counted = &mut self.counted;
                    self.engine.with_unit(unit, now, |unit| {
                        while let Chunk::Data(piece) = unit.read(id) {
                            *counted += piece.len() as u64;
                        }
                    });
                }
                _ => {}
            }
        }
        while let Some(conn) = self.engine.poll_output() {
            debug_assert!(output.is_empty());
            self.engine.take_output(conn, output);
            self.engine.written(conn, now);
        }
    }
}

/// An engine that sends, with remotes around it.
pub(crate) struct Hub {
    pub(crate) engine: Engine<()>,
    pub(crate) remotes: Vec<Remote>,
    /// The hub's units, in the order of the remotes.
    pub(crate) units: Vec<UnitId>,
    pub(crate) start: Instant,
    /// What is under way to and from the remotes: used again each turn.
    pipes: Vec<(ConnId, Vec<u8>)>,
    free: Vec<Vec<u8>>,
}

impl Hub {
    /// A hub that looks for all roles, which each of `remotes` serves.
    pub(crate) fn new(remotes: usize, roles: &[String]) -> Outcome<Hub> {
        let mut hub = Hub {
            engine: engine(1, &[])?,
            remotes: Vec::new(),
            units: Vec::new(),
            start: Instant::now(),
            pipes: Vec::new(),
            free: Vec::new(),
        };
        for role in roles {
            hub.engine.with_peer(Default::default(), |peer| peer.add_destination(role))?;
        }
        for at in 0..remotes {
            let mut remote = Remote::new(engine(at as u64 + 2, roles)?)?;
            // Its number is that of the remote, as it is the only one the hub ever gave.
            let conn =
                hub.engine.open(upgraded(Side::Server), Default::default(), Moment::EPOCH)?;
            debug_assert_eq!(conn, ConnId(at as u64));
            let mut hello = Vec::new();
            remote.turn(hub.start, &[], &mut hello);
            hub.remotes.push(remote);
            hub.engine.receive(conn, &hello, Default::default());
            while hub.turn() {}
        }
        hub.units = hub.engine.peer().units().collect();
        match hub.units.len() == remotes {
            true => Ok(hub),
            false => Err("not all remotes became units".into()),
        }
    }

    pub(crate) fn now(&self) -> Moment {
        Moment::at(self.start.elapsed())
    }

    /// Takes all that the hub has to write.
    pub(crate) fn collect(&mut self) {
        let now = self.now();
        while let Some(conn) = self.engine.poll_output() {
            let mut bytes = self.free.pop().unwrap_or_default();
            self.engine.take_output(conn, &mut bytes);
            self.engine.written(conn, now);
            self.pipes.push((conn, bytes));
        }
    }

    /// Lets the remotes do their part.
    pub(crate) fn run_remotes(&mut self) {
        for (conn, bytes) in &mut self.pipes {
            let mut output = self.free.pop().unwrap_or_default();
            self.remotes[conn.0 as usize].turn(self.start, bytes, &mut output);
            bytes.clear();
            self.free.push(std::mem::replace(bytes, output));
        }
    }

    /// Gives the hub what the remotes wrote, and returns how many requests were answered.
    pub(crate) fn receive(&mut self) -> usize {
        let now = self.now();
        for (conn, mut bytes) in self.pipes.drain(..) {
            self.engine.receive(conn, &bytes, now);
            bytes.clear();
            self.free.push(bytes);
        }
        let mut answered = 0;
        while let Some(event) = self.engine.poll_event() {
            if let EngineEvent::Unit { event: Event::Answer { outcome, .. }, .. } = event {
                answered += usize::from(outcome.is_ok());
            }
        }
        answered
    }

    /// Gives the first remote what the hub has to write, and what that says to a function.
    pub(crate) fn carry(&mut self, mut said: impl FnMut(UnitId, Event<()>)) {
        self.collect();
        let now = self.now();
        let remote = &mut self.remotes[0];
        for (_, mut bytes) in self.pipes.drain(..) {
            remote.engine.receive(remote.conn, &bytes, now);
            bytes.clear();
            self.free.push(bytes);
        }
        while let Some(event) = remote.engine.poll_event() {
            if let EngineEvent::Unit { unit, event } = event {
                said(unit, event);
            }
        }
    }

    /// Moves everything once to the remotes and back. False when there was nothing.
    pub(crate) fn turn(&mut self) -> bool {
        self.collect();
        let busy = !self.pipes.is_empty();
        self.run_remotes();
        self.receive();
        busy
    }
}
