'use strict';

// Every recorded bad input, sent to a peer in a process of its own: at most its own connection ends.
// The handlers and streams of that peer have no error listeners.

const assert = require('node:assert/strict');
const { after } = require('node:test');
const { CASES, attack } = require('./support/attacker');
const { HOST, addressOf } = require('./support/network');
const { Program } = require('./support/program');
const { RawConnection } = require('./support/raw');
const { differs, subject } = require('./support/subject');

const VICTIMS = `
  process.on('warning', () => {});
  const setUp = {
    'requests': ({ role, event, payload = 1 }, peer, unit) => {
      peer.destination(role).request({ event, unit }, Number(payload)).catch(() => {});
    },
    'opens-readable': ({ role, event, payload = 1 }, peer, unit) => {
      peer.destination(role).Readable({ event, unit }, Number(payload)).resume();
    },
    'opens-writable': ({ role, event, payload = 1 }, peer, unit) => {
      peer.destination(role).Writable({ event, unit }, Number(payload));
    },
    'handles-stream-w': ({ role, event }, peer) => {
      peer.role(role).onReadable(event, ({ readable }, cb) => {
        readable.resume();
        cb(null, null);
      });
    },
    'handles-stream-r': ({ role, event }, peer) => {
      peer.role(role).onWritable(event, ({ writable }, cb) => {
        cb(null, null);
        writable.write('x');
      });
    },
    'handler-throws': ({ role, event }, peer) => {
      const fail = () => {
        throw new Error('handler threw');
      };
      peer.role(role).onMessage(event, fail);
      peer.role(role).onRequest(event, fail);
    },
    'destination': ({ role }, peer) => peer.destination(role),
  };
  const own = ['requests', 'opens-readable', 'opens-writable'];
  let peer = new Peer();
  process.on('message', async ({ keyed, setup, dial }) => {
    peer.close();
    peer = new Peer({ name: 'victim' });
    if (keyed) peer.addPresharedKey('k', 'secret');
    peer.role('r').onMessage('ev', () => {});
    peer.role('r').onRequest('ev', (ctx, cb) => cb(null, ctx.data));
    if (setup && own.includes(setup.victim)) {
      peer.on('unit', (unit) => unit.id === 'rawraw' && setUp[setup.victim](setup, peer, unit));
    } else if (setup) {
      setUp[setup.victim](setup, peer);
    }
    await peer.listen({ port: 0, host: '${HOST}' });
    if (dial) peer.connect(dial, { permanent: false }).catch(() => {});
    tell(peer._port);
  });
`;

let victims;

after(() => victims?.close());

/** Runs a case against the process of the victims, and gives it up when the case fails. */
async function withVictims(run) {
  victims ??= new Program(subject, VICTIMS, { ipc: true });
  try {
    await run(victims);
    assert.deepEqual([victims.process.exitCode, victims.process.signalCode], [null, null]);
  } catch (error) {
    const { stderr } = victims;
    await victims.close();
    victims = undefined;
    throw new Error(`the victim said: ${stderr || 'nothing'}`, { cause: error });
  }
}

for (const { case: name, side, phase, keyed, setup, steps, expect } of CASES) {
  const why = 'it dies of many of these';
  differs(`${name} (${side}, ${phase}, ${expect})`, why, (network) =>
    withVictims(async (program) => {
      const rawListener = side === 'dialer' ? await network.rawListener() : undefined;
      program.process.send({ keyed, setup, dial: rawListener?.address });
      const port = await program.told();

      const friend = network.peer({ name: 'friend', friendly: false });
      if (keyed) friend.addPresharedKey('k', 'secret');
      const { unit } = await friend.connect(addressOf(port));
      const echo = (data) => friend.destination('r').request({ event: 'ev', unit }, data);

      const raw = network.keep(await (rawListener ? rawListener.connection() : RawConnection.dial(port, HOST)));
      if (phase === 'after-handshake') {
        await raw.handshake();
        // The victim has seen the confirm when it answers.
        if (setup === undefined) await raw.request('r', 'ev', 'before');
      }
      await attack(raw, steps);

      if (expect === 'closes' || expect === 'auth-refused') await raw.closed();
      // Of the largest message only the head was sent: nothing else can be said before its body.
      else if (expect !== 'remote-closed' && name !== 'ws-100MiB-header-exact') {
        assert.equal(await raw.request('r', 'ev', 'after', 0x66), 'after');
      }
      assert.equal((await echo('still there?')).data, 'still there?');
      raw.close();
      assert.equal((await echo('still there?')).data, 'still there?');
      assert.equal(unit._sockets.length, 1);
    }),
  );
}
