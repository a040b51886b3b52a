'use strict';

const { debuglog } = require('node:util');

/**
 * What operators want to know, on stderr: with `NODE_DEBUG=roletalk` in the environment, as Node's own
 * modules do it. The other languages have the same at the levels info and warn.
 */
const log = debuglog('roletalk');

/** What to call a unit in texts for people. */
function nameOf(unit) {
  return unit.name ? `${unit.name} (${unit.id})` : unit.id;
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
  else if (error.code !== 'CLOSED') log('warn: connection with %s refused: %s', remote, told);
}

module.exports = { addressOf, log, logEnd, nameOf };
