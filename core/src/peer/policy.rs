//! The policy of a peer, and a file that it is in.

use std::{path::Path, sync::Arc, time::Duration};

use tracing::{info, warn};

use super::{Peer, PeerEvent, shared::Shared};
use crate::{
    Error, ErrorKind, Result,
    engine::{Policy, PolicyFile},
};

/// How often a file is looked at.
const EVERY: Duration = Duration::from_millis(500);

impl Peer {
    /// Sets who may call and serve what from now on, including connected units; none allows everything. Stops
    /// [watching](Peer::watch_policy) a file.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let peer = roletalk::Peer::builder().build()?;
    /// let policy = roletalk::Policy::parse(r#"{
    ///     "default": "deny",
    ///     "rules": [{ "who": { "key": "billing" }, "call": ["payments/*"] }]
    /// }"#)?;
    /// peer.set_policy(policy);
    /// # Ok::<_, roletalk::Error>(()) }).unwrap();
    /// ```
    pub fn set_policy(&self, policy: impl Into<Option<Policy>>) {
        let shared = self.shared();
        shared.policy_file.send_replace(None);
        shared.set_policy(policy.into().map(Arc::new));
    }

    /// Loads the policy from a file, and reloads it within a second after each change. If the file cannot be read or
    /// has a fault, the policy stays as it is, and [`PeerEvent::PolicyFailed`] reports the reason once for each change
    /// of the file. [`PeerEvent::PolicyLoaded`] reports that a new policy is in force.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when there is no usable policy now, [`ErrorKind::Closed`]. Nothing has changed then.
    pub async fn watch_policy(&self, path: impl AsRef<Path>) -> Result<()> {
        let shared = self.shared();
        shared.check_open()?;
        let path: Arc<Path> = path.as_ref().into();
        let mut file = PolicyFile::default();
        let policy = match shared.on_runtime(read(&path)).await {
            None => return Err(Error::peer_closed()),
            Some(text) => file.read(&path.to_string_lossy(), text),
        };
        let nothing =
            || Err(Error::new(ErrorKind::InvalidArgument, "The policy has not been read"));
        let policy = policy.unwrap_or_else(nothing)?;
        shared.policy_file.send_replace(Some(path.clone()));
        shared.set_policy(Some(policy));
        shared.spawn(watch(shared.clone(), path, file));
        Ok(())
    }
}

impl Shared {
    pub(super) fn set_policy(self: &Arc<Self>, policy: Option<Arc<Policy>>) {
        self.with_core(|core, _| core.peer.set_policy(policy));
    }
}

/// None: the runtime is ending.
async fn read(path: &Arc<Path>) -> Option<Result<String, String>> {
    let path = path.clone();
    let reading = tokio::task::spawn_blocking(move || std::fs::read_to_string(path));
    Some(reading.await.ok()?.map_err(|error| error.to_string()))
}

async fn watch(shared: Arc<Shared>, path: Arc<Path>, mut file: PolicyFile) {
    let mut closed = shared.closed.subscribe();
    let mut watched = shared.policy_file.subscribe();
    let name = path.to_string_lossy();
    let is_other =
        |file: &Option<Arc<Path>>| file.as_ref().is_none_or(|file| !Arc::ptr_eq(file, &path));
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = closed.wait_for(|closed| *closed) => return,
            _ = watched.wait_for(is_other) => return,
        }
        let Some(text) = read(&path).await else { return };
        let policy = file.read(&name, text);
        {
            // Another policy may have taken its place while it was read. One that comes now waits for this lock.
            let still = shared.policy_file.borrow();
            if is_other(&still) {
                return;
            }
            if let Some(Ok(policy)) = &policy {
                shared.set_policy(Some(policy.clone()));
            }
        }
        match policy {
            None => {}
            Some(Ok(_)) => {
                info!(peer = %shared.id, path = &*name, "policy loaded");
                shared.emit(PeerEvent::PolicyLoaded { path: path.clone() });
            }
            Some(Err(error)) => {
                warn!(peer = %shared.id, path = &*name, %error, "policy failed");
                shared.emit(PeerEvent::PolicyFailed { path: path.clone(), error });
            }
        }
    }
}
