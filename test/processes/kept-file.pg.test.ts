// Seen on a file system whose machine lost power seconds after the first start: an opt-out that had been answered was in the
// database, and the key ring, which alone can read it, was a file of 0 bytes.
import { chown, mkdtemp, readFile, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { makeKeyRing } from '../../ledger/key-ring.ts';
import { makeAdministratorKey } from '../../processes/administrator-key.ts';
import { keepNewKeys, makeFile, readKeysOf } from '../../processes/kept-file.ts';
import { openDatabase } from '../../processes/open-database.ts';
import { runAbide, spawnAbide } from '../harness/abide.ts';
import { emptyDatabase } from '../harness/database.ts';
import type { TestDatabase } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { putClusterInto } from '../harness/postgres-of-the-run.ts';

const nothing = (): void => undefined;
const QUIET = { debug: nothing, info: nothing, warn: nothing, error: nothing };

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'abide-kept-'));
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

const inodeOf = async (path: string): Promise<string> => String((await stat(path)).ino);

/** Runs `abide serve` on the folder until it is ready, then `work`; it is stopped afterwards. */
async function whileServing(env: Readonly<Record<string, string>>, work: () => Promise<void>): Promise<void> {
  const { child, ended, output } = spawnAbide(['serve', '--data', folder], { ...env, PORT: '0' });
  try {
    await eventually(() => expect(output()).toContain('ready after'));
    await work();
  } finally {
    child.kill('SIGTERM');
    await ended;
  }
}

test('what nobody can make again is on disk when Abide is ready, and so is its name', async () => {
  const synced = join(folder, 'synced');
  const preload = pathToFileURL(join(process.cwd(), 'test/harness/synced.mjs')).href;
  const env = { ABIDE_TEST_SYNCED: synced, NODE_OPTIONS: `--import=${preload}` };
  const expectSynced = async (name: string): Promise<void> => {
    const inodes = (await readFile(synced, 'utf8').catch(() => '')).split('\n');
    expect([name, inodes]).toEqual([
      name,
      expect.arrayContaining([await inodeOf(join(folder, name))]) as unknown,
    ]);
    const named = inodes.lastIndexOf(await inodeOf(folder));
    expect(named).toBeGreaterThan(inodes.indexOf(await inodeOf(join(folder, name))));
  };

  await whileServing(env, async () => {
    for (const name of ['postgres.json', 'keys.json', 'admin.key']) await expectSynced(name);

    await rm(synced);
    const { code, output } = await runAbide(['keys', 'rotate-storage'], { ...env, ABIDE_DATA: folder });
    expect([output, code]).toEqual([expect.any(String), 0]);
    await expectSynced('keys.json');
  });
});

// A volume that was not mounted: Abide began an empty ledger without a word, and answered every check with "send".
test('the keys of a ledger get no new one: neither where it is gone, nor in an empty database', async () => {
  await putClusterInto(folder);
  await whileServing({}, () => Promise.resolve());
  const cluster = join(folder, 'postgres');
  const refused = async (why: string, ...args: string[]): Promise<void> => {
    const { code, output } = await runAbide(['serve', '--data', folder, ...args], { PORT: '0' });
    expect([code, output]).toEqual([
      1,
      expect.stringContaining(`${why}, but there are the keys of a ledger`),
    ]);
  };
  await rename(cluster, `${cluster}.lost`);
  await refused(`${cluster} is gone`);
  expect(await readdir(folder)).not.toContain('postgres');

  await using elsewhere = await emptyDatabase();
  const { api, owner, replication } = elsewhere.urls;
  const config = join(folder, 'elsewhere.yaml');
  await writeFile(
    config,
    `database: ${api}\nowner_database: ${owner}\nreplication_database: ${replication}\nstores: {}\n`,
  );
  await refused(`${elsewhere.name} is empty`, '--config', config);

  await rename(`${cluster}.lost`, cluster);
  await whileServing({}, () => Promise.resolve());
});

test('a file that is there is not made again, and nothing is left beside it', async () => {
  const file = join(folder, 'keys.json');
  makeFile(file, 'first');

  expect(() => {
    makeFile(file, 'second');
  }).toThrow(expect.objectContaining({ code: 'EEXIST' }));

  expect(await readFile(file, 'utf8')).toBe('first');
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  expect(await readdir(folder)).toEqual(['keys.json']);
});

test("the administrator's key is kept before it is recorded", async () => {
  const file = join(folder, 'admin.key');
  let keptThen: string | undefined;
  const recording = makeAdministratorKey(folder, async ({ token }) => {
    keptThen = await readFile(file, 'utf8');
    throw new Error(`the start ends before ${token === undefined ? 'a key' : 'this key'} is recorded`);
  });

  await expect(recording).rejects.toThrow('before this key is recorded');
  expect(keptThen).toMatch(/^abide_live_\S+\n$/);
  expect(await readFile(file, 'utf8')).toBe(keptThen);
});

const open = ({ urls }: TestDatabase, env = {}) =>
  openDatabase({ urls, whose: 'elsewhere', dataFolder: folder, env, mayMakeSecrets: true, log: QUIET });

test('a first start that ends before the database has taken its ring begins again, with that ring', async () => {
  keepNewKeys(folder, makeKeyRing());
  const text = readKeysOf(folder);
  await using db = await emptyDatabase();

  await (await open(db)).pool.end();

  expect(await readdir(folder)).toEqual(['keys.json']);
  expect(readKeysOf(folder)).toBe(text);
});

test('processes that begin a ledger at the same moment have one ring', async () => {
  await using db = await emptyDatabase();

  const opened = await Promise.all([1, 2, 3].map(() => open(db)));

  for (const { pool } of opened) await pool.end();
  expect(opened.map(({ ring }) => ring.checks)).toEqual(opened.map(() => opened[0]!.ring.checks));
  expect(opened.filter(({ isNew }) => isNew)).toHaveLength(1);
  expect(await readdir(folder)).toEqual(['keys.json']);
});

test('an ABIDE_KEYS that is set and empty is not set', async () => {
  await using db = await emptyDatabase();
  for (const env of [{ ABIDE_KEYS: '' }, {}, { ABIDE_KEYS: '' }]) {
    await (await open(db, env)).pool.end();
  }
  expect(await readdir(folder)).toEqual(['keys.json']);
});

/** Only root can give a file to somebody else. */
const asRoot = process.getuid?.() === 0 ? test : test.skip;

asRoot(
  'a start as root with another port for its database leaves the passwords to whose they were',
  async () => {
    await whileServing({}, () => Promise.resolve());
    const file = join(folder, 'postgres.json');
    await chown(file, 65_534, 65_534);
    const { port } = JSON.parse(await readFile(file, 'utf8')) as { port: number };
    await using taken: Server = createServer();
    await new Promise<void>((resolve) => taken.listen(port, '127.0.0.1', resolve));

    await whileServing({}, async () => {
      expect(JSON.parse(await readFile(file, 'utf8'))).not.toMatchObject({ port });
      expect(await stat(file)).toMatchObject({ uid: 65_534, gid: 65_534, mode: 0o100_600 });
    });
  },
);
