// (f) The figures of (a), (b) and the lag endpoint with 10,000,000 decisions of history against 10,000. The history is
// made in SQL: settled decisions of subjects of their own, below the mark.
import { print, printTable } from '../cli/output.ts';
import { createPoster } from './abide.ts';
import type { AbideProcess } from '../test/harness/abide.ts';
import { count, judge, median, ms, times } from './measure.ts';
import { measurePropagation, startWithCommitTimestamps } from './propagate.ts';
import { measureRecording } from './record.ts';

const STEP = 500_000;

async function makeHistory(abide: AbideProcess, decisions: number): Promise<void> {
  const db = await abide.connect();
  await db.query('select make_acknowledgement_partitions($1)', [decisions]);
  for (let from = 0; from < decisions; from += STEP) {
    const n = Math.min(STEP, decisions - from);
    // The triggers check what people write; history is written whole.
    await db.query('begin; set local session_replication_role = replica; set local synchronous_commit = off');
    await db.query(
      `with people as materialized (
         select uuidv7() as id, uuidv7() as opt_out, sha256(int8send(n)) as match from generate_series($1::bigint + 1, $1::bigint + $2) n
       ), decided as (
         insert into decisions (id, cause, opt_out_id, subject_id, kind, version, suppressed, granted, effective_at,
                                recorded_at, sealed, transport_key_id)
         select uuidv7(), 'opt_out', opt_out, id, 'email', 1,
           '{"email":"2026-01-01T00:00:00.000Z","sms":"2026-01-01T00:00:00.000Z","push":"2026-01-01T00:00:00.000Z"}', '{}',
           now() - interval '1 day', now() - interval '1 day', decode(repeat('a7', 55), 'hex'), 1 from people
         returning seq, recorded_at
       ), subject as (
         insert into subjects (id, kind, pepper_id, match_key, normal_form, version, state, granted, sealed, updated_at)
         select id, 'email', 1, match, 1, 1,
           format('{"email":%1$s,"sms":%1$s,"push":%1$s}', format(
             '{"first_effective_at":"2026-01-01T00:00:00.000Z","last_effective_at":"2026-01-01T00:00:00.000Z","opt_out_id":"%s"}', opt_out))::jsonb,
           '{}', decode(repeat('a7', 55), 'hex'), now() from people
       ), opted as (
         insert into opt_outs (id, requested_scopes, effective_at, effective_at_stated, received_at, recorded_at, reason,
                               client, key_id, api_version)
         select opt_out, '{email,sms,push}', now(), false, now(), now(), 'person_request', 'history', 'history', 'v1' from people
       ), bound as (
         insert into opt_out_subjects (opt_out_id, subject_id, version, state)
         select opt_out, id, 1, '{}' from people
       )
       insert into acknowledgements (store_id, generation, seq, version, outcome, held, acknowledged_at, latency_ms, attempts,
                                     worker, carried_by)
       select s.id, s.generation, decided.seq, 1, 'verified', '{}', decided.recorded_at, 3, 1, 'history', 'stream'
       from decided cross join stores s`,
      [from, n],
    );
    await db.query('commit');
    print(`  history: ${count(from + n)} decisions`);
  }
  await db.query('update stores set scanned_through = (select max(seq) from decisions)');
  await db.query('vacuum analyze');
  await db.query('checkpoint');
  await db.end();
}

async function lagMs(abide: AbideProcess): Promise<number> {
  const poster = createPoster(abide, 1);
  const took: number[] = [];
  for (let n = 0; n < 20; n += 1) {
    const began = performance.now();
    await poster.get('/v1/propagation-lag');
    took.push(performance.now() - began);
    // Wait longer than the quarter of a second for which the answer is kept.
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  await poster.close();
  return median(took);
}

async function figuresWith(history: number): Promise<Record<string, number>> {
  await using abide = await startWithCommitTimestamps();
  await makeHistory(abide, history);
  const lag = await lagMs(abide);
  const propagation = await measurePropagation(abide);
  // Last: nobody can open an address that pgbench made up, so no store ever acknowledges it.
  const [recording] = await measureRecording(abide, [32], 3);
  return {
    'recording at 32 clients, each': (1000 * 32) / recording!.abide,
    'commit to verified idle, p50': propagation.idle.abide.p50,
    'commit to verified idle, p99': propagation.idle.abide.p99,
    'commit to verified at 500/s, p50': propagation.load.abide.p50,
    'commit to verified at 500/s, p99': propagation.load.abide.p99,
    'lag endpoint': lag,
  };
}

export async function benchGrowth(): Promise<void> {
  print('\n(f) Growth: 10,000,000 decisions of history against 10,000\n');
  const small = await figuresWith(10_000);
  const large = await figuresWith(10_000_000);
  printTable(
    ['', '10 THOUSAND', '10 MILLION', 'RATIO'],
    Object.keys(small).map((what) => [
      what,
      ms(small[what]!),
      ms(large[what]!),
      times(large[what]! / small[what]!),
    ]),
  );
  for (const what of Object.keys(small)) judge(what, large[what]! / small[what]!, { atMost: 1.2 }, ' ×');
}
