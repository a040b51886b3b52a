//! The way of what is sent to a role, which the engine decides: see [`Attempts`]. JavaScript does what it says.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

use napi::Either;
use napi_derive::napi;
use roletalk_engine::{
    Attempts, Error, ErrorKind, Failure, Moment, Retry, Step, Tried, UnitId, too_many_parked,
};

use crate::{choice::millis, native::failed_with, protocol::numbers};

numbers! {
    const STEPS = "Step" {
        /// What is to be done next, see [`Course::step`]: choose a unit.
        CHOOSE: u32 = 0,
        /// Wait for the end of an attempt, and for [`Course::until`].
        WAIT: u32 = 1,
        /// Wait until the units of the role change, and for [`Course::until`].
        PARK: u32 = 2,
        /// It has ended with [`Course::outcome`].
        END: u32 = 3,
    }
}

/// Why an attempt has failed, as far as that matters.
#[napi(object)]
pub struct AttemptFailure {
    /// The name of the kind of its error.
    pub code: String,
    /// Its text.
    pub text: String,
    /// Whether surely no handler was begun.
    pub unhandled: bool,
    /// The milliseconds after which the handler wants to be asked again.
    pub retry_after: Option<f64>,
}

/// JavaScript's clock and the engine's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The beginning of the engine's, in milliseconds of JavaScript's.
    pub(crate) epoch: f64,
}

impl Clock {
    pub(crate) fn moment(self, millis: f64) -> Moment {
        let since_epoch = ((millis - self.epoch).max(0.0) * 1e6) as u64;
        Moment::at(Duration::from_nanos(since_epoch))
    }

    pub(crate) fn millis(self, moment: Moment) -> f64 {
        self.epoch + moment.since_epoch().as_secs_f64() * 1e3
    }
}

/// The source of the engine's error of an attempt, whose own error JavaScript has: the attempt's place in the order of
/// all.
#[derive(Debug)]
struct Attempt(u32);

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {}", self.0)
    }
}

impl std::error::Error for Attempt {}

/// One [`Attempts`]. Made by `NativePeer.course`; all times are those of JavaScript's clock.
#[napi]
pub struct Course {
    attempts: Attempts,
    /// The units of all attempts, in their order.
    units: Vec<UnitId>,
    clock: Clock,
    until: Option<Moment>,
    outcome: Option<Error>,
}

#[napi]
impl Course {
    pub(crate) fn begin(
        retry: Option<Retry>,
        waits: bool,
        limit: Duration,
        since: f64,
        clock: Clock,
    ) -> Course {
        let attempts = Attempts::new(retry, waits, limit, clock.moment(since));
        Course { attempts, units: Vec::new(), clock, until: None, outcome: None }
    }

    pub(crate) fn tried(&self) -> &Tried {
        self.attempts.tried()
    }

    /// See [`NativePeer::asks`](crate::NativePeer::asks). Gives the unit that has not begun it, too.
    pub(crate) fn asks(&mut self, unit: UnitId, now: Moment) -> Option<(u32, Option<UnitId>)> {
        self.attempts.asks(unit, now).then(|| {
            self.units.push(unit);
            ((self.units.len() - 1) as u32, self.attempts.take_rerouted())
        })
    }

    pub(crate) fn nowhere(&mut self, no_unit: Error, now: Moment) {
        self.attempts.nowhere(no_unit, now);
    }

    /// What to do next: choose a unit, and tell `NativePeer` whether there is one; or one of the other steps.
    #[napi(catch_unwind)]
    pub fn step(&mut self, now: f64) -> u32 {
        self.until = None;
        match self.attempts.step(self.clock.moment(now)) {
            Step::Choose => CHOOSE,
            Step::Wait(until) => {
                self.until = until;
                WAIT
            }
            Step::Park(until) => {
                self.until = Some(until);
                PARK
            }
            Step::End(error) => {
                self.outcome = Some(error);
                END
            }
        }
    }

    /// Until when the last step waits at most; infinity when that does not matter.
    #[napi(getter)]
    pub fn until(&self) -> f64 {
        self.until.map_or(f64::INFINITY, |until| self.clock.millis(until))
    }

    /// What it has ended with: the attempt whose error that is, or an error of the engine's own, as
    /// [`NativePeer::no_choice`](crate::NativePeer::no_choice) has it.
    #[napi(getter)]
    pub fn outcome(&self) -> Option<Either<u32, Vec<String>>> {
        let error = self.outcome.as_ref()?;
        let source = std::error::Error::source(error);
        Some(match source.and_then(|source| source.downcast_ref()) {
            Some(Attempt(attempt)) => Either::A(*attempt),
            None => Either::B(failed_with(error)),
        })
    }

    /// The units of the role have changed.
    #[napi(catch_unwind)]
    pub fn look(&mut self) {
        self.attempts.look();
    }

    /// It is not to wait for a unit, since so many do already.
    #[napi(catch_unwind)]
    pub fn too_many_wait(&mut self, limit: f64) {
        self.attempts.stop_waiting(too_many_parked(limit as usize));
    }

    /// It is not to wait any longer, since the peer is closed.
    #[napi(catch_unwind)]
    pub fn peer_closed(&mut self) {
        // Without the engine's hint: a peer of this package may be opened again.
        self.attempts
            .stop_waiting(Error::new(ErrorKind::Closed, Error::peer_closed().text().to_owned()));
    }

    /// An attempt was answered, which is the end.
    #[napi(catch_unwind)]
    pub fn answered(&mut self, now: f64) {
        self.attempts.answered(self.clock.moment(now));
    }

    /// An attempt has failed.
    #[napi(catch_unwind)]
    pub fn failed(&mut self, attempt: u32, failure: AttemptFailure, now: f64) {
        let Some(unit) = self.units.get(attempt as usize) else { return };
        let AttemptFailure { code, text, unhandled, retry_after } = failure;
        let kind = ErrorKind::ALL.iter().find(|kind| kind.name() == code);
        let kind = kind.copied().unwrap_or(ErrorKind::Rejected);
        let retry_after = retry_after.map(millis);
        let failure = Failure { unhandled, retry_after, ..Failure::default() };
        let error = Error::new(kind, text).with_failure(failure).with_source(Attempt(attempt));
        let random = RandomState::new().build_hasher().finish();
        self.attempts.failed(*unit, error, self.clock.moment(now), random);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Clock = Clock { epoch: 1e9 };
    const LIMIT: Duration = Duration::from_secs(1);

    fn at(millis: f64) -> f64 {
        CLOCK.epoch + millis
    }

    fn course(waits: bool) -> Course {
        Course::begin(None, waits, LIMIT, at(0.0), CLOCK)
    }

    fn asks(course: &mut Course, unit: u64) -> Option<(u32, Option<UnitId>)> {
        course.asks(UnitId(unit), CLOCK.moment(at(0.0)))
    }

    fn fail(course: &mut Course, attempt: u32, code: &str, unhandled: bool) {
        let text = format!("{code} of {attempt}");
        let failure = AttemptFailure { code: code.into(), text, unhandled, retry_after: None };
        course.failed(attempt, failure, at(1.0));
    }

    /// The outcome as JavaScript has it: the attempt, or else the code of the error.
    fn outcome(course: &mut Course) -> Result<u32, String> {
        assert_eq!(course.step(at(1.0)), END);
        match course.outcome().expect("it has ended") {
            Either::A(attempt) => Ok(attempt),
            Either::B(fault) => Err(fault[0].clone()),
        }
    }

    #[test]
    fn the_outcome_is_that_of_an_attempt_or_an_error_of_its_own() {
        let mut course = course(false);
        assert_eq!(asks(&mut course, 1), Some((0, None)));
        fail(&mut course, 0, "REJECTED", true);
        assert_eq!(course.step(at(1.0)), CHOOSE);
        assert_eq!(asks(&mut course, 2), Some((1, Some(UnitId(1)))));
        fail(&mut course, 1, "REJECTED", true);
        course.nowhere(Error::new(ErrorKind::NoUnit, "none"), CLOCK.moment(at(1.0)));
        assert_eq!(outcome(&mut course), Ok(0));
        let mut course = self::course(true);
        assert_eq!(asks(&mut course, 1), Some((0, None)));
        fail(&mut course, 0, "TIMEOUT", false);
        assert_eq!(outcome(&mut course), Ok(0));
        let mut course = self::course(true);
        course.nowhere(Error::new(ErrorKind::NoUnit, "none"), CLOCK.moment(at(0.0)));
        assert_eq!(course.step(at(0.0)), PARK);
        assert_eq!(course.until(), at(1e3));
        course.peer_closed();
        assert_eq!(outcome(&mut course), Err("CLOSED".into()));
        assert_eq!(course.until(), f64::INFINITY);
    }
}
