import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { eventually } from '../harness/eventually.ts';
import { STORES, startSystem } from './system.ts';
import type { System } from './system.ts';
import { watchTruth } from './truth.ts';

let system: System;
beforeAll(async () => {
  system = await startSystem();
});
afterAll(async () => {
  await system[Symbol.asyncDispose]();
});

const CLIENTS = 8;
/** A kill comes after this many more answers, a different number each time, so that it finds the process at any moment. */
const ANSWERS_BETWEEN_KILLS = [7, 40, 90, 1, 150];

const killAbide = async (): Promise<void> => {
  await system.abide.kill();
  await system.abide.start();
};

/** Only Abide itself starts it again. */
async function killDatabase(): Promise<void> {
  const file = join(system.abide.dataFolder, 'postgres/postmaster.pid');
  const postmaster = async (): Promise<number> => {
    const lines = (await readFile(file, 'utf8')).split('\n');
    // Abide writes into the file as well, before the new server does, which says so when it is ready.
    expect(lines[7]?.trim()).toBe('ready');
    return Number(lines[0]);
  };
  const killed = await eventually(postmaster);
  process.kill(killed, 'SIGKILL');
  await eventually(async () => expect(await postmaster()).not.toBe(killed));
}

/** Read by SQL of this test's own, past Abide. */
async function ledgerCounts(): Promise<Record<'decisions' | 'subjects' | 'opt_outs' | 'audited', number>> {
  const db = await system.abide.connect();
  try {
    const { rows } = await db.query<Record<'decisions' | 'subjects' | 'opt_outs' | 'audited', number>>(`
      select (select count(*)::int from decisions) as decisions, (select count(*)::int from subjects) as subjects,
        (select count(*)::int from opt_outs) as opt_outs,
        (select count(*)::int from audit_log where action = 'opt_out.recorded') as audited`);
    return rows[0]!;
  } finally {
    await db.end();
  }
}

test.each([
  ['Abide', killAbide],
  ['its database', killDatabase],
])(
  'kill -9 of %s under load, again and again: what was answered 2xx is in the ledger and in every store, nothing twice',
  async (name, kill) => {
    const before = await ledgerCounts();
    const truth = watchTruth(system);
    // One store is away all the while: there is always something that the lag must not hide.
    system.stores.sessions.setFault('refuse');
    /** Address → the ids that its answers named. */
    const answered = new Map<string, Set<string>>();
    let answers = 0;
    let stopping = false;
    let people = 0;

    /** Posts with a key and repeats until it is answered, as a client should. */
    async function client(n: number): Promise<void> {
      while (!stopping) {
        const email = `${name.length}-${n}-${(people += 1)}@example.com`;
        const headers = { 'idempotency-key': `key-of-${email}` };
        for (;;) {
          const answer = await system
            .ask('POST', '/v1/opt-outs', { subject: { email } }, headers)
            .catch(() => undefined);
          if (answer !== undefined && answer.status < 300) {
            const { id } = JSON.parse(answer.text) as { id: string };
            truth.answered(email);
            answered.set(email, (answered.get(email) ?? new Set()).add(id));
            answers += 1;
            break;
          }
          if (answer !== undefined) expect([409, 503]).toContain(answer.status);
          if (stopping) break;
          await delay(10);
        }
      }
    }
    const expectRunning = (): void => {
      if (!system.abide.isRunning) throw new Error(`Abide ended:\n${system.abide.output.slice(-4_000)}`);
    };
    const clients = Array.from({ length: CLIENTS }, (_, n) => client(n));
    for (const between of ANSWERS_BETWEEN_KILLS) {
      const enough = answers + between;
      await eventually(() => {
        expectRunning();
        expect(answers).toBeGreaterThanOrEqual(enough);
      });
      await kill();
    }
    stopping = true;
    await Promise.all(clients);
    system.stores.sessions.setFault('none');

    await eventually(async () => {
      expectRunning();
      const lag = await system.lag();
      expect(lag.stores.map(({ store, outstanding, status }) => [store, outstanding, status])).toEqual(
        [...STORES].sort().map((store) => [store, 0, 'ok']),
      );
    });
    const { lies, telling } = await truth.stop();
    expect(lies).toEqual([]);
    expect(telling).toBeGreaterThan(0);

    expect(answered.size).toBeGreaterThan(100);
    for (const store of STORES) {
      for (const email of answered.keys()) {
        expect([store, email, (await system.stores[store].held(email))?.length]).toEqual([store, email, 3]);
      }
    }
    // Every answer to one request must have named one and the same opt-out.
    expect([...answered].filter(([, ids]) => ids.size !== 1)).toEqual([]);
    const { decisions, ...counts } = await ledgerCounts();
    // An opt-out whose answer was lost for good, at the very end, may have been recorded besides those answered.
    expect(decisions - before.decisions).toBeGreaterThanOrEqual(answered.size);
    expect(decisions - before.decisions).toBeLessThanOrEqual(answered.size + CLIENTS);
    expect(counts).toEqual({ subjects: decisions, opt_outs: decisions, audited: decisions });
    for (const store of STORES) expect(await system.stores[store].count()).toBe(decisions);
  },
);

test('after kill -9 nobody waits for the leases of the process that is gone', async () => {
  await system.abide.kill();
  const db = await system.abide.connect();
  const { rows } = await db.query<{ lease_holder: string }>('select distinct lease_holder from stores');
  expect(rows).toEqual([{ lease_holder: expect.any(String) }]);
  // Whoever waited for their end would wait for ever.
  const renewing = setInterval(() => {
    const renew =
      "update stores set lease_until = clock_timestamp() + interval '5 seconds' where lease_holder = $1";
    db.query(renew, [rows[0]!.lease_holder]).catch(() => undefined);
  }, 200);
  try {
    await system.abide.start();
    const { propagation } = await system.optOut('after-the-kill@example.com', {}, { prefer: 'wait=30' });
    expect(propagation.state).toBe('complete');
  } finally {
    clearInterval(renewing);
    await db.end();
  }
});
