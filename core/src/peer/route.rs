//! The way of what is sent to a role to a unit that takes it. Where it goes is the engine's decision: see
//! [`Attempts`].

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{send::Addressed, shared::Shared, unit::UnitInner};
use crate::{
    Error, Result,
    engine::{Attempts, Moment, Retry, Step, TimeLimit, too_many_parked},
};

/// Where it has been and goes, and how long all of it may take.
pub(crate) struct Route<'a> {
    what: &'a Addressed<'a>,
    attempts: Attempts,
    /// As the caller has given it, which is what the other side is told.
    timeout: Option<Duration>,
    since: Moment,
    /// Where it was not begun.
    from: Option<Arc<UnitInner>>,
}

/// What is to be done next on a [`Route`].
pub(crate) enum Next {
    Ask(Arc<UnitInner>),
    /// Wait for the end of an attempt, until this time at most.
    Wait(Option<Moment>),
}

impl<'a> Route<'a> {
    pub(crate) fn new(
        what: &'a Addressed<'a>,
        retry: Option<&Retry>,
        timeout: Option<Duration>,
        since: Moment,
    ) -> Route<'a> {
        let limit = timeout.unwrap_or(what.destination.shared().limits.request_timeout);
        let attempts = Attempts::new(retry.cloned(), what.waits(), limit, since);
        Route { what, attempts, timeout, since, from: None }
    }

    /// Of something whose time begins now.
    pub(crate) fn from_now(what: &'a Addressed<'a>, timeout: Option<Duration>) -> Route<'a> {
        Route::new(what, None, timeout, what.destination.shared().clock.now())
    }

    pub(crate) fn limit(&self) -> TimeLimit {
        TimeLimit { limit: self.timeout, since: Some(self.since) }
    }

    fn shared(&self) -> &'a Arc<Shared> {
        self.what.destination.shared()
    }

    fn now(&self) -> Moment {
        self.shared().clock.now()
    }

    /// It goes to this unit first.
    pub(crate) fn begin(&mut self, unit: &UnitInner) {
        let _first = self.attempts.asks(unit.id, self.now());
    }

    /// The attempt at this unit has failed.
    ///
    /// # Errors
    /// That of the attempt, when the caller has chosen the unit, and meant that one.
    #[cold]
    pub(crate) fn failed(&mut self, unit: Arc<UnitInner>, error: Error) -> Result<()> {
        if self.what.unit.is_some() {
            return Err(error);
        }
        let random = RandomState::new().build_hasher().finish();
        self.attempts.failed(unit.id, error, self.now(), random);
        self.from = Some(unit);
        Ok(())
    }

    /// An attempt was answered.
    pub(crate) fn answered(&mut self) {
        self.attempts.answered(self.now());
    }

    /// The unit that it goes to next, while no attempt is under way.
    ///
    /// # Errors
    /// Its outcome, when it goes nowhere.
    pub(crate) async fn unit(&mut self) -> Result<Arc<UnitInner>> {
        match self.next().await? {
            Next::Ask(unit) => Ok(unit),
            Next::Wait(_) => unreachable!("nothing is under way"),
        }
    }

    /// What is to be done next. Waits by itself where no attempt is under way.
    ///
    /// # Errors
    /// Its outcome.
    pub(crate) async fn next(&mut self) -> Result<Next> {
        let Route { what, .. } = *self;
        let shared = self.shared();
        let mut changes = what.destination.changes();
        let mut closed = shared.closed.subscribe();
        let (mut parked, mut over) = (None, None);
        loop {
            match self.attempts.step(self.now()) {
                Step::Choose => {
                    changes.mark_unchanged();
                    match what.pick(self.attempts.tried()) {
                        Ok(unit) if self.attempts.asks(unit.id, self.now()) => {
                            self.count_rerouted();
                            return Ok(Next::Ask(unit));
                        }
                        Ok(_) => {}
                        Err(error) => self.attempts.nowhere(error, self.now()),
                    }
                }
                Step::Wait(Some(until)) if self.attempts.is_idle() => {
                    tokio::select! {
                        // The timer may end with the peer's runtime.
                        biased;
                        _ = closed.wait_for(|closed| *closed) => {
                            self.attempts.stop_waiting(Error::peer_closed());
                        }
                        () = sleep_until(shared, until) => {}
                    }
                }
                Step::Wait(until) => return Ok(Next::Wait(until)),
                Step::Park(until) => {
                    if parked.is_none() {
                        match Parked::enter(shared) {
                            Ok(place) => parked = Some(place),
                            Err(error) => {
                                self.attempts.stop_waiting(error);
                                continue;
                            }
                        }
                    }
                    // It is the same time at each change.
                    let over = over.get_or_insert_with(|| Box::pin(sleep_until(shared, until)));
                    // The senders live in the destination and the peer.
                    tokio::select! {
                        biased;
                        _ = closed.wait_for(|closed| *closed) => {}
                        _ = changes.changed() => {}
                        () = over.as_mut() => {}
                    }
                    self.attempts.look();
                }
                Step::End(error) => return Err(error),
            }
        }
    }

    fn count_rerouted(&mut self) {
        let from = self.attempts.take_rerouted();
        if let Some(unit) = self.from.take_if(|unit| from == Some(unit.id)) {
            unit.with(|state| state.machine.note_rerouted());
        }
    }
}

/// Waits until then.
pub(crate) async fn sleep_until(shared: &Shared, until: Moment) {
    shared.pause(until.since(shared.clock.now())).await;
}

/// One of those that wait for a unit.
struct Parked<'a>(&'a Shared);

impl Parked<'_> {
    /// # Errors
    /// There are too many already.
    fn enter(shared: &Shared) -> Result<Parked<'_>> {
        let limit = shared.limits.waiting_requests;
        // It is left again where it fails.
        let parked = Parked(shared);
        match shared.parked.fetch_add(1, Ordering::Relaxed) < limit {
            true => Ok(parked),
            false => Err(too_many_parked(limit)),
        }
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Ordering::Relaxed);
    }
}
