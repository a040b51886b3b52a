//! Where a peer's callbacks wait and run.

pub mod closure;
pub mod completion;
pub mod exchange;
pub mod queue;
pub mod task;
