// What a store suppresses and the ledger does not: after a ledger was restored from a backup, opt-outs that came after it.
// Only a store that can list and is keyed by plain addresses can tell whom it means.
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { AbideError } from '../suppression/errors.ts';
import { CHANNELS } from '../suppression/scope.ts';
import type { Channel } from '../suppression/scope.ts';
import { quietLog } from './log.ts';
import { readConfiguration } from './running-database.ts';

const PAGE_MS_MAX = 60_000;

export type SuppressedInStore = {
  readonly kind: SubjectKind;
  readonly value: string;
  readonly channels: readonly Channel[];
  /** Topics and purposes, which v1 does not record. */
  readonly others: number;
};

/** Lists all that a store suppresses, a page at a time. Throws AbideError('invalid-value') for a store that cannot tell. */
export async function* listSuppressed(
  env: Readonly<Record<string, string | undefined>>,
  name: string,
): AsyncGenerator<readonly SuppressedInStore[]> {
  const configuration = await readConfiguration(env);
  const store = configuration.stores.find((one) => one.name === name);
  if (store === undefined) throw new AbideError('invalid-value', `The configuration has no store ${name}.`);
  if (store.key !== 'plain')
    throw new AbideError(
      'invalid-value',
      `${name} is not keyed by plain addresses: whom it means it cannot tell.`,
    );
  await using open = await store.connector.open(store.options, { log: quietLog, name, scopes: store.scopes });
  if (open.scan === undefined)
    throw new AbideError('invalid-value', `${name} cannot list what it holds (${store.connectorName}).`);
  let after: Parameters<typeof open.scan>[0];
  for (;;) {
    const page = await open.scan(after, AbortSignal.timeout(PAGE_MS_MAX));
    if (page.length === 0) return;
    yield page.flatMap(({ kind, key, held }) => {
      const channels = CHANNELS.filter((channel) => held.suppressed.includes(channel));
      const others = held.suppressed.length - channels.length;
      return held.suppressed.length === 0 ? [] : [{ kind, value: key, channels, others }];
    });
    after = page.at(-1);
  }
}
