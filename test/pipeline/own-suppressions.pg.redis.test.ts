// Somebody unsubscribes in a store itself, past Abide: if the configuration says so, every other store abides as well.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { runAbide } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { WHEN_COMPLETE } from '../harness/http.ts';
import { STORES, startSystem } from './system.ts';
import type { StoreName, System } from './system.ts';

type Lookup = { scope: Record<string, boolean>; opt_outs: { id: string }[] };

describe.each([
  ['in the process of the API', false],
  ['that reach nothing but the API', true],
])('with workers %s', (_, workersApart) => {
  let system: System;
  beforeAll(async () => {
    // sessions can list what it holds, mail cannot; crm's own suppressions are not recorded.
    system = await startSystem({ workersApart, recordOwn: ['sessions', 'mail'] });
    await eventually(async () => expect((await system.lag()).status).toBe('ok'));
  });
  afterAll(async () => {
    await system[Symbol.asyncDispose]();
  });

  const reconcile = (store: StoreName) =>
    runAbide(['reconcile', '--store', store], { ABIDE_URL: system.abide.url, ABIDE_KEY: system.abide.key });
  const lookUp = async (email: string): Promise<Lookup> =>
    JSON.parse((await system.ask('POST', '/v1/subjects/lookup', { subject: { email } })).text) as Lookup;
  const areIn = (email: string, scopes: readonly string[], stores: readonly StoreName[] = STORES) =>
    eventually(async () => {
      for (const store of stores)
        expect([store, (await system.stores[store].held(email))?.toSorted()]).toEqual([store, scopes]);
    });
  const settled = () =>
    eventually(async () => {
      for (const { outstanding } of (await system.lag()).stores) expect(outstanding).toBe(0);
    });

  test('somebody known unsubscribes in the mail store: a moment later it is an opt-out, in the crm as well', async () => {
    const ada = 'ada@example.com';
    await system.optOut(ada, { scope: { sms: true } }, WHEN_COMPLETE);
    await settled();
    await system.stores.mail.suppressByItself(ada, 'email');
    // A pass that began by itself may have found it before this one.
    expect((await reconcile('mail')).code).toBe(0);
    await areIn(ada, ['email', 'sms']);
    const { scope, opt_outs: optOuts } = await lookUp(ada);
    expect(scope).toEqual({ email: true, sms: true, push: false });
    const { text } = await system.ask('GET', `/v2/opt-outs/${optOuts[0]!.id}`);
    expect(JSON.parse(text)).toMatchObject({ requested_scopes: ['email'], reason: 'other' });
    const { stdout } = await runAbide(['audit', '--action', 'opt_out.recorded', '--json'], {
      ABIDE_DATA: system.abide.dataFolder,
    });
    const audited = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as object);
    expect(audited.at(-1)).toMatchObject({ client: 'store:mail', resource: optOuts[0]!.id });
    await settled();
    expect((await reconcile('mail')).output).not.toContain('its own');
    expect((await lookUp(ada)).opt_outs).toHaveLength(2);
  });

  test('somebody whom only a store knows is found in its list, once, and what they consent to later is lifted there too', async () => {
    const bob = 'bob@example.com';
    await system.stores.sessions.suppressByItself(bob, 'push');
    expect((await reconcile('sessions')).output).toMatch(
      /^\d+ listed by the store, [01] recorded as opt-outs, of people whom only it knew$/m,
    );
    await areIn(bob, ['push']);
    expect((await lookUp(bob)).opt_outs).toHaveLength(1);
    await settled();
    expect((await reconcile('sessions')).output).toMatch(/ listed by the store, 0 recorded/);

    const consent = await system.ask('POST', '/v2/grants', {
      identifier: { email: bob },
      scopes: ['push'],
      granted_at: new Date().toISOString(),
      evidence: { method: 'app', statement: 'Yes, push', source: 'settings' },
    });
    expect(consent.status).toBe(201);
    await areIn(bob, []);
    await settled();
    for (const store of ['sessions', 'mail'] as const) await reconcile(store);
    expect((await lookUp(bob)).scope).toEqual({ email: false, sms: false, push: false });
    await areIn(bob, []);
  });

  test('nobody need ask for it', async () => {
    await system.stores.sessions.suppressByItself('cyd@example.com', 'sms');
    const db = await system.abide.connect();
    await eventually(async () => {
      // As if the minute for which a list rests were over.
      await db.query("update listings set finished_at = finished_at - interval '1 minute'");
      expect(await system.stores.crm.held('cyd@example.com')).toEqual(['sms']);
    });
    await db.end();
  });

  test('a store of which it is not said keeps what is its own, and nobody else hears of it', async () => {
    await system.optOut('dan@example.com', { scope: { sms: true } }, WHEN_COMPLETE);
    await settled();
    await system.stores.crm.suppressByItself('dan@example.com', 'email');
    await system.stores.crm.suppressByItself('eve@example.com', 'email');
    const { output } = await reconcile('crm');
    expect(output).toContain(
      '1 for which the store by itself suppresses more than was decided: left as it is',
    );
    expect(output).not.toContain('listed');
    expect((await lookUp('dan@example.com')).scope).toEqual({ email: false, sms: true, push: false });
    expect((await lookUp('eve@example.com')).opt_outs).toEqual([]);
    await areIn('dan@example.com', ['email', 'sms'], ['crm']);
    await areIn('dan@example.com', ['sms'], ['sessions', 'mail']);
  });
});
