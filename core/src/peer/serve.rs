//! Serving until a signal.

use std::{io, time::Duration};

use tracing::info;

use super::Peer;
use crate::{Error, ErrorKind, Result, engine::DRAIN_LIMIT};

impl Peer {
    /// Serves until the process gets SIGINT or SIGTERM (on Windows: Ctrl-C) or somebody closes the peer,
    /// then [drains](Peer::drain) for at most ten seconds. True when everything had finished.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> roletalk::Result<()> {
    /// let peer = roletalk::Peer::builder().name("worker").build()?;
    /// peer.role("echo")?.on_request("say", |ctx| async move {
    ///     Ok(ctx.into_data())
    /// });
    /// peer.listen("127.0.0.1:9000").await?;
    /// peer.serve().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// The first signal goes to all peers that serve, and begins the draining. From then on, and when this
    /// has returned or its future is dropped, both signals have their default action: the second one ends
    /// the process, whatever it is at, and whoever else listens for it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when signals cannot be listened for: the peer goes on.
    pub async fn serve(&self) -> Result<bool> {
        self.serve_with(DRAIN_LIMIT).await
    }

    /// As [`serve`](Peer::serve), with another limit for the draining.
    ///
    /// # Errors
    /// As there.
    pub async fn serve_with(&self, limit: Duration) -> Result<bool> {
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Io, format!("Signals cannot be listened for: {error}"))
        };
        let shared = self.shared();
        let mut signals = {
            let _runtime = shared.runtime.enter();
            Signals::listen().map_err(failed)?
        };
        let first = async {
            tokio::select! {
                () = self.closed() => None,
                signal = signals.next() => Some(signal),
            }
        };
        if let Some(signal) = shared.on_runtime(first).await {
            info!(peer = %shared.id, signal, ?limit, "draining");
        }
        Ok(self.drain(limit).await)
    }
}

#[cfg(unix)]
mod unix {
    use std::{
        io,
        sync::{
            Arc, Mutex,
            atomic::{AtomicBool, Ordering},
        },
    };

    use signal_hook::{
        consts::{SIGINT, SIGTERM},
        flag,
    };
    use tokio::signal::unix::{Signal, SignalKind, signal};

    use crate::peer::lock;

    /// The peers of this process that serve.
    struct Serving {
        peers: usize,
        /// While it is true, signals have their default action. Made with the first peer: what is
        /// registered for a signal stays for as long as the process lives.
        default: Option<Arc<AtomicBool>>,
    }

    static SERVING: Mutex<Serving> = Mutex::new(Serving { peers: 0, default: None });

    fn register() -> io::Result<Arc<AtomicBool>> {
        let default = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal makes the second one end the process, in the signal's handler
            // itself, so that nothing that blocks the runtime keeps it from doing so.
            flag::register_conditional_default(signal, default.clone())?;
            flag::register(signal, default.clone())?;
        }
        Ok(default)
    }

    /// Both signals.
    pub(super) struct Signals {
        interrupt: Signal,
        terminate: Signal,
    }

    impl Signals {
        pub(super) fn listen() -> io::Result<Signals> {
            let mut serving = lock(&SERVING);
            let default = match serving.default.take() {
                Some(default) => default,
                None => register()?,
            };
            let default = serving.default.insert(default);
            let signals = Signals {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            };
            default.store(false, Ordering::SeqCst);
            serving.peers += 1;
            Ok(signals)
        }

        /// The name of the next one.
        pub(super) async fn next(&mut self) -> &'static str {
            tokio::select! {
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.terminate.recv() => "SIGTERM",
            }
        }
    }

    impl Drop for Signals {
        fn drop(&mut self) {
            let mut serving = lock(&SERVING);
            serving.peers -= 1;
            if let (0, Some(default)) = (serving.peers, &serving.default) {
                default.store(true, Ordering::SeqCst);
            }
        }
    }
}

#[cfg(unix)]
use unix::Signals;

/// Ctrl-C.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals)
    }

    async fn next(&mut self) -> &'static str {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::spawn(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                // What Windows says of a process that Ctrl-C has ended.
                std::process::exit(0xC000_013A_u32 as i32);
            }
        });
        "Ctrl-C"
    }
}
