// A virtual machine is resumed, or NTP corrects a clock that ran ahead: the database's clock is set back by an hour, and what was
// written before lies an hour ahead of it.
import { expect, test } from '@jest/globals';
import { issueCanaries } from '../../ledger/canary.ts';
import { readKeyRing } from '../../ledger/key-ring.ts';
import { currentTransportKey } from '../../ledger/transport-keys.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { freshLedger, intent, outstandingOf, render, report, verified } from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

const setBack = ({ db }: TestLedger, table: string, column: string) =>
  withClient(db.superuserUrl, async (client) => {
    // Decisions are append-only for everybody else.
    await client.query('set session_replication_role = replica');
    await client.query(`update ${table} set ${column} = ${column} + interval '1 hour'`);
  });

const heard = (t: TestLedger) => t.ledger.acknowledge('crm', report([]));
const why = async (t: TestLedger) => (await t.ledger.gate('crm', undefined))?.reason ?? 'send';

// Found by reading: its age was negative, so the store was `ok` for up to an hour, whatever was outstanding.
test.each(['outstanding', 'parked'])(
  'how old that is which is %s is not known, and nobody is told to send',
  async (state) => {
    await using t = await freshLedger();
    await t.register({ name: 'crm' });
    await t.ledger.record(intent('ada@example.com'), render);
    if (state === 'parked') {
      const [ada] = await outstandingOf(t.ledger, 'crm');
      await t.ledger.acknowledge('crm', report([verified(ada!, { outcome: 'refused', code: 'NO' })]));
    }
    await heard(t);
    expect(await why(t)).toBe('send');
    await setBack(t, 'decisions', 'recorded_at');
    expect(await why(t)).toBe('unknown');
    // What comes after is outstanding for a known time, and does not hide it.
    await t.ledger.record(intent('bob@example.com'), render);
    expect(await why(t)).toBe('unknown');
    await eventually(async () =>
      expect((await t.ledger.lag()).stores).toMatchObject([
        { status: 'unknown', outstanding: 2, oldest_outstanding_seconds: null },
      ]),
    );

    await t.pool.query('update exceptions set next_try_at = clock_timestamp()');
    const due = await outstandingOf(t.ledger, 'crm');
    await t.ledger.acknowledge('crm', report(due.map((one) => verified(one, { attempts: 2 }))));
    await heard(t);
    expect(await why(t)).toBe('send');
  },
);

// Found by reading: a worker that died in that hour was heard until its end.
test('a worker that was last heard ahead of the clock is not heard', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await heard(t);
  expect(await why(t)).toBe('send');
  await setBack(t, 'workers', 'last_seen_at');
  expect(await why(t)).toBe('unknown');
  await heard(t);
  expect(await why(t)).toBe('send');
});

// Found by reading: none was decided for an hour, and a way that did not work was not seen by them.
test('canaries go on', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const ring = readKeyRing(t.keys);
  const keys = { ring, transport: await currentTransportKey(t.pool, ring) };
  const addresses = { email: 'canary@example.com', phone: '', push_token: '', person_id: '' };
  const issue = () => issueCanaries(t.pool, keys, t.ledger.stores(), { everySeconds: 600, addresses });
  expect([await issue(), await issue()]).toEqual([true, false]);
  await setBack(t, 'canaries', 'issued_at');
  expect([await issue(), await issue()]).toEqual([true, false]);
});
