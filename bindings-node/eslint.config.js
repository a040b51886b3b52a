'use strict';

// Run at the top of the repository, by scripts/lint.sh: tests and interop have no packages of their own.
const js = require('@eslint/js');
const globals = require('globals');

module.exports = [
  { ignores: ['**/node_modules/', 'target/', '.venv*/'] },
  js.configs.recommended,
  {
    languageOptions: { ecmaVersion: 2023, sourceType: 'commonjs', globals: globals.node },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      'eqeqeq': ['error', 'always', { null: 'ignore' }],
      'no-var': 'error',
      'prefer-const': ['error', { destructuring: 'all' }],
    },
  },
  { files: ['**/*.js'], rules: { 'strict': ['error', 'global'] } },
  { files: ['**/*.mjs'], languageOptions: { sourceType: 'module' } },
  // What failed there is told by its text.
  { files: ['**/test/**', 'tests/**', 'interop/**'], rules: { 'preserve-caught-error': 'off' } },
];
