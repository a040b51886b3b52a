//! A message, request or stream request as it came in.

use std::{borrow::Cow, num::NonZeroU64, time::Duration};

use bytes::{Buf, Bytes};

use crate::wire::{Data, DataType, FieldsView, Payload, Wrapped};
use crate::{ConnId, Moment};

/// The names and the payload of something that came in, still in the bytes of its frame: one
/// reference count, no copies.
#[derive(Clone, Debug)]
pub struct Incoming {
    frame: Bytes,
    role: (u32, u32),
    event: (u32, u32),
    payload: u32,
    kind: DataType,
    /// The length of the fields' block.
    fields: u16,
    conn: ConnId,
    /// Without fields, see [`Incoming::same_names`]. With them, [`Incoming::deadline`] in nanoseconds, 0 for none: all
    /// others are to stay small.
    number: u64,
}

/// Where in its frame the parts of something for a handler are.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) role: (u32, u32),
    pub(super) event: (u32, u32),
    pub(super) payload: u32,
    pub(super) kind: DataType,
    /// The frame to use instead: a name was mended.
    pub(super) mended: Option<Bytes>,
    /// The length of the fields' block.
    pub(super) fields: u16,
    /// See [`Incoming::same_names`].
    pub(super) number: u64,
}

impl Layout {
    /// The names, of the frame that this is the layout of.
    pub(super) fn names<'a>(&'a self, frame: &'a [u8]) -> (&'a str, &'a str) {
        let (role, event) = self.name_bytes(frame);
        // Checked when the frame was decoded.
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        (text(role), text(event))
    }

    /// Their bytes.
    #[inline]
    pub(super) fn name_bytes<'a>(&'a self, frame: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let frame = self.mended.as_deref().unwrap_or(frame);
        let part =
            |(at, len): (u32, u32)| frame.get(at as usize..(at + len) as usize).unwrap_or_default();
        (part(self.role), part(self.event))
    }

    /// The names, role and event, must point into `frame` unless they had to be mended; the payload are the
    /// frame's last bytes.
    pub(super) fn of(
        frame: &[u8],
        (role, event): (Cow<'_, str>, Cow<'_, str>),
        payload: Payload<'_>,
        fields: u16,
    ) -> Layout {
        let Payload { kind, bytes: payload } = payload;
        match (role, event) {
            (Cow::Borrowed(role), Cow::Borrowed(event)) => {
                let offset = |part: &[u8]| part.as_ptr() as usize - frame.as_ptr() as usize;
                let span = |part: &str| (offset(part.as_bytes()) as u32, part.len() as u32);
                Layout {
                    role: if role.is_empty() { (0, 0) } else { span(role) },
                    event: if event.is_empty() { (0, 0) } else { span(event) },
                    payload: (frame.len() - payload.len()) as u32,
                    kind,
                    mended: None,
                    fields,
                    number: 0,
                }
            }
            // A name with invalid UTF-8 was mended: lay the frame out anew, behind the fields.
            (role, event) => {
                let head = match fields {
                    0 => 0,
                    len => Wrapped::HEAD + usize::from(len),
                };
                let names = role.len() + event.len();
                let mut bytes = Vec::with_capacity(head + names + payload.len());
                bytes.extend_from_slice(frame.get(..head).unwrap_or_default());
                bytes.extend_from_slice(role.as_bytes());
                bytes.extend_from_slice(event.as_bytes());
                bytes.extend_from_slice(payload);
                let (head, role, event) = (head as u32, role.len() as u32, event.len() as u32);
                Layout {
                    role: (head, role),
                    event: (head + role, event),
                    payload: head + role + event,
                    kind,
                    mended: Some(bytes.into()),
                    fields,
                    number: 0,
                }
            }
        }
    }
}

impl Incoming {
    #[inline]
    pub(super) fn new(frame: Bytes, layout: Layout, conn: ConnId, due: Option<Moment>) -> Incoming {
        let Layout { role, event, payload, kind, mended, fields, number: names } = layout;
        let frame = mended.unwrap_or(frame);
        let number = match fields {
            0 => names,
            _ => due.map_or(0, |due| {
                let nanos = due.since_epoch().as_nanos();
                u64::try_from(nanos).unwrap_or(u64::MAX).max(1)
            }),
        };
        Incoming { frame, role, event, payload, kind, fields, conn, number }
    }

    fn part(&self, (at, len): (u32, u32)) -> &[u8] {
        &self.frame[at as usize..(at + len) as usize]
    }

    fn text(&self, part: (u32, u32)) -> &str {
        // Checked when the frame was decoded.
        std::str::from_utf8(self.part(part)).unwrap_or_default()
    }

    /// The bytes of [`role`](Incoming::role) and [`event`](Incoming::event), for those who need no
    /// `str`: that is checked each time.
    pub fn names(&self) -> (&[u8], &[u8]) {
        (self.part(self.role), self.part(self.event))
    }

    /// A number that only what has the same names has, among all that comes from one unit. None says nothing:
    /// the names are to be compared.
    #[inline]
    pub fn same_names(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(if self.fields == 0 { self.number } else { 0 })
    }

    /// The role it is addressed to.
    pub fn role(&self) -> &str {
        self.text(self.role)
    }

    /// The name of the action; may be empty.
    pub fn event(&self) -> &str {
        self.text(self.event)
    }

    /// The type of the payload.
    pub fn kind(&self) -> DataType {
        self.kind
    }

    /// The payload, as it was sent.
    pub fn data(&self) -> Data {
        Data::from_raw(self.kind, self.frame.slice(self.payload as usize..))
    }

    /// The payload's bytes, still borrowed.
    pub fn payload(&self) -> &[u8] {
        &self.frame[self.payload as usize..]
    }

    /// The payload, giving up the names.
    pub fn into_data(mut self) -> Data {
        self.frame.advance(self.payload as usize);
        Data::from_raw(self.kind, self.frame)
    }

    /// Bytes that are kept in memory for it, names included.
    pub fn size(&self) -> usize {
        self.frame.len()
    }

    /// Whether something came with it besides.
    #[inline]
    pub fn has_fields(&self) -> bool {
        self.fields > 0
    }

    /// What came with it besides.
    pub fn fields(&self) -> FieldsView<'_> {
        match self.fields {
            0 => FieldsView::default(),
            len => Wrapped::fields_of(&self.frame, len),
        }
    }

    /// When the requester gives up; none when it did not say.
    pub fn deadline(&self) -> Option<Moment> {
        let nanos = if self.fields == 0 { 0 } else { self.number };
        (nanos > 0).then(|| Moment::at(Duration::from_nanos(nanos)))
    }

    /// The connection it came on.
    pub fn connection(&self) -> ConnId {
        self.conn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_payload_are_views_of_the_frame() {
        let frame = Bytes::from_static(b"xxroleev!data");
        let text = |range: std::ops::Range<usize>| {
            Cow::Borrowed(std::str::from_utf8(&frame[range]).unwrap())
        };
        let (role, event) = (text(2..6), text(6..8));
        let payload = Payload { kind: DataType::String, bytes: &frame[9..] };
        let layout = Layout::of(&frame, (role, event), payload, 0);
        let incoming = Incoming::new(frame.clone(), layout, ConnId(1), None);
        assert_eq!((incoming.role(), incoming.event()), ("role", "ev"));
        assert_eq!(incoming.data().bytes().as_ptr(), frame[9..].as_ptr());
        assert_eq!(incoming.into_data().bytes().as_ref(), b"data");
    }

    #[test]
    fn mended_names_keep_their_text() {
        let frame = Bytes::from_static(b"data");
        let role = Cow::Owned("r\u{fffd}".to_owned());
        let event = Cow::Borrowed("");
        let payload = Payload { kind: DataType::Binary, bytes: &frame };
        let layout = Layout::of(&frame, (role, event), payload, 0);
        let incoming = Incoming::new(frame.clone(), layout, ConnId(1), None);
        assert_eq!((incoming.role(), incoming.event()), ("r\u{fffd}", ""));
        assert_eq!(incoming.into_data().bytes().as_ref(), b"data");
    }
}
