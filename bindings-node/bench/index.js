'use strict';

// Two processes for each system, side by side; the systems take turns within each round. Prints a
// Markdown table. The original is measured, too, when it is found: in the directory that the
// environment variable ROLETALK_JS names, or as an installed package `roletalk`.
//
//   node bench [--quick] [--rounds N] [--only TEXT]

const { execFileSync, fork } = require('node:child_process');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { scenarios } = require('./scenarios.js');

const { values: options } = parseArgs({
  options: { quick: { type: 'boolean' }, rounds: { type: 'string' }, only: { type: 'string' } },
});
const ROUNDS = Number(options.rounds ?? (options.quick ? 3 : 7));
const MILLIS = options.quick ? 400 : 1000;
const WARM_UP = options.quick ? 300 : 1000;

function findOriginal() {
  if (process.env.ROLETALK_JS) return path.resolve(process.env.ROLETALK_JS);
  try {
    return path.dirname(require.resolve('roletalk/package.json'));
  } catch {
    return null;
  }
}

function start(args, cpus) {
  const child = fork(path.join(__dirname, 'child.js'), args, { execArgv: [] });
  if (cpus !== undefined) execFileSync('taskset', ['-apc', cpus, String(child.pid)], { stdio: 'ignore' });
  child.ask = (message) =>
    new Promise((resolve, reject) => {
      const failed = (code) => reject(new Error(`a process ended with ${code}`));
      child.once('exit', failed);
      child.once('message', (answer) => {
        child.removeListener('exit', failed);
        resolve(answer);
      });
      if (message) child.send(message);
    });
  return child;
}

async function pair(library, cpus) {
  const server = start([library, 'serve'], cpus?.[0]);
  const { port } = await server.ask();
  const client = start([library, 'ask', String(port)], cpus?.[1]);
  await client.ask();
  return { server, client };
}

async function measure({ server, client }, name, millis) {
  const before = (await server.ask({ command: 'cpu' })).cpu + (await client.ask({ command: 'cpu' })).cpu;
  const start = performance.now();
  const result = await client.ask({ command: 'measure', name, millis });
  const seconds = (performance.now() - start) / 1e3;
  const after = (await server.ask({ command: 'cpu' })).cpu + (await client.ask({ command: 'cpu' })).cpu;
  return { rate: result.count / seconds, p50: result.p50, p99: result.p99, cpu: (after - before) / result.count };
}

function median(numbers) {
  const sorted = numbers.filter((n) => n !== undefined).sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

/** All rounds of some scenarios; the rows of a table. */
async function compare(systems, names, cpus) {
  const pairs = [];
  for (const { library } of systems) pairs.push(await pair(library, cpus));
  const rows = [];
  try {
    for (const name of names) {
      const results = systems.map(() => []);
      for (const each of pairs) await measure(each, name, WARM_UP);
      for (let round = 0; round < ROUNDS; round++) {
        for (let n = 0; n < pairs.length; n++) {
          const system = (n + round) % pairs.length;
          results[system].push(await measure(pairs[system], name, MILLIS));
        }
      }
      rows.push({ name, results });
    }
  } finally {
    for (const { server, client } of pairs) {
      client.disconnect();
      server.disconnect();
    }
  }
  return rows;
}

function print(title, systems, rows) {
  const ours = systems.length - 1;
  const head = ['', ...systems.map(({ title }) => title)];
  if (ours > 0) head.push('ratio (lowest to highest)', 'CPU for each');
  console.log(`\n${title}\n\n| ${head.join(' | ')} |\n|---|${head.slice(1).map(() => '---:').join('|')}|`);
  const line = (name, figure, digits) => (row) => {
    const cells = row.results.map((result) => median(result.map(figure)));
    const texts = cells.map((cell) => cell.toLocaleString('en', { maximumFractionDigits: digits }));
    if (ours > 0) {
      const ratios = row.results[ours].map((result, n) => figure(result) / figure(row.results[0][n]));
      const range = [Math.min(...ratios), Math.max(...ratios)].map((n) => n.toFixed(2)).join(' to ');
      const cpu = median(row.results[ours].map((result, n) => result.cpu / row.results[0][n].cpu));
      texts.push(`${median(ratios).toFixed(2)} (${range})`, `${cpu.toFixed(2)}x`);
    }
    console.log(`| ${name(row)} | ${texts.join(' | ')} |`);
  };
  for (const row of rows) {
    line(({ name }) => `${name}: ${scenarios[name].unit}`, ({ rate }) => rate, 0)(row);
    if (row.results[0][0].p50 !== undefined) {
      line(({ name }) => `${name}: p50, µs`, ({ p50 }) => p50 * 1e3, 1)(row);
    }
  }
}

async function main() {
  const original = findOriginal();
  const systems = [{ title: 'roletalk-native', library: path.join(__dirname, '..') }];
  if (original) systems.unshift({ title: `roletalk ${require(`${original}/package.json`).version}`, library: original });
  else console.log('The original was not found: set ROLETALK_JS to its directory to compare.');
  const names = Object.keys(scenarios).filter((name) => name.includes(options.only ?? ''));
  console.log(`Node ${process.version}, ${ROUNDS} rounds of ${MILLIS} ms, medians.`);
  print('Two processes', systems, await compare(systems, names));
  const single = names.filter((name) => name.startsWith('one request'));
  if (process.platform !== 'linux' || single.length === 0) return;
  print('Both processes on one CPU', systems, await compare(systems, single, ['0', '0']));
  print('One CPU for each process', systems, await compare(systems, single, ['0', '1']));
}

main();
