import { expect, test } from '@jest/globals';
import { withClient } from '../harness/database.ts';
import { freshLedger, intent, outstandingOf, render } from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

/** As the superuser, for what nobody else may do. */
const damage = ({ db }: TestLedger, ...statements: string[]): Promise<void> =>
  withClient(db.superuserUrl, async (client) => {
    await client.query('set session_replication_role = replica');
    for (const statement of statements) await client.query(statement);
  });

// Seen in thought: the whole page failed, and with it everything that the store was to get from the ledger.
test('an address that cannot be opened withholds its own decision, and no other', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  for (const who of ['ada', 'bob', 'cyd']) await t.ledger.record(intent(`${who}@example.com`), render);
  await damage(
    t,
    'update decisions set sealed = null, transport_key_id = null',
    `update subjects set sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1)
     where id = (select subject_id from decisions where seq = 2)`,
  );
  const given = await outstandingOf(t.ledger, 'crm');
  expect(given.map(({ seq, sealed }) => [seq, sealed === undefined])).toEqual([
    [1, false],
    [2, true],
    [3, false],
  ]);
});
