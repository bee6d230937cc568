import { execFile, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { request } from 'undici';
import { runAbide } from '../harness/abide.ts';
import { KEY_SCOPES } from '../../ledger/contract/api-keys.ts';
import { eventually } from '../harness/eventually.ts';
import { freePort } from '../harness/free-port.ts';

const run = promisify(execFile);
const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));
const KEY = /abide_live_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}/;

let folder: string;
let port: number;
const running = new Set<number>();

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'abide-npm-start-'));
  port = await freePort();
});
afterEach(async () => {
  for (const pid of running) process.kill(-pid, 'SIGTERM');
  await eventually(() => expect(running).toEqual(new Set()));
  await rm(folder, { recursive: true, force: true });
});

/** `npm start` as a terminal runs it, in a process group of its own. Its output goes to a file, which is read without delay. */
async function npmStart(): Promise<{
  pid: number;
  ended: Promise<number | null>;
  printed(): string;
  /** What had been printed when /readyz first answered 200. */
  printedBeforeReady: string;
}> {
  const file = join(folder, `printed-${running.size}-${performance.now()}`);
  const output = openSync(file, 'a');
  const child = spawn('npm', ['start'], {
    cwd: CHECKOUT,
    detached: true,
    stdio: ['ignore', output, output],
    env: { ...process.env, NODE_OPTIONS: '', ABIDE_CONFIG: '', ABIDE_DATA: folder, PORT: String(port) },
  });
  closeSync(output);
  const pid = child.pid!;
  running.add(pid);
  const ended = new Promise<number | null>((resolve) => {
    child.once('exit', (code) => {
      running.delete(pid);
      resolve(code);
    });
  });
  const printed = (): string => readFileSync(file, 'utf8');
  const printedBeforeReady = await eventually(async () => {
    if (child.exitCode !== null) return printed();
    const { statusCode, body } = await request(`http://127.0.0.1:${port}/readyz`);
    const now = printed();
    await body.dump();
    if (statusCode !== 200) throw new Error(`not ready: ${statusCode}`);
    return now;
  });
  return { pid, ended, printed, printedBeforeReady };
}

const pasted = (printed: string): string => /^ *(curl .*)$/m.exec(printed)![1]!;
const paste = async (printed: string): Promise<{ outcome: string; propagation: object }> =>
  JSON.parse((await run('sh', ['-c', pasted(printed)])).stdout) as never;
const serverRuns = (): Promise<boolean> =>
  stat(join(folder, 'postgres/postmaster.pid')).then(
    () => true,
    () => false,
  );

test('the first npm start prints an administrator’s key before it is ready, and a line that works as pasted, then and later', async () => {
  const first = await npmStart();

  const key = KEY.exec(first.printedBeforeReady)?.[0];
  expect(first.printedBeforeReady).toContain(`listening at http://127.0.0.1:${port}`);
  expect(first.printedBeforeReady).toContain(`administrator's key: ${key}`);
  expect(await readFile(join(folder, 'admin.key'), 'utf8')).toBe(`${key}\n`);
  expect((await stat(join(folder, 'admin.key'))).mode & 0o777).toBe(0o600);
  expect(await paste(first.printed())).toMatchObject({
    outcome: 'recorded',
    propagation: { state: 'complete', required: 1, verified: 1 },
  });
  await eventually(() => expect(first.printed()).toMatch(/^a••@e••\.com recorded, crm verified \+\d+ ms$/m));
  const listed = await runAbide(['keys', 'list', '--json'], { ABIDE_DATA: folder });
  expect(JSON.parse(listed.stdout)).toMatchObject([
    {
      client: 'administrator',
      scopes: KEY_SCOPES.filter((scope) => scope !== 'acknowledgements:write'),
    },
  ]);

  // Only npm is signalled: what it runs must hear of it.
  process.kill(first.pid, 'SIGTERM');
  expect(await first.ended).toBe(0);
  expect(first.printed()).toMatch(/^stopped$/m);
  expect(await serverRuns()).toBe(false);

  const second = await npmStart();
  expect(second.printedBeforeReady).not.toContain("administrator's key");
  expect(pasted(second.printedBeforeReady)).toBe(pasted(first.printed()));
  expect(await paste(second.printed())).toMatchObject({ outcome: 'already_opted_out' });
});

test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
  'a %s to the whole process group, which npm passes on as well, stops it once and completely',
  async (signal) => {
    const { pid, ended, printed } = await npmStart();

    process.kill(-pid, signal);

    await ended;
    // If a SIGHUP ends npm itself, it does not wait for what it started.
    await eventually(() => expect(printed()).toMatch(/^stopped$/m));
    await eventually(async () => expect(await serverRuns()).toBe(false));
    expect(printed()).toMatch(new RegExp(`^${signal}: stopping`, 'm'));
  },
);
