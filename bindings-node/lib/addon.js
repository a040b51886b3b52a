'use strict';

const { existsSync } = require('node:fs');
const path = require('node:path');

/** @returns {boolean} whether this is a Linux whose C library is musl */
function isMusl() {
  if (process.platform !== 'linux') return false;
  const { report } = process;
  const { excludeNetwork } = report;
  // Otherwise it looks up the names of all open connections.
  report.excludeNetwork = true;
  try {
    return !report.getReport().header.glibcVersionRuntime;
  } finally {
    report.excludeNetwork = excludeNetwork;
  }
}

/**
 * What to do, which hangs on whether this file is where the package has it: a bundler takes the code along, but not
 * the binary beside it.
 */
function advice() {
  if (path.basename(__filename) === 'addon.js') {
    return 'Build it from source: `make node` in a checkout of the repository, with a Rust toolchain.';
  }
  return (
    `The package was bundled into ${__filename}, without its binary: mark \`roletalk-native\` as external ` +
    '(`esbuild --external:roletalk-native`, `externals` of webpack, `external` of Rollup and Vite; `roletalk` where ' +
    'it is installed by that name), and install it where the bundle runs.'
  );
}

/**
 * The native half of this package, built for this platform, CPU and C library.
 */
function load() {
  const platform = `${process.platform}-${process.arch}${isMusl() ? '-musl' : ''}`;
  const file = path.join(__dirname, '..', 'prebuilds', platform, 'roletalk.node');
  try {
    return require(file);
  } catch (error) {
    const what = existsSync(file)
      ? `cannot load its binary for ${platform}, ${file} (${error.message})`
      : `has no binary for ${platform}: there is no ${file}`;
    throw new Error(`roletalk-native ${what}. ${advice()}`, { cause: error });
  }
}

module.exports = load();
