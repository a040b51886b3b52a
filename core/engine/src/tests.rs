//! Two engines, side by side, without a network in between.

mod access;
mod acquaintance;
mod drain;
mod extensions;
mod renewal;
mod strangers;

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    ErrorKind,
    wire::{Acquaint, DataType, Direction, Frame, Num, Payload, RolesUpdate, StreamOp},
    ws::{FrameWriter, Side},
};

const NOW: Moment = Moment::at(Duration::from_secs(1));

struct Pair {
    engines: [Engine<u64>; 2],
    /// Connections, as each side numbers them.
    conns: Vec<[ConnId; 2]>,
    events: [Vec<EngineEvent<u64>>; 2],
    now: Moment,
}

impl Pair {
    /// Both serve the role `r`, and share a connection.
    fn new(limits: impl Fn(&mut Limits)) -> Pair {
        Pair::with(limits, [Extensions::ALL; 2])
    }

    /// Both serve nothing, and share no connection.
    fn apart(change: impl Fn(&mut Config)) -> Pair {
        Pair {
            engines: [1, 2].map(|n| {
                let mut config = Config::new(Box::new(move |bytes| bytes.fill(n)));
                change(&mut config);
                Engine::new(config)
            }),
            conns: Vec::new(),
            events: [Vec::new(), Vec::new()],
            now: NOW,
        }
    }

    /// As [`new`](Pair::new), with what each side understands.
    fn with(limits: impl Fn(&mut Limits), extensions: [Extensions; 2]) -> Pair {
        let mut pair = Pair {
            engines: [1, 2].map(|n| {
                let mut config = Config::new(Box::new(move |bytes| bytes.fill(n)));
                limits(&mut config.limits);
                config.extensions = extensions[usize::from(n) - 1];
                Engine::new(config)
            }),
            conns: Vec::new(),
            events: [Vec::new(), Vec::new()],
            now: NOW,
        };
        pair.connect();
        pair.settle();
        pair
    }

    /// One more connection. Its bytes do not flow before the next [`settle`](Pair::settle).
    fn connect(&mut self) -> [ConnId; 2] {
        self.connect_to(Remote::default())
    }

    /// The same; this is where it leads to, as side 0 sees it.
    fn connect_to(&mut self, remote: Remote) -> [ConnId; 2] {
        let [a, b] = &mut self.engines;
        let opening = |side| Opening::Upgraded { side, address: None };
        let a = a.open(opening(Side::Client), remote, self.now).unwrap();
        let b = b.open(opening(Side::Server), Remote::default(), self.now).unwrap();
        self.conns.push([a, b]);
        [a, b]
    }

    /// Moves what one side has to say on a connection. False when it was nothing.
    fn carry(&mut self, conn: [ConnId; 2], from: usize) -> bool {
        let mut bytes = Vec::new();
        self.engines[from].take_output(conn[from], &mut bytes);
        self.engines[from].written(conn[from], self.now);
        self.engines[1 - from].receive(conn[1 - from], &bytes, self.now);
        for (engine, events) in self.engines.iter_mut().zip(&mut self.events) {
            events.extend(std::iter::from_fn(|| engine.poll_event()));
        }
        !bytes.is_empty()
    }

    /// Moves everything until nobody has anything to say.
    fn settle(&mut self) {
        while self.conns.clone().into_iter().fold(false, |said, conn| {
            let said = self.carry(conn, 0) || said;
            self.carry(conn, 1) || said
        }) {}
    }

    /// Does something to the unit that one side sees of the other.
    fn unit<T>(&mut self, side: usize, work: impl FnOnce(&mut Unit<u64>) -> T) -> T {
        self.engines[side].with_unit(UnitId(0), self.now, work).expect("the unit is there")
    }

    /// What the unit said to one side since it was last asked.
    fn said(&mut self, side: usize) -> Vec<Event<u64>> {
        let events = std::mem::take(&mut self.events[side]);
        let said = |event| match event {
            EngineEvent::Unit { event, .. } => Some(event),
            _ => None,
        };
        events.into_iter().filter_map(said).collect()
    }

    /// A stream that side 0 writes.
    fn stream(&mut self) -> (StreamId, StreamId) {
        let now = self.now;
        let (writer, _) = self
            .unit(0, |unit| unit.open_stream(Direction::RequesterWrites, to("r"), None, now, 7))
            .unwrap();
        let mut offer = self.question();
        let reader = self.unit(1, |unit| {
            let accepted = unit.accept(&mut offer, Payload::NULL);
            unit.answer(offer, Ok(Payload::NULL), now);
            accepted
        });
        self.settle();
        (writer, reader.unwrap())
    }

    /// What side 1 is asked for.
    fn question(&mut self) -> Question {
        self.settle();
        questions(self.said(1)).pop().expect("side 0 asks for something")
    }
}

fn to(role: &str) -> Outgoing<'_> {
    Outgoing {
        role,
        event: "e",
        payload: Payload::NULL,
        order: Order::Kept,
        fields: None,
        bulkhead: None,
        moves: Moves::ToAnyUnit,
    }
}

#[test]
fn a_reader_that_gives_up_is_no_reader_that_is_through() {
    for finish_first in [false, true] {
        let mut pair = Pair::new(|_| {});
        let (writer, reader) = pair.stream();
        pair.unit(0, |unit| unit.write(writer, b"never read", NOW)).unwrap();
        pair.unit(0, |unit| unit.finish(writer)).unwrap();
        if finish_first {
            pair.settle();
        }
        pair.unit(1, |unit| unit.close_stream(reader, ""));
        pair.settle();
        let outcome = pair.unit(0, |unit| unit.finished(writer));
        assert!(matches!(outcome, Some(Err(_))), "{finish_first}: {outcome:?}");
    }
}

#[test]
fn a_reader_at_the_end_says_that_it_is_through() {
    let mut pair = Pair::new(|_| {});
    let (writer, reader) = pair.stream();
    pair.unit(0, |unit| unit.write(writer, b"read", NOW)).unwrap();
    pair.unit(0, |unit| unit.finish(writer)).unwrap();
    pair.settle();
    assert!(matches!(pair.unit(1, |unit| unit.read(reader)), Chunk::Data(_)));
    assert_eq!(pair.unit(0, |unit| unit.finished(writer)), None);
    pair.unit(1, |unit| unit.close_stream(reader, "whatever"));
    pair.settle();
    assert_eq!(pair.unit(0, |unit| unit.finished(writer)), Some(Ok(())));
}

#[test]
fn both_ends_tell_why_they_broke_off() {
    let mut pair = Pair::new(|_| {});
    let (writer, reader) = pair.stream();
    assert!(pair.unit(0, |unit| unit.failure(writer).is_none()));
    pair.engines[0].closed(pair.conns[0][0], NOW);
    pair.engines[1].closed(pair.conns[0][1], NOW);
    for (side, stream) in [(0, writer), (1, reader)] {
        let error = pair.unit(side, |unit| unit.failure(stream).cloned());
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::ConnectionLost));
    }
}

#[test]
fn what_arrived_can_be_read_after_the_unit_has_closed() {
    let mut pair = Pair::new(|_| {});
    let (writer, reader) = pair.stream();
    pair.unit(0, |unit| unit.write(writer, b"read late", NOW)).unwrap();
    let carrier = pair.unit(0, |unit| unit.finish(writer)).unwrap();
    assert_eq!(carrier, Some(pair.conns[0][0]));
    pair.settle();
    pair.engines[1].closed(pair.conns[0][1], NOW);
    assert!(pair.unit(1, |unit| unit.failure(reader).is_none()));
    let chunk = pair.unit(1, |unit| unit.read(reader));
    assert_eq!(chunk, Chunk::Data(b"read late".as_slice().into()));
    assert_eq!(pair.unit(1, |unit| unit.read(reader)), Chunk::End);
    pair.unit(1, |unit| unit.close_stream(reader, ""));
    assert!(pair.engines[1].unit(UnitId(0)).is_none(), "nothing is left of it");
}

#[test]
fn ordered_messages_keep_to_the_bound_of_their_connection() {
    let mut pair = Pair::new(|limits| limits.queue_per_connection = 10_000);
    pair.connect();
    pair.settle();
    let payload = Payload { kind: DataType::Binary, bytes: &[0; 1000] };
    let message = Outgoing { payload, ..to("r") };
    let sent = (0..100).take_while(|_| pair.unit(0, |unit| unit.send(message)).is_ok()).count();
    assert!((8..=10).contains(&sent), "{sent} messages of 1000 bytes");
    assert!(!pair.unit(0, |unit| unit.has_room()));
    // What needs no order may take the other connection.
    let any = Outgoing { order: Order::Any, ..message };
    assert!(pair.unit(0, |unit| unit.send(any)).is_ok());
    pair.settle();
    assert!(pair.said(0).iter().any(|event| matches!(event, Event::Room)));
    assert!(pair.unit(0, |unit| unit.has_room()));
}

#[test]
fn what_is_to_stay_in_order_changes_over_when_what_was_before_has_been_handed_over() {
    let mut pair = Pair::new(|_| {});
    let [first, second] = [pair.conns[0], pair.connect()];
    pair.settle();
    let send = |pair: &mut Pair, order| {
        pair.unit(1, |unit| unit.send(Outgoing { order, ..to("r") })).unwrap().conn
    };
    let carrier = send(&mut pair, Order::Kept);
    let (old, new) = if carrier == first[1] { (first, second) } else { (second, first) };
    pair.settle();
    let with_a_queue = |pair: &mut Pair| {
        while send(pair, Order::Any) != old[1] {}
        send(pair, Order::Kept)
    };
    assert_eq!(with_a_queue(&mut pair), old[1], "it was not asked");
    pair.settle();
    // The heartbeat asks.
    pair.now = NOW + Duration::from_secs(5);
    pair.engines[1].handle_timeout(pair.now);
    let mut bytes = Vec::new();
    pair.engines[1].take_output(old[1], &mut bytes);
    assert!(bytes.windows(unit::ORDER.len()).any(|part| part == unit::ORDER));
    pair.engines[1].written(old[1], pair.now);
    pair.engines[0].receive(old[0], &bytes, pair.now);
    pair.settle();
    assert_eq!(with_a_queue(&mut pair), new[1]);
}

/// Bytes of an answer, and of all that wait on a connection, in the tests below.
const ANSWER: usize = 1_000;
const ANSWERS: usize = 10_000;

#[test]
fn answers_keep_to_the_bound_of_the_connection_that_has_asked() {
    // For two connections.
    let mut pair = Pair::new(|limits| limits.queue_per_peer = 2 * 32 * ANSWERS);
    let [first, second] = [pair.conns[0], pair.connect()];
    pair.settle();
    let payload = Payload { kind: DataType::Binary, bytes: &[0; ANSWER] };
    let ask = |pair: &mut Pair, conn: [ConnId; 2], corr: u64| {
        let mut frame = Vec::new();
        let (role, event) = ("r".into(), "e".into());
        let corr = Num::new(corr);
        Frame::Request { role, event, corr, payload: Payload::NULL }.encode(&mut frame);
        let mut bytes = Vec::new();
        FrameWriter::new(Side::Client, 0)
            .binary(&mut bytes, frame.len(), |out| out.extend_from_slice(&frame));
        pair.engines[1].receive(conn[1], &bytes, NOW);
        pair.carry(conn, 0);
        let question = questions(pair.said(1)).pop().unwrap();
        pair.unit(1, |unit| unit.answer(question, Ok(payload), NOW));
    };
    for corr in 1..=100 {
        ask(&mut pair, second, corr);
    }
    let queued = |pair: &mut Pair, conn: [ConnId; 2]| {
        let stats = pair.unit(1, |unit| unit.stats());
        stats.connections.iter().find(|stats| stats.conn == conn[1]).unwrap().queued
    };
    let held = queued(&mut pair, second);
    assert!((ANSWERS..ANSWERS + 2 * ANSWER).contains(&held), "{held}");
    // The other connection has room, for its answers and for messages.
    ask(&mut pair, first, 101);
    assert!(queued(&mut pair, first) < 2 * ANSWER);
    pair.carry(first, 1);
    assert!(pair.unit(1, |unit| unit.has_room()));
    assert_eq!(queued(&mut pair, second), held);
    pair.settle();
    assert_eq!(pair.unit(1, |unit| unit.stats().running), 0);
}

#[test]
fn answers_without_room_do_not_keep_messages_waiting() {
    let mut pair = Pair::new(|limits| {
        limits.queue_per_peer = 32 * ANSWERS;
        limits.queue_per_connection = 2 * ANSWERS;
    });
    let payload = Payload { kind: DataType::Binary, bytes: &[0; ANSWER] };
    for number in 0..100 {
        pair.unit(0, |unit| unit.request(to("r"), None, NOW, number)).unwrap();
    }
    // What side 1 says stays in its queue.
    while pair.carry(pair.conns[0], 0) {}
    for question in questions(pair.said(1)) {
        pair.unit(1, |unit| unit.answer(question, Ok(payload), NOW));
    }
    let message = Outgoing { payload, ..to("r") };
    while pair.unit(1, |unit| unit.send(message)).is_ok() {}
    pair.said(1);
    // All is written. Answers fill their part of the queue again, and some still wait.
    pair.carry(pair.conns[0], 1);
    assert!(pair.unit(1, |unit| unit.stats().running) > 0);
    assert!(pair.said(1).iter().any(|event| matches!(event, Event::Room)));
}

impl Pair {
    fn serve(&mut self, side: usize, role: &str) {
        let now = self.now;
        let engine = &mut self.engines[side];
        engine.with_peer(now, |peer| peer.add_role(role, true, now)).unwrap();
        engine.handle_timeout(now);
    }

    fn roles_seen_by(&self, side: usize) -> Vec<String> {
        self.engines[side].peer().unit(UnitId(0)).expect("the unit is there").1.to_vec()
    }
}

#[test]
fn roles_that_were_announced_on_a_lost_connection_are_announced_again() {
    let mut pair = Pair::new(|_| {});
    pair.connect();
    pair.settle();
    pair.serve(0, "r");
    let (engine, lost) = (&mut pair.engines[0], pair.conns[0]);
    let mut bytes = Vec::new();
    engine.take_output(lost[0], &mut bytes);
    assert!(!bytes.is_empty(), "the announcement took the other connection");
    for side in [0, 1] {
        pair.engines[side].closed(lost[side], NOW);
    }
    pair.settle();
    assert_eq!(pair.roles_seen_by(1), ["r"]);
}

/// Otherwise a unit that opens and closes connections, and reads none, could fill the memory.
#[test]
fn a_connection_that_can_have_lost_no_announcement_causes_none() {
    let mut pair = Pair::new(|_| {});
    pair.serve(0, "r");
    pair.settle();
    for _ in 0..10 {
        let second = pair.connect();
        while pair.carry(second, 0) || pair.carry(second, 1) {}
        pair.conns.pop();
        for side in [0, 1] {
            pair.engines[side].closed(second[side], NOW);
        }
    }
    assert_eq!(pair.engines[0].budget().queued(), 0);
    assert_eq!(pair.roles_seen_by(1), ["r"]);
}

#[test]
fn introductions_stay_out_of_a_full_queue() {
    let mut pair = Pair::new(|limits| limits.queue_per_connection = 10_000);
    let frames = vec![vec![200; 6_000]; 3];
    pair.unit(0, |unit| unit.introduce(&frames));
    let queued = pair.engines[0].budget().queued();
    assert!(queued > 18_000, "all of them or none: {queued}");
    pair.unit(0, |unit| unit.introduce(&frames));
    assert_eq!(pair.engines[0].budget().queued(), queued);
}

#[test]
fn announcements_have_the_bound_of_the_handshake() {
    let mut pair = Pair::new(|limits| limits.handshake_message_size = 10_000);
    let conn = pair.conns[0][1];
    let roles = |count| vec!["r".to_owned(); count];
    let acquaint = Acquaint { id: "i".into(), address: None, roles: roles(3_000) };
    for (frame, fits) in [
        (Frame::Roles(RolesUpdate { i: None, roles: roles(2_000) }), true),
        (Frame::Roles(RolesUpdate { i: None, roles: roles(3_000) }), false),
        (Frame::Acquaint(acquaint), false),
    ] {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let taken = pair.unit(1, |unit| {
            let taken = unit.receive(conn, bytes.into(), NOW);
            assert_eq!(unit.has_events(), fits);
            taken
        });
        assert_eq!(taken.map_err(|error| error.kind()).is_ok(), fits);
    }
}

#[test]
fn a_role_that_is_announced_twice_is_one_role() {
    let mut pair = Pair::new(|_| {});
    let roles = ["a", "b", "a", "c", "b"].map(str::to_owned).to_vec();
    pair.engines[0].with_peer(NOW, |peer| {
        peer.hear(UnitId(0), News::Roles(RolesUpdate { i: None, roles }), NOW)
    });
    assert_eq!(pair.roles_seen_by(0), ["a", "b", "c"]);
}

#[test]
fn a_confirmation_that_was_overtaken_takes_no_roles_back() {
    let mut pair = Pair::new(|_| {});
    let second = pair.connect();
    // Side 0 has said its part of the handshake, but it is still on its way.
    pair.carry(second, 1);
    pair.serve(0, "r");
    pair.carry(pair.conns[0], 0);
    assert_eq!(pair.roles_seen_by(1), ["r"]);
    pair.settle();
    assert_eq!(pair.roles_seen_by(1), ["r"]);
}

#[test]
fn nothing_goes_out_behind_the_answer_to_a_close_frame() {
    let mut pair = Pair::new(|_| {});
    let conn = pair.conns[0];
    let payload = Payload { kind: DataType::Binary, bytes: &[0; 1000] };
    pair.unit(1, |unit| unit.send(Outgoing { payload, ..to("r") })).unwrap();
    pair.engines[0].close_unit(UnitId(0), NOW);
    pair.carry(conn, 0);
    let mut bytes = Vec::new();
    pair.engines[1].take_output(conn[1], &mut bytes);
    assert!(bytes.len() < 100, "{} bytes", bytes.len());
    assert_eq!(pair.engines[1].budget().queued(), 0);
}

#[test]
fn a_late_answer_is_not_taken_for_that_to_another_request() {
    let mut pair = Pair::new(|_| {});
    pair.unit(0, |unit| unit.request(to("r"), None, NOW, 1)).unwrap();
    pair.settle();
    // Side 0 loses the connection, side 1 does not notice before there is a new one.
    let lost = pair.conns[0];
    pair.engines[0].closed(lost[0], NOW);
    pair.conns.clear();
    pair.connect();
    pair.settle();
    pair.engines[1].closed(lost[1], NOW);
    let again = pair.engines[0].with_unit(UnitId(1), NOW, |unit| {
        unit.request(to("r"), None, NOW, 2).unwrap();
    });
    assert!(again.is_some());
    let old = questions(pair.said(1)).remove(0);
    pair.unit(1, |unit| unit.answer(old, Ok(Payload::NULL), NOW));
    pair.said(0);
    pair.settle();
    let answers = pair.said(0).into_iter().filter(|e| matches!(e, Event::Answer { .. })).count();
    assert_eq!(answers, 0);
}

#[test]
fn room_is_announced_although_somebody_else_has_found_it() {
    let mut pair = Pair::new(|limits| limits.queue_per_connection = 10_000);
    let payload = Payload { kind: DataType::Binary, bytes: &[0; 1000] };
    let message = Outgoing { payload, order: Order::Any, ..to("r") };
    while pair.unit(0, |unit| unit.send(message)).is_ok() {}
    // Whoever sent this waits now. There is room on a new connection, and somebody else takes it.
    let second = pair.connect();
    while pair.carry(second, 0) || pair.carry(second, 1) {}
    assert!(pair.unit(0, |unit| unit.has_room()));
    pair.settle();
    assert!(pair.said(0).iter().any(|event| matches!(event, Event::Room)));
}

#[test]
fn a_large_message_on_a_slow_network_is_no_dead_connection() {
    let mut pair = Pair::new(|_| {});
    let [a, b] = pair.conns[0];
    let payload = Payload { kind: DataType::Binary, bytes: &[0; 900_000] };
    pair.unit(0, |unit| unit.send(Outgoing { payload, ..to("r") })).unwrap();
    let mut bytes = Vec::new();
    pair.engines[0].take_output(a, &mut bytes);
    for part in bytes.chunks(bytes.len() / 20) {
        pair.now += Duration::from_millis(700);
        for engine in &mut pair.engines {
            engine.handle_timeout(pair.now);
        }
        pair.engines[0].writing(a, pair.now);
        pair.engines[1].receive(b, part, pair.now);
    }
    pair.engines[0].written(a, pair.now);
    pair.settle();
    assert_eq!(questions(pair.said(1)).len(), 1);
    assert_eq!(pair.engines.each_ref().map(|engine| engine.peer().units().count()), [1, 1]);
}

/// The numbers of a Go peer's own streams may be all that there are for ours.
#[test]
fn a_stream_never_takes_the_number_of_another_one() {
    let mut unit = original(Dialect::Go, Limits::default());
    for chan in 1..=255 {
        let frame = Frame::StreamRequest {
            direction: Direction::RequesterWrites,
            role: "r".into(),
            event: "".into(),
            corr: Num::new(chan),
            chan: Num::new(chan),
            payload: Payload::NULL,
        };
        let mut offer = questions(receive(&mut unit, &frame)).remove(0);
        unit.accept(&mut offer, Payload::NULL).unwrap();
    }
    let opened = unit.open_stream(Direction::RequesterReads, to("r"), None, NOW, ());
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Overloaded);
    assert_eq!(unit.stats().streams, 255);
}

/// Ours for a Go peer are used again at once, and one thread may still hold an id that another has closed.
#[test]
fn a_stream_that_is_closed_twice_does_not_take_the_next_one_with_it() {
    for dialect in [Dialect::Go, JAVASCRIPT, Dialect::Credit { window: 1000 }] {
        let mut unit = original(dialect, Limits::default());
        let open = |unit: &mut Unit<()>| {
            let opened = unit.open_stream(Direction::RequesterReads, to("r"), None, NOW, ());
            opened.unwrap().0
        };
        let first = open(&mut unit);
        unit.close_stream(first, "enough");
        let second = open(&mut unit);
        assert_ne!(first, second);
        unit.close_stream(first, "");
        assert!(unit.failure(first).is_none() && matches!(unit.read(first), Chunk::Failed(_)));
        assert_eq!(unit.stats().streams, 1, "{dialect:?}");
        assert!(matches!(unit.read(second), Chunk::Pending), "{dialect:?}");
    }
}

#[test]
fn an_engine_goes_on_with_what_waited_when_a_handler_ends() {
    let mut pair = Pair::new(|limits| limits.running_handlers = 1);
    for tag in 0..3 {
        pair.unit(0, |unit| unit.request(to("r"), None, NOW, tag)).unwrap();
    }
    pair.settle();
    for tag in 0..3 {
        let mut asked = questions(pair.said(1));
        let (Some(question), true) = (asked.pop(), asked.is_empty()) else {
            panic!("one at a time")
        };
        pair.unit(1, |unit| unit.answer(question, Ok(Payload::NULL), NOW));
        pair.settle();
        let [Event::Answer { tag: answered, outcome: Ok(_), .. }] = pair.said(0)[..] else {
            panic!("{tag} is not answered")
        };
        assert_eq!(answered, tag);
    }
    assert!(pair.said(1).is_empty());
}

#[test]
fn an_engine_gives_up_what_waits_when_no_handler_ends() {
    let mut pair = Pair::new(|limits| limits.running_handlers = 1);
    for tag in 0..3 {
        pair.unit(0, |unit| unit.request(to("r"), None, NOW, tag)).unwrap();
    }
    pair.settle();
    let conn = pair.conns[0][1];
    assert!(pair.engines[1].may_read(conn));
    for _ in 0..4 {
        assert!(pair.said(0).is_empty());
        pair.now = pair.engines[1].deadline().unwrap();
        pair.engines[1].handle_timeout(pair.now);
        pair.settle();
    }
    assert_eq!(pair.now, NOW + Duration::from_secs(1));
    let told: Vec<_> = pair.said(0);
    assert!(
        matches!(told[..], [Event::Answer { tag: 1, .. }, Event::Answer { tag: 2, .. }]),
        "{told:?}"
    );
}

/// A unit that is an original, with one connection.
fn original(dialect: Dialect, limits: Limits) -> Unit<()> {
    let mut unit =
        Unit::new(UnitInfo::example(dialect), Arc::new(limits), Budget::default(), Arc::default());
    unit.attach(ConnId(0), FrameWriter::new(Side::Server, 0), Extensions::NONE, NOW);
    unit
}

fn receive(unit: &mut Unit<()>, frame: &Frame<'_>) -> Vec<Event<()>> {
    let mut events = Vec::new();
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    unit.receive(ConnId(0), bytes.into(), NOW).unwrap();
    unit.take_events(&mut events);
    events
}

/// What handlers are to be called for.
fn questions<R>(events: Vec<Event<R>>) -> Vec<Question> {
    let questions = events.into_iter().filter_map(|event| match event {
        Event::Incoming(_, question) => Some(question),
        _ => None,
    });
    questions.collect()
}

/// A stream that an original asked for to read, written to its end and closed.
fn written(unit: &mut Unit<()>) -> StreamId {
    let frame = Frame::StreamRequest {
        direction: Direction::RequesterReads,
        role: "r".into(),
        event: "".into(),
        corr: Num::new(0),
        chan: Num::new(7),
        payload: Payload::NULL,
    };
    let mut offer = questions(receive(unit, &frame)).pop().expect("an offer");
    let stream = unit.accept(&mut offer, Payload::NULL).unwrap();
    unit.write(stream, b"data", NOW).unwrap();
    unit.finish(stream).unwrap();
    assert_eq!(unit.finished(stream), Some(Ok(())), "who writes does not wait for an original");
    unit.answer(offer, Ok(Payload::NULL), NOW);
    stream
}

/// What a JavaScript reader says when it was read to its end, and when it was destroyed.
fn through(unit: &mut Unit<()>, stream: StreamId, reason: &str) {
    let op = StreamOp::Error(reason.into());
    receive(unit, &Frame::Stream { chan: Num::new(stream.0), op });
}

const JAVASCRIPT: Dialect = Dialect::Original { acknowledges: true };

#[test]
fn a_stream_is_under_way_until_a_javascript_reader_is_through() {
    for reason in ["", "boom"] {
        for closed_first in [true, false] {
            let mut unit = original(JAVASCRIPT, Limits::default());
            let stream = written(&mut unit);
            if closed_first {
                unit.close_stream(stream, "");
                assert_eq!((unit.busy(), unit.stats().streams), (1, 0));
            }
            // What it received, not what was read: no news.
            let op = StreamOp::Quota(Num::new(4));
            receive(&mut unit, &Frame::Stream { chan: Num::new(stream.0), op });
            assert_eq!(unit.busy(), 1);
            through(&mut unit, stream, reason);
            unit.close_stream(stream, "");
            assert_eq!(unit.busy(), 0, "{reason:?} {closed_first}");
        }
    }
}

#[test]
fn nobody_waits_for_a_reader_that_is_gone_or_says_nothing() {
    for dialect in [Dialect::Go, Dialect::Original { acknowledges: false }] {
        let mut unit = original(dialect, Limits::default());
        let stream = written(&mut unit);
        unit.close_stream(stream, "");
        assert_eq!(unit.busy(), 0, "{dialect:?}");
    }
    for closed_first in [true, false] {
        let mut unit = original(JAVASCRIPT, Limits::default());
        unit.attach(ConnId(1), FrameWriter::new(Side::Server, 0), Extensions::NONE, NOW);
        let stream = written(&mut unit);
        if closed_first {
            unit.close_stream(stream, "");
        }
        unit.detach(ConnId(0), Ended::Lost);
        unit.close_stream(stream, "");
        assert_eq!(unit.busy(), 0, "{closed_first}");
    }
}

#[test]
fn readers_that_never_end_are_forgotten_in_time() {
    let limits = Limits { streams: 10, ..Limits::default() };
    let mut unit = original(JAVASCRIPT, limits);
    for _ in 0..100 {
        let stream = written(&mut unit);
        unit.close_stream(stream, "");
    }
    assert_eq!(unit.busy(), 10);
}

#[test]
fn a_connection_is_attached_before_anything_follows_from_it() {
    let pair = Pair::new(|_| {});
    for events in &pair.events {
        let attached = matches!(events[0], EngineEvent::Attached { unit: UnitId(0), .. });
        assert!(attached, "{:?}", events[0]);
    }
}

#[test]
fn both_ends_learn_how_a_connection_was_closed() {
    let mut pair = Pair::new(|_| {});
    let [a, b] = pair.conns[0];
    pair.engines[0].close_connection(a, 4321, "enough", NOW);
    pair.engines[0].close_connection(a, 1000, "twice", NOW);
    pair.settle();
    for (side, conn) in [(0, a), (1, b)] {
        let closed: Vec<_> = pair.events[side]
            .iter()
            .filter_map(|event| match event {
                EngineEvent::Close { conn, code, reason } => Some((*conn, *code, reason.as_str())),
                _ => None,
            })
            .collect();
        assert_eq!(closed, [(conn, 4321, "enough")]);
    }
}

#[test]
fn a_reason_comes_as_text_and_as_it_came() {
    let reasons = |pair: &mut Pair| match &pair.said(0)[..] {
        [.., Event::Answer { outcome: Err(error), reason: Some(reason), .. }] => {
            (error.text().to_owned(), reason.as_str().expect("text").into_owned())
        }
        other => panic!("no rejection in {other:?}"),
    };
    // A request's is taken as it is, also when it looks like a stream's.
    for reason in ["no", r#"{"data":"no"}"#] {
        let mut pair = Pair::new(|_| {});
        pair.unit(0, |unit| unit.request(to("r"), None, NOW, 1)).unwrap();
        pair.settle();
        let question = pair.question();
        pair.unit(1, |unit| unit.answer(question, Err(reason), NOW));
        pair.settle();
        assert_eq!(reasons(&mut pair), (reason.to_owned(), reason.to_owned()));
    }
    let mut pair = Pair::new(|_| {});
    let direction = Direction::RequesterWrites;
    pair.unit(0, |unit| unit.open_stream(direction, to("r"), None, NOW, 1)).unwrap();
    let offer = pair.question();
    pair.unit(1, |unit| unit.answer(offer, Err("say \"no\""), NOW));
    pair.settle();
    let wrapped = r#"{"data":"say \"no\""}"#;
    assert_eq!(reasons(&mut pair), ("say \"no\"".to_owned(), wrapped.to_owned()));
}

#[test]
fn a_ping_of_the_application_is_answered_with_its_payload() {
    let mut pair = Pair::new(|_| {});
    let [a, b] = pair.conns[0];
    let payloads: [&[u8]; 2] = [b"", &[7; 125]];
    for payload in payloads {
        pair.engines[0].ping(a, payload, NOW);
    }
    pair.settle();
    let pings = pair.events[1].iter().filter_map(|event| match event {
        EngineEvent::Ping { conn, payload } => Some((*conn, &payload[..])),
        _ => None,
    });
    assert!(pings.eq(payloads.map(|payload| (b, payload))));
    let pongs = pair.events[0].iter().filter_map(|event| match event {
        EngineEvent::Pong { conn, payload } => Some((*conn, &payload[..])),
        _ => None,
    });
    assert!(pongs.eq(payloads.map(|payload| (a, payload))));
}

#[test]
fn of_many_pings_at_once_the_first_and_the_last_are_answered() {
    let mut pair = Pair::new(|_| {});
    let [a, b] = pair.conns[0];
    let mut bytes = Vec::new();
    let mut writer = FrameWriter::new(Side::Client, 1);
    let message = Frame::Message { role: "r".into(), event: "e".into(), payload: Payload::NULL };
    for number in 0..=255u8 {
        writer.ping(&mut bytes, &[number]);
        if number % 100 == 0 {
            writer.ping(&mut bytes, unit::FENCE);
            writer.binary(&mut bytes, message.encoded_len(), |out| message.encode(out));
        }
    }
    pair.engines[1].receive(b, &bytes, NOW);
    let mut answers = Vec::new();
    pair.engines[1].take_output(b, &mut answers);
    let mut socket = ws::Socket::new(Side::Client, 1 << 20);
    let (mut input, mut pongs, mut fences) = (&answers[..], Vec::new(), 0);
    while let Some(incoming) = socket.read(&mut input, &mut Vec::new()).unwrap() {
        match incoming {
            ws::Incoming::Pong(payload) if payload == unit::FENCE => fences += 1,
            ws::Incoming::Pong(payload) => pongs.push(payload[0]),
            other => panic!("{other:?}"),
        }
    }
    // The first 16 are answered, and so are the last one and the pings of a draining peer, in any case.
    assert_eq!(fences, 3);
    assert_eq!(pongs, (0..15).chain([255]).collect::<Vec<_>>());
    let events: Vec<_> = std::iter::from_fn(|| pair.engines[1].poll_event()).collect();
    let told = |wanted: fn(&EngineEvent<u64>) -> bool| events.iter().filter(|e| wanted(e)).count();
    assert_eq!(told(|event| matches!(event, EngineEvent::Ping { .. })), 16);
    assert_eq!(told(|event| matches!(event, EngineEvent::Unit { .. })), 3);
    // The count starts anew with the next bytes.
    let mut bytes = Vec::new();
    writer.ping(&mut bytes, &[7]);
    pair.engines[1].receive(b, &bytes, NOW);
    assert!(pair.carry([a, b], 1));
}

#[test]
fn a_question_of_order_is_answered_behind_the_messages_before_it() {
    let opening = Opening::Upgraded { side: Side::Server, address: None };
    let (origins, limits) = (Arc::default(), Arc::default());
    let mut connection =
        Connection::new(ConnId(1), opening, (origins, false), limits, [0; 16]).unwrap();
    connection.belongs_to(UnitId(1));
    let question = [unit::ORDER, b"whatever"].concat();
    let mut bytes = Vec::new();
    let mut writer = FrameWriter::new(Side::Client, 1);
    for ping in [&question[..], b"another"] {
        writer.ping(&mut bytes, ping);
    }
    let mut input = &bytes[..];
    let pongs = |connection: &mut Connection| {
        let mut output = Vec::new();
        connection.take_output(None::<&mut Unit<u64>>, &mut output);
        let mut socket = ws::Socket::new(Side::Client, 1 << 20);
        let mut input = &output[..];
        std::iter::from_fn(|| match socket.read(&mut input, &mut Vec::new()).unwrap()? {
            ws::Incoming::Pong(payload) => Some(payload.to_vec()),
            other => panic!("{other:?}"),
        })
        .collect::<Vec<_>>()
    };
    assert!(matches!(connection.receive(&mut input), Ok(Some(Received::Ping(_)))));
    // The host has read messages that it has not delivered.
    connection.set_behind(true);
    assert!(matches!(connection.receive(&mut input), Ok(Some(Received::Ping(_)))));
    assert_eq!(pongs(&mut connection), [b"another"]);
    assert!(!connection.has_output(None::<&Unit<u64>>));
    connection.set_behind(false);
    assert!(connection.has_output(None::<&Unit<u64>>));
    assert_eq!(pongs(&mut connection), [question]);
}

#[test]
fn a_peer_that_was_disconnected_can_connect_again() {
    let mut pair = Pair::new(|_| {});
    pair.engines[0].with_peer(NOW, |peer| peer.connect("ws://a", true, NOW)).unwrap();
    pair.engines[0].disconnect(NOW);
    pair.settle();
    assert_eq!(pair.engines.each_ref().map(|engine| engine.peer().units().count()), [0, 0]);
    assert_eq!(pair.engines[0].deadline(), None, "nothing is dialed any more");
    pair.connect();
    pair.settle();
    assert_eq!(pair.engines.each_ref().map(|engine| engine.peer().units().count()), [1, 1]);
}

#[test]
fn what_a_remote_peer_causes_has_a_bound_of_its_own() {
    for (queue, owed) in [(1 << 20, 5_000), (5_000, 1 << 20)] {
        let mut pair = Pair::new(|limits| {
            limits.queue_per_connection = queue;
            limits.owed_per_connection = owed;
        });
        let [a, b] = pair.conns[0];
        let mut ping = Vec::new();
        FrameWriter::new(Side::Client, 0).ping(&mut ping, &[]);
        // Each by itself: of pings that arrive together, only the last would have to be answered.
        let mut pings = |count| {
            (0..count).for_each(|_| pair.engines[1].receive(b, &ping, NOW));
            pair.engines[1].may_read(b)
        };
        assert!(pings(1_000));
        assert!(!pings(2_000));
        pair.carry([a, b], 1);
        assert!(pair.engines[1].may_read(b));
    }
}
