//! The library's threads, which the program's signals do not reach.

use std::thread::JoinHandle;

use crate::border::failure::Failure;

/// Keeps the program's signals from this thread: no handler of theirs runs on it, and no write to a
/// closed socket can kill the process. Gives the mask before. What the thread itself causes still
/// arrives, for crash reporters.
pub(crate) fn block_signals() -> libc::sigset_t {
    const OWN: [i32; 6] =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT];
    // SAFETY: both sets are local variables that the functions fill before they are read.
    unsafe {
        let mut set = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&mut set);
        for signal in OWN {
            libc::sigdelset(&mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut before);
        before
    }
}

/// Starts a thread with [blocked signals](block_signals).
pub(crate) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, Failure> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    let before = block_signals();
    // The new thread has the mask of this one.
    let thread = builder.spawn(body);
    // SAFETY: the mask is a local variable.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    thread.map_err(Failure::io)
}
