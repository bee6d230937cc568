// (c) Catch-up of outstanding decisions into a store that was never told: rows per second until acknowledged, and the peak memory
// of the process. The decisions are recorded through the ledger itself; nothing is left out.
import { print, printTable } from '../cli/output.ts';
import type { OptOutIntent } from '../ledger/contract/opt-outs.ts';
import { openPool } from '../ledger/database.ts';
import { readKeyRing } from '../ledger/key-ring.ts';
import { openLedger } from '../ledger/open-ledger.ts';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Address } from '../suppression/subject.ts';
import { startAbide } from '../test/harness/abide.ts';
import { freshEmail } from './abide.ts';
import type { AbideProcess } from '../test/harness/abide.ts';
import { count, judge } from './measure.ts';
import { quietLog } from '../processes/log.ts';

const DECISIONS = 200_000;
const AT_ONCE = 512;

/** Records fresh opt-outs as fast as the ledger takes them. */
export async function recordMany(
  abide: Pick<AbideProcess, 'dataFolder' | 'databaseUrl'>,
  total: number,
): Promise<void> {
  const ring = readKeyRing(await readFile(join(abide.dataFolder, 'keys.json'), 'utf8'));
  const pool = openPool(abide.databaseUrl('abide'), { max: 4, onError: () => undefined });
  await using ledger = await openLedger({ pool, ring, log: quietLog });
  const intent = (): OptOutIntent => ({
    subjects: [{ kind: 'email', value: new Address(freshEmail()) }],
    scopes: ['email', 'sms', 'push'],
    effectiveAt: undefined,
    reason: 'person_request',
    note: undefined,
    regimes: [],
    evidence: undefined,
    idempotencyKey: undefined,
    apiVersion: 'v1',
    caller: { client: 'bench', keyId: 'bench', address: '127.0.0.1', requestId: 'bench' },
    traceparent: undefined,
    receivedAtMs: performance.now(),
  });
  let left = total;
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      while (left > 0) {
        left -= 1;
        await ledger.record(intent(), () => '{}');
      }
    }),
  );
}

async function catchUp(
  store: 'postgres' | 'redis',
  decisions: number,
): Promise<{ perSecond: number; peak: number }> {
  const redis = `bench:${process.pid}:`;
  const first = await startAbide({ args: ['--no-workers'] });
  await recordMany(first, decisions);
  await first.stop();
  const stanza =
    store === 'postgres'
      ? `connector: postgres, url: '${first.databaseUrl('crm')}'`
      : `connector: redis, url: 'redis://127.0.0.1:6379', prefix: '${redis}'`;
  // A second store of a new name would be back-filled; the first one was registered before and is simply behind.
  await using abide = await startAbide({
    dataFolder: first.dataFolder,
    config: `stores:\n  crm: { ${stanza}, scopes: [email, sms, push] }\n`,
  });
  const db = await abide.connect();
  const settled = async (): Promise<number> =>
    Number((await db.query<{ n: string }>('select coalesce(sum(count), 0) as n from carried')).rows[0]!.n);
  while ((await settled()) < decisions) await new Promise((resolve) => setTimeout(resolve, 20));
  const { rows } = await db.query<{ seconds: string }>(
    'select extract(epoch from max(acknowledged_at) - min(acknowledged_at)) as seconds from acknowledgements',
  );
  await db.end();
  const peak = await abide.peakMemory();
  if (store === 'redis') {
    const { createClient } = await import('redis');
    const client = createClient();
    await client.connect();
    for await (const keys of client.scanIterator({ MATCH: `${redis}*`, COUNT: 1000 })) {
      if (keys.length > 0) await client.unlink(keys);
    }
    await client.close();
  }
  return { perSecond: decisions / Number(rows[0]!.seconds), peak };
}

export async function benchCatchUp(): Promise<void> {
  print(
    `\n(c) Catch-up of outstanding decisions, acknowledged rows a second, and the process' peak memory\n`,
  );
  const rows: string[][] = [];
  const mib = (bytes: number): string => `${Math.round(bytes / 1024 ** 2)} MiB`;
  const figures = new Map<string, { perSecond: number; peak: number }>();
  for (const store of ['postgres', 'redis'] as const) {
    for (const decisions of [DECISIONS / 4, DECISIONS]) {
      const one = await catchUp(store, decisions);
      figures.set(`${store} ${decisions}`, one);
      rows.push([store, count(decisions), count(one.perSecond), mib(one.peak)]);
    }
  }
  printTable(['STORE', 'BACKLOG', 'ROWS/s', 'PEAK MEMORY'], rows);
  const full = figures.get(`postgres ${DECISIONS}`)!;
  judge('into PostgreSQL, rows/s', full.perSecond, { atLeast: 20_000 });
  judge(
    'peak memory, four times the backlog',
    full.peak / figures.get(`postgres ${DECISIONS / 4}`)!.peak,
    { atMost: 1.25 },
    ' ×',
  );
}
