//! What the functions run on: threads, waiting, signals, and what is kept of operations that wait.

pub mod keep;
pub mod signals;
pub mod threads;
pub mod wait;
