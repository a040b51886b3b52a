//! What the library keeps of a program's data for operations that have to wait.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use engine::{Data, Payload};

use crate::border::failure::{Failure, Status};

/// What an operation that waits takes besides its payload, about.
const EACH: usize = 1024;

/// A bound on the bytes of all operations of a peer that wait.
pub(crate) struct Keep {
    most: usize,
    kept: AtomicUsize,
}

/// A payload's copy, which counts as long as this lives.
pub(crate) struct Kept {
    pub(crate) data: Data,
    keep: Arc<Keep>,
    bytes: usize,
}

impl Keep {
    pub(crate) fn new(most: usize) -> Arc<Keep> {
        Arc::new(Keep { most, kept: AtomicUsize::new(0) })
    }

    /// # Errors
    /// [`Status::Overloaded`] at the bound.
    pub(crate) fn copy(self: &Arc<Keep>, payload: Payload<'_>) -> Result<Kept, Failure> {
        let bytes = payload.bytes.len().saturating_add(EACH);
        let add = |kept: usize| (kept < self.most).then(|| kept.saturating_add(bytes));
        let text = "Too much waits already (queue_per_peer): ask again when some have called back";
        self.kept
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map_err(|_| Failure::new(Status::Overloaded, text))?;
        let data = Data::from_raw(payload.kind, Bytes::copy_from_slice(payload.bytes));
        Ok(Kept { data, keep: self.clone(), bytes })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keep.kept.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
