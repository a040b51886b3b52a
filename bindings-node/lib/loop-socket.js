'use strict';

// Loop-native sockets: the addon reads and writes a connection itself, on a duplicate of its file
// descriptor. Node's socket is not read any more, but stays what everybody knows of the connection: it
// counts for its server, tells addresses, can be destroyed, and ends the connection.

const { Socket } = require('node:net');

/** The environment variable ROLETALK_SOCKETS=node leaves all connections on Node's own sockets. */
const ENABLED =
  process.env.ROLETALK_SOCKETS !== 'node' &&
  // It has some of libuv's functions, which end the process.
  process.versions.bun === undefined;

/**
 * Whether nothing else has to do with the bytes of a socket: it is TCP without TLS, nothing was read
 * that nobody has taken, and nothing waits to be written. Also, it keeps the process alive, as the
 * addon will.
 */
function isPlain(socket) {
  const handle = socket._handle;
  return (
    Object.getPrototypeOf(socket) === Socket.prototype &&
    handle?.constructor.name === 'TCP' &&
    handle.fd >= 0 &&
    handle.hasRef() &&
    typeof handle.readStop === 'function' &&
    !socket.destroyed &&
    socket.readable &&
    socket.writable &&
    socket.readableLength === 0 &&
    socket.writableLength === 0 &&
    socket.listenerCount('data') === 0 &&
    socket.listenerCount('readable') === 0
  );
}

/**
 * Has the addon read and write a connection right behind its upgrade.
 * @param {import('./connection.js').Connection} connection
 * @returns {boolean} false where that is not possible
 */
function adopt(connection) {
  const { _socket: socket, host, number } = connection;
  if (!ENABLED || !isPlain(socket)) return false;
  const { _handle: handle } = socket;
  if (!host.native.adopt(number, handle.fd, () => connection._ready())) return false;
  // The socket goes on to believe that it reads, or it would start again.
  handle.reading = true;
  handle.readStop();
  return true;
}

/** Has Node's socket read again, once the addon does not. */
function restore(socket) {
  socket._handle?.readStart();
}

/** Bytes came or went, which Node's socket does not see: what `setTimeout` waits for. */
function stir(socket) {
  if (socket.timeout > 0) socket._unrefTimer();
}

module.exports = { adopt, restore, stir };
