'use strict';

const { createHash, randomBytes } = require('crypto');
const net = require('net');

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const OPCODE = { BINARY: 2, CLOSE: 8, PING: 9, PONG: 10 };

/**
 * A WebSocket of its own, so that what a peer sends is judged by nothing that it was written with. It is
 * strict: anything but whole binary messages, pings, pongs and closes is an error.
 */
class WebSocket {
  /** Messages as buffers, and `{ code, reason }` when the other side closes. */
  inbox = [];

  /** Whether pings stay without an answer. */
  silent = false;

  constructor(socket, masks) {
    this.socket = socket;
    this.masks = masks;
    this.input = Buffer.alloc(0);
    this.watchers = [];
    socket.setNoDelay(true);
    socket.on('error', () => {});
    socket.on('close', () => this.fail(new Error('the connection has ended')));
  }

  /** Dials a peer. */
  static async dial(port) {
    const socket = net.connect(port, '127.0.0.1');
    const self = new WebSocket(socket, true);
    const key = randomBytes(16).toString('base64');
    socket.write(
      `GET / HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
        `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`,
    );
    const head = await self.head();
    if (!head.startsWith('HTTP/1.1 101 ') || !head.includes(accepted(key))) throw new Error(head);
    self.start();
    return self;
  }

  /** Answers a peer that has dialed. */
  static async accept(socket) {
    const self = new WebSocket(socket, false);
    const [, key] = /sec-websocket-key: (\S+)/i.exec(await self.head());
    socket.write(
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
        `Sec-WebSocket-Accept: ${accepted(key)}\r\n\r\n`,
    );
    self.start();
    return self;
  }

  send(message) {
    this.write(OPCODE.BINARY, message);
  }

  close(code, reason = '') {
    const bytes = Buffer.alloc(2);
    bytes.writeUInt16BE(code);
    this.write(OPCODE.CLOSE, Buffer.concat([bytes, Buffer.from(reason)]));
  }

  destroy() {
    this.socket.destroy();
  }

  /** The first message or close, not taken before, that is wanted. */
  async take(wanted = () => true) {
    for (;;) {
      const index = this.inbox.findIndex(wanted);
      if (index >= 0) return this.inbox.splice(index, 1)[0];
      if (this.error) throw this.error;
      await new Promise((resolve) => this.watchers.push(resolve));
    }
  }

  head() {
    return new Promise((resolve, reject) => {
      this.socket.once('close', () => reject(new Error('no HTTP head')));
      const read = (chunk) => {
        this.input = Buffer.concat([this.input, chunk]);
        const end = this.input.indexOf('\r\n\r\n');
        if (end < 0) return;
        this.socket.off('data', read);
        resolve(this.input.subarray(0, end + 4).toString());
        this.input = this.input.subarray(end + 4);
      };
      this.socket.on('data', read);
    });
  }

  start() {
    this.parse();
    this.socket.on('data', (chunk) => {
      this.input = Buffer.concat([this.input, chunk]);
      this.parse();
    });
  }

  parse() {
    for (;;) {
      const { input } = this;
      if (input.length < 2) return;
      const short = input[1] & 0x7f;
      const wide = short === 127 ? 8 : short === 126 ? 2 : 0;
      const masked = input[1] >= 0x80;
      let at = 2 + wide + (masked ? 4 : 0);
      if (input.length < at) return;
      const length = wide ? Number(BigInt(`0x${input.toString('hex', 2, 2 + wide)}`)) : short;
      if (input.length < at + length) return;
      const body = Buffer.from(input.subarray(at, at + length));
      if (masked) for (let i = 0; i < length; i++) body[i] ^= input[at - 4 + (i & 3)];
      this.input = input.subarray(at + length);
      if (masked === this.masks) return this.fail(new Error('masked the wrong way'));
      this.frame(input[0], body);
    }
  }

  frame(first, body) {
    switch (first) {
      case 0x80 | OPCODE.BINARY:
        this.inbox.push(body);
        break;
      case 0x80 | OPCODE.CLOSE:
        this.inbox.push({
          code: body.length > 0 ? body.readUInt16BE() : 1005,
          reason: body.toString('utf8', 2),
        });
        break;
      case 0x80 | OPCODE.PING:
        if (!this.silent) this.write(OPCODE.PONG, body);
        break;
      case 0x80 | OPCODE.PONG:
        break;
      default:
        return this.fail(new Error(`a frame that begins with ${first.toString(16)}`));
    }
    this.wake();
  }

  fail(error) {
    this.error ??= error;
    this.wake();
  }

  wake() {
    for (const watcher of this.watchers.splice(0)) watcher();
  }

  write(opcode, body) {
    const head = [0x80 | opcode];
    const mask = this.masks ? 0x80 : 0;
    if (body.length < 126) head.push(mask | body.length);
    else if (body.length < 65536) head.push(mask | 126, body.length >> 8, body.length & 0xff);
    else head.push(mask | 127, ...Buffer.from(body.length.toString(16).padStart(16, '0'), 'hex'));
    // A key of zeros leaves the body as it is.
    if (this.masks) head.push(0, 0, 0, 0);
    this.socket.write(Buffer.concat([Buffer.from(head), body]));
  }
}

function accepted(key) {
  return createHash('sha1').update(key + GUID).digest('base64');
}

module.exports = { WebSocket };
