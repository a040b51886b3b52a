'use strict';

const { SCENARIOS } = require('./scenarios');

/** In how many of the pairs without an original a scenario runs, unless all of them are wanted. */
const OURS_PER_SCENARIO = 4;

/**
 * The cells: a scenario, a dialer and a listener, and the requester where that matters.
 *
 * @param options `all` has every scenario for every pair, otherwise the pairs without an original
 *   take turns, or are left out with `originals`; `long` has the scenarios that take a while.
 */
function cells(implementations, { all, long, originals }) {
  const pairs = implementations
    .flatMap((dialer) => implementations.map((listener) => ({ dialer, listener })))
    .filter(({ dialer, listener }) => !(dialer.original && listener.original));
  const isOurs = ({ dialer, listener }) => !dialer.original && !listener.original;
  const ownPairs = pairs.filter(isOurs);
  const others = pairs.filter((pair) => !isOurs(pair));
  return SCENARIOS.flatMap((scenario, index) => {
    const wanted = (pair) => long || !scenario.long?.(pair);
    const possible = ownPairs.filter(wanted);
    const own = all ? possible : originals ? [] : turn(possible, index);
    return [...own, ...others.filter(wanted)].flatMap((pair) => sides(scenario, pair));
  })
    .filter(able)
    .map((cell) => ({ ...cell, name: title(cell) }));
}

/** The next few in a circle, so that every pair has its turn with every few scenarios. */
function turn(pairs, index) {
  const count = Math.min(OURS_PER_SCENARIO, pairs.length);
  return Array.from({ length: count }, (_, i) => pairs[(index * count + i) % pairs.length]);
}

function sides(scenario, { dialer, listener }) {
  if (scenario.kind === 'pair') return [{ scenario, dialer, listener }];
  return [
    { scenario, dialer, listener, asker: dialer, server: listener, side: 'dialer' },
    { scenario, dialer, listener, asker: listener, server: dialer, side: 'listener' },
  ];
}

/** Whether the side named has the ability that the scenario needs. */
function able(cell) {
  if (!cell.scenario.needs) return true;
  const [side, ability] = cell.scenario.needs;
  const who = side === 'both' ? [cell.dialer, cell.listener] : [cell[side]];
  return who.every(({ abilities }) => abilities.includes(ability));
}

function title({ scenario, dialer, listener, side }) {
  const asks = side ? `, ${side} asks` : '';
  return `${scenario.name}: ${dialer.name} → ${listener.name}${asks}`;
}

module.exports = { cells };
