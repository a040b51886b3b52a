//! How to make a peer, to connect and to listen.

use std::{sync::Arc, time::Duration};

use engine::{
    ChannelBinding, ConnectOptions, Limits, ListenOptions, Measure, Peer, PeerBuilder, PeerKey,
    Quantity, TlsClient, TlsServer,
};

use crate::{
    api::{
        balance::{Given, roletalk_balance},
        peer::policy,
    },
    border::{
        failure::Failure,
        memory::{elements, slice},
        sized::{self, sized},
        values::{roletalk_pair, roletalk_string},
    },
    callbacks::{chooser::Held, item::Callbacks, judge::roletalk_authenticate_handler, queue::Way},
};

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
    /// Milliseconds for TLS, the upgrade and the handshake together, from accept on. Default 4 000.
    pub handshake_timeout_ms: u64,
    /// Unauthenticated connections: accepted, and not through the handshake. Default 1 024, and at most a quarter of
    /// the process's limit on file descriptors. Beyond it, the oldest one of the address that has the most is evicted.
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
    /// ROLETALK_STATUS_OVERLOADED. Answers queued for one unit take at most a 32nd of it. Up to 32 MiB of further
    /// ones may wait behind these; then the unit's requests wait, and are rejected after a second.
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
    /// Bytes that wait to be written to one connection and that the other side has caused itself (pongs,
    /// rejections, answers to streams). Default 1 MiB, and never more than queue_per_connection. At the
    /// bound nothing is read from the connection until the other side has read some of that.
    pub owed_per_connection: u64,
    /// Dials of addresses learned by acquaintance in a minute. Default 600; further ones wait.
    pub acquaintance_dials_per_minute: u64,
    /// Addresses learned from one unit that are remembered while there is no connection to them. Default 256;
    /// further ones are ignored.
    pub acquaintance_addresses_per_unit: u64,
    /// Unauthenticated connections from one IPv4 address or one IPv6 network (/64). Default 1 024. Beyond it, the oldest
    /// one from there is evicted.
    pub handshakes_per_address: u64,
    /// Maximum age of a connection that was dialed and not with `once`, in milliseconds. It is then replaced by a new one
    /// to the same address, so that changed certificates and keys take effect; nothing is lost. The actual age is up to a
    /// tenth less, at random. Needs room for two connections (`connections_per_unit`, also that of the other side).
    /// Default: never.
    pub connection_age_ms: u64,
}

impl roletalk_limits {
    /// All of them, by the engine's names. Without `..`, so that none is forgotten.
    fn given(&self) -> [(&'static str, u64); Limits::ALL.len()] {
        let Self {
            struct_size: _,
            message_size,
            handshake_message_size,
            upgrade_size,
            handshake_timeout_ms,
            handshakes,
            units,
            connections_per_unit,
            waiting_requests,
            running_handlers,
            queue_per_connection,
            queue_per_peer,
            streams,
            stream_window,
            stream_overrun,
            request_timeout_ms,
            acquaintance_dials,
            acquaintance_addresses,
            acquaintance_patience_ms,
            running_bytes,
            overrun_per_unit,
            owed_per_connection,
            acquaintance_dials_per_minute,
            acquaintance_addresses_per_unit,
            handshakes_per_address,
            connection_age_ms,
        } = *self;
        [
            ("message_size", message_size),
            ("handshake_message_size", handshake_message_size),
            ("upgrade_size", upgrade_size),
            ("handshake_timeout", handshake_timeout_ms),
            ("handshakes", handshakes),
            ("units", units),
            ("connections_per_unit", connections_per_unit),
            ("waiting_requests", waiting_requests),
            ("running_handlers", running_handlers),
            ("queue_per_connection", queue_per_connection),
            ("queue_per_peer", queue_per_peer),
            ("streams", streams),
            ("stream_window", stream_window),
            ("stream_overrun", stream_overrun),
            ("request_timeout", request_timeout_ms),
            ("acquaintance_dials", acquaintance_dials),
            ("acquaintance_addresses", acquaintance_addresses),
            ("acquaintance_patience", acquaintance_patience_ms),
            ("running_bytes", running_bytes),
            ("overrun_per_unit", overrun_per_unit),
            ("owed_per_connection", owed_per_connection),
            ("acquaintance_dials_per_minute", acquaintance_dials_per_minute),
            ("acquaintance_addresses_per_unit", acquaintance_addresses_per_unit),
            ("handshakes_per_address", handshakes_per_address),
            ("connection_age", connection_age_ms),
        ]
    }

    fn apply(&self, limits: &mut Limits) -> Result<(), Failure> {
        for (name, value) in self.given().into_iter().filter(|(_, value)| *value != 0) {
            let time = |row: &&Quantity| row.name == name && row.measure == Measure::Time;
            match Limits::ALL.iter().find(time) {
                Some(_) => limits.set(name, Duration::from_millis(value)),
                None => limits.set(name, usize::try_from(value).unwrap_or(usize::MAX)),
            }?;
        }
        Ok(())
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
    /// The file of the authorities (PEM), instead of `tls_ca`. Files can change: roletalk_peer_reload_tls, `tls_watch_ms`.
    pub tls_ca_file: roletalk_string,
    /// The file of the certificate chain (PEM), instead of `tls_certificates`.
    pub tls_certificates_file: roletalk_string,
    /// The file of its key (PEM), instead of `tls_key`.
    pub tls_key_file: roletalk_string,
    /// Milliseconds between two looks at the files, as in roletalk_listen_options. 0: they are not watched.
    pub tls_watch_ms: u64,
}

impl roletalk_connect_options {
    /// # Safety
    /// The pointers are as the header demands.
    pub(super) unsafe fn get(&self) -> Result<ConnectOptions, Failure> {
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
        // SAFETY: as above.
        let (ca_file, certificates_file, key_file) = unsafe {
            (
                self.tls_ca_file.get("tls_ca_file")?,
                self.tls_certificates_file.get("tls_certificates_file")?,
                self.tls_key_file.get("tls_key_file")?,
            )
        };
        match (ca.is_empty(), ca_file.is_empty()) {
            (true, true) => {}
            (false, true) => tls = tls.ca(ca),
            (true, false) => tls = tls.ca_file(ca_file),
            (false, false) => return Err(both("tls_ca")),
        }
        let given = !certificates.is_empty() || !key.is_empty();
        let files = !certificates_file.is_empty() || !key_file.is_empty();
        match (given, files) {
            (false, false) => {}
            (true, false) => tls = tls.identity(certificates, key),
            (false, true) => tls = tls.identity_files(certificates_file, key_file),
            (true, true) => return Err(both("tls_certificates")),
        }
        if self.tls_watch_ms != 0 {
            tls = tls.watch(Duration::from_millis(self.tls_watch_ms));
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
    /// The file of the certificate chain (PEM), instead of `tls_certificates`, with `tls_key_file` and, if wanted,
    /// `tls_client_ca_file`. Files can change: roletalk_peer_reload_tls, `tls_watch_ms`.
    pub tls_certificates_file: roletalk_string,
    /// The file of its key (PEM), instead of `tls_key`.
    pub tls_key_file: roletalk_string,
    /// The file of the client authorities (PEM), instead of `tls_client_ca`.
    pub tls_client_ca_file: roletalk_string,
    /// Milliseconds between two checks of the files; 0: they are not watched. Changed files are loaded
    /// (ROLETALK_EVENT_TLS_RELOADED). Unusable ones change nothing, and are reported once for each change, when a
    /// second check, after at most a second, finds the same fault (ROLETALK_EVENT_TLS_RELOAD_FAILED).
    pub tls_watch_ms: u64,
}

impl roletalk_listen_options {
    /// # Safety
    /// The pointers are as the header demands.
    pub(super) unsafe fn get(&self) -> Result<ListenOptions, Failure> {
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
        // SAFETY: as above.
        let (certificates_file, key_file, client_ca_file) = unsafe {
            (
                self.tls_certificates_file.get("tls_certificates_file")?,
                self.tls_key_file.get("tls_key_file")?,
                self.tls_client_ca_file.get("tls_client_ca_file")?,
            )
        };
        let files = [certificates_file, key_file, client_ca_file];
        if files.iter().any(|file| !file.is_empty()) {
            if [certificates, key, client_ca].iter().any(|pem| !pem.is_empty()) {
                return Err(both("tls_certificates"));
            }
            let tls = match client_ca_file.is_empty() {
                true => TlsServer::from_files(certificates_file, key_file)?,
                false => TlsServer::from_files_with_client_ca(
                    certificates_file,
                    key_file,
                    client_ca_file,
                )?,
            };
            return Ok(options.tls(match self.tls_watch_ms {
                0 => tls,
                every => tls.watch(Duration::from_millis(every)),
            }));
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

fn both(name: &str) -> Failure {
    Failure::invalid(format!("give either {name} and what belongs to it as PEM, or files"))
}

/// Callbacks of the dispatch thread may block: heartbeats and other traffic go on meanwhile.
pub const ROLETALK_CALLBACKS_THREAD: i32 = 0;
/// Callbacks run right on the thread that does the peer's input and output: the fastest way, for
/// callbacks that never wait. Blocking calls return ROLETALK_STATUS_WOULD_DEADLOCK there.
pub const ROLETALK_CALLBACKS_INLINE: i32 = 1;
/// Callbacks run only inside roletalk_peer_poll, which the program calls when roletalk_peer_fd is readable.
pub const ROLETALK_CALLBACKS_POLL: i32 = 2;

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
    /// How destinations choose among the units that serve their role, unless they say it themselves
    /// (roletalk_destination_set_balance); NULL for the least loaded unit.
    pub balance: *const roletalk_balance,
    /// Who may call and serve what, as JSON (docs/POLICY.md); NULL: everyone everything. See roletalk_peer_set_policy.
    pub policy: roletalk_string,
    /// Origins whose pages may connect, such as `https://app.example.org`; `*` lets all. Upgrades with any other
    /// `Origin` are refused with 403: browsers send one, others do not, and a page that somebody opens on this machine
    /// could reach this peer.
    pub origins: *const roletalk_string,
    /// How many origins.
    pub origin_count: usize,
    /// Headers of upgrades that are kept as part of the identity (roletalk_unit_identity), at most 8 KiB in all. Whoever
    /// dials chooses what is in them, unless a proxy does.
    pub identity_headers: *const roletalk_string,
    /// How many such headers.
    pub identity_header_count: usize,
    /// Judges each upgrade on connections from this peer's listeners and roletalk_peer_accept_fd. All zero: no
    /// judgement; everyone with the keys gets in. `drop` is also called when roletalk_peer_new fails, unless it cannot
    /// read these options (`struct_size`).
    pub authenticate: roletalk_authenticate_handler,
    /// Whether proofs of preshared keys are bound to TLS connections, so that nobody can relay them:
    /// ROLETALK_CHANNEL_BINDING_PREFER, ROLETALK_CHANNEL_BINDING_DISABLE or ROLETALK_CHANNEL_BINDING_REQUIRE.
    pub channel_binding: i32,
    /// The peer's own key: 32 random bytes, to be kept secret like other private keys; NULL for none. The peer's id
    /// begins with the name of the key. Over TLS nobody else can claim that id, and after a restart others recognize
    /// the peer by the name (roletalk_identity.peer), also in their policies.
    pub peer_key: *const u8,
    /// The networks in which addresses from other units are dialed, separated by commas: `public`, `private`,
    /// `loopback`, `link_local`, blocks such as `10.0.0.0/8`, or `near`, which stands for loopback and private
    /// addresses from units that have such an address themselves. Empty stands for `public, near`. Addresses that the
    /// program connects to are not filtered.
    pub acquaintance_networks: roletalk_string,
    /// The ports of these addresses, separated by commas: numbers, ranges such as `9000-9100`, or `any`. Empty stands
    /// for `80, 443, 1024-65535`: below that are mail, name servers and the like.
    pub acquaintance_ports: roletalk_string,
}

/// What the other side names must be this connection. One that names nothing, such as an original, is answered, too.
pub const ROLETALK_CHANNEL_BINDING_PREFER: i32 = 0;
/// Nothing is named nor compared: for proxies that end TLS with another certificate.
pub const ROLETALK_CHANNEL_BINDING_DISABLE: i32 = 1;
/// Keys are proved only to those that name this connection.
pub const ROLETALK_CHANNEL_BINDING_REQUIRE: i32 = 2;

/// Bytes of a peer's own key.
const PEER_KEY: usize = 32;

/// What options are made into.
pub(super) struct Built {
    pub(super) builder: PeerBuilder,
    pub(super) limits: Limits,
    /// The function that chooses.
    pub(super) chooser: Option<Arc<Held>>,
}

impl roletalk_peer_options {
    /// # Errors
    /// `Status::InvalidArgument` for an unknown way.
    pub(super) fn way(&self) -> Result<Way, Failure> {
        match self.callbacks {
            ROLETALK_CALLBACKS_THREAD => Ok(Way::Thread),
            ROLETALK_CALLBACKS_INLINE => Ok(Way::Inline),
            ROLETALK_CALLBACKS_POLL => Ok(Way::Poll),
            other => Err(Failure::invalid(format!("there is no way {other} to run callbacks"))),
        }
    }

    /// # Errors
    /// `Status::InvalidArgument` for an unknown mode.
    fn channel_binding(&self) -> Result<ChannelBinding, Failure> {
        match self.channel_binding {
            ROLETALK_CHANNEL_BINDING_PREFER => Ok(ChannelBinding::Prefer),
            ROLETALK_CHANNEL_BINDING_DISABLE => Ok(ChannelBinding::Disable),
            ROLETALK_CHANNEL_BINDING_REQUIRE => Ok(ChannelBinding::Require),
            other => Err(Failure::invalid(format!("there is no channel binding {other}"))),
        }
    }

    /// All but `callbacks` and `authenticate`.
    ///
    /// # Safety
    /// The pointers are as the header demands.
    pub(super) unsafe fn build(&self, queue: &Arc<Callbacks>) -> Result<Built, Failure> {
        let (mut limits, mut chooser) = (Limits::default(), None);
        let mut builder = Peer::builder().friendly(self.unfriendly == 0);
        builder = builder.channel_binding(self.channel_binding()?);
        // SAFETY: the caller's promise.
        unsafe {
            builder = builder.name(self.name.get("name")?);
            for tag in elements(self.tags, self.tag_count, "tags")? {
                builder = builder.tag(tag.key.get("key")?, tag.value.get("value")?);
            }
            for key in elements(self.keys, self.key_count, "keys")? {
                builder = builder.preshared_key(key.key.get("key")?, key.value.get("value")?);
            }
            if let Some(given) = sized::read(self.limits)? {
                let mut outcome = Ok(());
                builder = builder.limits(|to| {
                    outcome = given.apply(to);
                    limits.clone_from(to);
                });
                outcome?;
            }
            if let Some(acquaintance) = sized::read(self.acquaintance)? {
                builder = builder.acquaintance_options(acquaintance.get()?);
            }
            let networks = self.acquaintance_networks.get("acquaintance_networks")?;
            if !networks.is_empty() {
                builder = builder.acquaintance_networks(networks);
            }
            let ports = self.acquaintance_ports.get("acquaintance_ports")?;
            if !ports.is_empty() {
                builder = builder.acquaintance_ports(ports);
            }
            if let Some(given) = Given::read(self.balance, queue)? {
                builder = builder.balance(given.balance);
                chooser = given.chooser;
            }
            if !self.peer_key.is_null() {
                let secret = slice(self.peer_key, PEER_KEY, "peer_key")?;
                let secret = secret.try_into().expect("the slice has this length");
                builder = builder.peer_key(PeerKey::from_secret(secret));
            }
            if let Some(policy) = policy::read(self.policy)? {
                builder = builder.policy(policy);
            }
            for origin in elements(self.origins, self.origin_count, "origins")? {
                builder = builder.allow_origin(origin.get("origins")?);
            }
            let headers =
                elements(self.identity_headers, self.identity_header_count, "identity_headers")?;
            for name in headers {
                builder = builder.identity_header(name.get("identity_headers")?);
            }
        }
        if !(0.0..=1.0).contains(&self.reconnect_jitter) {
            return Err(Failure::invalid("reconnect_jitter is not between 0 and 1"));
        }
        builder = builder.reconnect(|reconnect| {
            reconnect.jitter = self.reconnect_jitter;
            if self.reconnect_cap_ms != 0 {
                reconnect.cap = Duration::from_millis(self.reconnect_cap_ms);
            }
        });
        Ok(Built { builder, limits, chooser })
    }
}

sized!(roletalk_limits roletalk_connect_options roletalk_listen_options roletalk_peer_options);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_of_the_engine_is_here() {
        // SAFETY: numbers, of which all are zero.
        let limits: roletalk_limits = unsafe { std::mem::zeroed() };
        let mut here = limits.given().map(|(name, _)| name);
        let mut all: Vec<&str> = Limits::ALL.iter().map(|limit| limit.name).collect();
        here.sort_unstable();
        all.sort_unstable();
        assert_eq!(here[..], all[..]);
    }

    #[test]
    fn a_limit_that_is_set_is_that_of_the_engine() {
        // SAFETY: numbers, of which all are zero.
        let mut limits: roletalk_limits = unsafe { std::mem::zeroed() };
        (limits.owed_per_connection, limits.request_timeout_ms) = (5, 7);
        let mut engine = Limits::default();
        limits.apply(&mut engine).unwrap_or_else(|_| panic!("both are limits"));
        let mut expected = Limits::default();
        expected.owed_per_connection = 5;
        expected.request_timeout = Duration::from_millis(7);
        assert_eq!(engine, expected);
    }
}
