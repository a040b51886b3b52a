'use strict';

// One process of a pair: `child.js <library> serve`, or `child.js <library> ask <port>`.

const { scenarios, serve } = require('./scenarios.js');

const [library, kind, port] = process.argv.slice(2);
const { Peer } = require(library);
const peer = new Peer();

function cpu() {
  const { user, system } = process.cpuUsage();
  return user + system;
}

async function measure({ name, millis }) {
  const { count, latencies } = await scenarios[name].run(destination, millis);
  latencies?.sort((a, b) => a - b);
  const at = (share) => latencies && latencies[Math.floor(latencies.length * share)];
  return { count, p50: at(0.5), p99: at(0.99) };
}

const destination = peer.destination('bench');

process.on('message', async ({ command, ...rest }) => {
  if (command === 'cpu') process.send({ cpu: cpu() });
  if (command === 'measure') process.send(await measure(rest));
});
process.on('disconnect', () => process.exit(0));

(async () => {
  if (kind === 'serve') {
    serve(peer);
    await peer.listen({ port: 0, host: '127.0.0.1' });
    process.send({ port: peer._port });
    return;
  }
  await peer.connect(`ws://127.0.0.1:${port}`);
  process.send({ ready: true });
})();
