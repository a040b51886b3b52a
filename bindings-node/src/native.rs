//! [`NativePeer`]: one engine, and what JavaScript calls it with.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use napi::{
    Either, Env, Result,
    bindgen_prelude::{
        Array, BufferSlice, Function, Uint8Array, Uint8ArraySlice, Uint32Array, Unknown,
    },
};
use napi_derive::napi;
use roletalk_engine::{
    AddressId, Balance, Bulkhead, CancelReason, Chunk, DataType, Ejection, Engine, Error,
    ErrorKind, Moment, Moves, NoHandler, Opening, Order, Origins, Outgoing, PlaceId, Refusal,
    TimeLimit, Tried, Unit, Wanted, hint, too_many_parked,
    wire::{Direction, Payload},
    ws::Side,
};
use roletalk_host::{Host, descriptors, dial_fault, lock};

use crate::{
    access::{AccessSettings, RemoteSettings},
    choice::{self, EjectionSettings, Numbered, WantedSettings},
    commands, counters,
    course::{Clock, Course},
    events::{Batch, EVENT_HEADER, Header, NONE, OUTPUT_WORDS, OUTPUTS},
    fields,
    names::Routes,
    protocol::numbers,
    socket::{self, Socket},
    state::{Conn, State},
};

/// Bytes that may wait to be written to one connection. Sending is synchronous in JavaScript and
/// cannot wait, so that what a program sends in one turn of the loop has to fit.
const QUEUE_PER_CONNECTION: usize = 256 << 20;
/// Likewise, to all connections of the peer.
const QUEUE_PER_PEER: usize = 1 << 30;
/// Programs start this many requests at once; see above.
const REQUESTS_PER_UNIT: usize = 1 << 20;

/// What a peer is made from.
#[napi(object)]
pub struct PeerSettings {
    /// The name shown to others.
    pub name: String,
    /// Whether it dials the addresses that others tell it.
    pub friendly: bool,
    /// For `meta.os`.
    pub os: String,
    /// For `meta.runtime`.
    pub runtime: String,
    /// The monotonic clock, in milliseconds.
    pub now: f64,
    /// The name of the balance of all destinations that have none of their own.
    pub balance: Option<String>,
    /// Who may connect, call and serve.
    pub access: AccessSettings,
    /// The networks in which it dials addresses that others tell it.
    pub acquaintance_networks: Option<String>,
    /// The ports of those.
    pub acquaintance_ports: Option<String>,
    /// After how many milliseconds a dialed connection is replaced.
    pub connection_age: Option<f64>,
}

/// A request for a stream; or any, which another unit has not begun.
#[napi(object)]
pub struct AskSettings {
    /// The unit's number.
    pub unit: u32,
    /// The slot that waits for the answer.
    pub slot: u32,
    /// Whether this peer writes; none when it asks for no stream.
    pub writable: Option<bool>,
    /// The role.
    pub role: String,
    /// The event.
    pub event: String,
    /// The type byte of the payload.
    pub kind: u32,
    /// Milliseconds to wait for the answer, 0 for the default.
    pub timeout: f64,
    /// Since when it waits, by JavaScript's clock: since it is sent, unless it is given.
    pub since: Option<f64>,
    /// The number of the destination whose bound of requests in flight it counts for, if any.
    pub bound: Option<u32>,
}

numbers! {
    const STREAM_STATES = "StreamState" {
        /// Nothing yet: an event will tell.
        PENDING: u32 = 0,
        /// The stream came to its end.
        ENDED: u32 = 1,
        /// It failed, see [`NativePeer::last_error`].
        FAILED: u32 = 2,
    }
}

/// Where something has been that has no way.
static NOWHERE: Tried = Tried::NONE;

/// File descriptors to keep free for the process: when fewer are left, strangers are evicted.
const SPARE: u64 = 24;

/// What is read at once from a socket.
const READ_BUFFER: usize = 64 << 10;

/// The memory that commands come in, and events go out.
struct Memory {
    commands: Uint32Array,
    payload: Uint8Array,
    batch: Uint32Array,
    bytes: Uint8Array,
}

/// One engine on Node's event loop. It belongs to the thread that made it.
///
/// All times are milliseconds of one monotonic clock. Each method first does the commands that wait
/// in shared memory, so that everything happens in the order in which it was asked for. What follows
/// from a call is fetched with [`poll`](NativePeer::poll).
#[napi]
pub struct NativePeer {
    /// Shared with the guard. Not locked while anything of JavaScript's is made or called.
    pub(crate) host: Arc<Mutex<Host>>,
    pub(crate) state: State,
    memory: Memory,
    routes: Routes,
    /// Buffers that JavaScript has not fetched yet.
    large: Vec<Bytes>,
    last_error: Option<Error>,
    pub(crate) clock: Clock,
    pub(crate) origins: Arc<Origins>,
}

/// What a call works on.
pub(crate) struct Call<'a> {
    pub(crate) host: MutexGuard<'a, Host>,
    pub(crate) state: &'a mut State,
    memory: &'a mut Memory,
    routes: &'a Routes,
    large: &'a mut Vec<Bytes>,
    /// The time as the engine counts it.
    pub(crate) now: Moment,
}

pub(crate) fn thrown(error: Error) -> napi::Error {
    napi::Error::from_reason(error.text())
}

#[napi]
impl NativePeer {
    /// `commands` and `payload` hold commands; `batch` and `bytes` hold what
    /// [`poll`](NativePeer::poll) gives, and may be those of other peers, too.
    ///
    /// # Errors
    /// When the operating system has no random bytes, the memory is too small, there is no balance of this name (see
    /// [`check_balance`]), or the access cannot be used (see [`check_access`](crate::check_access)).
    #[napi(constructor, catch_unwind)]
    pub fn new(
        settings: PeerSettings,
        commands: Uint32Array,
        payload: Uint8Array,
        batch: Uint32Array,
        bytes: Uint8Array,
    ) -> Result<NativePeer> {
        if batch.len() <= EVENT_HEADER + OUTPUTS * OUTPUT_WORDS
            || commands.len() < commands::COMMAND_HEADER
        {
            return Err(napi::Error::from_reason("The shared memory is too small"));
        }
        let mut config = roletalk_host::config().map_err(thrown)?;
        config.name = settings.name;
        config.friendly = settings.friendly;
        config.os = settings.os;
        config.runtime = settings.runtime;
        if let Some(name) = settings.balance {
            config.balance = Balance::named(&name).map_err(thrown)?;
        }
        settings.access.apply(&mut config).map_err(thrown)?;
        if let Some(networks) = settings.acquaintance_networks {
            config.acquaintance = config.acquaintance.networks(&networks).map_err(thrown)?;
        }
        if let Some(ports) = settings.acquaintance_ports {
            config.acquaintance = config.acquaintance.ports(&ports).map_err(thrown)?;
        }
        if let Some(age) = settings.connection_age {
            config.limits.connection_age = Duration::from_secs_f64(age / 1e3);
        }
        config.limits.queue_per_connection = QUEUE_PER_CONNECTION;
        config.limits.queue_per_peer = QUEUE_PER_PEER;
        config.limits.waiting_requests = REQUESTS_PER_UNIT;
        config.limits.running_handlers = REQUESTS_PER_UNIT;
        let origins = config.origins.clone();
        let mut host = Host::new(Engine::new(config), Instant::now(), READ_BUFFER);
        host.tell_progress();
        Ok(NativePeer {
            host: Arc::new(Mutex::new(host)),
            state: State::new(settings.now),
            memory: Memory { commands, payload, batch, bytes },
            routes: Routes::default(),
            large: Vec::new(),
            last_error: None,
            clock: Clock { epoch: settings.now },
            origins,
        })
    }

    /// A time of JavaScript's clock, as the engine counts it.
    pub(crate) fn moment(&self, millis: f64) -> Moment {
        self.clock.moment(millis)
    }

    /// Does the waiting commands.
    pub(crate) fn begin(&mut self, now: f64) -> Call<'_> {
        let now = self.moment(now);
        let NativePeer { host, state, memory, routes, large, .. } = self;
        let mut host = lock(host);
        let Memory { commands, payload, .. } = memory;
        if commands.first().is_some_and(|count| *count > 0) {
            state.run(&mut host, commands, payload, None, routes, now);
            // SAFETY: the memory belongs to a JavaScript array that this object keeps alive;
            // JavaScript does not run during the call, and no other reference to it exists.
            let words = unsafe { commands.as_mut() };
            words[..commands::COMMAND_HEADER].fill(0);
        }
        Call { host, state, memory, routes, large, now }
    }

    // The peer.

    /// The peer's id.
    #[napi(getter)]
    pub fn id(&self) -> String {
        lock(&self.host).engine.peer().id().to_string()
    }

    /// Sets the name shown to units that connect from now on.
    #[napi(catch_unwind)]
    pub fn set_name(&mut self, name: String, now: f64) {
        let Call { mut host, now, .. } = self.begin(now);
        host.engine.with_peer(now, |peer| peer.set_name(name));
    }

    /// Sets whether this peer dials the addresses that others tell it.
    #[napi(catch_unwind)]
    pub fn set_friendly(&mut self, friendly: bool, now: f64) {
        let Call { mut host, now, .. } = self.begin(now);
        host.engine.with_peer(now, |peer| peer.set_friendly(friendly));
    }

    /// Sets a tag shown to units that connect from now on.
    #[napi(catch_unwind)]
    pub fn set_tag(&mut self, key: String, value: String, now: f64) {
        let Call { mut host, now, .. } = self.begin(now);
        host.engine.with_peer(now, |peer| peer.set_tag(key, value));
    }

    /// Adds a preshared key.
    #[napi(catch_unwind)]
    pub fn add_key(&mut self, id: String, key: String, now: f64) -> Result<()> {
        let Call { mut host, now, .. } = self.begin(now);
        host.engine.with_peer(now, |peer| peer.keys_mut().add(id, key)).map_err(thrown)
    }

    /// Removes a preshared key; false when there is none with this id.
    #[napi(catch_unwind)]
    pub fn remove_key(&mut self, id: String, now: f64) -> bool {
        let Call { mut host, now, .. } = self.begin(now);
        host.engine.with_peer(now, |peer| peer.keys_mut().remove(&id))
    }

    /// Those of the addresses that the name of an address has resolved to that may be connected to.
    ///
    /// # Errors
    /// When it is none of them.
    #[napi(catch_unwind)]
    pub fn admit_found(
        &mut self,
        address: f64,
        found: Vec<String>,
        now: f64,
    ) -> Result<Vec<String>> {
        let Call { mut host, now, .. } = self.begin(now);
        let ip = |text: &String| text.split('%').next().and_then(|ip| ip.parse::<IpAddr>().ok());
        let ips = found.iter().filter_map(ip).collect();
        let address = AddressId(address as u64);
        let admitted = host.engine.with_peer(now, |peer| peer.admit_found(address, ips));
        let admitted = admitted.map_err(thrown)?;
        Ok(found
            .into_iter()
            .filter(|text| ip(text).is_some_and(|ip| admitted.contains(&ip)))
            .collect())
    }

    /// Accepted connections that are not authenticated yet.
    #[napi(getter)]
    pub fn handshakes(&self) -> f64 {
        lock(&self.host).engine.peer().handshakes() as f64
    }

    /// How many told addresses were not dialed.
    #[napi(getter)]
    pub fn addresses_ignored(&self) -> f64 {
        lock(&self.host).engine.peer().addresses_ignored() as f64
    }

    /// Adds a role.
    #[napi(catch_unwind)]
    pub fn add_role(&mut self, name: String, active: bool, now: f64) -> Result<()> {
        let Call { mut host, now, .. } = self.begin(now);
        host.engine.with_peer(now, |peer| peer.add_role(&name, active, now)).map_err(thrown)
    }

    /// Disables or enables a role.
    #[napi(catch_unwind)]
    pub fn set_role_active(&mut self, name: String, active: bool, now: f64) {
        let Call { mut host, now, .. } = self.begin(now);
        host.engine.with_peer(now, |peer| peer.set_role_active(&name, active, now));
    }

    /// Declares interest in a role, unless it has a name that none can have, and gives the destination a number.
    ///
    /// # Errors
    /// When the name is too long.
    #[napi(catch_unwind)]
    pub fn add_destination(&mut self, name: Option<String>, now: f64) -> Result<u32> {
        let Call { mut host, state, now, .. } = self.begin(now);
        if let Some(name) = &name {
            let added = host.engine.with_peer(now, |peer| peer.add_destination(name));
            added.map_err(thrown)?;
        }
        let peer = host.engine.peer();
        // What is sent elsewhere here takes turns with what JavaScript sends.
        let turn = name.and_then(|name| peer.turn(&name)).cloned().unwrap_or_default();
        Ok(state.destinations.add(turn, peer.balance().clone()))
    }

    /// Has the units of a destination chosen in this way from now on: by the balance with this name or else that of the
    /// peer, those first that have these tags, names and values in turn, and without those that keep failing, if so told.
    ///
    /// # Errors
    /// When there is no balance of this name: see [`check_balance`].
    #[napi(catch_unwind)]
    pub fn set_balance(
        &mut self,
        destination: u32,
        name: Option<String>,
        prefer: Vec<String>,
        eject: Option<EjectionSettings>,
        now: f64,
    ) -> Result<()> {
        let Call { host, state, .. } = self.begin(now);
        let peer = host.engine.peer().balance();
        let balance = choice::balance(name.as_deref(), Some(&prefer), peer).map_err(thrown)?;
        if let Some(destination) = state.destinations.get_mut(destination) {
            destination.set_balance(balance, eject.map(Ejection::from));
        }
        Ok(())
    }

    /// Sets the bound of requests in flight to a destination. Those that are in flight do not count.
    #[napi(catch_unwind)]
    pub fn set_bound(&mut self, destination: u32, bound: Option<f64>, now: f64) {
        let Call { state, .. } = self.begin(now);
        if let Some(destination) = state.destinations.get_mut(destination) {
            destination.bulkhead = bound.map(|bound| Bulkhead::new(bound as usize));
        }
    }

    /// How the units with these numbers stand, five numbers each: how many requests wait, the answer time in
    /// milliseconds, how many in a row were not answered, how many in a row were rejected, and the milliseconds for
    /// which it is still left out, -1 when it is not.
    #[napi(catch_unwind)]
    pub fn standings(&mut self, destination: u32, units: &[u32], now: f64) -> Vec<f64> {
        let Call { host, state, now, .. } = self.begin(now);
        let Some(at) = state.destinations.get(destination) else { return Vec::new() };
        Numbered { host: &host, known: &state.units, numbers: units }.standings(at, now)
    }

    /// Chooses among the units with these numbers, or those of them that take headers, as the destination does.
    /// Returns the place of one, -1 when none is open.
    #[napi(catch_unwind)]
    pub fn choose(&mut self, destination: u32, units: &[u32], takes_fields: bool, now: f64) -> i32 {
        let Some(at) = self.state.destinations.get(destination) else { return -1 };
        if at.counts_requests() {
            self.begin(now);
        }
        let (host, now) = (lock(&self.host), self.moment(now));
        let State { destinations, units: known, .. } = &self.state;
        let Some(at) = destinations.get(destination) else { return -1 };
        let wanted = Wanted { balance: at.balance(), takes_fields, tried: &NOWHERE };
        Numbered { host: &host, known, numbers: units }.choose(at, wanted, now)
    }

    /// As [`choose`](NativePeer::choose), in another way, or where it has not been on its way.
    ///
    /// # Errors
    /// As [`set_balance`](NativePeer::set_balance).
    #[napi(catch_unwind)]
    pub fn choose_by(
        &mut self,
        wanted: WantedSettings,
        key: Option<&[u8]>,
        units: &[u32],
        course: Option<u32>,
        now: f64,
    ) -> Result<i32> {
        let Call { host, state, now, .. } = self.begin(now);
        let Some(at) = state.destinations.get(wanted.destination) else { return Ok(-1) };
        let balance = wanted.balance(at, host.engine.peer().balance(), key).map_err(thrown)?;
        let course = course.and_then(|course| state.courses.get(course));
        let tried = course.map_or(&NOWHERE, Course::tried);
        let wanted = Wanted { balance: &balance, takes_fields: wanted.takes_fields, tried };
        Ok(Numbered { host: &host, known: &state.units, numbers: units }.choose(at, wanted, now))
    }

    /// Those of the units with these numbers that a function can choose from, three numbers each: the place, how many
    /// requests wait, and the answer time in milliseconds.
    ///
    /// # Errors
    /// As [`set_balance`](NativePeer::set_balance).
    #[napi(catch_unwind)]
    pub fn candidates(
        &mut self,
        wanted: WantedSettings,
        units: &[u32],
        course: Option<u32>,
        now: f64,
    ) -> Result<Vec<f64>> {
        let Call { host, state, now, .. } = self.begin(now);
        let Some(at) = state.destinations.get(wanted.destination) else { return Ok(Vec::new()) };
        let balance = wanted.balance(at, host.engine.peer().balance(), None).map_err(thrown)?;
        let course = course.and_then(|course| state.courses.get(course));
        let tried = course.map_or(&NOWHERE, Course::tried);
        let wanted = Wanted { balance: &balance, takes_fields: wanted.takes_fields, tried };
        let units = Numbered { host: &host, known: &state.units, numbers: units };
        Ok(units.candidates(at.turn(), wanted, now))
    }

    /// How many may wait for a unit.
    #[napi(getter)]
    pub fn most_parked(&self) -> f64 {
        lock(&self.host).engine.peer().limits().waiting_requests as f64
    }

    // Connections.

    /// Dials an address from now on; events tell when and with what outcome. Returns its number.
    #[napi(catch_unwind)]
    pub fn connect(&mut self, url: String, permanent: bool, now: f64) -> Result<f64> {
        let Call { mut host, now, .. } = self.begin(now);
        let address = host.engine.with_peer(now, |peer| peer.connect(&url, permanent, now));
        Ok(address.map_err(thrown)?.0 as f64)
    }

    /// Whether an address is still dialed, or its connection is up.
    #[napi(catch_unwind)]
    pub fn is_dialed(&self, address: f64) -> bool {
        lock(&self.host).engine.peer().is_dialed(AddressId(address as u64))
    }

    /// An address could not be dialed.
    #[napi(catch_unwind)]
    pub fn dial_failed(
        &mut self,
        address: f64,
        reason: String,
        errno: i32,
        code: String,
        now: f64,
    ) {
        let Call { mut host, now, .. } = self.begin(now);
        // libuv's numbers are negative.
        let errno = (errno < 0).then_some(-errno);
        let fault = dial_fault(errno, &code, &reason);
        let error = Error::new(ErrorKind::ConnectFailed, reason).with_fault(fault);
        host.engine.dial_failed(AddressId(address as u64), error, now);
    }

    /// Sets the limits on unauthenticated connections: their number, in total and per address, and the handshake
    /// timeout in milliseconds. None stands for the default.
    #[napi(catch_unwind)]
    pub fn bound_handshakes(
        &mut self,
        in_all: Option<u32>,
        per_address: Option<u32>,
        timeout: Option<f64>,
        now: f64,
    ) {
        let Call { mut host, now, .. } = self.begin(now);
        let count = |count: Option<u32>| count.map(|count| count as usize);
        let timeout = timeout.map(|millis| Duration::from_secs_f64(millis / 1e3));
        host.engine.with_peer(now, |peer| {
            peer.bound_handshakes(count(in_all), count(per_address), timeout);
        });
    }

    /// A socket from this address was accepted and is to be upgraded. `descriptor` is its file descriptor, or negative
    /// if unknown. Returns the number of its place; the event `Evict` asks for the socket to be closed.
    ///
    /// # Errors
    /// When the peer is closed or a limit is 0: close the socket at once.
    #[napi(catch_unwind)]
    pub fn enter(&mut self, address: String, descriptor: i32, now: f64) -> Result<f64> {
        let Call { mut host, now, .. } = self.begin(now);
        // When descriptors run out, libuv closes new connections silently: this must be noticed before.
        let near = |most: u64| u64::try_from(descriptor).is_ok_and(|at| at + SPARE >= most);
        if descriptors().is_some_and(near) {
            let reason = "too many open files";
            host.engine.with_peer(now, |peer| peer.accept_failed(reason, now));
        }
        let place = host.engine.enter(address.parse().ok(), now).map_err(thrown)?;
        Ok(place.0 as f64)
    }

    /// Milliseconds to wait before accepting the next connection.
    #[napi(catch_unwind)]
    pub fn accept_pause(&mut self, now: f64) -> f64 {
        let Call { host, now, .. } = self.begin(now);
        host.engine.peer().accept_pause(now).as_secs_f64() * 1e3
    }

    /// Frees the place of a connection that ended before its upgrade.
    #[napi(catch_unwind)]
    pub fn vacate(&mut self, place: f64, now: f64) {
        let Call { mut host, now, .. } = self.begin(now);
        host.engine.with_peer(now, |peer| peer.vacate(PlaceId(place as u64)));
    }

    /// A socket is upgraded: one that was dialed for `address`, or one that was accepted, with its place if it has one.
    /// Returns the connection's number.
    ///
    /// # Errors
    /// When its place was evicted, the address is not wanted any more, or the claims cannot be used.
    #[napi(catch_unwind)]
    pub fn upgraded(
        &mut self,
        address: Option<f64>,
        remote: RemoteSettings,
        place: Option<f64>,
        now: f64,
    ) -> Result<u32> {
        let mut remote = remote.remote().map_err(thrown)?;
        remote.place = place.map(|place| PlaceId(place as u64));
        let Call { mut host, state, now, .. } = self.begin(now);
        let side = if address.is_some() { Side::Client } else { Side::Server };
        let address = address.map(|address| AddressId(address as u64));
        let opening = Opening::Upgraded { side, address };
        let id = host.open(opening, None, remote, now).map_err(thrown)?;
        Ok(state.add_conn(id))
    }

    /// Bytes came on a connection. Then as [`poll`](NativePeer::poll).
    #[napi(catch_unwind)]
    pub fn feed(&mut self, conn: u32, chunk: &[u8], output: Uint8ArraySlice<'_>, now: f64) {
        let mut call = self.begin(now);
        if let Some(conn) = call.state.conns.get(conn) {
            call.host.feed(conn.id, chunk, call.now);
        }
        call.poll(output);
    }

    // Loop-native sockets.

    /// Has the addon read and write a connection whose upgrade is done and that nothing was read
    /// from or written to since: by the descriptor of a TCP socket of Node's, which is duplicated.
    /// `callback` is called when [`ready`](NativePeer::ready) is to be called. Returns false where
    /// that is not possible.
    #[napi(catch_unwind)]
    pub fn adopt(
        &mut self,
        env: &Env,
        conn: u32,
        fd: i32,
        callback: Function<'_, (), Unknown<'static>>,
    ) -> bool {
        let Some(conn) = self.state.conns.get_mut(conn) else { return false };
        let Some(stream) = socket::duplicate(fd) else { return false };
        conn.socket = Socket::new(env, &stream, &self.host, conn.id, &callback);
        if conn.socket.is_some() {
            lock(&self.host).adopt(conn.id, stream);
        }
        conn.socket.is_some()
    }

    /// Reads and writes as far as that goes. Then as [`poll`](NativePeer::poll).
    #[napi(catch_unwind)]
    pub fn ready(&mut self, conn: u32, output: Uint8ArraySlice<'_>, now: f64) {
        let mut call = self.begin(now);
        if let Some(Conn { id, socket: Some(socket) }) = call.state.conns.get(conn) {
            let (readable, writable) = socket.take_found();
            if writable {
                call.host.writable(*id, call.now);
            }
            if readable {
                call.host.readable(*id, call.now);
            }
        }
        call.poll(output);
        self.state.settle(conn);
    }

    /// Bytes that wait to be written by the addon.
    #[napi(catch_unwind)]
    pub fn pending(&self, conn: u32) -> u32 {
        let conn = self.state.conns.get(conn);
        let pending = conn.map_or(0, |conn| lock(&self.host).pending(conn.id));
        u32::try_from(pending).unwrap_or(u32::MAX)
    }

    /// Whether to read no more from a connection.
    #[napi(catch_unwind)]
    pub fn is_clogged(&mut self, conn: u32, now: f64) -> bool {
        let Call { host, state, .. } = self.begin(now);
        state.conns.get(conn).is_some_and(|conn| !host.engine.may_read(conn.id))
    }

    /// A part of what was taken is written: the connection is alive.
    #[napi(catch_unwind)]
    pub fn writing(&mut self, conn: u32, now: f64) {
        let Call { mut host, state, now, .. } = self.begin(now);
        if let Some(conn) = state.conns.get(conn) {
            host.engine.writing(conn.id, now);
        }
    }

    /// The socket of a connection is closed, after an error with this code and text if these are not empty.
    #[napi(catch_unwind)]
    pub fn closed(&mut self, conn: u32, code: String, text: String, now: f64) {
        let Call { mut host, state, now, .. } = self.begin(now);
        if let Some(conn) = state.conns.get(conn) {
            host.lost(conn.id, dial_fault(None, &code, &text), now);
        }
    }

    /// Closes a connection.
    #[napi(catch_unwind)]
    pub fn close_connection(&mut self, conn: u32, code: u32, reason: String, now: f64) {
        let Call { mut host, state, now, .. } = self.begin(now);
        if let Some(conn) = state.conns.get(conn) {
            let code = u16::try_from(code).unwrap_or(1000);
            host.engine.close_connection(conn.id, code, &reason, now);
        }
    }

    /// Sends a ping with a payload of at most 125 bytes.
    #[napi(catch_unwind)]
    pub fn ping(&mut self, conn: u32, payload: &[u8], now: f64) {
        let Call { mut host, state, now, .. } = self.begin(now);
        if let Some(conn) = state.conns.get(conn) {
            host.engine.ping(conn.id, payload, now);
        }
    }

    /// Closes all connections of a unit.
    #[napi(catch_unwind)]
    pub fn close_unit(&mut self, unit: u32, now: f64) {
        let Call { mut host, state, now, .. } = self.begin(now);
        if let Some(unit) = state.units.get(unit) {
            host.engine.close_unit(*unit, now);
        }
    }

    /// Closes all connections and forgets all addresses.
    #[napi(catch_unwind)]
    pub fn disconnect(&mut self, now: f64) {
        let Call { mut host, now, .. } = self.begin(now);
        host.engine.disconnect(now);
    }

    /// Begins to leave: see [`Unit::drain`]. [`busy`](NativePeer::busy) tells when nothing is under way any more.
    #[napi(catch_unwind)]
    pub fn drain(&mut self, now: f64) {
        let Call { mut host, now, .. } = self.begin(now);
        host.engine.drain(now);
    }

    /// Counters of a unit, as JSON.
    #[napi(catch_unwind)]
    pub fn unit_stats(&mut self, unit: u32, now: f64) -> Option<String> {
        let Call { host, state, .. } = self.begin(now);
        Some(counters::json(&host.engine.unit(*state.units.get(unit)?)?.stats()))
    }

    /// Requests that wait, handlers that run, and streams that are open.
    #[napi(catch_unwind)]
    pub fn busy(&mut self, now: f64) -> u32 {
        self.begin(now).host.busy() as u32
    }

    /// Whether a loop-native socket is still open although its connection is gone: for a moment, while the thread has it
    /// that stands in for a blocked loop.
    #[napi(catch_unwind)]
    pub fn has_lingering(&self) -> bool {
        lock(&self.host).has_lingering()
    }

    // Commands.

    /// Gives a number to the names of what goes out.
    #[napi(catch_unwind)]
    pub fn add_route(&mut self, role: String, event: String) -> u32 {
        self.routes.add(role, event)
    }

    /// Does the commands in shared memory, and one more that has fields, or whose payload is too large for
    /// that. Returns the error of fields that cannot be sent, as
    /// [`no_choice`](NativePeer::no_choice) does: then that one is not done.
    #[napi(catch_unwind)]
    pub fn run_apart(
        &mut self,
        command: &[u32],
        payload: &[u8],
        fields: Option<&[u8]>,
        now: f64,
    ) -> Option<Vec<String>> {
        let Call { mut host, state, routes, now, .. } = self.begin(now);
        let fields = match fields.map(fields::read).transpose() {
            Ok(fields) => fields,
            Err(error) => return Some(failed_with(&error)),
        };
        state.run(&mut host, command, payload, fields.as_ref(), routes, now);
        None
    }

    /// Does the commands in shared memory, and sends one message more, at once. Returns the error, as
    /// [`no_choice`](NativePeer::no_choice) does, when its unit has gone and it may go to another one: then its slot is
    /// told nothing.
    ///
    /// # Errors
    /// When the fields cannot be sent, see [`check_fields`].
    #[napi(catch_unwind)]
    pub fn send_to(
        &mut self,
        command: &[u32],
        payload: &[u8],
        fields: Option<&[u8]>,
        now: f64,
    ) -> Result<Option<Vec<String>>> {
        let Call { mut host, state, routes, now, .. } = self.begin(now);
        let fields = fields.map(fields::read).transpose().map_err(thrown)?;
        let gone = state.send_to(&mut host, command, payload, fields.as_ref(), routes, now);
        Ok(gone.as_ref().map(failed_with))
    }

    /// Does the commands in shared memory.
    #[napi(catch_unwind)]
    pub fn run(&mut self, now: f64) {
        self.begin(now);
    }

    /// Does what is due.
    #[napi(catch_unwind)]
    pub fn timeout(&mut self, now: f64) {
        let Call { mut host, now, .. } = self.begin(now);
        host.handle_timeout(now);
    }

    /// Refuses what has no handler: `why` is 0 when there is no role of this name, 1 when it is disabled, 2 when it
    /// has no handler for an event of this name, but for these `events`.
    #[napi(catch_unwind)]
    pub fn refuse(
        &mut self,
        responder: u32,
        generation: u32,
        why: u32,
        name: String,
        events: Array<'_>,
        now: f64,
    ) {
        let why = match why {
            0 => NoHandler::NotRegistered,
            1 => NoHandler::Disabled,
            _ => NoHandler::NotHandled,
        };
        // Only as many are made texts as are looked at.
        let names = (0..events.len()).filter_map(|at| events.get::<String>(at).ok().flatten());
        let refusal = Refusal::new(why, &name, names);
        let Call { mut host, state, now, .. } = self.begin(now);
        if let Some((unit, question)) = state.take_question(responder, generation) {
            host.refuse(unit, question, refusal, now);
        }
    }

    // Events.

    /// Writes events, then output, to shared memory: see `Header`. Output goes out behind the
    /// events, so that those who hear of a message being queued also hear of its being written.
    #[napi(catch_unwind)]
    pub fn poll(&mut self, output: Uint8ArraySlice<'_>, now: f64) {
        self.begin(now).poll(output);
    }

    /// A buffer of the last batch, by its number. Each can be had once.
    #[napi(catch_unwind)]
    pub fn buffer<'env>(&mut self, env: &'env Env, number: u32) -> Result<BufferSlice<'env>> {
        let bytes = self.large.get_mut(number as usize).map(std::mem::take).unwrap_or_default();
        buffer(env, bytes)
    }

    // Requests.

    /// Asks for a stream, or once more for what another unit has not begun. Returns the stream's number; none when
    /// there is none to be, or that failed, which the slot is told.
    #[napi(catch_unwind)]
    pub fn ask(
        &mut self,
        settings: AskSettings,
        payload: &[u8],
        fields: Option<&[u8]>,
        now: f64,
    ) -> Option<u32> {
        let since = settings.since.map(|since| self.moment(since));
        let Call { mut host, state, now, .. } = self.begin(now);
        let fields = match fields.map(fields::read).transpose() {
            Ok(fields) => fields,
            Err(error) => {
                state.failed(settings.slot, error);
                return None;
            }
        };
        let AskSettings { unit, slot, writable, role, event, kind, timeout, bound, .. } = settings;
        // One handle of it, since the state is changed meanwhile.
        let bulkhead = bound.and_then(|bound| state.destinations.get(bound)?.bulkhead.clone());
        let payload = Payload { kind: DataType::from_byte(kind as u8), bytes: payload };
        let outgoing = Outgoing {
            role: &role,
            event: &event,
            payload,
            order: if writable.is_some() { Order::Any } else { Order::Kept },
            fields: fields.as_ref(),
            bulkhead: bulkhead.as_ref(),
            moves: Moves::WithinUnit,
        };
        let limit = TimeLimit { limit: time_limit(timeout), since };
        let asked = state.units.get(unit).copied().and_then(|unit| {
            let ask = |machine: &mut Unit<u32>| {
                let direction = match writable {
                    None => return Ok((None, machine.request(outgoing, limit, now, slot)?)),
                    Some(true) => Direction::RequesterWrites,
                    Some(false) => Direction::RequesterReads,
                };
                let (stream, corr) = machine.open_stream(direction, outgoing, limit, now, slot)?;
                Ok((Some(stream), corr))
            };
            host.engine.with_unit(unit, now, ask).map(|asked| (unit, asked))
        });
        match asked {
            Some((unit, Ok((stream, corr)))) => {
                state.waits(slot, unit, corr, now);
                stream.map(|stream| state.add_stream(unit, stream))
            }
            Some((_, Err(error))) => {
                state.failed(slot, error);
                None
            }
            None => {
                let error = Error::unit_gone();
                state.failed(slot, error);
                None
            }
        }
    }

    // Streams.

    /// Accepts a stream. Returns its number.
    ///
    /// # Errors
    /// When it cannot be accepted any more: it is refused then.
    #[napi(catch_unwind)]
    pub fn accept_stream(
        &mut self,
        responder: u32,
        generation: u32,
        kind: u32,
        payload: &[u8],
        fields: Option<&[u8]>,
        now: f64,
    ) -> Result<u32> {
        let Call { mut host, state, now, .. } = self.begin(now);
        let fields = fields.map(fields::read).transpose().map_err(thrown)?;
        let gone = || Error::new(ErrorKind::ConnectionLost, "Socket closed");
        let (unit, mut question) =
            state.take_offer(responder, generation).ok_or_else(|| thrown(gone()))?;
        let payload = Payload { kind: DataType::from_byte(kind as u8), bytes: payload };
        let accepted = host.engine.with_unit(unit, now, |unit| {
            let accepted = unit.accept_with(&mut question, payload, fields.as_ref());
            unit.answer(question, Ok(Payload::NULL), now);
            accepted
        });
        let stream = accepted.unwrap_or_else(|| Err(gone())).map_err(thrown)?;
        Ok(state.add_stream(unit, stream))
    }

    /// The next piece of a stream, or 0 when there is none yet, 1 at the end, 2 when it failed.
    #[napi(catch_unwind)]
    pub fn read_stream<'env>(
        &mut self,
        env: &'env Env,
        stream: u32,
        now: f64,
    ) -> Result<Either<BufferSlice<'env>, u32>> {
        let Call { mut host, state, now, .. } = self.begin(now);
        let chunk = state
            .stream(stream)
            .and_then(|(unit, stream)| host.engine.with_unit(unit, now, |unit| unit.read(stream)));
        drop(host);
        Ok(match chunk {
            Some(Chunk::Data(bytes)) => Either::A(buffer(env, bytes)?),
            Some(Chunk::Pending) => Either::B(PENDING),
            Some(Chunk::End) => Either::B(ENDED),
            Some(Chunk::Failed(error)) => Either::B(self.fail(error)),
            None => Either::B(self.fail(socket_closed())),
        })
    }

    /// Writes to a stream from `offset` on. Returns up to where it was taken: an event tells when
    /// there is room for more. -1 when the stream failed.
    #[napi(catch_unwind)]
    pub fn write_stream(&mut self, stream: u32, chunk: &[u8], offset: u32, now: f64) -> i64 {
        let Call { mut host, state, now, .. } = self.begin(now);
        let mut at = offset as usize;
        let written = state.stream(stream).and_then(|(unit, stream)| {
            host.engine.with_unit(unit, now, |unit| {
                while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
                    match unit.write(stream, rest, now)? {
                        0 => break,
                        len => at += len,
                    }
                }
                Ok(())
            })
        });
        drop(host);
        match written {
            Some(Ok(())) => at as i64,
            Some(Err(error)) => {
                self.fail(error);
                -1
            }
            None => {
                self.fail(socket_closed());
                -1
            }
        }
    }

    /// Ends a writer that was accepted. Returns the connection that its end is queued on, -1 when it
    /// failed.
    #[napi(catch_unwind)]
    pub fn finish_stream(&mut self, stream: u32, now: f64) -> i64 {
        let Call { mut host, state, now, .. } = self.begin(now);
        let finished = state.stream(stream).and_then(|(unit, stream)| {
            host.engine.with_unit(unit, now, |unit| unit.finish(stream))
        });
        let error = match finished {
            Some(Ok(conn)) => match conn.and_then(|conn| state.number_of(conn)) {
                Some(conn) => return conn.into(),
                None => socket_closed(),
            },
            Some(Err(error)) => error,
            None => socket_closed(),
        };
        drop(host);
        self.fail(error);
        -1
    }

    /// Forgets a stream; when it is not at its end, the other end is told why.
    #[napi(catch_unwind)]
    pub fn close_stream(&mut self, stream: u32, reason: String, now: f64) {
        let Call { mut host, state, now, .. } = self.begin(now);
        if let Some((unit, stream)) = state.remove_stream(stream) {
            host.engine.with_unit(unit, now, |unit| unit.close_stream(stream, &reason));
        }
    }

    fn fail(&mut self, error: Error) -> u32 {
        self.last_error = Some(error);
        FAILED
    }

    /// The error of what is sent to a role that no unit serves, or no unit that takes headers: its code, its text, and
    /// what to try.
    #[napi(catch_unwind)]
    pub fn no_choice(&self, role: String, takes_fields: bool) -> Vec<String> {
        failed_with(&lock(&self.host).engine.peer().no_choice(&role, takes_fields))
    }

    /// The text of the last stream error.
    #[napi(getter)]
    pub fn last_error(&self) -> String {
        self.last_error.as_ref().map_or_else(String::new, |error| error.text().to_owned())
    }

    /// The number of the kind of the last stream error.
    #[napi(getter)]
    pub fn last_error_kind(&self) -> u32 {
        self.last_error.as_ref().map_or(0, |error| error.kind().code().into())
    }
}

impl Call<'_> {
    /// See [`NativePeer::poll`].
    fn poll(self, mut output: Uint8ArraySlice<'_>) {
        let Call { mut host, state, memory, large, now, .. } = self;
        let Memory { batch, bytes, .. } = memory;
        // SAFETY: all three belong to different JavaScript arrays, which the peer or the caller
        // keeps alive. JavaScript does not run during the call, and no other reference exists.
        let (words, bytes, output) = unsafe { (batch.as_mut(), bytes.as_mut(), output.as_mut()) };
        let mut batch = Batch::new(words, bytes, large);
        let all = state.write_events(&mut host, &mut batch, now);
        let (words, large) = batch.finish();
        let (mut outputs, mut more) = (0, true);
        if all {
            let records = words.len() - OUTPUTS * OUTPUT_WORDS;
            let records = &mut words[records..];
            (outputs, more) = state.take_output(&mut host, records, output, large, now);
        }
        words[Header::Outputs as usize] = outputs as u32;
        words[Header::More as usize] = more.into();
        words[Header::Deadline as usize] = match host.deadline() {
            // Rounded up, so that it is due when the timer fires.
            Some(at) => at.since(now).as_micros().div_ceil(1000).min(1 << 30) as u32,
            None => NONE,
        };
    }
}

/// An error for JavaScript: code, text, and what to try.
pub(crate) fn failed_with(error: &Error) -> Vec<String> {
    let hint = error.hint().unwrap_or_default();
    vec![error.kind().name().to_owned(), error.text().to_owned(), hint.to_owned()]
}

/// The error of the name of a balance that there is not, as [`NativePeer::no_choice`] has it.
#[napi(catch_unwind)]
pub fn check_balance(name: String) -> Option<Vec<String>> {
    Balance::named(&name).err().map(|error| failed_with(&error))
}

/// The error of what is to wait for a unit where so many wait already, as [`NativePeer::no_choice`] has it.
#[napi(catch_unwind)]
pub fn too_many_waiting(limit: f64) -> Vec<String> {
    failed_with(&too_many_parked(limit as usize))
}

/// The error of headers and trace context that cannot be sent, as [`NativePeer::no_choice`] has it.
#[napi(catch_unwind)]
pub fn check_fields(fields: &[u8]) -> Option<Vec<String>> {
    fields::read(fields).err().map(|error| failed_with(&error))
}

/// Why requests are given up, in the order of their numbers: the code of the error, its text, and the name of the reason.
#[napi(catch_unwind)]
pub fn cancel_reasons() -> Vec<Vec<String>> {
    let told = |reason: CancelReason| {
        let kind = match reason {
            CancelReason::Deadline => ErrorKind::Timeout,
            _ => ErrorKind::Cancelled,
        };
        [kind.name(), reason.text(), reason.name()].map(str::to_owned).to_vec()
    };
    CancelReason::ALL.into_iter().map(told).collect()
}

/// The time limit of a request: none stands for the default.
pub(crate) fn time_limit(millis: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(millis / 1e3).ok().filter(|time| !time.is_zero())
}

fn socket_closed() -> Error {
    Error::new(ErrorKind::ConnectionLost, "Socket closed")
}

/// A text that may come from a stranger, fit for logs and terminals.
#[napi]
pub fn printable(text: String) -> String {
    roletalk_engine::printable(&text)
}

/// How addresses are written.
#[napi(catch_unwind)]
pub fn address_hint() -> String {
    hint::ADDRESS.to_owned()
}

/// What to try when an address cannot be listened on, by libuv's number of the error.
#[napi(catch_unwind)]
pub fn listen_hint(address: String, errno: i32) -> Option<String> {
    hint::listen(address, std::io::Error::from_raw_os_error(-errno).kind())
}

/// What can be sent as an object.
#[napi(catch_unwind)]
pub fn json_hint() -> String {
    hint::JSON.to_owned()
}

/// The names of all kinds of errors, in the order of their numbers, from 1 on.
#[napi(catch_unwind)]
pub fn error_kinds() -> Vec<&'static str> {
    ErrorKind::ALL.iter().map(|kind| kind.name()).collect()
}

/// Bytes below this are copied into a buffer, which is cheaper than to hand them over.
const COPIED: usize = 4 << 10;

fn buffer(env: &Env, bytes: Bytes) -> Result<BufferSlice<'_>> {
    if bytes.len() <= COPIED {
        return BufferSlice::copy_from(env, &bytes);
    }
    let (data, len) = (bytes.as_ptr().cast_mut(), bytes.len());
    // SAFETY: the bytes live as long as `bytes`, which the finalizer drops. No other part of the
    // program looks at them: the engine has given them away, and what shares their allocation are
    // other ranges of it. So JavaScript may write to them.
    unsafe { BufferSlice::from_external(env, data, len, bytes, |_, bytes| drop(bytes)) }
}
