//! How peers begin and end.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use crate::{
    api::peer::{
        drive::{IoThread, Stop},
        object::PeerObject,
        options::{Built, roletalk_peer_options},
    },
    border::{
        enter::{enter, enter_any},
        failure::{Failure, roletalk_status},
        handles::roletalk_peer,
        memory::{check_optional, check_out, put, put_optional},
        process,
        sized::read_or_default,
        table,
    },
    callbacks::{frame, item::Callbacks, judge::Hook},
    runtime::keep::Keep,
};

/// Makes a peer and starts its threads. `options` may be NULL. The caller closes it with roletalk_peer_close.
/// Works in the child of a fork, too: all handles of the parent's are invalid there.
///
/// Errors: ROLETALK_STATUS_IO, ROLETALK_STATUS_TLS. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_new(
    options: *const roletalk_peer_options,
    peer: *mut roletalk_peer,
) -> roletalk_status {
    enter_any(|| {
        process::renew_after_fork(|| {
            table::renew();
            frame::leave_all();
        });
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let options = unsafe { read_or_default(options) }?;
        // First of all, so that its `drop` is called whatever fails.
        let judge = options.authenticate.take()?;
        check_out(peer, "peer")?;
        let queue = Callbacks::new(options.way()?)?;
        let hook = judge.map(|judge| judge.hold(&queue));
        // SAFETY: as above.
        let made = unsafe { make(&options, queue, hook.clone()) };
        if made.is_err() {
            hook.iter().for_each(|hook| hook.refuse());
        }
        let id = table::insert(Arc::new(made?));
        // SAFETY: as above.
        unsafe { put(peer, roletalk_peer { id }, "peer") }
    })
}

/// # Safety
/// The pointers are as the header demands.
unsafe fn make(
    options: &roletalk_peer_options,
    queue: Arc<Callbacks>,
    hook: Option<Arc<Hook>>,
) -> Result<PeerObject, Failure> {
    // SAFETY: the caller's promise.
    let Built { mut builder, limits, chooser } = unsafe { options.build(&queue) }?;
    if let Some(hook) = hook.clone() {
        builder = builder.authenticate(move |request| hook.ask(request));
    }
    let io = IoThread::start()?;
    // When that fails, the thread ends.
    let built = {
        let _runtime = io.runtime.enter();
        builder.build()?
    };
    PeerObject::new(built, io, queue, Keep::new(limits.queue_per_peer), chooser, hook)
}

/// Closes all connections with code 4000, stops listening and dialing, and ends the peer's threads. When
/// it returns, all callbacks have returned, operations under way have called back (with
/// ROLETALK_STATUS_CLOSED, ROLETALK_STATUS_CONNECTION_LOST or ROLETALK_STATUS_CANCELED), and every `drop`
/// was called (where middleware has deferred contexts, that of what comes behind it follows when they are
/// answered). That takes two seconds at most if the other side does not answer, besides the time that
/// callbacks take.
///
/// Inside a callback, of whichever peer, it does not wait: the rest happens when the callback has
/// returned. The peer's roles, destinations and listeners end with it; units, streams, answers and
/// deferred contexts are the caller's still.
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_peer_close(peer: roletalk_peer) -> roletalk_status {
    enter(|| {
        let object = table::remove::<PeerObject>(peer.id)?;
        object.end(Stop::Close);
        Ok(())
    })
}

/// Stops offering roles, lets running requests and streams finish within `timeout_ms`, then closes as
/// roletalk_peer_close. `finished`, which may be NULL, is set to 1 when everything had finished, else to 0.
/// The peer's roles and destinations stay usable until then; `peer` itself ends at once.
///
/// Inside a callback it does not wait and sets `finished` to 0.
///
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_drain(
    peer: roletalk_peer,
    timeout_ms: u64,
    finished: *mut i32,
) -> roletalk_status {
    enter(|| {
        check_optional(finished, "finished")?;
        let object = table::remove::<PeerObject>(peer.id)?;
        let (report, reported) = mpsc::channel();
        object.end(Stop::Drain(Duration::from_millis(timeout_ms), report));
        let done = || i32::from(reported.try_recv().unwrap_or(false));
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put_optional(finished, "finished", done) }
    })
}
