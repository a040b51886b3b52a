//! What the functions run on.

pub mod keep;
pub mod wait;
