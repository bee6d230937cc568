// What a scenario is carried out on: a whole Abide of its own with the three stores, embedded or over Kafka.
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { findEmbeddedPostgres } from '../../processes/embedded-postgres.ts';
import type { AbideProcess, Backup } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { putClusterInto } from '../harness/postgres-of-the-run.ts';
import { openStack, startStack } from '../harness/stack-of-the-run.ts';
import { STORES, openStores, speakWith, startSystem } from '../pipeline/system.ts';
import type { Deployment, StoreName } from '../pipeline/system.ts';
import type { Killed, Source } from './scenario.ts';

export type Target = Deployment & {
  readonly abide: Pick<AbideProcess, 'url' | 'key' | 'dataFolder' | 'configFile' | 'output' | 'connect'>;
  /** kill -9; returns once it runs again. */
  kill(what: Killed): Promise<void>;
  /** The process that has the key ring. */
  readonly holdsRing: Killed;
  /** How far the clock of this process is ahead of the true one, from now on. */
  setClock(of: 'serve' | StoreName, aheadMs: number): Promise<void>;
  /** Leaves no byte on the disk of the data folder; the function that it gives frees them. Undefined if that cannot be done. */
  readonly fillDisk?: (() => Promise<() => Promise<void>>) | undefined;
  /** A copy of the ledger's database. Undefined if none is made. */
  readonly backUpLedger?: () => Promise<Backup>;
  /** SQL: every replication slot goes, with the session that reads it. */
  readonly dropSlots: string;
};

const CANARY_SECONDS = 5;
const RESTART_MS = 60_000;
/** Large enough for what a scenario writes several times over. */
const DISK_BYTES = 512 * 1024 * 1024;
const run = promisify(execFile);

async function killDatabase(dataFolder: string): Promise<void> {
  const file = join(dataFolder, 'postgres/postmaster.pid');
  await eventually(async () => {
    const lines = (await readFile(file, 'utf8')).split('\n');
    // Abide writes into the file as well, before the new server does, which says so when it is ready. One that was killed just now
    // still stands there, and is nobody.
    if (lines[7]?.trim() !== 'ready') throw new Error('the database is not ready');
    process.kill(Number(lines[0]), 'SIGKILL');
  }, RESTART_MS);
}

/** What processes whose clocks are to jump need (clock.mjs); it ends with `stack`. */
async function makeClocks(
  stack: AsyncDisposableStack,
): Promise<{ readonly env: Record<string, string>; readonly setClock: Target['setClock'] }> {
  const folder = await mkdtemp(join(tmpdir(), 'abide-clocks-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  return {
    env: {
      NODE_OPTIONS: `--import ${new URL('clock.mjs', import.meta.url).href}`,
      ABIDE_CHAOS_CLOCKS: folder,
    },
    setClock: (of, aheadMs) => writeFile(join(folder, of), String(aheadMs)),
  };
}

/** A small disk of its own, which ends with `stack`; undefined if this user may not mount one. */
async function mountDisk(
  stack: AsyncDisposableStack,
): Promise<{ readonly folder: string; readonly fill: NonNullable<Target['fillDisk']> } | undefined> {
  const mounted = await mkdtemp(join(tmpdir(), 'abide-disk-'));
  stack.defer(() => rm(mounted, { recursive: true, force: true }));
  try {
    await run('mount', ['-t', 'tmpfs', '-o', `size=${DISK_BYTES},mode=711`, 'tmpfs', mounted]);
  } catch {
    return undefined;
  }
  stack.defer(async () => {
    await run('umount', [mounted]);
  });
  const folder = join(mounted, 'data');
  await mkdir(folder);
  await putClusterInto(folder);
  const filler = join(mounted, 'filler');
  return {
    folder,
    fill: async () => {
      const file = await open(filler, 'w');
      try {
        for (;;) await file.write(Buffer.alloc(64 * 1024));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
      } finally {
        await file.close();
      }
      return () => rm(filler);
    },
  };
}

async function startEmbedded(withDisk: boolean): Promise<Target> {
  await using stack = new AsyncDisposableStack();
  const { env, setClock } = await makeClocks(stack);
  const disk = withDisk ? await mountDisk(stack) : undefined;
  const system = stack.use(
    await startSystem({ canarySeconds: CANARY_SECONDS, env, dataFolder: disk?.folder }),
  );
  const { abide } = system;
  const owned = stack.move();
  return {
    ...system,
    holdsRing: 'abide',
    setClock,
    fillDisk: disk?.fill,
    backUpLedger: () => abide.backUp(),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
    kill: async (what) => {
      if (what !== 'abide') await killDatabase(abide.dataFolder);
      if (what !== 'database') {
        await abide.kill();
        await abide.start();
      }
    },
    // A temporary slot goes with the session that reads it.
    dropSlots:
      'select pg_terminate_backend(active_pid) from pg_replication_slots where active_pid is not null',
  };
}

/** The stack itself starts what was killed again. */
async function startOverKafka(): Promise<Target> {
  await using place = new AsyncDisposableStack();
  const stores = await openStores(place);
  const stanzas = STORES.map((name) => `  ${stores[name].stanza}\n`).join('');
  const { env, setClock } = await makeClocks(place);
  const { folder, url, output, stop } = await startStack({
    env,
    config: `canary: { every_seconds: ${CANARY_SECONDS} }\nstores:\n${stanzas}`,
  });
  place.defer(stop);
  const stack = await openStack({ folder, url });
  const key = (await readFile(join(folder, 'admin.key'), 'utf8')).trim();
  const { superuserUrl } = (await findEmbeddedPostgres(folder))!;
  const logs = join(folder, 'stack/logs');
  const spoken = speakWith({ url, key }, place);
  const owned = place.move();
  return {
    ...spoken,
    holdsRing: 'api',
    stores,
    abide: {
      url,
      key,
      dataFolder: folder,
      configFile: join(folder, 'stack/abide.yaml'),
      get output() {
        const ofPrograms = readdirSync(logs).map(
          (name) => `\n--- ${name}\n${readFileSync(join(logs, name), 'utf8')}`,
        );
        return output() + ofPrograms.join('');
      },
      connect: async (database = 'abide') => {
        const client = new pg.Client(Object.assign(new URL(superuserUrl), { pathname: `/${database}` }).href);
        client.on('error', () => undefined);
        await client.connect();
        return client;
      },
    },
    setClock,
    kill: async (what) => {
      if (what === 'database') await killDatabase(folder);
      else await stack.restart([what], 'SIGKILL');
    },
    dropSlots: `select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where active;
      select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active`,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Anybody's outgoing connection may take a port between finding it free and listening on it. */
export async function startTarget(source: Source, withDisk: boolean): Promise<Target> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await (source === 'kafka' ? startOverKafka() : startEmbedded(withDisk));
    } catch (error) {
      if (tries === 3 || !String(error).includes('EADDRINUSE')) throw error;
    }
  }
}
