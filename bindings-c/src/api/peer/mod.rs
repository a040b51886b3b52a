//! Peers.

// In the order of the header, which the empty lines keep.

pub mod life;

pub mod serve;

pub mod properties;

pub mod policy;

pub mod listener;

pub mod connect;

pub mod tls;

pub mod poll;

mod drive;
pub(super) mod object;
pub mod options;
