'use strict';

const { once } = require('events');
const tls = require('tls');

/**
 * Somebody in between, with a certificate that the dialer trusts: passes on all that both sides say over TLS.
 *
 * @param pem its `cert` and `key`
 * @param port of the listener
 */
async function relay(pem, port) {
  const sockets = new Set();
  const server = tls.createServer({ cert: pem.cert, key: pem.key });
  server.on('secureConnection', (from) => {
    const to = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false });
    for (const [one, other] of [
      [from, to],
      [to, from],
    ]) {
      sockets.add(one);
      one.on('error', () => {});
      one.on('close', () => other.destroy());
      one.pipe(other);
    }
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return {
    url: `wss://localhost:${server.address().port}`,
    close() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

module.exports = { relay };
