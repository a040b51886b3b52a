'use strict';

// Frames of the protocol, as far as a scripted other side needs them. See docs/PROTOCOL.md.

const TYPE = {
  ERROR: 0,
  CHALLENGE: 1,
  PROOF: 2,
  CONFIRM: 3,
  MESSAGE: 100,
  REQUEST: 101,
  RESPONSE: 102,
  READABLE: 103,
  WRITABLE: 104,
  REJECT: 105,
  STREAM: 106,
  ACCEPT: 107,
  REFUSE: 108,
  ACQUAINT: 200,
  ROLES: 201,
};
const FLAG = { CHUNK: 0, FINISH: 1, ERROR: 2, QUOTA: 3 };
const KINDS = ['binary', 'null', 'boolean', 'string', 'number', 'object'];

/** What comes behind the first byte: the lengths, in bytes each, of the fields that follow them. */
const LAYOUTS = {
  [TYPE.MESSAGE]: { role: 2, event: 2 },
  [TYPE.REQUEST]: { role: 2, event: 2, corr: 1 },
  [TYPE.READABLE]: { role: 2, event: 2, corr: 1, chan: 1 },
  [TYPE.WRITABLE]: { role: 2, event: 2, corr: 1, chan: 1 },
  [TYPE.RESPONSE]: { corr: 1 },
  [TYPE.REJECT]: { corr: 1 },
  [TYPE.ACCEPT]: { corr: 1, chan: 1 },
  [TYPE.REFUSE]: { corr: 1, chan: 1 },
  [TYPE.STREAM]: { chan: 1 },
};

/** The parts of a frame: numbers in hexadecimal, `json` or else `payload`, the bytes of it. */
function decode(bytes) {
  const type = bytes[0];
  const layout = LAYOUTS[type];
  if (!layout) return { type, json: JSON.parse(bytes.subarray(1).toString()) };
  const frame = { type };
  const fields = Object.entries(layout);
  let at = 1;
  const lengths = fields.map(([, width]) => {
    at += width;
    return bytes.readUIntBE(at - width, width);
  });
  fields.forEach(([name], index) => {
    const encoding = name === 'role' || name === 'event' ? 'utf8' : 'hex';
    frame[name] = bytes.toString(encoding, at, at + lengths[index]);
    at += lengths[index];
  });
  if (type === TYPE.STREAM) frame.flag = bytes[at++];
  frame.payload = bytes.subarray(at);
  return frame;
}

/** The bytes of a frame with the parts that `decode` gives. */
function encode({ type, json, flag, payload = Buffer.alloc(0), ...fields }) {
  if (json !== undefined) return Buffer.concat([Buffer.from([type]), Buffer.from(JSON.stringify(json))]);
  const lengths = [];
  const parts = [];
  for (const [name, width] of Object.entries(LAYOUTS[type])) {
    const part = Buffer.from(fields[name], name === 'role' || name === 'event' ? 'utf8' : 'hex');
    const length = Buffer.alloc(width);
    length.writeUIntBE(part.length, 0, width);
    lengths.push(length);
    parts.push(part);
  }
  if (type === TYPE.STREAM) parts.push(Buffer.from([flag]));
  return Buffer.concat([Buffer.from([type]), ...lengths, ...parts, payload]);
}

/** A number in as few bytes as hold it. */
function number(value) {
  const hex = value.toString(16);
  return hex.padStart(hex.length + (hex.length % 2), '0');
}

/** A payload as players write it. */
function toWire(payload) {
  const type = KINDS[payload[0]];
  const bytes = payload.subarray(1);
  switch (type) {
    case 'binary':
      return { type, value: bytes.toString('hex') };
    case 'null':
      return { type, value: null };
    case 'boolean':
      return { type, value: bytes[0] !== 0 };
    case 'object':
      return { type, value: JSON.parse(bytes.toString()) };
    default:
      return { type, value: bytes.toString() };
  }
}

module.exports = { FLAG, TYPE, decode, encode, number, toWire };
