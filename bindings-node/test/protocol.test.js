'use strict';

// The numbers that JavaScript and the addon share.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const { beyond } = require('./support/subject');

beyond('lib/protocol.js has the numbers of the addon', () => {
  const { protocol } = require('../lib/addon.js');
  const { FILE, protocolFile } = require('../tools/protocol.js');
  const advice = 'lib/protocol.js is not the one of this addon: run `make node`, then `npm run protocol`';
  assert.equal(fs.readFileSync(FILE, 'utf8'), protocolFile(protocol()), advice);
});
