'use strict';

/**
 * The connections of a server that are not upgraded yet. The engine decides how many there may be, and for how long;
 * who has to go is destroyed.
 */
class Lobby {
  #host;
  /** By the address of the other side, which a TLS socket has in common with the one below it: their places. */
  #places = new Map();
  /** The sockets, by their places. */
  #sockets = new Map();

  /**
   * @param {import('node:http').Server | import('node:https').Server} server one that does nothing but upgrade
   * @param {import('./host.js').Host} host
   */
  constructor(server, host) {
    this.#host = host;
    server.on('connection', (socket) => this.#enter(socket));
  }

  #enter(socket) {
    const address = addressOf(socket);
    if (address === undefined) {
      socket.destroy();
      return;
    }
    const host = this.#host;
    let place;
    try {
      place = host.native.enter(socket.remoteAddress, socket._handle?.fd ?? -1, host.now());
    } catch {
      socket.destroy();
      return;
    }
    this.#places.set(address, place);
    this.#sockets.set(place, socket);
    socket.once('close', () => {
      if (!this.#sockets.delete(place)) return;
      if (this.#places.get(address) === place) this.#places.delete(address);
      host.native.left(place, host.now());
      host.schedule();
    });
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
    this.#sockets.delete(place);
    return place;
  }

  /** Whoever has this place has to go. */
  evict(place) {
    this.#sockets.get(place)?.destroy();
  }

  /** Destroys all that wait. */
  close() {
    for (const socket of this.#sockets.values()) socket.destroy();
  }
}

/** The address of the other side; undefined when that is gone. */
function addressOf({ remoteAddress, remotePort }) {
  return remoteAddress && `${remoteAddress} ${remotePort}`;
}

module.exports = { Lobby };
