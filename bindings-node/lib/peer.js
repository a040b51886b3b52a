'use strict';

const http = require('node:http');
const https = require('node:https');
const { accessOf, authenticateOf, frozen, keptHeaders, policyText, remoteOf, upgradeRequest } = require('./access.js');
const { addressHint, listenHint, printable } = require('./addon.js');
const { FAULT, Judging, judge } = require('./authenticate.js');
const { balanceOf, boundOf, ejectionOf, tagsOf } = require('./choice.js');
const { checkName } = require('./commands.js');
const { Connection } = require('./connection.js');
const { kExchange } = require('./context.js');
const { Destination } = require('./destination.js');
const { dial, judging } = require('./dial.js');
const { drained } = require('./drain.js');
const { RoletalkError, peerClosed, plainError } = require('./errors.js');
const { Exchange, StreamExchange } = require('./exchange.js');
const { faultOf } = require('./fields.js');
const { bound, checkCallback, emit, ignore, messageOf, print } = require('./guard.js');
const { Hold } = require('./hold.js');
const { Host } = require('./host.js');
const { addressOf, log, logEnd, nameOf } = require('./log.js');
const { Lobby } = require('./lobby.js');
const { MiddlewareEmitter } = require('./middleware.js');
const { DESTINATION, LISTEN, PEER, SERVE, checkConnectOptions, checkOptions, invalid, listOf } = require('./options.js');
const { PolicyFile } = require('./policy.js');
const { Op } = require('./protocol.js');
const { retryOf } = require('./retry.js');
const { Role } = require('./role.js');
const { handling, newScope } = require('./scope.js');
const { onceSignalled } = require('./serve.js');
const { PeerReadable, PeerWritable } = require('./streams.js');
const { Tls, hasFiles } = require('./tls.js');
const { Unit } = require('./unit.js');
const { isUpgrade, originOf, refuse, upgrade, upgradeRequired } = require('./upgrade.js');

const PEER_RECONNECT_SUCCESS_EVENT = 'reconnect_success';
const PEER_RECONNECT_FAIL_EVENT = 'reconnect_fail';
const TLS_RELOAD_SUCCESS_EVENT = 'tls_reload_success';
const TLS_RELOAD_FAIL_EVENT = 'tls_reload_fail';
/** Why something has no handler, as the addon knows it. */
const [NOT_REGISTERED, DISABLED, NOT_HANDLED] = [0, 1, 2];
/** How long a peer drains, in milliseconds, unless it is told otherwise. */
const DRAIN_LIMIT = 10_000;
/** Warnings about what the application has failed at, within a second. */
const MAX_WARNINGS = 10;

/** The preshared keys of a peer. */
class Auth {
  constructor(peer) {
    this._peer = peer;
  }

  addPresharedKey(id, key) {
    if (typeof id !== 'string' || typeof key !== 'string') {
      throw new Error('both id and key should be of type string');
    }
    const { _core: host } = this._peer;
    host.native.addKey(id, key, host.now());
  }

  removePresharedKey(id) {
    if (typeof id !== 'string') throw new Error('id should be of type string');
    const { _core: host } = this._peer;
    return host.native.removeKey(id, host.now());
  }
}

/** An address that this peer dials. */
class Address {
  constructor(url, options, callback) {
    this.url = url;
    this.options = options;
    /** Told of the first outcome. */
    this.callback = callback;
    /** Gives up an attempt that is under way. */
    this.giveUp = null;
    /** The system's error that the last attempt failed with. */
    this.cause = undefined;
    /** Whether the application has asked for it, which keeps the process alive. */
    this.held = false;
    /** Certificates from files. */
    this.tls = null;
  }

  /** For the next attempt. The application may have changed what it has given. */
  get settings() {
    const { options, tls } = this;
    return tls === null ? options : { ...options, ...tls.options, secureContext: tls.context };
  }
}

/**
 * The local node: it listens, connects, offers roles, and knows what units offer.
 */
class Peer extends MiddlewareEmitter {
  constructor(options = {}) {
    super();
    checkOptions('Peer', options, PEER);
    checkPositive('connectionAge', options.connectionAge);
    this._balance = balanceOf(options);
    this._eject = ejectionOf(options);
    this._authenticate = authenticateOf(options);
    const access = accessOf(options);
    this._identityHeaders = access.identityHeaders;
    this._name = typeof options.name === 'string' ? options.name : '';
    this._friendly = options.friendly !== false;
    this._roles = new Map();
    this._core = new Host(
      {
        name: this._name,
        friendly: this._friendly,
        os: process.platform,
        runtime: `nodejs ${process.version}`,
        balance: typeof this._balance === 'string' ? this._balance : undefined,
        access,
        acquaintanceNetworks: listOf('acquaintanceNetworks', options.acquaintanceNetworks),
        acquaintancePorts: listOf('acquaintancePorts', options.acquaintancePorts),
        connectionAge: options.connectionAge,
      },
      this,
    );
    this._id = this._core.native.id;
    /** By their numbers: an id may be claimed by one that has not proved it. */
    this._units = new Map();
    this._destinations = new Map();
    this._static_tags = new Map();
    /** What this peer dials, by the engine's number. */
    this._addresses = new Map();
    /** Whether `close` was called, and nothing since that connects or listens. */
    this._closed = false;
    /** Whether the event `close` is due. */
    this._closing = false;
    /** Calls of `close` that are not done, and what each of them waits for. */
    this._closings = new Set();
    /** Connections whose sockets are not closed. */
    this._connections = new Set();
    /** Upgrades that the application judges. */
    this._judgings = new Set();
    /** The file that the policy is taken from, and reads of those that it may be taken from. */
    this._policyFile = undefined;
    this._policyReads = new Set();
    this._hold = new Hold();
    this._handlerErrors = 0;
    this._warnings = 0;
    this._warnedSince = -Infinity;
    this._server = undefined;
    this._listener = undefined;
    /** While `listen` has no outcome. */
    this._starting = undefined;
    this._lobby = undefined;
    /** Certificates of the listener, and the options that they are from. */
    this._tls = null;
    this._ssl = undefined;
    this._wss = undefined;
    this._port = undefined;
    this._host = undefined;
    this._path = undefined;
    this.auth = new Auth(this);
  }

  get id() {
    return this._id;
  }

  get name() {
    return this._name;
  }

  set name(name) {
    this._name = name;
    this._core.native.setName(String(name), this._core.now());
  }

  get friendly() {
    return this._friendly;
  }

  set friendly(friendly) {
    this._friendly = friendly;
    this._core.native.setFriendly(Boolean(friendly), this._core.now());
  }

  /** The port that this peer listens on. */
  get port() {
    return this._port;
  }

  addPresharedKey(id, key) {
    this.auth.addPresharedKey(id, key);
    return this;
  }

  removePresharedKey(id) {
    return this.auth.removePresharedKey(id);
  }

  setTag(key, value) {
    if (typeof key !== 'string' || typeof value !== 'string') throw new Error('Provide string arguments');
    this._static_tags.set(key, value);
    this._core.native.setTag(key, value, this._core.now());
  }

  getTags() {
    return Object.fromEntries(this._static_tags);
  }

  // Who may call and serve what.

  /**
   * Sets the policy from now on, also for those who are connected.
   * @param {object | string | null} policy an object, its JSON, or null: then everyone may do everything
   */
  setPolicy(policy) {
    const { _core: core } = this;
    const fault = core.native.setPolicy(policy === null ? null : policyText(policy), core.now());
    if (fault !== null) throw faultOf(fault);
    core.schedule();
    this._policyFile?.pause();
    this._policyFile = undefined;
  }

  /**
   * Takes the policy from a file, and again when that changes. Resolves when it is in force.
   * @param {string} path
   */
  watchPolicy(path) {
    const promise = this._watchPolicy(path, () => promise.catch(ignore));
    return promise;
  }

  /** @param {() => void} mute is called before it fails with what nobody has to look at */
  async _watchPolicy(path, mute) {
    if (typeof path !== 'string' || path === '') throw invalid('The path of the policy should be a string');
    if (this._closed) throw peerClosed();
    const file = new PolicyFile(this, path);
    const take = await file.read();
    if (this._closed) {
      mute();
      throw peerClosed();
    }
    const fault = take();
    if (fault.length > 0) throw faultOf(fault);
    this._policyFile?.pause();
    this._policyFile = file;
    file.watch();
  }

  /**
   * The watched file has changed.
   * @param {string[] | null} fault null when what is in it is in force
   */
  _policyRead(path, fault) {
    if (fault === null) {
      log('info: policy loaded from %s', path);
      emit(this, 'policy_loaded', path);
    } else {
      const error = faultOf(fault);
      log('warn: policy failed: %s', error.message);
      emit(this, 'policy_failed', error, path);
    }
  }

  /** It is no longer closed, if it was. */
  _reopen() {
    this._closed = false;
    this._policyFile?.resume();
  }

  // Listening.

  prepareWSServer() {
    this._wss = { path: undefined };
    this._reopen();
  }

  handleUpgrade(request, socket, head) {
    if (!this._wss) {
      throw new Error(
        'Cannot handle upgrade: instantiate websocket server (use .prepareWSServer or .listen)',
      );
    }
    if (this._closed) return refuse(socket, 503);
    if (!isUpgrade(request, this._wss.path)) return refuse(socket, 400);
    const origin = originOf(request);
    const foreign = origin === undefined ? null : this._core.native.foreignOrigin(String(origin));
    if (foreign !== null) {
      return this._refuse(socket, 403, `its origin ${foreign} is foreign, and not among the option "origins"`);
    }
    if (this._authenticate === undefined) this._accept(request, socket, head, undefined);
    else this._judge(request, socket, head);
  }

  /** Has the application judge an upgrade. */
  _judge(request, socket, head) {
    const { native } = this._core;
    // As many may be judged as may be about to finish their handshake.
    if (this._judgings.size >= native.mostHandshakes) {
      socket.destroy();
      return;
    }
    const verdict = judge(this._authenticate, upgradeRequest(request, socket));
    if (!(verdict instanceof Promise)) return this._judged(request, socket, head, verdict);
    if (this._closed) return refuse(socket, 503);
    const judging = new Judging(socket, native.handshakeTimeout, (told) => {
      this._judgings.delete(judging);
      this._gone(judging);
      if (told !== null) this._judged(request, socket, head, told);
    });
    this._judgings.add(judging);
    this._lobby?.onLate(socket, () => judging.refuse());
    judging.wait(verdict);
  }

  /** @param {import('./authenticate.js').Verdict} verdict */
  _judged(request, socket, head, { claims, status, reason }) {
    if (claims === undefined) {
      this._refuse(socket, status, reason);
      if (status === FAULT) this._warn('RoletalkAuthenticateWarning', `An upgrade was refused: ${reason}`);
    } else if (this._closed) {
      refuse(socket, 503);
    } else {
      this._accept(request, socket, head, claims);
    }
  }

  /** Refuses an upgrade. The other side hears of no reason. */
  _refuse(socket, status, reason) {
    if (log.enabled) log('warn: upgrade from %s refused with %d: %j', addressOf({ _remote: socket }), status, reason);
    refuse(socket, status);
  }

  /**
   * Answers an upgrade.
   * @param {string | undefined} claims what the application knows of the other end, as JSON
   */
  _accept(request, socket, head, claims) {
    const remote = remoteOf(socket, false, { claims, headers: keptHeaders(request, this._identityHeaders) });
    if (!upgrade(request, socket)) return;
    const place = this._lobby?.upgraded(socket);
    const { _core: core } = this;
    let number;
    try {
      number = core.native.upgraded(null, remote, place, core.now());
    } catch {
      // It was evicted.
      socket.destroy();
      return;
    }
    this._connected(number, socket, head, undefined);
  }

  /** A WebSocket is open; its handshake follows. */
  _connected(number, socket, head, url) {
    const { _core: core } = this;
    const connection = new Connection(core, socket, number, url);
    core.conns[number] = connection;
    this._connections.add(connection);
    if (head.length > 0) connection._feed(head);
    else core.schedule();
    return connection;
  }

  listen(options, callback) {
    if (this._listener) throw new Error('.listen has been called already');
    this._lobby = undefined;
    let limits = {};
    let files;
    let own;
    if (typeof options === 'number') {
      this._server = http.createServer(upgradeRequired);
      this._lobby = new Lobby(this._server, this._core);
      this._port = options;
    } else if (typeof options === 'object') {
      checkOptions('listen', options, LISTEN);
      const { port, host, path, ssl, server } = options;
      if (typeof port !== 'number') throw new Error('Provide options.port');
      if (!server && ssl && !((ssl.cert || ssl.certFile) && (ssl.key || ssl.keyFile))) {
        throw new Error('Provide correct options.ssl');
      }
      checkPositive('handshakeTimeout', options.handshakeTimeout);
      checkPositive('maxHandshakes', options.maxHandshakes);
      checkPositive('maxHandshakesPerAddress', options.maxHandshakesPerAddress);
      if (!server && hasFiles(ssl)) files = new Tls(ssl, this._toldOfTls((changed) => own.setSecureContext(changed)));
      this._path = path;
      this._port = port;
      this._host = host;
      if (server) this._server = server;
      else if (ssl) this._server = own = https.createServer(files ? listenerOptions(ssl, files) : { ...ssl }, upgradeRequired);
      else this._server = http.createServer(upgradeRequired);
      // What connects to somebody else's server may want something else of it.
      if (!server) this._lobby = new Lobby(this._server, this._core);
      this._ssl = server ? undefined : ssl;
      limits = options;
    } else {
      throw new Error('Incorrect type of arguments');
    }
    const { handshakeTimeout, maxHandshakes, maxHandshakesPerAddress } = limits;
    const { _core: core } = this;
    core.native.boundHandshakes(maxHandshakes, maxHandshakesPerAddress, handshakeTimeout, core.now());
    this._tls?.stop();
    this._tls = files?.start() ?? null;
    if (!callback) {
      const promise = new Promise((resolve, reject) => {
        this._listen((error) => {
          if (!error) return resolve(this);
          if (this._closed) promise.catch(ignore);
          reject(error);
        });
      });
      return promise;
    }
    checkCallback(callback);
    return this._listen(callback);
  }

  _listen(callback) {
    const { _server: server } = this;
    this._wss = { path: this._path };
    this._reopen();
    const onUpgrade = (request, socket, head) => this.handleUpgrade(request, socket, head);
    server.on('upgrade', onUpgrade);
    const starting = { over: () => {}, told: false };
    const tell = (error) => {
      if (starting.told) return;
      starting.told = true;
      callback(error);
    };
    const respond = (error) => {
      if (this._starting !== starting) return;
      this._starting = undefined;
      if (error) {
        forget();
        const hint = error.errno && listenHint(`${this._host ?? '*'}:${this._port}`, error.errno);
        if (hint) error.hint = hint;
      } else {
        this._port = server.address().port;
        log('info: listening on %s:%d', server.address().address, this._port);
      }
      tell(error);
      starting.over();
    };
    // It is not this peer's then, and has to be closed by somebody else.
    const forget = () => {
      this._listener = undefined;
      this._server = undefined;
      this._tls?.stop();
      server.off('upgrade', onUpgrade).off('error', respond);
    };
    starting.giveUp = () => {
      if (starting.told) return;
      starting.told = true;
      process.nextTick(callback, peerClosed());
    };
    this._starting = starting;
    server.on('error', respond);
    try {
      this._listener = server.listen({ port: this._port, host: this._host }, () => respond(null));
    } catch (error) {
      // A server that was given and listens already, among others.
      this._starting = undefined;
      forget();
      throw error;
    }
  }

  close(callback) {
    checkCallback(callback);
    const { _core: core, _server: server, _starting: starting } = this;
    const told = callback ? bound(callback) : ignore;
    this._closed = true;
    this._closing = true;
    core.native.disconnect(core.now());
    core.schedule();
    for (const [number, address] of this._addresses) this._forget(number, address);
    for (const destination of this._destinations.values()) destination._peerClosed();
    this._lobby?.close();
    for (const judging of this._judgings) judging.giveUp();
    this._tls?.stop();
    this._policyFile?.pause();
    const left = new Set([...this._connections, ...this._judgings, ...this._policyReads]);
    const closing = { left, due: false, error: undefined, told };
    this._closings.add(closing);
    const done = (error) => {
      closing.error = error;
      this._gone(closing);
    };
    closing.left.add(closing);
    if (!server) {
      process.nextTick(done);
    } else if (starting === undefined) {
      server.close(done);
    } else {
      // It is about to listen, which cannot be called off.
      starting.giveUp();
      starting.over = () => (server.listening ? server.close(done) : done());
    }
    return server;
  }

  /** Something that `close` waits for is over. */
  _gone(part) {
    this._connections.delete(part);
    for (const closing of this._closings) {
      closing.left.delete(part);
      if (closing.left.size > 0 || closing.due) continue;
      closing.due = true;
      // In a turn of its own: the engine hears of the last connection at the end of this one.
      setImmediate(() => this._over(closing));
    }
  }

  /** Tells who has called `close`, once the thread that stands in for a blocked loop has let go of the sockets. */
  _over(closing) {
    if (this._core.native.hasLingering()) {
      setImmediate(() => this._over(closing));
      return;
    }
    this._closings.delete(closing);
    closing.told(closing.error);
    setImmediate(() => this._checkClosed());
  }

  /** Emits `close` once everything is closed. */
  _checkClosed() {
    if (!this._closing || this._units.size > 0 || this._server?.listening || this._closings.size > 0) return;
    this._closing = false;
    emit(this, 'close');
  }

  ref() {
    this._hold.ref();
    return this;
  }

  unref() {
    this._hold.unref();
    return this;
  }

  /**
   * Finishes what is under way, then closes. Roles are withdrawn first, so that others turn to other
   * units; they stay as they are here, since their handlers are called for what was sent before that.
   * @param {number} [limit] milliseconds after which it closes in any case
   */
  async drain(limit = DRAIN_LIMIT) {
    this._core.native.drain(this._core.now());
    this._core.schedule();
    await drained(this._core, limit);
    await new Promise((resolve) => this.close(resolve));
  }

  /**
   * Serves until SIGINT or SIGTERM, then drains. A second signal ends the process at once.
   * @param {{ drain?: number }} [options] milliseconds to drain for at most
   */
  async serve(options = {}) {
    checkOptions('serve', options, SERVE);
    const { drain = DRAIN_LIMIT } = options;
    if (this._closed && !this._closing) return;
    this._hold.take();
    let forget;
    let closed;
    const signalled = await new Promise((resolve) => {
      closed = () => resolve(false);
      this.once('close', closed);
      forget = onceSignalled(() => resolve(true));
    });
    try {
      if (signalled) await this.drain(drain);
    } finally {
      this.removeListener('close', closed);
      forget();
      this._hold.release();
    }
  }

  async [Symbol.asyncDispose]() {
    await new Promise((resolve) => this.close(resolve));
  }

  // Certificates.

  /** Reads the files of certificates again that this peer listens or dials with. */
  async reloadTls() {
    const outcomes = await Promise.allSettled(this._allTls().filter((tls) => tls.hasFiles).map((tls) => tls.reload()));
    const failed = outcomes.find(({ status }) => status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  /** Listens with other certificates from now on; what is not given stays. */
  replaceTls(pem) {
    const tls = this._listenerTls();
    if (tls === null) throw new RoletalkError('INVALID_ARGUMENT', 'The peer does not listen with `ssl`');
    tls.replace(Object(pem));
  }

  /** When the first of the certificates expires that this peer listens or dials with, if that is known. */
  get tlsExpires() {
    const times = this._allTls().map((tls) => tls.expires).filter((time) => time !== undefined);
    return times.length === 0 ? undefined : new Date(Math.min(...times));
  }

  _allTls() {
    const dialed = Array.from(this._addresses.values(), (address) => address.tls);
    let listener = null;
    try {
      listener = this._listenerTls();
    } catch {
      // In a form that only OpenSSL reads.
    }
    return [listener, ...dialed].filter((tls) => tls !== null);
  }

  _listenerTls() {
    const { _server: server, _ssl: ssl } = this;
    if (this._tls === null && ssl && server) {
      this._tls = new Tls(ssl, this._toldOfTls((changed) => server.setSecureContext(changed)));
    }
    return this._tls;
  }

  _toldOfTls(change) {
    return {
      changed: (options, expires) => {
        change(options);
        log('info: TLS settings changed, they expire on %s', expires);
        emit(this, TLS_RELOAD_SUCCESS_EVENT, { expires });
      },
      failed: (error) => {
        log('warn: TLS settings not changed: %s', error.message);
        emit(this, TLS_RELOAD_FAIL_EVENT, { error });
      },
    };
  }

  // Connecting.

  connect(url, options, callback) {
    if (typeof url !== 'string') throw new Error('address should be a string');
    if (typeof options === 'function') {
      callback = options;
      options = undefined;
    }
    checkConnectOptions(options);
    if (typeof callback === 'function') {
      const told = bound(callback);
      this._connect(url, options ?? {}, (error, result) => told(error, result));
      return undefined;
    }
    const promise = new Promise((resolve, reject) => {
      this._connect(url, options ?? {}, (error, result, goesOn) => {
        if (!error) return resolve(result);
        // Nobody has to look at it: it is dialed again, and the event `reconnect_fail` tells of that; or this peer
        // was closed.
        if (goesOn || error.code === 'CLOSED') promise.catch(ignore);
        reject(error);
      });
    });
    return promise;
  }

  _connect(url, options, callback) {
    const { _core: core } = this;
    let target = url;
    try {
      const { protocol, href } = new URL(url);
      // The engine knows only ws and wss; ws takes these as well.
      if (protocol === 'http:' || protocol === 'https:') target = href.replace('http', 'ws');
    } catch (error) {
      process.nextTick(callback, plainError('INVALID_ARGUMENT', String(error), { cause: error, hint: addressHint() }));
      return;
    }
    let tls = null;
    try {
      if (hasFiles(options)) tls = new Tls(options, this._toldOfTls(ignore));
    } catch (error) {
      process.nextTick(callback, error);
      return;
    }
    let number;
    try {
      number = core.native.connect(target, options.permanent !== false, core.now());
    } catch (error) {
      process.nextTick(callback, plainError('INVALID_ARGUMENT', error.message, { hint: addressHint() }));
      return;
    }
    const address = new Address(url, options, callback);
    address.held = true;
    address.tls = tls?.start() ?? null;
    this._reopen();
    this._addresses.set(number, address);
    this._hold.take();
    core.schedule();
  }

  /** The engine wants an address to be dialed; it gives its own form of the URL. */
  _dial(number, url) {
    let address = this._addresses.get(number);
    if (address === undefined) {
      // A unit has told of it.
      const admit = (found) => this._core.native.admitFound(number, found, this._core.now());
      address = new Address(url, { lookup: judging(admit) }, null);
      this._addresses.set(number, address);
    }
    address.giveUp = dial(address.url, address.settings, (error, socket, head) => {
      address.giveUp = null;
      const { _core: core } = this;
      if (error) {
        address.cause = error;
        core.native.dialFailed(number, `Socket errored: ${error}`, error.errno ?? 0, error.code ?? '', core.now());
        core.schedule();
        return;
      }
      let conn;
      try {
        conn = core.native.upgraded(number, remoteOf(socket, true), undefined, core.now());
      } catch {
        // It is not wanted any more.
        socket.destroy();
        return;
      }
      this._connected(conn, socket, head, address.url)._address = number;
    });
  }

  /** An attempt has succeeded or failed. */
  _dialed(number, count, again, error, connection) {
    const address = this._addresses.get(number);
    if (address === undefined) return;
    const { url, callback, cause } = address;
    address.callback = null;
    address.cause = undefined;
    if (error && cause !== undefined) {
      Object.defineProperty(error, 'cause', { value: cause, writable: true, configurable: true });
    }
    if (callback !== null) {
      if (error) callback(error, undefined, this._core.native.isDialed(number));
      else callback(null, { unit: connection._unit, ws: connection });
    }
    if (count > 0) {
      if (error) emit(this, PEER_RECONNECT_FAIL_EVENT, { address: url, count, error });
      else emit(this, PEER_RECONNECT_SUCCESS_EVENT, { address: url, count });
    }
    if (error) this._checkAddress(number);
  }

  /** Forgets an address when the engine has. */
  _checkAddress(number) {
    const address = this._addresses.get(number);
    if (address !== undefined && !this._core.native.isDialed(number)) this._forget(number, address);
  }

  _forget(number, address) {
    this._addresses.delete(number);
    if (address.held) this._hold.release();
    address.giveUp?.();
    address.tls?.stop();
    const { callback } = address;
    address.callback = null;
    if (callback !== null) process.nextTick(callback, plainError('CLOSED', 'Socket closed'));
  }

  // Roles and destinations.

  destination(name, options) {
    checkOptions('destination', options, DESTINATION);
    const balance = options ? balanceOf(options) : undefined;
    const prefer = options ? tagsOf(options) : undefined;
    const eject = options ? ejectionOf(options) : undefined;
    const bound = options ? boundOf(options) : undefined;
    const retry = options ? retryOf(options) : undefined;
    let destination = this._destinations.get(name);
    if (destination === undefined) {
      destination = new Destination(name, this);
      this._destinations.set(name, destination);
      for (const unit of this._units.values()) {
        if (unit.getRoles().includes(name)) destination._addUnit(unit);
      }
    }
    const waits = options?.waitForUnit;
    if (waits !== undefined) destination._waits = Boolean(waits);
    if (balance !== undefined || prefer !== undefined || eject !== undefined) {
      destination._chooseBy(balance, prefer, eject);
    }
    if (bound !== undefined) destination._setBound(bound);
    if (retry !== undefined) destination._retry = retry;
    return destination;
  }

  role(name, active) {
    let role = this._roles.get(name);
    if (role === undefined) {
      role = new Role(name, this, active);
      checkName(name);
      const { _core: core } = this;
      core.native.addRole(name, role.active, core.now());
      core.schedule();
      this._roles.set(name, role);
      this.emit('role', role);
    }
    return role;
  }

  _roleChanged(role) {
    const { _core: core } = this;
    core.native.setRoleActive(role.name, role.active, core.now());
    core.schedule();
  }

  get units() {
    return [...this._units.values()];
  }

  get roles() {
    return [...this._roles.values()];
  }

  get destinations() {
    return [...this._destinations.values()];
  }

  /** Counters: what is under way, and those of each unit. */
  stats() {
    const units = this.units.map((unit) => ({ id: unit.id, name: unit.name, ...unit.stats() }));
    const { _core: core, _handlerErrors: handlerErrors } = this;
    const { handshakes, addressesIgnored } = core.native;
    return { busy: core.native.busy(core.now()), handlerErrors, handshakes, addressesIgnored, units };
  }

  onMessage(handler) {
    this.on('message', handler);
  }

  onRequest(handler) {
    this.on('request', handler);
  }

  onReadable(handler) {
    this.on('readable', handler);
  }

  onWritable(handler) {
    this.on('writable', handler);
  }

  onData(handler) {
    this.on('data', handler);
  }

  // What the engine says.

  /** A connection belongs to a unit from now on, perhaps to a new one. */
  _attached(connection, known, number, description) {
    frozen(description.identity);
    const unit = known ?? new Unit({ peer: this, number, description });
    if (known) unit._describe(description);
    else this._units.set(number, unit);
    connection.identity = unit.identity;
    unit._sockets.push(connection);
    if (log.enabled) log('info: connected with %s, %s', nameOf(unit), addressOf(connection));
    connection._unit = unit;
    connection.once('close', () => this._detached(connection));
    emit(unit, 'ws', connection);
    refreshPeerDestinations.call(this, unit);
    if (known) return unit;
    emit(this, 'unit', unit);
    unit.once('close', () => {
      for (const destination of this._destinations.values()) destination._deleteUnit(unit);
      if (this._units.get(number) === unit) this._units.delete(number);
    });
    return unit;
  }

  _detached(connection) {
    if (connection._address !== undefined) this._checkAddress(connection._address);
  }

  _unitClosed(unit) {
    unit._count(false);
    emit(unit, 'close');
    this._checkClosed();
  }

  _unitRoles(unit, roles) {
    unit._offers(roles);
    refreshPeerDestinations.call(this, unit);
    emit(unit, '_new_roles', { roles });
  }

  _ejected(unit, isOut, role) {
    if (unit !== undefined) emit(this, isOut ? 'unit_ejected' : 'unit_restored', { role, unit });
  }

  /** The engine evicts a connection that is not upgraded. */
  _evict(place, late) {
    this._lobby?.evict(place, late);
  }

  /** Connections could not be accepted, or were evicted. */
  _acceptFailed(error) {
    log('warn: %s (%s)', error.message, error.hint);
    emit(this, 'accept_error', error);
  }

  /** The policy has denied a unit something. */
  _denied(unit, { what, role, event, count, text, identity }) {
    if (unit === undefined) return;
    if (log.enabled) log('warn: denied: %s, %j, %s (%d)', nameOf(unit), identity, text, count);
    emit(this, 'denied', unit, { what, role, event, count });
  }

  _addressIgnored(unit, text) {
    if (log.enabled) log('debug: an address told by %s is not dialed: %s', unit ? nameOf(unit) : 'a unit', text);
  }

  _authRefused(error) {
    emit(this, 'auth_error', error);
  }

  _connectionClosed(connection, unit, error) {
    logEnd(connection, unit, error);
    if (unit && error.code === 'PROTOCOL' && unit.listenerCount('error') > 0) emit(unit, 'error', error);
  }

  /** Something could not be queued for a unit; nobody is told of `silent` messages among that. */
  _unsent(unit, error, silent, queued) {
    // A message to a unit that is gone is lost as those are that were on their way.
    if (unit === undefined || error.code === 'CONNECTION_LOST') return;
    unit._unsent += silent;
    const slow = error.code === 'OVERLOADED';
    if (slow && emit(this, 'slow_consumer', { unit, queued, dropped: unit._unsent })) return;
    if (silent > 0) {
      const text = `${silent} messages to the unit "${printable(unit.id)}" were not sent: ${error.message}`;
      process.emitWarning(text, 'RoletalkDroppedWarning');
    }
  }

  _slowConsumer(unit, queued, dropped) {
    if (unit !== undefined) emit(this, 'slow_consumer', { unit, queued, dropped });
  }

  /** A request, or a request for a stream, for the role's handlers. */
  _question(op, ctx, role, number, generation, fields) {
    const { _core: core } = this;
    if (role === undefined) return core.refuse(number, generation, NOT_REGISTERED, ctx.role, []);
    if (!role._active) return core.refuse(number, generation, DISABLED, ctx.role, []);
    let kind = 'request';
    let handlers = role._reqHandler;
    if (op === Op.OFFER_READABLE) {
      kind = 'readable';
      handlers = role._readableHandler;
    } else if (op === Op.OFFER_WRITABLE) {
      kind = 'writable';
      handlers = role._writableHandler;
    }
    if (handlers.listenerCount(ctx.event) === 0) {
      return core.refuse(number, generation, NOT_HANDLED, ctx.event, handlers.eventNames());
    }
    const detached = role._detached !== null && role._isDetached(handlers, ctx.event);
    if (op === Op.REQUEST) {
      const exchange = new Exchange(core, ctx, number, generation, fields, detached);
      ctx[kExchange] = exchange;
      handling(exchange, role._ask, role, kind, handlers, ctx, exchange);
    } else {
      const exchange = new StreamExchange(core, ctx, number, generation, fields, detached);
      ctx[kExchange] = exchange;
      handling(exchange, offered, this, kind, role, handlers, exchange);
    }
  }

  /** A handler has thrown or rejected; its request, if any, is rejected already. */
  _handlerFailed(error, ctx) {
    // What ends because the application closes this peer is no failure.
    if (this._closed && error instanceof RoletalkError) return;
    this._handlerErrors++;
    if (this.listenerCount('handler_error') > 0) {
      emit(this, 'handler_error', error, ctx);
      return;
    }
    this._warn('RoletalkHandlerWarning', `A handler${placeOf(ctx)} failed: ${messageOf(error)}`, { cause: error });
  }

  /** A warning of the process about something that the application has failed at. */
  _warn(name, text, options) {
    const now = this._core.now();
    if (now - this._warnedSince >= 1_000) {
      this._warnedSince = now;
      this._warnings = 0;
    }
    // What units send can make the application fail: they must not be able to fill a log.
    if (++this._warnings > MAX_WARNINGS) return;
    const last = this._warnings === MAX_WARNINGS ? ' (for a second, further ones are only counted)' : '';
    const warning = new Error(text + last, options);
    warning.name = name;
    process.emitWarning(warning);
  }
}

/** Hands a unit's request for a stream to the handlers, in a scope that the stream shares. */
function offered(kind, role, handlers, exchange) {
  const { ctx } = exchange;
  const Stream = kind === 'readable' ? PeerReadable : PeerWritable;
  const scope = newScope();
  exchange.stream = ctx[kind] = new Stream(undefined, exchange.unit, undefined, undefined, scope);
  scope.runInAsyncScope(role._ask, role, kind, handlers, ctx, exchange);
}

/** Where a handler has failed. Middleware may have made the context its own way. */
function placeOf(ctx) {
  try {
    return ctx?.role === undefined ? '' : ` of role "${printable(print(ctx.role))}", event "${printable(print(ctx.event))}"`;
  } catch {
    return '';
  }
}

/** What a listener with certificates from files is made from. Authorities are there to ask for certificates. */
function listenerOptions({ requestCert, caFile }, files) {
  return { ...files.options, requestCert: requestCert ?? caFile !== undefined };
}

/** Throws at what is no limit: one that is given is a number above 0, and one that timers take. */
function checkPositive(name, value) {
  if (value === undefined || (typeof value === 'number' && value > 0 && value <= 0x7fffffff)) return;
  throw new RoletalkError('INVALID_ARGUMENT', `options.${name} should be a number from 1 to ${0x7fffffff}`);
}

/** Moves a unit between the destinations of a peer, after its roles. */
function refreshPeerDestinations(unit) {
  const roles = unit.getRoles();
  for (const destination of this._destinations.values()) {
    if (!roles.includes(destination.name)) destination._deleteUnit(unit);
  }
  for (const role of roles) this._destinations.get(role)?._addUnit(unit);
}

module.exports = {
  PEER_RECONNECT_FAIL_EVENT,
  PEER_RECONNECT_SUCCESS_EVENT,
  Peer,
  refreshPeerDestinations,
};
