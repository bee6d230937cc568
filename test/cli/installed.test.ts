// What is started in a checkout with nothing installed. A stand-in for npm installs the Node of this run.
import { execFile, spawnSync } from 'node:child_process';
import {
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rm,
  stat,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { eventually } from '../harness/eventually.ts';

let checkout: string;

beforeEach(async () => {
  checkout = await mkdtemp(join(tmpdir(), 'abide-checkout-'));
  await mkdir(join(checkout, 'cli'));
  await mkdir(join(checkout, 'bin'));
  for (const file of ['cli/installed.mjs', 'cli/abide.mjs'])
    await copyFile(fileURLToPath(new URL(`../../${file}`, import.meta.url)), join(checkout, file));
  await writeFile(join(checkout, 'package-lock.json'), '{}');
  await npmIs(`mkdir -p node_modules/.bin && ln -sf '${process.execPath}' node_modules/.bin/node
    sleep 0.3; touch node_modules/.package-lock.json`);
});
afterEach(() => rm(checkout, { recursive: true }));

const npmIs = async (script: string): Promise<void> => {
  const npm = join(checkout, 'bin/npm');
  await writeFile(npm, `#!/bin/sh\necho "$@" >> '${join(checkout, 'npm-ran')}'\n${script}\n`);
  await chmod(npm, 0o755);
};
const npmRan = (): Promise<string> => readFile(join(checkout, 'npm-ran'), 'utf8').catch(() => '');

const locks = async (): Promise<string[]> =>
  (await readdir(checkout)).filter((name) => name.startsWith('.installing'));
/** As an installation that was killed leaves it. */
const leaveLock = async (): Promise<void> => {
  const { pid } = spawnSync(process.execPath, ['-e', '']);
  await mkdir(join(checkout, '.installing-lock', String(pid)), { recursive: true });
};

const run = (...args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> =>
  new Promise((resolve) => {
    const path = `${join(checkout, 'bin')}${delimiter}${process.env['PATH']}`;
    execFile(
      process.execPath,
      args.length > 0 ? args : [join(checkout, 'cli/installed.mjs'), '-p', '"it runs"'],
      { env: { ...process.env, NODE_OPTIONS: '', PATH: path } },
      (error, stdout, stderr) => {
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
      },
    );
  });

test('what is missing is installed once, saying how much, and nothing is said where nothing is missing', async () => {
  const first = await run();

  expect(first).toMatchObject({ code: 0, stdout: 'it runs\n' });
  expect(first.stderr).toMatch(/^abide: installing what is missing \(npm ci, about \d+ MB, .*\) …\n$/);
  expect(await run()).toEqual({ code: 0, stdout: 'it runs\n', stderr: '' });
  expect(await npmRan()).toBe('ci --no-audit --no-fund\n');

  const later = new Date(Date.now() + 60_000);
  await utimes(join(checkout, 'package-lock.json'), later, later);
  expect((await run()).stderr).toMatch(/^abide: installing what is missing/);
});

test('two at once install once, and leave no lock behind', async () => {
  const both = await Promise.all([run(), run()]);

  expect(both).toMatchObject([
    { code: 0, stdout: 'it runs\n' },
    { code: 0, stdout: 'it runs\n' },
  ]);
  expect(await npmRan()).toBe('ci --no-audit --no-fund\n');
  expect(await locks()).toEqual([]);
});

// `npm start` held the lock for as long as it ran: after a `git pull` everything else waited for an installation that was long
// over.
test('what was installed may run for long and holds no later installation up', async () => {
  const { stdout } = await run(
    join(checkout, 'cli/installed.mjs'),
    '-p',
    `require('node:fs').readdirSync(${JSON.stringify(checkout)}).some((name) => name.startsWith('.installing'))`,
  );

  expect(stdout).toBe('false\n');
});

test('the lock of a killed installation holds nobody up', async () => {
  await leaveLock();

  expect(await run()).toMatchObject({ code: 0, stdout: 'it runs\n' });
});

// Found by reading: both removed what they found, the slower one the lock of the faster one, and two `npm ci` ran at once.
test('of two that find the lock of a killed installation, the slower one waits for the faster one', async () => {
  await leaveLock();
  // The first installation goes on once the second one runs beside it, or it says that it waits.
  const [looks, waits, ran] = ['looks', 'waits', 'npm-ran'].map((name) => join(checkout, name));
  await npmIs(`[ $(wc -l < '${ran}') = 2 ] || until [ -e '${waits}' ] || [ $(wc -l < '${ran}') = 2 ]; do sleep 0.05; done
    mkdir -p node_modules/.bin && ln -sf '${process.execPath}' node_modules/.bin/node && touch node_modules/.package-lock.json`);
  const slow = `import { existsSync, writeFileSync } from 'node:fs';
    const { kill } = process;
    process.kill = (...whom) => {
      process.kill = kill;
      writeFileSync('${looks}', '');
      while (!existsSync('${ran}')) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
      return kill.apply(process, whom);
    };
    const { write } = process.stderr;
    process.stderr.write = (text) => {
      if (text.includes('waiting')) writeFileSync('${waits}', '');
      return write.call(process.stderr, text);
    };`;

  const slower = run(
    `--import=data:text/javascript,${encodeURIComponent(slow)}`,
    join(checkout, 'cli/installed.mjs'),
    '-p',
    '"it runs"',
  );
  await eventually(() => stat(looks!));
  const both = await Promise.all([run(), slower]);

  expect(both).toMatchObject([
    { code: 0, stdout: 'it runs\n' },
    { code: 0, stdout: 'it runs\n' },
  ]);
  expect(await npmRan()).toBe('ci --no-audit --no-fund\n');
  expect(await locks()).toEqual([]);
});

test('an installation that fails says so and ends with 1', async () => {
  await npmIs('exit 1');

  const { code, stdout, stderr } = await run();

  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(stderr).toContain('abide: the installation is not complete: npm ci failed, see above');
  expect(await locks()).toEqual([]);
});

// On Node 26 the command ran the sources as they were: a stack trace about a library that nobody had installed yet.
test('the command installs what is missing in a checkout, and nothing where it is not one', async () => {
  await writeFile(join(checkout, 'cli/abide.ts'), 'console.log(process.argv.slice(2).join(" "))');
  const command = (): ReturnType<typeof run> => run(join(checkout, 'cli/abide.mjs'), 'lag', '--json');

  expect(await command()).toMatchObject({ code: 0, stdout: 'lag --json\n' });
  expect(await npmRan()).toBe('ci --no-audit --no-fund\n');

  await rm(join(checkout, 'node_modules'), { recursive: true });
  await rm(join(checkout, 'package-lock.json'));
  expect(await command()).toEqual({ code: 0, stdout: 'lag --json\n', stderr: '' });
  expect(await npmRan()).toBe('ci --no-audit --no-fund\n');
});
