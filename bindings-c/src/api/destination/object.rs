//! What the handle of a destination stands for.

use std::sync::Arc;

use engine::{Balance, Destination, Retry};
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
    /// With all settings.
    pub(crate) destination: Destination,
    settings: Settings,
    pub(crate) queue: Arc<Callbacks>,
    pub(crate) keep: Arc<Keep>,
    pub(crate) runtime: Handle,
}

/// What the program has said of a destination.
#[derive(Clone)]
pub(super) struct Settings {
    /// As the peer says.
    plain: Destination,
    /// The same with a bound of what is in flight, which would begin anew with another one.
    bounded: Option<Destination>,
    pub(super) balance: Option<Balance>,
    pub(super) retry: Option<Retry>,
}

impl Settings {
    /// At most so many requests are in flight; 0: any number.
    pub(super) fn bound(&mut self, requests: usize) {
        self.bounded = (requests != 0).then(|| self.plain.max_in_flight(requests));
    }

    fn apply(&self) -> Destination {
        let mut destination = self.bounded.as_ref().unwrap_or(&self.plain).clone();
        if let Some(balance) = &self.balance {
            destination = destination.balance(balance.clone());
        }
        if let Some(retry) = &self.retry {
            destination = destination.retry(retry.clone());
        }
        destination
    }
}

impl DestinationObject {
    pub(crate) fn new(
        plain: Destination,
        queue: Arc<Callbacks>,
        keep: Arc<Keep>,
        runtime: Handle,
    ) -> DestinationObject {
        let settings = Settings { plain: plain.clone(), bounded: None, balance: None, retry: None };
        DestinationObject { destination: plain, settings, queue, keep, runtime }
    }

    /// The same with other settings.
    fn with(&self, settings: Settings) -> DestinationObject {
        DestinationObject {
            destination: settings.apply(),
            settings,
            queue: self.queue.clone(),
            keep: self.keep.clone(),
            runtime: self.runtime.clone(),
        }
    }

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

/// Changes the settings of a destination, for whatever is sent from now on. What is under way goes on with those before.
/// `change` is called under a lock: it drops nothing of the program's.
pub(super) fn set(
    destination: roletalk_destination,
    change: impl FnOnce(&mut Settings),
) -> Result<(), Failure> {
    let before = table::update(destination.id, |object: &DestinationObject| {
        let mut settings = object.settings.clone();
        change(&mut settings);
        object.with(settings)
    });
    before.map(drop)
}
