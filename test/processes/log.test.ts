// A log that cannot be written. A process of its own for each: the log goes to its standard error.
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';

const LOG = fileURLToPath(new URL('../../processes/log.ts', import.meta.url));

/** Runs a script that has a `log`, and gives its exit code and what it wrote. */
async function runWithLog(
  script: string,
  stderr: number | 'pipe' = 'pipe',
): Promise<{ code: number | null; stdout: string; lines: string[] }> {
  const source = `import fs from 'node:fs'; import { createLog } from '${LOG}'; const log = createLog('info'); ${script}`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', source], {
    env: { ...process.env, NODE_OPTIONS: '' },
    stdio: ['ignore', 'pipe', stderr],
  });
  let [stdout, said] = ['', ''];
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (said += text));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, stdout, lines: said.split('\n').slice(0, -1) };
}

// A warning threw out of the place that gave it, and the API ended by a code of Node's own, its database left behind.
test('a full disk under the log ends nothing', async () => {
  const full = openSync('/dev/full', 'w');
  try {
    const { code, stdout } = await runWithLog(
      "for (const n of [1, 2, 3]) log.warn({ n }, 'crm is away'); console.log('goes on');",
      full,
    );
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'goes on\n' });
  } finally {
    closeSync(full);
  }
});

test('once there is room again the log goes on, with the lines before in order and whole, up to a limit', async () => {
  const { code, lines } = await runWithLog(`
    const { writeSync } = fs;
    const said = (n) => log.warn({ n, padding: 'x'.repeat(1_000) }, 'said');
    fs.writeSync = (fd, text, ...rest) => {
      // What a disk that fills up does: it takes a part.
      fs.writeSync = () => { throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' }); };
      return writeSync(fd, String(text).slice(0, 20));
    };
    for (let n = 0; n < 2_000; n += 1) said(n);
    fs.writeSync = writeSync;
    said(2_000);
    said(2_001);
  `);

  expect(code).toBe(0);
  const numbers = lines.map((line) => (JSON.parse(line) as { n: number }).n);
  expect(numbers.slice(0, 500)).toEqual(Array.from({ length: 500 }, (_, n) => n));
  expect(numbers.length).toBeLessThan(1_200);
  expect(numbers.at(-1)).toBe(2_001);
});
