//! The C ABI of roletalk. What a C programmer needs to know is in `cbindgen.toml` (the introduction of
//! the header) and in the documentation of each function, which cbindgen copies into the header.
//!
//! From the bottom up: [`border`] has what crosses the border and how, [`callbacks`] is where callbacks wait
//! and run, [`runtime`] has threads and waiting, and each of the other modules has the functions of one kind
//! of handle.

pub mod border;
pub mod callbacks;
pub mod context;
pub mod data;
pub mod destination;
pub mod event;
pub mod library;
pub mod log;
pub mod operation;
pub mod peer;
pub mod role;
pub mod runtime;
pub mod stream;
pub mod unit;
