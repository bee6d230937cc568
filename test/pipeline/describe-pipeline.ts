// What every deployment must keep, whatever carries its decisions: HTTP in, store out.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { eventually } from '../harness/eventually.ts';
import { WHEN_COMPLETE } from '../harness/http.ts';
import { STORES } from './system.ts';
import type { Deployment } from './system.ts';
import { watchTruth } from './truth.ts';

const ALL = ['email', 'sms', 'push'];
let people = 0;
const somebody = (): string => `p${process.pid}-${(people += 1)}@example.com`;

const sorted = (scopes: readonly string[] | undefined): readonly string[] | undefined =>
  scopes && [...scopes].sort();

/** `more`: tests of this deployment alone, on the same system. */
export function describePipeline<D extends Deployment>(
  name: string,
  open: () => Promise<D>,
  more: (system: () => D) => void = () => undefined,
): void {
  describe(`opt-outs by ${name}`, () => {
    let system: D;
    beforeAll(async () => {
      system = await open();
      // Workers are there once the lag has heard from them.
      await eventually(async () => expect((await system.lag()).status).toBe('ok'));
    });
    afterAll(async () => {
      await system[Symbol.asyncDispose]();
    });
    afterEach(async () => {
      for (const store of STORES) system.stores[store].setFault('none');
      await eventually(async () => expect((await system.lag()).status).toBe('ok'));
    });

    const inEveryStore = async (email: string, scopes: readonly string[]): Promise<void> => {
      for (const store of STORES) {
        expect([store, sorted(await system.stores[store].held(email))]).toEqual([store, sorted(scopes)]);
      }
    };

    test('an opt-out is in every store when the answer says complete', async () => {
      const ada = somebody();
      const { propagation } = await system.optOut(ada, {}, WHEN_COMPLETE);
      expect(propagation).toMatchObject({ state: 'complete', required: 3, confirmed: 3, verified: 3 });
      await inEveryStore(ada, ALL);
    });

    test('scopes add up in every store, and a repeat changes nothing', async () => {
      const ada = somebody();
      const first = await system.optOut(ada, { scope: { sms: true } }, WHEN_COMPLETE);
      await inEveryStore(ada, ['sms']);
      await system.optOut(ada, { scope: { email: true } }, WHEN_COMPLETE);
      await inEveryStore(ada, ['email', 'sms']);
      expect(await system.optOut(ada, { scope: { sms: true } })).toMatchObject({
        id: first.id,
        outcome: 'already_opted_out',
      });
    });

    test('an opt-out that a store took by itself survives a decision about another scope', async () => {
      const ada = somebody();
      await system.optOut(ada, { scope: { sms: true } }, WHEN_COMPLETE);
      for (const store of ['crm', 'sessions'] as const)
        await system.stores[store].suppressByItself(ada, 'push');
      await system.optOut(ada, { scope: { email: true } }, WHEN_COMPLETE);
      for (const store of ['crm', 'sessions'] as const) {
        expect(sorted(await system.stores[store].held(ada))).toEqual(['email', 'push', 'sms']);
      }
    });

    test('who consents again later is lifted in every store, of exactly that, and is opted out again by a newer word', async () => {
      const { client } = system;
      const ada = somebody();
      const also = somebody();
      const scopes = ['email', 'sms'];
      const identifiers = [{ email: ada }, { email: also }];
      const { id, effective_at } = await client.optOuts.create({ identifiers, scopes });
      await client.optOuts.waitUntilPropagated(id);
      for (const email of [ada, also]) await inEveryStore(email, scopes);

      const evidence = {
        method: 'web_form' as const,
        statement: 'Yes, write to me.',
        source: 'https://example.com/yes',
      };
      const grant = (granted_at: string) =>
        client.grants.create(
          { identifier: { email: ada }, scopes: ['email'], granted_at, evidence },
          { waitSeconds: 10 },
        );
      await expect(grant(effective_at)).rejects.toMatchObject({ code: 'grant-not-later' });
      await eventually(() => expect(Date.now()).toBeGreaterThan(Date.parse(effective_at)));
      const granted_at = new Date().toISOString();
      expect(await grant(granted_at)).toMatchObject({
        lifted_scopes: ['email'],
        still_suppressed: ['sms'],
        propagation: { state: 'complete', confirmed: 3, verified: 3 },
      });
      await inEveryStore(ada, ['sms']);
      await inEveryStore(also, scopes);
      expect((await client.optOuts.propagation(id)).state).toBe('complete');

      const newer = await client.optOuts.create({ identifiers: [{ email: ada }], scopes: ['email'] });
      await client.optOuts.waitUntilPropagated(newer.id);
      // The same consent once more, as a retry without its key would send it.
      expect(await grant(granted_at)).toMatchObject({ outcome: 'already_recorded', in_force: false });
      await inEveryStore(ada, scopes);
    });

    test.each(STORES)(
      'while %s is down the others abide, its lag tells the true age, and it catches up by itself',
      async (down) => {
        const truth = watchTruth(system);
        system.stores[down].setFault('refuse');
        const emails = Array.from({ length: 20 }, somebody);
        for (const email of emails) {
          await system.optOut(email);
          truth.answered(email);
        }
        const others = STORES.filter((store) => store !== down);
        await eventually(async () => {
          for (const store of others) {
            for (const email of emails)
              expect([store, sorted(await system.stores[store].held(email))]).toEqual([store, sorted(ALL)]);
            expect((await system.lagOf(store)).status).toBe('ok');
          }
        });
        await eventually(async () =>
          expect(await system.lagOf(down)).toMatchObject({ status: 'late', outstanding: emails.length }),
        );
        expect((await system.lag()).status).toBe('late');
        expect((await system.ask('GET', '/v1/propagation-lag?fail_on=late')).status).toBe(503);
        expect((await system.lagOf(down)).last_error?.code).toBe('STORE_UNREACHABLE');

        system.stores[down].setFault('none');
        await eventually(async () =>
          expect(await system.lagOf(down)).toMatchObject({ status: 'ok', outstanding: 0 }),
        );
        for (const email of emails) await inEveryStore(email, ALL);
        const { lies, telling } = await truth.stop();
        expect(lies).toEqual([]);
        expect(telling).toBeGreaterThan(0);
      },
    );

    test('a store that hangs, and one that loses its answers, hold up nobody and are told everything', async () => {
      system.stores.crm.setFault('hang');
      system.stores.sessions.setFault('lose_answer');
      const emails = Array.from({ length: 10 }, somebody);
      const ids = await Promise.all(emails.map(async (email) => (await system.optOut(email)).id));
      await eventually(async () => {
        for (const email of emails) expect(sorted(await system.stores.mail.held(email))).toEqual(sorted(ALL));
      });
      system.stores.crm.setFault('none');
      system.stores.sessions.setFault('none');
      await eventually(async () => {
        for (const id of ids) {
          const { text } = await system.ask('GET', `/v1/opt-outs/${id}/propagation`);
          expect(JSON.parse(text)).toMatchObject({ state: 'complete', confirmed: 3 });
        }
      });
      for (const email of emails) await inEveryStore(email, ALL);
    });

    test('a burst arrives whole, newest state of everybody, and the lag told the truth throughout', async () => {
      const truth = watchTruth(system);
      const emails = Array.from({ length: 100 }, somebody);
      await Promise.all(
        emails.flatMap((email) =>
          ALL.map(async (scope) => {
            await system.optOut(email, { scope: { [scope]: true } });
            if (scope === 'email') truth.answered(email);
          }),
        ),
      );
      await eventually(async () => {
        for (const store of STORES) expect((await system.lagOf(store)).outstanding).toBe(0);
      });
      for (const email of emails) await inEveryStore(email, ALL);
      expect((await truth.stop()).lies).toEqual([]);
    });

    more(() => system);
  });
}
