'use strict';

const { CODES, HandlerError, RoletalkError } = require('./errors.js');
const { Destination } = require('./destination.js');
const {
  PEER_RECONNECT_FAIL_EVENT,
  PEER_RECONNECT_SUCCESS_EVENT,
  Peer,
  refreshPeerDestinations,
} = require('./peer.js');
const { Retry } = require('./retry.js');
const { Role } = require('./role.js');
const { Unit } = require('./unit.js');

let singleton;

/** The peer that all modules of the program share; made at the first call. */
function Singleton(options) {
  singleton ??= new Peer(options);
  return singleton;
}

/** The codes of this package's errors. */
const errorCodes = Object.freeze(CODES.slice(1));

exports.Singleton = Singleton;
exports.Peer = Peer;
exports.refreshPeerDestinations = refreshPeerDestinations;
exports.PEER_RECONNECT_SUCCESS_EVENT = PEER_RECONNECT_SUCCESS_EVENT;
exports.PEER_RECONNECT_FAIL_EVENT = PEER_RECONNECT_FAIL_EVENT;
exports.Unit = Unit;
exports.Role = Role;
exports.Destination = Destination;
exports.RoletalkError = RoletalkError;
exports.HandlerError = HandlerError;
exports.Retry = Retry;
exports.errorCodes = errorCodes;
