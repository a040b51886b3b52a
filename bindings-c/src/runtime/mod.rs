//! What the functions run on: threads, waiting, and what is kept of operations that wait.

pub mod keep;
pub mod threads;
pub mod wait;
