// Daily budgets: exact over processes and restarts, and what they refuse is said once.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { readAudit } from '../../ledger/audit.ts';
import type { Caller } from '../../ledger/contract/audit.ts';
import type { OpenLedger } from '../../ledger/open-ledger.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { freshLedger, intent, read, render, subject } from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';
import { awayFromMidnight } from '../harness/midnight.ts';

let t: TestLedger;
beforeAll(async () => {
  await awayFromMidnight();
  t = await freshLedger();
});
afterAll(async () => {
  await t[Symbol.asyncDispose]();
});

const by = (
  lineage: string,
  perDay: Partial<Record<'opt_out' | 'grant' | 'check', number>>,
  client = 'shop',
): Caller => ({
  client,
  keyId: lineage,
  address: '127.0.0.1',
  requestId: 'r',
  budgets: { lineage, perDay: { opt_out: undefined, grant: undefined, check: undefined, ...perDay } },
});
/** What was given: all or nothing. */
const spend = async (ledger: OpenLedger, count: number, caller: Caller): Promise<number> => {
  try {
    await ledger.spend(caller, 'check', count);
    return count;
  } catch (error) {
    expect(error).toMatchObject({ code: 'budget-exhausted' });
    return 0;
  }
};
const spent = async (lineage: string): Promise<unknown[]> =>
  (
    await t.pool.query<{ client: string; direction: string; spent: number }>(
      'select client, direction, spent from budget_usage where key_id = $1 order by 1, 2',
      [lineage],
    )
  ).rows.map((row) => [row.client, row.direction, row.spent]);
const audited = async (lineage: string) =>
  (await readAudit(t.pool, { after: 0, limit: 1_000, action: 'budget.exhausted' })).filter(
    ({ resource }) => resource === lineage,
  );

test('two processes that spend at once give out the budget to the last one, and not one more', async () => {
  const ledgers = [t.ledger, await t.another()];
  const given = await Promise.all(
    Array.from({ length: 240 }, (_, n) => spend(ledgers[n % 2]!, 1, by('both', { check: 150 }))),
  );
  expect(given.filter((one) => one === 1)).toHaveLength(150);
  expect(await spent('both')).toEqual([['shop', 'check', 150]]);
});

test('two processes that record at once give out the budget to the last person, and what is repeated costs nothing', async () => {
  const ledgers = [t.ledger, await t.another()];
  const caller = by('recording', { opt_out: 30 });
  const record = async (n: number): Promise<string> =>
    await ledgers[n % 2]!.record(intent(`p${n % 50}@recording.example`, { caller }), render).then(
      (answer) => read(answer).outcome,
      (error: unknown) => {
        expect(error).toMatchObject({ code: 'budget-exhausted' });
        return 'refused';
      },
    );
  const first = await Promise.all(Array.from({ length: 50 }, (_, n) => record(n)));
  expect(first.filter((outcome) => outcome === 'recorded')).toHaveLength(30);
  expect(first.filter((outcome) => outcome === 'refused')).toHaveLength(20);

  const again = await Promise.all(Array.from({ length: 50 }, (_, n) => record(n + 50)));
  expect(again.filter((outcome) => outcome === 'already_opted_out')).toHaveLength(30);
  expect(again.filter((outcome) => outcome === 'refused')).toHaveLength(20);
  expect(await spent('recording')).toEqual([['shop', 'opt_out', 30]]);
  expect(await audited('recording')).toMatchObject([
    { details: { direction: 'opt_out', per_day: 30, spent: 30 } },
  ]);
});

test('what was refused in a batch is not recorded, and what stands beside it in the batch is', async () => {
  const poor = by('poor', { opt_out: 1 });
  const key = { idempotencyKey: 'twice' };
  const outcomes = await Promise.allSettled(
    [
      intent('first@poor.example', { caller: poor }),
      intent('second@poor.example', { caller: poor, ...key }),
      // The same key once more: not a replay, since nothing was recorded under it.
      intent('second@poor.example', { caller: poor, ...key }),
      intent('third@poor.example'),
    ].map((one) => t.ledger.record(one, render)),
  );
  expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected', 'fulfilled']);
  const looked = await Promise.all(
    ['first', 'second', 'third'].map((name) => t.ledger.lookupSubject(subject(`${name}@poor.example`))),
  );
  expect(looked.map(({ state }) => Object.keys(state.suppressed).length)).toEqual([3, 0, 3]);

  const raised = by('poor', { opt_out: 2 });
  const answer = await t.ledger.record(intent('second@poor.example', { caller: raised, ...key }), render);
  expect([read(answer).outcome, answer.replayed]).toEqual(['recorded', false]);
});

test('what could not be recorded costs nothing', async () => {
  const caller = by('broken', { opt_out: 5 });
  const broken = intent('broken@example.com', { caller, apiVersion: 'v1\u0000' });
  await expect(t.ledger.record(broken, render)).rejects.toThrow();
  expect(await spent('broken')).toEqual([]);
});

test('what was spent before a restart is spent', async () => {
  expect(await spend(t.ledger, 60, by('lasting', { check: 100 }))).toBe(60);
  const restarted = await t.another();
  expect(await spend(restarted, 41, by('lasting', { check: 100 }))).toBe(0);
  expect(await spend(restarted, 40, by('lasting', { check: 100 }))).toBe(40);
});

test('it is all or nothing: what does not fit spends nothing, and a smaller one still fits', async () => {
  expect(await spend(t.ledger, 101, by('whole', { check: 100 }))).toBe(0);
  expect(await spent('whole')).toEqual([['shop', 'check', 0]]);
  expect(await spend(t.ledger, 100, by('whole', { check: 100 }))).toBe(100);
});

test('directions, and clients whose tokens share a key id, have budgets apart', async () => {
  const limits = { check: 2, opt_out: 1 };
  expect(await spend(t.ledger, 2, by('apart', limits))).toBe(2);
  expect(await spend(t.ledger, 1, by('apart', limits))).toBe(0);
  expect(await spend(t.ledger, 2, by('apart', limits, 'other'))).toBe(2);
  await t.ledger.record(intent('apart@example.com', { caller: by('apart', limits) }), render);
  expect(await spent('apart')).toEqual([
    ['other', 'check', 2],
    ['shop', 'check', 2],
    ['shop', 'opt_out', 1],
  ]);
});

test('it is refused until the day ends in UTC, and a new day has a new budget', async () => {
  const caller = by('daily', { check: 100 });
  await t.ledger.spend(caller, 'check', 100);
  const { rows } = await t.pool.query<{ left: number }>(
    `select extract(epoch from date_trunc('day', clock_timestamp(), 'UTC') + interval '1 day' - clock_timestamp())::int as left`,
  );
  const refused = await t.ledger.spend(caller, 'check', 1).catch((error: unknown) => error);
  expect(refused).toMatchObject({
    code: 'budget-exhausted',
    message: "The key has spent today's budget of 100 checks.",
  });
  const { retryAfterSeconds } = refused as { retryAfterSeconds: number };
  expect(Math.abs(retryAfterSeconds - rows[0]!.left)).toBeLessThan(30);

  await withClient(t.db.superuserUrl, (client) =>
    client.query("update budget_usage set day = day - 1 where key_id = 'daily'"),
  );
  expect(await spend(await t.another(), 100, caller)).toBe(100);
});

test('that it is spent stands in the audit log once, however often and by how many processes it is refused', async () => {
  const ledgers = [t.ledger, await t.another()];
  const caller = by('loud', { check: 100 });
  await t.ledger.spend(caller, 'check', 99);
  await Promise.all(Array.from({ length: 40 }, (_, n) => spend(ledgers[n % 2]!, 2, caller)));

  expect(await audited('loud')).toMatchObject([
    {
      client: 'shop',
      keyId: 'loud',
      callerAddress: '127.0.0.1',
      details: { direction: 'check', per_day: 100, spent: 99 },
    },
  ]);
});

test('whoever goes on asking after a refusal costs the database nothing, and a raised budget is good at once', async () => {
  const caller = by('quiet', { check: 100 });
  await t.ledger.spend(caller, 'check', 100);
  expect(await spend(t.ledger, 1, caller)).toBe(0);
  await withClient(t.db.superuserUrl, async (client) => {
    await client.query('begin');
    await client.query("select from budget_usage where key_id = 'quiet' for update");
    // Nobody waits for the row.
    for (let n = 0; n < 100; n += 1) expect(await spend(t.ledger, 1, caller)).toBe(0);
    const raised = spend(t.ledger, 1, by('quiet', { check: 101 }));
    await eventually(async () => {
      const waiting =
        "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
      expect((await t.pool.query(waiting)).rowCount).toBe(1);
    });
    await client.query('commit');
    expect(await raised).toBe(1);
  });
});

test('where the database cannot be asked nothing is given', async () => {
  await using alone = await freshLedger();
  await withClient(alone.db.superuserUrl, (client) => client.query('drop table budget_usage'));
  await expect(alone.ledger.spend(by('gone', { check: 1 }), 'check', 1)).rejects.toThrow();
});
