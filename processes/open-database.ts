// The ledger's database, made ready: embedded or elsewhere, migrated, with the key ring that belongs to it.
import type { Configuration } from '../config/configuration.ts';
import type { Log } from '../connectors/contract/connector.ts';
import { openPool } from '../ledger/database.ts';
import type { Pool } from '../ledger/database.ts';
import { matchKeyRing } from '../ledger/key-ring.ts';
import type { KeyRing } from '../ledger/key-ring.ts';
import { migrate } from '../ledger/migrate.ts';
import { AbideError } from '../suppression/errors.ts';
import { keepNewKeys, keysAreTaken, keysOfLedger, ledgerMissing, readKeysOf } from './kept-file.ts';

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

const roleOf = (url: string): string => decodeURIComponent(new URL(url).username);

/**
 * Whose database it is, which says what an empty one means. `embedded`: ours, and it is new as long as the data folder has no keys of a
 * ledger. `elsewhere`: whoever has a ring, given or kept, had a ledger, and this is not it. `new`: somebody said that one begins here.
 */
export type Whose = 'embedded' | 'elsewhere' | 'new';

/** What is thrown if the database is empty; undefined: a ledger begins in it. */
function ifEmpty(whose: Whose, ownerUrl: string, dataFolder: string, given: boolean): AbideError | undefined {
  const keys = [...(given && whose === 'elsewhere' ? ['ABIDE_KEYS'] : []), ...keysOfLedger(dataFolder)];
  if (whose === 'new' || keys.length === 0) return undefined;
  const { host, pathname } = new URL(ownerUrl);
  return ledgerMissing(
    `the database ${host}${pathname} is empty`,
    keys,
    whose === 'embedded' ? 'move these files away' : '`abide ledger init`',
  );
}

/**
 * Migrates, opens the API's pool and brings key ring and database together. The ring is ABIDE_KEYS, or keys.json (0600) in the data
 * folder. One is made only together with an empty database, and only if `mayMakeSecrets`. Throws AbideError:
 * DATABASE_UNREACHABLE, KEYS_MISSING, KEYS_INVALID, LEDGER_MISSING (and then nothing is written to the database).
 */
export async function openDatabase({
  urls,
  whose,
  dataFolder,
  env,
  mayMakeSecrets,
  log,
}: {
  urls: DatabaseUrls;
  whose: Whose;
  dataFolder: string;
  env: Readonly<Record<string, string | undefined>>;
  mayMakeSecrets: boolean;
  log: Log;
}): Promise<{ pool: Pool; ring: KeyRing; isNew: boolean }> {
  const keys = env['ABIDE_KEYS'] || undefined;
  await migrate(
    urls.owner,
    { apiRole: roleOf(urls.api), replicationRole: roleOf(urls.replication) },
    // Looked for before the database is: files that another process makes meanwhile are of the ledger that it begins.
    ifEmpty(whose, urls.owner, dataFolder, keys !== undefined),
  );
  const pool = openPool(urls.api, {
    max: 16,
    onError: (error) => log.warn({ error: error.message }, 'a database connection was lost'),
  });
  try {
    let isNew = false;
    const ring = await matchKeyRing(pool, {
      read: (isEmpty) => {
        isNew = isEmpty;
        return keys ?? readKeysOf(dataFolder);
      },
      make: (text) => {
        if (!mayMakeSecrets) {
          throw new AbideError(
            'KEYS_MISSING',
            'Abide listens beyond this machine, where it makes no secrets of its own: set ABIDE_KEYS (`abide keys ring` prints a new ring) and ABIDE_ADMIN_KEY (`abide keys token`).',
          );
        }
        keepNewKeys(dataFolder, text);
      },
    });
    if (keys === undefined) keysAreTaken(dataFolder);
    return { pool, ring, isNew };
  } catch (error) {
    await pool.end();
    throw error;
  }
}
