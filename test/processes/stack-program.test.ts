import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { startProgram } from '../../processes/stack/program.ts';
import { eventually } from '../harness/eventually.ts';

test('a program that cannot be written down runs, and it is said', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'abide-program-'));
  mkdirSync(join(folder, 'running', 'api.json'), { recursive: true });
  const printed: string[] = [];
  const program = startProgram({
    name: 'api',
    command: process.execPath,
    args: ['-e', 'setInterval(() => {}, 1_000)'],
    env: {},
    folder,
    print: (line) => printed.push(line),
  });
  try {
    await eventually(() => expect(printed.join()).toMatch(/api is not written down.*EISDIR/));
    expect(program.pid).toBeDefined();
  } finally {
    rmSync(join(folder, 'running', 'api.json'), { recursive: true });
    await program.stop(2_000);
    rmSync(folder, { recursive: true });
  }
});
