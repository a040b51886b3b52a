'use strict';

// The player for roletalk's JavaScript interface: `node peer.js <module>`, where the module is our
// package or the original. It keeps to what both have. See ../../README.md for the protocol.

const { createHash } = require('crypto');
const { createInterface } = require('readline');
const { setDefaultHighWaterMark } = require('stream');
const { setFlagsFromString } = require('v8');
const { runInNewContext } = require('vm');

const { pattern } = require('../../scenarios/pattern');

const { HandlerError, Peer } = require(process.argv[2]);

let peer;
const roles = new Map();
const held = [];
/** How to give up a command that waits, by its id. */
const cancels = new Map();
/** By the tag of the plan: readers that pause, and the bytes that writers have got rid of. */
const paused = new Map();
const progress = new Map();
/** Given to the streams that this peer asks for. */
let streamOptions;

const print = (line) => process.stdout.write(JSON.stringify(line) + '\n');
const observe = (event, fields) => print({ event, ...fields });

const commands = {
  start({ name, friendly, keys, highWaterMark, balance, policy, origins, channelBinding, connectionAge }) {
    if (highWaterMark !== undefined) {
      streamOptions = { highWaterMark };
      // There is no option for the streams that others ask for.
      setDefaultHighWaterMark(false, highWaterMark);
    }
    // The original has none of these.
    const own = Object.entries({ policy, origins, channelBinding, connectionAge }).filter(([, value]) => value !== undefined);
    peer = new Peer({ name, friendly, balance, ...Object.fromEntries(own) });
    for (const [id, key] of keys) peer.addPresharedKey(id, key);
    // An EventEmitter of both packages; the original's refusals would be unhandled otherwise.
    peer.on('auth_error', () => {});
  },
  role({ role, active }) {
    const made = peer.role(role, active);
    roles.set(role, made);
    serve(made);
  },
  handler({ role, event, answers }) {
    const target = roles.get(role);
    if (!answers) {
      target.onMessage(event, () => {});
      target.onRequest(event, (ctx, reply) => reply(null, ctx.data));
      return;
    }
    target.onMessage(event, (ctx) => seen('message', target, ctx));
    target.onRequest(event, (ctx, reply) => {
      seen('request', target, ctx);
      const { error, result } = answers.shift();
      if (error === undefined) reply(null, fromWire(result));
      else reply(new Error(error));
    });
  },
  enable: ({ role }) => roles.get(role).enable(),
  disable: ({ role }) => roles.get(role).disable(),
  async listen({ tls, host = '127.0.0.1', port = 0 }) {
    const options = { port, host };
    if (tls) options.ssl = tls;
    await peer.listen(options);
    return peer.port ?? peer._port;
  },
  renew: ({ tls }) => peer.replaceTls(tls),
  async connect({ url, ca, once }) {
    const options = ca ? { ca, rejectUnauthorized: true } : {};
    if (once) options.permanent = false;
    const { unit } = await peer.connect(url, options);
    return unit.name;
  },
  destination({ role }) {
    peer.destination(role);
  },
  /** Neither package tells of a connection before its handshake, or why one has closed. */
  events() {
    const told = (what, fields) => observe('peer', { what, ...fields });
    peer.on('unit', (unit) => {
      const { id, name } = unit;
      told('unit-opened', { unit: name, unitId: id });
      unit.on('error', (error) => told('bad-input', { unit: name, kind: error.code, text: text(error) }));
      unit.on('close', () => told('unit-closed', { unit: name }));
    });
    peer.on('reconnect_success', ({ address }) => told('reconnected', { address }));
    peer.on('denied', (unit, { what, role }) => told('denied', { unit: unit.name, kind: what, role }));
    peer.on('auth_error', (error) => told('auth-refused', { text: text(error) }));
    peer.on('accept_error', (error) => told('accept-failed', { kind: error.code, text: text(error) }));
    peer.on('handler_error', (error, ctx) => {
      told('handler-failed', { unit: ctx?.unit.name, text: text(error) });
    });
  },
  async collect() {
    setFlagsFromString('--expose-gc');
    const gc = runInNewContext('gc');
    gc();
    // Then run the finalizers, which let go of more.
    await new Promise((resolve) => setImmediate(resolve));
    gc();
    const { heapUsed, external } = process.memoryUsage();
    return heapUsed + external;
  },
  totals() {
    const units = peer.units.map((unit) => unit.stats());
    const sum = (count) => units.reduce((total, unit) => total + count(unit), 0);
    return {
      units: units.length,
      connections: sum(({ connections }) => connections.length),
      waiting: sum(({ waiting }) => waiting),
      running: sum(({ running }) => running),
      streams: sum(({ streams }) => streams),
      handshakes: peer.stats().handshakes,
      queued: sum(({ connections }) => connections.reduce((all, { queued }) => all + queued, 0)),
    };
  },
  units: ({ role }) => names(role ? peer.destination(role).units : peer.units),
  stats: () => peer.units.map((unit) => ({
    ...unit.stats(),
    unit: unit.name,
    roles: unit.getRoles(),
    connections: unit.stats()?.connections.length ?? 0,
  })),
  async request({ id, role, event, data, timeout, direct, to }) {
    const controller = new AbortController();
    cancels.set(id, () => controller.abort());
    const options = { event, timeout, signal: controller.signal, unit: named(to) };
    if (direct) [options.unit] = peer.units;
    const answer = await peer.destination(role).request(options, fromWire(data));
    return toWire(answer);
  },
  async ask({ id, role, event, data, timeout, to, headers = [], required, traceparent }) {
    const controller = new AbortController();
    cancels.set(id, () => controller.abort());
    const options = {
      event,
      timeout,
      signal: controller.signal,
      unit: named(to),
      headers: headers.map(([name, value]) => [name, fromWire(value)]),
      requireHeaders: required,
      traceparent,
    };
    const answer = await peer.destination(role).request(options, fromWire(data));
    const pairs = answer.getAllHeaders().map(([name, value]) => [name, header(value)]);
    return { data: toWire(answer), headers: pairs };
  },
  /** All take the next number from one iterator. */
  async flow({ role, event = 'count', from = 0, count, inFlight = count, size = 0, to, timeout }) {
    const destination = peer.destination(role);
    const options = { event, timeout, unit: named(to) };
    const result = { answered: 0, failed: [], wrong: [], by: {}, errors: {} };
    const add = (counts, key) => (counts[key] = (counts[key] ?? 0) + 1);
    const numbers = Array.from({ length: count }, (_, i) => from + i).values();
    const ask = async () => {
      for (const number of numbers) {
        try {
          const { data } = await destination.request(options, `${number} `.padEnd(size));
          const [answered, name] = String(data).split(/ (.*)/s);
          if (Number(answered) === number) result.answered++;
          else result.wrong.push(number);
          add(result.by, name);
        } catch (error) {
          result.failed.push(number);
          add(result.errors, error.code ?? text(error));
        }
      }
    };
    await Promise.all(Array.from({ length: inFlight }, ask));
    return result;
  },
  broadcast({ role, event, data }) {
    const destination = peer.destination(role);
    const { length } = destination.units;
    destination.broadcast({ event }, fromWire(data));
    return length;
  },
  async survey({ role, event, data }) {
    const answers = [];
    for await (const { unit, ctx, error } of peer.destination(role).survey({ event }, fromWire(data))) {
      answers.push({ from: unit.name, ...(error ? { error: text(error) } : { data: toWire(ctx) }) });
    }
    return answers;
  },
  async hold({ role, count }) {
    const numbers = Array.from({ length: count }, (_, i) => i);
    const destination = peer.destination(role);
    const answers = await Promise.all(
      numbers.map((number) => destination.request({ event: 'hold' }, number)),
    );
    return numbers.filter((number) => answers[number].data === number).length;
  },
  release() {
    // The last first, so that an answer that finds its request by position is seen.
    while (held.length > 0) held.pop()();
  },
  async large({ role, size }) {
    const answer = await peer.destination(role).request({ event: 'length' }, Buffer.alloc(size, 1));
    return answer.data;
  },
  send({ role, event, data, direct }) {
    const options = { event };
    if (direct) [options.unit] = peer.units;
    peer.destination(role).send(options, fromWire(data));
  },
  upload({ id, role, event, plan, to }) {
    const destination = peer.destination(role);
    const stream = destination.Writable({ event, unit: named(to) }, JSON.stringify(plan), streamOptions);
    cancels.set(id, () => stream.destroy(new Error('cancelled')));
    return write(stream, plan);
  },
  download({ id, role, event, plan, to }) {
    const destination = peer.destination(role);
    const stream = destination.Readable({ event, unit: named(to) }, JSON.stringify(plan), streamOptions);
    cancels.set(id, () => stream.destroy(new Error('cancelled')));
    return read(stream, plan);
  },
  resume({ tag }) {
    paused.get(tag).resume();
  },
  progress: ({ tag }) => progress.get(tag),
  cancel({ target }) {
    // It may be over by now.
    cancels.get(target)?.();
  },
  disconnect() {
    for (const unit of peer.units) unit.close();
  },
  async drain() {
    await peer.drain();
  },
  close: () => new Promise((resolve) => {
    peer.close(() => resolve());
  }),
};

/** The unit of this name; undefined without a name. */
function named(name) {
  if (name === undefined) return undefined;
  const unit = peer.units.find((one) => one.name === name);
  if (!unit) throw new Error(`there is no unit ${name}`);
  return unit;
}

function names(units) {
  return units.map((unit) => unit.name).sort();
}

function seen(event, role, ctx) {
  observe(event, { role: role.name, from: ctx.unit.name, data: toWire(ctx) });
}

/** What every role of a player does. */
function serve(role) {
  role.onMessage('note', (ctx) => seen('message', role, ctx));
  role.onRequest('echo', (ctx, reply) => {
    seen('request', role, ctx);
    reply(null, ctx.data);
  });
  role.onRequest('name', (ctx, reply) => reply(null, peer.name));
  role.onRequest('count', (ctx, reply) => {
    const number = parseInt(ctx.data, 10);
    observe('counted', { number });
    reply(null, `${number} ${peer.name}`);
  });
  role.onRequest('length', (ctx, reply) => reply(null, ctx.data.length));
  role.onRequest('fail', (ctx, reply) => {
    reply(new Error(typeof ctx.data === 'string' ? ctx.data : 'no such luck'));
  });
  const fail = () => {
    throw new Error('thrown');
  };
  role.onMessage('throw', fail);
  role.onRequest('throw', fail);
  role.onRequest('never', () => void observe('ignored'));
  role.onRequest('hold', (ctx, reply) => {
    held.push(() => reply(null, ctx.data));
    observe('held', { count: held.length });
  });
  role.onRequest('wait', (ctx, reply) => {
    const { signal } = ctx;
    const remaining = ctx.remaining();
    observe('waiting', {
      remaining: remaining === Infinity ? null : Math.floor(remaining),
      traceparent: ctx.traceparent ?? null,
    });
    signal.addEventListener('abort', () => {
      observe('cancelled', { reason: REASONS[signal.reason.reason] ?? 'unknown' });
      reply(new Error('cancelled'));
    });
  });
  role.onRequest('relay', (ctx, reply) => {
    const { role: name, event, data } = ctx.data;
    peer.destination(name).request(event, data).then((answer) => reply(null, answer.data), reply);
  });
  role.onRequest('headers', (ctx, reply) => {
    for (const name of Object.keys(ctx.headers)) ctx.setHeader(name, ctx.headers[name]);
    reply(null, null);
  });
  role.onRequest('failure', (ctx, reply) => {
    const { text: message, code, data, retry } = ctx.data;
    reply(new HandlerError(message, { code, data, retryAfter: retry }));
  });
  role.onReadable('up', (ctx, accept) => {
    const plan = planOf(ctx);
    settle('received', plan, read(ctx.readable, plan));
    accept(null, 'go on');
  });
  role.onWritable('down', (ctx, accept) => {
    const plan = planOf(ctx);
    settle('sent', plan, write(ctx.writable, plan));
    accept(null, 'go on');
  });
  role.onReadable('refuse', (ctx, accept) => accept(JSON.parse(ctx.data).reason));
  role.onWritable('refuse', (ctx, accept) => accept(JSON.parse(ctx.data).reason));
}

function planOf({ type, data }) {
  return type === 'string' ? JSON.parse(data) : { tag: '', size: 1 << 22, piece: 1 << 16 };
}

/** Reports how a stream of a handler has ended. */
function settle(event, { tag }, ended) {
  ended.then(
    (result) => observe(event, { tag, result }),
    (error) => observe(event, { tag, error: text(error) }),
  );
}

/** Reads to the end, or breaks off or pauses after the first piece when the plan says so. */
function read(stream, plan) {
  return new Promise((resolve, reject) => {
    const hash = createHash('sha256');
    let bytes = 0;
    stream.on('error', reject);
    stream.on('end', () => resolve({ bytes, sha256: hash.digest('hex') }));
    stream.on('data', (chunk) => {
      const first = bytes === 0;
      bytes += chunk.length;
      hash.update(chunk);
      if (plan.breaks === 'reader') stream.destroy(new Error(plan.reason));
      if (plan.pauses && first) {
        stream.pause();
        paused.set(plan.tag, stream);
        observe('paused', { tag: plan.tag });
      }
    });
  });
}

/** Writes what the plan says, or breaks off after it. */
async function write(stream, plan) {
  const ended = new Promise((resolve, reject) => {
    stream.on('error', reject);
    stream.on('finish', resolve);
  });
  ended.catch(() => {});
  const hash = createHash('sha256');
  progress.set(plan.tag, 0);
  let written;
  for (let at = 0; at < plan.size && !stream.destroyed; at += plan.piece) {
    const piece = pattern(at, Math.min(plan.piece, plan.size - at));
    hash.update(piece);
    written = new Promise((resolve) => {
      stream.write(piece, () => {
        progress.set(plan.tag, at + piece.length);
        resolve();
      });
    });
    if (stream.writableNeedDrain) {
      await Promise.race([new Promise((resolve) => stream.once('drain', resolve)), ended]);
    }
  }
  await Promise.race([written, ended]);
  if (plan.breaks === 'writer') stream.destroy(new Error(plan.reason));
  else if (!stream.destroyed) stream.end();
  await ended;
  return { bytes: plan.size, sha256: hash.digest('hex') };
}

/** Why a handler was cancelled, as the runner has it. */
const REASONS = { requester: 'requester', deadline: 'deadline', unit_lost: 'unitLost' };

function header(value) {
  if (typeof value === 'string') return { type: 'string', value };
  return { type: 'binary', value: value.toString('hex') };
}

function toWire({ type, data }) {
  switch (type) {
    case 'binary':
      return { type, value: data.toString('hex') };
    case 'number':
      return { type, value: String(data) };
    default:
      return { type, value: data };
  }
}

function fromWire({ type, value }) {
  switch (type) {
    case 'binary':
      return Buffer.from(value, 'hex');
    case 'number':
      return Number(value);
    case 'object':
      // A plain string or number would travel as what it is.
      return Object(value);
    default:
      return value;
  }
}

/** The original rejects with whatever the other side sent. */
function text(error) {
  return error instanceof Error ? error.message : String(error);
}

createInterface({ input: process.stdin })
  .on('line', async (line) => {
    const { command, ...parameters } = JSON.parse(line);
    const { id } = parameters;
    try {
      const result = await commands[command](parameters);
      print({ id, result: result === undefined ? null : result });
    } catch (error) {
      const { code, data, retryAfter, unhandled } = error?.failure ?? {};
      const told = { code, data, retry: retryAfter, unhandled: unhandled ?? false };
      print({ id, error: text(error), kind: error?.code, ...told });
    }
    cancels.delete(id);
  })
  .on('close', () => process.exit(0));
