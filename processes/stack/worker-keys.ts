import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createKey } from '../../ledger/api-keys.ts';
import type { Pool } from '../../ledger/database.ts';

/** A key for each store's worker, kept in the folder (0600) from the first time on. */
export async function makeWorkerKeys(
  pool: Pool,
  stores: readonly string[],
  folder: string,
): Promise<ReadonlyMap<string, string>> {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const keys = new Map<string, string>();
  for (const name of stores) {
    const file = join(folder, name);
    const kept = existsSync(file) ? readFileSync(file, 'utf8').trim() : undefined;
    const { token } = await createKey(pool, {
      client: `worker-${name}`,
      scopes: ['acknowledgements:write'],
      store: name,
      expiresAt: undefined,
      caller: undefined,
      ...(kept === undefined ? {} : { token: kept }),
    });
    writeFileSync(file, `${token}\n`, { mode: 0o600 });
    keys.set(name, token);
  }
  return keys;
}
