import roletalk from './index.js';

export const {
  Singleton,
  Peer,
  refreshPeerDestinations,
  PEER_RECONNECT_SUCCESS_EVENT,
  PEER_RECONNECT_FAIL_EVENT,
  Unit,
  Role,
  Destination,
  RoletalkError,
  HandlerError,
  Retry,
  errorCodes,
} = roletalk;
export default roletalk;
