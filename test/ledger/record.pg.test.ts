import { setImmediate } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { readAudit } from '../../ledger/audit.ts';
import { commitOnceWaitedFor, withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { freshLedger, grant, intent, outstandingOf, read, render, subject } from '../harness/ledger.ts';

test('40 concurrent retries of one key are one opt-out, and all get the same bytes', async () => {
  await using t = await freshLedger();
  const answers = await Promise.all(
    Array.from({ length: 40 }, () =>
      t.ledger.record(intent('ada@example.com', { idempotencyKey: 'k' }), render),
    ),
  );
  expect(new Set(answers.map(({ body }) => body)).size).toBe(1);
  expect(answers.filter(({ replayed }) => !replayed)).toHaveLength(1);
  expect((await t.pool.query('select from opt_outs')).rowCount).toBe(1);
});

test('40 concurrent retries of one key from four processes are one opt-out, and all 2xx are the same bytes', async () => {
  await using t = await freshLedger();
  const processes = [t.ledger, await t.another(), await t.another(), await t.another()];
  const answers = await Promise.all(
    Array.from({ length: 40 }, (_, n) =>
      processes[n % 4]!.record(intent('ada@example.com', { idempotencyKey: 'k' }), render),
    ),
  );
  expect(new Set(answers.map(({ body }) => body)).size).toBe(1);
  expect((await t.pool.query('select from decisions')).rowCount).toBe(1);
});

test('the same without keys, from four processes: one opt-out, one decision, one recorded, the rest already', async () => {
  await using t = await freshLedger();
  const processes = [t.ledger, await t.another(), await t.another(), await t.another()];
  const answers = await Promise.all(
    Array.from({ length: 40 }, (_, n) => processes[n % 4]!.record(intent('ada@example.com'), render)),
  );
  const outcomes = answers.map((answer) => read(answer));
  expect(new Set(outcomes.map(({ id }) => id)).size).toBe(1);
  expect(outcomes.filter(({ outcome }) => outcome === 'recorded')).toHaveLength(1);
  expect(outcomes.filter(({ outcome }) => outcome === 'already_opted_out')).toHaveLength(39);
  expect((await t.pool.query('select from decisions')).rowCount).toBe(1);
});

test('many people at once from three processes, in opposite orders: each exactly once, no deadlock reaches a client', async () => {
  await using t = await freshLedger();
  const processes = [t.ledger, await t.another(), await t.another()];
  const people = Array.from({ length: 60 }, (_, n) => `p${n}@example.com`);
  await Promise.all(
    processes.flatMap((ledger, n) =>
      (n === 1 ? [...people].reverse() : people).flatMap((who) => [
        ledger.record(intent(who, { scopes: ['email'] }), render),
        ledger.record(intent(who, { scopes: ['sms'] }), render),
      ]),
    ),
  );
  const { rows } = await t.pool.query('select version, state from subjects');
  expect(rows).toHaveLength(60);
  expect(rows.every((row) => row.version === 2 && Object.keys(row.state).length === 2)).toBe(true);
  expect((await t.pool.query('select from decisions')).rowCount).toBe(120);
});

test('a key used for another request is refused, and its neighbours in the batch are not', async () => {
  await using t = await freshLedger();
  const results = await Promise.allSettled([
    t.ledger.record(intent('ada@example.com', { idempotencyKey: 'k' }), render),
    t.ledger.record(intent('bob@example.com', { idempotencyKey: 'k' }), render),
    t.ledger.record(intent('cyd@example.com'), render),
  ]);
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
  expect(results[1]).toMatchObject({ reason: { code: 'idempotency-key-reused' } });
});

test('one item that the database refuses does not fail its neighbours', async () => {
  await using t = await freshLedger();
  const results = await Promise.allSettled([
    t.ledger.record(intent('ada@example.com'), render),
    // PostgreSQL's text cannot hold a NUL: the HTTP layer refuses it long before, so this can only be our own bug.
    t.ledger.record(intent('bob@example.com', { apiVersion: 'v1\0' }), render),
    t.ledger.record(intent('cyd@example.com'), render),
  ]);
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
});

test('a transaction that stands before a lock holds up nobody else, however few they are', async () => {
  await using t = await freshLedger();
  await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render);
  const answered: string[] = [];
  const record = async (who: string): Promise<void> => {
    await t.ledger.record(intent(who), render).catch(() => undefined);
    answered.push(who);
  };
  await withClient(t.db.superuserUrl, async (other) => {
    await other.query('begin');
    await other.query('select from subjects for update');
    const ada = record('ada@example.com');
    // Hers is under way by now: what is recorded in one turn shares a transaction.
    await setImmediate();
    await setImmediate();
    await record('bob@example.com');
    await other.query('rollback');
    await ada;
  });
  expect(answered).toEqual(['bob@example.com', 'ada@example.com']);
});

// A consent given between the two would lift it. It seemed to have come as much earlier as the process stood still while the database
// answered.
test('however long the process stands still, an opt-out never seems to have come before it did', async () => {
  await using t = await freshLedger();
  await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render);
  await withClient(t.db.superuserUrl, async (other) => {
    await other.query('begin');
    await other.query('select from subjects for update');
    let isWaitedFor = true;
    const committed = commitOnceWaitedFor(other).finally(() => (isWaitedFor = false));
    const sentAt = new Date().toISOString();
    const recorded = t.ledger.record(intent('ada@example.com'), render);
    // Whatever is sent in a turn of the loop is answered while the process stands still.
    while (isWaitedFor) {
      await setImmediate();
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    }
    await committed;
    const { optOut } = (await t.ledger.findOptOut(read(await recorded).id, undefined))!;
    expect(optOut.receivedAt >= sentAt).toBe(true);
    expect(optOut.receivedAt <= optOut.recordedAt).toBe(true);
  });
});

test('the same key of two clients is two keys; of two keys of one client, one', async () => {
  await using t = await freshLedger();
  const as = (client: string, keyId: string) => ({
    idempotencyKey: 'k',
    caller: { client, keyId, address: '::1', requestId: 'r' },
  });
  const first = read(await t.ledger.record(intent('ada@example.com', as('shop', 'a')), render));
  const rotated = await t.ledger.record(intent('ada@example.com', as('shop', 'b')), render);
  const other = await t.ledger.record(intent('ada@example.com', as('app', 'c')), render);
  expect([rotated.replayed, read(rotated).id]).toEqual([true, first.id]);
  expect([other.replayed, read(other).outcome]).toEqual([false, 'already_opted_out']);
});

test('an opt-out that widens is recorded, one inside what is suppressed names the newest that covers it', async () => {
  await using t = await freshLedger();
  const who = 'ada@example.com';
  const email = read(await t.ledger.record(intent(who, { scopes: ['email'] }), render));
  const sms = read(await t.ledger.record(intent(who, { scopes: ['email', 'sms'] }), render));
  expect([email.version, sms.version, sms.outcome]).toEqual([1, 2, 'recorded']);
  expect(read(await t.ledger.record(intent(who, { scopes: ['email'] }), render))).toMatchObject({
    id: email.id,
  });
  expect(read(await t.ledger.record(intent(who, { scopes: ['sms', 'email'] }), render))).toMatchObject({
    id: sms.id,
    outcome: 'already_opted_out',
  });
});

test('a topic under its channel is recorded in its own right: membership counts, not coverage', async () => {
  await using t = await freshLedger();
  await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render);
  const topic = await t.ledger.record(intent('ada@example.com', { scopes: ['email/newsletter'] }), render);
  expect(read(topic)).toMatchObject({ outcome: 'recorded', version: 2 });
});

test('a repeat with an older date widens the dates, without a version or a decision, and leaves an audit row', async () => {
  await using t = await freshLedger();
  await t.ledger.record(intent('ada@example.com', { effectiveAt: '2026-03-01T00:00:00.000Z' }), render);
  const repeat = await t.ledger.record(
    intent('ada@example.com', { effectiveAt: '2026-01-01T00:00:00.000Z' }),
    render,
  );
  expect(read(repeat)).toMatchObject({ outcome: 'already_opted_out', version: 1 });
  const { rows } = await t.pool.query('select state from subjects');
  expect(rows[0].state.email).toMatchObject({
    first_effective_at: '2026-01-01T00:00:00.000Z',
    last_effective_at: '2026-03-01T00:00:00.000Z',
  });
  expect((await t.pool.query('select from decisions')).rowCount).toBe(1);
  const actions = await readAudit(t.pool, { after: 0, limit: 10, action: undefined });
  expect(actions.map(({ action }) => action)).toEqual(['opt_out.recorded', 'opt_out.repeated']);
});

test('a date up to an hour ahead is taken as the time of receipt, further ahead it is refused', async () => {
  await using t = await freshLedger();
  const ahead = (ms: number) => ({ effectiveAt: new Date(Date.now() + ms).toISOString() });
  let adjusted: boolean | undefined;
  await t.ledger.record(intent('ada@example.com', ahead(600_000)), (recorded) => {
    adjusted = recorded.effectiveAtAdjusted;
    expect(recorded.optOut.effectiveAt).toBe(recorded.optOut.receivedAt);
    return render(recorded);
  });
  expect(adjusted).toBe(true);
  await expect(t.ledger.record(intent('bob@example.com', ahead(4_000_000)), render)).rejects.toMatchObject({
    code: 'invalid-value',
    errors: [{ pointer: '/effective_at' }],
  });
});

test('after a grant, the same dated opt-out is a late retry; any other suppresses again, whatever its date', async () => {
  await using t = await freshLedger();
  const dated = { scopes: ['email'] as const, effectiveAt: '2026-01-01T00:00:00.000Z' };
  const first = read(await t.ledger.record(intent('ada@example.com', dated), render));
  const { rows } = await t.pool.query('select id from subjects');
  await grant(t, rows[0].id, ['email']);

  const late = await t.ledger.record(intent('ada@example.com', dated), render);
  expect(read(late)).toMatchObject({ outcome: 'already_recorded', id: first.id, version: 2 });
  expect((await t.ledger.findOptOut(first.id, undefined))?.inForce).toBe(false);

  const older = { scopes: ['email'] as const, effectiveAt: '2025-01-01T00:00:00.000Z' };
  expect(read(await t.ledger.record(intent('ada@example.com', older), render))).toMatchObject({
    outcome: 'recorded',
    version: 3,
  });
});

test('without a stated date the same words after a grant are a new opt-out', async () => {
  await using t = await freshLedger();
  await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render);
  const { rows } = await t.pool.query('select id from subjects');
  await grant(t, rows[0].id, ['email']);
  const again = await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render);
  expect(read(again)).toMatchObject({ outcome: 'recorded', version: 3 });
});

test('a late commit below a newer sequence is delivered and counted, and holds the mark until it is acknowledged', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  await withClient(t.db.superuserUrl, async (late) => {
    await late.query('begin');
    await late.query('select pg_current_xact_id()');
    await late.query(
      `insert into decisions (id, cause, opt_out_id, subject_id, kind, version, suppressed, granted, effective_at, recorded_at,
         sealed, transport_key_id)
       select gen_random_uuid(), 'opt_out', null, gen_random_uuid(), kind, 1, suppressed, granted, effective_at,
         clock_timestamp(), sealed, transport_key_id from decisions limit 1`,
    );
    await t.ledger.record(intent('bob@example.com'), render);
    const seen = await outstandingOf(t.ledger, 'crm');
    expect(seen.map(({ seq }) => seq)).toEqual([1, 3]);
    await late.query('commit');
  });
  expect((await outstandingOf(t.ledger, 'crm')).map(({ seq }) => seq)).toEqual([1, 2, 3]);
  await eventually(async () => {
    const lag = await t.ledger.lag();
    expect(lag.stores[0]).toMatchObject({ outstanding: 3, verified_through: 0 });
  });
});

test('a database that is away is an honest 503: nothing is recorded, or the same key finds what was', async () => {
  await using t = await freshLedger();
  await t.ledger.record(intent('ada@example.com'), render);
  await withClient(new URL('/postgres', t.db.superuserUrl).href, async (admin) => {
    await admin.query(`alter database ${t.db.name} with allow_connections false`);
    await admin.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [
      t.db.name,
    ]);
    await expect(
      t.ledger.record(intent('bob@example.com', { idempotencyKey: 'k' }), render),
    ).rejects.toMatchObject({ code: 'ledger-unavailable', retryAfterSeconds: 1 });
    await admin.query(`alter database ${t.db.name} with allow_connections true`);
  });
  const again = await t.ledger.record(intent('bob@example.com', { idempotencyKey: 'k' }), render);
  expect(read(again).outcome).toBe('recorded');
});

test('random opt-outs, repeats and retries from two processes leave what a plain model says', async () => {
  await using t = await freshLedger();
  const processes = [t.ledger, await t.another()];
  const SCOPES = ['email', 'sms', 'push'] as const;
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          who: fc.integer({ min: 0, max: 4 }),
          scopes: fc.subarray([...SCOPES], { minLength: 1 }),
          day: fc.option(fc.integer({ min: 1, max: 28 }), { nil: undefined }),
          key: fc.option(fc.integer({ min: 0, max: 3 }), { nil: undefined }),
          process: fc.integer({ min: 0, max: 1 }),
        }),
        { minLength: 1, maxLength: 30 },
      ),
      fc.uuid(),
      async (requests, run) => {
        const model = new Map<string, Set<string>>();
        const results = await Promise.allSettled(
          requests.map(({ who, scopes, day, key, process }) =>
            processes[process]!.record(
              intent(`${who}-${run}@example.com`, {
                scopes,
                effectiveAt:
                  day === undefined ? undefined : `2026-01-${String(day).padStart(2, '0')}T00:00:00.000Z`,
                idempotencyKey: key === undefined ? undefined : `${run}-${key}`,
              }),
              render,
            ),
          ),
        );
        results.forEach((result, n) => {
          if (result.status === 'rejected') {
            expect(result.reason).toMatchObject({ code: 'idempotency-key-reused' });
            return;
          }
          const who = `${requests[n]!.who}-${run}@example.com`;
          const held = model.get(who) ?? new Set();
          requests[n]!.scopes.forEach((scope) => held.add(scope));
          model.set(who, held);
        });
        for (const [who, scopes] of model) {
          const { state } = await t.ledger.lookupSubject(subject(who));
          expect(Object.keys(state.suppressed).sort()).toEqual([...scopes].sort());
          const { rows } = await t.pool.query(
            `select count(*) as decisions, max(d.version) as version from decisions d
             join opt_out_subjects b on b.opt_out_id = d.opt_out_id join opt_outs o on o.id = b.opt_out_id
             where d.subject_id = (select subject_id from opt_out_subjects where opt_out_id = $1)`,
            [Object.values(state.suppressed)[0]!.opt_out_id],
          );
          expect(rows[0].decisions).toBe(state.version);
        }
      },
    ),
    { numRuns: 25 },
  );
});
