'use strict';

// What a user of this implementation may do that could end the process of an original, or hurt it: see
// docs/PROTOCOL.md for what originals do not stand. The runner fails a cell in which a process ends.
// No outcome but that is looked at, beyond that both serve each other's requests afterwards.

const assert = require('assert/strict');

const { EVENTS, ended, plan } = require('./streams');
const { ROLE } = require('./stage');

const NULL = { type: 'null', value: null };

/** Names of any length that fits, with any characters. */
async function names(stage) {
  const longest = 'n'.repeat(0xffff);
  const odd = ['zero\0inside', 'žluťoučký 😀', '"},{"', longest];
  for (const role of odd) {
    await stage.fails(stage.asker, 'request', { role, event: 'echo', data: NULL, direct: true });
  }
  for (const event of ['', ...odd]) {
    await stage.fails(stage.asker, 'request', { role: ROLE, event, data: NULL });
    await stage.asker.ask('send', { role: ROLE, event, data: NULL });
  }
  // One more byte would not fit its length.
  await stage.fails(stage.asker, 'request', { role: ROLE, event: `${longest}n`, data: NULL });
  await stage.works();
}

/** Rejected with texts that originals could take for something else. */
async function rejections(stage) {
  for (const value of ['', 'null', 'false', '{"data":1}', '0', 'x'.repeat(70_000)]) {
    const request = { role: ROLE, event: 'fail', data: { type: 'string', value } };
    await stage.fails(stage.asker, 'request', request);
  }
  await stage.works();
}

/** Streams that either end, or both, break off, with and without a reason, all at once. */
async function brokenStreams(stage) {
  const { asker, server } = stage;
  const ours = ({ implementation }) => !implementation.original;
  const ends = [];
  for (const command of ['upload', 'download']) {
    for (const size of [0, 1, 100_000]) {
      for (const breaks of ['reader', 'writer']) {
        for (const reason of ['', 'enough']) {
          const wanted = plan({ size, piece: 1000, breaks, reason });
          const asked = { role: ROLE, event: EVENTS[command], plan: wanted };
          const near = asker.ask(command, asked);
          const far = ended(command, server, wanted);
          const breaker = (command === 'upload') === (breaks === 'writer') ? asker : server;
          // Originals do not always tell their application.
          if (ours(breaker)) ends.push(breaker === asker ? stage.settles(near) : far);
        }
      }
    }
  }
  await Promise.all(ends);
  await stage.works();
}

/** Given up before the answer, before the stream is accepted, and in the middle of it. */
async function givenUp(stage) {
  const { asker, server } = stage;
  const cancel = async ({ id, result }) => {
    await asker.ask('cancel', { target: id });
    await assert.rejects(result, (error) => error.answered);
  };
  for (let times = 0; times < 5; times++) {
    const late = asker.begin('request', { role: ROLE, event: 'hold', data: NULL });
    await server.observe('held');
    await cancel(late);
    await server.ask('release');
    for (const command of ['upload', 'download']) {
      const event = EVENTS[command];
      const size = 50_000_000;
      const early = { role: ROLE, event, plan: plan({ size, piece: 1000 }) };
      await cancel(asker.begin(command, early));
      const wanted = plan({ size, piece: 1000, pauses: true });
      const open = asker.begin(command, { role: ROLE, event, plan: wanted });
      const reader = command === 'upload' ? server : asker;
      await reader.observe('paused', ({ tag }) => tag === wanted.tag);
      await cancel(open);
    }
  }
  await stage.works();
}

/** A role comes and goes under its requests and streams. */
async function flickeringRole(stage) {
  const { asker, server } = stage;
  const running = [];
  for (let times = 0; times < 20; times++) {
    for (const command of ['disable', 'enable']) {
      const request = { role: ROLE, event: 'length', data: { type: 'binary', value: '00' } };
      running.push(stage.settles(asker.ask('request', { ...request, direct: true })));
      for (const stream of ['upload', 'download']) {
        const wanted = plan({ size: 10_000, piece: 1000 });
        const asked = { role: ROLE, event: EVENTS[stream], plan: wanted };
        asker.ask(stream, asked);
      }
      await server.ask(command, { role: ROLE });
    }
  }
  await Promise.all(running);
  // One that is told of behind them: the role may be there now, and about to go and come once more.
  await asker.ask('destination', { role: 'last' });
  await server.ask('role', { role: 'last' });
  await asker.until('units', { role: 'last' }, (units) => units.length === 1);
  await asker.until('units', { role: ROLE }, (units) => units.length === 1);
  await stage.works();
}

/** Requests and streams in both directions that nobody ends. */
async function openEverything(stage) {
  for (const player of [stage.dialer, stage.listener]) {
    const other = player === stage.dialer ? stage.listener : stage.dialer;
    player.ask('request', { role: ROLE, event: 'never', data: NULL });
    await other.observe('ignored');
    for (const command of ['upload', 'download']) {
      for (const size of [1000, 5_000_000]) {
        const wanted = plan({ size, piece: 1000, pauses: true });
        player.ask(command, { role: ROLE, event: EVENTS[command], plan: wanted });
        const reader = command === 'upload' ? other : player;
        await reader.observe('paused', ({ tag }) => tag === wanted.tag);
      }
    }
  }
}

/** The process of one side ends at once, with everything open. */
function dies(part) {
  return async (stage) => {
    const { proxy } = await stage.meet({ through: true });
    await openEverything(stage);
    await stage[part].kill();
    await stage.replace(part, 'reborn');
    if (part === 'listener') proxy.target = await stage.listener.ask('listen');
    else await stage.dialer.ask('connect', { url: proxy.url });
    await stage.worksAgain();
  };
}

/** One side closes the unit, with everything open. */
function closes(part) {
  return async (stage) => {
    const { proxy } = await stage.meet({ through: true });
    await openEverything(stage);
    await stage[part].ask('disconnect');
    // Who has closed what it has dialed does not dial again by itself.
    if (part === 'dialer') {
      await stage.listener.until('units', {}, (units) => units.length === 0);
      await stage.dialer.ask('connect', { url: proxy.url });
    }
    await stage.worksAgain();
  };
}

/** Processes that end while they connect. */
async function vanish(stage) {
  await stage.meet();
  for (let times = 0; times < 5; times++) {
    const visitor = await stage.add(stage.pair.dialer, `visitor ${times}`);
    visitor.ask('connect', { url: stage.url });
    await visitor.kill();
  }
  await stage.works();
}

/** Originals do not stand to be told of somebody without an address: who has dialed the teller. */
async function unknownAddress(stage) {
  const teller = await stage.add(stage.pair.dialer, 'teller', { friendly: true });
  const [subject, newcomer] = await Promise.all(
    ['subject', 'newcomer'].map((name) => stage.add(stage.pair.listener, name, { friendly: true })),
  );
  for (const role of [ROLE, 'other']) await subject.ask('role', { role });
  await newcomer.ask('destination', { role: ROLE });
  await newcomer.ask('role', { role: ROLE });
  const url = `ws://127.0.0.1:${await teller.ask('listen')}`;
  await newcomer.ask('connect', { url });
  await subject.ask('connect', { url });
  for (const name of ['subject', 'newcomer']) {
    await teller.until('units', { role: ROLE }, (units) => units.includes(name));
  }
  const request = { role: ROLE, event: 'name', data: NULL };
  const answers = [await teller.ask('request', request), await teller.ask('request', request)];
  const answered = answers.map(({ value }) => value).sort();
  assert.deepEqual(answered, ['newcomer', 'subject']);
}

module.exports = {
  brokenStreams,
  closes,
  dies,
  flickeringRole,
  givenUp,
  names,
  rejections,
  unknownAddress,
  vanish,
};
