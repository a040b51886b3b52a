//! Names that were read before.

use super::{
    frame::{MESSAGE, REQUEST},
    num::Num,
    payload::DataType,
};

/// Longer ones are read anew each time.
const LONGEST: usize = 256;

/// The beginning of a message or request, up to its names, where the lengths of both and of the
/// correlation are, and the names. The next one nearly always begins with the same bytes, whose text need
/// not be checked again then.
#[derive(Debug, Default)]
pub(crate) struct LastNames {
    /// Empty when there is none.
    bytes: Vec<u8>,
    role: (u32, u32),
    event: (u32, u32),
    /// Counts how often other names were noted.
    serial: u64,
}

/// What a frame with the same names holds besides; places are offsets and lengths in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repeated {
    pub(crate) role: (u32, u32),
    pub(crate) event: (u32, u32),
    /// That of a request.
    pub(crate) corr: Option<Num>,
    pub(crate) kind: DataType,
    /// Where the payload begins.
    pub(crate) payload: u32,
}

impl LastNames {
    /// Notes the names of a frame, which are its text at these places.
    pub(crate) fn note(&mut self, frame: &[u8], role: (u32, u32), event: (u32, u32)) {
        self.bytes.clear();
        self.serial += 1;
        let head = match frame.first() {
            Some(&MESSAGE) => 5,
            Some(&REQUEST) => 6,
            _ => return,
        };
        let names = head + role.1 as usize + event.1 as usize;
        if names <= LONGEST {
            self.bytes.extend_from_slice(frame.get(..names).unwrap_or_default());
            (self.role, self.event) = (role, event);
        }
    }

    /// Another number for each time that names were noted, at least 1 then.
    #[inline]
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Reads a frame whose names are those that were noted last. None: it is to be decoded, because of
    /// other names, or since something is wrong with it.
    #[inline]
    pub(crate) fn read(&self, frame: &[u8]) -> Option<Repeated> {
        let rest = frame.strip_prefix(self.bytes.as_slice())?;
        let (corr, rest) = match *self.bytes.first()? {
            MESSAGE => (None, rest),
            _ => {
                let (corr, rest) = rest.split_at_checked((*self.bytes.get(5)?).into())?;
                (Some(Num::decode(corr).ok()?), rest)
            }
        };
        let (kind, payload) = rest.split_first()?;
        Some(Repeated {
            role: self.role,
            event: self.event,
            corr,
            kind: DataType::from_byte(*kind),
            payload: (frame.len() - payload.len()) as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Frame, Payload};
    use super::*;

    fn encoded(request: bool, role: &str, event: &str, corr: Num, bytes: &[u8]) -> Vec<u8> {
        let payload = Payload { kind: DataType::String, bytes };
        let (role, event) = (role.into(), event.into());
        let mut out = Vec::new();
        match request {
            false => Frame::Message { role, event, payload },
            true => Frame::Request { role, event, corr, payload },
        }
        .encode(&mut out);
        out
    }

    /// Where a part of a frame is.
    fn place(frame: &[u8], part: &str) -> (u32, u32) {
        ((part.as_ptr() as usize - frame.as_ptr() as usize) as u32, part.len() as u32)
    }

    fn noted(frame: &[u8]) -> LastNames {
        let mut last = LastNames::default();
        match Frame::decode(frame) {
            Ok(Frame::Message { role, event, .. } | Frame::Request { role, event, .. }) => {
                last.note(frame, place(frame, &role), place(frame, &event));
            }
            other => panic!("{other:?}"),
        }
        last
    }

    #[test]
    fn nothing_is_read_before_names_were_noted() {
        assert_eq!(LastNames::default().read(&encoded(false, "r", "e", Num::new(1), b"")), None);
        let long = "x".repeat(LONGEST);
        let frame = encoded(false, &long, "e", Num::new(1), b"");
        assert_eq!(noted(&frame).read(&frame), None, "too long to be noted");
    }

    #[test]
    fn what_is_cut_off_is_left_to_the_decoder() {
        for request in [false, true] {
            let frame = encoded(request, "role", "event", Num::new(300), b"");
            let last = noted(&frame);
            assert!(last.read(&frame).is_some());
            for len in 0..frame.len() {
                assert_eq!(last.read(&frame[..len]), None, "{len} of {}", frame.len());
            }
        }
    }

    proptest! {
        #[test]
        fn it_reads_what_the_decoder_reads_or_nothing(
            names in prop::array::uniform2(("[ab]{0,3}", "[ab]{0,3}")),
            requests in prop::array::uniform2(any::<bool>()),
            corrs in prop::array::uniform2((any::<u64>(), 0..64u32)),
            bytes in prop::collection::vec(any::<u8>(), 0..20),
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let [first, mut second] = [0, 1].map(|n| {
                let ((role, event), (corr, shift)) = (&names[n], corrs[n]);
                encoded(requests[n], role, event, Num::new(corr >> shift), &bytes)
            });
            if let Some((at, byte)) = damage {
                let at = at.index(second.len());
                second[at] = byte;
            }
            let read = noted(&first).read(&second);
            let same = names[0] == names[1] && requests[0] == requests[1];
            let decoded = match Frame::decode(&second) {
                Ok(Frame::Message { role, event, payload }) => Some((role, event, None, payload)),
                Ok(Frame::Request { role, event, corr, payload }) => {
                    Some((role, event, Some(corr), payload))
                }
                _ => None,
            };
            match (read, decoded) {
                (Some(read), Some((role, event, corr, payload))) => {
                    let text = |(at, len): (u32, u32)| &second[at as usize..][..len as usize];
                    prop_assert_eq!(text(read.role), role.as_bytes());
                    prop_assert_eq!(text(read.event), event.as_bytes());
                    prop_assert_eq!((read.corr, read.kind), (corr, payload.kind));
                    prop_assert_eq!(&second[read.payload as usize..], payload.bytes);
                }
                (Some(read), None) => prop_assert!(false, "{:?}", read),
                (None, _) => {
                    let width = |n: usize| Num::new(corrs[n].0 >> corrs[n].1).width();
                    let alike = same && (!requests[0] || width(0) == width(1));
                    prop_assert!(!alike || damage.is_some());
                }
            }
        }
    }
}
