//! The guard of this process: it stands in for the loops of all peers that have plain sockets.
//!
//! Each peer has a line by which its loop is woken. The guard's thread needs no interpreter; what does need
//! it, whether a loop is blocked or has ended, is asked by a thread of its own, which may have to wait.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    ptr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicPtr, Ordering::SeqCst},
    },
    thread,
};

use pyo3::prelude::*;
use roletalk_host::{Guard, Host, lock};
use rustc_hash::FxHashMap;

use crate::exit::Inside;

/// What peers of one process share. A child process has its own: in there, a lock of the parent's may be held
/// for ever.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(ptr::null_mut());

struct Shared {
    guard: Guard,
    /// Held while a peer comes or goes: the first one has a thread started, the last one has it ended.
    changing: Mutex<()>,
    lines: Arc<Mutex<FxHashMap<usize, Line>>>,
}

/// A peer as the guard knows it.
struct Line {
    /// Wakes the loop.
    wakes: UnixStream,
    /// A weak reference to a method that lets go of the peer if its loop has ended.
    check: Py<PyAny>,
}

impl Shared {
    fn get() -> &'static Shared {
        let found = SHARED.load(SeqCst);
        if !found.is_null() {
            // SAFETY: it was leaked below.
            return unsafe { &*found };
        }
        let new = Box::into_raw(Box::new(Shared::new()));
        match SHARED.compare_exchange(ptr::null_mut(), new, SeqCst, SeqCst) {
            // SAFETY: it was leaked above, and stays.
            Ok(_) => unsafe { &*new },
            Err(other) => {
                // SAFETY: nobody has seen the new one.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: another thread has leaked it.
                unsafe { &*other }
            }
        }
    }

    fn new() -> Shared {
        let lines = Arc::<Mutex<FxHashMap<usize, Line>>>::default();
        let (of_guard, asking) = (lines.clone(), Arc::new(AtomicBool::new(false)));
        let guard = Guard::new(move || {
            for line in lock(&of_guard).values() {
                // When there is no room, the loop will be woken anyway.
                let _ = (&line.wakes).write(&[0]);
            }
            if !asking.swap(true, SeqCst) {
                let (lines, asked) = (of_guard.clone(), asking.clone());
                let ask = move || {
                    let_go_of_ended(&lines);
                    asked.store(false, SeqCst);
                };
                if thread::Builder::new().name("roletalk-ask".to_owned()).spawn(ask).is_err() {
                    // Next time.
                    asking.store(false, SeqCst);
                }
            }
        });
        Shared { guard, changing: Mutex::default(), lines }
    }
}

/// In a child process, the guard of the parent is of no use.
pub(crate) fn forget_shared() {
    SHARED.store(ptr::null_mut(), SeqCst);
}

/// Asks whether loops have ended, and lets go of their peers.
fn let_go_of_ended(lines: &Mutex<FxHashMap<usize, Line>>) {
    let Some(inside) = Inside::from_outside() else { return };
    Python::try_attach(|py| {
        let checks: Vec<_> = lock(lines).values().map(|line| line.check.clone_ref(py)).collect();
        for check in checks {
            let asked = check.call0(py).and_then(|method| match method.is_none(py) {
                true => Ok(method),
                false => method.call0(py),
            });
            if let Err(error) = asked {
                error.write_unraisable(py, None);
            }
        }
    });
    drop(inside);
}

/// A peer whose loop is guarded. When the last one is dropped, the guard's thread has ended.
pub(crate) struct Guarded {
    host: Arc<Mutex<Host>>,
    shared: &'static Shared,
    loop_end: UnixStream,
}

impl Guarded {
    /// Has the loop of a host guarded. `check` is a weak reference to a method, see [`Line`].
    pub(crate) fn new(host: &Arc<Mutex<Host>>, check: Py<PyAny>) -> io::Result<Guarded> {
        let (loop_end, wakes) = UnixStream::pair()?;
        loop_end.set_nonblocking(true)?;
        wakes.set_nonblocking(true)?;
        let shared = Shared::get();
        let guarded = Guarded { host: host.clone(), shared, loop_end };
        let _changing = lock(&shared.changing);
        lock(&shared.lines).insert(guarded.key(), Line { wakes, check });
        // When it fails, `guarded` is dropped behind `_changing`.
        shared.guard.watch(host)?;
        Ok(guarded)
    }

    fn key(&self) -> usize {
        Arc::as_ptr(&self.host) as usize
    }

    /// What the loop watches.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.loop_end.as_raw_fd()
    }

    /// The loop has been woken.
    pub(crate) fn woken(&self) {
        let _ = (&self.loop_end).read(&mut [0; 64]);
    }

    fn leave(&self) {
        let line = lock(&self.shared.lines).remove(&self.key());
        if !self.shared.guard.forget(&self.host) {
            self.shared.guard.end();
        }
        drop(line);
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // In a child process, what is left of the parent's is not to be touched.
        if ptr::eq(SHARED.load(SeqCst), self.shared) {
            let _changing = lock(&self.shared.changing);
            self.leave();
        }
    }
}
