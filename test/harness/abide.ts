// Abide as its users run it: a process of its own on a folder of its own, which can be killed and started again.
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import pg from 'pg';
import { request } from 'undici';
import { findEmbeddedPostgres } from '../../processes/embedded-postgres.ts';
import { eventually } from './eventually.ts';
import { freePort } from './free-port.ts';
import { putClusterInto } from './postgres-of-the-run.ts';

export type Backup = {
  /** What was answered before this is in it; what is recorded later is not. */
  readonly takenAt: number;
  /** Runs Abide again on what the cluster was then. */
  restore(): Promise<void>;
};

export type AbideProcess = AsyncDisposable & {
  readonly url: string;
  /** The administrator's key. */
  readonly key: string;
  readonly dataFolder: string;
  readonly configFile: string;
  readonly pid: number;
  /** False once it has ended, for whatever reason. */
  readonly isRunning: boolean;
  /** Everything that it has printed so far, through every start. */
  readonly output: string;
  databaseUrl(database: string): string;
  /** As the embedded server's superuser, in database `abide` unless another is named. */
  connect(database?: string): Promise<pg.Client>;
  /** The most memory that the process has had resident, in bytes. */
  peakMemory(): Promise<number>;
  /** kill -9: the embedded server, in a process group of its own, goes on. */
  kill(): Promise<void>;
  /** SIGTERM, and waits for the end; the folder stays. Gives the exit code. */
  stop(signal?: NodeJS.Signals): Promise<number | null>;
  /** A copy of the embedded server's cluster, taken while Abide is stopped; it runs again afterwards. */
  backUp(): Promise<Backup>;
  /** Starts again on the same folder and port, with another abide.yaml if one is given. */
  start(config?: string): Promise<void>;
};

const CLI = fileURLToPath(new URL('../../cli/abide.ts', import.meta.url));
const OUTPUT_MAX = 4 * 1024 * 1024;

/** Stores hold what the test put there and nothing else, however long it takes, unless it is about canaries. */
const withoutCanary = (config: string): string =>
  /^canary:/m.test(config) ? config : `canary: false\n${config}`;

/**
 * Any command of `abide`, on the Node that runs this; its output is collected. `detached`: it leads a process group of its own.
 * `stdout`, `stderr`: the file that the stream goes to instead. `cwd`: where it is started.
 */
export function spawnAbide(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
  {
    detached = false,
    stdout: to = 'pipe',
    stderr = 'pipe',
    cwd,
  }: {
    readonly detached?: boolean;
    readonly stdout?: number | 'pipe';
    readonly stderr?: number | 'pipe';
    readonly cwd?: string;
  } = {},
): { child: ChildProcess; ended: Promise<number | null>; output: () => string; stdout: () => string } {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', CLI, ...args], {
    env: { ...process.env, NODE_OPTIONS: '', ABIDE_CONFIG: '', ABIDE_LOG: 'info', ...env },
    stdio: ['ignore', to, stderr],
    detached,
    ...(cwd === undefined ? {} : { cwd }),
  });
  let output = '';
  let stdout = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      if (output.length >= OUTPUT_MAX) return;
      output += text;
      if (stream === child.stdout) stdout += text;
    });
  }
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  return { child, ended, output: () => output, stdout: () => stdout };
}

export type Ran = {
  readonly code: number | null;
  readonly stdout: string;
  /** Standard output and standard error, as a terminal shows them. */
  readonly output: string;
};

/** Runs a command of `abide` to its end, its standard output collected, or into a file. */
export async function runAbide(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
  to: number | 'pipe' = 'pipe',
): Promise<Ran> {
  const { ended, output, stdout } = spawnAbide(args, env, { stdout: to });
  const code = await ended;
  return { code, stdout: stdout(), output: output() };
}

/** Starts `abide serve` and returns once /readyz answers 200. `config` is the text of an abide.yaml. */
export async function startAbide({
  config,
  dataFolder,
  args = [],
  env = {},
}: {
  config?: string;
  dataFolder?: string | undefined;
  args?: readonly string[];
  env?: Readonly<Record<string, string>>;
} = {}): Promise<AbideProcess> {
  const folder = dataFolder ?? (await mkdtemp(join(tmpdir(), 'abide-process-')));
  if (dataFolder === undefined) await putClusterInto(folder);
  const configFile = join(folder, 'abide.yaml');
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  let running: ReturnType<typeof spawnAbide> | undefined;
  const backups: string[] = [];
  let before = '';
  let key = '';

  async function start(text?: string): Promise<void> {
    if (text !== undefined) await writeFile(configFile, withoutCanary(text));
    before += running?.output() ?? '';
    const own = text === undefined && config === undefined ? [] : ['--config', configFile];
    running = spawnAbide(['serve', '--data', folder, ...own, ...args], { ...env, PORT: String(port) });
    await untilReady(url, running);
    key = (await readFile(join(folder, 'admin.key'), 'utf8')).trim();
  }
  async function end(signal: NodeJS.Signals): Promise<number | null> {
    if (running === undefined) return null;
    running.child.kill(signal);
    return await running.ended;
  }
  const dispose = async (): Promise<void> => {
    await end('SIGTERM');
    await endServer(folder);
    for (const one of [folder, ...backups]) await rm(one, { recursive: true, force: true });
  };
  try {
    await start(config);
  } catch (error) {
    await dispose();
    throw error;
  }
  const embedded = await findEmbeddedPostgres(folder);
  const databaseUrl = (database: string): string =>
    Object.assign(new URL(embedded!.superuserUrl), { pathname: `/${database}` }).href;
  return {
    url,
    get key() {
      return key;
    },
    dataFolder: folder,
    configFile,
    get pid() {
      return running!.child.pid!;
    },
    get isRunning() {
      return running!.child.exitCode === null && running!.child.signalCode === null;
    },
    get output() {
      return before + (running?.output() ?? '');
    },
    databaseUrl,
    connect: async (database = 'abide') => {
      const client = new pg.Client(databaseUrl(database));
      client.on('error', () => undefined);
      await client.connect();
      return client;
    },
    peakMemory: async () => {
      const status = await readFile(`/proc/${running!.child.pid}/status`, 'utf8');
      return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1] ?? NaN) * 1024;
    },
    kill: async () => {
      await end('SIGKILL');
    },
    stop: (signal = 'SIGTERM') => end(signal),
    backUp: async () => {
      const backup = await mkdtemp(join(tmpdir(), 'abide-backup-'));
      backups.push(backup);
      const cluster = join(folder, 'postgres');
      // The copy keeps its owner: as root, the server runs as another user.
      const copy = (from: string, to: string) => promisify(execFile)('cp', ['-a', from, to]);
      await end('SIGTERM');
      const takenAt = Date.now();
      await copy(cluster, backup);
      await start();
      return {
        takenAt,
        restore: async () => {
          await end('SIGTERM');
          await rm(cluster, { recursive: true });
          await copy(join(backup, 'postgres'), folder);
          await start();
        },
      };
    },
    start,
    [Symbol.asyncDispose]: dispose,
  };
}

async function untilReady(url: string, { child, output }: ReturnType<typeof spawnAbide>): Promise<void> {
  await eventually(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const { statusCode, body } = await request(`${url}/readyz`);
    await body.dump();
    if (statusCode !== 200) throw new Error(`not ready: ${statusCode}`);
  });
  if (child.exitCode !== null || child.signalCode !== null)
    throw new Error(`abide ended before it was ready:\n${output()}`);
}

/** Ends the server that a killed Abide left behind, of this folder alone. */
async function endServer(folder: string): Promise<void> {
  const pid = async (): Promise<number> =>
    Number((await readFile(join(folder, 'postgres/postmaster.pid'), 'utf8').catch(() => '')).split('\n')[0]);
  const left = await pid();
  if (!(left > 0)) return;
  process.kill(left, 'SIGINT');
  await eventually(async () => {
    if ((await pid()) > 0) throw new Error('the server of the folder still runs');
  });
}
