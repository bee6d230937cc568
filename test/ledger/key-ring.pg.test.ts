// The ring and its database, and the rotation of a storage key: what was sealed stays readable, and nobody loses the ring.
import { afterAll, afterEach, beforeAll, expect, jest, test } from '@jest/globals';
import { readAudit } from '../../ledger/audit.ts';
import { openPool } from '../../ledger/database.ts';
import type { Pool } from '../../ledger/database.ts';
import { makeKeyRing, matchKeyRing, readKeyRing, rotateKeyOfRing } from '../../ledger/key-ring.ts';
import type { KeyRing } from '../../ledger/key-ring.ts';
import { sealedWith } from '../../suppression/seal.ts';
import type { SealContext } from '../../suppression/seal.ts';
import { freshDatabase } from '../harness/database.ts';
import type { TestDatabase } from '../harness/database.ts';

const CONTEXT: SealContext = ['row', 'email'];

let database: TestDatabase;
let pool: Pool;
/** The database's own. */
let own: string;

beforeAll(async () => {
  database = await freshDatabase();
  pool = openPool(database.urls.api, { max: 2, onError: () => undefined });
  await matchKeyRing(pool, { read: () => undefined, make: (text) => (own = text) });
});
afterAll(async () => {
  await pool.end();
  await database[Symbol.asyncDispose]();
});
afterEach(() => {
  jest.restoreAllMocks();
});

const begin = (text: string | undefined): Promise<KeyRing> =>
  matchKeyRing(pool, {
    read: () => text,
    make: () => {
      throw new Error('a ring was made over old data');
    },
  });

async function rotate(text: string, useFrom: string): Promise<{ id: number; text: string }> {
  let kept = '';
  const id = await rotateKeyOfRing(pool, {
    purpose: 'storage',
    read: () => text,
    keep: (made) => {
      kept = made;
    },
    useFrom,
    caller: { client: 'cli:ada', keyId: 'cli', address: 'here', requestId: 'cli-1' },
  });
  return { id, text: kept };
}

test('another ring than its own, or none, does not begin on a database', async () => {
  await begin(own);
  for (const other of [makeKeyRing(), undefined]) {
    await expect(begin(other)).rejects.toMatchObject({
      code: 'KEYS_MISSING',
      message: 'The key ring lacks pepper key 1, signing key 3, storage key 2, which this database uses.',
    });
  }
});

test.each(['', '{}', '{"keys":[]}', '{"keys":[{"id":1,"purpose":"pepper","secret":"c2hvcnQ="}]}'])(
  'what is no ring is refused: %j',
  (text) => {
    expect(() => readKeyRing(text)).toThrow(expect.objectContaining({ code: 'KEYS_INVALID' }));
  },
);

test('an added storage key seals from its time on, and what was sealed before opens as before', async () => {
  const useFrom = new Date(Date.now() + 3_600_000).toISOString();
  const rotated = await rotate(own, useFrom);
  const [old, ring] = [readKeyRing(own), readKeyRing(rotated.text)];
  const keysOf = (text: string): object[] => (JSON.parse(text) as { keys: object[] }).keys;
  expect([rotated.id, keysOf(rotated.text).length]).toEqual([4, 4]);
  expect(keysOf(rotated.text).slice(0, 3)).toEqual(keysOf(own));

  const early = ring.seal('ada@example.com', CONTEXT);
  // Until then a process without the new key reads what processes with it seal.
  expect([sealedWith(early), old.unseal(early, CONTEXT)]).toEqual([2, 'ada@example.com']);

  jest.spyOn(Date, 'now').mockReturnValue(Date.parse(useFrom));
  const late = ring.seal('ada@example.com', CONTEXT);
  expect(sealedWith(late)).toBe(4);
  expect(ring.unseal(early, CONTEXT)).toBe('ada@example.com');
  expect(ring.unseal(late, CONTEXT)).toBe('ada@example.com');
  expect(() => old.unseal(late, CONTEXT)).toThrow(expect.objectContaining({ code: 'KEYS_MISSING' }));

  const audited = await readAudit(pool, { after: 0, limit: 10, action: 'key_ring.rotated' });
  expect(audited).toMatchObject([
    { client: 'cli:ada', resource: 'storage key 4', details: { use_from: useFrom } },
  ]);
});

test('the ring of before begins until somebody began with the new one, and then no more', async () => {
  const rotated = await rotate(own, new Date().toISOString());
  await begin(own);
  await begin(rotated.text);
  await expect(begin(own)).rejects.toMatchObject({
    code: 'KEYS_MISSING',
    message: 'The key ring lacks storage key 4, which this database uses.',
  });
});
