'use strict';

// Who may connect, call and serve. The engine decides; here is what it is told of a peer and of the other end of a
// connection.

const { isIPv6 } = require('node:net');
const { certificateOf, checkAccess } = require('./addon.js');
const { faultOf } = require('./fields.js');
const { messageOf, print } = require('./guard.js');
const { invalid } = require('./options.js');

/** What proofs of keys are bound to, see docs/PROTOCOL.md. */
const EXPORTER = 'EXPORTER-roletalk-psk';
const EXPORTED = 32;
const NO_CONTEXT = Buffer.alloc(0);

/**
 * The options of a peer that say who may connect, call and serve, checked.
 * @returns {object} as the addon takes it
 */
function accessOf({ policy, origins, identityHeaders, channelBinding, peerKey }) {
  const access = {
    policy: policy === undefined || policy === null ? undefined : policyText(policy),
    origins: namesOf('origins', origins),
    identityHeaders: namesOf('identityHeaders', identityHeaders),
    channelBinding: channelBinding === undefined || channelBinding === null ? undefined : print(channelBinding),
    peerKey: peerKey === undefined || peerKey === null ? undefined : secretOf(peerKey),
  };
  const fault = checkAccess(access);
  if (fault !== null) throw faultOf(fault);
  return access;
}

/** The option `authenticate`, checked. */
function authenticateOf({ authenticate }) {
  if (authenticate === undefined || authenticate === null) return undefined;
  if (typeof authenticate === 'function') return authenticate;
  throw invalid('The option "authenticate" should be a function');
}

/** A secret, which no error repeats. */
function secretOf(peerKey) {
  if (peerKey instanceof Uint8Array) return peerKey;
  throw invalid('The option "peerKey" should be a Buffer of 32 bytes');
}

function namesOf(option, names) {
  if (names === undefined || names === null) return [];
  if (Array.isArray(names) && names.every((name) => typeof name === 'string')) return names;
  throw invalid(`The option "${option}" should be an array of strings`);
}

/**
 * A policy as JSON.
 * @param {unknown} policy an object, or its JSON
 */
function policyText(policy) {
  if (typeof policy === 'string') return policy;
  let text;
  try {
    text = JSON.stringify(policy);
  } catch (error) {
    throw invalid(`The policy cannot be written as JSON: ${messageOf(error)}`, { cause: error });
  }
  if (text === undefined) throw invalid('The policy should be an object or its JSON; null stands for none');
  return text;
}

/** The certificate of the other end of a TLS connection in DER, whether it was verified or not. */
function shownBy(socket) {
  return typeof socket.getPeerCertificate === 'function' ? (socket.getPeerCertificate()?.raw ?? undefined) : undefined;
}

/** The certificate of this end. */
function shownTo(socket) {
  return socket.getCertificate()?.raw ?? undefined;
}

/**
 * The certificate of the other end in DER, if TLS has verified it: a server may ask for certificates and take
 * any (`rejectUnauthorized: false`), and then anybody can write any name into one.
 */
function verified(socket) {
  return socket.authorized === true ? shownBy(socket) : undefined;
}

/** What only this TLS connection has; undefined where TLS has no such thing. */
function exported(socket) {
  try {
    return socket.exportKeyingMaterial(EXPORTED, EXPORTER, NO_CONTEXT);
  } catch {
    return undefined;
  }
}

/**
 * The other end of a connection, as the addon takes it.
 * @param {import('node:stream').Duplex} socket upgraded, or about to be
 * @param {boolean} dialed whether this side has dialed it
 * @param {{ claims?: string, headers?: string[] }} [upgrade] claims as JSON; headers, names and values in turn
 */
function remoteOf(socket, dialed, { claims, headers = [] } = {}) {
  const { remoteAddress, remotePort } = socket;
  const address = typeof remoteAddress === 'string' && typeof remotePort === 'number' ? remoteAddress : undefined;
  const remote = { address, port: address && remotePort, tls: socket.encrypted === true, claims, headers };
  if (typeof socket.exportKeyingMaterial !== 'function') return remote;
  remote.certificate = verified(socket);
  remote.exporter = exported(socket);
  remote.leaf = dialed ? shownBy(socket) : shownTo(socket);
  return remote;
}

/**
 * The headers of an upgrade that are kept, names and values in turn.
 * @param {string[]} names
 */
function keptHeaders({ headers }, names) {
  return names.flatMap((name) => {
    const key = name.toLowerCase();
    if (!Object.hasOwn(headers, key)) return [];
    return [headers[key]].flat().flatMap((value) => [name, String(value)]);
  });
}

/** What `authenticate` is given. */
function upgradeRequest(request, socket) {
  const { remoteAddress: host, remotePort: port } = socket;
  const der = verified(socket);
  const certificate = der === undefined ? null : certificateOf(der);
  const [path] = request.url.split('?', 1);
  return {
    path,
    headers: request.headers,
    address: host === undefined ? null : `${isIPv6(host) ? `[${host}]` : host}:${port}`,
    certificate: certificate === null ? null : frozen(JSON.parse(certificate)),
    request,
  };
}

/** Has nobody change a value of JSON: several share it. */
function frozen(value) {
  if (typeof value !== 'object' || value === null) return value;
  for (const part of Object.values(value)) frozen(part);
  return Object.freeze(value);
}

module.exports = { accessOf, authenticateOf, frozen, keptHeaders, policyText, remoteOf, upgradeRequest };
