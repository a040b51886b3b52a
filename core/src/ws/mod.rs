//! Sans-IO WebSocket: the HTTP upgrade of both sides, then frames, pings and closes.
//!
//! Everything here works on bytes in memory. The host reads them from and writes them to whatever
//! carries the connection:
//!
//! 1. [`Dial`] or [`Accept`] is fed until it gives [`Upgraded`]; bytes behind the HTTP head stay in
//!    the input.
//! 2. [`Socket`] cuts the incoming bytes into [`Incoming`] messages, [`FrameWriter`] appends
//!    outgoing frames to a buffer.
//!
//! The protocol itself is `tungstenite`'s. No subprotocol and no extension is ever in use.

mod frame_writer;
mod socket;
mod upgrade;

pub use frame_writer::FrameWriter;
pub use socket::{Incoming, Socket, WsError};
pub use upgrade::{Accept, Dial, UpgradeError, Upgraded};

/// Which end of the connection this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The dialer. It masks its frames and takes unmasked ones only.
    Client,
    /// The listener. It sends plain frames and takes masked ones only.
    Server,
}

/// Limits of one connection, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WsLimits {
    /// The longest message that is accepted, however many fragments it came in. Default: 100 MiB
    /// (104 857 600), what the original roletalk accepts.
    pub max_message: usize,
    /// The longest HTTP head (request or status line, headers and the blank line) that is accepted.
    /// Default: 16 KiB.
    pub max_upgrade: usize,
}

impl Default for WsLimits {
    fn default() -> Self {
        Self { max_message: 100 * 1024 * 1024, max_upgrade: 16 * 1024 }
    }
}

#[cfg(test)]
mod tests;
