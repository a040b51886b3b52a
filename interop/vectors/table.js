'use strict';

const { once } = require('events');
const net = require('net');

const { within } = require('../../tests/scenarios/deadline');
const { Player } = require('../../tests/scenarios/player');
const { WebSocket } = require('./websocket');

/** Milliseconds that a conversation may take. */
const LIMIT = 30_000;

/** A peer of ours, and the other sides that talk with it, which are scripted. */
class Table {
  constructor(implementation) {
    this.limit = LIMIT;
    this.sockets = [];
    this.servers = [];
    this.player = new Player(implementation, 'our peer', this);
  }

  async within(conversation) {
    return within(LIMIT, 'the conversation to end', conversation);
  }

  /** The scripted side dials the peer. */
  async dial() {
    this.port ??= await this.player.ask('listen');
    return this.keep(await WebSocket.dial(this.port));
  }

  /** The scripted side listens: its address, and what it accepts, one after the other. */
  async listen() {
    const server = net.createServer();
    this.servers.push(server);
    const accepted = [];
    server.on('connection', (socket) => {
      accepted.push(socket);
      server.emit('accepted');
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return {
      url: `ws://127.0.0.1:${server.address().port}`,
      accepted,
      accept: async () => {
        while (accepted.length === 0) await once(server, 'accepted');
        return this.keep(await WebSocket.accept(accepted.shift()));
      },
    };
  }

  /** A connection whichever way: `we` is the side of the peer. */
  async connect(we) {
    if (we === 's') return this.dial();
    const listener = await this.listen();
    // It fails when the handshake does; that shows on the wire.
    this.connecting = this.player.ask('connect', { url: listener.url });
    return listener.accept();
  }

  /** Ends everything; fails when the peer's process had ended by itself. */
  async end() {
    for (const socket of this.sockets) socket.close();
    for (const server of this.servers) server.close();
    const { crashed, dead } = this.player;
    if (!dead) await this.player.kill();
    if (crashed) throw dead;
  }

  keep(socket) {
    this.sockets.push(socket);
    return socket;
  }
}

module.exports = { Table };
