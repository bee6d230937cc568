import { expect, test } from '@jest/globals';
import { changeStore, releaseLease, renewLease } from '../../ledger/stores.ts';
import type { AcknowledgementReport } from '../../suppression/acknowledgement.ts';
import { eventually } from '../harness/eventually.ts';
import { freshLedger, intent, outstandingOf, render, report, verified } from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

async function ledgerWithOneOptOut(): Promise<TestLedger> {
  const t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  return t;
}

/** What a worker sends at least every 2 s. */
const signOfLife = (
  t: TestLedger,
  id: string,
  acknowledgements: AcknowledgementReport['acknowledgements'] = [],
) => {
  const of = report(acknowledgements);
  return t.ledger.acknowledge('crm', { ...of, worker: { ...of.worker, id } });
};

const given = async ({ ledger }: TestLedger, worker: string): Promise<number | undefined> => {
  const signal = AbortSignal.timeout(5_000);
  const page = await ledger.outstanding('crm', { after: undefined, limit: 10, waitMs: 0, worker, signal });
  return page?.decisions.length;
};

/** `seconds`: how long it was to last at its holder's last sign of life, whenever this is looked at. */
const lease = async ({ pool }: TestLedger) =>
  (
    await pool.query<{ holder: string | null; seconds: number | null; row: string }>(
      `select lease_holder as holder, extract(epoch from lease_until - last_seen_at)::float8 as seconds,
         s.xmin::text as row
       from stores s left join workers w on w.store_id = s.id and w.id = s.lease_holder`,
    )
  ).rows[0]!;

/** As if the holder had been silent for this long. */
const letPass = ({ pool }: TestLedger, seconds: number) =>
  pool.query("update stores set lease_until = lease_until - $1 * interval '1 second'", [seconds]);

test('the first sign of life takes the lease, and nothing is given out but to its holder', async () => {
  await using t = await ledgerWithOneOptOut();
  expect([await given(t, 'one'), await given(t, 'two')]).toEqual([0, 0]);
  await signOfLife(t, 'one');
  await signOfLife(t, 'two');
  expect([await given(t, 'one'), await given(t, 'two')]).toEqual([1, 0]);
  expect((await lease(t)).seconds).toBeCloseTo(5, 0);
});

test('a holder that falls silent for five seconds is followed by the next sign of life', async () => {
  await using t = await ledgerWithOneOptOut();
  await signOfLife(t, 'one');
  await letPass(t, 2);
  await signOfLife(t, 'two');
  expect(await given(t, 'two')).toBe(0);
  await letPass(t, 3);
  await signOfLife(t, 'two');
  expect([await given(t, 'one'), await given(t, 'two')]).toEqual([0, 1]);
});

// Found by reading: for an hour nobody would have followed a worker that died.
test('a lease that ends later than any can is from before the clock was set back: free, but for its holder to renew', async () => {
  await using t = await ledgerWithOneOptOut();
  await signOfLife(t, 'one');
  await letPass(t, -3_600);
  await signOfLife(t, 'one');
  expect(await lease(t)).toMatchObject({ holder: 'one' });
  expect((await lease(t)).seconds).toBeCloseTo(5, 0);

  await letPass(t, -3_600);
  await signOfLife(t, 'two');
  expect([await given(t, 'one'), await given(t, 'two')]).toEqual([0, 1]);
  await letPass(t, -3_600);
  expect(await renewLease(t.pool, 'crm', 'embedded', Buffer.from('crm'))).toBe(true);
});

test("a worker in the API's process and one elsewhere leave each other's lease alone", async () => {
  await using t = await ledgerWithOneOptOut();
  await signOfLife(t, 'elsewhere');
  expect(await renewLease(t.pool, 'crm', 'embedded', Buffer.from('crm'))).toBe(false);
  await letPass(t, 5);
  expect(await renewLease(t.pool, 'crm', 'embedded', Buffer.from('crm'))).toBe(true);
  await signOfLife(t, 'elsewhere');
  expect((await lease(t)).holder).toBe('embedded');
  await releaseLease(t.pool, 'crm', 'embedded');
  await signOfLife(t, 'elsewhere');
  expect((await lease(t)).holder).toBe('elsewhere');
});

test('a lease is renewed at most once a second, whatever is reported', async () => {
  await using t = await ledgerWithOneOptOut();
  // Once more if all of them took longer than the second.
  await eventually(async () => {
    await letPass(t, 1);
    await signOfLife(t, 'one');
    const taken = await lease(t);
    for (let n = 0; n < 5; n += 1) await signOfLife(t, 'one');
    expect((await lease(t)).row).toBe(taken.row);
  });
  await letPass(t, 1);
  await signOfLife(t, 'one');
  expect((await lease(t)).seconds).toBeCloseTo(5, 0);
});

test('whoever reports what a queue was read of renews no lease but its own, and takes none', async () => {
  await using t = await ledgerWithOneOptOut();
  const [decision] = await outstandingOf(t.ledger, 'crm');
  await signOfLife(t, 'consumer', [verified(decision!)]);
  expect((await lease(t)).holder).toBeNull();
  await signOfLife(t, 'worker');
  await letPass(t, 3);
  await signOfLife(t, 'consumer', [verified(decision!)]);
  // Within a second of the last sign of life, a report that brings acknowledgements gives none.
  await eventually(async () => {
    await signOfLife(t, 'worker', [verified(decision!)]);
    expect(await lease(t)).toMatchObject({ holder: 'worker' });
    expect((await lease(t)).seconds).toBeCloseTo(5, 0);
  });
});

test.each(['paused', 'retired'] as const)('a %s store has nobody at work', async (state) => {
  await using t = await ledgerWithOneOptOut();
  await changeStore(t.pool, 'crm', state, { reason: 'test' }, undefined);
  await signOfLife(t, 'one');
  expect(await given(t, 'one')).toBe(0);
  expect((await lease(t)).holder).toBeNull();
  // The answer says so, for a worker that learns of decisions elsewhere.
  const ask = { after: undefined, limit: 1, waitMs: 0, worker: 'one', signal: AbortSignal.timeout(5_000) };
  expect(await t.ledger.outstanding('crm', ask)).toMatchObject({ paused: true, decisions: [] });
});
