// Finds what a store suppresses and the ledger does not: after a ledger was restored from a backup, opt-outs that came after that
// backup. Only a store that can list and is keyed by plain addresses can tell whom it means.
import type { Store, SubjectKey } from '../connectors/contract/connector.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { AbideError } from '../suppression/errors.ts';
import { CHANNELS } from '../suppression/scope.ts';
import type { Channel } from '../suppression/scope.ts';
import { askStore } from './ask-store.ts';
import type { Call } from './ask-store.ts';
import { readConfiguration } from './running-database.ts';

const PAGE_MS_MAX = 60_000;

export type SuppressedInStore = {
  readonly kind: SubjectKind;
  readonly value: string;
  readonly channels: readonly Channel[];
  /** Topics and purposes, which v1 does not record. */
  readonly others: number;
};

/** Everything that a store suppresses, a page at a time. Throws AbideError('invalid-value') for a store that cannot tell. */
export async function eachSuppressed(
  env: Readonly<Record<string, string | undefined>>,
  name: string,
  take: (page: readonly SuppressedInStore[]) => Promise<void>,
): Promise<void> {
  const configuration = await readConfiguration(env);
  const store = configuration.stores.find((one) => one.name === name);
  if (store === undefined) throw new AbideError('invalid-value', `The configuration has no store ${name}.`);
  if (store.key !== 'plain')
    throw new AbideError(
      'invalid-value',
      `${name} is not keyed by plain addresses, so nobody can tell whom it suppresses.`,
    );
  const everyPage = async (open: Store, call: Call): Promise<void> => {
    if (open.scan === undefined)
      throw new AbideError('invalid-value', `${name} cannot list what it holds (${store.connectorName}).`);
    let after: SubjectKey | undefined;
    for (;;) {
      const page = await call((signal) => open.scan!(after, signal));
      if (page.length === 0) return;
      await take(
        page.flatMap(({ kind, key, held }) => {
          const channels = CHANNELS.filter((channel) => held.suppressed.includes(channel));
          const others = held.suppressed.length - channels.length;
          return held.suppressed.length === 0 ? [] : [{ kind, value: key, channels, others }];
        }),
      );
      after = page.at(-1);
    }
  };
  await askStore(store, everyPage, PAGE_MS_MAX);
}
