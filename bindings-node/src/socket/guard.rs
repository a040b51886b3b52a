//! The guard: a thread that answers pings while the loop is blocked, so that a handler which takes
//! seconds costs no connection.
//!
//! It knows that the loop is blocked when a connection has had something to read at two looks, and
//! the loop has not read from it in between. It looks only after something has come: while nothing
//! does it sleeps, and while much does it looks four times a second.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustc_hash::FxHashMap;

use super::transport::Transport;

/// The time between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// While the loop wants some connections not to be read, the others are watched for no longer than
/// this at a time.
const REVIEW: Duration = Duration::from_secs(1);

/// The thread. It ends, and has ended, when this is dropped.
pub(super) struct Guard {
    shared: Arc<Shared>,
    bell: UnixStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    guarded: Mutex<Guarded>,
}

#[derive(Default)]
struct Guarded {
    transports: FxHashMap<u64, Arc<Transport>>,
    /// Whether the guard sleeps until something comes on one of the transports.
    asleep: bool,
}

impl Guard {
    /// Starts the thread. `tell` makes the loop fetch what was read for it; it is called by the
    /// thread.
    pub(super) fn start(tell: impl Fn() + Send + 'static) -> io::Result<Guard> {
        let (bell, hears) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        hears.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let watch = Watch { shared: shared.clone(), bell: hears, suspects: FxHashMap::default() };
        let thread = thread::Builder::new()
            .name("roletalk-guard".to_owned())
            .spawn(move || watch.run(tell))?;
        Ok(Guard { shared, bell, thread: Some(thread) })
    }

    pub(super) fn add(&self, id: u64, transport: Arc<Transport>) {
        self.change(|transports| drop(transports.insert(id, transport)));
    }

    pub(super) fn remove(&self, id: u64) {
        self.change(|transports| drop(transports.remove(&id)));
    }

    fn change(&self, change: impl FnOnce(&mut FxHashMap<u64, Arc<Transport>>)) {
        let mut guarded = self.shared.guarded();
        change(&mut guarded.transports);
        if std::mem::take(&mut guarded.asleep) {
            // When there is no room for one more byte, the guard has not heard those before yet.
            let _ = (&self.bell).write(&[0]);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The thread sees the end of its side of the pair.
        let _ = self.bell.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // It has panicked or not: either way it is over.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn guarded(&self) -> MutexGuard<'_, Guarded> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guard is to end.
struct Over;

/// What the thread has.
struct Watch {
    shared: Arc<Shared>,
    bell: UnixStream,
    /// Connections that had something to read, and how often the loop had read from them then.
    suspects: FxHashMap<u64, u64>,
}

/// A connection that is watched.
struct Watched {
    id: u64,
    /// How often the loop has read from it.
    reads: u64,
    /// Whether something waits to be written.
    writes: bool,
    transport: Arc<Transport>,
}

impl Watched {
    fn entry(&self) -> libc::pollfd {
        entry(self.transport.fd())
    }
}

impl Watch {
    fn run(mut self, tell: impl Fn()) {
        ignore_signals();
        while let Ok(()) = self.sleep() {
            loop {
                // Nothing but the end is worth to be heard meanwhile: connections that come and go
                // are seen at the next look.
                let Ok(()) = self.wait(LOOK) else { return };
                let (stalled, waiting) = self.look();
                if stalled {
                    tell();
                }
                if !waiting {
                    break;
                }
            }
        }
    }

    /// Sleeps until something comes.
    fn sleep(&mut self) -> Result<(), Over> {
        let (watched, all) = self.watched(true);
        let mut entries = vec![entry(self.bell.as_raw_fd())];
        entries.extend(watched.iter().map(Watched::entry));
        poll(&mut entries, (!all).then_some(REVIEW));
        self.shared.guarded().asleep = false;
        // Their descriptors are closed by now, when they were removed meanwhile.
        drop(watched);
        self.heard()
    }

    fn wait(&mut self, time: Duration) -> Result<(), Over> {
        poll(&mut [entry(self.bell.as_raw_fd())], Some(time));
        self.heard()
    }

    /// Empties the bell.
    fn heard(&mut self) -> Result<(), Over> {
        match self.bell.read(&mut [0; 64]) {
            Ok(0) => Err(Over),
            _ => Ok(()),
        }
    }

    /// The connections that the guard may read from, and whether those are all.
    fn watched(&self, asleep: bool) -> (Vec<Watched>, bool) {
        let mut guarded = self.shared.guarded();
        guarded.asleep = asleep;
        let watched: Vec<Watched> = guarded
            .transports
            .iter()
            .filter_map(|(id, transport)| {
                let (reads, writes) = transport.reads()?;
                Some(Watched { id: *id, reads, writes, transport: transport.clone() })
            })
            .collect();
        let all = watched.len() == guarded.transports.len();
        (watched, all)
    }

    /// Stands in for the loop where that is blocked. Returns whether there is something for it, and
    /// whether to look again soon.
    fn look(&mut self) -> (bool, bool) {
        let (watched, _) = self.watched(false);
        let mut entries: Vec<_> = watched.iter().map(Watched::entry).collect();
        poll(&mut entries, Some(Duration::ZERO));
        let (mut stalled, mut waiting) = (false, false);
        let mut suspects = FxHashMap::default();
        for (Watched { id, reads, writes, transport }, entry) in watched.iter().zip(&entries) {
            let readable = entry.revents != 0;
            let suspected = self.suspects.get(id) == Some(reads);
            // Pongs wait behind what is half written.
            let busy = readable || suspected && *writes;
            if busy && suspected {
                stalled |= transport.stand_in(*reads);
            }
            waiting |= busy;
            if busy || suspected {
                suspects.insert(*id, *reads);
            }
        }
        self.suspects = suspects;
        (stalled, waiting)
    }
}

/// Leaves signals to other threads, so that none ends a wait.
fn ignore_signals() {
    // SAFETY: all zeros are a set of signals, and the pointers are to such sets or null.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}

fn entry(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

/// Waits until one of these has something to read, or for so long.
fn poll(entries: &mut [libc::pollfd], time: Option<Duration>) {
    let millis = time.map_or(-1, |time| time.as_millis() as libc::c_int);
    // SAFETY: the pointer and the length are those of one slice.
    unsafe {
        libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, millis);
    }
}
