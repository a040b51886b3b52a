'use strict';

// Makes lib/protocol.js from the numbers that the addon has: `npm run protocol`, after `make node`.

const fs = require('node:fs');
const path = require('node:path');

const FILE = path.join(__dirname, '../lib/protocol.js');

/** `ReleaseUnit`, as Rust names a variant of an enum, as `RELEASE_UNIT`. */
const constant = (name) => name.replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase();

/** Flags are easier to read in hexadecimal digits. */
const literal = (number) => (number > 0xffff ? `0x${number.toString(16)}` : String(number));

/**
 * @param {{ group: string, name: string, number: number }[]} numbers those of the addon
 * @returns {string} the text of lib/protocol.js
 */
function protocolFile(numbers) {
  const groups = [...new Set(numbers.map(({ group }) => group).filter(Boolean))];
  const objects = groups.map((name) => {
    const members = numbers.filter(({ group }) => group === name);
    const lines = members.map(({ name, number }) => `  ${constant(name)}: ${literal(number)},\n`);
    return `const ${name} = {\n${lines.join('')}};\n`;
  });
  const constants = numbers.filter(({ group }) => group === '');
  const lines = constants.map(({ name, number }) => `const ${name} = ${literal(number)};\n`);
  const names = [...groups, ...constants.map(({ name }) => name)];
  return [
    `'use strict';\n`,
    '// Made by `npm run protocol` from the numbers of the addon. What each means is said in src/commands.rs,\n' +
      '// src/events.rs, src/fields.rs and src/native.rs.\n',
    ...objects,
    lines.join(''),
    `module.exports = {\n${names.map((name) => `  ${name},\n`).join('')}};\n`,
  ].join('\n');
}

if (require.main === module) {
  fs.writeFileSync(FILE, protocolFile(require('../lib/addon.js').protocol()));
}

module.exports = { FILE, protocolFile };
