'use strict';

// Processes in every language that is here find each other and work together, and every step is checked:
// `node tests/demo`, or `make demo`, which builds the players before. See ../README.md.

const { find } = require('../players');
const { perform } = require('./perform');

perform(find());
