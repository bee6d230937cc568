// An Abide of the benchmark's own: a process as a user would run it, in a folder that is gone afterwards.
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { Pool, request } from 'undici';
import { findEmbeddedPostgres } from '../processes/embedded-postgres.ts';

export type BenchAbide = AsyncDisposable & {
  readonly url: string;
  readonly key: string;
  readonly dataFolder: string;
  readonly pid: number;
  /** As the embedded server's superuser, in database `abide` unless another is named. */
  connect(database?: string): Promise<pg.Client>;
  databaseUrl(database: string): string;
  /** Most memory that the process has had resident, in bytes. */
  peakMemory(): Promise<number>;
  /** Ends the process and leaves the folder, so that `startAbide({ dataFolder })` can go on with it. */
  stop(): Promise<void>;
};

const CLI = fileURLToPath(new URL('../cli/abide.ts', import.meta.url));

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Starts `abide serve` and returns once /readyz answers 200. `config` is the text of an abide.yaml. */
export async function startAbide({
  config,
  dataFolder,
  args = [],
}: { config?: string; dataFolder?: string; args?: readonly string[] } = {}): Promise<BenchAbide> {
  const folder = dataFolder ?? (await mkdtemp(join(tmpdir(), 'abide-bench-')));
  const port = await freePort();
  const configArgs: string[] = [];
  if (config !== undefined) {
    await writeFile(join(folder, 'abide.yaml'), config);
    configArgs.push('--config', join(folder, 'abide.yaml'));
  }
  const child = spawn(process.execPath, [CLI, 'serve', '--data', folder, ...configArgs, ...args], {
    env: { ...process.env, PORT: String(port), ABIDE_CONFIG: '' },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const url = `http://127.0.0.1:${port}`;
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
    await ended;
  };
  try {
    await untilReady(url, () => child.exitCode !== null);
  } catch (error) {
    await stop();
    throw error;
  }
  const embedded = await findEmbeddedPostgres(folder);
  const databaseUrl = (database: string): string => {
    const at = new URL(embedded!.superuserUrl);
    at.pathname = `/${database}`;
    return at.href;
  };
  return {
    url,
    key: (await readFile(join(folder, 'admin.key'), 'utf8')).trim(),
    dataFolder: folder,
    pid: child.pid!,
    databaseUrl,
    connect: async (database = 'abide') => {
      const client = new pg.Client(databaseUrl(database));
      await client.connect();
      return client;
    },
    peakMemory: async () => {
      const status = await readFile(`/proc/${child.pid}/status`, 'utf8');
      return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1] ?? NaN) * 1024;
    },
    stop,
    [Symbol.asyncDispose]: async () => {
      await stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function untilReady(url: string, died: () => boolean): Promise<void> {
  for (;;) {
    if (died()) throw new Error('abide ended before it was ready');
    const status = await request(`${url}/readyz`)
      .then(async ({ statusCode, body }) => {
        await body.dump();
        return statusCode;
      })
      .catch(() => 0);
    if (status === 200) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

let made = 0;
/** An address that nobody had before in this run. */
export const freshEmail = (): string => `p${process.pid}-${(made += 1)}@example.com`;

export const optOutBody = (): string =>
  JSON.stringify({ subject: { email: freshEmail() }, idempotency_key: `bench-${process.pid}-${made}` });

/** A keep-alive client for one API. */
export function createPoster(abide: Pick<BenchAbide, 'url' | 'key'>, connections: number) {
  const pool = new Pool(abide.url, { connections, pipelining: 1 });
  const headers = { authorization: `Bearer ${abide.key}`, 'content-type': 'application/json' };
  return {
    post: async (
      path: string,
      body: string,
      extra: object = {},
    ): Promise<{ status: number; text: string }> => {
      const answer = await pool.request({ method: 'POST', path, headers: { ...headers, ...extra }, body });
      return { status: answer.statusCode, text: await answer.body.text() };
    },
    get: async (path: string): Promise<unknown> => {
      const answer = await pool.request({ method: 'GET', path, headers });
      return await answer.body.json();
    },
    close: () => pool.close(),
  };
}

/** Posts at a fixed rate whatever the answers take, so that a stall shows in the figures instead of hiding in them. */
export async function postOpenLoop(
  post: (body: string) => Promise<{ status: number }>,
  perSecond: number,
  seconds: number,
): Promise<void> {
  const total = perSecond * seconds;
  const began = performance.now();
  const answers: Promise<void>[] = [];
  for (let sent = 0; sent < total;) {
    const due = Math.min(total, Math.floor(((performance.now() - began) / 1000) * perSecond) + 1);
    for (; sent < due; sent += 1) {
      answers.push(
        post(optOutBody()).then(({ status }) => {
          if (status !== 201) throw new Error(`POST answered ${status}`);
        }),
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await Promise.all(answers);
}
