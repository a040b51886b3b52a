'use strict';

// The application's judgement of whoever asks for an upgrade.

const { checkClaims } = require('./addon.js');
const { call, ignore, messageOf } = require('./guard.js');

/** The status of those who are refused without another one. */
const FORBIDDEN = 403;
/** That of a function that does something else than it should. */
const FAULT = 500;
/** That of one that takes too long. */
const LATE = 503;

/**
 * What the application has decided: either claims, as JSON, or with which status somebody is refused and why.
 * @typedef {{ claims: string } | { claims?: undefined, status: number, reason: string }} Verdict
 */

/**
 * Judges an upgrade.
 * @param {Function} authenticate the application's
 * @param {object} request what it is given
 * @returns {Verdict | Promise<Verdict>} a promise, which never rejects, when the function returns one
 */
function judge(authenticate, request) {
  try {
    const result = authenticate(request);
    if (typeof result?.then !== 'function') return verdictOf(result);
    return Promise.resolve(result).then(verdictOf, refusalOf);
  } catch (error) {
    return refusalOf(error);
  }
}

function verdictOf(claims) {
  if (claims === false) return { status: FORBIDDEN, reason: '`authenticate` has returned false' };
  const faulty = (reason) => ({ status: FAULT, reason });
  if (typeof claims !== 'object' || claims === null) {
    // Not the value, which may be a secret.
    const what = claims === null || claims === true ? String(claims) : typeof claims;
    return faulty(`\`authenticate\` has returned ${what}: it should return an object of claims, {} for none, or false`);
  }
  try {
    const text = JSON.stringify(claims);
    if (text === undefined) return faulty('the claims have no JSON form');
    const fault = checkClaims(text);
    return fault === null ? { claims: text } : faulty(fault[1]);
  } catch (error) {
    return faulty(`the claims cannot be written as JSON: ${messageOf(error)}`);
  }
}

function refusalOf(error) {
  return { status: statusOf(error), reason: messageOf(error) };
}

/** The status that an error asks for, if it is one of refusals. */
function statusOf(error) {
  try {
    const { status } = error;
    return Number.isInteger(status) && status >= 400 && status < 600 ? status : FORBIDDEN;
  } catch {
    return FORBIDDEN;
  }
}

/**
 * An upgrade that waits for its verdict: as long as its socket is there, and not longer than a limit.
 */
class Judging {
  #socket;
  #timer;
  #reason;
  #done;
  #isOver = false;

  /**
   * @param {import('node:stream').Duplex} socket
   * @param {number} limit milliseconds
   * @param {(verdict: Verdict | null) => void} done is called once: with null when the socket is closed
   */
  constructor(socket, limit, done) {
    this.#socket = socket;
    this.#done = done;
    this.#reason = `\`authenticate\` has taken more than ${limit} ms`;
    // After the loop was blocked, what has come meanwhile is read first.
    this.#timer = setTimeout(() => setImmediate(() => this.refuse()), limit);
    this.#timer.unref();
    // Nobody else listens to the socket meanwhile.
    socket.on('error', ignore).on('readable', this.#read).on('end', this.#destroy).on('close', this.#closed);
    if (socket.closed) process.nextTick(this.#closed);
  }

  /**
   * Waits for a verdict.
   * @param {Promise<Verdict>} promise one that never rejects
   */
  wait(promise) {
    promise.then((verdict) => this.#settle(verdict));
  }

  /** Refuses the upgrade without waiting any longer. */
  refuse() {
    this.#settle({ status: LATE, reason: this.#reason });
  }

  /** Destroys the socket: nobody is let in any more. */
  giveUp() {
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#socket.destroy();
  }

  /** The end of the stream is only seen by those who read. What comes before it, stays for later. */
  #read = () => {
    if (this.#socket.readableLength === 0) this.#socket.read();
  };

  #destroy = () => this.giveUp();

  #closed = () => {
    this.#isOver = true;
    clearTimeout(this.#timer);
    const done = this.#done;
    this.#done = ignore;
    call(done, null);
  };

  #settle(verdict) {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#timer);
    const socket = this.#socket;
    socket.off('readable', this.#read).off('end', this.#destroy).off('close', this.#closed);
    call(this.#done, verdict);
    // Whoever has the socket now listens for its errors.
    socket.off('error', ignore);
  }
}

module.exports = { FAULT, Judging, judge };
