/// The longest role or event name, in bytes of UTF-8: its length travels as 16 bits.
pub const MAX_NAME: usize = u16::MAX as usize;

/// A role or event name is longer than [`MAX_NAME`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the name is {len} bytes long, the limit is {MAX_NAME}")]
pub struct NameTooLong {
    len: usize,
}

impl NameTooLong {
    /// The length of the refused name, in bytes.
    pub const fn name_len(self) -> usize {
        self.len
    }
}

/// Checks that `name` can be the name of a role or an event. An empty name can.
///
/// # Errors
///
/// [`NameTooLong`] if it takes more than [`MAX_NAME`] bytes.
#[inline]
pub fn check_name(name: &str) -> Result<(), NameTooLong> {
    if name.len() > MAX_NAME {
        return Err(NameTooLong { len: name.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_counts_bytes() {
        assert_eq!(check_name(""), Ok(()));
        assert_eq!(check_name(&"x".repeat(65_535)), Ok(()));
        let error = check_name(&"ж".repeat(32_768)).unwrap_err();
        assert_eq!(error.name_len(), 65_536);
        assert_eq!(error.to_string(), "the name is 65536 bytes long, the limit is 65535");
    }
}
