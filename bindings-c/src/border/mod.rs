//! What crosses the border between C and Rust, and how. Nothing here knows of peers or callbacks.

pub mod enter;
pub mod failure;
pub mod handles;
pub mod headers;
pub mod memory;
pub mod process;
pub mod sized;
pub mod table;
pub mod units;
pub mod values;
