import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { openPool } from '../../ledger/database.ts';
import { makeKeyRing, matchKeyRing } from '../../ledger/key-ring.ts';
import { migrate } from '../../ledger/migrate.ts';
import { syncStores } from '../../ledger/stores.ts';
import { currentTransportKey } from '../../ledger/transport-keys.ts';
import { createWatermarkJob } from '../../ledger/watermark.ts';
import { startEmbeddedPostgres } from '../../processes/embedded-postgres.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { store } from '../harness/ledger.ts';
import { putClusterInto, ROLES } from '../harness/postgres-of-the-run.ts';

const silent = (): void => undefined;
const log = { info: silent, warn: silent, error: silent };

/** A server of the test's own, whose log reaches the disk only where somebody waits for it. */
async function startServer() {
  const folder = await mkdtemp(join(tmpdir(), 'abide-killed-'));
  await putClusterInto(folder);
  const settings = { fsync: 'off', autovacuum: 'off', wal_writer_delay: '10s' };
  const postgres = await startEmbeddedPostgres({ dataFolder: folder, log, settings });
  const { promise: crashed, resolve } = Promise.withResolvers<undefined>();
  const pool = openPool(postgres.urls.api, { max: 4, onError: () => resolve(undefined) });
  return {
    urls: postgres.urls,
    pool,
    /** Resolves once the server has ended what was idle: from then on it lets nobody in until it has recovered. */
    crashed,
    [Symbol.asyncDispose]: async () => {
      await pool.end();
      await postgres.stop();
      await rm(folder, { recursive: true });
    },
  };
}

// Found by reading: a killed backend takes all others with it, and the server recovers with the same time of its start. The fence
// from before was over at once, and the numbers below it were given out again: the mark went past a recording that was open.
test('when backends were killed, no mark goes past a recording that is open since', async () => {
  await using server = await startServer();
  const { pool, urls } = server;
  await migrate(urls.owner, ROLES);
  const ring = await matchKeyRing(pool, { read: () => makeKeyRing(), make: silent });
  await currentTransportKey(pool, ring);
  await syncStores(pool, [store({ name: 'crm' })]);
  const value = async (expression: string): Promise<unknown> =>
    (await pool.query<{ value: unknown }>(`select ${expression} as value`)).rows[0]!.value;
  const mark = () => value('(select scanned_through from stores)');
  const lastNumber = () => value('(select last_value from decisions_seq_seq)');
  const TAKE = "max(nextval('decisions_seq_seq')) from generate_series(1, 100)";
  const started = await value('pg_postmaster_start_time()');
  const job = createWatermarkJob(pool);

  await withClient(urls.api, async (recording) => {
    await recording.query('begin; select pg_current_xact_id()');
    const { rows } = await recording.query<{ pid: number }>(`select pg_backend_pid() as pid, ${TAKE}`);
    await job.advance();
    process.kill(rows[0]!.pid, 'SIGKILL');
    await server.crashed;
  });
  await eventually(() => value('1'));
  expect(await value('pg_postmaster_start_time()')).toBe(started);

  // Others have drawn as many ids as had been drawn before.
  for (let n = 0; n < 10; n += 1) await value('pg_current_xact_id()');
  const recording = await pool.connect();
  try {
    await recording.query('begin; select pg_current_xact_id()');
    const { rows } = await recording.query<{ seq: number }>("select nextval('decisions_seq_seq') as seq");
    await pool.query(`select ${TAKE}`);
    for (let n = 0; n < 3; n += 1) await job.advance();
    expect(await mark()).toBeLessThan(rows[0]!.seq);
    await recording.query('commit');
  } finally {
    recording.release();
  }
  await eventually(async () => {
    await job.advance();
    expect(await mark()).toBe(await lastNumber());
  });
});
