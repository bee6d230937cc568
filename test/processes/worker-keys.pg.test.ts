import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { revokeKey } from '../../ledger/api-keys.ts';
import { makeWorkerKeys } from '../../processes/stack/worker-keys.ts';
import { freshLedger } from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

let folder: string;
let t: TestLedger;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'abide-worker-keys-'));
  t = await freshLedger();
});
afterEach(async () => {
  await t[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const file = (name: string): string => join(folder, name);
const make = (...stores: string[]) => makeWorkerKeys(t.pool, stores, folder);

/** Another process: none of what this one has seen of a key. */
async function expectGood(keys: ReadonlyMap<string, string>, name: string): Promise<void> {
  const key = await (await t.another()).authenticate(keys.get(name)!);
  expect(key).toMatchObject({ store: name, client: `worker-${name}`, scopes: ['acknowledgements:write'] });
  expect(await readFile(file(name), 'utf8')).toBe(`${keys.get(name)}\n`);
}

test('each worker has a key of its own store, kept for it alone, which every start uses and leaves as it is', async () => {
  const first = await make('crm', 'mail');
  for (const name of ['crm', 'mail']) await expectGood(first, name);
  const before = await stat(file('crm'));
  expect(before.mode & 0o777).toBe(0o600);

  expect(await make('crm', 'mail')).toEqual(first);
  expect(await stat(file('crm'))).toMatchObject({ ino: before.ino, mtimeMs: before.mtimeMs });
});

// A worker was started with it, refused with 401, and started again for ever; or the stack did not start.
test.each<[string, (key: string) => Promise<unknown>]>([
  ['revoked', (key) => revokeKey(t.pool, key.split('_')[2]!, undefined)],
  ['expired', () => t.pool.query("update api_keys set expires_at = clock_timestamp() - interval '1 second'")],
  ['of another store', async () => writeFile(file('crm'), (await make('mail')).get('mail')!)],
  ['cut off by a crash', (key) => writeFile(file('crm'), key.slice(0, 30))],
  ['empty after a crash', () => writeFile(file('crm'), '')],
])('a kept key that is %s is replaced', async (_why, spoil) => {
  const before = (await make('crm')).get('crm')!;
  await spoil(before);

  const keys = await make('crm');

  expect(keys.get('crm')).not.toBe(before);
  await expectGood(keys, 'crm');
});
