//! Serving until a signal.

use std::{
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{Arc, mpsc},
    time::Duration,
};

use crate::{
    api::peer::{
        drive::Stop,
        object::{PeerObject, get},
    },
    border::{
        enter::enter,
        failure::{Failure, Status, roletalk_status},
        handles::roletalk_peer,
        memory::{check_optional, put_optional},
        table,
    },
    callbacks::frame,
    runtime::{signals::Signals, wait::Limit},
};

/// Milliseconds that a peer drains after a signal, unless the program has a reason for another time.
pub const ROLETALK_DRAIN_LIMIT_MS: u64 = 10_000;

/// Waits until the process gets SIGINT or SIGTERM, or until the peer is closed by somebody else, then drains
/// as roletalk_peer_drain within `limit_ms` (mostly ROLETALK_DRAIN_LIMIT_MS). `finished`, which may be
/// NULL, is set to 1 when everything had finished, else to 0. `peer` ends with it.
///
/// The first signal ends the waiting of all peers that serve. From then on the second one has its default
/// action: it ends the process, whatever that is at. When no peer serves any more, the handlers that the
/// program had before are in place again, unless it has set others meanwhile. In the child of a fork the
/// signals have their default action.
///
/// With ROLETALK_CALLBACKS_POLL it runs the callbacks, unless another thread is inside roletalk_peer_poll.
///
/// Errors: ROLETALK_STATUS_WOULD_DEADLOCK inside callbacks, ROLETALK_STATUS_IO; the peer goes on then. Any
/// thread, also several for several peers; one thread at least must not block the two signals (those of
/// the library do).
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_serve(
    peer: roletalk_peer,
    limit_ms: u64,
    finished: *mut i32,
) -> roletalk_status {
    enter(|| {
        check_optional(finished, "finished")?;
        let object = get(peer)?;
        if frame::in_callback() {
            let text =
                "A callback must not wait for a signal: call it on a thread of the program's";
            return Err(Failure::new(Status::WouldDeadlock, text));
        }
        let signals = Signals::listen()?;
        wait(&object, &signals)?;
        let done = match table::remove::<PeerObject>(peer.id) {
            Ok(object) => {
                let (report, reported) = mpsc::channel();
                object.end(Stop::Drain(Duration::from_millis(limit_ms), report));
                reported.try_recv().unwrap_or(false)
            }
            // Somebody else has closed it.
            Err(_) => {
                object.end(Stop::Close);
                object.wait(Limit::Never, object.peer.drain(Duration::ZERO))?
            }
        };
        drop(signals);
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put_optional(finished, "finished", || i32::from(done)) }
    })
}

/// Waits for a signal or the end of the peer.
fn wait(object: &Arc<PeerObject>, signals: &Signals) -> Result<(), Failure> {
    let (closed, open) = UnixStream::pair().map_err(Failure::io)?;
    let peer = object.peer.clone();
    object.runtime.spawn(async move {
        peer.closed().await;
        // Also when the runtime goes.
        drop(open);
    });
    let mut callbacks = object.queue.fd().ok();
    loop {
        let mut fds = [signals.fd(), closed.as_raw_fd(), callbacks.unwrap_or(-1)].map(watched);
        // SAFETY: the array is a local variable; negative descriptors are passed over.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) };
        if ready < 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() == std::io::ErrorKind::Interrupted {
                continue;
            }
            return Err(Failure::io(error));
        }
        if fds[0].revents != 0 || fds[1].revents != 0 {
            return Ok(());
        }
        // Fails when another thread does so.
        if fds[2].revents != 0 && object.queue.poll(None).is_err() {
            callbacks = None;
        }
    }
}

fn watched(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}
