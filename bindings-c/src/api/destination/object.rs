//! What the handle of a destination stands for.

use std::sync::Arc;

use engine::Destination;
use tokio::runtime::Handle;

use crate::{
    border::{failure::Failure, handles::roletalk_destination, table},
    callbacks::item::Callbacks,
    runtime::{
        keep::Keep,
        wait::{Limit, block_on},
    },
};

pub(crate) struct DestinationObject {
    pub(crate) destination: Destination,
    /// The same, with the balance of its peer.
    pub(crate) plain: Destination,
    pub(crate) queue: Arc<Callbacks>,
    pub(crate) keep: Arc<Keep>,
    pub(crate) runtime: Handle,
}

impl DestinationObject {
    pub(super) fn wait<T>(
        &self,
        limit: Limit,
        future: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        block_on(Some(&self.runtime), limit, future)
    }
}

pub(super) fn get(destination: roletalk_destination) -> Result<Arc<DestinationObject>, Failure> {
    table::get(destination.id)
}
