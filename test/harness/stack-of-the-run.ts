// One stack for the whole run, started as its users start it, in a temporary folder with ports of its own.
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Admin, Kafka } from 'kafkajs';
import pg from 'pg';
import { request } from 'undici';
import type { LagReport } from '../../ledger/contract/propagation-lag.ts';
import { openPool } from '../../ledger/database.ts';
import { changeStore } from '../../ledger/stores.ts';
import { findEmbeddedPostgres } from '../../processes/embedded-postgres.ts';
import { quietLog } from '../../processes/log.ts';
import { stackStatus } from '../../processes/stack/running-stack.ts';
import { createKafka } from '../../stream/kafka-client.ts';
import { spawnAbide } from './abide.ts';
import { eventually } from './eventually.ts';
import { freePort } from './free-port.ts';

/** Where the suites of the run find the stack: folder and URL. */
export const STACK = 'ABIDE_TEST_STACK';
const START_MS_MAX = 300_000;

export type StackProcess = {
  readonly folder: string;
  readonly url: string;
  output(): string;
  stop(): Promise<void>;
};

/** `abide stack`, in a folder and on a port of its own; returns when it is ready. `config`: the text of an abide.yaml. */
export async function startStack({
  config,
  env = {},
}: { config?: string; env?: Readonly<Record<string, string>> } = {}): Promise<StackProcess> {
  // Lists and URLs of Java programs divide at some of these: the broker took what follows a comma for another folder.
  const folder = await mkdtemp(join(tmpdir(), 'abide stack,;-'));
  // As root the database server runs as another user, which must get in.
  await chmod(folder, 0o711);
  const file = join(folder, 'abide.yaml');
  if (config !== undefined) await writeFile(file, config);
  const own = config === undefined ? [] : ['--config', file];
  const { child, ended, output } = spawnAbide(['stack', '--data', folder, ...own], {
    ...env,
    PORT: String(await freePort()),
  });
  const stop = async (): Promise<void> => {
    child.kill('SIGTERM');
    await ended;
    await rm(folder, { recursive: true, force: true });
  };
  const readyAt = async (): Promise<string> => {
    for (;;) {
      const [, url] = /the stack is ready[^]* ABIDE_URL=(\S+)\n/.exec(output()) ?? [];
      if (url !== undefined) return url;
      await delay(50);
    }
  };
  const url = await Promise.race([
    readyAt(),
    ended.then(() => undefined),
    delay(START_MS_MAX, undefined, { ref: false }),
  ]);
  if (url !== undefined) return { folder, url, output, stop };
  await stop();
  throw new Error(`the stack did not start:\n${output()}`);
}

export async function startStackOfTheRun(): Promise<{ found: string; stop(): Promise<void> }> {
  const { folder, url, stop } = await startStack();
  return { found: JSON.stringify({ folder, url }), stop };
}

export type RunningStack = {
  readonly url: string;
  readonly folder: string;
  readonly ports: { readonly broker: number; readonly connect: number; readonly registry: number };
  readonly kafka: Kafka;
  readonly admin: Admin;
  /** Records an opt-out; gives its id if the answer was 2xx. */
  optOut(email: string): Promise<string | undefined>;
  lag(): Promise<LagReport>;
  /** As the superuser, in the ledger's database, each on a connection that no other uses meanwhile. */
  query<T extends pg.QueryResultRow>(text: string, values?: readonly unknown[]): Promise<T[]>;
  /** The process id of a program of the stack, by the name of its log. */
  pidOf(program: string): Promise<number>;
  /** Tells programs to end; returns when the stack has started them again, by the files that are there then. */
  restart(programs: readonly string[], signal?: NodeJS.Signals): Promise<void>;
  /** Takes back the store of a suite; returns when the lag is as it was without it. */
  retire(stores: readonly string[]): Promise<void>;
  workerEnvironment(store: string): Promise<Readonly<Record<string, string>>>;
};

/** The stack of the run, for a suite. Throws if the run has none. */
export async function findStackOfTheRun(): Promise<RunningStack> {
  const found = process.env[STACK];
  if (found === undefined || found === 'none')
    throw new Error('No stack in this run: start it with npm test.');
  return await openStack(JSON.parse(found) as Pick<StackProcess, 'folder' | 'url'>);
}

export async function openStack({
  folder,
  url,
}: Pick<StackProcess, 'folder' | 'url'>): Promise<RunningStack> {
  const read = async (name: string): Promise<string> => (await readFile(join(folder, name), 'utf8')).trim();
  const ports = JSON.parse(await read('stack/ports.json')) as RunningStack['ports'];
  const authorization = `Bearer ${await read('admin.key')}`;
  const kafka = createKafka({
    address: { brokers: [`127.0.0.1:${ports.broker}`] },
    clientId: 'abide-test',
    log: quietLog,
    retries: 60,
  });
  const { superuserUrl } = (await findEmbeddedPostgres(folder))!;
  // Connections are kept for a moment, since logging in costs more than what is asked; nobody needs to end them.
  const pool = new pg.Pool({
    connectionString: Object.assign(new URL(superuserUrl), { pathname: '/abide' }).href,
    idleTimeoutMillis: 1_000,
    allowExitOnIdle: true,
  });
  // The server is killed now and then.
  pool.on('error', () => undefined);
  const lag = async (): Promise<LagReport> => {
    const { body } = await request(`${url}/v1/propagation-lag`, { headers: { authorization } });
    return (await body.json()) as LagReport;
  };
  const pidOf = async (program: string): Promise<number> => {
    if (program === 'postgres') return Number((await read('postgres/postmaster.pid')).split('\n')[0]);
    return await eventually(async () => {
      const running = (await stackStatus(folder)).programs.find(({ name }) => name === program);
      if (running === undefined) throw new Error(`${program} does not run`);
      return running.pid;
    });
  };
  return {
    url,
    folder,
    ports,
    kafka,
    admin: kafka.admin(),
    optOut: async (email) => {
      const { statusCode, body } = await request(`${url}/v1/opt-outs`, {
        method: 'POST',
        headers: { authorization, 'content-type': 'application/json' },
        body: JSON.stringify({ subject: { email } }),
        headersTimeout: 10_000,
      });
      const answer = (await body.json()) as { id?: string };
      return statusCode >= 200 && statusCode < 300 ? answer.id : undefined;
    },
    lag,
    query: async <T extends pg.QueryResultRow>(text: string, values: readonly unknown[] = []) =>
      (await pool.query<T>(text, [...values])).rows,
    pidOf,
    restart: async (programs, signal = 'SIGTERM') => {
      const pids = await Promise.all(programs.map(pidOf));
      for (const pid of pids) process.kill(pid, signal);
      await eventually(async () => {
        const again = await Promise.all(programs.map(pidOf));
        const left = programs.filter((_, n) => again[n] === pids[n]);
        if (left.length > 0) throw new Error(`${left.join(' and ')} has not ended`);
      });
    },
    retire: async (stores) => {
      const { urls } = (await findEmbeddedPostgres(folder))!;
      const pool = openPool(urls.api, { max: 1, onError: () => undefined });
      try {
        for (const name of stores)
          await changeStore(pool, name, 'retired', { reason: 'the suite is over' }, undefined);
      } finally {
        await pool.end();
      }
      await eventually(async () => {
        const { status, sources } = await lag();
        if (status !== 'ok' || sources[0]?.status !== 'ok') throw new Error(`the stack is ${status}`);
      });
    },
    workerEnvironment: async (store) => ({
      ABIDE_CONFIG: join(folder, 'stack/abide.yaml'),
      ABIDE_URL: url,
      ABIDE_KEY: await read(`stack/keys/${store}`),
    }),
  };
}
