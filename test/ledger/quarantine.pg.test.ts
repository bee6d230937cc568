import { expect, test } from '@jest/globals';
import { readAudit } from '../../ledger/audit.ts';
import type { Caller } from '../../ledger/contract/audit.ts';
import type { ParkedFilter } from '../../ledger/contract/quarantine.ts';
import { changeStore, refillStore } from '../../ledger/stores.ts';
import { withClient } from '../harness/database.ts';
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

const caller: Caller = { client: 'ops', keyId: 'opsopsopsops', address: '10.0.0.7', requestId: 'r-1' };
const all: ParkedFilter = { limit: 100, cursor: undefined, kind: undefined, code: undefined };

const record = (t: TestLedger, who: string, scopes: readonly string[] = ['email', 'sms', 'push']) =>
  t.ledger.record(intent(`${who}@example.com`, { scopes: scopes as never }), render);

/** As a worker would report on everything that is deliverable now, by subject. */
async function refuse(t: TestLedger, code = 'NO', attempts = 1): Promise<void> {
  const decisions = await outstandingOf(t.ledger, 'crm');
  const outcome = code === 'ABSENT' ? ('absent' as const) : ('refused' as const);
  await t.ledger.acknowledge(
    'crm',
    report(
      decisions.map((one) =>
        verified(one, { outcome, code, attempts: one.attempts + attempts, asked: one.asked || undefined }),
      ),
    ),
  );
}

async function listAll(t: TestLedger, filter: Partial<ParkedFilter> = {}) {
  const found = [];
  let pages = 0;
  for (let cursor: string | undefined; ;) {
    const page = await t.ledger.listParked('crm', { ...all, ...filter, cursor });
    pages += 1;
    found.push(...page!.parked);
    cursor = page!.nextCursor;
    if (cursor === undefined) return { found, pages };
  }
}

test('what is parked is listed page by page, the oldest decision first, by kind and by code', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' }, { name: 'mail' });
  for (const [who, code] of [
    ['a', 'NO'],
    ['b', 'ABSENT'],
    ['c', 'NEVER'],
    ['d', 'NO'],
    ['e', 'NO'],
  ] as const) {
    await record(t, who);
    await refuse(t, code);
  }
  const paged = await listAll(t, { limit: 2 });
  expect([paged.pages, paged.found.map(({ seq }) => seq)]).toEqual([3, [1, 2, 3, 4, 5]]);
  expect((await listAll(t, { code: 'NO', limit: 1 })).found.map(({ seq }) => seq)).toEqual([1, 4, 5]);
  expect((await listAll(t, { kind: 'absent' })).found).toMatchObject([{ seq: 2, code: 'ABSENT' }]);
  expect((await listAll(t, { kind: 'quarantine' })).found.map(({ seq }) => seq)).toEqual([1, 3, 4, 5]);
  expect((await listAll(t, { kind: 'absent', code: 'NO' })).found).toEqual([]);
  expect((await t.ledger.listParked('mail', all))?.parked).toEqual([]);
  expect(await t.ledger.listParked('nowhere', all)).toBeUndefined();
  await expect(t.ledger.listParked('crm', { ...all, cursor: "1' or 1" })).rejects.toMatchObject({
    code: 'invalid-value',
    errors: [{ pointer: '/cursor' }],
  });
});

/** Adds this many absent people beside the parked one, with the sequence numbers after its own. */
const manyAbsent = (t: TestLedger, many: number) =>
  t.pool.query(
    `insert into exceptions (store_id, generation, seq, subject_id, version, speaks_from, kind, code, attempts, since, next_try_at)
     select store_id, generation, 1 + n, subject_id, version, 1, 'absent', 'ABSENT', 1, since, since + interval '1 hour'
     from exceptions, generate_series(1, $1::int) n`,
    [many],
  );

test('a rare code among very many others is found, in a few pages that each look at a bounded part', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await record(t, 'a');
  await refuse(t);
  // As if a hundred thousand people were absent, with one refused at the very end.
  await manyAbsent(t, 110_000);
  await withClient(t.db.superuserUrl, (client) => client.query(`select setval('decisions_seq_seq', 120000)`));
  await record(t, 'b');
  await refuse(t, 'RARE');
  expect(await t.ledger.listParked('crm', { ...all, code: 'RARE' })).toEqual({
    parked: [],
    nextCursor: '50000',
  });
  const { found, pages } = await listAll(t, { code: 'RARE' });
  expect([found, pages]).toMatchObject([[{ seq: 120_001, code: 'RARE' }], 3]);
});

test('one of them is shown with all that is known, what the store proved last of the person included', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await record(t, 'ada', ['email']);
  const [first] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(first!)]));
  await record(t, 'ada', ['sms']);
  await refuse(t);
  await record(t, 'ada', ['push']);
  const shown = await t.ledger.findParked('crm', 2);
  expect(shown).toEqual({
    store: 'crm',
    seq: 2,
    optOutId: expect.any(String),
    subjectId: first!.subjectId,
    subjectKind: 'email',
    version: 2,
    kind: 'quarantine',
    code: 'NO',
    attempts: 1,
    recordedAt: expect.any(String),
    ageSeconds: expect.any(Number),
    since: expect.any(String),
    nextTryAt: expect.any(String),
    generation: 1,
    speaksFrom: 2,
    newestVersion: 3,
    lastEvidence: {
      seq: 1,
      version: 1,
      outcome: 'verified',
      held: { version: 1, suppressed: ['email'] },
      acknowledgedAt: expect.any(String),
      worker: 'worker-1',
    },
  });
  expect(JSON.stringify(shown)).not.toMatch(/ada@|example/);
  expect(await t.ledger.findParked('crm', 1)).toBeUndefined();
  expect(await t.ledger.findParked('nowhere', 2)).toBeUndefined();
});

// An old opt-out from email, which the store need not hold, made today's refusal as old as itself.
test('it speaks for what is unsettled: not for what is not due to its store, nor for what that one confirmed', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm', scopes: ['sms'] });
  const speaksFrom = async (seq: number) => (await t.ledger.findParked('crm', seq))?.speaksFrom;
  const verifiedThrough = (seq: number) =>
    eventually(async () => expect((await t.ledger.lag()).stores[0]?.verified_through).toBe(seq));
  await record(t, 'ada', ['email']);
  await record(t, 'ada', ['sms']);
  await refuse(t);
  expect(await speaksFrom(2)).toBe(2);
  await verifiedThrough(1);
  await t.ledger.retryParked('crm', { all: true }, caller);
  const [ada] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(ada!, { held: { version: 2, suppressed: ['sms'] } })]));

  // What is confirmed below the mark stays confirmed when its row is gone.
  await verifiedThrough(2);
  await withClient(t.db.superuserUrl, (client) => client.query('delete from acknowledgements'));
  await record(t, 'ada', ['sms/news']);
  await refuse(t);
  expect(await speaksFrom(3)).toBe(3);
});

test('it speaks for an older one of its person that is parked, though the mark has passed that', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await record(t, 'ada', ['email']);
  await refuse(t);
  await eventually(async () =>
    expect((await t.pool.query('select scanned_through as mark from stores')).rows).toEqual([{ mark: 1 }]),
  );
  await record(t, 'ada', ['sms']);
  await refuse(t);
  expect((await t.ledger.findParked('crm', 2))?.speaksFrom).toBe(1);
});

// Found by reading: of whom a store refused today, everything that it had confirmed before was complete again once the store had
// been wiped and filled: the back-fill passes whoever is parked.
test('it speaks for all of its person in a store that is filled again: what that had confirmed, it need not hold any more', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const { id } = read(await record(t, 'ada', ['email']));
  const [first] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(first!)]));
  await record(t, 'ada', ['sms']);
  await refuse(t);
  await record(t, 'bob');
  const [bob] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(bob!)]));
  const lagIs = (expected: object) =>
    eventually(async () => expect((await t.ledger.lag()).stores[0]).toMatchObject(expected));
  const isFilled = async () =>
    expect((await t.pool.query('select scanned_through as mark from stores')).rows).toEqual([{ mark: 3 }]);
  await eventually(isFilled);
  await lagIs({ outstanding: 1, verified_through: 1 });
  expect(await propagationIn(t.ledger, id)).toMatchObject({ state: 'complete' });

  await refillStore(t.pool, 'crm', 'wiped', undefined);
  await t.ledger.refresh();
  await eventually(async () => {
    const due = await outstandingOf(t.ledger, 'crm');
    const told = due.map((one) =>
      one.subjectId === first!.subjectId
        ? verified(one, { outcome: 'refused', code: 'NO', attempts: one.attempts + 1 })
        : verified(one, { carriedBy: 'backfill' }),
    );
    await t.ledger.acknowledge('crm', report(told, { generation: 2 }));
    await isFilled();
  });
  expect(await propagationIn(t.ledger, id)).toMatchObject({ state: 'pending', confirmed: 0 });
  await lagIs({ outstanding: 1, quarantined: 1, verified_through: 0, backfill: null });

  // When it takes the newest of her, it holds all of her.
  await t.ledger.retryParked('crm', { seq: 2 }, caller);
  const [ada] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(ada!, { asked: ada!.asked })], { generation: 2 }));
  expect(await propagationIn(t.ledger, id)).toMatchObject({ state: 'complete', confirmed: 1 });
  await lagIs({ outstanding: 0, verified_through: 3 });
});

test('of two parked decisions of one person the older one may be taken alone, and is complete then', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const { id } = read(await record(t, 'ada', ['email']));
  const [older] = await outstandingOf(t.ledger, 'crm');
  await refuse(t);
  await record(t, 'ada', ['sms']);
  await refuse(t);
  expect((await t.ledger.findParked('crm', 2))?.speaksFrom).toBe(1);
  await t.ledger.acknowledge('crm', report([verified(older!, { attempts: 2 })]));
  expect(await propagationIn(t.ledger, id)).toMatchObject({ state: 'complete', verified: 1 });
});

test('it waits ever longer, never more than an hour, and for ever: there is no last attempt', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await record(t, 'ada');
  const waits: number[] = [];
  for (const attempts of [1, 5, 6, 8, 12, 40, 100_000]) {
    await t.pool.query('update exceptions set next_try_at = clock_timestamp(), attempts = $1', [
      attempts - 1,
    ]);
    await refuse(t);
    const { rows } = await t.pool.query<{ s: number }>(
      'select extract(epoch from next_try_at - clock_timestamp())::float8 as s from exceptions',
    );
    waits.push(rows[0]!.s);
  }
  expect(waits[0]).toBeGreaterThan(7);
  expect(waits[0]).toBeLessThan(13);
  for (const [n, least] of [7, 7, 15, 60, 900, 3_590, 3_590].entries())
    expect(waits[n]).toBeGreaterThan(least);
  expect(Math.max(...waits)).toBeLessThanOrEqual(3_600);
  // The clock runs all the while, and it is given out again each time.
  expect((await t.ledger.lag()).stores[0]).toMatchObject({ outstanding: 1, quarantined: 1 });
});

// Found by reading: a clock that was set back by a day would have made them wait for a day.
test('what waits for longer than ever was meant waits by a clock that was set back since, and is due', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  for (const who of ['ada', 'bob']) await record(t, who);
  await refuse(t);
  await t.pool.query("update exceptions set next_try_at = next_try_at + interval '1 day' where seq = 1");
  expect((await outstandingOf(t.ledger, 'crm')).map(({ seq }) => seq)).toEqual([1]);
  await refuse(t);
  expect(await outstandingOf(t.ledger, 'crm')).toEqual([]);
});

test('tried again on demand: one, all with a code, everything; each is due at once and stands in the audit log', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  for (const [who, code] of [
    ['a', 'NO'],
    ['b', 'NO'],
    ['c', 'ABSENT'],
  ] as const) {
    await record(t, who);
    await refuse(t, code);
  }
  const due = async (): Promise<number[]> => (await outstandingOf(t.ledger, 'crm')).map(({ seq }) => seq);
  expect(await due()).toEqual([]);

  expect(await t.ledger.retryParked('crm', { seq: 2 }, caller)).toBe(1);
  expect(await due()).toEqual([2]);
  expect(await outstandingOf(t.ledger, 'crm')).toMatchObject([{ seq: 2, attempts: 1 }]);
  expect(await t.ledger.retryParked('crm', { code: 'NO' }, caller)).toBe(2);
  expect((await due()).sort()).toEqual([1, 2]);
  expect(await t.ledger.retryParked('crm', { all: true }, caller)).toBe(3);
  expect((await due()).sort()).toEqual([1, 2, 3]);

  // If nothing is there, nothing is done and nothing is audited.
  expect(await t.ledger.retryParked('crm', { seq: 9 }, caller)).toBe(0);
  expect(await t.ledger.retryParked('crm', { code: 'OTHER' }, caller)).toBe(0);
  expect(await t.ledger.retryParked('nowhere', { all: true }, caller)).toBeUndefined();
  const { client, keyId, address: callerAddress, requestId } = caller;
  const entries = await readAudit(t.pool, { after: 0, limit: 100, action: 'quarantine.retried' });
  expect(entries).toMatchObject(
    [
      { seq: 2, retried: 1 },
      { code: 'NO', retried: 2 },
      { all: true, retried: 3 },
    ].map((details) => ({ client, keyId, callerAddress, requestId, resource: 'crm', details })),
  );
});

test('a failed retry waits as before: asking for it neither forgets attempts nor stops the clock', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await record(t, 'ada');
  await refuse(t, 'NO', 8);
  const before = (await t.ledger.findParked('crm', 1))!;
  await t.ledger.retryParked('crm', { seq: 1 }, caller);
  await refuse(t);
  const after = (await t.ledger.findParked('crm', 1))!;
  expect(after).toMatchObject({ attempts: 9, since: before.since, recordedAt: before.recordedAt });
  expect(Date.parse(after.nextTryAt) - Date.now()).toBeGreaterThan(60_000);
});

test('asked for while a try is under way, the next one is at once when that one fails, and the one after it waits as before', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await record(t, 'ada');
  await refuse(t, 'NO', 8);
  const dueInMs = async (): Promise<number> =>
    Date.parse((await t.ledger.findParked('crm', 1))!.nextTryAt) - Date.now();
  const given = async () => (await outstandingOf(t.ledger, 'crm'))[0]!;
  const fails = (one: Awaited<ReturnType<typeof given>>) =>
    t.ledger.acknowledge(
      'crm',
      report([
        verified(one, {
          outcome: 'failed',
          code: 'STORE_TIMEOUT',
          attempts: one.attempts + 1,
          asked: one.asked || undefined,
        }),
      ]),
    );
  await t.ledger.retryParked('crm', { seq: 1 }, caller);
  const underWay = await given();
  await t.ledger.retryParked('crm', { seq: 1 }, caller);
  await fails(underWay);
  expect(await dueInMs()).toBeLessThanOrEqual(0);
  await fails(await given());
  expect(await dueInMs()).toBeGreaterThan(60_000);

  // Nobody gave this one out: it came by the stream, and was under way for the first time.
  await t.ledger.retryParked('crm', { seq: 1 }, caller);
  await fails({ ...underWay, asked: 0 });
  expect(await dueInMs()).toBeLessThanOrEqual(0);
  await fails(await given());
  expect(await dueInMs()).toBeGreaterThan(60_000);
});

test('a whole store is tried again in steps, each its own transaction', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await record(t, 'a');
  await refuse(t);
  await manyAbsent(t, 12_000);
  expect(await t.ledger.retryParked('crm', { all: true }, caller)).toBe(12_001);
  const { rows } = await t.pool.query(
    'select count(*) as waiting from exceptions where next_try_at > clock_timestamp()',
  );
  expect(rows).toEqual([{ waiting: 0 }]);
  const entries = await readAudit(t.pool, { after: 0, limit: 100, action: 'quarantine.retried' });
  expect(entries.map(({ details }) => details['retried'])).toEqual([5_000, 5_000, 2_001]);
});

test('what was parked stays so when the store is filled again; a retired store has nothing to be tried', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await record(t, 'a');
  await refuse(t);
  await refillStore(t.pool, 'crm', 'test', undefined);
  expect((await t.ledger.listParked('crm', all))?.parked).toMatchObject([{ seq: 1, code: 'NO' }]);
  await t.ledger.refresh();
  const again = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(again[0]!)], { generation: 2 }));
  expect((await t.ledger.listParked('crm', all))?.parked).toEqual([]);
  await refuse(t);
  await changeStore(t.pool, 'crm', 'retired', {}, undefined);
  expect(await t.ledger.listParked('crm', all)).toBeUndefined();
  expect(await t.ledger.retryParked('crm', { all: true }, caller)).toBeUndefined();
});

test('who waits for something to be due hears of a retry at once', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await record(t, 'a');
  await refuse(t);
  const waiting = t.ledger.outstanding('crm', {
    after: undefined,
    limit: 10,
    waitMs: 10_000,
    worker: undefined,
    signal: AbortSignal.timeout(20_000),
  });
  const began = performance.now();
  await t.ledger.retryParked('crm', { seq: 1 }, caller);
  expect((await waiting)?.decisions).toMatchObject([{ seq: 1 }]);
  expect(performance.now() - began).toBeLessThan(8_000);
});

test('what is parked and not due any more is forgotten: it would be late for ever, and nobody would try it again', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm', scopes: ['email', 'sms'] }, { name: 'mail', scopes: ['email'] });
  await record(t, 'ada', ['email']);
  await record(t, 'bob', ['sms']);
  await refuse(t);
  await t.register({ name: 'crm', scopes: ['sms'] });
  expect((await listAll(t)).found.map(({ seq }) => seq)).toEqual([2]);
  expect(await t.ledger.retryParked('crm', { all: true }, caller)).toBe(1);
  const [bob] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(bob!, { attempts: 2 })]));
  expect((await t.ledger.gate('crm', 0))?.reason).toBeUndefined();

  // When the store is widened again, it is due again and carried, once no write transaction of the server is older than the fence.
  await t.register({ name: 'crm', scopes: ['email', 'sms'] });
  await eventually(async () =>
    expect((await outstandingOf(t.ledger, 'crm')).map(({ seq }) => seq)).toContain(1),
  );
});
