import { afterAll, beforeAll, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { eventually } from '../harness/eventually.ts';
import { STORES, startSystem } from './system.ts';
import type { StoreName, System } from './system.ts';
import { watchTruth } from './truth.ts';

let system: System;
beforeAll(async () => {
  system = await startSystem();
});
afterAll(async () => {
  await system[Symbol.asyncDispose]();
});

const CHANNELS = ['email', 'sms', 'push'] as const;
const PEOPLE = 6;

type Step =
  | {
      readonly kind: 'opt_outs';
      readonly asked: readonly {
        who: number;
        also: number | null;
        scopes: readonly string[];
        repeats: number;
      }[];
    }
  | { readonly kind: 'grant'; readonly who: number; readonly scopes: readonly string[] }
  | {
      readonly kind: 'fault';
      readonly store: StoreName;
      readonly fault: 'refuse' | 'hang' | 'lose_answer' | 'none';
    }
  | { readonly kind: 'crash' };

const who = fc.nat({ max: PEOPLE - 1 });
const scopes = fc.subarray([...CHANNELS], { minLength: 1 });
const asked = fc.record({
  who,
  /** A second address of the same person, in v2; null: v1, which takes only one. */
  also: fc.option(who),
  scopes,
  /** How many more times it is sent at once, under one key. */
  repeats: fc.nat({ max: 2 }),
});
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('opt_outs' as const),
      asked: fc.array(asked, { minLength: 1, maxLength: 8 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('grant' as const), who, scopes }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('fault' as const),
      store: fc.constantFrom(...STORES),
      fault: fc.constantFrom('refuse' as const, 'hang' as const, 'lose_answer' as const, 'none' as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('crash' as const) }) },
);

let runs = 0;

test('random opt-outs, consents, repeats, crashes and outages: in the end every store is what a plain model says', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 15 }), async (steps) => {
      runs += 1;
      const run = runs;
      const nameOf = (who: number): string => `m${run}-${who}@example.com`;
      const model = new Map<string, Set<string>>();
      const truth = watchTruth(system);
      let requests = 0;

      const { optOuts, grants, call } = system.client;

      let crashing = Promise.resolve();
      for (const one of steps) {
        switch (one.kind) {
          case 'fault':
            system.stores[one.store].setFault(one.fault);
            break;
          case 'crash':
            await crashing;
            // The next opt-outs are posted while it is down and comes up again.
            crashing = system.abide.kill().then(() => system.abide.start());
            break;
          case 'opt_outs':
            await Promise.all(
              one.asked.map(async ({ who, also, scopes, repeats }) => {
                const idempotencyKey = `${run}-${(requests += 1)}`;
                const people = [...new Set([who, also ?? who])].map(nameOf);
                const email = nameOf(who);
                const scope = Object.fromEntries(scopes.map((name) => [name, true]));
                const identifiers = people.map((one) => ({ email: one }));
                const optOut = () =>
                  also === null
                    ? call('POST /v1/opt-outs', { body: { subject: { email }, scope }, idempotencyKey })
                    : optOuts.create({ identifiers, scopes: [...scopes] }, { idempotencyKey });
                const answers = await Promise.all(Array.from({ length: repeats + 1 }, optOut));
                for (const answer of answers) expect(answer).toEqual(answers[0]);
                for (const name of people) {
                  model.set(name, new Set([...(model.get(name) ?? []), ...scopes]));
                  if (scopes.includes('email')) truth.answered(name);
                }
              }),
            );
            break;
          case 'grant': {
            const email = nameOf(one.who);
            truth.lifted(email);
            // It must be later than every opt-out that was answered.
            const answeredAt = Date.now();
            await eventually(() => expect(Date.now()).toBeGreaterThan(answeredAt));
            await grants.create({
              identifier: { email },
              scopes: [...one.scopes],
              granted_at: new Date().toISOString(),
              evidence: { method: 'web_form', statement: 'Yes.', source: 'https://example.com/yes' },
            });
            for (const scope of one.scopes) model.get(email)?.delete(scope);
          }
        }
      }
      await crashing;
      for (const store of STORES) system.stores[store].setFault('none');
      await eventually(async () => {
        for (const { outstanding, status } of (await system.lag()).stores)
          expect([outstanding, status]).toEqual([0, 'ok']);
      });
      expect((await truth.stop()).lies).toEqual([]);
      for (const store of STORES) {
        for (let who = 0; who < PEOPLE; who += 1) {
          const held = await system.stores[store].held(nameOf(who));
          const wanted = model.get(nameOf(who));
          expect([store, held && [...held].sort()]).toEqual([store, wanted && [...wanted].sort()]);
        }
      }
    }),
    { numRuns: 6, endOnFailure: true },
  );
  // Longer than the waits in it may take together.
}, 900_000);
