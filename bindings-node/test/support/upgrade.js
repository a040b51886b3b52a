'use strict';

const http = require('node:http');
const https = require('node:https');
const { HOST } = require('./network');

/**
 * Asks for an upgrade by hand.
 * @param {import('./network').Network} network keeps the socket until the test ends
 * @param {{ port: number, ssl?: boolean } & http.RequestOptions} options of the request
 * @returns {Promise<{ status: number, headers: object, socket: import('node:net').Socket }>} the answer
 */
function askForUpgrade(network, { headers, ssl = false, ...options }) {
  const request = (ssl ? https : http).get({
    host: HOST,
    agent: false,
    rejectUnauthorized: false,
    ...options,
    headers: {
      Connection: 'Upgrade',
      Upgrade: 'websocket',
      'Sec-WebSocket-Version': 13,
      'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
      ...headers,
    },
  });
  network.keep({ close: () => request.destroy() });
  return new Promise((resolve, reject) => {
    request.on('error', reject);
    request.on('response', (response) => {
      response.resume();
      resolve({ status: response.statusCode, headers: response.headers, socket: response.socket });
    });
    request.on('upgrade', ({ statusCode, headers }, socket) => {
      socket.on('error', () => {}).resume();
      network.keep({ close: () => socket.destroy() });
      resolve({ status: statusCode, headers, socket });
    });
  });
}

/**
 * The ways in which a peer comes to upgrades. Each makes one that takes them, and returns the port.
 * @type {Record<string, (network: import('./network').Network, peer: object, certificate: object) => Promise<number>>}
 */
const WAYS = {
  listen: async (_network, peer) => {
    await peer.listen({ port: 0, host: HOST });
    return peer.port;
  },
  'listen with ssl': async (_network, peer, certificate) => {
    await peer.listen({ port: 0, host: HOST, ssl: certificate });
    return peer.port;
  },
  'listen with a server': async (_network, peer) => {
    await peer.listen({ port: 0, host: HOST, server: http.createServer() });
    return peer.port;
  },
  handleUpgrade: async (network, peer) => {
    peer.prepareWSServer();
    const server = http.createServer();
    server.on('upgrade', (request, socket, head) => peer.handleUpgrade(request, socket, head));
    await network.serve(server);
    return server.address().port;
  },
};

module.exports = { WAYS, askForUpgrade };
