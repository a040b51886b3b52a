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
 * The native half of this package, built for this platform, CPU and C library.
 */
function load() {
  const platform = `${process.platform}-${process.arch}${isMusl() ? '-musl' : ''}`;
  const file = path.join(__dirname, '..', 'prebuilds', platform, 'roletalk.node');
  try {
    return require(file);
  } catch (error) {
    const what = existsSync(file)
      ? `cannot load its binary for ${platform} (${error.message})`
      : `has no binary for ${platform}`;
    throw new Error(
      `roletalk-native ${what}. Build it from source: ` +
        '`make build` in a checkout of the repository, with a Rust toolchain.',
      { cause: error },
    );
  }
}

module.exports = load();
