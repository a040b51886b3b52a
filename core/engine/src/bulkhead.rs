//! A bound of what is under way to one destination.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::error::{Error, ErrorKind, Result};

/// A bound of requests in flight, stream openings included, for those that are sent with it: so that one destination
/// that does not answer takes no more than its part of whatever else its callers need. Clones share it.
#[derive(Clone, Debug)]
pub struct Bulkhead(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: usize,
    running: AtomicUsize,
}

impl Bulkhead {
    /// So many requests at a time; 0 for none.
    pub fn new(limit: usize) -> Bulkhead {
        Bulkhead(Arc::new(Inner { limit, running: AtomicUsize::new(0) }))
    }

    /// The bound.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Requests in flight.
    pub fn running(&self) -> usize {
        self.0.running.load(Relaxed)
    }

    /// One more request is in flight, until what is returned is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] when there are as many as there may be.
    pub(crate) fn enter(&self) -> Result<Entered> {
        // It is left again where it fails.
        let entered = Entered(self.clone());
        match self.0.running.fetch_add(1, Relaxed) < self.0.limit {
            true => Ok(entered),
            false => Err(self.full()),
        }
    }

    #[cold]
    fn full(&self) -> Error {
        let limit = self.0.limit;
        let text =
            format!("Too many requests to this destination are in flight (the limit is {limit})");
        Error::new(ErrorKind::Overloaded, text).with_hint(
            "Wait for their outcomes before asking more, or raise the destination's bound.",
        )
    }
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct Entered(Bulkhead);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.running.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_in_flight_and_no_more() {
        let bulkhead = Bulkhead::new(2);
        let mut entered = vec![bulkhead.enter().unwrap(), bulkhead.clone().enter().unwrap()];
        for _ in 0..3 {
            let error = bulkhead.enter().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Overloaded);
            assert!(!error.is_unhandled(), "other units would not help");
        }
        assert_eq!(bulkhead.running(), 2);
        entered.pop();
        assert!(bulkhead.enter().is_ok());
        assert_eq!(bulkhead.running(), 1);
        assert!(Bulkhead::new(0).enter().is_err());
    }
}
