//! The C ABI of roletalk. What a C programmer needs to know is in `cbindgen.toml` (the introduction of
//! the header) and in the documentation of each function, which cbindgen copies into the header.
//!
//! From the bottom up: [`process`] notices forks, [`table`] turns handles into objects, [`status`]
//! is the border that no panic crosses, [`queue`] runs callbacks, and each of the other modules has
//! the functions of one kind of handle.

pub mod closure;
pub mod data;
pub mod destination;
pub mod event;
pub mod incoming;
pub mod keep;
pub mod log;
pub mod operation;
pub mod options;
pub mod peer;
pub mod process;
pub mod queue;
pub mod role;
pub mod status;
pub mod stream;
pub mod table;
pub mod task;
pub mod types;
pub mod unit;
pub mod wait;
