//! Deadlines, requests that are given up, headers and failures, between peers of which some know nothing of
//! them.

use super::*;

const ALL: [Extensions; 2] = [Extensions::ALL; 2];
/// Pairs of which one side knows nothing of it.
const ONE_SIDED: [[Extensions; 2]; 2] =
    [[Extensions::ALL, Extensions::NONE], [Extensions::NONE, Extensions::ALL]];

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn taken(events: Vec<Event<u64>>) -> (Incoming, Question) {
    let mut found = events.into_iter().filter_map(|event| match event {
        Event::Incoming(incoming, question) => Some((incoming, question)),
        _ => None,
    });
    found.next().expect("something for a handler")
}

fn cancelled(events: &[Event<u64>]) -> Vec<(Option<RequestId>, CancelReason)> {
    let cancelled = events.iter().filter_map(|event| match event {
        Event::Cancelled { request, reason } => Some((*request, *reason)),
        _ => None,
    });
    cancelled.collect()
}

fn headers(pairs: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in pairs {
        fields.add_header(name, *value).unwrap();
    }
    fields
}

/// Asks, and gives what the other side is asked.
fn ask(
    pair: &mut Pair,
    fields: Option<&Fields>,
    timeout: Option<Duration>,
) -> (Incoming, Question) {
    let now = pair.now;
    let to = Outgoing { fields, ..to("r") };
    pair.unit(0, |unit| unit.request(to, timeout, now, 1)).unwrap();
    pair.settle();
    taken(pair.said(1))
}

fn advance(pair: &mut Pair, time: Duration) {
    pair.now += time;
    let now = pair.now;
    for engine in &mut pair.engines {
        engine.handle_timeout(now);
    }
    pair.settle();
}

fn stats(pair: &mut Pair, side: usize) -> UnitStats {
    pair.unit(side, |unit| unit.stats())
}

#[test]
fn a_time_limit_travels_as_what_is_left() {
    let mut pair = Pair::with(|_| {}, ALL);
    let (incoming, _question) = ask(&mut pair, None, Some(millis(70)));
    assert_eq!(incoming.deadline(), Some(NOW + millis(70)));
    assert!(incoming.fields().headers().next().is_none());
    let (incoming, _question) = ask(&mut pair, None, None);
    assert_eq!(incoming.deadline(), None, "the default is not told");
    assert!(incoming.fields().is_empty());
    // A wait for room counts.
    let limit = TimeLimit { limit: Some(millis(70)), since: Some(NOW.before(millis(30))) };
    pair.unit(0, |unit| unit.request(to("r"), limit, NOW, 1)).unwrap();
    pair.settle();
    assert_eq!(taken(pair.said(1)).0.deadline(), Some(NOW + millis(40)));
    for extensions in ONE_SIDED {
        let mut pair = Pair::with(|_| {}, extensions);
        let (incoming, _question) = ask(&mut pair, None, Some(millis(70)));
        assert_eq!(incoming.deadline(), None);
        assert_eq!(stats(&mut pair, 0).fields_left_out, 0, "nobody has asked for it");
    }
}

#[test]
fn a_handler_whose_time_is_up_is_told_once() {
    let mut pair = Pair::with(|_| {}, ALL);
    let (_, question) = ask(&mut pair, None, Some(millis(70)));
    let request = question.request();
    assert_eq!(pair.engines[1].deadline(), Some(NOW + millis(70)));
    advance(&mut pair, millis(69));
    assert_eq!(cancelled(&pair.said(1)), []);
    advance(&mut pair, millis(6));
    // Its requester gives up, too.
    let told = cancelled(&pair.said(1));
    assert_eq!(told, [(request, CancelReason::Deadline), (request, CancelReason::Requester)]);
    let answers = pair.said(0);
    assert!(matches!(&answers[..], [Event::Answer { outcome: Err(error), .. }]
        if error.kind() == ErrorKind::Timeout));
    let now = pair.now;
    pair.unit(1, |unit| unit.answer(question, Ok(Payload::NULL), now));
    pair.settle();
    assert!(pair.said(0).is_empty(), "it is too late");
    assert_eq!(stats(&mut pair, 1).running, 0);
}

#[test]
fn a_handler_that_fails_when_its_time_is_up_says_no_more() {
    let mut pair = Pair::with(|_| {}, ALL);
    let (_, question) = ask(&mut pair, None, Some(millis(70)));
    // The handler is ended at once, while the requester looks only now and then.
    advance(&mut pair, millis(70));
    let now = pair.now;
    pair.unit(1, |unit| unit.answer(question, Err("The handler was cancelled"), now));
    pair.settle();
    assert!(pair.said(0).is_empty());
    assert_eq!(stats(&mut pair, 1).running, 0);
    advance(&mut pair, millis(5));
    assert!(matches!(&pair.said(0)[..], [Event::Answer { outcome: Err(error), .. }]
        if error.kind() == ErrorKind::Timeout));
}

#[test]
fn the_time_of_what_has_ended_is_not_watched() {
    let mut pair = Pair::with(|_| {}, ALL);
    let (_, question) = ask(&mut pair, None, Some(millis(70)));
    pair.unit(1, |unit| unit.answer(question, Ok(Payload::NULL), NOW));
    assert!(pair.engines[1].deadline() > Some(NOW + millis(70)));
    // Of a stream that is accepted neither.
    let direction = Direction::RequesterReads;
    pair.unit(0, |unit| unit.open_stream(direction, to("r"), Some(millis(70)), NOW, 2)).unwrap();
    let mut offer = pair.question();
    pair.unit(1, |unit| unit.accept(&mut offer, Payload::NULL)).unwrap();
    assert_eq!(offer.request(), None);
    assert!(pair.engines[1].deadline() > Some(NOW + millis(70)));
}

#[test]
fn what_expires_while_it_waits_is_not_begun() {
    let mut pair = Pair::with(|limits| limits.running_handlers = 1, ALL);
    let (_, first) = ask(&mut pair, None, None);
    for _ in 0..2 {
        pair.unit(0, |unit| unit.request(to("r"), Some(millis(70)), NOW, 2)).unwrap();
    }
    pair.unit(0, |unit| unit.request(to("r"), Some(millis(500)), NOW, 3)).unwrap();
    pair.settle();
    advance(&mut pair, millis(100));
    pair.said(0);
    let now = pair.now;
    pair.unit(1, |unit| unit.answer(first, Ok(Payload::NULL), now));
    pair.settle();
    let (incoming, _question) = taken(pair.said(1));
    assert_eq!(incoming.deadline(), Some(NOW + millis(500)));
    assert_eq!(stats(&mut pair, 1).requests_expired, 2);
}

#[test]
fn no_time_at_all_is_rejected_as_not_handled() {
    let mut pair = Pair::with(|_| {}, ALL);
    pair.unit(0, |unit| {
        let limit = TimeLimit { limit: Some(millis(70)), since: Some(NOW.before(millis(70))) };
        unit.request(to("r"), limit, NOW, 1)
    })
    .unwrap();
    pair.settle();
    assert!(questions(pair.said(1)).is_empty());
    assert_eq!(stats(&mut pair, 1).requests_expired, 1);
    let [Event::Answer { outcome: Err(error), .. }] = &pair.said(0)[..] else {
        panic!("no answer")
    };
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.text(), "Request timeout exceeded (70 ms)");
    assert_eq!(error.failure(), Some(&Failure::unhandled()));
}

#[test]
fn who_gives_up_tells_the_other_side() {
    let mut pair = Pair::with(|_| {}, ALL);
    let (_, question) = ask(&mut pair, None, None);
    let request = question.request().unwrap();
    assert_eq!(pair.unit(0, |unit| unit.abandon(request.corr)), Some(1));
    assert_eq!(pair.unit(0, |unit| unit.abandon(request.corr)), None);
    pair.settle();
    assert_eq!(cancelled(&pair.said(1)), [(Some(request), CancelReason::Requester)]);
    assert_eq!((stats(&mut pair, 0).cancels_sent, stats(&mut pair, 1).cancels_received), (1, 1));
    // A stream that is not accepted.
    let direction = Direction::RequesterReads;
    let opened = pair.unit(0, |unit| unit.open_stream(direction, to("r"), None, NOW, 2));
    let offer = pair.question();
    pair.unit(0, |unit| unit.close_stream(opened.unwrap().0, ""));
    pair.settle();
    assert_eq!(cancelled(&pair.said(1)), [(offer.request(), CancelReason::Requester)]);
    for extensions in ONE_SIDED {
        let mut pair = Pair::with(|_| {}, extensions);
        let (_, question) = ask(&mut pair, None, None);
        let request = question.request().unwrap();
        pair.unit(0, |unit| unit.abandon(request.corr));
        assert!(!pair.carry(pair.conns[0], 0), "nothing is said");
        assert_eq!(stats(&mut pair, 0).cancels_sent, 0);
    }
}

#[test]
fn what_was_given_up_while_it_waited_is_not_begun() {
    let mut pair = Pair::with(|limits| limits.running_handlers = 1, ALL);
    let (_, first) = ask(&mut pair, None, None);
    let corrs =
        [2, 3].map(|tag| pair.unit(0, |unit| unit.request(to("r"), None, NOW, tag)).unwrap());
    pair.settle();
    pair.unit(0, |unit| unit.abandon(corrs[0]));
    pair.settle();
    pair.said(1);
    pair.unit(1, |unit| unit.answer(first, Ok(Payload::NULL), NOW));
    let (_, question) = taken({
        pair.settle();
        pair.said(1)
    });
    assert_eq!(question.request().map(|request| request.corr), Some(corrs[1]));
    assert_eq!(stats(&mut pair, 1).requests_expired, 1);
    pair.unit(1, |unit| unit.answer(question, Ok(Payload::NULL), NOW));
    assert_eq!(pair.unit(1, |unit| unit.busy()), 0);
}

#[test]
fn what_waits_is_given_up_whatever_else_is() {
    let mut pair = Pair::with(|limits| limits.running_handlers = 1, ALL);
    let (_, first) = ask(&mut pair, None, None);
    let running = first.request().unwrap();
    let waits = pair.unit(0, |unit| unit.request(to("r"), None, NOW, 2)).unwrap();
    pair.settle();
    // As many as wait are given up, and then the one that waits.
    for corr in [running.corr, waits] {
        pair.unit(0, |unit| unit.abandon(corr)).unwrap();
    }
    pair.settle();
    let told = cancelled(&pair.said(1));
    assert_eq!(told, [(Some(running), CancelReason::Requester)], "the other was not begun");
    pair.unit(1, |unit| unit.answer(first, Ok(Payload::NULL), NOW));
    pair.settle();
    assert!(questions(pair.said(1)).is_empty());
    assert_eq!(pair.unit(1, |unit| unit.busy()), 0);
}

#[test]
fn a_number_that_was_given_up_can_be_used_again() {
    let mut pair = Pair::with(|limits| limits.running_handlers = 1, ALL);
    let (_, first) = ask(&mut pair, None, None);
    let request = [101, 0, 1, 0, 1, 1, b'r', b'e', 99, 0];
    assert!(survives(&mut pair, &request) && survives(&mut pair, &[111, 99]));
    assert!(survives(&mut pair, &request));
    pair.unit(1, |unit| unit.answer(first, Ok(Payload::NULL), NOW));
    pair.settle();
    let (_, question) = taken(pair.said(1));
    assert_eq!(question.request().map(|request| request.corr), Some(99));
    pair.unit(1, |unit| unit.answer(question, Ok(Payload::NULL), NOW));
    assert_eq!(pair.unit(1, |unit| (unit.busy(), unit.stats().requests_expired)), (0, 1));
}

#[test]
fn a_unit_that_is_lost_ends_all_that_runs_for_it() {
    for extensions in [ALL, ONE_SIDED[0], ONE_SIDED[1]] {
        let mut pair = Pair::with(|_| {}, extensions);
        pair.connect();
        pair.settle();
        let (_, _question) = ask(&mut pair, None, None);
        let conns = pair.conns.clone();
        pair.engines[1].closed(conns[0][1], NOW);
        pair.settle();
        assert_eq!(cancelled(&pair.said(1)), [], "the answer can take the other connection");
        pair.engines[1].closed(conns[1][1], NOW);
        pair.settle();
        assert_eq!(cancelled(&pair.said(1)), [(None, CancelReason::UnitLost)]);
    }
}

#[test]
fn headers_go_both_ways() {
    let mut pair = Pair::with(|_| {}, ALL);
    let asked = headers(&[("tenant", "blue"), ("a", "")]);
    let (incoming, question) = ask(&mut pair, Some(&asked), Some(millis(70)));
    assert_eq!(incoming.fields().headers().count(), 2);
    assert_eq!(incoming.fields().header("tenant"), Some(HeaderValue::Text("blue")));
    assert_eq!((incoming.role(), incoming.event()), ("r", "e"));
    let answered = headers(&[("cost", "7")]);
    let payload = Payload { kind: DataType::String, bytes: b"fine" };
    pair.unit(1, |unit| unit.answer_with(question, Ok(payload), Some(&answered), NOW));
    pair.settle();
    let [Event::Answer { outcome: Ok(data), fields: Some(fields), .. }] = &pair.said(0)[..] else {
        panic!("no answer")
    };
    assert_eq!(data.bytes().as_ref(), b"fine");
    assert_eq!(fields.view().header("cost"), Some(HeaderValue::Text("7")));
    // Messages, and what accepts a stream.
    pair.unit(0, |unit| unit.send(Outgoing { fields: Some(&asked), ..to("r") })).unwrap();
    pair.settle();
    let (incoming, question) = taken(pair.said(1));
    assert_eq!(incoming.fields().headers().count(), 2);
    pair.unit(1, |unit| unit.answer(question, Ok(Payload::NULL), NOW));
    let direction = Direction::RequesterReads;
    pair.unit(0, |unit| unit.open_stream(direction, to("r"), None, NOW, 2)).unwrap();
    let mut offer = pair.question();
    pair.unit(1, |unit| unit.accept_with(&mut offer, payload, Some(&answered))).unwrap();
    pair.settle();
    let told = pair.said(0);
    assert!(told.iter().any(|event| matches!(event, Event::Answer { fields: Some(_), .. })));
}

#[test]
fn headers_are_left_out_or_required() {
    for extensions in ONE_SIDED {
        let mut pair = Pair::with(|_| {}, extensions);
        let mut fields = headers(&[("tenant", "blue")]);
        let (incoming, question) = ask(&mut pair, Some(&fields), None);
        assert!(incoming.fields().is_empty());
        pair.unit(1, |unit| unit.answer_with(question, Err("no"), Some(&fields), NOW));
        for side in [0, 1] {
            assert_eq!(stats(&mut pair, side).fields_left_out, 1);
        }
        fields.set_required(true);
        let to = Outgoing { fields: Some(&fields), ..to("r") };
        let error = pair.unit(0, |unit| unit.send(to)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.text().ends_with(" takes no headers"), "{error}");
    }
}

#[test]
fn a_failure_has_a_code_and_data() {
    let failure = Failure {
        code: Some("QUOTA".into()),
        data: Some("[1,2]".into()),
        retry_after: Some(millis(1500)),
        unhandled: false,
    };
    let mut fields = Fields::new();
    fields.set_failure(&failure).unwrap();
    for stream in [false, true] {
        let mut pair = Pair::with(|_| {}, ALL);
        if stream {
            let direction = Direction::RequesterReads;
            pair.unit(0, |unit| unit.open_stream(direction, to("r"), None, NOW, 2)).unwrap();
        } else {
            pair.unit(0, |unit| unit.request(to("r"), None, NOW, 1)).unwrap();
        }
        let question = pair.question();
        pair.unit(1, |unit| unit.answer_with(question, Err("too much"), Some(&fields), NOW));
        pair.settle();
        let told = pair.said(0);
        let error = told.iter().find_map(|event| match event {
            Event::Answer { outcome: Err(error), .. } => Some(error),
            _ => None,
        });
        let error = error.expect("a rejection");
        assert_eq!((error.text(), error.failure()), ("too much", Some(&failure)));
    }
}

#[test]
fn what_has_no_handler_was_not_handled() {
    let mut pair = Pair::with(|_| {}, ALL);
    let (_, question) = ask(&mut pair, None, None);
    pair.unit(1, |unit| unit.refuse(question, NoHandler::NotHandled.text("e"), NOW));
    pair.settle();
    let [Event::Answer { outcome: Err(error), .. }] = &pair.said(0)[..] else {
        panic!("no answer")
    };
    assert_eq!(error.text(), "The event \"e\" is not handled");
    assert!(error.failure().is_some_and(|failure| failure.unhandled));
    // Where it cannot be told, nothing that anybody has asked for is left out.
    let mut pair = Pair::with(|_| {}, ONE_SIDED[1]);
    let (_, question) = ask(&mut pair, None, None);
    pair.unit(1, |unit| unit.refuse(question, "no", NOW));
    assert_eq!(stats(&mut pair, 1).fields_left_out, 0);
}

/// Has side 1 refuse what side 0 asks for, because it handles these events only. Returns the error.
fn mistyped(pair: &mut Pair, stream: bool, events: &[&str]) -> Error {
    match stream {
        true => {
            let direction = Direction::RequesterReads;
            pair.unit(0, |unit| unit.open_stream(direction, to("r"), None, NOW, 2)).unwrap();
        }
        false => {
            pair.unit(0, |unit| unit.request(to("r"), None, NOW, 1)).unwrap();
        }
    }
    let question = pair.question();
    let refusal = Refusal::new(NoHandler::NotHandled, "e", events.iter().copied());
    pair.unit(1, |unit| unit.refuse(question, refusal, NOW));
    pair.settle();
    rejection(pair.said(0))
}

fn rejection(events: Vec<Event<u64>>) -> Error {
    let errors = events.into_iter().filter_map(|event| match event {
        Event::Answer { outcome, .. } => outcome.err(),
        _ => None,
    });
    errors.last().expect("a rejection")
}

/// What a hint says after what was asked for.
fn advice(error: &Error) -> &str {
    assert_eq!(error.text(), "The event \"e\" is not handled", "what originals show");
    let (_, advice) = error.hint().unwrap().split_once(". ").unwrap();
    advice
}

const NOTHING_KNOWN: &str = "Compare the names with the handlers that the unit has";

#[test]
fn who_mistypes_an_event_is_told_which_there_are() {
    for stream in [false, true] {
        let mut pair = Pair::with(|_| {}, ALL);
        let error = mistyped(&mut pair, stream, &["save", "eh"]);
        assert_eq!(advice(&error), "Did you mean \"eh\"? Events of this kind: \"eh\", \"save\".");
        assert_eq!(error.failure(), Some(&Failure::unhandled()));
        assert!(advice(&mistyped(&mut pair, stream, &[])).starts_with(NOTHING_KNOWN));
        // As much as is ever sent.
        let names: Vec<_> = (0..99).map(|n| format!("{n:02}{}", "\\".repeat(62))).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let error = mistyped(&mut pair, stream, &names);
        assert!(advice(&error).ends_with(" and perhaps more."), "{error:?}");
        for extensions in ONE_SIDED {
            let mut pair = Pair::with(|_| {}, extensions);
            let error = mistyped(&mut pair, stream, &["save", "eh"]);
            assert!(advice(&error).starts_with(NOTHING_KNOWN));
        }
    }
}

#[test]
fn whatever_a_stranger_says_of_its_events_does_no_harm() {
    let mut pair = Pair::with(|_| {}, ALL);
    let mut told = |known: &str| {
        let corr = pair.unit(1, |unit| unit.request(to("r"), None, NOW, 1)).unwrap();
        pair.settle();
        let outcome = format!(r#"{{"unhandled":true,"known":{known}}}"#);
        let [high, low] = (outcome.len() as u16).to_be_bytes();
        let entry = [&[5, 255, high, low][..], outcome.as_bytes()].concat();
        let [high, low] = (entry.len() as u16).to_be_bytes();
        let reject = [&[105, 1, corr as u8, 3][..], b"The event \"e\" is not handled"].concat();
        assert!(survives(&mut pair, &[&[110, high, low][..], &entry, &reject].concat()));
        let error = rejection(pair.said(1));
        assert!(error.is_unhandled(), "the rest counts");
        advice(&error).to_owned()
    };
    for wrong in ["null", "true", "1", "\"eh\"", "{}", "[1]", "[\"eh\",null]", "[[\"eh\"]]", "[]"] {
        assert!(told(wrong).starts_with(NOTHING_KNOWN), "{wrong}");
    }
    assert!(
        told(&format!("{}{}", "[".repeat(15_000), "]".repeat(15_000))).starts_with(NOTHING_KNOWN)
    );
    let many = format!("[{}\"\"]", "\"\",".repeat(9_999));
    assert_eq!(told(&many).matches("\"\"").count(), 16);
    let long = format!("[\"{}\"]", "x".repeat(30_000));
    assert_eq!(told(&long), format!("Events of this kind: \"{}…\".", "x".repeat(64)));
    let said = told(r#"["e","e\u001b[2J\n"]"#);
    assert_eq!(said, r#"Did you mean "e"? Events of this kind: "e", "e\u{1b}[2J\n"."#);
}

#[test]
fn what_goes_with_an_answer_that_waits_for_room_is_counted() {
    let mut pair = Pair::with(|limits| limits.queue_per_connection = 10_000, ALL);
    let (_, question) = ask(&mut pair, None, None);
    let payload = Payload { kind: DataType::Binary, bytes: &[0; 1000] };
    while pair.unit(1, |unit| unit.send(Outgoing { payload, ..to("r") })).is_ok() {}
    let refusal = Refusal::new(NoHandler::NotHandled, "e", ["x".repeat(64)]);
    pair.unit(1, |unit| unit.refuse(question, refusal, NOW));
    let UnitStats { running, running_bytes, .. } = stats(&mut pair, 1);
    assert!(running == 1 && running_bytes > 64, "{running_bytes} bytes");
    pair.settle();
    let UnitStats { running, running_bytes, .. } = stats(&mut pair, 1);
    assert_eq!((running, running_bytes), (0, 0));
}

/// Sends bytes as a message on the first connection, and says whether the connection lives.
fn survives(pair: &mut Pair, frame: &[u8]) -> bool {
    let [_, b] = pair.conns[0];
    let mut bytes = Vec::new();
    FrameWriter::new(Side::Client, 1).binary(&mut bytes, frame.len(), |out| out.extend(frame));
    let now = pair.now;
    pair.engines[1].receive(b, &bytes, now);
    pair.settle();
    pair.engines[1].unit(UnitId(0)).is_some()
}

#[test]
fn what_was_not_agreed_closes_the_connection() {
    let cancel = [111, 1];
    let fields = [&[110, 0, 0][..], b"\x64\x00\x01\x00\x01re\x00"].concat();
    for (frame, text) in
        [(&cancel[..], "unknown frame type 111"), (&fields, "unknown frame type 110")]
    {
        let mut pair = Pair::with(|_| {}, ALL);
        assert!(survives(&mut pair, frame));
        for extensions in ONE_SIDED {
            let mut pair = Pair::with(|_| {}, extensions);
            assert!(!survives(&mut pair, frame));
            let reason = pair.events[1].iter().find_map(|event| match event {
                EngineEvent::Close { code, reason, .. } => Some((*code, reason.as_str())),
                _ => None,
            });
            assert_eq!(reason, Some((close_code::MALFORMED, text)));
        }
    }
    for broken in [&[111][..], &[110], &[110, 0, 0], &[110, 0, 0, 106], &[110, 0, 1, 1, 100]] {
        let mut pair = Pair::with(|_| {}, ALL);
        assert!(!survives(&mut pair, broken), "{broken:?}");
    }
}

#[test]
fn a_field_that_must_be_understood_and_is_not() {
    let block = [0xfb, 1, 0];
    let wrap = |inner: &[u8]| [&[110, 0, 3][..], &block, inner].concat();
    let mut pair = Pair::with(|_| {}, ALL);
    assert!(survives(&mut pair, &wrap(b"\x64\x00\x01\x00\x01re\x00")));
    assert_eq!(stats(&mut pair, 1).messages_dropped, 1);
    let corr = pair.unit(0, |unit| unit.request(to("r"), None, NOW, 1)).unwrap();
    let own = pair.question();
    assert!(survives(&mut pair, &wrap(&[101, 0, 1, 0, 1, 1, b'r', b'e', corr as u8, 0])));
    let [Event::Answer { outcome: Err(error), .. }] = &pair.said(0)[..] else {
        panic!("no answer")
    };
    assert_eq!(error.text(), "The field 251 is not understood");
    assert!(error.failure().is_some_and(|failure| failure.unhandled));
    assert!(questions(pair.said(1)).is_empty());
    pair.unit(1, |unit| unit.answer(own, Ok(Payload::NULL), NOW));
}

#[test]
fn names_that_are_mended_keep_their_fields() {
    let block = b"\x10\x05\x01ablu";
    let message =
        [&[110, 0, block.len() as u8][..], block, b"\x64\x00\x02\x00\x01r\xffex!!"].concat();
    let mut pair = Pair::with(|_| {}, ALL);
    assert!(survives(&mut pair, &message));
    let (incoming, _question) = taken(pair.said(1));
    assert_eq!((incoming.role(), incoming.event()), ("r\u{fffd}", "e"));
    assert_eq!(incoming.fields().header("a"), Some(HeaderValue::Text("blu")));
    assert_eq!(incoming.payload(), b"!!");
}
