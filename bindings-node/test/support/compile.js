'use strict';

const path = require('node:path');
const { isOriginal, root } = require('./subject');

const ts = load('typescript');

function load(name) {
  try {
    return require(name);
  } catch {
    throw new Error(`${name} is needed to check the types: run npm ci in bindings-node`);
  }
}

const MODULES = path.resolve(__dirname, '../../node_modules');

/** The declarations of the subject. */
const DECLARATIONS = path.join(root, require(path.join(root, 'package.json')).types);

/**
 * Compiles programs that import the subject by one of its names, in strict mode.
 * @returns the program, and what is wrong with it as texts
 */
function compile(files, options) {
  const program = ts.createProgram(files, {
    noEmit: true,
    strict: true,
    noUnusedLocals: true,
    target: ts.ScriptTarget.ES2022,
    lib: ['lib.es2022.d.ts', 'lib.esnext.disposable.d.ts'],
    baseUrl: __dirname,
    paths: { roletalk: [DECLARATIONS], 'roletalk-native': [DECLARATIONS] },
    typeRoots: [path.join(MODULES, '@types')],
    types: ['node'],
    // Those of the original are of another time.
    skipLibCheck: isOriginal,
    ...options,
  });
  // Those of TypeScript's and Node's own declarations are not for us to find, and take seconds.
  const own = program.getSourceFiles().filter(({ fileName }) => !fileName.includes('/node_modules/'));
  const diagnostics = [
    ...program.getConfigFileParsingDiagnostics(),
    ...program.getOptionsDiagnostics(),
    ...program.getGlobalDiagnostics(),
    ...own.flatMap((file) => [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)]),
  ];
  const errors = diagnostics.map(({ file, start, messageText }) => {
    const where = file && `${path.basename(file.fileName)}:${file.getLineAndCharacterOfPosition(start).line + 1} `;
    return `${where ?? ''}${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
  });
  return { program, errors };
}

module.exports = { DECLARATIONS, compile, ts };
