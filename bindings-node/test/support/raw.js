'use strict';

// The other end of a connection, written by hand: WebSocket frames as bytes, so that they may be
// wrong, and roletalk frames as docs/PROTOCOL.md has them.

const { createHash, randomBytes } = require('node:crypto');
const { once } = require('node:events');
const net = require('node:net');

const ACCEPT_SUFFIX = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

const OPCODE = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 };

const FRAME = {
  error: 0,
  challenge: 1,
  response: 2,
  confirm: 3,
  message: 100,
  request: 101,
  answer: 102,
  writableRequest: 104,
  reject: 105,
  streamReject: 108,
  acquaint: 200,
  roles: 201,
};

/** One WebSocket connection over a TCP socket of ours. */
class RawConnection {
  constructor(socket, masks) {
    this.socket = socket;
    this.masks = masks;
    this.input = Buffer.alloc(0);
    this.ended = false;
    this.wake = () => {};
    socket.setNoDelay(true);
    socket.on('data', (chunk) => {
      this.input = Buffer.concat([this.input, chunk]);
      this.wake();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.ended = true;
      this.wake();
    });
  }

  /** Dials and upgrades. */
  static async dial(port, host) {
    const socket = net.connect(port, host);
    await once(socket, 'connect');
    const connection = new RawConnection(socket, true);
    connection.bytes(
      `GET / HTTP/1.1\r\nHost: ${host}:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
        `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\n\r\n`,
    );
    const head = await connection.head();
    if (!head.startsWith('HTTP/1.1 101 ')) throw new Error(`no upgrade: ${head}`);
    return connection;
  }

  /** Answers the upgrade of a peer that has dialed. */
  static async accept(socket) {
    const connection = new RawConnection(socket, false);
    const head = await connection.head();
    const key = /^sec-websocket-key: *(\S+)/im.exec(head)[1];
    const accept = createHash('sha1').update(key + ACCEPT_SUFFIX).digest('base64');
    connection.bytes(
      'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
        `Sec-WebSocket-Accept: ${accept}\r\n\r\n`,
    );
    return connection;
  }

  /** Writes bytes as they are. */
  bytes(data) {
    if (this.socket.writable) this.socket.write(data);
  }

  /** Writes one unfragmented frame. */
  frame(opcode, payload = Buffer.alloc(0)) {
    const length = payload.length;
    let head = Buffer.from([0x80 | opcode, length]);
    if (length > 0xffff) {
      head = Buffer.alloc(10);
      head[0] = 0x80 | opcode;
      head[1] = 127;
      head.writeBigUInt64BE(BigInt(length), 2);
    } else if (length > 125) {
      head = Buffer.from([0x80 | opcode, 126, length >> 8, length & 0xff]);
    }
    // The mask is all zeros, so the payload stays as it is.
    if (this.masks) head[1] |= 0x80;
    this.bytes(Buffer.concat([head, this.masks ? Buffer.alloc(4) : Buffer.alloc(0), payload]));
  }

  binary(payload) {
    this.frame(OPCODE.binary, payload);
  }

  closeFrame(code, reason = '') {
    this.frame(OPCODE.close, Buffer.concat([Buffer.from([code >> 8, code & 0xff]), Buffer.from(reason)]));
  }

  /** Sends a frame of the handshake, or another whose body is JSON. */
  json(type, value) {
    this.binary(Buffer.concat([Buffer.from([type]), Buffer.from(JSON.stringify(value))]));
  }

  /** The next WebSocket frame as `{ opcode, payload }`, or undefined at the end of the connection. */
  async next() {
    for (;;) {
      const frame = this.take();
      if (frame) return frame;
      if (!(await this.more())) return undefined;
    }
  }

  /** The payload of the next binary message that begins with this byte. Other frames are dropped. */
  async message(type) {
    for (;;) {
      const frame = await this.next();
      if (!frame) throw new Error(`the connection ended before a message of type ${type}`);
      if (frame.opcode === OPCODE.binary && frame.payload[0] === type) return frame.payload;
    }
  }

  /** The next frame with this opcode. Other frames are dropped. */
  async frameOf(opcode) {
    for (;;) {
      const frame = await this.next();
      if (!frame) throw new Error(`the connection ended before a frame of opcode ${opcode}`);
      if (frame.opcode === opcode) return frame.payload;
    }
  }

  /** Waits for a close frame or the end of the connection: `{ code, reason }`; 1006 without frame. */
  async closed() {
    for (;;) {
      const frame = await this.next();
      if (!frame) return { code: 1006, reason: '' };
      if (frame.opcode !== OPCODE.close) continue;
      const { payload } = frame;
      if (payload.length < 2) return { code: 1005, reason: '' };
      return { code: payload.readUInt16BE(0), reason: payload.subarray(2).toString() };
    }
  }

  /** Does the handshake of a peer without keys, and returns the other's confirm. */
  async handshake({ id = 'rawraw', roles = ['r'], ...rest } = {}) {
    const meta = { os: 'linux', runtime: 'raw', time: 1, uptime: 1, protocol: '2.0.0' };
    this.json(FRAME.confirm, { id, roles, friendly: true, name: 'raw', meta, tags: {}, ...rest });
    const confirm = await this.message(FRAME.confirm);
    return JSON.parse(confirm.subarray(1).toString());
  }

  /** Sends a message with a string, to names of ASCII. */
  send(role, event, text) {
    const head = Buffer.from([FRAME.message, 0, role.length, 0, event.length]);
    this.binary(Buffer.concat([head, Buffer.from(`${role}${event}\x03${text}`)]));
  }

  /** Sends a request with a string. */
  ask(role, event, text, correlation = 0x77) {
    const head = Buffer.from([FRAME.request, 0, role.length, 0, event.length, 1]);
    const tail = Buffer.from([correlation, 3]);
    this.binary(Buffer.concat([head, Buffer.from(role + event), tail, Buffer.from(text)]));
  }

  /** Sends a request with a string and waits for what is sent back. */
  async request(role, event, text, correlation = 0x77) {
    this.ask(role, event, text, correlation);
    for (;;) {
      const answer = await this.message(FRAME.answer);
      if (answer[1] === 1 && answer[2] === correlation) return answer.subarray(4).toString();
    }
  }

  /** The HTTP head at the front of what arrives. */
  async head() {
    for (;;) {
      const end = this.input.indexOf('\r\n\r\n');
      if (end >= 0) {
        const head = this.input.subarray(0, end + 4).toString('latin1');
        this.input = this.input.subarray(end + 4);
        return head;
      }
      if (!(await this.more())) throw new Error('the connection ended before the HTTP head');
    }
  }

  /** Cuts a frame off the input, when one is complete. */
  take() {
    const { input } = this;
    if (input.length < 2) return undefined;
    let at = 2;
    let length = input[1] & 0x7f;
    if (length === 126) {
      if (input.length < 4) return undefined;
      length = input.readUInt16BE(2);
      at = 4;
    } else if (length === 127) {
      if (input.length < 10) return undefined;
      length = Number(input.readBigUInt64BE(2));
      at = 10;
    }
    const masked = (input[1] & 0x80) !== 0;
    const body = masked ? at + 4 : at;
    if (input.length < body + length) return undefined;
    const payload = Buffer.from(input.subarray(body, body + length));
    if (masked) for (let i = 0; i < length; i++) payload[i] ^= input[at + (i % 4)];
    this.input = input.subarray(body + length);
    return { opcode: input[0] & 0x0f, fin: (input[0] & 0x80) !== 0, payload };
  }

  /** Waits for more input; false at the end of the connection. */
  async more() {
    if (this.ended) return false;
    const had = this.input.length;
    await new Promise((resolve) => (this.wake = resolve));
    return this.input.length > had || !this.ended;
  }

  close() {
    this.socket.destroy();
  }
}

/** The WebSocket connections that peers under test open to a TCP server of ours. */
class RawListener {
  constructor(server, address) {
    this.address = address;
    this.backlog = [];
    this.waiting = [];
    server.on('connection', (socket) => {
      const connection = RawConnection.accept(socket);
      // A dialer that gives up before the upgrade is no error of the test.
      connection.catch(() => {});
      const waiting = this.waiting.shift();
      if (waiting) waiting(connection);
      else this.backlog.push(connection);
    });
  }

  /** The next connection, upgraded. */
  connection() {
    return this.backlog.shift() ?? new Promise((resolve) => this.waiting.push(resolve));
  }
}

module.exports = { RawConnection, RawListener, OPCODE, FRAME };
