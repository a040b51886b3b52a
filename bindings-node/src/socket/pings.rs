//! Pings in the bytes of a connection whose frames somebody else reads.

use roletalk_engine::ws::{Header, Side};

/// Final, no extension, opcode 9.
const PING: u8 = 0x89;
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x08;
/// The most that a ping may carry.
const MAX_PING: u64 = 125;
/// The length of the longest header.
const MAX_HEADER: usize = 14;

/// Knows where in the frames of a connection its bytes stand, and finds the pings among them.
#[derive(Debug)]
pub(super) struct Pings {
    side: Side,
    /// Bytes of the present frame that are still to come.
    missing: u64,
    /// The beginning of a header whose rest is still to come.
    head: [u8; MAX_HEADER],
    head_len: usize,
    /// A close frame was seen: no ping is answered any more.
    closed: bool,
}

impl Pings {
    pub(super) fn new(side: Side) -> Pings {
        Pings { side, missing: 0, head: [0; MAX_HEADER], head_len: 0, closed: false }
    }

    /// Follows bytes that are left as they are.
    #[inline]
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        loop {
            bytes = &bytes[self.rest_of_frame(bytes)..];
            if bytes.is_empty() {
                return;
            }
            if self.head_len == 0
                && let Some(header) = Header::parse(bytes)
            {
                bytes = &bytes[header.size..];
                self.missing = header.len;
                continue;
            }
            bytes = &bytes[self.rest_of_header(bytes)..];
        }
    }

    /// Takes whole pings out of `bytes`, each of which is given to `answer`, and appends all else to
    /// `kept`. Returns what of `bytes` is undecided: the beginning of a header, or of a ping.
    pub(super) fn take_out<'a>(
        &mut self,
        mut bytes: &'a [u8],
        kept: &mut Vec<u8>,
        mut answer: impl FnMut(&[u8]),
    ) -> &'a [u8] {
        loop {
            let mut passed = self.rest_of_frame(bytes);
            if self.missing == 0 && self.head_len > 0 {
                passed += self.rest_of_header(&bytes[passed..]);
            }
            kept.extend_from_slice(&bytes[..passed]);
            bytes = &bytes[passed..];
            if self.closed {
                kept.extend_from_slice(bytes);
                return &[];
            }
            if bytes.is_empty() {
                return bytes;
            }
            if self.missing > 0 {
                continue;
            }
            let Some(header) = Header::parse(bytes) else { return bytes };
            if !self.is_ping(&header) {
                self.closed = header.first & OPCODE == CLOSE;
                kept.extend_from_slice(&bytes[..header.size]);
                bytes = &bytes[header.size..];
                self.missing = header.len;
                continue;
            }
            let end = header.size + header.len as usize;
            let Some(payload) = bytes.get(header.size..end) else { return bytes };
            match header.mask {
                None => answer(payload),
                Some(mask) => {
                    let masked = payload.iter().zip(mask.iter().cycle());
                    answer(&masked.map(|(byte, key)| byte ^ key).collect::<Vec<u8>>());
                }
            }
            bytes = &bytes[end..];
        }
    }

    /// Whether nothing is wrong with a ping: otherwise it is left to whoever reads the frames.
    fn is_ping(&self, header: &Header) -> bool {
        let masked = self.side == Side::Server;
        header.first == PING && header.len <= MAX_PING && header.mask.is_some() == masked
    }

    /// Passes what belongs to the present frame. Returns how many bytes that are.
    #[inline]
    fn rest_of_frame(&mut self, bytes: &[u8]) -> usize {
        let len = usize::try_from(self.missing).map_or(bytes.len(), |n| n.min(bytes.len()));
        self.missing -= len as u64;
        len
    }

    /// Collects a header that comes in parts. Returns how many bytes of it are here.
    fn rest_of_header(&mut self, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            self.head[self.head_len] = *byte;
            self.head_len += 1;
            if let Some(header) = Header::parse(&self.head[..self.head_len]) {
                self.head_len = 0;
                self.missing = header.len;
                return at + 1;
            }
        }
        bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use roletalk_engine::ws::FrameWriter;

    use super::*;

    /// A message, a ping, a larger message, two pings, a close frame and a ping behind it.
    fn traffic(sender: Side) -> (Vec<u8>, Vec<u8>) {
        let mut writer = FrameWriter::new(sender, 1);
        let (mut all, mut without) = (Vec::new(), Vec::new());
        for (len, ping) in [(3, Some("a")), (300, Some("")), (0, Some("bc")), (70_000, None)] {
            let at = all.len();
            writer.binary(&mut all, len, |out| out.resize(out.len() + len, PING));
            without.extend_from_slice(&all[at..]);
            if let Some(ping) = ping {
                writer.ping(&mut all, ping.as_bytes());
            }
        }
        let at = all.len();
        writer.close(&mut all, 1000, "");
        writer.ping(&mut all, b"late");
        without.extend_from_slice(&all[at..]);
        (all, without)
    }

    fn take_out(side: Side, pieces: &[&[u8]]) -> (Vec<u8>, Vec<String>) {
        let mut pings = Pings::new(side);
        let (mut kept, mut answered, mut undecided) = (Vec::new(), Vec::new(), Vec::new());
        for piece in pieces {
            let bytes = [&undecided[..], piece].concat();
            undecided = pings
                .take_out(&bytes, &mut kept, |ping| {
                    answered.push(String::from_utf8_lossy(ping).into_owned());
                })
                .to_vec();
        }
        kept.extend_from_slice(&undecided);
        (kept, answered)
    }

    #[test]
    fn pings_are_taken_out_however_the_bytes_are_cut() {
        for (sender, side) in [(Side::Client, Side::Server), (Side::Server, Side::Client)] {
            let (all, without) = traffic(sender);
            for size in [1, 2, 3, 7, 64, 1000, all.len()] {
                let pieces: Vec<&[u8]> = all.chunks(size).collect();
                let (kept, answered) = take_out(side, &pieces);
                assert_eq!(answered, ["a", "", "bc"], "{side:?}, {size}");
                assert!(kept == without, "{side:?}, {size}");
            }
        }
    }

    #[test]
    fn what_was_passed_before_is_continued() {
        let (all, without) = traffic(Side::Client);
        for cut in 0..all.len().min(400) {
            let mut pings = Pings::new(Side::Server);
            pings.pass(&all[..cut]);
            let mut kept = all[..cut].to_vec();
            let mut answered = 0;
            let undecided = pings.take_out(&all[cut..], &mut kept, |_| answered += 1);
            assert!(undecided.is_empty());
            // A ping that was passed in part is left to whoever has that part.
            let left: usize = [7, 6, 8].iter().take(3 - answered).sum();
            assert_eq!(kept.len(), without.len() + left, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_ping_is_left_alone() {
        // Not masked; not final; longer than a control frame may be.
        let wrong: [&[u8]; 3] = [
            &[0x89, 0],
            &[0x09, 0x80, 0, 0, 0, 0],
            &[&[0x89, 0xfe, 0, 126, 0, 0, 0, 0], &[0; 126][..]].concat(),
        ];
        for bytes in wrong {
            let (kept, answered) = take_out(Side::Server, &[bytes]);
            assert!(kept == bytes && answered.is_empty());
        }
    }
}
