// Stores that forget, go back in time or are written to past Abide: this is found, counted, and mended.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { runAbide } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { WHEN_COMPLETE } from '../harness/http.ts';
import { STORES, startSystem } from './system.ts';
import type { StoreName, System } from './system.ts';

let system: System;
/** More than two pages. */
const HISTORY = 1_100;
const email = (n: number): string => `r${n}@example.com`;

type Pass = {
  readonly id: number;
  readonly finished_at: string | null;
  readonly through: number;
} & Readonly<Record<'compared' | 'missing' | 'older' | 'resurrected' | 'ahead' | 'own', number>>;

beforeAll(async () => {
  system = await startSystem();
  const ids = await Promise.all(Array.from({ length: HISTORY }, (_, n) => system.optOut(email(n))));
  expect(ids).toHaveLength(HISTORY);
  await settled();
});
afterAll(async () => {
  await system[Symbol.asyncDispose]();
});

const settled = (): Promise<void> =>
  eventually(async () => {
    for (const { outstanding, drift, status } of (await system.lag()).stores)
      expect({ outstanding, drift, status }).toEqual({ outstanding: 0, drift: 0, status: 'ok' });
  });

async function passesOf(store: StoreName): Promise<readonly Pass[]> {
  const { status, text } = await system.ask('GET', `/v1/stores/${store}/reconciliation?limit=100`);
  expect(status).toBe(200);
  return (JSON.parse(text) as { passes: Pass[] }).passes;
}

async function reconcile(store: StoreName): Promise<Pass> {
  const asked = await system.ask('POST', `/v1/stores/${store}/reconciliation`, {});
  expect(asked.status).toBe(202);
  const { id } = JSON.parse(asked.text) as { id: number };
  return await eventually(async () => {
    const pass = (await passesOf(store)).find((one) => one.id === id);
    expect(pass?.finished_at).toEqual(expect.any(String));
    return pass!;
  });
}

test('a store that holds everything passes, and the mark of the proof moves up', async () => {
  // The mark moves a moment after the acknowledgements, once the fence is final.
  await eventually(async () => {
    for (const { verified_through: verified } of (await system.lag()).stores) expect(verified).toBe(HISTORY);
  });
  for (const store of STORES) {
    expect(await reconcile(store)).toMatchObject({
      compared: HISTORY,
      missing: 0,
      older: 0,
      resurrected: 0,
      ahead: 0,
      own: 0,
    });
    const { reconciled_through: proven } = await system.lagOf(store);
    expect(proven).toBe(HISTORY);
  }
});

test('what a store forgot, lifted, or took back from a backup is found, counted, and held again', async () => {
  for (const n of [1, 2]) await system.stores.crm.tamper(email(n), 'forget');
  await system.stores.crm.tamper(email(3), 'resurrect');
  await system.stores.crm.tamper(email(4), 'older');
  await system.stores.crm.tamper(email(5), 'ahead');
  await system.stores.sessions.tamper(email(6), 'forget');
  await system.stores.sessions.tamper(email(7), 'resurrect');

  expect(await reconcile('crm')).toMatchObject({
    compared: HISTORY,
    missing: 2,
    older: 1,
    resurrected: 1,
    ahead: 1,
  });
  expect(await reconcile('sessions')).toMatchObject({ compared: HISTORY, missing: 1, resurrected: 1 });
  await settled();
  for (const n of [1, 2, 3, 4, 5])
    expect(await system.stores.crm.held(email(n))).toEqual(['email', 'sms', 'push']);
  for (const n of [6, 7])
    expect((await system.stores.sessions.held(email(n)))?.toSorted()).toEqual(['email', 'push', 'sms']);

  const { text } = await system.ask('GET', '/v1/propagation-lag');
  expect(text).not.toContain('"redriven":1');
  expect(await reconcile('crm')).toMatchObject({ missing: 0, older: 0, resurrected: 0, ahead: 0 });
});

test('while a store does not take back what it lost, the lag is late and the opt-out incomplete again', async () => {
  const { id } = await system.optOut('drift@example.com', {}, WHEN_COMPLETE);
  await settled();
  // Reading works, writing does not: only then does a drift that was found stay for a while.
  const db = await system.abide.connect();
  await system.stores.crm.refuseWrites(true);
  try {
    await system.stores.crm.tamper('drift@example.com', 'forget');
    expect(await reconcile('crm')).toMatchObject({ missing: 1 });
    await eventually(async () => {
      expect(await system.lagOf('crm')).toMatchObject({ status: 'late', outstanding: 1 });
      const { text } = await system.ask('GET', `/v1/opt-outs/${id}/propagation`);
      expect(JSON.parse(text)).toMatchObject({ state: 'pending', confirmed: 2 });
    });
  } finally {
    await system.stores.crm.refuseWrites(false);
    await db.end();
  }
  await settled();
  const { text } = await system.ask('GET', `/v1/opt-outs/${id}/propagation`);
  expect(JSON.parse(text)).toMatchObject({ state: 'complete', confirmed: 3 });
});

test('a newer decision of the same person heals what was lost', async () => {
  await system.optOut('twice@example.com', { scope: { email: true } }, WHEN_COMPLETE);
  await settled();
  await system.stores.crm.refuseWrites(true);
  await system.stores.crm.tamper('twice@example.com', 'forget');
  await reconcile('crm');
  await eventually(async () => expect((await system.lagOf('crm')).outstanding).toBe(1));
  await system.optOut('twice@example.com');
  await system.stores.crm.refuseWrites(false);
  await settled();
  expect(await system.stores.crm.held('twice@example.com')).toEqual(['email', 'sms', 'push']);
});

test('what a store suppressed by itself is reported, and stays', async () => {
  await system.optOut('own@example.com', { scope: { email: true } }, WHEN_COMPLETE);
  await system.stores.crm.suppressByItself('own@example.com', 'sms');
  await settled();
  expect(await reconcile('crm')).toMatchObject({ own: 1, missing: 0, resurrected: 0 });
  expect(await system.stores.crm.held('own@example.com')).toEqual(['email', 'sms']);
});

test('by itself: a pass comes soon after one that found something, and after a restart goes on where it was', async () => {
  await system.stores.crm.tamper(email(8), 'forget');
  expect(await reconcile('crm')).toMatchObject({ missing: 1 });
  await system.stores.crm.tamper(email(9), 'forget');
  await eventually(async () =>
    expect(await system.stores.crm.held(email(9))).toEqual(['email', 'sms', 'push']),
  );
  const before = (await system.lagOf('crm')).reconciled_through;
  await system.abide.stop();
  await system.abide.start();
  expect((await system.lagOf('crm')).reconciled_through).toBeGreaterThanOrEqual(before!);
});

test('abide reconcile says what it found, and ends when it is held again', async () => {
  await system.stores.crm.tamper(email(10), 'resurrect');
  const env = { ABIDE_URL: system.abide.url, ABIDE_KEY: system.abide.key };
  const found = await runAbide(['reconcile', '--store', 'crm'], env);
  expect(found.output).toContain('1 held and lifted again by somebody else, such as an import');
  expect(found.output).toContain('all of it is held again');
  expect(found.code).toBe(3);
  const none = await runAbide(['reconcile', '--store', 'crm', '--json'], env);
  expect([none.code, JSON.parse(none.stdout)]).toEqual([
    0,
    expect.objectContaining({ missing: 0, resurrected: 0 }),
  ]);
  const unknown = await runAbide(['reconcile', '--store', 'nowhere'], env);
  expect([unknown.code, unknown.output]).toEqual([1, expect.stringContaining('404')]);
  const { text } = await system.ask('GET', '/v1/propagation-lag');
  expect(text).toContain('"drift":0');
});
