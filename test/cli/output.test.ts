import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { printTable } from '../../cli/output.ts';

let printed: string;
beforeEach(() => {
  printed = '';
  jest.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += String(text);
    return true;
  });
});
afterEach(() => {
  jest.restoreAllMocks();
});

const HEAD = ['ID', 'CLIENT', 'SCOPES'];
const ROWS = [
  ['5JjR', 'shop', 'opt_outs:write'],
  ['0aZ1', '-', 'lag:read'],
];
const TABLE = `ID    CLIENT  SCOPES
5JjR  shop    opt_outs:write
0aZ1  -       lag:read
`;

test('a table has columns where they fit, and where nobody sees them', () => {
  printTable(HEAD, ROWS, 28);
  printTable(HEAD, ROWS);
  expect(printed).toBe(TABLE + TABLE);
});

// The administrator's scopes alone are wider than a terminal: `keys list` was a heap of wrapped lines.
test('in a terminal that is too narrow each cell has a line', () => {
  printTable(HEAD, ROWS, 27);
  expect(printed).toBe(`ID      5JjR
CLIENT  shop
SCOPES  opt_outs:write

ID      0aZ1
CLIENT  -
SCOPES  lag:read
`);
});

test('of nothing there is the head', () => {
  printTable(HEAD, [], 80);
  expect(printed).toBe('ID    CLIENT  SCOPES\n'.replace('    ', '  '));
});
