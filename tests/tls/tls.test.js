'use strict';

// The programs of docs/TLS.md, with certificates that are made as it says. Those in Rust and C are tested
// by their packages.

const assert = require('node:assert');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { after, before, test } = require('node:test');

const { find } = require('../players');

const ROOT = path.join(__dirname, '..', '..');
const GUIDE = fs.readFileSync(path.join(ROOT, 'docs', 'TLS.md'), 'utf8');
const { present, absent } = find();

/** Whether a language is here, or why not. */
const skip = (name) => absent.find((one) => one.name === name)?.reason ?? false;

/** The first block of a language. */
function block(language) {
  const [, text] = GUIDE.match(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, 'ms'));
  return text;
}

const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'roletalk-tls-'));
const run = (program, args) =>
  execFileSync(program, args, { cwd: directory, encoding: 'utf8', stdio: 'pipe', timeout: 120_000 });

before(() => {
  run('sh', ['-e', '-c', block('sh')]);
  // As an application has it.
  fs.mkdirSync(path.join(directory, 'node_modules'));
  const module = path.join(directory, 'node_modules', 'roletalk-native');
  fs.symlinkSync(path.join(ROOT, 'bindings-node'), module);
});
after(() => fs.rmSync(directory, { recursive: true }));

for (const [name, language, file] of [
  ['node', 'js', 'tls.js'],
  ['python', 'python', 'guide.py'],
]) {
  test(name, { skip: skip(name) }, () => {
    fs.writeFileSync(path.join(directory, file), block(language));
    const [interpreter] = present.find((one) => one.name === name).command;
    assert.equal(run(interpreter, [file]), 'safe\n');
  });
}
