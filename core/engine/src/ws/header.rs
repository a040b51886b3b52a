//! Headers of WebSocket frames, and masks.

use bytes::Bytes;

/// Two bytes, a 64-bit length and a mask.
pub(super) const MAX_HEADER: usize = 14;

/// Final, binary, no extension: the first byte of nearly every frame of roletalk.
pub(super) const PLAIN: u8 = 0x82;

/// The first bytes of pings and pongs.
pub(super) const PING: u8 = 0x89;
pub(super) const PONG: u8 = 0x8a;
/// The longest payload of these.
pub(super) const MAX_CONTROL: usize = 125;

pub(super) const FINAL: u8 = 0x80;
pub(super) const OPCODE: u8 = 0x0f;
pub(super) const CONTINUATION: u8 = 0x0;
pub(super) const BINARY: u8 = 0x2;
/// Set in the opcodes of pings, pongs and closes.
pub(super) const CONTROL: u8 = 0x8;

/// What the header of a frame says, for hosts that have to find their way in bytes that a
/// [`Socket`](super::Socket) has not read yet. Nothing is judged here.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// The final bit, the reserved bits and the opcode.
    pub first: u8,
    /// The mask, when the payload is masked.
    pub mask: Option<[u8; 4]>,
    /// The length of the payload in bytes. It is what the remote says: up to 2^64 - 1.
    pub len: u64,
    /// The length of the header itself in bytes, mask included: at most 14.
    pub size: usize,
}

impl Header {
    /// The header at the front of these bytes. None when a part of it is missing.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Header> {
        let [first, second, rest @ ..] = bytes else {
            return None;
        };
        let (len, size) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*rest.first_chunk()?), 10),
            len => (u64::from(len), 2),
        };
        match second & 0x80 != 0 {
            false => Some(Header { first: *first, mask: None, len, size }),
            true => {
                let mask = Some(*bytes.get(size..)?.first_chunk()?);
                Some(Header { first: *first, mask, len, size: size + 4 })
            }
        }
    }
}

/// The binary messages in whole frames that a [`FrameWriter`](super::FrameWriter) has written; none in place of those
/// whose first byte is not wanted.
pub(crate) fn messages(
    mut frames: &[u8],
    wanted: fn(u8) -> bool,
) -> impl Iterator<Item = Option<Bytes>> {
    std::iter::from_fn(move || {
        loop {
            let Header { first, mask, len, size } = Header::parse(frames)?;
            let end = size.checked_add(usize::try_from(len).ok()?)?;
            let payload = frames.get(size..end)?;
            frames = &frames[end..];
            if first & OPCODE != BINARY {
                continue;
            }
            let first = payload.first().map(|byte| byte ^ mask.map_or(0, |mask| mask[0]));
            if !first.is_some_and(wanted) {
                return Some(None);
            }
            let mut payload = payload.to_vec();
            if let Some(mask) = mask {
                apply_mask(&mut payload, mask);
            }
            return Some(Some(payload.into()));
        }
    })
}

/// Applies a mask from its first byte on, or takes it off.
#[inline]
pub(super) fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = [a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d];
    // Arrays of these lengths are one register to the compiler.
    let (pieces, rest) = payload.as_chunks_mut::<16>();
    pieces.iter_mut().for_each(|piece| xor(piece, &wide));
    let (words, rest) = rest.as_chunks_mut::<4>();
    words.iter_mut().for_each(|word| xor(word, &mask));
    xor(rest, &mask);
}

#[inline]
fn xor(bytes: &mut [u8], keys: &[u8]) {
    for (byte, key) in bytes.iter_mut().zip(keys) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_applied_to_each_byte_in_turn_whatever_the_length() {
        let mask = [1, 20, 75, 200];
        for len in 0..70 {
            let plain: Vec<u8> = (0..len).collect();
            let mut masked = plain.clone();
            apply_mask(&mut masked, mask);
            let bytes = plain.iter().zip(mask.iter().cycle());
            let expected: Vec<u8> = bytes.map(|(byte, key)| byte ^ key).collect();
            assert_eq!(masked, expected);
        }
    }
}
