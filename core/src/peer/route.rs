//! The way of a request or a stream to a unit that takes it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{send::Addressed, shared::Shared, unit::UnitInner};
use crate::{
    Error, ErrorKind, Result,
    engine::{Moment, TimeLimit, Tried, timed_out, too_many_parked},
};

/// Where it has been, and how long all of it may take.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) tried: Tried,
    /// As the caller has given it, which is what the other side is told.
    timeout: Option<Duration>,
    since: Moment,
}

impl Route {
    pub(crate) fn new(timeout: Option<Duration>, since: Moment) -> Route {
        Route { tried: Tried::NONE, timeout, since }
    }

    pub(crate) fn limit(&self) -> TimeLimit {
        TimeLimit { limit: self.timeout, since: Some(self.since) }
    }

    /// What is left of the time.
    pub(crate) fn left(&self, what: &Addressed<'_>) -> (Duration, Duration) {
        let shared = what.destination.shared();
        let limit = self.timeout.unwrap_or(shared.limits.request_timeout);
        (limit, limit.saturating_sub(shared.clock.now().since(self.since)))
    }
}

impl Addressed<'_> {
    /// The unit that it goes to next, after it has failed at one with this error.
    ///
    /// # Errors
    /// The error, when something may have been begun, or there is nowhere else to go.
    #[cold]
    pub(crate) async fn next(
        &self,
        unit: &Arc<UnitInner>,
        error: Error,
        route: &mut Route,
    ) -> Result<Arc<UnitInner>> {
        // A caller who chose the unit meant that one.
        if self.unit.is_some() || !route.tried.note(unit.id, &error) {
            return Err(error);
        }
        let (limit, left) = route.left(self);
        if left.is_zero() {
            return Err(timed_out(limit));
        }
        // Who waits has the end of the waiting for an outcome.
        let next = match self.find(route).await {
            Ok(next) => next,
            Err(end) if self.waits => return Err(end),
            Err(_) => return Err(route.tried.nowhere(error)),
        };
        unit.with(|state| state.machine.note_rerouted());
        Ok(next)
    }

    /// A unit where it has not been, waited for if it is to wait.
    ///
    /// # Errors
    /// As [`pick`](super::Destination::pick), or [`ErrorKind::Timeout`].
    pub(crate) async fn find(&self, route: &Route) -> Result<Arc<UnitInner>> {
        let mut changes = self.destination.changes();
        let mut closed = self.destination.shared().closed.subscribe();
        let (limit, left) = route.left(self);
        let found = async {
            loop {
                changes.mark_unchanged();
                match self.pick(&route.tried) {
                    Err(error) if self.waits && error.kind() == ErrorKind::NoUnit => {
                        // The senders live in the destination.
                        tokio::select! {
                            _ = changes.changed() => {}
                            _ = closed.wait_for(|closed| *closed) => {}
                        }
                    }
                    found => return found,
                }
            }
        };
        if !self.waits {
            return found.await;
        }
        let shared = self.destination.shared();
        let _parked = Parked::enter(shared)?;
        let waited = {
            let _runtime = shared.runtime.enter();
            tokio::time::timeout(left, found)
        };
        let late = |_| Err(route.tried.late(limit, &self.destination.no_choice(false)));
        waited.await.unwrap_or_else(late)
    }
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
