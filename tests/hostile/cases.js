'use strict';

// The cases of tests/data/bad-inputs.json, each for both sides of the victim where it makes sense on
// both; README.md beside that file says what their fields mean.

const RECORDED = require('../data/bad-inputs.json');
const { FRAME } = require('./raw');

const OTHER = { listener: 'dialer', dialer: 'listener' };

/** Raw frames as the other side would send them: with the mask that is none, or without a mask. */
function turned(hex) {
  let rest = Buffer.from(hex, 'hex');
  const turnedFrames = [];
  while (rest.length > 0) {
    const short = rest[1] & 0x7f;
    const head = 2 + (short === 127 ? 8 : short === 126 ? 2 : 0);
    const isMasked = rest[1] >= 0x80;
    const length = head > 2 ? Number(BigInt(`0x${rest.toString('hex', 2, head)}`)) : short;
    const body = head + (isMasked ? 4 : 0);
    const turnedHead = Buffer.from(rest.subarray(0, head));
    turnedHead[1] ^= 0x80;
    turnedFrames.push(turnedHead, Buffer.alloc(isMasked ? 0 : 4), rest.subarray(body, body + length));
    rest = rest.subarray(body + length);
  }
  return Buffer.concat(turnedFrames).toString('hex');
}

function mirrored({ side, steps, ...rest }) {
  const turnedSteps = steps.map((step) => (step.send === 'raw' ? { ...step, hex: turned(step.hex) } : step));
  return { ...rest, side: OTHER[side], steps: turnedSteps };
}

const keys = new Set(RECORDED.map(({ case: name, side }) => `${name} ${side}`));
const mirrors = RECORDED.filter((one) => !one.oneSided && !keys.has(`${one.case} ${OTHER[one.side]}`)).map(mirrored);

const CASES = [...RECORDED, ...mirrors].map((one) => ({
  ...one,
  name: `${one.case} (${one.side}, ${one.phase}, ${one.expect})`,
}));

/** What the placeholders of steps stand for after this frame, by their names. */
function partsOf(frame) {
  const names = () => frame.readUInt16BE(1) + frame.readUInt16BE(3);
  const numbers = (at, ...lengths) => {
    const parts = lengths.map((length) => frame.subarray(at, (at += length)));
    return Object.fromEntries(
      parts.flatMap((part, index) => {
        const name = ['CORR', 'CHAN'][index];
        return [
          [`$${name}LEN`, part.length.toString(16).padStart(2, '0')],
          [`$${name}`, part.toString('hex')],
        ];
      }),
    );
  };
  switch (frame[0]) {
    case FRAME.confirm:
      return { $ID: Buffer.from(JSON.parse(frame.subarray(1)).id).toString('hex') };
    case FRAME.request:
      return numbers(6 + names(), frame[5]);
    case FRAME.readableRequest:
    case FRAME.writableRequest:
      return numbers(7 + names(), frame[5], frame[6]);
    case FRAME.streamResponse:
      return numbers(3, frame[1], frame[2]);
    default:
      return {};
  }
}

/** The bytes of a step. */
function bytesOf(hex, parts) {
  const filled = hex
    .replace(/\$(CORRLEN|CHANLEN|CORR|CHAN|ID|N)/g, (name) => parts[name] ?? name)
    .replace(/\((..)\*(\d+)\)/g, (_, byte, count) => byte.repeat(count));
  if (filled.length % 2 !== 0 || /[^0-9a-f]/.test(filled)) throw new Error(`no hexadecimal: ${filled}`);
  return Buffer.from(filled, 'hex');
}

module.exports = { CASES, bytesOf, partsOf };
