//! One of the two peers: its engine, and what its application holds.

use std::collections::{BTreeSet, VecDeque};

use roletalk_engine::{
    ConnId, Data, Engine, EngineEvent, ErrorKind, Event, Extensions, Kind, Moment, PeerEvent,
    Question, RequestId, Result, StreamId, Unit, UnitId, wire::Payload,
};

use crate::host;

/// What is attached to requests.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tag {
    /// A request to the other peer, by its number.
    Request(usize),
    /// The opening of a stream with it, by its number.
    Stream(usize),
    /// To the hostile peer.
    Hostile,
}

/// What the world has to judge.
#[derive(Debug)]
pub(super) enum Happening {
    Outcome(Tag, Result<Data>),
    Message(Data),
    Close(ConnId),
    Broken(ConnId, roletalk_engine::Error),
}

/// One end of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub(super) unit: UnitId,
    pub(super) id: StreamId,
}

pub(super) struct Node {
    pub(super) engine: Engine<Tag>,
    /// The other of the two, while it is connected.
    pub(super) other: Option<UnitId>,
    pub(super) hostile: Option<UnitId>,
    /// Streams that the other asks for, with their numbers.
    pub(super) offers: VecDeque<(UnitId, Question, usize)>,
    pub(super) hostile_offers: VecDeque<(UnitId, Question)>,
    pub(super) hostile_streams: Vec<Hold>,
    pub(super) responders: VecDeque<(UnitId, Question, Data)>,
    /// Requests that may be abandoned.
    pub(super) waiting: Vec<(UnitId, u64, usize)>,
    /// The number of the newest message that was sent, and that came.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Requests of the other that nobody waits for.
    cancelled: BTreeSet<RequestId>,
}

impl Node {
    pub(super) fn new(name: &str, window: usize, extensions: Extensions) -> Node {
        let mut engine = host::engine(name, window as u64 + u64::from(name.as_bytes()[0]), |c| {
            c.limits.stream_window = window;
            c.extensions = extensions;
        });
        let now = Moment::EPOCH;
        engine.with_peer(now, |peer| {
            peer.add_role("role", true, now).expect("a usable name");
            peer.add_destination("role").expect("a usable name");
        });
        Node {
            engine,
            other: None,
            hostile: None,
            offers: VecDeque::new(),
            hostile_offers: VecDeque::new(),
            hostile_streams: Vec::new(),
            responders: VecDeque::new(),
            waiting: Vec::new(),
            sent: 0,
            received: 0,
            cancelled: BTreeSet::new(),
        }
    }

    /// Works with a unit that may have gone.
    pub(super) fn unit<T>(
        &mut self,
        unit: Option<UnitId>,
        now: Moment,
        work: impl FnOnce(&mut Unit<Tag>) -> T,
    ) -> Option<T> {
        self.engine.with_unit(unit?, now, work)
    }

    /// Takes all events of the engine, and returns those that the world has to judge.
    pub(super) fn events(&mut self, now: Moment) -> Vec<Happening> {
        let mut happenings = Vec::new();
        while let Some(event) = self.engine.poll_event() {
            match event {
                EngineEvent::Peer(PeerEvent::UnitOpened { unit, info }) => {
                    let known = match &*info.id {
                        host::HOSTILE => &mut self.hostile,
                        _ => &mut self.other,
                    };
                    *known = Some(unit);
                }
                EngineEvent::Peer(PeerEvent::UnitClosed { unit }) => {
                    for known in [&mut self.hostile, &mut self.other] {
                        known.take_if(|known| *known == unit);
                    }
                }
                EngineEvent::Peer(PeerEvent::ConnectionClosed { conn, reason, .. })
                    if reason.kind() == ErrorKind::Protocol =>
                {
                    happenings.push(Happening::Broken(conn, reason));
                }
                EngineEvent::Dial { address, .. } => {
                    let error =
                        roletalk_engine::Error::new(ErrorKind::ConnectFailed, "no network here");
                    self.engine.dial_failed(address, error, now);
                }
                EngineEvent::Close { conn, .. } => happenings.push(Happening::Close(conn)),
                EngineEvent::Unit { unit, event } => {
                    happenings.extend(self.unit_event(unit, event, now));
                }
                _ => {}
            }
        }
        happenings
    }

    fn unit_event(&mut self, id: UnitId, event: Event<Tag>, now: Moment) -> Option<Happening> {
        let hostile = self.hostile == Some(id);
        if let (false, Event::Incoming(incoming, question)) = (hostile, &event) {
            let request = question.request();
            let over = request.is_some_and(|request| self.cancelled.contains(&request));
            assert!(!over, "{request:?} is begun after it was given up");
            assert!(incoming.deadline().is_none_or(|due| due > now), "it is begun after its time");
            assert!(incoming.fields().headers().all(|(name, _)| name == "n"));
        }
        match event {
            Event::Cancelled { request: Some(request), .. } if !hostile => {
                self.cancelled.insert(request);
            }
            Event::Incoming(incoming, question) => match question.kind() {
                Kind::Message => {
                    let null = Ok(Payload::NULL);
                    self.engine.with_unit(id, now, |unit| unit.answer(question, null, now));
                    return (!hostile).then(|| Happening::Message(incoming.into_data()));
                }
                Kind::Request => {
                    self.responders.push_back((id, question, incoming.into_data()));
                }
                _ if hostile => self.hostile_offers.push_back((id, question)),
                _ => {
                    let key = incoming.data().as_u64().expect("the other sends numbers");
                    self.offers.push_back((id, question, key as usize));
                }
            },
            Event::Answer { tag, outcome, .. } => return Some(Happening::Outcome(tag, outcome)),
            _ => {}
        }
        None
    }
}
