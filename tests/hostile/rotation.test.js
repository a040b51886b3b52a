'use strict';

// Certificates that change under load: no request fails and nobody is turned away, in any language; see ../README.md.

const assert = require('node:assert/strict');
const { X509Certificate } = require('node:crypto');
const { describe, test } = require('node:test');

const { certificate } = require('../players');
const { present, testAbsent } = require('./languages');
const { Besieged } = require('./siege');

const ROTATIONS = 100;

/** Does something again and again until `stop`, which throws what it has thrown. */
class Load {
  count = 0;
  #ended = false;
  #done;

  constructor(work) {
    this.#done = (async () => {
      while (!this.#ended) {
        await work();
        this.count++;
      }
    })();
    this.#done.catch(() => {});
  }

  /** It has been done at least once more from the beginning to the end. */
  async goOn() {
    for (const before = this.count; this.count < before + 2; ) {
      await Promise.race([this.#done, new Promise((resolve) => setImmediate(resolve))]);
    }
  }

  async stop() {
    this.#ended = true;
    await this.#done;
  }
}

describe('rotation', () => {
  for (const implementation of present) {
    test(`${implementation.name}: the certificate changes a hundred times under load`, async (t) => {
      const peer = await Besieged.start(implementation, { secure: true });
      t.after(() => peer.end());
      const friend = await peer.join('friend');
      const asking = new Load(() => friend.ask());
      let shown;
      let number = 0;
      const coming = new Load(async () => {
        const newcomer = await peer.join(`newcomer ${number++}`);
        await newcomer.ask();
        shown = newcomer.raw.socket.getPeerX509Certificate().fingerprint256;
        newcomer.leave();
        peer.clients.pop();
      });
      for (let rotation = 0; rotation < ROTATIONS; rotation++) {
        const next = certificate();
        await peer.player.ask('renew', { tls: next });
        await Promise.all([asking.goOn(), coming.goOn()]);
        assert.equal(shown, new X509Certificate(next.cert).fingerprint256);
      }
      const { key } = certificate();
      const before = shown;
      await assert.rejects(peer.player.ask('renew', { tls: { cert: certificate().cert, key } }));
      await coming.goOn();
      assert.equal(shown, before, 'a key of another certificate changes nothing');
      await coming.stop();
      await asking.stop();
      await peer.settles(['friend']);
    });
  }
  testAbsent();
});
