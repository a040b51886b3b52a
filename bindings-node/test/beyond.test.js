'use strict';

// What the original does not offer.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { HOST, addressOf } = require('./support/network');
const { beyond, check, differs, roletalk } = require('./support/subject');

beyond('nothing is exported but what is documented', () => {
  assert.deepEqual(Object.keys(roletalk).sort(), [
    'Destination',
    'HandlerError',
    'PEER_RECONNECT_FAIL_EVENT',
    'PEER_RECONNECT_SUCCESS_EVENT',
    'Peer',
    'Retry',
    'Role',
    'RoletalkError',
    'Singleton',
    'Unit',
    'errorCodes',
    'refreshPeerDestinations',
  ]);
});

beyond('errors are of one class, whose codes are listed', async (network) => {
  const { destination, role } = await network.service();
  role.onRequest('e', (ctx, cb) => cb('no'));
  const error = await destination.request('e', null).catch((error) => error);
  assert.ok(error instanceof roletalk.RoletalkError && error instanceof Error);
  assert.ok(roletalk.errorCodes.includes(error.code));
  assert.ok(Object.isFrozen(roletalk.errorCodes));
  assert.equal(new Set(roletalk.errorCodes).size, roletalk.errorCodes.length);
});

beyond('the port has a getter', async (network) => {
  const peer = network.peer();
  assert.equal(peer.port, undefined);
  await peer.listen({ port: 0, host: HOST });
  assert.ok(peer.port > 0);
  assert.equal(peer.port, peer._port);
});

beyond('a signal gives up waiting for the answer, and its reason is what the request fails with', async (network) => {
  const { destination, role } = await network.service();
  const asked = new Promise((resolve) => role.onRequest('e', (ctx, cb) => resolve(cb)));
  const controller = new AbortController();
  const request = destination.request({ event: 'e', signal: controller.signal }, null);
  const cb = await asked;
  const reason = new Error('changed my mind');
  controller.abort(reason);
  await assert.rejects(request, (error) => error === reason);
  // The late answer hurts nobody.
  role.onRequest('next', (ctx, answer) => {
    cb(null, 'late');
    answer(null, 'next');
  });
  assert.equal((await destination.request('next', null)).data, 'next');
});

beyond('a signal that is aborted already asks nobody', async (network) => {
  const { destination, role } = await network.service();
  let asked = 0;
  role.onRequest('e', (ctx, cb) => {
    asked++;
    cb(null, null);
  });
  const signal = AbortSignal.abort();
  await assert.rejects(async () => destination.request({ event: 'e', signal }, null), { name: 'AbortError' });
  await destination.request('e', null);
  assert.equal(asked, 1);
});

beyond('a signal that is aborted after the answer changes nothing, and is not held', async (network) => {
  const { destination, role } = await network.service();
  role.onRequest('e', (ctx, cb) => cb(null, 'good'));
  const controller = new AbortController();
  const { getEventListeners } = require('node:events');
  const answer = await destination.request({ event: 'e', signal: controller.signal }, null);
  assert.equal(getEventListeners(controller.signal, 'abort').length, 0);
  controller.abort();
  assert.equal(answer.data, 'good');
});

beyond('a signal works with a callback, which is called once', async (network) => {
  const clock = network.clock();
  const { destination, role } = await network.service();
  const asked = new Promise((resolve) => role.onRequest('e', resolve));
  const controller = new AbortController();
  const called = [];
  destination.request({ event: 'e', signal: controller.signal, timeout: 50 }, null, (error) => called.push(error.name));
  await asked;
  controller.abort();
  await clock.advance(60);
  assert.deepEqual(called, ['AbortError']);
});

beyond('a signal with a timeout', async (network) => {
  const { destination, role } = await network.service();
  role.onRequest('e', () => {});
  const request = destination.request({ event: 'e', signal: AbortSignal.timeout(20) }, null);
  await assert.rejects(request, { name: 'TimeoutError' });
});

beyond('a survey without a callback can be iterated over', async (network) => {
  const dialer = network.peer();
  for (const name of ['a', 'b', 'c']) {
    const listener = await network.listener({ name });
    listener.role('role').onRequest('who', (ctx, cb) => cb(name === 'b' ? new Error('shy') : null, name));
    await network.join(dialer, listener);
  }
  const survey = dialer.destination('role').survey('who', null);
  assert.equal(survey.size, 3);
  const answers = [];
  for await (const { unit, ctx, error } of survey) answers.push([unit.name, error ? error.message : ctx.data]);
  assert.deepEqual(answers.sort(), [
    ['a', 'a'],
    ['b', 'shy'],
    ['c', 'c'],
  ]);
});

beyond('a survey of nobody is over at once', async (network) => {
  const survey = network.peer().destination('role').survey('e', null);
  assert.equal(survey.size, 0);
  for await (const answer of survey) assert.fail(`an answer: ${answer}`);
});

beyond('whenReady waits for a unit, and does not wait for one that is there', async (network) => {
  const listener = await network.listener();
  listener.role('role');
  const dialer = network.peer();
  const destination = dialer.destination('role');
  const ready = destination.whenReady();
  await dialer.connect(network.address(listener));
  assert.equal(await ready, destination);
  assert.equal(await destination.whenReady(), destination);
  const listeners = ['open', 'close', 'unit'].map((event) => destination.listenerCount(event));
  assert.deepEqual(listeners, [0, 0, 0]);
});

beyond('whenReady can be given up', async (network) => {
  const destination = network.peer().destination('role');
  const controller = new AbortController();
  const ready = destination.whenReady({ signal: controller.signal });
  controller.abort();
  await assert.rejects(ready, { name: 'AbortError' });
  await assert.rejects(destination.whenReady({ signal: AbortSignal.abort() }), { name: 'AbortError' });
  assert.equal(destination.listenerCount('open'), 0);
});

beyond('drain withdraws the roles, answers what it was asked, and closes', async (network) => {
  const { listener, dialer, role, destination, unit } = await network.service();
  const asked = new Promise((resolve) => role.onRequest('e', (ctx, cb) => resolve(cb)));
  const answer = destination.request('e', null);
  const cb = await asked;
  const withdrawn = once(destination, 'close');
  const lost = once(unit, 'close');
  const drained = listener.drain();
  await withdrawn;
  assert.deepEqual(dialer.units, [unit]);
  cb(null, 'last');
  assert.equal((await answer).data, 'last');
  await Promise.all([drained, lost]);
  assert.equal(listener.units.length, 0);
  await assert.rejects(network.peer().connect(network.address(listener)));
});

beyond('drain waits for an open stream', async (network) => {
  const { listener, role, destination } = await network.service();
  const accepted = new Promise((resolve) =>
    role.onReadable('e', ({ readable }, cb) => {
      cb(null, null);
      resolve(readable);
    }),
  );
  const writable = destination.Writable('e', null);
  await once(writable, 'ready');
  const readable = await accepted;
  const withdrawn = once(destination, 'close');
  const drained = listener.drain();
  await withdrawn;
  const bytes = [];
  readable.on('data', (chunk) => bytes.push(chunk));
  const ended = once(readable, 'end');
  writable.end('to the end');
  await ended;
  assert.equal(String(Buffer.concat(bytes)), 'to the end');
  await drained;
});

beyond('drain does not wait longer than it is told to', async (network) => {
  const { listener, role, destination, unit } = await network.service();
  const asked = new Promise((resolve) => role.onRequest('e', resolve));
  const failed = assert.rejects(destination.request('e', null));
  await asked;
  const lost = once(unit, 'close');
  await listener.drain(50);
  await lost;
  await failed;
});

beyond('drain on an idle peer and on a closed one', async (network) => {
  const listener = await network.listener();
  await listener.drain();
  await listener.drain();
  await network.peer().drain();
});

beyond('await using closes the peer', async (network) => {
  const { listener, dialer, dialerUnit } = await network.pair();
  const lost = once(dialerUnit, 'close');
  await dialer[Symbol.asyncDispose]();
  await lost;
  assert.equal(dialer.units.length, 0);
  assert.equal(listener.units.length, 0);
});

beyond('stats count what happened', async (network) => {
  const { listener, dialer, destination, role, unit } = await network.service();
  const received = new Promise((resolve) => role.onMessage('m', resolve));
  role.onRequest('e', (ctx, cb) => cb(null, ctx.data));
  const asked = new Promise((resolve) => role.onRequest('never', resolve));
  destination.send('m', 'x');
  await received;
  await destination.request('e', 'x');
  const waiting = assert.rejects(destination.request('never', null));
  await asked;
  const mine = dialer.stats();
  assert.equal(mine.busy, 1);
  assert.equal(mine.units.length, 1);
  const [stats] = mine.units;
  assert.deepEqual([stats.id, stats.name], [unit.id, unit.name]);
  assert.deepEqual([stats.messagesSent, stats.requestsSent, stats.waiting], [1, 2, 1]);
  assert.deepEqual(unit.stats().requestsSent, 2);
  const [theirs] = listener.stats().units;
  assert.deepEqual([theirs.messagesReceived, theirs.requestsReceived, theirs.running], [1, 2, 1]);
  assert.equal(stats.connections.length, 1);
  assert.ok(stats.connections[0].bytesSent > 0);
  const lost = once(unit, 'close');
  unit.close();
  await Promise.all([lost, waiting]);
  assert.equal(unit.stats(), undefined);
  assert.deepEqual(dialer.stats(), { busy: 0, handlerErrors: 0, handshakes: 0, addressesIgnored: 0, units: [] });
});

const DIES = 'it ends the process';

for (const [how, fail] of Object.entries({
  throws: () => {
    throw new Error('boom');
  },
  rejects: async () => {
    throw new Error('boom');
  },
})) {
  differs(`a request handler that ${how} rejects the request and is reported`, DIES, async (network) => {
    const { listener, role, destination, dialerUnit } = await network.service();
    role.onRequest('e', fail);
    role.onRequest('good', (ctx, cb) => cb(null, 'still here'));
    const reported = once(listener, 'handler_error');
    await assert.rejects(destination.request('e', null), { message: 'boom', code: 'REJECTED' });
    const [error, ctx] = await reported;
    assert.equal(error.message, 'boom');
    assert.deepEqual([ctx.role, ctx.event], ['role', 'e']);
    assert.equal(ctx.unit, dialerUnit);
    assert.equal((await destination.request('good', null)).data, 'still here');
  });

  differs(`a message handler that ${how} is reported`, DIES, async (network) => {
    const { listener, role, destination } = await network.service();
    role.onMessage('e', fail);
    role.onRequest('good', (ctx, cb) => cb(null, 'still here'));
    const reported = once(listener, 'handler_error');
    destination.send('e', null);
    const [error, ctx] = await reported;
    assert.deepEqual([error.message, ctx.event], ['boom', 'e']);
    assert.equal((await destination.request('good', null)).data, 'still here');
  });

  differs(`a stream handler that ${how} refuses the stream and is reported`, DIES, async (network) => {
    const { listener, role, destination } = await network.service();
    role.onReadable('e', fail);
    const reported = once(listener, 'handler_error');
    const failed = once(destination.Writable('e', null), 'error');
    assert.equal((await reported)[0].message, 'boom');
    assert.match((await failed)[0].message, /^Unit rejected request for writable stream: .*boom/);
  });

  differs(`middleware that ${how} rejects the request`, DIES, async (network) => {
    const { listener, role, destination } = await network.service();
    listener.onRequest(fail);
    role.onRequest('e', () => {});
    const reported = once(listener, 'handler_error');
    await assert.rejects(destination.request('e', null), { message: 'boom' });
    await reported;
  });

  differs(`a handler that ${how} and nobody listens: a warning`, DIES, async (network) => {
    const program = network.program(`
      process.on('warning', (warning) => tell([warning.name, String(warning.message).includes('boom')]));
      const peer = new Peer();
      const fail = ${how === 'throws' ? '' : 'async'} () => { throw new Error('boom'); };
      peer.role('role').onRequest('e', fail);
      peer.role('role').onMessage('e', fail);
      await peer.listen({ port: 0, host: '${HOST}' });
      tell(peer._port);
    `);
    const dialer = network.peer();
    await dialer.connect(addressOf(await program.told()));
    const destination = dialer.destination('role');
    destination.send('e', null);
    await assert.rejects(destination.request('e', null), { message: 'boom' });
    assert.deepEqual(await program.told(), ['RoletalkHandlerWarning', true]);
    assert.deepEqual(await program.told(), ['RoletalkHandlerWarning', true]);
    await assert.rejects(destination.request('e', null), { message: 'boom' });
  });
}

differs('however many handlers fail, the warnings are few, and all are counted', DIES, async (network) => {
  const { listener, role, destination } = await network.service();
  role.onRequest('e', () => {
    throw new Error('boom');
  });
  const warnings = [];
  const warned = ({ message }) => warnings.push(message);
  process.on('warning', warned);
  const outcomes = await Promise.allSettled(Array.from({ length: 1_000 }, () => destination.request('e', null)));
  // Warnings are emitted in a turn of their own.
  await new Promise(setImmediate);
  process.off('warning', warned);
  assert.ok(outcomes.every(({ reason }) => reason.message === 'boom'));
  assert.equal(listener.stats().handlerErrors, 1_000);
  assert.ok(warnings.length >= 10 && warnings.length < 100, `${warnings.length} warnings`);
  assert.match(warnings[9], /only counted/);
});

const UNPRINTABLE = 'an error that cannot be printed';

// Whatever a handler throws, and the text that the requester sees.
const THROWN = {
  undefined: [undefined, 'undefined'],
  'an empty string': ['', ''],
  'a symbol': [Symbol('x'), 'Symbol(x)'],
  'an object without a prototype': [Object.create(null), UNPRINTABLE],
  'an Error whose message is no text': [Object.assign(new Error(), { message: Object.create(null) }), UNPRINTABLE],
};

for (const [name, [thrown, text]] of Object.entries(THROWN)) {
  differs(`a handler that throws ${name}`, DIES, async (network) => {
    const { listener, role, destination } = await network.service();
    const reported = [];
    listener.on('handler_error', (error) => reported.push(error));
    role.onRequest('throws', () => {
      throw thrown;
    });
    role.onRequest('rejects', async () => {
      throw thrown;
    });
    role.onReadable('throws', () => {
      throw thrown;
    });
    role.onMessage('throws', () => {
      throw thrown;
    });
    destination.send('throws', null);
    for (const event of ['throws', 'rejects']) {
      await assert.rejects(destination.request(event, null), { message: text, code: 'REJECTED' });
    }
    const [error] = await once(destination.Writable('throws', null), 'error');
    assert.match(error.message, /^Unit rejected request for writable stream: /);
    assert.deepEqual(reported, [thrown, thrown, thrown, thrown]);
  });
}

differs('an answer that cannot be sent rejects the request', DIES, async (network) => {
  const { listener, role, destination } = await network.service();
  const circular = {};
  circular.self = circular;
  role.onRequest('e', (ctx, cb) => cb(null, circular));
  const reported = once(listener, 'handler_error');
  await assert.rejects(destination.request('e', null), { message: /circular/i });
  assert.ok((await reported)[0] instanceof TypeError);
});

// The listeners and callbacks of the application itself: what they throw is uncaught, as in any
// EventEmitter.
const CALLERS = {
  'a callback of a request': 'destination.request(echo, 1, fail)',
  'a listener of a unit': `unit.once('close', fail); unit.close()`,
  'a listener of a peer': `peer.once('unit', fail); new Peer().connect('ws://${HOST}:' + peer._port)`,
  'a listener of a destination': `peer.destination('other').once('open', fail); other.role('other')`,
};

for (const [name, act] of Object.entries(CALLERS)) {
  const source = (before, after) => `
    ${before}
    const fail = () => { throw new Error('mine'); };
    const other = new Peer();
    await other.listen({ port: 0, host: '${HOST}' });
    const peer = new Peer();
    peer.role('role').onRequest('e', (ctx, cb) => cb(null, ctx.data));
    await peer.listen({ port: 0, host: '${HOST}' });
    const connected = once(peer, 'unit');
    const { unit } = await other.connect('ws://${HOST}:' + peer._port);
    await connected;
    const destination = other.destination('role');
    const echo = { event: 'e', unit };
    ${act};
    ${after}
  `;

  check(`what ${name} throws ends the process`, async (network) => {
    const program = network.program(source('', ''));
    assert.deepEqual(await program.end(), { code: 1, signal: null });
    assert.match(program.stderr, /Error: mine/);
  });

  differs(
    `what ${name} throws takes nothing else with it`,
    'the rest of what was read is lost',
    async (network) => {
      const program = network.program(
        source(
          `const uncaught = once(process, 'uncaughtException');`,
          `tell((await uncaught)[0].message);
           const third = new Peer();
           const again = await third.connect('ws://${HOST}:' + peer._port);
           tell((await third.destination('role').request({ event: 'e', unit: again.unit }, 'still here')).data);`,
        ),
      );
      assert.equal(await program.told(), 'mine');
      assert.equal(await program.told(), 'still here');
    },
  );
}
