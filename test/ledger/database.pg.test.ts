import { execFileSync } from 'node:child_process';
import { expect, test } from '@jest/globals';
import { inTransaction, openPool } from '../../ledger/database.ts';
import { makeKeyRing, readKeyRing } from '../../ledger/key-ring.ts';
import { openLedger } from '../../ledger/open-ledger.ts';
import { emptyDatabase, freshDatabase, withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';

/** In a process of its own, which is waited for: what the server said to the lines is not read before the caller goes on. */
function endLines(superuserUrl: string): void {
  const script = `
    import pg from 'pg';
    const client = new pg.Client(${JSON.stringify(superuserUrl)});
    await client.connect();
    const end = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'lines'";
    while ((await client.query(end)).rowCount > 0);
    await client.end();`;
  execFileSync(process.execPath, ['--input-type=module', '-e', script]);
}

// A date style set by the database or its role made every opt-out a 500; an isolation level made the ledger refuse workers now and
// then.
test('what the database or a role has by default does not reach the ledger', async () => {
  await using db = await freshDatabase();
  const { name, superuserUrl, urls } = db;
  await withClient(superuserUrl, (client) =>
    client.query(`alter database ${name} set datestyle = 'German, DMY';
      alter database ${name} set timezone = 'Asia/Kathmandu';
      alter database ${name} set default_transaction_isolation = 'serializable'`),
  );
  const pool = openPool(urls.api, { max: 1, onError: () => undefined });
  const { rows } = await pool.query<{ at: string; isolation: string }>(
    "select timestamptz '2026-11-29 10:00:00.5+00' as at, current_setting('transaction_isolation') as isolation",
  );
  await pool.end();

  expect(rows).toEqual([{ at: '2026-11-29T10:00:00.500000Z', isolation: 'read committed' }]);
});

// Ctrl-C after some load printed a warning per connection: the embedded server was told to end before it had heard that they were
// closed, and said so to each of them.
test.each([false, true])('a line that the server ends is told of, unless its pool ends: %j', async (ends) => {
  await using db = await emptyDatabase();
  const told: string[] = [];
  const pool = openPool(db.urls.api, {
    max: 2,
    onError: ({ message }) => told.push(message),
    name: 'lines',
  });
  const closed = new Promise((resolve) => pool.once('connect', (line) => line.once('end', resolve)));
  await pool.query('select');

  endLines(db.superuserUrl);
  if (!ends) await eventually(() => expect(told).not.toEqual([]));
  const before = told.length;
  await pool.end();
  await closed;

  expect(told).toHaveLength(before);
});

test('a ledger that cannot be opened leaves no pool open', async () => {
  await using db = await emptyDatabase();
  const pool = openPool(db.urls.api, { max: 2, onError: () => undefined });
  const log = { info: () => undefined, warn: () => undefined };

  await expect(openLedger({ pool, ring: readKeyRing(makeKeyRing()), log })).rejects.toThrow('does not exist');

  expect(pool.ended).toBe(true);
});

test('a transaction that was rolled back, since what failed in it was swallowed, is not called done', async () => {
  await using db = await freshDatabase();
  const pool = openPool(db.urls.owner, { max: 1, onError: () => undefined });
  try {
    const work = inTransaction(pool, (client) => client.query('select 1 / 0').catch(() => 'done'));
    await expect(work).rejects.toThrow('commit was answered ROLLBACK');
  } finally {
    await pool.end();
  }
});
