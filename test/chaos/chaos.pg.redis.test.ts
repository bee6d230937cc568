// A short fixed set of seeds, and the checker itself: a system in which one promise is broken must be reported.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { eventually } from '../harness/eventually.ts';
import { startSystem } from '../pipeline/system.ts';
import type { StoreEye, System } from '../pipeline/system.ts';
import { watchTruth } from '../pipeline/truth.ts';
import { check } from './checker.ts';
import type { Category, Finding } from './checker.ts';
import type { Answered } from './clients.ts';
import { readRows } from './lying-store.ts';
import type { Lie } from './lying-store.ts';
import { gatherEvidence, isWell, runScenario } from './run-scenario.ts';
import { makeScenario } from './scenario.ts';

/** To repeat one by hand: npm run chaos -- --seconds 3 --seed SEED. */
const SEEDS = [4, 10, 28];

test('a short fixed set of seeds: nothing is lost, resurrected, doubled, out of order or lied about', async () => {
  const runs = await Promise.all(
    SEEDS.map((seed) => runScenario(makeScenario(seed, 3_000), new AbortController().signal)),
  );
  expect(runs.map(({ scenario, findings }) => [scenario.seed, findings])).toEqual(
    SEEDS.map((seed) => [seed, []]),
  );
  for (const { confirmed } of runs) expect(confirmed).toBeGreaterThan(50);
  expect(runs.reduce((sum, { telling }) => sum + telling, 0)).toBeGreaterThan(0);
  // Longer than the waits in it may take together.
}, 900_000);

let system: System;
let folder: string;
let people = 0;

const file = (): string => join(folder, 'lying.json');
const tell = (lie: Lie): Promise<void> => writeFile(`${file()}.lie`, lie);

const nothing = (): Promise<never> => Promise.reject(new Error('not here'));
const lyingEye = (): StoreEye => {
  const contents: StoreEye['contents'] = () =>
    Promise.resolve(
      new Map(
        Object.entries(readRows(file())).map(([name, { version, scopes }]) => [
          name.slice('email:'.length),
          { version, suppressed: scopes },
        ]),
      ),
    );
  const connector = fileURLToPath(new URL('lying-store.ts', import.meta.url));
  return {
    stanza: `crm: { connector: '${connector}', file: '${file()}', scopes: [email, sms, push], late_after_seconds: 1 }`,
    contents,
    held: async (email) => (await contents()).get(email)?.suppressed,
    count: async () => (await contents()).size,
    setFault: () => undefined,
    backUp: nothing,
    tamper: nothing,
    wipe: nothing,
    refuseWrites: nothing,
    suppressByItself: nothing,
  };
};

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'abide-chaos-test-'));
  await writeFile(file(), '{}');
  await tell('none');
  system = await startSystem({ instead: { crm: lyingEye() } });
  await eventually(async () => expect(await isWell(system)).toBe(true));
  // The checker must find what a pass would find and mend, so no pass may begin by itself.
  const client = await system.abide.connect();
  await client.query(`
    insert into reconciliations (store_id, generation, asked, through, cursor, started_at, finished_at)
    select id, generation, false, 0, '00000000-0000-0000-0000-000000000000', now(), 'infinity' from stores`);
  await client.end();
});
afterAll(async () => {
  await system[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

/** Opts somebody new out, one scope after another, in the way that `work` does it; gives what the checker says of it. */
async function checkAfter(
  work: (optOut: (scope: string) => Promise<Answered>, email: string) => Promise<void>,
): Promise<readonly Finding[]> {
  const email = `checked-${(people += 1)}@example.com`;
  const answered: Answered[] = [];
  const truth = watchTruth(system);
  try {
    await work(async (scope) => {
      const { id, outcome } = await system.optOut(email, { scope: { [scope]: true } });
      truth.answered(email, [scope]);
      const one: Answered = {
        says: 'no',
        email,
        scopes: [scope],
        key: undefined,
        id,
        outcome,
        attempts: 1,
        answeredAt: Date.now(),
      };
      answered.push(one);
      return one;
    }, email);
  } catch (error) {
    await truth.stop();
    throw error;
  }
  const { lies } = await truth.stop();
  return check(await gatherEvidence(system, { answered, unanswered: [], lies }));
}

const categories = (findings: readonly Finding[]): readonly Category[] =>
  [...new Set(findings.map(({ category }) => category))].sort();

const isWellNow = (): Promise<void> => eventually(async () => expect(await isWell(system)).toBe(true));

/** As the superuser, while Abide is down: it has forgotten whatever it knew of the decision. $1: its seq. */
async function changeLedger(statement: string, seq: string): Promise<void> {
  const client = await system.abide.connect();
  try {
    await client.query('begin; set local session_replication_role = replica');
    const { rowCount } = await client.query(statement, [seq]);
    expect(rowCount).toBeGreaterThan(0);
    await client.query('commit');
  } finally {
    await client.end();
  }
}

async function seqOf({ id }: Answered): Promise<string> {
  const client = await system.abide.connect();
  try {
    const { rows } = await client.query<{ seq: string }>('select seq from decisions where opt_out_id = $1', [
      id,
    ]);
    return rows[0]!.seq;
  } finally {
    await client.end();
  }
}

/** An opt-out that sessions does not get, and a ledger that was changed by hand before it could. */
const undelivered =
  (statement: string) =>
  async (optOut: (scope: string) => Promise<Answered>): Promise<void> => {
    system.stores.sessions.setFault('refuse');
    const seq = await seqOf(await optOut('email'));
    await system.abide.kill();
    await changeLedger(statement, seq);
    // Nobody should have to wait for the killed process' lease.
    await changeLedger(`update stores set lease_until = now() where $1::bigint > 0`, seq);
    system.stores.sessions.setFault('none');
    await system.abide.start();
    // Wait several times as long as a healthy store takes.
    await eventually(async () => expect((await system.lagOf('mail')).outstanding).toBe(0));
    await new Promise((resolve) => setTimeout(resolve, 1_500));
  };

test('a system that keeps its promises: nothing is found', async () => {
  const findings = await checkAfter(async (optOut) => {
    await optOut('email');
    await optOut('sms');
    await optOut('sms');
    await isWellNow();
  });
  expect(findings).toEqual([]);
});

test('without a true read-back, a store that says yes and does nothing: lost, and a lie', async () => {
  await tell('says_applied');
  const findings = await checkAfter(async (optOut) => {
    await optOut('email');
    await isWellNow();
  });
  await tell('none');
  expect(categories(findings)).toEqual(['lag_lie', 'lost']);
});

test('without compare-and-set, an old decision heard again: wrong order, lost, and a lie', async () => {
  await tell('no_compare_and_set');
  const findings = await checkAfter(async (optOut, email) => {
    await optOut('email');
    await isWellNow();
    await optOut('sms');
    await isWellNow();
    await eventually(async () => expect(await system.stores.crm.held(email)).toEqual(['email']));
  });
  await tell('none');
  expect(categories(findings)).toEqual(['lag_lie', 'lost', 'wrong_order']);
});

test('a decision marked acknowledged that the store does not hold: lost, and a lie', async () => {
  const findings = await checkAfter(
    undelivered(`
      insert into acknowledgements (store_id, generation, seq, version, outcome, acknowledged_at, latency_ms, attempts,
        worker, carried_by)
      select s.id, s.generation, d.seq, d.version, 'verified', now(), 1, 1, 'nobody', 'stream'
      from decisions d, stores s where d.seq = $1 and s.name = 'sessions'`),
  );
  expect(categories(findings)).toEqual(['lag_lie', 'lost']);
});

test('without the fence, a mark above a decision that was not delivered: lost, and a lie', async () => {
  const findings = await checkAfter(
    undelivered(`update stores set scanned_through = $1 where name = 'sessions'`),
  );
  expect(categories(findings)).toEqual(['lag_lie', 'lost']);
});

test('a suppression lifted past Abide: resurrected', async () => {
  const findings = await checkAfter(async (optOut, email) => {
    await optOut('email');
    await isWellNow();
    await system.stores.sessions.tamper(email, 'resurrect');
  });
  expect(categories(findings)).toContain('resurrected');
});

test('an opt-out that vanished from the ledger: lost', async () => {
  const findings = await checkAfter(async (optOut) => {
    const one = await optOut('email');
    await isWellNow();
    await changeLedger(
      'delete from opt_outs where id = (select opt_out_id from decisions where seq = $1)',
      await seqOf(one),
    );
  });
  expect(categories(findings)).toEqual(['lost']);
});

test('without the re-drive, a decision that nobody carries: lost, and no lie, since the lag says so', async () => {
  const findings = await checkAfter(
    undelivered(`
      insert into exceptions (store_id, generation, seq, subject_id, version, speaks_from, kind, attempts, since, next_try_at)
      select s.id, s.generation, d.seq, d.subject_id, d.version, d.seq, 'redrive', 1, now(), now() + interval '1 hour'
      from decisions d, stores s where d.seq = $1 and s.name = 'sessions'`),
  );
  expect(categories(findings)).toEqual(['lost']);
  expect(await system.lagOf('sessions')).toMatchObject({ status: 'late', outstanding: 1 });
  await changeLedger('update exceptions set next_try_at = now() where seq >= $1', '0');
  await isWellNow();
});

test('an opt-out that is recorded twice: duplicate', async () => {
  const findings = await checkAfter(async (optOut) => {
    const seq = await seqOf(await optOut('email'));
    await isWellNow();
    await changeLedger(
      `insert into decisions (id, cause, opt_out_id, subject_id, kind, version, suppressed, granted, effective_at,
         recorded_at, sealed, transport_key_id)
       select gen_random_uuid(), cause, opt_out_id, subject_id, kind, version + 1, suppressed, granted, effective_at,
         recorded_at, sealed, transport_key_id from decisions where seq = $1`,
      seq,
    );
    await isWellNow();
  });
  expect(categories(findings)).toEqual(['duplicate']);
});
