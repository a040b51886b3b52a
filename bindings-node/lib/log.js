'use strict';

const { debuglog } = require('node:util');
const { printable } = require('./addon.js');

/**
 * What operators want to know, on stderr: with `NODE_DEBUG=roletalk` in the environment, as Node's own
 * modules do it. The other languages have the same at the levels info and warn.
 */
const log = debuglog('roletalk');

/** What to call a unit in texts for people. */
function nameOf(unit) {
  const id = printable(unit.id);
  return unit.name ? `${printable(unit.name)} (${id})` : id;
}

/** The other side of a connection, as far as it is known. */
function addressOf(connection) {
  const { remoteAddress, remotePort } = connection?._remote ?? {};
  return remoteAddress === undefined ? 'unknown' : `${remoteAddress}:${remotePort}`;
}

/** Why a connection has ended: refusals and bad input are warnings, the end of a unit's is information. */
function logEnd(connection, unit, error) {
  if (!log.enabled) return;
  const remote = addressOf(connection);
  const told = error.hint ? `${error.message} (${error.hint})` : error.message;
  if (error.code === 'PROTOCOL') log('warn: bad input from %s, %s: %s', unit ? nameOf(unit) : 'a stranger', remote, told);
  else if (unit) log('info: disconnected from %s, %s: %s', nameOf(unit), remote, told);
  // Evictions can be very many: the peer reports them together.
  else if (error.code !== 'CLOSED' && error.code !== 'OVERLOADED') log('warn: connection with %s refused: %s', remote, told);
}

module.exports = { addressOf, log, logEnd, nameOf };
