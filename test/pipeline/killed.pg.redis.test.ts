import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { eventually } from '../harness/eventually.ts';
import { STORES, startSystem } from './system.ts';
import type { System } from './system.ts';
import { watchTruth } from './truth.ts';

let system: System;
beforeAll(async () => {
  system = await startSystem();
}, 60_000);
afterAll(async () => {
  await system[Symbol.asyncDispose]();
}, 30_000);

const KILLS = 5;
const CLIENTS = 8;
/** A kill comes after this many more answers, another number each time, so that it finds the process at any moment. */
const ANSWERS_BETWEEN_KILLS = [7, 40, 90, 1, 150];

test('kill -9 under load, again and again: what was answered 2xx is in the ledger and in every store, nothing twice', async () => {
  const truth = watchTruth(system);
  /** Address → the ids that its answers named. */
  const answered = new Map<string, Set<string>>();
  let answers = 0;
  let stopping = false;
  let people = 0;

  /** Posts with a key and repeats until it is answered, as a client should. */
  async function client(n: number): Promise<void> {
    while (!stopping) {
      const email = `k${n}-${(people += 1)}@example.com`;
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
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
  }
  const clients = Array.from({ length: CLIENTS }, (_, n) => client(n));
  for (let kill = 0; kill < KILLS; kill += 1) {
    const enough = answers + ANSWERS_BETWEEN_KILLS[kill % ANSWERS_BETWEEN_KILLS.length]!;
    await eventually(() => expect(answers).toBeGreaterThanOrEqual(enough), 30_000);
    await system.abide.kill();
    await system.abide.start();
  }
  stopping = true;
  await Promise.all(clients);

  await eventually(async () => {
    const lag = await system.lag();
    expect(lag.stores.map(({ store, outstanding, status }) => [store, outstanding, status])).toEqual(
      [...STORES].sort().map((store) => [store, 0, 'ok']),
    );
  }, 60_000);
  const { lies, telling } = await truth.stop();
  expect(lies).toEqual([]);
  expect(telling).toBeGreaterThan(0);

  expect(answered.size).toBeGreaterThan(100);
  for (const store of STORES) {
    for (const email of answered.keys()) {
      expect([store, email, (await system.stores[store].held(email))?.length]).toEqual([store, email, 3]);
    }
  }
  // Every answer of one request named one and the same opt-out.
  expect([...answered].filter(([, ids]) => ids.size !== 1)).toEqual([]);
  const db = await system.abide.connect();
  try {
    const { rows } = await db.query<Record<string, number>>(`
      select (select count(*)::int from decisions) as decisions, (select count(*)::int from subjects) as subjects,
        (select count(*)::int from opt_outs) as opt_outs,
        (select count(*)::int from audit_log where action = 'opt_out.recorded') as audited`);
    // An opt-out whose answer was lost for good, at the very end, may have been recorded beside those answered.
    const { decisions } = rows[0]!;
    expect(decisions).toBeGreaterThanOrEqual(answered.size);
    expect(decisions).toBeLessThanOrEqual(answered.size + CLIENTS);
    expect(rows[0]).toEqual({ decisions, subjects: decisions, opt_outs: decisions, audited: decisions });
    for (const store of STORES) expect(await system.stores[store].count()).toBe(decisions);
  } finally {
    await db.end();
  }
}, 180_000);
