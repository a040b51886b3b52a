//! Notices that the process is the child of a fork, where the library's threads do not exist and its
//! locks may be held by threads that are not there.

use std::sync::{
    OnceLock,
    atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering},
};

use crate::border::failure::{Failure, Status};

/// Says whether the memory is as this process left it.
const UNTOUCHED: u32 = 0;
const OURS: u32 = 1;
const RENEWING: u32 = 2;

/// How a fork is noticed: by a page that the kernel wipes in the child, which costs one load, or by
/// comparing process ids, which costs a system call.
enum Marker {
    Wiped(AtomicPtr<AtomicU32>),
    Pid(AtomicU32),
}

static MARKER: OnceLock<Marker> = OnceLock::new();
/// Counts the forks that this process descends from and that the library has noticed: a part of each
/// handle, so that those of the parent are told from those of the child.
static EPOCH: AtomicU8 = AtomicU8::new(0);

fn marker() -> &'static Marker {
    MARKER.get_or_init(|| match wiped_page() {
        Some(page) => Marker::Wiped(AtomicPtr::new(page)),
        None => Marker::Pid(AtomicU32::new(std::process::id())),
    })
}

#[cfg(target_os = "linux")]
fn wiped_page() -> Option<*mut AtomicU32> {
    const SIZE: usize = 4096;
    // SAFETY: an anonymous mapping of its own, at an address that the kernel chooses, is never
    // anybody else's memory.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the page was mapped above and nobody else knows of it.
    unsafe {
        if libc::madvise(page, SIZE, libc::MADV_WIPEONFORK) != 0 {
            libc::munmap(page, SIZE);
            return None;
        }
        let marker = page.cast::<AtomicU32>();
        (*marker).store(OURS, Ordering::Release);
        Some(marker)
    }
}

#[cfg(not(target_os = "linux"))]
fn wiped_page() -> Option<*mut AtomicU32> {
    None
}

impl Marker {
    /// The word in the page.
    fn word(page: &AtomicPtr<AtomicU32>) -> &AtomicU32 {
        // SAFETY: the page is mapped for as long as the process lives, and a mapped page of zeros, as
        // the kernel leaves it, is a valid `AtomicU32`.
        unsafe { &*page.load(Ordering::Relaxed) }
    }

    fn is_ours(&self) -> bool {
        match self {
            Marker::Wiped(page) => Marker::word(page).load(Ordering::Acquire) == OURS,
            Marker::Pid(pid) => pid.load(Ordering::Acquire) == std::process::id(),
        }
    }
}

/// # Errors
/// [`Status::Forked`] in the child of a fork.
pub(crate) fn check() -> Result<(), Failure> {
    match marker().is_ours() {
        true => Ok(()),
        false => Err(forked()),
    }
}

pub(crate) fn forked() -> Failure {
    Failure::new(
        Status::Forked,
        "The process was forked: the library's threads and connections are the parent's. Make a new \
         peer",
    )
}

/// The part of handles that says which process they are of.
pub(crate) fn epoch() -> u8 {
    EPOCH.load(Ordering::Acquire)
}

/// Lets the child of a fork begin anew. `renew` replaces what the parent's threads may have left
/// locked; it is called by one thread only, while others wait.
pub(crate) fn renew_after_fork(renew: impl FnOnce()) {
    let marker = marker();
    let begin = || match marker {
        Marker::Wiped(page) => {
            let word = Marker::word(page);
            word.compare_exchange(UNTOUCHED, RENEWING, Ordering::AcqRel, Ordering::Acquire).is_ok()
        }
        Marker::Pid(pid) => {
            let (known, own) = (pid.load(Ordering::Acquire), std::process::id());
            known != own
                && known != 0
                && pid.compare_exchange(known, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
        }
    };
    while !marker.is_ours() {
        if begin() {
            EPOCH.fetch_add(1, Ordering::AcqRel);
            renew();
            match marker {
                Marker::Wiped(page) => Marker::word(page).store(OURS, Ordering::Release),
                Marker::Pid(pid) => pid.store(std::process::id(), Ordering::Release),
            }
            return;
        }
        std::thread::yield_now();
    }
}
