'use strict';

const { X509Certificate } = require('node:crypto');
const { readFileSync } = require('node:fs');
const { readFile } = require('node:fs/promises');
// Not those of `globalThis`: a test may have the time of its process stand still.
const { clearTimeout, setTimeout } = require('node:timers');
const { createSecureContext } = require('node:tls');
const { RoletalkError } = require('./errors.js');
const { numberOf } = require('./options.js');

/** The options that name files, and what Node calls what is in them. */
const FILES = { certFile: 'cert', keyFile: 'key', caFile: 'ca' };
/** How often files are looked at, in milliseconds, when `watch` does not say it. */
const EVERY = 10_000;
/** How soon files that cannot be used are looked at again, in milliseconds: they may only be half written. */
const SETTLING = 1_000;
/** The longest that a timer of Node's can have. */
const LONGEST = 0x7fffffff;

const BEGIN = /-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----/g;
const CERTIFICATE = /-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----[^-]+-----END \1-----/g;

/**
 * Certificates, key and authorities of one listener or one dialed address, which change while they are in use. What
 * is torn, has expired, or does not fit together changes nothing.
 */
class Tls {
  /** Of files, by the option that names them. */
  #paths;
  /** The application's, beside them. */
  #options;
  #every;
  #told;
  #timer = null;
  /** In force. */
  #used;
  /** Read last from the files, and taken. */
  #read = null;
  /** Read last by watching, and not taken. */
  #refused = null;
  /** Counts what was put in force, so that nothing older is put in its place that was being read meanwhile. */
  #turn = 0;

  /**
   * Reads the files.
   * @param {object} options of `tls.createSecureContext`, and `certFile`, `keyFile`, `caFile`, `watch`
   * @param {{ changed?: (options: object) => void, failed?: (error: RoletalkError) => void }} [told]
   * @throws {RoletalkError} when what is given cannot be used
   */
  constructor(options, told = {}) {
    const { certFile, keyFile, caFile, watch, ...rest } = options;
    this.#paths = Object.entries({ certFile, keyFile, caFile }).filter(([, path]) => path !== undefined);
    for (const [name, path] of this.#paths) {
      if (typeof path !== 'string' && !(path instanceof URL)) throw invalid(`The option "${name}" should be a path`);
      if (rest[FILES[name]] !== undefined) throw invalid(`Give either "${name}" or "${FILES[name]}"`);
    }
    if (typeof watch !== 'boolean') numberOf('watch', watch, { least: 1, most: LONGEST });
    this.#every = watch === true ? EVERY : watch || undefined;
    this.#options = rest;
    this.#told = told;
    this.#used = { pem: { cert: rest.cert, key: rest.key, ca: rest.ca } };
    if (this.hasFiles) this.#take(this.#paths.map(([, path]) => this.#readNow(path)));
    else this.#used = this.#made(this.#used.pem, false);
  }

  /** Whether there are files. */
  get hasFiles() {
    return this.#paths.length > 0;
  }

  /** What is in force, as options of Node's. */
  get options() {
    return { ...this.#options, ...this.#used.pem };
  }

  /** The same, made. */
  get context() {
    return this.#used.context;
  }

  /** When it is of no use any more, if that is known. */
  get expires() {
    return this.#used.expires;
  }

  /** Looks at the files from now on, if that was asked for. */
  start() {
    if (this.hasFiles && this.#every !== undefined) this.#arm(this.#every);
    return this;
  }

  stop() {
    this.#turn++;
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  /**
   * Reads the files again.
   * @throws {RoletalkError} when they cannot be used; then all stays as it was
   */
  async reload() {
    if (!this.hasFiles) throw invalid('The TLS settings were not made from files: give others with `replaceTls`');
    const turn = this.#turn;
    const read = await this.#readAll();
    // Somebody else may have put newer ones in force while these were read.
    if (turn !== this.#turn) return this.reload();
    this.#take(read);
    this.#tell();
  }

  /**
   * Takes others; what is not given stays.
   * @param {{ cert?: unknown, key?: unknown, ca?: unknown }} pem
   * @throws {RoletalkError} when they cannot be used; then all stays as it was
   */
  replace({ cert, key, ca }) {
    const given = Object.entries({ cert, key, ca }).filter(([, pem]) => pem !== undefined);
    try {
      this.#used = this.#made({ ...this.#used.pem, ...Object.fromEntries(given) }, true);
    } catch (error) {
      throw stays('The PEM is', error);
    }
    this.#turn++;
    this.#refused = null;
    this.#tell();
  }

  #tell() {
    this.#told.changed?.(this.options, this.expires);
  }

  get #names() {
    return this.#paths.map(([, path]) => `\`${path}\``).join(', ');
  }

  #readNow(path) {
    try {
      return readFileSync(path);
    } catch (error) {
      throw stays(`${this.#names} are`, error);
    }
  }

  async #readAll() {
    try {
      return await Promise.all(this.#paths.map(([, path]) => readFile(path)));
    } catch (error) {
      throw stays(`${this.#names} are`, error);
    }
  }

  /** Puts in force what was read from the files. */
  #take(read) {
    const pem = { ...this.#used.pem };
    this.#paths.forEach(([name], at) => (pem[FILES[name]] = read[at]));
    try {
      this.#used = this.#made(pem, true);
    } catch (error) {
      throw stays(`${this.#names} are`, error);
    }
    this.#turn++;
    this.#read = read;
    this.#refused = null;
  }

  /** @param {boolean} check whether the time is looked at, too */
  #made(pem, check) {
    const chain = certificatesOf(pem.cert);
    const authorities = certificatesOf(pem.ca);
    // OpenSSL finds what does not fit together.
    const context = createSecureContext({ ...this.#options, ...pem });
    if (check) checkTime(chain, authorities);
    const times = chain.map(notAfter);
    if (authorities.length > 0) times.push(Math.max(...authorities.map(notAfter)));
    return { pem, context, expires: times.length > 0 ? new Date(Math.min(...times)) : undefined };
  }

  #arm(wait) {
    this.#timer = setTimeout(() => this.#look(), wait);
    this.#timer.unref();
  }

  async #look() {
    const turn = this.#turn;
    let read = null;
    let failure = null;
    try {
      read = await this.#readAll();
    } catch (error) {
      failure = error;
    }
    if (turn !== this.#turn) {
      // Stopped, or changed meanwhile.
      if (this.#timer !== null) this.#arm(this.#every);
      return;
    }
    let settling = false;
    if (failure === null && isSame(read, this.#read)) {
      this.#refused = null;
    } else {
      try {
        if (failure !== null) throw failure;
        this.#take(read);
        this.#tell();
      } catch (error) {
        const refused = this.#refused;
        if (refused === null || !isSame(read, refused.read) || refused.text !== error.message) {
          this.#refused = { read, text: error.message, told: false };
          settling = true;
        } else if (!refused.told) {
          // It was not just half written.
          refused.told = true;
          this.#told.failed?.(error);
        }
      }
    }
    // Whoever was told may have stopped it.
    if (this.#timer !== null) this.#arm(settling ? Math.min(SETTLING, this.#every) : this.#every);
  }
}

/** Whether options name files. */
function hasFiles(options) {
  return Object.keys(FILES).some((name) => options?.[name] !== undefined);
}

/** The certificates of a PEM, or of several. Those in other forms are left to OpenSSL. */
function certificatesOf(pem) {
  const parts = pem === undefined || pem === null ? [] : [pem].flat();
  return parts.flatMap((part) => {
    const text = typeof part === 'string' ? part : Buffer.isBuffer(part) ? part.toString('latin1') : '';
    const whole = text.match(CERTIFICATE) ?? [];
    if (whole.length < (text.match(BEGIN) ?? []).length) throw new Error('The PEM ends within a certificate');
    if (whole.length === 0 && (typeof part === 'string' || Buffer.isBuffer(part))) {
      throw new Error('The PEM has no certificate');
    }
    return whole.map((one) => new X509Certificate(one));
  });
}

function notAfter(certificate) {
  return Date.parse(certificate.validTo);
}

function whyNow(certificate) {
  if (notAfter(certificate) < Date.now()) return `has expired on ${certificate.validTo}`;
  if (Date.parse(certificate.validFrom) > Date.now()) return `begins in the future, on ${certificate.validFrom}`;
  return undefined;
}

function checkTime(chain, authorities) {
  const wrong = chain.map(whyNow).find((why) => why !== undefined);
  if (wrong !== undefined) throw new Error(`A certificate ${wrong}`);
  // Bundles often have some that have expired.
  const all = authorities.map(whyNow);
  if (all.length > 0 && !all.includes(undefined)) throw new Error(`None of the authorities is valid: one ${all[0]}`);
}

function isSame(one, other) {
  return one === other || (one !== null && other !== null && one.every((part, at) => part.equals(other[at])));
}

function stays(what, error) {
  if (error instanceof RoletalkError) return error;
  const text = `${what} not taken, and what was in force stays: ${error.message}`;
  return new RoletalkError('TLS', text, { cause: error });
}

function invalid(text) {
  return new RoletalkError('INVALID_ARGUMENT', text);
}

module.exports = { Tls, hasFiles };
