//! What goes with messages, requests and answers: made from their numbers, so that what arrives can be checked.

use std::time::Duration;

use roletalk_engine::{Extensions, Failure, Fields, FieldsView};

use super::rng::Rng;

/// What a peer stands for: mostly all, so that most pairs agree on something.
pub(crate) fn extensions(rng: &mut Rng) -> Extensions {
    let (fields, cancel) = rng.pick(&[(1, 1), (1, 1), (1, 1), (3, 2), (1, 0), (0, 1), (0, 0)]);
    let mut extensions = Extensions::NONE;
    (extensions.fields, extensions.cancel) = (fields, cancel);
    extensions.drained = rng.pick(&[0, 1, 1, 1]);
    extensions
}

/// What goes with the request or message of this number, if anything does.
pub(crate) fn asked(id: u64) -> Option<Fields> {
    some(&mut Rng::new(id.wrapping_mul(2)))
}

/// What goes with the answer to it.
pub(crate) fn answered(id: u64) -> Option<Fields> {
    some(&mut Rng::new(id.wrapping_mul(2) + 1))
}

/// What goes with its rejection, besides.
pub(crate) fn failure(id: u64) -> Failure {
    Failure {
        code: Some(format!("C{id}")),
        data: id.is_multiple_of(2).then(|| format!("[{id},\"ж\"]")),
        retry_after: id.is_multiple_of(3).then(|| Duration::from_millis(id)),
        unhandled: false,
    }
}

fn some(rng: &mut Rng) -> Option<Fields> {
    if rng.percent(60) {
        return None;
    }
    let mut fields = Fields::new();
    for _ in 0..rng.below(4) {
        let name = rng.pick(&["tenant", "key-1", "n"]);
        let mut bytes = vec![0; rng.size(2000)];
        rng.fill(&mut bytes);
        match rng.percent(50) {
            true => fields.add_header(name, &bytes[..]),
            false => fields.add_header(name, &*format!("ж{}", bytes.len())),
        }
        .expect("within the limits");
    }
    if fields.is_empty() || rng.percent(30) {
        let parent = format!("00-{:032x}-{:016x}-01", rng.next() | 1, rng.next() | 1);
        fields
            .set_trace(&parent, rng.pick(&["", "a=b"]), rng.pick(&["", "k=v"]))
            .expect("well-formed");
    }
    Some(fields)
}

/// Fields arrive as they were sent, or not at all.
pub(crate) fn check(seen: FieldsView<'_>, sent: Option<Fields>, arrives: bool) {
    let sent = sent.filter(|_| arrives).unwrap_or_default();
    let sent = sent.view();
    assert!(seen.headers().eq(sent.headers()), "headers: {seen:?} of {sent:?}");
    assert_eq!(seen.traceparent(), sent.traceparent());
    assert_eq!((seen.tracestate(), seen.baggage()), (sent.tracestate(), sent.baggage()));
}
