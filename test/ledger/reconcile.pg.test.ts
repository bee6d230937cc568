// What a store was found to hold no longer, as its worker tells the ledger.
import { expect, test } from '@jest/globals';
import { askReconciliation } from '../../ledger/reconcile.ts';
import { findStore, refillStore, renewLease } from '../../ledger/stores.ts';
import type { Difference } from '../../suppression/acknowledgement.ts';
import { eventually } from '../harness/eventually.ts';
import {
  freshLedger,
  intent,
  outstandingOf,
  propagationIn,
  read,
  render,
  report,
  verified,
} from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

const worker = 'worker-1';

async function given(): Promise<TestLedger> {
  const t = await freshLedger();
  await t.register({ name: 'crm' });
  expect(await renewLease(t.pool, 'crm', worker, Buffer.from('crm'))).toBe(true);
  return t;
}

/** The id of an opt-out that the store has confirmed. */
async function optOut(t: TestLedger, scopes: readonly ('email' | 'sms' | 'push')[]): Promise<string> {
  const { id } = read(await t.ledger.record(intent('ada@example.com', { scopes }), render));
  await settle(t);
  return id;
}

async function settle(t: TestLedger): Promise<void> {
  const due = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report(due.map((one) => verified(one))));
}

async function find(t: TestLedger, ...differences: Difference[]): Promise<void> {
  await t.ledger.reconcile('crm', { client: 'ops', keyId: 'ops', address: 'here', requestId: 'r-1' });
  const page = (await t.ledger.reconciliationPage('crm', worker))!;
  const comparison = { compared: page.decisions.length, differences, own: 0, unread: 0 };
  expect(await t.ledger.compared('crm', page, comparison)).toBe(true);
}

const lagIs = (t: TestLedger, expected: object): Promise<void> =>
  eventually(async () => expect((await t.ledger.lag()).stores[0]).toMatchObject(expected));

// An import lifted what the older of two opt-outs had suppressed, and only the newer opt-out was shown as incomplete.
test.each(['resurrected', 'missing'] as const)(
  'what is %s is incomplete for every opt-out of that person, until it is held again',
  async (kind) => {
    await using t = await given();
    const ids = [await optOut(t, ['email']), await optOut(t, ['sms'])];
    await lagIs(t, { verified_through: 2, outstanding: 0 });
    const completed = await Promise.all(
      ids.map(async (id) => (await propagationIn(t.ledger, id))!.firstCompletedAt),
    );

    await find(t, { seq: 2, kind, heldVersion: kind === 'missing' ? undefined : 2 });
    for (const [n, id] of ids.entries())
      expect(await propagationIn(t.ledger, id)).toMatchObject({
        state: 'pending',
        firstCompletedAt: completed[n],
        stores: [{ state: 'pending', reason: `DRIFT_${kind.toUpperCase()}` }],
      });
    await lagIs(t, { verified_through: 0, outstanding: 1, drift: 1 });

    // Carried in vain, it is parked; it is as lost as before.
    const [lost] = await outstandingOf(t.ledger, 'crm');
    await t.ledger.acknowledge('crm', report([verified(lost!, { outcome: 'failed', code: 'NOT_HELD' })]));
    await lagIs(t, { outstanding: 1, quarantined: 1, drift: 1 });
    await t.pool.query('update exceptions set next_try_at = clock_timestamp()');

    await settle(t);
    for (const id of ids)
      expect(await propagationIn(t.ledger, id)).toMatchObject({ state: 'complete', verified: 1 });
    await lagIs(t, { verified_through: 2, outstanding: 0, drift: 0 });
  },
);

test('of a store that went back to an older version, what came after that is incomplete, and nothing before', async () => {
  await using t = await given();
  const first = await optOut(t, ['email']);
  const later = [await optOut(t, ['sms']), await optOut(t, ['push'])];
  await lagIs(t, { verified_through: 3 });

  await find(t, { seq: 3, kind: 'older', heldVersion: 1 });
  expect(await propagationIn(t.ledger, first)).toMatchObject({ state: 'complete', verified: 1 });
  for (const id of later)
    expect(await propagationIn(t.ledger, id)).toMatchObject({
      state: 'pending',
      stores: [{ reason: 'DRIFT_OLDER' }],
    });
  await lagIs(t, { verified_through: 1 });
});

// Found by reading: a report whose answer was lost is sent again, and cleared what had been found missing since. The store had lost the
// person, and nothing was outstanding.
test('what was read before a comparison does not settle what the comparison found missing', async () => {
  await using t = await given();
  await t.ledger.record(intent('ada@example.com'), render);
  const [first] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(first!)]));
  await lagIs(t, { verified_through: 1, outstanding: 0 });

  await find(t, { seq: 1, kind: 'missing', heldVersion: undefined });
  await t.ledger.acknowledge('crm', report([verified(first!)]));
  await lagIs(t, { verified_through: 0, outstanding: 1, drift: 1 });

  const [again] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(again!)]));
  await lagIs(t, { verified_through: 1, outstanding: 0, drift: 0 });
});

// It was a 500, or the id of a pass that had ended long ago.
test.each(['never compared', 'compared before'])(
  'a store of which a generation begins while its pass is asked for, and which was %s, is compared as it is now',
  async (before) => {
    await using t = await given();
    if (before === 'compared before') await find(t);
    const seen = (await findStore(t.pool, 'crm'))!;
    await refillStore(t.pool, 'crm', 'it lost something', undefined);

    const run = await askReconciliation(t.pool, seen, undefined);

    const [newest] = (await t.ledger.reconciliations('crm', 1))!;
    expect(newest).toMatchObject({ id: run, finishedAt: undefined });
    const { rows } = await t.pool.query('select generation from reconciliations where id = $1', [run]);
    expect(rows).toEqual([{ generation: seen.generation + 1 }]);
  },
);
