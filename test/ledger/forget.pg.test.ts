import { expect, test } from '@jest/globals';
import { FORGET, forget } from '../../ledger/forget.ts';
import { withClient } from '../harness/database.ts';
import { buffersOf } from '../harness/explain.ts';
import { freshLedger } from '../harness/ledger.ts';

const OLD = 25_000;
const YOUNG = 100_000;
const CONDITION = "created_at < %s - interval '30 days'";

test('what is old is deleted, some at a time, without looking at what is young', async () => {
  await using t = await freshLedger();
  await t.pool.query(
    `insert into idempotency_keys (client, pepper_id, key_hmac, intent_hmac, opt_out_id, status, answer, created_at)
     select 'shop', 1, sha256(n::text::bytea), '', gen_random_uuid(), 201, repeat('x', 200)::bytea,
       now() - case when n <= ${OLD} then interval '31 days' else interval '29 days' end
     from generate_series(1, ${OLD + YOUNG}) n`,
  );
  const left = async (): Promise<number> =>
    (await t.pool.query<{ n: number }>('select count(*) as n from idempotency_keys')).rows[0]!.n;
  await forget(t.pool, 'idempotency_keys', CONDITION);
  expect(await left()).toBe(YOUNG);

  // As autovacuum does: only then does the planner know what lies where.
  await withClient(t.db.urls.owner, (client) => client.query('vacuum analyze idempotency_keys'));
  const { rows } = await t.pool.query<{ pages: number }>(
    "select relpages as pages from pg_class where relname = 'idempotency_keys'",
  );
  const touched = await buffersOf(t.pool, FORGET('idempotency_keys', CONDITION), []);
  expect(touched).toBeLessThan(rows[0]!.pages / 10);
});
