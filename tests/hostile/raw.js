'use strict';

// The other end of a connection, written by hand: WebSocket frames as bytes, so that they may be
// wrong, and roletalk frames as docs/PROTOCOL.md has them. What comes is judged by nothing that a peer
// was written with, and strictly. The tests of the Node package and interop/vectors use it, too.

const { createHash, randomBytes } = require('node:crypto');
const { once } = require('node:events');
const net = require('node:net');
const tls = require('node:tls');

const HOST = '127.0.0.1';
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
  readableRequest: 103,
  writableRequest: 104,
  reject: 105,
  streamResponse: 107,
  streamReject: 108,
  fields: 110,
  cancel: 111,
  acquaint: 200,
  roles: 201,
};

/** A mask that changes something. */
const MASK = Buffer.from([0x37, 0xfa, 0x21, 0x3d]);

/** One WebSocket connection over a socket of ours. */
class RawConnection {
  /** Whether pings are answered as soon as they come. */
  answersPings = false;

  constructor(socket, masks) {
    this.socket = socket;
    this.masks = masks;
    this.input = Buffer.alloc(0);
    this.upgraded = false;
    /** What has come and was not taken yet. */
    this.frames = [];
    this.ended = false;
    /** What the other side did wrong, if anything: then nothing more is read. */
    this.error = undefined;
    this.wake = () => {};
    socket.setNoDelay(true);
    socket.on('data', (chunk) => {
      this.input = Buffer.concat([this.input, chunk]);
      if (this.upgraded) this.parse();
      this.wake();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.ended = true;
      this.wake();
    });
  }

  /** Dials, over TLS if that is `secure`, and upgrades. */
  static async dial(port, host = HOST, secure = false) {
    const socket = secure ? tls.connect({ port, host, rejectUnauthorized: false }) : net.connect(port, host);
    await once(socket, secure ? 'secureConnect' : 'connect');
    const connection = new this(socket, true);
    const key = randomBytes(16).toString('base64');
    connection.bytes(
      `GET / HTTP/1.1\r\nHost: ${host}:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
        `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`,
    );
    const head = await connection.head();
    if (!head.startsWith('HTTP/1.1 101 ') || !head.includes(accepted(key))) throw new Error(`no upgrade: ${head}`);
    return connection;
  }

  /** Answers the upgrade of a peer that has dialed. */
  static async accept(socket) {
    const connection = new this(socket, false);
    const head = await connection.head();
    const key = /^sec-websocket-key: *(\S+)/im.exec(head)[1];
    connection.bytes(
      'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
        `Sec-WebSocket-Accept: ${accepted(key)}\r\n\r\n`,
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
    if (this.masks) head[1] |= 0x80;
    this.bytes(Buffer.concat(this.masks ? [head, MASK, masked(payload, MASK)] : [head, payload]));
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
    while (this.frames.length === 0) if (!(await this.more())) return undefined;
    return this.frames.shift();
  }

  /**
   * The payload of the next binary message that begins with this byte, without the fields that it may have.
   * Other frames are dropped.
   */
  async message(type) {
    for (;;) {
      const frame = await this.next();
      if (!frame) throw new Error(`the connection ended before a message of type ${type}`);
      if (frame.opcode !== OPCODE.binary) continue;
      const { payload } = frame;
      if (payload[0] === type) return payload;
      if (payload[0] !== FRAME.fields) continue;
      const inner = payload.subarray(3 + payload.readUInt16BE(1));
      if (inner[0] === type) return inner;
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
        this.upgraded = true;
        this.parse();
        return head;
      }
      if (!(await this.more())) throw new Error('the connection ended before the HTTP head');
    }
  }

  /** Takes the frames off the input that are complete. */
  parse() {
    for (let frame; this.error === undefined && (frame = this.cut()) !== undefined; ) this.arrived(frame);
  }

  arrived(frame) {
    if (frame.opcode === OPCODE.ping && this.answersPings) this.frame(OPCODE.pong, frame.payload);
    else this.frames.push(frame);
  }

  /** Cuts a frame off the input, when one is complete. */
  cut() {
    const { input } = this;
    if (input.length < 2) return undefined;
    const short = input[1] & 0x7f;
    const wide = short === 127 ? 8 : short === 126 ? 2 : 0;
    const isMasked = input[1] >= 0x80;
    const body = 2 + wide + (isMasked ? 4 : 0);
    if (input.length < body) return undefined;
    const length = wide ? Number(BigInt(`0x${input.toString('hex', 2, 2 + wide)}`)) : short;
    if (input.length < body + length) return undefined;
    if ((input[0] & 0xf0) !== 0x80) this.error = new Error(`a frame that begins with ${input[0].toString(16)}`);
    if (isMasked === this.masks) this.error = new Error('a frame that is masked the wrong way');
    const payload = Buffer.from(input.subarray(body, body + length));
    this.input = input.subarray(body + length);
    return { opcode: input[0] & 0x0f, payload: isMasked ? masked(payload, input.subarray(body - 4, body)) : payload };
  }

  /** Waits for something to come; false at the end of the connection. */
  async more() {
    if (this.error) throw this.error;
    if (this.ended) return false;
    const had = [this.input.length, this.frames.length];
    await new Promise((resolve) => (this.wake = resolve));
    if (this.error) throw this.error;
    return !this.ended || had[0] !== this.input.length || had[1] !== this.frames.length;
  }

  close() {
    this.socket.destroy();
  }
}

function accepted(key) {
  return createHash('sha1').update(key + ACCEPT_SUFFIX).digest('base64');
}

function masked(payload, mask) {
  const copy = Buffer.from(payload);
  for (let i = 0; i < copy.length; i++) copy[i] ^= mask[i & 3];
  return copy;
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
