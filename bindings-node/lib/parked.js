'use strict';

// What waits for a unit of a destination, within its time and a bound of all that waits at the peer.

const { tooManyWaiting } = require('./addon.js');
const { faultOf } = require('./fields.js');

/** Beyond what Node's timers hold, there is no limit. */
const FOREVER = 2 ** 31;

/**
 * The error of what is to wait where so many wait already; null when it may.
 * @param {import('./host.js').Host} host
 */
function parkFault(host) {
  return host.parked < host.mostParked ? null : faultOf(tooManyWaiting(host.mostParked));
}

/**
 * Something that waits for a unit. It calls `look` when there are other units, `late` when the time is up, and `closed` when
 * the peer is closed.
 */
class Parked {
  /**
   * @param {import('./destination.js').Destination} destination
   * @param {{ look(): void, late(): void, closed(): void }} waiter
   * @param {number} left milliseconds
   */
  constructor(destination, waiter, left) {
    const { _peer: peer } = destination;
    this.destination = destination;
    this.waiter = waiter;
    peer._core.parked++;
    peer._hold.take();
    destination._ways.add(waiter);
    this.timer = left < FOREVER ? setTimeout(() => waiter.late(), left) : undefined;
  }

  /** It waits no more. */
  leave() {
    const { destination, waiter, timer } = this;
    const { _peer: peer } = destination;
    peer._core.parked--;
    peer._hold.release();
    destination._ways.delete(waiter);
    clearTimeout(timer);
  }
}

module.exports = { Parked, parkFault };
