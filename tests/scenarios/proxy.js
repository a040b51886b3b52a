'use strict';

const net = require('net');
const { EventEmitter, once } = require('events');
const { setTimeout: sleep } = require('timers/promises');

const { FrameWalker } = require('./frames');

/**
 * Passes TCP connections on to a port that can change. It can break them off, in the middle of a frame too,
 * delay them, and stop reading. Its sides are `client`, who has dialed, and `server`.
 */
class Proxy extends EventEmitter {
  /** How many connections were made through it. */
  accepted = 0;
  /** Milliseconds that every piece of data stays here. */
  delay = 0;

  constructor(port) {
    super();
    this.target = port;
    this.pairs = new Set();
    this.setMaxListeners(0);
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

  /**
   * Breaks off the connection on which the next frame from this side comes, in the middle of it: `part` is
   * its `header` or its `payload`. The other side gets what is before that.
   */
  async cutInFrame(side, part) {
    this.cutting = { side, part };
    await once(this, 'cut');
  }

  /** Reads nothing more from these sides of the connections of now, whose sockets fill up. */
  stopReading(...sides) {
    for (const pair of this.pairs) pair.stopped = sides;
  }

  readAgain() {
    for (const pair of this.pairs) pair.stopped = [];
    this.emit('read');
  }

  close() {
    this.server.close();
    this.readAgain();
    this.cut();
  }

  pass(client) {
    this.accepted++;
    this.emit('accepted');
    const server = net.connect(this.target, '127.0.0.1');
    const pair = Object.assign([client, server], { stopped: [] });
    this.pairs.add(pair);
    for (const [side, from, to] of [['client', client, server], ['server', server, client]]) {
      from.setNoDelay(true);
      from.on('error', () => {});
      from.on('close', () => {
        this.pairs.delete(pair);
        to.destroy();
      });
      // When a socket fails, both are closed.
      this.forward(pair, side, from, to).catch(() => {});
    }
  }

  async forward(pair, side, from, to) {
    const frames = new FrameWalker();
    const write = (data) => new Promise((resolve) => to.write(data, resolve));
    for await (const data of from) {
      while (pair.stopped.includes(side)) await once(this, 'read');
      if (this.delay > 0) await sleep(this.delay);
      const at = this.cutting?.side === side ? frames.middle(data, this.cutting.part) : -1;
      if (at >= 0) {
        this.cutting = undefined;
        await write(data.subarray(0, at));
        from.destroy();
        this.emit('cut');
        return;
      }
      frames.skip(data);
      await write(data);
    }
    to.end();
  }
}

module.exports = { Proxy };
