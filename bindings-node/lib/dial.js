'use strict';

const { randomBytes } = require('node:crypto');
const http = require('node:http');
const https = require('node:https');
const { lookup } = require('node:dns');
const { acceptKey } = require('./upgrade.js');

/** For the connection and its upgrade, in milliseconds, unless `handshakeTimeout` says otherwise. */
const TIMEOUT = 30_000;
/** The longest that a timer of Node's can have. */
const LONGEST = 0x7fffffff;

/**
 * Dials an address and upgrades the connection, with the options that `ws` has for its clients.
 *
 * @param {string} address
 * @param {object} options
 * @param {(error: Error | null, socket?: import('node:net').Socket, head?: Buffer) => void} callback
 *   is called once
 * @returns {() => void} gives it up; the callback is not called any more
 */
function dial(address, options, callback) {
  let over = false;
  let request = null;
  const late = () => {
    // After the loop was blocked, what has come meanwhile is read first.
    setImmediate(() => {
      if (!over) request?.destroy(new Error('Opening handshake has timed out'));
    });
  };
  // For all of it: a server that says a little now and then is none.
  const timer = setTimeout(late, Math.min(Number(options.handshakeTimeout) || TIMEOUT, LONGEST));
  const finish = (error, socket, head) => {
    if (over) return;
    over = true;
    clearTimeout(timer);
    callback(error, socket, head);
  };
  const start = (url, redirects) => {
    const key = randomBytes(16).toString('base64');
    request = connect(url, options, key);
    request.on('error', (error) => finish(error));
    request.on('response', (response) => {
      const { location } = response.headers;
      const { statusCode } = response;
      response.resume();
      const redirected = options.followRedirects && location && statusCode >= 300 && statusCode < 400;
      if (redirected && redirects < (options.maxRedirects ?? 10)) {
        request.removeAllListeners('error').on('error', () => {});
        request.destroy();
        let next;
        try {
          next = new URL(location, url);
        } catch (error) {
          return finish(error);
        }
        return start(next, redirects + 1);
      }
      const reason = redirected ? 'Maximum redirects exceeded' : `Unexpected server response: ${statusCode}`;
      finish(new Error(reason));
      request.destroy();
    });
    request.on('upgrade', (response, socket, head) => {
      const fail = (message) => {
        socket.destroy();
        finish(new Error(message));
      };
      if (over) return socket.destroy();
      const { headers } = response;
      if (headers.upgrade?.toLowerCase() !== 'websocket') return fail('Invalid Upgrade header');
      if (headers['sec-websocket-accept'] !== acceptKey(key)) return fail('Invalid Sec-WebSocket-Accept header');
      if (headers['sec-websocket-extensions']) return fail('Invalid Sec-WebSocket-Extensions header');
      finish(null, socket, head);
    });
    request.end();
  };
  try {
    start(new URL(address), 0);
  } catch (error) {
    // Options that Node does not take.
    process.nextTick(finish, error);
  }
  return () => {
    over = true;
    clearTimeout(timer);
    request?.destroy();
  };
}

function connect(url, options, key) {
  const isSecure = url.protocol === 'wss:' || url.protocol === 'https:';
  const version = options.protocolVersion ?? 13;
  const headers = {
    'Sec-WebSocket-Version': version,
    'Sec-WebSocket-Key': key,
    Connection: 'Upgrade',
    Upgrade: 'websocket',
    ...options.headers,
  };
  if (options.origin) headers[version < 13 ? 'Sec-WebSocket-Origin' : 'Origin'] = options.origin;
  const hostname = url.hostname.startsWith('[') ? url.hostname.slice(1, -1) : url.hostname;
  const settings = {
    ...options,
    method: 'GET',
    protocol: undefined,
    hostname: undefined,
    socketPath: undefined,
    timeout: undefined,
    signal: undefined,
    host: hostname,
    port: url.port || (isSecure ? 443 : 80),
    path: (url.pathname || '/') + url.search,
    headers,
    // A connection that is upgraded goes back to no agent.
    agent: options.agent ?? false,
  };
  if (url.username || url.password) {
    settings.auth = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
  }
  return (isSecure ? https : http).request(settings);
}

/**
 * A `lookup` that leaves out what must not be connected to.
 * @param {(addresses: string[]) => string[]} admit throws when it is none
 */
function judging(admit) {
  return (hostname, options, callback) => {
    lookup(hostname, { ...options, all: true }, (error, found) => {
      if (error) return callback(error);
      let admitted;
      try {
        admitted = new Set(admit(found.map(({ address }) => address)));
      } catch (error) {
        return callback(error);
      }
      const rest = found.filter(({ address }) => admitted.has(address));
      if (options.all) callback(null, rest);
      else callback(null, rest[0].address, rest[0].family);
    });
  };
}

module.exports = { dial, judging };
