// `abide demo`: the promise in half a minute, on an installation of its own that is gone afterwards.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { createAbide } from '../client/client.ts';
import type { Log } from '../connectors/contract/connector.ts';
import { CHANNELS } from '../suppression/scope.ts';
import { findEmbeddedPostgres } from './embedded-postgres.ts';
import { serve } from './serve.ts';

const LOOK_MS = 250;

/**
 * Posts, takes the store away, shows the lag, gives the store back. Throws if anything is not as promised, and the signal's reason
 * if that ends it; nothing is left behind in any case.
 */
export async function runDemo({
  print,
  log,
  signal,
}: {
  print: (line: string) => void;
  log: Log;
  signal: AbortSignal;
}): Promise<void> {
  await using undone = new AsyncDisposableStack();
  const dataFolder = await mkdtemp(join(tmpdir(), 'abide-demo-'));
  undone.defer(() => rm(dataFolder, { recursive: true, force: true }));
  print('Starting Abide with a PostgreSQL store `crm`, in a folder of its own …');
  const serving = await serve({
    // It may be started beside a real abide.yaml, whose stores and database are not for trying things out.
    configPath: null,
    dataFolder,
    env: { PORT: '0' },
    workers: true,
    log,
    print: () => undefined,
    announce: () => undefined,
    onCrash: () => undefined,
  });
  undone.defer(() => serving.stop());
  signal.throwIfAborted();
  const server = await findEmbeddedPostgres(dataFolder);
  const admin = new pg.Client(server!.superuserUrl);
  admin.on('error', () => undefined);
  await admin.connect();
  undone.defer(() => admin.end());

  const abide = createAbide({ url: serving.url, key: serving.adminKey! });
  const optOut = (email: string, waitSeconds?: number) =>
    abide.optOuts.create({ identifiers: [{ email }], scopes: [...CHANNELS] }, { waitSeconds, signal });
  const crm = async () => (await abide.lag({ signal })).stores.find(({ store }) => store === 'crm')!;
  async function until(
    what: string,
    reached: (lag: Awaited<ReturnType<typeof crm>>) => boolean,
  ): Promise<void> {
    const deadline = performance.now() + 60_000;
    for (let said = ''; ;) {
      const lag = await crm();
      const now = `  crm is ${lag.status}: ${lag.outstanding} outstanding, the oldest for ${Math.floor(lag.oldest_outstanding_seconds ?? 0)} s`;
      if (now !== said) print((said = now));
      if (reached(lag)) return;
      if (performance.now() > deadline) throw new Error(`crm was not ${what} within a minute`);
      await delay(LOOK_MS);
      signal.throwIfAborted();
    }
  }

  print('\n1. Ada opts out.');
  const began = performance.now();
  const ada = await optOut('ada@example.com', 5);
  print(
    `  ${ada.propagation.confirmed} of ${ada.propagation.required} stores verified after ${Math.round(performance.now() - began)} ms.`,
  );

  print('\n2. The store goes away. Grace opts out meanwhile: recorded, and not forgotten.');
  await admin.query('alter database crm with allow_connections false');
  await admin.query("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'crm'");
  const grace = await optOut('grace@example.com');
  await until('late', (lag) => lag.status === 'late');

  print('\n3. The store comes back. Nobody needs to do anything.');
  await admin.query('alter database crm with allow_connections true');
  await until('ok', (lag) => lag.status === 'ok' && lag.outstanding === 0);
  const healed = await abide.optOuts.propagation(grace.id, { signal });
  print(`  Grace's opt-out: ${healed.state}, ${healed.confirmed} of ${healed.required} stores verified.`);
  if (healed.state !== 'complete') throw new Error('the opt-out is not complete');
  print('\nNothing was lost, and the lag told the truth throughout. `npm start` is the same for real.');
}
