import { makeKey } from '../connectors/contract/key-form.ts';
import type { StoreConfiguration } from '../config/configuration.ts';
import { quietLog } from './log.ts';

const DEADLINE_MS = 10_000;
/** Nobody has it: reserved for documentation by RFC 2606, and read, never written. */
const PROBE = 'abide-config-check@example.com';

/** Opens each store and reads one key that nobody has. A problem is said in words without any value from the store. */
export async function checkStores(
  stores: readonly StoreConfiguration[],
): Promise<{ store: string; problem: string | undefined }[]> {
  return await Promise.all(
    stores.map(async (store) => {
      try {
        await using open = await store.connector.open(store.options, {
          log: quietLog,
          name: store.name,
          scopes: store.scopes,
        });
        const kind = store.accepts[0]!;
        await open.readBack([{ kind, key: makeKey(store.key, PROBE) }], AbortSignal.timeout(DEADLINE_MS));
        return { store: store.name, problem: undefined };
      } catch (error) {
        return { store: store.name, problem: error instanceof Error ? error.message : String(error) };
      }
    }),
  );
}
