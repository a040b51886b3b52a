//! What the handle of a peer stands for, what that owns, and how it ends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use engine::{Listener, Peer};
use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    api::{
        destination::object::DestinationObject,
        peer::drive::{IoThread, Stop, Work},
        role::RoleObject,
    },
    border::{
        failure::{Failure, Status},
        handles::{roletalk_destination, roletalk_listener, roletalk_peer, roletalk_role},
        table,
    },
    callbacks::{chooser::Held, exchange::Layers, frame, item::Callbacks, judge::Hook},
    runtime::{
        keep::Keep,
        threads,
        wait::{Limit, block_on},
    },
};

pub(crate) struct PeerObject {
    pub(crate) peer: Peer,
    pub(crate) queue: Arc<Callbacks>,
    pub(super) keep: Arc<Keep>,
    pub(super) runtime: Handle,
    pub(super) layers: Arc<Layers>,
    owned: Arc<Mutex<Owned>>,
    stop: Mutex<Option<oneshot::Sender<Stop>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Handles that end with the peer.
#[derive(Default)]
pub(super) struct Owned {
    pub(super) roles: HashMap<String, roletalk_role>,
    pub(super) destinations: HashMap<String, roletalk_destination>,
    listeners: Vec<roletalk_listener>,
    closed: bool,
}

impl Owned {
    /// Lets go of all. What it gives is to be dropped without the lock.
    fn close(&mut self) -> Owned {
        let owned = std::mem::take(self);
        self.closed = true;
        owned
    }

    /// Gives a listener a handle.
    pub(super) fn add_listener(&mut self, listener: Listener) -> roletalk_listener {
        let handle = roletalk_listener { id: table::insert(Arc::new(ListenerObject(listener))) };
        if self.listeners.len().is_power_of_two() {
            self.listeners.retain(|known| table::get::<ListenerObject>(known.id).is_ok());
        }
        self.listeners.push(handle);
        handle
    }

    fn remove_all(self) {
        for role in self.roles.into_values() {
            let _ = table::remove::<RoleObject>(role.id);
        }
        for destination in self.destinations.into_values() {
            let _ = table::remove::<DestinationObject>(destination.id);
        }
        for listener in self.listeners {
            let _ = table::remove::<ListenerObject>(listener.id);
        }
    }
}

impl PeerObject {
    pub(super) fn new(
        peer: Peer,
        io: IoThread,
        queue: Arc<Callbacks>,
        keep: Arc<Keep>,
        chooser: Option<Arc<Held>>,
        hook: Option<Arc<Hook>>,
    ) -> Result<PeerObject, Failure> {
        let (stop, stopped) = oneshot::channel();
        let object = PeerObject {
            peer: peer.clone(),
            queue: queue.clone(),
            keep,
            runtime: io.runtime.clone(),
            layers: Arc::default(),
            owned: Arc::default(),
            stop: Mutex::new(Some(stop)),
            threads: Mutex::default(),
        };
        let (owned, layers) = (object.owned.clone(), object.layers.clone());
        let released = hook.clone();
        let release = Box::new(move || {
            let owned = lock(&owned).close();
            owned.remove_all();
            layers.clear();
            chooser.iter().for_each(|chooser| chooser.end());
            released.iter().for_each(|hook| hook.end());
        });
        let mut threads = vec![io.run(Work { peer, queue: queue.clone(), stopped, release })];
        if queue.has_thread() {
            match threads::spawn("roletalk-calls", move || queue.run_thread()) {
                Ok(thread) => threads.push(thread),
                // The other one ends, since `stop` is dropped.
                Err(failure) => {
                    hook.iter().for_each(|hook| hook.refuse());
                    return Err(failure);
                }
            }
        }
        *lock(&object.threads) = threads;
        Ok(object)
    }

    /// Ends the peer, if nobody has done so yet, and waits unless this is a callback.
    pub(super) fn end(&self, stop: Stop) {
        if let Some(sender) = lock(&self.stop).take() {
            let _ = sender.send(stop);
        }
        if frame::in_callback() {
            return;
        }
        // Before the threads have ended: draining waits for these callbacks.
        if self.queue.is_polled() {
            self.queue.run_rest();
        }
        // Whoever else ends it waits here until the threads have ended.
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join();
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        lock(&self.stop).is_none()
    }

    /// Waits for something that needs the peer's runtime.
    pub(super) fn wait<T>(
        &self,
        limit: Limit,
        future: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        block_on(Some(&self.runtime), limit, future)
    }

    pub(super) fn owned(&self) -> Result<MutexGuard<'_, Owned>, Failure> {
        let owned = lock(&self.owned);
        match owned.closed {
            false => Ok(owned),
            true => Err(Failure::new(Status::Closed, "The peer is closed")),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the handle of a listener stands for.
pub(super) struct ListenerObject(pub(super) Listener);

pub(crate) fn get(peer: roletalk_peer) -> Result<Arc<PeerObject>, Failure> {
    table::get(peer.id)
}
