//! What the threads that share a queue wait and tell with: in models, loom's.

#[cfg(all(test, loom))]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
#[cfg(not(all(test, loom)))]
pub(crate) use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread_local,
};

/// As std's, whose constants loom's macro does not know.
#[cfg(all(test, loom))]
macro_rules! const_thread_local {
    ($(#[$attribute:meta])* static $name:ident: $type:ty = const $init:block;) => {
        loom::thread_local! {
            $(#[$attribute])* static $name: $type = $init;
        }
    };
}
#[cfg(all(test, loom))]
pub(crate) use const_thread_local as thread_local;
