'use strict';

const { readFile } = require('node:fs/promises');
const { NativePolicyFile } = require('./addon.js');
const { messageOf } = require('./guard.js');

/** How often a file is looked at, in milliseconds. */
const EVERY = 500;

/** A file that a peer takes its policy from. */
class PolicyFile {
  #peer;
  #path;
  #native;
  #timer = null;
  #isActive = false;
  #isReading = false;

  /**
   * @param {import('./peer.js').Peer} peer
   * @param {string} path
   */
  constructor(peer, path) {
    this.#peer = peer;
    this.#path = path;
    this.#native = new NativePolicyFile(path);
  }

  /**
   * Reads the file, which `close` waits for.
   * @returns {Promise<() => string[] | null>} takes the policy from what was read: null when that is nothing new, an empty
   * list when it is in force, or the error
   */
  async read() {
    const reading = this.#read();
    const { _policyReads: reads } = this.#peer;
    reads.add(reading);
    const take = await reading;
    reads.delete(reading);
    this.#peer._gone(reading);
    return take;
  }

  async #read() {
    let bytes = null;
    let failure = '';
    try {
      bytes = await readFile(this.#path);
    } catch (error) {
      failure = messageOf(error);
    }
    return () => {
      const { _core: host } = this.#peer;
      const outcome = host.native.readPolicy(this.#native, bytes, failure, host.now());
      host.schedule();
      return outcome;
    };
  }

  /** Looks at the file from time to time, from now on. */
  watch() {
    this.#isActive = true;
    this.#timer = setTimeout(() => this.#look(), EVERY);
    this.#timer.unref();
  }

  /** Looks at it again, and at once, if it was let be. */
  resume() {
    if (this.#isActive) return;
    this.#isActive = true;
    if (!this.#isReading) this.#look();
  }

  /** Lets it be. */
  pause() {
    this.#isActive = false;
    clearTimeout(this.#timer);
  }

  async #look() {
    this.#isReading = true;
    const take = await this.read();
    this.#isReading = false;
    if (!this.#isActive) return;
    this.watch();
    const outcome = take();
    if (outcome !== null) this.#peer._policyRead(this.#path, outcome.length === 0 ? null : outcome);
  }
}

module.exports = { PolicyFile };
