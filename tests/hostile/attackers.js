'use strict';

// Programs that attack a peer, each a process of its own, so that it has descriptors and a processor of its own:
//
//   node attackers.js KIND PORT [JSON]
//
// It prints a line with `ready` when the attack is on, and goes on until its stdin ends.

const net = require('node:net');
const { once } = require('node:events');

const { FRAME, OPCODE, RawConnection } = require('./raw');
const { authenticate } = require('./keys');

/** The source address of strangers. The peer and its clients are at 127.0.0.1. */
const ELSEWHERE = '127.0.0.2';

/** How many connections are begun at the same time. */
const AT_ONCE = 64;

const ATTACKS = {
  /** Keeps `count` connections open that send nothing, or only begin an upgrade. Dropped ones are opened anew. */
  async strangers(port, { count, says = '' }) {
    const up = new Set();
    let waiting = 0;
    let enough;
    const reached = new Promise((resolve) => (enough = resolve));
    let made = 0;
    const fill = () => {
      while (waiting < AT_ONCE && up.size + waiting < count) {
        waiting++;
        const socket = net.connect({ port, host: '127.0.0.1', localAddress: ELSEWHERE });
        socket.on('error', () => {});
        socket.on('connect', () => {
          waiting--;
          up.add(socket);
          if (++made >= count) enough();
          if (says) socket.write(says);
          setImmediate(fill);
        });
        socket.on('close', () => {
          if (!up.delete(socket)) waiting--;
          setImmediate(fill);
        });
        socket.resume();
      }
    };
    fill();
    await reached;
    return () => ({ made });
  },

  /** A unit that alternates between two long lists of roles. The role `always` is in both. */
  async roles(port, { count = 40_000, every = 10 }) {
    const raw = await join(port, 'announcer', { i: 0 });
    const lists = ['a', 'b'].map((letter) => Array.from({ length: count }, (_, at) => `${letter}${at}`));
    const texts = lists.map((list) => JSON.stringify(['always', ...list]));
    let i = 0;
    const announce = () => {
      // Enough is waiting to be sent.
      if (raw.socket.writableLength > 8 << 20) return;
      i++;
      raw.binary(Buffer.from(`${String.fromCharCode(FRAME.roles)}{"i":${i},"roles":${texts[i % 2]}}`, 'latin1'));
    };
    announce();
    setInterval(announce, every);
    return () => ({ announced: i });
  },

  /** A unit that sends pings as fast as they are read. */
  async pings(port) {
    const raw = await join(port, 'pinger');
    const chunk = Buffer.concat(Array.from({ length: 8192 }, (_, at) => frame(OPCODE.ping, Buffer.from([at & 0xff]))));
    pour(raw.socket, chunk);
    return () => ({});
  },

  /** A unit that sends one-way messages as fast as they are read. */
  async messages(port, { role = 'r', event = 'ev' }) {
    const raw = await join(port, 'sender');
    const head = Buffer.from([FRAME.message, 0, role.length, 0, event.length]);
    const message = Buffer.concat([head, Buffer.from(`${role}${event}\x03x`)]);
    pour(raw.socket, Buffer.concat(Array.from({ length: 4096 }, () => frame(OPCODE.binary, message))));
    return () => ({});
  },

  /** A unit that asks for large answers and reads none. */
  async deaf(port, { role = 'r', event = 'ev', size = 400 << 10, enough = 768 << 20 }) {
    const raw = await join(port, 'deaf');
    raw.socket.pause();
    const text = Buffer.alloc(size, 'x');
    let correlation = 0;
    let stuck = 0;
    const ask = () => {
      for (;;) {
        const number = Buffer.alloc(4);
        number.writeUInt32BE(++correlation);
        const head = Buffer.from([FRAME.request, 0, role.length, 0, event.length, 4]);
        raw.binary(Buffer.concat([head, Buffer.from(role + event), number, Buffer.from([3]), text]));
        if (raw.socket.writableLength > 1 << 20) break;
      }
      raw.socket.once('drain', ask);
    };
    ask();
    // Until the peer has read nothing for 2 s, or `enough` bytes were written.
    let before = -1;
    await new Promise((resolve) => {
      const look = setInterval(() => {
        const { bytesWritten } = raw.socket;
        stuck = bytesWritten === before ? stuck + 1 : 0;
        before = bytesWritten;
        if (stuck < 8 && bytesWritten < enough) return;
        clearInterval(look);
        resolve();
      }, 250);
    });
    return () => ({ asked: correlation });
  },
};

/** A unit of the peer's, from this process. */
async function join(port, name, confirm = {}) {
  const raw = await RawConnection.dial(port, undefined, secure);
  raw.answersPings = true;
  if (keyed) await authenticate(raw);
  await raw.handshake({ id: name, name, roles: [], friendly: false, ...confirm });
  // Its frames are of no interest.
  raw.arrived = (one) => {
    if (one.opcode === OPCODE.ping) raw.frame(OPCODE.pong, one.payload);
  };
  return raw;
}

function frame(opcode, payload) {
  return Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | payload.length, 0, 0, 0, 0]), payload]);
}

/** Writes the same again and again, as fast as it is read. */
function pour(socket, chunk) {
  const more = () => {
    while (socket.write(chunk));
    socket.once('drain', more);
  };
  more();
}

let keyed = false;
let secure = false;

async function main() {
  const [kind, port, json = '{}'] = process.argv.slice(2);
  const options = JSON.parse(json);
  keyed = Boolean(options.keyed);
  secure = Boolean(options.secure);
  const told = await ATTACKS[kind](Number(port), options);
  console.log('ready');
  process.stdin.resume();
  await once(process.stdin, 'end');
  console.log(JSON.stringify(told()));
  process.exit();
}

main();
