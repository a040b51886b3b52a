'use strict';

// Where an original does not do what a scenario asks, with the reason. A cell that is listed here has
// to fail: one that works fails the suite, so that the list stays true; with `sometimes`, it may work.
// With `error`, it has to fail like that, and the waits in it are as long as elsewhere.
//
// `asker` and `server` name who is the requester and the responder, `any` who takes part at all; `where`
// decides about anything else.

const LIST = [
  {
    reason: 'roletalk delivers messages to a disabled role, against its README.',
    scenarios: /^message to a disabled role/,
    server: 'js',
  },
  {
    reason: 'roletalk destroys a refused Readable in silence.',
    scenarios: /^download refused/,
    asker: 'js',
  },
  {
    reason: 'roletalk destroys a Readable whose connection is lost in silence.',
    scenarios: /^connection lost with an? (up|down)load$/,
    where: ({ scenario, dialer, listener }) => {
      const reader = scenario.name.endsWith('upload') ? listener : dialer;
      return reader.name === 'js';
    },
  },
  {
    reason: 'roletalk-go does not tell what it has read, and drops the rest when the connection closes.',
    scenarios: /^drain during a download$/,
    asker: 'go',
    sometimes: true,
  },
  {
    reason: 'roletalk-go rejects with an empty object: the text of the reason is lost.',
    scenarios: /^(reject|unknown role|unknown event|upload refused|download refused)$/,
    server: 'go',
  },
  {
    reason: 'roletalk-go serves requests for a disabled role.',
    scenarios: /^disabled role$/,
    server: 'go',
  },
  {
    reason: 'roletalk-go delivers messages to a disabled role, and messages in any order.',
    scenarios: /^message to a disabled role$/,
    server: 'go',
    sometimes: true,
  },
  {
    reason: 'roletalk-go writes numbers with ten decimals and does not know `Infinity`.',
    scenarios: /^data: number, extreme$/,
    any: 'go',
  },
  {
    reason: 'roletalk-go takes the units in the random order of a map, so their turns are not equal.',
    scenarios: /^round robin$/,
    dialer: 'go',
    sometimes: true,
  },
  {
    reason: 'roletalk-go tells of others only those whom it dials, not those who dial it.',
    scenarios: /^acquaintance, dialer /,
    where: ({ scenario, dialer, listener }) => {
      const teller = scenario.name.endsWith('tells') ? dialer : listener;
      return teller.name === 'go';
    },
  },
  {
    reason: 'roletalk-go keeps a unit whose process is stopped: still there after a minute.',
    scenarios: /^(listener|dialer) is stopped$/,
    where: ({ scenario, dialer, listener }) => {
      const survivor = scenario.name.startsWith('listener') ? dialer : listener;
      return survivor.name === 'go';
    },
  },
  {
    reason: 'roletalk-go adds every quota again with each write: after the first, nothing holds it up.',
    scenarios: /slow reader holds up the writer$/,
    where: ({ scenario, asker, server }) => {
      const writer = scenario.name.startsWith('upload') ? asker : server;
      return writer.name === 'go';
    },
    sometimes: true,
    error: /^the writer got rid of/,
  },
  {
    reason: 'roletalk-go does not fail waiting requests when the connection is lost.',
    scenarios: /^connection lost with a request$/,
    dialer: 'go',
  },
  {
    reason: 'roletalk-go makes two units of one peer when two connections to it are made at once.',
    scenarios: /^redundant (mutual )?connections, loss of one$/,
    any: 'go',
    sometimes: true,
    error: /^go has 2 units of one peer\b/,
  },
];

/** Numbered, each with a function that tells whether a cell is an instance of it. */
const DEVIATIONS = LIST.map((one, index) => ({
  ...one,
  note: index + 1,
  applies: (cell) => applies(one, cell),
}));

function applies(one, cell) {
  const { scenario, dialer, listener, asker, server } = cell;
  const is = (wanted, implementation) => wanted === undefined || wanted === implementation?.name;
  if (!one.scenarios.test(scenario.name)) return false;
  if (one.where && !one.where(cell)) return false;
  if (one.any && dialer.name !== one.any && listener.name !== one.any) return false;
  return (
    is(one.asker, asker) &&
    is(one.server, server) &&
    is(one.dialer, dialer) &&
    is(one.listener, listener)
  );
}

module.exports = { DEVIATIONS };
