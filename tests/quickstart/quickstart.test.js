'use strict';

// The programs of the README's quick start, word for word but for the port: every client with every service.

const assert = require('node:assert/strict');
const { execFileSync, spawn, spawnSync } = require('node:child_process');
const { once } = require('node:events');
const { mkdirSync, readFileSync, writeFileSync } = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const readline = require('node:readline');
const { text } = require('node:stream/consumers');
const { test } = require('node:test');

const ROOT = path.resolve(__dirname, '../..');
const TARGET = path.resolve(ROOT, process.env.CARGO_TARGET_DIR ?? 'target');
const WORK = path.join(TARGET, 'quickstart');
const STAGE = path.join(TARGET, 'c-abi');
const PYTHON = path.resolve(ROOT, process.env.VENV ?? '.venv', 'bin/python');
const README = readFileSync(path.join(ROOT, 'README.md'), 'utf8');
/** Only there to fail. */
const LIMIT = 300_000;

/** Service and client in a language. */
function programs(language) {
  const blocks = README.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'));
  const found = Array.from(blocks, ([, source]) => source).filter((source) => /\bmain\b/.test(source));
  assert.equal(found.length, 2, `${found.length} programs in ${language}`);
  for (const source of found) assert.match(source, /9000/);
  return { service: found[0], client: found[1] };
}

function works(command, args) {
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0;
}

/** By language: what runs a program with a port, or why there is none. */
const languages = {
  rust: () => (kind, port) => [path.join(TARGET, 'debug', `quickstart-${kind}`), [], { QUICKSTART_PORT: port }],
  node: () => {
    const sources = programs('js');
    return (kind, port) => [process.execPath, ['-e', sources[kind].replaceAll('9000', port)], {}];
  },
  python: () => {
    if (!works(PYTHON, ['-c', 'import roletalk'])) return 'bindings-python is not built';
    const sources = programs('python');
    return (kind, port) => [PYTHON, ['-c', sources[kind].replaceAll('9000', port)], {}];
  },
  cpp: () => {
    const compiler = process.env.CXX ?? 'c++';
    if (!works(compiler, ['--version'])) return `there is no C++ compiler (${compiler})`;
    execFileSync('make', ['--no-print-directory', '-C', path.join(ROOT, 'bindings-c'), 'stage'], { stdio: 'pipe' });
    mkdirSync(WORK, { recursive: true });
    for (const [kind, source] of Object.entries(programs('cpp'))) {
      const address = 'std::string("$1") + std::getenv("QUICKSTART_PORT")';
      const replaced = source.replace(/"((?:ws:\/\/)?127\.0\.0\.1:)9000"/, address);
      assert.notEqual(replaced, source);
      const file = path.join(WORK, `${kind}.cpp`);
      writeFileSync(file, `#include <cstdlib>\n#include <string>\n${replaced}`);
      const libraries = [`-L${STAGE}/lib`, `-Wl,-rpath,${STAGE}/lib`, '-lroletalk', '-lpthread'];
      const options = ['-std=c++17', '-Wall', '-Wextra', '-Werror', `-I${STAGE}/include`];
      execFileSync(compiler, [...options, file, '-o', path.join(WORK, kind), ...libraries], { stdio: 'inherit' });
    }
    return (kind, port) => [path.join(WORK, kind), [], { QUICKSTART_PORT: port }];
  },
};

const runners = Object.fromEntries(Object.entries(languages).map(([name, prepare]) => [name, prepare()]));

async function unusedPort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return String(port);
}

function start(t, [command, args, env]) {
  const options = { cwd: ROOT, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] };
  const child = spawn(command, args, options);
  t.after(() => child.kill('SIGKILL'));
  child.ended = once(child, 'exit');
  child.said = text(child.stderr);
  return child;
}

for (const [service, serve] of Object.entries(runners)) {
  for (const [client, ask] of Object.entries(runners)) {
    const skip = [serve, ask].find((runner) => typeof runner === 'string');
    test(`${client} asks ${service}`, { skip, timeout: LIMIT }, async (t) => {
      const port = await unusedPort();
      const serving = start(t, serve('service', port));
      const lines = readline.createInterface({ input: serving.stdout });
      const [line] = await Promise.race([
        once(lines, 'line'),
        serving.ended.then(async () => assert.fail(`the service has ended: ${await serving.said}`)),
      ]);
      assert.equal(line, `listening on ws://127.0.0.1:${port}`);
      const asking = start(t, ask('client', port));
      const [said, [code]] = await Promise.all([text(asking.stdout), asking.ended]);
      assert.deepEqual([said, code, await asking.said], ['2 + 3 = 5\n', 0, '']);
      serving.kill('SIGTERM');
      assert.deepEqual([await serving.ended, await serving.said], [[0, null], '']);
    });
  }
}
