'use strict';

// The examples of the README: those in JavaScript are one program, which prints what their comments say.

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { text } = require('node:stream/consumers');
const { compile, ts } = require('./support/compile');
const { beyond } = require('./support/subject');

const PACKAGE = path.resolve(__dirname, '..');
const README = path.join(PACKAGE, 'README.md');

/** The examples in a language, in their order. */
function examples(language, file = README) {
  const blocks = readFileSync(file, 'utf8').matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'));
  return Array.from(blocks, ([, source]) => source);
}

/** What is wrong with a program, as a file of this name in a directory where this package is `./bindings-node`. */
function errorsOf(t, name, source, options) {
  const directory = mkdtempSync(path.join(tmpdir(), 'roletalk-readme-'));
  t.after(() => rmSync(directory, { recursive: true }));
  symlinkSync(PACKAGE, path.join(directory, 'bindings-node'));
  const file = path.join(directory, name);
  writeFileSync(file, source);
  return compile([file], options).errors;
}

const MODULES = { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler };

beyond('the examples in JavaScript print what they say', async (network) => {
  const source = examples('js').join('\n').replaceAll('9000', await network.unusedPort());
  const said = Array.from(source.matchAll(/console\.log\(.*\); \/\/ (.*)$/gm), ([, line]) => line);
  assert.ok(said.length > 5);
  // Within the package, it can be imported by its own name.
  const program = spawn(process.execPath, ['--input-type=module', '-e', source], { cwd: PACKAGE });
  const [stdout, stderr] = await Promise.all([text(program.stdout), text(program.stderr)]);
  assert.deepEqual([...stdout.trimEnd().split('\n'), stderr], [...said, '']);
});

beyond('the examples in TypeScript compile', (_network, t) => {
  const programs = examples('ts');
  assert.ok(programs.length > 0);
  for (const program of programs) assert.deepEqual(errorsOf(t, 'example.mts', program, MODULES), []);
});

beyond('the examples in JavaScript compile as TypeScript, strictly', (_network, t) => {
  assert.deepEqual(errorsOf(t, 'example.mts', examples('js').join('\n'), MODULES), []);
});

beyond('the examples of the main README compile, strictly', (_network, t) => {
  const programs = examples('js', path.join(PACKAGE, '../README.md'));
  assert.ok(programs.length > 0);
  const options = {
    allowJs: true,
    checkJs: true,
    module: ts.ModuleKind.Node16,
    moduleResolution: ts.ModuleResolutionKind.Node16,
    // A script may be one of several that share their names.
    moduleDetection: ts.ModuleDetectionKind.Force,
  };
  for (const program of programs) {
    const isModule = /^import /m.test(program);
    assert.deepEqual(errorsOf(t, isModule ? 'example.mjs' : 'example.cjs', program, options), []);
  }
});
