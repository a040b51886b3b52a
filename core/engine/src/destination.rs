//! A role as offered by units, and the choice among these.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

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

/// The choice of a policy; with `takes_fields` among those units only that take [fields](crate::Fields).
pub fn choose<'a>(
    policy: &dyn Policy,
    count: usize,
    load: &dyn Fn(usize) -> &'a Load,
    takes_fields: bool,
) -> Option<usize> {
    if !takes_fields {
        return policy.choose(count, load);
    }
    let fit: Vec<usize> = (0..count).filter(|at| load(*at).takes_fields()).collect();
    policy.choose(fit.len(), &|at| load(fit[at])).map(|at| fit[at])
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
    fn those_that_take_no_fields_are_no_candidates() {
        let policy = RoundRobin::default();
        let loads = loads(&[true, true, true]);
        loads[0].set_fields(true);
        loads[2].set_fields(true);
        let chosen = |fields| choose(&policy, 3, &|at| &loads[at], fields);
        assert_eq!([chosen(true), chosen(true), chosen(true)], [Some(0), Some(2), Some(0)]);
        assert_eq!(chosen(false), Some(0));
        loads[0].set_fields(false);
        loads[2].set_fields(false);
        assert_eq!(choose(&policy, 3, &|at| &loads[at], true), None);
    }

    #[test]
    fn there_is_none_where_none_is_open() {
        let policy = RoundRobin::default();
        assert_eq!(choices(&policy, &loads(&[]), 2), [None, None]);
        assert_eq!(choices(&policy, &loads(&[false, false]), 2), [None, None]);
    }
}
