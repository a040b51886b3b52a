'use strict';

// The declarations: the programs in types/ compile against them in strict mode, and what they declare
// is what is there.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { beyond, check, isOriginal, root, roletalk } = require('./support/subject');

const ts = load('typescript');

function load(name) {
  try {
    return require(name);
  } catch {
    throw new Error(`${name} is needed to check the types: run npm ci in bindings-node`);
  }
}

const TYPES = path.join(__dirname, 'types');
const MODULES = path.resolve(__dirname, '../node_modules');

/** The declarations of the subject. */
const DECLARATIONS = path.join(root, require(path.join(root, 'package.json')).types);

/** What is there and not declared, as in the original. */
const INTERNAL = { Unit: ['send', 'request', 'Readable', 'Writable'] };

const PROGRAMS = ['guide.ts', 'shared.ts', 'wrong.ts', ...(isOriginal ? [] : ['beyond.ts'])];

/** Compiles the programs, and returns the program and its errors as text. */
function compile(options) {
  const program = ts.createProgram(
    PROGRAMS.map((file) => path.join(TYPES, file)),
    {
      noEmit: true,
      strict: true,
      noUnusedLocals: true,
      target: ts.ScriptTarget.ES2022,
      lib: ['lib.es2022.d.ts', 'lib.esnext.disposable.d.ts'],
      baseUrl: TYPES,
      paths: { roletalk: [DECLARATIONS] },
      typeRoots: [path.join(MODULES, '@types')],
      types: ['node'],
      // Those of the original are of another time.
      skipLibCheck: isOriginal,
      ...options,
    },
  );
  const errors = ts.getPreEmitDiagnostics(program).map(({ file, start, messageText }) => {
    const where = file && `${path.basename(file.fileName)}:${file.getLineAndCharacterOfPosition(start).line + 1} `;
    return `${where ?? ''}${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
  });
  return { program, errors };
}

const { program, errors } = compile({
  module: ts.ModuleKind.CommonJS,
  moduleResolution: ts.ModuleResolutionKind.Node10,
});

check('the programs compile, and what is wrong does not', () => assert.deepEqual(errors, []));

beyond('they compile where modules are resolved as Node does, too', () => {
  const { module, moduleResolution } = {
    module: ts.ModuleKind.Node16,
    moduleResolution: ts.ModuleResolutionKind.Node16,
  };
  assert.deepEqual(compile({ module, moduleResolution }).errors, []);
});

beyond('what is declared is there, and what is there is declared', () => {
  const checker = program.getTypeChecker();
  const declared = checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(DECLARATIONS)));
  const values = declared.filter(({ flags }) => flags & ts.SymbolFlags.Value);
  assert.deepEqual(values.map(({ name }) => name).sort(), Object.keys(roletalk).sort());

  for (const symbol of values.filter(({ flags }) => flags & ts.SymbolFlags.Class)) {
    const { prototype } = roletalk[symbol.name];
    const members = [...symbol.members.values()]
      .filter(({ flags }) => flags & (ts.SymbolFlags.Method | ts.SymbolFlags.GetAccessor))
      .map(({ name }) => name)
      .filter((name) => !name.startsWith('__@'));
    const missing = members.filter((name) => !(name in prototype));
    assert.deepEqual(missing, [], `${symbol.name} lacks what is declared`);
    const known = checker.getPropertiesOfType(checker.getDeclaredTypeOfSymbol(symbol)).map(({ name }) => name);
    const open = Object.getOwnPropertyNames(prototype).filter((name) => !/^(_|constructor$)/.test(name));
    const undeclared = open.filter((name) => !known.includes(name) && !INTERNAL[symbol.name]?.includes(name));
    assert.deepEqual(undeclared, [], `${symbol.name} has what is not declared`);
  }
});

check('every program in types/ is compiled by a test', () => {
  const files = fs.readdirSync(TYPES).filter((file) => file.endsWith('.ts'));
  assert.deepEqual(files.sort(), [...new Set([...PROGRAMS, 'beyond.ts'])].sort());
});
