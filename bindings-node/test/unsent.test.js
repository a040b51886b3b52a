'use strict';

// Messages in the queue of a unit that is lost go to another one.

const assert = require('node:assert/strict');
const { until } = require('./support/network');
const { beyond } = require('./support/subject');

const SIZE = 100_000;
/** More than what sockets hold. */
const EACH = 300;

/** A client with a unit that reads nothing, and a service; what the service was told. */
async function field(network) {
  const client = await network.listener();
  const destination = client.destination('r');
  const stuck = await network.raw(client);
  await stuck.handshake();
  stuck.socket.pause();
  const service = await network.listener();
  const told = [];
  service.role('r').onMessage('m', ({ data }) => told.push(data.readUInt32LE(0)));
  service.role('r').onMessage('last', () => told.push('last'));
  await network.join(client, service);
  await until(() => destination.units.length === 2);
  const [unit] = destination.units.filter(({ name }) => name === 'raw');
  return { destination, stuck, unit, told };
}

const message = (number) => {
  const data = Buffer.alloc(SIZE);
  data.writeUInt32LE(number, 0);
  return data;
};

/** Sends so many, each in a turn of its own, so that the socket takes what it can. */
async function sendAll(times, send) {
  for (let number = 0; number < times; number++) {
    send(number);
    await new Promise(setImmediate);
  }
}

beyond('messages in the queue of a unit that is lost go to another one, in their order', async (network) => {
  const { destination, stuck, unit, told } = await field(network);
  await sendAll(2 * EACH, (number) => destination.send('m', message(number)));
  assert.ok(unit.stats().connections[0].queued > 1e6, 'it reads nothing');
  stuck.socket.resetAndDestroy();
  await until(() => !destination.units.includes(unit));
  destination.send('last', null);
  await until(() => told.includes('last'));
  assert.equal(new Set(told).size, told.length, 'none came twice');
  const moved = told.slice(EACH, -1);
  assert.ok(moved.length > 10, `${moved.length} of ${EACH}`);
  assert.deepEqual(
    moved,
    [...moved].sort((a, b) => a - b),
  );
});

beyond('messages for a chosen unit, by choice of a function, and broadcasts, are for no other', async (network) => {
  const { destination, stuck, unit, told } = await field(network);
  const balance = () => unit;
  await sendAll(EACH, (number) => destination.send({ event: 'm', ...(number % 2 ? { unit } : { balance }) }, message(number)));
  destination.broadcast('m', message(EACH));
  stuck.socket.resetAndDestroy();
  await until(() => !destination.units.includes(unit));
  destination.send('last', null);
  await until(() => told.includes('last'));
  assert.deepEqual(told, [EACH, 'last']);
});

beyond('a message whose callback is told that it was not sent is not sent', async (network) => {
  const { destination, stuck, unit, told } = await field(network);
  const [written, lost] = [[], []];
  const sent = [];
  const send = (number) =>
    sent.push(
      new Promise((resolve) => {
        destination.send('m', message(number), (error) => resolve((error ? lost : written).push(number)));
      }),
    );
  await sendAll(2 * EACH, send);
  stuck.socket.resetAndDestroy();
  await until(() => !destination.units.includes(unit));
  await Promise.all(sent);
  destination.send('last', null);
  await until(() => told.includes('last'));
  assert.ok(lost.length > 10, `${lost.length} of ${EACH}`);
  assert.ok(lost.every((number) => !told.includes(number)));
});
