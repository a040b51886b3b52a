'use strict';

// Every bad input against every language, as listener and as dialer; see ../README.md.

const { after, describe, test } = require('node:test');

const { find } = require('../players');
const { required } = require('../scenarios/options');
const { CASES } = require('./cases');
const { Victims } = require('./victims');

const { present, absent } = find();
// The Node package has two ways to read and write.
const variants = present
  .filter(({ name }) => name === 'node')
  .map((node) => ({ ...node, name: "node with Node's sockets", env: { ROLETALK_SOCKETS: 'node' } }));

describe('bad input', { concurrency: true }, () => {
  for (const implementation of [...present, ...variants]) attacks(implementation);
  for (const { name, reason } of absent) {
    const skip = required().includes(name) ? false : reason;
    test(`${name}: is there`, { skip }, () => {
      throw new Error(`${name} is required: ${reason}`);
    });
  }
});

/** One after the other, since they share the victims. */
function attacks(implementation) {
  const { name } = implementation;
  describe(name, { concurrency: 1 }, () => {
    const victims = new Victims(implementation);
    after(() => victims.end());
    for (const one of CASES) test(`${name}: ${one.name}`, () => victims.attack(one));
    const skip = process.platform !== 'linux' && 'reads /proc';
    test(`${name}: all of that again takes no more memory`, { skip }, async (t) => {
      const growth = await victims.stayAsTheyAre();
      t.diagnostic(`${name}: grown by ${JSON.stringify(growth)}`);
    });
    test(`${name}: all victims close`, () => victims.close());
  });
}
