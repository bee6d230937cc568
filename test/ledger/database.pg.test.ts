import { execFileSync } from 'node:child_process';
import { expect, test } from '@jest/globals';
import { openPool } from '../../ledger/database.ts';
import { emptyDatabase } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';

/** By a process of its own, and waited for: what the server said to the lines is not read before the caller goes on. */
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

// Ctrl-C after some load printed a warning a connection: the embedded server was told to end before it had heard that they were
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
