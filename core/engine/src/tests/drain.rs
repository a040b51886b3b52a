//! Leaving without loss, and what is surely not begun.

use super::*;

/// The outcomes of requests by their tags: none, if answered, or else whether surely nothing was begun.
fn outcomes(events: Vec<Event<u64>>) -> Vec<(u64, Option<bool>)> {
    let outcomes = events.into_iter().filter_map(|event| match event {
        Event::Answer { tag, outcome, .. } => {
            Some((tag, outcome.err().map(|error| error.is_unhandled())))
        }
        _ => None,
    });
    outcomes.collect()
}

impl Pair {
    pub(super) fn ask(&mut self, tag: u64) {
        let now = self.now;
        self.unit(0, |unit| unit.request(to("r"), None, now, tag)).unwrap();
    }

    pub(super) fn answer_all(&mut self) -> usize {
        let (asked, now) = (questions(self.said(1)), self.now);
        let count = asked.len();
        for question in asked {
            self.unit(1, |unit| unit.answer(question, Ok(Payload::NULL), now));
        }
        count
    }

    fn busy(&mut self) -> usize {
        self.unit(1, |unit| unit.busy())
    }

    /// Closes side 1. The code that side 0 is told.
    fn close(&mut self) -> u16 {
        self.engines[1].close(self.now);
        self.settle();
        let closes = self.events[0].iter().filter_map(|event| match event {
            EngineEvent::Close { code, .. } => Some(*code),
            _ => None,
        });
        let codes: Vec<u16> = closes.collect();
        assert!(codes.windows(2).all(|two| two[0] == two[1]), "{codes:?}");
        codes[0]
    }
}

#[test]
fn what_was_sent_before_the_withdrawal_was_known_is_handled() {
    for connections in [1, 2] {
        let mut pair = Pair::new(|_| {});
        for _ in 1..connections {
            pair.connect();
        }
        pair.settle();
        pair.engines[1].drain(NOW);
        // Queued, and on no connection yet.
        for tag in 0..4 {
            let any = Outgoing { order: Order::Any, ..to("r") };
            pair.unit(0, |unit| unit.request(any, None, NOW, tag)).unwrap();
            pair.unit(0, |unit| unit.send(any)).unwrap();
        }
        assert!(pair.busy() > 0, "it may have sent something");
        pair.settle();
        assert!(pair.engines[0].peer().unit(UnitId(0)).unwrap().1.is_empty(), "no roles");
        assert_eq!((pair.busy(), pair.answer_all()), (8, 8));
        assert!(pair.busy() > 0, "the answers are not written");
        pair.settle();
        assert_eq!(pair.busy(), 0, "nothing comes any more");
        assert_eq!(outcomes(pair.said(0)).len(), 4);
        assert_eq!(pair.close(), close_code::DRAINED);
    }
}

#[test]
fn what_comes_after_that_is_turned_away_and_goes_elsewhere() {
    let mut pair = Pair::new(|_| {});
    pair.ask(0);
    pair.settle();
    let running = questions(pair.said(1));
    pair.engines[1].drain(NOW);
    pair.settle();
    pair.ask(1);
    pair.unit(0, |unit| unit.send(to("r"))).unwrap();
    let opened = |unit: &mut Unit<u64>| {
        unit.open_stream(Direction::RequesterReads, to("r"), None, NOW, 2).unwrap()
    };
    pair.unit(0, opened);
    pair.settle();
    assert_eq!(outcomes(pair.said(0)), [(1, Some(true)), (2, Some(true))]);
    assert_eq!(pair.answer_all(), 1, "a message could go nowhere else");
    assert_eq!(pair.unit(1, |unit| unit.stats().requests_turned_away), 2);
    for question in running {
        pair.unit(1, |unit| unit.answer(question, Ok(Payload::NULL), NOW));
    }
    pair.settle();
    assert_eq!(pair.busy(), 0);
    assert_eq!(pair.close(), close_code::DRAINED);
    assert_eq!(outcomes(pair.said(0)), [(0, None)]);
}

/// An original takes a rejection for the outcome, and knows no other unit then.
#[test]
fn what_an_original_sends_after_that_is_handled() {
    let mut pair = Pair::with(|_| {}, [Extensions::NONE, Extensions::ALL]);
    pair.ask(0);
    pair.settle();
    let running = questions(pair.said(1));
    pair.engines[1].drain(NOW);
    pair.settle();
    pair.ask(1);
    pair.ask(2);
    pair.settle();
    assert_eq!((pair.answer_all(), pair.busy()), (2, 2), "one runs, and answers are not written");
    for question in running {
        pair.unit(1, |unit| unit.answer(question, Ok(Payload::NULL), NOW));
    }
    pair.settle();
    assert_eq!(pair.busy(), 0);
    assert_eq!(pair.unit(1, |unit| unit.stats().requests_turned_away), 0);
    assert_eq!(pair.close(), close_code::MANUAL);
    assert_eq!(outcomes(pair.said(0)), [(1, None), (2, None), (0, None)]);
}

#[test]
fn what_has_no_answer_when_it_is_drained_was_not_begun() {
    let mut pair = Pair::new(|_| {});
    pair.engines[1].drain(NOW);
    pair.settle();
    pair.ask(1);
    let mut bytes = Vec::new();
    let [a, b] = pair.conns[0];
    // On its way while the other side closes.
    pair.engines[0].take_output(a, &mut bytes);
    pair.engines[1].close(NOW);
    pair.engines[1].receive(b, &bytes, NOW);
    pair.settle();
    assert_eq!(outcomes(pair.said(0)), [(1, Some(true))]);
}

#[test]
fn a_close_frame_does_not_say_drained_while_a_handler_runs() {
    let mut pair = Pair::new(|_| {});
    pair.ask(1);
    pair.settle();
    let running = questions(pair.said(1));
    pair.engines[1].drain(NOW);
    pair.settle();
    assert_eq!((running.len(), pair.close()), (1, close_code::MANUAL));
    assert_eq!(outcomes(pair.said(0)), [(1, Some(false))]);
}

#[test]
fn only_who_has_everything_need_not_be_waited_for() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Case {
        Idle,
        Original,
        AnswersBefore,
        AnswersMeanwhile,
        TurnsAway,
        DrainsTwice,
        NoPong,
        OnlyCloses,
    }
    use Case::*;
    for case in [
        Idle,
        Original,
        AnswersBefore,
        AnswersMeanwhile,
        TurnsAway,
        DrainsTwice,
        NoPong,
        OnlyCloses,
    ] {
        let theirs = if case == Original { Extensions::NONE } else { Extensions::ALL };
        let mut pair = Pair::with(|_| {}, [theirs, Extensions::ALL]);
        let b = pair.conns[0][1];
        if case == AnswersBefore || case == AnswersMeanwhile {
            pair.ask(0);
        }
        if case == AnswersBefore {
            pair.settle();
            pair.answer_all();
        }
        if case != OnlyCloses {
            pair.engines[1].drain(NOW);
        }
        if case == DrainsTwice {
            pair.engines[1].drain(NOW);
        }
        if case != NoPong {
            pair.settle();
        }
        if case == AnswersMeanwhile {
            pair.answer_all();
            pair.settle();
        }
        if case == TurnsAway {
            pair.ask(1);
            pair.settle();
        }
        pair.engines[1].close(NOW);
        let settled = matches!(case, Idle | Original | AnswersBefore);
        let parting = if settled { Parting::Leave } else { Parting::Wait };
        assert_eq!(pair.engines[1].parting(b), Some(parting), "{case:?}");
        assert_eq!(pair.engines[0].parting(pair.conns[0][0]), Some(Parting::Wait));
    }
}

#[test]
fn a_peer_that_is_only_closed_does_not_say_drained() {
    let mut pair = Pair::new(|_| {});
    assert_eq!(pair.close(), close_code::MANUAL);
}

#[test]
fn a_unit_that_never_answers_the_ping_is_waited_for_a_second() {
    let mut pair = Pair::new(|_| {});
    pair.engines[1].drain(NOW);
    let b = pair.conns[0][1];
    pair.engines[1].take_output(b, &mut Vec::new());
    pair.engines[1].written(b, NOW);
    let due = pair.engines[1].deadline().unwrap();
    assert_eq!(due, NOW + Duration::from_secs(1));
    pair.engines[1].handle_timeout(NOW + Duration::from_millis(999));
    assert_eq!(pair.busy(), 1);
    pair.engines[1].handle_timeout(due);
    assert_eq!(pair.busy(), 0);
}

#[test]
fn a_unit_that_connects_meanwhile_is_told_of_no_roles() {
    let mut pair = Pair::new(|_| {});
    pair.serve(1, "served");
    pair.settle();
    pair.engines[1].close_connection(pair.conns[0][1], 4000, "", NOW);
    pair.settle();
    pair.engines[1].drain(NOW);
    pair.connect();
    pair.settle();
    assert!(pair.engines[0].peer().unit(UnitId(1)).unwrap().1.is_empty());
    let asked = |unit: &mut Unit<u64>| unit.request(to("served"), None, NOW, 1).unwrap();
    pair.engines[0].with_unit(UnitId(1), NOW, asked);
    pair.settle();
    assert_eq!(outcomes(pair.said(0)), [(1, Some(true))]);
}

#[test]
fn what_was_not_sent_when_the_connection_was_lost_was_not_begun() {
    for taken in [true, false] {
        let mut pair = Pair::new(|_| {});
        let a = pair.conns[0][0];
        pair.ask(1);
        pair.engines[0].take_output(a, &mut Vec::new());
        pair.engines[0].written(a, NOW);
        pair.ask(2);
        if taken {
            pair.engines[0].take_output(a, &mut Vec::new());
        }
        pair.engines[0].closed(a, NOW);
        pair.settle();
        assert_eq!(outcomes(pair.said(0)), [(1, Some(false)), (2, Some(!taken))]);
    }
}

/// The messages that another unit is to get.
fn unsent(events: Vec<Event<u64>>) -> Vec<Unsent> {
    let unsent = events.into_iter().filter_map(|event| match event {
        Event::Unsent(message) => Some(*message),
        _ => None,
    });
    unsent.collect()
}

/// The payloads of the messages that a unit was told.
fn messages(events: Vec<Event<u64>>) -> Vec<Vec<u8>> {
    let messages = events.into_iter().filter_map(|event| match event {
        Event::Incoming(incoming, question) => {
            assert_eq!(question.kind(), Kind::Message);
            Some(incoming.payload().to_vec())
        }
        _ => None,
    });
    messages.collect()
}

fn bytes(bytes: &[u8]) -> Payload<'_> {
    Payload { kind: DataType::Binary, bytes }
}

/// By the side that masks its frames, and by the other one.
#[test]
fn messages_that_were_not_sent_go_to_another_unit() {
    for side in [0, 1] {
        let mut pair = Pair::new(|_| {});
        let conn = pair.conns[0][side];
        let mut headers = Fields::new();
        headers.add_header("tenant", "blue").unwrap();
        let mut required = headers.clone();
        required.set_required(true);
        let send =
            |pair: &mut Pair, to: Outgoing<'_>| pair.unit(side, |unit| unit.send(to)).unwrap();
        send(&mut pair, Outgoing { payload: bytes(b"taken"), ..to("r") });
        pair.engines[side].take_output(conn, &mut Vec::new());
        pair.engines[side].written(conn, NOW);
        send(&mut pair, Outgoing { payload: bytes(b"1"), ..to("r") });
        send(&mut pair, Outgoing { moves: Moves::WithinUnit, ..to("r") });
        pair.unit(side, |unit| unit.request(to("r"), None, NOW, 7)).unwrap();
        pair.unit(side, |unit| unit.ping(conn, b"beside"));
        send(&mut pair, Outgoing { fields: Some(&required), ..to("r") });
        send(&mut pair, Outgoing { payload: bytes(b"2"), fields: Some(&headers), ..to("other") });
        let mut events = Vec::new();
        pair.unit(side, |unit| {
            unit.detach(conn, Ended::Lost);
            unit.take_events(&mut events);
        });
        let left = unsent(events);
        let roles: Vec<&str> = left.iter().map(Unsent::role).collect();
        assert_eq!(roles, ["r", "other"]);
        // To a unit that takes fields, and to one that does not.
        for extensions in [Extensions::ALL, Extensions::NONE] {
            let mut next = Pair::with(|_| {}, [extensions, Extensions::ALL]);
            for message in &left {
                next.unit(0, |unit| unit.resend(message)).unwrap();
            }
            next.settle();
            assert_eq!(messages(next.said(1)), [b"1", b"2"]);
            let left_out = u64::from(extensions == Extensions::NONE);
            assert_eq!(next.unit(0, |unit| unit.stats().fields_left_out), left_out);
        }
    }
}

#[test]
fn messages_that_were_not_sent_take_the_other_connection_of_their_unit() {
    let mut pair = Pair::new(|_| {});
    pair.connect();
    pair.settle();
    let payloads: [&[u8]; 3] = [b"1", b"2", b"3"];
    for payload in payloads {
        // For this unit and no other, it still is.
        let moves = if payload == b"2" { Moves::WithinUnit } else { Moves::ToAnyUnit };
        let to = Outgoing { payload: bytes(payload), moves, ..to("r") };
        pair.unit(0, |unit| unit.send(to)).unwrap();
    }
    let queued = pair.engines[0].budget().queued();
    pair.engines[0].closed(pair.conns[0][0], NOW);
    assert!(pair.engines[0].budget().queued() <= queued);
    pair.settle();
    assert_eq!(messages(pair.said(1)), payloads);
    pair.engines[0].closed(pair.conns[1][0], NOW);
    assert_eq!(pair.engines[0].budget().queued(), 0);
}

/// With fields and without, for a unit that takes them and one that does not.
#[test]
fn cancels_that_were_not_sent_take_the_other_connection_of_their_unit() {
    let mut pair = Pair::new(|_| {});
    pair.connect();
    pair.settle();
    let corr = pair.unit(0, |unit| unit.request(to("r"), None, NOW, 1)).unwrap();
    let question = pair.question();
    let request = question.request().unwrap();
    let carrier = pair.conns.iter().copied().find(|conn| conn[1] == request.conn).unwrap();
    assert_eq!(pair.unit(0, |unit| unit.abandon(corr)), Some(1));
    for side in [0, 1] {
        pair.engines[side].closed(carrier[side], NOW);
    }
    pair.settle();
    let told = pair.said(1);
    let is_told = |event: &Event<u64>| matches!(event, Event::Cancelled { request: of, .. } if *of == Some(request));
    assert!(told.iter().any(is_told), "{told:?}");
    assert_eq!(pair.unit(0, |unit| unit.stats().cancels_sent), 1);
    pair.unit(1, |unit| unit.answer(question, Ok(Payload::NULL), NOW));
}

#[test]
fn answers_that_were_not_sent_take_the_other_connection_of_their_unit() {
    for extensions in [Extensions::ALL, Extensions::NONE] {
        let mut pair = Pair::with(|_| {}, [extensions, Extensions::ALL]);
        pair.connect();
        pair.settle();
        let mut headers = Fields::new();
        headers.add_header("tenant", "blue").unwrap();
        (1..=3).for_each(|tag| pair.ask(tag));
        let direction = Direction::RequesterReads;
        pair.unit(0, |unit| unit.open_stream(direction, to("r"), None, NOW, 4)).unwrap();
        pair.settle();
        let asked = questions(pair.said(1));
        let answers = [
            (Ok(Payload::NULL), None),
            (Ok(Payload::NULL), Some(&headers)),
            (Err("no"), Some(&headers)),
            (Err("no stream"), None),
        ];
        assert_eq!(asked.len(), answers.len());
        for (question, (outcome, fields)) in asked.into_iter().zip(answers) {
            pair.unit(1, |unit| unit.answer_with(question, outcome, fields, NOW));
        }
        let queued = pair.engines[1].budget().queued();
        // Side 0 does not know yet.
        pair.engines[1].closed(pair.conns[0][1], NOW);
        assert!(pair.engines[1].budget().queued() <= queued);
        pair.settle();
        let mut outcomes = outcomes(pair.said(0));
        outcomes.sort_unstable();
        let expected = [(1, None), (2, None), (3, Some(false)), (4, Some(false))];
        assert_eq!(outcomes, expected, "{extensions:?}");
        pair.engines[1].closed(pair.conns[1][1], NOW);
        assert_eq!(pair.engines[1].budget().queued(), 0);
    }
}

#[test]
fn answers_that_move_are_bounded() {
    let mut pair = Pair::new(|limits| {
        limits.queue_per_connection = 10_000;
        limits.queue_per_peer = 40_000;
    });
    let (large, order) = (vec![0; 9_000], Order::Any);
    // So that requests take another connection than the first one, where it never reads.
    pair.unit(0, |unit| unit.send(Outgoing { order, ..to("r") })).unwrap();
    for round in 0..50 {
        let conn = pair.connect();
        while pair.carry(conn, 0) || pair.carry(conn, 1) {}
        let to = Outgoing { order, ..to("r") };
        pair.unit(0, |unit| unit.request(to, None, NOW, round)).unwrap();
        assert!(pair.carry(conn, 0));
        for question in questions(pair.said(1)) {
            pair.unit(1, |unit| unit.answer(question, Ok(bytes(&large)), NOW));
        }
        for side in [0, 1] {
            pair.engines[side].closed(conn[side], NOW);
        }
        assert!(pair.engines[1].budget().queued() < 20_000, "round {round}");
    }
}

#[test]
fn what_is_queued_for_a_unit_that_is_dead_goes_to_others() {
    let mut pair = Pair::new(|_| {});
    let conn = pair.conns[0][0];
    // The host has taken something, and can write no more.
    pair.unit(0, |unit| unit.send(to("r"))).unwrap();
    pair.engines[0].take_output(conn, &mut Vec::new());
    pair.unit(0, |unit| unit.request(to("r"), None, NOW, 1)).unwrap();
    for millis in [5_000, 7_100] {
        pair.engines[0].handle_timeout(NOW + Duration::from_millis(millis));
    }
    let said = std::iter::from_fn(|| pair.engines[0].poll_event());
    let outcome = said.filter_map(|event| match event {
        EngineEvent::Unit { event: Event::Answer { outcome, .. }, .. } => outcome.err(),
        _ => None,
    });
    let outcomes: Vec<bool> = outcome.map(|error| error.is_unhandled()).collect();
    assert_eq!(outcomes, [true], "it was never sent");
}

#[test]
fn what_was_to_go_on_a_lost_connection_goes_on_another_one() {
    let mut pair = Pair::new(|_| {});
    pair.connect();
    pair.settle();
    let mut fields = Fields::new();
    fields.set_header("name", "value").unwrap();
    for tag in 0..4 {
        let fields = (tag >= 2).then_some(&fields);
        let any = Outgoing { order: Order::Any, fields, ..to("r") };
        pair.unit(0, |unit| unit.request(any, None, NOW, tag)).unwrap();
    }
    for tag in 4..6 {
        let opened = pair
            .unit(0, |unit| unit.open_stream(Direction::RequesterWrites, to("r"), None, NOW, tag));
        opened.unwrap();
    }
    pair.engines[0].closed(pair.conns[0][0], NOW);
    pair.settle();
    assert_eq!(outcomes(pair.said(0)), []);
    let asked = questions(pair.said(1));
    assert_eq!(asked.len(), 6);
    for question in asked {
        pair.unit(1, |unit| unit.answer(question, Err("no"), NOW));
    }
    pair.settle();
    let answered = outcomes(pair.said(0));
    assert_eq!(answered.len(), 6);
    // Without another connection they are as if they had never been made.
    pair.ask(7);
    pair.engines[0].closed(pair.conns[1][0], NOW);
    pair.settle();
    assert_eq!(outcomes(pair.said(0)), [(7, Some(true))]);
}

/// The answer may have been lost with a connection that was cut before the last one was closed in order.
#[test]
fn what_a_cut_connection_may_have_carried_counts_as_begun() {
    let mut pair = Pair::new(|_| {});
    pair.connect();
    pair.settle();
    pair.ask(1);
    pair.settle();
    assert_eq!(pair.answer_all(), 1);
    // The answer was taken to be written on one of them. That is cut, and the other one closed.
    let [a, b] = pair.conns[0];
    pair.engines[1].take_output(b, &mut Vec::new());
    pair.engines[0].closed(a, NOW);
    pair.engines[1].closed(b, NOW);
    let second = pair.conns[1];
    pair.engines[1].drain(NOW);
    pair.conns = vec![second];
    pair.settle();
    pair.engines[1].close(NOW);
    pair.settle();
    assert_eq!(outcomes(pair.said(0)), [(1, Some(false))]);
}

#[test]
fn an_original_that_does_not_offer_the_role_has_not_begun_the_request() {
    let texts = [
        (r#"The role "r" is not registered"#, true),
        (r#"The role "r" is disabled"#, true),
        // It may come from further on.
        (r#"The role "other" is disabled"#, false),
        (r#"The event "e" is not handled"#, false),
        ("no", false),
    ];
    for (text, not_begun) in texts {
        let mut unit = original(JAVASCRIPT, Limits::default());
        let corr = unit.request(to("r"), None, NOW, ()).unwrap();
        let payload = Payload { kind: DataType::String, bytes: text.as_bytes() };
        let events = receive(&mut unit, &Frame::Reject { corr: Num::new(corr), payload });
        let [Event::Answer { outcome: Err(error), .. }] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!((error.text(), error.is_unhandled()), (text, not_begun));
    }
}

#[test]
fn who_was_drained_and_disconnected_offers_its_roles_again() {
    let mut pair = Pair::new(|_| {});
    pair.serve(1, "r");
    pair.settle();
    pair.engines[1].drain(NOW);
    pair.settle();
    assert!(pair.roles_seen_by(0).is_empty());
    pair.engines[1].disconnect(NOW);
    pair.settle();
    pair.conns.clear();
    pair.connect();
    pair.settle();
    let roles = pair.engines[0].peer().unit(UnitId(1)).expect("the unit is there").1;
    assert_eq!(roles.to_vec(), ["r"]);
}

#[test]
fn nothing_is_begun_behind_the_close_frame() {
    let mut pair = Pair::new(|_| {});
    pair.engines[1].drain(NOW);
    // On its way, and the fence is not answered.
    pair.ask(1);
    let b = pair.conns[0][1];
    // A host with a task for each connection may still give it what it has read.
    pair.unit(1, |unit| unit.close(b, close_code::MANUAL, close_code::MANUAL_REASON));
    pair.settle();
    assert_eq!(questions(pair.said(1)).len(), 0);
}

#[test]
fn a_cut_connection_ends_the_wait_for_its_fence() {
    let mut pair = Pair::new(|_| {});
    pair.connect();
    pair.settle();
    pair.engines[1].drain(NOW);
    let [a, b] = pair.conns[0];
    pair.engines[0].closed(a, NOW);
    pair.conns = vec![pair.conns[1]];
    pair.settle();
    pair.engines[1].closed(b, NOW);
    pair.settle();
    assert_eq!(pair.busy(), 0);
}

#[test]
fn nothing_is_begun_when_one_of_two_connections_has_said_drained() {
    let mut pair = Pair::new(|_| {});
    pair.connect();
    pair.settle();
    pair.engines[1].drain(NOW);
    pair.engines[1].close_connection(pair.conns[0][1], close_code::MANUAL, "", NOW);
    pair.ask(1);
    pair.conns = vec![pair.conns[1]];
    pair.settle();
    assert_eq!(questions(pair.said(1)).len(), 0);
}
