'use strict';

/** Milliseconds between two pictures. */
const REFRESH = 100;

/**
 * What a person sees: the story line by line and, on a terminal, a picture below it that is redrawn in
 * place. In a log, and with NO_COLOR, there are no escape codes, and the picture is printed when asked for.
 */
class Screen {
  chapters = 0;
  checks = 0;
  began = performance.now();
  /** The lines of the picture that is drawn now. */
  drawn = 0;

  constructor(out = process.stdout, environment = process.env) {
    this.out = out;
    this.live = Boolean(out.isTTY) && !environment.NO_COLOR && environment.TERM !== 'dumb';
  }

  paint(style, text) {
    return this.live ? `\x1b[${style}m${text}\x1b[0m` : text;
  }

  /** A line of the story, above the picture. */
  say(line) {
    this.write(`${line}\n`);
  }

  chapter(title) {
    this.say(`\n${this.paint(1, `${++this.chapters}. ${title}`)}`);
  }

  /** Something that somebody does. */
  tell(who, what) {
    this.say(`   ${who.padEnd(9)}${what}`);
  }

  /** A step that is verified: `look` is fulfilled with whether it is so, or fails. */
  async check(what, look) {
    let holds;
    let why = '';
    try {
      holds = await look();
    } catch (error) {
      why = `: ${error.message}`;
    }
    if (!holds) throw new Error(`this should be so, but is not: ${what}${why}`);
    this.checks++;
    this.say(`   ${this.paint(32, '✓')} ${what}`);
  }

  /** Keeps a picture below the story; `lines` gives its lines, after `refresh`. */
  keep({ lines, refresh }) {
    this.lines = lines;
    if (!this.live) return;
    const again = async () => {
      await refresh();
      if (!this.lines) return;
      this.write('');
      this.timer = setTimeout(again, REFRESH);
    };
    again();
  }

  /** Prints the picture as it is now, for good, when `last` or in a log. */
  show(last = false) {
    const lines = this.lines();
    if (last) this.drop();
    if (last || !this.live) this.say(`\n${lines.join('\n')}`);
  }

  /** Keeps no picture any more. */
  drop() {
    clearTimeout(this.timer);
    this.lines = undefined;
  }

  /** The last line: what has failed, or that nothing has. */
  end(failure) {
    this.drop();
    const seconds = ((performance.now() - this.began) / 1000).toFixed(1);
    if (failure === undefined) {
      const all = this.paint('1;32', `All ${this.checks} checks passed`);
      this.say(`\n${all} in ${seconds} s.`);
    } else {
      this.say(`   ${this.paint(31, '✗')} ${failure.message ?? failure}`);
      this.say(`\n${this.paint('1;31', 'FAILED')} after ${this.checks} checks and ${seconds} s.`);
    }
  }

  /** In the place of the picture, with a new one below; at once, so that nothing flickers. */
  write(text) {
    const eraser = this.drawn > 0 ? `\x1b[${this.drawn}A\x1b[J` : '';
    const lines = this.picture();
    this.drawn = lines.length;
    const picture = lines.map((line) => `${line}\n`).join('');
    if (eraser || text || picture) this.out.write(eraser + text + picture);
  }

  /** What stands below the story. A picture that the terminal would wrap or scroll could not be erased. */
  picture() {
    if (!this.live || !this.lines) return [];
    const lines = this.lines();
    const fits = !(this.out.columns < lines.width || this.out.rows < lines.length + 3);
    return fits ? ['', ...lines] : [];
  }
}

module.exports = { Screen };
