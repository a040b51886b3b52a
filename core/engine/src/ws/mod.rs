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
mod header;
mod socket;
mod upgrade;

pub use frame_writer::FrameWriter;
pub use header::Header;
pub(crate) use header::messages;
pub use socket::{Incoming, Socket, WsError};
pub use upgrade::{Accept, Denied, Dial, UpgradeError, Upgraded};

/// Which end of the connection this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The dialer. It masks its frames and takes unmasked ones only.
    Client,
    /// The listener. It sends plain frames and takes masked ones only.
    Server,
}

/// The value of `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`, for servers that do the
/// upgrade themselves.
pub fn accept_key(key: &str) -> String {
    tungstenite::handshake::derive_accept_key(key.as_bytes())
}

#[cfg(test)]
mod tests;
