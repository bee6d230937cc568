// (h) Reconciliation of a store that holds 1,000,000 subjects: how long a pass at full speed takes, the process' memory, and
// what becomes of the propagation of new opt-outs meanwhile. The subjects are written by SQL, sealed as they would be.
import { readFile } from 'node:fs/promises';
import { randomUUIDv7 } from 'node:crypto';
import { join } from 'node:path';
import type pg from 'pg';
import { print, printTable } from '../cli/output.ts';
import { openPool } from '../ledger/database.ts';
import { readKeyRing } from '../ledger/key-ring.ts';
import { currentTransportKey } from '../ledger/transport-keys.ts';
import { seal } from '../suppression/seal.ts';
import { Address } from '../suppression/subject.ts';
import { startAbide } from '../test/harness/abide.ts';
import type { AbideProcess } from '../test/harness/abide.ts';
import { createPoster, lastSeq, postOpenLoop } from './abide.ts';
import { count, judge, ms, percentile, times } from './measure.ts';

const SUBJECTS = 1_000_000;
const STEP = 20_000;
const PER_SECOND = 50;
const BEFORE_SECONDS = 10;

async function makeSubjects(abide: AbideProcess, subjects: number): Promise<void> {
  const ring = readKeyRing(await readFile(join(abide.dataFolder, 'keys.json'), 'utf8'));
  const pool = openPool(abide.databaseUrl('abide'), { max: 1, onError: () => undefined });
  const transport = await currentTransportKey(pool, ring);
  await pool.end();
  const [ledger, crm] = await Promise.all([abide.connect(), abide.connect('crm')]);
  await ledger.query('select make_acknowledgement_partitions($1)', [subjects]);
  for (let from = 0; from < subjects; from += STEP) {
    const people = Array.from({ length: Math.min(STEP, subjects - from) }, (_, n) => {
      const id = randomUUIDv7();
      const address = `s${from + n}@example.com`;
      return {
        id,
        address,
        match: ring.matchKeys({ kind: 'email', value: new Address(address) })[0],
        travels: seal(address, transport, [id, 'email']),
        stays: ring.seal(address, [id, 'email']),
      };
    });
    // The triggers check what people write; history is written whole.
    await ledger.query(
      'begin; set local session_replication_role = replica; set local synchronous_commit = off',
    );
    await ledger.query(
      `with people as materialized (
         select *, uuidv7() as opt_out from unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bytea[]) as p (id, match, travels, stays)
       ), decided as (
         insert into decisions (id, cause, opt_out_id, subject_id, kind, version, suppressed, granted, effective_at,
                                recorded_at, sealed, transport_key_id)
         select uuidv7(), 'opt_out', opt_out, id, 'email', 1, '{"email":"2026-01-01T00:00:00.000Z"}', '{}',
           now() - interval '1 day', now() - interval '1 day', travels, $5 from people
         returning seq, recorded_at
       ), subject as (
         insert into subjects (id, kind, pepper_id, match_key, normal_form, version, state, granted, sealed, updated_at)
         select id, 'email', 1, match, 1, 1, format('{"email":{"first_effective_at":"2026-01-01T00:00:00.000Z",
           "last_effective_at":"2026-01-01T00:00:00.000Z","opt_out_id":"%s"}}', opt_out)::jsonb, '{}', stays, now() from people
       )
       insert into acknowledgements (store_id, generation, seq, version, outcome, held, acknowledged_at, latency_ms, attempts,
                                     worker, carried_by)
       select s.id, s.generation, decided.seq, 1, 'verified', '{}', decided.recorded_at, 3, 1, 'history', 'stream'
       from decided cross join stores s`,
      [
        people.map(({ id }) => id),
        people.map(({ match }) => match),
        people.map(({ travels }) => travels),
        people.map(({ stays }) => stays),
        transport.id,
      ],
    );
    await ledger.query('commit');
    await crm.query(
      `insert into suppressions (kind, key, version, email, scopes, effective_at, updated_at)
       select 'email', key, 1, true, '{}', now(), now() from unnest($1::text[]) as key`,
      [people.map(({ address }) => address)],
    );
    if ((from + STEP) % 200_000 === 0) print(`  ${count(from + people.length)} subjects`);
  }
  await ledger.query('update stores set scanned_through = (select max(seq) from decisions)');
  for (const db of [ledger, crm]) {
    await db.query('vacuum analyze');
    await db.end();
  }
}

/** From recorded to acknowledged, for what was posted while `work` went on. */
async function latenciesDuring(
  abide: AbideProcess,
  db: pg.Client,
  work: () => Promise<unknown>,
): Promise<{ p50: number; p99: number }> {
  const poster = createPoster(abide, 16);
  const from = await lastSeq(db);
  let isOver = false;
  const over = work().finally(() => (isOver = true));
  while (!isOver) await postOpenLoop((body) => poster.post('/v1/opt-outs', body), PER_SECOND, 1);
  await over;
  await poster.close();
  const { rows } = await db.query<{ ms: number }>(
    `select latency_ms as ms from acknowledgements a where seq > $1
       and exists (select from decisions d where d.seq = a.seq and d.cause = 'opt_out')`,
    [from],
  );
  const values = rows.map((row) => row.ms);
  return { p50: percentile(values, 0.5), p99: percentile(values, 0.99) };
}

export async function benchReconcile(): Promise<void> {
  print(`\n(h) Reconciliation of a PostgreSQL store that holds ${count(SUBJECTS)} subjects\n`);
  const first = await startAbide();
  await createPoster(first, 1).post('/v1/opt-outs', '{"subject":{"email":"first@example.com"}}');
  const started = await first.connect();
  while ((await started.query('select from acknowledgements')).rowCount === 0);
  await started.end();
  await first.stop();
  await using abide = await startAbide({ dataFolder: first.dataFolder, args: ['--no-workers'] });
  await makeSubjects(abide, SUBJECTS);
  await abide.stop();
  await using serving = await startAbide({ dataFolder: first.dataFolder });
  const db = await serving.connect();
  const poster = createPoster(serving, 1);
  const path = '/v1/stores/crm/reconciliation';
  const seconds = (n: number) => new Promise((resolve) => setTimeout(resolve, n * 1000));
  await latenciesDuring(serving, db, () => seconds(3));
  const before = await latenciesDuring(serving, db, () => seconds(BEFORE_SECONDS));
  const memoryBefore = await serving.peakMemory();
  type Pass = {
    id: number;
    started_at: string;
    finished_at: string | null;
    compared: number;
    missing: number;
  };
  let pass: Pass | undefined;
  const meanwhile = await latenciesDuring(serving, db, async () => {
    const { id } = JSON.parse((await poster.post(path, '{}')).text) as { id: number };
    while (pass?.finished_at == null) {
      await seconds(0.5);
      pass = ((await poster.get(path)) as { passes: Pass[] }).passes.find((one) => one.id === id);
    }
  });
  const took = (Date.parse(pass!.finished_at!) - Date.parse(pass!.started_at)) / 1000;
  const memory = await serving.peakMemory();
  printTable(
    ['', 'SUBJECTS/s', 'PASS', 'PEAK MEMORY', 'NEW OPT-OUTS p50', 'p99'],
    [
      ['before', '', '', `${Math.round(memoryBefore / 1024 ** 2)} MiB`, ms(before.p50), ms(before.p99)],
      [
        'during',
        count(pass!.compared / took),
        `${took.toFixed(1)} s`,
        `${Math.round(memory / 1024 ** 2)} MiB`,
        ms(meanwhile.p50),
        ms(meanwhile.p99),
      ],
    ],
  );
  print(`compared ${count(pass!.compared)}, differences ${pass!.missing}`);
  await poster.close();
  await db.end();
  judge('a pass over 1,000,000 subjects', took, { atMost: 60 }, ' s');
  judge('propagation of new opt-outs meanwhile, p50', meanwhile.p50 / before.p50, { atMost: 2 }, ' ×');
  judge('the same, p99', meanwhile.p99 / before.p99, { atMost: 2 }, ' ×');
  print(times(memory / memoryBefore) + ' the memory of before');
}
