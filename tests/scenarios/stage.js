'use strict';

const { once } = require('events');

const { within } = require('./deadline');
const { Player } = require('./player');
const { Proxy } = require('./proxy');
const { relay } = require('./relay');

/** The role that players have in most scenarios. */
const ROLE = 'svc';

/** The players and proxies of a scenario, or of some that follow each other. */
class Stage {
  /**
   * @param pair the implementations that dial and listen
   * @param limit milliseconds that any single wait may take; can be changed
   */
  constructor(pair, limit) {
    this.pair = pair;
    this.limit = limit;
    this.players = [];
    this.proxies = [];
    this.fails = this.fails.bind(this);
    this.works = this.works.bind(this);
  }

  /** One more player. */
  async add(implementation, name, options = {}) {
    const player = new Player(implementation, name, this);
    this.players.push(player);
    await player.ask('start', { name, friendly: false, keys: [], ...options });
    return player;
  }

  async start({ dialer, listener }) {
    [this.dialer, this.listener] = await Promise.all([
      this.add(this.pair.dialer, 'dialer', dialer),
      this.add(this.pair.listener, 'listener', listener),
    ]);
  }

  /** Both start with the role and are connected, through a proxy if asked for. */
  async meet({ dialer = {}, listener = {}, through = false, host = '127.0.0.1' } = {}) {
    await this.start({ dialer, listener });
    const both = [this.dialer, this.listener];
    for (const player of both) await player.ask('role', { role: ROLE });
    const port = await this.listener.ask('listen', { host });
    this.url = `ws://${host}:${port}`;
    const proxy = through ? await this.proxy(port) : undefined;
    const url = proxy ? proxy.url : this.url;
    await this.dialer.ask('connect', { url });
    for (const player of both) {
      await player.until('units', { role: ROLE }, (units) => units.length === 1);
    }
    return { proxy };
  }

  /** They meet, or go on; what they have observed so far no longer counts. */
  async meetOnce(options) {
    if (!this.dialer) await this.meet(options);
    for (const player of this.players) player.seen = [];
  }

  /** The same part, played by a new process. */
  async replace(part, name) {
    this[part] = await this.add(this.pair[part], name);
    await this[part].ask('role', { role: ROLE });
  }

  async proxy(port) {
    const proxy = await new Proxy(port).listen();
    this.proxies.push(proxy);
    return proxy;
  }

  /** Somebody in between with this certificate. */
  async relay(pem, port) {
    const between = await relay(pem, port);
    this.proxies.push(between);
    return between;
  }

  /**
   * An address to listen on more than once: on 127.0.0.1, anybody's connection could take the port meanwhile.
   * Only Linux has more than that one.
   */
  ownHost() {
    if (process.platform !== 'linux') return '127.0.0.1';
    const number = ++Stage.hosts;
    return `127.77.${number >> 8}.${number & 255}`;
  }

  /** Waits for an emitter's event until the condition holds. */
  async until(what, emitter, event, holds) {
    const wait = async () => {
      while (!holds()) await once(emitter, event);
    };
    await within(this.limit, what, wait());
  }

  /** Waits for an answer, be it a result or an error. */
  async settles(answer) {
    try {
      await answer;
    } catch (error) {
      if (!error.answered) throw error;
    }
  }

  /** The text of the error with which the command fails. */
  fails(player, command, parameters) {
    return this.failure(player.ask(command, parameters));
  }

  /** The text of the error that a player has answered. */
  async failure(answer) {
    let result;
    try {
      result = await answer;
    } catch (error) {
      if (!error.answered) throw error;
      return error.message;
    }
    throw new Error(`it succeeded, with ${JSON.stringify(result)}`);
  }

  /** Requests are answered in both directions, at once. */
  async works() {
    for (const player of [this.dialer, this.listener]) {
      const request = { role: ROLE, event: 'length', data: { type: 'binary', value: 'abcd' } };
      const { value } = await player.ask('request', request);
      if (Number(value) !== 2) throw new Error(`${player.name} was answered ${value}`);
    }
  }

  /** Requests are answered in both directions, sooner or later. */
  async worksAgain() {
    for (const player of [this.dialer, this.listener]) {
      const data = { type: 'binary', value: 'abcd' };
      const request = { role: ROLE, event: 'length', data, timeout: 3000 };
      await player.until('request', request, ({ value }) => Number(value) === 2);
    }
  }

  /** Fails when a process has died that nobody has ended. */
  async isAlive() {
    const alive = this.players.filter((player) => !player.ending && !player.stopped);
    await Promise.all(alive.map((player) => player.ask('units')));
  }

  /** Ends everything; fails when a process had ended by itself. */
  async end() {
    for (const proxy of this.proxies) proxy.close();
    const crashed = this.players.find((player) => player.crashed);
    await Promise.all(this.players.map((player) => player.dead ?? player.kill()));
    if (crashed) throw crashed.dead;
  }
}

Stage.hosts = 0;

module.exports = { Stage, ROLE };
