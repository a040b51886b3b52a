//! Fields, and frames that go with them.

use std::time::Duration;

use roletalk_engine::wire::{
    Failure, Fields, FieldsView, Frame, HeaderValue, MAX_HEADER_COUNT, MAX_HEADERS, MAX_NAME,
    Wrapped,
};

use crate::input::Input;

/// The bytes are a frame with fields; without their first one they are what an application sets.
///
/// What is understood keeps the limits, and what of it can be sent on is the same at the other end. What can
/// be set is understood there.
pub fn fields(bytes: &[u8]) {
    match Wrapped::decode(bytes) {
        Ok(Some(wrapped)) => received(wrapped),
        Ok(None) => assert_ne!(bytes.first(), Some(&110)),
        // It becomes the reason of a WebSocket close.
        Err(error) => assert!(error.to_string().len() < 100, "{error}"),
    }
    set(&mut Input::new(bytes.get(1..).unwrap_or_default()));
}

fn received(Wrapped { fields, inner, unknown }: Wrapped<'_>) {
    assert!(unknown.is_none_or(|tag| tag & 0x80 != 0));
    let headers = || fields.headers();
    assert!(headers().count() <= MAX_HEADER_COUNT);
    let sizes = headers().map(|(name, value)| name.len() + value.bytes().len());
    assert!(sizes.sum::<usize>() <= MAX_HEADERS);
    for (name, _) in headers() {
        assert!(!name.is_empty() && name.is_ascii());
        let first = headers().find(|(other, _)| *other == name).map(|(_, value)| value);
        assert_eq!(fields.header(name), first);
    }
    assert!(fields.known_events().len() <= 16);
    let shown = format!("{fields:?}");
    assert!(shown.len() < 64 << 10);
    // It is sent on as it came, but for what may not be sent.
    let mut copy = Fields::new();
    copy.inherit_trace(fields);
    for (name, value) in headers() {
        let _ = copy.add_header(name, value);
    }
    if let Some(failure) = fields.failure() {
        let _ = copy.set_failure(&failure);
    }
    let Ok(frame) = Frame::decode(inner) else { return };
    // Mending UTF-8 makes names longer, possibly too long to be sent on.
    if let Frame::Message { role, event, .. }
    | Frame::Request { role, event, .. }
    | Frame::StreamRequest { role, event, .. } = &frame
        && role.len().max(event.len()) > MAX_NAME
    {
        return;
    }
    same(&copy, fields.time_left(), &frame);
}

/// What is sent is what arrives.
fn same(fields: &Fields, time_left: Option<Duration>, frame: &Frame<'_>) {
    let mut bytes = Vec::new();
    fields.encode(time_left, frame, &mut bytes);
    let wrapped = Wrapped::decode(&bytes).expect("well-formed");
    assert_eq!(wrapped.is_none(), fields.is_empty() && time_left.is_none());
    let (inner, seen) = match wrapped {
        Some(wrapped) => (wrapped.inner, wrapped.fields),
        None => (&bytes[..], FieldsView::default()),
    };
    assert_eq!(Frame::decode(inner).as_ref(), Ok(frame));
    let sent = fields.view();
    assert!(seen.headers().eq(sent.headers()));
    assert_eq!(seen.traceparent(), sent.traceparent());
    assert_eq!((seen.tracestate(), seen.baggage()), (sent.tracestate(), sent.baggage()));
    assert_eq!(seen.failure(), sent.failure());
    // Never more than is left.
    assert_eq!(seen.time_left().is_some(), time_left.is_some());
    assert!(seen.time_left() <= time_left);
}

/// Anything that an application may try.
fn set(input: &mut Input<'_>) {
    let mut fields = Fields::new();
    let mut time_left = None;
    let mut headers = 0;
    while !input.is_empty() {
        let before = fields.clone();
        let done = match input.byte() % 8 {
            0..=2 => {
                let name = String::from_utf8_lossy(input.chunk()).to_lowercase();
                let done = fields.add_header(&name, input.chunk());
                headers += usize::from(done.is_ok());
                done
            }
            3 => {
                let name = ["a", "tenant", "x-1"][usize::from(input.byte()) % 3];
                let text = "ж".repeat(input.len());
                let done = fields.add_header(name, &*text);
                headers += usize::from(done.is_ok());
                done
            }
            4 => {
                let parent = String::from_utf8_lossy(input.chunk()).into_owned();
                fields.set_trace(&parent, &"a".repeat(input.len()), "")
            }
            5 => {
                let id = u64::from(input.byte()) + 1;
                let parent = format!("00-{id:032x}-{id:016x}-01");
                let (state, baggage) = ("s".repeat(input.len()), "b".repeat(input.len()));
                fields.set_trace(&parent, &state, &baggage)
            }
            6 => {
                let text = String::from_utf8_lossy(input.chunk()).into_owned();
                let flags = input.byte();
                fields.set_failure(&Failure {
                    code: (flags & 1 != 0).then(|| text.clone()),
                    data: (flags & 2 != 0).then_some(text),
                    retry_after: (flags & 4 != 0).then(|| Duration::from_millis(flags.into())),
                    unhandled: flags & 8 != 0,
                })
            }
            _ => {
                time_left = Some(Duration::from_micros(1 << (input.byte() % 64)));
                Ok(())
            }
        };
        if let Err(error) = done {
            assert!(!error.to_string().is_empty());
            assert_eq!(fields, before, "changed, though it failed");
        }
    }
    assert_eq!(fields.view().headers().count(), headers);
    let value = |value: HeaderValue<'_>| value.text().map(str::len).unwrap_or_default();
    assert!(fields.view().headers().all(|(_, header)| value(header) <= MAX_HEADERS));
    let frame = Frame::decode(b"\x64\x00\x01\x00\x01re\x00").expect("a message");
    same(&fields, time_left, &frame);
}
