// The ledger's database, made ready: embedded or elsewhere, migrated, with the key ring that belongs to it.
import { existsSync, readFileSync } from 'node:fs';
import type { Configuration } from '../config/configuration.ts';
import type { Log } from '../connectors/contract/connector.ts';
import { openPool } from '../ledger/database.ts';
import type { Pool } from '../ledger/database.ts';
import { matchKeyRing } from '../ledger/key-ring.ts';
import type { KeyRing } from '../ledger/key-ring.ts';
import { migrate } from '../ledger/migrate.ts';
import { AbideError } from '../suppression/errors.ts';
import { adminKeyFile, keysFile, makeFile, refuseNewLedger } from './kept-file.ts';

export type DatabaseUrls = { readonly owner: string; readonly api: string; readonly replication: string };

/** The three roles' URLs of a database elsewhere; a role that is not named falls back to the API's, with a warning. */
export function urlsOf(configuration: Configuration, log: Log): DatabaseUrls | undefined {
  const { database: api, ownerDatabase, replicationDatabase } = configuration;
  if (api === undefined) return undefined;
  if (ownerDatabase === undefined || replicationDatabase === undefined) {
    log.warn(
      { missing: ownerDatabase === undefined ? 'owner_database' : 'replication_database' },
      'one database role does the work of several: the ledger is not protected from its own API',
    );
  }
  return { api, owner: ownerDatabase ?? api, replication: replicationDatabase ?? api };
}

/** The text of the ring that is kept in a data folder; undefined if there is none. */
export function readKeysOf(dataFolder: string): string | undefined {
  const file = keysFile(dataFolder);
  return existsSync(file) ? readFileSync(file, 'utf8') : undefined;
}

const roleOf = (url: string): string => decodeURIComponent(new URL(url).username);

/**
 * Migrates, opens the API's pool and brings key ring and database together. The ring is ABIDE_KEYS, or keys.json (0600) in the data
 * folder. One is made only together with an empty database, and only if `mayMakeSecrets`. Throws AbideError:
 * DATABASE_UNREACHABLE, KEYS_MISSING, KEYS_INVALID, LEDGER_MISSING.
 */
export async function openDatabase({
  urls,
  dataFolder,
  env,
  mayMakeSecrets,
  log,
}: {
  urls: DatabaseUrls;
  dataFolder: string;
  env: Readonly<Record<string, string | undefined>>;
  mayMakeSecrets: boolean;
  log: Log;
}): Promise<{ pool: Pool; ring: KeyRing }> {
  const keys = env['ABIDE_KEYS'] || undefined;
  await migrate(urls.owner, { apiRole: roleOf(urls.api), replicationRole: roleOf(urls.replication) });
  const pool = openPool(urls.api, {
    max: 16,
    onError: (error) => log.warn({ error: error.message }, 'a database connection was lost'),
  });
  try {
    const ring = await matchKeyRing(pool, {
      read: (isEmpty) => {
        // With a key of its own making, an earlier start came further than to an empty database.
        if (isEmpty && keys === undefined && existsSync(adminKeyFile(dataFolder)))
          refuseNewLedger(dataFolder, 'the database is empty');
        return keys ?? readKeysOf(dataFolder);
      },
      make: (text) => {
        if (!mayMakeSecrets) {
          throw new AbideError(
            'KEYS_MISSING',
            'Abide listens beyond this machine, where it makes no secrets of its own: set ABIDE_KEYS (`abide keys ring` prints a new ring) and ABIDE_ADMIN_KEY (`abide keys token`).',
          );
        }
        makeFile(keysFile(dataFolder), text);
      },
    });
    return { pool, ring };
  } catch (error) {
    await pool.end();
    throw error;
  }
}
