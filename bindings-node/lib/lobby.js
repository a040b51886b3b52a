'use strict';

/** How long a connection may take to become a WebSocket, in milliseconds, TLS included. */
const HANDSHAKE_TIMEOUT = 5_000;
/** How many connections may be about to. */
const MAX_HANDSHAKES = 1_024;

/**
 * The connections of a server that are not upgraded yet: strangers, which may cost neither much time nor many
 * places. One that needs too long is destroyed, and so is, at once, one for which there is no place.
 */
class Lobby {
  #timeout;
  #places;
  /** By the address of the other side, which a TLS socket has in common with the one below it. */
  #waiting = new Map();

  /**
   * @param {import('node:http').Server | import('node:https').Server} server one that does nothing but upgrade
   * @param {{ handshakeTimeout?: number, maxHandshakes?: number }} limits
   */
  constructor(server, { handshakeTimeout = HANDSHAKE_TIMEOUT, maxHandshakes = MAX_HANDSHAKES }) {
    this.#timeout = handshakeTimeout;
    this.#places = maxHandshakes;
    server.on('connection', (socket) => this.#enter(socket));
  }

  #enter(socket) {
    const address = addressOf(socket);
    if (address === undefined || this.#waiting.size >= this.#places) {
      socket.destroy();
      return;
    }
    const late = () => {
      // After the loop was blocked, what has come meanwhile is read first.
      setImmediate(() => {
        if (this.#waiting.get(address)?.timer === timer) socket.destroy();
      });
    };
    const timer = setTimeout(late, this.#timeout);
    timer.unref();
    this.#waiting.set(address, { socket, timer });
    socket.once('close', () => {
      if (this.#waiting.get(address)?.timer === timer) this.#leave(address);
    });
  }

  /** A connection is upgraded. */
  left(socket) {
    this.#leave(addressOf(socket));
  }

  #leave(address) {
    clearTimeout(this.#waiting.get(address)?.timer);
    this.#waiting.delete(address);
  }

  /** Destroys all that wait. */
  close() {
    for (const { socket } of this.#waiting.values()) socket.destroy();
  }
}

/** The address of the other side; undefined when that is gone. */
function addressOf({ remoteAddress, remotePort }) {
  return remoteAddress && `${remoteAddress} ${remotePort}`;
}

module.exports = { Lobby };
