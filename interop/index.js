'use strict';

// Every scenario of ../tests/scenarios with the originals: `node interop [options] [PATTERN…]`. See
// README.md.

const { find } = require('../tests/players');
const { main } = require('../tests/scenarios/main');
const { options } = require('../tests/scenarios/options');
const { DEVIATIONS } = require('./deviations');
const { ORIGINALS } = require('./originals');

main(find(ORIGINALS), options('interop'), DEVIATIONS);
