'use strict';

/** Sockets made in one turn of the loop: the HTTP parser of each takes longer than a request. */
const PER_TURN = 2;
/** Milliseconds: shorter pauses between two are not worth a timer; longer ones would keep newcomers waiting. */
const LEAST_PAUSE = 1;
const MOST_PAUSE = 2;
/** Entries that are taken from the queue before it is shortened. */
const TAKEN = 1024;

/** A connection: only a handle of Node's until a socket is made of it. */
class Guest {
  constructor(client, socket) {
    this.client = client;
    this.socket = socket;
    /** Answers it, when its time is over. */
    this.refuse = undefined;
  }

  /** @param {boolean} late whether its time is over: otherwise there are too many, and it is not answered */
  close(late) {
    if (late && this.refuse) this.refuse();
    else if (this.socket) this.socket.destroy();
    else this.client.close();
  }
}

/**
 * The connections of a server that are not upgraded yet. The engine limits their number and their time, and evicts
 * some. Under a flood, connections wait in a queue before sockets are made of them, so that those that are evicted
 * meanwhile cost little.
 */
class Lobby {
  #host;
  /** The server's handle, and what it does with a new connection. */
  #handle;
  #make;
  /** Places by both addresses of a socket, which a TLS socket shares with the socket below it. */
  #places = new Map();
  /**
   * The guests, in a plain array. Maps, queues and whatever is reallocated as it grows hold only numbers: discarded
   * copies would keep guests alive, and cost the garbage collector milliseconds.
   */
  #guests = [];
  #free = [];
  /** The index of a place's guest in there. */
  #at = new Map();
  /** The places that wait for sockets, in the order of arrival, and how many entries are already taken. */
  #queue = [];
  #taken = 0;
  /** Whether a turn for the next ones is scheduled. */
  #scheduled = false;
  /** The place whose socket is being made. */
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

  /** Intercepts connections before the server gets them, unless the handle is not one of Node's. */
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

  /** Makes sockets for those that have waited longest, at most `PER_TURN`, and schedules the next turn. */
  #makeSome() {
    let pause = 0;
    // Connections that arrive before the next turn wait for it.
    this.#scheduled = true;
    try {
      for (let made = 0; made < PER_TURN && pause < LEAST_PAUSE; made++) {
        if (!this.#makeNext()) {
          this.#scheduled = made > 0;
          break;
        }
        pause = this.#host.native.acceptPause(this.#host.now());
      }
    } finally {
      // Also when a listener of the application's has thrown.
      if (this.#scheduled) this.#schedule(pause);
    }
  }

  #schedule(pause) {
    const next = () => this.#makeSome();
    if (pause < LEAST_PAUSE) setImmediate(next);
    else setTimeout(next, Math.min(pause, MOST_PAUSE));
  }

  /** Makes the next socket. False when none waits. */
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
        // The server has not taken it: it is closed, or has reached `maxConnections`.
        if (this.#entering === place) this.#dismiss(place);
        this.#entering = undefined;
      }
      return true;
    }
    return false;
  }

  /** Takes a place for a connection from this address; undefined when the engine gives none. */
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

  /** Removes and returns the guest of a place. */
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
      if (this.#take(place)) this.#vacate(place);
    });
  }

  #vacate(place) {
    const host = this.#host;
    host.native.vacate(place, host.now());
    host.schedule();
  }

  /**
   * A connection is upgraded.
   * @returns {number | undefined} its place, for the engine
   */
  upgraded(socket) {
    const address = addressOf(socket);
    const place = this.#places.get(address);
    this.#places.delete(address);
    this.#take(place);
    return place;
  }

  /** Has a connection whose upgrade is judged be refused, rather than closed, when its time is over. */
  onLate(socket, refuse) {
    const guest = this.#guests[this.#at.get(this.#places.get(addressOf(socket)))];
    if (guest) guest.refuse = refuse;
  }

  /**
   * Closes the connection that has this place, if it is still here.
   * @param {boolean} late whether its time is over
   */
  evict(place, late) {
    this.#take(place)?.close(late);
  }

  #dismiss(place) {
    this.evict(place, false);
    this.#vacate(place);
  }

  /** Closes all connections that are not upgraded. */
  close() {
    for (const place of [...this.#at.keys()]) this.#dismiss(place);
  }
}

/** Both addresses of a socket: a server may have several. Undefined when the other side is gone. */
function addressOf({ remoteAddress, remotePort, localAddress }) {
  return remoteAddress && `${remoteAddress} ${remotePort} ${localAddress}`;
}

module.exports = { Lobby };
