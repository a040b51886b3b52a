//! A peer's thread for input and output.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use engine::Peer;
use tokio::{
    runtime::{Builder, Handle, Runtime},
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
fn new_runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        // Name lookups have threads of their own, which whoever listens may start.
        .on_thread_start(|| {
            threads::block_signals();
        })
        .build()
        .map_err(Failure::io)
}

/// What such a thread is given to do.
pub(super) struct Work {
    pub(super) peer: Peer,
    pub(super) queue: Arc<Callbacks>,
    pub(super) stopped: oneshot::Receiver<Stop>,
    /// What is let go of when the peer has closed.
    pub(super) release: Box<dyn FnOnce() + Send>,
}

/// A thread whose runtime is there, and which waits for its work.
pub(super) struct IoThread {
    pub(super) runtime: Handle,
    pub(super) thread: JoinHandle<()>,
    work: oneshot::Sender<Work>,
}

impl IoThread {
    /// The runtime is made by its own thread: tokio asks for the current one, and what std makes for a
    /// thread of the program's then is taken for lost by memory checkers.
    ///
    /// # Errors
    /// `Status::Io`.
    pub(super) fn start() -> Result<IoThread, Failure> {
        let made = Arc::new((Mutex::new(None), Condvar::new()));
        let make = made.clone();
        let (sender, work) = oneshot::channel();
        let thread = threads::spawn("roletalk-io", move || {
            let (slot, there) = &*make;
            let (runtime, outcome) = match new_runtime() {
                Ok(runtime) => {
                    let handle = runtime.handle().clone();
                    (Some(runtime), Ok(handle))
                }
                Err(failure) => (None, Err(failure)),
            };
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            there.notify_one();
            let Some(runtime) = runtime else { return };
            // It does not come when the peer could not be made.
            if let Ok(work) = runtime.block_on(work) {
                drive(runtime, work);
            }
        })?;
        let (slot, there) = &*made;
        let mut outcome = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = loop {
            match outcome.take() {
                Some(outcome) => break outcome?,
                None => outcome = there.wait(outcome).unwrap_or_else(PoisonError::into_inner),
            }
        };
        Ok(IoThread { runtime, thread, work: sender })
    }

    /// Begins.
    pub(super) fn run(self, work: Work) -> JoinHandle<()> {
        // The thread waits for it.
        let _ = self.work.send(work);
        self.thread
    }
}

/// Does a peer's input and output, from its beginning to its end.
fn drive(runtime: Runtime, work: Work) {
    let Work { peer, queue, stopped, release } = work;
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
