'use strict';

// ../tests/scenarios/restart-bench.js with the originals as clients of our services, and among themselves. See
// README.md.

const { find } = require('../tests/players');
const { main } = require('../tests/scenarios/restart-bench');
const { ORIGINALS } = require('./originals');

main(find(ORIGINALS), true);
