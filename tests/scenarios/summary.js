'use strict';

/** The outcome of all cells as a Markdown table, a row for each scenario. */
function summary(cells, present, absent, deviations) {
  const columns = [...new Set(cells.map(column))];
  const rows = [...new Set(cells.map(({ scenario }) => scenario))];
  const lines = [
    ...present.map(({ name, version }) => `- ${name}: ${version}`),
    ...absent.map(({ name }) => `- ${name}: skipped`),
    '',
    `| | ${columns.join(' | ')} |`,
    `|---|${columns.map(() => '---').join('|')}|`,
  ];
  for (const scenario of rows) {
    const outcomes = columns.map((name) => {
      const here = cells.filter((cell) => cell.scenario === scenario && column(cell) === name);
      const signs = ['dialer', 'listener', undefined].flatMap((side) => {
        return here.filter((cell) => cell.side === side).map(({ result }) => sign(result));
      });
      if (here.length === 0) return '–';
      return new Set(signs).size === 1 && signs[0] === 'ok' ? 'ok' : detail(here, signs);
    });
    lines.push(`| ${scenario.name} | ${outcomes.join(' | ')} |`);
  }
  const used = new Set(cells.map(({ result }) => result.note).filter(Boolean));
  if (used.size > 0) lines.push('');
  for (const { note, reason } of deviations) if (used.has(note)) lines.push(`${note}. ${reason}`);
  return lines.join('\n');
}

function column({ dialer, listener }) {
  return `${dialer.name} → ${listener.name}`;
}

function sign({ outcome, note }) {
  return outcome === 'deviates' ? `(${note})` : outcome;
}

/** Who asks matters when the outcomes differ. */
function detail(here, signs) {
  if (here.length === 1) return here[0].side ? `${here[0].side}: ${signs[0]}` : signs[0];
  return signs[0] === signs[1] ? signs[0] : `${signs[0]} / ${signs[1]}`;
}

module.exports = { summary };
