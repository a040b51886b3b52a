//! Connections that have reached their age are replaced, and nothing is lost.

use std::collections::VecDeque;

use super::*;

const AGE: Duration = Duration::from_secs(100);

/// Side 0 dials side 1, and replaces connections of an age.
struct Dialed {
    pair: Pair,
    address: AddressId,
}

impl Dialed {
    fn new() -> Dialed {
        Dialed::with(AGE)
    }

    fn with(age: Duration) -> Dialed {
        let mut pair = Pair::apart(|config| config.limits.connection_age = age);
        pair.serve(1, "r");
        let now = pair.now;
        let engine = &mut pair.engines[0];
        let address = engine.with_peer(now, |peer| peer.connect("ws://x", true, now)).unwrap();
        let mut dialed = Dialed { pair, address };
        assert!(dialed.is_asked_to_dial());
        dialed.connect();
        dialed.pair.said(0);
        dialed
    }

    fn is_asked_to_dial(&mut self) -> bool {
        let now = self.pair.now;
        let engine = &mut self.pair.engines[0];
        engine.handle_timeout(now);
        let mut asked = false;
        while let Some(event) = engine.poll_event() {
            asked |= matches!(event, EngineEvent::Dial { .. });
            self.pair.events[0].push(event);
        }
        asked
    }

    /// The connection has its age, and the host is asked to dial.
    fn come_of_age(&mut self) {
        self.pair.now = NOW + AGE;
        assert!(self.is_asked_to_dial());
    }

    /// What the host does when it is asked to dial.
    fn connect(&mut self) -> [ConnId; 2] {
        let conn = self.open();
        self.pair.settle();
        conn
    }

    fn open(&mut self) -> [ConnId; 2] {
        let (now, address) = (self.pair.now, Some(self.address));
        let [a, b] = &mut self.pair.engines;
        let dialing = Opening::Upgraded { side: Side::Client, address };
        let accepting = Opening::Upgraded { side: Side::Server, address: None };
        let conn = [
            a.open(dialing, Remote::default(), now).unwrap(),
            b.open(accepting, Remote::default(), now).unwrap(),
        ];
        self.pair.conns.push(conn);
        conn
    }

    /// Time passes, in which both sides do what is due.
    fn pass(&mut self, time: Duration) {
        let until = self.pair.now + time;
        while self.pair.now < until {
            self.pair.now = (self.pair.now + Duration::from_millis(100)).min(until);
            for engine in &mut self.pair.engines {
                engine.handle_timeout(self.pair.now);
            }
            self.pair.settle();
        }
    }

    /// What was said of connections since the last time.
    fn told(&mut self) -> Vec<String> {
        let told = |event: &EngineEvent<u64>| match event {
            EngineEvent::Close { conn, code, .. } => Some(format!("close {} {code}", conn.0)),
            EngineEvent::Peer(PeerEvent::UnitClosed { .. }) => Some("unit closed".to_owned()),
            EngineEvent::Peer(PeerEvent::Dialed { outcome, .. }) => {
                Some(format!("dialed {}", outcome.is_ok()))
            }
            _ => None,
        };
        let told = self.pair.events[0].iter().filter_map(told).collect();
        self.pair.events[0].clear();
        told
    }

    fn connections(&mut self) -> Vec<ConnId> {
        self.pair.unit(0, |unit| unit.connections().collect())
    }
}

#[test]
fn a_connection_of_age_is_replaced_when_nothing_is_under_way_on_it() {
    let mut dialed = Dialed::new();
    let [old] = dialed.connections()[..] else { panic!() };
    dialed.pass(AGE.mul_f64(0.9) - Duration::from_secs(1));
    assert!(!dialed.is_asked_to_dial(), "it is too young");
    dialed.told();
    dialed.pair.ask(1);
    dialed.pair.settle();
    let question = dialed.pair.question();
    dialed.come_of_age();
    assert!(!dialed.is_asked_to_dial(), "it is being dialed");
    let new = dialed.connect();
    assert_eq!(dialed.connections(), [old, new[0]]);
    // The request goes on where it is. New ones take the new connection.
    dialed.pass(Duration::from_secs(5));
    let before = dialed.pair.unit(0, |unit| unit.stats()).connections[0].frames_sent;
    dialed.pair.ask(2);
    dialed.pair.settle();
    assert_eq!(dialed.pair.answer_all(), 1);
    assert_eq!(dialed.connections(), [old, new[0]]);
    assert_eq!(dialed.pair.unit(0, |unit| unit.stats()).connections[0].frames_sent, before);
    let now = dialed.pair.now;
    dialed.pair.unit(1, |unit| unit.answer(question, Ok(Payload::NULL), now));
    dialed.pair.settle();
    dialed.pass(Duration::from_secs(1));
    assert_eq!(dialed.connections(), [new[0]]);
    let answers = |event: &EngineEvent<u64>| {
        matches!(event, EngineEvent::Unit { event: Event::Answer { outcome: Ok(_), .. }, .. })
    };
    assert_eq!(dialed.pair.events[0].iter().filter(|event| answers(event)).count(), 2);
    assert_eq!(dialed.told(), [format!("close {} 4000", old.0)]);
    // So does that one, in its time.
    dialed.pass(AGE.mul_f64(0.8));
    assert!(!dialed.is_asked_to_dial());
    dialed.pair.now += AGE;
    assert!(dialed.is_asked_to_dial());
}

#[test]
fn what_the_other_side_sends_before_it_hears_of_that_is_handled_and_answered() {
    let mut dialed = Dialed::new();
    dialed.pair.serve(0, "r");
    dialed.pair.settle();
    dialed.come_of_age();
    dialed.open();
    // The handshake is done, but side 1 hears nothing of the end of the old one yet.
    let [old, new] = dialed.pair.conns[..] else { panic!() };
    let leaves = |dialed: &mut Dialed| {
        for time in [Duration::ZERO, Duration::from_millis(200)] {
            dialed.pair.now += time;
            let now = dialed.pair.now;
            dialed.pair.engines[0].handle_timeout(now);
            dialed.pair.carry(new, 0);
            if !dialed.pair.unit(0, |unit| unit.is_closing(old[0])) {
                dialed.pair.carry(old, 0);
            }
        }
        dialed.pair.unit(0, |unit| unit.is_closing(old[0]))
    };
    while dialed.pair.carry(new, 0) || dialed.pair.carry(new, 1) {}
    assert!(!leaves(&mut dialed), "the other side has not answered on the new one");
    while dialed.pair.carry(new, 0) || dialed.pair.carry(new, 1) {}
    assert!(leaves(&mut dialed), "nothing is under way on it");
    let now = dialed.pair.now;
    // Both connections have room, and order is to be kept: it takes the one that it took before.
    for tag in 0..4 {
        dialed.pair.unit(1, |unit| unit.request(to("r"), None, now, tag)).unwrap();
        dialed.pair.unit(1, |unit| unit.send(Outgoing { order: Order::Any, ..to("r") })).unwrap();
    }
    dialed.pair.carry(old, 1);
    dialed.pair.carry(old, 0);
    dialed.pair.settle();
    let asked = questions(dialed.pair.said(0));
    assert_eq!(asked.len(), 8);
    for question in asked {
        dialed.pair.unit(0, |unit| unit.answer(question, Ok(Payload::NULL), now));
    }
    dialed.pair.settle();
    let answered = dialed.pair.said(1).into_iter();
    let answered = answered.filter(|e| matches!(e, Event::Answer { outcome: Ok(_), .. }));
    assert_eq!(answered.count(), 4);
    assert_eq!(dialed.connections(), [new[0]]);
    assert_eq!(dialed.pair.engines[1].peer().units().count(), 1);
}

#[test]
fn an_attempt_that_fails_leaves_the_connection_and_is_made_again() {
    let mut dialed = Dialed::new();
    let before = dialed.connections();
    dialed.told();
    dialed.come_of_age();
    let (now, address) = (dialed.pair.now, dialed.address);
    let error = Error::new(ErrorKind::ConnectFailed, "refused");
    dialed.pair.engines[0].dial_failed(address, error, now);
    assert!(!dialed.is_asked_to_dial(), "not at once");
    assert!(dialed.told().is_empty(), "the connection is up: nobody need know");
    assert_eq!(dialed.connections(), before);
    dialed.pair.now = now + Duration::from_secs(60);
    assert!(dialed.is_asked_to_dial());
}

#[test]
fn a_connection_that_is_lost_meanwhile_is_replaced_by_the_one_that_is_dialed() {
    let mut dialed = Dialed::new();
    let [old] = dialed.pair.conns[..] else { panic!() };
    dialed.come_of_age();
    dialed.told();
    let now = dialed.pair.now;
    for side in [0, 1] {
        dialed.pair.engines[side].closed(old[side], now);
    }
    assert!(!dialed.is_asked_to_dial(), "it is being dialed");
    dialed.connect();
    assert!(dialed.told().contains(&"dialed true".to_owned()));
    assert_eq!(dialed.pair.engines[0].peer().units().count(), 1);
}

#[test]
fn a_stream_and_the_only_connection_stay() {
    let mut dialed = Dialed::new();
    let (writer, reader) = dialed.pair.stream();
    dialed.come_of_age();
    let new = dialed.connect();
    dialed.pass(Duration::from_secs(30));
    assert_eq!(dialed.connections().len(), 2);
    let now = dialed.pair.now;
    dialed.pair.unit(0, |unit| unit.write(writer, b"late", now)).unwrap();
    dialed.pair.unit(0, |unit| unit.finish(writer)).unwrap();
    dialed.pair.settle();
    // The new one is lost before the stream is read: the old one serves on.
    for side in [0, 1] {
        dialed.pair.engines[side].closed(new[side], now);
    }
    assert!(matches!(dialed.pair.unit(1, |unit| unit.read(reader)), Chunk::Data(_)));
    dialed.pair.unit(1, |unit| unit.close_stream(reader, ""));
    dialed.pair.settle();
    dialed.pass(Duration::from_millis(500));
    assert_eq!(dialed.connections().len(), 1);
    dialed.pair.ask(1);
    dialed.pair.settle();
    assert_eq!(dialed.pair.answer_all(), 1);
}

#[test]
fn a_stream_can_be_accepted_after_the_connection_that_it_was_asked_for_on_is_gone() {
    let mut dialed = Dialed::new();
    dialed.pair.serve(0, "r");
    dialed.pair.settle();
    let now = dialed.pair.now;
    let opened = dialed
        .pair
        .unit(1, |unit| unit.open_stream(Direction::RequesterReads, to("r"), None, now, 1));
    let (stream, _) = opened.unwrap();
    dialed.pair.settle();
    let mut offer = questions(dialed.pair.said(0)).pop().unwrap();
    dialed.come_of_age();
    let new = dialed.connect();
    dialed.pass(Duration::from_secs(1));
    assert_eq!(dialed.connections(), [new[0]]);
    let now = dialed.pair.now;
    let writer = dialed.pair.unit(0, |unit| {
        let writer = unit.accept(&mut offer, Payload::NULL).unwrap();
        unit.answer(offer, Ok(Payload::NULL), now);
        writer
    });
    dialed.pair.settle();
    dialed.pair.unit(0, |unit| unit.write(writer, b"late", now)).unwrap();
    dialed.pair.unit(0, |unit| unit.finish(writer)).unwrap();
    dialed.pair.settle();
    let read = dialed.pair.unit(1, |unit| unit.read(stream));
    assert_eq!(read, Chunk::Data(b"late".as_slice().into()));
}

#[test]
fn no_further_connection_is_dialed_while_the_one_before_is_in_use() {
    let mut dialed = Dialed::new();
    let (_writer, _reader) = dialed.pair.stream();
    dialed.come_of_age();
    dialed.connect();
    for _ in 0..3 {
        dialed.pass(AGE);
        assert!(!dialed.is_asked_to_dial());
    }
    assert_eq!(dialed.connections().len(), 2);
}

#[test]
fn a_unit_that_is_closed_does_not_come_back_by_a_replacement() {
    let mut dialed = Dialed::new();
    dialed.come_of_age();
    dialed.open();
    let now = dialed.pair.now;
    dialed.pair.engines[0].close_unit(UnitId(0), now);
    dialed.pair.settle();
    assert_eq!(dialed.pair.engines[0].peer().units().count(), 0);
    assert_eq!(dialed.pair.engines[1].peer().units().count(), 0);
    assert!(!dialed.is_asked_to_dial());
}

#[test]
fn a_peer_that_drains_replaces_nothing() {
    let mut dialed = Dialed::new();
    dialed.come_of_age();
    dialed.connect();
    let now = dialed.pair.now;
    dialed.pair.engines[0].drain(now);
    dialed.pair.settle();
    dialed.pass(Duration::from_secs(1));
    assert_eq!(dialed.connections().len(), 2);
    dialed.pair.engines[0].close(now);
    dialed.pair.settle();
    let codes: Vec<u16> = dialed.pair.events[1]
        .iter()
        .filter_map(|event| match event {
            EngineEvent::Close { code, .. } => Some(*code),
            _ => None,
        })
        .collect();
    assert_eq!(codes, [close_code::DRAINED; 2]);
}

#[test]
fn what_is_postponed_on_a_connection_that_goes_waits_on_another_one() {
    let mut pair = Pair::new(|limits| limits.running_handlers = 1);
    pair.connect();
    pair.settle();
    for tag in 0..8 {
        let any = Outgoing { order: Order::Any, ..to("r") };
        pair.unit(0, |unit| unit.request(any, None, NOW, tag)).unwrap();
        pair.settle();
    }
    pair.engines[1].closed(pair.conns[0][1], NOW);
    let mut answered = 0;
    loop {
        let asked = questions(pair.said(1));
        if asked.is_empty() {
            break;
        }
        for question in asked {
            pair.unit(1, |unit| unit.answer(question, Ok(Payload::NULL), NOW));
            answered += 1;
        }
        pair.settle();
    }
    assert_eq!(answered, 8);
    assert_eq!(pair.unit(1, |unit| unit.stats().requests_shed), 0);
}

#[test]
fn what_runs_on_a_connection_that_was_replaced_can_be_given_up() {
    let mut dialed = Dialed::new();
    dialed.pair.serve(0, "r");
    dialed.pair.settle();
    let now = dialed.pair.now;
    dialed.pair.unit(1, |unit| unit.request(to("r"), None, now, 7)).unwrap();
    dialed.pair.settle();
    let question = questions(dialed.pair.said(0)).pop().unwrap();
    let request = question.request().unwrap();
    dialed.come_of_age();
    let new = dialed.connect();
    dialed.pass(Duration::from_secs(1));
    assert_eq!(dialed.connections(), [new[0]]);
    dialed.pair.said(0);

    assert_eq!(dialed.pair.unit(1, |unit| unit.abandon(request.corr)), Some(7));
    dialed.pair.settle();
    let told = |event: &&Event<u64>| matches!(event, Event::Cancelled { request: of, .. } if *of == Some(request));
    assert_eq!(dialed.pair.said(0).iter().filter(told).count(), 1);
    assert_eq!(dialed.pair.unit(1, |unit| unit.stats().cancels_sent), 1);
    let now = dialed.pair.now;
    dialed.pair.unit(0, |unit| unit.answer(question, Ok(Payload::NULL), now));
}

#[test]
fn an_age_as_long_as_there_is_time_is_never_reached() {
    let mut dialed = Dialed::with(Duration::MAX);
    dialed.pass(Duration::from_secs(10));
    assert!(!dialed.is_asked_to_dial());
    assert_eq!(dialed.connections().len(), 1);
}

#[test]
fn messages_that_never_pause_keep_their_order() {
    let mut dialed = Dialed::new();
    dialed.come_of_age();
    let [new, _] = dialed.connect();
    let [old, both] = dialed.pair.conns[..] else { panic!() };
    // What is sent on the old connection takes 50 ms, what is sent on the new one no time.
    let mut on_its_way = VecDeque::from(vec![Vec::new(); 5]);
    let (mut numbers, mut beside) = (Vec::new(), 0);
    let mut last_on_old = 0;
    for number in 0..300u32 {
        dialed.pair.now += Duration::from_millis(10);
        let now = dialed.pair.now;
        let bytes = number.to_le_bytes();
        let payload = Payload { kind: DataType::Binary, bytes: &bytes };
        let message = Outgoing { payload, ..to("r") };
        // Something else was queued on the new connection just before.
        let other = Outgoing { order: Order::Any, ..to("r") };
        dialed.pair.unit(0, |unit| unit.send(other)).unwrap();
        let sent = dialed.pair.unit(0, |unit| unit.send(message)).unwrap();
        if sent.conn == old[0] {
            last_on_old = number;
        }
        for engine in &mut dialed.pair.engines {
            engine.handle_timeout(now);
        }
        let mut bytes = Vec::new();
        let [a, b] = &mut dialed.pair.engines;
        a.take_output(old[0], &mut bytes);
        a.written(old[0], now);
        on_its_way.push_back(bytes);
        b.receive(old[1], &on_its_way.pop_front().unwrap(), now);
        // As hosts do, they write where they are told to.
        for side in [1, 0, 1, 0] {
            while let Some(conn) = dialed.pair.engines[side].poll_output() {
                match (conn == old[side], side) {
                    (false, _) => assert!(dialed.pair.carry(both, side)),
                    (true, 1) => assert!(dialed.pair.carry(old, side)),
                    (true, _) => break,
                }
            }
        }
        for event in dialed.pair.said(1) {
            if let Event::Incoming(incoming, question) = event {
                match incoming.payload().try_into() {
                    Ok(bytes) => numbers.push(u32::from_le_bytes(bytes)),
                    Err(_) => beside += 1,
                }
                dialed.pair.unit(1, |unit| unit.answer(question, Ok(Payload::NULL), now));
            }
        }
    }
    assert!((50..150).contains(&last_on_old), "{last_on_old}");
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert_eq!((numbers.len(), beside), (300, 300));
    assert_eq!(dialed.connections(), [new]);
}
