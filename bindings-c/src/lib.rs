//! The C ABI of roletalk. What a C programmer needs to know is in `cbindgen.toml` (the introduction of
//! the header) and in the documentation of each function, which cbindgen copies into the header.
//!
//! From the bottom up: [`border`] has what crosses the border and how, [`callbacks`] is where callbacks wait
//! and run, [`runtime`] has threads and waiting, and [`api`] the functions, by the kind of their handle.

pub mod api;
pub mod border;
pub mod callbacks;
pub mod runtime;
mod sync;
