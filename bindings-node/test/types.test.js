'use strict';

// The declarations: the programs in types/ compile against them in strict mode, and what they declare
// is what is there.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { DECLARATIONS, compile, ts } = require('./support/compile');
const { beyond, check, isOriginal, roletalk } = require('./support/subject');

const TYPES = path.join(__dirname, 'types');

/** What is there and not declared, as in the original. */
const INTERNAL = { Unit: ['send', 'request', 'Readable', 'Writable'] };

const PROGRAMS = ['guide.ts', 'original.ts', 'shared.ts', 'wrong.ts', ...(isOriginal ? [] : ['beyond.ts', 'calls.ts'])];

const FILES = PROGRAMS.map((file) => path.join(TYPES, file));

const { program, errors } = compile(FILES, {
  module: ts.ModuleKind.CommonJS,
  moduleResolution: ts.ModuleResolutionKind.Node10,
});

const checker = program.getTypeChecker();

/** What the declarations export. */
function declared() {
  return checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(DECLARATIONS)));
}

/** The declared type with this name. */
const declaredType = (name) => checker.getDeclaredTypeOfSymbol(declared().find((symbol) => symbol.name === name));

check('the programs compile, and what is wrong does not', () => assert.deepEqual(errors, []));

beyond('they compile where modules are resolved as Node does, too', () => {
  const { module, moduleResolution } = {
    module: ts.ModuleKind.Node16,
    moduleResolution: ts.ModuleResolutionKind.Node16,
  };
  assert.deepEqual(compile(FILES, { module, moduleResolution }).errors, []);
});

beyond('what is declared is there, and what is there is declared', () => {
  const values = declared().filter(({ flags }) => flags & ts.SymbolFlags.Value);
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

beyond('the declared codes of errors are those of the engine', () => {
  const codes = declaredType('ErrorCode').types.map(({ value }) => value);
  assert.deepEqual(codes.sort(), [...roletalk.errorCodes].sort());
});

beyond('the declared counters are those of the engine', async (network) => {
  const { unit } = await network.service();
  const stats = unit.stats();
  for (const [name, counters] of [['UnitStats', stats], ['ConnectionStats', stats.connections[0]]]) {
    const properties = declaredType(name).getProperties();
    assert.deepEqual(properties.map((property) => property.name).sort(), Object.keys(counters).sort());
    for (const [counter, value] of Object.entries(counters)) {
      assert.ok(value === null || typeof value === 'number' || counter === 'connections', counter);
    }
  }
});

check('every program in types/ is compiled by a test', () => {
  const files = fs.readdirSync(TYPES).filter((file) => file.endsWith('.ts'));
  assert.deepEqual(files.sort(), [...new Set([...PROGRAMS, 'beyond.ts', 'calls.ts'])].sort());
});
