'use strict';

// The conversations: those of conversations.json, with the peer in the place of either side, and those
// that a script leads.

const RECORDINGS = require('./conversations.json');
const { Replay } = require('./replay');

/**
 * A recording with the peer as the dialer and as the listener, unless only one of them does what our
 * peers do. `disabled` are roles that were.
 */
function recorded(name, { sides = ['c', 's'], disabled = [], needs = [] } = {}) {
  return sides.map((we) => ({
    name: `${name}, ${we === 'c' ? 'we dial' : 'we listen'}`,
    needs: ['handler', ...needs],
    async run(table) {
      const replay = new Replay(RECORDINGS[name], we);
      await table.player.ask('start', replay.start);
      await replay.prepare(table.player, disabled);
      await replay.run(await table.connect(we), table.player);
    },
  }));
}

const CONVERSATIONS = [
  ...recorded('handshake-nokeys'),
  ...recorded('handshake-defaults'),
  ...recorded('handshake-onekey'),
  ...recorded('handshake-later-id'),
  ...recorded('handshake-two-common-ids'),
  ...recorded('handshake-first-common-wrong-second-right'),
  ...recorded('handshake-id-mismatch'),
  ...recorded('handshake-key-mismatch'),
  ...recorded('handshake-client-keys-server-none'),
  ...recorded('handshake-server-keys-client-none'),
  ...recorded('data-oneway'),
  ...recorded('data-request'),
  ...recorded('responses-and-rejects', { sides: ['c'], needs: ['stray'] }),
  ...recorded('responses-and-rejects', { sides: ['s'] }),
  ...recorded('pending-many-and-order'),
  ...recorded('roles-update'),
  ...recorded('roles-update, counters'),
  ...recorded('stream-rejects', { sides: ['c'] }),
  ...recorded('close-unit-by-dialer'),
  ...recorded('close-unit-by-listener'),
  ...recorded('close-peer-dialer'),
  ...recorded('close-peer-listener'),
  ...recorded('go-dials-nokeys', { sides: ['s'] }),
  ...recorded('go-dials-keys', { sides: ['s'] }),
  ...recorded('go-listens-nokeys', { sides: ['c'] }),
  ...recorded('go-listens-keys', { sides: ['c'] }),
  ...recorded('go-messages-requests', { sides: ['c'] }),
  ...recorded('go-roles', { sides: ['c'] }),
];

module.exports = { CONVERSATIONS };
