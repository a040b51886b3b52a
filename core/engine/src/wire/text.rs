use std::borrow::Cow;

/// The text that `bytes` are, with U+FFFD for the parts that are not UTF-8, as JavaScript reads it.
#[inline]
pub(super) fn decode(bytes: &[u8]) -> Cow<'_, str> {
    // For valid text this is several times faster than the lossy conversion alone.
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

/// The beginning of `text` that fits into `max` bytes.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
