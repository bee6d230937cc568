// Stores are watched while nobody opts out: a canary comes at an interval, and a store that is not what it was is filled anew
// within seconds.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { STORES, startSystem } from './system.ts';
import type { StoreName, System } from './system.ts';

let system: System;
const HISTORY = 50;
/** A loss is seen within this, unless a canary covered it up. */
const LOOKS_MS = 15_000;
const LOSSES_MAX = 5;
const email = (n: number): string => `w${n}@example.com`;

beforeAll(async () => {
  system = await startSystem({ canarySeconds: 1 });
  await Promise.all(Array.from({ length: HISTORY }, (_, n) => system.optOut(email(n))));
});
afterAll(async () => {
  await system[Symbol.asyncDispose]();
});

const canaryAge = async (store: StoreName): Promise<number> =>
  (await system.lagOf(store)).canary_age_seconds ?? Infinity;

/** Nothing is outstanding except, for a moment, a canary. */
const isFilled = (store: StoreName): Promise<void> =>
  eventually(async () => {
    expect(await system.lagOf(store)).toMatchObject({ status: 'ok', backfill: null, outstanding: 0 });
    for (const n of [0, HISTORY - 1]) expect(await system.stores[store].held(email(n))).toHaveLength(3);
  });

async function refillsOf(store: StoreName): Promise<readonly string[]> {
  const db = await system.abide.connect();
  try {
    const { rows } = await db.query<{ reason: string }>(
      `select details ->> 'reason' as reason from audit_log where action = 'store.refilled' and resource = $1 order by seq`,
      [store],
    );
    return rows.map(({ reason }) => reason);
  } finally {
    await db.end();
  }
}

test('while nobody opts out a canary comes to every store, again and again, apart from real latency', async () => {
  for (const store of STORES) await isFilled(store);
  const before = (await system.lag()).stores.map((store) => store.latency_ms.count);
  const versions = async (): Promise<number> => {
    const db = await system.abide.connect();
    const { rows } = await db.query<{ version: string }>(
      `select max(version) as version from decisions where cause = 'reissue'`,
    );
    await db.end();
    return Number(rows[0]!.version);
  };
  const first = await versions();
  await eventually(async () => expect(await versions()).toBeGreaterThan(first + 2));
  for (const store of STORES) await eventually(async () => expect(await canaryAge(store)).toBeLessThan(3));
  expect((await system.lag()).stores.map((store) => store.latency_ms.count)).toEqual(before);
  // It is nobody's opt-out.
  const { text } = await system.ask('GET', '/v1/opt-outs?limit=100');
  expect((JSON.parse(text) as { opt_outs: object[] }).opt_outs).toHaveLength(HISTORY);
});

// Its state has no opt-out behind it: that was a 500, and it broke up the batch of everybody who opted out with it.
test("whoever opts out a canary's address is answered like anybody", async () => {
  const body = { subject: { email: 'abide-canary@canary.invalid' }, scope: { email: true } };
  const answers = await Promise.all([
    system.ask('POST', '/v1/opt-outs', body),
    system.ask('POST', '/v1/opt-outs', { subject: { email: email(0) } }),
  ]);
  expect(answers.map(({ status }) => status)).toEqual([201, 200]);
});

test("what a consent lifted for a canary's address is suppressed again at the next canary, and granted no more", async () => {
  const identifier = { email: 'abide-canary@canary.invalid' };
  const { status } = await system.ask('POST', '/v2/grants', {
    identifier,
    scopes: ['sms'],
    granted_at: new Date().toISOString(),
    evidence: { method: 'web_form', statement: 'Yes', source: 'a page' },
  });
  expect(status).toBe(201);
  const db = await system.abide.connect();
  try {
    await eventually(async () => {
      const { rows } = await db.query(
        `select s.state ? 'sms' as suppressed, s.granted from subjects s join canaries c on c.subject_id = s.id where c.kind = 'email'`,
      );
      expect(rows).toEqual([{ suppressed: true, granted: {} }]);
    });
  } finally {
    await db.end();
  }
});

test('a store whose canaries stopped is not ok, though nothing is outstanding', async () => {
  const db = await system.abide.connect();
  try {
    // Nobody issues one while we hold the lock; what was issued was due long ago.
    await db.query(`select pg_advisory_lock(hashtext('abide.canaries'))`);
    await db.query('update canaries set every_seconds = 0.001');
    await eventually(async () =>
      expect(await system.lagOf('crm')).toMatchObject({ status: 'unknown', outstanding: 0 }),
    );
    await db.query(`select pg_advisory_unlock(hashtext('abide.canaries'))`);
    await eventually(async () => expect(await system.lagOf('crm')).toMatchObject({ status: 'ok' }));
  } finally {
    await db.end();
  }
});

// The sign of life that workers give finds room on a full disk, and was enough for `ok`: on a fresh installation for ever.
test('where nothing can be recorded any more no store is ok, without a single canary to go by', async () => {
  const db = await system.abide.connect();
  try {
    await db.query(`delete from canaries;
      create function disk_is_full() returns trigger language plpgsql as
        $$ begin raise 'could not extend file' using errcode = 'disk_full'; end $$;
      create trigger disk_is_full before insert on decisions execute function disk_is_full()`);
    await eventually(async () =>
      expect(await system.lagOf('crm')).toMatchObject({ status: 'unknown', canary_age_seconds: null }),
    );
    expect((await system.ask('POST', '/v1/opt-outs', { subject: { email: email(-1) } })).status).toBe(503);
  } finally {
    await db.query('drop function disk_is_full cascade');
    await db.end();
  }
  await eventually(async () => expect(await system.lagOf('crm')).toMatchObject({ status: 'ok' }));
});

test('a table that was truncated is another one: it is filled up again within seconds, by itself', async () => {
  const identifier = { email: 'back@example.com' };
  await system.optOut(identifier.email);
  await system.ask('POST', '/v2/grants', {
    identifier,
    scopes: ['email', 'sms', 'push'],
    granted_at: new Date().toISOString(),
    evidence: { method: 'web_form', statement: 'Yes', source: 'a page' },
  });
  await isFilled('crm');
  // Nobody can tell whether what the new table suppresses by itself is older than that consent.
  const [url] = /postgres:[^']+/.exec(system.stores.crm.stanza)!;
  await withClient(url, (client) =>
    client.query(`begin; truncate suppressions;
      insert into suppressions (kind, key, email) values ('email', '${identifier.email}', true); commit`),
  );
  await eventually(async () => expect(await refillsOf('crm')).toEqual(['another store is in its place']));
  await isFilled('crm');
  expect(await system.stores.crm.held(identifier.email)).toEqual(['email']);
  expect(await system.stores.crm.count()).toBeGreaterThanOrEqual(HISTORY);
});

test.each(['crm', 'sessions'] as const)(
  '%s loses everything and looks the same: the canary is missed, and it is filled up again',
  async (store) => {
    // A pass of reconciliation would find it as well, but has just been here.
    await eventually(async () => {
      expect((await system.lagOf(store)).reconciled_through).not.toBeNull();
      expect(await canaryAge(store)).toBeLessThan(3);
    });
    const before = await refillsOf(store);
    // A canary that comes between the look and the loss covers it up; then reconciliation has to find it.
    for (let losses = 1; (await refillsOf(store)).length === before.length; losses += 1) {
      await system.stores[store].wipe('delete');
      await eventually(async () => {
        expect((await refillsOf(store)).length).toBeGreaterThan(before.length);
      }, LOOKS_MS).catch((error: unknown) => {
        if (losses === LOSSES_MAX) throw error;
      });
    }
    expect(await refillsOf(store)).toEqual([...before, 'the store lost what it had acknowledged']);
    await isFilled(store);
    expect(await system.stores[store].count()).toBeGreaterThanOrEqual(HISTORY);
  },
);

test('a store that stays what it is keeps its generation', async () => {
  expect(await refillsOf('mail')).toEqual([]);
  const seen = await refillsOf('sessions');
  await system.abide.stop();
  await system.abide.start();
  await eventually(async () => expect(await canaryAge('sessions')).toBeLessThan(3));
  expect(await refillsOf('sessions')).toEqual(seen);
});
