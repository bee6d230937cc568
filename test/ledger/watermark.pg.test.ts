import { expect, jest, test } from '@jest/globals';
import { createWatermarkJob } from '../../ledger/watermark.ts';
import { eventually } from '../harness/eventually.ts';
import { isFinal, takeFence } from '../../ledger/fence.ts';
import { refillStore } from '../../ledger/stores.ts';
import { withClient } from '../harness/database.ts';
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

/** One round of the job in a process of its own, and how many transaction ids it drew. */
function rounds({ pool }: TestLedger) {
  const job = createWatermarkJob(pool);
  const asked = jest.spyOn(pool, 'query');
  return async (): Promise<number> => {
    asked.mockClear();
    await job.advance();
    const statements = asked.mock.calls.map(([query]) =>
      typeof query === 'string' ? query : JSON.stringify(query),
    );
    return statements.filter((text) => text.includes('pg_current_xact_id')).length;
  };
}

const marks = async ({ pool }: TestLedger): Promise<number[]> =>
  (await pool.query<{ mark: number }>('select scanned_through as mark from stores order by name')).rows.map(
    ({ mark }) => mark,
  );

/**
 * Rounds that draw nothing bring the marks there; writers elsewhere on the server may hold marks back for a moment. The ledger's own
 * job may have moved them while the fence of this one still waits: a job asks after its fence as long as it has one.
 */
const untilMarks = (t: TestLedger, wanted: number[], round: () => Promise<number>): Promise<void> =>
  eventually(async () => {
    expect(await round()).toBe(0);
    expect(jest.mocked(t.pool.query).mock.calls).not.toContainEqual([
      expect.objectContaining({ name: 'fence-is-final' }),
    ]);
    expect(await marks(t)).toEqual(wanted);
  });

async function settleAll(t: TestLedger, store: string): Promise<void> {
  const due = await outstandingOf(t.ledger, store);
  await t.ledger.acknowledge(store, report(due.map((decision) => verified(decision))));
}

// Each process of the API drew an id twice a second, day and night: a commit record and a flush for nothing.
test('a ledger in which nothing happens draws no transaction ids', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' }, { name: 'mail' });
  const round = rounds(t);
  expect(await round()).toBe(0);

  await t.ledger.record(intent('ada@example.com'), render);
  expect(await round()).toBe(1);
  expect([await round(), await round()]).toEqual([0, 0]);

  // What is settled later needs no fence but the one that is final.
  await settleAll(t, 'crm');
  await settleAll(t, 'mail');
  await untilMarks(t, [1, 1], round);
  // A starting process finds every store where it should be.
  expect(await rounds(t)()).toBe(0);

  await t.ledger.record(intent('bob@example.com'), render);
  await settleAll(t, 'crm');
  expect(await round()).toBe(1);
  await untilMarks(t, [2, 1], round);
  // Another process draws one for the store that lags, and no second one.
  const another = rounds(t);
  expect([await another(), await another()]).toEqual([1, 0]);
});

// Found by thinking: after a failover the mark went to where the previous server had been, and what was then decided below it
// counted as held by everybody.
test('a database that went back takes nobody past what it decides from then on', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const round = rounds(t);
  for (const who of ['ada', 'bob', 'cyd']) await t.ledger.record(intent(`${who}@example.com`), render);
  expect(await round()).toBe(1);
  // While nothing is settled, the fence at 3 is final and no mark has reached it.
  await untilMarks(t, [0], round);

  await withClient(t.db.superuserUrl, async (client) => {
    await client.query('set session_replication_role = replica');
    // In this order: with the sequence where it was, what is gone would look like a rollback.
    await client.query("select setval('decisions_seq_seq', 1, false)");
    await client.query('truncate decisions, opt_outs, opt_out_subjects, subjects cascade');
  });
  await round();
  expect(await marks(t)).toEqual([0]);
  const { id } = read(await t.ledger.record(intent('dan@example.com'), render));
  await round();
  expect(await marks(t)).toEqual([0]);
  expect(await propagationIn(t.ledger, id)).toMatchObject({ state: 'pending', confirmed: 0 });
  expect(await outstandingOf(t.ledger, 'crm')).toMatchObject([{ seq: 1 }]);

  await settleAll(t, 'crm');
  await eventually(async () => {
    await round();
    expect(await marks(t)).toEqual([1]);
  });
});

test('what was final on one server is not on another', async () => {
  await using t = await freshLedger();
  await t.ledger.record(intent('ada@example.com'), render);
  const fence = (await takeFence(t.pool))!;
  await eventually(async () => expect(await isFinal(t.pool, fence)).toBe(true));
  expect(await isFinal(t.pool, { ...fence, server: '2026-11-24 09:00:00+00' })).toBe(false);
});

test('a fence that waits for an open transaction is not drawn again', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const round = rounds(t);
  const writer = await t.pool.connect();
  await writer.query('begin');
  await writer.query('select txid_current()');
  await t.ledger.record(intent('ada@example.com'), render);
  await settleAll(t, 'crm');
  expect([await round(), await round()]).toEqual([1, 0]);
  expect(await marks(t)).toEqual([0]);
  await writer.query('commit');
  writer.release();
  await untilMarks(t, [1], round);
});

// Dumped while a store was filled, and restored on a server whose transaction ids are lower: until they had come that far, the
// store was told of nobody, with nothing outstanding.
test('a back-fill that began on another server goes on where the ledger was moved to', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  await settleAll(t, 'crm');
  const round = rounds(t);
  await untilMarks(t, [1], round);
  await refillStore(t.pool, 'crm', 'test', undefined);
  await t.pool.query(
    'update stores set backfill_after_xid = (backfill_after_xid::text::bigint + 1000000000)::text::xid8',
  );

  const due = await outstandingOf(t.ledger, 'crm');
  expect(due).toMatchObject([{ seq: 1, lane: 'backfill' }]);
  await t.ledger.refresh();
  const held = due.map((decision) => verified(decision, { carriedBy: 'backfill' }));
  await t.ledger.acknowledge('crm', report(held, { generation: 2 }));
  await eventually(async () => {
    await round();
    expect((await t.ledger.lag()).stores).toMatchObject([{ backfill: null, verified_through: 1 }]);
  });
});
