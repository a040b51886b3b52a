'use strict';

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const readline = require('node:readline');

// In a program, `roletalk` is the subject and `tell(value)` sends a value to the test. `gate()` blocks it.
const PRELUDE = `
  const roletalk = require(process.env.ROLETALK_SUBJECT);
  const { Peer } = roletalk;
  const { once } = require('node:events');
  const tell = (value) => process.stdout.write(JSON.stringify(value) + '\\n');
  const gate = () => require('node:fs').readSync(3, Buffer.alloc(1));
`;

/** The time of a program stands still, but for what it lets pass. */
const CLOCK = `
  const { Clock } = require(${JSON.stringify(path.join(__dirname, 'clock'))});
  const clock = new Clock();
`;

/** A Node process that runs a source text: what only a process of its own can show. */
class Program {
  /**
   * @param {string} subject what loads the module under test
   * @param {string} source CommonJS; runs within an async function
   * @param {{ env?: object, ipc?: boolean, gate?: boolean, clock?: boolean, files?: number }} [options] with `ipc`
   *   the program may listen to messages; with `gate` it has `gate()`, which blocks it until `open` is called; with
   *   `clock` it has a `Clock`; with `files` it may have so many descriptors
   */
  constructor(subject, source, { env = {}, ipc = false, gate = false, clock = false, files } = {}) {
    const code = `${PRELUDE}${clock ? CLOCK : ''}\n(async () => {${source}\n})();`;
    const command = [process.execPath, '-e', code];
    if (files !== undefined) command.unshift('sh', '-c', `ulimit -n ${files}; exec "$@"`, 'sh');
    this.process = spawn(command[0], command.slice(1), {
      stdio: ['ignore', 'pipe', 'pipe', ...(gate ? ['pipe'] : []), ...(ipc ? ['ipc'] : [])],
      env: { ...process.env, NODE_TEST_CONTEXT: undefined, ROLETALK_SUBJECT: subject, ...env },
    });
    this.stderr = '';
    this.process.stderr.setEncoding('utf8').on('data', (text) => (this.stderr += text));
    this.exited = once(this.process, 'close');
    this.lines = readline.createInterface({ input: this.process.stdout })[Symbol.asyncIterator]();
  }

  /** The next value that the program tells. */
  async told() {
    const { value, done } = await this.lines.next();
    if (done) throw new Error(`the program ended instead of telling more:\n${this.stderr}`);
    return JSON.parse(value);
  }

  /** Waits for the end: the exit code and the signal, as `{ code, signal }`. */
  async end() {
    const [code, signal] = await this.exited;
    return { code, signal };
  }

  /** Lets a program go on that waits at its gate. */
  open() {
    this.process.stdio[3].write('.');
  }

  kill(signal = 'SIGKILL') {
    this.process.kill(signal);
  }

  async close() {
    this.kill();
    await this.exited;
  }
}

module.exports = { Program };
