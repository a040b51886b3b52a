'use strict';

// Every bad input against every language, as listener and as dialer; see ../README.md.

const { after, describe, test } = require('node:test');

const { CASES } = require('./cases');
const { present, testAbsent, variants } = require('./languages');
const { Victims } = require('./victims');

describe('bad input', { concurrency: true }, () => {
  for (const implementation of [...present, ...variants]) attacks(implementation);
  testAbsent();
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
