'use strict';

const { createHash } = require('node:crypto');
const { STATUS_CODES } = require('node:http');

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const KEY = /^[+/0-9A-Za-z]{22}==$/;

/** The answer to a `Sec-WebSocket-Key`. */
function acceptKey(key) {
  return createHash('sha1').update(key + GUID).digest('base64');
}

/** Answers plain HTTP requests. */
function upgradeRequired(_request, response) {
  const body = STATUS_CODES[426];
  response.writeHead(426, {
    'Content-Length': body.length,
    'Content-Type': 'text/plain',
    Connection: 'Upgrade',
    Upgrade: 'websocket',
  });
  response.end(body);
}

/** How long whoever is refused may take to read that, in milliseconds. */
const REFUSAL_TIMEOUT = 2_000;

/** Refuses an upgrade. */
function refuse(socket, status) {
  const body = STATUS_CODES[status] ?? '';
  // HTTP demands it.
  const challenge = status === 401 ? 'WWW-Authenticate: Bearer\r\n' : '';
  socket.on('error', () => {});
  const timer = setTimeout(() => socket.destroy(), REFUSAL_TIMEOUT);
  timer.unref();
  socket.once('close', () => clearTimeout(timer));
  // Somebody who goes on writing is to see the end.
  socket.resume();
  socket.end(
    `HTTP/1.1 ${status} ${body}\r\nConnection: close\r\n${challenge}Content-Type: text/plain\r\n` +
      `Content-Length: ${body.length}\r\n\r\n${body}`,
  );
}

/**
 * Whether a request is one for a WebSocket.
 * @param {string | undefined} path the only path that is served, if given
 */
function isUpgrade(request, path) {
  const { headers } = request;
  const version = Number(headers['sec-websocket-version']);
  const [pathname] = request.url.split('?', 1);
  return (
    request.method === 'GET' &&
    headers.upgrade?.toLowerCase() === 'websocket' &&
    KEY.test(headers['sec-websocket-key']) &&
    (version === 8 || version === 13) &&
    (!path || pathname === path)
  );
}

/** Where a request for an upgrade comes from, if from a page in a browser. The eighth version has a name of its own. */
function originOf({ headers }) {
  return headers.origin ?? headers['sec-websocket-origin'];
}

/**
 * Answers a request for a WebSocket.
 * @returns {boolean} whether the socket is one now
 */
function upgrade({ headers }, socket) {
  if (!socket.readable || !socket.writable) {
    socket.destroy();
    return false;
  }
  const protocol = headers['sec-websocket-protocol']?.split(',', 1)[0].trim();
  socket.write(
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      `Sec-WebSocket-Accept: ${acceptKey(headers['sec-websocket-key'])}\r\n` +
      (protocol ? `Sec-WebSocket-Protocol: ${protocol}\r\n` : '') +
      '\r\n',
    // As Node reads headers: what is not ASCII goes back as it came.
    'latin1',
  );
  return true;
}

module.exports = { acceptKey, isUpgrade, originOf, refuse, upgrade, upgradeRequired };
