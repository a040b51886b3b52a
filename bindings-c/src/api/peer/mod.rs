//! Peers: their threads, what they own, how they listen and connect.

use std::{
    collections::HashMap,
    ffi::c_char,
    os::raw::c_void,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use engine::{ConnectOptions, Limits, ListenOptions, Peer, TlsClient, TlsServer};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

use crate::{
    api::{destination::DestinationObject, operation::start, role::RoleObject, unit},
    border::{
        enter::{enter, enter_any},
        failure::{Failure, Status, roletalk_status},
        handles::{
            roletalk_destination, roletalk_listener, roletalk_operation, roletalk_peer,
            roletalk_role, roletalk_unit,
        },
        memory::{check_optional, check_out, copy_text, elements, put, put_optional},
        process,
        sized::{self, read_or_default, sized},
        table, units,
        values::{roletalk_pair, roletalk_string},
    },
    callbacks::{
        closure::Closure,
        completion::{Completion, Outcome, invoke_reply, roletalk_reply_handler},
        exchange::{Layers, roletalk_incoming_handler},
        frame,
        item::Callbacks,
        queue::Way,
    },
    runtime::{
        keep::Keep,
        threads,
        wait::{Limit, block_on, check_may_wait},
    },
};

/// How long a name lookup that is under way may hold up the end of a peer.
const LOOKUP: Duration = Duration::from_secs(1);

/// Bounds on what a peer holds and how long it waits. 0 stands for the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_limits {
    /// sizeof(roletalk_limits).
    pub struct_size: usize,
    /// Bytes of one message, sent or received. Default 100 MiB. Sending more is
    /// ROLETALK_STATUS_TOO_LARGE; receiving more closes the connection.
    pub message_size: u64,
    /// Bytes of one message before the connection is authenticated. Default 1 MiB.
    pub handshake_message_size: u64,
    /// Bytes of the HTTP head of an upgrade. Default 16 KiB.
    pub upgrade_size: u64,
    /// Milliseconds for the upgrade and the handshake together. Default 4 000.
    pub handshake_timeout_ms: u64,
    /// Accepted connections that have not finished their handshake. Default 1 024; further ones are
    /// dropped.
    pub handshakes: u64,
    /// Connected units. Default 65 536; the handshake of a further one is refused.
    pub units: u64,
    /// Connections of one unit. Default 16; the handshake of a further one is refused.
    pub connections_per_unit: u64,
    /// Requests to one unit that wait for an answer. Default 65 536; further ones are
    /// ROLETALK_STATUS_OVERLOADED.
    pub waiting_requests: u64,
    /// Requests and messages of one unit whose handlers are running or wait for their turn, also for the
    /// dispatch thread and for roletalk_peer_poll, deferred contexts included. Default 65 536; further
    /// ones wait. If no handler ends for a second, requests are rejected and messages dropped, counted
    /// and reported.
    pub running_handlers: u64,
    /// Bytes that wait to be written to one connection. Default 1 MiB; at the bound, sending waits.
    pub queue_per_connection: u64,
    /// Bytes that wait to be written to all connections. Default 256 MiB; as above. As many again may be
    /// kept for what was asked without waiting and has to wait for room; beyond that such calls are
    /// ROLETALK_STATUS_OVERLOADED.
    pub queue_per_peer: u64,
    /// Open streams with one unit. Default 4 096; further ones are ROLETALK_STATUS_OVERLOADED.
    pub streams: u64,
    /// Bytes of one stream that are held unread. Default 1 MiB.
    pub stream_window: u64,
    /// Bytes of one stream that are held unread when the sender does not keep to its quota, as the
    /// originals may. Default 16 MiB; over it the stream is broken off.
    pub stream_overrun: u64,
    /// Milliseconds for an answer, when the request does not say. Default 300 000.
    pub request_timeout_ms: u64,
    /// Addresses learned by acquaintance that are being dialed at the same time. Default 16.
    pub acquaintance_dials: u64,
    /// Addresses learned by acquaintance that are remembered. Default 1 024.
    pub acquaintance_addresses: u64,
    /// Milliseconds that an address learned by acquaintance is tried in vain. Default 120 000.
    pub acquaintance_patience_ms: u64,
    /// Bytes that the running handlers of one unit were called with, deferred contexts and what waits for
    /// the dispatch thread or roletalk_peer_poll included. Default 256 MiB; the bound as for
    /// running_handlers. What comes with the same read may go over.
    pub running_bytes: u64,
    /// Bytes that all streams of a unit hold unread beyond their windows. Default 256 MiB; a stream that
    /// would need more is broken off.
    pub overrun_per_unit: u64,
}

impl roletalk_limits {
    fn apply(&self, limits: &mut Limits) {
        fn set(to: &mut usize, from: u64) {
            if from != 0 {
                *to = usize::try_from(from).unwrap_or(usize::MAX);
            }
        }
        fn set_time(to: &mut Duration, from: u64) {
            if from != 0 {
                *to = Duration::from_millis(from);
            }
        }
        set(&mut limits.message_size, self.message_size);
        set(&mut limits.handshake_message_size, self.handshake_message_size);
        set(&mut limits.upgrade_size, self.upgrade_size);
        set_time(&mut limits.handshake_timeout, self.handshake_timeout_ms);
        set(&mut limits.handshakes, self.handshakes);
        set(&mut limits.units, self.units);
        set(&mut limits.connections_per_unit, self.connections_per_unit);
        set(&mut limits.waiting_requests, self.waiting_requests);
        set(&mut limits.running_handlers, self.running_handlers);
        set(&mut limits.queue_per_connection, self.queue_per_connection);
        set(&mut limits.queue_per_peer, self.queue_per_peer);
        set(&mut limits.streams, self.streams);
        set(&mut limits.stream_window, self.stream_window);
        set(&mut limits.stream_overrun, self.stream_overrun);
        set_time(&mut limits.request_timeout, self.request_timeout_ms);
        set(&mut limits.acquaintance_dials, self.acquaintance_dials);
        set(&mut limits.acquaintance_addresses, self.acquaintance_addresses);
        set_time(&mut limits.acquaintance_patience, self.acquaintance_patience_ms);
        set(&mut limits.running_bytes, self.running_bytes);
        set(&mut limits.overrun_per_unit, self.overrun_per_unit);
    }
}

/// How to connect. All zero but the size: dial again whenever the connection is lost, verify
/// certificates against the system's roots.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_connect_options {
    /// sizeof(roletalk_connect_options).
    pub struct_size: usize,
    /// Not 0: connect once; a failure or a loss is final.
    pub once: i32,
    /// Not 0: accept any certificate. Whoever can reach the wire can then read and change everything:
    /// only for tests.
    pub danger_accept_any_certificate: i32,
    /// Milliseconds for name lookup, TCP and TLS together. 0 stands for 10 000.
    pub timeout_ms: u64,
    /// Headers for the upgrade, such as Authorization.
    pub headers: *const roletalk_pair,
    /// How many headers.
    pub header_count: usize,
    /// PEM: authorities to trust instead of the system's.
    pub tls_ca: roletalk_string,
    /// PEM: the certificate chain to show, leaf first, with `tls_key`.
    pub tls_certificates: roletalk_string,
    /// PEM: the private key of `tls_certificates`.
    pub tls_key: roletalk_string,
    /// The name to expect in the certificate instead of the address's host.
    pub tls_server_name: roletalk_string,
}

impl roletalk_connect_options {
    /// # Safety
    /// The pointers are as the header demands.
    unsafe fn get(&self) -> Result<ConnectOptions, Failure> {
        let mut options = ConnectOptions::new();
        if self.once != 0 {
            options = options.once();
        }
        if self.timeout_ms != 0 {
            options = options.timeout(Duration::from_millis(self.timeout_ms));
        }
        // SAFETY: the caller's promise, here and below.
        for header in unsafe { elements(self.headers, self.header_count, "headers") }? {
            // SAFETY: as above.
            let (name, value) = unsafe { (header.key.get("key")?, header.value.get("value")?) };
            options = options.header(name, value)?;
        }
        let mut tls = TlsClient::new();
        // SAFETY: as above.
        let (ca, certificates, key, name) = unsafe {
            (
                self.tls_ca.get("tls_ca")?,
                self.tls_certificates.get("tls_certificates")?,
                self.tls_key.get("tls_key")?,
                self.tls_server_name.get("tls_server_name")?,
            )
        };
        if !ca.is_empty() {
            tls = tls.ca(ca);
        }
        if !certificates.is_empty() || !key.is_empty() {
            tls = tls.identity(certificates, key);
        }
        if !name.is_empty() {
            tls = tls.server_name(name);
        }
        if self.danger_accept_any_certificate != 0 {
            tls = tls.danger_accept_any_certificate();
        }
        Ok(options.tls(tls))
    }
}

/// How to listen. All zero but the size: plain TCP, any path.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_listen_options {
    /// sizeof(roletalk_listen_options).
    pub struct_size: usize,
    /// Serve only upgrades to this path, such as `/rt`; others get 400.
    pub path: roletalk_string,
    /// PEM: serve TLS (`wss`) with this certificate chain, leaf first, and `tls_key`.
    pub tls_certificates: roletalk_string,
    /// PEM: the private key of `tls_certificates`.
    pub tls_key: roletalk_string,
    /// PEM: only clients with a certificate that one of these authorities has signed get in.
    pub tls_client_ca: roletalk_string,
}

impl roletalk_listen_options {
    /// # Safety
    /// The pointers are as the header demands.
    unsafe fn get(&self) -> Result<ListenOptions, Failure> {
        // SAFETY: the caller's promise.
        let (path, certificates, key, client_ca) = unsafe {
            (
                self.path.get("path")?,
                self.tls_certificates.get("tls_certificates")?,
                self.tls_key.get("tls_key")?,
                self.tls_client_ca.get("tls_client_ca")?,
            )
        };
        let mut options = ListenOptions::new();
        if !path.is_empty() {
            options = options.path(path);
        }
        let (certificates, key) = (certificates.as_bytes(), key.as_bytes());
        if client_ca.is_empty() && certificates.is_empty() && key.is_empty() {
            return Ok(options);
        }
        Ok(options.tls(match client_ca.is_empty() {
            true => TlsServer::from_pem(certificates, key)?,
            false => TlsServer::with_client_ca(certificates, key, client_ca.as_bytes())?,
        }))
    }
}

/// Callbacks of the dispatch thread may block: heartbeats and other traffic go on meanwhile.
pub const ROLETALK_CALLBACKS_THREAD: i32 = 0;
/// Callbacks run right on the thread that does the peer's input and output: the fastest way, for
/// callbacks that never wait. Blocking calls return ROLETALK_STATUS_WOULD_DEADLOCK there.
pub const ROLETALK_CALLBACKS_INLINE: i32 = 1;
/// Callbacks run only inside roletalk_peer_poll, which the program calls when roletalk_peer_fd is readable.
pub const ROLETALK_CALLBACKS_POLL: i32 = 2;

/// # Errors
/// `Status::InvalidArgument` for an unknown way.
fn way_from(callbacks: i32) -> Result<Way, Failure> {
    match callbacks {
        ROLETALK_CALLBACKS_THREAD => Ok(Way::Thread),
        ROLETALK_CALLBACKS_INLINE => Ok(Way::Inline),
        ROLETALK_CALLBACKS_POLL => Ok(Way::Poll),
        other => Err(Failure::invalid(format!("there is no way {other} to run callbacks"))),
    }
}

/// How to make a peer. All zero but the size: no name, no keys, friendly, callbacks on a thread of the
/// library's.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_peer_options {
    /// sizeof(roletalk_peer_options).
    pub struct_size: usize,
    /// The name shown to others.
    pub name: roletalk_string,
    /// Static tags shown to others.
    pub tags: *const roletalk_pair,
    /// How many tags.
    pub tag_count: usize,
    /// Preshared keys, id and key: only peers that share one get in. Offered in this order.
    pub keys: *const roletalk_pair,
    /// How many keys.
    pub key_count: usize,
    /// Not 0: takes no part in acquaintance.
    pub unfriendly: i32,
    /// Where callbacks run: ROLETALK_CALLBACKS_THREAD, ROLETALK_CALLBACKS_INLINE or ROLETALK_CALLBACKS_POLL.
    pub callbacks: i32,
    /// Bounds; NULL for the defaults.
    pub limits: *const roletalk_limits,
    /// Milliseconds between two attempts to reach a lost address, at most. 0 stands for 60 000.
    pub reconnect_cap_ms: u64,
    /// The share of each wait that is random, from 0 to 1.
    pub reconnect_jitter: f64,
    /// How to connect to the addresses that other units tell; NULL for the defaults.
    pub acquaintance: *const roletalk_connect_options,
}

/// Counters of a peer. Set `struct_size` before.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_peer_stats {
    /// sizeof(roletalk_peer_stats).
    pub struct_size: usize,
    /// Connected units.
    pub units: u64,
    /// Accepted connections whose handshake is under way.
    pub handshakes: u64,
    /// Bytes that wait to be written on all connections.
    pub queued: u64,
    /// Addresses that were connected again after a loss, or after failures.
    pub reconnects: u64,
}

sized!(
    roletalk_limits roletalk_connect_options roletalk_listen_options roletalk_peer_options
    roletalk_peer_stats
);

pub(crate) struct PeerObject {
    pub(crate) peer: Peer,
    pub(crate) queue: Arc<Callbacks>,
    keep: Arc<Keep>,
    runtime: Handle,
    layers: Arc<Layers>,
    owned: Arc<Mutex<Owned>>,
    stop: Mutex<Option<oneshot::Sender<Stop>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Handles that end with the peer.
#[derive(Default)]
struct Owned {
    roles: HashMap<String, roletalk_role>,
    destinations: HashMap<String, roletalk_destination>,
    listeners: Vec<roletalk_listener>,
    closed: bool,
}

impl Owned {
    /// Lets go of all. What it gives is to be dropped without the lock.
    fn close(&mut self) -> Owned {
        let owned = std::mem::take(self);
        self.closed = true;
        owned
    }

    fn remove_all(self) {
        for role in self.roles.into_values() {
            let _ = table::remove::<RoleObject>(role.id);
        }
        for destination in self.destinations.into_values() {
            let _ = table::remove::<DestinationObject>(destination.id);
        }
        for listener in self.listeners {
            let _ = table::remove::<ListenerObject>(listener.id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a peer is to end.
enum Stop {
    Close,
    /// Finish what runs, within the time, and tell whether it did.
    Drain(Duration, mpsc::Sender<bool>),
}

fn io_error(error: std::io::Error) -> Failure {
    Failure::new(Status::Io, error.to_string())
}

impl PeerObject {
    fn new(
        peer: Peer,
        runtime: Runtime,
        queue: Arc<Callbacks>,
        keep: Arc<Keep>,
    ) -> Result<PeerObject, Failure> {
        let (stop, stopped) = oneshot::channel();
        let object = PeerObject {
            peer: peer.clone(),
            queue: queue.clone(),
            keep,
            runtime: runtime.handle().clone(),
            layers: Arc::default(),
            owned: Arc::default(),
            stop: Mutex::new(Some(stop)),
            threads: Mutex::default(),
        };
        let (owned, layers) = (object.owned.clone(), object.layers.clone());
        let mut threads = Vec::new();
        let io_queue = queue.clone();
        threads.push(threads::spawn("roletalk-io", move || {
            drive(runtime, peer, &io_queue, stopped, || {
                let owned = lock(&owned).close();
                owned.remove_all();
                layers.clear();
            });
        })?);
        if queue.has_thread() {
            match threads::spawn("roletalk-calls", move || queue.run_thread()) {
                Ok(thread) => threads.push(thread),
                // The other one ends, since `stop` is dropped.
                Err(failure) => return Err(failure),
            }
        }
        *lock(&object.threads) = threads;
        Ok(object)
    }

    /// Ends the peer, if nobody has done so yet, and waits unless this is a callback.
    fn end(&self, stop: Stop) {
        if let Some(sender) = lock(&self.stop).take() {
            let _ = sender.send(stop);
        }
        if frame::in_callback() {
            return;
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            let _ = thread.join();
        }
        if self.queue.is_polled() {
            self.queue.run_rest();
        }
    }

    fn is_ending(&self) -> bool {
        lock(&self.stop).is_none()
    }

    /// Waits for something that needs the peer's runtime.
    fn wait<T>(&self, limit: Limit, future: impl Future<Output = T>) -> Result<T, Failure> {
        block_on(Some(&self.runtime), limit, future)
    }

    fn owned(&self) -> Result<MutexGuard<'_, Owned>, Failure> {
        let owned = lock(&self.owned);
        match owned.closed {
            false => Ok(owned),
            true => Err(Failure::new(Status::Closed, "The peer is closed")),
        }
    }
}

/// The thread that does a peer's input and output, from its beginning to its end.
fn drive(
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

/// Makes a peer and starts its threads. `options` may be NULL. The caller closes it with roletalk_peer_close.
/// Works in the child of a fork, too: all handles of the parent's are invalid there.
///
/// Errors: ROLETALK_STATUS_IO, ROLETALK_STATUS_TLS. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_new(
    options: *const roletalk_peer_options,
    peer: *mut roletalk_peer,
) -> roletalk_status {
    enter_any(|| {
        check_out(peer, "peer")?;
        process::renew_after_fork(|| {
            table::renew();
            frame::leave_all();
        });
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let options = unsafe { read_or_default(options) }?;
        let queue = Callbacks::new(way_from(options.callbacks)?)?;
        let mut builder = Peer::builder().friendly(options.unfriendly == 0);
        let mut limits = Limits::default();
        // SAFETY: as above.
        unsafe {
            builder = builder.name(options.name.get("name")?);
            for tag in elements(options.tags, options.tag_count, "tags")? {
                builder = builder.tag(tag.key.get("key")?, tag.value.get("value")?);
            }
            for key in elements(options.keys, options.key_count, "keys")? {
                builder = builder.preshared_key(key.key.get("key")?, key.value.get("value")?);
            }
            if let Some(given) = sized::read(options.limits)? {
                given.apply(&mut limits);
                builder = builder.limits(|to| given.apply(to));
            }
            if let Some(acquaintance) = sized::read(options.acquaintance)? {
                builder = builder.acquaintance_options(acquaintance.get()?);
            }
        }
        if !(0.0..=1.0).contains(&options.reconnect_jitter) {
            return Err(Failure::invalid("reconnect_jitter is not between 0 and 1"));
        }
        builder = builder.reconnect(|reconnect| {
            reconnect.jitter = options.reconnect_jitter;
            if options.reconnect_cap_ms != 0 {
                reconnect.cap = Duration::from_millis(options.reconnect_cap_ms);
            }
        });
        let runtime = Builder::new_current_thread()
            .enable_all()
            // Name lookups have threads of their own, which whoever listens may start.
            .on_thread_start(|| {
                threads::block_signals();
            })
            .build()
            .map_err(io_error)?;
        let built = {
            let _runtime = runtime.enter();
            builder.build()
        };
        let built = match built {
            Ok(built) => built,
            Err(error) => {
                // Dropping it would wait, which an inline callback must not.
                runtime.shutdown_background();
                return Err(error.into());
            }
        };
        let id = table::insert(Arc::new(PeerObject::new(
            built,
            runtime,
            queue,
            Keep::new(limits.queue_per_peer),
        )?));
        // SAFETY: as above.
        unsafe { put(peer, roletalk_peer { id }, "peer") }
    })
}

/// Closes all connections with code 4000, stops listening and dialing, and ends the peer's threads. When
/// it returns, all callbacks have returned, operations under way have called back (with
/// ROLETALK_STATUS_CLOSED, ROLETALK_STATUS_CONNECTION_LOST or ROLETALK_STATUS_CANCELED), and every `drop`
/// was called (where middleware has deferred contexts, that of what comes behind it follows when they are
/// answered). That takes two seconds at most if the other side does not answer, besides the time that
/// callbacks take.
///
/// Inside a callback, of whichever peer, it does not wait: the rest happens when the callback has
/// returned. The peer's roles, destinations and listeners end with it; units, streams, answers and
/// deferred contexts are the caller's still.
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_peer_close(peer: roletalk_peer) -> roletalk_status {
    enter(|| {
        let object = table::remove::<PeerObject>(peer.id)?;
        object.end(Stop::Close);
        Ok(())
    })
}

/// Stops offering roles, lets running requests and streams finish within `timeout_ms`, then closes as
/// roletalk_peer_close. `finished`, which may be NULL, is set to 1 when everything had finished, else to 0.
/// The peer's roles and destinations stay usable until then; `peer` itself ends at once.
///
/// Inside a callback it does not wait and sets `finished` to 0.
///
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_drain(
    peer: roletalk_peer,
    timeout_ms: u64,
    finished: *mut i32,
) -> roletalk_status {
    enter(|| {
        check_optional(finished, "finished")?;
        let object = table::remove::<PeerObject>(peer.id)?;
        let (report, reported) = mpsc::channel();
        object.end(Stop::Drain(Duration::from_millis(timeout_ms), report));
        let done = || i32::from(reported.try_recv().unwrap_or(false));
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put_optional(finished, "finished", done) }
    })
}

pub(crate) fn get(peer: roletalk_peer) -> Result<Arc<PeerObject>, Failure> {
    table::get(peer.id)
}

/// Copies the peer's id, 32 hexadecimal digits, to `buffer`, without a zero at the end, and its length
/// to `len`, which may be NULL.
///
/// Errors: ROLETALK_STATUS_TOO_LARGE when the buffer is too small (`len` is set). Any thread, also inside
/// callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_id(
    peer: roletalk_peer,
    buffer: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> roletalk_status {
    // SAFETY: the contract of pointers in the header's introduction.
    enter(|| unsafe { copy_text(&get(peer)?.peer.id(), buffer, capacity, len) })
}

/// Sets a tag. Units that connect from now on see it.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_set_tag(
    peer: roletalk_peer,
    key: roletalk_string,
    value: roletalk_string,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let (key, value) = unsafe { (key.get("key")?, value.get("value")?) };
        get(peer)?.peer.set_tag(key, value);
        Ok(())
    })
}

/// Adds a preshared key, or replaces the one with this id. From the first one on, only peers that share
/// a key get in. Connections that are up stay.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when the id or the key is empty or longer than 1 024 bytes.
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_add_key(
    peer: roletalk_peer,
    id: roletalk_string,
    key: roletalk_string,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let (id, key) = unsafe { (id.get("id")?, key.get("key")?) };
        Ok(get(peer)?.peer.add_preshared_key(id, key)?)
    })
}

/// Removes a preshared key. Connections that are up stay. Without any key everyone gets in.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when there is none with this id. Any thread, also inside
/// callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_remove_key(
    peer: roletalk_peer,
    id: roletalk_string,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let id = unsafe { id.get("id") }?;
        match get(peer)?.peer.remove_preshared_key(id) {
            true => Ok(()),
            false => Err(Failure::invalid("There is no preshared key with this id")),
        }
    })
}

/// The role of this name, added if it is new: offered at once, or, when `disabled` is not 0, after
/// roletalk_role_enable. The same name gives the same handle, which belongs to the peer.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a name that is empty or longer than 65 535 bytes,
/// ROLETALK_STATUS_CLOSED. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_role(
    peer: roletalk_peer,
    name: roletalk_string,
    disabled: i32,
    role: *mut roletalk_role,
) -> roletalk_status {
    enter(|| {
        check_out(role, "role")?;
        // SAFETY: the contract of pointers in the header's introduction.
        let name = unsafe { name.get("name") }?;
        let object = get(peer)?;
        let made = match disabled {
            0 => object.peer.role(name)?,
            _ => object.peer.disabled_role(name)?,
        };
        let mut owned = object.owned()?;
        let handle = *owned.roles.entry(name.to_owned()).or_insert_with(|| {
            let id = table::insert(Arc::new(RoleObject {
                role: made,
                queue: object.queue.clone(),
                peer_layers: object.layers.clone(),
                layers: Arc::default(),
            }));
            roletalk_role { id }
        });
        // SAFETY: as above.
        unsafe { put(role, handle, "role") }
    })
}

/// The destination of this name, added if it is new. The same name gives the same handle, which belongs
/// to the peer.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a name that is empty or longer than 65 535 bytes,
/// ROLETALK_STATUS_CLOSED. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_destination(
    peer: roletalk_peer,
    role: roletalk_string,
    destination: *mut roletalk_destination,
) -> roletalk_status {
    enter(|| {
        check_out(destination, "destination")?;
        // SAFETY: the contract of pointers in the header's introduction.
        let role = unsafe { role.get("role") }?;
        let object = get(peer)?;
        let made = object.peer.destination(role)?;
        let mut owned = object.owned()?;
        let handle = *owned.destinations.entry(role.to_owned()).or_insert_with(|| {
            let (queue, runtime) = (object.queue.clone(), object.runtime.clone());
            let keep = object.keep.clone();
            let destination = DestinationObject { destination: made, queue, keep, runtime };
            roletalk_destination { id: table::insert(Arc::new(destination)) }
        });
        // SAFETY: as above.
        unsafe { put(destination, handle, "destination") }
    })
}

/// Calls `visitor` for each connected unit, before this returns.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_peer_each_unit(
    peer: roletalk_peer,
    visitor: unit::roletalk_unit_visitor,
    user_data: *mut c_void,
) -> roletalk_status {
    enter(|| unit::visit(get(peer)?.peer.units(), visitor, user_data))
}

/// Adds middleware for all that any role handles; it comes before that of the roles. See
/// roletalk_role_layer.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_peer_layer(
    peer: roletalk_peer,
    layer: roletalk_incoming_handler,
) -> roletalk_status {
    let closure = layer.take();
    enter(move || {
        let object = get(peer)?;
        object.layers.add(closure.bind(&object.queue)?);
        Ok(())
    })
}

struct ListenerObject(engine::Listener);

/// Listens on an address, such as `127.0.0.1:9000`; port 0 takes a free one. `options` may be NULL.
/// `listener` may be NULL: it belongs to the peer in any case.
///
/// Errors: ROLETALK_STATUS_IO when the address cannot be listened on, ROLETALK_STATUS_TLS,
/// ROLETALK_STATUS_CLOSED. Any thread; for an address that has a name, in
/// callbacks as every call that waits.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_listen(
    peer: roletalk_peer,
    address: roletalk_string,
    options: *const roletalk_listen_options,
    listener: *mut roletalk_listener,
) -> roletalk_status {
    enter(|| {
        let object = get(peer)?;
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let address = unsafe { address.get("address") }?;
        // SAFETY: as above.
        let options = unsafe { read_or_default(options)?.get() }?;
        check_optional(listener, "listener")?;
        let listening = object.wait(Limit::Never, object.peer.listen_with(address, options))?;
        let made = listening.map_err(|error| {
            let failure = Failure::from(error);
            Failure::new(failure.status(), format!("`{address}`: {}", failure.text()))
        })?;
        let mut owned = object.owned()?;
        let handle = roletalk_listener { id: table::insert(Arc::new(ListenerObject(made))) };
        if owned.listeners.len().is_power_of_two() {
            owned.listeners.retain(|known| table::get::<ListenerObject>(known.id).is_ok());
        }
        owned.listeners.push(handle);
        // SAFETY: as above.
        unsafe { put_optional(listener, "listener", || handle) }
    })
}

/// Copies the address that a peer on the same machine can connect to, such as `ws://127.0.0.1:9000`,
/// to `buffer`, without a zero at the end, and its length to `len`, which may be NULL.
///
/// Errors: ROLETALK_STATUS_TOO_LARGE when the buffer is too small (`len` is set). Any thread, also inside
/// callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_listener_url(
    listener: roletalk_listener,
    buffer: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> roletalk_status {
    enter(|| {
        let listener = table::get::<ListenerObject>(listener.id)?;
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { copy_text(listener.0.url(), buffer, capacity, len) }
    })
}

/// Stops listening, and ends the handle. Connections that were accepted stay.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_listener_close(listener: roletalk_listener) -> roletalk_status {
    enter(|| {
        table::remove::<ListenerObject>(listener.id)?.0.close();
        Ok(())
    })
}

/// Serves a TCP connection that the program's own server has accepted. Its first bytes are an HTTP
/// upgrade, or, when `upgraded` is not 0, the upgrade was done already. The library owns `fd` from here
/// on, unless this fails with ROLETALK_STATUS_INVALID_ARGUMENT or ROLETALK_STATUS_INVALID_HANDLE.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when `fd` is not a connected stream socket,
/// ROLETALK_STATUS_IO. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_peer_accept_fd(
    peer: roletalk_peer,
    fd: i32,
    upgraded: i32,
) -> roletalk_status {
    use std::os::fd::FromRawFd;

    enter(|| {
        let object = get(peer)?;
        if !is_stream(fd) {
            return Err(Failure::invalid("The file descriptor is not a connected stream socket"));
        }
        // SAFETY: it is open, and the caller gives it away.
        let stream = unsafe { std::net::TcpStream::from_raw_fd(fd) };
        stream.set_nonblocking(true).map_err(io_error)?;
        let _ = stream.set_nodelay(true);
        let stream = {
            let _runtime = object.runtime.enter();
            tokio::net::TcpStream::from_std(stream).map_err(io_error)?
        };
        let peer = object.peer.clone();
        object.runtime.spawn(async move {
            let _ = match upgraded {
                0 => peer.accept(stream).await,
                _ => peer.accept_upgraded(stream).await,
            };
        });
        Ok(())
    })
}

/// Whether it is a stream socket that does not listen.
fn is_stream(fd: i32) -> bool {
    let option = |name| {
        let mut value = 0_i32;
        let mut len = size_of::<i32>() as libc::socklen_t;
        // SAFETY: the descriptor may be anything; `value` and `len` are local variables of the right
        // size.
        let asked = unsafe {
            let value = std::ptr::from_mut(&mut value).cast();
            libc::getsockopt(fd, libc::SOL_SOCKET, name, value, &mut len)
        };
        (asked == 0).then_some(value)
    };
    option(libc::SO_TYPE) == Some(libc::SOCK_STREAM) && option(libc::SO_ACCEPTCONN) == Some(0)
}

/// Connects to a `ws://` or `wss://` address, and again whenever the connection is lost, until
/// roletalk_peer_disconnect. Waits for the first outcome; after a failure the address is tried further,
/// unless it is to be connected once. `options` may be NULL. `unit`, which may be NULL, is set to the
/// unit that answered; the caller frees it with roletalk_unit_free.
///
/// Errors: ROLETALK_STATUS_CONNECT_FAILED, ROLETALK_STATUS_AUTH_REFUSED, ROLETALK_STATUS_TLS,
/// ROLETALK_STATUS_CLOSED. Any thread; in callbacks as every call that waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_connect(
    peer: roletalk_peer,
    address: roletalk_string,
    options: *const roletalk_connect_options,
    unit: *mut roletalk_unit,
) -> roletalk_status {
    enter(|| {
        let object = get(peer)?;
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let address = unsafe { address.get("address") }?;
        // SAFETY: as above.
        let options = unsafe { read_or_default(options)?.get() }?;
        check_optional(unit, "unit")?;
        check_may_wait(Limit::Never)?;
        let connected = object.wait(Limit::Never, object.peer.connect_with(address, options))??;
        // SAFETY: as above.
        unsafe { put_optional(unit, "unit", || units::insert(connected.unit().clone())) }
    })
}

/// As roletalk_peer_connect, without waiting: `handler` is called with the first outcome, and with the unit
/// if it connected. `operation` may be NULL; canceling it does not end the dialing. `handler.drop` is
/// called after that, or when this fails.
///
/// Errors: ROLETALK_STATUS_TLS, ROLETALK_STATUS_CLOSED; others by callback. Any thread, also inside
/// callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_connect_async(
    peer: roletalk_peer,
    address: roletalk_string,
    options: *const roletalk_connect_options,
    handler: roletalk_reply_handler,
    operation: *mut roletalk_operation,
) -> roletalk_status {
    let closure = Closure::new(handler.call, handler.user_data, handler.drop);
    enter(move || {
        let object = get(peer)?;
        // SAFETY: the contract of pointers in the header's introduction, here and below.
        let address = unsafe { address.get("address") }?.to_owned();
        // SAFETY: as above.
        let options = unsafe { read_or_default(options)?.get() }?;
        let completion = Completion::new(closure, &object.queue, invoke_reply)?;
        let peer = object.peer.clone();
        let connecting = async move { peer.connect_with(address, options).await };
        let outcome = |connected: engine::Connected| {
            Outcome::done(engine::Data::null(), Some(connected.unit().clone()))
        };
        // SAFETY: as above.
        unsafe { start(connecting, completion, operation, outcome) }
    })
}

/// Stops dialing an address. A connection that is up stays: roletalk_unit_disconnect ends it.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when the address is not dialed. Any thread, also inside
/// callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_disconnect(
    peer: roletalk_peer,
    address: roletalk_string,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let address = unsafe { address.get("address") }?;
        match get(peer)?.peer.disconnect(address) {
            true => Ok(()),
            false => Err(Failure::invalid("The address is not dialed")),
        }
    })
}

/// Counters. `stats->struct_size` must be set.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_get_stats(
    peer: roletalk_peer,
    stats: *mut roletalk_peer_stats,
) -> roletalk_status {
    enter(|| {
        let known = get(peer)?.peer.stats();
        let value = roletalk_peer_stats {
            struct_size: size_of::<roletalk_peer_stats>(),
            units: known.units.len() as u64,
            handshakes: known.handshakes as u64,
            queued: known.queued as u64,
            reconnects: known.reconnects,
        };
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { sized::write(stats, &value) }
    })
}

/// For ROLETALK_CALLBACKS_POLL: a file descriptor that is readable while callbacks wait for
/// roletalk_peer_poll. The library owns it; it is valid until the peer is closed.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for other peers. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_fd(peer: roletalk_peer, fd: *mut i32) -> roletalk_status {
    enter(|| {
        let known = get(peer)?.queue.fd()?;
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(fd, known, "fd") }
    })
}

/// For ROLETALK_CALLBACKS_POLL: runs the callbacks that wait, on this thread. When none does, waits for up to
/// `timeout_ms` milliseconds, without a limit if that is negative, not at all if it is 0. `count`, which
/// may be NULL, is set to how many pieces of work were done.
///
/// Errors: ROLETALK_STATUS_CLOSED when the peer was closed and nothing more will come;
/// ROLETALK_STATUS_INVALID_ARGUMENT for other peers and while another roletalk_peer_poll of this peer
/// runs. Any thread; not inside callbacks of the same peer.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_peer_poll(
    peer: roletalk_peer,
    timeout_ms: i64,
    count: *mut usize,
) -> roletalk_status {
    enter(|| {
        let object = get(peer)?;
        check_optional(count, "count")?;
        const LONG: Duration = Duration::from_secs(365 * 24 * 3600);
        let until = match Limit::from_millis(timeout_ms) {
            Limit::Now => None,
            Limit::Within(time) => Instant::now().checked_add(time.min(LONG)),
            Limit::Never => Instant::now().checked_add(LONG),
        };
        // Also when there is nothing to wait for.
        object.queue.fd()?;
        if until.is_some() {
            check_may_wait(Limit::Never)?;
        }
        let (done, mut ended) = object.queue.poll(until)?;
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put_optional(count, "count", || done) }?;
        if object.is_ending() && !frame::in_callback() {
            // Closed in a callback just now, or by another thread.
            object.end(Stop::Close);
            ended = true;
        }
        match ended {
            true => Err(Failure::new(Status::Closed, "The peer is closed")),
            false => Ok(()),
        }
    })
}
