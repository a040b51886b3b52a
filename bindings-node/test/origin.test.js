'use strict';

// Origins: a page in a browser is a stranger, unless it is allowed, wherever upgrades are done.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { makeCertificates } = require('./support/certificates');
const { HOST } = require('./support/network');
const { WAYS, askForUpgrade } = require('./support/upgrade');
const { beyond } = require('./support/subject');

const { server } = makeCertificates({ server: `IP:${HOST}` });

const APP = 'https://app.example';

/** The headers of an upgrade, the origins that are allowed, and the answer. `HOST` stands for that of the request. */
const CASES = {
  'no Origin': [{}, [], 101],
  'a foreign one': [{ Origin: 'https://evil.example' }, [], 403],
  'that of the host': [{ Origin: 'http://HOST' }, [], 403],
  'an allowed one': [{ Origin: APP }, ['https://other.example', APP], 101],
  'an allowed one, written otherwise': [{ Origin: APP }, ['HTTPS://App.Example:443'], 101],
  'one that only begins so': [{ Origin: `${APP}.evil.example` }, [APP], 403],
  'another scheme': [{ Origin: 'http://app.example' }, [APP], 403],
  'all allowed': [{ Origin: 'https://evil.example' }, ['*'], 101],
  'null': [{ Origin: 'null' }, [APP], 403],
  'an empty one': [{ Origin: '' }, [APP], 403],
  'two': [{ Origin: [APP, 'https://evil.example'] }, [APP], 403],
  'that of an old version': [{ 'Sec-WebSocket-Version': 8, 'Sec-WebSocket-Origin': 'https://evil.example' }, [APP], 403],
};

for (const [way, prepare] of Object.entries(WAYS)) {
  beyond(`${way}: pages of origins that are not allowed are answered 403`, async (network) => {
    for (const [name, [headers, origins, expected]] of Object.entries(CASES)) {
      const peer = network.peer({ origins });
      const port = await prepare(network, peer, server);
      const sent = Object.fromEntries(
        Object.entries(headers).map(([key, value]) => [
          key,
          typeof value === 'string' ? value.replace('HOST', `${HOST}:${port}`) : value,
        ]),
      );
      const { status, socket } = await askForUpgrade(network, { port, ssl: way.includes('ssl'), headers: sent });
      assert.equal(status, expected, name);
      if (status === 403) {
        if (!socket.closed) await once(socket, 'close');
        assert.deepEqual(peer.units, [], name);
      }
    }
  });
}

beyond("whoever dials with the option 'origin' is a page", async (network) => {
  const [listener, allows] = [network.peer(), network.peer({ origins: [APP] })];
  for (const peer of [listener, allows]) await peer.listen({ port: 0, host: HOST });
  for (const protocolVersion of [8, 13]) {
    const options = { origin: APP, permanent: false, protocolVersion };
    await assert.rejects(network.peer().connect(network.address(listener), options), {
      message: 'Socket errored: Error: Unexpected server response: 403',
    });
    await network.join(network.peer(), allows, options);
  }
  await network.join(network.peer(), listener);
});
