import { expect, test } from '@jest/globals';
import { AUDIT_PAGE, auditPages } from '../../ledger/audit.ts';
import { withClient } from '../harness/database.ts';
import { buffersOf } from '../harness/explain.ts';
import { freshLedger } from '../harness/ledger.ts';

const ROWS = 100_000;

test('a page of the audit log costs what is on it, wherever it begins, and the pages together are the whole', async () => {
  await using t = await freshLedger();
  await t.pool.query(
    `insert into audit_log (at, client, key_id, action, details)
     select now() - interval '1 day' + n * interval '1 ms', 'shop', 'aKeyOfTheShop', 'test.done', '{}'
     from generate_series(1, ${ROWS}) n`,
  );
  await withClient(t.db.urls.owner, (client) => client.query('vacuum analyze audit_log'));
  const nothing = [null, null, null, null, 2 ** 53];

  const [start, end] = [
    await buffersOf(t.pool, AUDIT_PAGE, [0, 1_000, ...nothing]),
    await buffersOf(t.pool, AUDIT_PAGE, [ROWS - 1_000, 1_000, ...nothing]),
  ];

  // A hundred rows per page of the table, and the way down the index.
  expect(Math.max(start, end)).toBeLessThan(50);
  let read = 0;
  for await (const page of auditPages(t.pool, { after: 0, action: 'test.done' })) read += page.length;
  expect(read).toBe(ROWS);
});

test('what is rare in the audit log is found, however far apart', async () => {
  await using t = await freshLedger();
  const seqs = [5, 999_999, 1_000_005, 1_000_006, 4_200_000];
  await t.pool.query(
    `insert into audit_log (seq, at, action, details) overriding system value
     select seq, now(), case when seq = 5 then 'test.often' else 'test.rare' end, '{}' from unnest($1::bigint[]) seq`,
    [seqs],
  );
  const find = async (ask: object): Promise<number[]> => {
    const found: number[] = [];
    for await (const page of auditPages(t.pool, { after: 0, ...ask }))
      found.push(...page.map(({ seq }) => seq));
    return found;
  };
  expect(await find({ action: 'test.rare' })).toEqual(seqs.slice(1));
  expect(await find({ action: 'test.rare', limit: 2 })).toEqual(seqs.slice(1, 3));
  expect(await find({ action: 'test.rare', after: 1_000_005 })).toEqual(seqs.slice(3));
  expect(await find({ action: 'test.often', after: 5 })).toEqual([]);
});
