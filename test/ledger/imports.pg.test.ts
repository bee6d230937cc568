// Files that are given up while a piece of them is on its way.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { freshLedger } from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

let t: TestLedger;
beforeAll(async () => {
  t = await freshLedger();
});
afterAll(async () => {
  await t[Symbol.asyncDispose]();
});

const begin = (): Promise<string> =>
  t.ledger.imports.begin({
    format: 'csv',
    dryRun: false,
    defaults: { scopes: ['email'], reason: 'person_request', effectiveAt: undefined },
    caller: { client: 'shop', keyId: 'one', address: 'here', requestId: 'r' },
    lineage: 'one',
  });

/** Whoever waits for the row that `id` stands in, in the order in which they came. */
async function untilWaiting(count: number): Promise<void> {
  await eventually(async () => {
    const { rows } = await t.pool.query<{ n: number }>(
      "select count(*) as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
    );
    expect(rows[0]!.n).toBe(count);
  });
}

test('a piece that was on its way leaves nothing behind', async () => {
  const id = await begin();
  let keeping: Promise<unknown>;
  let abandoning: Promise<void>;
  await withClient(t.db.superuserUrl, async (client) => {
    await client.query('begin');
    await client.query('select from imports where id = $1 for update', [id]);
    keeping = t.ledger.imports.keep(id, 0, Buffer.from('email\n'));
    await untilWaiting(1);
    abandoning = t.ledger.imports.abandon(id);
    await untilWaiting(2);
    await client.query('commit');
  });
  await Promise.all([keeping!, abandoning!]);

  expect((await t.pool.query('select from import_chunks')).rowCount).toBe(0);
  expect((await t.pool.query('select from imports')).rowCount).toBe(0);
});

test('what was given up takes no more pieces, and is not submitted', async () => {
  const id = await begin();
  await t.pool.query("update imports set lease_until = '-infinity' where id = $1", [id]);

  const file = { sha256: Buffer.alloc(32), bytes: 6, rows: 0, approveAbove: 1_000 };
  await expect(t.ledger.imports.keep(id, 0, Buffer.from('email\n'))).rejects.toMatchObject({
    code: 'request-timeout',
  });
  expect((await t.pool.query('select from import_chunks')).rowCount).toBe(0);
  await expect(t.ledger.imports.submit(id, file)).rejects.toMatchObject({ code: 'request-timeout' });
});
