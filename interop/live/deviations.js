'use strict';

// Where an original does not do what a scenario asks, with the reason. A cell that is listed here has
// to fail: one that works fails the suite, so that the list stays true.
//
// `asker` and `server` name who is the requester and the responder, `any` who takes part at all.

const DEVIATIONS = [
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
    reason: 'roletalk-go rejects with an empty object: the text of the reason is lost.',
    scenarios: /^(reject|unknown role|unknown event|upload refused|download refused)$/,
    server: 'go',
  },
  {
    reason: 'roletalk-go serves requests and messages for a disabled role.',
    scenarios: /^(disabled role|message to a disabled role)$/,
    server: 'go',
  },
  {
    reason: 'roletalk-go writes numbers with ten decimals and does not know `Infinity`.',
    scenarios: /^data: number, extreme$/,
    any: 'go',
  },
];

/** The deviation that a cell is an instance of, if any. */
function deviation({ scenario, dialer, listener, asker, server }) {
  const is = (wanted, implementation) => wanted === undefined || wanted === implementation?.name;
  return DEVIATIONS.find((one) => {
    if (!one.scenarios.test(scenario.name)) return false;
    if (one.any && dialer.name !== one.any && listener.name !== one.any) return false;
    return (
      is(one.asker, asker) &&
      is(one.server, server) &&
      is(one.dialer, dialer) &&
      is(one.listener, listener)
    );
  });
}

module.exports = { DEVIATIONS, deviation };
