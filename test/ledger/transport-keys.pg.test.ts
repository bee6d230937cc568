import { expect, test } from '@jest/globals';
import { withClient } from '../harness/database.ts';
import { freshLedger } from '../harness/ledger.ts';

// Found by thinking: a ledger restored from a backup older than its newest key gave the next key the same id, and workers that had
// the lost key could open nothing any more.
test('no key after the first one has an id that a key had which a backup does not know', async () => {
  await using t = await freshLedger();
  const ids = async (): Promise<number[]> =>
    (await t.pool.query<{ id: number }>('select id from transport_keys order by id')).rows.map(
      ({ id }) => id,
    );
  expect(await ids()).toEqual([1]);
  await withClient(t.db.superuserUrl, (client) =>
    client.query("update transport_keys set created_at = created_at - interval '8 days'"),
  );
  const before = Math.floor(Date.now() / 1000);
  await t.another();
  const [, second] = await ids();
  // Ids follow the clock: any key made before a backup was restored was made earlier.
  expect(second).toBeGreaterThanOrEqual(before);
});
