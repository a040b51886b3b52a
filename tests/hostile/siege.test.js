'use strict';

// Floods from strangers and units must not disturb other units, in any language; see ../README.md. Response times are
// measured by siege-bench.js.

const assert = require('node:assert/strict');
const { describe, test } = require('node:test');

const { present, testAbsent, variants } = require('./languages');
const { Besieged } = require('./siege');

/** Requests of others while an attack is on. */
const REQUESTS = 100;
/** Connections that are begun at the same time, to take all descriptors. */
const AT_ONCE = 8;
/** The most that the unit which reads nothing sends, in bytes. */
const WRITTEN = 320 << 20;
/** The most memory that one unit may cost a peer, in bytes, including what allocators do not return. */
const HELD = 160 << 20;

// Only Linux has 127.0.0.2 without configuration.
const isLinux = process.platform === 'linux';

describe('siege', { skip: !isLinux && 'needs 127.0.0.2 and /proc' }, () => {
  for (const implementation of [...present, ...variants]) sieges(implementation);
  testAbsent();
});

function sieges(implementation) {
  const { name } = implementation;

  /** A test with a peer of its own. */
  const siege = (what, limits, run) => {
    test(`${name}: ${what}`, async (t) => {
      const peer = await Besieged.start(implementation, limits);
      t.after(() => peer.end());
      try {
        await run(peer);
      } catch (error) {
        error.message += `\nThe peer said: ${peer.player.stderr || 'nothing'}`;
        throw error;
      }
    });
  };

  describe(name, { concurrency: 1 }, () => {
    for (const [how, says] of [['say nothing', ''], ['begin an upgrade', 'GET / HTTP/1.1\r\nHost: x\r\nX']]) {
      siege(`2,000 strangers that ${how} keep nobody out`, {}, async (peer) => {
        const friend = await peer.join('friend');
        const strangers = await peer.attack('strangers', { count: 2_000, says });
        await friend.askOften(REQUESTS);
        const newcomer = await peer.join('newcomer');
        await newcomer.askOften(REQUESTS);
        await strangers.stop();
        await peer.settles(['friend', 'newcomer']);
        await friend.ask();
      });
    }

    siege('with 256 descriptors, 250 strangers keep nobody out', { descriptors: 256 }, async (peer) => {
      const friend = await peer.join('friend');
      const strangers = await peer.attack('strangers', { count: 250 });
      const newcomer = await peer.join('newcomer');
      await friend.askOften(REQUESTS);
      await newcomer.askOften(REQUESTS);
      await strangers.stop();
      await peer.settles(['friend', 'newcomer']);
    });

    siege('without descriptors, it reports that and accepts again later', { descriptors: 80 }, async (peer) => {
      const friend = await peer.join('friend');
      // Not of evictions, which are told as well.
      const told = peer.player.observe('peer', ({ what, kind }) => what === 'accept-failed' && kind === 'IO');
      let full = false;
      // Too few at a time to be evicted before there are units enough to take all descriptors. The last ones wait.
      const fill = async (at) => {
        for (let number = 0; !full; number++) await peer.join(`guest ${at}/${number}`);
      };
      const more = Array.from({ length: AT_ONCE }, (_, at) => fill(at).catch(() => {}));
      assert.match((await told.finally(() => (full = true))).text, /cannot be accepted/);
      await friend.askOften(REQUESTS);
      const leave = () => {
        for (const client of peer.clients) if (client !== friend) client.leave();
      };
      leave();
      await Promise.all(more);
      leave();
      const newcomer = await peer.join('newcomer');
      await newcomer.askOften(REQUESTS);
      await peer.settles(['friend', 'newcomer']);
    });

    siege('a unit that announces 40,000 roles again and again', {}, async (peer) => {
      const friend = await peer.join('friend');
      const announcer = await peer.attack('roles', {});
      await friend.askOften(REQUESTS);
      const newcomer = await peer.join('newcomer');
      await newcomer.askOften(REQUESTS);
      await peer.player.until('units', { role: 'always' }, (units) => units.includes('announcer'));
      await announcer.stop();
      await peer.settles(['friend', 'newcomer']);
    });

    const floods = ['pings', 'messages'].flatMap((kind) => [false, true].map((secure) => [kind, secure]));
    for (const [kind, secure] of floods) {
      siege(`a unit that floods with ${kind}${secure ? ' over TLS' : ''}`, { secure }, async (peer) => {
        const friend = await peer.join('friend');
        const flood = await peer.attack(kind, {});
        await friend.askOften(REQUESTS);
        const newcomer = await peer.join('newcomer');
        await newcomer.askOften(REQUESTS);
        await flood.stop();
        await peer.settles(['friend', 'newcomer']);
      });
    }

    siege('a unit that sends requests and never reads costs little memory', {}, async (peer) => {
      const friend = await peer.join('friend');
      await friend.askOften(REQUESTS);
      const before = peer.memory();
      const deaf = await peer.attack('deaf', { enough: WRITTEN });
      const held = peer.memory() - before;
      await friend.askOften(REQUESTS);
      assert.ok(held < HELD, `${held >> 20} MiB are held`);
      await deaf.stop();
      await peer.settles(['friend']);
    });
  });
}
