'use strict';

// A listener that does no more than keep the newest connections, of which it closes the oldest: what an attack takes
// from a machine whoever is attacked. Prints its port, and goes on until its stdin ends.

const net = require('node:net');

const KEPT = 512;

const kept = [];
const server = net.createServer((socket) => {
  socket.on('error', () => {});
  kept.push(socket);
  if (kept.length > KEPT) kept.shift().destroy();
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.resume().on('end', () => process.exit());
