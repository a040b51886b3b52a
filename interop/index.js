'use strict';

// Every scenario of ../tests/scenarios with an original on one side: `node interop [options] [PATTERN…]`. See
// README.md.

const { find } = require('../tests/players');
const { main } = require('../tests/scenarios/main');
const { options } = require('../tests/scenarios/options');
const { DEVIATIONS } = require('./deviations');
const { ORIGINALS } = require('./originals');

main(find(ORIGINALS), options('interop'), { deviations: DEVIATIONS });
