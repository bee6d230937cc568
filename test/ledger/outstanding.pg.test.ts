import { expect, test } from '@jest/globals';
import type { AbideError } from '../../suppression/errors.ts';
import { open } from '../../suppression/seal.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { freshLedger, grant, intent, outstandingOf, render, report, verified } from '../harness/ledger.ts';
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
  const key = { id: 1, secret: (await t.ledger.transportKey(1))! };
  const opened = given.map(({ seq, sealed, subjectId, kind }) => {
    try {
      return [seq, open(Buffer.from(sealed!, 'base64url'), key, [subjectId, kind])];
    } catch (error) {
      return [seq, (error as AbideError).code];
    }
  });
  expect(opened).toEqual([
    [1, 'ada@example.com'],
    [2, 'SEALED_UNREADABLE'],
    [3, 'cyd@example.com'],
  ]);
});

// Seen in thought: the newer one was refused and parked, and the consent before it was taken from the ledger and lifted what the
// newer one suppresses.
test('a consent is not given out past a newer decision that was refused, and stays outstanding until that one is held', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  const [first] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(first!)]));
  await grant(t, first!.subjectId, ['email']);
  expect(await outstandingOf(t.ledger, 'crm')).toMatchObject([{ seq: 2, version: 2 }]);
  await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render);
  const [, newest] = await outstandingOf(t.ledger, 'crm');
  expect(newest!.version).toBe(3);
  const refused = verified(newest!, {
    outcome: 'refused',
    code: 'SCOPE_NOT_HELD',
    held: { version: 1, suppressed: [] },
  });
  await t.ledger.acknowledge('crm', report([refused]));
  expect(await outstandingOf(t.ledger, 'crm')).toEqual([]);
  const lag = async () => (await t.ledger.lag()).stores[0];
  await eventually(async () => expect(await lag()).toMatchObject({ quarantined: 1 }));
  await t.ledger.acknowledge('crm', report([verified(newest!)]));
  await eventually(async () => expect(await lag()).toMatchObject({ quarantined: 0, outstanding: 0 }));
});
