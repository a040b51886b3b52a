'use strict';

// What happens, and what has to come of it.

const { isDeepStrictEqual: equal } = require('node:util');

const { sha256 } = require('../scenarios/pattern');

/** Everybody serves this role all the time. */
const MATH = 'math';
/** This one comes and goes. */
const NIGHT = 'night-watch';
const SIZE = 8 << 20;
const NULL = { type: 'null', value: null };
const KEYS = [['demo', 'what only they know']];

/** @param cast the parts, each with its name, language and implementation */
async function tell(stage, mesh, screen, cast) {
  const spoken = cast.map(({ name, language }) => `${name} in ${language}`).join(', ');
  screen.say(`Processes without a broker: ${spoken}. They find each other and work together.`);
  const enter = async (part) => {
    part.player = await stage.add(part.implementation, part.name, { friendly: true, keys: KEYS });
    await part.player.ask('events');
    for (const command of ['role', 'destination']) await part.player.ask(command, { role: MATH });
  };
  await Promise.all(cast.map(enter));
  screen.keep({ lines: () => mesh.lines(), refresh: () => mesh.refresh() });
  const picture = async (last) => {
    await mesh.refresh();
    screen.show(last);
  };
  const [alice, bob, carol, dave] = cast;
  const names = cast.map(({ name }) => name);
  const others = (part) => names.filter((name) => name !== part.name);
  const serves = (part, role, wanted) => {
    return part.player.until('units', { role }, (units) => equal(units, wanted));
  };

  /** Requests at once, and who has answered how many. */
  const balanced = async (part, role, count, by) => {
    screen.tell(part.name, `sends ${count} requests at once`);
    const told = Object.entries(by).map(([name, times]) => `${name} ${times}`);
    await screen.check(`all answers are right: ${told.join(', ')}`, async () => {
      return equal((await part.player.ask('flow', { role, count })).by, by);
    });
  };

  screen.chapter('Each dials only the one before it');
  for (const [index, part] of cast.entries()) {
    // Carol listens again later.
    part.host = part === carol ? stage.ownHost() : '127.0.0.1';
    part.port = await part.player.ask('listen', { host: part.host });
    part.url = `ws://${part.host}:${part.port}`;
    const before = cast[index - 1];
    screen.tell(part.name, `listens on ${part.url}${before ? `, and dials ${before.name}` : ''}`);
    if (!before) continue;
    await screen.check(`${before.name} has answered`, async () => {
      return (await part.player.ask('connect', { url: before.url })) === before.name;
    });
  }

  screen.chapter('They become acquainted with all the others');
  const acquainted = () => screen.check('each knows all of the others', async () => {
    await Promise.all(cast.map((part) => serves(part, undefined, others(part))));
    await Promise.all(cast.map((part) => serves(part, MATH, others(part))));
    return true;
  });
  await acquainted();
  const guess = { friendly: false, keys: [['demo', 'a guess']] };
  const stranger = await stage.add(alice.implementation, 'stranger', guess);
  await screen.check('a stranger that does not know the key is refused', async () => {
    const refused = await stage.fails(stranger, 'connect', { url: alice.url });
    return /mismatch/i.test(refused);
  });
  await stranger.kill();
  await picture();

  screen.chapter('A role appears, is disabled and enabled');
  const nobodyServes = () => screen.check(`dave's request fails: nobody serves ${NIGHT}`, async () => {
    return equal((await dave.player.ask('flow', { role: NIGHT, count: 1 })).errors, { NO_UNIT: 1 });
  });
  const change = async (part, command) => {
    await part.player.ask(command, { role: NIGHT });
    screen.tell(part.name, command === 'role' ? `serves ${NIGHT}` : `${command}s it`);
  };
  const finds = (...wanted) => screen.check(`dave finds ${wanted.join(' and ')}`, () => {
    return serves(dave, NIGHT, wanted);
  });
  await dave.player.ask('destination', { role: NIGHT });
  await nobodyServes();
  for (const part of [alice, bob]) await change(part, 'role');
  await finds('alice', 'bob');
  await change(alice, 'disable');
  await finds('bob');
  await balanced(dave, NIGHT, 4, { bob: 4 });
  await change(bob, 'disable');
  await serves(dave, NIGHT, []);
  await nobodyServes();
  await change(alice, 'enable');
  await finds('alice');
  await balanced(dave, NIGHT, 4, { alice: 4 });

  screen.chapter('Requests are balanced over those that serve the role');
  await balanced(dave, MATH, 30, { alice: 10, bob: 10, carol: 10 });
  await balanced(alice, MATH, 300, { bob: 100, carol: 100, dave: 100 });

  screen.chapter('One speaks to all');
  const data = { type: 'string', value: 'good morning' };
  screen.tell('alice', 'says “good morning”');
  await screen.check('all of the others have heard it, once', async () => {
    const count = await alice.player.ask('broadcast', { role: MATH, event: 'note', data });
    const hearers = [bob, carol, dave].map(({ player }) => player);
    const heard = await Promise.all(hearers.map((player) => player.observe('message')));
    const again = hearers.some(({ seen }) => seen.some(({ event }) => event === 'message'));
    return count === 3 && heard.every((one) => equal(one.data, data)) && !again;
  });
  screen.tell('bob', 'asks everybody for their name');
  await screen.check('alice, carol and dave have answered', async () => {
    const answers = await bob.player.ask('survey', { role: MATH, event: 'name', data: NULL });
    return equal(answers.map((one) => one.data?.value).sort(), others(bob));
  });

  screen.chapter('Bytes are streamed, there and back');
  const streams = async (part, command, to) => {
    const plan = { tag: `${part.name} ${command}`, size: SIZE, piece: 64 << 10 };
    const event = command === 'upload' ? 'up' : 'down';
    const result = await part.player.ask(command, { role: MATH, event, plan, to: to.name });
    const told = command === 'upload' ? 'received' : 'sent';
    const far = await to.player.observe(told, ({ tag }) => tag === plan.tag);
    const whole = { bytes: SIZE, sha256: sha256(SIZE) };
    return equal(result, whole) && equal(far.result, whole);
  };
  const hash = `SHA-256 ${sha256(SIZE).slice(0, 12)}…`;
  screen.tell('dave', `streams ${SIZE >> 20} MiB to bob`);
  await screen.check(`both have the same bytes, ${hash}`, () => streams(dave, 'upload', bob));
  screen.tell('alice', 'streams as much from bob');
  await screen.check(`both have the same bytes, ${hash}`, () => streams(alice, 'download', bob));
  await screen.check('a stream that bob does not want is refused, with the reason', async () => {
    const plan = { tag: 'refused', size: 1, piece: 1, reason: 'not today' };
    const command = { role: MATH, event: 'refuse', plan, to: 'bob' };
    return /not today/.test(await stage.fails(alice.player, 'download', command));
  });
  await picture();

  screen.chapter('One process is killed, the rest go on');
  await carol.player.kill();
  screen.tell('carol', 'is killed (SIGKILL)');
  await screen.check('the others know that carol is gone', async () => {
    for (const part of [alice, bob, dave]) {
      const left = others(part).filter((name) => name !== 'carol');
      await serves(part, undefined, left);
      await serves(part, MATH, left);
    }
    return true;
  });
  await balanced(dave, MATH, 20, { alice: 10, bob: 10 });
  await picture();

  screen.chapter('It comes back and is found again');
  await enter(carol);
  await carol.player.ask('listen', { host: carol.host, port: carol.port });
  await carol.player.ask('connect', { url: bob.url });
  screen.tell('carol', 'is started anew, listens on the same port, and dials bob');
  await screen.check('dave, which had dialed carol, has found it again by itself', async () => {
    const isCarol = ({ what, address }) => what === 'reconnected' && address.includes(`:${carol.port}`);
    await dave.player.observe('peer', isCarol);
    return true;
  });
  await acquainted();
  await balanced(dave, MATH, 30, { alice: 10, bob: 10, carol: 10 });
  await picture(true);
  screen.say(`   ${mesh.total()}`);

  screen.chapter('All close');
  await screen.check(`${names.join(', ')} have closed and ended`, async () => {
    const codes = await Promise.all(cast.map(({ player }) => leave(player)));
    return codes.every((code) => code === 0);
  });
}

/** Closes the peer and lets the process end; its exit code. */
async function leave(player) {
  await player.ask('close');
  await player.finish();
  return player.process.exitCode;
}

module.exports = { tell };
