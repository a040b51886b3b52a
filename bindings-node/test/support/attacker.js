'use strict';

// Plays the steps of tests/data/bad-inputs.json; README.md beside it says what they mean.

const path = require('node:path');
const { FRAME, OPCODE } = require('./raw');

const CASES = require(path.resolve(__dirname, '../../../tests/data/bad-inputs.json'));

/** Where the numbers are in a frame of each type: `[correlation, channel]` as parts of the frame. */
const NUMBERS = {
  101: (frame) => [frame.subarray(6 + names(frame), 6 + names(frame) + frame[5])],
  103: (frame) => streamRequest(frame),
  104: (frame) => streamRequest(frame),
  107: (frame) => [frame.subarray(3, 3 + frame[1]), frame.subarray(3 + frame[1], 3 + frame[1] + frame[2])],
};

function names(frame) {
  return frame.readUInt16BE(1) + frame.readUInt16BE(3);
}

function streamRequest(frame) {
  const at = 7 + names(frame);
  const channel = at + frame[5];
  return [frame.subarray(at, channel), frame.subarray(channel, channel + frame[6])];
}

/** What the placeholders in the steps stand for after this frame. */
function partsOf(frame) {
  if (frame[0] === FRAME.confirm) {
    return [['$ID', Buffer.from(JSON.parse(frame.subarray(1)).id).toString('hex')]];
  }
  const [correlation, channel] = NUMBERS[frame[0]](frame);
  const length = (part) => Buffer.from([part.length]).toString('hex');
  const parts = [['$CORRLEN', length(correlation)]];
  if (channel) parts.push(['$CHANLEN', length(channel)], ['$CHAN', channel.toString('hex')]);
  return [...parts, ['$CORR', correlation.toString('hex')]];
}

/** Does what the attacker does in a case, over a connection that is open. */
async function attack(raw, steps) {
  let parts = [];
  const bytes = (hex) => Buffer.from(parts.reduce((text, [name, value]) => text.replaceAll(name, value), hex), 'hex');
  for (const step of steps) {
    if (step.do === 'wait-frame') parts = partsOf(await raw.message(step.type));
    else if (step.do === 'tcp-reset') raw.socket.resetAndDestroy();
    else if (step.do === 'tcp-fin') raw.socket.end();
    else if (step.send === 'raw') raw.bytes(bytes(step.hex));
    else if (step.send === 'close') raw.closeFrame(step.code, step.reason);
    else raw.frame(OPCODE[step.send], bytes(step.hex));
  }
}

module.exports = { CASES, attack };
