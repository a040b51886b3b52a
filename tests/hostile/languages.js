'use strict';

// Whom the tests of this directory try: the players that are here, and a test for each that is not.

const { test } = require('node:test');

const { find } = require('../players');
const { required } = require('../scenarios/options');

const { present, absent } = find();

/** The Node package has two ways to read and write. */
const variants = present
  .filter(({ name }) => name === 'node')
  .map((node) => ({ ...node, name: "node with Node's sockets", env: { ROLETALK_SOCKETS: 'node' } }));

/** Has a test fail, or be left out, for each player that is not here. */
function testAbsent() {
  for (const { name, reason } of absent) {
    const skip = required().includes(name) ? false : reason;
    test(`${name}: is there`, { skip }, () => {
      throw new Error(`${name} is required: ${reason}`);
    });
  }
}

module.exports = { present, variants, testAbsent };
