//! What becomes of what is sent to a role when a unit does not take it.

use std::time::Duration;

use crate::{
    UnitId,
    error::{Error, ErrorKind},
    timed_out,
};

/// A mistyped event, or a role that is overloaded everywhere, does not go to everybody.
const MOST_TRIED: usize = 8;

/// The error of what is to wait for a unit where so many wait already.
#[cold]
pub fn too_many_parked(limit: usize) -> Error {
    let text = format!("Too many requests wait for a unit (the limit is {limit})");
    Error::new(ErrorKind::Overloaded, text)
        .with_hint("Wait for their outcomes before asking more, or raise `waiting_requests`.")
}

/// Where something that is sent to a role has been: it goes to another unit as long as none has begun a handler
/// for it, to each once, and to eight at most.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    units: Vec<UnitId>,
    first: Option<Error>,
}

impl Tried {
    /// Nowhere.
    pub const NONE: Tried = Tried { units: Vec::new(), first: None };

    /// Notes that it has failed at a unit with this error. True when it may go to another, if there is one that
    /// it has not been to, and [`nowhere`](Tried::nowhere) tells its outcome if there is none. If not, this error is
    /// its outcome.
    pub fn note(&mut self, unit: UnitId, error: &Error) -> bool {
        self.pass_over(unit);
        self.first.get_or_insert_with(|| error.clone());
        error.is_unhandled() && self.units.len() < MOST_TRIED
    }

    /// Notes that it is at a unit, and is not to go there again.
    pub fn pass_over(&mut self, unit: UnitId) {
        if !self.contains(unit) {
            self.units.push(unit);
        }
    }

    /// It may go anywhere again but to this unit.
    pub fn forget_all_but(&mut self, unit: UnitId) {
        self.units.clear();
        self.units.push(unit);
    }

    /// The outcome when there is nowhere else to go: the first error, as if it had never gone on.
    #[must_use]
    pub fn nowhere(&self, last: Error) -> Error {
        self.first.clone().unwrap_or(last)
    }

    /// The outcome of what has waited for a unit in vain: that its time was up, and why it waited. `no_unit` is the
    /// error of what does not wait.
    #[must_use]
    pub fn late(&self, limit: Duration, no_unit: &Error) -> Error {
        let late = timed_out(limit);
        match (&self.first, no_unit.hint()) {
            (Some(first), _) => {
                let text = "It waited for another unit after one that did not handle it";
                late.with_hint(format!("{text}: {}", first.text()))
            }
            (None, Some(hint)) => late.with_hint(hint.to_owned()),
            (None, None) => late,
        }
    }

    /// Whether it has been nowhere.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Whether it has been to this unit and to no other.
    pub(crate) fn is_only(&self, unit: UnitId) -> bool {
        self.units == [unit]
    }

    /// Whether it has been to this unit.
    pub fn contains(&self, unit: UnitId) -> bool {
        self.units.contains(&unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_begun_goes_on_to_each_unit_once() {
        let mut tried = Tried::default();
        assert!(tried.is_empty());
        assert!(tried.note(UnitId(1), &Error::unit_gone()));
        assert!(!tried.note(UnitId(2), &Error::new(ErrorKind::Rejected, "no")));
        assert!(tried.contains(UnitId(1)) && !tried.contains(UnitId(3)));
        let last = Error::new(ErrorKind::Rejected, "no");
        assert_eq!(tried.nowhere(last), Error::unit_gone());
    }
}
