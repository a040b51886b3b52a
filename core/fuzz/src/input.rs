//! Decisions out of bytes.

/// Takes decisions off the front of the fuzzer's bytes. Behind their end everything is zero.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A length: one byte up to 250, else two more.
    pub(crate) fn len(&mut self) -> usize {
        match self.byte() {
            short @ 0..=250 => short.into(),
            _ => usize::from(self.byte()) << 8 | usize::from(self.byte()),
        }
    }

    /// At most `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// Bytes behind their own length.
    pub(crate) fn chunk(&mut self) -> &'a [u8] {
        let len = self.len();
        self.bytes(len)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
