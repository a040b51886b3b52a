/// The largest number that JavaScript peers count exactly: correlations and channels stay at or
/// below it.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;

/// An unsigned number in as few big-endian bytes as hold it, or in more with leading zeros.
///
/// It keeps the width it was received with, so that re-encoding a frame gives the same bytes even
/// if its sender padded its numbers. Two numbers of equal value and different width are therefore
/// *not* equal: compare [`value`](Num::value) to tell whether they mean the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Num {
    value: u64,
    width: u8,
}

/// Why bytes are not a [`Num`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NumError {
    Empty,
    TooLarge,
}

impl Num {
    /// A number in its minimal width: one byte for zero.
    #[inline]
    pub const fn new(value: u64) -> Num {
        let bits = u64::BITS - value.leading_zeros();
        let width = if value == 0 { 1 } else { bits.div_ceil(8) };
        Num { value, width: width as u8 }
    }

    /// A number in `width` bytes, or in its minimal width where `width` is less.
    #[inline]
    pub const fn padded(value: u64, width: u8) -> Num {
        let minimal = Num::new(value);
        if width <= minimal.width {
            return minimal;
        }
        Num { value, width }
    }

    /// What the number counts.
    #[inline]
    pub const fn value(self) -> u64 {
        self.value
    }

    /// How many bytes it takes on the wire, at least one.
    #[inline]
    pub const fn width(self) -> u8 {
        self.width
    }

    #[inline]
    pub(super) fn decode(bytes: &[u8]) -> Result<Num, NumError> {
        if bytes.is_empty() {
            return Err(NumError::Empty);
        }
        let width = u8::try_from(bytes.len()).map_err(|_| NumError::TooLarge)?;
        let (padding, digits) = bytes.split_at(bytes.len().saturating_sub(8));
        if padding.iter().any(|&byte| byte != 0) {
            return Err(NumError::TooLarge);
        }
        let value = digits.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
        Ok(Num { value, width })
    }

    #[inline]
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let bytes = self.value.to_be_bytes();
        let width = usize::from(self.width);
        match bytes.len().checked_sub(width) {
            Some(unused) => out.extend_from_slice(&bytes[unused..]),
            None => {
                out.resize(out.len() + width - bytes.len(), 0);
                out.extend_from_slice(&bytes);
            }
        }
    }
}

impl From<u64> for Num {
    #[inline]
    fn from(value: u64) -> Num {
        Num::new(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(num: Num) -> Vec<u8> {
        let mut out = vec![0xaa];
        num.encode(&mut out);
        assert_eq!(out.remove(0), 0xaa);
        assert_eq!(out.len(), usize::from(num.width()));
        out
    }

    #[test]
    fn minimal_width_at_every_boundary() {
        assert_eq!(encoded(Num::new(0)), [0]);
        assert_eq!(encoded(Num::new(1)), [1]);
        for width in 1..8u8 {
            let last = (1u64 << (8 * width)) - 1;
            assert_eq!(Num::new(last).width(), width, "{last}");
            assert_eq!(Num::new(last + 1).width(), width + 1, "{}", last + 1);
            assert_eq!(encoded(Num::new(last)), vec![0xff; width.into()]);
        }
        assert_eq!(encoded(Num::new(256)), [1, 0]);
        assert_eq!(encoded(Num::new(MAX_NUMBER)), [0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(encoded(Num::new(u64::MAX)), [0xff; 8]);
    }

    #[test]
    fn padding_is_at_least_minimal() {
        assert_eq!(Num::padded(256, 0), Num::new(256));
        assert_eq!(Num::padded(256, 1), Num::new(256));
        assert_eq!(Num::padded(256, 2), Num::new(256));
        assert_eq!(encoded(Num::padded(256, 3)), [0, 1, 0]);
        assert_eq!(encoded(Num::padded(0, 2)), [0, 0]);
        let wide = encoded(Num::padded(u64::MAX, 255));
        assert_eq!((wide.len(), wide[246], wide[247]), (255, 0, 0xff));
        assert_eq!(Num::decode(&wide), Ok(Num::padded(u64::MAX, 255)));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert_eq!(Num::decode(&[]), Err(NumError::Empty));
        assert_eq!(Num::decode(&[1, 0, 0, 0, 0, 0, 0, 0, 0]), Err(NumError::TooLarge));
        assert_eq!(Num::decode(&[0; 256]), Err(NumError::TooLarge));
        assert_eq!(Num::decode(&[0; 255]), Ok(Num::padded(0, 255)));
    }

    proptest! {
        #[test]
        fn round_trips(value: u64, width: u8) {
            let num = Num::padded(value, width);
            prop_assert_eq!(num.value(), value);
            prop_assert_eq!(Num::decode(&encoded(num)), Ok(num));
        }
    }
}
