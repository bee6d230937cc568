import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
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

// Only a start looked at it: the log of a program that ran for months, or failed all the time, filled the disk.
test('the log of a program that runs is put aside when it is large', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'abide-program-'));
  const log = join(folder, 'logs', 'talks.log');
  const script = `process.stdout.write('x'.repeat(21 * 1024 * 1024) + '\\n', () => setInterval(() => console.log('on'), 20))`;
  const program = startProgram({
    name: 'talks',
    command: process.execPath,
    args: ['-e', script],
    env: {},
    folder,
    print: () => undefined,
  });
  try {
    await eventually(() => expect(statSync(`${log}.1`).size).toBeGreaterThan(20 * 1024 * 1024));
    await eventually(() => expect(readFileSync(log, 'utf8')).toMatch(/^(on\n)+$/));
  } finally {
    await program.stop(2_000);
    rmSync(folder, { recursive: true });
  }
});
