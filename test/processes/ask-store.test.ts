// What a connector of the user's own may do to a command that asks its store.
import { expect, test } from '@jest/globals';
import { z } from 'zod';
import { defineConnector } from '../../connectors/contract/connector.ts';
import type { Store } from '../../connectors/contract/connector.ts';
import type { StoreConfiguration } from '../../config/configuration.ts';
import { askStore } from '../../processes/ask-store.ts';
import { lookedAt } from '../../processes/their-connector.ts';

const never = (): Promise<never> => new Promise(() => undefined);
const store = (does: Partial<Store> = {}): Store => ({
  apply: (batch) => Promise.resolve(batch.map(() => ({ kind: 'applied' }))),
  readBack: (keys) => Promise.resolve(keys.map(() => undefined)),
  [Symbol.asyncDispose]: () => Promise.resolve(),
  ...does,
});
function theirs(open: () => Promise<Store>): StoreConfiguration {
  const connector = defineConnector({
    options: z.object({}),
    accepts: ['email'],
    topics: false,
    versions: 'none',
    remembersUnknown: true,
    evidence: 'read_back',
    limits: { batch: 1, concurrent: 1 },
    target: () => [],
    open,
  });
  const [name, scopes] = ['theirs', new Map()];
  return { name, scopes, options: {}, connector: lookedAt(name, connector) } as unknown as StoreConfiguration;
}
const key = { kind: 'email', key: 'ada@example.com' } as const;
const readBack = (open: () => Promise<Store>) =>
  askStore(theirs(open), (opened, call) => call((signal) => opened.readBack([key], signal)), 20);

// `abide config check` hung, or ended with 13 and not a word about the other stores.
test.each([
  ['open', never],
  ['answer', () => Promise.resolve(store({ readBack: never }))],
  ['close', () => Promise.resolve(store({ [Symbol.asyncDispose]: never }))],
])('a store that does not %s holds no command', async (lacks, open) => {
  await expect(readBack(open)).rejects.toMatchObject({
    code: 'STORE_TIMEOUT',
    message: `The store did not ${lacks} within 0.02 s.`,
  });
});

test('what an answer lacks is said, and why a question failed also where the store cannot be closed', async () => {
  const ask = (does: object) => readBack(() => Promise.resolve(store(does)));

  expect(await ask({ readBack: () => Promise.resolve([{ version: null, suppressed: ['email'] }]) })).toEqual([
    { version: undefined, suppressed: ['email'] },
  ]);
  await expect(ask({ readBack: () => Promise.resolve([{ version: '1', suppressed: [] }]) })).rejects.toThrow(
    "The connector's readBack() gives another shape: [0].[version] Invalid input",
  );
  // A connector may hand on what its store answers: not every one of a million wrong scopes is looked at.
  const zeros = [{ version: 1, suppressed: Array(100).fill(0) }];
  await expect(ask({ readBack: () => Promise.resolve(zeros) })).rejects.toThrow(
    "The connector's readBack() gives another shape: [0].[suppressed] must be a list of at most 1000 texts.",
  );
  const unclosed = { readBack: () => Promise.resolve({}), [Symbol.asyncDispose]: never };
  await expect(ask(unclosed)).rejects.toThrow("The connector's readBack() does not give a list.");
});

// The API refused every report of a worker whose store called itself 7, and nothing was ever acknowledged.
test('a store says which one it is in a text that the API takes, or not at all', async () => {
  const ask = (answer: unknown) =>
    askStore(
      theirs(() => Promise.resolve(store({ incarnation: () => Promise.resolve(answer as string) }))),
      (opened, call) => call((signal) => opened.incarnation!(signal)),
    );

  for (const answer of [null, undefined, '7', '🏬'.repeat(200)]) expect(await ask(answer)).toBe(answer);
  for (const answer of [7, '', 'x'.repeat(201), 'a\u0000b'])
    await expect(ask(answer)).rejects.toThrow("The connector's incarnation() gives another shape: ");
});

test('a list that goes round in a circle is not read for ever', async () => {
  const entry = { ...key, held: { version: undefined, suppressed: [] } };
  const opened = await theirs(() => Promise.resolve(store({ scan: () => Promise.resolve([entry]) })))
    .connector //
    .open({}, { log: console, name: 'theirs', scopes: new Map() });
  const signal = AbortSignal.abort();

  expect(await opened.scan!(undefined, signal)).toEqual([entry]);
  await expect(opened.scan!(key, signal)).rejects.toThrow(
    'scan() gives again the entry that it should go on after',
  );
});
