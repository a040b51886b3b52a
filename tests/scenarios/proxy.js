'use strict';

const net = require('net');
const { EventEmitter } = require('events');

/** Passes TCP connections on to a port that can change, and cuts them when told to. */
class Proxy extends EventEmitter {
  /** How many connections were made through it. */
  accepted = 0;

  constructor(port) {
    super();
    this.target = port;
    this.pairs = new Set();
    this.server = net.createServer((client) => this.pass(client));
  }

  async listen() {
    await new Promise((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    this.url = `ws://127.0.0.1:${this.server.address().port}`;
    return this;
  }

  /** Breaks off all connections of now, without any closing handshake. */
  cut() {
    for (const pair of this.pairs) for (const socket of pair) socket.destroy();
  }

  close() {
    this.server.close();
    this.cut();
  }

  pass(client) {
    this.accepted++;
    this.emit('accepted');
    const server = net.connect(this.target, '127.0.0.1');
    const pair = [client, server];
    this.pairs.add(pair);
    for (const [from, to] of [pair, [server, client]]) {
      from.setNoDelay(true);
      from.pipe(to);
      from.on('error', () => {});
      from.on('close', () => {
        this.pairs.delete(pair);
        to.destroy();
      });
    }
  }
}

module.exports = { Proxy };
