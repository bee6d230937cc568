import { expect, jest, test } from '@jest/globals';
import { createWatermarkJob } from '../../ledger/watermark.ts';
import { eventually } from '../harness/eventually.ts';
import { freshLedger, intent, outstandingOf, render, report, verified } from '../harness/ledger.ts';
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

/** Rounds that draw nothing bring the marks there; writers elsewhere on the server may hold them back for a moment. */
const untilMarks = (t: TestLedger, wanted: number[], round: () => Promise<number>): Promise<void> =>
  eventually(async () => {
    expect(await round()).toBe(0);
    expect(await marks(t)).toEqual(wanted);
  });

async function settleAll(t: TestLedger, store: string): Promise<void> {
  const due = await outstandingOf(t.ledger, store);
  await t.ledger.acknowledge(store, report(due.map((decision) => verified(decision))));
}

// Each process of the API drew one twice a second, day and night: a commit record and a flush for nothing.
test('a ledger in which nothing happens draws no transaction ids', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' }, { name: 'mail' });
  const round = rounds(t);
  expect(await round()).toBe(0);

  await t.ledger.record(intent('ada@example.com'), render);
  expect(await round()).toBe(1);
  expect([await round(), await round()]).toEqual([0, 0]);

  // What is settled later needs no other fence than the one that is final.
  await settleAll(t, 'crm');
  await settleAll(t, 'mail');
  await untilMarks(t, [1, 1], round);
  // A process that starts finds every store where it should be.
  expect(await rounds(t)()).toBe(0);

  await t.ledger.record(intent('bob@example.com'), render);
  await settleAll(t, 'crm');
  expect(await round()).toBe(1);
  await untilMarks(t, [2, 1], round);
  // Another process draws one for the store that lags, and no second one.
  const another = rounds(t);
  expect([await another(), await another()]).toEqual([1, 0]);
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
