// (e) `npm start` on an installed tree until /readyz answers 200: on a fresh folder, and on one that was used before.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { print, printTable } from '../cli/output.ts';
import { freePort } from '../test/harness/free-port.ts';
import { judge, median } from './measure.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

async function secondsToReady(dataFolder: string): Promise<number> {
  const port = await freePort();
  const answers = (): Promise<number> =>
    fetch(`http://127.0.0.1:${port}/readyz`).then(
      ({ status }) => status,
      () => 0,
    );
  const until = async (status: number): Promise<void> => {
    while ((await answers()) !== status) {
      if (child.exitCode !== null && status === 200) throw new Error('npm start ended');
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  const began = performance.now();
  const child = spawn('npm', ['start'], {
    cwd: ROOT,
    env: { ...process.env, ABIDE_DATA: dataFolder, PORT: String(port) },
    stdio: 'ignore',
  });
  await until(200);
  const seconds = (performance.now() - began) / 1000;
  child.kill('SIGTERM');
  // npm passes the signal on, and ends before what it started has ended.
  await until(0);
  const lock = join(dataFolder, 'postgres', 'postmaster.pid');
  while (existsSync(lock)) await new Promise((resolve) => setTimeout(resolve, 10));
  return seconds;
}

export async function benchStart(): Promise<void> {
  print('\n(e) `npm start` to ready, seconds, medians of 3\n');
  const fresh: number[] = [];
  const again: number[] = [];
  for (let round = 0; round < 3; round += 1) {
    const folder = await mkdtemp(join(tmpdir(), 'abide-bench-'));
    fresh.push(await secondsToReady(folder));
    again.push(await secondsToReady(folder));
    await rm(folder, { recursive: true, force: true });
  }
  printTable(
    ['FOLDER', 'SECONDS'],
    [
      ['new (makes a PostgreSQL cluster)', median(fresh).toFixed(2)],
      ['used before', median(again).toFixed(2)],
    ],
  );
  judge('new folder', median(fresh), { atMost: 3 }, ' s');
  judge('used before', median(again), { atMost: 3 }, ' s');
}
