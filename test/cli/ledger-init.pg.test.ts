// Found by reading: a server that was given its secrets began a new ledger in an emptied database, without a word. Every check was
// answered with "send", and the lag read well, since nothing was outstanding.
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { makeToken } from '../../ledger/api-keys.ts';
import { makeKeyRing } from '../../ledger/key-ring.ts';
import { runAbide, spawnAbide } from '../harness/abide.ts';
import type { Ran } from '../harness/abide.ts';
import { emptyDatabase, withClient } from '../harness/database.ts';
import type { TestDatabase } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';

const GIVEN = { ABIDE_KEYS: makeKeyRing(), ABIDE_ADMIN_KEY: makeToken() };

let folder: string;
let db: TestDatabase;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'abide-init-'));
  db = await emptyDatabase();
});
afterEach(async () => {
  await db[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

type Env = Readonly<Record<string, string>>;

async function onDatabase(listen: string): Promise<(...args: readonly string[]) => readonly string[]> {
  const { api, owner, replication } = db.urls;
  const config = join(folder, 'abide.yaml');
  await writeFile(
    config,
    `database: ${api}\nowner_database: ${owner}\nreplication_database: ${replication}\nlisten: ${listen}\nops_listen: 127.0.0.1:0\nstores: {}\n`,
  );
  return (...args) => [...args, '--config', config, '--data', join(folder, 'data')];
}

/** Serves until it is ready, and then stops it; or until it ends by itself. */
async function serve(args: readonly string[], env: Env): Promise<Omit<Ran, 'stdout'>> {
  const { child, ended, output } = spawnAbide(args, env);
  try {
    await eventually(() => expect(child.exitCode !== null || output().includes('ready after')).toBe(true));
  } finally {
    child.kill('SIGTERM');
  }
  return { code: await ended, output: output() };
}

async function empty(): Promise<void> {
  const server = Object.assign(new URL(db.superuserUrl), { pathname: 'postgres' }).href;
  await withClient(server, async (client) => {
    await client.query(`drop database ${db.name} with (force)`);
    await client.query(`create database ${db.name} owner abide_owner`);
  });
}

async function expectRefused({ code, output }: Omit<Ran, 'stdout'>, keys: readonly string[]): Promise<void> {
  expect([code, output]).toEqual([1, expect.stringContaining('(LEDGER_MISSING)')]);
  expect(output).toContain(
    `${db.name} is empty, but there are the keys of a ledger (${keys.join(', ')}). A new one would know of no opt-out, and answer every check with "send". Restore the ledger; or, to begin anew, \`abide ledger init\`.`,
  );
  const made = await withClient(db.superuserUrl, (client) =>
    client.query("select from pg_class where relnamespace = 'public'::regnamespace"),
  );
  expect(made.rowCount).toBe(0);
}

test('with secrets that are given a ledger begins when that is said, and never because the database is empty', async () => {
  const at = await onDatabase('0.0.0.0:0');
  const init = (env: Env = GIVEN) => runAbide(at('ledger', 'init'), env);
  await expectRefused(await serve(at('serve'), GIVEN), ['ABIDE_KEYS']);

  expect(await init()).toMatchObject({
    code: 0,
    output: expect.stringMatching(`^a new ledger begins in \\S+/${db.name}\n$`) as unknown,
  });
  expect(await serve(at('serve'), GIVEN)).toMatchObject({ code: 0 });
  expect(await init()).toMatchObject({ code: 3, output: 'there is a ledger already\n' });
  expect(await init({ ...GIVEN, ABIDE_KEYS: makeKeyRing() })).toMatchObject({
    code: 1,
    output: expect.stringContaining('(KEYS_MISSING)') as unknown,
  });

  await empty();
  await expectRefused(await serve(at('serve'), GIVEN), ['ABIDE_KEYS']);
  expect((await runAbide(at('doctor'), GIVEN)).output).toMatch(/^FAIL +database: no ledger is in it$/m);
  expect((await init()).output).toContain('a new ledger begins');
  expect(await serve(at('serve'), GIVEN)).toMatchObject({ code: 0 });
  expect(await readdir(join(folder, 'data'))).toEqual([]);
});

test.each([
  ['the key ring is kept', { ABIDE_ADMIN_KEY: GIVEN.ABIDE_ADMIN_KEY }, 'keys.json', []],
  ["the administrator's key is kept", { ABIDE_KEYS: GIVEN.ABIDE_KEYS }, 'admin.key', ['ABIDE_KEYS']],
])('nor if %s and the other one is given', async (_, env, kept, given) => {
  const at = await onDatabase('127.0.0.1:0');
  if (given.length > 0) expect(await runAbide(at('ledger', 'init'), env)).toMatchObject({ code: 0 });
  expect(await serve(at('serve'), env)).toMatchObject({ code: 0 });
  expect(await readdir(join(folder, 'data'))).toEqual([kept]);

  await empty();
  await expectRefused(await serve(at('serve'), env), [...given, join(folder, 'data', kept)]);

  expect((await runAbide(at('ledger', 'init'), env)).output).toContain('a new ledger begins');
  expect(await serve(at('serve'), env)).toMatchObject({ code: 0 });
});

test('the embedded database needs no such thing, and is told so', async () => {
  const config = join(folder, 'abide.yaml');
  await writeFile(config, 'stores: {}\n');

  const { code, output } = await runAbide(['ledger', 'init', '--config', config, '--data', folder]);

  expect([code, output]).toEqual([1, expect.stringContaining('the embedded one begins by itself')]);
});
