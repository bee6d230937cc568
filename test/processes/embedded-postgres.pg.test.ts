import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { findEmbeddedPostgres, startEmbeddedPostgres } from '../../processes/embedded-postgres.ts';
import type { EmbeddedPostgres } from '../../processes/embedded-postgres.ts';
import { isEnded, readProcStat } from '../../processes/proc-stat.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { putClusterInto } from '../harness/postgres-of-the-run.ts';

const silent = (): void => undefined;
const log = { info: silent, warn: silent, error: silent };

let folder: string;
const started: EmbeddedPostgres[] = [];
const start = async (settings: Record<string, string> = {}): Promise<EmbeddedPostgres> => {
  const postgres = await startEmbeddedPostgres({
    dataFolder: folder,
    log,
    settings: { fsync: 'off', ...settings },
  });
  started.push(postgres);
  return postgres;
};

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'abide-postgres-'));
});
afterEach(async () => {
  for (const postgres of started.splice(0)) await postgres.stop();
  await rm(folder, { recursive: true });
});

const isAlive = (pid: number): boolean => {
  const stat = readProcStat(pid);
  try {
    return process.kill(pid, 0) && !(stat !== undefined && isEnded(stat));
  } catch {
    return false;
  }
};
const logText = (): Promise<string> => readFile(join(folder, 'postgres.log'), 'utf8');
const show = (url: string, setting: string): Promise<string> =>
  withClient(url, async (client) => {
    const { rows } = await client.query<{ value: string }>('select current_setting($1) as value', [setting]);
    return rows[0]!.value;
  });

/** Another Abide: a process that starts the server in this folder and says its pid. */
async function startInAnotherProcess(): Promise<{ abide: ChildProcess; pid: number }> {
  const file = pathToFileURL(join(process.cwd(), 'processes/embedded-postgres.ts')).href;
  const script = `
    const { startEmbeddedPostgres } = await import(${JSON.stringify(file)});
    const log = { info() {}, warn() {}, error() {} };
    const { pid } = await startEmbeddedPostgres({ dataFolder: ${JSON.stringify(folder)}, log });
    process.stdout.write(String(pid));`;
  const abide = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [said] = (await once(abide.stdout, 'data')) as [Buffer];
  return { abide, pid: Number(said.toString()) };
}

async function kill(abide: ChildProcess): Promise<void> {
  const gone = once(abide, 'exit');
  abide.kill('SIGKILL');
  await gone;
}

/** Ends the session that makes the server somebody's. */
const endSession = ({ superuserUrl }: { superuserUrl: string }): Promise<unknown> =>
  withClient(superuserUrl, (client) =>
    client.query("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"),
  );

test('the first start makes a server with three roles, a later one finds it and its data again', async () => {
  const first = await start();
  expect(first.freshlyMade).toBe(true);
  await withClient(first.urls.owner, (client) => client.query('create table kept ()'));
  await first.stop();
  expect(isAlive(first.pid)).toBe(false);

  const second = await start();

  expect(second).toMatchObject({ freshlyMade: false, port: first.port, urls: first.urls });
  await withClient(second.urls.owner, (client) => client.query('select from kept'));
  const roles = await withClient(second.superuserUrl, async (client) => {
    const { rows } = await client.query(
      `select rolname, rolsuper, rolreplication, rolcreatedb, rolcreaterole from pg_roles
       where rolname like 'abide%' order by rolname`,
    );
    return rows as unknown[];
  });
  const least = { rolsuper: false, rolreplication: false, rolcreatedb: false, rolcreaterole: false };
  expect(roles).toEqual([
    { ...least, rolname: 'abide_api' },
    { ...least, rolname: 'abide_owner' },
    { ...least, rolname: 'abide_replication', rolreplication: true },
  ]);
  for (const url of Object.values(second.urls)) expect(await show(url, 'wal_level')).toBe('logical');
});

test('what a decision is worth is on disk, and nobody else can reach the server', async () => {
  const postgres = await startEmbeddedPostgres({ dataFolder: folder, log });
  started.push(postgres);

  const settings = ['fsync', 'synchronous_commit', 'listen_addresses', 'unix_socket_directories', 'TimeZone'];
  expect(await Promise.all(settings.map((name) => show(postgres.superuserUrl, name)))).toEqual([
    ...['on', 'on', '127.0.0.1', '', 'UTC'],
  ]);
  expect((await stat(join(folder, 'postgres.json'))).mode & 0o777).toBe(0o600);
  const noPassword = Object.assign(new URL(postgres.urls.api), { password: 'guessed' }).href;
  await expect(show(noPassword, 'port')).rejects.toMatchObject({ code: '28P01' });
});

test('the server is in a process group of its own, which Ctrl-C does not reach', async () => {
  await putClusterInto(folder);
  const { pid } = await start();

  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]!.split(' ');
  expect(Number(fields[2])).toBe(pid);
});

test('whoever did not start the server finds it by its folder', async () => {
  expect(await findEmbeddedPostgres(folder)).toBeUndefined();
  const { urls, port, superuserUrl } = await start();

  expect(await findEmbeddedPostgres(folder)).toEqual({ urls, port, superuserUrl });
});

test("a database for a store is the owner's and is made once", async () => {
  await putClusterInto(folder);
  const postgres = await start();

  const url = await postgres.createDatabase('crm');

  expect(await postgres.createDatabase('crm')).toBe(url);
  await withClient(url, (client) => client.query('create table suppressions ()'));
});

test('a server that a killed Abide left running is taken over, and stopped by us', async () => {
  await putClusterInto(folder);
  const { abide, pid } = await startInAnotherProcess();
  await kill(abide);
  expect(isAlive(pid)).toBe(true);

  const postgres = await start();

  expect(postgres).toMatchObject({ pid, freshlyMade: false });
  await postgres.stop();
  expect(isAlive(pid)).toBe(false);
});

test.each(['stopped', 'killed'] as const)(
  'a server that was %s is gone, though nobody collects its end',
  async (how) => {
    await putClusterInto(folder);
    const { abide, pid } = await startInAnotherProcess();
    // The parent is as before, but hears nothing now.
    abide.kill('SIGSTOP');
    try {
      if (how === 'killed') process.kill(pid, 'SIGKILL');
      else {
        await endSession((await findEmbeddedPostgres(folder))!);
        await (await start()).stop();
      }
      await eventually(() => expect(readProcStat(pid)).toMatchObject({ 0: 'Z' }));

      expect((await start()).freshlyMade).toBe(false);
    } finally {
      await kill(abide);
    }
  },
);

test('an initdb that goes on after its Abide was killed does not keep the next one from starting', async () => {
  const killed = spawn(process.execPath, ['-e', '']);
  await once(killed, 'exit');
  // Like initdb: it does not notice at once that what it wrote is gone.
  const script = `
    const { existsSync, mkdirSync, writeFileSync } = require('node:fs');
    process.chdir(${JSON.stringify(folder)});
    mkdirSync('postgres.new-${killed.pid}');
    process.chdir('postgres.new-${killed.pid}');
    for (let n = 0, last = Infinity; n < last; n += 1) {
      writeFileSync(String(n), '');
      if (n === 500) process.stdout.write('writing');
      if (last === Infinity && !existsSync('0')) last = n + 500;
    }`;
  const initdb = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'ignore'] });
  const ended = once(initdb, 'exit');
  await once(initdb.stdout, 'data');

  expect((await start()).freshlyMade).toBe(true);

  await ended;
  expect(await readdir(folder)).not.toContain(`postgres.new-${killed.pid}`);
});

test('a second Abide on the same folder is refused and leaves the first one its server', async () => {
  await putClusterInto(folder);
  const { abide, pid } = await startInAnotherProcess();
  try {
    await expect(start()).rejects.toMatchObject({
      code: 'POSTGRES_FAILED',
      message: expect.stringContaining('Another Abide runs'),
    });
    expect(isAlive(pid)).toBe(true);
  } finally {
    await kill(abide);
    await (await start()).stop();
  }
});

test('a killed server is started again at the same port, once its last backend has ended', async () => {
  await putClusterInto(folder);
  const killed = await start();
  const { pid, port } = killed;
  const { backend } = await withClient(killed.superuserUrl, async (client) => {
    const { rows } = await client.query<{ backend: number }>('select pg_backend_pid() as backend');
    // A backend that computes does not notice that its server is gone.
    client.query('select count(*) from generate_series(1, 1e12)').catch(silent);
    const looks = { url: killed.superuserUrl, pid: rows[0]!.backend };
    await eventually(async () => {
      const active = await withClient(looks.url, (other) =>
        other.query(
          "select from pg_stat_activity where pid = $1 and state = 'active' and query like '%1e12%'",
          [looks.pid],
        ),
      );
      expect(active.rowCount).toBe(1);
    });
    process.kill(pid, 'SIGKILL');
    return rows[0]!;
  });
  await eventually(async () => {
    expect(await logText()).toContain('pre-existing shared memory block');
  });
  process.kill(backend, 'SIGKILL');

  await eventually(async () => {
    expect(await show(killed.superuserUrl, 'port')).toBe(`${port}`);
    expect(killed.pid).not.toBe(pid);
  });
  // It is ours as before: a second Abide is refused, and stop() ends it.
  await expect(start()).rejects.toMatchObject({ message: expect.stringContaining('Another Abide runs') });
  await killed.stop();
  expect(isAlive(killed.pid)).toBe(false);
});

test('an Abide that loses its session alone takes its server over again', async () => {
  await putClusterInto(folder);
  const postgres = await start();
  const { pid } = postgres;
  await endSession(postgres);
  await eventually(async () => {
    await expect(start()).rejects.toMatchObject({ message: expect.stringContaining('Another Abide runs') });
  });
  expect(postgres.pid).toBe(pid);
});

test('a process number that another program has now, of another folder say, does not keep the server from starting', async () => {
  await putClusterInto(folder);
  const other = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1e3)', `/copy${folder}/postgres`]);
  const { abide, pid } = await startInAnotherProcess();
  await kill(abide);
  process.kill(pid, 'SIGKILL');
  await eventually(() => {
    expect(isAlive(pid)).toBe(false);
  });
  const pidFile = join(folder, 'postgres/postmaster.pid');
  await writeFile(pidFile, (await readFile(pidFile, 'utf8')).replace(/^\d+/, `${other.pid}`));
  try {
    expect((await start()).freshlyMade).toBe(false);
  } finally {
    other.kill();
  }
});

test('another port is chosen, and kept, where somebody took ours', async () => {
  await putClusterInto(folder);
  const first = await start();
  await first.stop();
  const squatter = createServer().listen(first.port, '127.0.0.1');
  await once(squatter, 'listening');

  const second = await start();
  squatter.close();

  expect(second.port).not.toBe(first.port);
  expect((await findEmbeddedPostgres(folder))!.port).toBe(second.port);
});

test('a failed start says why, from the end of the log', async () => {
  await expect(start({ shared_buffers: 'plenty' })).rejects.toMatchObject({
    code: 'POSTGRES_FAILED',
    message: expect.stringContaining('shared_buffers'),
  });
});

test('a cluster without its passwords is refused, not made anew', async () => {
  await putClusterInto(folder);
  await (await start()).stop();
  await rm(join(folder, 'postgres.json'));

  await expect(start()).rejects.toMatchObject({
    code: 'POSTGRES_FAILED',
    message: expect.stringContaining('backup'),
  });
});

test('a server that dies after its folder was taken away is missed in words that say so', async () => {
  await putClusterInto(folder);
  const said: unknown[] = [];
  const postgres = await startEmbeddedPostgres({
    dataFolder: folder,
    log: { ...log, error: ({ error }: { error?: unknown }) => said.push(error) },
    settings: { fsync: 'off' },
  });
  started.push(postgres);
  await rm(join(folder, 'postgres.json'));
  process.kill(postgres.pid, 'SIGKILL');
  await eventually(() =>
    expect(said).toContainEqual(
      expect.objectContaining({ code: 'POSTGRES_FAILED', message: expect.stringContaining('is missing') }),
    ),
  );
});

test('no address reaches the log by a statement that fails, or a backend that dies in one', async () => {
  await putClusterInto(folder);
  const postgres = await start();
  await withClient(postgres.urls.owner, async (client) => {
    await client.query('create table held (key text primary key)');
    await client.query("insert into held values ('ada@example.com')");
    for (const [text, values] of [
      ['insert into held values ($1)', ['ada@example.com']],
      ['select $1::bigint', ['ada@example.com']],
      ["select 'ada@example.com'::int", []],
      ['select ada@example.com', []],
      ["do $$ begin raise warning 'ada@example.com'; raise exception 'ada@example.com'; end $$", []],
    ] as const) {
      await expect(client.query(text, [...values])).rejects.toThrow();
    }
  });
  await withClient(postgres.superuserUrl, async (client) => {
    const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
    const dying = client.query("select pg_sleep(60), 'ada@example.com'");
    process.kill(rows[0]!.pid, 'SIGKILL');
    await expect(dying).rejects.toThrow();
  });
  await eventually(async () => {
    expect(await logText()).toContain('was terminated by signal 9');
  });

  await postgres.stop();
  expect(await logText()).not.toContain('ada@');
});

const asRoot = process.getuid?.() === 0 ? test : test.skip;
asRoot('as root, a data folder that is closed to other users works all the same', async () => {
  await chmod(folder, 0o700);

  const { pid } = await start();

  expect((await stat(`/proc/${pid}`)).uid).not.toBe(0);
  expect(await readdir(folder)).toEqual(['postgres', 'postgres.json', 'postgres.log']);
});
