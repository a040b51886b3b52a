'use strict';

// The examples of the README: those in JavaScript are one program, which prints what their comments say.

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { mkdtempSync, readFileSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { text } = require('node:stream/consumers');
const { compile, ts } = require('./support/compile');
const { beyond } = require('./support/subject');

const PACKAGE = path.resolve(__dirname, '..');
const README = readFileSync(path.join(PACKAGE, 'README.md'), 'utf8');

/** All examples in a language, behind each other. */
function examples(language) {
  const blocks = README.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'));
  return Array.from(blocks, ([, source]) => source).join('\n');
}

beyond('the examples in JavaScript print what they say', async (network) => {
  const source = examples('js').replaceAll('9000', await network.unusedPort());
  const said = Array.from(source.matchAll(/console\.log\(.*\); \/\/ (.*)$/gm), ([, line]) => line);
  assert.ok(said.length > 5);
  // Within the package, it can be imported by its own name.
  const program = spawn(process.execPath, ['--input-type=module', '-e', source], { cwd: PACKAGE });
  const [stdout, stderr] = await Promise.all([text(program.stdout), text(program.stderr)]);
  assert.deepEqual([...stdout.trimEnd().split('\n'), stderr], [...said, '']);
});

beyond('the examples in TypeScript compile', (_network, t) => {
  const directory = mkdtempSync(path.join(tmpdir(), 'roletalk-readme-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const file = path.join(directory, 'example.mts');
  writeFileSync(file, examples('ts'));
  const { module, moduleResolution } = { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler };
  assert.deepEqual(compile([file], { module, moduleResolution }).errors, []);
});
