'use strict';

const { once } = require('node:events');
const net = require('node:net');
const { setTimeout: delay } = require('node:timers/promises');
const { Clock } = require('./clock');
const { Program } = require('./program');
const { RawConnection, RawListener } = require('./raw');

const HOST = '127.0.0.1';

/**
 * The peers, programs and raw connections of one test, closed when it ends: all peers in one turn,
 * so that none of them dials another again.
 */
class Network {
  constructor({ roletalk, subject }) {
    this.roletalk = roletalk;
    this.subject = subject;
    this.peers = [];
    this.others = [];
  }

  /** A peer that is closed with the test. */
  peer(options) {
    const peer = new this.roletalk.Peer(options);
    this.peers.push(peer);
    return peer;
  }

  /** A peer that listens on a free port. Takes the options of `listen` as well as those of `Peer`. */
  async listener({ name, friendly, ...listen } = {}) {
    const peer = this.peer({ name, friendly });
    await peer.listen({ port: 0, host: HOST, ...listen });
    return peer;
  }

  /** The address to dial a listening peer at. */
  address(peer, path = '') {
    return addressOf(peer._port, path);
  }

  /** Connects one peer to another and returns both units and the dialer's socket. */
  async join(dialer, listener, options) {
    const accepted = once(listener, 'unit');
    const { unit, ws } = await dialer.connect(this.address(listener), options);
    const [peerUnit] = await accepted;
    return { unit, ws, peerUnit };
  }

  /**
   * A connected pair.
   *
   * @param {{ roles?: string[] }} [options] roles that the listener serves
   * @returns `listener`, `dialer`, `unit` (the listener, as the dialer sees it), `dialerUnit`
   *   (the reverse) and `ws`, the dialer's socket.
   */
  async pair({ roles = [] } = {}) {
    const listener = await this.listener({ name: 'listener' });
    const dialer = this.peer({ name: 'dialer' });
    for (const role of roles) listener.role(role);
    const { unit, ws, peerUnit } = await this.join(dialer, listener);
    return { listener, dialer, unit, ws, dialerUnit: peerUnit };
  }

  /**
   * A pair of which the listener serves the role `role`.
   *
   * @returns what `pair` does, with `role` and the dialer's `destination` of it.
   */
  async service() {
    const pair = await this.pair({ roles: ['role'] });
    return { ...pair, role: pair.listener.role('role'), destination: pair.dialer.destination('role') };
  }

  /** A port on which nobody listens now. */
  async unusedPort() {
    const server = net.createServer().listen(0, HOST);
    await once(server, 'listening');
    const { port } = server.address();
    server.close();
    await once(server, 'close');
    return port;
  }

  /** A WebSocket client written by hand, connected to a listening peer. */
  async raw(listener) {
    return this.keep(await RawConnection.dial(listener._port, HOST));
  }

  /** A WebSocket server written by hand. */
  async rawListener() {
    const server = net.createServer();
    await this.serve(server);
    return new RawListener(server, addressOf(server.address().port));
  }

  /** Has a server of Node's listen until the test ends, its connections included. */
  async serve(server) {
    const sockets = new Set();
    server.on('connection', (socket) => sockets.add(socket));
    server.listen(0, HOST);
    await once(server, 'listening');
    this.keep({
      close: async () => {
        server.close();
        for (const socket of sockets) socket.destroy();
        await once(server, 'close');
      },
    });
  }

  /** A Node process of its own; see `Program`. */
  program(source, options) {
    return this.keep(new Program(this.subject, source, options));
  }

  /** Has the time of this process stand still until the test ends, but for what the test lets pass; see `Clock`. */
  clock() {
    return this.keep(new Clock());
  }

  /** Keeps whatever has `close()`, to close it with the test, before the peers. */
  keep(closable) {
    this.others.push(closable);
    return closable;
  }

  async close() {
    for (const other of this.others) await other.close();
    const lost = this.peers.flatMap((peer) => peer.units).map((unit) => once(unit, 'close'));
    for (const peer of this.peers) {
      // The original completes a dial that is under way.
      peer.on('unit', (unit) => unit.close());
      peer.close();
    }
    await Promise.all(lost);
  }
}

/**
 * Waits for something that no event tells of; the limit of the test is the limit.
 * @param {() => boolean | Promise<boolean>} condition
 */
async function until(condition) {
  while (!(await condition())) await delay(5);
}

/**
 * Waits for the end of a connection, whose other side is gone without a word: as the system tells of
 * that when it had not read everything, an error may come before.
 * @returns {Promise<[number, Buffer | string]>} code and reason
 */
function lossOf(ws) {
  return new Promise((resolve) => {
    ws.on('error', () => {});
    ws.on('close', (...args) => resolve(args));
  });
}

function addressOf(port, path = '') {
  return `ws://${HOST}:${port}${path}`;
}

module.exports = { Network, HOST, addressOf, lossOf, until };
