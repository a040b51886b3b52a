//! The guard of one engine, and how it wakes the loop.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex},
};

use roletalk_host::{Guard, Host};

/// The guard's thread ends with it.
pub(crate) struct Guarded {
    _guard: Guard,
    loop_end: UnixStream,
}

impl Guarded {
    /// Starts the guard.
    pub(crate) fn new(host: &Arc<Mutex<Host>>) -> io::Result<Guarded> {
        let (loop_end, guard_end) = UnixStream::pair()?;
        loop_end.set_nonblocking(true)?;
        guard_end.set_nonblocking(true)?;
        let guard = Guard::new(move || {
            // When there is no room, the loop will be woken anyway.
            let _ = (&guard_end).write(&[0]);
        });
        guard.watch(host)?;
        Ok(Guarded { _guard: guard, loop_end })
    }

    /// What the loop watches.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.loop_end.as_raw_fd()
    }

    /// The loop has been woken.
    pub(crate) fn woken(&self) {
        let _ = (&self.loop_end).read(&mut [0; 64]);
    }
}
