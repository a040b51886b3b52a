'use strict';

const { within } = require('../scenarios/deadline');
const { required } = require('../scenarios/options');
const { Stage } = require('../scenarios/stage');
const { Mesh } = require('./mesh');
const { Screen } = require('./screen');
const { tell } = require('./story');

/** Milliseconds that it may take, and any wait in it. It takes seconds: these are only there to fail. */
const LIMIT = 120_000;
const LIMIT_OF_WAIT = 60_000;

/** The parts, each with the language that it is played in where that is here. */
const PARTS = { alice: 'rust', bob: 'python', carol: 'node', dave: 'c' };
const LANGUAGES = { rust: 'Rust', python: 'Python', node: 'Node', c: 'C' };

const SIGNALS = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 };

/**
 * Plays the story and sets the exit code: 0 if everything was as told. The processes end with it in every
 * case; were it killed, they would end with their stdin.
 *
 * @param found the implementations, as `find` of ../players gives them
 */
async function perform({ present, absent }) {
  const screen = new Screen();
  for (const { name, reason } of absent) screen.say(`Left out: ${LANGUAGES[name]}, ${reason}`);
  const missing = absent.filter(({ name }) => required().includes(name));
  if (present.length === 0 || missing.length > 0) {
    const names = missing.map(({ name }) => LANGUAGES[name]).join(', ');
    screen.end(names ? `REQUIRE asks for ${names}` : 'there is no player at all: make players');
    process.exitCode = 1;
    return;
  }
  const stage = new Stage({}, LIMIT_OF_WAIT);
  for (const [signal, code] of Object.entries(SIGNALS)) {
    process.once(signal, async () => {
      screen.end(`${signal}: all processes end`);
      await stage.end().catch(() => {});
      process.exit(code);
    });
  }
  const cast = Object.entries(PARTS).map(([name, language], index) => {
    const wanted = present.find((one) => one.name === language);
    const implementation = wanted ?? present[index % present.length];
    return { name, implementation, language: LANGUAGES[implementation.name] };
  });
  const mesh = new Mesh(cast, screen);
  let failure;
  try {
    await within(LIMIT, 'the end of the story', tell(stage, mesh, screen, cast));
    await stage.end();
  } catch (error) {
    failure = error;
    await stage.end().catch(() => {});
  }
  screen.end(failure);
  process.exitCode = failure ? 1 : 0;
}

module.exports = { perform };
