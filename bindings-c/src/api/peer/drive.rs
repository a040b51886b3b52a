//! A peer's thread for input and output.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use engine::Peer;
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
};

use crate::{border::failure::Failure, callbacks::item::Callbacks, runtime::threads};

/// How long a name lookup that is under way may hold up the end of a peer.
const LOOKUP: Duration = Duration::from_secs(1);

/// How a peer is to end.
pub(super) enum Stop {
    Close,
    /// Finish what runs, within the time, and tell whether it did.
    Drain(Duration, mpsc::Sender<bool>),
}

/// The runtime that such a thread drives.
///
/// # Errors
/// `Status::Io`.
pub(super) fn new_runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        // Name lookups have threads of their own, which whoever listens may start.
        .on_thread_start(|| {
            threads::block_signals();
        })
        .build()
        .map_err(Failure::io)
}

/// The thread that does a peer's input and output, from its beginning to its end.
pub(super) fn drive(
    runtime: Runtime,
    peer: Peer,
    queue: &Arc<Callbacks>,
    stopped: oneshot::Receiver<Stop>,
    release: impl FnOnce(),
) {
    let io = queue.enter_io();
    runtime.block_on(async {
        let inline = queue.is_inline().then(|| tokio::spawn(queue.clone().run_inline()));
        if inline.is_none() {
            tokio::spawn(queue.clone().run_outbox());
        }
        match stopped.await {
            Ok(Stop::Drain(limit, report)) => {
                let finished = peer.drain(limit).await;
                // Whoever asked may not wait for it.
                let _ = report.send(finished);
            }
            Ok(Stop::Close) | Err(_) => peer.close().await,
        }
        drop(peer);
        release();
        if let Some(inline) = inline {
            queue.finish();
            let _ = inline.await;
        }
    });
    runtime.shutdown_timeout(LOOKUP);
    // Hands over the rest.
    drop(io);
    queue.finish();
}
