//! The C ABI of roletalk. What a C programmer needs to know is in `cbindgen.toml` (the introduction of
//! the header) and in the documentation of each function, which cbindgen copies into the header.
//!
//! From the bottom up: [`border`] has what crosses the border and how, [`queue`] runs callbacks, and each of
//! the other modules has the functions of one kind of handle.

pub mod border;
pub mod closure;
pub mod data;
pub mod destination;
pub mod event;
pub mod incoming;
pub mod keep;
pub mod library;
pub mod log;
pub mod operation;
pub mod peer;
pub mod queue;
pub mod role;
pub mod stream;
pub mod task;
pub mod unit;
pub mod wait;
