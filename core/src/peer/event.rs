//! What happens to a peer.

use std::{
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use futures_core::Stream;
use tokio::sync::{
    broadcast::{
        self,
        error::{RecvError, TryRecvError},
    },
    watch,
};

use super::unit::Unit;
use crate::{Denial, Error};

/// Something that happened to a peer, from [`Peer::events`](crate::Peer::events).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PeerEvent {
    /// A unit connected.
    UnitOpened(Unit),
    /// A unit's last connection closed.
    UnitClosed(Unit),
    /// The first unit that serves a destination's role is there.
    DestinationOpened(Arc<str>),
    /// No unit serves a destination's role any more.
    DestinationClosed(Arc<str>),
    /// A unit serves a destination's role from now on.
    DestinationGained {
        /// The destination's role.
        role: Arc<str>,
        /// The unit.
        unit: Unit,
    },
    /// A unit serves a destination's role no longer.
    DestinationLost {
        /// The destination's role.
        role: Arc<str>,
        /// The unit.
        unit: Unit,
    },
    /// A unit keeps failing, so a destination leaves it out for a while: see [`Balance::eject`](crate::Balance::eject).
    /// Reported at the next choice of a unit.
    UnitEjected {
        /// The destination's role.
        role: Arc<str>,
        /// The unit.
        unit: Unit,
    },
    /// A unit that was left out has recovered. Reported at the next choice of a unit.
    UnitRestored {
        /// The destination's role.
        role: Arc<str>,
        /// The unit.
        unit: Unit,
    },
    /// A unit has made a call, or announced a role, that the [policy](crate::Policy) does not allow. Denied calls are
    /// reported at most once a second for each unit.
    Denied {
        /// The unit; its [identity](Unit::identity) is what the policy goes by.
        unit: Unit,
        /// What it was denied, and how often.
        denial: Denial,
    },
    /// The file of the policy has changed, and what is in it is in force.
    PolicyLoaded {
        /// The file.
        path: Arc<Path>,
    },
    /// The file of the policy has changed, and cannot be used: the policy before stays in force.
    PolicyFailed {
        /// The file.
        path: Arc<Path>,
        /// Why.
        error: Error,
    },
    /// A handshake was refused, by this side or the other.
    AuthRefused {
        /// The reason, in the original's words, with `remote peer rejected auth:` before it when the
        /// other side refused. `The peer has not such proofs: a,b`: the refusing side holds none of
        /// the keys that it was asked for. `Verification ID is not registered: a`: it was proved a key
        /// that it did not ask for. `Preshared key mismatch. Chosen id: a`: same id, different keys.
        reason: String,
    },
    /// An address that was lost, or not reached at first, is connected now; for one that nobody waits
    /// for in [`Peer::connect`](crate::Peer::connect), also when it is reached at once.
    ReconnectSucceeded {
        /// The address.
        address: Arc<str>,
        /// Failed attempts before this one.
        count: u32,
        /// The unit that answered.
        unit: Unit,
    },
    /// An address was dialed again in vain, or for the first time when nobody waits for it in
    /// [`Peer::connect`](crate::Peer::connect). It is tried further, unless it was to be dialed
    /// [once](crate::ConnectOptions::once).
    ReconnectFailed {
        /// The address.
        address: Arc<str>,
        /// Failed attempts before this one.
        count: u32,
        /// Why.
        error: Error,
    },
    /// A connection closed. Others of the unit may still be open.
    ConnectionClosed {
        /// The unit, when its handshake had been done.
        unit: Option<Unit>,
        /// Why.
        reason: Error,
    },
    /// Something came that the protocol does not allow. That one connection is closed.
    BadInput {
        /// The unit, when its handshake had been done.
        unit: Option<Unit>,
        /// What it was.
        error: Error,
    },
    /// A unit takes no data although much is queued for it, or sends more than the handlers can do.
    SlowConsumer {
        /// The unit.
        unit: Unit,
        /// Bytes that wait to be written on the connection.
        queued: usize,
        /// Messages and requests of the unit that had to be dropped or rejected so far.
        dropped: u64,
    },
    /// The handler of a message failed, or that of a stream after it had accepted it, or any handler
    /// panicked. The connection stays.
    HandlerFailed {
        /// The unit whose message it was.
        unit: Unit,
        /// The role that it was for.
        role: Arc<str>,
        /// The event that the handler was set for.
        event: Arc<str>,
        /// What the handler said.
        error: Error,
    },
    /// TLS settings that this peer listens or dials with have changed, through their files or a call. Several changes
    /// in quick succession may be reported as one.
    TlsReloaded {
        /// When they expire, if that is known.
        expires: Option<SystemTime>,
    },
    /// Files of TLS settings that are [watched](crate::TlsServer::watch) have changed, and cannot be used. What was in
    /// force stays. Reported once for each change.
    TlsReloadFailed {
        /// Which files, and what is wrong with them.
        error: Error,
    },
    /// Connections could not be accepted for want of file descriptors or memory
    /// ([`ErrorKind::Io`](crate::ErrorKind::Io)), or unauthenticated connections were evicted
    /// ([`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded)): see [`Limits::handshakes`](crate::Limits). The peer
    /// goes on accepting as soon as it can. Reported at most once a second for each of the two.
    AcceptFailed {
        /// What is lacking, with a hint.
        error: Error,
    },
    /// This subscriber was too slow and has missed some events.
    Missed(u64),
}

/// A subscription to a peer's events: a [`Stream`] that ends when the peer has closed, after the last event.
///
/// It sees what happens from its creation on. When it lags more than a thousand events behind, the
/// oldest are replaced by one [`PeerEvent::Missed`].
pub struct Events {
    state: Pin<Box<dyn Stream<Item = PeerEvent> + Send>>,
}

impl Events {
    pub(crate) fn new(
        receiver: broadcast::Receiver<PeerEvent>,
        ended: watch::Receiver<bool>,
    ) -> Events {
        let state =
            futures_util::stream::unfold((receiver, ended), |(mut receiver, mut ended)| async {
                let next = tokio::select! {
                    biased;
                    next = receiver.recv() => next.map_err(|error| match error {
                        RecvError::Lagged(missed) => TryRecvError::Lagged(missed),
                        RecvError::Closed => TryRecvError::Closed,
                    }),
                    // Nothing comes any more: what is left was there before.
                    _ = ended.wait_for(|ended| *ended) => receiver.try_recv(),
                };
                let event = match next {
                    Ok(event) => event,
                    Err(TryRecvError::Lagged(missed)) => PeerEvent::Missed(missed),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
                };
                Some((event, (receiver, ended)))
            });
        Events { state: Box::pin(state) }
    }

    /// The next event; none when the peer has closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<PeerEvent> {
        std::future::poll_fn(|cx| self.state.as_mut().poll_next(cx)).await
    }
}

impl Stream for Events {
    type Item = PeerEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PeerEvent>> {
        self.state.as_mut().poll_next(cx)
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}
