import { expect, test } from '@jest/globals';
import type { Queryable } from '../../ledger/database.ts';
import { judgeGate } from '../../ledger/gate.ts';
import { readLag } from '../../ledger/propagation-lag.ts';
import { changeStore, refillStore } from '../../ledger/stores.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { freshLedger, intent, outstandingOf, render, report, verified } from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

/** A worker's sign of life. */
const heard = (t: TestLedger, name: string) => t.ledger.acknowledge(name, report([]));
const why = async (t: TestLedger, name: string, maxAge?: number) =>
  (await t.ledger.gate(name, maxAge))?.reason ?? 'send';

test('the gate is open only where a worker was heard and nothing is outstanding for longer than asked', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' }, { name: 'extra', required: false });
  expect(await why(t, 'crm')).toBe('unknown');
  await heard(t, 'crm');
  await heard(t, 'extra');
  expect(await t.ledger.gate('crm', undefined)).toMatchObject({
    store: 'crm',
    reason: undefined,
    oldestOutstandingSeconds: 0,
    absent: 0,
  });

  await t.ledger.record(intent('ada@example.com'), render);
  // A decision just recorded is within the store's own ten seconds, and beyond a bound of 0.
  expect([await why(t, 'crm'), await why(t, 'crm', 0)]).toEqual(['send', 'outstanding']);
  expect([await why(t, 'extra'), await why(t, 'extra', 0)]).toEqual(['send', 'outstanding']);

  const [decision] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(decision!)]));
  expect([await why(t, 'crm', 0), await why(t, 'extra', 0)]).toEqual(['send', 'outstanding']);
});

test('nobody is told from a lag that was read before: what is recorded is held from its 201 on', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await heard(t, 'crm');
  for (let n = 0; n < 20; n += 1) {
    // The lag that others read is cached for a quarter of a second.
    await t.ledger.lag();
    const early = [why(t, 'crm', 0), why(t, 'crm', 0)];
    await t.ledger.record(intent(`p${n}@example.com`), render);
    expect(await Promise.all([why(t, 'crm', 0), why(t, 'crm', 0)])).toEqual(['outstanding', 'outstanding']);
    await Promise.all(early);
    const decisions = await outstandingOf(t.ledger, 'crm');
    await t.ledger.acknowledge('crm', report(decisions.map((one) => verified(one))));
    expect(await why(t, 'crm', 0)).toBe('send');
  }
});

test('a refused decision holds the gate once it is late, whatever bound is asked for; so does a pause', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm', lateAfterSeconds: 0.2 });
  await heard(t, 'crm');
  await t.ledger.record(intent('ada@example.com'), render);
  const [decision] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(decision!, { outcome: 'refused', code: 'NO' })]));
  await eventually(async () =>
    expect([await why(t, 'crm'), await why(t, 'crm', 3_600)]).toEqual(['late', 'late']),
  );
  await t.ledger.acknowledge('crm', report([verified(decision!, { attempts: 2 })]));
  expect(await why(t, 'crm')).toBe('send');
  await changeStore(t.pool, 'crm', 'paused', {}, undefined);
  expect(await why(t, 'crm')).toBe('paused');
});

// Found by reading: what was outstanding had gone over to the next generation and was looked for in the one before, of which it was
// then said that it lacked nothing.
test('a generation that begins while the lag is read does not open it', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm', lateAfterSeconds: 0.2 });
  await t.ledger.record(intent('ada@example.com'), render);
  const [decision] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(decision!, { outcome: 'refused', code: 'NO' })]));
  await eventually(async () => {
    const { rows } = await t.pool.query<{ mark: number }>('select scanned_through as mark from stores');
    expect(rows[0]!.mark).toBe(decision!.seq);
    expect((await readLag(t.pool)).stores[0]!.oldest_outstanding_seconds).toBeGreaterThan(0.2);
  });
  /** The lag, if the store is filled anew after it was read which stores there are: the first times that this is read. */
  const readWhileFilled = async (times: number) => {
    let left = times;
    const query = async (statement: { readonly name: string }): Promise<unknown> => {
      const answer: unknown = await Reflect.apply(t.pool.query, t.pool, [statement]);
      if (statement.name === 'lag-heads' && (left -= 1) >= 0)
        await refillStore(t.pool, 'crm', 'the test', undefined);
      return answer;
    };
    await heard(t, 'crm');
    const lag = await readLag({ query } as unknown as Queryable);
    return { ...lag.stores[0]!, why: judgeGate(lag, 'crm', undefined).reason };
  };

  expect(await readWhileFilled(1)).toMatchObject({ status: 'late', why: 'late', outstanding: 1 });
  expect(await readWhileFilled(Infinity)).toMatchObject({
    status: 'unknown',
    why: 'unknown',
    outstanding: null,
    verified_through: null,
  });
});

test('somebody absent does not hold it, and is told: a copy that has them tomorrow has them unsuppressed', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await heard(t, 'crm');
  await t.ledger.record(intent('ada@example.com'), render);
  const [decision] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(decision!, { outcome: 'absent', code: 'ABSENT' })]));
  expect(await t.ledger.gate('crm', 0)).toMatchObject({ reason: undefined, absent: 1 });
});

test('a store that is being filled, is retired or is not there is never sent from', async () => {
  await using t = await freshLedger();
  await t.ledger.record(intent('ada@example.com'), render);
  await t.register({ name: 'crm' });
  await heard(t, 'crm');
  expect(await why(t, 'crm')).toBe('backfilling');
  await changeStore(t.pool, 'crm', 'retired', {}, undefined);
  expect(await t.ledger.gate('crm', undefined)).toMatchObject({ reason: 'retired' });
  expect(await t.ledger.gate('nowhere', undefined)).toBeUndefined();
});

test('a ledger that cannot be read answers with an error, never with send', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await heard(t, 'crm');
  expect(await why(t, 'crm')).toBe('send');
  await withClient(t.db.superuserUrl, async (client) => {
    await client.query(`alter database ${t.db.name} connection limit 0`);
    try {
      await client.query(
        `select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and usename = 'abide_api'`,
        [t.db.name],
      );
      await expect(t.ledger.gate('crm', undefined)).rejects.toMatchObject({ code: 'ledger-unavailable' });
    } finally {
      await client.query(`alter database ${t.db.name} connection limit -1`);
    }
  });
  expect(await why(t, 'crm')).toBe('send');
});
