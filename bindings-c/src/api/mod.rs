//! The exported functions, and the types that only they need: a file, or a folder, for each kind of handle.

// In the order of the header, which the empty lines keep.

pub mod library;

pub mod peer;

pub mod balance;

pub mod retry;

pub mod role;

pub mod context;

pub mod destination;

pub mod operation;

pub mod stream;

pub mod unit;

pub mod identity;

pub mod upgrade;

pub mod event;

pub mod data;

pub mod log;
