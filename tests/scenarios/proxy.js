'use strict';

const net = require('net');
const { EventEmitter, once } = require('events');
const { setTimeout: sleep } = require('timers/promises');

const { FrameWalker } = require('./frames');

/** Bytes that are on their way here before no more are read. */
const MOST = 1 << 20;

/**
 * Passes TCP connections on to a port that can change. It can break them off, in the middle of a frame too,
 * delay them, and stop reading. Its sides are `client`, who has dialed, and `server`.
 */
class Proxy extends EventEmitter {
  /** How many connections were made through it. */
  accepted = 0;
  /** Milliseconds that every piece of data takes longer, and so does the end. */
  delay = 0;

  constructor(port) {
    super();
    this.target = port;
    this.pairs = new Set();
    this.setMaxListeners(0);
    this.server = net.createServer({ allowHalfOpen: true }, (client) => this.pass(client));
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
    const server = net.connect({ port: this.target, host: '127.0.0.1', allowHalfOpen: true });
    const pair = Object.assign([client, server], { stopped: [] });
    this.pairs.add(pair);
    for (const [side, from, to] of [['client', client, server], ['server', server, client]]) {
      from.setNoDelay(true);
      from.on('error', () => {});
      // What one side has said before its end still reaches the other one, unless the connection broke.
      from.on('close', (failed) => {
        this.pairs.delete(pair);
        if (failed) to.destroy();
      });
      // When a socket fails, both are closed.
      this.forward(pair, side, from, to).catch(() => {});
    }
  }

  async forward(pair, side, from, to) {
    const frames = new FrameWalker();
    const write = (data) => new Promise((resolve) => to.write(data, resolve));
    // Written one after the other, each when its time has come.
    let written = Promise.resolve();
    let flying = 0;
    // Its other direction goes on when this one has come to its end.
    for await (const data of from.iterator({ destroyOnReturn: false })) {
      while (pair.stopped.includes(side)) await once(this, 'read');
      const due = performance.now() + this.delay;
      const at = this.cutting?.side === side ? frames.middle(data, this.cutting.part) : -1;
      if (at >= 0) {
        this.cutting = undefined;
        await written;
        await write(data.subarray(0, at));
        from.destroy();
        to.destroy();
        this.emit('cut');
        return;
      }
      frames.skip(data);
      flying += data.length;
      written = written.then(async () => {
        const rest = due - performance.now();
        if (rest > 0) await sleep(rest);
        await write(data);
        flying -= data.length;
      });
      if (flying > MOST) await written;
    }
    await written;
    to.end();
  }
}

module.exports = { Proxy };
