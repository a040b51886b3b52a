//! The fuzz targets of roletalk, as plain functions: `scripts/fuzz.sh` runs them under libFuzzer, and
//! `cargo test -p roletalk-fuzz` on their stored corpus and on mutations of it.
//!
//! A target takes any bytes and returns, or panics with what is wrong. It depends on nothing but its
//! input, so that a failure repeats.

#![forbid(unsafe_code)]

mod fields;
mod frames;
mod handshake;
mod host;
mod input;
mod policy;
mod stream;
mod websocket;

pub use fields::fields;
pub use frames::frames;
pub use handshake::handshake;
pub use policy::policy;
pub use stream::stream;
pub use websocket::websocket;

/// A fuzz target: any bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: [(&str, Target); 6] = [
    ("fields", fields),
    ("frames", frames),
    ("handshake", handshake),
    ("policy", policy),
    ("stream", stream),
    ("websocket", websocket),
];
