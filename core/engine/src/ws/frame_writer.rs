use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

use super::{
    Side,
    header::{FINAL, MAX_HEADER, apply_mask},
};
use crate::wire::cut;

const BINARY: OpCode = OpCode::Data(Data::Binary);
const CLOSE: OpCode = OpCode::Control(Control::Close);
const PING: OpCode = OpCode::Control(Control::Ping);
const PONG: OpCode = OpCode::Control(Control::Pong);

const MASKED: u8 = 0x80;
const MAX_CONTROL_PAYLOAD: usize = 125;
const MAX_CLOSE_REASON: usize = MAX_CONTROL_PAYLOAD - 2;

/// Appends whole WebSocket frames to a buffer.
///
/// Messages are never fragmented, and never refused for their size: the limit of what the remote
/// takes is for the caller to keep.
#[derive(Clone, Debug)]
pub struct FrameWriter {
    /// `None` on the server side, which must not mask.
    masks: Option<Masks>,
}

impl FrameWriter {
    /// A writer for this end of a connection.
    ///
    /// `mask_seed` starts the sequence of masks and should differ from connection to connection;
    /// it is not used when `side` is [`Side::Server`]. It need not be secret: masks keep old proxies
    /// from mistaking payload for HTTP, they hide nothing.
    pub fn new(side: Side, mask_seed: u64) -> Self {
        Self {
            masks: match side {
                Side::Client => Some(Masks(mask_seed)),
                Side::Server => None,
            },
        }
    }

    /// Appends a binary message in a single frame.
    ///
    /// `body` must append exactly `len` bytes to the buffer that it is given and leave what is in
    /// it already alone. They are masked in place afterwards, so no other buffer is needed.
    ///
    /// # Panics
    /// When `body` appended more or fewer than `len` bytes: everything behind such a frame would be
    /// misread by the remote.
    #[inline]
    pub fn binary(&mut self, out: &mut Vec<u8>, len: usize, body: impl FnOnce(&mut Vec<u8>)) {
        let mask = self.header(out, BINARY, len);
        let start = out.len();
        body(out);
        assert_eq!(
            out.len().wrapping_sub(start),
            len,
            "frame body of another length than announced"
        );
        if let Some(mask) = mask {
            apply_mask(&mut out[start..], mask);
        }
    }

    /// Appends a ping. Of `payload` at most 125 bytes are sent, the most that a ping may carry.
    pub fn ping(&mut self, out: &mut Vec<u8>, payload: &[u8]) {
        self.control(out, PING, &[], payload);
    }

    /// Appends a pong. Of `payload` at most 125 bytes are sent, the most that a pong may carry.
    ///
    /// Pongs that answer a ping are written by [`Socket::read`](super::Socket::read).
    pub fn pong(&mut self, out: &mut Vec<u8>, payload: &[u8]) {
        self.control(out, PONG, &[], payload);
    }

    /// Appends a close frame. `reason` is cut to 123 bytes, at the end of a character.
    ///
    /// A `code` that must not appear on the wire (1005, "no code", is the usual one; also 1004,
    /// 1006, 1014 to 2999, anything below 1000 or above 4999) gives a close frame without code
    /// and reason: the original dies of such codes.
    ///
    /// Nothing may be written after it; see [`Socket::close_sent`](super::Socket::close_sent).
    pub fn close(&mut self, out: &mut Vec<u8>, code: u16, reason: &str) {
        if CloseCode::from(code).is_allowed() {
            let reason = cut(reason, MAX_CLOSE_REASON);
            self.control(out, CLOSE, &code.to_be_bytes(), reason.as_bytes());
        } else {
            self.control(out, CLOSE, &[], &[]);
        }
    }

    fn control(&mut self, out: &mut Vec<u8>, opcode: OpCode, prefix: &[u8], payload: &[u8]) {
        let payload = &payload[..payload.len().min(MAX_CONTROL_PAYLOAD - prefix.len())];
        let mask = self.header(out, opcode, prefix.len() + payload.len());
        let start = out.len();
        out.extend_from_slice(prefix);
        out.extend_from_slice(payload);
        if let Some(mask) = mask {
            apply_mask(&mut out[start..], mask);
        }
    }

    /// Appends the header of a final frame, with room reserved for the payload.
    #[inline]
    fn header(&mut self, out: &mut Vec<u8>, opcode: OpCode, len: usize) -> Option<[u8; 4]> {
        let mask = self.masks.as_mut().map(Masks::next);

        out.reserve(MAX_HEADER + len);
        let first = FINAL | u8::from(opcode);
        // Most frames are small, and one append of a fixed size takes half the time of several.
        match (len, mask) {
            (..126, None) => out.extend_from_slice(&[first, len as u8]),
            (..126, Some([a, b, c, d])) => {
                out.extend_from_slice(&[first, MASKED | len as u8, a, b, c, d]);
            }
            _ => {
                let header = FrameHeader { opcode, mask, ..FrameHeader::default() };
                header.format(len as u64, out).expect("writing to a Vec does not fail");
            }
        }
        mask
    }
}

/// SplitMix64: the cheapest generator whose successive values have nothing visible in common.
#[derive(Clone, Debug)]
struct Masks(u64);

impl Masks {
    #[inline]
    fn next(&mut self) -> [u8; 4] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) as u32).to_ne_bytes()
    }
}
