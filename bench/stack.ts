// (g) The Kafka path beside its peer, Debezium's JDBC sink into the same PostgreSQL server. Both end when a listener on the
// target is told that the row is committed; they take turns, and while one is measured the others rest.
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { print, printTable } from '../cli/output.ts';
import { findEmbeddedPostgres } from '../processes/embedded-postgres.ts';
import { readPorts, stackFolderOf } from '../processes/stack/layout.ts';
import { stackStatus } from '../processes/stack/running-stack.ts';
import { spawnAbide, startAbide } from '../test/harness/abide.ts';
import { eventually } from '../test/harness/eventually.ts';
import { freePort } from '../test/harness/free-port.ts';
import { createPoster, lastSeq, optOutBody, postOpenLoop, retireCrm, UNLIMITED } from './abide.ts';
import { recordMany } from './catch-up.ts';
import { startJdbcSinks, TABLES } from './jdbc-sink.ts';
import type { Peer } from './jdbc-sink.ts';
import { count, judge, median, ms, percentile } from './measure.ts';

const STORES = ['one', 'two', 'three'] as const;
const ROUNDS = 2;
const IDLE_POSTS = 150;
const IDLE_PAUSE_MS = 50;
const LOAD_PER_SECOND = 500;
const LOAD_SECONDS = 12;
const BACKLOG = 300_000;
const DRAINED_MS_MAX = 120_000;
/** Counting the peer's rows takes its share of two cores. */
const COUNT_PAUSE_MS = 250;

type Spread = { p50: number; p99: number };
const spread = (values: readonly number[]): Spread => ({
  p50: percentile(values, 0.5),
  p99: percentile(values, 0.99),
});

const connect = async (url: string): Promise<pg.Client> => {
  const client = new pg.Client(url);
  await client.connect();
  return client;
};

/** A folder with the databases of the stores and of the peer, and commit timestamps on. */
async function prepare(): Promise<{
  folder: string;
  databaseUrl: (name: string) => string;
  replication: string;
}> {
  const folder = await mkdtemp(join(tmpdir(), 'abide-bench-'));
  await chmod(folder, 0o711);
  const abide = await startAbide({ dataFolder: folder, args: ['--no-workers'] });
  const db = await abide.connect('postgres');
  for (const name of [...STORES, 'peer']) await db.query(`create database ${name}`);
  await db.query('alter system set track_commit_timestamp = on');
  await db.end();
  await retireCrm(abide);
  await abide.stop();
  const { urls } = (await findEmbeddedPostgres(folder))!;
  return { folder, databaseUrl: (name) => abide.databaseUrl(name), replication: urls.replication };
}

/** Resident memory of every process of the stack, each page counted once. */
async function memoryOf(folder: string): Promise<number> {
  const { programs } = await stackStatus(folder);
  const server = Number((await readFile(join(folder, 'postgres/postmaster.pid'), 'utf8')).split('\n')[0]);
  const children = (await readFile(`/proc/${server}/task/${server}/children`, 'utf8'))
    .trim()
    .split(' ')
    .map(Number);
  const pss = async (pid: number): Promise<number> => {
    const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8').catch(() => '');
    return Number(/^Pss:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) * 1024;
  };
  const all = await Promise.all([...programs.map(({ pid }) => pid), server, ...children].map(pss));
  return all.reduce((sum, one) => sum + one, 0);
}

export async function benchStack(): Promise<void> {
  print(`\n(g) The Kafka path: ready, memory; commit to visible beside Debezium's JDBC sink; a backlog\n`);
  const { folder, databaseUrl, replication } = await prepare();
  const port = await freePort();
  const stanza = (name: string): string =>
    `  ${name}: { connector: postgres, url: '${databaseUrl(name)}', scopes: [email, sms, push] }\n`;
  const config = `stores:\n${STORES.map(stanza).join('')}`;
  await writeFile(join(folder, 'bench.yaml'), config);

  const startStack = async (): Promise<{ seconds: number; stop: () => Promise<void> }> => {
    const began = performance.now();
    const { child, ended, output } = spawnAbide(['stack', '--data', folder], {
      PORT: String(port),
      ABIDE_CONFIG: join(folder, 'bench.yaml'),
      ABIDE_LOG: 'warn',
    });
    await eventually(() => {
      if (child.exitCode !== null || !output().includes('the stack is ready')) throw new Error(output());
    }, 300_000);
    const seconds = (performance.now() - began) / 1000;
    return {
      seconds,
      stop: async () => {
        child.kill('SIGTERM');
        await ended;
      },
    };
  };

  await using undone = new AsyncDisposableStack();
  undone.defer(() => rm(folder, { recursive: true, force: true }));
  await (await startStack()).stop();
  const stack = await startStack();
  undone.defer(() => stack.stop());
  const memory = await memoryOf(folder);
  print(`ready after ${stack.seconds.toFixed(1)} s, ${Math.round(memory / 1024 ** 2)} MiB`);
  judge('ready', stack.seconds, { atMost: 20 }, ' s');
  judge('memory', memory / 1024 ** 3, { atMost: 1.5 }, ' GiB');

  const key = (await readFile(join(folder, 'admin.key'), 'utf8')).trim();
  const poster = createPoster({ url: `http://127.0.0.1:${port}`, key }, UNLIMITED);
  undone.defer(() => poster.close());
  const db = await connect(databaseUrl('abide'));
  undone.defer(() => db.end());
  const sinks = await startJdbcSinks({
    folder,
    ports: readPorts(stackFolderOf(folder))!,
    replication,
    target: databaseUrl('peer'),
  });
  undone.use(sinks);

  // ---- who is told what, and when

  const told = new Map<string, number>();
  const listen = async (database: string): Promise<pg.Client> => {
    const client = await connect(databaseUrl(database));
    client.on('notification', ({ payload }) => void told.set(payload!, Date.now()));
    await client.query('listen told');
    undone.defer(() => client.end());
    return client;
  };
  const tell = async (client: pg.Client, table: string, expression: string): Promise<void> => {
    await client.query(`create or replace function tell_${table}() returns trigger language plpgsql as
      $$ begin perform pg_notify('told', ${expression}); return null; end $$`);
    await client.query(
      `create trigger tell after insert or update on ${table} for each row execute function tell_${table}()`,
    );
  };
  await poster.post('/v1/opt-outs', optOutBody(), { prefer: 'wait=30' });
  const one = await listen('one');
  await tell(one, 'suppressions', 'new.key');
  const peer = await listen('peer');
  for (const table of Object.values(TABLES)) {
    await eventually(() => tell(peer, table, 'new.opt_out_id::text'), 60_000);
  }

  const drained = async (store: string): Promise<void> =>
    eventually(async () => {
      const { rows } = await db.query(
        `select from stores where name = $1 and retired_at is null
           and scanned_through >= (select coalesce(max(seq), 0) from decisions)`,
        [store],
      );
      if (rows.length === 0) throw new Error('not drained');
    }, DRAINED_MS_MAX);
  const pause = (names: readonly string[]): Promise<unknown> =>
    db.query(
      `update stores set paused_at = case when name = any ($1) then clock_timestamp() end where retired_at is null`,
      [names],
    );
  const only = async (contender: 'abide' | Peer): Promise<void> => {
    if (contender === 'abide') {
      await sinks.only(undefined);
      await pause(['two', 'three']);
      await drained('one');
    } else {
      await pause(STORES);
      await sinks.only(contender);
      const last = async (): Promise<string> => {
        const { rows } = await db.query<{ id: string }>('select id from decisions order by seq desc limit 1');
        return rows[0]!.id;
      };
      const id = await last();
      await eventually(async () => {
        const { rows } = await peer.query(`select from ${TABLES[contender]} where id = $1`, [id]);
        if (rows.length === 0) throw new Error('the sink is behind');
      }, DRAINED_MS_MAX);
    }
  };

  async function round(contender: 'abide' | Peer, isIdle: boolean): Promise<Spread> {
    const emails = new Map<string, string>();
    const post = async (body: string): Promise<{ status: number }> => {
      const answer = await poster.post('/v1/opt-outs', body);
      const { subject } = JSON.parse(body) as { subject: { email: string } };
      emails.set((JSON.parse(answer.text) as { id: string }).id, subject.email);
      return answer;
    };
    if (isIdle) {
      for (let n = 0; n < IDLE_POSTS; n += 1) {
        await post(optOutBody());
        await delay(IDLE_PAUSE_MS);
      }
    } else await postOpenLoop(post, LOAD_PER_SECOND, LOAD_SECONDS);
    const { rows } = await db.query<{ id: string; at: string }>(
      `select opt_out_id as id, extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000 as at
       from decisions where opt_out_id = any ($1::uuid[])`,
      [[...emails.keys()]],
    );
    const toldOf = (id: string): number | undefined => told.get(contender === 'abide' ? emails.get(id)! : id);
    await eventually(() => {
      if (!rows.every(({ id }) => toldOf(id) !== undefined)) throw new Error('not all arrived');
    }, DRAINED_MS_MAX);
    return spread(rows.map(({ id, at }) => toldOf(id)! - Number(at)));
  }

  const rounds = new Map<string, Spread[]>();
  const contenders = ['abide', 'tuned', 'default'] as const;
  // Each runs until compilers and caches have seen the whole way.
  for (const contender of contenders) {
    await only(contender);
    await round(contender, false);
  }
  for (let n = 0; n < ROUNDS; n += 1) {
    for (const contender of contenders) {
      await only(contender);
      for (const kind of ['idle', 'load'] as const) {
        const name = `${contender} ${kind}`;
        rounds.set(name, [...(rounds.get(name) ?? []), await round(contender, kind === 'idle')]);
      }
    }
  }
  const mid = (contender: string, kind: string): Spread => {
    const all = rounds.get(`${contender} ${kind}`)!;
    return { p50: median(all.map(({ p50 }) => p50)), p99: median(all.map(({ p99 }) => p99)) };
  };
  printTable(
    ['COMMIT TO VISIBLE', 'ABIDE p50', 'p99', 'TUNED SINK p50', 'p99', 'DEFAULT SINK p50', 'p99'],
    (['idle', 'load'] as const).map((kind) => [
      kind === 'idle' ? 'idle' : `${LOAD_PER_SECOND}/s`,
      ...(['abide', 'tuned', 'default'] as const).flatMap((contender) => {
        const { p50, p99 } = mid(contender, kind);
        return [ms(p50), ms(p99)];
      }),
    ]),
  );
  for (const kind of ['idle', 'load'] as const) {
    for (const share of ['p50', 'p99'] as const) {
      const own = mid('abide', kind)[share];
      judge(`${kind}, ${share}, times the default sink`, mid('default', kind)[share] / own, { atLeast: 10 });
      judge(`${kind}, ${share}, times the tuned sink`, mid('tuned', kind)[share] / own, { atLeast: 1.2 });
    }
  }

  // ---- verified, and three stores

  await only('abide');
  const before = await lastSeq(db);
  await round('abide', false);
  await drained('one');
  const { rows: verified } = await db.query<{ ms: string }>(
    `select extract(epoch from (a.evidence ->> 'verifiedAt')::timestamptz - pg_xact_commit_timestamp(d.xmin)) * 1000 as ms
     from decisions d join acknowledgements a using (seq) join stores s on s.id = a.store_id
     where d.seq > $1 and s.name = 'one' and a.outcome = 'verified'`,
    [before],
  );
  const toVerified = spread(verified.map((row) => Number(row.ms)));
  print(`\nCommit to verified at ${LOAD_PER_SECOND}/s: p50 ${ms(toVerified.p50)}, p99 ${ms(toVerified.p99)}`);
  judge('p99', toVerified.p99, { atMost: 50 }, ' ms');

  // Nobody needs to be told any more.
  await one.query('drop trigger tell on suppressions');
  await pause([]);
  for (const store of STORES) await drained(store);
  const untilAcknowledged = async (): Promise<Spread> => {
    const latencies: number[] = [];
    const post = async (body: string): Promise<{ status: number }> => {
      const began = performance.now();
      const answer = await poster.post('/v1/opt-outs', body, { prefer: 'wait=10' });
      latencies.push(performance.now() - began);
      return answer;
    };
    await postOpenLoop(post, LOAD_PER_SECOND, LOAD_SECONDS);
    return spread(latencies);
  };
  // Two of the workers rested until now: their code is as cold as everybody's was at the beginning.
  await untilAcknowledged();
  const three = await untilAcknowledged();
  print(
    `\nHTTP request to acknowledged by three stores at ${LOAD_PER_SECOND}/s: p50 ${ms(three.p50)}, p99 ${ms(three.p99)}`,
  );
  judge('p99', three.p99, { atMost: 80 }, ' ms');

  // ---- a backlog

  await sinks.only(undefined);
  await pause(STORES);
  const from = await lastSeq(db);
  await recordMany({ dataFolder: folder, databaseUrl }, BACKLOG);
  // The sink finds the whole backlog in the topic, so here Connect has to be done with it as well.
  const { rows: end } = await db.query<{ lsn: string }>('select pg_current_wal_lsn() as lsn');
  await eventually(async () => {
    const { rows } = await db.query(
      "select from pg_replication_slots where slot_name = 'abide_kafka' and confirmed_flush_lsn >= $1",
      [end[0]!.lsn],
    );
    if (rows.length === 0) throw new Error('Connect is behind');
  }, DRAINED_MS_MAX);
  const { rows: resumed } = await db.query<{ at: Date }>('select clock_timestamp() as at');
  await pause(['two', 'three']);
  await drained('one');
  // Leaves out what the worker had acknowledged before it knew that its store was paused.
  const { rows: settled } = await db.query<{ seconds: string; n: number }>(
    `select extract(epoch from max(acknowledged_at) - min(acknowledged_at)) as seconds, count(*)::int as n
     from acknowledgements a join stores s on s.id = a.store_id
     where a.seq > $1 and s.name = 'one' and a.acknowledged_at > $2`,
    [from, resumed[0]!.at],
  );
  const ours = settled[0]!.n / Number(settled[0]!.seconds);
  const worker = (await stackStatus(folder)).programs.find(({ name }) => name === 'worker-one')!;
  const status = await readFile(`/proc/${worker.pid}/status`, 'utf8');
  const peak = Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) * 1024;

  await pause(STORES);
  const rowsOf = async (): Promise<number> =>
    Number((await peer.query<{ n: string }>(`select count(*) as n from ${TABLES.tuned}`)).rows[0]!.n);
  await peer.query(`drop trigger tell on ${TABLES.tuned}`);
  const total = (await rowsOf()) + BACKLOG;
  const { rows: begun } = await peer.query<{ at: Date }>('select clock_timestamp() as at');
  await sinks.only('tuned');
  await eventually(async () => {
    if ((await rowsOf()) >= total) return;
    await delay(COUNT_PAUSE_MS);
    throw new Error('the sink is behind');
  }, 300_000);
  const { rows: visible } = await peer.query<{ seconds: string; n: number }>(
    `select extract(epoch from max(at) - min(at)) as seconds, count(*)::int as n
     from (select pg_xact_commit_timestamp(xmin) as at from ${TABLES.tuned}) one where at > $1`,
    [begun[0]!.at],
  );
  const theirs = visible[0]!.n / Number(visible[0]!.seconds);
  printTable(
    [`BACKLOG OF ${count(BACKLOG)}`, 'ROWS/s', 'WORKER PEAK'],
    [
      ['abide, acknowledged in the ledger', count(ours), `${Math.round(peak / 1024 ** 2)} MiB`],
      ['JDBC sink, C2', count(theirs), ''],
    ],
  );
  judge("times the sink's rows/s", ours / theirs, { atLeast: 2 });
}
