// (b) Commit to verified in a PostgreSQL store, beside PostgreSQL's own logical replication into the same server with the
// same durability; and HTTP request to acknowledged by three stores.
//
// Both begin at the decision's commit, as PostgreSQL itself stamps it (track_commit_timestamp), and end when a Node process
// knows: Abide's worker that the store, read back, holds it; a listener on the subscribing database that its row is
// committed (whole milliseconds, both; an apply worker's own commit carries the origin's time, so the row's stamp would say nothing).
import { print, printTable } from '../cli/output.ts';
import type pg from 'pg';
import { startAbide } from '../test/harness/abide.ts';
import { createPoster, lastSeq, optOutBody, postOpenLoop, retireCrm, UNLIMITED } from './abide.ts';
import type { AbideProcess } from '../test/harness/abide.ts';
import { judge, ms, percentile, times } from './measure.ts';

const IDLE_POSTS = 200;
const IDLE_PAUSE_MS = 50;
const LOAD_PER_SECOND = 500;
const LOAD_SECONDS = 15;
const THREE_PER_SECOND = 200;
/** Runs until compilers and caches have seen the whole way; left out of the figures. */
const WARM_UP_SECONDS = 10;
/** The end is read in whole milliseconds: this is what they leave out on average, for both contenders. */
const CUT_OFF_MS = 0.5;

type Spread = { p50: number; p99: number; max: number; count: number };
const spread = (values: readonly number[]): Spread => ({
  p50: percentile(values, 0.5),
  p99: percentile(values, 0.99),
  max: Math.max(...values),
  count: values.length,
});

const until = async (reached: () => Promise<boolean>): Promise<void> => {
  while (!(await reached())) await new Promise((resolve) => setTimeout(resolve, 20));
};

/** Abide on a server that keeps commit timestamps, a setting that needs a restart. */
export async function startWithCommitTimestamps(): Promise<AbideProcess> {
  const abide = await startAbide();
  const db = await abide.connect('postgres');
  await db.query('alter system set track_commit_timestamp = on');
  await db.end();
  await abide.stop();
  return await startAbide({ dataFolder: abide.dataFolder });
}

/** A database of the same server that subscribes to the very publication that Abide's reader reads. */
async function createPeer(source: pg.Client, abide: AbideProcess): Promise<pg.Client> {
  await source.query('create database peer');
  await source.query("select pg_create_logical_replication_slot('peer', 'pgoutput')");
  const peer = await abide.connect('peer');
  await peer.query(`create table decisions (seq bigint primary key, id uuid, cause text, opt_out_id uuid, subject_id uuid,
    kind text, version bigint, suppressed jsonb, granted jsonb, effective_at timestamptz, recorded_at timestamptz,
    sealed bytea, transport_key_id bigint, traceparent text)`);
  await peer.query('create table abide_heartbeat (at timestamptz)');
  await peer.query(`create function tell() returns trigger language plpgsql as
    $$ begin perform pg_notify('applied', new.seq::text); return null; end $$`);
  await peer.query('create trigger tell after insert on decisions for each row execute function tell()');
  await peer.query('alter table decisions enable replica trigger tell');
  await peer.query(`create subscription peer connection '${abide.databaseUrl('abide')}' publication abide
    with (create_slot = false, slot_name = 'peer', copy_data = false, synchronous_commit = 'on', enabled = false)`);
  return peer;
}

async function load(abide: AbideProcess, idle: boolean): Promise<void> {
  const poster = createPoster(abide, UNLIMITED);
  const post = (body: string) => poster.post('/v1/opt-outs', body);
  if (idle) {
    for (let n = 0; n < IDLE_POSTS; n += 1) {
      await post(optOutBody());
      await new Promise((resolve) => setTimeout(resolve, IDLE_PAUSE_MS));
    }
  } else await postOpenLoop(post, LOAD_PER_SECOND, LOAD_SECONDS);
  await poster.close();
}

/** Milliseconds from commit to verified of every decision after a sequence number, once all are verified. */
async function abideRound(abide: AbideProcess, db: pg.Client, idle: boolean): Promise<Spread> {
  const from = await lastSeq(db);
  await load(abide, idle);
  const to = await lastSeq(db);
  const sql = `select extract(epoch from (a.evidence ->> 'verifiedAt')::timestamptz - pg_xact_commit_timestamp(d.xmin)) * 1000 as ms
    from decisions d join acknowledgements a using (seq) where d.seq > $1 and a.outcome = 'verified'`;
  await until(async () => (await db.query(sql, [from])).rows.length === to - from);
  const { rows } = await db.query<{ ms: string }>(sql, [from]);
  return spread(rows.map((row) => Number(row.ms) + CUT_OFF_MS));
}

async function peerRound(
  abide: AbideProcess,
  db: pg.Client,
  peer: pg.Client,
  idle: boolean,
): Promise<Spread> {
  const from = await lastSeq(db);
  const applied = new Map<string, number>();
  peer.on('notification', ({ payload }) => void applied.set(payload!, Date.now()));
  await peer.query('listen applied');
  await load(abide, idle);
  const { rows } = await db.query<{ seq: string; at: string }>(
    'select seq, extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000 as at from decisions where seq > $1',
    [from],
  );
  await until(() => Promise.resolve(rows.every(({ seq }) => applied.has(seq))));
  await peer.query('unlisten applied');
  peer.removeAllListeners('notification');
  return spread(rows.map(({ seq, at }) => applied.get(seq)! - Number(at) + CUT_OFF_MS));
}

export type PropagationFigures = Record<'idle' | 'load', { abide: Spread; peer: Spread }>;

/** Rounds in turn, idle and at 500/s; while one contender is measured the other one rests. */
export async function measurePropagation(abide: AbideProcess): Promise<PropagationFigures> {
  const db = await abide.connect();
  const peer = await createPeer(db, abide);
  await load(abide, true);
  const store = async (serving: boolean): Promise<void> => {
    await db.query(`update stores set paused_at = ${serving ? 'null' : 'clock_timestamp()'}`);
    await until(async () => {
      const { rows } = await db.query<{ held: boolean }>(
        'select coalesce(lease_until > clock_timestamp(), false) as held from stores',
      );
      return rows[0]!.held === serving;
    });
    if (serving)
      await until(
        async () =>
          (
            await db.query(
              `select from decisions d where d.seq > (select min(scanned_through) from stores)
                   and not exists (select from acknowledgements a where a.seq = d.seq) limit 1`,
            )
          ).rows.length === 0,
      );
  };
  const subscription = async (enabled: boolean): Promise<void> => {
    await peer.query(`alter subscription peer ${enabled ? 'enable' : 'disable'}`);
    if (enabled) await until(async () => (await lastSeq(peer)) >= (await lastSeq(db)));
    else
      await until(
        async () =>
          (await db.query("select from pg_replication_slots where slot_name = 'peer' and active")).rows
            .length === 0,
      );
  };
  const rounds: Record<'idle' | 'load', { abide: Spread[]; peer: Spread[] }> = {
    idle: { abide: [], peer: [] },
    load: { abide: [], peer: [] },
  };
  for (let round = 0; round < 3; round += 1) {
    for (const kind of ['idle', 'load'] as const) {
      await store(true);
      rounds[kind].abide.push(await abideRound(abide, db, kind === 'idle'));
      await store(false);
      await subscription(true);
      rounds[kind].peer.push(await peerRound(abide, db, peer, kind === 'idle'));
      await subscription(false);
    }
  }
  await store(true);
  await peer.query('alter subscription peer set (slot_name = none)');
  await peer.query('drop subscription peer');
  await db.query("select pg_drop_replication_slot('peer')");
  await Promise.all([peer.end(), db.end()]);
  const mid = (spreads: readonly Spread[]): Spread => ({
    p50: percentile(
      spreads.map((one) => one.p50),
      0.5,
    ),
    p99: percentile(
      spreads.map((one) => one.p99),
      0.5,
    ),
    max: Math.max(...spreads.map((one) => one.max)),
    count: spreads.reduce((sum, one) => sum + one.count, 0),
  });
  return {
    idle: { abide: mid(rounds.idle.abide), peer: mid(rounds.idle.peer) },
    load: { abide: mid(rounds.load.abide), peer: mid(rounds.load.peer) },
  };
}

/** HTTP request to acknowledged by three PostgreSQL stores, `Prefer: wait`, open loop. */
async function measureThreeStores(): Promise<Spread> {
  const first = await startAbide();
  for (const name of ['one', 'two', 'three']) {
    const db = await first.connect('postgres');
    await db.query(`create database ${name}`);
    await db.end();
  }
  const store = (name: string): string =>
    `  ${name}: { connector: postgres, url: '${first.databaseUrl(name)}', scopes: [email, sms, push] }\n`;
  await retireCrm(first);
  await first.stop();
  await using abide = await startAbide({
    dataFolder: first.dataFolder,
    config: `stores:\n${store('one')}${store('two')}${store('three')}`,
  });
  const latencies: number[] = [];
  const poster = createPoster(abide, UNLIMITED);
  await postOpenLoop(
    async (body) => {
      const began = performance.now();
      const answer = await poster.post('/v1/opt-outs', body, { prefer: 'wait=10' });
      if ((JSON.parse(answer.text) as { propagation: { state: string } }).propagation.state !== 'complete') {
        throw new Error('not complete within the wait');
      }
      latencies.push(performance.now() - began);
      return answer;
    },
    THREE_PER_SECOND,
    WARM_UP_SECONDS + LOAD_SECONDS,
  );
  await poster.close();
  return spread(latencies.slice(THREE_PER_SECOND * WARM_UP_SECONDS));
}

async function compare(): Promise<PropagationFigures> {
  await using abide = await startWithCommitTimestamps();
  return await measurePropagation(abide);
}

export async function benchPropagate(): Promise<void> {
  print(
    '\n(b) Commit to verified in a PostgreSQL store, beside CREATE SUBSCRIPTION (commit to visible), medians of 3 rounds\n',
  );
  const figures = await compare();
  printTable(
    ['', 'ABIDE p50', 'p99', 'max', 'SUBSCRIPTION p50', 'p99', 'max', 'RATIO p50', 'p99'],
    (['idle', 'load'] as const).map((kind) => {
      const { abide, peer } = figures[kind];
      return [
        kind === 'idle' ? 'idle' : `${LOAD_PER_SECOND}/s`,
        ...[abide.p50, abide.p99, abide.max, peer.p50, peer.p99, peer.max].map(ms),
        times(abide.p50 / peer.p50),
        times(abide.p99 / peer.p99),
      ];
    }),
  );
  for (const kind of ['idle', 'load'] as const) {
    const { abide, peer } = figures[kind];
    judge(`${kind}, p50 against the subscription`, abide.p50 / peer.p50, { atMost: 2 }, ' ×');
    judge(`${kind}, p99 against the subscription`, abide.p99 / peer.p99, { atMost: 2 }, ' ×');
  }
  const three = await measureThreeStores();
  print(
    `\nHTTP request to acknowledged by three stores at ${THREE_PER_SECOND}/s, after ${WARM_UP_SECONDS} s of it: p50 ${ms(three.p50)}, p99 ${ms(three.p99)}, max ${ms(three.max)}`,
  );
  judge('p99', three.p99, { atMost: 25 }, ' ms');
}
