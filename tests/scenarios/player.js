'use strict';

const { spawn } = require('child_process');
const { createInterface } = require('readline');

const { within } = require('./deadline');

/** A player process: commands go in, answers and observations come out. */
class Player {
  /** @param stage has the limit of all waits */
  constructor(implementation, name, stage) {
    this.implementation = implementation;
    this.name = name;
    this.stage = stage;
    this.seen = [];
    /** How often it has observed each number as `counted`, by number. */
    this.counted = new Map();
    this.waiting = new Map();
    this.watchers = new Set();
    this.stderr = '';
    const [program, ...args] = implementation.command;
    this.process = spawn(program, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...implementation.env },
    });
    // It may have died; its end is reported below.
    this.process.stdin.on('error', () => {});
    this.process.stderr.setEncoding('utf8').on('data', (text) => {
      this.stderr = (this.stderr + text).slice(-4000);
    });
    createInterface({ input: this.process.stdout }).on('line', (line) => this.read(line));
    this.closed = new Promise((resolve) => {
      this.process.on('error', (error) => this.end(`cannot be started: ${error.message}`, resolve));
      this.process.on('close', (code, signal) => {
        this.end(`died (${signal ?? `exit code ${code}`}): ${this.lastWords()}`, resolve);
      });
    });
  }

  /** Runs a command; resolves to its result. */
  ask(command, parameters) {
    return this.begin(command, parameters).result;
  }

  /** Runs a command that may be cancelled: its id and a promise of its result. */
  begin(command, parameters = {}) {
    const id = ++Player.commands;
    const answer = new Promise((resolve, reject) => {
      if (this.dead) reject(this.dead);
      this.waiting.set(id, { resolve, reject });
    });
    this.process.stdin.write(JSON.stringify({ id, command, ...parameters }) + '\n');
    return { id, result: within(this.limit, `${this.name} to ${command}`, answer) };
  }

  /** The first observation of this event, not seen before, for which `wanted` holds. */
  observe(event, wanted = () => true) {
    const matches = (line) => line.event === event && wanted(line);
    const found = this.seen.findIndex(matches);
    if (found >= 0) return Promise.resolve(this.seen.splice(found, 1)[0]);
    const observed = new Promise((resolve, reject) => {
      if (this.dead) reject(this.dead);
      this.watchers.add({ matches, resolve, reject });
    });
    return within(this.limit, `${this.name} to observe ${event} as wanted`, observed);
  }

  /**
   * Asks again until the answer is the wanted one: not every implementation has an event for every
   * change.
   */
  async until(command, parameters, wanted) {
    let last = 'no answer';
    let over = false;
    const found = (async () => {
      while (!over) {
        try {
          const result = await this.ask(command, parameters);
          if (wanted(result)) return result;
          last = JSON.stringify(result);
        } catch (error) {
          if (this.dead) throw error;
          last = error.message;
        }
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      return undefined;
    })();
    try {
      return await within(this.limit, `${this.name} to ${command} as wanted`, found);
    } catch (error) {
      throw this.dead ?? new Error(`${error.message}; last: ${last}`);
    } finally {
      over = true;
      found.catch(() => {});
    }
  }

  /** Milliseconds that any single wait may take. */
  get limit() {
    return this.stage.limit;
  }

  /** Stops the process, as a debugger would. */
  stop() {
    this.stopped = true;
    this.process.kill('SIGSTOP');
  }

  /** Lets a stopped process go on. */
  resume() {
    this.process.kill('SIGCONT');
    this.stopped = false;
  }

  /** Lets the process end by itself. */
  async finish() {
    this.ending = true;
    this.process.stdin.end();
    await within(this.limit, `${this.name} to end`, this.closed);
  }

  /** Ends the process at once, as a crash of its machine would. */
  async kill() {
    this.ending = true;
    this.process.kill('SIGKILL');
    await this.closed;
  }

  read(line) {
    let said;
    try {
      said = JSON.parse(line);
    } catch {
      // What an original prints for its own purposes.
      return;
    }
    if (said.id !== undefined) {
      const waiting = this.waiting.get(said.id);
      this.waiting.delete(said.id);
      if (said.error === undefined) waiting?.resolve(said.result);
      else waiting?.reject(Object.assign(new Error(said.error), { ...said, answered: true }));
      return;
    }
    const { event, number } = said;
    if (event === 'counted') this.counted.set(number, (this.counted.get(number) ?? 0) + 1);
    for (const watcher of this.watchers) {
      if (watcher.matches(said)) {
        this.watchers.delete(watcher);
        watcher.resolve(said);
        return;
      }
    }
    // They are many, and counted.
    if (event !== 'counted') this.seen.push(said);
  }

  end(reason, resolve) {
    this.dead = new Error(`the process of ${this.name} ${reason}`);
    this.crashed = !this.ending;
    for (const { reject } of [...this.waiting.values(), ...this.watchers]) reject(this.dead);
    this.waiting.clear();
    this.watchers.clear();
    resolve();
  }

  lastWords() {
    const lines = this.stderr.trim().split('\n');
    return lines.find((line) => /Error|panic/i.test(line)) ?? lines[0];
  }
}

Player.commands = 0;

module.exports = { Player };
