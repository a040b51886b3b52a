'use strict';

// Time limits, requests that are given up, headers, and failures with a code: between two peers, and through
// one in the middle.

const assert = require('node:assert/strict');

const { find } = require('../players');
const { ROLE } = require('./stage');

/** The role of the last of three peers. */
const LAST = 'last';
const NULL = { type: 'null', value: null };
const PARENT = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
const MANY = 100;

/** Every language can be the last of three. */
const thirds = () => find().present.filter(({ abilities }) => abilities.includes('scopes'));

/** The dialer asks the listener, which asks another one, in turn of every language. */
function throughTheMiddle(test) {
  return async (stage) => {
    await stage.meet();
    for (const third of thirds()) {
      const last = await stage.add(third, LAST);
      await last.ask('role', { role: LAST });
      const port = await last.ask('listen');
      await stage.listener.ask('destination', { role: LAST });
      await stage.listener.ask('connect', { url: `ws://127.0.0.1:${port}` });
      await stage.listener.until('units', { role: LAST }, (units) => units.length === 1);
      await test(stage, last);
      await last.kill();
      await stage.listener.until('units', { role: LAST }, (units) => units.length === 0);
    }
  };
}

const relayed = (event) => ({
  role: ROLE,
  event: 'relay',
  data: { type: 'object', value: { role: LAST, event, data: '' } },
});

/** The time that the first one gives is what the last one has at most. */
async function timeLimit(stage, last) {
  // A machine that is slow enough lets the time pass before the last one has begun.
  for (let timeout = 100; ; timeout *= 2) {
    const asked = stage.dialer.ask('ask', { ...relayed('wait'), timeout });
    await assert.rejects(asked, { kind: 'TIMEOUT' });
    const begun = last.seen.find(({ event }) => event === 'waiting');
    if (begun === undefined) continue;
    assert.ok(begun.remaining <= timeout, `${begun.remaining} of ${timeout} ms`);
    await last.observe('cancelled', ({ reason }) => reason !== 'unknown');
    return;
  }
}

async function givingUp(stage, last) {
  const asked = Array.from({ length: MANY }, () => stage.dialer.begin('ask', relayed('wait')));
  for (let n = 0; n < MANY; n++) await last.observe('waiting', ({ remaining }) => remaining === null);
  for (const { id } of asked) await stage.dialer.ask('cancel', { target: id });
  for (const { result } of asked) await stage.settles(result);
  for (let n = 0; n < MANY; n++) await last.observe('cancelled', ({ reason }) => reason === 'requester');
  for (const player of [stage.dialer, stage.listener, last]) {
    await player.until('totals', {}, ({ running, waiting }) => running === 0 && waiting === 0);
  }
}

async function trace(stage, last) {
  const asked = stage.dialer.begin('ask', { ...relayed('wait'), traceparent: PARENT });
  const { traceparent } = await last.observe('waiting');
  assert.equal(traceparent, PARENT);
  await stage.dialer.ask('cancel', { target: asked.id });
  await stage.settles(asked.result);
  await last.observe('cancelled');
}

/** The first of three is killed: what runs for it ends. */
async function lossOfTheFirst(stage) {
  await throughTheMiddle(async (stage, last) => {
    const first = await stage.add(stage.pair.dialer, 'first');
    const url = stage.url;
    await first.ask('connect', { url });
    await first.ask('destination', { role: ROLE });
    await first.until('units', { role: ROLE }, (units) => units.includes('listener'));
    first.begin('ask', { ...relayed('wait'), to: 'listener' }).result.catch(() => {});
    await last.observe('waiting');
    await first.kill();
    await last.observe('cancelled', ({ reason }) => reason === 'requester');
  })(stage);
}

/** All that a peer has asked is cancelled when it gives up, and when it is killed. */
async function cancels(stage) {
  await stage.meet();
  const wait = { role: ROLE, event: 'wait', data: NULL };
  for (const reason of ['requester', 'unitLost']) {
    const asked = Array.from({ length: MANY }, () => stage.dialer.begin('ask', wait));
    const settled = asked.map(({ result }) => result.catch(() => {}));
    for (let n = 0; n < MANY; n++) await stage.listener.observe('waiting');
    if (reason === 'unitLost') await stage.dialer.kill();
    else for (const { id } of asked) await stage.dialer.ask('cancel', { target: id });
    for (let n = 0; n < MANY; n++) {
      await stage.listener.observe('cancelled', (line) => line.reason === reason);
    }
    await Promise.all(settled);
  }
  await stage.listener.until('totals', {}, ({ running }) => running === 0);
}

const string = (value) => ({ type: 'string', value });

async function headers({ asker }) {
  const ask = (headers) => asker.ask('ask', { role: ROLE, event: 'headers', data: NULL, headers });
  const several = [
    ['tenant', string('blue')],
    ['raw', { type: 'binary', value: 'ff00' }],
    ['empty', string('')],
    ['text.2', string('жёлтый')],
  ];
  const sorted = (headers) => [...headers].sort(([a], [b]) => a.localeCompare(b));
  assert.deepEqual(sorted((await ask(several)).headers), sorted(several));
  const most = [['n', string('x'.repeat(8191))]];
  assert.deepEqual((await ask(most)).headers, most);
  const more = [['n', string('x'.repeat(8192))]];
  await assert.rejects(ask(more), { kind: 'TOO_LARGE' });
  await assert.rejects(ask([['Wrong Name', string('')]]), { kind: 'INVALID_ARGUMENT' });
}

async function failure({ asker }) {
  const told = { text: 'no such order', code: 'NOT_FOUND', data: { ids: [7, 'x', null] }, retry: 1500 };
  const data = { type: 'object', value: told };
  await assert.rejects(asker.ask('ask', { role: ROLE, event: 'failure', data }), {
    message: told.text,
    kind: 'REJECTED',
    code: told.code,
    data: told.data,
    retry: told.retry,
    unhandled: false,
  });
  await assert.rejects(asker.ask('ask', { role: ROLE, event: 'no such event', data }), {
    kind: 'REJECTED',
    unhandled: true,
  });
}

module.exports = {
  cancels,
  failure,
  givingUp: throughTheMiddle(givingUp),
  headers,
  lossOfTheFirst,
  timeLimit: throughTheMiddle(timeLimit),
  trace: throughTheMiddle(trace),
};
