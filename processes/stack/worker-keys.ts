import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createAuthenticator, createKey, makeToken } from '../../ledger/api-keys.ts';
import type { Pool } from '../../ledger/database.ts';
import { makeFile, replaceFile } from '../kept-file.ts';

/**
 * A key for each store's worker, kept in the folder (0600) from the first time on. One that is good for nothing (cut off, revoked,
 * expired, of another store or database) is replaced: with it, a worker would be refused and started again for ever.
 */
export async function makeWorkerKeys(
  pool: Pool,
  stores: readonly string[],
  folder: string,
): Promise<ReadonlyMap<string, string>> {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const authenticate = createAuthenticator(pool);
  const keys = new Map<string, string>();
  for (const name of stores) {
    const file = join(folder, name);
    const kept = existsSync(file) ? readFileSync(file, 'utf8').trim() : undefined;
    if (kept !== undefined && (await authenticate(kept))?.store === name) {
      keys.set(name, kept);
      continue;
    }
    const token = makeToken();
    const keep = kept === undefined ? makeFile : replaceFile;
    keep(file, `${token}\n`);
    await createKey(pool, {
      client: `worker-${name}`,
      scopes: ['acknowledgements:write'],
      store: name,
      expiresAt: undefined,
      token,
      caller: undefined,
    });
    keys.set(name, token);
  }
  return keys;
}
