//! SIGINT and SIGTERM, for those who wait for them, and only as long as somebody does.

use std::{
    io::Read,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    ptr::null_mut,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};

use crate::border::failure::Failure;

const SIGNALS: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

/// What those who wait share.
struct Waiting {
    /// How many they are.
    count: usize,
    /// What the program does on these signals otherwise.
    before: Option<[libc::sigaction; 2]>,
    /// What the handler writes to: a byte is in it when a signal has come. Kept, since a handler may be at
    /// work on another thread; a process that was forked makes one of its own.
    pipe: Option<(UnixStream, UnixStream)>,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { count: 0, before: None, pipe: None });
/// For the handler: the writing end of the pipe, and the process whose that is.
static WRITER: AtomicI32 = AtomicI32::new(-1);
static PROCESS: AtomicI32 = AtomicI32::new(0);

fn lock() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn action(handler: libc::sighandler_t) -> libc::sigaction {
    // SAFETY: all zero is a value of this struct: no handler, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    // What other threads are waiting for goes on.
    action.sa_flags = libc::SA_RESTART;
    action
}

fn own_handler() -> libc::sighandler_t {
    on_signal as extern "C" fn(i32) as libc::sighandler_t
}

/// Only calls what may be called in a handler.
extern "C" fn on_signal(signal: i32) {
    // SAFETY: `getpid`, `sigaction`, `raise` and `write` are made for handlers, and get what they demand.
    unsafe {
        let errno = errno();
        let default = action(libc::SIG_DFL);
        if libc::getpid() == PROCESS.load(Ordering::SeqCst) {
            // The second one ends the process, whatever that is at.
            for signal in SIGNALS {
                libc::sigaction(signal, &default, null_mut());
            }
            libc::write(WRITER.load(Ordering::SeqCst), [1u8].as_ptr().cast(), 1);
        } else {
            // In the child of a fork, which waits for nothing: as if there was no handler.
            libc::sigaction(signal, &default, null_mut());
            libc::raise(signal);
        }
        set_errno(errno);
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
unsafe fn errno_location() -> *mut i32 {
    // SAFETY: it demands nothing.
    unsafe { libc::__errno_location() }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
unsafe fn errno_location() -> *mut i32 {
    // SAFETY: it demands nothing.
    unsafe { libc::__error() }
}

unsafe fn errno() -> i32 {
    // SAFETY: this thread's own.
    unsafe { *errno_location() }
}

unsafe fn set_errno(errno: i32) {
    // SAFETY: this thread's own.
    unsafe { *errno_location() = errno };
}

/// Somebody who waits for a signal. Those of the process go to all who do. When the last one is gone, the
/// program's handlers are what they were.
pub(crate) struct Signals(());

impl Signals {
    /// # Errors
    /// `Status::Io`.
    pub(crate) fn listen() -> Result<Signals, Failure> {
        let mut waiting = lock();
        // SAFETY: it demands nothing.
        let process = unsafe { libc::getpid() };
        if PROCESS.swap(process, Ordering::SeqCst) != process {
            // Those of the parent: nobody waits here, and its pipe is its own.
            waiting.count = 0;
            waiting.before = None;
            waiting.pipe = None;
        }
        if waiting.pipe.is_none() {
            let (reader, writer) = UnixStream::pair().map_err(Failure::io)?;
            reader.set_nonblocking(true).map_err(Failure::io)?;
            writer.set_nonblocking(true).map_err(Failure::io)?;
            WRITER.store(writer.as_raw_fd(), Ordering::SeqCst);
            waiting.pipe = Some((reader, writer));
        }
        if waiting.count == 0 {
            if let Some((reader, _)) = &mut waiting.pipe {
                // What came when nobody waited any more.
                while matches!(reader.read(&mut [0; 64]), Ok(1..)) {}
            }
            let own = action(own_handler());
            let mut before = [action(libc::SIG_DFL); 2];
            for (signal, before) in SIGNALS.into_iter().zip(&mut before) {
                // SAFETY: both structs are local variables.
                if unsafe { libc::sigaction(signal, &own, before) } != 0 {
                    return Err(Failure::io(std::io::Error::last_os_error()));
                }
            }
            waiting.before = Some(before);
        }
        waiting.count += 1;
        Ok(Signals(()))
    }

    /// What is readable when a signal has come. Nobody reads it.
    pub(crate) fn fd(&self) -> RawFd {
        lock().pipe.as_ref().map_or(-1, |(reader, _)| reader.as_raw_fd())
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let mut waiting = lock();
        waiting.count = waiting.count.saturating_sub(1);
        if waiting.count > 0 {
            return;
        }
        for (signal, before) in SIGNALS.into_iter().zip(waiting.before.take().into_iter().flatten())
        {
            let mut now = action(libc::SIG_DFL);
            // SAFETY: all structs are local variables.
            unsafe {
                libc::sigaction(signal, std::ptr::null(), &mut now);
                // Another one is what the program has set meanwhile.
                if [own_handler(), libc::SIG_DFL].contains(&now.sa_sigaction) {
                    libc::sigaction(signal, &before, null_mut());
                }
            }
        }
    }
}
