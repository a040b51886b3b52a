'use strict';

// The one table of scenarios. A scenario gets a stage (see stage.js) and fails by throwing.
//
// - `each`: run twice for every dialer and listener, once with each of them as the requester `asker`;
//   the other, `server`, has the role `svc`. The connection is there already.
// - `pair`: run once for every dialer and listener, from the start.
// - `needs`: an ability that the side named, or `both`, must have, else there is no such cell.
// - `fresh`: with processes of its own; an `each` otherwise finds those of the one before it.
// - `start`: what the two of an `each` are started with beside their names.
// - `long`: which pairs run only with --long. `waits`: mostly for heartbeats, so that many run at once.
// - `alone`: while nothing else runs.

const assert = require('assert/strict');

const { certificate } = require('../players');
const faults = require('./faults');
const { rollingRestart } = require('./restarts');
const { ROLE } = require('./stage');
const {
  breaks,
  drainsStream,
  lostWithStream,
  refusesStream,
  slowReader,
  streamsWhole,
} = require('./streams');
const scopes = require('./scopes');
const unusual = require('./unusual');

const NUMBERS = ['0', '1', '-1', '1.5', '0.1', '1e+9', '9007199254740991', '-123.456'];
const EXTREME_NUMBERS = ['1e+21', '1e-12', '5e-324', '1.7976931348623157e+308', 'NaN', '-Infinity'];
const VALUES = {
  binary: ['', '00', 'ff00fe', '00'.repeat(70000)].map((value) => ({ type: 'binary', value })),
  null: [{ type: 'null', value: null }],
  boolean: [true, false].map((value) => ({ type: 'boolean', value })),
  string: ['', 'text', 'zero\0inside', 'žluťoučký 😀', 'x'.repeat(70000)].map((value) => ({
    type: 'string',
    value,
  })),
  number: NUMBERS.map((value) => ({ type: 'number', value })),
  'number, extreme': EXTREME_NUMBERS.map((value) => ({ type: 'number', value })),
  object: [{}, [], { a: [1, 'two', null, { deep: true }] }, ['ž', 1.5]].map((value) => ({
    type: 'object',
    value,
  })),
};
const STRING = { type: 'string', value: 'hello' };
const NULL = { type: 'null', value: null };

// Handshakes.

const SECRETS = { a: 'secret of a', b: 'secret of b', c: 'secret of c' };
const keys = (...ids) => ids.map((id) => [id, SECRETS[id]]);

/** The two meet with these keys, and a request is answered. */
function accepted(dialer, listener) {
  return async (stage) => {
    await stage.meet({ dialer: { keys: dialer }, listener: { keys: listener } });
    await stage.works();
  };
}

/** The dialer is refused, and says why. */
function refused(dialer, listener, reason) {
  return async (stage) => {
    await stage.start({ dialer: { keys: dialer }, listener: { keys: listener } });
    const port = await stage.listener.ask('listen');
    const error = await stage.fails(stage.dialer, 'connect', { url: `ws://127.0.0.1:${port}` });
    assert.match(error, reason);
    assert.deepEqual(await stage.listener.ask('units', {}), []);
  };
}

// Data.

function carries(values) {
  return async ({ asker, server }) => {
    for (const data of values) {
      const answer = await asker.ask('request', { role: ROLE, event: 'echo', data });
      same(answer, data, 'answer');
      const { data: seen } = await server.observe('request');
      same(seen, data, 'request');
      await asker.ask('send', { role: ROLE, event: 'note', data });
      const message = await server.observe('message');
      same(message.data, data, 'message');
      assert.equal(message.from, asker.name);
    }
  };
}

function same(seen, sent, where) {
  const plain = ({ type, value }) => ({ type, value: type === 'number' ? Number(value) : value });
  assert.deepEqual(plain(seen), plain(sent), `${where} differs from what was sent`);
}

/** A request that is rejected with this text. */
function rejects(role, event, reason, prepare = async () => {}) {
  return async (stage) => {
    await prepare(stage);
    const command = { role, event, data: NULL, direct: true };
    assert.match(await stage.fails(stage.asker, 'request', command), reason);
    await stage.works();
  };
}

// Networks.

async function rolesComeAndGo({ asker, server }) {
  await asker.ask('destination', { role: 'late' });
  await server.ask('role', { role: 'late' });
  await asker.until('units', { role: 'late' }, (units) => units.length === 1);
  const request = { role: 'late', event: 'echo', data: STRING };
  same(await asker.ask('request', request), STRING, 'answer');
  await server.ask('disable', { role: 'late' });
  await asker.until('units', { role: 'late' }, (units) => units.length === 0);
  await server.ask('enable', { role: 'late' });
  await asker.until('units', { role: 'late' }, (units) => units.length === 1);
  same(await asker.ask('request', request), STRING, 'answer');
}

async function disabledFromTheStart({ asker, server }) {
  await server.ask('role', { role: 'asleep', active: false });
  await server.ask('role', { role: 'on' });
  await asker.until('units', { role: 'on' }, (units) => units.length === 1);
  assert.deepEqual(await asker.ask('units', { role: 'asleep' }), []);
}

async function messageIsDropped({ asker, server }, role) {
  await asker.ask('send', { role, event: 'note', data: STRING, direct: true });
  await asker.ask('send', { role: ROLE, event: 'note', data: STRING });
  const { role: first } = await server.observe('message');
  assert.equal(first, ROLE, `the message for ${role} was delivered`);
}

async function manyInFlight({ asker, server }) {
  const answers = asker.ask('hold', { role: ROLE, count: 300 });
  await server.observe('held', ({ count }) => count === 300);
  await server.ask('release');
  assert.equal(await answers, 300);
}

async function takesTurns(stage) {
  await stage.start({ dialer: {}, listener: {} });
  const second = await stage.add(stage.listener.implementation, 'second');
  for (const server of [stage.listener, second]) {
    await server.ask('role', { role: ROLE });
    await stage.dialer.ask('connect', { url: `ws://127.0.0.1:${await server.ask('listen')}` });
  }
  await stage.dialer.until('units', { role: ROLE }, (units) => units.length === 2);
  const count = {};
  for (let i = 0; i < 10; i++) {
    const request = { role: ROLE, event: 'name', data: STRING };
    const { value } = await stage.dialer.ask('request', request);
    count[value] = (count[value] ?? 0) + 1;
  }
  assert.deepEqual(count, { listener: 5, second: 5 });
}

/** Who owes an answer gets nothing more. */
async function asksTheLeastLoaded(stage) {
  await stage.start({ dialer: { balance: 'least_loaded' }, listener: {} });
  const second = await stage.add(stage.listener.implementation, 'second');
  const servers = [stage.listener, second];
  for (const server of servers) {
    await server.ask('role', { role: ROLE });
    await stage.dialer.ask('connect', { url: `ws://127.0.0.1:${await server.ask('listen')}` });
  }
  await stage.dialer.until('units', { role: ROLE }, (units) => units.length === 2);
  const late = stage.dialer.ask('hold', { role: ROLE, count: 1 });
  // After a second it is looked whether it answers.
  const begun = performance.now();
  const count = { listener: 0, second: 0 };
  for (let i = 0; i < 20; i++) {
    const request = { role: ROLE, event: 'name', data: STRING };
    count[(await stage.dialer.ask('request', request)).value]++;
  }
  const looks = Math.floor((performance.now() - begun) / 1000) + 1;
  const [busy] = servers.toSorted((a, b) => count[a.name] - count[b.name]);
  assert.ok(count[busy.name] < looks, `${busy.name} was asked though it owed an answer: ${JSON.stringify(count)}`);
  await busy.observe('held');
  await busy.ask('release');
  assert.equal(await late, 1);
}

/** Two connections to one unit; the loss of either changes nothing for those who talk. */
async function losesOneOfTwo(stage) {
  await stage.start({ dialer: {}, listener: {} });
  for (const player of [stage.dialer, stage.listener]) await player.ask('role', { role: ROLE });
  const port = await stage.listener.ask('listen');
  const proxies = [await stage.proxy(port), await stage.proxy(port)];
  for (const { url } of proxies) await stage.dialer.ask('connect', { url });
  const both = [stage.dialer, stage.listener];
  const one = (units) => units.length === 1;
  for (const player of both) await player.until('units', { role: ROLE }, one);
  await survivesEach(stage, proxies);
}

/** Each has dialed the other; the loss of either connection changes nothing. */
async function losesOneOfMutual(stage) {
  await stage.start({ dialer: {}, listener: {} });
  const both = [stage.dialer, stage.listener];
  const proxies = [];
  for (const player of both) {
    await player.ask('role', { role: ROLE });
    proxies.push(await stage.proxy(await player.ask('listen')));
  }
  // At the same time: neither knows of the other yet.
  const [toDialer, toListener] = proxies;
  await Promise.all([
    stage.dialer.ask('connect', { url: toListener.url }),
    stage.listener.ask('connect', { url: toDialer.url }),
  ]);
  const one = (units) => units.length === 1;
  for (const player of both) await player.until('units', { role: ROLE }, one);
  await stage.works();
  await survivesEach(stage, proxies);
}

/** The connections through the proxies are lost one after the other. */
async function survivesEach(stage, proxies) {
  for (const proxy of proxies) {
    const again = proxy.accepted + 1;
    proxy.cut();
    await stage.until('the lost connection to be dialed again', proxy, 'accepted', () => {
      return proxy.accepted >= again;
    });
    for (const player of [stage.dialer, stage.listener]) {
      const request = { role: ROLE, event: 'echo', data: STRING, timeout: 3000 };
      await player.until('request', request, ({ value }) => value === STRING.value);
      const { length } = await player.ask('units', { role: ROLE });
      assert.equal(length, 1, `${player.implementation.name} has ${length} units of one peer`);
    }
  }
}

/**
 * The teller has dialed the subject; a newcomer dials the teller, or is dialed by it, and so finds
 * the subject.
 */
function acquaints(place, dialsBoth = false) {
  return async (stage) => {
    const others = stage.pair.listener;
    const at = (name) => (name === place ? stage.pair.dialer : others);
    const teller = await stage.add(at('teller'), 'teller', { friendly: true });
    const subject = await stage.add(at('subject'), 'subject', { friendly: true });
    const newcomer = await stage.add(at('newcomer'), 'newcomer', { friendly: true });
    await subject.ask('role', { role: ROLE });
    await newcomer.ask('destination', { role: ROLE });
    await teller.ask('connect', { url: `ws://127.0.0.1:${await subject.ask('listen')}` });
    const [from, to] = dialsBoth ? [teller, newcomer] : [newcomer, teller];
    await from.ask('connect', { url: `ws://127.0.0.1:${await to.ask('listen')}` });
    await newcomer.until('units', { role: ROLE }, (units) => units.includes('subject'));
    const request = { role: ROLE, event: 'name', data: STRING };
    assert.equal((await newcomer.ask('request', request)).value, 'subject');
  };
}

async function connectionIsLost(stage) {
  const { proxy } = await stage.meet({ through: true });
  for (let times = 1; times <= 2; times++) {
    const again = proxy.accepted + 1;
    proxy.cut();
    await stage.until('to be dialed again', proxy, 'accepted', () => proxy.accepted >= again);
    await stage.worksAgain();
  }
}

async function listenerRestarts(stage) {
  const { proxy } = await stage.meet({ through: true });
  await stage.listener.kill();
  await stage.replace('listener', 'reborn');
  proxy.target = await stage.listener.ask('listen');
  await stage.worksAgain();
  assert.deepEqual(await stage.dialer.ask('units', { role: ROLE }), ['reborn']);
}

async function dialerRestarts(stage) {
  const { proxy } = await stage.meet({ through: true });
  await stage.dialer.kill();
  await stage.replace('dialer', 'reborn');
  await stage.dialer.ask('connect', { url: proxy.url });
  await stage.worksAgain();
  const listener = stage.listener;
  await listener.until('units', { role: ROLE }, (units) => units.join() === 'reborn');
}

async function listenerComesLater(stage) {
  await stage.start({ dialer: {}, listener: {} });
  for (const player of [stage.dialer, stage.listener]) await player.ask('role', { role: ROLE });
  // Nobody listens at the proxy's target yet.
  const proxy = await stage.proxy(1);
  await stage.fails(stage.dialer, 'connect', { url: proxy.url });
  proxy.target = await stage.listener.ask('listen');
  await stage.worksAgain();
}

async function listenerCloses(stage) {
  const { proxy } = await stage.meet({ through: true });
  const again = proxy.accepted + 1;
  await stage.listener.ask('disconnect');
  await stage.until('to be dialed again', proxy, 'accepted', () => proxy.accepted >= again);
  await stage.worksAgain();
}

async function dialerCloses(stage) {
  await stage.meet();
  await stage.dialer.ask('disconnect');
  for (const player of [stage.dialer, stage.listener]) {
    await player.until('units', {}, (units) => units.length === 0);
  }
}

async function pendingFails(stage) {
  const { proxy } = await stage.meet({ through: true });
  const request = { role: ROLE, event: 'never', data: STRING };
  const pending = stage.dialer.ask('request', request);
  await stage.listener.observe('ignored');
  proxy.cut();
  assert.match(await stage.failure(pending), /clos|lost|reset|socket|connection/i);
}

async function timesOut({ asker, fails, works }) {
  const request = { role: ROLE, event: 'never', data: STRING, timeout: 50 };
  assert.match(await fails(asker, 'request', request), /time|exceeded/i);
  await works();
}

/** As large as a message may be; one byte more is refused where it should be sent. */
async function largestMessage({ asker, fails, works }) {
  // Type, lengths of role, event and correlation, the correlation and the data type.
  const header = 1 + 2 + 2 + 1 + ROLE.length + 'length'.length + 1 + 1;
  const size = 100 * 1024 * 1024 - header;
  assert.equal(await asker.ask('large', { role: ROLE, size }), size);
  if (!asker.implementation.original) {
    await fails(asker, 'large', { role: ROLE, size: size + 1 });
    await works();
  }
}

async function overTls(stage) {
  const { cert, key } = certificate();
  await stage.start({ dialer: {}, listener: {} });
  for (const player of [stage.dialer, stage.listener]) await player.ask('role', { role: ROLE });
  const port = await stage.listener.ask('listen', { tls: { cert, key } });
  await stage.dialer.ask('connect', { url: `wss://localhost:${port}`, ca: cert });
  await stage.works();
}

/** Somebody in between is noticed by two peers of ours; an original proves its keys to whoever asks. */
async function throughARelay(stage) {
  const [own, other] = [certificate(), certificate()];
  const start = { keys: keys('a') };
  await stage.start({ dialer: start, listener: start });
  const { dialer, listener } = stage;
  for (const player of [dialer, listener]) await player.ask('role', { role: ROLE });
  const port = await listener.ask('listen', { tls: { cert: own.cert, key: own.key } });
  const { url } = await stage.relay(other, port);
  if (dialer.implementation.original || listener.implementation.original) {
    await dialer.ask('connect', { url, ca: other.cert });
  } else {
    const text = await stage.fails(dialer, 'connect', { url, ca: other.cert, once: true });
    assert.match(text, /The challenge is for another TLS connection/);
    assert.deepEqual(await listener.ask('units'), []);
    await dialer.ask('connect', { url: `wss://localhost:${port}`, ca: own.cert });
  }
  await stage.works();
}

/** What was asked before the drain is answered; the role is withdrawn meanwhile. */
async function drains({ asker, server }) {
  const answer = asker.ask('hold', { role: ROLE, count: 1 });
  await server.observe('held');
  const drained = server.ask('drain');
  await asker.until('units', { role: ROLE }, (units) => units.length === 0);
  await server.ask('release');
  assert.equal(await answer, 1);
  await drained;
  await asker.until('units', {}, (units) => units.length === 0);
}

async function staysConnected(stage) {
  const { proxy } = await stage.meet({ through: true });
  // The time is the matter here: four heartbeats of every implementation but Go, two of Go.
  await new Promise((resolve) => setTimeout(resolve, 22_000));
  await stage.works();
  assert.equal(proxy.accepted, 1, 'the connection was lost');
}

/** A process that hangs is given up, and taken back when it goes on. */
function stoppedProcess(part, other) {
  return async (stage) => {
    await stage.meet();
    stage[part].stop();
    await stage[other].until('units', {}, (units) => units.length === 0);
    stage[part].resume();
    await stage.worksAgain();
  };
}

/** What takes long runs with one pair for each language otherwise. */
const betweenLanguages = ({ dialer, listener }) => dialer.name !== listener.name;

const each = (name, run, more) => ({ name, kind: 'each', run, ...more });
const pair = (name, run, more) => ({ name, kind: 'pair', run, ...more });

const SCENARIOS = [
  pair('handshake without keys', accepted([], [])),
  pair('handshake with a key', accepted(keys('a'), keys('a'))),
  pair('handshake with several keys', accepted(keys('a', 'b'), keys('b', 'c'))),
  pair('handshake, keys differ', refused([['a', 'x']], [['a', 'y']], /mismatch|rejected|not equal/i)),
  pair('handshake, no common key', refused(keys('a'), keys('b'), /proofs|rejected|key|id/i)),
  pair('handshake, key against none', refused(keys('a'), [], /./)),
  pair('handshake, none against key', refused([], keys('a'), /./)),
  ...Object.entries(VALUES).map(([name, values]) => each(`data: ${name}`, carries(values))),
  each('reject', rejects(ROLE, 'fail', /no such luck/)),
  each('unknown role', rejects('nope', 'echo', /The role "nope" is not registered/)),
  each('unknown event', rejects(ROLE, 'nope', /The event "nope" is not handled/)),
  each(
    'disabled role',
    rejects('off', 'echo', /The role "off" is disabled/, async ({ server }) => {
      await server.ask('role', { role: 'off' });
      await server.ask('disable', { role: 'off' });
    }),
  ),
  each('message to an unknown role', (stage) => messageIsDropped(stage, 'nope'), {
    needs: ['asker', 'stray'],
    fresh: true,
  }),
  each(
    'message to a disabled role',
    async (stage) => {
      await stage.server.ask('role', { role: 'off' });
      await stage.server.ask('disable', { role: 'off' });
      await messageIsDropped(stage, 'off');
    },
    { needs: ['asker', 'stray'], fresh: true },
  ),
  each('timeout', timesOut),
  each('roles announced, disabled, enabled', rolesComeAndGo),
  each('role disabled from the start', disabledFromTheStart, { needs: ['server', 'disabled'] }),
  each('300 requests in flight', manyInFlight),
  ...['upload', 'download'].flatMap((command) => [
    each(`${command} of 0 B`, streamsWhole(command, 0)),
    each(`${command} of 1 B`, streamsWhole(command, 1)),
    each(`${command} of 5 MB`, streamsWhole(command, 5_000_000)),
    each(`${command} of 5 MB in pieces of 1000 B`, streamsWhole(command, 5_000_000, 1000)),
    ...[1000, 512 * 1024].flatMap((highWaterMark) =>
      [
        ['asker', 'requester'],
        ['server', 'responder'],
      ].map(([side, word]) =>
        each(
          `${command} of 2 MB, high-water mark of the ${word} ${highWaterMark} B`,
          streamsWhole(command, 2_000_000),
          { needs: [side, 'highWaterMark'], start: { [side]: { highWaterMark } } },
        ),
      ),
    ),
  ]),
  each('upload refused', refusesStream('upload')),
  each('download refused', refusesStream('download')),
  each('upload broken by the writer', breaks('upload', 'writer')),
  each('upload broken by the reader', breaks('upload', 'reader')),
  each('download broken by the writer', breaks('download', 'writer')),
  each('download broken by the reader', breaks('download', 'reader')),
  each('upload, slow reader loses nothing', slowReader('upload', false)),
  each('download, slow reader loses nothing', slowReader('download', false)),
  each('upload, slow reader holds up the writer', slowReader('upload', true), {
    needs: ['server', 'backPressure'],
  }),
  each('download, slow reader holds up the writer', slowReader('download', true), {
    needs: ['asker', 'backPressure'],
  }),
  each('drain', drains, { needs: ['server', 'drain'], fresh: true }),
  each('drain during an upload', drainsStream('upload'), { needs: ['server', 'drain'], fresh: true }),
  each('drain during a download', drainsStream('download'), {
    needs: ['server', 'drain'],
    fresh: true,
  }),
  each('headers', scopes.headers, { needs: ['both', 'scopes'] }),
  each('failures with code and data', scopes.failure, { needs: ['both', 'scopes'] }),
  each('unusual names', unusual.names, { needs: ['asker', 'ours'] }),
  each('unusual rejections', unusual.rejections, { needs: ['server', 'ours'] }),
  each('streams broken off by everybody', unusual.brokenStreams),
  each('requests and streams given up', unusual.givenUp, { needs: ['asker', 'cancel'] }),
  each('role disabled under requests', unusual.flickeringRole),
  each('message of 100 MiB', largestMessage, { alone: true }),
  pair('round robin', takesTurns),
  pair('the least loaded is asked', asksTheLeastLoaded, { needs: ['dialer', 'ours'] }),
  pair('redundant connections, loss of one', losesOneOfTwo),
  pair('redundant mutual connections, loss of one', losesOneOfMutual),
  pair('acquaintance, dialer tells', acquaints('teller')),
  pair('acquaintance, dialer is told of', acquaints('subject')),
  pair('acquaintance, dialer is told', acquaints('newcomer')),
  pair('acquaintance of two that were dialed, dialer tells', acquaints('teller', true)),
  pair('acquaintance of two that were dialed, dialer is told of', acquaints('subject', true)),
  pair('acquaintance of two that were dialed, dialer is told', acquaints('newcomer', true)),
  pair('connection lost', connectionIsLost),
  pair('connection lost with a request', pendingFails),
  pair('connection lost with an upload', lostWithStream('upload')),
  pair('connection lost with a download', lostWithStream('download')),
  pair('listener starts later', listenerComesLater),
  pair('listener restarts', listenerRestarts),
  pair('dialer restarts', dialerRestarts),
  pair('listener closes the unit', listenerCloses),
  pair('dialer closes the unit', dialerCloses),
  pair('dialer dies with everything open', unusual.dies('dialer'), { needs: ['dialer', 'ours'] }),
  pair('listener dies with everything open', unusual.dies('listener'), { needs: ['listener', 'ours'] }),
  pair('dialer closes with everything open', unusual.closes('dialer'), { needs: ['dialer', 'ours'] }),
  pair('listener closes with everything open', unusual.closes('listener'), {
    needs: ['listener', 'ours'],
  }),
  pair('peers that vanish while they connect', unusual.vanish, { needs: ['dialer', 'ours'] }),
  pair('acquaintance, address not known', unusual.unknownAddress, { needs: ['dialer', 'ours'] }),
  pair('requests given up and lost are cancelled', scopes.cancels, { needs: ['both', 'scopes'] }),
  pair('time limit through a third peer', scopes.timeLimit, { needs: ['both', 'scopes'] }),
  pair('giving up through a third peer', scopes.givingUp, { needs: ['both', 'scopes'] }),
  pair('loss of the first of three peers', scopes.lossOfTheFirst, { needs: ['both', 'scopes'] }),
  pair('trace context through a third peer', scopes.trace, { needs: ['both', 'scopes'] }),
  pair('TLS', overTls, { needs: ['listener', 'tls'] }),
  pair('keys through a relay', throughARelay, { needs: ['listener', 'tls'] }),
  pair('connections are replaced at their age', faults.areReplaced, { needs: ['dialer', 'ours'] }),
  pair('requests on a connection that was replaced are cancelled', faults.givenUpAfterReplacement, {
    needs: ['both', 'scopes'],
  }),
  ...[
    ['process killed with everything open', faults.isKilled],
    ['listener restarts on its port under traffic', faults.restarts('listener')],
    ['dialer restarts under traffic', faults.restarts('dialer')],
    ['listener stops briefly under traffic', faults.stopsBriefly('listener', 'dialer')],
    ['dialer stops briefly under traffic', faults.stopsBriefly('dialer', 'listener')],
    ['connection cut in the middle of frames', faults.cutInFrames],
    ['connection delayed by 20 ms', faults.delays],
    ['rolling restart under requests', rollingRestart()],
    ['rolling restart under requests over TLS', rollingRestart({ tls: true })],
    ['rolling restart under requests, delayed by 20 ms', rollingRestart({ delay: 20 })],
    ['what the dialer sends is not read for a while', faults.stopsReading('client')],
    ['what the listener sends is not read for a while', faults.stopsReading('server')],
  ].map(([name, run]) => pair(name, run, { needs: ['both', 'ours'] })),
  pair('rolling restart under requests, delayed by 200 ms', rollingRestart({ delay: 200 }), {
    needs: ['both', 'ours'],
    waits: true,
    long: betweenLanguages,
  }),
  pair('process stopped with everything open', faults.isStopped, {
    needs: ['both', 'ours'],
    waits: true,
    long: betweenLanguages,
  }),
  pair('connection goes silent', faults.goesSilent, {
    needs: ['both', 'ours'],
    waits: true,
    long: betweenLanguages,
  }),
  pair('heartbeats for 22 s', staysConnected, { waits: true, long: () => true }),
  pair('listener is stopped', stoppedProcess('listener', 'dialer'), { waits: true, long: () => true }),
  pair('dialer is stopped', stoppedProcess('dialer', 'listener'), { waits: true, long: () => true }),
];

module.exports = { SCENARIOS };
