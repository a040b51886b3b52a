//! Functions of the other side's, with what belongs to them.

use std::{os::raw::c_void, sync::Arc};

use crate::{
    border::failure::Failure,
    callbacks::item::{Callbacks, Item},
};

/// Ends the life of `user_data`. NULL where nothing has to be done.
pub type roletalk_drop = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// A function with its `user_data`, whose `drop` is called exactly once: when this is dropped, on the
/// thread that runs the peer's callbacks.
pub(crate) struct Closure<F: Copy> {
    call: Option<F>,
    release: Release,
    /// None until it is bound: then `drop` is called at once.
    queue: Option<Arc<Callbacks>>,
}

impl<F: Copy> Closure<F> {
    /// Takes over what the other side has given. From here on `drop` is called, whatever happens.
    pub(crate) fn new(call: Option<F>, user_data: *mut c_void, drop: roletalk_drop) -> Closure<F> {
        Closure { call, release: Release { user_data, drop }, queue: None }
    }

    /// Makes it a callback of a peer.
    ///
    /// # Errors
    /// `Status::InvalidArgument` when
    /// there is no function.
    pub(crate) fn bind(mut self, queue: &Arc<Callbacks>) -> Result<Closure<F>, Failure> {
        if self.call.is_none() {
            return Err(Failure::null("call"));
        }
        self.queue = Some(queue.clone());
        Ok(self)
    }

    /// The function, with what to call it with.
    pub(crate) fn parts(&self) -> Option<(F, *mut c_void)> {
        self.call.map(|call| (call, self.release.user_data))
    }

    /// Calls `drop` here and now, where foreign code may run.
    pub(crate) fn release_now(mut self) {
        self.queue = None;
    }
}

impl<F: Copy> Drop for Closure<F> {
    fn drop(&mut self) {
        let release = std::mem::replace(&mut self.release, Release::NOTHING);
        match self.queue.take() {
            // Whoever drops it may hold a lock.
            Some(queue) if release.drop.is_some() => queue.push(Item::Release(release)),
            _ => release.call(),
        }
    }
}

/// A `user_data` whose life has ended.
pub(crate) struct Release {
    user_data: *mut c_void,
    drop: roletalk_drop,
}

// SAFETY: the header demands that `user_data` may be used on the thread that runs the callbacks, and
// that `drop` may be called on any thread; the library itself never looks at what it points to.
unsafe impl Send for Release {}
// SAFETY: as above; a shared reference gives nothing but the pointer.
unsafe impl Sync for Release {}

impl Release {
    const NOTHING: Release = Release { user_data: std::ptr::null_mut(), drop: None };

    pub(crate) fn call(self) {
        if let Some(drop) = self.drop {
            // SAFETY: the function and its argument were given together for this, and this is the
            // one time that it is called.
            unsafe { drop(self.user_data) }
        }
    }
}
