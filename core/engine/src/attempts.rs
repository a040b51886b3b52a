//! The way of what is sent to a role: where it goes, how often, when, and how it ends.

use std::time::Duration;

use crate::{
    Moment, Retry, Tried, UnitId,
    error::{Error, ErrorKind},
    timed_out,
};

/// What is to be done next for something on its way.
#[derive(Debug)]
pub enum Step {
    /// Choose a unit that it has [not been to](Attempts::tried). If there is one, and [`asks`](Attempts::asks) agrees, ask it;
    /// if there is none, say [`nowhere`](Attempts::nowhere).
    Choose,
    /// Wait for the end of an attempt, and until this time at most, if there is one.
    Wait(Option<Moment>),
    /// Wait until the units of the role change, then [`look`](Attempts::look), and until this time at most. When too many
    /// wait already, or the peer is closed, say [`stop_waiting`](Attempts::stop_waiting).
    Park(Moment),
    /// It has ended with this error. Attempts that are under way are given up.
    End(Error),
}

/// The way of one request, message or stream opening to a unit that takes it, without asking anybody itself.
///
/// What surely was not begun goes on to the next unit, to each once. A request with a [`Retry`] is made again, too, when it
/// has failed otherwise, or besides an attempt that is slow. All of it has one time limit and one outcome.
///
/// A host does what [`step`](Attempts::step) says, reports what becomes of it, and asks for the next step. An
/// answer is the end: [`answered`](Attempts::answered).
#[derive(Debug)]
pub struct Attempts {
    retry: Option<Retry>,
    waits: bool,
    limit: Duration,
    since: Moment,
    tried: Tried,
    /// In all, but for those that went on since they were not begun.
    made: u32,
    /// The units of those that are under way, two at most.
    under_way: Vec<UnitId>,
    /// When the first one of these was begun.
    begun: Moment,
    /// When another one is made besides.
    hedge: Option<Moment>,
    /// Where it was not begun, until it is asked elsewhere.
    from: Option<UnitId>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// A unit is to be chosen, for this reason.
    Choosing(Why),
    /// A second unit is to be chosen besides the one that is slow.
    Hedging,
    UnderWay,
    /// Until the time of a further attempt.
    Pausing(Moment, Failed),
    /// Until there is a unit. The error says why there is none.
    Parked(Why, Error),
    Over(Error),
}

#[derive(Clone, Debug)]
enum Why {
    First,
    /// It was not begun.
    Elsewhere(Failed),
    Again(Failed),
    /// The same, and it may go where it has been long ago.
    AgainAnywhere(Failed),
}

/// An attempt that has failed: where, with what, and a random number for the wait.
#[derive(Clone, Debug)]
struct Failed {
    unit: UnitId,
    error: Error,
    random: u64,
}

impl Attempts {
    /// Of something that is about to be sent. `since` is when its time began, of which it has `limit`. It `waits` if it is to
    /// wait for a unit when there is none.
    pub fn new(retry: Option<Retry>, waits: bool, limit: Duration, since: Moment) -> Attempts {
        if let Some(retry) = &retry {
            retry.begin();
        }
        Attempts {
            retry,
            waits,
            limit,
            since,
            tried: Tried::NONE,
            made: 1,
            under_way: Vec::new(),
            begun: since,
            hedge: None,
            from: None,
            state: State::Choosing(Why::First),
        }
    }

    /// Where it is not to go.
    pub fn tried(&self) -> &Tried {
        &self.tried
    }

    /// Whether no attempt is under way.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// What to do now.
    pub fn step(&mut self, now: Moment) -> Step {
        loop {
            match &self.state {
                State::Choosing(_) | State::Hedging => return Step::Choose,
                State::UnderWay => match self.hedge {
                    Some(time) if time <= now => {
                        self.hedge = None;
                        let slow = self.under_way.iter().copied();
                        slow.for_each(|unit| self.tried.pass_over(unit));
                        self.state = State::Hedging;
                    }
                    time => return Step::Wait(time),
                },
                State::Pausing(until, _) if *until > now => return Step::Wait(Some(*until)),
                State::Pausing(_, failed) => {
                    self.made += 1;
                    self.state = State::Choosing(Why::Again(failed.clone()));
                }
                State::Parked(why, no_unit) => {
                    let end = self.since + self.limit;
                    if end > now {
                        return Step::Park(end);
                    }
                    let error = match why {
                        Why::First | Why::Elsewhere(_) => self.tried.late(self.limit, no_unit),
                        Why::Again(failed) | Why::AgainAnywhere(failed) => failed.error.clone(),
                    };
                    self.state = State::Over(error);
                }
                State::Over(error) => return Step::End(error.clone()),
            }
        }
    }

    /// This unit was chosen. False when it is not to be asked after all. When it is the first one, it may also be told
    /// before the first [`step`](Attempts::step).
    #[must_use]
    pub fn asks(&mut self, unit: UnitId, now: Moment) -> bool {
        match &self.state {
            State::Choosing(_) => {
                self.begun = now;
                let after = self.retry.as_ref().and_then(Retry::hedge_after);
                self.hedge = after.map(|after| now + after);
            }
            State::Hedging if self.retry.as_ref().is_some_and(Retry::may_hedge) => self.made += 1,
            State::Hedging => {
                self.state = State::UnderWay;
                return false;
            }
            _ => return false,
        }
        self.under_way.push(unit);
        self.state = State::UnderWay;
        true
    }

    /// The unit that had not begun what goes to another one now, once: it is counted there.
    pub fn take_rerouted(&mut self) -> Option<UnitId> {
        self.from.take_if(|_| matches!(self.state, State::UnderWay))
    }

    /// There is no unit to choose, as this error says. Any other error than that there is none, or that the peer is
    /// closed, is that of a [function](crate::Balance::try_custom) that chooses, and the end.
    pub fn nowhere(&mut self, no_unit: Error, now: Moment) {
        let waits = self.waits && no_unit.kind() == ErrorKind::NoUnit;
        let why = match &self.state {
            State::Choosing(_) | State::Hedging if has_failed(&no_unit) => {
                self.state = State::Over(no_unit);
                return;
            }
            State::Choosing(why) => why.clone(),
            State::Hedging => {
                self.state = State::UnderWay;
                return;
            }
            _ => return,
        };
        self.state = match why {
            Why::Again(failed) if !self.tried.is_only(failed.unit) => {
                // Those that have failed long ago may do better now.
                self.tried.forget_all_but(failed.unit);
                State::Choosing(Why::AgainAnywhere(failed))
            }
            // One that is still there will not change by being waited for.
            Why::Again(failed) | Why::AgainAnywhere(failed)
                if failed.error.kind() != ErrorKind::ConnectionLost =>
            {
                State::Over(failed.error)
            }
            why if waits => State::Parked(why, no_unit),
            Why::First => State::Over(no_unit),
            // While it waits, the end of the waiting is its outcome.
            Why::Elsewhere(_) if self.waits => State::Over(no_unit),
            Why::Elsewhere(failed) => {
                let error = self.tried.nowhere(failed.error.clone());
                return self.again(Failed { error, ..failed }, now);
            }
            Why::Again(failed) | Why::AgainAnywhere(failed) => State::Over(failed.error),
        };
    }

    /// The units of the role have changed while it waits for one.
    pub fn look(&mut self) {
        if let State::Parked(why, _) = &self.state {
            self.state = State::Choosing(why.clone());
        }
    }

    /// It is not to wait any longer, for a unit or for the time of a further attempt: this error says why.
    pub fn stop_waiting(&mut self, why: Error) {
        let error = match &self.state {
            State::Parked(Why::First | Why::Elsewhere(_), _) => why,
            State::Pausing(_, failed)
            | State::Parked(Why::Again(failed) | Why::AgainAnywhere(failed), _) => {
                failed.error.clone()
            }
            _ => return,
        };
        self.state = State::Over(error);
    }

    /// An attempt has been answered, which is the end.
    pub fn answered(&mut self, now: Moment) {
        if let Some(retry) = &self.retry {
            retry.answered(now.since(self.begun));
        }
    }

    /// The attempt at this unit has failed. `random` is any number.
    pub fn failed(&mut self, unit: UnitId, error: Error, now: Moment, random: u64) {
        let Some(at) = self.under_way.iter().position(|asked| *asked == unit) else { return };
        self.under_way.swap_remove(at);
        if matches!(self.state, State::Over(_)) {
            return;
        }
        let may_go_on = self.tried.note(unit, &error);
        if !self.under_way.is_empty() {
            // The other one may still be answered.
            if !Retry::may_help(&error) {
                self.state = State::Over(error);
            }
            return;
        }
        self.hedge = None;
        let failed = Failed { unit, error, random };
        if !may_go_on {
            return self.again(failed, now);
        }
        self.state = match self.left(now).is_zero() {
            true => State::Over(timed_out(self.limit)),
            false => {
                self.from = Some(unit);
                State::Choosing(Why::Elsewhere(failed))
            }
        };
    }

    /// Makes it again in a while, if that may help and is allowed.
    fn again(&mut self, failed: Failed, now: Moment) {
        self.from = None;
        let left = self.left(now);
        let wait = self
            .retry
            .as_ref()
            .and_then(|retry| retry.again(self.made, &failed.error, left, failed.random));
        self.state = match wait {
            Some(wait) => State::Pausing(now + wait, failed),
            None => State::Over(failed.error),
        };
    }

    fn left(&self, now: Moment) -> Duration {
        self.limit.saturating_sub(now.since(self.since))
    }
}

/// Whether choosing a unit has failed with this, rather than that there is none.
fn has_failed(end: &Error) -> bool {
    !matches!(end.kind(), ErrorKind::Closed | ErrorKind::NoUnit | ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests;
