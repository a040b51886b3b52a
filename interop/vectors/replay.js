'use strict';

// Replays a recorded conversation: what the other side sent is sent to a peer of ours, what the side
// that the peer plays sent is what it has to send. Where that was the decision of an application, the
// player is told to do it.

const assert = require('assert/strict');
const { createHmac } = require('crypto');

const { within } = require('../../tests/scenarios/deadline');
const { TYPE, decode, encode, number, toWire } = require('./frames');

/** The recordings have proofs, but not the secrets. */
const SECRET = 'a secret of the recorded peers';
/** Milliseconds for a step, which is only there to fail. */
const LIMIT = 10_000;

const STREAM_REQUESTS = [TYPE.READABLE, TYPE.WRITABLE];
const REQUESTS = [TYPE.REQUEST, ...STREAM_REQUESTS];

class Replay {
  /**
   * @param recording frames and closes in their order, see conversations.json
   * @param we which side the peer plays: `c`, the dialer, or `s`, the listener
   */
  constructor(recording, we) {
    this.steps = recording.map((step) => ({ ...step, ours: step.from === we, bytes: bytes(step) }));
    for (const step of this.steps) if (step.bytes) step.frame = decode(step.bytes);
    this.steps = this.steps.filter((step) => !this.isBeyondPlayers(step));
    this.renumber();
    /** What was asked by the player, by correlation. */
    this.asked = new Map();
    this.confirm = this.first(TYPE.CONFIRM, true) ?? { json: { roles: [], name: '' } };
    this.roles = new Set(this.confirm.json.roles);
    /** What the other side serves, and the counter of its last announcement. */
    this.offered = { roles: this.first(TYPE.CONFIRM, false)?.json.roles ?? [], counter: 0 };
    this.known = new Set(this.offered.roles);
  }

  /**
   * What players cannot ask for: a role without a name, which our peers refuse, and streams of roles
   * that the unit does not serve all the time.
   */
  isBeyondPlayers({ ours, frame }) {
    const announces = ({ ours: mine, frame: one }) => {
      return !mine && [TYPE.CONFIRM, TYPE.ROLES].includes(one?.type);
    };
    const always = (role) => {
      return this.steps.filter(announces).every(({ frame: one }) => one.json.roles.includes(role));
    };
    const cannotAsk = ({ type, role }) => {
      if (type === TYPE.REQUEST || type === TYPE.MESSAGE) return role === '';
      return STREAM_REQUESTS.includes(type) && !always(role);
    };
    if (ours) return frame !== undefined && cannotAsk(frame);
    if (![TYPE.RESPONSE, TYPE.REJECT, TYPE.REFUSE].includes(frame?.type)) return false;
    const asked = (step) => step.ours && REQUESTS.includes(step.frame?.type);
    const request = this.steps.find((step) => asked(step) && step.frame.corr === frame.corr);
    return request !== undefined && cannotAsk(request.frame);
  }

  /** The original skips a number when it cannot send a request. Ours do not. */
  renumber() {
    const numbers = new Map();
    for (const step of this.steps) {
      const { ours, frame } = step;
      if (frame?.corr === undefined) continue;
      const isRequest = REQUESTS.includes(frame.type);
      if (isRequest !== ours) continue;
      if (isRequest) numbers.set(frame.corr, number(numbers.size));
      frame.corr = numbers.get(frame.corr) ?? frame.corr;
      step.bytes = encode(frame);
    }
  }

  first(type, ours) {
    return this.steps.find((step) => step.ours === ours && step.frame?.type === type)?.frame;
  }

  /** How the player has to be started. */
  get start() {
    const challenge = this.first(TYPE.CHALLENGE, true);
    // Where the recorded keys differ, ours must.
    const wrong = this.first(TYPE.ERROR, true)?.json.includes('mismatch');
    this.secret = wrong ? `not ${SECRET}` : SECRET;
    const keys = (challenge?.json.ids ?? []).map((id) => [id, this.secret]);
    const { name, friendly = true } = this.confirm.json;
    return { name: name ?? '', friendly, keys };
  }

  /** Roles and handlers as the recorded application had them, which shows in what it answered. */
  async prepare(player, disabled = []) {
    this.inactive = disabled;
    this.handlers = this.recordedHandlers();
    for (const role of this.roles) await this.create(role, player, !disabled.includes(role));
  }

  recordedHandlers() {
    const handlers = new Map();
    const refused = new Set();
    for (const { ours, frame } of this.steps) {
      if (ours || ![TYPE.MESSAGE, TYPE.REQUEST].includes(frame?.type)) continue;
      const { role, event, corr } = frame;
      const answer = this.answer(corr);
      const key = keyOf(frame);
      if (isRefusal(answer)) refused.add(key);
      if (!handlers.has(key)) handlers.set(key, { role, event, answers: [] });
      if (answer) handlers.get(key).answers.push(answerOf(answer));
    }
    for (const key of refused) handlers.delete(key);
    return handlers;
  }

  async create(role, player, active = true) {
    await player.ask('role', { role, active });
    for (const handler of this.handlers.values()) {
      if (handler.role === role) await player.ask('handler', handler);
    }
  }

  /** Whether the recorded application was given this message or request. */
  handled(frame) {
    const active = this.roles.has(frame.role) && !this.inactive.includes(frame.role);
    return active && this.handlers.has(keyOf(frame));
  }

  /** What the recorded application answered to a request of the other side. */
  answer(corr) {
    const kinds = [TYPE.RESPONSE, TYPE.REJECT];
    const is = ({ ours, frame }) => ours && kinds.includes(frame?.type) && frame.corr === corr;
    return corr === undefined ? undefined : this.steps.find(is)?.frame;
  }

  async run(socket, player) {
    let closed = false;
    for (const [index, step] of this.steps.entries()) {
      try {
        let done;
        if (!step.frame) done = this.close(step, socket, player, closed);
        else if (step.ours) done = this.expect(step, socket, player);
        else done = this.send(step, socket, player);
        await within(LIMIT, 'the peer', done);
        closed ||= !step.frame;
      } catch (error) {
        error.message = `step ${index + 1}, ${describe(step)}: ${error.message}`;
        throw error;
      }
    }
  }

  /** Sends what the other side sent, and looks at what it does to the player. */
  async send({ frame, bytes: recorded }, socket, player) {
    switch (frame.type) {
      case TYPE.CHALLENGE:
        this.challenge = frame.json.challenge;
        socket.binary(recorded);
        break;
      case TYPE.PROOF: {
        const { id } = frame.json;
        socket.binary(encode({ type: TYPE.PROOF, json: { id, proof: proof(this.theirs, SECRET) } }));
        break;
      }
      case TYPE.MESSAGE:
      case TYPE.REQUEST: {
        socket.binary(recorded);
        if (!this.handled(frame)) break;
        const observed = await player.observe(frame.type === TYPE.MESSAGE ? 'message' : 'request');
        const { role, data } = observed;
        assert.deepEqual({ role, data: plain(data) }, seen(frame));
        break;
      }
      case TYPE.RESPONSE:
        socket.binary(recorded);
        assert.deepEqual(plain(await this.asked.get(frame.corr)), plain(toWire(frame.payload)));
        break;
      case TYPE.REJECT:
      case TYPE.REFUSE:
        socket.binary(recorded);
        await assert.rejects(this.asked.get(frame.corr), ({ answered, message }) => {
          // roletalk's errors of streams hold the reason in JSON.
          const text = reason(frame);
          return answered && [text, JSON.stringify(text)].some((one) => message.includes(one));
        });
        break;
      case TYPE.ROLES:
        socket.binary(recorded);
        await this.announced(frame.json, player);
        break;
      default:
        socket.binary(recorded);
    }
  }

  /** Waits for what the peer has to send, and has the player do what leads to it. */
  async expect(step, socket, player) {
    const { frame, bytes: recorded } = step;
    const { type } = frame;
    const handshake = [TYPE.CHALLENGE, TYPE.PROOF, TYPE.CONFIRM, TYPE.ERROR].includes(type);
    if (handshake) return this.expectHandshake(frame, socket);
    const isAnswer = type === TYPE.RESPONSE || type === TYPE.REJECT;
    if (!isAnswer && !(await this.act(frame, player))) return undefined;
    if (type === TYPE.ROLES) return this.expectRoles(socket);
    const wanted = isAnswer ? ({ corr }) => corr === frame.corr : (other) => other.type === type;
    const sent = await socket.take((one) => one.code !== undefined || wanted(decode(one)));
    assert.equal(sent.code, undefined, `it closed with ${sent.code}`);
    if (STREAM_REQUESTS.includes(type)) return sameStream(decode(sent), frame);
    return sameBytes(sent, recorded);
  }

  /** Ours may announce a change in more steps than the recorded one, or in fewer. */
  async expectRoles(socket) {
    const wanted = [...this.roles].sort().join();
    let announced;
    do {
      const sent = await socket.take((one) => decode(one).type === TYPE.ROLES);
      const { i, roles } = decode(sent).json;
      assert.ok(i > (this.counter ?? 0), `the counter ${i} does not grow`);
      this.counter = i;
      announced = [...roles].sort().join();
    } while (announced !== wanted);
  }

  async expectHandshake(frame, socket) {
    const sent = decode(await socket.take());
    assert.equal(sent.type, frame.type);
    switch (frame.type) {
      case TYPE.CHALLENGE:
        assert.deepEqual(sent.json.ids, frame.json.ids);
        assert.match(sent.json.challenge, /^[0-9a-f]{64}$/);
        this.theirs = sent.json.challenge;
        break;
      case TYPE.PROOF:
        assert.equal(sent.json.id, frame.json.id);
        assert.equal(sent.json.proof, proof(this.challenge, this.secret));
        break;
      case TYPE.ERROR:
        assert.equal(sent.json, frame.json);
        break;
      default:
        sameConfirm(sent.json, frame.json, this.inactive);
    }
  }

  /** The player may know of its unit later than the other side has sent the end of the handshake. */
  connected(player) {
    this.connection ??= player.until('units', {}, (units) => units.length === 1);
    return this.connection;
  }

  /** Has the player do what the recorded application did; false when there is nothing to expect. */
  async act(frame, player) {
    const { type, role, event, corr, payload } = frame;
    await this.connected(player);
    if (type === TYPE.ROLES) return this.changeRoles(frame.json.roles, player);
    if (type === TYPE.MESSAGE) {
      await player.ask('send', { role, event, data: toWire(payload), direct: true });
    } else if (type === TYPE.REQUEST) {
      const request = { role, event, data: toWire(payload), direct: true };
      this.asked.set(corr, player.ask('request', request));
    } else {
      const command = type === TYPE.WRITABLE ? 'upload' : 'download';
      const plan = { tag: corr, size: 1, piece: 1 };
      this.asked.set(corr, player.ask(command, { role, event, plan }));
    }
    return true;
  }

  async changeRoles(roles, player) {
    const before = [...this.roles].sort().join();
    for (const role of this.roles) if (!roles.includes(role)) await player.ask('disable', { role });
    this.created ??= new Set(this.roles);
    for (const role of roles) {
      if (!this.created.has(role)) await this.create(role, player);
      else if (!this.roles.has(role)) await player.ask('enable', { role });
      this.created.add(role);
    }
    this.roles = new Set(roles);
    // The original also announces what has not changed.
    return before !== [...roles].sort().join();
  }

  /** An announcement counts when its counter is above the last, or it has none. */
  async announced({ i, roles }, player) {
    for (const role of roles) this.known.add(role);
    if (i === undefined || i > this.offered.counter) {
      this.offered = { roles, counter: i ?? this.offered.counter };
    }
    for (const role of this.known) {
      const count = this.offered.roles.includes(role) ? 1 : 0;
      await player.until('units', { role }, (units) => units.length === count);
    }
  }

  async close({ ours, close, reason: text }, socket, player, closed) {
    if (!ours) return socket.closeFrame(close, text);
    if (!closed && close === 4000) {
      await this.connected(player);
      await player.ask('disconnect');
    }
    const { code, reason: said } = await socket.take(({ code: one }) => one !== undefined);
    // Who answers a close repeats the code; the text is for those who read logs.
    if (!closed && close === 4000) assert.deepEqual({ code, said }, { code: close, said: text });
    else assert.equal(code, close ?? 4002);
    return undefined;
  }
}

/** The recorded bytes; of long ones, the file has the head and what it was filled with. */
function bytes({ hex, head, fill, length }) {
  if (hex !== undefined) return Buffer.from(hex, 'hex');
  if (head === undefined) return undefined;
  const start = Buffer.from(head, 'hex');
  const left = length - start.length;
  const counter = () => Buffer.from(Array.from({ length: left }, (_, at) => at * 31 + (at >> 8)));
  return Buffer.concat([start, fill === 'letter' ? Buffer.alloc(left, 'ж') : counter()]);
}

function describe({ ours, frame, close }) {
  const what = frame ? JSON.stringify(frame.json ?? toWire(frame.payload)) : `close ${close}`;
  return `${ours ? 'from us' : 'to us'} ${what.slice(0, 100)}`;
}

function proof(challenge, secret) {
  return createHmac('sha256', secret).update(challenge).digest('hex');
}

function keyOf({ role, event }) {
  return JSON.stringify([role, event]);
}

function isRefusal(answer) {
  const refusal = /^The (role|event) ".*" is (not|disabled)/s;
  return answer?.type === TYPE.REJECT && refusal.test(toWire(answer.payload).value);
}

/** An answer as the command `handler` takes it. */
function answerOf({ type, payload }) {
  const data = toWire(payload);
  return type === TYPE.REJECT ? { error: data.value } : { result: data };
}

function reason({ type, payload }) {
  const { value } = toWire(payload);
  if (type === TYPE.REFUSE) return JSON.parse(value).data;
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

function seen({ role, payload }) {
  return { role, data: plain(toWire(payload)) };
}

/** Numbers that are written differently are the same. */
function plain({ type, value }) {
  return { type, value: type === 'number' ? Number(value) : value };
}

function sameBytes(sent, recorded) {
  if (sent.equals(recorded)) return;
  const [one, other] = [decode(sent), decode(recorded)];
  const isObject = (frame) => frame.payload?.[0] === 5;
  if (isObject(one) && isObject(other)) {
    const value = ({ payload, ...rest }) => ({ ...rest, value: toWire(payload).value });
    assert.deepEqual(value(one), value(other));
    return;
  }
  const show = (bytes) => bytes.toString('hex').replace(/^(.{400}).*$/, '$1…');
  assert.fail(`expected ${show(recorded)}, actual ${show(sent)}`);
}

/** The number of a stream is the requester's choice, and the payload is the player's. */
function sameStream(sent, recorded) {
  const { role, event, corr } = recorded;
  assert.deepEqual({ role: sent.role, event: sent.event, corr: sent.corr }, { role, event, corr });
  assert.doesNotMatch(sent.chan, /^(00)*$/);
}

function sameConfirm(sent, recorded, inactive) {
  const names = ['friendly', 'id', 'meta', 'name', 'roles', 'tags'];
  for (const name of names) assert.ok(name in sent, `${name} is missing`);
  const listed = recorded.roles.filter((role) => !inactive.includes(role));
  assert.deepEqual([...sent.roles].sort(), listed.sort());
  assert.equal(sent.friendly, recorded.friendly);
  assert.equal(sent.name, recorded.name);
  assert.equal(sent.meta.protocol, recorded.meta.protocol);
  for (const name of ['time', 'uptime']) assert.ok(Number.isInteger(sent.meta[name]), name);
}

module.exports = { Replay };
