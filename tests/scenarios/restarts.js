'use strict';

// Services are replaced one after the other while they are asked, and nobody notices.

const { certificate } = require('../players');
const { within } = require('./deadline');
const { ROLE } = require('./stage');
const { Traffic } = require('./traffic');

const SERVICES = 3;
const REPLACEMENTS = 4;
const IN_FLIGHT = 64;

/** Services that come and go, and the one peer that asks them. */
class Fleet {
  /** @param link `delay`, milliseconds that each way takes longer; `tls`, whether connections have it */
  constructor(stage, { delay = 0, tls = false } = {}) {
    this.stage = stage;
    this.delay = delay;
    this.pem = tls ? certificate() : undefined;
    /** Those of the role, the replaced ones among them, the oldest first. */
    this.services = [];
  }

  async start() {
    this.asker = await this.stage.add(this.stage.pair.dialer, 'asker');
    await this.asker.ask('destination', { role: ROLE });
    for (let n = 0; n < SERVICES; n++) await this.begin();
  }

  /** One more service that the asker knows. */
  async begin() {
    this.services.push(await this.add(`service ${this.services.length}`, ROLE));
  }

  async add(name, role) {
    const { stage, asker, delay, pem } = this;
    const service = await stage.add(stage.pair.listener, name);
    await service.ask('role', { role });
    let port = await service.ask('listen', { tls: pem });
    if (delay > 0) {
      const proxy = await stage.proxy(port);
      proxy.delay = delay;
      port = new URL(proxy.url).port;
    }
    const url = `${pem ? 'wss' : 'ws'}://127.0.0.1:${port}`;
    await asker.ask('connect', { url, ca: pem?.cert, once: true });
    await asker.until('units', { role }, (units) => units.includes(name));
    return service;
  }

  /** The asker knows that this service is leaving. */
  async left({ name }) {
    await this.asker.until('units', { role: ROLE }, (units) => !units.includes(name));
  }
}

function rollingRestart(link) {
  return async (stage) => {
    const fleet = new Fleet(stage, link);
    await fleet.start();
    const { asker, services } = fleet;
    const traffic = new Traffic(asker, { inFlight: IN_FLIGHT });
    for (let n = 0; n < REPLACEMENTS; n++) {
      await fleet.begin();
      await services.at(-1).observe('counted');
      await services[n].ask('drain');
      await fleet.left(services[n]);
      await services[n].kill();
    }
    await within(stage.limit, 'the last answers', traffic.end(services));
    traffic.assertNoneFailed();
  };
}

module.exports = { Fleet, rollingRestart };
