'use strict';

// Services are replaced one after the other while they are asked, and nobody notices.

const { within } = require('./deadline');
const { ROLE } = require('./stage');
const { Traffic } = require('./traffic');

const SERVICES = 3;
const REPLACEMENTS = 4;
const IN_FLIGHT = 64;

/** Milliseconds that each way takes longer. */
function rollingRestart(delay) {
  return async (stage) => {
    stage.dialer = await stage.add(stage.pair.dialer, 'asker');
    const asker = stage.dialer;
    await asker.ask('destination', { role: ROLE });
    const services = [];
    const begin = async () => {
      const service = await stage.add(stage.pair.listener, `service ${services.length}`);
      await service.ask('role', { role: ROLE });
      const proxy = await stage.proxy(await service.ask('listen'));
      proxy.delay = delay;
      await asker.ask('connect', { url: proxy.url, once: true });
      services.push(service);
      await asker.until('units', { role: ROLE }, (units) => units.includes(service.name));
    };
    for (let n = 0; n < SERVICES; n++) await begin();
    const traffic = new Traffic(asker, { inFlight: IN_FLIGHT });
    for (let n = 0; n < REPLACEMENTS; n++) {
      await begin();
      await services.at(-1).observe('counted');
      await services[n].ask('drain');
      await asker.until('units', { role: ROLE }, (units) => !units.includes(services[n].name));
      await services[n].kill();
    }
    await within(stage.limit, 'the last answers', traffic.end(services));
    traffic.assertNoneFailed();
  };
}

module.exports = { rollingRestart };
