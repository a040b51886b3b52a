//! When each unit wants to be called next.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::{Moment, UnitId};

/// The deadlines of all units, in order, so that the next one is found without asking each.
#[derive(Default)]
pub(super) struct Timers {
    in_order: BTreeSet<(Moment, UnitId)>,
    by_unit: FxHashMap<UnitId, Moment>,
}

impl Timers {
    /// Notes a unit's deadline. Cheap when it has not changed.
    pub(super) fn set(&mut self, unit: UnitId, deadline: Option<Moment>) {
        let before = match deadline {
            Some(at) => self.by_unit.insert(unit, at),
            None => self.by_unit.remove(&unit),
        };
        if before == deadline {
            return;
        }
        if let Some(at) = before {
            self.in_order.remove(&(at, unit));
        }
        if let Some(at) = deadline {
            self.in_order.insert((at, unit));
        }
    }

    /// The earliest deadline.
    pub(super) fn first(&self) -> Option<Moment> {
        self.in_order.first().map(|(at, _)| *at)
    }

    /// The units that are due, earliest first. They stay due until their deadline is set anew.
    pub(super) fn due(&self, now: Moment) -> Vec<UnitId> {
        let due = self.in_order.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, unit)| *unit).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_earliest_comes_first_whatever_is_set_anew() {
        let at = |seconds| Moment::at(Duration::from_secs(seconds));
        let mut timers = Timers::default();
        for unit in 0..5 {
            timers.set(UnitId(unit), Some(at(10 - unit)));
        }
        assert_eq!(timers.first(), Some(at(6)));
        timers.set(UnitId(4), Some(at(20)));
        timers.set(UnitId(3), None);
        timers.set(UnitId(3), None);
        assert_eq!(timers.first(), Some(at(8)));
        assert_eq!(timers.due(at(9)), [UnitId(2), UnitId(1)]);
    }
}
