// A store begins a new generation while very many decisions are parked for it.
import { expect, test } from '@jest/globals';
import type { Pool } from '../../ledger/database.ts';
import { forgetOldExceptions } from '../../ledger/forget.ts';
import { changeStore, findStore, refillStore, renewLease, syncStores } from '../../ledger/stores.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { freshLedger, intent, outstandingOf, render, report, store, verified } from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

/** Twice as many decisions, of which the newer is parked: every tenth person is absent. */
const park = ({ db }: TestLedger, people: number): Promise<unknown> =>
  withClient(db.superuserUrl, (client) =>
    client.query(`
      set session_replication_role = replica;
      with people as materialized (select gen_random_uuid() as id from generate_series(1, ${people}))
      insert into decisions (id, cause, subject_id, kind, version, suppressed, granted, effective_at, recorded_at)
        select gen_random_uuid(), 'opt_out', people.id, 'email', version, '{"email":"2026-01-01T00:00:00.000Z"}', '{}', now(), now()
        from generate_series(1, 2) version, people order by version;
      insert into exceptions (store_id, generation, seq, subject_id, version, speaks_from, kind, code, attempts, since, next_try_at, asked)
        select s.id, s.generation, d.seq, d.subject_id, d.version, d.seq,
          case when d.seq % 10 = 0 then 'absent' else 'quarantine' end, 'NOT_HELD', 5, now(), now() + interval '1 hour', 2
        from decisions d, stores s where d.version = 2;
      analyze;`),
  );

const parkedIn = async (pool: Pool): Promise<unknown> =>
  (
    await pool.query(
      `select generation, kind, count(*) as count, bool_and(speaks_from < seq) as speaks_for_older,
         bool_and(next_try_at <= clock_timestamp()) as is_due, min(asked) as asked
       from exceptions group by 1, 2 order by 1, 2 desc`,
    )
  ).rows;

// Found by reading: one statement carried all of them over, and with some millions it never ended in time. The store could not be filled,
// and no process could start that had to fill it.
test('however many are parked, no statement of a new generation changes more than some of them', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const people = 25_000;
  await park(t, people);
  const changes = { insert: 'new', update: 'new', delete: 'old' };
  await withClient(t.db.superuserUrl, (client) =>
    client.query(`
      create function not_too_many() returns trigger language plpgsql as $$
      begin
        if (select count(*) from changed) > 10000 then
          raise 'This takes too long.' using errcode = 'query_canceled';
        end if;
        return null;
      end $$;
      ${Object.entries(changes)
        .map(
          ([change, which]) => `
            create trigger not_too_many_${change} after ${change} on exceptions referencing ${which} table as changed
              for each statement execute function not_too_many();`,
        )
        .join('')}`),
  );

  expect(await refillStore(t.pool, 'crm', 'it is mended', undefined)).toBe(true);
  const carried = { generation: 2, kind: 'quarantine', count: people * 0.9, speaks_for_older: true };
  expect(await parkedIn(t.pool)).toEqual([
    expect.objectContaining({ generation: 1, kind: 'quarantine', count: people * 0.9 }),
    expect.objectContaining({ generation: 1, kind: 'absent', count: people * 0.1 }),
    { ...carried, is_due: true, asked: 2 },
  ]);

  await forgetOldExceptions(t.pool);
  expect(await parkedIn(t.pool)).toEqual([expect.objectContaining(carried)]);

  await syncStores(t.pool, [store({ name: 'crm', accepts: ['phone'] })]);
  expect(await parkedIn(t.pool)).toEqual([]);
});

test('of a retired store, what was outstanding last is kept', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await park(t, 20);
  await refillStore(t.pool, 'crm', 'asked for', undefined);
  await changeStore(t.pool, 'crm', 'retired', {}, undefined);
  await forgetOldExceptions(t.pool);
  expect(await parkedIn(t.pool)).toEqual([expect.objectContaining({ generation: 2, count: 18 })]);
});

// Found by reading: the sign of life failed with it, which goes before everything else, so that no acknowledgement came through any
// more.
test('a sign of life does not wait for the generation that it brings about, nor do the acknowledgements after it', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  expect(await renewLease(t.pool, 'crm', 'worker-1', Buffer.from('crm'))).toBe(true);
  const sees = (incarnation: string | null) =>
    t.ledger.acknowledge('crm', report([], { observed: { incarnation, canary: undefined } }));
  await sees('first');
  await eventually(async () =>
    expect(await findStore(t.pool, 'crm')).toMatchObject({ incarnation: 'first' }),
  );
  await t.ledger.refresh();
  await t.ledger.record(intent('ada@example.com'), render);
  const [decision] = await outstandingOf(t.ledger, 'crm');

  await withClient(t.db.superuserUrl, async (client) => {
    await client.query("select pg_advisory_lock(hashtext('abide.stores'))");
    await sees(null);
    expect(await t.ledger.acknowledge('crm', report([verified(decision!)]))).toMatchObject({ accepted: 1 });
    const waiting = await client.query(
      `select from pg_locks l join pg_database d on d.oid = l.database
       where d.datname = current_database() and locktype = 'advisory' and not granted`,
    );
    expect(waiting.rowCount).toBe(0);
    expect(await findStore(t.pool, 'crm')).toMatchObject({ generation: 1 });
  });
  await eventually(async () => {
    await sees(null);
    expect(await findStore(t.pool, 'crm')).toMatchObject({ generation: 2, incarnation: undefined });
  });
});

test('a loss that could not be noted fails no sign of life, and is noted once that can be done', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  expect(await renewLease(t.pool, 'crm', 'worker-1', Buffer.from('crm'))).toBe(true);
  const seesLoss = () =>
    t.ledger.acknowledge('crm', report([], { observed: { incarnation: undefined, canary: 'lost' } }));
  await withClient(t.db.superuserUrl, async (client) => {
    await client.query(`
      create function refuse() returns trigger language plpgsql as $$ begin raise 'The disk is full.'; end $$;
      create trigger refused before insert on audit_log for each row
        when (new.action = 'store.refilled') execute function refuse()`);
    await seesLoss();
    await client.query('drop trigger refused on audit_log');
  });
  await eventually(async () => {
    await seesLoss();
    expect(await findStore(t.pool, 'crm')).toMatchObject({ generation: 2 });
  });
});
