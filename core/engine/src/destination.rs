//! A role as offered by units, and the choice among these.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::{UnitId, error::Error};

/// What is known of a unit without its lock, for the choice among units.
#[derive(Debug, Default)]
pub struct Load {
    open: AtomicBool,
    fields: AtomicBool,
    waiting: AtomicUsize,
}

impl Load {
    /// Whether the unit has a connection that takes messages.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Whether all its connections take [fields](crate::Fields).
    pub fn takes_fields(&self) -> bool {
        self.fields.load(Ordering::Acquire)
    }

    /// Requests that wait for its answer, stream openings included.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }

    pub(crate) fn set_fields(&self, fields: bool) {
        self.fields.store(fields, Ordering::Release);
    }

    pub(crate) fn set_waiting(&self, waiting: usize) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }
}

/// How a destination chooses among the units that serve its role. Each destination has one of its own.
pub trait Policy: fmt::Debug + Send + Sync {
    /// The place of the unit that what is sent next goes to, out of `count`, in the order in which they were
    /// found; none when none is [open](Load::is_open). `load` tells of the unit at a place.
    fn choose<'a>(&self, count: usize, load: &dyn Fn(usize) -> &'a Load) -> Option<usize>;

    /// Whether the choice depends on how many requests [wait](Load::waiting), so that all that was sent has to
    /// be counted before.
    fn counts_requests(&self) -> bool {
        false
    }
}

/// The choice of a policy among those units that `fits` says true of; among all without.
pub fn choose<'a>(
    policy: &dyn Policy,
    count: usize,
    load: &dyn Fn(usize) -> &'a Load,
    fits: Option<&dyn Fn(usize) -> bool>,
) -> Option<usize> {
    let Some(fits) = fits else { return policy.choose(count, load) };
    let fit: Vec<usize> = (0..count).filter(|at| fits(*at)).collect();
    policy.choose(fit.len(), &|at| load(fit[at])).map(|at| fit[at])
}

/// A mistyped event, or a role that is overloaded everywhere, does not go to everybody.
const MOST_TRIED: usize = 8;

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
        self.units.push(unit);
        self.first.get_or_insert_with(|| error.clone());
        error.is_unhandled() && self.units.len() < MOST_TRIED
    }

    /// The outcome when there is nowhere else to go: the first error, as if it had never gone on.
    #[must_use]
    pub fn nowhere(&self, last: Error) -> Error {
        self.first.clone().unwrap_or(last)
    }

    /// Whether it has been nowhere.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Whether it has been to this unit.
    pub fn contains(&self, unit: UnitId) -> bool {
        self.units.contains(&unit)
    }
}

/// The policy of all destinations: this is the place to change it.
pub fn policy() -> Box<dyn Policy> {
    Box::new(RoundRobin::default())
}

/// One unit after the other, passing over those that are just closing.
#[derive(Debug, Default)]
pub struct RoundRobin(AtomicUsize);

impl Policy for RoundRobin {
    fn choose<'a>(&self, count: usize, load: &dyn Fn(usize) -> &'a Load) -> Option<usize> {
        let turn = match count {
            0 | 1 => 0,
            _ => self.0.fetch_add(1, Ordering::Relaxed),
        };
        let mut in_turn = (0..count).map(|n| turn.wrapping_add(n) % count);
        in_turn.find(|at| load(*at).is_open())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(open: &[bool]) -> Vec<Load> {
        let load = |open: &bool| {
            let load = Load::default();
            load.set_open(*open);
            load
        };
        open.iter().map(load).collect()
    }

    fn choices(policy: &dyn Policy, loads: &[Load], times: usize) -> Vec<Option<usize>> {
        (0..times).map(|_| policy.choose(loads.len(), &|at| &loads[at])).collect()
    }

    #[test]
    fn round_robin_takes_turns() {
        let policy = RoundRobin::default();
        let loads = loads(&[true, true, true]);
        assert_eq!(choices(&policy, &loads, 4), [Some(0), Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn round_robin_passes_over_those_that_are_closing() {
        let policy = RoundRobin::default();
        let loads = loads(&[true, false, true]);
        assert_eq!(choices(&policy, &loads, 4), [Some(0), Some(2), Some(2), Some(0)]);
    }

    #[test]
    fn those_that_do_not_fit_are_no_candidates() {
        let policy = RoundRobin::default();
        let loads = loads(&[true, true, true]);
        loads[0].set_fields(true);
        loads[2].set_fields(true);
        let fits = |at: usize| loads[at].takes_fields();
        let chosen = |fits| choose(&policy, 3, &|at| &loads[at], fits);
        let fit = || chosen(Some(&fits));
        assert_eq!([fit(), fit(), fit()], [Some(0), Some(2), Some(0)]);
        assert_eq!(chosen(None), Some(0));
        loads[0].set_fields(false);
        loads[2].set_fields(false);
        assert_eq!(fit(), None);
    }

    #[test]
    fn only_what_was_not_begun_goes_on_to_each_unit_once() {
        let mut tried = Tried::default();
        assert!(tried.is_empty());
        assert!(tried.note(UnitId(1), &Error::unit_gone()));
        assert!(!tried.note(UnitId(2), &Error::new(crate::ErrorKind::Rejected, "no")));
        assert!(tried.contains(UnitId(1)) && !tried.contains(UnitId(3)));
        let last = Error::new(crate::ErrorKind::Rejected, "no");
        assert_eq!(tried.nowhere(last), Error::unit_gone());
    }

    #[test]
    fn there_is_none_where_none_is_open() {
        let policy = RoundRobin::default();
        assert_eq!(choices(&policy, &loads(&[]), 2), [None, None]);
        assert_eq!(choices(&policy, &loads(&[false, false]), 2), [None, None]);
    }
}
