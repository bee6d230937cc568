import type { ConfiguredGuard, Guard, GuardedStore } from './guarded-store.ts';
import { AbideError } from '../../suppression/errors.ts';
import { readConfiguration } from '../running-database.ts';

/** The databases that can keep a guard, by the connector that speaks to them. */
const OPEN: Readonly<Record<string, (store: GuardedStore) => Promise<Guard>>> = {
  postgres: async (store) => (await import('./postgres-guard.ts')).openPostgresGuard(store),
  mysql: async (store) => (await import('./mysql-guard.ts')).openMysqlGuard(store),
};

/**
 * The guard of a store of the configuration, through the store's own URL or that of a role that may do more. Throws
 * AbideError('invalid-value') if the store has or can have none, and says why.
 */
export async function openGuard(
  env: Readonly<Record<string, string | undefined>>,
  name: string,
  url?: string,
): Promise<ConfiguredGuard> {
  const { stores } = await readConfiguration(env);
  const store = stores.find((one) => one.name === name);
  const no = (why: string): AbideError => new AbideError('invalid-value', why);
  if (store === undefined) {
    throw no(`The configuration has no store ${name}, only ${stores.map((one) => one.name).join(', ')}.`);
  }
  const open = OPEN[store.connectorName];
  if (open === undefined)
    throw no(`A ${store.connectorName} store can have no guard: it needs a database with triggers.`);
  if (store.guard.length === 0)
    throw no(`The store ${name} has no guard in the configuration: name tables under \`guard:\`.`);
  if (typeof store.key === 'object' && 'hmac' in store.key) {
    throw no(
      `The store ${name} is keyed by HMAC, which no trigger can compute: the guard needs key plain or sha256.`,
    );
  }
  const options = store.options as { url: string; table?: string; statements?: object };
  if (options.statements !== undefined) {
    throw no(
      `The store ${name} writes your tables by your statements and remembers nobody who is not in them: the guard needs a store with \`table\`.`,
    );
  }
  try {
    const guard = await open({
      name,
      // Unless another store has that name by now.
      formerly: stores.some((one) => one.name === store.formerly) ? undefined : store.formerly,
      url: url ?? options.url,
      suppressions: options.table ?? 'suppressions',
      isHashed: store.key !== 'plain',
      tables: store.guard,
    });
    return Object.assign(guard, { tables: store.guard.map(({ table }) => table) });
  } catch (cause) {
    if (cause instanceof AbideError) throw cause;
    throw new AbideError('STORE_UNREACHABLE', `The database of store ${name} does not let Abide in.`, {
      cause,
    });
  }
}
