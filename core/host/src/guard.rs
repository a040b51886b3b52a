//! The guard: a thread that answers pings while a loop is blocked, so that a handler which takes seconds
//! costs no connection.
//!
//! It knows that a loop is blocked when a socket has had something to read at two looks, and the loop has
//! not come by in between. It looks only after something has come: while nothing does it sleeps, and while
//! much does it looks four times a second. It reads for a loop that is blocked: the engine answers pings
//! itself, everything else waits in the engine until the loop goes on.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, Weak},
    thread::{self, JoinHandle},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::SigSet,
};
use roletalk_engine::ConnId;
use rustc_hash::FxHashMap;

use crate::{
    Host,
    bell::{self, Line, Over},
    host::Watched,
    lock,
};

/// The time between two looks, in milliseconds.
const LOOK: u16 = 250;

/// Stands in for loops that are blocked: all of one thread, or just one. The thread ends soon after this is
/// dropped.
pub struct Guard {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    hosts: Mutex<Vec<Weak<Mutex<Host>>>>,
    bell: Mutex<Option<Arc<Bell>>>,
    tell: Box<dyn Fn() + Send + Sync>,
}

impl Guard {
    /// A guard that watches nothing yet, and has no thread. `tell` makes the loops hand out what was read for
    /// them; the thread calls it, with nothing locked.
    pub fn new(tell: impl Fn() + Send + Sync + 'static) -> Guard {
        let tell = Box::new(tell);
        let shared = Shared { hosts: Mutex::default(), bell: Mutex::default(), tell };
        Guard { shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// Watches a host, which is not locked by the caller, as long as that exists. The first time, that starts
    /// the thread.
    ///
    /// # Errors
    /// The system's, when there are no descriptors or no thread. Nothing is watched then before this was
    /// called again, with any host.
    pub fn watch(&self, host: &Arc<Mutex<Host>>) -> io::Result<()> {
        let hosts: Vec<_> = {
            let mut hosts = lock(&self.shared.hosts);
            hosts.retain(|known| known.strong_count() > 0);
            if !hosts.iter().any(|known| known.as_ptr() == Arc::as_ptr(host)) {
                hosts.push(Arc::downgrade(host));
            }
            hosts.iter().filter_map(Weak::upgrade).collect()
        };
        let bell = self.start()?;
        for host in hosts {
            lock(&host).set_bell(Some(&bell));
        }
        bell.ring();
        Ok(())
    }

    /// Watches a host no longer, which is not locked by the caller. Returns whether there are others.
    pub fn forget(&self, host: &Arc<Mutex<Host>>) -> bool {
        lock(host).set_bell(None);
        let mut hosts = lock(&self.shared.hosts);
        hosts.retain(|known| known.strong_count() > 0 && known.as_ptr() != Arc::as_ptr(host));
        !hosts.is_empty()
    }

    fn start(&self) -> io::Result<Arc<Bell>> {
        let mut thread = lock(&self.thread);
        let mut bell = lock(&self.shared.bell);
        if let Some(bell) = &*bell {
            return Ok(bell.clone());
        }
        let (ours, hears) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        hears.set_nonblocking(true)?;
        let new = Arc::new(Bell::new(ours));
        let watch = Watch {
            shared: self.shared.clone(),
            bell: new.clone(),
            hears,
            suspects: FxHashMap::default(),
        };
        let builder = thread::Builder::new().name("roletalk-guard".to_owned());
        *thread = Some(builder.spawn(move || watch.run())?);
        *bell = Some(new.clone());
        Ok(new)
    }

    /// Ends the thread, and waits until it has ended: `tell` is not called any more, and no socket is held.
    /// [`watch`](Guard::watch) starts another one; the two are not to be called at the same time.
    pub fn end(&self) {
        self.finish();
        if let Some(thread) = lock(&self.thread).take() {
            // It has panicked or not: either way it is over.
            let _ = thread.join();
        }
        *lock(&self.shared.bell) = None;
    }

    fn finish(&self) {
        if let Some(bell) = &*lock(&self.shared.bell) {
            bell.finish();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The thread may be one of the parent process, which this one is a fork of: nobody waits for it.
        self.finish();
    }
}

impl Line for UnixStream {
    fn wake(&self) {
        // When there is no room for one more byte, the guard has not heard those before yet.
        let _ = (&*self).write(&[0]);
    }
}

/// Wakes the guard.
pub(crate) type Bell = bell::Bell<UnixStream>;

/// What the thread has.
struct Watch {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
    hears: UnixStream,
    /// Hosts that had something to do, by their addresses, and how often their loops had come by then.
    suspects: FxHashMap<usize, u64>,
}

impl Watch {
    fn run(mut self) {
        // Signals are for other threads.
        let _ = SigSet::all().thread_block();
        while let Ok(()) = self.sleep() {
            loop {
                // Nothing but the end is worth to be heard meanwhile: connections that come and go
                // are seen at the next look.
                let Ok(()) = self.bell.wait(|| self.wait(&[], LOOK.into())) else { return };
                if !self.look() {
                    break;
                }
            }
        }
    }

    /// Sleeps until something comes.
    fn sleep(&self) -> Result<(), Over> {
        let watched = || {
            let mut watched = Vec::new();
            for host in self.hosts() {
                lock(&host).watched(&mut watched);
            }
            watched
        };
        // The sockets are closed at the end of the wait, when they were released meanwhile.
        self.bell.sleep(watched, |watched| self.wait(&watched, PollTimeout::NONE))
    }

    fn wait(&self, watched: &[Watched], time: PollTimeout) {
        let sockets = watched.iter().map(|watched| watched.socket.as_fd());
        readable([self.hears.as_fd()].into_iter().chain(sockets), time);
        let _ = (&self.hears).read(&mut [0; 64]);
    }

    fn hosts(&self) -> Vec<Arc<Mutex<Host>>> {
        lock(&self.shared.hosts).iter().filter_map(Weak::upgrade).collect()
    }

    /// Stands in for the loops that are blocked. Returns whether to look again soon.
    fn look(&mut self) -> bool {
        let (mut stood_in, mut busy) = (false, false);
        let mut suspects = FxHashMap::default();
        for host in self.hosts() {
            let (turns, waits, conns) = work(&host);
            let key = Arc::as_ptr(&host) as usize;
            let suspected = self.suspects.get(&key) == Some(&turns);
            // Pongs wait behind what is half written.
            let works = !conns.is_empty() || suspected && waits;
            if works && suspected {
                stood_in |= stand_in(&host, &conns, turns);
            }
            if works || suspected {
                suspects.insert(key, turns);
            }
            busy |= works;
        }
        self.suspects = suspects;
        if stood_in {
            (self.shared.tell)();
        }
        busy
    }
}

/// How often the loop of a host has come by, whether something waits to be written, and what can be read.
fn work(host: &Mutex<Host>) -> (u64, bool, Vec<ConnId>) {
    let mut watched = Vec::new();
    let (turns, waits) = {
        let host = lock(host);
        host.watched(&mut watched);
        (host.turns(), host.has_pending())
    };
    let found = readable(watched.iter().map(|watched| watched.socket.as_fd()), PollTimeout::ZERO);
    let conns =
        watched.iter().zip(found).filter_map(|(watched, found)| found.then_some(watched.conn));
    (turns, waits, conns.collect())
}

/// Locked anew for each connection: the loop may come by at any time. Returns whether there is anything for it.
fn stand_in(host: &Mutex<Host>, conns: &[ConnId], turns: u64) -> bool {
    let mut any = false;
    for conn in conns {
        any |= lock(host).read_for_loop(*conn, turns);
    }
    lock(host).write_for_loop(turns);
    any
}

/// Waits until one of these has something to read, or for so long. Which of them have, as far as it is known.
fn readable<'a>(sockets: impl Iterator<Item = BorrowedFd<'a>>, time: PollTimeout) -> Vec<bool> {
    let mut entries: Vec<_> = sockets.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    // It fails when there are more than the process may have: they are looked at all the same, later.
    let _ = poll(&mut entries, time);
    entries.iter().map(|entry| entry.any().unwrap_or(true)).collect()
}
