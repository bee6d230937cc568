import { expect, test } from '@jest/globals';
import type { QueryConfig } from 'pg';
import type { Queryable } from '../../ledger/database.ts';
import { createSetBackWatch, lastSetBack } from '../../ledger/set-back.ts';
import { withClient } from '../harness/database.ts';
import { freshLedger, intent, render } from '../harness/ledger.ts';

const SET_BACK = { code: 'LEDGER_SET_BACK' };

test('a database that lacks what was seen in it was set back, and keeps that it was', async () => {
  await using t = await freshLedger();
  const watch = createSetBackWatch(t.pool);
  await watch.look();
  await t.ledger.record(intent('ada@example.com'), render);
  await watch.look();
  await watch.look();

  await withClient(t.db.superuserUrl, async (client) => {
    await client.query('set session_replication_role = replica');
    await client.query('delete from audit_log where seq = (select max(seq) from audit_log)');
  });
  expect(await lastSetBack(t.pool)).toBeUndefined();
  await expect(watch.look()).rejects.toMatchObject(SET_BACK);
  expect(await lastSetBack(t.pool)).toBeDefined();
});

// A process that was cut off from its database meanwhile found numbers far above those that it had seen.
test('a database that went back and then went on above what was seen was set back all the same', async () => {
  await using t = await freshLedger();
  await t.ledger.record(intent('ada@example.com'), render);
  const watch = createSetBackWatch(t.pool);
  await watch.look();

  await withClient(t.db.superuserUrl, async (client) => {
    await client.query('set session_replication_role = replica');
    await client.query('delete from decisions');
    await client.query("select setval('decisions_seq_seq', 10000000)");
  });
  await t.ledger.record(intent('bob@example.com'), render);
  await expect(watch.look()).rejects.toMatchObject(SET_BACK);
});

test('an entry under the number of one that is gone is another one', async () => {
  await using t = await freshLedger();
  await t.ledger.record(intent('ada@example.com'), render);
  const watch = createSetBackWatch(t.pool);
  await watch.look();
  await withClient(t.db.superuserUrl, async (client) => {
    await client.query('set session_replication_role = replica');
    await client.query("update audit_log set at = at + interval '1 microsecond'");
  });
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
