import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { spawnAbide } from '../harness/abide.ts';
import { emptyDatabase, withClient } from '../harness/database.ts';
import type { TestDatabase } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { startSystem } from './system.ts';
import type { System } from './system.ts';

let system: System;
let another: TestDatabase;
const HISTORY = 300;
const email = (n: number): string => `h${n}@example.com`;

beforeAll(async () => {
  [system, another] = await Promise.all([startSystem({ first: ['crm'] }), emptyDatabase()]);
  await Promise.all(Array.from({ length: HISTORY }, (_, n) => system.optOut(email(n))));
  await eventually(async () => expect((await system.lag()).stores[0]?.outstanding).toBe(0));
});
afterAll(async () => {
  await system[Symbol.asyncDispose]();
  await another[Symbol.asyncDispose]();
});

const restartWith = async (...stanzas: string[]): Promise<void> => {
  await system.abide.stop();
  await system.abide.start(system.config(...stanzas));
};
const until = (name: string, wanted: object): Promise<void> =>
  eventually(async () => {
    expect((await system.lag()).stores.find(({ store }) => store === name)).toMatchObject(wanted);
  });

test('a store added to a running history is back-filled completely, and shows so until it is', async () => {
  await system.optOut('back@example.com');
  expect(
    (
      await system.ask('POST', '/v2/grants', {
        identifier: { email: 'back@example.com' },
        scopes: ['email', 'sms', 'push'],
        granted_at: new Date().toISOString(),
        evidence: { method: 'app', statement: 'Yes, all of it', source: 'settings' },
      })
    ).status,
  ).toBe(201);
  await until('crm', { outstanding: 0 });
  await system.stores.sessions.suppressByItself('back@example.com', 'email');

  system.stores.sessions.setFault('refuse');
  await restartWith(system.stores.crm.stanza, system.stores.sessions.stanza);
  // It takes nothing, so after a while it is not only being filled.
  await until('sessions', { status: 'late', backfill: { remaining: HISTORY + 1 } });
  expect((await system.lag()).status).toBe('late');
  const live = await system.optOut('live@example.com');
  expect(live.propagation).toMatchObject({ state: 'pending', required: 2 });

  system.stores.sessions.setFault('none');
  await until('sessions', { status: 'ok', backfill: null, outstanding: 0 });
  expect(await system.stores.sessions.count()).toBe(HISTORY + 2);
  // Nobody can tell whether they left this list before or after they came back to the others.
  expect(await system.stores.sessions.held('back@example.com')).toEqual(['email']);
  expect(await system.stores.crm.held('back@example.com')).toEqual([]);
  for (const n of [0, HISTORY - 1]) expect(await system.stores.sessions.held(email(n))).toHaveLength(3);
});

test('a store pointed elsewhere is filled again there; one that left the file stays due until it is retired', async () => {
  const elsewhere = system.stores.crm.stanza.replace(/postgres:[^']+/, another.urls.owner);
  await restartWith(elsewhere);
  await until('crm', { status: 'ok', backfill: null, outstanding: 0 });
  const { rows } = await withClient(another.urls.owner, (client) =>
    client.query<{ n: number }>('select count(*)::int as n from suppressions where email and sms and push'),
  );
  expect(rows[0]?.n).toBe(HISTORY + 1);

  // `sessions` is in no file now: still due, unknown because nobody carries to it, and never complete.
  const { id } = await system.optOut('late@example.com');
  await eventually(async () => {
    const { text } = await system.ask('GET', `/v1/opt-outs/${id}/propagation`);
    expect(JSON.parse(text)).toMatchObject({ state: 'pending', required: 2, confirmed: 1 });
  });
  await until('sessions', { outstanding: 1, status: 'unknown' });
  expect((await system.lag()).status).toBe('unknown');

  const retired = spawnAbide(['stores', 'retire', 'sessions', '--reason', 'sold'], {
    ABIDE_DATA: system.abide.dataFolder,
    ABIDE_CONFIG: `${system.abide.dataFolder}/abide.yaml`,
  });
  expect([await retired.ended, retired.output()]).toEqual([0, expect.stringContaining('retired sessions')]);
  await eventually(async () => {
    const { text } = await system.ask('GET', `/v1/opt-outs/${id}/propagation`);
    expect(JSON.parse(text)).toMatchObject({ state: 'complete', required: 1, confirmed: 1 });
    expect((await system.lag()).status).toBe('ok');
  });
});
