'use strict';

/** Connections that become sockets in one turn of the loop: an HTTP parser for each takes longer than a request. */
const PER_TURN = 2;
/** Milliseconds: shorter pauses between two are not worth a timer. */
const LEAST_PAUSE = 1;
/** So much of the queue may be taken before it is made anew. */
const TAKEN = 1024;

/** A connection: a handle of Node's until there is a socket for it. */
class Guest {
  constructor(client, socket) {
    this.client = client;
    this.socket = socket;
  }

  close() {
    if (this.socket) this.socket.destroy();
    else this.client.close();
  }
}

/**
 * The connections of a server that are not upgraded yet. The engine decides how many there may be, and for how long;
 * who has to go is closed. As long as many come at once, they wait for their turn before there are sockets of theirs, so
 * that those who only take up places cost little.
 */
class Lobby {
  #host;
  /** The server's handle, and what it does with a new connection. */
  #handle;
  #make;
  /** By the address of the other side, which a TLS socket has in common with the one below it: their places. */
  #places = new Map();
  /**
   * The guests. Maps, queues, and whatever is made anew as it grows, have numbers only: the garbage collector would
   * keep guests alive for what was thrown away of those, and need milliseconds for them.
   */
  #guests = [];
  #free = [];
  /** Where a place is among them. */
  #at = new Map();
  /** The places of those that may not have a socket yet, in the order of arrival, and how many of these are taken. */
  #queue = [];
  #taken = 0;
  /** There is a turn for the next ones to come. */
  #scheduled = false;
  /** The place of the one that is getting its socket. */
  #entering;

  /**
   * @param {import('node:http').Server | import('node:https').Server} server one that does nothing but upgrade
   * @param {import('./host.js').Host} host
   */
  constructor(server, host) {
    this.#host = host;
    server.on('connection', (socket) => this.#enter(socket));
    server.on('listening', () => this.#watch(server._handle));
  }

  /** Learns of connections before the server does. Where the handle is another than Node's, the server is first. */
  #watch(handle) {
    const make = handle?.onconnection;
    if (typeof make !== 'function') return;
    this.#handle = handle;
    this.#make = make;
    handle.onconnection = (error, client) => {
      if (error || typeof client?.getpeername !== 'function') make.call(handle, error, client);
      else this.#knock(client);
    };
  }

  #knock(client) {
    const peer = {};
    const place = client.getpeername(peer) === 0 ? this.#placeFor(peer.address, client.fd) : undefined;
    if (place === undefined) {
      client.close();
      return;
    }
    this.#keep(place, new Guest(client));
    this.#queue.push(place);
    if (!this.#scheduled) this.#makeSome();
  }

  /** Makes sockets for those that have waited longest: one, or as many as there may be in one turn. */
  #makeSome() {
    let pause = 0;
    let made = 0;
    while (made < PER_TURN && pause < LEAST_PAUSE && this.#makeNext()) {
      made++;
      pause = this.#host.native.acceptPause(this.#host.now());
    }
    // Whoever comes next has to wait as well.
    this.#scheduled = made > 0;
    if (made === 0) return;
    if (pause < LEAST_PAUSE) setImmediate(() => this.#makeSome());
    else setTimeout(() => this.#makeSome(), pause);
  }

  /** False when nobody waits. */
  #makeNext() {
    const queue = this.#queue;
    while (this.#taken < queue.length) {
      const place = queue[this.#taken++];
      if (this.#taken >= TAKEN) {
        queue.splice(0, this.#taken);
        this.#taken = 0;
      }
      const guest = this.#guests[this.#at.get(place)];
      if (guest === undefined) continue;
      this.#entering = place;
      try {
        this.#make.call(this.#handle, 0, guest.client);
      } finally {
        // The server has closed, or does not want that many.
        if (this.#entering === place) this.#dismiss(place);
        this.#entering = undefined;
      }
      return true;
    }
    return false;
  }

  /** A place for somebody from this address; undefined when there is none. */
  #placeFor(address, descriptor = -1) {
    const host = this.#host;
    try {
      return host.native.enter(address, descriptor, host.now());
    } catch {
      return undefined;
    } finally {
      host.schedule();
    }
  }

  #keep(place, guest) {
    const at = this.#free.pop() ?? this.#guests.length;
    this.#guests[at] = guest;
    this.#at.set(place, at);
  }

  /** The guest of a place, who has none from now on. */
  #take(place) {
    const at = this.#at.get(place);
    if (at === undefined) return undefined;
    const guest = this.#guests[at];
    this.#guests[at] = undefined;
    this.#free.push(at);
    this.#at.delete(place);
    return guest;
  }

  #enter(socket) {
    const address = addressOf(socket);
    let place = this.#entering;
    this.#entering = undefined;
    if (place !== undefined) {
      this.#guests[this.#at.get(place)].socket = socket;
    } else {
      place = address && this.#placeFor(socket.remoteAddress, socket._handle?.fd);
      if (place === undefined) {
        socket.destroy();
        return;
      }
      this.#keep(place, new Guest(undefined, socket));
    }
    if (address !== undefined) this.#places.set(address, place);
    socket.once('close', () => {
      if (this.#places.get(address) === place) this.#places.delete(address);
      if (this.#take(place)) this.#leave(place);
    });
  }

  #leave(place) {
    const host = this.#host;
    host.native.left(place, host.now());
    host.schedule();
  }

  /**
   * A connection is upgraded.
   * @returns {number | undefined} its place, for the engine
   */
  left(socket) {
    const address = addressOf(socket);
    const place = this.#places.get(address);
    this.#places.delete(address);
    this.#take(place);
    return place;
  }

  /** Whoever has this place has to go. */
  evict(place) {
    this.#take(place)?.close();
  }

  #dismiss(place) {
    this.evict(place);
    this.#leave(place);
  }

  /** Closes all that are here. */
  close() {
    for (const place of [...this.#at.keys()]) this.#dismiss(place);
  }
}

/** The address of the other side; undefined when that is gone. */
function addressOf({ remoteAddress, remotePort }) {
  return remoteAddress && `${remoteAddress} ${remotePort}`;
}

module.exports = { Lobby };
