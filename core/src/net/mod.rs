//! The tokio host: sockets, TLS, and one task for each connection.

mod dial;
mod drive;
mod handle;
mod linger;
mod listen;
mod options;
mod remote;
mod sync;
mod tls;
mod tls_failure;
mod tls_live;

pub(crate) use dial::dial_task;
pub(crate) use drive::{serve, shown};
pub(crate) use handle::{CloseCommand, ConnHandle};
pub use listen::Listener;
pub(crate) use listen::listen;
pub use options::{ConnectOptions, ListenOptions};
pub use tls::{TlsClient, TlsServer};
pub(crate) use tls_live::AllTls;

use crate::engine::close_code;

impl CloseCommand {
    pub(crate) fn new(code: u16, reason: &str) -> CloseCommand {
        CloseCommand { frames: Vec::new(), code, reason: reason.to_owned(), at_once: false }
    }

    /// The application closes the peer or the unit.
    pub(crate) fn manual() -> CloseCommand {
        CloseCommand::new(close_code::MANUAL, close_code::MANUAL_REASON)
    }
}
