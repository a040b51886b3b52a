'use strict';

// Scenarios about streams.

const assert = require('assert/strict');

const { sha256 } = require('./pattern');
const { ROLE } = require('./stage');

/** The handlers that serve the commands for streams. */
const EVENTS = { upload: 'up', download: 'down' };

/** How often a writer has to be found at the same byte to stand still. */
const STANDSTILL = 10;
/**
 * More than a writer gets rid of while the reader does not read: our window of 1 MiB that is unread, as
 * much that an original may still have been granted, and what it writes at a time.
 */
const HELD = 3 << 20;
/** Bytes that are not all on the way yet when the reader has seen the first. */
const LONG = 16 << 20;

let streams = 0;

/** What a stream has to do, see ../README.md. */
function plan(fields) {
  return { tag: `stream ${++streams}`, ...fields };
}

/** The observation with which a stream ends at the responder. */
function ended(command, server, { tag }) {
  return server.observe(command === 'upload' ? 'received' : 'sent', (one) => one.tag === tag);
}

/** A stream arrives whole: both ends count and hash the same. */
function streamsWhole(command, size, piece = 16384) {
  return async ({ asker, server }) => {
    const wanted = plan({ size, piece });
    const near = asker.ask(command, { role: ROLE, event: EVENTS[command], plan: wanted });
    await arrivesWhole(command, server, wanted, near);
  };
}

async function arrivesWhole(command, server, wanted, near) {
  const whole = { bytes: wanted.size, sha256: sha256(wanted.size) };
  assert.deepEqual(await near, whole, 'at the requester');
  const { result, error } = await ended(command, server, wanted);
  assert.equal(error, undefined);
  assert.deepEqual(result, whole, 'at the responder');
}

/** A stream whose reader has paused after the first piece. */
async function pausedStream({ asker, server }, command, size) {
  const wanted = plan({ size, piece: 16384, pauses: true });
  const near = asker.ask(command, { role: ROLE, event: EVENTS[command], plan: wanted });
  const [reader, writer] = command === 'upload' ? [server, asker] : [asker, server];
  await reader.observe('paused', ({ tag }) => tag === wanted.tag);
  return { wanted, near, reader, writer };
}

/**
 * A reader pauses until its writer gets no further, while requests go on. It then gets everything; if
 * `bounded`, the writer has been held up before it got rid of all.
 */
function slowReader(command, bounded) {
  return async (stage) => {
    const stream = await pausedStream(stage, command, 2 * HELD);
    const { wanted, near, reader, writer } = stream;
    const { tag } = wanted;
    let written;
    for (let times = 0; times < STANDSTILL; times++) {
      await stage.works();
      const now = await writer.ask('progress', { tag });
      if (now !== written) times = 0;
      written = now;
    }
    if (bounded) assert.ok(written < HELD, `the writer got rid of ${written} bytes`);
    await reader.ask('resume', { tag });
    await arrivesWhole(command, stage.server, wanted, near);
  };
}

function refusesStream(command) {
  return async (stage) => {
    const wanted = plan({ size: 1, piece: 1, reason: 'not today' });
    const asked = { role: ROLE, event: 'refuse', plan: wanted };
    const error = await stage.fails(stage.asker, command, asked);
    assert.match(error, /not today/);
    await stage.works();
  };
}

/** One end breaks off; the other hears of it, with the reason. */
function breaks(command, breaker) {
  const requesterBreaks = (command === 'upload') === (breaker === 'writer');
  return async (stage) => {
    const size = breaker === 'writer' ? 1000 : 5_000_000;
    const reason = `the ${breaker} gave up`;
    const wanted = plan({ size, piece: 1000, breaks: breaker, reason });
    const asked = { role: ROLE, event: EVENTS[command], plan: wanted };
    const near = stage.asker.ask(command, asked);
    const far = ended(command, stage.server, wanted);
    const error = requesterBreaks ? (await far).error : await stage.failure(near);
    assert.match(error, new RegExp(reason));
    await stage.works();
  };
}

/** Both ends hear that the connection is lost. The dialer asks. */
function lostWithStream(command) {
  return async (stage) => {
    const { proxy } = await stage.meet({ through: true });
    [stage.asker, stage.server] = [stage.dialer, stage.listener];
    const { wanted, near, reader } = await pausedStream(stage, command, LONG);
    const far = ended(command, stage.server, wanted);
    proxy.cut();
    // A reader may read what it has before it is told.
    await reader.ask('resume', { tag: wanted.tag });
    await assert.rejects(near, (error) => error.answered);
    assert.ok((await far).error !== undefined, 'the responder was not told');
  };
}

/** A drain waits for a stream that is under way. */
function drainsStream(command) {
  return async (stage) => {
    const { asker, server } = stage;
    const { wanted, near, reader } = await pausedStream(stage, command, 100_000);
    const drained = server.ask('drain');
    await asker.until('units', { role: ROLE }, (units) => units.length === 0);
    await reader.ask('resume', { tag: wanted.tag });
    await arrivesWhole(command, server, wanted, near);
    await drained;
    await asker.until('units', {}, (units) => units.length === 0);
  };
}

module.exports = {
  EVENTS,
  breaks,
  drainsStream,
  ended,
  lostWithStream,
  plan,
  refusesStream,
  slowReader,
  streamsWhole,
};
