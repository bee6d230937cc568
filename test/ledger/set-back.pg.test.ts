import { expect, test } from '@jest/globals';
import type { QueryConfig } from 'pg';
import { audit } from '../../ledger/audit.ts';
import type { Queryable } from '../../ledger/database.ts';
import { createSetBackWatch, lastSetBack } from '../../ledger/set-back.ts';
import type { SetBackWatch } from '../../ledger/set-back.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { freshLedger, intent, render } from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

const SET_BACK = { code: 'LEDGER_SET_BACK' };

/** It has seen that Ada was recorded. */
async function watchAda(t: TestLedger): Promise<SetBackWatch> {
  await t.ledger.record(intent('ada@example.com'), render);
  const watch = createSetBackWatch(t.pool);
  await watch.look();
  return watch;
}

const pastTheTriggers = (t: TestLedger, sql: string) =>
  withClient(t.db.superuserUrl, (client) => client.query(`set session_replication_role = replica; ${sql}`));

test('a database that lacks what was seen in it was set back, and keeps that it was', async () => {
  await using t = await freshLedger();
  const watch = createSetBackWatch(t.pool);
  await watch.look();
  await t.ledger.record(intent('ada@example.com'), render);
  await watch.look();
  await watch.look();

  await pastTheTriggers(t, 'delete from audit_log where seq = (select max(seq) from audit_log)');
  expect(await lastSetBack(t.pool)).toBeUndefined();
  await expect(watch.look()).rejects.toMatchObject(SET_BACK);
  expect(await lastSetBack(t.pool)).toBeDefined();
});

// A process that was cut off from its database meanwhile found numbers far above those that it had seen.
test('a database that went back and then went on above what was seen was set back all the same', async () => {
  await using t = await freshLedger();
  const watch = await watchAda(t);

  await pastTheTriggers(t, "delete from decisions; select setval('decisions_seq_seq', 10000000)");
  await t.ledger.record(intent('bob@example.com'), render);
  await audit(t.pool, undefined, 'ledger.restored', undefined, {});
  await expect(watch.look()).rejects.toMatchObject(SET_BACK);
  // The drill is done: nobody is sent to it again.
  expect(await lastSetBack(t.pool)).toBeUndefined();
});

// A standby that is being promoted answers before it has replayed everything: nothing is lost, and the drill would refill every store.
test('a server that recovers is not judged before it has recovered', async () => {
  await using t = await freshLedger();
  const watch = await watchAda(t);
  watch.saw(2);
  await withClient(t.db.superuserUrl, async (client) => {
    // Ahead of PostgreSQL's own for whoever looks for the name.
    await client.query('create function public.pg_is_in_recovery() returns boolean return true');
    await client.query(`alter database ${t.db.name} set search_path = public, pg_catalog`);
    await client.query(
      "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = current_database() and usename = 'abide_api'",
    );
  });
  await eventually(() => watch.look());
  await withClient(t.db.superuserUrl, (client) => client.query('drop function public.pg_is_in_recovery()'));
  await expect(watch.look()).rejects.toMatchObject(SET_BACK);
});

test('an entry under the number of one that is gone is another one', async () => {
  await using t = await freshLedger();
  const watch = await watchAda(t);
  await pastTheTriggers(t, "update audit_log set at = at + interval '1 microsecond'");
  await expect(watch.look()).rejects.toMatchObject(SET_BACK);
});

// Between two looks a standby may take over that lacks the last opt-out that was answered.
test('a decision that was committed since the last look is missed as well', async () => {
  await using t = await freshLedger();
  const watch = createSetBackWatch(t.pool);
  await watch.look();
  watch.saw(1);
  await expect(watch.look()).rejects.toMatchObject(SET_BACK);
});

test('what is committed while the database is asked is not missed', async () => {
  await using t = await freshLedger();
  const db = {
    query: async (question: QueryConfig) => {
      const answer = await t.pool.query(question);
      const { decisions } = await t.ledger.record(intent('ada@example.com'), render);
      for (const { seq } of decisions) watch.saw(seq);
      return answer;
    },
  };
  const watch = createSetBackWatch(db as Queryable);
  await watch.look();
  await watch.look();
});
