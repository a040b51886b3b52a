'use strict';

// A listener that only keeps the newest connections and closes the oldest: the baseline for what an attack costs the
// machine, whatever its target. Prints its port, and runs until its stdin ends.

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
