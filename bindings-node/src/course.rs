//! The ways of what is sent to a role, which the engine decides: see [`Attempts`]. JavaScript does what it says.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

use napi::{Either, bindgen_prelude::ClassInstance};
use napi_derive::napi;
use roletalk_engine::{
    Attempts, Error, ErrorKind, Failure, Moment, Retry, Step, Tried, Unit, UnitId, too_many_parked,
};
use roletalk_host::lock;

use crate::{
    choice::{millis, unit_of},
    native::{Call, NativePeer, failed_with, time_limit},
    protocol::numbers,
    retry::NativeRetry,
};

numbers! {
    const STEPS = "Step" {
        /// What is to be done next: choose a unit, and tell whether there is one.
        CHOOSE: u32 = 0,
        /// Wait for the end of an attempt.
        WAIT: u32 = 1,
        /// The same, or for a time, see [`NativePeer::until`].
        WAIT_UNTIL: u32 = 2,
        /// Wait until the units of the role change, or for a time.
        PARK: u32 = 3,
        /// It has ended, see [`NativePeer::outcome`].
        END: u32 = 4,
    }
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

/// One [`Attempts`], and the units of all attempts, in their order: these may be gone when an attempt fails, and have no
/// number any more.
pub(crate) struct Course {
    attempts: Attempts,
    units: Vec<UnitId>,
    until: Option<Moment>,
    outcome: Option<Error>,
}

impl Course {
    fn new(retry: Option<Retry>, waits: bool, limit: Duration, since: Moment) -> Course {
        let attempts = Attempts::new(retry, waits, limit, since);
        Course { attempts, units: Vec::new(), until: None, outcome: None }
    }

    pub(crate) fn tried(&self) -> &Tried {
        self.attempts.tried()
    }

    /// See [`NativePeer::asks`].
    fn asks(&mut self, unit: UnitId, now: Moment) -> Option<u32> {
        self.attempts.asks(unit, now).then(|| {
            self.units.push(unit);
            (self.units.len() - 1) as u32
        })
    }

    fn step(&mut self, now: Moment) -> u32 {
        match self.attempts.step(now) {
            Step::Choose => CHOOSE,
            Step::Wait(None) => WAIT,
            Step::Wait(until) => {
                self.until = until;
                WAIT_UNTIL
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

    /// See [`NativePeer::outcome`].
    fn outcome(&self) -> Option<Either<u32, Vec<String>>> {
        let error = self.outcome.as_ref()?;
        let source = std::error::Error::source(error);
        Some(match source.and_then(|source| source.downcast_ref()) {
            Some(Attempt(attempt)) => Either::A(*attempt),
            None => Either::B(failed_with(error)),
        })
    }

    /// An attempt has failed, with an error of this kind and text.
    fn failed(&mut self, attempt: u32, code: &str, text: &str, failure: Failure, now: Moment) {
        let Some(unit) = self.units.get(attempt as usize) else { return };
        let kind = ErrorKind::ALL.iter().find(|kind| kind.name() == code);
        let kind = kind.copied().unwrap_or(ErrorKind::Rejected);
        let error =
            Error::new(kind, text.to_owned()).with_failure(failure).with_source(Attempt(attempt));
        let random = RandomState::new().build_hasher().finish();
        self.attempts.failed(*unit, error, now, random);
    }
}

/// The ways. Whatever is reported, the next step comes back.
#[napi]
impl NativePeer {
    /// Something sets out that is sent to a role: with `limit` milliseconds, 0 for the default, from `since` on, and waiting
    /// for a unit if it `waits`. The unit that it is at already, if any, is that of attempt 0. Returns a number for it, until
    /// [`arrived`](NativePeer::arrived).
    #[napi(catch_unwind)]
    pub fn set_out(
        &mut self,
        retry: Option<ClassInstance<'_, NativeRetry>>,
        waits: bool,
        limit: f64,
        since: f64,
        unit: Option<u32>,
    ) -> u32 {
        let since = self.moment(since);
        let by_default = || lock(&self.host).engine.peer().limits().request_timeout;
        let limit = time_limit(limit).unwrap_or_else(by_default);
        let mut course = Course::new(retry.map(|retry| retry.0.clone()), waits, limit, since);
        if let Some(unit) = unit {
            course.asks(unit_of(&self.state.units, unit), since);
        }
        self.state.courses.insert(course).0
    }

    /// What to do now.
    #[napi(catch_unwind)]
    pub fn step(&mut self, course: u32, now: f64) -> u32 {
        self.with_course(course, now, |_, _| {})
    }

    /// Reports something of a way. No command that waits has to do with it.
    fn with_course(
        &mut self,
        course: u32,
        now: f64,
        report: impl FnOnce(&mut Course, Moment),
    ) -> u32 {
        let now = self.moment(now);
        let Some(course) = self.state.courses.get_mut(course) else { return END };
        report(course, now);
        course.step(now)
    }

    /// Until when the last step waits.
    #[napi(catch_unwind)]
    pub fn until(&self, course: u32) -> f64 {
        let until = self.state.courses.get(course).and_then(|course| course.until);
        until.map_or(f64::INFINITY, |until| self.clock.millis(until))
    }

    /// What it has ended with: the attempt whose error that is, or an error of the engine's own, as
    /// [`no_choice`](NativePeer::no_choice) has it.
    #[napi(catch_unwind)]
    pub fn outcome(&self, course: u32) -> Option<Either<u32, Vec<String>>> {
        self.state.courses.get(course)?.outcome()
    }

    /// This unit was chosen. Returns the number of the attempt, none when the unit is not to be asked after all.
    #[napi(catch_unwind)]
    pub fn asks(&mut self, course: u32, unit: u32, now: f64) -> Option<u32> {
        let Call { mut host, state, now, .. } = self.begin(now);
        let unit = unit_of(&state.units, unit);
        let course = state.courses.get_mut(course)?;
        let attempt = course.asks(unit, now)?;
        if let Some(from) = course.attempts.take_rerouted() {
            host.engine.with_unit(from, now, Unit::note_rerouted);
        }
        Some(attempt)
    }

    /// There is no unit with this role to choose, or none that takes headers.
    #[napi(catch_unwind)]
    pub fn nowhere(&mut self, course: u32, role: String, takes_fields: bool, now: f64) -> u32 {
        let no_unit = lock(&self.host).engine.peer().no_choice(&role, takes_fields);
        self.with_course(course, now, |course, now| course.attempts.nowhere(no_unit, now))
    }

    /// The units of the role have changed.
    #[napi(catch_unwind)]
    pub fn look(&mut self, course: u32, now: f64) -> u32 {
        self.with_course(course, now, |course, _| course.attempts.look())
    }

    /// It is not to wait for a unit, since as many do as may.
    #[napi(catch_unwind)]
    pub fn too_many_wait(&mut self, course: u32, limit: f64, now: f64) -> u32 {
        let error = too_many_parked(limit as usize);
        self.with_course(course, now, |course, _| course.attempts.stop_waiting(error))
    }

    /// It is not to wait any longer, since the peer is closed.
    #[napi(catch_unwind)]
    pub fn peer_closed(&mut self, course: u32, now: f64) -> u32 {
        // Without the engine's hint: a peer of this package may be opened again.
        let error = Error::new(ErrorKind::Closed, Error::peer_closed().text().to_owned());
        self.with_course(course, now, |course, _| course.attempts.stop_waiting(error))
    }

    /// An attempt has failed, with an error of this code and text: `unhandled` when surely no handler was begun, and with
    /// the milliseconds after which the handler wants to be asked again.
    #[napi(catch_unwind)]
    pub fn attempt_failed(
        &mut self,
        course: u32,
        attempt: u32,
        error: Vec<String>,
        unhandled: bool,
        retry_after: Option<f64>,
        now: f64,
    ) -> u32 {
        let [code, text] = &error[..] else { return END };
        let retry_after = retry_after.map(millis);
        let failure = Failure { unhandled, retry_after, ..Failure::default() };
        self.with_course(course, now, |course, now| {
            course.failed(attempt, code, text, failure, now);
        })
    }

    /// It is at its end; at `answered`, with an answer.
    #[napi(catch_unwind)]
    pub fn arrived(&mut self, course: u32, answered: Option<f64>) {
        let course = self.state.courses.remove(course);
        if let (Some(mut course), Some(now)) = (course, answered) {
            course.attempts.answered(self.moment(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Moment {
        Moment::at(Duration::from_millis(millis))
    }

    fn course(waits: bool) -> Course {
        Course::new(None, waits, LIMIT, at(0))
    }

    fn no_unit() -> Error {
        Error::new(ErrorKind::NoUnit, "none")
    }

    fn fail(course: &mut Course, attempt: u32, code: &str, unhandled: bool) {
        let failure = Failure { unhandled, ..Failure::default() };
        course.failed(attempt, code, "it failed", failure, at(1));
    }

    /// The outcome as JavaScript has it: the attempt, or else the code of the error.
    fn outcome(course: &mut Course) -> Result<u32, String> {
        assert_eq!(course.step(at(1)), END);
        match course.outcome().expect("it has ended") {
            Either::A(attempt) => Ok(attempt),
            Either::B(fault) => Err(fault[0].clone()),
        }
    }

    #[test]
    fn the_outcome_is_that_of_an_attempt_or_an_error_of_its_own() {
        let mut rerouted = course(false);
        assert_eq!(rerouted.asks(UnitId(1), at(0)), Some(0));
        fail(&mut rerouted, 0, "REJECTED", true);
        assert_eq!(rerouted.step(at(1)), CHOOSE);
        assert_eq!(rerouted.asks(UnitId(2), at(1)), Some(1));
        fail(&mut rerouted, 1, "REJECTED", true);
        rerouted.attempts.nowhere(no_unit(), at(1));
        assert_eq!(outcome(&mut rerouted), Ok(0));
        let mut begun = course(true);
        assert_eq!(begun.asks(UnitId(1), at(0)), Some(0));
        assert_eq!(begun.step(at(0)), WAIT);
        fail(&mut begun, 0, "TIMEOUT", false);
        assert_eq!(outcome(&mut begun), Ok(0));
        let mut waiting = course(true);
        waiting.attempts.nowhere(no_unit(), at(0));
        assert_eq!((waiting.step(at(0)), waiting.until), (PARK, Some(at(1_000))));
        waiting.attempts.stop_waiting(Error::peer_closed());
        assert_eq!(outcome(&mut waiting), Err("CLOSED".into()));
    }

    #[test]
    fn times_are_those_of_javascript() {
        let clock = Clock { epoch: 1e6 };
        assert_eq!(clock.moment(1e6 + 1.5), Moment::at(Duration::from_micros(1_500)));
        assert_eq!(clock.moment(0.0), Moment::at(Duration::ZERO));
        assert_eq!(clock.millis(at(7)), 1e6 + 7.0);
    }
}
