import { expect, test } from '@jest/globals';
import { destroyOldTransportKeys } from '../../ledger/transport-keys.ts';
import { withClient } from '../harness/database.ts';
import { freshLedger, intent, outstandingOf, render, report, verified } from '../harness/ledger.ts';

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

// Found by thinking: one person whom one store does not know kept every key since then, and with it every copy of every address.
test.each([
  ['does not know does not keep an old key', 'absent', 1],
  ['refuses keeps it', 'refused', 0],
] as const)('somebody whom a store %s', async (_, outcome, destroyed) => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  const [ada] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(ada!, { outcome, code: 'WHY' })]));
  await withClient(t.db.superuserUrl, async (client) => {
    await client.query("update transport_keys set created_at = created_at - interval '50 days'");
    await client.query(
      "insert into transport_keys (id, key, created_at) values (2, '', clock_timestamp() - interval '40 days')",
    );
    await client.query('update stores set scanned_through = 1');
  });
  expect(await destroyOldTransportKeys(t.pool)).toBe(destroyed);
});
