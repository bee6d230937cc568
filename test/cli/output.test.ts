import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
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

// Found by reading: `abide receipt ID > file` on a disk with room for half of it ended with 0. A limit to a file's size is such a
// disk: of what is written there is as much as fits, and nothing says that the rest is missing.
test('what stands in a file only in part is no success', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'abide-output-'));
  try {
    const file = join(folder, 'printed');
    // Of 512 bytes, which is what `ulimit` counts in.
    await writeFile(file, 'x'.repeat(400));
    const abide = [
      process.execPath,
      fileURLToPath(new URL('../../cli/abide.ts', import.meta.url)),
      'keys',
      'ring',
    ];
    const env = { ...process.env, NODE_OPTIONS: '', NODE_COMPILE_CACHE: '' };
    const ended = await new Promise((resolve) => {
      execFile('sh', ['-c', 'ulimit -f 1; exec "$@" >> "$0"', file, ...abide], { env }, (error, _, said) => {
        resolve([error?.code, said.split('\n').at(-2)]);
      });
    });
    expect(await readFile(file, 'utf8')).toHaveLength(512);
    expect(ended).toEqual([1, 'abide: The output cannot be written. (EFBIG)']);
  } finally {
    await rm(folder, { recursive: true });
  }
});
