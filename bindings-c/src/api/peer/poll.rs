//! Callbacks that the program runs itself.

use std::time::{Duration, Instant};

use crate::{
    api::peer::{drive::Stop, object::get},
    border::{
        enter::enter,
        failure::{Failure, Status, roletalk_status},
        handles::roletalk_peer,
        memory::{check_optional, put, put_optional},
    },
    callbacks::frame,
    runtime::wait::{Limit, check_may_wait},
};

/// For ROLETALK_CALLBACKS_POLL: a file descriptor that is readable while callbacks wait for
/// roletalk_peer_poll. The library owns it; it is valid until the peer is closed.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for other peers. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_fd(peer: roletalk_peer, fd: *mut i32) -> roletalk_status {
    enter(|| {
        let known = get(peer)?.queue.fd()?;
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(fd, known, "fd") }
    })
}

/// For ROLETALK_CALLBACKS_POLL: runs the callbacks that wait, on this thread. When none does, waits for up to
/// `timeout_ms` milliseconds, without a limit if that is negative, not at all if it is 0. `count`, which
/// may be NULL, is set to how many pieces of work were done.
///
/// Errors: ROLETALK_STATUS_CLOSED when the peer was closed and nothing more will come;
/// ROLETALK_STATUS_INVALID_ARGUMENT for other peers and while another roletalk_peer_poll of this peer
/// runs. Any thread; not inside callbacks of the same peer.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_poll(
    peer: roletalk_peer,
    timeout_ms: i64,
    count: *mut usize,
) -> roletalk_status {
    enter(|| {
        let object = get(peer)?;
        check_optional(count, "count")?;
        const LONG: Duration = Duration::from_secs(365 * 24 * 3600);
        let until = match Limit::from_millis(timeout_ms) {
            Limit::Now => None,
            Limit::Within(time) => Instant::now().checked_add(time.min(LONG)),
            Limit::Never => Instant::now().checked_add(LONG),
        };
        // An error for other peers.
        object.queue.fd()?;
        if until.is_some() {
            check_may_wait(Limit::Never)?;
        }
        let (done, mut ended) = object.queue.poll(until)?;
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put_optional(count, "count", || done) }?;
        if object.is_ending() && !frame::in_callback() {
            // Closed in a callback just now, or by another thread.
            object.end(Stop::Close);
            ended = true;
        }
        match ended {
            true => Err(Failure::new(Status::Closed, "The peer is closed")),
            false => Ok(()),
        }
    })
}
