import { Item } from '../connectors/contract/connector.ts';
import type { Store } from '../connectors/contract/connector.ts';
import { makeKey } from '../connectors/contract/key-form.ts';
import type { StoreConfiguration } from '../config/configuration.ts';
import { sayError } from '../suppression/errors.ts';
import { Address } from '../suppression/subject.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { askStore } from './ask-store.ts';

/** Addresses that nobody has: reserved for documentation by RFC 2606, and for fiction by the numbering plan. */
const NOBODY: Readonly<Record<SubjectKind, string>> = {
  email: 'abide-config-check@example.com',
  phone: '+12025550123',
  push_token: 'abide-config-check',
  person_id: 'abide-config-check',
};

/** Every scope of the store suppressed for somebody who does not exist. */
function itemOf(kind: SubjectKind, { key, scopes }: StoreConfiguration, now: string): Item {
  return new Item({
    seq: 1,
    version: 1,
    subject: { kind, value: new Address(NOBODY[kind]) },
    key: makeKey(key, NOBODY[kind]),
    suppressed: Object.fromEntries([...scopes.keys()].map((scope) => [scope, now])),
    granted: {},
    effectiveAt: now,
    lane: 'live',
  });
}

function noteOf({ recordOwn, key }: StoreConfiguration, open: Store): string | undefined {
  if (!recordOwn || (key === 'plain' && open.scan !== undefined)) return undefined;
  const why = key === 'plain' ? 'it cannot list what it holds' : 'nobody can tell whose a hashed key is';
  return `record_own records only people whom the ledger knows: ${why}`;
}

/**
 * Opens each store and tries what a worker would do there, changing nothing; if its connector cannot try, it only reads. A problem
 * is said in words without any value from the store; a note is about what the configuration asks for and gets in part.
 */
export async function checkStores(
  stores: readonly StoreConfiguration[],
): Promise<{ store: string; problem: string | undefined; note?: string }[]> {
  const now = new Date().toISOString();
  return await Promise.all(
    stores.map(async (store) => {
      try {
        const items = store.accepts.map((kind) => itemOf(kind, store, now));
        const note = await askStore(store, async (open, call) => {
          await call<unknown>((signal) => open.check?.(items, signal) ?? open.readBack(items, signal));
          return noteOf(store, open);
        });
        return { store: store.name, problem: undefined, ...(note === undefined ? {} : { note }) };
      } catch (error) {
        return { store: store.name, problem: sayError(error) };
      }
    }),
  );
}
