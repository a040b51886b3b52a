'use strict';

// Every scenario between this implementation's packages: `node tests/scenarios [options] [PATTERN…]`.
// See ../README.md.

const { find } = require('../players');
const { main } = require('./main');
const { options } = require('./options');

main(find(), options('tests/scenarios'));
