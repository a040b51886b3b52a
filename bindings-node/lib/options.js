'use strict';

// Options that nobody reads are mistakes. roletalk 1.1.3 ignores them, so they are no errors here either, but
// warnings of the process.

const { RoletalkError } = require('./errors.js');
const { print } = require('./guard.js');

const words = (text) => new Set(text.trim().split(/\s+/));

const PEER = words(`
  acquaintanceNetworks acquaintancePorts authenticate balance channelBinding connectionAge eject friendly
  identityHeaders name origins peerKey policy`);
const LISTEN = words('port host server ssl path handshakeTimeout maxHandshakes maxHandshakesPerAddress');
const DESTINATION = words('balance eject maxInFlight prefer retry waitForUnit');
const SERVE = words('drain');
const WAIT = words('signal timeout');
/** What is for all units. `role` is what the original writes into the options that it is given. */
const ALL = words(
  'event timeout unit waitForUnit signal headers requireHeaders traceparent tracestate baggage inherit role',
);
/** What is for one unit. */
const EMIT = new Set([...ALL, ...words('balance prefer key')]);
/** What is for one unit after the other. */
const REQUEST = new Set([...EMIT, 'retry']);
const HANDLER = words('detached');
const STREAM = words(`
  autoDestroy captureRejections construct decodeStrings defaultEncoding destroy emitClose encoding final
  highWaterMark objectMode read signal write writev`);
/** What `connect` knows or hands on to Node. Node has more, and others with every version. */
const CONNECT = words(`
  permanent
  caFile certFile keyFile watch
  agent family followRedirects handshakeTimeout headers localAddress localPort lookup maxPayload maxRedirects
  origin perMessageDeflate protocolVersion
  ALPNProtocols SNICallback allowPartialTrustChain ca cert checkServerIdentity ciphers clientCertEngine crl dhparam
  ecdhCurve enableTrace honorCipherOrder key maxVersion minDHSize minVersion passphrase pfx privateKeyEngine
  privateKeyIdentifier pskCallback rejectUnauthorized requestOCSP secureContext secureOptions secureProtocol
  servername session sessionIdContext sessionTimeout sigalgs ticketKeys
  auth autoSelectFamily autoSelectFamilyAttemptTimeout blockList createConnection defaultPort highWaterMark hints
  host hostname insecureHTTPParser joinDuplicateHeaders keepAlive keepAliveInitialDelay maxHeaderSize method noDelay
  onread path port protocol setDefaultHeaders setHost signal socketPath timeout uniqueHeaders`);

/** Each is told of once; this many of them. */
const MAX_TOLD = 100;
const told = new Set();

/**
 * Warns of options that nobody reads, once of each.
 * @param {string} where what they were given to
 * @param {object | undefined | null} options
 * @param {Set<string>} known
 */
function checkOptions(where, options, known) {
  if (typeof options !== 'object' || options === null) return;
  for (const name in options) {
    if (!known.has(name)) warn(where, name, known, likely(name, known));
  }
}

/** The same for `connect`: only of what looks like an option that there is. */
function checkConnectOptions(options) {
  if (typeof options !== 'object' || options === null) return;
  for (const name in options) {
    if (CONNECT.has(name)) continue;
    const meant = likely(name, CONNECT);
    if (meant !== undefined) warn('connect', name, CONNECT, meant);
  }
}

function warn(where, name, known, meant) {
  const key = `${where} ${name}`;
  if (told.has(key) || told.size === MAX_TOLD) return;
  told.add(key);
  let hint = meant === undefined ? `There are: ${[...known].join(', ')}.` : `Did you mean "${meant}"?`;
  // What was meant to keep strangers out must not be left out unnoticed.
  if (/key/i.test(name) && known !== ALL) hint += ' Preshared keys are added with `peer.addPresharedKey(id, key)`.';
  process.emitWarning(`${where} has no option "${name}", which is ignored. ${hint}`, 'RoletalkOptionWarning');
}

/** The known name that is a slip of the pen away, or differs in capitals only. */
function likely(name, known) {
  const most = Math.min(2, Math.floor(name.length / 3));
  let best;
  let least = most + 1;
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase(), least);
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

/** How many letters have to be put in, left out, changed, or swapped with the next; `enough` when it is that much. */
function editDistance(a, b, enough) {
  if (Math.abs(a.length - b.length) >= enough) return enough;
  let older = [];
  let old = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      row[j] = Math.min(old[j] + 1, row[j - 1] + 1, old[j - 1] + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) row[j] = Math.min(row[j], older[j - 2] + 1);
    }
    [older, old] = [old, row];
  }
  return old[b.length];
}

/** The error of an option that makes no sense. */
function invalid(text, options) {
  return new RoletalkError('INVALID_ARGUMENT', text, options);
}

/**
 * An option that is a number.
 * @param {string} name
 * @param {unknown} value
 * @returns {number | undefined} undefined when it is not given
 * @throws {RoletalkError} when it is anything else, or out of bounds
 */
function numberOf(name, value, { least = 0, most = Infinity, whole = false } = {}) {
  if (value === undefined) return undefined;
  const isIn = typeof value === 'number' && value >= least && value <= most && (!whole || Number.isInteger(value));
  if (isIn) return value;
  const kind = whole ? 'a whole number' : 'a number';
  const bounds = most < Number.MAX_SAFE_INTEGER ? `from ${least} to ${most}` : `from ${least} on`;
  throw invalid(`The option "${name}" should be ${kind} ${bounds}, and is ${print(value)}`);
}

/**
 * An option that is a list: a text with commas, or an array.
 * @returns {string | undefined} a text
 */
function listOf(name, value) {
  if (value === undefined || value === null) return undefined;
  const parts = Array.isArray(value) ? value : [value];
  if (parts.every((part) => typeof part === 'string' || typeof part === 'number')) return parts.join(',');
  throw invalid(`The option "${name}" should be a text or an array, and is ${print(value)}`);
}

module.exports = {
  ALL,
  DESTINATION,
  EMIT,
  HANDLER,
  LISTEN,
  PEER,
  REQUEST,
  SERVE,
  STREAM,
  WAIT,
  checkConnectOptions,
  checkOptions,
  invalid,
  listOf,
  numberOf,
};
