'use strict';

// The picture of the mesh: who is there, who is connected to whom, and what has flowed, as the peers
// themselves count it.

const MIB = 1 << 20;
const LEGEND = 'sent: r requests, m messages, M MiB of streams; • connected, – not connected';

class Mesh {
  /** Of all that are connected, by the names of the sender and the receiver. */
  counts = new Map();
  /** What has grown since the picture before. */
  growing = new Set();

  /** @param cast the parts: name and language; `player` is its process, if there is one now */
  constructor(cast, screen) {
    this.cast = cast;
    this.screen = screen;
    this.width = Math.max(LEGEND.length + 3, 34 + 11 * cast.length);
  }

  /** Asks all peers for their counters. */
  async refresh() {
    const asked = this.cast.map(async ({ name, player }) => {
      // One that dies meanwhile has none.
      const units = player && !player.dead ? await player.ask('stats').catch(() => []) : [];
      return units.map((unit) => [`${name} ${unit.unit}`, unit]);
    });
    const now = new Map((await Promise.all(asked)).flat());
    const grown = (key) => text(now.get(key)) !== text(this.counts.get(key));
    this.growing = new Set([...now.keys()].filter(grown));
    this.counts = now;
  }

  lines() {
    const { screen, cast, counts } = this;
    const heads = cast.map(({ name }) => `→ ${name}`.padEnd(11)).join('');
    const lines = [screen.paint(2, `     peer   in     serves           ${heads}`)];
    for (const { name, language, player } of cast) {
      const here = Boolean(player && !player.dead);
      const sign = here ? screen.paint(32, '●') : screen.paint(31, '✗');
      const cells = cast.map((other) => this.cell(here, name, other.name)).join('');
      const served = cast.map((other) => counts.get(`${other.name} ${name}`)?.roles).find(Boolean) ?? [];
      const roles = [...served].sort().join(' ').padEnd(17);
      lines.push(`   ${sign} ${screen.paint(1, name.padEnd(7))}${language.padEnd(7)}${roles}${cells}`);
    }
    lines.push(screen.paint(2, `   ${LEGEND}`));
    lines.width = this.width;
    return lines;
  }

  cell(here, from, to) {
    const key = `${from} ${to}`;
    const shown = from === to || !here ? '' : text(this.counts.get(key));
    const flows = this.growing.has(key) && shown.length > 1;
    return flows ? this.screen.paint('1;36', shown.padEnd(11)) : shown.padEnd(11);
  }

  /** All that has flowed on the connections of now. */
  total() {
    const all = [...this.counts.values()];
    const sum = (field) => all.reduce((total, unit) => total + unit[field], 0);
    return (
      `${this.cast.length} peers, ${sum('connections') / 2} connections: ${sum('requestsSent')} requests, ` +
      `${sum('messagesSent')} messages and ${Math.round(sum('streamBytesSent') / MIB)} MiB of streams`
    );
  }
}

/** What a unit was sent. */
function text(unit) {
  if (unit === undefined) return '–';
  const { requestsSent, messagesSent, streamBytesSent } = unit;
  const parts = [
    requestsSent > 0 ? `${requestsSent}r` : '',
    messagesSent > 0 ? `${messagesSent}m` : '',
    streamBytesSent > 0 ? `${(streamBytesSent / MIB).toFixed(0)}M` : '',
  ];
  return parts.filter(Boolean).join(' ') || '•';
}

module.exports = { Mesh };
