import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { isDue } from '../../suppression/acknowledgement.ts';
import { SUBJECT_KINDS } from '../../suppression/subject-kind.ts';
import { freshLedger } from '../harness/ledger.ts';
import { anyDecided, anyStoreScopes } from '../suppression/arbitrary-scopes.ts';

test('what is due is one rule: the ledger’s SQL and the workers’ code answer the same for every store and decision', async () => {
  await using t = await freshLedger();
  const anyStore = fc.record({
    store: anyStoreScopes,
    accepts: fc.subarray([...SUBJECT_KINDS], { minLength: 1 }),
  });
  // Registered as from a configuration, so that the arguments of due() are those that the ledger keeps.
  const stores = fc
    .sample(anyStore, 150)
    .map(({ store, accepts }, n) => ({ name: `store-${n}`, ...store, accepts }));
  await t.register(...stores);
  const byName = new Map(stores.map((store) => [store.name, store]));
  let due = 0;
  let asked = 0;
  await fc.assert(
    fc.asyncProperty(anyDecided, fc.constantFrom(...SUBJECT_KINDS), async (state, kind) => {
      const { rows } = await t.pool.query<{ name: string; due: boolean }>(
        'select name, due($1, $2, $3, accepts, due_exact, due_channels) from stores',
        [kind, state.suppressed, state.granted],
      );
      expect(rows).toHaveLength(stores.length);
      const differ = rows.filter((row) => row.due !== isDue({ ...state, kind }, byName.get(row.name)!));
      expect(differ.map(({ name }) => byName.get(name))).toEqual([]);
      due += rows.filter((row) => row.due).length;
      asked += rows.length;
    }),
    { numRuns: 300 },
  );
  // Neither answer is the only one.
  expect(due / asked).toBeGreaterThan(0.1);
  expect(due / asked).toBeLessThan(0.9);
});
