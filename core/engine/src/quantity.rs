//! What limits and counters have in common.

use std::fmt;

/// One row of a table of limits or counters, such as [`Limits::ALL`](crate::Limits::ALL) and
/// [`UnitStats::ALL`](crate::UnitStats::ALL): a name, and what the number with this name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quantity {
    /// The name of the field.
    pub name: &'static str,
    /// What it is a number of.
    pub measure: Measure,
}

/// What a number is a number of. It prints as in "the limit is *a number of bytes*".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// A duration.
    Time,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Measure::Count => "a number",
            Measure::Bytes => "a number of bytes",
            Measure::Time => "a time",
        })
    }
}
