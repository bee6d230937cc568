// For commands that work on the ledger itself: its administrator has the database, not an API key.
import { hostname, userInfo } from 'node:os';
import { InvalidArgumentError } from 'commander';
import type { Caller } from '../ledger/contract/audit.ts';
import type { Pool } from '../ledger/database.ts';
import { listStores } from '../ledger/stores.ts';
import type { RegisteredStore } from '../ledger/stores.ts';
import { environmentOf } from './installation.ts';
import type { Installation } from './installation.ts';

/** The person at the terminal, for the audit log. */
export const operator = (): Caller => ({
  client: `cli:${userName()}`,
  keyId: 'cli',
  address: hostname(),
  requestId: `cli-${process.pid}`,
});

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    // A container may run as a number that has no name.
    return String(process.getuid?.());
  }
}

export async function onLedger<T>(
  options: Installation,
  work: (pool: Pool) => Promise<T>,
  role?: 'api' | 'owner',
): Promise<T> {
  const { withLedgerDatabase } = await import('../processes/running-database.ts');
  return await withLedgerDatabase(environmentOf(options), work, role);
}

export async function expectStore(pool: Pool, name: string): Promise<RegisteredStore> {
  const stores = await listStores(pool);
  const found = stores.find((store) => store.name === name);
  if (found !== undefined) return found;
  const names = stores.map((store) => store.name).join(', ') || 'none';
  throw new InvalidArgumentError(`no store is called ${name}; there are: ${names}`);
}
