'use strict';

module.exports = require('../../../tests/hostile/raw');
